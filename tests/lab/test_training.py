"""``fit()``: it learns, it can be killed at any moment, and it cannot learn what is not there."""

# ruff: noqa: E402 - imports follow the check that torch is there
import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open
from safetensors.torch import load_file

from undertone.lab import batches, training
from undertone.lab.evaluation import uar
from undertone.lab.recipes import Published, build_model
from undertone.lab.training import (
    CHECKPOINT,
    LabelledClips,
    TrainingError,
    compute_logits,
    fit,
    make_fabric,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

CLASSES = ("anger", "happiness", "sadness")


class Interrupted(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(scope="module")
def train(make_labelled):
    return make_labelled(14, seed=1)


@pytest.fixture(scope="module")
def dev(make_labelled):
    return make_labelled(4, seed=2)


@pytest.fixture(scope="module")
def finished(make_recipe, train, dev, tmp_path_factory):
    """A run that was never interrupted: (run_dir, model, history)."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    return run_dir, *fit(make_recipe(), CLASSES, train, dev, run_dir, seed=3)


def take(clips, rows):
    return LabelledClips(
        clips.waveforms.select(rows),
        **{column: getattr(clips, column)[rows] for column in ("target", "group", "speaker", "allowed")},
    )


def measure_uar(model, clips):
    predicted = compute_logits(model, clips.waveforms).argmax(axis=1)
    return uar(clips.target, predicted, n_classes=len(CLASSES))


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def stop_after(epoch):
    def on_epoch(done, _n_epochs, _row):
        if done == epoch:
            raise Interrupted

    return on_epoch


# ---- learning ----


def test_learns_what_is_there(make_recipe, train, dev, tmp_path):
    model, history = fit(make_recipe(training={"epochs": 6}), CLASSES, train, dev, tmp_path)
    assert len(history.rows) == 6
    assert history.rows[-1]["train_loss"] < 0.8 * history.rows[0]["train_loss"]
    assert measure_uar(model, train) > 0.8
    assert measure_uar(model, dev) > 0.7
    assert not model.training


def test_shuffled_labels_give_chance_on_held_out_clips(make_recipe, make_labelled, tmp_path):
    """Each class's sounds carry every label equally often, so that a sound says nothing about its label."""

    def shuffled(n_per_class, seed):
        clips = make_labelled(n_per_class, seed)
        return replace(clips, target=np.arange(len(clips)) % len(CLASSES))

    train, held_out = shuffled(15, seed=1), shuffled(36, seed=2)
    model, _ = fit(make_recipe(training={"epochs": 6}), CLASSES, train, None, tmp_path)
    assert measure_uar(model, held_out) == pytest.approx(1 / 3, abs=0.15)  # about three standard deviations


def test_bf16_runs_and_keeps_its_weights_in_float32(make_recipe, train, dev, tmp_path):
    recipe = make_recipe(training={"precision": "bf16", "epochs": 4})
    model, history = fit(recipe, CLASSES, train, dev, tmp_path)
    assert all(np.isfinite(row["train_loss"]) for row in history.rows)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert measure_uar(model, train) > 0.6


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(TrainingError, match=r"precision must be .*32, bf16, got '16'"):
        make_fabric(precision="16")


@pytest.mark.parametrize("n_per_class", [3, 11])
def test_a_last_batch_of_one_clip_is_no_problem(n_per_class, make_recipe, make_labelled, tmp_path):
    """Batch norm has no variance of a single clip."""
    train = make_labelled(n_per_class)
    recipe = make_recipe(training={"batch_size": len(train) - 1, "epochs": 1})
    _, history = fit(recipe, CLASSES, train, None, tmp_path)
    assert np.isfinite(history.rows[0]["train_loss"])


def test_long_clips_are_cropped(make_recipe, train, monkeypatch, tmp_path):
    lengths, pad = [], batches.pad_batch
    monkeypatch.setattr(batches, "pad_batch", lambda rows: lengths.extend(map(len, rows)) or pad(rows))
    fit(make_recipe(training={"max_clip_s": 0.3, "epochs": 1}), CLASSES, train, None, tmp_path)
    assert len(lengths) == len(train)
    assert max(lengths) == 4_800
    assert min(lengths) < 4_800


# ---- the choice on dev ----


def test_the_epoch_is_chosen_by_dev_uar_among_the_second_half(make_recipe, train, dev, monkeypatch, tmp_path):
    """Scripted scores: the first epoch would be the best, but the choice begins at half; of equals the last counts."""
    script = iter([0.9, 0.4, 0.6, 0.6, 0.5, 0.1])
    averages = []
    monkeypatch.setattr(training, "_score_dev", lambda *_: {"dev_loss": 1.0, "dev_uar": next(script)})

    def on_epoch(*_):
        stored = load_file(tmp_path / CHECKPOINT)
        averages.append({n.removeprefix("average/"): v for n, v in stored.items() if n.startswith("average/")})

    recipe = make_recipe(training={"epochs": 6})
    model, history = fit(recipe, CLASSES, train, dev, tmp_path, on_epoch=on_epoch)
    assert (history.best_epoch, history.best_uar) == (4, 0.6)
    assert_same_weights(model.network.state_dict(), averages[3])
    assert not torch.equal(averages[3]["classify.1.weight"], averages[5]["classify.1.weight"])


def test_without_dev_the_last_epoch_counts(make_recipe, train, tmp_path):
    model, history = fit(make_recipe(), CLASSES, train, None, tmp_path)
    assert history.best_epoch == 3
    assert "dev_uar" not in history.rows[0]
    stored = load_file(tmp_path / CHECKPOINT)
    average = {n.removeprefix("average/"): v for n, v in stored.items() if n.startswith("average/")}
    assert_same_weights(model.network.state_dict(), average)


def test_the_logged_dev_uar_is_that_of_the_returned_weights(finished, dev):
    _, model, history = finished
    assert history.best_uar == max(row["dev_uar"] for row in history.rows[1:])
    assert measure_uar(model, dev) == pytest.approx(history.best_uar)
    assert history.rows[history.best_epoch - 1]["dev_uar"] == history.best_uar


def test_dev_uar_is_the_mean_over_corpora(make_recipe, dev):
    """A large corpus must not choose for all."""
    torch.manual_seed(0)
    model = build_model(make_recipe(), len(CLASSES)).eval()
    rows = np.r_[np.arange(len(dev)), 0, 4, 8]  # a second corpus of one clip a class
    both = replace(take(dev, rows), group=np.repeat([0, 3], [len(dev), 3]))
    predicted = compute_logits(model, both.waveforms).argmax(axis=1)
    each = [uar(both.target[g], predicted[g], n_classes=3) for g in (both.group == 0, both.group == 3)]
    assert training._score_dev(model, both, None)["dev_uar"] == pytest.approx(np.mean(each))


# ---- interruption ----


def test_interrupted_after_each_epoch_ends_with_the_same_weights(finished, make_recipe, train, dev, tmp_path):
    for epoch in (1, 2):
        with pytest.raises(Interrupted):
            fit(make_recipe(), CLASSES, train, dev, tmp_path, seed=3, on_epoch=stop_after(epoch))
    model, history = fit(make_recipe(), CLASSES, train, dev, tmp_path, seed=3)
    assert_same_run(finished, tmp_path, model, history)


KILLED = """
import json, os, pickle, signal, sys
from pathlib import Path
import torch
from undertone.lab import batches, training
from undertone.lab.recipes import parse_recipe

torch.set_num_threads(1)
run_dir, where, recipe, clips = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
epochs_done = 0

def count(done, *_):
    global epochs_done
    epochs_done = done

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "in the middle of epoch 2":
    loss, calls = training._loss, []
    def dies_soon(*arguments):
        if epochs_done == 1:
            calls.append(1)
            if len(calls) == 3:
                die()
        return loss(*arguments)
    training._loss = dies_soon
else:
    write = training.write_file
    def half_written(path, content):
        if path.name == training.CHECKPOINT:
            path.with_name(f".{path.name}.part").write_bytes(content[: len(content) // 2])
            die()
        write(path, content)
    training.write_file = half_written

train, dev = pickle.loads(Path(clips).read_bytes())
training.fit(parse_recipe(json.loads(recipe)), ("anger", "happiness", "sadness"), train, dev, run_dir, seed=3,
             on_epoch=count)
"""


@pytest.mark.slow
def test_killed_for_real_ends_with_the_same_weights(finished, make_recipe, train, dev, tmp_path):
    """SIGKILL in the middle of an epoch, then while the checkpoint is being written, then to the end."""
    import pickle  # our own clips, between two processes of ours

    recipe, run_dir, clips = make_recipe(), tmp_path / "run", tmp_path / "clips"
    clips.write_bytes(pickle.dumps((train, dev)))
    for where in ("in the middle of epoch 2", "while the checkpoint is written"):
        command = [sys.executable, "-c", KILLED, run_dir, where, json.dumps(recipe.to_json()), clips]
        child = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert child.returncode == -signal.SIGKILL, child.stderr
        with safe_open(run_dir / CHECKPOINT, "pt") as file:
            assert len(json.loads(file.metadata()["state"])["history"]["rows"]) == 1, where
    model, history = fit(recipe, CLASSES, train, dev, run_dir, seed=3)
    assert_same_run(finished, run_dir, model, history)


def test_network_of_the_shipped_width_resumes_bit_by_bit(train, tmp_path):
    """Its convolutions use vector instructions that the tiny ones are too narrow for."""
    from undertone.lab.recipes import load_recipe

    recipe = load_recipe("undertone-street").with_training(epochs=2, batch_size=8)
    short = take(train, np.arange(0, 42, 2))
    whole, _ = fit(recipe, CLASSES, short, None, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(recipe, CLASSES, short, None, tmp_path / "parts", on_epoch=stop_after(1))
    parts, _ = fit(recipe, CLASSES, short, None, tmp_path / "parts")
    assert_same_weights(whole.state_dict(), parts.state_dict())


def assert_same_run(finished, run_dir, model, history):
    whole_dir, whole_model, whole_history = finished
    assert_same_weights(whole_model.state_dict(), model.state_dict())
    assert_same_weights(load_file(whole_dir / CHECKPOINT), load_file(run_dir / CHECKPOINT))
    assert (history.best_epoch, history.best_uar) == (whole_history.best_epoch, whole_history.best_uar)
    for ours, theirs in zip(history.rows, whole_history.rows, strict=True):
        measured = ours.keys() - {"seconds", "clips_per_second"}
        assert {key: ours[key] for key in measured} == {key: theirs[key] for key in measured}
    assert not [path.name for path in run_dir.iterdir() if path.name.startswith(".log")]


def test_a_finished_run_is_read_back_and_not_trained_again(finished, make_recipe, train, dev):
    run_dir, model, history = finished
    before = (run_dir / CHECKPOINT).stat().st_mtime_ns
    again, read = fit(make_recipe(), CLASSES, train, dev, run_dir, seed=3, on_epoch=stop_after(3))
    assert_same_weights(model.state_dict(), again.state_dict())
    assert (read.rows, read.best_epoch) == (history.rows, history.best_epoch)
    assert (run_dir / CHECKPOINT).stat().st_mtime_ns == before


def test_a_folder_that_another_process_trains_in_is_refused(make_recipe, train, dev, tmp_path):
    def meddle(done, _n_epochs, _row):
        if done == 1:
            with pytest.raises(TrainingError, match="another process is training in"):
                fit(make_recipe(), CLASSES, train, dev, tmp_path, seed=3)

    fit(make_recipe(), CLASSES, train, dev, tmp_path, seed=3, on_epoch=meddle)


@pytest.mark.parametrize("schedule", ["constant", "plateau", "one-cycle"])
def test_the_average_of_the_weights_begins_short_and_lengthens(schedule, make_recipe, train, tmp_path, monkeypatch):
    """Whatever the schedule: the decay begins at 2 / 11 and comes to what the recipe says."""
    decays, average = [], training._average_weights
    monkeypatch.setattr(
        training, "_average_weights", lambda a, b, decay: (decays.append(decay), average(a, b, decay))
    )  # fmt: skip
    fit(make_recipe(training={"ema": 0.5, "schedule": schedule}), CLASSES, train, None, tmp_path)
    assert decays[:3] == pytest.approx([2 / 11, 3 / 12, 4 / 13])
    assert decays[-1] == 0.5


def test_another_seed_gives_other_weights(finished, make_recipe, train, dev, tmp_path):
    other, _ = fit(make_recipe(), CLASSES, train, dev, tmp_path, seed=4)
    ours, theirs = (model.network.classify[1].weight for model in (finished[1], other))
    assert not torch.equal(ours, theirs)


# ---- the run folder ----


@pytest.mark.parametrize("what", ["recipe", "seed", "classes", "labels", "clips", "dev"])
def test_a_run_folder_of_something_else_is_refused(what, finished, make_recipe, make_labelled, train, dev):
    arguments = {"recipe": make_recipe(), "classes": CLASSES, "train": train, "dev": dev, "seed": 3}
    arguments |= {
        "recipe": {"recipe": make_recipe(training={"lr": 0.01})},
        "seed": {"seed": 4},
        "classes": {"classes": CLASSES[::-1]},
        "labels": {"train": replace(train, target=train.target[::-1])},
        "clips": {"train": make_labelled(14, seed=9)},
        "dev": {"dev": None},
    }[what]
    run_dir, seed = finished[0], arguments.pop("seed")
    before = {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    with pytest.raises(TrainingError, match="another recipe, other data or another seed"):
        fit(*arguments.values(), run_dir, seed=seed)
    assert {path: path.stat().st_mtime_ns for path in run_dir.iterdir()} == before


def test_a_corrected_note_goes_on_with_the_run(finished, make_recipe, train, dev):
    run_dir, _, history = finished
    config = (run_dir / "config.json").read_bytes()
    recipe = replace(make_recipe(), published=Published("a paper", "pooled-random", note="said better"))
    _, read = fit(recipe, CLASSES, train, dev, run_dir, seed=3)
    assert read.rows == history.rows
    assert (run_dir / "config.json").read_bytes() == config


def test_log_and_tensorboard_hold_every_epoch(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir, _, history = finished
    with (run_dir / "log.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history.rows
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"train_loss", "dev_loss", "dev_uar", "lr", "clips_per_second"} <= rows[0].keys()
    events = []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        board = EventAccumulator(str(path)).Reload()
        events += [(event.step, event.value) for event in board.Scalars("dev_uar")]
    assert [step for step, _ in sorted(events)] == [1, 2, 3]
    assert [value for _, value in sorted(events)] == pytest.approx([row["dev_uar"] for row in rows])


def test_config_says_what_was_trained(finished, make_recipe):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["recipe_hash"] == make_recipe().hash
    assert (config["classes"], config["seed"], config["train_clips"]) == (list(CLASSES), 3, 42)


def test_a_log_cut_off_by_a_kill_is_complete_in_the_end(make_recipe, train, monkeypatch, tmp_path):
    """Killed in the last epoch, between the two files that say that it is over."""
    write_log, epochs = training._write_log, []

    def dies_in_the_end(run_dir, history):
        if len(history.rows) == 2 and not epochs:
            epochs.append(1)
            raise Interrupted
        write_log(run_dir, history)

    monkeypatch.setattr(training, "_write_log", dies_in_the_end)
    recipe = make_recipe(training={"epochs": 2})
    with pytest.raises(Interrupted):
        fit(recipe, CLASSES, train, None, tmp_path)
    fit(recipe, CLASSES, train, None, tmp_path)
    with (tmp_path / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


# ---- logits, targets and weights ----


def test_logits_come_in_the_order_of_the_clips(finished, train):
    model = finished[1]
    together = compute_logits(model, train.waveforms, batch_size=7)
    alone = np.concatenate([compute_logits(model, train.waveforms.select([row])) for row in range(len(train))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_smoothed_targets_stay_among_the_allowed_classes(make_labelled):
    clips = make_labelled(2)
    allowed = clips.allowed.copy()
    allowed[:2, 2] = False  # the first class's clips come from a corpus without the third
    target = batches.soft_target(replace(clips, allowed=allowed), np.array([0, 5]), smoothing=0.3)
    np.testing.assert_allclose(target, [[0.85, 0.15, 0.0], [0.1, 0.1, 0.8]], rtol=1e-6)


def test_classes_that_a_corpus_does_not_tell_apart_get_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    output = type("Output", (), {"logits": logits, "frame_vote": None})
    allowed = torch.tensor([[True, True, False]])
    training._loss(output, torch.tensor([[1.0, 0, 0]]), torch.ones(1), allowed, 0.3).backward()
    assert logits.grad.tolist() == [[-0.5, 0.5, 0.0]]


def test_class_balance_weighs_classes_equally_inside_each_corpus(make_labelled):
    clips = make_labelled(4)  # 12 clips, four a class
    clips = replace(clips, target=np.array([0] * 6 + [1] * 2 + [0] * 1 + [2] * 3), group=np.repeat([0, 1], [8, 4]))
    weight = batches.loss_weights(clips, balance=1.0)
    np.testing.assert_allclose(weight, [2 / 3] * 6 + [2] * 2 + [2] + [2 / 3] * 3, rtol=1e-6)
    assert (batches.loss_weights(clips, balance=0.0) == 1).all()


def test_corpus_balance_draws_from_corpora_by_the_root_of_their_voices(make_labelled, rng):
    clips = replace(
        take(make_labelled(2), np.zeros(100, int)),
        group=np.repeat([0, 2], [90, 10]),
        speaker=np.r_[np.arange(90) % 16, 16 + np.arange(10) % 4],
    )
    assert sorted(batches._draw_rows(clips, 0.0, rng)) == list(range(100))
    balanced = batches._draw_rows(clips, 1.0, rng)
    assert np.bincount(clips.group[balanced]).tolist() == [67, 0, 33]  # sixteen voices to four: two to one
    counts = np.bincount(balanced, minlength=100)
    assert counts[:90].max() == 1
    assert set(counts[90:]) == {3, 4}


def test_columns_of_different_length_are_refused(make_labelled):
    clips = make_labelled(2)
    with pytest.raises(TrainingError, match=r"6 clips, .*5"):
        replace(clips, target=clips.target[:5])


def test_a_loss_that_is_no_number_stops_with_what_to_do(make_recipe, make_labelled, train, tmp_path):
    recipe = make_recipe(training={"lr": 1e30, "warmup": 0.01})
    with pytest.raises(TrainingError, match="lower lr, now 1e\\+30"):
        fit(recipe, CLASSES, train, None, tmp_path / "run")


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 4])
def test_a_rise_of_a_single_step_is_no_division_by_zero(n_epochs, make_recipe, make_labelled, tmp_path):
    recipe = make_recipe(training={"epochs": n_epochs, "warmup": 0.2, "batch_size": 64})
    fit(recipe, CLASSES, make_labelled(2), None, tmp_path / "run")


# ---- several devices ----

TWO_PROCESSES = """
import json, pickle, sys
from pathlib import Path
import torch
from undertone.lab.recipes import parse_recipe
from undertone.lab.training import fit, make_fabric

torch.set_num_threads(1)
train, dev = pickle.loads(Path(sys.argv[2]).read_bytes())
fabric = make_fabric(accelerator="cpu", devices=2)
model, history = fit(parse_recipe(json.loads(sys.argv[3])), ("anger", "happiness", "sadness"), train, dev,
                     Path(sys.argv[1]), fabric=fabric)
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
Path(sys.argv[1], f"rank-{fabric.global_rank}.json").write_text(json.dumps([len(history.rows), weights.tolist()]))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(make_recipe, train, dev, tmp_path):
    """42 clips in batches of 8 are six, with a last one of two; in batches of 10 they are five, an odd number."""
    import pickle

    recipe = make_recipe(training={"batch_size": 10})
    clips, script, run_dir = tmp_path / "clips", tmp_path / "script.py", tmp_path / "run"
    clips.write_bytes(pickle.dumps((train, dev)))
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, script, run_dir, clips, json.dumps(recipe.to_json())]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = child.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        pytest.fail("the two processes wait for each other")
    assert child.returncode == 0, errors
    first, second = (json.loads(Path(run_dir, f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first[0] == 3


def test_tiny_numbers_are_zero_in_training_and_numbers_again_behind_it(train, make_recipe, tmp_path):
    tiny, seen = torch.tensor([1e-39]), []
    recipe = make_recipe(training={"epochs": 1})
    fit(recipe, CLASSES, train, None, tmp_path, on_epoch=lambda *_: seen.append(float(tiny * 1)))
    assert seen == [0.0]
    assert float(tiny * 1) > 0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="without glibc nothing is done")
def test_training_keeps_the_memory_of_a_batch_for_the_next(train, make_recipe, tmp_path):
    class Counts(ctypes.Structure):  # of mallinfo2(3); hblks: blocks that the system gave one by one
        _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"123456")]

    def count_mapped(n_bytes: int) -> None:
        before = libc.mallinfo2().hblks
        large = torch.empty(n_bytes, dtype=torch.uint8)
        mapped.append(libc.mallinfo2().hblks - before)
        del large

    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Counts
    mapped: list[int] = []
    fit(make_recipe(training={"epochs": 1}), CLASSES, train, None, tmp_path,
        on_epoch=lambda *_: count_mapped(2**26))  # fmt: skip
    count_mapped(2**30)  # more than the first can have left
    assert mapped == [0, 1]
