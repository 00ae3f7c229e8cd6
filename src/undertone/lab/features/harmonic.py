"""Chroma, spectral contrast, tonal centroids and harmonic-percussive separation, all from one power spectrum.

Each module agrees with librosa 0.11 to the tolerance that its docstring states (see ``tests/lab/features``). A band's
extremes and a window's median are picked by comparisons alone: no value is rounded on the way, unless a function says
so.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import frame_mask
from undertone.lab.features.spectral import SpectralFeature, block_product, dense_blocks, is_exporting

A0_HZ = 27.5
C1_HZ = A0_HZ * 2 ** (3 / 12)
N_OCTAVES = 7  # from C1, as librosa's constant-Q chroma
CENTRE_OCTAVE, OCTAVE_WIDTH = 5.0, 2.0  # above A0; chroma weighs bins by a Gaussian around 880 Hz
PITCH_MIN_HZ, PITCH_MAX_HZ = 150.0, 4_000.0  # where peaks tell the tuning
PEAK_SHARE = 0.1  # of a frame's largest bin: what is below is no peak
TUNING_STEPS = 100  # per chroma bin
MIN_DB, TOP_DB = -100.0, 80.0  # power_to_db's amin = 1e-10 and its range below the largest value
TINY = torch.finfo(torch.float32).tiny


class Chroma(SpectralFeature):
    """Energy of each pitch class, (batch, n_chroma, n_frames), in [0, 1]: a frame's largest is 1, a silent one 0.

    Parameters
    ----------
    n_chroma
        Pitch classes of an octave; row 0 is C.
    tuning
        How far the clip is from A = 440 Hz, in chroma bins; None estimates it for each clip, as librosa does.

    References
    ----------
    librosa 0.11 ``feature.chroma_stft``: 1e-4 at a given ``tuning``. The estimate is a histogram's peak, which rounding
    can move where two of its bins are level: it was librosa's own for 397 of 400 clips of four corpora at n_fft 2048
    and 22,050 Hz, for 393 of 400 at n_fft 512 and 16 kHz. Taking 0 instead moves chroma by 0.05 and 0.03 on average.
    """

    position: Tensor
    width: Tensor
    filters: Tensor
    label = "chroma"

    def __init__(self, n_chroma: int = 12, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 tuning: float | None = None, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        if n_chroma < 1:
            raise ValueError(f"n_chroma must be at least 1, got {n_chroma}")
        self.n_chroma = self.n_features = n_chroma
        self.tuning = tuning
        position, width = _chroma_positions(n_fft, n_chroma, sample_rate)
        self.register_buffer("position", torch.from_numpy(position).float(), persistent=False)  # (K,), chroma bins
        self.register_buffer("width", torch.from_numpy(width).float(), persistent=False)  # (K,), chroma bins
        self.register_buffer("filters", self._tuned_filters(torch.tensor([tuning or 0.0])), persistent=False)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Chroma, (batch, n_chroma, n_frames)."""
        filters = self.filters if self.tuning is not None else self._tuned_filters(self.estimate_tuning(power))
        chroma = filters @ power
        largest = chroma.amax(dim=1, keepdim=True)
        return chroma / torch.where(largest < TINY, torch.ones_like(largest), largest)

    def estimate_tuning(self, power: Tensor) -> Tensor:
        """Deviation from A = 440 Hz in chroma bins, (batch,), in [-0.5, 0.5): where most of the loud peaks are."""
        hz_per_bin = self.power.sample_rate / self.power.n_fft
        first = math.ceil(PITCH_MIN_HZ / hz_per_bin)
        last = math.ceil(min(PITCH_MAX_HZ, self.power.sample_rate / 2) / hz_per_bin)  # not included
        frames = power.detach().transpose(1, 2)  # (B, T, K)
        below, here, above = (frames[:, :, first + step : last + step] for step in (-1, 0, 1))
        rises = frames[:, :, first : last + 1] > frames[:, :, first - 1 : last]
        is_peak = rises[:, :, :-1] & ~rises[:, :, 1:] & (here > PEAK_SHARE * frames.amax(dim=2, keepdim=True))
        bins = torch.arange(first, last, device=power.device, dtype=power.dtype).expand_as(here)
        is_peak, bins, below, here, above = _packed(is_peak, bins, below, here, above)
        # The parabola through the three points: its top is less than a bin away.
        slope, bend = (above - below) / 2, above + below - 2 * here
        shift = torch.where(slope.abs() < bend.abs(), -slope / torch.where(is_peak, bend, -1.0), 0.0)
        height = here + slope * shift / 2
        is_loud = is_peak & (height >= _masked_median(height, is_peak))
        pitch = self.n_chroma * torch.log2(torch.where(is_loud, (bins + shift) * (hz_per_bin / A0_HZ), 1.0))
        offset = pitch - (pitch + 0.5).floor()  # [-0.5, 0.5)
        step = ((offset + 0.5) * TUNING_STEPS).long().clamp(0, TUNING_STEPS - 1)
        count = power.new_zeros(power.shape[0], TUNING_STEPS).scatter_add(1, step, is_loud.to(power))
        tuning = count.argmax(dim=1) / TUNING_STEPS - 0.5
        return torch.where(count.amax(dim=1) > 0, tuning, 0.0)  # no peaks, no tuning

    def _tuned_filters(self, tuning: Tensor) -> Tensor:
        """Weight of each Fourier bin in each pitch class, (batch, n_chroma, n_bins), for tunings (batch,)."""
        n = self.n_chroma
        position = self.position - tuning[:, None, None]  # (B, 1, K)
        distance = position - torch.arange(n, device=tuning.device)[:, None] + round(n / 2)
        distance = distance - n * (distance / n).floor() - round(n / 2)  # (B, n, K), around the octave
        weight = torch.exp(-2 * (distance / self.width).square())
        weight = weight / weight.square().sum(dim=1, keepdim=True).sqrt()
        weight = weight * torch.exp(-0.5 * ((position / n - CENTRE_OCTAVE) / OCTAVE_WIDTH).square())
        return torch.cat([weight[:, 3 * (n // 12) :], weight[:, : 3 * (n // 12)]], dim=1)  # from A to C


def _chroma_positions(n_fft: int, n_chroma: int, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Place above A0 and width of each Fourier bin, both (n_bins,), in chroma bins; 0 Hz is put 1.5 octaves down."""
    frequency_hz = np.arange(1, n_fft) * sample_rate / n_fft
    position = n_chroma * np.log2(frequency_hz / A0_HZ)
    position = np.concatenate([[position[0] - 1.5 * n_chroma], position])
    width = np.maximum(np.diff(position, append=position[-1]), 1.0)
    return position[: n_fft // 2 + 1], width[: n_fft // 2 + 1]


def _packed(mask: Tensor, *values: Tensor) -> list[Tensor]:
    """Mask and masked values of each clip, (batch, n) each, out of (batch, T, K), padded to the most that a clip has.

    Inside an exported graph, whose shapes cannot depend on values, all of them stay.
    """
    if is_exporting():
        return [mask.flatten(1), *(value.flatten(1) for value in values)]
    row, *_ = cells = _nonzero(mask)
    n = row.bincount(minlength=len(mask))
    place = torch.arange(len(row), device=row.device) - (n.cumsum(0) - n)[row]
    size = (len(n), max(int(n.amax()), 1))
    packed = [values[0].new_zeros(size).index_put((row, place), value[cells]) for value in values]
    return [torch.arange(size[1], device=row.device) < n[:, None], *packed]


def _nonzero(mask: Tensor) -> tuple[Tensor, ...]:
    """``mask.nonzero(as_tuple=True)``, with numpy's help a few times faster where there is little to find."""
    if mask.device.type != "cpu":
        return mask.nonzero(as_tuple=True)
    cells = np.unravel_index(np.flatnonzero(mask.numpy()), mask.shape)
    return tuple(torch.from_numpy(cell) for cell in cells)


def _masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Median of the masked values of each row (batch, n), (batch, 1); of an even number the mean of the middle two."""
    n = mask.sum(dim=1, keepdim=True)
    values = torch.where(mask, values, torch.inf).sort(dim=1).values
    middle = torch.cat([(n - 1).clamp_min(0) // 2, n // 2], dim=1).clamp_max(values.shape[1] - 1)
    return values.gather(1, middle).mean(dim=1, keepdim=True)


class SpectralContrast(SpectralFeature):
    """Peaks over valleys of octave bands in dB, (batch, n_bands + 1, n_frames): high for voices, low for noise.

    Parameters
    ----------
    n_bands
        Octaves above ``f_min_hz``; one more row for what is below.
    f_min_hz
        Upper edge of the lowest band.
    quantile
        Share of a band's bins, at least one, whose mean magnitude is its peak, and likewise its valley.

    floor
        Share of a frame's largest magnitude to which lower ones are raised: below it single precision rounds.

    References
    ----------
    librosa 0.11 ``feature.spectral_contrast``, on magnitudes: 0.01 dB where a valley is above 1e-4 of its frame's
    largest magnitude (83 % of 400 real clips at 16 kHz), 0.5 dB down to the floor (97 %). Below, as in a band that
    resampling left empty (85 % are above it in clips brought from 16 to 22.05 kHz), the floor keeps contrast low where
    librosa's measures the rounding of the file, up to 40 dB more.
    """

    label = "spectral_contrast"

    def __init__(self, n_bands: int = 6, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 f_min_hz: float = 200.0, quantile: float = 0.02, floor: float = 1e-6,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        if not 0 < quantile < 0.5:
            raise ValueError(f"quantile must be between 0 and 0.5, got {quantile}")
        self.n_features = n_bands + 1
        self.floor = floor
        self.bands = _octave_bands(n_bands, n_fft, f_min_hz, quantile, sample_rate)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Contrast in dB, (batch, n_bands + 1, n_frames), zero behind the valid frames."""
        picked = [_extremes(power[:, first:last], n_picked) for first, last, n_picked in self.bands]
        valleys, peaks = zip(*picked, strict=True)
        floor = self.floor * _magnitude(power.amax(dim=1, keepdim=True))
        peak, valley = (torch.maximum(torch.stack(rows, dim=1), floor) for rows in (peaks, valleys))
        return (_decibels(peak) - _decibels(valley)) * frame_mask(n_valid, power.shape[2])[:, None]


def _octave_bands(n_bands: int, n_fft: int, f_min_hz: float, quantile: float,
                  sample_rate: int) -> list[tuple[int, int, int]]:  # fmt: skip
    """First bin, bin behind the last, and how many of them are a peak, for each band."""
    edges_hz = [0.0] + [f_min_hz * 2**octave for octave in range(n_bands + 1)]
    if n_bands < 1 or f_min_hz <= 0 or edges_hz[-2] >= sample_rate / 2:
        raise ValueError(f"{n_bands} octaves above {f_min_hz} Hz do not start below {sample_rate / 2} Hz; take fewer")
    frequency_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    bands = []
    for row in range(n_bands + 1):
        inside = np.flatnonzero((frequency_hz >= edges_hz[row]) & (frequency_hz <= edges_hz[row + 1]))
        if len(inside) < 2:
            raise ValueError(f"band {row} has fewer than two bins of {sample_rate / n_fft:.1f} Hz; take a larger n_fft")
        first, last = int(inside[0]) - (row > 0), int(inside[-1])  # one bin below; the uppermost is the next band's
        if row == n_bands:
            last = len(frequency_hz) - 1
        n_picked = max(round(quantile * (last + 1 - first)), 1)
        bands.append((first, last + (row == n_bands), n_picked))
    return bands


def _extremes(band: Tensor, n_picked: int) -> tuple[Tensor, Tensor]:
    """Mean magnitude of the ``n_picked`` smallest and of the largest powers of each frame: (B, K, T) -> (B, T) each."""
    if n_picked == 1:
        smallest, largest = band.amin(dim=1, keepdim=True), band.amax(dim=1, keepdim=True)
    elif band.requires_grad or band.device.type != "cpu" or is_exporting():
        smallest, largest = (band.topk(n_picked, dim=1, largest=side, sorted=False).values for side in (False, True))
    else:  # numpy sorts all of them in a tenth of the time in which torch finds the largest
        ranked = torch.from_numpy(np.sort(band.transpose(1, 2).numpy(), axis=2)).transpose(1, 2)
        smallest, largest = ranked[:, :n_picked], ranked[:, -n_picked:]
    return _magnitude(smallest).mean(dim=1), _magnitude(largest).mean(dim=1)


def _magnitude(power: Tensor) -> Tensor:
    """Square root with a finite gradient at zero."""
    if not power.requires_grad:
        return power.sqrt()
    return torch.where(power < TINY, 0.0, power.clamp_min(TINY).sqrt())


def _decibels(magnitude: Tensor) -> Tensor:
    """``power_to_db`` of each clip, (B, F, T); the zeros behind a clip never are its largest."""
    level_db = 10 * magnitude.clamp_min(10 ** (MIN_DB / 10)).log10()
    return torch.maximum(level_db, level_db.amax(dim=(1, 2), keepdim=True) - TOP_DB)


class _Separated(SpectralFeature):
    """Power spectrum through a soft mask, (batch, n_bins, n_frames)."""

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *, kernel: int = 31,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        if kernel < 3 or (kernel + 1) & kernel:
            raise ValueError(f"kernel must be one less than a power of two (15, 31, 63), got {kernel}")
        self.kernel, self.n_features = kernel, self.power.n_bins


class Harmonic(_Separated):
    """Power of what lasts, vowels and notes, (batch, n_bins, n_frames): harmonic-percussive separation.

    Parameters
    ----------
    kernel
        Frames of the median over time, and bins of that over frequency; one less than a power of two.

    References
    ----------
    librosa 0.11 ``decompose.hpss`` (soft mask, ``power=2``), its harmonic magnitudes squared, 1e-4 of the largest bin.
    """

    label = "harmonic"

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Harmonic power, (batch, n_bins, n_frames)."""
        return power * harmonic_mask(power, n_valid, self.kernel).square()


class Percussive(_Separated):
    """Power of what is short, plosives and clicks, (batch, n_bins, n_frames): harmonic-percussive separation.

    Parameters
    ----------
    kernel
        As of :class:`Harmonic`.

    References
    ----------
    librosa 0.11 ``decompose.hpss`` (soft mask, ``power=2``), its percussive magnitudes squared, 1e-4 of the largest
    bin.
    """

    label = "percussive"

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Percussive power, (batch, n_bins, n_frames)."""
        return power * (1 - harmonic_mask(power, n_valid, self.kernel)).square()


def harmonic_mask(power: Tensor, n_valid: Tensor, kernel: int = 31, *, half: bool = False) -> Tensor:
    """Share of the harmonic magnitude in each bin, in [0, 1], shape as ``power``, (batch, n_bins, n_frames).

    Medians of powers are the squares of medians of magnitudes, so this is the soft mask of power 2 without a root.
    With ``half``, medians are of magnitudes in half precision: 1e-3, in half of the time.
    """
    frames = power.transpose(1, 2)  # which is how they lie in memory
    values = _half_magnitudes(frames) if half else frames
    along_time = sliding_median(_mirrored(values, n_valid, kernel // 2), kernel)
    n_bins = torch.full_like(n_valid, power.shape[1])
    along_frequency = sliding_median(_mirrored(values.transpose(1, 2), n_bins, kernel // 2), kernel)
    along_frequency = along_frequency.transpose(1, 2).contiguous()  # the next steps are faster on two that lie alike
    if half:
        harmonic, percussive = _power_of(along_time), _power_of(along_frequency)
        return (harmonic / (harmonic + percussive)).transpose(1, 2)
    total = along_time + along_frequency
    return torch.where(total < TINY, 0.5, along_time / total.clamp_min(TINY)).transpose(1, 2)


def _half_magnitudes(power: Tensor) -> Tensor:
    """Magnitudes in half precision, each clip's largest at 2^15, as the 16-bit integers that have their order.

    Twice as many of these as of single precision are compared in one instruction. An exported graph gets the same
    numbers in single precision; where a gradient is wanted, they are not rounded.
    """
    peak = power.amax(dim=(1, 2), keepdim=True)
    magnitude = _magnitude(power / torch.where(peak < TINY, 1.0, peak)) * 2.0**15
    if magnitude.requires_grad:
        return magnitude
    return magnitude.half().float() if is_exporting() else magnitude.half().view(torch.int16)


def _power_of(magnitude: Tensor) -> Tensor:
    """Powers out of what :func:`_half_magnitudes` gave, in single precision, none of them quite zero."""
    values = magnitude if magnitude.is_floating_point() else magnitude.view(torch.float16).float()
    return values.square() + 2.0**-48  # what the smallest of half precision has


def _mirrored(rows: Tensor, n_valid: Tensor, reach: int) -> Tensor:
    """Rows (batch, n, width), the valid ones continued by their mirror image: (batch, n + 2 * reach, width)."""
    batch, n, _ = rows.shape
    index = torch.arange(-reach, n + reach, device=rows.device)[None]  # (1, n + 2 * reach)
    period = 2 * n_valid[:, None]
    index = index - period * torch.div(index, period, rounding_mode="floor")
    index = torch.minimum(index, period - 1 - index)  # ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
    index = index + n * torch.arange(batch, device=rows.device)[:, None]
    return rows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, (batch, n + 2 * reach))


def sliding_median(rows: Tensor, kernel: int) -> Tensor:
    """Median of every ``kernel`` neighbouring rows: (batch, n + kernel - 1, width) -> (batch, n, width).

    Windows that start within half a kernel of each other share most of their rows. Blocks of 2, 4, ... rows are sorted
    once; each window starts from the sorted block that it shares with its neighbours and takes in ever smaller blocks,
    while those values that can no longer be the median are dropped. That is about 25 comparisons per value for a
    kernel of 31, each on whole tensors.

    Parameters
    ----------
    kernel
        One less than a power of two.

    References
    ----------
    Adams (2021), Fast median filters using separable sorting networks, https://doi.org/10.1145/3450626.3459773, for the
    idea of sharing. ``scipy.ndimage.median_filter``, exactly.
    """
    half = (kernel + 1) // 2
    n = rows.shape[1] - kernel + 1
    n_groups = n // half + 2  # of half windows each; never one, which an exported graph would take for granted
    rows = F.pad(rows, (0, 0, 1, (n_groups + 2) * half - n - kernel)).unflatten(1, (n_groups + 2, half))
    blocks = rows.permute(2, 0, 1, 3)[None]  # (rows of a block, blocks, B, groups, width)
    pairs = [(blocks[:, 0::2], blocks[:, 1::2])]  # of 1, 2, 4, ... rows; the first of a pair rises, the other falls
    while len(pairs[-1][0]) < half // 2:
        rising, falling = pairs[-1]
        pairs.append((_sort(rising[:, 0::2], falling[:, 0::2]), _sort(rising[:, 1::2], falling[:, 1::2], falls=True)))
    core = _sort(*pairs[-1])[:, :, :, 1:-1]  # what the windows of a group share: any of it may be their median
    for rising, falling in reversed(pairs):  # windows of a group's first half take in rows before it, the others behind
        low, high = core.chunk(2)
        core = _clamp(falling[:, :, :, :-2], rising[:, :, :, 2:].flip(0), low, high).flatten(1, 2)
        core = core if len(core) == 1 else _sort(*core.chunk(2))
    return core[0].permute(1, 2, 0, 3).flatten(1, 2).index_select(1, torch.arange(n, device=rows.device))


def _sort(low: Tensor, high: Tensor, *, falls: bool = False) -> Tensor:
    """Sort along the first dimension: halves, a power of two long, that together rise and fall, or fall and rise.

    The result rises, or, with ``falls``, falls.

    References
    ----------
    Batcher (1968), Sorting networks and their applications: the bitonic merge.
    """
    values = _ordered(low[None], high[None], falls=falls)
    while step := values.shape[2] // 2:
        values = _ordered(*values.flatten(0, 1).unflatten(1, (2, step)).unbind(1), falls=falls)
    return values.flatten(0, 2)


def _ordered(low: Tensor, high: Tensor, *, falls: bool) -> Tensor:
    """Order each two, (n, step, ...) -> (n, 2, step, ...): the smaller first, or, with ``falls``, the larger."""
    if low.requires_grad or is_exporting():
        both = torch.minimum(low, high), torch.maximum(low, high)
        return torch.stack(both[::-1] if falls else both, dim=1)
    ordered = low.new_empty(len(low), 2, *low.shape[1:])  # saves a copy
    torch.minimum(low, high, out=ordered[:, int(falls)])
    torch.maximum(low, high, out=ordered[:, int(not falls)])
    return ordered


def _clamp(first: Tensor, second: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Hold each value between two others, (size, n, ...) -> (size, n, 2, ...), those of ``first`` before the rest."""
    if low.requires_grad or is_exporting():
        return torch.stack([torch.minimum(torch.maximum(low, value), high) for value in (first, second)], dim=2)
    clamped = low.new_empty(*low.shape[:2], 2, *low.shape[2:])
    for side, value in enumerate((first, second)):
        torch.clamp(value, low, high, out=clamped[:, :, side])
    return clamped


class HarmonicChroma(SpectralFeature):
    """Pitch classes of the harmonic part alone, (batch, 12, n_frames), as a constant-Q transform weighs them.

    Seven octaves from C1 count alike. Magnitudes are read off the spectrum at three points a semitone, raised to 1.25
    (which makes up for the Fourier transform's wider peaks), and each octave is averaged over half the length of a
    constant-Q filter in its middle, whose window's ends count little. Frames are not normalised.
    """

    filters: Tensor
    smoothing: Tensor
    label = "harmonic_chroma"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *, kernel: int = 31,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.kernel, self.n_features = kernel, 12
        filters = _semitone_filters(n_fft, sample_rate)
        self.n_bins = int(np.flatnonzero(filters.any(axis=0))[-1]) + 1  # above the last octave nothing counts
        self.n_octaves = len(filters) // 12
        self.blocks = dense_blocks(filters, self.n_octaves)
        self.register_buffer("filters", torch.from_numpy(filters[:, : self.n_bins].copy()), persistent=False)
        smoothing = _octave_windows(self.n_octaves, sample_rate / hop_length)
        self.register_buffer("smoothing", torch.from_numpy(smoothing)[None], persistent=False)  # (1, octaves, taps)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Harmonic chroma, (batch, 12, n_frames), not normalised."""
        power = power[:, : self.n_bins + self.kernel // 2]  # what the median over frequency reaches
        mask = harmonic_mask(power, n_valid, self.kernel, half=True)[:, : self.n_bins]
        power = power[:, : self.n_bins] * mask.square()
        magnitude = _magnitude(power)
        loudness = magnitude * _magnitude(_magnitude(magnitude))  # magnitude ** 1.25: roots are faster than powers
        semitones = block_product(self.filters, self.blocks, loudness)  # (B, octaves * 12, T)
        by_octave = semitones.unflatten(1, (self.n_octaves, 12)).transpose(1, 2).flatten(0, 1)  # (B * 12, octaves, T)
        chroma = F.conv1d(by_octave, self.smoothing, padding=self.smoothing.shape[2] // 2).unflatten(0, (-1, 12))[
            :, :, 0
        ]
        return chroma * frame_mask(n_valid, power.shape[2])[:, None]


def _semitone_filters(n_fft: int, sample_rate: int) -> np.ndarray:
    """Weight of each Fourier bin in each semitone from C1 on, (octaves * 12, n_bins) float32: three triangles each."""
    hz_per_bin = sample_rate / n_fft
    n_octaves = min(N_OCTAVES, math.floor(math.log2(sample_rate / 2 / C1_HZ)))
    if n_octaves < 1:
        raise ValueError(f"a sample rate of {sample_rate} Hz holds no octave above {C1_HZ:.1f} Hz")
    third = np.arange(12 * n_octaves)[:, None] + np.array([-1, 0, 1]) / 3  # semitones above C1
    centre_hz = (C1_HZ * 2 ** (third / 12))[:, :, None]  # (S, 3, 1)
    reach_hz = np.maximum(centre_hz * (2 ** (1 / 36) - 1), hz_per_bin)
    weight = np.maximum(0, 1 - np.abs(np.arange(n_fft // 2 + 1) * hz_per_bin - centre_hz) / reach_hz)
    weight /= weight.sum(axis=2, keepdims=True)
    weight[0, 0] = 0  # below C1 librosa has no filter, and rooms rumble
    return weight.sum(axis=1).astype(np.float32)


def _octave_windows(n_octaves: int, frames_per_second: float) -> np.ndarray:
    """Hann windows half as long as a constant-Q filter in each octave's middle, (n_octaves, taps) float32, sum 1."""
    length_s = 0.5 / (2 ** (1 / 36) - 1) / (C1_HZ * 2 ** (np.arange(n_octaves) + 0.5))
    halves = (length_s * frames_per_second / 2).astype(int)
    windows = np.zeros((n_octaves, 2 * halves[0] + 1))
    for window, half in zip(windows, halves, strict=True):
        window[halves[0] - half : halves[0] + half + 1] = np.hanning(2 * half + 3)[1:-1] / (half + 1)
    return windows.astype(np.float32)


class Tonnetz(SpectralFeature):
    """Tonal centroids, (batch, 6, n_frames): where the chroma's fifths, minor and major thirds point, in [-1, 1].

    Parameters
    ----------
    source
        ``"chroma"``: of :class:`Chroma`. ``"harmonic"``: of :class:`HarmonicChroma`, which stands in for librosa's own
        default on ``effects.harmonic(y)``, a constant-Q transform.
    tuning
        As of :class:`Chroma`; not used by ``"harmonic"``.

    References
    ----------
    Harte, Sandler & Gasser (2006), https://doi.org/10.1145/1178723.1178727. librosa 0.11 ``feature.tonnetz`` of a given
    chroma: 1e-4. ``"harmonic"`` differs from librosa's ``tonnetz(y=harmonic(y))`` by 0.042 on average over 40 clips of
    four corpora at 22,050 Hz, where librosa's deviates by 0.119 over all frames; the two correlate at 0.83 (0.78 to
    0.89 by row). ``"chroma"`` differs by 0.072 and correlates at 0.59.
    """

    centroids: Tensor
    label = "tonnetz"

    def __init__(self, source: str = "chroma", n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 tuning: float | None = None, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        if source == "chroma":
            self.chroma = Chroma(12, n_fft, win_length, hop_length, tuning=tuning, sample_rate=sample_rate)
        elif source == "harmonic":
            self.chroma = HarmonicChroma(n_fft, win_length, hop_length, sample_rate=sample_rate)
        else:
            raise ValueError(f"source must be 'chroma' or 'harmonic', got {source!r}")
        self.chroma.power = self.power
        self.n_features = 6
        self.register_buffer("centroids", torch.from_numpy(_tonal_centroids()), persistent=False)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Tonal centroids, (batch, 6, n_frames)."""
        chroma = self.chroma.from_power(power, n_valid)
        total = chroma.sum(dim=1, keepdim=True)
        return self.centroids @ (chroma / torch.where(total < TINY, torch.ones_like(total), total))


def _tonal_centroids() -> np.ndarray:
    """Place of each of the twelve pitch classes on three circles, (6, 12) float32."""
    angle = math.pi * np.outer([7 / 6, 3 / 2, 2 / 3], np.arange(12))  # fifths, minor and major thirds
    radius = np.array([1.0, 1.0, 0.5])[:, None]
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1).reshape(6, -1).astype(np.float32)
