"""Ensembles: recipes with members, trained one after the other, whose answers are averaged, in one model file too."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab.evaluation import softmax
from undertone.lab.experiment import evaluate, load_dataset
from undertone.lab.export import export_run, load_run
from undertone.lab.feature_table import FeatureTableError, load_table_features
from undertone.lab.recipes import (
    Ensemble,
    RecipeError,
    build_model,
    load_recipe,
    n_parameters,
    networks_of,
    parse_recipe,
)
from undertone.lab.report import command_of
from undertone.lab.robustness import INT8, hear_conditions
from undertone.lab.search import SearchError, space_of
from undertone.lab.training import TrainingError, compute_logits, fit
from undertone.recognizer import load_model

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

CLASSES = ("anger", "happiness", "sadness")


@pytest.fixture(scope="module")
def members(make_recipe):
    """Two recipes that differ in front end, input and length of training."""
    first = make_recipe(name="first", training={"epochs": 1})
    second = make_recipe(name="second", features={"top_db": 50.0}, network={"centred": False}, training={"epochs": 2})
    return first, second


@pytest.fixture(scope="module")
def ensemble(members):
    return as_ensemble([member.to_json() for member in members])


def as_ensemble(members):
    return parse_recipe({"name": "pair", "description": "two of them", "members": members})


@pytest.fixture(scope="module")
def run(ensemble, ravdess_root, tmp_path_factory):
    """A fold of ravdess-speaker: (run_dir, report, dataset)."""
    folder, cache_dir = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("cache")
    report = evaluate(
        ravdess_root, "ravdess-speaker", ensemble, folder, folds=[1], accelerator="cpu", cache_dir=cache_dir
    )
    return folder, report, load_dataset(ravdess_root, cache_dir=cache_dir)


# ---- the recipe ----


def test_members_must_agree_on_what_they_hear(make_recipe):
    alone = make_recipe(name="alone").to_json()
    joined = make_recipe(name="joined", training={"choose": "last", "joins_dev": True}).to_json()
    with pytest.raises(RecipeError, match="must agree on joins_dev"):
        parse_recipe({"name": "both", "description": "", "members": [alone, joined]})
    coarse = make_recipe(name="coarse", training={"precision": "bf16"}).to_json()
    with pytest.raises(RecipeError, match="must agree on precision"):
        parse_recipe({"name": "both", "description": "", "members": [alone, coarse]})
    assert (
        parse_recipe({"name": "one", "description": "", "members": [coarse, coarse | {"name": "2"}]}).precision
        == "bf16"
    )


def test_the_shipped_one_has_two_members_and_keeps_its_limits():
    recipe = load_recipe("undertone-small")
    assert [member.name for member in recipe.members] == ["undertone-studio", "undertone-street"]
    model = build_model(recipe, 8)
    parts = [build_model(member, 8).network for member in recipe.members]
    assert n_parameters(networks_of(model)) == sum(map(n_parameters, parts)) < 2_000_000
    assert model.frame_hop_s == 0.064


def test_members_in_a_file_are_names(tmp_path):
    path = tmp_path / "pair.toml"
    path.write_text('name = "pair"\ndescription = ""\nmembers = ["undertone-street", "lstm"]\n')
    found = load_recipe(path)
    assert found.members == (load_recipe("undertone-street"), load_recipe("lstm"))
    again = parse_recipe(json.loads(json.dumps(found.to_json())))
    assert (again, again.hash) == (found, found.hash)


def test_the_hash_follows_the_members(ensemble, members):
    other = [members[0].to_json(), members[1].with_training(epochs=3).to_json()]
    assert as_ensemble(other).hash != ensemble.hash
    assert as_ensemble([member.to_json() for member in reversed(members)]).hash != ensemble.hash


def test_other_training_values_are_those_of_each_member(ensemble):
    assert [member.training.epochs for member in ensemble.with_training(epochs=7).members] == [7, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": "lstm"}, "at least two recipes"),
        ({"members": ["lstm"]}, "at least two recipes"),
        ({"members": ["lstm", 3]}, "at least two recipes"),
        ({"members": ["lstm", "lstm"]}, "names of their own, got lstm, lstm"),
        ({"members": ["lstm", "undertone-small"]}, "'undertone-small' is an ensemble itself"),
        ({"members": ["lstm", "shelleypi-cnn"]}, "cannot have members that train on altered copies"),
        ({"members": ["lstm", "loud"]}, "no recipe named 'loud'"),
        ({"training": {"epochs": 3}}, "'training' belongs to the members"),
    ],
)
def test_what_is_no_ensemble_says_so(changes, message):
    values = {"name": "pair", "description": "", "members": ["lstm", "gru"]} | changes
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values)


def test_what_asks_for_one_network_names_the_members():
    with pytest.raises(SearchError, match="one of its members: undertone-studio, undertone-street"):
        space_of(load_recipe("undertone-small"))
    with pytest.raises(FeatureTableError, match="one of its members: undertone-studio, undertone-street"):
        load_table_features("undertone-small")


# ---- the answer ----


def test_logits_are_averaged_and_embeddings_joined(ensemble):
    torch.manual_seed(0)
    model = build_model(ensemble, 3).eval()
    waveform, lengths = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    with torch.inference_mode():
        whole, parts = model(waveform, lengths), [member(waveform, lengths) for member in model.members]
    torch.testing.assert_close(whole.logits, (parts[0].logits + parts[1].logits) / 2)
    torch.testing.assert_close(whole.frame_logits, (parts[0].frame_logits + parts[1].frame_logits) / 2)
    assert torch.equal(whole.embedding, torch.cat([part.embedding for part in parts], dim=1))


def test_frames_at_other_times_are_left_out(make_recipe):
    fast = make_recipe(name="fast", features={"hop_length": 80})
    model = build_model(as_ensemble([make_recipe(name="slow").to_json(), fast.to_json()]), 3).eval()
    output = model(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert model.frame_hop_s is None and output.frame_logits is None


def test_frames_of_other_parts_of_the_clip_are_left_out(make_recipe):
    first, second = make_recipe(name="first"), make_recipe(name="second", input={"offset_s": 0.2})
    model = build_model(as_ensemble([first.to_json(), second.to_json()]), 3).eval()
    output = model(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert model.frame_hop_s is None and output.frame_logits is None


# ---- training ----


def test_members_are_trained_as_if_alone(ensemble, members, make_labelled, tmp_path):
    train, dev, told = make_labelled(6, seed=1), make_labelled(2, seed=2), []
    model, history = fit(
        ensemble, CLASSES, train, dev, tmp_path / "pair", seed=4, on_epoch=lambda *values: told.append(values[:2])
    )
    assert isinstance(model, Ensemble) and not model.training
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    for member, part in zip(members, model.members, strict=True):
        alone, _ = fit(member, CLASSES, train, dev, tmp_path / f"{member.name} alone", seed=4)
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), part.parameters(), strict=True))
    predicted = compute_logits(model, dev.waveforms).argmax(axis=1)
    recalls = [(predicted[dev.target == index] == index).mean() for index in range(3)]
    assert history.best_uar == pytest.approx(np.mean(recalls))


def test_a_stopped_one_goes_on_and_a_folder_of_another_is_refused(ensemble, make_labelled, tmp_path):
    train = make_labelled(4, seed=1)

    def stop(done, _n_epochs, _row):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ensemble, CLASSES, train, None, tmp_path / "parts", on_epoch=stop)
    done = []
    parts, _ = fit(ensemble, CLASSES, train, None, tmp_path / "parts", on_epoch=lambda n, *_: done.append(n))
    assert done == [3]
    whole, _ = fit(ensemble, CLASSES, train, None, tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))
    with pytest.raises(TrainingError, match="another recipe"):
        fit(ensemble.with_training(epochs=1), CLASSES, train, None, tmp_path / "parts")


# ---- from a run to a file ----


def test_the_report_counts_all_members(run, ensemble):
    _, report, _ = run
    assert report["n_parameters"] == n_parameters(networks_of(build_model(ensemble, 8)))
    assert len(report["per_fold"][0]["history"]) == 3
    assert "--epochs" not in command_of(report)
    shipped = {**report, "recipe": load_recipe("undertone-small").with_training(epochs=2).to_json()}
    assert "--epochs 2" in command_of(shipped)


@pytest.mark.parametrize("int8", [False, True])
def test_the_file_agrees_with_torch(run, int8, tmp_path):
    folder, _, dataset = run
    clips = dataset.waveforms.select(range(12))
    about = {"name": "pair", "description": "two of them"}
    card = export_run(folder / "fold-1", tmp_path / "pair.onnx", clips, merge_calm=True, int8=int8, **about)
    assert card.n_parameters >= n_parameters(networks_of(load_run(folder / "fold-1")[0]))
    assert [member["name"] for member in card.recipe_settings["members"]] == ["first", "second"]
    model, fold = load_run(folder / "fold-1")
    if not int8:
        logits = compute_logits(model, clips)
        probs = softmax(logits, temperature=fold["temperature"])
        prediction = load_model(tmp_path / "pair.onnx").predict_batch(
            [clip.astype(np.float32) / 32_768 for clip in clips.clips], sample_rate=16_000
        )
        anger = fold["classes"].index("anger")
        assert [row.probs["anger"] for row in prediction] == pytest.approx(probs[:, anger].tolist(), abs=1e-3)
    names = {row.name for row in _initializers(tmp_path / "pair.onnx")}
    assert any(name.startswith("model.members.1.network") and name.endswith(".int8") for name in names) is int8


def _initializers(path):
    import onnx

    return onnx.load(path).graph.initializer


def test_conditions_round_every_member(run):
    folder, _, dataset = run
    rounded = np.array(hear_conditions(folder / "fold-1", dataset)[INT8])
    fold = json.loads((folder / "fold-1" / "fold.json").read_text())
    difference = np.abs(rounded - np.array(fold["test_logits"]))
    assert 0 < difference.max() < 0.5
