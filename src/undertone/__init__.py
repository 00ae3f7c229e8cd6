"""Emotion recognition in speech: one small model file, and an answer in one line.

>>> import undertone
>>> undertone.predict("clip.wav").emotion  # doctest: +SKIP
'happiness'

Importing this package loads nothing heavy; each name below loads its module when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertone.audio import AudioError as AudioError
    from undertone.emotions import EMOTIONS as EMOTIONS
    from undertone.explanation import Explanation as Explanation
    from undertone.explanation import explain as explain
    from undertone.model_file import Card as Card
    from undertone.model_file import ModelFileError as ModelFileError
    from undertone.model_file import installed_models as installed_models
    from undertone.model_file import read_card as read_card
    from undertone.recognizer import Prediction as Prediction
    from undertone.recognizer import Recognizer as Recognizer
    from undertone.recognizer import load_model as load_model
    from undertone.recognizer import predict as predict
    from undertone.stream import Stream as Stream
    from undertone.stream import Update as Update
    from undertone.timelines import Segment as Segment
    from undertone.timelines import Timeline as Timeline
    from undertone.timelines import timeline as timeline

    __version__: str

# Official builds of onnxruntime report their use to Microsoft and keep an identifier on disk (its Privacy.md; 1.31.1
# does on Linux too). From undertone nothing leaves the machine: this is read when onnxruntime is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "AudioError": "audio",
    "Card": "model_file",
    "EMOTIONS": "emotions",
    "Explanation": "explanation",
    "ModelFileError": "model_file",
    "Prediction": "recognizer",
    "Recognizer": "recognizer",
    "Segment": "timelines",
    "Stream": "stream",
    "Timeline": "timelines",
    "Update": "stream",
    "explain": "explanation",
    "installed_models": "model_file",
    "load_model": "recognizer",
    "predict": "recognizer",
    "read_card": "model_file",
    "timeline": "timelines",
}

__all__ = [  # noqa: RUF022 (the two to start with come first)
    "load_model",
    "predict",
    "AudioError",
    "Card",
    "EMOTIONS",
    "Explanation",
    "ModelFileError",
    "Prediction",
    "Recognizer",
    "Segment",
    "Stream",
    "Timeline",
    "Update",
    "explain",
    "installed_models",
    "read_card",
    "timeline",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f"undertone.{_MODULES[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("undertone")
    else:
        raise AttributeError(f"module 'undertone' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
