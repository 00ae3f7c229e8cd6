"""Power spectrum, mel and log-mel, agreeing with librosa 0.11 to 1e-4 relative (see ``tests/lab/features``).

The short-time Fourier transform is an FFT in torch and a convolution with the windowed Fourier basis inside an exported
graph: the ONNX ``STFT`` operator is missing or slow in many runtimes, a convolution is fast in all of them. The two
agree to float32 rounding, which the export's parity check confirms for every model file.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, frame_mask

WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window}


class PowerSpectrum(Feature):
    """Power of the short-time Fourier transform, ``|STFT|**2``, centred frames, zero padding.

    Parameters
    ----------
    n_fft, win_length, hop_length
        In samples; ``win_length`` at most ``n_fft``. The defaults are the field's 25 ms / 10 ms at 16 kHz;
        librosa's own geometry is 2048 / 2048 / 512.
    window
        ``"hann"`` or ``"hamming"``, both periodic.

    References
    ----------
    librosa 0.11 ``stft`` (its default ``pad_mode="constant"``), rtol 1e-4 of the largest bin.
    """

    window: Tensor
    basis: Tensor

    label = "power"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 sample_rate: int = SAMPLE_RATE, window: str = "hann"):  # fmt: skip
        super().__init__()
        if not 0 < hop_length <= win_length <= n_fft:
            raise ValueError(f"need 0 < hop_length <= win_length <= n_fft, got {hop_length}, {win_length}, {n_fft}")
        if window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.sample_rate, self.frames_per_second = sample_rate, sample_rate / hop_length
        self.n_bins = self.n_features = n_fft // 2 + 1
        taps = WINDOWS[window](win_length, dtype=torch.float64)
        self.register_buffer("window", taps.float(), persistent=False)
        # The Fourier basis over the window's own samples only: the zeros around it in an n_fft frame cost nothing.
        self.offset = (n_fft - win_length) // 2
        position = torch.arange(win_length, dtype=torch.float64) + self.offset
        angle = 2 * math.pi / n_fft * torch.arange(self.n_bins, dtype=torch.float64)[:, None] * position  # (F, win)
        basis = torch.cat([torch.cos(angle), -torch.sin(angle)]) * taps  # (2F, win)
        self.register_buffer("basis", basis.float()[:, None], persistent=False)  # (2F, 1, win)

    def count_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames per row, (batch,) int64, of ``lengths`` valid samples."""
        return lengths // self.hop_length + 1

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Power spectrum, (batch, n_bins, n_frames), and valid frames per row, (batch,)."""
        if waveform.ndim != 2:
            raise ValueError(f"expected waveform of shape (batch, n_samples), got {tuple(waveform.shape)}")
        # Filled, not multiplied: a caller's uninitialised memory may hold NaN, and NaN * 0 is NaN.
        waveform = waveform.masked_fill(frame_mask(lengths, waveform.shape[1]) == 0, 0.0)
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            power = self._power_by_convolution(waveform)
        else:
            power = self._power_by_fft(waveform)
        n_valid = self.count_frames(lengths)
        return power * frame_mask(n_valid, power.shape[2])[:, None], n_valid

    def _power_by_fft(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )  # (B, F, T)
        return spectrum.real.square() + spectrum.imag.square()

    def _power_by_convolution(self, waveform: Tensor) -> Tensor:
        left = self.n_fft // 2 - self.offset
        right = self.win_length - left  # enough for the last centred frame, 1 + n_samples // hop_length in all
        padded = F.pad(waveform, (left, right))[:, None]  # (B, 1, N)
        parts = F.conv1d(padded, self.basis, stride=self.hop_length)  # (B, 2F, T')
        parts = parts[:, :, : waveform.shape[1] // self.hop_length + 1]
        return parts[:, : self.n_bins].square() + parts[:, self.n_bins :].square()


def mel_filters(n_fft: int, n_mels: int, *, sample_rate: int = SAMPLE_RATE, f_min_hz: float = 0.0,
                f_max_hz: float | None = None) -> np.ndarray:  # fmt: skip
    """Triangular mel filters with Slaney's scale and area normalisation, (n_mels, n_fft // 2 + 1) float32.

    References
    ----------
    librosa 0.11 ``filters.mel`` (``htk=False, norm="slaney"``), atol 1e-7.
    """
    f_max_hz = sample_rate / 2 if f_max_hz is None else f_max_hz
    if not 0 <= f_min_hz < f_max_hz <= sample_rate / 2:
        raise ValueError(f"need 0 <= f_min_hz < f_max_hz <= {sample_rate / 2}, got {f_min_hz} and {f_max_hz}")
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(f_min_hz), _hz_to_mel(f_max_hz), n_mels + 2))
    bins_hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    falling = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).astype(np.float32)


# Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _BREAK_HZ:
        return frequency_hz / _HZ_PER_MEL
    return _BREAK_HZ / _HZ_PER_MEL + math.log(frequency_hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    break_mel = _BREAK_HZ / _HZ_PER_MEL
    return np.where(mel < break_mel, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - break_mel)))


class SpectralFeature(Feature):
    """A feature of the power spectrum: modules of one geometry can share one spectrum, through ``from_power``.

    Parameters
    ----------
    n_fft, win_length, hop_length
        As of :class:`PowerSpectrum`.
    sample_rate
        Hz, of the waveform that comes in.
    """

    def __init__(self, n_fft: int, win_length: int, hop_length: int, sample_rate: int):
        super().__init__()
        self.power = PowerSpectrum(n_fft, win_length, hop_length, sample_rate=sample_rate)
        self.frames_per_second = self.power.frames_per_second

    @property
    def geometry(self) -> tuple[int, int, int, int]:
        """n_fft, win_length, hop_length and sample rate: spectra of equal geometry are equal."""
        return self.power.n_fft, self.power.win_length, self.power.hop_length, self.power.sample_rate

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Features, (batch, n_features, n_frames), of a power spectrum (batch, n_bins, n_frames)."""
        raise NotImplementedError

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (batch, n_features, n_frames), zero behind the valid frames, and valid frames per row."""
        power, n_valid = self.power(waveform, lengths)
        return self.from_power(power, n_valid), n_valid


class Mel(SpectralFeature):
    """Mel power spectrum, (batch, n_mels, n_frames), non-negative.

    References
    ----------
    librosa 0.11 ``feature.melspectrogram``, rtol 1e-4 of the largest band.
    """

    label = "mel"

    def __init__(self, n_mels: int = 80, n_fft: int = 512, win_length: int = 400, hop_length: int = 160,
                 *, sample_rate: int = SAMPLE_RATE, f_min_hz: float = 0.0, f_max_hz: float | None = None):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.n_features = n_mels
        filters = mel_filters(n_fft, n_mels, sample_rate=sample_rate, f_min_hz=f_min_hz, f_max_hz=f_max_hz)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)  # (n_mels, F)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Mel power, (batch, n_mels, n_frames)."""
        return self.filters @ power


class LogMel(Mel):
    """Log-mel spectrum, (batch, n_mels, n_frames), in decibels (``scale="db"``) or nepers (``scale="ln"``).

    Parameters
    ----------
    top_db
        Floor below the row's own largest valid band, in dB: quieter is raised to it. None leaves only ``floor``.
    floor
        Smallest power before the logarithm.

    References
    ----------
    librosa 0.11 ``power_to_db(ref=1.0)``, atol 1e-3 dB above the floor.
    """

    label = "log_mel"

    def __init__(self, n_mels: int = 80, n_fft: int = 512, win_length: int = 400, hop_length: int = 160,
                 *, sample_rate: int = SAMPLE_RATE, f_min_hz: float = 0.0, f_max_hz: float | None = None,
                 scale: str = "db", top_db: float | None = 80.0, floor: float = 1e-10):  # fmt: skip
        super().__init__(n_mels, n_fft, win_length, hop_length,
                         sample_rate=sample_rate, f_min_hz=f_min_hz, f_max_hz=f_max_hz)  # fmt: skip
        if scale not in ("db", "ln"):
            raise ValueError(f"scale must be 'db' or 'ln', got {scale!r}")
        self.top_db, self.floor = top_db, floor
        self.per_neper = 10 / math.log(10) if scale == "db" else 1.0  # dB per unit of ln(power)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Log-mel, (batch, n_mels, n_frames), zero behind the valid frames."""
        log_mel = super().from_power(power, n_valid).clamp_min(self.floor).log()
        if self.top_db is not None:  # frames behind the valid ones hold the floor, so they never are the largest
            top = self.top_db * math.log(10) / 10
            log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - top)
        return self.per_neper * log_mel * frame_mask(n_valid, log_mel.shape[2])[:, None]
