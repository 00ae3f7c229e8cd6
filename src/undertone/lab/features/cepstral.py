"""Mel-frequency cepstral coefficients and their deltas, agreeing with librosa 0.11 (see ``tests/lab/features``)."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import frame_mask
from undertone.lab.features.spectral import LogMel


def dct_matrix(n_out: int, n_in: int) -> Tensor:
    """Orthonormal DCT-II, (n_out, n_in) float32; rows are the coefficients."""
    angle = math.pi / n_in * (torch.arange(n_in, dtype=torch.float64) + 0.5)
    basis = torch.cos(torch.arange(n_out, dtype=torch.float64)[:, None] * angle) * math.sqrt(2 / n_in)
    basis[0] /= math.sqrt(2)
    return basis.float()


class MFCC(LogMel):
    """Mel-frequency cepstral coefficients, (batch, n_mfcc * (1 + n_deltas), n_frames).

    Parameters
    ----------
    n_deltas
        0, 1 (adds the first derivative), 2 (the second, too) or 3, stacked below the coefficients.
    only_delta
        The derivative of order ``n_deltas`` alone, (batch, n_mfcc, n_frames).

    References
    ----------
    librosa 0.11 ``feature.mfcc`` and ``feature.delta`` (width 9, ``mode="interp"``), 1e-4 of the largest value.
    """

    dct: Tensor
    label = "mfcc"

    def __init__(self, n_mfcc: int = 40, n_mels: int = 128, n_fft: int = 512, win_length: int = 400,
                 hop_length: int = 160, *, n_deltas: int = 0, only_delta: bool = False, sample_rate: int = SAMPLE_RATE,
                 f_min_hz: float = 0.0, f_max_hz: float | None = None, top_db: float | None = 80.0,
                 floor: float = 1e-10):  # fmt: skip
        super().__init__(n_mels, n_fft, win_length, hop_length, sample_rate=sample_rate, f_min_hz=f_min_hz,
                         f_max_hz=f_max_hz, top_db=top_db, floor=floor)  # fmt: skip
        if not 0 <= n_deltas <= 3:
            raise ValueError(f"n_deltas must be 0 to 3, got {n_deltas}")
        self.n_mfcc, self.n_deltas, self.only_delta = n_mfcc, n_deltas, only_delta
        self.n_features = n_mfcc if only_delta else n_mfcc * (1 + n_deltas)
        self.register_buffer("dct", dct_matrix(n_mfcc, n_mels), persistent=False)

    @property
    def names(self) -> list[str]:
        """``mfcc_000`` ..., ``delta_mfcc_000`` ..., ``delta2_mfcc_000`` ...."""
        orders = [self.n_deltas] if self.only_delta else range(self.n_deltas + 1)
        prefix = ("", "delta_", "delta2_", "delta3_")
        return [f"{prefix[order]}mfcc_{row:03d}" for order in orders for row in range(self.n_mfcc)]

    def from_mel(self, mel: Tensor, n_valid: Tensor) -> Tensor:
        """MFCC, (batch, n_features, n_frames)."""
        mfcc = (super().from_mel(mel, n_valid).transpose(1, 2) @ self.dct.T).transpose(1, 2)
        if self.only_delta:
            return delta(mfcc, n_valid, order=self.n_deltas) if self.n_deltas else mfcc
        return with_deltas(mfcc, n_valid, self.n_deltas) if self.n_deltas else mfcc


def with_deltas(features: Tensor, n_valid: Tensor, n_deltas: int) -> Tensor:
    """Features with their first ``n_deltas`` derivatives below: (batch, n_features * (1 + n_deltas), n_frames)."""
    return torch.cat([features] + [delta(features, n_valid, order=order) for order in range(1, n_deltas + 1)], dim=1)


def delta(features: Tensor, n_valid: Tensor, *, order: int = 1, width: int = 9) -> Tensor:
    """Local derivative over time, of order 1 to 3, of a polynomial fitted in a window.

    Parameters
    ----------
    features : (batch, n_features, n_frames)
    n_valid : (batch,) int64
        Valid frames per row. Rows shorter than ``width`` are continued by repeating their last valid frame
            (librosa refuses them).
    width
        Frames of the window, odd.

    References
    ----------
    librosa 0.11 ``feature.delta(mode="interp")``: Savitzky-Golay with ``polyorder = order``, rtol 1e-4.
    """
    half = width // 2
    held = F.pad(_hold_last_frame(features, n_valid), (half, 2 * half), mode="replicate")
    taps = _derivative_taps(order, width).to(features)
    batch, n_features, n_frames = features.shape
    slope = F.conv1d(held.flatten(0, 1)[:, None], taps[None, None]).reshape(batch, n_features, -1)
    # Within half a window of an edge the edge window's own polynomial counts, whose derivative is constant.
    frame = torch.arange(n_frames, device=features.device)[None]
    source = torch.minimum(frame.clamp_min(half), (n_valid - 1 - half).clamp_min(half)[:, None])  # (B, T)
    slope = slope.gather(2, source[:, None].expand(-1, n_features, -1))
    return slope * frame_mask(n_valid, n_frames)[:, None]


def _derivative_taps(order: int, width: int) -> Tensor:
    """Taps of the order-th derivative of a polynomial of that degree fitted to a window, (width,).

    Worked out in numpy: inside an exported graph they are a constant, while torch's ``pinv`` has no ONNX operator.
    """
    design = np.vander(np.arange(width) - width // 2, order + 1, increasing=True)  # (width, order + 1)
    return torch.tensor((np.linalg.pinv(design)[order] * math.factorial(order)).tolist(), dtype=torch.float64)


def _hold_last_frame(features: Tensor, n_valid: Tensor) -> Tensor:
    """Replace the frames behind a row's last valid one by copies of it."""
    frame = torch.arange(features.shape[2], device=features.device)[None]
    index = torch.minimum(frame, n_valid[:, None] - 1)[:, None].expand(-1, features.shape[1], -1)
    return features.gather(2, index)
