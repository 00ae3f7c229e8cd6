"""Everything a report says about one test set, as one JSON-ready dict: overall, and corpus by corpus.

The conventions are those of ``metrics``: arrays of shape (n,), class indices, fractions in [0, 1].
"""

from collections.abc import Mapping, Sequence

import numpy as np

from undertone.lab.evaluation.calibration import reliability
from undertone.lab.evaluation.metrics import (
    N_RESAMPLES,
    average_scores,
    bootstrap,
    confusion,
    confusion_by_speaker,
    predict_classes,
    restrict_probs,
    sex_gap,
    tabulate,
    validate_probs,
)


def scores(
    target: np.ndarray,
    probs: np.ndarray,
    *,
    classes: Sequence[str],
    speakers: Sequence[str],
    sexes: Sequence[str] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, object]:
    """All scores of one test set, ready for JSON.

    Parameters
    ----------
    target
        (n,) class indices into ``classes``.
    probs
        (n, n_classes).
    classes
        Names, in the order of the columns.
    speakers, sexes
        (n,) speaker id of each utterance; ``"female"`` or ``"male"``, None where it is not known.
    n_resamples, seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``uar``, ``war``, ``f1_macro``, ``f1_weighted``, ``ece`` (floats); ``intervals`` of the first four
        (two numbers or null); ``per_class`` by name; ``confusion`` (lists of counts, rows are targets);
        ``reliability`` bins; ``per_speaker`` (n, uar, war); ``sex_gap`` or null; ``n_utterances``,
        ``n_speakers``, ``classes``; ``absent_classes``: without an utterance here, in no average.

    Raises
    ------
    ValueError
        If an array does not fit the others, or ``probs`` are no probabilities.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"a class is named twice: {', '.join(classes)}")
    validate_probs(probs, n_classes=len(classes))
    predicted = predict_classes(target, probs)
    n_classes = len(classes)
    matrix = confusion(target, predicted, n_classes=n_classes)
    names, counts = confusion_by_speaker(target, predicted, speakers, n_classes=n_classes)
    intervals = bootstrap(target, predicted, speakers, n_classes=n_classes, n_resamples=n_resamples, seed=seed)
    calibration = reliability(target, probs)
    gap = None if sexes is None else sex_gap(target, predicted, sexes, n_classes=n_classes)
    return {
        "n_utterances": len(target),
        "n_speakers": len(names),
        "classes": list(classes),
        "absent_classes": [name for name, row in zip(classes, matrix, strict=True) if not row.any()],
        **{name: float(value) for name, value in average_scores(matrix).items()},
        "intervals": {name: None if pair is None else list(pair) for name, pair in intervals.items()},
        "ece": calibration.ece,
        "sex_gap": gap,
        "per_class": _table(classes, tabulate(matrix)),
        "confusion": matrix.tolist(),
        "per_speaker": _speaker_table(names, counts),
        "reliability": calibration.to_json(),
    }


def _table(classes: Sequence[str], columns: dict[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {
            column: int(values[i]) if column == "support" else _number(values[i]) for column, values in columns.items()
        }
        for i, name in enumerate(classes)
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN


def _speaker_table(names: list[str], counts: np.ndarray) -> dict[str, dict[str, float | int]]:
    averages = average_scores(counts)
    return {
        name: {"n": int(counts[i].sum()), "uar": float(averages["uar"][i]), "war": float(averages["war"][i])}
        for i, name in enumerate(names)
    }


def scores_by_corpus(
    target: np.ndarray,
    probs: np.ndarray,
    *,
    classes: Sequence[str],
    corpora: Sequence[str],
    speakers: Sequence[str],
    sexes: Sequence[str] | None = None,
    corpus_classes: Mapping[str, Sequence[str]],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, object]]]:
    """Score each corpus of a pooled test on its own, with probs restricted to its classes, and unrestricted.

    A pooled model may answer "calm" to a CREMA-D clip although nobody in CREMA-D is calm. ``restricted``
    takes that choice away, which makes the figure comparable with a model trained on that corpus alone;
    ``unrestricted`` keeps it.

    Parameters
    ----------
    target, probs, classes, speakers, sexes, n_resamples, seed
        As in ``scores``.
    corpora
        (n,) corpus of each utterance.
    corpus_classes
        Corpus -> the emotions it has (``CORPUS_CLASSES``); those not among ``classes`` are left out.

    Returns
    -------
    dict
        Corpus -> ``{"restricted": scores, "unrestricted": scores}``.

    Raises
    ------
    ValueError
        If an utterance's emotion is not among its corpus's classes, or an array does not fit the others.
    """
    predict_classes(target, probs)
    where = np.asarray(corpora, dtype=str)
    columns = {"corpora": where, "speakers": np.asarray(speakers, dtype=str)}
    columns["sexes"] = np.asarray(speakers if sexes is None else sexes, dtype=str)
    for name, values in columns.items():
        if values.shape != target.shape:
            raise ValueError(f"{name} has {len(values)} rows, target has {len(target)}")
    both = {}
    for corpus in sorted(set(where.tolist())):
        rows = where == corpus
        subset = [name for name in classes if name in corpus_classes[corpus]]
        new_index = np.array([subset.index(name) if name in subset else -1 for name in classes])
        own_target = new_index[target[rows]]
        if (own_target < 0).any():
            raise ValueError(f"{corpus} has utterances of emotions that are not among its classes {subset}")
        shared = {
            "speakers": columns["speakers"][rows].tolist(),
            "sexes": None if sexes is None else columns["sexes"][rows].tolist(),
            "n_resamples": n_resamples,
            "seed": seed,
        }
        restricted = restrict_probs(probs[rows], classes, subset)
        both[corpus] = {
            "restricted": scores(own_target, restricted, classes=subset, **shared),
            "unrestricted": scores(target[rows], probs[rows], classes=classes, **shared),
        }
    return both
