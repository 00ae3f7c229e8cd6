"""One number per frame, and a few: zero crossings, energy, and the shape of the spectrum.

Each agrees with the function of librosa 0.11 of the same name, to the tolerance that its docstring states. Those of the
spectrum take its magnitude, as librosa's do. They are 0 for a frame without sound but where stated; sound below
1e-18 of full scale, whose power is 0 in single precision, is none.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, frame_mask
from undertone.lab.features.spectral import SpectralFeature

ZERO_BELOW = 1e-10  # librosa's: smaller samples count as 0, which counts as positive


class FramedFeature(Feature):
    """A number per frame of the waveform itself; frames are centred.

    Parameters
    ----------
    frame_length
        Samples, an even number.
    hop_length
        Samples.
    """

    n_features = 1

    def __init__(self, frame_length: int = 2048, hop_length: int = 512, *, sample_rate: int = SAMPLE_RATE):
        super().__init__()
        if frame_length < 2 or frame_length % 2 or hop_length < 1:
            raise ValueError(
                f"need an even frame_length and a positive hop_length, got {frame_length} and {hop_length}"
            )
        self.frame_length, self.hop_length = frame_length, hop_length
        self.frames_per_second = sample_rate / hop_length

    def from_valid(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Value per frame, (batch, n_frames), of a waveform that is 0 behind its valid samples."""
        raise NotImplementedError

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (batch, 1, n_frames), zero behind the valid frames, and valid frames per row."""
        waveform = waveform.masked_fill(frame_mask(lengths, waveform.shape[1]) == 0, 0.0)
        values = self.from_valid(waveform, lengths)
        n_valid = lengths // self.hop_length + 1
        return (values * frame_mask(n_valid, values.shape[1]))[:, None], n_valid


class ZeroCrossingRate(FramedFeature):
    """Share of the samples of a frame at which the sign changes, (batch, 1, n_frames), in [0, 1]; no gradient.

    References
    ----------
    librosa 0.11 ``feature.zero_crossing_rate`` (frames filled up with the first and last sample), 1e-6.
    """

    label = "zcr"

    def from_valid(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Crossings per frame over its length."""
        is_negative = (waveform < -ZERO_BELOW).long()
        crossings = (is_negative[:, 1:] - is_negative[:, :-1]).abs()  # (B, N - 1), from sample i to i + 1
        # Behind the last valid sample it is held, so that the step to the zeros there is none.
        crossings = crossings * (torch.arange(crossings.shape[1], device=lengths.device) < lengths[:, None] - 1)
        total = F.pad(crossings.cumsum(1), (1, 0))  # (B, N), of those before each sample
        centre = self.hop_length * torch.arange(
            waveform.shape[1] // self.hop_length + 1, device=waveform.device
        )  # (T,)
        last = waveform.shape[1] - 1
        first_sample = (centre - self.frame_length // 2).clamp(0, last)
        last_sample = (centre + self.frame_length // 2 - 1).clamp(0, last)
        return (total[:, last_sample] - total[:, first_sample]).to(waveform.dtype) / self.frame_length


class RMS(FramedFeature):
    """Root of the mean square of each frame of the waveform, (batch, 1, n_frames), 0 or more.

    References
    ----------
    librosa 0.11 ``feature.rms`` (of the waveform, frames filled up with zeros), 1e-4 of the largest value.
    """

    label = "rms"

    def from_valid(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Root mean square per frame."""
        half = self.frame_length // 2
        padded = F.pad(waveform.square(), (half, half))[:, None]  # (B, 1, N + frame_length)
        return root(F.avg_pool1d(padded, self.frame_length, self.hop_length)[:, 0])


def root(values: Tensor) -> Tensor:
    """Square root of values from 0 on, whose gradient at 0 is 0 and not infinite."""
    above = values > 0
    return torch.where(above, torch.where(above, values, torch.ones_like(values)).sqrt(), torch.zeros_like(values))


class _SpectrumShape(SpectralFeature):
    """A number per frame of the power spectrum."""

    n_features = 1
    bins_hz: Tensor

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        bins_hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
        self.register_buffer("bins_hz", bins_hz.float()[None, :, None], persistent=False)  # (1, K, 1)


def _shares(power: Tensor) -> Tensor:
    """Magnitude of each bin as a share of the frame's sum; 0 where there is none."""
    magnitude = root(power)
    total = magnitude.sum(1, keepdim=True)
    return magnitude / torch.where(total > 0, total, torch.ones_like(total))


class Centroid(_SpectrumShape):
    """Centre of gravity of the magnitude spectrum in Hz, (batch, 1, n_frames).

    References
    ----------
    librosa 0.11 ``feature.spectral_centroid``, 1e-4 of the largest value.
    """

    label = "centroid"

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Centroid, (batch, 1, n_frames)."""
        return (self.bins_hz * _shares(power)).sum(1, keepdim=True)


class Bandwidth(_SpectrumShape):
    """Spread of the magnitude spectrum around its centroid (standard deviation) in Hz, (batch, 1, n_frames).

    References
    ----------
    librosa 0.11 ``feature.spectral_bandwidth(p=2)``, 1e-3 of the largest value.
    """

    label = "bandwidth"

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Bandwidth, (batch, 1, n_frames)."""
        shares = _shares(power)
        centroid = (self.bins_hz * shares).sum(1, keepdim=True)
        return root(((self.bins_hz - centroid).square() * shares).sum(1, keepdim=True))


class Rolloff(_SpectrumShape):
    """Frequency in Hz below which a share of a frame's magnitude lies, (batch, 1, n_frames); no gradient.

    Parameters
    ----------
    share
        In (0, 1).

    References
    ----------
    librosa 0.11 ``feature.spectral_rolloff`` (``roll_percent``): equal in 999 frames of 1000, else one bin apart.
    """

    label = "rolloff"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *, share: float = 0.85,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate=sample_rate)
        if not 0 < share < 1:
            raise ValueError(f"share must be in (0, 1), got {share}")
        self.share = share

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Roll-off, (batch, 1, n_frames)."""
        total = root(power).cumsum(1)
        below = (total < self.share * total[:, -1:]).long().sum(1, keepdim=True)  # (B, 1, T)
        return below.to(power.dtype) * self.bins_hz[:, 1:2]


class Flatness(_SpectrumShape):
    """Geometric over arithmetic mean of the power spectrum, (batch, 1, n_frames), in (0, 1]; 1 for digital silence.

    Parameters
    ----------
    floor
        Smallest power of a bin.

    References
    ----------
    librosa 0.11 ``feature.spectral_flatness``, 1e-3.
    """

    label = "flatness"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *, floor: float = 1e-10,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate=sample_rate)
        self.floor = floor

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Flatness, (batch, 1, n_frames)."""
        power = power.clamp_min(self.floor)
        flatness = power.log().mean(1, keepdim=True).exp() / power.mean(1, keepdim=True)
        return flatness * frame_mask(n_valid, power.shape[2])[:, None]


class PolyFeatures(_SpectrumShape):
    """Coefficients of a polynomial in the frequency, fitted to each frame's magnitudes: (batch, order + 1, n_frames).

    The highest power comes first.

    Parameters
    ----------
    order
        Degree of the polynomial.
    unit_hz
        Unit of the frequency. In Hz, as librosa has it, high coefficients come near to the end of single precision
        (order 9: around 1e-35); in kHz (1000) they do not, and after standardisation both are the same.

    References
    ----------
    librosa 0.11 ``feature.poly_features``, 1e-4 of each row's largest value up to order 9, for voices and noise. That
    fit is ill-conditioned, so its pseudo-inverse is worked out in double precision, once. Coefficients that are 0 but
    for rounding, as most of a click's, have no such tolerance.
    """

    label = "poly"

    def __init__(self, order: int = 1, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 unit_hz: float = 1.0, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate=sample_rate)
        if not 0 <= order < n_fft // 2 or unit_hz <= 0:
            raise ValueError(f"need 0 <= order < {n_fft // 2} and unit_hz above 0, got {order} and {unit_hz}")
        self.n_features = order + 1
        # Fitted in shares of the Nyquist frequency, whose powers stay in range; the unit follows at the end.
        design = np.vander(np.linspace(0, 1, n_fft // 2 + 1), order + 1)  # (K, order + 1)
        unit = (2 * unit_hz / sample_rate) ** np.arange(order, -1, -1.0)
        self.register_buffer("fit", torch.from_numpy(np.linalg.pinv(design)).float(), persistent=False)
        self.register_buffer("unit", torch.from_numpy(unit).float()[:, None], persistent=False)

    fit: Tensor
    unit: Tensor

    @property
    def names(self) -> list[str]:
        """``poly_1`` and ``poly_0`` for order 1: the power of the frequency that it belongs to."""
        return [f"poly_{power}" for power in range(self.n_features - 1, -1, -1)]

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Coefficients, (batch, order + 1, n_frames)."""
        return self.unit * (self.fit @ root(power))
