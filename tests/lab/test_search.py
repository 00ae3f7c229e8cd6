"""Searches end to end on a made-up RAVDESS: nothing is chosen by the test, done twice, or pickled."""

# ruff: noqa: E402 - imports follow the check that the libraries are there
import csv
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
optuna = pytest.importorskip("optuna")
from typer.testing import CliRunner

from undertone.cli.commands import app
from undertone.lab import search
from undertone.lab.augment import AugmentConfig
from undertone.lab.evaluation import softmax, uar
from undertone.lab.recipes import load_recipe
from undertone.lab.search import (
    SPACE,
    SearchError,
    ZooConfig,
    command_of,
    export_winner,
    search_network,
    search_zoo,
    space_of,
    to_toml,
    with_values,
)
from undertone.model_file import read_card

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

PROTOCOL = "ravdess-speaker"
SECTION = '[features]\nkind = "functionals"\nparts = [{ kind = "mfcc", n_mfcc = 5, n_mels = 12 }]\n'
FOLDS = (0, 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "five.toml"
    path.write_text(SECTION)
    return ZooConfig(features=str(path), families=("lda", "knn"), n_trials=3, n_inner_folds=3)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def searched(ravdess_root, config, cache_dir, tmp_path_factory):
    """A search of two families on two folds: (run_dir, results)."""
    run_dir = tmp_path_factory.mktemp("search")
    return run_dir, search_zoo(ravdess_root, PROTOCOL, run_dir, config, folds=FOLDS, cache_dir=cache_dir)


# ---- the zoo ----


def test_both_numbers_and_which_of_them_leaks(searched):
    _, results = searched
    assert results["banner"] == ""
    assert results["scores"]["n_speakers"] == 8 and results["scores"]["n_utterances"] == 64
    assert "leaks" in results["random_split"]["banner"] and "100.0 %" in results["random_split"]["banner"]
    assert 0.125 < results["scores"]["uar"] <= 1  # classes differ in pitch
    assert 0.125 < results["random_split"]["uar"] <= 1
    assert all(not audit["leaks"] for audit in results["audits"].values())


def test_scores_are_those_of_the_winners_of_the_inner_folds(searched):
    run_dir, results = searched
    target, predicted = [], []
    for fold in FOLDS:
        files = {path.stem: json.loads(path.read_text()) for path in (run_dir / f"fold-{fold}").glob("*.json")}
        assert files.keys() == {"lda", "knn"}
        best = max(files, key=lambda name: files[name]["inner_uar"])
        assert results["winners"][str(fold)] == best
        probs = softmax(np.array(files[best]["test_logits"]), temperature=files[best]["temperature"])
        predicted.append(probs.argmax(axis=1))
        names = {"01": "neutral", "02": "calm", "03": "happiness", "04": "sadness", "05": "anger", "06": "fear",
                 "07": "disgust", "08": "surprise"}  # fmt: skip
        target.append([results["classes"].index(names[clip.split("-")[2]]) for clip in files[best]["test"]])
    own = uar(np.concatenate(target), np.concatenate(predicted), n_classes=8)
    assert results["scores"]["uar"] == pytest.approx(own)


def test_test_clips_decide_nothing(ravdess_root, make_ravdess, config, cache_dir, searched, tmp_path):
    """Other voices in the test part: the same families, settings and temperatures are chosen in that fold."""
    _, results = searched
    tested = {
        int(clip.split("-")[-1]) for clip in json.loads((searched[0] / "fold-0" / "lda.json").read_text())["test"]
    }
    root = make_ravdess(tmp_path / "data", seeds=dict.fromkeys(tested, 77))
    other = search_zoo(root, PROTOCOL, tmp_path / "run", config, folds=[0], cache_dir=tmp_path / "cache")
    for name in config.families:
        before, after = (json.loads((run / "fold-0" / f"{name}.json").read_text())
                         for run in (searched[0], tmp_path / "run"))  # fmt: skip
        assert {key: before[key] for key in ("settings", "trials", "temperature")} == {
            key: after[key] for key in ("settings", "trials", "temperature")
        }
        assert before["identity"] != after["identity"]  # the tested clips are others indeed
    assert other["winners"]["0"] == results["winners"]["0"]


def test_what_is_finished_is_read_back(ravdess_root, config, cache_dir, searched, tmp_path, monkeypatch):
    run_dir, results = searched
    monkeypatch.setattr(search, "search_family", lambda *_, **__: pytest.fail("searched again"))
    told = []
    again = search_zoo(ravdess_root, PROTOCOL, run_dir, config, folds=FOLDS, cache_dir=cache_dir,
                       on_family=lambda *values: told.append(values[:4]))  # fmt: skip
    assert again == results
    assert told == [(0, 1, 2, "lda"), (0, 2, 2, "knn"), (1, 1, 2, "lda"), (1, 2, 2, "knn")]
    with pytest.raises(SearchError, match="another folder"):
        search_zoo(ravdess_root, PROTOCOL, run_dir, replace(config, n_trials=2), folds=[0], cache_dir=cache_dir)


def test_tables(searched):
    run_dir, results = searched
    with (run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["family"]) for row in rows] == [("0", "lda"), ("0", "knn"), ("1", "lda"), ("1", "knn")]
    assert [row["family"] for row in rows if row["chosen"] == "True"] == list(results["winners"].values())
    assert json.loads(rows[0]["settings"]).keys() == {"shrinkage"}
    with (run_dir / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 4  # three settings, and the best once more on all speakers
    assert json.loads((run_dir / "results.json").read_text()) == json.loads(json.dumps(results))
    assert {path.suffix for path in run_dir.rglob("*") if path.is_file()} == {".json", ".csv"}


def test_what_cannot_be_searched(ravdess_root, config, tmp_path):
    with pytest.raises(SearchError, match="tests nothing"):
        search_zoo(ravdess_root, "shipped", tmp_path, config)
    with pytest.raises(SearchError, match="no search method"):
        replace(config, method="guess")
    with pytest.raises(ValueError, match="no family"):
        replace(config, families=("svn",))


def test_the_winner_as_a_file(ravdess_root, cache_dir, searched, tmp_path, monkeypatch):
    """Fitted on every speaker; the card has both numbers and a command that repeats the search."""
    _, results = searched
    card = export_winner(ravdess_root, results, tmp_path / "zoo.onnx", name="zoo", cache_dir=cache_dir)
    assert read_card(tmp_path / "zoo.onnx") == card
    assert card.labels == tuple(results["classes"]) and len(card.corpora[0].speakers) == 24
    assert card.recipe == f"zoo/{results['families'][0]['family']}"
    stored = card.scores[PROTOCOL]
    assert stored["uar"] == results["scores"]["uar"]
    assert stored["random_split"]["uar"] == results["random_split"]["uar"]
    assert stored["command"] == command_of(results)
    predicted = CliRunner().invoke(
        app, ["predict", str(next(ravdess_root.rglob("*.wav"))), "--model", str(tmp_path / "zoo.onnx"), "--json"]
    )
    assert predicted.exit_code == 0, predicted.output
    assert json.loads(predicted.stdout)[0]["emotion"] in card.labels


def test_command_line(ravdess_root, config, searched, cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERTONE_CACHE", str(cache_dir))
    arguments = ["lab", "search", "zoo", "--data", str(ravdess_root), "--features", config.features]
    arguments += ["--families", "lda", "--trials", "2", "--folds", "0", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"UAR [01]\.\d{3}.*  on 4 speakers it has not heard", result.output)
    assert re.search(r"UAR [01]\.\d{3}  WAR [01]\.\d{3}  the same winners on a random split: IT LEAKS", result.output)
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout)["winners"] == {"0": "lda"}
    for wrong, message in (
        (["zoo", "--epochs", "3"], "--epochs is for networks"),
        (["undertone-small", "--families", "lda"], "--families is for the zoo"),
        (["zoo", "--folds", "a"], "--folds takes numbers"),
    ):
        result = CliRunner().invoke(app, ["lab", "search", *wrong, "--data", str(ravdess_root)])
        assert result.exit_code == 2 and message in result.stderr


# ---- networks ----


@pytest.fixture(scope="module")
def recipe(make_recipe):
    return make_recipe(training={"epochs": 2, "batch_size": 32, "lr": 0.01})


@pytest.fixture(scope="module")
def tuned(ravdess_root, recipe, cache_dir, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("network")
    return run_dir, search_network(ravdess_root, PROTOCOL, recipe, run_dir, n_trials=3, accelerator="cpu",
                                   cache_dir=cache_dir)  # fmt: skip


def test_a_network_search_starts_from_the_recipe(tuned, recipe):
    run_dir, results = tuned
    assert len(results["trials"]) == 3 and results["trials"][0]["state"] == "complete"
    first = results["trials"][0]
    assert first["training.lr"] == pytest.approx(0.01) and first["training.batch_size"] == 32
    best = max(row["dev_uar"] for row in results["trials"] if row["state"] == "complete")
    assert results["best"]["dev_uar"] == best
    again = load_recipe(run_dir / "best.toml")
    assert again == with_values(recipe, results["best"]["values"])
    assert {path.name for path in run_dir.iterdir()} == {"journal.jsonl", "best.toml", "results.json", "trials.csv"}
    for line in (run_dir / "journal.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_network_search_goes_on(ravdess_root, recipe, tuned, cache_dir, monkeypatch):
    run_dir, results = tuned
    told = []
    more = search_network(ravdess_root, PROTOCOL, recipe, run_dir, n_trials=4, accelerator="cpu", cache_dir=cache_dir,
                          on_trial=lambda done, total, row: told.append((done, total)))  # fmt: skip
    assert told == [(4, 4)] and more["trials"][:3] == results["trials"]
    with pytest.raises(SearchError, match="another seed"):
        search_network(ravdess_root, PROTOCOL, recipe, run_dir, seed=5, cache_dir=cache_dir)


def test_a_network_search_sees_no_test_clip(ravdess_root, recipe, cache_dir, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        search.Dataset,
        "clips",
        lambda self, rows, classes, real=search.Dataset.clips: seen.append(rows) or real(self, rows, classes),
    )
    search_network(ravdess_root, PROTOCOL, recipe, tmp_path, n_trials=1, accelerator="cpu", cache_dir=cache_dir)
    material = search.load_dataset(ravdess_root, ["ravdess"], cache_dir=cache_dir)
    split = search.build_split(PROTOCOL, material.utterances, 0, digests=material.waveforms.digests)
    assert len(seen) == 2 and not set(np.concatenate(seen)) & set(split.test)


def test_a_protocol_without_dev_speakers(make_ravdess, recipe, tmp_path, ravdess_root, monkeypatch):
    split = search.build_split
    monkeypatch.setattr(search, "build_split", lambda *a, **k: replace(split(*a, **k), dev=np.zeros(0, np.int64)))
    with pytest.raises(SearchError, match="no dev part"):
        search_network(ravdess_root, PROTOCOL, recipe, tmp_path)


def test_the_space_follows_the_recipe(make_recipe):
    augmented = make_recipe()
    assert {dimension.path for dimension in space_of(augmented)} == {dimension.path for dimension in SPACE}
    plain = make_recipe(augment=asdict(AugmentConfig()))
    assert not [dimension for dimension in space_of(plain) if dimension.path.startswith("augment.")]


@pytest.mark.parametrize("name", ["undertone-street", "ragab-mel-cnn"])
def test_a_recipe_written_as_toml_is_read_back(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "again.toml").write_text(to_toml(recipe.to_json()))
    assert load_recipe(tmp_path / "again.toml") == recipe
