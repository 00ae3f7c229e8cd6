"""Pitch, voice quality and loudness over time.

One power spectrum of 40 ms frames, taken back to lags, serves them all: as the difference function of YIN it gives the
pitch, as Boersma's normalised autocorrelation the harmonics-to-noise ratio. The periods found are then looked at in the
waveform, cycle against cycle, for jitter and shimmer.

Everything is worked out without a loop over frames, so that a batch is fast and the graph exports: instead of a Viterbi
search along the clip, each frame takes the best path through the frames within 100 ms of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, frame_mask
from undertone.lab.features.spectral import SpectralFeature, mel_filters

F0_MIN_HZ, F0_MAX_HZ = 60.0, 650.0  # low men's voices; women's shouts and screams go beyond 500 Hz
PITCH_WINDOW_S = 0.04  # three periods of 75 Hz, as Praat's default
REFERENCE_HZ = 27.5  # 0 semitones, as in eGeMAPS

OCTAVE_COST = 0.01  # strength a candidate loses per octave below the highest: else twice the period fits as well
JUMP_COST = 0.35  # strength a path loses per octave that the pitch jumps between two frames
VOICING_COST = 0.14  # ... and where voice begins or ends
SILENCE = 0.03  # frames quieter than this share of the loudest need a clearer period to count as voiced
N_CANDIDATES = 6  # periods per frame that the path can choose from
CONTEXT_S = 0.1  # how far a frame looks for its path, both ways

CYCLE_POINTS = 64  # a cycle of the voice is compared with the next one at so many points
MAX_PERIOD_CHANGE = 0.12  # ... shifted by up to so much of it
MAX_SHIMMER = 0.5  # two cycles that differ by more are no neighbours: a ratio of 1.6, as Praat's maximum
MAX_CORRELATION = 1 - 1e-5  # 50 dB


@dataclass(frozen=True)
class PitchTrack:
    """Pitch of each frame, three tensors (batch, n_frames).

    Attributes
    ----------
    period
        Samples, fractional and positive. Where there is no voice, the most likely one if there were.
    voicing
        1 where a frame is voiced, else 0.
    correlation
        Autocorrelation at that period, normalised by the window's: in (0, 1), 1 for a perfectly periodic frame.
    """

    period: Tensor
    voicing: Tensor
    correlation: Tensor

    def semitones(self, sample_rate: int) -> Tensor:
        """Semitones above 27.5 Hz, (batch, n_frames), 0 where unvoiced."""
        return 12 * (sample_rate / REFERENCE_HZ / self.period).log2() * self.voicing


class Pitch(SpectralFeature):
    """Fundamental frequency in Hz (0 where unvoiced) and voicing (0 or 1), (batch, 2, n_frames).

    Parameters
    ----------
    f_min_hz, f_max_hz
        Range of the pitch. Frames are 40 ms long, or 2.4 of the longest periods if that is more.
    hop_length
        Samples from frame to frame.
    voicing_threshold
        Strength (1 minus YIN's normalised difference) from which a frame is voiced, in (0, 1).

    References
    ----------
    De Cheveigné & Kawahara (2002), YIN, https://doi.org/10.1121/1.1458024: difference function, cumulative mean,
    parabolic interpolation. Boersma (1993): division by the window's autocorrelation, costs along a path.
    Praat 6.1 ``To Pitch (ac)`` on clips of four corpora: 97 % of the frames agree in voicing, 98 % of those voiced in
    both are within 5 %, about 1 % differ by more than 20 %.
    """

    to_lags: Tensor

    label = "pitch"

    def __init__(self, f_min_hz: float = F0_MIN_HZ, f_max_hz: float = F0_MAX_HZ, hop_length: int = 160, *,
                 voicing_threshold: float = 0.45, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        if not 0 < f_min_hz < f_max_hz <= sample_rate / 8:
            raise ValueError(f"need 0 < f_min_hz < f_max_hz <= {sample_rate / 8:g}, got {f_min_hz:g} and {f_max_hz:g}")
        lags = math.floor(sample_rate / f_max_hz), math.ceil(sample_rate / f_min_hz)
        win_length = max(round(PITCH_WINDOW_S * sample_rate), math.ceil(2.4 * sample_rate / f_min_hz))
        if lags[1] - lags[0] < N_CANDIDATES:
            raise ValueError(f"the range of {f_min_hz:g} to {f_max_hz:g} Hz is too narrow at {sample_rate} Hz")
        n_fft = 2 ** math.ceil(math.log2(win_length + lags[1] + 2))  # a circular correlation must not reach round
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.lags, self.voicing_threshold, self.sample_rate = lags, voicing_threshold, sample_rate
        self.n_features = 2
        self.n_context = round(CONTEXT_S * sample_rate / hop_length)
        self.register_buffer("to_lags", self._to_lags(f_min_hz).float(), persistent=False)  # (n_lags, n_bins)

    @property
    def names(self) -> list[str]:
        """``f0_hz`` and ``voicing``."""
        return ["f0_hz", "voicing"]

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Pitch in Hz and voicing, (batch, 2, n_frames)."""
        found = self.track(power, n_valid)
        return torch.stack([found.voicing * self.sample_rate / found.period, found.voicing], dim=1)

    def track(self, power: Tensor, n_valid: Tensor) -> PitchTrack:
        """Period, voicing and correlation of each frame of a power spectrum (batch, n_bins, n_frames)."""
        correlation = self.to_lags @ power  # (B, n_lags, T)
        energy = correlation[:, :1]
        correlation = correlation / energy.clamp_min(1e-12)
        around = _neighbours(1 - _normalised_difference(correlation), *self.lags)  # three times (B, L, T)
        strength, index = self._candidates(around)
        periods = self.lags[0] + index + _vertex(*(values.gather(1, index) for values in around))  # (B, M, T)
        unvoiced = self.voicing_threshold + self._quietness(energy)
        chosen = _best_path(strength, unvoiced, periods.log2().detach(), frame_mask(n_valid, power.shape[2])[:, None],
                            n_context=self.n_context)  # fmt: skip
        candidate = chosen.clamp_max(N_CANDIDATES - 1)
        near = [v.gather(1, index.gather(1, candidate)) for v in _neighbours(correlation, *self.lags)]
        height = _height(*near)
        voicing = (chosen < N_CANDIDATES).to(power) * frame_mask(n_valid, power.shape[2])[:, None]
        return PitchTrack(periods.gather(1, candidate)[:, 0], voicing[:, 0], height.clamp(1e-3, MAX_CORRELATION)[:, 0])

    def _to_lags(self, f_min_hz: float) -> Tensor:
        """Matrix from power to autocorrelation, the window's divided out, rumble below half the range left out."""
        n_fft, bins = self.power.n_fft, torch.arange(self.power.n_bins, dtype=torch.float64)
        angle = 2 * math.pi / n_fft * torch.arange(self.lags[1] + 2, dtype=torch.float64)[:, None] * bins
        twice = torch.full_like(bins, 2.0)  # a real signal's spectrum has each bin twice, but the first and last
        twice[[0, -1]] = 1.0
        to_lags = torch.cos(angle) * twice / n_fft
        window_lags = to_lags @ torch.fft.rfft(self.power.window.double(), n_fft).abs().square()
        return to_lags * (bins * self.sample_rate / n_fft >= f_min_hz / 2) / (window_lags / window_lags[0])[:, None]

    def _candidates(self, around: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Strength and lag index of the strongest peaks of each frame, (batch, N_CANDIDATES, n_frames) each."""
        left, middle, right = (values.detach() for values in around)
        octaves = torch.arange(middle.shape[1], device=middle.device).add(self.lags[0]).div(self.lags[0]).log2()
        is_peak = (middle > left) & (middle >= right)
        height = _height(left, middle, right) - OCTAVE_COST * octaves[:, None]
        return torch.where(is_peak, height, -1.0).topk(N_CANDIDATES, dim=1)

    def _quietness(self, energy: Tensor) -> Tensor:
        """Strength that silence adds to being unvoiced, (batch, 1, n_frames) >= 0; Boersma's formula."""
        level = energy.detach().clamp_min(0).sqrt()
        share = level / level.amax(dim=2, keepdim=True).clamp_min(1e-6)
        return (2 - share * (1 + self.voicing_threshold) / SILENCE).clamp_min(0)


def _normalised_difference(correlation: Tensor) -> Tensor:
    """YIN's difference function over its cumulative mean, (batch, n_lags, n_frames): near 0 at the period."""
    difference = (1 - correlation).clamp_min(0)
    lag = torch.arange(correlation.shape[1], device=correlation.device)[:, None]
    return difference * lag / difference.cumsum(dim=1).clamp_min(1e-6)


def _neighbours(values: Tensor, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the lags first to last, and of those one lower and one higher: (lower, own, higher)."""
    return values[:, first - 1 : last], values[:, first : last + 1], values[:, first + 1 : last + 2]


def _vertex(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """Where between -0.5 and 0.5 the parabola through three neighbours has its top."""
    return (0.5 * (right - left) / (2 * middle - left - right).clamp_min(1e-6)).clamp(-0.5, 0.5)


def _height(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """How high the parabola through three neighbours is at its top."""
    return middle + 0.25 * (right - left) * _vertex(left, middle, right)


def _best_path(strength: Tensor, unvoiced: Tensor, octave: Tensor, mask: Tensor, *, n_context: int) -> Tensor:
    """State of each frame on the best path through the ``n_context`` frames before and behind it.

    Max-product messages, all frames at once: after ``k`` rounds a frame knows the best path of its last (and next)
    ``k`` frames for each of its states. A Viterbi search does the same along the whole clip, one frame after the other.

    Parameters
    ----------
    strength, octave : (batch, n_candidates, n_frames)
        Of each candidate; its period as log2.
    unvoiced, mask : (batch, 1, n_frames)
        Strength of having no voice; 1 where a frame is valid.

    Returns
    -------
    (batch, 1, n_frames) int64; ``n_candidates`` stands for unvoiced.
    """
    own = torch.cat([strength, unvoiced], dim=1) * mask  # (B, S, T)
    octave = F.pad(octave, (0, 0, 0, 1))  # the unvoiced state has none
    voiced = (torch.arange(own.shape[1], device=own.device) < strength.shape[1]).to(own)
    both, one = voiced[:, None] * voiced, (voiced[:, None] - voiced).abs()  # (from, to)
    jump = (previous(octave)[:, :, None] - octave[:, None]).abs()  # (B, from, to, T)
    cost = (JUMP_COST * jump * both[:, :, None] + VOICING_COST * one[:, :, None]) * (previous(mask) * mask)[:, None]
    next_cost = following(cost)
    before = behind = own
    for _ in range(n_context):
        before = own + (previous(before)[:, :, None] - cost).amax(dim=1)
        behind = own + (following(behind)[:, None] - next_cost).amax(dim=2)
    return (before + behind - own).argmax(dim=1, keepdim=True)


def previous(values: Tensor) -> Tensor:
    """Each frame's predecessor, 0 before the first: (..., n_frames), so that a graph takes a single frame, too."""
    return F.pad(values, (1, 0))[..., :-1]


def following(values: Tensor) -> Tensor:
    """Each frame's successor, 0 behind the last: (..., n_frames)."""
    return F.pad(values, (0, 1))[..., 1:]


class Voice(Feature):
    """Jitter, shimmer (shares of one) and harmonics-to-noise ratio (dB) over voiced frames, (batch, 3, n_frames).

    Three cycles around the middle of a frame are compared. Jitter is the difference of their two distances over the
    period, shimmer the mean difference of their neighbouring RMS amplitudes over their mean; unvoiced frames are 0.
    The mean over a clip's voiced frames estimates Praat's "local" jitter and shimmer.

    References
    ----------
    Praat 6.1, means over clips of four corpora: ``Get jitter (local)`` correlates at 0.94, ``Get shimmer (local)`` at
    0.85 or more, the mean of ``To Harmonicity (cc)`` at 0.95.
    """

    label = "voice"

    def __init__(self, f_min_hz: float = F0_MIN_HZ, f_max_hz: float = F0_MAX_HZ, hop_length: int = 160, *,
                 voicing_threshold: float = 0.45, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__()
        self.pitch = Pitch(f_min_hz, f_max_hz, hop_length, voicing_threshold=voicing_threshold, sample_rate=sample_rate)
        self.hop_length, self.n_features = hop_length, 3
        self.frames_per_second = self.pitch.frames_per_second

    @property
    def names(self) -> list[str]:
        """``jitter``, ``shimmer`` and ``hnr_db``."""
        return ["jitter", "shimmer", "hnr_db"]

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Jitter, shimmer and HNR, zero where unvoiced, and valid frames per row."""
        power, n_valid = self.pitch.power(waveform, lengths)
        return self.measure(waveform, lengths, self.pitch.track(power, n_valid)), n_valid

    def measure(self, waveform: Tensor, lengths: Tensor, track: PitchTrack) -> Tensor:
        """Jitter, shimmer and HNR, (batch, 3, n_frames), of a waveform whose pitch is known."""
        waveform = waveform.masked_fill(frame_mask(lengths, waveform.shape[1]) == 0, 0.0)
        cycles = self._cut_cycles(waveform, track.period)
        first, second = _cycle_distance(cycles, 0), _cycle_distance(cycles, 1)
        reach = (cycles.shape[2] - 3 * CYCLE_POINTS) // 2
        middle = cycles[:, :, reach : reach + 3 * CYCLE_POINTS].unflatten(2, (3, CYCLE_POINTS))
        amplitude = middle.square().mean(dim=3).clamp_min(1e-12).sqrt()  # (B, T, 3)
        change = (amplitude[:, :, 1:] - amplitude[:, :, :-1]).abs().mean(dim=2)
        shimmer = (change / amplitude.mean(dim=2)).clamp_max(MAX_SHIMMER)
        hnr_db = 10 * torch.log10(track.correlation / (1 - track.correlation))
        return torch.stack([(second - first).abs(), shimmer, hnr_db], dim=1) * track.voicing[:, None]

    def _cut_cycles(self, waveform: Tensor, period: Tensor) -> Tensor:
        """Three cycles around the middle of each frame and a margin, (batch, n_frames, n_points), resampled."""
        margin = round(MAX_PERIOD_CHANGE * CYCLE_POINTS)
        point = torch.arange(3 * CYCLE_POINTS + 2 * margin, device=waveform.device) - margin
        cycle = point / CYCLE_POINTS - 1.5
        outside = 2 * self.pitch.lags[1] + 2  # samples: more than the widest frame reaches beyond the clip
        frame = torch.arange(period.shape[1], device=waveform.device) * self.hop_length + outside
        position = frame[:, None] + cycle * period[:, :, None].detach()  # (B, T, n_points)
        index = position.floor()
        weight = position - index
        index, padded = index.long().flatten(1), F.pad(waveform, (outside, outside))
        left, right = (padded.gather(1, index + step).view_as(weight) for step in (0, 1))
        cycles = left + weight * (right - left)
        return cycles - cycles.mean(dim=2, keepdim=True)


def _cycle_distance(cycles: Tensor, number: int) -> Tensor:
    """Distance from cycle ``number`` of each frame to the next one, (batch, n_frames), in periods less one."""
    reach = (cycles.shape[2] - 3 * CYCLE_POINTS) // 2
    start = reach + number * CYCLE_POINTS
    cycle = cycles[:, :, None, start : start + CYCLE_POINTS]
    point = torch.arange(CYCLE_POINTS, device=cycles.device)
    shift = torch.arange(-reach, reach + 1, device=cycles.device)
    shifted = cycles[:, :, start + CYCLE_POINTS + shift[:, None] + point]  # (B, T, 2 reach + 1, CYCLE_POINTS)
    energies = cycle.square().sum(dim=3) * shifted.square().sum(dim=3)
    likeness = (cycle * shifted).sum(dim=3) / energies.clamp_min(1e-12).sqrt()
    best = likeness[:, :, 1:-1].detach().argmax(dim=2, keepdim=True)
    near = [likeness.gather(2, best + step) for step in range(3)]
    return (best + 1 - reach + _vertex(*near))[:, :, 0] / CYCLE_POINTS


class Loudness(SpectralFeature):
    """Loudness of an auditory spectrum, (batch, 1, n_frames), non-negative: the sum of mel bands to the power 0.3.

    Ten decibels more are twice as loud, as Stevens' law has it; absolute, so that a clip's recording level counts.
    """

    filters: Tensor

    label = "loudness"

    def __init__(self, n_fft: int = 512, win_length: int = 400, hop_length: int = 160, *, n_mels: int = 26,
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__(n_fft, win_length, hop_length, sample_rate)
        self.n_features = 1
        filters = torch.from_numpy(mel_filters(n_fft, n_mels, sample_rate=sample_rate, f_min_hz=20.0))
        self.register_buffer("filters", filters, persistent=False)

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Loudness, (batch, 1, n_frames)."""
        loudness = (self.filters @ power).clamp_min(1e-10).pow(0.3).sum(dim=1, keepdim=True)
        return loudness * frame_mask(n_valid, power.shape[2])[:, None]


class Prosody(Feature):
    """Pitch (semitones above 27.5 Hz), voicing, jitter, shimmer, HNR (dB) and loudness, (batch, 6, n_frames).

    Pitch and voice quality are 0 where there is no voice. See :class:`Pitch`, :class:`Voice` and :class:`Loudness`.
    """

    label = "prosody"

    def __init__(self, f_min_hz: float = F0_MIN_HZ, f_max_hz: float = F0_MAX_HZ, hop_length: int = 160, *,
                 voicing_threshold: float = 0.45, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__()
        self.voice = Voice(f_min_hz, f_max_hz, hop_length, voicing_threshold=voicing_threshold, sample_rate=sample_rate)
        self.loudness = Loudness(*short_frames(sample_rate, hop_length), sample_rate=sample_rate)
        self.frames_per_second, self.n_features = self.voice.frames_per_second, 6

    @property
    def names(self) -> list[str]:
        """``pitch_st``, ``voicing``, ``jitter``, ``shimmer``, ``hnr_db`` and ``loudness``."""
        return ["pitch_st", "voicing", *self.voice.names, "loudness"]

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Six contours, zero behind the valid frames, and valid frames per row."""
        power, n_valid = self.voice.pitch.power(waveform, lengths)
        track = self.voice.pitch.track(power, n_valid)
        pitch = torch.stack([track.semitones(self.voice.pitch.sample_rate), track.voicing], dim=1)
        voice = self.voice.measure(waveform, lengths, track)
        return torch.cat([pitch, voice, self.loudness(waveform, lengths)[0]], dim=1), n_valid


def short_frames(sample_rate: int, hop_length: int) -> tuple[int, int, int]:
    """n_fft, win_length and hop_length of 25 ms frames, for what needs no period."""
    win_length = max(hop_length, round(0.025 * sample_rate))
    return 2 ** math.ceil(math.log2(win_length)), win_length, hop_length


def formants(waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE, n_formants: int = 3,
             ceiling_hz: float = 5_500.0) -> np.ndarray:  # fmt: skip
    """Centre frequencies of the lowest formants in Hz, (n_formants, n_frames), 0 where Praat finds none.

    They come from Praat itself (Burg's method), through parselmouth (extra ``praat``, licence GPL-3.0-or-later: mind it
    before shipping what imports it), and are no part of an exported graph. Frames are 10 ms apart, centred as those of
    the other features: ``1 + n_samples // (sample_rate // 100)``.

    Parameters
    ----------
    waveform : (n_samples,) float32
    ceiling_hz
        Highest frequency searched: 5500 suits women, 5000 men, 8000 children.

    Raises
    ------
    ImportError
        If parselmouth is missing.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise ImportError(
            "formants need 'parselmouth', which is not installed; run: pip install 'undertone[praat]'"
        ) from error
    n_frames = 1 + len(waveform) // (sample_rate // 100)
    padded = np.pad(waveform.astype(np.float64), (sample_rate // 20, sample_rate // 20))  # frames reach past the ends
    found = parselmouth.Sound(padded, sample_rate).to_formant_burg(time_step=0.01, maximum_formant=ceiling_hz)
    times_s = 0.05 + 0.01 * np.arange(n_frames)
    rows = [[found.get_value_at_time(1 + row, time_s) for time_s in times_s] for row in range(n_formants)]
    return np.nan_to_num(np.array(rows, dtype=np.float32))
