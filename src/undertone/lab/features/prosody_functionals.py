"""How a clip was spoken, as one vector of named values: functionals of pitch, loudness, voice quality and spectrum."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.cepstral import MFCC, with_deltas
from undertone.lab.features.feature import Feature, frame_mask
from undertone.lab.features.prosody import Loudness, PitchTrack, Voice, following, previous, short_frames
from undertone.lab.features.spectral import SpectralFeature

FRAMES_PER_SECOND = 100
MOMENTS = ("mean", "std")
PERCENTILES = ("p05", "p20", "p50", "p80", "p95", "range")  # range: from the 20th to the 80th
SPEEDS = ("rise_mean", "rise_std", "fall_mean", "fall_std", "trend")  # per second
TIMES = ("per_s", "length_mean_s", "length_std_s")  # of voiced stretches, and of what is between them
TILTS = ("h1_h2_db", "h1_h3_db")


class SpectralBalance(SpectralFeature):
    """How a spectrum's energy is spread, (batch, 5, n_frames): what a tense, loud or breathy voice changes.

    Rows: alpha ratio (50 Hz-1 kHz over 1-5 kHz, dB), Hammarberg index (strongest bin below 2 kHz over that of
    2-5 kHz, dB), slope of the spectrum in dB from 0 to 500 Hz and from 500 to 1500 Hz (dB per kHz), and flux (root
    mean square change of the normalised spectrum from the frame before). Frames without sound are 0.

    References
    ----------
    Eyben et al. (2016), The Geneva minimalistic acoustic parameter set, https://doi.org/10.1109/TAFFC.2015.2457417.
    """

    label = "balance"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.n_features, self.bins_per_khz = 5, 1_000 * n_fft / sample_rate

    @property
    def names(self) -> list[str]:
        """``alpha_ratio_db``, ``hammarberg_db``, ``slope_0_500``, ``slope_500_1500``, ``flux``."""
        return ["alpha_ratio_db", "hammarberg_db", "slope_0_500", "slope_500_1500", "flux"]

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Five rows, (batch, 5, n_frames)."""
        db = 10 * power.clamp_min(1e-10).log10()
        low, high = self._band(power, 0.05, 1.0).sum(1), self._band(power, 1.0, 5.0).sum(1)
        alpha = 10 * (low.clamp_min(1e-10) / high.clamp_min(1e-10)).log10()
        hammarberg = self._band(db, 0.0, 2.0).amax(1) - self._band(db, 2.0, 5.0).amax(1)
        slopes = [self._slope(self._band(db, *band_khz)) for band_khz in ((0.0, 0.5), (0.5, 1.5))]
        amplitude = power.clamp_min(1e-12).sqrt()
        shape = amplitude / amplitude.sum(1, keepdim=True)
        change = (shape - previous(shape)).square().sum(1).clamp_min(1e-12).sqrt()
        change = change * (torch.arange(change.shape[1], device=change.device) > 0)  # the first has none before it
        rows = torch.stack([alpha, hammarberg, *slopes, change], dim=1)
        sounds = (power.amax(1, keepdim=True) > 1e-10).to(power)
        return rows * sounds * frame_mask(n_valid, power.shape[2])[:, None]

    def _band(self, spectrum: Tensor, low_khz: float, high_khz: float) -> Tensor:
        low, high = (round(edge_khz * self.bins_per_khz) for edge_khz in (low_khz, high_khz))
        return spectrum[:, min(low, spectrum.shape[1] - 2) : high]

    def _slope(self, db: Tensor) -> Tensor:
        """Slope of the line fitted to a band, (batch, n_frames), dB per kHz."""
        khz = torch.arange(db.shape[1], device=db.device) / self.bins_per_khz
        khz = khz - khz.mean()
        return (db * khz[:, None]).sum(1) / khz.square().sum()


class ProsodyFunctionals(Feature):
    """Functionals of pitch, loudness, voice quality and spectrum, one vector per clip: (batch, n_features, 1).

    A set of our own, in the spirit of eGeMAPS, with more of the spectrum. A name is contour, frames, statistic
    (``pitch_st_voiced_p80``): statistics over all, the voiced or the unvoiced frames (10 ms apart), 0 where a clip has
    none of them. Rising and falling parts are the steps up and down between neighbouring frames, per second.

    What it is worth: a support vector machine (RBF kernel, C and gamma chosen among training speakers) tells RAVDESS's
    eight emotions apart with a UAR of 0.57 on speakers it has not heard (six folds), 0.83 where clips are split by
    chance; the same search on openSMILE's eGeMAPS gives 0.49 and 0.69.

    Parameters
    ----------
    n_mfcc
        Cepstral coefficients, and as many of their derivatives.

    References
    ----------
    Eyben et al. (2016), https://doi.org/10.1109/TAFFC.2015.2457417, for contours and functionals.
    """

    n_frames = 1
    label = "prosody"

    def __init__(self, n_mfcc: int = 20, *, sample_rate: int = SAMPLE_RATE):
        super().__init__()
        hop_length = sample_rate // FRAMES_PER_SECOND
        self.hop_s = hop_length / sample_rate
        short = short_frames(sample_rate, hop_length)
        self.voice = Voice(hop_length=hop_length, sample_rate=sample_rate)
        self.loudness = Loudness(*short, sample_rate=sample_rate)
        self.balance = SpectralBalance(*short, sample_rate=sample_rate)
        self.mfcc = MFCC(n_mfcc, 40, *short, sample_rate=sample_rate, f_min_hz=20.0)
        mfcc, balance = self.mfcc.names, self.balance.names
        deltas = [f"delta_{name}" for name in mfcc]
        self.contour_names = ["pitch_st", *self.voice.names, *TILTS, "loudness", *balance, *mfcc, *deltas]
        self.plan = [  # contours, frames, statistics
            (["pitch_st"], "voiced", (*MOMENTS, *PERCENTILES, *SPEEDS)),
            (["loudness"], "all", (*MOMENTS, *PERCENTILES, *SPEEDS)),
            ([*self.voice.names, *TILTS], "voiced", MOMENTS),
            (["hnr_db"], "voiced", PERCENTILES),
            (balance, "voiced", MOMENTS),
            (balance, "unvoiced", MOMENTS),
            (mfcc, "all", MOMENTS),
            (mfcc, "voiced", MOMENTS),
            (deltas, "all", ("std",)),
        ]
        self.n_features = len(self.names)

    @property
    def names(self) -> list[str]:
        """Name of each value: ``pitch_st_voiced_mean`` ... ``unvoiced_length_std_s``."""
        functionals = [
            f"{contour}_{frames}_{statistic}"
            for contours, frames, statistics in self.plan
            for contour in contours
            for statistic in statistics
        ]
        times = [f"{frames}_{time}" for frames in ("voiced", "unvoiced") for time in TIMES]
        return [*functionals, "duration_s", "loudness_peaks_per_s", *times]

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Functionals, (batch, n_features, 1), and ones."""
        contours, voicing, n_valid = self._contours(waveform, lengths)
        mask = frame_mask(n_valid, contours.shape[2])
        weights = {"all": mask, "voiced": voicing, "unvoiced": mask - voicing}
        parts = [
            _functionals(contours[:, [self.contour_names.index(name) for name in names]], weights[frames], statistics,
                         hop_s=self.hop_s)
            for names, frames, statistics in self.plan
        ]  # fmt: skip
        duration_s = n_valid * self.hop_s
        peaks = _count_peaks(contours[:, self.contour_names.index("loudness")], mask)
        times = [duration_s, peaks / duration_s]
        for frames in ("voiced", "unvoiced"):
            times += _stretches(weights[frames], duration_s, hop_s=self.hop_s)
        return torch.cat([*parts, torch.stack(times, dim=1)], dim=1)[:, :, None], torch.ones_like(n_valid)

    def _contours(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contours (batch, n_contours, n_frames), voicing (batch, n_frames), and valid frames per row."""
        pitch = self.voice.pitch
        power, n_valid = pitch.power(waveform, lengths)
        track = pitch.track(power, n_valid)
        short, _ = self.balance.power(waveform, lengths)
        contours = [
            track.semitones(pitch.sample_rate)[:, None],
            self.voice.measure(waveform, lengths, track),
            _tilts(power, track, pitch.power.n_fft),
            self.loudness.from_power(short, n_valid),
            self.balance.from_power(short, n_valid),
            with_deltas(self.mfcc.from_power(short, n_valid), n_valid, 1),
        ]
        return torch.cat(contours, dim=1), track.voicing, n_valid


def _tilts(power: Tensor, track: PitchTrack, n_fft: int) -> Tensor:
    """First harmonic over the second and the third in dB, (batch, 2, n_frames), 0 where unvoiced."""
    db = 10 * power.clamp_min(1e-10).log10()
    levels = []
    for number in (1, 2, 3):
        position = (number * n_fft / track.period.detach()).clamp_max(power.shape[1] - 2.0)
        low = position.floor()
        lower, upper = (db.gather(1, (low.long() + step)[:, None])[:, 0] for step in (0, 1))
        levels.append(lower + (position - low) * (upper - lower))
    return torch.stack([levels[0] - levels[1], levels[0] - levels[2]], dim=1) * track.voicing[:, None]


# ---------------------------------------------------------------------------------- statistics over some frames


def _functionals(values: Tensor, weight: Tensor, statistics: Sequence[str], *, hop_s: float) -> Tensor:
    """Statistics of contours (batch, n_rows, n_frames) where ``weight`` (batch, n_frames) is 1, row by row."""
    weight = weight[:, None]
    found = _moments(values, weight)
    if not set(PERCENTILES).isdisjoint(statistics):
        found |= _percentiles(values, weight)
    if not set(SPEEDS).isdisjoint(statistics):
        found |= _speeds(values, weight, hop_s)
    return torch.stack([found[name] for name in statistics], dim=2).flatten(1)


def _moments(values: Tensor, weight: Tensor) -> dict[str, Tensor]:
    count = weight.sum(2).clamp_min(1)
    mean = (values * weight).sum(2) / count
    variance = ((values - mean[:, :, None]) * weight).square().sum(2) / count
    return {"mean": mean, "std": _root(variance)}


def _root(variance: Tensor) -> Tensor:
    """Square root whose gradient is finite at 0, where it is 0."""
    return torch.where(variance > 1e-10, variance.clamp_min(1e-10).sqrt(), 0.0)


def _percentiles(values: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Percentiles as numpy's, interpolated; frames that do not count are sorted to the end."""
    ordered = torch.where(weight > 0, values, 1e9).sort(dim=2).values
    last = weight.sum(2) - 1  # (B, 1)
    share = torch.tensor([int(name[1:]) / 100 for name in PERCENTILES[:-1]], device=values.device)
    position = (last.clamp_min(0) * share)[:, None].expand(-1, values.shape[1], -1)  # (B, n_rows, 5)
    low = position.floor()
    lower, upper = ordered.gather(2, low.long()), ordered.gather(2, position.ceil().long())
    found = torch.where(last[:, :, None] >= 0, lower + (position - low) * (upper - lower), 0.0)
    p05, p20, p50, p80, p95 = found.unbind(2)
    return dict(zip(PERCENTILES, (p05, p20, p50, p80, p95, p80 - p20), strict=True))


def _speeds(values: Tensor, weight: Tensor, hop_s: float) -> dict[str, Tensor]:
    """Mean and deviation of steps up and of steps down per second, and the slope of the line through the frames."""
    step = (values - previous(values)) / hop_s
    both = weight * previous(weight)
    found = {}
    for name, chosen in (("rise", step > 0), ("fall", step < 0)):
        found |= {f"{name}_{key}": value for key, value in _moments(step, both * chosen).items()}
    count = weight.sum(2, keepdim=True).clamp_min(1)
    time_s = torch.arange(values.shape[2], device=values.device) * hop_s
    time_s = (time_s - (weight * time_s).sum(2, keepdim=True) / count) * weight
    return found | {"trend": (time_s * values).sum(2) / time_s.square().sum(2).clamp_min(hop_s**2)}


def _count_peaks(contour: Tensor, mask: Tensor) -> Tensor:
    """Peaks above its mean of a contour (batch, n_frames) averaged over three frames: about one per syllable."""
    smooth = (previous(contour) + contour + following(contour)) / 3
    mean = (smooth * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
    peaks = (smooth > previous(smooth)) & (smooth >= following(smooth)) & (smooth > mean)
    return (peaks * previous(mask) * following(mask)).sum(1)  # none at the ends


def _stretches(inside: Tensor, duration_s: Tensor, *, hop_s: float) -> list[Tensor]:
    """Stretches of ones per second, mean and deviation of their lengths in seconds, (batch,) each."""
    onset = inside * (1 - previous(inside))
    number = onset.cumsum(1).long()  # 0 before the first
    length_s = torch.zeros_like(F.pad(inside, (1, 0))).scatter_add(1, number, inside) * hop_s
    count = onset.sum(1)
    mean = length_s.sum(1) / count.clamp_min(1)
    variance = length_s.square().sum(1) / count.clamp_min(1) - mean.square()
    return [count / duration_s, mean, _root(variance)]
