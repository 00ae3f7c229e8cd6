"""The answers as OpenAPI describes them, with examples. What is sent is plain JSON and never goes through these."""

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field

from undertone.serve.uploads import FIELD

PROBS = {
    "anger": 0.71,
    "disgust": 0.08,
    "fear": 0.05,
    "happiness": 0.1,
    "neutral": 0.03,
    "sadness": 0.02,
    "surprise": 0.01,
}


_to_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one for each answer

MODEL = Query(None, max_length=200, description="A served model; the default one if not given.")


def json_answer(content: Any, status: int = 200) -> Response:
    """Return plain JSON types as an answer."""
    return Response(_to_json(content).encode(), status, media_type="application/json")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    """Why there is no answer."""

    code: str = Field(examples=["too_large"])
    message: str = Field(examples=["the request is larger than 64 MB; send fewer or shorter files, or FLAC"])
    limit: str | None = Field(None, description="The setting that was met.", examples=["max_upload_mb"])


class ErrorAnswer(_Answer):
    """An error."""

    error: ErrorDetail


class PredictionRow(_Answer):
    """The emotion heard in one file, or the reason why there is none."""

    filename: str = Field(description="As sent, without folders.", examples=["clip.wav"])
    start_s: float = Field(examples=[0.0])
    end_s: float = Field(examples=[2.4])
    emotion: str | None = Field(examples=["anger"])
    confidence: float | None = Field(ge=0, le=1, examples=[0.71])
    probs: dict[str, float] = Field(description="One per label; they sum to 1. Empty with an error.", examples=[PROBS])
    error: str | None = Field(examples=[None])


class PredictAnswer(_Answer):
    """One row per file, in the order sent."""

    model: str = Field(examples=["undertone-small"])
    predictions: list[PredictionRow]


class PredictErrorAnswer(_Answer):
    """No file could be used: the first reason, and the row of each file where it came to that."""

    error: ErrorDetail
    model: str | None = None
    predictions: list[PredictionRow] | None = None


class SegmentRow(_Answer):
    """A stretch of one emotion."""

    channel: int | None = Field(description="Counted from 0; null where channels were mixed.", examples=[None])
    start_s: float = Field(examples=[0.4])
    end_s: float = Field(examples=[3.1])
    emotion: str | None = Field(description="null: not sure.", examples=["anger"])
    confidence: float = Field(ge=0, le=1, examples=[0.71])
    probs: dict[str, float] = Field(examples=[PROBS])


class TurningPointRow(_Answer):
    """Where one emotion follows another."""

    time_s: float = Field(examples=[12.5])
    before: str = Field(examples=["neutral"])
    after: str = Field(examples=["anger"])


class ChannelRow(_Answer):
    """What adds up over one channel."""

    channel: int | None = Field(examples=[None])
    speech_s: float = Field(examples=[48.2])
    shares: dict[str, float] = Field(description="Of speech_s.", examples=[{"neutral": 0.7, "anger": 0.2}])
    not_sure: float = Field(description="Of speech_s; with the shares it adds up to 1.", examples=[0.1])
    turning_points: list[TurningPointRow]
    longest_anger: SegmentRow | None


class TimelineAnswer(_Answer):
    """The stretches of speech in a recording; those of one channel do not overlap."""

    path: str | None = Field(description="The file name as sent, without folders.", examples=["call.wav"])
    duration_s: float = Field(examples=[61.2])
    n_channels: int = Field(description="Kept apart; 1 where they were mixed.", examples=[1])
    model: str = Field(examples=["undertone-small"])
    labels: list[str] = Field(examples=[list(PROBS)])
    segments: list[SegmentRow]
    totals: list[ChannelRow]


class ExplainAnswer(_Answer):
    """How much each part of a clip matters for one emotion."""

    emotion: str = Field(examples=["anger"])
    prob: float = Field(ge=0, le=1, description="Of the emotion, in the whole clip.", examples=[0.84])
    times_s: list[float] = Field(description="Edges of the cells, n_times + 1.", examples=[[0.0, 0.5, 1.0]])
    bands_hz: list[float] = Field(description="Edges of the cells, n_bands + 1.", examples=[[0.0, 2000.0, 8000.0]])
    importance: list[list[float]] = Field(
        description="n_bands rows of n_times: the fall of prob when that cell is silenced; the lowest band first.",
        examples=[[[0.2, 0.01], [0.05, -0.02]]],
    )


class ModelSummary(_Answer):
    """What a served model is, in short."""

    name: str = Field(examples=["undertone-small"])
    version: str = Field(examples=["0.1.0"])
    description: str
    labels: list[str] = Field(examples=[list(PROBS)])
    licence: str
    n_parameters: int
    min_duration_s: float
    recommended_duration_s: float
    max_duration_s: float
    frame_hop_s: float | None


class ModelsAnswer(_Answer):
    """The served models."""

    default: str = Field(examples=["undertone-small"])
    models: list[ModelSummary]


class HealthAnswer(_Answer):
    """Whether the service answers."""

    status: str = Field(examples=["ok"])


def upload_body(description: str, *, many: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a multipart upload."""
    one = {"type": "string", "format": "binary", "description": "WAV, FLAC, Ogg Vorbis, Ogg Opus, MP3 or AIFF."}
    content = {"type": "array", "items": one, "minItems": 1} if many else one
    schema = {"type": "object", "properties": {FIELD: content}, "required": [FIELD]}
    return {
        "requestBody": {
            "description": description,
            "required": True,
            "content": {"multipart/form-data": {"schema": schema}},
        }
    }


def files(media_types: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of answers that are files to be saved."""
    content = {media_type: {"schema": {"type": "string"}} for media_type in sorted(media_types)}
    return {200: {"description": "The answer, or a file to be saved.", "content": content}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these errors."""
    texts = {
        400: "The form cannot be read.",
        401: "The token is missing or wrong.",
        403: "A page of another site that is not allowed to ask.",
        404: "There is no such model.",
        408: "The body came too slowly, or the answer would take too long.",
        413: "Too many bytes or files.",
        415: "The body is no multipart form.",
        422: "A parameter or the sound cannot be used.",
        429: "The service is busy: try again after the seconds in Retry-After.",
        503: "The service is being stopped.",
    }
    return {status: {"model": ErrorAnswer, "description": texts[status]} for status in statuses}
