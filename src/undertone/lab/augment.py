"""Augmentation of waveforms and spectrograms, on the fly.

Every random number is drawn in one step, from a generator that is passed in, and applied in another that is
deterministic: ``add_noise(waveform, noise, snr_db)`` can be tested exactly, and a run repeats whatever the number of
workers. Augmentation happens in training only.
"""

from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each augmentation that happens on the fly; all are off unless asked for.

    Attributes
    ----------
    speed
        Largest relative change of speed (pitch and tempo together): 0.1 draws 0.9 to 1.1.
    gain_db
        Largest change of level, either way. Nothing is left of it behind a front end that takes the level off.
    noise_probability, min_snr_db, max_snr_db
        White to pink noise: how often, and how loud.
    tempo
        Largest relative stretch of the spectrogram in time, pitch unchanged.
    warp
        Largest relative warp of the frequency axis (vocal tract length perturbation): other speakers, same words.
    n_band_masks, max_mask_bands, n_time_masks, max_mask_s
        SpecAugment (Park et al. 2019, arXiv:1904.08779): masks per clip and their largest width.
    mixup_alpha
        Beta distribution of mixup (Zhang et al. 2018, arXiv:1710.09412) between two clips of a batch.
    mixup_probability
        How often a batch is mixed.
    """

    speed: float = 0.0
    gain_db: float = 0.0
    noise_probability: float = 0.0
    min_snr_db: float = 10.0
    max_snr_db: float = 40.0
    tempo: float = 0.0
    warp: float = 0.0
    n_band_masks: int = 0
    max_mask_bands: int = 12
    n_time_masks: int = 0
    max_mask_s: float = 0.4
    mixup_alpha: float = 0.0
    mixup_probability: float = 0.0


def draw_speed(rng: np.random.Generator, config: AugmentConfig) -> float:
    """Speed factor, 1 + U(-speed, speed), on a grid of 1 % so that the resampler's filters are reused."""
    return round(1 + rng.uniform(-config.speed, config.speed), 2)


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Waveform, (n_samples / factor,), played ``factor`` times as fast: pitch and tempo rise together."""
    if factor == 1:
        return waveform
    return soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")


def change_gain(waveform: Tensor, gain_db: Tensor) -> Tensor:
    """Waveform, (batch, n_samples), louder by ``gain_db``, (batch,)."""
    return waveform * (10 ** (gain_db / 20))[:, None]


def add_noise(waveform: Tensor, noise: Tensor, snr_db: Tensor, lengths: Tensor) -> Tensor:
    """Waveform plus noise at a signal-to-noise ratio.

    Parameters
    ----------
    waveform, noise : (batch, n_samples)
    snr_db : (batch,)
        Ratio of the powers over the valid samples; infinity adds nothing.
    lengths : (batch,) int64
        Valid samples; nothing is added behind them.
    """
    valid = (torch.arange(waveform.shape[1], device=waveform.device)[None] < lengths[:, None]).float()
    noise = noise * valid
    ratio = waveform.square().sum(1) / noise.square().sum(1).clamp_min(1e-12)
    return waveform + noise * (ratio * 10 ** (-snr_db / 10)).sqrt()[:, None]


def draw_noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gaussian noise, (batch, n_samples) float32, of a colour between white and about -6 dB per octave."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = rng.uniform(0, 0.9, (shape[0], 1)).astype(np.float32)
    brown: np.ndarray = white.copy()
    brown[:, 1:] += smooth * white[:, :-1]
    brown[:, 2:] += smooth**2 * white[:, :-2]
    return brown


def warp_spectrogram(features: Tensor, tempo: Tensor, warp: Tensor) -> Tensor:
    """Features resampled in time and frequency, (batch, n_features, n_frames), bilinearly.

    Parameters
    ----------
    features : (batch, n_features, n_frames)
    tempo : (batch,)
        Above 1 is faster: frame ``t`` comes from frame ``t * tempo``. What ran out of the clip is zero.
    warp : (batch,)
        Above 1 moves formants down: band ``f`` comes from band ``f * warp``, the edge repeated.
    """
    _, n_bands, n_frames = features.shape
    frame = torch.arange(n_frames, device=features.device)[None] * tempo[:, None]  # (B, T)
    band = (torch.arange(n_bands, device=features.device)[None] * warp[:, None]).clamp_max(n_bands - 1)  # (B, F)
    grid = torch.stack(
        [
            (2 * frame / max(n_frames - 1, 1) - 1)[:, None].expand(-1, n_bands, -1),
            (2 * band / max(n_bands - 1, 1) - 1)[:, :, None].expand(-1, -1, n_frames),
        ],
        dim=3,
    )  # (B, F, T, 2)
    return F.grid_sample(features[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0]


def draw_masks(rng: np.random.Generator, n_rows: int, n_masks: int, max_width: int, size: int) -> np.ndarray:
    """SpecAugment's masks of one axis, (n_rows, size) float32: 0 under a mask, 1 elsewhere."""
    width = rng.integers(0, max_width + 1, (n_rows, n_masks, 1))
    start = rng.integers(0, np.maximum(1, size - width), (n_rows, n_masks, 1))
    position = np.arange(size)
    covered = (position >= start) & (position < start + width)  # (n_rows, n_masks, size)
    return np.where(covered.any(axis=1), np.float32(0), np.float32(1))


def mix(rows: Tensor, partner: Tensor, share: Tensor | float) -> Tensor:
    """``share`` of each row plus ``1 - share`` of its partner's row; ``partner`` (batch,) indexes rows."""
    return share * rows + (1 - share) * rows[partner]
