"""``fit()``: one readable loop on Lightning Fabric, for CPU, one GPU or several, in float32 or bf16.

A run folder holds ``config.json``, ``log.csv``, TensorBoard events and ``checkpoint.safetensors``. The checkpoint is
written after every epoch, under a temporary name first; every random number follows from (seed, epoch, batch). A run
killed at any moment therefore goes on at the epoch it was in and, on CPU, ends with the same weights, bit for bit, as
one that was never interrupted.
"""

import copy
import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.augment import (
    AugmentConfig,
    add_noise,
    change_gain,
    change_speed,
    draw_masks,
    draw_noise,
    draw_speed,
    mix,
    warp_spectrogram,
)
from undertone.lab.data import Waveforms, bucket_batches, pad_batch, to_float
from undertone.lab.features import FrontEnd
from undertone.lab.recipes import EmotionModel, Recipe, TrainingConfig, build_model

CHECKPOINT = "checkpoint.safetensors"
DEV_BATCH_SIZE = 64
CHOICE_STARTS_AT = 0.5  # share of the epochs before the early choice begins: the one-cycle schedule peaks before


class TrainingError(ValueError):
    """A run that cannot start or go on; the message says what to change."""


@dataclass(frozen=True)
class LabelledClips:
    """Clips with what a loss needs to know of them.

    Attributes
    ----------
    target : (n,) int64
        Class index.
    group : (n,) int64
        Corpus index: classes are balanced inside a group, and groups against each other.
    speaker : (n,) int64
        Speaker index: what a group is worth depends on how many voices it has.
    allowed : (n, n_classes) bool
        Classes that the clip's corpus tells apart; the loss leaves the others alone.
    """

    waveforms: Waveforms
    target: np.ndarray
    group: np.ndarray
    speaker: np.ndarray
    allowed: np.ndarray

    def __post_init__(self) -> None:
        columns = (self.target, self.group, self.speaker, self.allowed)
        if any(len(column) != len(self.waveforms) for column in columns):
            raise TrainingError(f"{len(self.waveforms)} clips, but {', '.join(str(len(c)) for c in columns)} labels")

    def __len__(self) -> int:
        return len(self.waveforms)


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
    return Fabric(accelerator=accelerator, devices=devices, precision=names[precision])  # type: ignore[arg-type]


def _has_fast_bf16(accelerator: str) -> bool:
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
) -> tuple[EmotionModel, History]:
    """Train a recipe's network and return it with the weights chosen on dev, on the CPU, in evaluation mode.

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
        If ``run_dir`` holds a run of something else.
    """
    config = recipe.training
    fabric = fabric or make_fabric(precision=config.precision)
    fabric.launch()
    run_dir.mkdir(parents=True, exist_ok=True)
    _claim(run_dir, _describe(recipe, classes, train, dev, seed, fabric), writes=fabric.is_global_zero)

    torch.manual_seed(seed)
    model = build_model(recipe, len(classes))
    front_end = model.front_end
    fabric.to_device(front_end)
    network = model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    optimizer = _build_optimizer(network, config.lr, config.weight_decay)
    network, optimizer = fabric.setup(network, optimizer)
    average = fabric.to_device(average).eval().requires_grad_(False)
    n_epochs = count_epochs(config, len(train))
    batches_per_epoch = len(_epoch_batches(train, recipe, seed, epoch=0))
    steps = max(1, n_epochs * batches_per_epoch // fabric.world_size)
    steps += fabric.world_size  # processes may have one batch more than the share reckoned
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        steps,
        pct_start=max(config.warmup, 2 / steps),  # a rise of one step would be a division by zero
    )
    history, first_epoch = History(), 0
    best = {name: value.clone() for name, value in average.state_dict().items()}
    if (run_dir / CHECKPOINT).exists():
        first_epoch, history, best = _restore(run_dir / CHECKPOINT, network, average, optimizer, schedule)

    weight = _loss_weights(train, config.class_balance)
    for epoch in range(first_epoch, n_epochs):
        started = time.perf_counter()
        torch.manual_seed(_seed_of(seed, epoch, fabric.global_rank))  # dropout
        network.train()
        losses, n_clips = [], 0
        batches = _own_batches(_epoch_batches(train, recipe, seed, epoch), fabric)
        for number, (waveform, lengths, rows) in enumerate(_load(train, batches, recipe, seed, epoch)):
            rng = np.random.default_rng([seed, epoch, fabric.global_rank, number])
            target = _soft_target(train, rows, config.label_smoothing)
            batch = [fabric.to_device(torch.from_numpy(value)) for value in (waveform, lengths, target, weight[rows])]
            features, n_valid, target, clip_weight = _prepare(front_end, batch, recipe.augment, rng)
            allowed = fabric.to_device(torch.from_numpy(train.allowed[rows])) | (target > 0)
            output = network(features.contiguous(), n_valid)
            loss = _loss(output, target, clip_weight, allowed, config.frame_loss)
            fabric.backward(loss)
            fabric.clip_gradients(network, optimizer, max_norm=5.0, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            step = schedule.last_epoch
            _average_weights(average, network, min(config.ema, (1 + step) / (10 + step)))
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"the loss became {losses[-1]} in epoch {epoch + 1}; lower lr, now {config.lr:g}")
            n_clips += len(rows)
        row = {
            "epoch": epoch + 1,
            "train_loss": float(np.mean(losses)),
            "lr": float(schedule.get_last_lr()[0]),
        }
        row["seconds"] = round(time.perf_counter() - started, 3)
        row["clips_per_second"] = round(n_clips / row["seconds"], 1)
        row |= _score_dev(EmotionModel(front_end, average), dev)
        history.rows.append(row)
        if _is_choice(row, history, epoch, n_epochs):
            history.best_epoch, history.best_uar = epoch + 1, row.get("dev_uar", -1.0)
            best = {name: value.clone() for name, value in average.state_dict().items()}
        if fabric.is_global_zero:
            # The log first: killed between the two, the epoch is repeated and the log written again.
            _write_log(run_dir, history)
            _save(run_dir, network, average, optimizer, schedule, best, epoch + 1, history)
        fabric.barrier()
        if on_epoch is not None:
            on_epoch(epoch + 1, n_epochs, row)

    best = fabric.broadcast(best)  # of several devices, the first one has chosen
    average.load_state_dict(best)
    return EmotionModel(front_end.cpu(), average.cpu()).eval(), history


def count_epochs(config: TrainingConfig, n_clips: int) -> int:
    """Epochs of a run on ``n_clips`` clips: the recipe's, or fewer where they would pass its ``max_clips``."""
    return min(config.epochs, max(1, config.max_clips // n_clips)) if config.max_clips else config.epochs


@torch.inference_mode()
def compute_logits(model: EmotionModel, waveforms: Waveforms, *, batch_size: int = DEV_BATCH_SIZE) -> np.ndarray:
    """Logits of clips, (n, n_classes) float32, in their order; batches hold clips of similar length."""
    device = next(model.parameters()).device
    logits: list[np.ndarray] = [np.zeros(0)] * len(waveforms)
    for rows in bucket_batches(waveforms.n_samples, batch_size):
        waveform, lengths = pad_batch([to_float(waveforms.clips[row]) for row in rows])
        output = model(torch.from_numpy(waveform).to(device), torch.from_numpy(lengths).to(device))
        for row, value in zip(rows, output.logits.float().cpu().numpy(), strict=True):
            logits[row] = value
    return np.stack(logits)


# ---------------------------------------------------------------------------------------------- batches


def _epoch_batches(train: LabelledClips, recipe: Recipe, seed: int, epoch: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, epoch])
    rows = _draw_rows(train, recipe.training.corpus_balance, rng)
    longest = int(recipe.training.max_clip_s * SAMPLE_RATE)
    n_samples = np.minimum(train.waveforms.n_samples[rows], longest)
    batches = [rows[batch] for batch in bucket_batches(n_samples, recipe.training.batch_size, rng=rng)]
    whole = [batch for batch in batches if len(batch) > 1]
    if whole and len(whole) < len(batches):  # batch norm has no variance of a single clip: it joins another batch
        whole[-1] = np.concatenate([whole[-1], *(batch for batch in batches if len(batch) == 1)])
    return whole or batches


def _own_batches(batches: list[np.ndarray], fabric: Fabric) -> list[np.ndarray]:
    """Batches of this process: as many as every other has, because gradients are averaged over all at each step."""
    n_each = max(1, len(batches) // fabric.world_size)
    return batches[fabric.global_rank :: fabric.world_size][:n_each]


def _draw_rows(train: LabelledClips, balance: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of one epoch, as many as there are clips: a corpus's share is clips**(1 - balance) * speakers**(balance/2).

    At 0 corpora are simply mixed. At 1 a corpus counts by the root of its voices, so that thousands of clips of two
    speakers do not outweigh the voices of twenty.
    """
    group = train.group
    sizes = np.bincount(group)
    voices = np.array([len(np.unique(train.speaker[group == index])) for index in range(len(sizes))])
    share = np.where(sizes > 0, np.maximum(sizes, 1) ** (1.0 - balance) * voices ** (balance / 2), 0)
    wanted = np.round(share / share.sum() * len(group)).astype(int)
    chosen = []
    for index in np.flatnonzero(sizes):
        rows = np.flatnonzero(group == index)
        whole, rest = divmod(wanted[index], len(rows))
        chosen += [rows] * whole + [rng.permutation(rows)[:rest]]
    return np.concatenate(chosen)


def _load(
    train: LabelledClips, batches: list[np.ndarray], recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (waveform, lengths, rows); the next batch is cut and resampled while this one trains."""
    longest = int(recipe.training.max_clip_s * SAMPLE_RATE)

    def prepare(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, epoch, number, 1])
        waveforms = []
        for row in batches[number]:
            waveform = change_speed(to_float(train.waveforms.clips[row]), draw_speed(rng, recipe.augment))
            start = int(rng.integers(0, max(1, len(waveform) - longest + 1)))
            waveforms.append(waveform[start : start + longest])
        return *pad_batch(waveforms), batches[number]

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(prepare, 0) if batches else None
        for number in range(len(batches)):
            assert pending is not None
            ready = pending.result()
            pending = pool.submit(prepare, number + 1) if number + 1 < len(batches) else None
            yield ready


def _soft_target(train: LabelledClips, rows: np.ndarray, smoothing: float) -> np.ndarray:
    """Target distribution, (batch, n_classes) float32, smoothed over the classes allowed to each clip."""
    allowed = train.allowed[rows].astype(np.float32)
    target = smoothing * allowed / allowed.sum(axis=1, keepdims=True)
    target[np.arange(len(rows)), train.target[rows]] += 1 - smoothing
    return target


def _loss_weights(train: LabelledClips, balance: float) -> np.ndarray:
    """Weight of each clip, (n,) float32, mean 1: its class's frequency inside its group to the power -balance."""
    pair = train.group * (int(train.target.max()) + 1) + train.target
    weight = (np.bincount(pair)[pair] / np.bincount(train.group)[train.group]) ** -float(balance)
    group_mean = np.bincount(train.group, weight) / np.maximum(np.bincount(train.group), 1)
    return (weight / group_mean[train.group]).astype(np.float32)


def _prepare(
    front_end: FrontEnd, batch: list[Tensor], config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Augmented features, valid frames, targets and weights of a batch (waveform, lengths, targets, weights)."""
    waveform, lengths, target, weight = batch
    n, device = len(waveform), waveform.device

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, n).astype(np.float32)).to(device)

    with torch.no_grad():
        if config.gain_db:
            waveform = change_gain(waveform, draw(-config.gain_db, config.gain_db))
        noisy = np.flatnonzero(rng.uniform(size=n) < config.noise_probability)
        if len(noisy):
            rows = torch.from_numpy(noisy).to(device)
            noise = torch.from_numpy(draw_noise(rng, (len(noisy), waveform.shape[1]))).to(device)
            snr_db = draw(config.min_snr_db, config.max_snr_db)[: len(noisy)]
            waveform = waveform.index_copy(0, rows, add_noise(waveform[rows], noise, snr_db, lengths[rows]))
        features, n_valid = front_end(waveform, lengths)
        if config.tempo or config.warp:
            tempo = draw(1 - config.tempo, 1 + config.tempo)
            features = warp_spectrogram(features, tempo, draw(1 - config.warp, 1 + config.warp))
            n_valid = torch.minimum((n_valid / tempo).ceil().long(), torch.full_like(n_valid, features.shape[2]))
        n_bands, n_frames = features.shape[1:]
        max_frames = int(config.max_mask_s * front_end.frames_per_second)
        band_mask = draw_masks(rng, n, config.n_band_masks, config.max_mask_bands, n_bands)
        time_mask = draw_masks(rng, n, config.n_time_masks, max_frames, n_frames)
        features = features * torch.from_numpy(band_mask[:, :, None] * time_mask[:, None, :]).to(device)
        if config.mixup_alpha and rng.uniform() < config.mixup_probability:
            share = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
            partner = torch.from_numpy(rng.permutation(n)).to(device)
            features, target = mix(features, partner, share), mix(target, partner, share)
            weight, n_valid = mix(weight, partner, share), torch.maximum(n_valid, n_valid[partner])
    return features, n_valid, target, weight


def _loss(output: Any, target: Tensor, weight: Tensor, allowed: Tensor, frame_loss: float) -> Tensor:
    def cross_entropy(logits: Tensor) -> Tensor:
        log_probs = F.log_softmax(logits.float().masked_fill(~allowed, -1e4), dim=1)
        return -((target * log_probs).sum(dim=1) * weight).mean()

    loss = cross_entropy(output.logits)
    if frame_loss and output.frame_vote is not None:
        loss = loss + frame_loss * cross_entropy(output.frame_vote)
    return loss


# ---------------------------------------------------------------------------------------------- weights


def _build_optimizer(network: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


@torch.no_grad()
def _average_weights(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network; statistics of batch norm are averaged too, counters copied."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    for a, b in pairs:
        if a.is_floating_point():
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)


def _score_dev(model: EmotionModel, dev: LabelledClips | None) -> dict[str, float]:
    if dev is None or not len(dev):
        return {}
    logits = np.where(dev.allowed, compute_logits(model, dev.waveforms), -1e4)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    loss = -float(log_probs[np.arange(len(dev)), dev.target].mean())
    # A corpus at a time, so that a large one does not choose for all: the mean of their UARs over the classes present.
    groups = [dev.group == index for index in np.unique(dev.group)]
    hit = dev.target == predicted
    recalls = [[hit[rows & (dev.target == c)].mean() for c in np.unique(dev.target[rows])] for rows in groups]
    return {"dev_loss": loss, "dev_uar": float(np.mean([np.mean(values) for values in recalls]))}


def _is_choice(row: dict[str, float], history: History, epoch: int, n_epochs: int) -> bool:
    if "dev_uar" not in row:
        return True
    return epoch + 1 >= CHOICE_STARTS_AT * n_epochs and row["dev_uar"] >= history.best_uar


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
    text = json.dumps(description, indent=2)
    if not path.exists():
        if writes:
            _write(path, text.encode())
    elif json.loads(path.read_text()) != json.loads(text):
        raise TrainingError(
            f"{run_dir} holds a run with another recipe, other data or another seed; choose another folder or remove it"
        )


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _save(
    run_dir: Path,
    network: Any,
    average: nn.Module,
    optimizer: Any,
    schedule: Any,
    best: dict[str, Tensor],
    epoch: int,
    history: History,
) -> None:
    state = optimizer.state_dict()
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    tensors |= {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    numbers = {
        "epoch": epoch,
        "history": vars(history),
        "schedule": schedule.state_dict(),
        "groups": groups,
    }
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _write(run_dir / CHECKPOINT, save(contiguous, {"state": json.dumps(numbers, default=_jsonable)}))


def _jsonable(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _restore(
    path: Path, network: Any, average: nn.Module, optimizer: Any, schedule: Any
) -> tuple[int, History, dict[str, Tensor]]:
    with safe_open(str(path), "pt") as file:
        numbers = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(part("network/"))
    average.load_state_dict(part("average/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer/").items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    groups = [
        {**stored, "params": group["params"]}
        for stored, group in zip(numbers["groups"], optimizer.state_dict()["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    schedule.load_state_dict(numbers["schedule"])
    device = next(average.parameters()).device
    best = {name: value.to(device) for name, value in part("best/").items()}
    return numbers["epoch"], History(**numbers["history"]), best


def _write_log(run_dir: Path, history: History) -> None:
    """``log.csv`` of the whole history, and this epoch's TensorBoard scalars."""
    rows = history.rows
    temporary = run_dir / ".log.csv"
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(run_dir / "log.csv")
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    with SummaryWriter(str(run_dir / "tensorboard")) as board:
        for name, value in rows[-1].items():
            board.add_scalar(name, value, int(rows[-1]["epoch"]))


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
