"""The answers as OpenAPI describes them; examples included. Answers are written as plain JSON and never go through these."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from undertone.serve.uploads import FIELD

PROBS = {
    "anger": 0.71,
    "disgust": 0.08,
    "fear": 0.05,
    "happiness": 0.1,
    "neutral": 0.03,
    "sadness": 0.01,
    "surprise": 0.02,
}


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
