import json

import numpy as np
import pytest

from undertone.lab.evaluation import CORPUS_CLASSES, PROTOCOLS, ece, scores, scores_by_corpus, uar

CLASSES = PROTOCOLS["pooled-speaker"].classes


@pytest.fixture
def pooled(rng):
    """400 scored clips of two corpora: target, probs, corpora, speakers, sexes."""
    corpora = np.repeat(["ravdess", "crema-d"], 200)
    target = np.array([rng.choice([CLASSES.index(e) for e in CORPUS_CLASSES[c]]) for c in corpora])
    logits = rng.normal(size=(400, 8))
    logits[np.arange(400), target] += 1.0
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    numbers = rng.integers(1, 7, 400)
    speakers = [f"{c}/{n}" for c, n in zip(corpora, numbers, strict=True)]
    return target, probs, corpora, speakers, np.where(numbers % 2 == 0, "female", "male")


def test_scores_are_json_and_hold_what_a_report_needs(pooled):
    target, probs, _, speakers, sexes = pooled
    found = scores(target, probs, classes=CLASSES, speakers=speakers, sexes=sexes)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert found["uar"] == uar(target, probs.argmax(axis=1), n_classes=8)
    assert found["ece"] == ece(target, probs)
    assert found["intervals"]["uar"][0] < found["uar"] < found["intervals"]["uar"][1]
    assert np.sum(found["confusion"]) == found["n_utterances"] == 400
    assert found["n_speakers"] == len(found["per_speaker"]) == 12
    assert sum(row["support"] for row in found["per_class"].values()) == 400
    assert sum(row["n"] for row in found["per_speaker"].values()) == 400
    assert found["sex_gap"]["gap"] == found["sex_gap"]["female"] - found["sex_gap"]["male"]
    assert found["absent_classes"] == []


def test_shuffled_input_gives_equal_scores(pooled, rng):
    target, probs, _, speakers, sexes = pooled
    order = rng.permutation(400)
    here = scores(target, probs, classes=CLASSES, speakers=speakers, sexes=sexes)
    there = scores(
        target[order],
        probs[order],
        classes=CLASSES,
        speakers=[speakers[i] for i in order],
        sexes=sexes[order],
    )
    assert here["intervals"] == there["intervals"]
    assert here["confusion"] == there["confusion"]
    assert here["ece"] == pytest.approx(there["ece"])


def test_absent_classes_are_named_and_left_out():
    target, probs = np.array([0, 1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    found = scores(target, probs, classes=["anger", "fear", "calm"], speakers=["a", "b"])
    assert found["absent_classes"] == ["calm"]
    assert found["uar"] == 0.5
    assert found["per_class"]["calm"] == {"precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert found["sex_gap"] is None


def test_each_corpus_is_scored_on_its_own_classes(pooled):
    target, probs, corpora, speakers, sexes = pooled
    found = scores_by_corpus(
        target,
        probs,
        classes=CLASSES,
        corpora=corpora,
        speakers=speakers,
        sexes=sexes,
        corpus_classes=CORPUS_CLASSES,
    )
    crema = found["crema-d"]
    assert crema["restricted"]["classes"] == list(CORPUS_CLASSES["crema-d"])
    assert crema["unrestricted"]["classes"] == list(CLASSES)
    assert crema["unrestricted"]["absent_classes"] == ["surprise", "calm"]
    rows = corpora == "crema-d"
    own = probs[rows][:, :6]  # surprise and calm come last
    assert crema["restricted"]["uar"] == uar(target[rows], own.argmax(axis=1), n_classes=6)
    assert crema["restricted"]["uar"] > crema["unrestricted"]["uar"]
    assert found["ravdess"]["restricted"]["confusion"] == found["ravdess"]["unrestricted"]["confusion"]
    json.dumps(found, allow_nan=False)


def test_an_emotion_the_corpus_does_not_have_is_refused(pooled):
    target, probs, _, speakers, _ = pooled
    with pytest.raises(ValueError, match="crema-d has utterances of emotions"):
        scores_by_corpus(
            target,
            probs,
            classes=CLASSES,
            corpora=["crema-d"] * 400,
            speakers=speakers,
            corpus_classes=CORPUS_CLASSES,
        )


def test_nan_is_never_scored(pooled):
    target, probs, _, speakers, _ = pooled
    probs[7, 3] = np.nan
    with pytest.raises(ValueError, match="first in row 7"):
        scores(target, probs, classes=CLASSES, speakers=speakers)


def test_columns_must_fit(pooled):
    target, probs, corpora, speakers, sexes = pooled
    with pytest.raises(ValueError, match="one speaker per utterance"):
        scores(target, probs, classes=CLASSES, speakers=speakers[:-1])
    with pytest.raises(ValueError, match="one sex per utterance"):
        scores(target, probs, classes=CLASSES, speakers=speakers, sexes=sexes[:-1])
    with pytest.raises(ValueError, match="target has 399"):
        scores(target[:-1], probs, classes=CLASSES, speakers=speakers)
    with pytest.raises(ValueError, match="named twice"):
        scores(target, probs, classes=["anger"] * 8, speakers=speakers)
    with pytest.raises(ValueError, match="corpora has 399 rows"):
        scores_by_corpus(
            target,
            probs,
            classes=CLASSES,
            corpora=corpora[:-1],
            speakers=speakers,
            corpus_classes=CORPUS_CLASSES,
        )
