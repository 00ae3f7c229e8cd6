"""Calibration: how far confidences are to be believed, and the one number that mends them.

A temperature, fitted on dev, divides all logits; it makes confidences honest and changes no decision. The
expected calibration error says how honest they are.

References
----------
Guo et al. (2017), On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
"""

from dataclasses import dataclass

import numpy as np

from undertone.lab.evaluation.metrics import predict_classes

N_BINS = 15  # of the calibration error, as in Guo et al.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
N_BISECTIONS = 60  # halves the search range to rounding error


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Turn logits (..., n_classes) into float64 probs of the same shape; the last axis sums to 1.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive, or a logit is NaN or infinite.

    Examples
    --------
    >>> softmax(np.array([0.0, np.log(3.0)])).round(2).tolist()
    [0.25, 0.75]
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity")
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def nll(logits: np.ndarray, target: np.ndarray, *, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of ``target`` (n,) under ``logits`` (n, n_classes), in nats, 0 or more."""
    _validate(logits, target)
    scaled = logits.astype(np.float64) / temperature
    peak = scaled.max(axis=1)
    log_sum = peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1))
    return float((log_sum - scaled[np.arange(len(target)), target]).mean())


def fit_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """Find the temperature that minimises the negative log-likelihood of ``target``.

    The likelihood is convex in ``1 / temperature``, so its slope has one root, found by bisection. Where the
    optimum is outside [0.05, 20] (every utterance is right; or the logits are worse than none) the nearer end
    is returned.

    Parameters
    ----------
    logits
        (n, n_classes) finite, of utterances that were not trained on.
    target
        (n,) class indices.

    Returns
    -------
    float
        Temperature in [0.05, 20]; above 1 when the logits are overconfident.

    Raises
    ------
    ValueError
        If there is no utterance, or a logit is NaN or infinite.

    Examples
    --------
    Three of four right, so the best confidence is 3/4 = 1 / (1 + exp(-2 / T)), and T = 2 / ln 3:

    >>> logits = np.array([[1.0, -1.0]] * 4)
    >>> round(fit_temperature(logits, np.array([0, 0, 0, 1])), 4)
    1.8205
    """
    _validate(logits, target)
    chosen = logits.astype(np.float64)[np.arange(len(target)), target]  # (n,)

    def slope(temperature: float) -> float:  # of the likelihood, along 1 / temperature
        return float(((softmax(logits, temperature=temperature) * logits).sum(axis=1) - chosen).mean())

    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    if slope(MIN_TEMPERATURE) <= 0:  # still improving at the sharpest
        return MIN_TEMPERATURE
    if slope(MAX_TEMPERATURE) >= 0:
        return MAX_TEMPERATURE
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of each confidence are right: the data of a reliability diagram.

    ``edges`` is (n_bins + 1,); ``n``, ``confidence`` and ``accuracy`` are (n_bins,), the latter two the means
    in each bin, NaN where a bin is empty.
    """

    edges: np.ndarray
    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Mean distance of confidence and accuracy over the bins, weighted by ``n``, in [0, 1]."""
        gap = np.abs(np.nan_to_num(self.confidence) - np.nan_to_num(self.accuracy))
        return float((gap * self.n).sum() / self.n.sum())

    def to_json(self) -> list[dict[str, float]]:
        """Bins that are not empty, as plain dicts."""
        return [
            {
                "lower": float(self.edges[i]),
                "upper": float(self.edges[i + 1]),
                "n": int(self.n[i]),
                "confidence": float(self.confidence[i]),
                "accuracy": float(self.accuracy[i]),
            }
            for i in np.flatnonzero(self.n)
        ]


def reliability(target: np.ndarray, probs: np.ndarray, *, n_bins: int = N_BINS) -> Reliability:
    """Compare the confidence of the predicted class with how often it is right, in bins of equal width.

    Parameters
    ----------
    target
        (n,) class indices.
    probs
        (n, n_classes).
    n_bins
        Number of bins over [0, 1]; a bin includes its upper edge.
    """
    predicted = predict_classes(target, probs)
    confidence = np.minimum(probs.max(axis=1).astype(np.float64), 1.0)
    right = (predicted == target).astype(np.float64)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    n = np.bincount(bins, minlength=n_bins)
    total = np.where(n > 0, n, np.nan)  # NaN, not a warning, for an empty bin
    mean_confidence = np.bincount(bins, weights=confidence, minlength=n_bins) / total
    return Reliability(edges, n, mean_confidence, np.bincount(bins, weights=right, minlength=n_bins) / total)


def ece(target: np.ndarray, probs: np.ndarray, *, n_bins: int = N_BINS) -> float:
    """Compute the expected calibration error of the predicted class, in [0, 1]; 0 is perfect.

    References
    ----------
    Guo et al. (2017), On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.

    Examples
    --------
    Three predictions at confidence 0.8, two of them right: |0.8 - 2/3|.

    >>> probs = np.array([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
    >>> round(ece(np.array([0, 0, 1]), probs), 4)
    0.1333
    """
    return reliability(target, probs, n_bins=n_bins).ece


def _validate(logits: np.ndarray, target: np.ndarray) -> None:
    if logits.ndim != 2 or not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(f"logits must be a float array (n, n_classes), got {logits.dtype} {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity")
    if target.shape != logits.shape[:1] or not np.issubdtype(target.dtype, np.integer):
        raise ValueError(f"target must be an int array ({len(logits)},), got {target.dtype} {target.shape}")
    if target.size == 0:
        raise ValueError("there is no utterance to fit a temperature on; use temperature 1")
    if target.min() < 0 or target.max() >= logits.shape[1]:
        raise ValueError(f"target holds {target.min()} to {target.max()}, classes are 0 to {logits.shape[1] - 1}")
