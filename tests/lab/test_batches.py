"""Features computed once, fitted standardisation, optimizers, schedules and the choice of an epoch."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import os
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open
from sklearn.preprocessing import StandardScaler

from undertone.lab import batches, training
from undertone.lab.batches import FeatureStore, is_fixed
from undertone.lab.data import pad_batch, to_float
from undertone.lab.recipes import TrainingConfig, build_model, parse_recipe
from undertone.lab.training import CHECKPOINT, History, compute_logits, fit

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

CLASSES = ("anger", "happiness", "sadness")
FIXED = {
    "name": "fixed",
    "description": "an image of fixed size, standardised by the training clips",
    "normalise": "fitted",
    "input": {"sample_rate": 22_050, "pad_s": 0.5},
    "features": {
        "kind": "fixed-frames",
        "n_frames": 20,
        "parts": [{"kind": "log-mel", "n_mels": 16, "n_fft": 1024, "win_length": 1024, "hop_length": 512}],
    },
    "network": {"kind": "cnn-2d", "widths": [8], "dropout": 0.0},
    "training": {
        "epochs": 4,
        "batch_size": 8,
        "optimizer": "adam",
        "lr": 0.02,
        "schedule": "constant",
        "precision": "32",
    },
}


@pytest.fixture(scope="module")
def train(make_labelled):
    return make_labelled(14)


@pytest.fixture(scope="module")
def dev(make_labelled):
    return make_labelled(4, seed=1)


def fixed_recipe(**training_values):
    return parse_recipe({**FIXED, "training": {**FIXED["training"], **training_values}})


def test_stored_features_are_those_of_the_front_end(train, tmp_path):
    front_end = build_model(fixed_recipe(), 3).front_end
    store = FeatureStore(front_end, train.waveforms, tmp_path / "features")
    rows = np.array([3, 0, 30])
    stored, n_valid = store[rows]
    for row, features in zip(rows, stored, strict=True):
        waveform = torch.from_numpy(batches.to_float(train.waveforms.clips[row]))[None]
        alone, _ = front_end(waveform, torch.tensor([waveform.shape[1]]))
        np.testing.assert_allclose(features, alone[0], atol=1e-4)
    assert n_valid.tolist() == [20] * 3
    if os.name == "posix":  # a process that is killed leaves nothing behind
        assert not list(tmp_path.iterdir())
    store.close()
    assert not list(tmp_path.iterdir())


def test_fitted_statistics_are_those_of_a_standard_scaler(train, tmp_path):
    store = FeatureStore(build_model(fixed_recipe(), 3).front_end, train.waveforms, tmp_path / "features")
    scaler = StandardScaler().fit(np.asarray(store.features, dtype=np.float64).reshape(len(train), -1))
    mean, std = store.statistics()
    np.testing.assert_allclose(mean.flatten(), scaler.mean_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(std.flatten(), np.sqrt(scaler.var_), rtol=1e-4, atol=1e-4)
    store.close()


def test_training_on_stored_features_is_training_on_the_clips(train, dev, tmp_path, monkeypatch):
    by_store, history = fit(fixed_recipe(), CLASSES, train, dev, tmp_path / "store")
    assert not list((tmp_path / "store").glob(".*features*"))
    monkeypatch.setattr(training, "is_fixed", lambda *_: False)
    directly, _ = fit(fixed_recipe(), CLASSES, train, dev, tmp_path / "direct")
    np.testing.assert_allclose(
        compute_logits(by_store, dev.waveforms), compute_logits(directly, dev.waveforms), atol=2e-2
    )
    assert history.rows[-1]["train_war"] > 0.5
    assert history.best_uar == pytest.approx(max(row["dev_uar"] for row in history.rows))


def test_standardisation_is_fitted_on_train_alone_and_comes_back_with_the_checkpoint(train, dev, tmp_path):
    model, _ = fit(fixed_recipe(epochs=1), CLASSES, train, dev, tmp_path / "run")
    loud = replace(dev, waveforms=replace(dev.waveforms, clips=tuple(clip // 2 for clip in dev.waveforms.clips)))
    other, _ = fit(fixed_recipe(epochs=1), CLASSES, train, loud, tmp_path / "other")
    assert torch.equal(model.front_end.mean, other.front_end.mean)
    with safe_open(tmp_path / "run" / CHECKPOINT, "pt") as file:
        assert torch.equal(file.get_tensor("front_end/std"), model.front_end.std)
    again, _ = fit(fixed_recipe(epochs=1), CLASSES, train, dev, tmp_path / "run")  # finished: read back
    assert torch.equal(again.front_end.std, model.front_end.std)


def test_features_are_computed_once_only_where_nothing_changes_them():
    recipe = fixed_recipe()
    front_end = build_model(recipe, 3).front_end
    assert is_fixed(front_end, recipe)
    assert not is_fixed(front_end, recipe.with_training(max_clip_s=1.0))
    assert not is_fixed(front_end, replace(recipe, augment=replace(recipe.augment, gain_db=3.0)))


# ---- what happens to a batch on its way ----


@pytest.fixture
def augmented(make_recipe, make_labelled):
    """Function (**augment) -> (plain, altered) batches: features, valid frames, targets, weights."""
    clips = make_labelled(4, seed=5)
    waveform, lengths = pad_batch([to_float(clip) for clip in clips.waveforms.clips])
    values = (waveform, lengths, batches.soft_target(clips, np.arange(len(clips)), 0.0), np.ones(len(clips), "f4"))
    off = dict.fromkeys(("speed", "gain_db", "noise_probability", "tempo", "warp", "mixup_alpha"), 0.0)
    off |= dict.fromkeys(("n_band_masks", "n_time_masks"), 0)

    def run(**augment):
        recipe = make_recipe(augment={**off, **augment})
        front_end = build_model(recipe, len(CLASSES)).front_end.eval()
        config = [replace(recipe.augment, **{key: off[key] for key in off}), recipe.augment]
        return [batches.augment_batch(front_end, [torch.from_numpy(value) for value in values], own,
                                      np.random.default_rng(1)) for own in config]  # fmt: skip

    return run


def test_masks_reach_the_features_of_a_batch(augmented):
    """Whole bands, and whole stretches of time, are at zero, and nothing else has changed."""
    for name, axis in (("n_band_masks", 2), ("n_time_masks", 1)):
        (plain, *_), (altered, *_) = augmented(**{name: 1, "max_mask_bands": 5, "max_mask_s": 0.15})
        hidden = altered != plain
        assert hidden.any() and not altered[hidden].any()
        whole = (altered == 0).all(dim=axis)
        assert (hidden <= whole.unsqueeze(axis)).all()


def test_mixup_reaches_features_targets_and_weights(augmented):
    plain, altered = augmented(mixup_alpha=5.0, mixup_probability=1.0)
    (shares,) = {round(float(value), 4) for value in altered[2].max(dim=1).values if value < 0.9999}
    share = max(shares, 1 - shares)
    partner = [
        next(row for row in range(len(plain[0])) if torch.allclose(
            mixed, share * own + (1 - share) * plain[0][row], atol=1e-3) or torch.allclose(
            mixed, (1 - share) * own + share * plain[0][row], atol=1e-3))
        for own, mixed in zip(plain[0], altered[0], strict=True)
    ]  # fmt: skip
    assert sorted(partner) == list(range(len(partner)))
    torch.testing.assert_close(altered[2].sum(dim=1), torch.ones(len(partner)))
    assert (altered[1] == torch.maximum(plain[1], plain[1][partner])).all()


def test_without_augmentation_a_batch_is_its_features(augmented):
    plain, altered = augmented()
    assert all(torch.equal(one, other) for one, other in zip(plain, altered, strict=True))


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("rmsprop", "RMSprop")])
def test_optimizers_by_name(optimizer, kind):
    built = training._build_optimizer(torch.nn.Linear(2, 2), TrainingConfig(optimizer=optimizer, lr=0.01))
    assert type(built).__name__ == kind
    assert {group["lr"] for group in built.param_groups} == {0.01}


def test_the_plateau_counts_epochs_as_keras_does():
    """Keras lowers the rate after ``patience`` epochs without improvement; torch waits one more."""
    config = TrainingConfig(lr=1.0, optimizer="adam", schedule="plateau", plateau_factor=0.5, plateau_patience=2,
                            plateau_min_lr=0.2)  # fmt: skip
    optimizer = training._build_optimizer(torch.nn.Linear(1, 1), config)
    schedule = training._build_schedule(optimizer, config, 10, training.make_fabric(accelerator="cpu"), "train_loss")
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]


def history_of(key, values):
    return History([{"epoch": epoch, key: value} for epoch, value in enumerate(values, start=1)])


def chosen(config, key, values):
    history = History()
    for row in history_of(key, values).rows:
        history.rows.append(row)
        if training._is_choice(history, config, len(values)):
            history.best_epoch = row["epoch"]
    return history.best_epoch


def test_the_epoch_that_is_kept():
    constant = {"schedule": "constant"}
    assert chosen(TrainingConfig(choose="dev_loss", **constant), "dev_loss", [3, 1, 2, 1]) == 2
    assert chosen(TrainingConfig(choose="dev_uar", **constant), "dev_uar", [0.5, 0.7, 0.6, 0.7]) == 4
    assert chosen(TrainingConfig(choose="dev_war", **constant), "dev_war", [0.5, 0.7, 0.6]) == 2
    assert chosen(TrainingConfig(choose="last", **constant), "dev_uar", [0.5, 0.7, 0.6]) == 3
    assert chosen(TrainingConfig(choose="dev_uar"), "dev_uar", [0.9, 0.2, 0.3, 0.1]) == 3  # one-cycle: second half
    assert chosen(TrainingConfig(choose="dev_uar", **constant), "train_loss", [1, 1]) == 2  # no dev


def test_a_run_stops_when_the_choice_has_not_improved(train, dev, tmp_path, monkeypatch):
    script = iter([0.5, 0.8, 0.3, 0.2, 0.1, 0.9])
    monkeypatch.setattr(training, "_score_dev", lambda *_: {"dev_loss": 1.0, "dev_uar": next(script)})
    recipe = fixed_recipe(epochs=6, early_stop=3, choose="dev_uar")
    _, history = fit(recipe, CLASSES, train, dev, tmp_path)
    assert (len(history.rows), history.best_epoch) == (5, 2)
    _, again = fit(recipe, CLASSES, train, dev, tmp_path)  # stopped is finished
    assert again == history


def test_a_run_is_not_over_before_the_choice_has_begun():
    """One-cycle chooses in the second half; patience counts from there."""
    config, history = TrainingConfig(choose="dev_uar", early_stop=3), History()
    for row in history_of("dev_uar", [0.5] + 19 * [0.1]).rows:
        assert not training._is_over(history, config)
        history.rows.append(row)
        if training._is_choice(history, config, 20):
            history.best_epoch = row["epoch"]
        if row["epoch"] == 13:
            break
    assert history.best_epoch == 13


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "muon"])
def test_one_cycle_leaves_rmsprop_without_momentum(optimizer):
    config = TrainingConfig(optimizer=optimizer)
    built = training._build_optimizer(torch.nn.Linear(2, 2), config)
    schedule = training._build_schedule(built, config, 10, training.make_fabric(accelerator="cpu"), "train_loss")
    for _ in range(5):
        built.step()
        schedule.step()
    assert built.param_groups[0].get("momentum", 0.0) == 0.0
    assert built.param_groups[0]["lr"] != config.lr


@pytest.mark.parametrize(("with_dev", "expected"), [(True, 0.05), (False, 0.1)])
def test_without_dev_a_plateau_is_one_of_the_training_loss(with_dev, expected, train, dev, tmp_path, monkeypatch):
    """The loss falls, and what dev would have said stands still."""
    monkeypatch.setattr(training, "_score_dev", lambda *_: {"dev_war": 0.5, "dev_uar": 0.5} if with_dev else {})
    recipe = fixed_recipe(epochs=3, schedule="plateau", plateau_monitor="dev_war", plateau_factor=0.5,
                          plateau_patience=2, lr=0.1, choose="last")  # fmt: skip
    losses = iter((3.0, 2.0, 1.0))
    step = torch.optim.lr_scheduler.ReduceLROnPlateau.step
    monkeypatch.setattr(
        torch.optim.lr_scheduler.ReduceLROnPlateau, "step",
        lambda self, value: step(self, value if with_dev else next(losses)),
    )  # fmt: skip
    fit(recipe, CLASSES, train, dev if with_dev else None, tmp_path)
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        (group, *_) = json.loads(file.metadata()["state"])["groups"]
    assert group["lr"] == pytest.approx(expected)


def test_an_unknown_choice_is_an_error_that_lists_those_there_are():
    from undertone.lab.recipes import RecipeError

    with pytest.raises(RecipeError, match="schedule must be one of one-cycle, constant, plateau, got 'cosine'"):
        fixed_recipe(schedule="cosine")
