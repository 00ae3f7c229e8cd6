"""Studies: variations of a recipe on speakers who are not tested, seed by seed, nothing trained twice."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab import study
from undertone.lab.evaluation import FOLDS, get_protocol
from undertone.lab.experiment import load_dataset
from undertone.lab.recipes import RecipeError, build_model
from undertone.lab.robustness import CONDITIONS, hear_altered
from undertone.lab.study import BASE, StudyError, build_study_split, run_study, run_trial, summarise_study, vary
from undertone.lab.training import TrainingError

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

PROTOCOL = "ravdess-speaker"
CLASSES = get_protocol(PROTOCOL).classes


@pytest.fixture(scope="module")
def dataset(ravdess_root, evaluated):
    return load_dataset(ravdess_root, cache_dir=evaluated[2])


def test_a_change_is_read_as_toml(quick_recipe):
    changed = vary(quick_recipe, "network.widths=[4, 6]; training.optimizer='adam'; normalise='band'")
    assert (changed.network["widths"], changed.training.optimizer, changed.normalise) == ([4, 6], "adam", "band")
    assert vary(quick_recipe, BASE) is quick_recipe
    assert vary(quick_recipe, "training.lr=0.02") == quick_recipe  # what it is already


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("training.lr", StudyError, "section.key=value"),
        ("training.lr=fast", StudyError, "section.key=value"),
        ("training.lr.peak=1", StudyError, "names no value"),
        ("training.rate=1", RecipeError, "unknown key 'rate'"),
        ("network.widths=3", RecipeError, "does not fit together"),
    ],
)
def test_a_change_that_cannot_be_made_says_why(quick_recipe, change, error, words):
    with pytest.raises(error, match=words):
        build_model(vary(quick_recipe, change), 8)


def test_dev_speakers_are_those_of_the_dev_folds_and_nobody_is_tested(dataset):
    split = build_study_split(dataset, PROTOCOL, [1, 4])
    speakers = [{dataset.utterances[row].speaker_id for row in part} for part in (split.train, split.dev)]
    assert speakers[1] == {*FOLDS["ravdess"][1], *FOLDS["ravdess"][4]}
    assert not speakers[0] & speakers[1] and len(speakers[0]) == 24 - len(speakers[1])
    assert not len(split.test)


def test_altered_copies_are_trained_on_and_never_scored(ravdess_root, make_recipe, dataset, tmp_path):
    copies = [{"name": "louder", "steps": [{"kind": "gain", "gain_db": 3}]}]
    with_copies = load_dataset(ravdess_root, ["ravdess"], recipe=make_recipe(copies=copies), cache_dir=tmp_path)
    split, plain = build_study_split(with_copies, PROTOCOL, [1]), build_study_split(dataset, PROTOCOL, [1])
    ids = [{data.utterances[row].utterance_id for row in part.dev}
           for data, part in ((with_copies, split), (dataset, plain))]  # fmt: skip
    assert ids[0] == ids[1] and len(split.dev) == len(plain.dev)
    assert len(split.train) == 2 * len(plain.train)


@pytest.mark.parametrize(("protocol", "folds"), [("crema-d-random", [0]), (PROTOCOL, [0, 1, 2, 3, 4, 5])])
def test_a_split_that_cannot_be_says_why(dataset, protocol, folds):
    with pytest.raises(StudyError):
        build_study_split(dataset, protocol, folds)


def test_a_trial_scores_the_last_weights_on_all_dev_clips(dataset, quick_recipe, tmp_path):
    result = run_trial(dataset, quick_recipe, PROTOCOL, [0], tmp_path, seed=3, accelerator="cpu")
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["n_clips"] == {"ravdess": 32} and result["n_train"] == 160
    assert 0 <= result["uar"]["ravdess"] <= 1
    assert result["mean_uar"] == result["uar"]["ravdess"]


def test_a_study_compares_seed_by_seed_and_goes_on(ravdess_root, quick_recipe, evaluated, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERTONE_CACHE", str(evaluated[2]))
    change = "training.lr=0.0001"
    arguments = {"protocol": PROTOCOL, "dev_folds": [0], "accelerator": "cpu"}
    told = []
    rows = run_study(ravdess_root, quick_recipe, [change], tmp_path, seeds=[0, 1], **arguments,
                     on_trial=lambda *values: told.append(values[:2]))  # fmt: skip
    assert sorted(told) == sorted((c, seed) for c in (BASE, change) for seed in (0, 1))
    assert [row["change"] for row in rows] == [BASE, change]
    assert (rows[0]["difference"], rows[0]["difference_deviation"]) == (0, 0)
    found = {(json.loads(path.read_text())["recipe_hash"], json.loads(path.read_text())["seed"]): json.loads(
        path.read_text())["mean_uar"] for path in tmp_path.glob("*/*/result.json")}  # fmt: skip
    hashes = [quick_recipe.hash, vary(quick_recipe, change).hash]
    differences = [found[hashes[1], seed] - found[hashes[0], seed] for seed in (0, 1)]
    assert rows[1]["difference"] == pytest.approx(np.mean(differences))
    assert rows[1]["difference_deviation"] == pytest.approx(np.std(differences, ddof=1))

    monkeypatch.setattr(study, "_run_trial_alone", None)  # nothing is left to train
    assert run_study(ravdess_root, quick_recipe, [change], tmp_path, seeds=[0, 1], **arguments) == rows
    with pytest.raises(StudyError, match="other dev folds"):
        run_study(ravdess_root, quick_recipe, [change], tmp_path, seeds=[0, 1], protocol=PROTOCOL, dev_folds=[2])
    path = next(tmp_path.glob("*/seed-1/result.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "of another day"}))
    with pytest.raises(StudyError, match="a study with other data"):
        run_study(ravdess_root, quick_recipe, [change], tmp_path, seeds=[0, 1], **arguments)


def test_one_that_fails_ends_the_study(ravdess_root, quick_recipe, evaluated, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERTONE_CACHE", str(evaluated[2]))
    with pytest.raises(TrainingError, match="the loss became"):
        run_study(ravdess_root, quick_recipe, ["training.lr=1e30", "training.lr=0.001"], tmp_path, seeds=[0],
                  protocol=PROTOCOL, dev_folds=[0], accelerator="cpu")  # fmt: skip
    done = {json.loads(path.read_text())["recipe_hash"] for path in tmp_path.glob("*/*/result.json")}
    assert done == {quick_recipe.hash}


def test_a_finished_training_is_asked_about_noise_and_not_repeated(dataset, quick_recipe, tmp_path, monkeypatch):
    before = run_trial(dataset, quick_recipe, PROTOCOL, [0], tmp_path, seed=3, accelerator="cpu")
    epochs, asked = [], []

    def hear(model, dataset, rows, babblers):
        asked.append((rows, babblers))
        logits = hear_altered(model, dataset, rows, babblers)
        return logits | {"telephone": np.eye(8)[[CLASSES.index(dataset.utterances[row].emotion) for row in rows]]}

    monkeypatch.setattr(study, "hear_altered", hear)
    result = run_trial(dataset, quick_recipe, PROTOCOL, [0], tmp_path, seed=3, conditions=True, accelerator="cpu",
                       on_epoch=lambda *values: epochs.append(values))  # fmt: skip
    assert not epochs
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert {key: value for key, value in result.items() if key != "lost"} == before
    assert list(result["lost"]) == list(CONDITIONS)
    assert result["lost"]["telephone"] == pytest.approx(before["mean_uar"] - 1)  # every answer was made right
    split = build_study_split(dataset, PROTOCOL, [0])
    assert asked == [(split.dev.tolist(), split.train.tolist())]


@pytest.mark.parametrize(("lost", "mean"), [([0.1, 0.3], {"telephone": 0.2}), ([0.1, None], {})])
def test_what_conditions_cost_is_the_mean_over_seeds_once_all_were_asked(lost, mean):
    results = [{"mean_uar": 0.5, "uar": {"ravdess": 0.5}, "n_parameters": 1, "train_war": 0.6, "training_seconds": 1.0}
               | ({} if value is None else {"lost": {"telephone": value}}) for value in lost]  # fmt: skip
    found = {(BASE, seed): result for seed, result in enumerate(results)}
    (row,) = summarise_study([BASE], [0, 1], found)
    assert row["lost"] == pytest.approx(mean)


PARENT = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from undertone.lab.study import _begin_process

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin_process) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_study_that_is_killed_leaves_no_training_behind(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    deadline = time.monotonic() + 30
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process):
    """Whether a process is there and no zombie that nobody has collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
