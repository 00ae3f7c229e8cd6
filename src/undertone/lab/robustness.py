"""Robustness: what is left of a fold's scores when its test clips come through noise, rooms, telephones and codecs.

The trained weights of a fold are asked again about the same test clips, altered; nothing is chosen by the answers. An
alteration follows from the clip's audio alone, and babble from that of the speakers trained on, too: systems that train
on the same speakers are asked about the same sound. Beside ``fold.json``
then lies ``conditions.json``, which is written once and read back. Studies ask about their dev clips in the same way.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undertone.files import write_file
from undertone.lab.augment import apply_steps
from undertone.lab.data import Waveforms, to_float, to_int16
from undertone.lab.evaluation import CORPUS_CLASSES
from undertone.lab.experiment import FOLD_FILE, Dataset, rounded, summarise
from undertone.lab.export import load_run
from undertone.lab.recipes import Model, networks_of
from undertone.lab.rounding import round_weights
from undertone.lab.training import TrainingError, compute_logits

CLEAN = "clean"
INT8 = "weights in 8 bits"  # the clean clips, heard by what a file with weights in 8 bits holds
CONDITIONS_FILE = "conditions.json"
CONDITIONS: dict[str, list[dict[str, Any]]] = {
    "babble, 10 dB": [{"kind": "babble", "snr_db": 10, "n_voices": 5}],
    "telephone": [{"kind": "telephone"}],
    "reverb, 0.5 s": [{"kind": "reverb", "rt60_s": 0.5, "drr_db": 0}],
    "pink noise, 10 dB": [{"kind": "noise", "snr_db": 10, "colour": "pink"}],
    "MP3, small": [{"kind": "codec", "codec": "mp3", "quality": 0}],
    "overdriven, 12 dB": [{"kind": "clip", "drive_db": 12}],
    "30 dB softer": [{"kind": "gain", "gain_db": -30}],
}
N_OTHERS = 5  # voices of the babble, of speakers the fold has trained on: none of these clips is tested


def hear_conditions(
    fold_dir: Path, dataset: Dataset, *, on_condition: Callable[[int, int], None] | None = None
) -> dict[str, list[list[float]]]:
    """Logits of a finished fold's test clips under each of ``CONDITIONS`` and ``INT8``, in the order of ``fold.json``.

    Raises
    ------
    TrainingError
        If the folder's clips are not among ``dataset``.
    """
    model, fold = load_run(fold_dir)
    identity = {"recipe_hash": fold["recipe_hash"], "seed": fold["seed"], "conditions": CONDITIONS}
    path = fold_dir / CONDITIONS_FILE
    if path.exists() and all((found := json.loads(path.read_text())).get(key) == identity[key] for key in identity):
        return found["logits"]
    rows = {clip.utterance_id: row for row, clip in enumerate(dataset.utterances)}
    if unknown := [clip["id"] for clip in fold["test"] if clip["id"] not in rows]:
        raise TrainingError(f"{fold_dir / FOLD_FILE} names {unknown[0]}, which is not among these clips")
    chosen = [rows[clip["id"]] for clip in fold["test"]]
    heard = {name for corpus in fold["train_corpora"].values() for name in corpus["speakers"]}
    tested = {clip["id"] for clip in fold["test"]}  # under a random split by speakers who are trained on, too
    babblers = [
        row
        for row, clip in enumerate(dataset.utterances)
        if clip.speaker_id in heard and clip.source_id is None and clip.utterance_id not in tested
    ]
    altered = hear_altered(model, dataset, chosen, babblers, on_condition=on_condition)
    logits = {name: rounded(values) for name, values in altered.items()}
    unaltered = dataset.waveforms.select(chosen)
    for network in networks_of(model):
        round_weights(network)
    logits[INT8] = rounded(compute_logits(model, unaltered))
    write_file(path, json.dumps({**identity, "logits": logits}))
    return logits


def hear_altered(
    model: Model,
    dataset: Dataset,
    rows: Sequence[int],
    babblers: Sequence[int],
    *,
    on_condition: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Logits, (n, n_classes), of the clips in ``rows`` under each of ``CONDITIONS``.

    Parameters
    ----------
    babblers
        Rows of the clips that babble is mixed from.
    on_condition
        Called with (conditions done, conditions in all).
    """
    logits = {}
    for done, (name, steps) in enumerate(CONDITIONS.items(), 1):
        altered = Waveforms(tuple(_alter(dataset, row, steps, babblers) for row in rows), ("",) * len(rows), {})
        logits[name] = compute_logits(model, altered)
        if on_condition is not None:
            on_condition(done, len(CONDITIONS))
    return logits


def _alter(dataset: Dataset, row: int, steps: list[dict[str, Any]], babblers: Sequence[int]) -> np.ndarray:
    seed = int(dataset.waveforms.digests[row], 16)
    others = [dataset.waveforms.clips[babblers[k]]
              for k in np.random.default_rng([seed, 1]).choice(len(babblers), N_OTHERS, replace=False)]  # fmt: skip
    altered = apply_steps(to_float(dataset.waveforms.clips[row]), steps, np.random.default_rng(seed), others=others)
    return to_int16(altered)


def measure_conditions(
    run_dir: Path,
    folds: Sequence[int],
    dataset: Dataset,
    *,
    on_condition: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of a run under each condition, to be added to its report.

    Returns
    -------
    dict
        ``conditions``: ``uar``, condition (``"clean"`` first) -> corpus -> UAR over the folds' test clips, each clip
        among the emotions of its corpus; ``lost``, condition -> mean over corpora of the clean UAR minus the
        condition's. ``int8``: what of the report is another with weights in 8 bits.
    """
    found = [json.loads((run_dir / f"fold-{fold}" / FOLD_FILE).read_text()) for fold in folds]
    n_all = len(folds) * len(CONDITIONS)
    logits: dict[str, list[np.ndarray]] = {CLEAN: [np.array(fold["test_logits"]) for fold in found]}
    for number, fold in enumerate(folds):
        before = number * len(CONDITIONS)
        report = None if on_condition is None else lambda done, _, before=before: on_condition(before + done, n_all)
        for name, values in hear_conditions(run_dir / f"fold-{fold}", dataset, on_condition=report).items():
            logits.setdefault(name, []).append(np.array(values))
    classes = tuple(found[0]["classes"])
    tested = [clip for fold in found for clip in fold["test"]]
    target = np.array([classes.index(clip["emotion"]) for clip in tested])
    corpora = np.array([clip["corpus"] for clip in tested])
    uars = {name: uar_by_corpus(target, np.concatenate(parts), classes, corpora) for name, parts in logits.items()}
    int8 = summarise(
        [fold | {"test_logits": rows.tolist()} for fold, rows in zip(found, logits[INT8], strict=True)], dataset
    )
    kept = ("scores", "per_fold", "mean_uar", "corpora", "restricted", "voted")
    return {
        "conditions": {"uar": uars, "lost": uar_lost(uars)},
        "int8": {key: int8[key] for key in kept if key in int8},
    }


def uar_lost(uars: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over corpora of the clean UAR minus each condition's; ``uars`` is condition -> corpus -> UAR."""
    clean = uars[CLEAN]
    return {name: float(np.mean([clean[corpus] - own[corpus] for corpus in clean]))
            for name, own in uars.items() if name != CLEAN}  # fmt: skip


def uar_by_corpus(
    target: np.ndarray, logits: np.ndarray, classes: tuple[str, ...], corpora: np.ndarray
) -> dict[str, float]:
    """Return corpus -> UAR, each clip among the emotions of its corpus; targets (n,), logits (n, n_classes)."""
    uars = {}
    for corpus in dict.fromkeys(corpora.tolist()):
        rows = corpora == corpus
        allowed = np.array([name in CORPUS_CLASSES[corpus] for name in classes])
        hit = np.where(allowed, logits[rows], -np.inf).argmax(axis=1) == target[rows]
        uars[corpus] = float(np.mean([hit[target[rows] == c].mean() for c in np.unique(target[rows])]))
    return uars
