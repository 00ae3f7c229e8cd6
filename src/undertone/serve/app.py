"""The application: its routes, and what they share."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

import undertone
from undertone.model_file import Card
from undertone.serve import schemas
from undertone.serve.clips import add_clips
from undertone.serve.errors import Refused
from undertone.serve.http import Door
from undertone.serve.live import add_streams
from undertone.serve.metrics import CONTENT_TYPE_LATEST
from undertone.serve.recordings import add_recordings
from undertone.serve.schemas import json_answer
from undertone.serve.service import Service
from undertone.serve.settings import Settings

PAGE = Path(__file__).parent / "page"

DESCRIPTION = """Emotion recognition in speech. Send sound, get the probability of each emotion.

The model was taught by actors: it hears how they portrayed an emotion, which is not what a person feels.
Nothing that is sent is kept."""


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
    add_clips(app, service)
    add_recordings(app, service)
    add_streams(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    _add_page(app)
    app.openapi = lambda: _openapi(app, settings)
    return app


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
        return json_answer(summaries)

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
        return json_answer({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)

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
