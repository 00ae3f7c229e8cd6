"""Evaluation that cannot leak: protocols, splits, the audit, scores, calibration, significance. Pure numpy."""

from undertone.lab.evaluation.metrics import confusion, uar, war
from undertone.lab.evaluation.protocols import (
    CORPUS_CLASSES,
    FOLDS,
    PROTOCOLS,
    Protocol,
    ProtocolError,
    get_protocol,
    list_test_speakers,
)
from undertone.lab.evaluation.splits import Split, build_final_split, build_split, find_roots, list_folds

__all__ = [
    "CORPUS_CLASSES",
    "FOLDS",
    "PROTOCOLS",
    "Protocol",
    "ProtocolError",
    "Split",
    "build_final_split",
    "build_split",
    "confusion",
    "find_roots",
    "get_protocol",
    "list_folds",
    "list_test_speakers",
    "uar",
    "war",
]
