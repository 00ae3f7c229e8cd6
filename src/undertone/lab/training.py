"""``fit()``: one readable loop on Lightning Fabric, for CPU, one GPU or several, in float32 or bf16.

A run folder holds ``config.json``, ``log.csv``, TensorBoard events and ``checkpoint.safetensors``. The checkpoint is
written after every epoch, under a temporary name first; every random number follows from (seed, epoch, batch). A run
killed at any moment therefore goes on at the epoch it was in and, on CPU with as many threads, ends with the same
weights, bit for bit, as one that was never interrupted. While one process trains in a folder, another is refused.
"""

import copy
import csv
import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.files import replacing, write_file
from undertone.lab.batches import (
    FeatureStore,
    LabelledClips,
    TrainingError,
    augment_batch,
    epoch_batches,
    is_fixed,
    load_batches,
    loss_weights,
    own_batches,
    soft_target,
)
from undertone.lab.data import Waveforms, bucket_batches, pad_batch, to_float
from undertone.lab.features import FrontEnd
from undertone.lab.muon import Muon
from undertone.lab.recipes import EmotionModel, Ensemble, Model, Recipe, TrainingConfig, build_model

CHECKPOINT = "checkpoint.safetensors"
DEV_BATCH_SIZE = 64
CHOICE_STARTS_AT = 0.5  # share of the epochs before the early choice begins: the one-cycle schedule peaks before


@dataclass
class History:
    """What was measured after each epoch, and which epoch was chosen on dev."""

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_uar: float = -1.0


def make_fabric(*, precision: str = "32", accelerator: str = "auto", devices: int = 1) -> Fabric:
    """Fabric for a run; ``precision`` as in :class:`~undertone.lab.recipes.TrainingConfig`.

    Several ``devices`` train one network together (Fabric's DDP), a process each.
    """
    names = {"32": "32-true", "bf16": "bf16-mixed"}
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16(accelerator) else "32"
    if precision not in names:
        raise TrainingError(f"precision must be auto or one of {', '.join(names)}, got {precision!r}")
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"  # without a frame loss, a head has no part
    return Fabric(accelerator=accelerator, devices=devices, strategy=strategy,
                  precision=names[precision])  # type: ignore[arg-type]  # fmt: skip


def _has_fast_bf16(accelerator: str) -> bool:
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def _tiny_numbers_as_zero() -> Iterator[None]:
    """Numbers below 1e-38 change no weight, and processors take long over them; elsewhere they keep their values."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Have glibc keep what is freed for the next batch; on leaving, the system gets it back.

    Left alone, it unmaps every large tensor, and the system clears each page of the next batch anew: two fifths of
    the time of a network on images, of which a batch takes a gigabyte. Without glibc nothing is done.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # names of mallopt(3)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 2**16)
        libc.mallopt(mmap_threshold, 2**25)  # these two: where glibc's own adjustment ends
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(0)


def fit(
    recipe: Recipe,
    classes: tuple[str, ...],
    train: LabelledClips,
    dev: LabelledClips | None,
    run_dir: Path,
    *,
    seed: int = 0,
    fabric: Fabric | None = None,
    on_epoch: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[Model, History]:
    """Train a recipe's network and return it with the weights chosen on dev, on the CPU, in evaluation mode.

    The members of an ensemble are trained one after the other, as if alone, each in a folder of its name below
    ``run_dir``; the history then has the epochs of all in a row.

    Parameters
    ----------
    classes
        Emotions in the order of the logits.
    dev
        Speaker-disjoint clips that choose the epoch by UAR; None keeps the last epoch.
    run_dir
        Run folder, made if missing. A folder that holds an unfinished run of the same recipe, data and seed is gone on
        with; a finished one is read back.
    on_epoch
        Called with (epochs done, epochs in all, what was measured).

    Raises
    ------
    TrainingError
        If ``run_dir`` holds a run of something else, or another process trains in it.
    """
    fabric = fabric or make_fabric(precision=recipe.precision)
    fabric.launch()
    if not recipe.members:
        with _alone_in(run_dir, fabric):
            return _fit_one(recipe, classes, train, dev, run_dir, seed, fabric, on_epoch)
    run_dir.mkdir(parents=True, exist_ok=True)
    _claim(run_dir, _describe(recipe, classes, train, dev, seed, fabric), writes=fabric.is_global_zero)
    n_epochs = sum(count_epochs(member.training, len(train)) for member in recipe.members)
    models, together = [], History()
    for member in recipe.members:
        before = len(together.rows)
        report = None if on_epoch is None else lambda done, _, row, n=before: on_epoch(n + done, n_epochs, row)
        with _alone_in(run_dir / member.name, fabric):
            model, history = _fit_one(member, classes, train, dev, run_dir / member.name, seed, fabric, report)
        models.append(model)
        together.rows += [{**row, "epoch": before + row["epoch"]} for row in history.rows]
        together.best_epoch = before + history.best_epoch
    ensemble = Ensemble(models).eval()
    together.best_uar = _score_dev(ensemble, dev, None).get("dev_uar", -1.0)
    return ensemble, together


@contextmanager
def _alone_in(run_dir: Path, fabric: Fabric) -> Iterator[None]:
    """Keep other processes out of a run folder: what one has finished, another would overwrite."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not fabric.is_global_zero:
        yield
        return
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"another process is training in {run_dir}; wait for it or stop it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@_tiny_numbers_as_zero()
@_freed_memory_kept()
def _fit_one(
    recipe: Recipe,
    classes: tuple[str, ...],
    train: LabelledClips,
    dev: LabelledClips | None,
    run_dir: Path,
    seed: int,
    fabric: Fabric,
    on_epoch: Callable[[int, int, dict[str, float]], None] | None,
) -> tuple[EmotionModel, History]:
    """Train one network, as :func:`fit` says; the caller sees to it that no other process does."""
    config = recipe.training
    _claim(run_dir, _describe(recipe, classes, train, dev, seed, fabric), writes=fabric.is_global_zero)

    torch.manual_seed(seed)
    model = build_model(recipe, len(classes))
    assert isinstance(model, EmotionModel)
    front_end = model.front_end
    network = model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimizer = _build_optimizer(network, config)
    network, optimizer = fabric.setup(network, optimizer)
    average = fabric.to_device(average).eval().requires_grad_(False)
    n_epochs = count_epochs(config, len(train))
    n_batches = n_epochs * len(epoch_batches(train, recipe, seed, 0))
    schedule = _build_schedule(optimizer, config, n_batches, fabric, _monitored(config, dev))
    history, best = History(), _copy_of(average)
    if (run_dir / CHECKPOINT).exists():
        history, best = _restore(run_dir / CHECKPOINT, front_end, network, average)
        if len(history.rows) < n_epochs and not _is_over(history, config):
            _restore_optimizer(run_dir / CHECKPOINT, optimizer, schedule)
    first_epoch = len(history.rows)
    fabric.to_device(front_end)
    if first_epoch == 0:
        _fit_modules(front_end, train, seed)
    stores = None
    if first_epoch < n_epochs and not _is_over(history, config):
        stores = _open_stores(front_end, recipe, train, dev, run_dir, fits=first_epoch == 0)

    weight = loss_weights(train, config.class_balance)
    for epoch in range(first_epoch, n_epochs):
        if _is_over(history, config):
            break
        started = time.perf_counter()
        torch.manual_seed(_seed_of(seed, epoch, fabric.global_rank))  # dropout
        network.train()
        losses, n_clips, n_hits = [], 0, 0
        batches = own_batches(epoch_batches(train, recipe, seed, epoch), fabric)
        drawn = _draw(train, batches, recipe, seed, epoch, weight, front_end, stores and stores[0], fabric)
        for step, (features, n_valid, target, clip_weight, rows) in enumerate(drawn, epoch * len(batches) + 1):
            allowed = fabric.to_device(torch.from_numpy(train.allowed[rows])) | (target > 0)
            output = network(features.contiguous(), n_valid)
            loss = _loss(output, target, clip_weight, allowed, config.frame_loss)
            fabric.backward(loss)
            if config.clip_norm:
                fabric.clip_gradients(network, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if config.schedule == "one-cycle":
                schedule.step()
            if config.ema:
                _average_weights(average, network, min(config.ema, (1 + step) / (10 + step)))
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"the loss became {losses[-1]} in epoch {epoch + 1}; lower lr, now {config.lr:g}")
            n_clips += len(rows)
            n_hits += int((output.logits.argmax(1) == target.argmax(1)).sum())
        if not config.ema:
            _average_weights(average, network, 0.0)
        row = {
            "epoch": epoch + 1,
            "train_loss": float(np.mean(losses)),
            "train_war": n_hits / n_clips,
            "lr": float(optimizer.param_groups[0]["lr"]),
        }
        row["seconds"] = round(time.perf_counter() - started, 3)
        row["clips_per_second"] = round(n_clips / row["seconds"], 1)
        row |= _score_dev(EmotionModel(front_end, average), dev, stores and stores[1])
        if config.schedule == "plateau":
            schedule.step(row[_monitored(config, dev)])
        history.rows.append(row)
        if _is_choice(history, config, n_epochs):
            history.best_epoch, history.best_uar = epoch + 1, row.get("dev_uar", -1.0)
            best = _copy_of(average)
        if fabric.is_global_zero:
            # The log first: killed between the two, the epoch is repeated and the log written again.
            _write_log(run_dir, history)
            _save(run_dir, front_end, network, average, optimizer, schedule, best, history)
        fabric.barrier()
        if on_epoch is not None:
            on_epoch(epoch + 1, n_epochs, row)
    for store in stores or ():
        if store is not None:
            store.close()

    best = fabric.broadcast(best)  # of several devices, the first one has chosen
    average.load_state_dict(best)
    return EmotionModel(front_end.cpu(), average.cpu()).eval(), history


def count_epochs(config: TrainingConfig, n_clips: int) -> int:
    """Epochs of a run on ``n_clips`` clips: the recipe's, or fewer where they would pass its ``max_clips``."""
    return min(config.epochs, max(1, config.max_clips // n_clips)) if config.max_clips else config.epochs


def _fit_modules(front_end: FrontEnd, train: LabelledClips, seed: int) -> None:
    """Train the parts of a front end that learn from speakers, on the training clips alone."""
    for module in front_end.modules():
        if hasattr(module, "fit_to"):
            module.fit_to(train.waveforms.clips, train.speaker, seed=seed)  # type: ignore[operator]


def _open_stores(
    front_end: FrontEnd, recipe: Recipe, train: LabelledClips, dev: LabelledClips | None, run_dir: Path, *, fits: bool
) -> tuple[FeatureStore, FeatureStore | None] | None:
    """Features of train and dev where they can be computed once; with ``fits``, they set the front end's statistics."""
    fixed = is_fixed(front_end, recipe)
    if not fixed and front_end.normalise != "fitted":
        return None
    store = FeatureStore(front_end, train.waveforms, run_dir / ".train-features")
    if fits and front_end.normalise == "fitted":
        front_end.fit(*store.statistics())
    if not fixed:
        store.close()
        return None
    return store, None if dev is None else FeatureStore(front_end, dev.waveforms, run_dir / ".dev-features")


def _draw(
    train: LabelledClips,
    batches: list[np.ndarray],
    recipe: Recipe,
    seed: int,
    epoch: int,
    weight: np.ndarray,
    front_end: FrontEnd,
    store: FeatureStore | None,
    fabric: Fabric,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, np.ndarray]]:
    """Yield (features, valid frames, targets, weights, rows) of each batch."""

    def to_device(*values: np.ndarray) -> list[Tensor]:
        return [fabric.to_device(torch.from_numpy(value)) for value in values]

    smoothing = recipe.training.label_smoothing
    if store is not None:
        for rows in batches:
            features, n_valid = store[rows]
            target, clip_weight = to_device(soft_target(train, rows, smoothing), weight[rows])
            yield features, n_valid, target, clip_weight, rows
        return
    for number, (waveform, lengths, rows) in enumerate(load_batches(train, batches, recipe, seed, epoch)):
        rng = np.random.default_rng([seed, epoch, fabric.global_rank, number])
        batch = to_device(waveform, lengths, soft_target(train, rows, smoothing), weight[rows])
        yield *augment_batch(front_end, batch, recipe.augment, rng), rows


@torch.inference_mode()
def compute_logits(model: Model, waveforms: Waveforms, *, batch_size: int = DEV_BATCH_SIZE) -> np.ndarray:
    """Logits of clips, (n, n_classes) float32, in their order; batches hold clips of similar length."""
    device = next(model.parameters()).device
    logits: list[np.ndarray] = [np.zeros(0)] * len(waveforms)
    for rows in bucket_batches(waveforms.n_samples, batch_size):
        waveform, lengths = pad_batch([to_float(waveforms.clips[row]) for row in rows])
        output = model(torch.from_numpy(waveform).to(device), torch.from_numpy(lengths).to(device))
        for row, value in zip(rows, output.logits.float().cpu().numpy(), strict=True):
            logits[row] = value
    return np.stack(logits)


def _loss(output: Any, target: Tensor, weight: Tensor, allowed: Tensor, frame_loss: float) -> Tensor:
    def cross_entropy(logits: Tensor) -> Tensor:
        log_probs = F.log_softmax(logits.float().masked_fill(~allowed, -1e4), dim=1)
        return -((target * log_probs).sum(dim=1) * weight).mean()

    loss = cross_entropy(output.logits)
    if frame_loss and output.frame_vote is not None:
        loss = loss + frame_loss * cross_entropy(output.frame_vote)
    return loss


# ---------------------------------------------------------------------------------------------- weights


def _build_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.9, eps=1e-7)
    if config.optimizer == "muon":
        return Muon(groups, lr=config.lr)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.optimizer](groups, lr=config.lr, fused=True)


def _monitored(config: TrainingConfig, dev: LabelledClips | None) -> str:
    """Return what a plateau is one of: the training loss where the recipe names a figure of dev, and there is none."""
    return config.plateau_monitor if dev is not None and len(dev) else "train_loss"


def _build_schedule(optimizer: Any, config: TrainingConfig, n_batches: int, fabric: Fabric, monitored: str) -> Any:
    if config.schedule == "plateau":  # patience counts as Keras does: lower after so many epochs, not one more
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min" if monitored.endswith("loss") else "max", factor=config.plateau_factor,
            patience=max(0, config.plateau_patience - 1), threshold=1e-4, threshold_mode="abs",
            min_lr=config.plateau_min_lr)  # fmt: skip
    if config.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    steps = max(1, n_batches // fabric.world_size) + fabric.world_size  # a process may have one batch more than others
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        steps,
        pct_start=max(config.warmup, 2 / steps),  # a rise of one step would be a division by zero
        cycle_momentum=config.optimizer != "rmsprop",  # whose momentum is none
    )


def _copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def _average_weights(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network; statistics of batch norm are averaged too, counters copied."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    for a, b in pairs:
        if a.is_floating_point():
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)


@torch.inference_mode()
def _score_dev(model: Model, dev: LabelledClips | None, store: FeatureStore | None) -> dict[str, float]:
    if dev is None or not len(dev):
        return {}
    if store is None or isinstance(model, Ensemble):
        logits = compute_logits(model, dev.waveforms)
    else:
        parts = np.array_split(np.arange(len(dev)), -(-len(dev) // DEV_BATCH_SIZE))
        logits = np.concatenate([model.network(*store[rows]).logits.float().cpu().numpy() for rows in parts])
    logits = np.where(dev.allowed, logits, -1e4)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    hit = dev.target == logits.argmax(axis=1)
    loss = -float(log_probs[np.arange(len(dev)), dev.target].mean())
    # A corpus at a time, so that a large one does not choose for all: the mean of their UARs over the classes present.
    groups = [dev.group == index for index in np.unique(dev.group)]
    recalls = [[hit[rows & (dev.target == c)].mean() for c in np.unique(dev.target[rows])] for rows in groups]
    uar = float(np.mean([np.mean(values) for values in recalls]))
    return {"dev_loss": loss, "dev_uar": uar, "dev_war": float(hit.mean())}


def _is_choice(history: History, config: TrainingConfig, n_epochs: int) -> bool:
    """Whether the latest epoch is the best so far, by the recipe's rule."""
    row = history.rows[-1]
    if config.choose not in row:  # "last", or there is no dev
        return True
    starts_at = CHOICE_STARTS_AT * n_epochs if config.schedule == "one-cycle" else 0
    earlier = [before[config.choose] for before in history.rows[:-1] if before["epoch"] >= starts_at]
    if row["epoch"] < starts_at:
        return False
    if config.choose == "dev_loss":
        return row["dev_loss"] < min(earlier, default=np.inf)
    return row[config.choose] >= max(earlier, default=-1.0)


def _is_over(history: History, config: TrainingConfig) -> bool:
    """Whether the run stops early: something has been chosen, and was not improved on for ``early_stop`` epochs."""
    has_choice = history.best_epoch >= 0
    return bool(config.early_stop) and has_choice and len(history.rows) - history.best_epoch >= config.early_stop


# ---------------------------------------------------------------------------------------------- run folder


def _describe(
    recipe: Recipe,
    classes: tuple[str, ...],
    train: LabelledClips,
    dev: LabelledClips | None,
    seed: int,
    fabric: Fabric,
) -> dict[str, Any]:
    def fingerprint(clips: LabelledClips | None) -> str:
        parts = [] if clips is None else [*clips.waveforms.digests, clips.target.tolist(), clips.allowed.tolist()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    return {
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
        "classes": list(classes),
        "seed": seed,
        "precision": fabric.strategy.precision.precision,  # "auto" is another one on another processor
        "train_clips": len(train),
        "dev_clips": 0 if dev is None else len(dev),
        "train_data": fingerprint(train),
        "dev_data": fingerprint(dev),
    }


def _claim(run_dir: Path, description: dict[str, Any], *, writes: bool) -> None:
    path = run_dir / "config.json"
    if not path.exists():
        if writes:
            write_file(path, json.dumps(description, indent=2))
        return
    found = json.loads(path.read_text())
    # A recipe is known by its hash: a corrected note about its source must not cost a training.
    if any(found.get(key) != value for key, value in description.items() if key != "recipe"):
        raise TrainingError(
            f"{run_dir} holds a run with another recipe, other data or another seed; choose another folder or remove it"
        )


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _save(
    run_dir: Path,
    front_end: FrontEnd,
    network: Any,
    average: nn.Module,
    optimizer: Any,
    schedule: Any,
    best: dict[str, Tensor],
    history: History,
) -> None:
    state = optimizer.state_dict()
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"front_end/{name}": value for name, value in front_end.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    tensors |= {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    numbers = {
        "history": vars(history),
        "schedule": schedule.state_dict(),
        "groups": groups,
    }
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_file(run_dir / CHECKPOINT, save(contiguous, {"state": json.dumps(numbers, default=_jsonable)}))


def _jsonable(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _read_checkpoint(path: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Numbers of a checkpoint, and those of its tensors whose names begin with ``part``, without it."""
    with safe_open(str(path), "pt") as file:
        numbers = json.loads(file.metadata()["state"])
        names = [name for name in file.keys() if name.startswith(f"{part}/")]  # noqa: SIM118
        return numbers, {name.removeprefix(f"{part}/"): file.get_tensor(name) for name in names}


def _restore(path: Path, front_end: FrontEnd, network: Any, average: nn.Module) -> tuple[History, dict[str, Tensor]]:
    for name, module in {"front_end": front_end, "network": network, "average": average}.items():
        module.load_state_dict(_read_checkpoint(path, name)[1])
    device = next(average.parameters()).device
    numbers, best = _read_checkpoint(path, "best")
    return History(**numbers["history"]), {name: value.to(device) for name, value in best.items()}


def _restore_optimizer(path: Path, optimizer: Any, schedule: Any) -> None:
    """Restore what only a run that goes on needs: a finished one is read back whatever its optimizer keeps today."""
    numbers, tensors = _read_checkpoint(path, "optimizer")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/")
        like = parameters[int(index)]
        if value.shape == like.shape:  # in the parameter's order in memory, channels last: fused Adam does not ask
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    groups = [
        {**stored, "params": group["params"]}
        for stored, group in zip(numbers["groups"], optimizer.state_dict()["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    schedule.load_state_dict(numbers["schedule"])


def _write_log(run_dir: Path, history: History) -> None:
    """``log.csv`` of the whole history, and this epoch's TensorBoard scalars."""
    rows = history.rows
    with replacing(run_dir / "log.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    with SummaryWriter(str(run_dir / "tensorboard")) as board:
        for name, value in rows[-1].items():
            board.add_scalar(name, value, int(rows[-1]["epoch"]))
