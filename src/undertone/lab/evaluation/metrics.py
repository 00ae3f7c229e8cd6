"""Scores of emotion recognition: recalls, F1, confusion, intervals over speakers.

Conventions
-----------
``target`` and ``predicted`` are int arrays of shape (n,), class indices. ``probs`` is a float array of shape
(n, n_classes) whose rows sum to 1; the predicted class is the most probable one, the first of equals. Scores
are fractions in [0, 1]. In a confusion matrix rows are what was meant, columns what was recognised. Every
function checks its input first and raises ``ValueError``; none falls back on a made-up score.

Classes nobody spoke
--------------------
The recall of a class without an utterance is undefined. ``uar`` refuses such a target unless told to leave
those classes out; ``f1``, ``scores`` and the bootstrap leave them out, and ``scores`` names them in
``absent_classes``. A class that is never predicted has precision 0 and F1 0, as scikit-learn's
``zero_division=0`` has it.
"""

from collections.abc import Sequence

import numpy as np

N_RESAMPLES = 2_000
CONFIDENCE = 0.95
SUM_TOLERANCE = 1e-3  # rows of half-precision probs do not sum to 1 more exactly than this


def validate_classes(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> None:
    """Check that both are non-empty int arrays of one shape (n,) with values in [0, n_classes).

    Raises
    ------
    ValueError
        If not.
    """
    for name, values in (("target", target), ("predicted", predicted)):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} must be an int array of shape (n,), got {values.dtype} {values.shape}")
        if values.size == 0:
            raise ValueError(f"{name} is empty: there is nothing to score")
        if values.min() < 0 or values.max() >= n_classes:
            raise ValueError(f"{name} holds {values.min()} to {values.max()}, classes are 0 to {n_classes - 1}")
    if target.shape != predicted.shape:
        raise ValueError(f"target has {target.size} utterances, predicted has {predicted.size}")


def validate_probs(probs: np.ndarray, *, n_classes: int) -> None:
    """Check that ``probs`` is a finite float array (n, n_classes) of probabilities whose rows sum to 1.

    Raises
    ------
    ValueError
        If not.
    """
    if probs.ndim != 2 or probs.shape[1] != n_classes or not np.issubdtype(probs.dtype, np.floating):
        raise ValueError(f"probs must be a float array (n, {n_classes}), got {probs.dtype} {probs.shape}")
    if not np.isfinite(probs).all():
        rows = np.flatnonzero(~np.isfinite(probs).all(axis=1))
        raise ValueError(f"probs of {rows.size} utterances are NaN or infinite, first in row {rows[0]}")
    if probs.size and (probs.min() < 0 or probs.max() > 1 + SUM_TOLERANCE):
        raise ValueError(f"probs lie in [0, 1], got {probs.min():.3g} to {probs.max():.3g}: logits, perhaps?")
    off = np.abs(probs.sum(axis=1) - 1)
    if probs.size and off.max() > SUM_TOLERANCE:
        raise ValueError(f"rows of probs sum to 1, row {off.argmax()} sums to {probs[off.argmax()].sum():.4g}")


def predict_classes(target: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Check both and pick the most probable class of each row, the first of equals.

    Parameters
    ----------
    target
        (n,) class indices.
    probs
        (n, n_classes).

    Returns
    -------
    np.ndarray
        (n,) int64.
    """
    n_classes = probs.shape[-1]
    validate_probs(probs, n_classes=n_classes)
    if len(target) != len(probs):
        raise ValueError(f"target has {len(target)} utterances, probs has {len(probs)}")
    predicted = probs.argmax(axis=1)
    validate_classes(target, predicted, n_classes=n_classes)
    return predicted


def confusion(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Confusion matrix of counts, (n_classes, n_classes) int64: rows are targets, columns predictions.

    Examples
    --------
    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), n_classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    validate_classes(target, predicted, n_classes=n_classes)
    cells = np.bincount(target.astype(np.int64) * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def uar(target: np.ndarray, predicted: np.ndarray, *, n_classes: int, skip_absent: bool = False) -> float:
    """Unweighted average recall, the mean of the per-class recalls, in [0, 1].

    Chance level is ``1 / n_classes``, whatever the class balance.

    Parameters
    ----------
    target, predicted
        (n,) class indices.
    n_classes
        Number of classes.
    skip_absent
        Average over the classes that are in ``target``, instead of refusing when one is not.

    Raises
    ------
    ValueError
        If a class has no utterance in ``target``: its recall is undefined.

    Examples
    --------
    >>> uar(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), n_classes=2)
    0.8333333333333333
    """
    matrix = confusion(target, predicted, n_classes=n_classes)
    absent = np.flatnonzero(matrix.sum(axis=1) == 0).tolist()
    if absent and not skip_absent:
        raise ValueError(f"UAR is undefined: no utterance of class {absent} in target")
    return float(average_scores(matrix)["uar"])


def war(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> float:
    """Weighted average recall: the share of utterances that are right (accuracy), in [0, 1].

    Examples
    --------
    >>> war(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), n_classes=2)
    0.75
    """
    return float(average_scores(confusion(target, predicted, n_classes=n_classes))["war"])


def f1(target: np.ndarray, predicted: np.ndarray, *, n_classes: int, average: str = "macro") -> float:
    """F1 averaged over the classes that are in ``target``, in [0, 1].

    Parameters
    ----------
    target, predicted
        (n,) class indices.
    n_classes
        Number of classes.
    average
        ``"macro"``: every class counts alike. ``"weighted"``: by its number of utterances.

    References
    ----------
    scikit-learn ``f1_score(..., labels=those in target, zero_division=0)``, equal to rounding.
    """
    if average not in ("macro", "weighted"):
        raise ValueError(f"average is 'macro' or 'weighted', not {average!r}")
    return float(average_scores(confusion(target, predicted, n_classes=n_classes))[f"f1_{average}"])


def per_class(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of each class.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1``: (n_classes,) float64 in [0, 1]; recall and F1 are NaN where
        the class has no utterance. ``support``: (n_classes,) int64, utterances per class.
    """
    return tabulate(confusion(target, predicted, n_classes=n_classes))


def tabulate(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support, (..., n_classes) each, of matrices (..., n_classes, n_classes)."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    support, n_predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    there = support > 0
    return {
        "precision": hits / np.maximum(n_predicted, 1),
        "recall": np.where(there, hits / np.maximum(support, 1), np.nan),
        "f1": np.where(there, 2 * hits / np.maximum(support + n_predicted, 1), np.nan),
        "support": support,
    }


def average_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """UAR, WAR, macro and weighted F1 of many confusion matrices at once.

    Parameters
    ----------
    matrix
        (..., n_classes, n_classes) counts. A matrix's averages leave out the classes that have no utterance.

    Returns
    -------
    dict
        ``uar``, ``war``, ``f1_macro``, ``f1_weighted``: each of shape (...).
    """
    table = tabulate(matrix)
    support = table["support"]
    n_present = np.maximum((support > 0).sum(axis=-1), 1)
    n_utterances = np.maximum(support.sum(axis=-1), 1)
    recall, f1_of_class = np.nan_to_num(table["recall"]), np.nan_to_num(table["f1"])
    return {
        "uar": recall.sum(axis=-1) / n_present,
        "war": np.diagonal(matrix, axis1=-2, axis2=-1).sum(axis=-1) / n_utterances,
        "f1_macro": f1_of_class.sum(axis=-1) / n_present,
        "f1_weighted": (f1_of_class * support).sum(axis=-1) / n_utterances,
    }


def restrict_probs(probs: np.ndarray, classes: Sequence[str], subset: Sequence[str]) -> np.ndarray:
    """Probabilities among some of the classes: the others' share is removed, each row sums to 1 again.

    A row that gives ``subset`` no probability at all becomes uniform: nothing in it speaks for one of them.

    Parameters
    ----------
    probs
        (n, n_classes), columns in the order of ``classes``.
    classes, subset
        Names; every name of ``subset`` is in ``classes``.

    Returns
    -------
    np.ndarray
        (n, len(subset)) float64, columns in the order of ``subset``.

    Raises
    ------
    ValueError
        If a name is unknown or ``probs`` are no probabilities.

    Examples
    --------
    >>> restrict_probs(np.array([[0.2, 0.2, 0.6]]), ["anger", "neutral", "calm"], ["anger", "neutral"])
    array([[0.5, 0.5]])
    """
    validate_probs(probs, n_classes=len(classes))
    if unknown := [name for name in subset if name not in classes]:
        raise ValueError(f"{', '.join(unknown)} is not among the classes {', '.join(classes)}")
    if not subset:
        raise ValueError("the subset of classes is empty")
    kept = probs[:, [list(classes).index(name) for name in subset]].astype(np.float64)
    mass = kept.sum(axis=1, keepdims=True)
    return np.where(mass > 0, kept / np.where(mass > 0, mass, 1), 1 / len(subset))


def confusion_by_speaker(
    target: np.ndarray, predicted: np.ndarray, speakers: Sequence[str], *, n_classes: int
) -> tuple[list[str], np.ndarray]:
    """Sorted speaker ids, and their confusion counts (n_speakers, n_classes, n_classes) int64."""
    validate_classes(target, predicted, n_classes=n_classes)
    if len(speakers) != len(target):
        raise ValueError(f"expected one speaker per utterance, got {len(speakers)} for {len(target)}")
    names, who = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    cells = (who * n_classes + target) * n_classes + predicted
    counts = np.bincount(cells, minlength=len(names) * n_classes**2)
    return names.tolist(), counts.reshape(len(names), n_classes, n_classes)


def bootstrap(
    target: np.ndarray,
    predicted: np.ndarray,
    speakers: Sequence[str],
    *,
    n_classes: int,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of UAR, WAR and F1, by drawing speakers with replacement.

    Utterances of one speaker are alike, so drawing utterances would make the interval too narrow. A class
    that no drawn speaker spoke is left out of that draw's average. The interval says how the score would vary
    with other speakers of this kind; with few speakers (TESS has two) it is crude.

    Parameters
    ----------
    target, predicted, speakers
        (n,) each.
    n_classes
        Number of classes.
    n_resamples
        Number of draws.
    seed
        Of the draws: equal seeds give equal intervals.

    Returns
    -------
    dict
        ``uar``, ``war``, ``f1_macro``, ``f1_weighted``: (lower, upper), percentiles 2.5 and 97.5 of the
        draws; None with fewer than two speakers.
    """
    names, counts = confusion_by_speaker(target, predicted, speakers, n_classes=n_classes)
    if len(names) < 2:
        return dict.fromkeys(("uar", "war", "f1_macro", "f1_weighted"))
    draws = draw_speakers(len(names), n_resamples=n_resamples, seed=seed)  # (n_resamples, n_speakers)
    resampled = (draws @ counts.reshape(len(names), -1)).reshape(-1, n_classes, n_classes)
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    averages = {name: np.percentile(values, tails) for name, values in average_scores(resampled).items()}
    return {name: (float(lower), float(upper)) for name, (lower, upper) in averages.items()}


def draw_speakers(n_speakers: int, *, n_resamples: int, seed: int) -> np.ndarray:
    """How often each draw has each speaker, (n_resamples, n_speakers) int64; rows sum to ``n_speakers``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers), size=n_resamples)


def sex_gap(
    target: np.ndarray, predicted: np.ndarray, sexes: Sequence[str], *, n_classes: int
) -> dict[str, float | int] | None:
    """UAR of women, UAR of men, and women minus men, over the classes that both of them spoke.

    Returns
    -------
    dict or None
        ``female`` and ``male`` in [0, 1], ``gap`` in [-1, 1], ``n_female`` and ``n_male`` utterances. None
        where there are only women or only men, or no class that both spoke.

    Raises
    ------
    ValueError
        If a sex is neither ``"female"`` nor ``"male"``.
    """
    validate_classes(target, predicted, n_classes=n_classes)
    who = np.asarray(sexes, dtype=str)
    if who.shape != target.shape:
        raise ValueError(f"expected one sex per utterance, got {len(who)} for {len(target)}")
    if unknown := sorted(set(who.tolist()) - {"female", "male"}):
        raise ValueError(f"sex is 'female' or 'male', not {', '.join(map(repr, unknown))}")
    women, men = who == "female", who == "male"
    if not women.any() or not men.any():
        return None
    recall = {
        name: per_class(target[rows], predicted[rows], n_classes=n_classes)["recall"]
        for name, rows in (("female", women), ("male", men))
    }
    both = np.isfinite(recall["female"]) & np.isfinite(recall["male"])
    if not both.any():
        return None
    female, male = (float(recall[name][both].mean()) for name in ("female", "male"))
    counts = {"n_female": int(women.sum()), "n_male": int(men.sum())}
    return {"female": female, "male": male, "gap": female - male, **counts}
