from itertools import product

import numpy as np
import pytest

from undertone.lab.evaluation import compare_systems, uar


def systems(rng, n_speakers, *, first=0.6, second=0.6, n_each=40, n_classes=4):
    n = n_speakers * n_each
    target = np.arange(n) % n_classes
    wrong = (target + rng.integers(1, n_classes, n)) % n_classes
    predictions = [np.where(rng.random(n) < accuracy, target, wrong) for accuracy in (first, second)]
    return target, *predictions, np.arange(n_speakers).repeat(n_each)


def test_exact_p_equals_swapping_the_systems_in_every_way(rng):
    """The definition, literally: swap the two systems' predictions for every subset of speakers."""
    target, first, second, speakers = systems(rng, 6, first=0.65)
    found = compare_systems(target, first, second, speakers, n_classes=4)
    observed = uar(target, first, n_classes=4) - uar(target, second, n_classes=4)
    assert found.difference == pytest.approx(observed)
    differences = []
    for swap in product([False, True], repeat=6):
        swapped = np.array(swap)[speakers]
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        differences.append(uar(target, one, n_classes=4) - uar(target, other, n_classes=4))
    assert found.p_value == (np.abs(differences) >= abs(observed) - 1e-12).mean()
    assert found.exact and found.smallest_p == 2 / 64


def test_equal_systems_are_not_significant(rng):
    target, first, _, speakers = systems(rng, 5)
    found = compare_systems(target, first, first, speakers, n_classes=4)
    assert (found.difference, found.p_value, found.interval) == (0.0, 1.0, (0.0, 0.0))


def test_a_clear_gain_is_significant_and_a_swap_turns_the_sign(rng):
    target, first, second, speakers = systems(rng, 24, first=0.75, second=0.55)
    found = compare_systems(target, first, second, speakers, n_classes=4)
    assert not found.exact
    assert found.p_value < 0.001
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    back = compare_systems(target, second, first, speakers, n_classes=4)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p_value == found.p_value


@pytest.mark.parametrize("n_speakers", [8, 20])  # every pattern; drawn patterns
def test_false_alarms_are_as_rare_as_promised(rng, n_speakers):
    p_values = [
        compare_systems(*systems(rng, n_speakers, n_each=20), n_classes=4, seed=seed).p_value for seed in range(60)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15  # 3 expected of 60; 9 would be p < 0.01


def test_few_speakers_can_never_be_significant(rng):
    target, first, second, speakers = systems(rng, 4, first=1.0, second=0.0)
    found = compare_systems(target, first, second, speakers, n_classes=4)
    assert found.p_value == found.smallest_p == 0.125


def test_one_speaker_is_refused():
    target = np.array([0, 1])
    with pytest.raises(ValueError, match="at least two speakers"):
        compare_systems(target, target, target, ["a", "a"], n_classes=2)
