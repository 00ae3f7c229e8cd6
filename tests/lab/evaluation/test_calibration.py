import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax

from undertone.lab.evaluation import ece, fit_temperature, nll, reliability, softmax


@pytest.fixture
def scored(rng):
    """Overconfident logits (500, 8) and targets drawn from the honest ones."""
    honest = rng.normal(size=(500, 8))
    target = np.array([rng.choice(8, p=row) for row in scipy_softmax(honest, axis=1)])
    return 3.0 * honest, target


def test_softmax_agrees_with_scipy_and_survives_huge_logits(rng):
    logits = rng.normal(size=(20, 8)) * 1e4
    np.testing.assert_allclose(softmax(logits, temperature=3.0), scipy_softmax(logits / 3.0, axis=1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_softmax_refuses_what_is_no_temperature(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        softmax(np.zeros((1, 2)), temperature=temperature)


def test_nll_agrees_with_scipy(scored):
    logits, target = scored
    expected = -log_softmax(logits / 2.0, axis=1)[np.arange(500), target].mean()
    assert nll(logits, target, temperature=2.0) == pytest.approx(expected)


@pytest.mark.parametrize(("n_right", "n"), [(3, 4), (9, 10), (60, 100)])
def test_temperature_worked_out_by_hand(n_right, n):
    """Two classes, logits (1, -1), a share q right: 1 / (1 + exp(-2 / T)) = q, so T = 2 / ln(q / (1 - q))."""
    target = np.array([0] * n_right + [1] * (n - n_right))
    logits = np.tile([1.0, -1.0], (n, 1))
    q = n_right / n
    assert fit_temperature(logits, target) == pytest.approx(2 / np.log(q / (1 - q)))


def test_temperature_is_found_again(scored):
    logits, target = scored
    assert fit_temperature(logits, target) == pytest.approx(3.0, rel=0.15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.5, 8))
def test_temperature_is_where_scipy_finds_it(seed, scale):
    rng = np.random.default_rng(seed)
    logits, target = scale * rng.normal(size=(60, 4)), rng.integers(0, 4, 60)
    found = fit_temperature(logits, target)
    best = minimize_scalar(
        lambda log_t: nll(logits, target, temperature=float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    assert nll(logits, target, temperature=found) <= best.fun + 1e-9


def test_temperature_scales_with_the_logits_and_is_float32_safe(scored):
    logits, target = scored
    found = fit_temperature(logits, target)
    assert fit_temperature(2 * logits, target) == pytest.approx(2 * found)
    assert fit_temperature(logits.astype(np.float32), target) == pytest.approx(found, rel=1e-5)


def test_temperature_stays_in_bounds():
    logits, target = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0, 1])
    assert fit_temperature(logits, target) == 0.05
    assert fit_temperature(logits, 1 - target) == 20.0


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "no utterance"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "NaN"),
        (np.zeros((2, 2)), np.array([0]), r"int array \(2,\)"),
        (np.zeros((1, 2)), np.array([2]), "classes are 0 to 1"),
        (np.zeros(2), np.array([0]), "float array"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, target, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, target)


# ---- calibration error ----


def test_ece_by_hand():
    """Confidences .9 (right), .9 (wrong), .55 (right): 2/3 * |.9 - .5| + 1/3 * |.55 - 1|."""
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55]])
    assert ece(np.array([0, 1, 1]), probs) == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.45)


def test_ece_of_honest_probs_is_small_and_of_sharpened_ones_is_not(scored, rng):
    honest = scipy_softmax(rng.normal(size=(20_000, 4)), axis=1)
    target = (rng.random((20_000, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert ece(target, honest) < 0.02
    sharpened = honest**4 / (honest**4).sum(axis=1, keepdims=True)
    assert ece(target, sharpened) > 0.2


def test_temperature_lowers_ece_and_keeps_decisions(scored):
    logits, target = scored
    temperature = fit_temperature(logits, target)
    before, after = softmax(logits), softmax(logits, temperature=temperature)
    assert ece(target, after) < ece(target, before) / 2
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


def test_bin_edges_belong_to_the_lower_bin():
    probs = np.array([[0.5, 0.5], [1.0, 0.0], [0.51, 0.49]])
    found = reliability(np.array([0, 0, 0]), probs, n_bins=2)
    assert found.n.tolist() == [1, 2]
    assert found.accuracy.tolist() == [1.0, 1.0]


def test_empty_bins_are_not_reported():
    bins = reliability(np.array([0, 1]), np.array([[0.99, 0.01], [0.7, 0.3]])).to_json()
    assert [b["n"] for b in bins] == [1, 1]
    assert [b["accuracy"] for b in bins] == [0.0, 1.0]


def test_ece_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        ece(np.array([0]), np.array([[np.nan, np.nan]]))
