"""Power spectrum, mel and log-mel, agreeing with librosa 0.11 to 1e-4 relative (see ``tests/lab/features``).

The short-time Fourier transform is an FFT in torch. The ONNX ``STFT`` operator is missing or slow in many runtimes, so
inside an exported graph it is two products with small matrices (:class:`TwoStepDFT`), which are fast in all of them.
They agree to float32 rounding, which the export's parity check confirms for every model file.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, frame_mask

WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window}


def is_exporting() -> bool:
    """Whether this is a trace for a model file: shapes must not depend on values, and some operators do not exist."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


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
        self.offset = (n_fft - win_length) // 2
        centred = F.pad(taps, (self.offset, n_fft - win_length - self.offset))
        self.register_buffer("window", centred.float(), persistent=False)  # (n_fft,)
        self.exported = TwoStepDFT(self)

    def count_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames per row, (batch,) int64, of ``lengths`` valid samples."""
        return lengths // self.hop_length + 1

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Power spectrum, (batch, n_bins, n_frames), and valid frames per row, (batch,)."""
        if waveform.ndim != 2:
            raise ValueError(f"expected waveform of shape (batch, n_samples), got {tuple(waveform.shape)}")
        n_valid = self.count_frames(lengths)
        if is_exporting():
            power = self.exported(_silence_behind(waveform, lengths))
        elif self.goes_row_by_row(waveform):
            power = waveform.new_empty(len(waveform), waveform.shape[1] // self.hop_length + 1, self.n_bins)
            for row, squares in zip(power.detach().numpy(), self.row_by_row(waveform, lengths), strict=True):
                parts = squares.detach().numpy()  # numpy adds neighbours faster than torch
                np.add(parts[:, :, 0], parts[:, :, 1], out=row[: len(parts)])
                row[len(parts) :] = 0
            return power.transpose(1, 2), n_valid
        else:
            real, imag = torch.view_as_real(self._transform(_silence_behind(waveform, lengths))).square().unbind(-1)
            power = (real + imag).transpose(1, 2)
        return power * frame_mask(n_valid, power.shape[2])[:, None], n_valid

    def goes_row_by_row(self, waveform: Tensor) -> bool:
        """Whether :meth:`row_by_row` is for it: on a processor, when no gradient is asked for."""
        return waveform.is_cpu and not waveform.requires_grad and not is_exporting()

    def row_by_row(self, waveform: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """Squares of real and imaginary parts, (n_valid, n_bins, 2), of one row of the batch after the other.

        What is worked on stays in the processor's cache, and padding costs nothing.
        """
        half = self.n_fft // 2
        samples = waveform.new_zeros(waveform.shape[1] + self.n_fft)
        frames = samples.unfold(0, self.n_fft, self.hop_length)
        windowed = torch.empty_like(frames, memory_format=torch.contiguous_format)
        for row, length, n_valid in zip(waveform, lengths.tolist(), self.count_frames(lengths).tolist(), strict=True):
            samples[half : half + length].copy_(row[:length])
            samples[half + length : 2 * half + length].zero_()
            torch.mul(frames[:n_valid], self.window, out=windowed[:n_valid])
            yield torch.view_as_real(torch.fft.rfft(windowed[:n_valid])).square_()

    def _transform(self, waveform: Tensor) -> Tensor:
        """Complex spectrum, (batch, n_frames, n_bins)."""
        return torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            self.n_fft,
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).transpose(-2, -1)


def _silence_behind(waveform: Tensor, lengths: Tensor) -> Tensor:
    # Filled, not multiplied: a caller's uninitialised memory may hold NaN, and NaN * 0 is NaN.
    behind = torch.arange(waveform.shape[1], device=waveform.device) >= lengths[:, None]
    return waveform.masked_fill(behind, 0.0)


class TwoStepDFT(nn.Module):
    """Power spectrum in two small matrix products: waveform (B, N) -> (B, n_bins, n_frames).

    A frame of ``rows * columns`` samples, written row by row, is transformed down its columns, turned by the twiddle
    factors, and transformed along its rows. The sound is real, so half of the first transforms say all: bin ``k`` has
    the power of bin ``n_fft - k``. At 2,048 that is 0.27 million multiplications a frame and 50 kB of constants, where
    the whole Fourier basis takes 4.2 million and 17 MB.

    References
    ----------
    Cooley & Tukey (1965), https://doi.org/10.1090/S0025-5718-1965-0178586-1. ``torch.stft``, 1e-5 of the largest bin.
    """

    window: Tensor
    down: Tensor
    twiddle: Tensor
    along: Tensor
    bins: Tensor

    def __init__(self, spectrum: PowerSpectrum):
        super().__init__()
        n_fft, self.hop_length = spectrum.n_fft, spectrum.hop_length
        self.n_fft, self.step = n_fft, math.gcd(spectrum.hop_length, n_fft)
        divisors = [rows for rows in range(1, n_fft + 1) if n_fft % rows == 0]
        self.rows = min(divisors, key=lambda rows: (rows // 2 + 1) * (n_fft + 2 * (n_fft // rows) ** 2))
        self.columns, self.n_half = n_fft // self.rows, self.rows // 2 + 1
        real, imag = _fourier(self.rows, self.n_half, self.rows)  # (rows, n_half)
        self.register_buffer("down", torch.cat([real, imag], dim=1).T.float().contiguous(), persistent=False)
        self.register_buffer(
            "twiddle", torch.stack(_fourier(self.n_half, self.columns, n_fft)).float(), persistent=False
        )
        real, imag = _fourier(self.columns, self.columns, self.columns)
        along = torch.cat([torch.cat([real, imag], dim=1), torch.cat([-imag, real], dim=1)])
        self.register_buffer("along", along.float(), persistent=False)  # (2 columns, 2 columns): real and imaginary
        self.register_buffer("window", spectrum.window, persistent=False)
        bins = torch.arange(spectrum.n_bins)
        bins = torch.where(bins % self.rows < self.n_half, bins, n_fft - bins)
        bins = bins % self.rows * self.columns + torch.div(bins, self.rows, rounding_mode="floor")
        self.register_buffer("bins", bins, persistent=False)  # where each of them comes out

    def forward(self, waveform: Tensor) -> Tensor:
        """Power spectrum, (batch, n_bins, n_frames)."""
        frames = (self._cut(waveform) * self.window).unflatten(2, (self.rows, self.columns))
        down = self.down @ frames  # (B, T, 2 n_half, columns)
        real, imag = down[:, :, : self.n_half], down[:, :, self.n_half :]
        cos, sin = self.twiddle[0], self.twiddle[1]
        turned = torch.cat([real * cos - imag * sin, real * sin + imag * cos], dim=3)  # (B, T, n_half, 2 columns)
        along = (turned @ self.along).square()
        power = along[:, :, :, : self.columns] + along[:, :, :, self.columns :]
        return power.flatten(2, 3).index_select(2, self.bins).transpose(1, 2)

    def _cut(self, waveform: Tensor) -> Tensor:
        """Centred frames, (batch, n_frames, n_fft), put together from blocks that frames share."""
        n_hops = waveform.shape[1] // self.hop_length
        n_blocks = n_hops * (self.hop_length // self.step) + self.n_fft // self.step
        padded = F.pad(waveform, (self.n_fft // 2, self.n_fft - self.n_fft // 2))[:, : n_blocks * self.step]
        blocks = padded.unflatten(1, (n_blocks, self.step))
        first = torch.arange(n_hops + 1, device=waveform.device)[:, None] * (self.hop_length // self.step)
        index = first + torch.arange(self.n_fft // self.step, device=waveform.device)  # (T, blocks of a frame)
        frames = blocks.index_select(1, index.flatten()).flatten(1, 2)
        return frames.unflatten(1, (n_hops + 1, self.n_fft))


def _fourier(n_rows: int, n_columns: int, period: int) -> tuple[Tensor, Tensor]:
    """Cosine and negative sine of ``2 pi row column / period``, (n_rows, n_columns) float64 each."""
    angle = torch.outer(torch.arange(n_rows, dtype=torch.float64), torch.arange(n_columns, dtype=torch.float64))
    angle = angle * (2 * math.pi / period)
    return torch.cos(angle), -torch.sin(angle)


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

    filters: Tensor
    label = "mel"

    def __init__(self, n_mels: int = 80, n_fft: int = 512, win_length: int = 400, hop_length: int = 160,
                 *, sample_rate: int = SAMPLE_RATE, f_min_hz: float = 0.0, f_max_hz: float | None = None):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.n_features = n_mels
        filters = mel_filters(n_fft, n_mels, sample_rate=sample_rate, f_min_hz=f_min_hz, f_max_hz=f_max_hz)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)  # (n_mels, F)
        # An eighth of the bands sees an eighth of the bins or less: worth eight products where the spectrum is fine.
        self.blocks = dense_blocks(filters, 8 if n_fft >= 1024 else 1)
        # Real and imaginary parts lie side by side: filters that hold each weight twice add them up on the way.
        self.pair_filters = [(2 * bins.start, self.filters[rows, bins].repeat_interleave(2, dim=1).T.contiguous())
                             for rows, bins in dense_blocks(filters, math.ceil(n_mels / 16))]  # fmt: skip

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (batch, n_features, n_frames), zero behind the valid frames, and valid frames per row."""
        if waveform.ndim != 2 or not self.power.goes_row_by_row(waveform):
            return super().forward(waveform, lengths)
        n_valid = self.power.count_frames(lengths)
        n_frames = waveform.shape[1] // self.power.hop_length + 1
        mel = waveform.new_empty(len(waveform), n_frames, len(self.filters))
        for row, squares in zip(mel, self.power.row_by_row(waveform, lengths), strict=True):
            self._filter_pairs(squares, row[: len(squares)])
            row[len(squares) :].zero_()
        return self.from_mel(mel.transpose(1, 2), n_valid), n_valid

    def _filter_pairs(self, squares: Tensor, mel: Tensor) -> None:
        """Write mel power, (n_frames, n_mels), of the squared parts of a spectrum, (n_frames, n_bins, 2)."""
        parts = squares.flatten(1)
        bands = mel.split([weights.shape[1] for _, weights in self.pair_filters], dim=1)
        for (first, weights), out in zip(self.pair_filters, bands, strict=True):
            torch.mm(parts.narrow(1, first, len(weights)), weights, out=out)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Features, (batch, n_features, n_frames), of a power spectrum (batch, n_bins, n_frames)."""
        mel = self.filters @ power if len(self.blocks) == 1 else block_product(self.filters, self.blocks, power)
        return self.from_mel(mel, n_valid)

    def from_mel(self, mel: Tensor, n_valid: Tensor) -> Tensor:
        """Features, (batch, n_features, n_frames), of mel power (batch, n_mels, n_frames)."""
        return mel


def dense_blocks(filters: np.ndarray, n_blocks: int) -> list[tuple[slice, slice]]:
    """Rows, in blocks, and the bins that they do not ignore."""
    blocks = []
    for rows in np.array_split(np.arange(len(filters)), min(n_blocks, len(filters))):
        bins = np.flatnonzero(filters[rows].any(axis=0))
        first, last = (bins[0], bins[-1]) if len(bins) else (0, 0)
        blocks.append((slice(int(rows[0]), int(rows[-1]) + 1), slice(int(first), int(last) + 1)))
    return blocks


def block_product(filters: Tensor, blocks: list[tuple[slice, slice]], power: Tensor) -> Tensor:
    """Apply filters (n, n_bins) to a spectrum (B, n_bins, T), block by block: (B, n, T)."""
    frames = power.transpose(1, 2)  # (B, T, n_bins), which is how they lie in memory
    return torch.cat([frames[:, :, bins] @ filters[rows, bins].T for rows, bins in blocks], dim=2).transpose(1, 2)


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

    def from_mel(self, mel: Tensor, n_valid: Tensor) -> Tensor:
        """Log-mel, (batch, n_mels, n_frames), zero behind the valid frames."""
        log_mel = mel.clamp_min(self.floor).log_()
        if self.top_db is not None:  # frames behind the valid ones hold the floor, so they never are the largest
            top = self.top_db * math.log(10) / 10
            log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - top)
        return log_mel.mul_((self.per_neper * frame_mask(n_valid, log_mel.shape[2]))[:, None])
