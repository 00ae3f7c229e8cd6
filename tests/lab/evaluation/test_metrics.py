import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from undertone.lab.evaluation import (
    bootstrap,
    confusion,
    f1,
    per_class,
    restrict_probs,
    sex_gap,
    uar,
    war,
)
from undertone.lab.evaluation.metrics import confusion_by_speaker, validate_probs


@st.composite
def predictions(draw):
    n_classes = draw(st.integers(2, 9))
    labels = st.integers(0, n_classes - 1)
    pairs = draw(st.lists(st.tuples(labels, labels), min_size=1, max_size=80))
    target, predicted = np.array(pairs).T
    return target, predicted, n_classes


@settings(max_examples=50, deadline=None)
@given(predictions())
def test_scores_agree_with_sklearn(given_predictions):
    target, predicted, n_classes = given_predictions
    present = np.unique(target)
    options = {"labels": present, "zero_division": 0}
    close = pytest.approx
    assert uar(target, predicted, n_classes=n_classes, skip_absent=True) == close(
        sklearn_metrics.recall_score(target, predicted, average="macro", **options)
    )
    assert war(target, predicted, n_classes=n_classes) == close(sklearn_metrics.accuracy_score(target, predicted))
    for average in ("macro", "weighted"):
        assert f1(target, predicted, n_classes=n_classes, average=average) == close(
            sklearn_metrics.f1_score(target, predicted, average=average, **options)
        )
    matrix = sklearn_metrics.confusion_matrix(target, predicted, labels=range(n_classes))
    assert (confusion(target, predicted, n_classes=n_classes) == matrix).all()
    table = per_class(target, predicted, n_classes=n_classes)
    expected = sklearn_metrics.precision_recall_fscore_support(
        target, predicted, labels=range(n_classes), zero_division=0
    )
    for column, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(np.nan_to_num(table[column]), values)
    absent = np.setdiff1d(np.arange(n_classes), present)
    assert np.isnan(table["recall"][absent]).all() and np.isnan(table["f1"][absent]).all()


def test_uar_of_an_absent_class_is_refused():
    with pytest.raises(ValueError, match=r"no utterance of class \[2\]"):
        uar(np.array([0, 1]), np.array([0, 1]), n_classes=3)
    assert uar(np.array([0, 1]), np.array([0, 1]), n_classes=3, skip_absent=True) == 1.0


@pytest.mark.parametrize(
    ("target", "predicted", "message"),
    [
        (np.array([0, 1]), np.array([0]), "2 utterances, predicted has 1"),
        (np.array([0, 3]), np.array([0, 1]), "classes are 0 to 2"),
        (np.array([0, -1]), np.array([0, 1]), "classes are 0 to 2"),
        (np.array([0.0, 1.0]), np.array([0, 1]), "int array"),
        (np.array([[0]]), np.array([[0]]), "int array"),
        (np.array([], dtype=int), np.array([], dtype=int), "empty"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(target, predicted, message):
    for score in (uar, war, f1, per_class, confusion):
        with pytest.raises(ValueError, match=message):
            score(target, predicted, n_classes=3)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([[np.nan, 1.0]], "NaN or infinite, first in row 0"),
        ([[0.5, 0.5], [np.inf, 0.0]], "first in row 1"),
        ([[2.0, -1.0]], "logits, perhaps"),
        ([[0.5, 0.4]], "sums to 0.9"),
        ([[1.0, 0.0, 0.0]], r"float array \(n, 2\)"),
        ([[1, 0]], "float array"),
    ],
)
def test_what_is_no_probability_is_refused(probs, message):
    with pytest.raises(ValueError, match=message):
        validate_probs(np.array(probs), n_classes=2)


def test_half_precision_probs_are_fine():
    logits = np.random.default_rng(0).normal(size=(100, 9))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    validate_probs(probs.astype(np.float16).astype(np.float32), n_classes=9)


# ---- restricting ----


def test_restricting_removes_the_share_of_the_others():
    probs = np.array([[0.1, 0.3, 0.6], [0.5, 0.5, 0.0]])
    names = ["anger", "neutral", "calm"]
    np.testing.assert_allclose(restrict_probs(probs, names, ["neutral", "anger"]), [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(restrict_probs(probs, names, names), probs)


def test_a_row_without_share_becomes_uniform():
    assert restrict_probs(np.array([[0.0, 0.0, 1.0]]), ["a", "b", "c"], ["a", "b"]).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(("subset", "message"), [(["joy"], "joy is not among"), ([], "empty")])
def test_unknown_subset_is_refused(subset, message):
    with pytest.raises(ValueError, match=message):
        restrict_probs(np.array([[1.0]]), ["anger"], subset)


# ---- over speakers ----


def test_confusion_by_speaker_is_one_confusion_each(rng):
    target, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    speakers = np.array(["b", "a", "c"])[rng.integers(0, 3, 60)]
    names, counts = confusion_by_speaker(target, predicted, speakers, n_classes=4)
    assert names == ["a", "b", "c"]
    for name, matrix in zip(names, counts, strict=True):
        rows = speakers == name
        assert (matrix == confusion(target[rows], predicted[rows], n_classes=4)).all()


def test_bootstrap_equals_one_that_draws_utterances_speaker_by_speaker(rng):
    """The same draws, but with the drawn speakers' utterances laid end to end and scored by sklearn."""
    from undertone.lab.evaluation.metrics import draw_speakers

    target, predicted = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    speakers = np.repeat(["a", "b", "c", "d", "e"], 18)
    found = bootstrap(target, predicted, speakers, n_classes=3, n_resamples=200, seed=5)
    values = {"uar": [], "war": [], "f1_macro": [], "f1_weighted": []}
    for draw in draw_speakers(5, n_resamples=200, seed=5):
        rows = np.concatenate(
            [np.flatnonzero(speakers == s) for s, n in zip("abcde", draw, strict=True) for _ in range(n)]
        )
        t, p = target[rows], predicted[rows]
        values["uar"].append(sklearn_metrics.balanced_accuracy_score(t, p))
        values["war"].append(sklearn_metrics.accuracy_score(t, p))
        values["f1_macro"].append(sklearn_metrics.f1_score(t, p, average="macro"))
        values["f1_weighted"].append(sklearn_metrics.f1_score(t, p, average="weighted"))
    for name, drawn in values.items():
        np.testing.assert_allclose(found[name], np.percentile(drawn, [2.5, 97.5]))


def test_bootstrap_is_wider_over_speakers_who_differ():
    """Four speakers all right, four all wrong: the interval must be far wider than 400 coins would give."""
    target = np.tile([0, 1], 200)
    predicted = np.where(np.arange(400) < 200, target, 1 - target)
    lower, upper = bootstrap(target, predicted, np.repeat(list("abcdefgh"), 50), n_classes=2)["uar"]
    assert lower < 0.25 and upper > 0.75


def test_bootstrap_covers_the_truth_about_as_often_as_it_says(rng):
    """Speakers with their own accuracy around 0.6: about 95 of 100 intervals hold 0.6."""
    covered = 0
    for seed in range(100):
        accuracy = np.clip(rng.normal(0.6, 0.1, 24), 0, 1).repeat(40)
        target = np.tile(np.arange(4), 240)
        right = rng.random(960) < accuracy
        predicted = np.where(right, target, (target + 1) % 4)
        interval = bootstrap(target, predicted, np.arange(24).repeat(40), n_classes=4, n_resamples=300, seed=seed)
        covered += interval["uar"][0] <= 0.6 <= interval["uar"][1]
    assert 87 <= covered <= 100


def test_bootstrap_of_one_speaker_has_no_interval():
    found = bootstrap(np.array([0, 1]), np.array([0, 1]), ["a", "a"], n_classes=2)
    assert set(found.values()) == {None}


def test_bootstrap_leaves_out_a_class_that_no_drawn_speaker_spoke():
    """Only b speaks class 1, and is wrong; draws of a alone score 1, not 1/2."""
    target, predicted = np.array([0, 0, 1, 0]), np.array([0, 0, 0, 0])
    lower, upper = bootstrap(target, predicted, list("aabb"), n_classes=2)["uar"]
    assert (lower, upper) == (0.5, 1.0)


# ---- women and men ----


def test_sex_gap_over_classes_both_spoke():
    target = np.array([0, 0, 1, 1, 0, 1, 2])
    predicted = np.array([0, 0, 1, 0, 1, 1, 0])
    sexes = ["female"] * 4 + ["male"] * 3  # class 2 is men's only
    found = sex_gap(target, predicted, sexes, n_classes=3)
    assert found == {"female": 0.75, "male": 0.5, "gap": 0.25, "n_female": 4, "n_male": 3}


def test_sex_gap_needs_both():
    target = np.array([0, 1])
    assert sex_gap(target, target, ["male", "male"], n_classes=2) is None
    assert sex_gap(target, target, ["male", "female"], n_classes=2) is None  # no class in common
    with pytest.raises(ValueError, match="'M'"):
        sex_gap(target, target, ["M", "female"], n_classes=2)
