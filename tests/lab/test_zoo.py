"""The zoo's families, their search on unheard speakers, their vectors, and each as one model file."""

# ruff: noqa: E402 - imports follow the check that the libraries are there
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
from onnx import TensorProto, helper

from undertone.lab.evaluation import softmax
from undertone.lab.export import ExportError, to_onnx
from undertone.lab.export_classic import (
    VectorModel,
    compare_classifier,
    convert_pipeline,
    export_classic,
    has_probs,
    join_graphs,
)
from undertone.lab.zoo import (
    FAMILIES,
    FEATURE_SETS,
    Found,
    InnerFolds,
    ZooError,
    build_vector_features,
    compute_vectors,
    compute_zoo_logits,
    convergence_ignored,
    extract_vectors,
    feature_section,
    fit_family,
    get_family,
    search_family,
)
from undertone.model_file import TrainingCorpus, open_model, read_card
from undertone.onnx_reader import CLASSIC_OPERATORS, MAX_TREE_DEPTH, OnnxError, check_graph
from undertone.recognizer import load_model

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

N_CLASSES = 4
SECTION = {"kind": "functionals", "parts": [{"kind": "mfcc", "n_mfcc": 4, "n_mels": 12}], "statistics": ["mean", "std"]}
INSTALLED = [name for name, family in FAMILIES.items() if family.extra is None or find_spec("lightgbm")]
QUICK = {
    "n_estimators": 40,
    "max_iter": 60,
    "hidden_layer_sizes": (16,),
    "learning_rate_init": 0.01,
    "colsample_bytree": 1.0,
}  # smaller than the grids' own, for tests


@pytest.fixture(scope="module")
def labelled(make_labelled):
    return make_labelled(12, n_classes=N_CLASSES)


@pytest.fixture(scope="module")
def vectors(labelled):
    return compute_vectors(SECTION, labelled.waveforms)


@pytest.fixture(scope="module")
def clusters():
    """(vectors, target, speaker) of 96 clips: classes lie apart, and so do speakers, much further."""
    rng = np.random.default_rng(0)
    target, speaker = np.tile(np.arange(N_CLASSES), 24), np.repeat(np.arange(8), 12)
    centres, voices = 3 * rng.standard_normal((N_CLASSES, 6)), 3 * rng.standard_normal((8, 6))
    return (centres[target] + voices[speaker] + rng.standard_normal((96, 6))).astype(np.float32), target, speaker


def quick_settings(name):
    family = get_family(name)
    known = family.build(0).get_params()
    small = {key: value for key, value in QUICK.items() if key in known}
    return family.settings()[0] | small


def fit_quickly(name, vectors, target):
    with convergence_ignored():
        return fit_family(get_family(name), quick_settings(name), vectors, target)


# ---- families ----


@pytest.mark.parametrize("name", INSTALLED)
def test_every_value_of_a_grid_is_taken(name, clusters):
    family = get_family(name)
    assert family.n_settings == len(family.settings()) >= 2
    known = family.make(family.settings()[0]).get_params()
    for settings in family.settings():
        assert settings.keys() <= {key.removeprefix("classify__") for key in known}
        family.make(settings)


@pytest.mark.parametrize("name", INSTALLED)
def test_families_learn_and_are_balanced(name, clusters):
    """Classes of 40, 40, 40 and 6 clips: the rare one is found again, and the answers are the estimator's own."""
    rng = np.random.default_rng(1)
    target = np.repeat(np.arange(N_CLASSES), [40, 40, 40, 6])
    vectors = (6 * np.eye(N_CLASSES)[target] + rng.standard_normal((126, N_CLASSES))).astype(np.float32)
    pipeline = fit_quickly(name, vectors, target)
    logits = compute_zoo_logits(pipeline, vectors, N_CLASSES)
    predicted = logits.argmax(axis=1)
    if name != "knn":  # takes no weights: nine of 15 neighbours are of other classes
        assert (predicted[target == 3] == 3).mean() > 0.8
    assert (predicted == target).mean() > 0.9
    assert (predicted == pipeline.predict(vectors)).mean() > 0.98
    if has_probs(pipeline):
        np.testing.assert_allclose(softmax(logits), pipeline.predict_proba(vectors), atol=1e-4)


def test_a_class_without_training_clips_is_never_decided_for(clusters):
    vectors, target, _ = clusters
    kept = target != 1
    for name in ("svm-rbf", "lda"):
        logits = compute_zoo_logits(fit_quickly(name, vectors[kept], target[kept]), vectors, N_CLASSES)
        assert logits.shape == (96, N_CLASSES) and np.isfinite(logits).all()
        assert (logits.argmax(axis=1) != 1).all()


def test_unknown_names():
    with pytest.raises(ZooError, match="no family 'svn'"):
        get_family("svn")
    with pytest.raises(ZooError, match="no set of features"):
        feature_section("prosodie")
    with pytest.raises(ZooError, match="gives frames"):
        build_vector_features({"kind": "mfcc"})


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("undertone.lab.zoo.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ZooError, match=r"undertone\[boosting\]"):
        get_family("lightgbm").make({})


# ---- vectors ----


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_named_sets_give_one_vector_per_clip(name):
    if FEATURE_SETS[name]["kind"] == "opensmile":
        pytest.importorskip("opensmile")
    features = build_vector_features(feature_section(name))
    assert features.n_frames == 1 and len(set(features.names)) == features.n_features


def test_vectors_are_the_features_one_by_one_and_are_kept(labelled, vectors, tmp_path):
    features = build_vector_features(SECTION)
    clip = torch.from_numpy(labelled.waveforms.clips[5].astype(np.float32) / 32_768)[None]
    alone = features(clip, torch.tensor([clip.shape[1]]))[0][0, :, 0].numpy()
    np.testing.assert_allclose(vectors[5], alone, rtol=1e-4, atol=1e-3)
    first = extract_vectors(SECTION, labelled.waveforms, cache_dir=tmp_path)
    (stored,) = tmp_path.iterdir()
    np.save(stored, first + 1)  # what is read back is what is there
    assert np.array_equal(extract_vectors(SECTION, labelled.waveforms, cache_dir=tmp_path), first + 1)
    other = extract_vectors(SECTION, labelled.waveforms.select(range(10)), cache_dir=tmp_path)
    np.testing.assert_allclose(other, first[:10], rtol=1e-4, atol=1e-3)  # padded in other batches


def test_a_section_from_a_recipe_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[features]\nkind = "functionals"\nparts = [{ kind = "mfcc" }]\n')
    assert build_vector_features(feature_section(path)).n_features == 40
    path.write_text("[training]\n")
    with pytest.raises(ZooError, match=r"no \[features\]"):
        feature_section(path)


# ---- search ----


@pytest.fixture(scope="module")
def inner(clusters):
    return InnerFolds.deal(*clusters, N_CLASSES, n_folds=4, seed=0)


def test_inner_folds_share_no_speaker(inner):
    tested = np.concatenate([dev for _, dev in inner.folds])
    assert sorted(tested.tolist()) == list(range(96))
    for train, dev in inner.folds:
        assert not set(inner.speaker[train]) & set(inner.speaker[dev])
        for share in (1 / 9, 1 / 3):
            thin = inner._thin(train, share, 0)
            assert set(thin) < set(train) and 0 < len(set(inner.speaker[thin])) <= 3


def test_one_speaker_cannot_be_searched(clusters):
    vectors, target, _ = clusters
    with pytest.raises(ZooError, match="two training speakers"):
        InnerFolds.deal(vectors, target, np.zeros(96), N_CLASSES, n_folds=4, seed=0)


@pytest.mark.parametrize("method", ["grid", "random", "halving", "optuna"])
def test_search_finds_the_best_of_what_it_tried(inner, method):
    if method == "optuna":
        pytest.importorskip("optuna")
    family = get_family("lda")
    found = search_family(family, inner, method=method, n_trials=4)
    whole = [trial for trial in found.trials if trial.share == 1]
    assert found.uar == max(trial.uar for trial in whole)
    assert found.uar == inner.score(family, found.settings)
    assert len(found.trials) <= (6 if method == "halving" else 5 if method == "grid" else 4)
    assert isinstance(found, Found) and 0.25 < found.uar <= 1


def test_halving_gives_few_speakers_to_many_settings(inner):
    trials = search_family(get_family("svm-rbf"), inner, method="halving", n_trials=9).trials
    assert [trial.share for trial in trials] == [1 / 9] * 9 + [1 / 3] * 3 + [1.0]


def test_a_search_is_the_same_on_several_threads(inner):
    one, two = (search_family(get_family("sgd"), inner, method="random", n_trials=4, n_threads=n) for n in (1, 2))
    assert one == two


def test_shuffled_labels_score_chance(clusters):
    """Leakage test: with labels that mean nothing, speakers or clips that cross would still be remembered."""
    vectors, _, speaker = clusters
    reached = []
    for seed in range(4):
        target = np.random.default_rng(seed).permutation(np.tile(np.arange(N_CLASSES), 24))
        folds = InnerFolds.deal(vectors, target, speaker, N_CLASSES, n_folds=4, seed=seed)
        reached.append(folds.score(get_family("knn"), {"n_neighbors": 1, "p": 2}))
    assert abs(np.mean(reached) - 1 / N_CLASSES) < 0.08


def test_unseen_logits_do_not_come_from_an_estimator_that_heard_the_speaker(inner):
    family, settings = get_family("knn"), {"n_neighbors": 1, "p": 2}
    predicted = inner.unseen_logits(family, settings).argmax(axis=1)
    pipeline = fit_family(family, settings, inner.vectors, inner.target)
    heard = compute_zoo_logits(pipeline, inner.vectors, N_CLASSES).argmax(axis=1)
    assert (heard == inner.target).all()  # each clip is its own nearest neighbour
    assert 0.2 < (predicted == inner.target).mean() < 0.95


# ---- as a model file ----


@pytest.fixture(scope="module")
def front(labelled):
    return to_onnx(VectorModel(build_vector_features(SECTION)).eval())


@pytest.mark.parametrize("name", INSTALLED)
def test_every_family_becomes_a_graph_that_answers_alike(name, labelled, vectors, front, tmp_path):
    """On equal vectors to 1e-4 of a probability, and every operator is on the list of model files."""
    if name == "lightgbm" and not find_spec("onnxmltools"):
        pytest.skip("needs onnxmltools")
    import onnxruntime

    features = build_vector_features(SECTION)
    pipeline = fit_quickly(name, vectors, labelled.target)
    classifier = convert_pipeline(pipeline, features.n_features)
    assert compare_classifier(features, pipeline, classifier, labelled.waveforms, 1.0).max() < 1e-4
    joined = join_graphs(front, classifier, has_probs=has_probs(pipeline))
    assert check_graph(joined) == any(node.domain == "ai.onnx.ml" for node in onnx.load_from_string(joined).graph.node)
    session = onnxruntime.InferenceSession(joined)
    assert [(node.name, node.type) for node in session.get_inputs()] == [
        ("waveform", "tensor(float)"),
        ("lengths", "tensor(int64)"),
    ]
    waveform = np.zeros((2, 9000), np.float32)
    clip = labelled.waveforms.clips[0].astype(np.float32) / 32_768
    waveform[0, : len(clip)] = waveform[1, : len(clip)] = clip
    waveform[1, len(clip) :] = 0.5  # behind the length: ignored
    (logits,) = session.run(["logits"], {"waveform": waveform, "lengths": np.array([len(clip)] * 2)})
    assert np.array_equal(logits[0], logits[1])
    own = compute_zoo_logits(pipeline, vectors[:1], N_CLASSES)
    assert logits[0].argmax() == own[0].argmax()


@pytest.fixture(scope="module")
def exported(labelled, vectors, tmp_path_factory, front):
    """A file of the zoo: (path, card, pipeline)."""
    out = tmp_path_factory.mktemp("zoo") / "zoo.onnx"
    pipeline = fit_quickly("lda", vectors, labelled.target)
    corpora = [TrainingCorpus("ravdess", "CC BY-NC-SA 4.0", "https://example.org", 48, ("ravdess/01",))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("undertone.lab.export_classic.to_onnx", lambda _: front)  # takes seconds, and is the same
        card = export_classic(SECTION, "lda", {"shrinkage": 0.3}, pipeline, 1.5, out, labelled.waveforms,
                              labels=("anger", "fear", "neutral", "sadness"), corpora=corpora, name="zoo",
                              scores={"ravdess-speaker": {"uar": 0.5}})  # fmt: skip
    return out, card, pipeline


def test_a_file_of_the_zoo_is_a_model_file(exported, labelled, vectors):
    out, card, pipeline = exported
    assert read_card(out) == card
    assert card.parity < 1e-4 and card.recipe == "zoo/lda" and card.temperature == 1.5
    assert card.recipe_settings["features"] == SECTION and card.scores["ravdess-speaker"]["uar"] == 0.5
    assert card.n_parameters > 8 * N_CLASSES
    model = load_model(out)
    waveform = labelled.waveforms.clips[3].astype(np.float32) / 32_768
    prediction = model.predict(waveform, sample_rate=16_000)
    own = softmax(compute_zoo_logits(pipeline, vectors[3:4], N_CLASSES), temperature=1.5)[0]
    np.testing.assert_allclose([prediction.probs[label] for label in card.labels], own, atol=1e-4)


def test_nothing_is_written_when_the_file_would_differ(labelled, vectors, front, tmp_path, monkeypatch):
    monkeypatch.setattr("undertone.lab.export_classic.to_onnx", lambda _: front)
    pipeline = fit_quickly("logistic", vectors, labelled.target)
    other = fit_quickly("logistic", vectors, labelled.target[::-1].copy())
    wrong = convert_pipeline(other, vectors.shape[1])
    monkeypatch.setattr("undertone.lab.export_classic.convert_pipeline", lambda *_: wrong)
    arguments = {"labels": ("anger", "fear", "neutral", "sadness"), "corpora": [], "name": "x"}
    with pytest.raises(ExportError, match="differ by"):
        export_classic(SECTION, "logistic", {}, pipeline, 1.0, tmp_path / "x.onnx", labelled.waveforms, **arguments)
    with pytest.raises(ExportError, match="no clips"):
        export_classic(SECTION, "logistic", {}, pipeline, 1.0, tmp_path / "x.onnx", labelled.waveforms.select([]),
                       **arguments)  # fmt: skip
    with pytest.raises(ExportError, match="4 classes, and there are 2 labels"):
        export_classic(SECTION, "logistic", {}, pipeline, 1.0, tmp_path / "x.onnx", labelled.waveforms,
                       **arguments | {"labels": ("anger", "fear")})  # fmt: skip
    assert not list(tmp_path.iterdir())


# ---- what a classic file may hold ----

TREE = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "class_treeids": [0, 0],
    "class_nodeids": [1, 2],
    "class_ids": [0, 1],
    "class_weights": [1.0, 1.0],
    "classlabels_int64s": [0, 1],
}


def graph_of(op_type, **attributes):
    node = helper.make_node(op_type, ["x"], ["label", "y"], domain="ai.onnx.ml", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    answers = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(helper.make_graph([node], "graph", [given], answers), ir_version=9)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model.SerializeToString()


def chain_of(depth):
    """A tree that is one long branch: each of ``depth`` inner nodes has a leaf and the next one."""
    n = 2 * depth + 1
    true = [row + 1 if row < depth - 1 else n - 1 for row in range(depth)]
    return TREE | {
        "nodes_treeids": [0] * n,
        "nodes_nodeids": list(range(n)),
        "nodes_featureids": [0] * n,
        "nodes_modes": ["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
        "nodes_values": [0.0] * n,
        "nodes_truenodeids": true + [0] * (depth + 1),
        "nodes_falsenodeids": list(range(depth, 2 * depth)) + [0] * (depth + 1),
    }


@pytest.mark.parametrize("op_type", ["ZipMap", "LabelEncoder", "DictVectorizer", "CastMap", "TreeEnsemble", "Imputer"])
def test_other_operators_of_the_domain_stay_refused(op_type):
    assert op_type not in CLASSIC_OPERATORS
    with pytest.raises(OnnxError, match=f"'ai.onnx.ml:{op_type}'"):
        check_graph(graph_of(op_type))


def test_trees_are_admitted_up_to_a_depth():
    assert check_graph(graph_of("TreeEnsembleClassifier", **TREE))
    assert check_graph(graph_of("TreeEnsembleClassifier", **chain_of(MAX_TREE_DEPTH - 1)))
    with pytest.raises(OnnxError, match="deeper than"):
        check_graph(graph_of("TreeEnsembleClassifier", **chain_of(MAX_TREE_DEPTH + 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_truenodeids": [0, 0, 0]}, "no trees"),  # a circle
        ({"nodes_truenodeids": [2, 0, 0]}, "no trees"),  # one node below twice
        ({"nodes_truenodeids": [9, 0, 0]}, "no trees"),  # below a node that is not there
        ({"nodes_nodeids": [0, 1, 1]}, "no trees"),
        ({"nodes_truenodeids": [1, 0]}, "different lengths"),
        ({"nodes_modes": ["LEAF"]}, "different lengths"),
    ],
)
def test_tables_that_are_no_trees(changes, message):
    with pytest.raises(OnnxError, match=message):
        check_graph(graph_of("TreeEnsembleClassifier", **TREE | changes))


def test_trees_cannot_be_hidden():
    hidden = {
        key: value for key, value in chain_of(20_000).items() if key not in ("nodes_treeids", "nodes_truenodeids")
    }
    with pytest.raises(OnnxError, match="different lengths"):
        check_graph(graph_of("TreeEnsembleClassifier", **hidden))
    model = onnx.load_from_string(graph_of("TreeEnsembleClassifier", **TREE))
    model.graph.node[0].attribute.append(helper.make_attribute("nodes_treeids", [0]))
    with pytest.raises(OnnxError, match="twice"):
        check_graph(model.SerializeToString())


def test_an_older_runtime_is_not_trusted_with_tables(exported, monkeypatch):
    import onnxruntime

    if not check_graph(Path(exported[0]).read_bytes()):
        pytest.skip("the file holds no classic operator")
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(ValueError, match=r"update it: pip install -U 'onnxruntime>=1\.28'"):
        open_model(exported[0])
