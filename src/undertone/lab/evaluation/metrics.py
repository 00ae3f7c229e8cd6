"""Scores of emotion recognition.

Conventions
-----------
``target`` and ``predicted`` are int arrays of shape (n,), class indices. ``probs`` is a float array of shape
(n, n_classes) whose rows sum to 1. Scores are fractions in [0, 1]. In a confusion matrix, rows are what was said and
columns what was heard. Every function checks its input first and raises ``ValueError``; none guesses.
"""

import numpy as np


def uar(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> float:
    """Unweighted average recall, the mean of the per-class recalls, in [0, 1].

    Chance level is ``1 / n_classes``, whatever the class balance.

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
    support = matrix.sum(axis=1)
    if missing := np.flatnonzero(support == 0).tolist():
        raise ValueError(f"UAR is undefined: no utterance of class {missing} in target")
    return float((np.diag(matrix) / support).mean())


def war(target: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> float:
    """Weighted average recall: the share of utterances that are right (accuracy), in [0, 1].

    Examples
    --------
    >>> war(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), n_classes=2)
    0.75
    """
    matrix = confusion(target, predicted, n_classes=n_classes)
    return float(np.diag(matrix).sum() / matrix.sum())


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
            raise ValueError(
                f"{name} holds classes {values.min()} to {values.max()}, outside 0 to {n_classes - 1}"
            )
    if target.shape != predicted.shape:
        raise ValueError(f"target has {target.size} utterances, predicted has {predicted.size}")
