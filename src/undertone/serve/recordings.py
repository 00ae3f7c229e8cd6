"""``POST /v1/timeline`` and ``POST /v1/explain``: one file, and work that takes a while.

Both run on a thread of their own, one after the other: clips and live streams do not wait for them. Who hangs up ends
the work.
"""

import asyncio
import io
from collections.abc import Awaitable
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Query, Request, Response

from undertone import formats
from undertone.audio import SAMPLE_RATE, AudioError
from undertone.emotions import EMOTIONS
from undertone.explanation import MAX_DURATION_S, Explanation, explain
from undertone.model_file import ModelFileError
from undertone.recognizer import Recognizer
from undertone.serve import schemas
from undertone.serve.decoding import BlockStream, DecodeError
from undertone.serve.errors import Refused
from undertone.serve.service import Service
from undertone.serve.uploads import Upload
from undertone.timelines import Timeline, timeline_of_blocks

Format = Literal["json", "csv", "jsonl", "textgrid", "vtt", "audacity", "rttm", "html"]  # of TIMELINE_FORMATS
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "textgrid": "text/plain",
    "vtt": "text/vtt",
    "audacity": "text/plain",
    "rttm": "text/plain",
    "html": "text/html",
}

_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 429)


def add_recordings(app: FastAPI, service: Service) -> None:
    """Add the routes of single recordings."""
    served = service.inference.recognizers.values()
    labels = [emotion for emotion in EMOTIONS if any(emotion in recognizer.labels for recognizer in served)]

    @app.post(
        "/v1/timeline",
        tags=["sound"],
        summary="Who sounded how, when, in a long recording",
        response_model=schemas.TimelineAnswer,
        responses=schemas.errors(*_ERRORS) | schemas.files(set(MEDIA_TYPES.values()) - {"application/json"}),
        openapi_extra=schemas.upload_body("One recording.", many=False),
    )
    async def timeline(
        request: Request,
        model: str | None = schemas.MODEL,
        channels: Annotated[
            Literal["mix", "split"], Query(description="split: each channel is a speaker of its own.")
        ] = "mix",
        format: Annotated[Format, Query(description="All but json come as a file to be saved.")] = "json",
    ) -> Response:
        """Stretches of speech with the emotion of each; null where the model is not sure."""
        recognizer = service.inference.recognizer(model)
        async with service.receive(request) as uploads:
            upload = _only(uploads)
            found = await _in_job(service, request, _timeline(service, recognizer, upload, split=channels == "split"))
        request.scope["visit"].sound_s = found.duration_s * found.n_channels
        return _timeline_answer(found, upload.filename, format)

    @app.post(
        "/v1/explain",
        tags=["sound"],
        summary="Which moments and bands of a clip made the difference",
        response_model=schemas.ExplainAnswer,
        responses=schemas.errors(*_ERRORS),
        openapi_extra=schemas.upload_body(f"One clip of at most {MAX_DURATION_S:g} s.", many=False),
    )
    async def explain_clip(
        request: Request,
        model: str | None = schemas.MODEL,
        emotion: Annotated[
            str | None,
            Query(description="A label of the model; else what it hears.", json_schema_extra={"enum": labels}),
        ] = None,
    ) -> Response:
        """Each cell is silenced in turn; its importance is the fall of the emotion's probability."""
        recognizer = service.inference.recognizer(model)
        if emotion is not None and emotion not in recognizer.labels:
            known = ", ".join(recognizer.labels)
            raise Refused(422, "no_such_emotion", f"this model knows no emotion of this name; it has {known}")
        async with service.receive(request) as uploads:
            found = await _in_job(service, request, _explain(service, recognizer, _only(uploads), emotion))
        request.scope["visit"].sound_s = float(found.times_s[-1])
        return schemas.json_answer(found.to_dict())


def _only(uploads: list[Upload]) -> Upload:
    if len(uploads) > 1:
        raise Refused(422, "one_file", f"this takes one file, {len(uploads)} came; send them one by one")
    return uploads[0]


async def _in_job(service: Service, request: Request, work: Awaitable[Any]) -> Any:
    """Await long work while somebody waits for it."""
    with service.jobs:
        working = asyncio.ensure_future(service.in_time(work))
        leaving = asyncio.ensure_future(request.receive())  # the body is read: the next message is the end
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Refused(400, "disconnected", "nobody waits for the answer")
            return working.result()
        except DecodeError as error:
            raise Refused(422, "unusable_sound", str(error), limit=error.limit) from None
        except (AudioError, ModelFileError) as error:
            raise Refused(422, "unusable_sound", str(error)) from None
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.wait([working])


# ---- timelines ----


async def _timeline(service: Service, recognizer: Recognizer, upload: Upload, *, split: bool) -> Timeline:
    async with service.job_turn:  # first: a decoder that waits for its turn would be missing elsewhere
        blocks = service.decoding.blocks(
            upload.content, split=split, max_duration_s=service.settings.max_timeline_s, limit="max_timeline_s"
        )
        async with blocks as stream:
            return await service.inference.run_job(_hear, recognizer, stream, upload.filename)


def _hear(recognizer: Recognizer, stream: BlockStream, filename: str) -> Timeline:
    return timeline_of_blocks(recognizer, stream, path=filename or None)


def _timeline_answer(timeline: Timeline, filename: str, format: Format) -> Response:
    file = io.StringIO()
    formats.write_timeline(timeline, file, format)
    headers = {}
    if format != "json":
        stem = PurePath(filename).stem or "timeline"
        name = stem + formats.TIMELINE_SUFFIXES.get(format, f".{format}")
        headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(file.getvalue().encode(errors="replace"), headers=headers, media_type=MEDIA_TYPES[format])


# ---- explanations ----


async def _explain(service: Service, recognizer: Recognizer, upload: Upload, emotion: str | None) -> Explanation:
    async with service.job_turn:
        waveform = await service.decoding.decode(upload.content, max_duration_s=MAX_DURATION_S, limit=None)
        return await service.inference.run_job(_explain_waveform, recognizer, waveform, emotion)


def _explain_waveform(recognizer: Recognizer, waveform: np.ndarray, emotion: str | None) -> Explanation:
    return explain(recognizer, waveform, sample_rate=SAMPLE_RATE, emotion=emotion)
