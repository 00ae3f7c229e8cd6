"""The table of results: which evaluations it plans, what it keeps of them, and what its pages say."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab import results
from undertone.lab.recipes import Published, build_model, load_recipe
from undertone.lab.results import Job, is_finished, measure_speed, plan_jobs, run_job, write_pages

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]


def test_published_protocols_come_first_and_every_system_meets_new_speakers():
    jobs = [(job.recipe.name, job.protocol, job.folds) for job in plan_jobs(["dhavan-cnnlstm", "ragab-mel-cnn"])]
    assert jobs == [
        ("dhavan-cnnlstm", "crema-d-random", None),
        ("ragab-mel-cnn", "pooled-random", None),
        ("dhavan-cnnlstm", "crema-d-speaker", (0, 4)),
        ("dhavan-cnnlstm", "pooled-speaker", (0, 4)),
        ("ragab-mel-cnn", "pooled-speaker", (0, 4)),
    ]


def test_fewer_epochs_are_for_published_systems_on_new_speakers_only():
    jobs = plan_jobs(["ragab-mel-cnn", "undertone-studio"], unseen_share=0.4)
    epochs = {(job.recipe.name, job.protocol): job.recipe.training.epochs for job in jobs}
    own = jobs[0].recipe.training.epochs
    assert epochs["ragab-mel-cnn", "pooled-random"] == own
    assert epochs["ragab-mel-cnn", "pooled-speaker"] == round(0.4 * own) < own
    assert epochs["undertone-studio", "pooled-speaker"] == 60


def test_a_recipe_for_one_corpus_is_tested_on_it_alone():
    jobs = [(job.recipe.name, job.protocol, job.folds) for job in plan_jobs(["undertone-open"])]
    assert jobs == [("undertone-open", "crema-d-speaker", (0, 4))]


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*--*.json")), ids=lambda path: path.stem)
def test_what_is_published_was_measured_with_the_recipes_as_they_are(path):
    """A recipe that changes takes its rows with it: measure anew, or delete them."""
    row = json.loads(path.read_text(encoding="utf-8"))
    recipe = load_recipe(row["recipe"])
    longest = max(member.training.epochs for member in recipe.members or (recipe,))
    allowed = {recipe.hash} | {recipe.with_training(epochs=n).hash for n in range(1, longest + 1)}
    assert row["recipe_hash"] in allowed


def test_speed_counts_seconds_of_sound(quick_recipe):
    clips = [np.zeros(16_000, np.int16)] * 8
    before = torch.get_num_threads()
    assert measure_speed(build_model(quick_recipe, 3), clips) > 1
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def measured(ravdess_root, quick_recipe, tmp_path_factory):
    """A published system's two evaluations, on made-up clips: (folder of files, recipe)."""
    folder = tmp_path_factory.mktemp("table")
    published = Published("https://example.org/system", "ravdess-speaker", 0.9, note="Theirs is made up.")
    recipe = replace(quick_recipe, published=published)
    job = Job(recipe, "ravdess-speaker", (0, 1))
    assert not is_finished(folder / "runs", job)
    path = run_job(ravdess_root, job, folder / "runs", folder / "results", accelerator="cpu",
                   cache_dir=folder / "cache")  # fmt: skip
    assert is_finished(folder / "runs", job)
    return path, recipe


def test_a_row_keeps_what_was_measured(measured):
    path, recipe = measured
    row = json.loads(path.read_text())
    report = json.loads(next((path.parents[1] / "runs").rglob("report.json")).read_text())
    assert row["scores"]["uar"] == pytest.approx(report["scores"]["uar"])
    assert row["command"] == "undertone lab evaluate ravdess-speaker tiny --data ROOT --folds 0,1"
    assert (row["recipe_hash"], row["n_epochs"], row["leaks"]) == (recipe.hash, [1, 1], {})
    assert row["times_real_time"] > 0
    assert sorted(p.name for p in path.parent.glob("*.svg")) == [
        "tiny--ravdess-speaker-confusion.svg",
        "tiny--ravdess-speaker-learning.svg",
    ]


def test_pages_say_what_the_rows_say(measured, monkeypatch, tmp_path):
    path, recipe = measured
    row = json.loads(path.read_text())
    folder = tmp_path / "results"
    folder.mkdir()
    claimed = row["scores"] | {"war": 0.85}
    own = row | {"scores": claimed, "leaks": {"speaker": [64, 64], "copy": [60, 64]}, "banner": "This split leaks."}
    corpora = {name: {"uar": uar, "war": uar, "n_utterances": 9, "n_speakers": 2}
               for name, uar in (("ravdess", 0.4), ("crema-d", 0.2))}  # fmt: skip
    unseen = row | {
        "protocol": "pooled-speaker",
        "scores": row["scores"] | {"war": 0.35, "uar": 0.3},
        "corpora": corpora,
    }
    (folder / "tiny--ravdess-speaker.json").write_text(json.dumps(own))
    (folder / "tiny--pooled-speaker.json").write_text(json.dumps(unseen))
    ours = unseen | {"recipe": "ours", "scores": row["scores"] | {"uar": 0.6}}
    (folder / "ours--pooled-speaker.json").write_text(json.dumps(ours))
    recipes = {recipe.name: recipe, "ours": replace(recipe, name="ours", published=None)}
    monkeypatch.setattr(results, "load_recipe", lambda name: recipes[name])
    monkeypatch.setattr(results, "recipe_names", lambda: list(recipes))
    (folder / "corpora.json").write_text(json.dumps({"ravdess": [1440, 1440], "crema-d": [6540, 7442]}))
    write_pages(folder, tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "| [tiny](results/tiny.md) | 90.0 | 85.0 | 35.0 | 30.0 [" in page
    assert "| -50.0 | `pooled-speaker` |" in page
    assert "own `ours` has UAR 60.0; the best of the published systems there, `tiny`, 30.0 (RAVDESS" in page
    assert "30.0 (RAVDESS 40.0 and 40.0, CREMA-D 20.0 and 20.0)." in page
    assert "speakers: 100 % of test rows; copies of the clip: 94 % of test rows" in page
    assert "accuracy falls by 50 points" in page
    assert "The corpora were whole, but for CREMA-D, of which there were 6,540 of 7,442 clips." in page
    assert "these runs on new speakers had fewer epochs" not in page
    assert "Not measured yet" not in page
    assert "- `tiny`: -5.0 points, NOT reached. Theirs is made up." in page
    (folder / "ours--pooled-speaker.json").unlink()
    (folder / "tiny--pooled-speaker.json").write_text(json.dumps(unseen | {"recipe_hash": "of fewer epochs"}))
    write_pages(folder, tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "Not measured yet: under `pooled-speaker` `ours`." in page
    assert "1 of these runs on new speakers had fewer epochs" in page
    detail = (folder / "tiny.md").read_text()
    assert "undertone lab evaluate ravdess-speaker tiny" in detail
    assert "| anger |" in detail
    assert "This split leaks." in detail
    assert "(tiny--ravdess-speaker-learning.svg)" in detail
