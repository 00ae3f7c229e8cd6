"""EmotionClassifier under scikit-learn's own tools."""

# ruff: noqa: E402 - imports follow the check that the libraries are there
import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

from undertone.lab.estimator import EmotionClassifier, EstimatorError, as_clips
from undertone.lab.features import XVector
from undertone.lab.recipes import recipe_names
from undertone.lab.search import to_toml

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

WORDS = np.array(["sadness", "anger", "fear"])  # not in sorted order
SECTION = '[features]\nkind = "functionals"\nparts = [{ kind = "mfcc", n_mfcc = 6, n_mels = 16 }]\n'


@pytest.fixture(scope="module")
def sounds(make_clip):
    """(X, y, groups): 36 clips of three emotions by four speakers."""
    rng = np.random.default_rng(0)
    kind = np.tile(np.arange(3), 12)
    clips = [make_clip(2 * k, rng, rng.uniform(0.25, 0.5)) for k in kind]
    return clips, WORDS[kind], np.repeat(np.arange(4), 9)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "six.toml"
    path.write_text(SECTION)
    return str(path)


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    values = make_recipe(training={"epochs": 12, "batch_size": 8}, augment={"max_mask_bands": 0}).to_json()
    path.write_text(to_toml(values))
    return str(path)


@pytest.fixture(params=["svm-rbf", "network"])
def classifier(request, features, recipe):
    if request.param == "network":
        return EmotionClassifier(recipe, accelerator="cpu")
    return EmotionClassifier(request.param, features=features)


def test_fits_and_answers(classifier, sounds):
    X, y, groups = sounds
    with pytest.raises(NotFittedError):
        classifier.predict(X)
    assert classifier.fit(X, y, groups=groups) is classifier
    assert classifier.classes_.tolist() == ["anger", "fear", "sadness"]
    probs = classifier.predict_proba(X)
    assert probs.shape == (36, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    assert (classifier.classes_[probs.argmax(axis=1)] == classifier.predict(X)).all()
    assert classifier.score(X, y) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(X[:3]), probs[:3], atol=1e-4)  # one by one as in a batch


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_an_estimator(name, sounds, monkeypatch):
    """One epoch; the x-vectors' own training is left out, which ``test_xvector.py`` has."""
    monkeypatch.setattr(XVector, "fit_to", lambda self, *_, **__: self.is_fitted.fill_(True))
    X, y, groups = sounds
    classifier = clone(EmotionClassifier(name, epochs=1, accelerator="cpu")).fit(X, y, groups=groups)
    probs = classifier.predict_proba(X[:6])
    assert probs.shape == (6, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    assert set(classifier.predict(X[:6])) <= set(WORDS)


def test_clone_and_parameters(classifier):
    assert is_classifier(classifier)
    copy = clone(classifier).set_params(seed=7)
    assert copy.get_params() == {**classifier.get_params(), "seed": 7}
    assert classifier.seed == 0


def test_cross_val_score(classifier, sounds):
    X, y, groups = sounds
    scores = cross_val_score(
        classifier, X, y, groups=groups, cv=GroupKFold(2), scoring="balanced_accuracy", params={"groups": groups}
    )
    assert scores.shape == (2,) and scores.mean() > 0.8


def test_metadata_routing_hands_the_groups_on(sounds, features, monkeypatch):
    X, y, groups = sounds
    seen = []
    fit = EmotionClassifier.fit

    def record(self, X, y, groups=None):
        seen.append(groups)
        return fit(self, X, y, groups)

    class Recording(EmotionClassifier):
        pass

    Recording.fit = record
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = Recording("knn", features=features).set_fit_request(groups=True)
        cross_val_score(estimator, X, y, cv=GroupKFold(2), params={"groups": groups})
    assert len(seen) == 2
    assert set(seen[0]) | set(seen[1]) == {0, 1, 2, 3} and not set(seen[0]) & set(seen[1])


def test_grid_search_over_recipes_and_settings(sounds, features):
    X, y, _ = sounds
    grid = {"recipe": ["lda", "knn"], "settings": [None]}
    search = GridSearchCV(EmotionClassifier(features=features), grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_["recipe"] in ("lda", "knn")
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_paths_and_waveforms_are_the_same(sounds, features, tmp_path):
    X, y, _ = sounds
    paths = []
    for row, clip in enumerate(X):
        paths.append(tmp_path / f"{row}.wav")
        soundfile.write(paths[-1], clip, 16_000, subtype="PCM_16")
    from_paths, from_arrays = (
        EmotionClassifier("lda", features=features).fit(clips, y).predict_proba(clips)
        for clips in (list(map(str, paths)), np.array(X, dtype=object))
    )
    np.testing.assert_allclose(from_paths, from_arrays, atol=0.02)  # rounded to 16 bits once more or not


def test_speakers_kept_aside_are_whole(recipe):
    classifier = EmotionClassifier(recipe, dev_share=0.3)
    groups, target = np.repeat(np.arange(5), 6), np.tile(np.arange(3), 10)
    is_dev = classifier._draw_dev(target, groups)
    assert 0 < is_dev.sum() < 30 and not set(groups[is_dev]) & set(groups[~is_dev])
    alone = classifier._draw_dev(target, None)
    assert set(target[alone]) == set(target[~alone]) == {0, 1, 2}
    assert not EmotionClassifier(recipe, dev_share=0)._draw_dev(target, groups).any()


def test_the_same_seed_gives_the_same_network(sounds, recipe):
    X, y, _ = sounds
    one, two, other = (
        EmotionClassifier(recipe, epochs=1, seed=seed, accelerator="cpu").fit(X, y).decision_function(X[:4])
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_classes_that_were_not_heard(sounds, features):
    X, y, _ = sounds
    classifier = EmotionClassifier("lda", classes=["anger", "calm", "fear", "sadness"], features=features).fit(X, y)
    probs = classifier.predict_proba(X)
    assert classifier.classes_.tolist() == ["anger", "calm", "fear", "sadness"]
    assert probs.shape == (36, 4) and probs[:, 1].max() < probs[:, [0, 2, 3]].max(axis=1).min()


def test_what_cannot_be_fitted(sounds, features):
    X, y, _ = sounds
    classifier = EmotionClassifier("lda", features=features)
    for arguments, message in (
        ((X, y[:5]), "one label"),
        ((X, y, np.zeros(3)), "one group"),
        ((X[:4], ["anger"] * 4), "two classes"),
    ):
        with pytest.raises(EstimatorError, match=message):
            classifier.fit(*arguments)
    with pytest.raises(EstimatorError, match="'fear' is not among"):
        EmotionClassifier("lda", classes=["anger", "sadness"], features=features).fit(X, y)
    for clip in (np.zeros((2, 5)), np.zeros(0), np.array([0.0, np.nan])):
        with pytest.raises(EstimatorError, match="clip 0"):
            as_clips([clip])


def test_a_recipe_with_altered_copies(make_recipe, make_labelled):
    """Copies are of training clips alone, with their clip's label and speaker, and no clip is its own babble."""
    from undertone.lab.estimator import add_copies

    steps = {"slow": [{"kind": "stretch", "rate": 0.8}], "babble": [{"kind": "babble", "snr_db": 0}]}
    recipe = make_recipe(copies=[{"name": name, "steps": these} for name, these in steps.items()])
    train = make_labelled(4)
    more = add_copies(train, recipe)
    n = len(train)
    assert len(more) == 3 * n
    for column in ("target", "group", "speaker"):
        assert (getattr(more, column).reshape(3, n) == getattr(train, column)).all()
    assert more.waveforms.clips[:n] == train.waveforms.clips
    lengths = more.waveforms.n_samples.reshape(3, n)
    np.testing.assert_allclose(lengths[1], lengths[0] / 0.8, atol=1)
    assert (lengths[2] == lengths[0]).all()
    assert len(set(more.waveforms.digests)) == 3 * n
    assert add_copies(train, recipe).waveforms.digests == more.waveforms.digests
