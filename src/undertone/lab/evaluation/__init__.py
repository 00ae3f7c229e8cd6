"""Evaluation that cannot leak: protocols, splits, audit, scores, calibration, significance; pure numpy."""

from undertone.lab.evaluation.audit import Audit, Finding, LeakError, audit_parts, audit_split
from undertone.lab.evaluation.calibration import Reliability, ece, fit_temperature, nll, reliability, softmax
from undertone.lab.evaluation.metrics import (
    bootstrap,
    confusion,
    f1,
    per_class,
    restrict_probs,
    sex_gap,
    uar,
    war,
)
from undertone.lab.evaluation.protocols import (
    CORPUS_CLASSES,
    FOLDS,
    PROTOCOLS,
    Protocol,
    ProtocolError,
    get_protocol,
    list_test_speakers,
)
from undertone.lab.evaluation.scoring import scores, scores_by_corpus
from undertone.lab.evaluation.significance import Comparison, compare_systems
from undertone.lab.evaluation.splits import (
    Split,
    build_final_split,
    build_split,
    group_recordings,
    list_folds,
)

__all__ = [
    "CORPUS_CLASSES",
    "FOLDS",
    "PROTOCOLS",
    "Audit",
    "Comparison",
    "Finding",
    "LeakError",
    "Protocol",
    "ProtocolError",
    "Reliability",
    "Split",
    "audit_parts",
    "audit_split",
    "bootstrap",
    "build_final_split",
    "build_split",
    "compare_systems",
    "confusion",
    "ece",
    "f1",
    "fit_temperature",
    "get_protocol",
    "group_recordings",
    "list_folds",
    "list_test_speakers",
    "nll",
    "per_class",
    "reliability",
    "restrict_probs",
    "scores",
    "scores_by_corpus",
    "sex_gap",
    "softmax",
    "uar",
    "war",
]
