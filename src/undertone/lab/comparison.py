"""Runs side by side, on the clips that all of them have tested: how far apart they are, and whether by chance.

Nothing is computed anew: the answers are those in each fold's ``fold.json``. A clip is answered among the emotions that
its corpus has and that every run knows, so that runs of different classes can be compared.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from undertone.emotions import EMOTIONS
from undertone.lab.evaluation import CORPUS_CLASSES, bootstrap, compare_systems, get_protocol
from undertone.lab.experiment import FOLD_FILE

ALL = "all"  # key of the clips of all corpora together


class ComparisonError(ValueError):
    """Runs that cannot be compared; the message says why."""


def compare_runs(run_dirs: Sequence[Path]) -> dict[str, Any]:
    """Compare runs on the clips that all of them have tested, the first with each of the others.

    Parameters
    ----------
    run_dirs
        Run folders of ``undertone lab evaluate``, at least two, each with finished folds.

    Returns
    -------
    dict
        ``runs``: for each its ``path``, ``protocol``, ``recipe``, ``seed``, ``folds`` and whether that ``leaks``.
        ``n_utterances`` that all tested, and ``left_out``, for each run how many more it did. ``corpora``: corpus (and
        ``"all"``, where there are several) -> ``n_utterances``, ``n_speakers``, ``uar``, a list with a value per run,
        ``intervals`` (95 %, over speakers; None for a single one), and ``differences``, for each run but the first what
        :class:`~undertone.lab.evaluation.Comparison` holds: the first's UAR minus its; None for a single speaker.

    Raises
    ------
    ComparisonError
        If a folder has no finished fold, or there is no clip that all tested.
    """
    if len(run_dirs) < 2:
        raise ComparisonError("give two runs or more; the first is compared with each of the others")
    found = [_read(run_dir) for run_dir in run_dirs]
    answers = [answers for _, answers in found]
    shared = [clip for clip in answers[0] if all(clip in other for other in answers[1:])]
    if not shared:
        raise ComparisonError("there is no clip that all of these runs have tested: other folds, or other corpora?")
    known = [set(run["classes"]) for run, _ in found]
    clips = [answers[0][name][0] for name in shared]
    corpora = [clip["corpus"] for clip in clips]
    allowed = {
        corpus: [name for name in CORPUS_CLASSES[corpus] if all(name in classes for classes in known)]
        for corpus in dict.fromkeys(corpora)
    }
    rows = [row for row, clip in enumerate(clips) if clip["emotion"] in allowed[clip["corpus"]]]
    if not rows:
        raise ComparisonError("these runs know no emotion in common that one of their shared clips has")
    target = np.array([EMOTIONS.index(clips[row]["emotion"]) for row in rows])
    predicted = [
        np.array([EMOTIONS.index(_answer(own[shared[row]][1], allowed[corpora[row]])) for row in rows])
        for own in answers
    ]
    speakers, of = [clips[row]["speaker"] for row in rows], np.array([corpora[row] for row in rows])
    parts = {corpus: of == corpus for corpus in allowed if corpus in of}
    if len(parts) > 1:
        parts = {ALL: np.ones(len(rows), dtype=bool), **parts}
    return {
        "runs": [{key: value for key, value in run.items() if key != "classes"} for run, _ in found],
        "n_utterances": len(rows),
        "left_out": [len(own) - len(rows) for own in answers],
        "corpora": {
            name: _compare([answer[part] for answer in predicted], target[part],
                           [speaker for speaker, kept in zip(speakers, part, strict=True) if kept])
            for name, part in parts.items()
        },
    }  # fmt: skip


def _read(run_dir: Path) -> tuple[dict[str, Any], dict[str, tuple[dict[str, str], dict[str, float]]]]:
    """Return what a run is, and id of each tested clip -> (the clip, its logits by emotion)."""
    paths = sorted(run_dir.glob(f"fold-*/{FOLD_FILE}"), key=lambda path: int(path.parent.name.removeprefix("fold-")))
    if not paths:
        raise ComparisonError(f"{run_dir} holds no finished fold; give a run folder of 'undertone lab evaluate'")
    folds = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    first = folds[0]
    answers = {
        clip["id"]: (clip, dict(zip(fold["classes"], logits, strict=True)))
        for fold in folds
        for clip, logits in zip(fold["test"], fold["test_logits"], strict=True)
    }
    run = {
        "path": str(run_dir),
        "protocol": first["protocol"],
        "recipe": first["recipe"]["name"],
        "seed": first["seed"],
        "folds": [fold["fold"] for fold in folds],
        "leaks": bool(get_protocol(first["protocol"]).leaks),
        "classes": first["classes"],
    }
    return run, answers


def _answer(logits: dict[str, float], among: Sequence[str]) -> str:
    return max(among, key=logits.__getitem__)


def _compare(predicted: Sequence[np.ndarray], target: np.ndarray, speakers: Sequence[str]) -> dict[str, Any]:
    n_classes, n_speakers = len(EMOTIONS), len(set(speakers))
    differences = [
        compare_systems(target, predicted[0], own, speakers, n_classes=n_classes) if n_speakers > 1 else None
        for own in predicted[1:]
    ]
    return {
        "n_utterances": len(target),
        "n_speakers": n_speakers,
        "uar": [float(np.mean([(own[target == c] == c).mean() for c in np.unique(target)])) for own in predicted],
        "intervals": [bootstrap(target, own, speakers, n_classes=n_classes)["uar"] for own in predicted],
        "differences": [found and asdict(found) for found in differences],
    }
