"""The application: its routes, and what they share."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

import undertone
from undertone.formats import to_dict
from undertone.model_file import Card
from undertone.recognizer import Prediction, Recognizer
from undertone.serve import schemas
from undertone.serve.decoding import DecodeError, DecodePool
from undertone.serve.errors import Refused, Room
from undertone.serve.http import Door, Visit
from undertone.serve.inference import Inference
from undertone.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from undertone.serve.settings import Settings
from undertone.serve.uploads import Body, Upload, check_content_type, split_files

PAGE = Path(__file__).parent / "page"

DESCRIPTION = """Emotion recognition in speech. Send sound, get the probability of each emotion.

The model was taught by actors: it hears how they portrayed an emotion, which is not what a person feels.
Nothing that is sent is kept."""


class Service:
    """What the routes share: the models, the decoding processes, and the room that is left."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.inference = Inference(settings.model, threads=settings.threads)
        self.decoding = DecodePool(settings, on_lost=self.metrics.lost_decoders.inc)
        self.uploads = Room("max_uploads_mb", settings.max_uploads_mb, "too much is being sent")
        self.requests = Room("max_requests", settings.max_requests, "too many requests at a time")
        self.jobs = Room("max_jobs", settings.max_jobs, "too many long recordings at a time")
        self.streams = Room("max_streams", settings.max_streams, "too many live streams at a time")
        self.metrics.watch("undertone_requests_at_work", "Requests at work", lambda: self.requests.used)
        self.metrics.watch("undertone_clips_waiting", "Decoded clips that wait", lambda: self.inference.n_waiting)
        self.metrics.watch("undertone_streams", "Live streams", lambda: self.streams.used)
        self.metrics.watch("undertone_decoders", "Decoding processes", lambda: len(self.decoding.pids))

    @asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start the decoding processes; end them when the service stops."""
        await self.decoding.start()
        await asyncio.to_thread(self.inference.warm_up)
        try:
            yield
        finally:
            await self.decoding.close()
            await asyncio.to_thread(self.inference.close)

    async def predict(self, recognizer: Recognizer, upload: Upload) -> Prediction | DecodeError:
        """Return the prediction of one file, or why it has none."""
        try:
            waveform = await self.decoding.decode(
                upload.content, max_duration_s=self.settings.max_clip_s, limit="max_clip_s"
            )
        except DecodeError as error:
            return error
        return await self.inference.predict(recognizer, waveform)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; its settings are those of the environment if none are given.

    Raises
    ------
    ModelFileError
        If a model cannot be opened.
    SettingsError
        If a setting cannot be used.
    """
    settings = settings or Settings.from_environment()
    service = Service(settings)
    app = FastAPI(
        title="undertone",
        version=undertone.__version__,
        description=DESCRIPTION,
        lifespan=service.running,
        docs_url=None,  # its pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Door, settings=settings, metrics=service.metrics)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(HTTPException, _refuse_path)
    _add_clips(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    _add_page(app)
    app.openapi = lambda: _openapi(app, settings)
    return app


# ---- clips ----


def _add_clips(app: FastAPI, service: Service) -> None:
    model_of_query = Query(None, max_length=200, description="A served model; the default one if not given.")

    @app.post(
        "/v1/predict",
        tags=["sound"],
        summary="The emotion of one or several clips",
        response_model=schemas.PredictAnswer,
        responses={
            **schemas.errors(400, 401, 403, 404, 408, 413, 415, 429, 503),
            422: {"model": schemas.PredictErrorAnswer, "description": "No file could be used."},
        },
        openapi_extra=schemas.upload_body("One or several clips of a few seconds.", many=True),
    )
    async def predict(request: Request, model: str | None = model_of_query) -> Response:
        """Each file gets a row, in the order sent; a file that cannot be used gets one that says why."""
        visit: Visit = request.scope["visit"]
        recognizer = service.inference.recognizer(model)
        boundary = check_content_type(request.headers.get("content-type"))
        with service.requests, Body(service.settings, service.uploads) as body:
            content = await body.read(request.receive, request.headers)
            uploads = split_files(content, boundary, max_files=service.settings.max_files)
            outcomes = await _in_time(service, _predict_all(service, recognizer, uploads))
        visit.sound_s = sum(outcome.end_s for outcome in outcomes if isinstance(outcome, Prediction))
        return _predict_answer(recognizer, uploads, outcomes)


async def _predict_all(
    service: Service, recognizer: Recognizer, uploads: list[Upload]
) -> list[Prediction | DecodeError]:
    if len(uploads) == 1:
        return [await service.predict(recognizer, uploads[0])]
    return await asyncio.gather(*(service.predict(recognizer, upload) for upload in uploads))


async def _in_time(service: Service, work: Any) -> Any:
    """Await the work, or raise :class:`Refused` (408) when it takes too long."""
    seconds = service.settings.request_timeout_s
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refused(
            408,
            "request_timeout",
            f"no answer after {seconds:g} s; send fewer or shorter files",
            limit="request_timeout_s",
            retry=True,
        ) from None


def _predict_answer(
    recognizer: Recognizer, uploads: list[Upload], outcomes: list[Prediction | DecodeError]
) -> Response:
    rows = [_row(upload.filename, outcome) for upload, outcome in zip(uploads, outcomes, strict=True)]
    answer: dict[str, Any] = {"model": recognizer.card.name, "predictions": rows}
    if all(row["error"] for row in rows):
        limit = next((error.limit for error in outcomes if isinstance(error, DecodeError) and error.limit), None)
        error = {"code": "unusable_sound", "message": rows[0]["error"]} | ({"limit": limit} if limit else {})
        return _json({"error": error} | answer, 422)
    return _json(answer)


def _row(filename: str, outcome: Prediction | DecodeError) -> dict[str, Any]:
    if isinstance(outcome, DecodeError):
        outcome = Prediction(None, None, None, {}, 0.0, 0.0, error=str(outcome))
    row = to_dict(outcome)
    del row["path"]
    return {"filename": filename} | row


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), status, media_type="application/json")


# ---- models ----


def _add_models(app: FastAPI, service: Service) -> None:
    cards = {name: recognizer.card for name, recognizer in service.inference.recognizers.items()}
    summaries = {"default": service.inference.default, "models": [_summary(card) for card in cards.values()]}

    @app.get(
        "/v1/models",
        tags=["models"],
        summary="The served models",
        response_model=schemas.ModelsAnswer,
        responses=schemas.errors(401, 403),
    )
    async def models() -> Response:
        return _json(summaries)

    @app.get(
        "/v1/models/{name}",
        tags=["models"],
        summary="The card of a model: what it heard, how well it does, what it is for",
        response_model=dict[str, Any],
        responses=schemas.errors(401, 403, 404, 422),
    )
    async def model(name: str) -> Response:
        card = service.inference.recognizer(name).card
        return Response(card.to_json().encode(), media_type="application/json")


def _summary(card: Card) -> dict[str, Any]:
    names = schemas.ModelSummary.model_fields
    return schemas.ModelSummary(**{name: _plain(getattr(card, name)) for name in names}).model_dump()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---- operations ----


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get(
        "/healthz",
        tags=["operations"],
        summary="Whether the service can answer",
        response_model=schemas.HealthAnswer,
        responses={503: {"model": schemas.HealthAnswer, "description": "No decoding process is ready."}},
    )
    async def health() -> Response:
        is_ready = bool(service.decoding.pids)
        return _json({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **schemas.errors(401, 403)},
    )
    async def metrics() -> Response:
        return Response(service.metrics.page(), headers={"content-type": CONTENT_TYPE_LATEST})


# ---- the page ----


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")


# ---- errors and OpenAPI ----


async def _refuse_parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in error.errors()]
    refused = Refused(422, "invalid_parameter", "; ".join(problems))
    return Response(refused.body(), 422, media_type="application/json")


async def _refuse_path(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    refused = Refused(error.status_code, codes.get(error.status_code, "http_error"), str(error.detail))
    return Response(refused.body(), error.status_code, headers=error.headers, media_type="application/json")


def _openapi(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Describe the routes; the token is part of it where one is asked for."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        if settings.token is not None:
            schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["security"] = [] if path == "/healthz" else [{"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
