"""What a training loop draws from: labelled clips, batches of them, augmentation, and features computed once.

Every random number follows from (seed, epoch, batch), so that a run gone on with draws what it would have drawn.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from undertone.audio import SAMPLE_RATE
from undertone.lab.augment import (
    AugmentConfig,
    add_noise,
    augment_waveforms,
    change_gain,
    change_speed,
    draw_equaliser,
    draw_masks,
    draw_noise,
    draw_partners,
    draw_speed,
    mix,
    mix_styles,
    warp_spectrogram,
)
from undertone.lab.data import Waveforms, bucket_batches, pad_batch, to_float
from undertone.lab.features import FrontEnd
from undertone.lab.features.feature import frame_mask
from undertone.lab.recipes import Recipe

FEATURE_BATCH = 32


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


def epoch_batches(train: LabelledClips, recipe: Recipe, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch, of similar length inside a batch."""
    rng = np.random.default_rng([seed, epoch])
    rows = _draw_rows(train, recipe.training.corpus_balance, rng)
    n_samples = np.minimum(train.waveforms.n_samples[rows], longest_clip(recipe))
    batches = [rows[batch] for batch in bucket_batches(n_samples, recipe.training.batch_size, rng=rng)]
    whole = [batch for batch in batches if len(batch) > 1]
    if whole and len(whole) < len(batches):  # batch norm has no variance of a single clip: it joins another batch
        whole[-1] = np.concatenate([whole[-1], *(batch for batch in batches if len(batch) == 1)])
    return whole or batches


def longest_clip(recipe: Recipe) -> int:
    """Return the samples that longer clips are cropped to in training."""
    return int(recipe.training.max_clip_s * SAMPLE_RATE) or np.iinfo(np.int64).max


def own_batches(batches: list[np.ndarray], fabric: Fabric) -> list[np.ndarray]:
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


def load_batches(
    train: LabelledClips, batches: list[np.ndarray], recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (waveform, lengths, rows); the next batch is cut and resampled while this one trains."""
    longest = longest_clip(recipe)

    def prepare(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, epoch, number, 1])
        waveforms = []
        for row in batches[number]:
            waveform = to_float(train.waveforms.clips[row])
            if recipe.augment.speed:
                waveform = change_speed(waveform, draw_speed(rng, recipe.augment))
            start = int(rng.integers(0, max(1, len(waveform) - longest + 1)))
            waveforms.append(waveform[start : start + longest])
        waveforms = augment_waveforms(waveforms, rng, recipe.augment)
        return *pad_batch([waveform[:longest] for waveform in waveforms]), batches[number]  # a stretch may lengthen

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(prepare, 0) if batches else None
        for number in range(len(batches)):
            assert pending is not None
            ready = pending.result()
            pending = pool.submit(prepare, number + 1) if number + 1 < len(batches) else None
            yield ready


def soft_target(train: LabelledClips, rows: np.ndarray, smoothing: float) -> np.ndarray:
    """Target distribution, (batch, n_classes) float32, smoothed over the classes allowed to each clip."""
    allowed = train.allowed[rows].astype(np.float32)
    target = smoothing * allowed / allowed.sum(axis=1, keepdims=True)
    target[np.arange(len(rows)), train.target[rows]] += 1 - smoothing
    return target


def loss_weights(train: LabelledClips, balance: float) -> np.ndarray:
    """Weight of each clip, (n,) float32, mean 1: its class's frequency inside its group to the power -balance."""
    pair = train.group * (int(train.target.max()) + 1) + train.target
    weight = (np.bincount(pair)[pair] / np.bincount(train.group)[train.group]) ** -float(balance)
    group_mean = np.bincount(train.group, weight) / np.maximum(np.bincount(train.group), 1)
    return (weight / group_mean[train.group]).astype(np.float32)


def augment_batch(
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
        mask = frame_mask(n_valid, n_frames)
        if config.equaliser_db:
            gains = torch.from_numpy(draw_equaliser(rng, n, n_bands, config.equaliser_db)).to(device) / front_end.scale
            features = features + gains[:, :, None] * mask[:, None]
        if config.style_probability:
            share = rng.beta(config.style_alpha, config.style_alpha, n)
            share = np.where(rng.uniform(size=n) < config.style_probability, share, 1.0).astype(np.float32)
            same_emotion = torch.from_numpy(draw_partners(rng, target.argmax(1).cpu().numpy())).to(device)
            features = mix_styles(features, mask, same_emotion, torch.from_numpy(share).to(device))
        max_frames = int(config.max_mask_s * (front_end.features.frames_per_second or 0))
        band_mask = draw_masks(rng, n, config.n_band_masks, config.max_mask_bands, n_bands)
        time_mask = draw_masks(rng, n, config.n_time_masks, max_frames, n_frames)
        features = features * torch.from_numpy(band_mask[:, :, None] * time_mask[:, None, :]).to(device)
        if config.mixup_alpha and rng.uniform() < config.mixup_probability:
            share = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
            partner = torch.from_numpy(rng.permutation(n)).to(device)
            features, target = mix(features, partner, share), mix(target, partner, share)
            weight, n_valid = mix(weight, partner, share), torch.maximum(n_valid, n_valid[partner])
    return features, n_valid, target, weight


class FeatureStore:
    """Features of clips, computed once and kept in a file, for systems that look at every clip the same way each time.

    Parameters
    ----------
    front_end
        One whose features have a fixed number of frames. They are kept as :meth:`FrontEnd.extract` gives them.
    path
        The file, (n, n_features, n_frames) float32, written anew. It loses its name at once where the system allows
        it (not on Windows), so that a process that is killed leaves nothing behind.
    """

    def __init__(self, front_end: FrontEnd, waveforms: Waveforms, path: Path):
        assert front_end.n_frames is not None
        shape = (len(waveforms), front_end.n_features, front_end.n_frames)
        self.front_end, self.path = front_end, path.with_name(f"{path.name}.{os.getpid()}")
        self.features = np.lib.format.open_memmap(self.path, mode="w+", dtype=np.float32, shape=shape)
        with suppress(PermissionError):
            self.path.unlink()
        device = next(front_end.buffers()).device
        for rows in bucket_batches(waveforms.n_samples, FEATURE_BATCH):
            waveform, lengths = pad_batch([to_float(waveforms.clips[row]) for row in rows])
            with torch.no_grad():
                found, _ = front_end.extract(
                    torch.from_numpy(waveform).to(device), torch.from_numpy(lengths).to(device)
                )
            self.features[rows] = found.float().cpu().numpy()

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Normalised features of ``rows``, (batch, n_features, n_frames), and valid frames: all of them are."""
        device = next(self.front_end.buffers()).device
        features = torch.from_numpy(self.features[rows]).to(device)
        n_valid = torch.full((len(rows),), self.features.shape[2], device=device)
        return self.front_end.standardise(features, n_valid), n_valid

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every value over the clips, each (n_features, n_frames) float32."""
        total, squares = (np.zeros(self.features.shape[1:]) for _ in range(2))
        for start in range(0, len(self.features), 256):
            part = self.features[start : start + 256].astype(np.float64)
            total += part.sum(axis=0)
            squares += np.square(part).sum(axis=0)
        mean = total / len(self.features)
        std = np.sqrt(np.maximum(squares / len(self.features) - np.square(mean), 0))
        std[std < 1e-6 * np.abs(mean).max(initial=1e-6)] = 0  # rounding, not variation
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()

    def close(self) -> None:
        """Remove the file."""
        del self.features
        self.path.unlink(missing_ok=True)


def is_fixed(front_end: FrontEnd, recipe: Recipe) -> bool:
    """Whether a clip's features are the same in every epoch, and so can be computed once."""
    return front_end.n_frames is not None and recipe.augment == AugmentConfig() and not recipe.training.max_clip_s
