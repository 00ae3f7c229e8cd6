"""``POST /v1/predict``: several short files at a time, a row each."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from undertone.formats import to_dict
from undertone.recognizer import Prediction, Recognizer
from undertone.serve import schemas
from undertone.serve.decoding import DecodeError
from undertone.serve.service import Service
from undertone.serve.uploads import Upload


class _PlainRoute(APIRoute):
    """A route like any other that is called at once where no parameter is given: there is nothing to check then."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"] or scope["method"] not in self.methods:
            await super().handle(scope, receive, send)
        else:
            response = await self.endpoint(Request(scope, receive), None)
            await response(scope, receive, send)


def add_clips(app: FastAPI, service: Service) -> None:
    """Add the route of clips."""

    async def predict(request: Request, model: str | None = schemas.MODEL) -> Response:
        """Each file gets a row, in the order sent; a file that cannot be used gets one that says why."""
        recognizer = service.inference.recognizer(model)
        async with service.receive(request) as uploads:
            outcomes = await service.in_time(_predict_all(service, recognizer, uploads))
        heard_s = sum(outcome.end_s for outcome in outcomes if isinstance(outcome, Prediction))
        request.scope["visit"].sound_s = heard_s
        return _answer(recognizer, uploads, outcomes)

    app.router.add_api_route(
        "/v1/predict",
        predict,
        methods=["POST"],
        route_class_override=_PlainRoute,
        tags=["sound"],
        summary="The emotion of one or several clips",
        response_model=schemas.PredictAnswer,
        responses={
            **schemas.errors(400, 401, 403, 404, 408, 413, 415, 429),
            422: {"model": schemas.PredictErrorAnswer, "description": "No file could be used."},
        },
        openapi_extra=schemas.upload_body("One or several clips of a few seconds.", many=True),
    )


async def _predict_all(
    service: Service, recognizer: Recognizer, uploads: list[Upload]
) -> list[Prediction | DecodeError]:
    if len(uploads) == 1:
        return [await _predict(service, recognizer, uploads[0])]
    return await asyncio.gather(*(_predict(service, recognizer, upload) for upload in uploads))


async def _predict(service: Service, recognizer: Recognizer, upload: Upload) -> Prediction | DecodeError:
    max_clip_s = service.settings.max_clip_s
    try:
        waveform = await service.decoding.decode(upload.content, max_duration_s=max_clip_s, limit="max_clip_s")
    except DecodeError as error:
        return error
    return await service.inference.predict(recognizer, waveform)


def _answer(recognizer: Recognizer, uploads: list[Upload], outcomes: list[Prediction | DecodeError]) -> Response:
    rows = [_row(upload.filename, outcome) for upload, outcome in zip(uploads, outcomes, strict=True)]
    answer: dict[str, Any] = {"model": recognizer.card.name, "predictions": rows}
    if all(row["error"] for row in rows):
        limit = next((error.limit for error in outcomes if isinstance(error, DecodeError) and error.limit), None)
        error = {"code": "unusable_sound", "message": rows[0]["error"]} | ({"limit": limit} if limit else {})
        return schemas.json_answer({"error": error} | answer, 422)
    return schemas.json_answer(answer)


def _row(filename: str, outcome: Prediction | DecodeError) -> dict[str, Any]:
    if isinstance(outcome, DecodeError):
        outcome = Prediction(None, None, None, {}, 0.0, 0.0, error=str(outcome))
    row = to_dict(outcome)
    del row["path"]
    return {"filename": filename} | row
