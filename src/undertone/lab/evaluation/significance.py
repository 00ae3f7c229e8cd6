"""Is one system better than another? A paired test over speakers.

Two systems are tested on the same utterances. The difference of their UARs is a sum of one contribution per
speaker. If the systems were equally good, each contribution could as well have the other sign: the p-value is
the share of sign patterns whose sum is at least as far from zero as the one observed. Speakers are flipped,
not utterances, because a speaker's utterances stand or fall together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from undertone.lab.evaluation.metrics import CONFIDENCE, confusion_by_speaker, draw_speakers

MAX_EXACT_SPEAKERS = 14  # all 2 ** 14 sign patterns up to here, drawn ones above
N_PATTERNS = 20_000


@dataclass(frozen=True)
class Comparison:
    """First system minus second: UAR difference, its 95 % interval over speakers, and the two-sided p-value.

    ``smallest_p`` is what the test could say at best with so few speakers: with 4 of them p is never below
    0.125, so "not significant" then means little.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    smallest_p: float
    n_speakers: int
    exact: bool


def compare_systems(
    target: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    speakers: Sequence[str],
    *,
    n_classes: int,
    seed: int = 0,
) -> Comparison:
    """Compare the UARs of two systems on the same utterances by a sign-flip test over speakers.

    Parameters
    ----------
    target
        (n,) class indices.
    first, second
        (n,) class indices the two systems predicted.
    speakers
        (n,) speaker of each utterance.
    n_classes
        Number of classes; those that ``target`` lacks are left out of both UARs.
    seed
        Of the drawn sign patterns (more than 14 speakers) and of the interval.

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or there is only one speaker.

    Examples
    --------
    >>> target = np.array([0, 1, 0, 1])
    >>> better, worse = np.array([0, 1, 0, 1]), np.array([1, 1, 1, 1])
    >>> result = compare_systems(target, better, worse, ["a", "a", "b", "b"], n_classes=2)
    >>> result.difference, result.p_value
    (0.5, 0.5)
    """
    names, first_counts = confusion_by_speaker(target, first, speakers, n_classes=n_classes)
    _, second_counts = confusion_by_speaker(target, second, speakers, n_classes=n_classes)
    if len(names) < 2:
        raise ValueError("a paired test over speakers needs at least two speakers")
    support = first_counts.sum(axis=2)  # (n_speakers, n_classes), equal for both systems
    gained = np.diagonal(first_counts - second_counts, axis1=1, axis2=2)  # (n_speakers, n_classes) hits
    contributions = _mean_recall(gained, support.sum(axis=0))  # (n_speakers,), sums to the difference
    signs, exact = _sign_patterns(len(names), seed)
    observed = abs(contributions.sum())
    as_far = int((np.abs(signs @ contributions) >= observed - 1e-12).sum())  # rounding must not break ties
    p_value = as_far / len(signs) if exact else (as_far + 1) / (len(signs) + 1)
    draws = draw_speakers(len(names), n_resamples=N_PATTERNS // 10, seed=seed)
    differences = _mean_recall(draws @ gained, draws @ support)
    lower, upper = np.percentile(differences, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    smallest_p = 2 / 2 ** len(names) if exact else 1 / (N_PATTERNS + 1)
    return Comparison(float(contributions.sum()), (float(lower), float(upper)), p_value, smallest_p, len(names), exact)


def _mean_recall(hits: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Mean over the last axis of hits / support, classes without support left out."""
    n_present = (support > 0).sum(axis=-1)
    return (hits / np.maximum(support, 1)).sum(axis=-1) / np.maximum(n_present, 1)


def _sign_patterns(n_speakers: int, seed: int) -> tuple[np.ndarray, bool]:
    if n_speakers > MAX_EXACT_SPEAKERS:
        return np.random.default_rng(seed).choice([-1, 1], size=(N_PATTERNS, n_speakers)), False
    patterns = np.arange(2**n_speakers)[:, None] >> np.arange(n_speakers) & 1
    return 2 * patterns - 1, True
