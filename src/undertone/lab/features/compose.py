"""Features made of features: stacked as one image, grouped, brought to a fixed size, or summarised into a vector.

All of them take ``parts``, a list of feature modules. However deep they are nested, parts whose power spectrum has the
same geometry share one transform. A vector per clip is (batch, n_values, 1).
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, cut_excerpt, frame_mask
from undertone.lab.features.shape import root
from undertone.lab.features.spectral import SpectralFeature

Output = tuple[Tensor, Tensor]  # features (batch, n_features, n_frames), valid frames (batch,)


class Composite(Feature):
    """A feature that is computed from the outputs of others, its ``parts``.

    Parameters
    ----------
    parts
        Feature modules, at least one.
    """

    n_parts: int | None = None  # how many it takes; None is any number

    def __init__(self, parts: Sequence[Feature]):
        super().__init__()
        if len(parts) != self.n_parts if self.n_parts else not parts:
            raise ValueError(f"{type(self).__name__} takes {self.n_parts or 'at least 1'} part, got {len(parts)}")
        self.parts = nn.ModuleList(parts)

    @property
    def members(self) -> list[Feature]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, Feature)]

    @property
    def row_names(self) -> list[str]:
        """Names of all rows of all parts; a name that comes up again gets a number."""
        return _without_doubles([name for part in self.members for name in part.names])

    @property
    def names(self) -> list[str]:
        """Name of each row."""
        return self.row_names

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Return the features and valid frames that follow from those of the parts, in their order."""
        raise NotImplementedError

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Features, zero behind the valid frames, and valid frames per row."""
        return _evaluate(self, waveform, lengths, {})


def _evaluate(feature: Feature, waveform: Tensor, lengths: Tensor, spectra: dict[tuple, Output]) -> Output:
    """Output of a feature; ``spectra`` holds the power spectra so far by their geometry."""
    if isinstance(feature, Composite):
        return feature.combine([_evaluate(part, waveform, lengths, spectra) for part in feature.members])
    if not isinstance(feature, SpectralFeature):
        return feature(waveform, lengths)
    if feature.geometry not in spectra:
        spectra[feature.geometry] = feature.power(waveform, lengths)
    power, n_valid = spectra[feature.geometry]
    return feature.from_power(power, n_valid), n_valid


def _without_doubles(names: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}_again_{counts[name]}")
    return unique


class Stack(Composite):
    """Rows of all parts on common frames, (batch, sum of n_features, n_frames), in the order of the parts.

    Parts have one frame rate, or one fixed number of frames. Where one is a frame shorter at the end, it decides.
    """

    label = "stack"

    def __init__(self, parts: Sequence[Feature]):
        super().__init__(parts)
        timing = {(part.frames_per_second, part.n_frames) for part in parts}
        if len(timing) > 1:
            told = ", ".join(f"{part.label} {_tell_timing(part)}" for part in parts)
            raise ValueError(f"parts of a stack need the same frames (give them one hop_length); here: {told}")
        ((self.frames_per_second, self.n_frames),) = timing
        self.n_features = sum(part.n_features for part in parts)

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Rows of the parts below each other."""
        n_valid = outputs[0][1]
        for _, other in outputs[1:]:
            n_valid = torch.minimum(n_valid, other)
        n_frames: Any = outputs[0][0].shape[2]
        for features, _ in outputs[1:]:
            if features.shape[2] != n_frames:
                n_frames = torch.sym_min(n_frames, features.shape[2])
        rows = torch.cat([features[:, :, :n_frames] for features, _ in outputs], dim=1)
        return rows * frame_mask(n_valid, n_frames)[:, None], n_valid


def _tell_timing(part: Feature) -> str:
    return f"{part.frames_per_second:g} a second" if part.n_frames is None else f"{part.n_frames} in all"


class Excerpt(Feature):
    """Another part of the clip than its neighbours hear: a feature as it is, of the sound between two times.

    Parameters
    ----------
    parts
        One part.
    offset_s
        Seconds left out at the start; of shorter clips the last 0.1 s is kept.
    duration_s
        Seconds kept; 0 keeps all.
    sample_rate
        Hz of the waveform.
    """

    def __init__(self, parts: Sequence[Feature], offset_s: float = 0.0, duration_s: float = 0.0,
                 *, sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__()
        if len(parts) != 1:
            raise ValueError(f"Excerpt takes 1 part, got {len(parts)}")
        if not (0 <= offset_s < math.inf and 0 <= duration_s < math.inf):
            raise ValueError(f"offset_s and duration_s must not be negative, got {offset_s} and {duration_s}")
        (part,) = parts
        self.part = part
        self.offset_s, self.duration_s, self.sample_rate = offset_s, duration_s, sample_rate
        self.label, self.n_features = part.label, part.n_features
        self.frames_per_second, self.n_frames = part.frames_per_second, part.n_frames

    @property
    def names(self) -> list[str]:
        """Name of each row: the part's own."""
        return self.part.names

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Features of the part, and their valid frames; it shares no spectrum with what hears the whole clip."""
        return self.part(
            *cut_excerpt(
                waveform, lengths, offset_s=self.offset_s, duration_s=self.duration_s, sample_rate=self.sample_rate
            )
        )


class GroupBands(Composite):
    """Means of adjacent rows, (batch, n_groups, n_frames).

    Parameters
    ----------
    parts
        One part.
    size
        Rows per group.
    n_groups
        Groups from the first row on; rows behind them are left out. 0 is as many as there are whole ones.
    """

    n_parts = 1

    def __init__(self, parts: Sequence[Feature], size: int = 4, n_groups: int = 0):
        super().__init__(parts)
        (part,) = parts
        n_groups = n_groups or part.n_features // max(size, 1)
        if size < 1 or not 0 < n_groups * size <= part.n_features:
            raise ValueError(f"{n_groups} groups of {size} rows do not fit into the {part.n_features} of {part.label}")
        self.size, self.n_features = size, n_groups
        self.frames_per_second, self.n_frames, self.label = part.frames_per_second, part.n_frames, part.label

    @property
    def names(self) -> list[str]:
        """First and last row of each group: ``mel_000_to_003`` ...."""
        rows = self.row_names
        groups = [rows[start : start + self.size] for start in range(0, self.n_features * self.size, self.size)]
        return [f"{group[0]}_to_{group[-1].rpartition('_')[2]}" for group in groups]

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Mean of each group."""
        ((features, n_valid),) = outputs
        return features[:, : self.n_features * self.size].unflatten(1, (self.n_features, self.size)).mean(2), n_valid


class Resize(Composite):
    """The valid frames of a clip stretched or squeezed to a fixed number, (batch, n_features, n_frames).

    Bilinear with half-pixel centres and no smoothing beforehand: a clip of many more frames is sampled, not averaged.

    Parameters
    ----------
    parts
        One part.

    References
    ----------
    OpenCV ``cv2.resize(..., interpolation=cv2.INTER_LINEAR)`` of the image with its height kept, 1e-6 of the
    largest value.
    """

    n_parts = 1

    def __init__(self, parts: Sequence[Feature], n_frames: int):
        super().__init__(parts)
        self.n_frames = _check_frames(n_frames)
        self.n_features, self.label = parts[0].n_features, parts[0].label
        self.register_buffer("doubled", 2 * torch.arange(n_frames) + 1, persistent=False)

    doubled: Tensor

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Frames between those of the part, all of them valid."""
        ((features, n_valid),) = outputs
        # Position (j + 1/2) * n_valid / n_frames - 1/2 in whole numbers of 1 / (2 * n_frames): exact for any length.
        unit = 2 * self.doubled.shape[0]
        position = self.doubled[None] * n_valid[:, None] - self.doubled.shape[0]  # (B, n_frames)
        last = n_valid[:, None] - 1
        position = torch.minimum(position.clamp_min(0), last * unit)
        below = position // unit
        share = ((position - below * unit) / unit)[:, None]  # (B, 1, n_frames)
        left = _take_frames(features, below)
        right = _take_frames(features, torch.minimum(below + 1, last))
        return left + share * (right - left), torch.full_like(n_valid, self.doubled.shape[0])


def _take_frames(features: Tensor, index: Tensor) -> Tensor:
    """Frames (batch, n) of each row of the batch: (batch, n_features, n)."""
    return features.gather(2, index[:, None].expand(-1, features.shape[1], -1))


def _check_frames(n_frames: int) -> int:
    if n_frames < 1:
        raise ValueError(f"n_frames must be at least 1, got {n_frames}")
    return n_frames


class FixedFrames(Composite):
    """The first ``n_frames`` frames, (batch, n_features, n_frames); shorter clips are filled up, which then counts.

    Parameters
    ----------
    parts
        One part.
    pad_value
        What stands in the frames that a clip does not have.
    """

    n_parts = 1

    def __init__(self, parts: Sequence[Feature], n_frames: int, pad_value: float = 0.0):
        super().__init__(parts)
        self.n_frames, self.pad_value = _check_frames(n_frames), pad_value
        self.n_features, self.label = parts[0].n_features, parts[0].label

    def combine(self, outputs: Sequence[Output]) -> Output:
        """Cut or fill up; every frame is valid."""
        ((features, n_valid),) = outputs
        features = _fix_frames(features, self.n_frames or 1)
        if self.pad_value:
            valid = frame_mask(n_valid, features.shape[2])[:, None]
            features = features.masked_fill(valid == 0, self.pad_value)
        return features, torch.full_like(n_valid, self.n_frames or 1)


def _fix_frames(features: Tensor, n_frames: int) -> Tensor:
    return F.pad(features, (0, n_frames))[:, :, :n_frames]


class Ravel(Composite):
    """Frames of all parts one behind the other as one vector, (batch, sum of n_features * n_frames, 1).

    A part of one row comes as it is. A part of several comes frame by frame, as ``mfcc.T.ravel()`` does.

    Parameters
    ----------
    n_frames
        Frames taken of each part; those that a clip does not have are 0.
    close_up
        Of a clip that does not have them all, the parts move up to one another, and the zeros stand behind the last:
        what a table gives whose short rows are filled up. Values then stand under the names of other clips' frames.
    """

    label = "ravel"

    def __init__(self, parts: Sequence[Feature], n_frames: int, close_up: bool = False):
        super().__init__(parts)
        self.n_taken, self.close_up = _check_frames(n_frames), close_up
        self.n_features, self.n_frames = n_frames * sum(part.n_features for part in parts), 1

    @property
    def names(self) -> list[str]:
        """Row and frame: ``zcr_at_000`` ..., ``mfcc_000_at_000``, ``mfcc_001_at_000`` ...."""
        names = [f"{row}_at_{frame:03d}" for part in self.members for frame in range(self.n_taken)
                 for row in part.names]  # fmt: skip
        return _without_doubles(names)

    def combine(self, outputs: Sequence[Output]) -> Output:
        """One vector per clip."""
        vectors = [_fix_frames(features, self.n_taken).transpose(1, 2).flatten(1) for features, _ in outputs]
        row = torch.cat(vectors, dim=1)
        if self.close_up:
            row = self._move_up(row, [n_valid for _, n_valid in outputs])
        return row[:, :, None], torch.ones_like(outputs[0][1])

    def _move_up(self, row: Tensor, n_valid: Sequence[Tensor]) -> Tensor:
        """Values (batch, n) of which each part has but so many frames, without the zeros between the parts."""
        index = torch.arange(self.n_features, device=row.device)[None]
        source, start, offset = index, torch.zeros_like(n_valid[0]), 0
        for part, n in zip(self.members, n_valid, strict=True):
            source = torch.where(index >= start[:, None], index - start[:, None] + offset, source)
            start = start + n.clamp_max(self.n_taken) * part.n_features
            offset += self.n_taken * part.n_features
        return row.gather(1, source.clamp_max(self.n_features - 1)) * (index < start[:, None])


class Functionals(Composite):
    """Statistics over the valid frames of every row, as one vector: (batch, rows * statistics, 1).

    The statistics of a row stand side by side. Parts may differ in their frame rate.

    Parameters
    ----------
    statistics
        Out of ``mean``, ``std`` (divided by n), ``min``, ``max``, ``range``, ``skewness``, ``kurtosis`` (0 for a normal
        distribution; both 0 where a row does not vary), percentiles ``p05``, ``p50`` and any other ``pNN`` (linear
        between values), ``iqr`` (``p75 - p25``), ``slope`` (least squares, per second; per frame where the part has no
        frame rate) and ``mean_abs_delta`` (of one frame to the next). Of a single frame the last two are 0.

    References
    ----------
    numpy ``mean``, ``std``, ``percentile``, ``polyfit``; scipy ``stats.skew``, ``stats.kurtosis``: rtol 1e-4 in single
    precision.
    """

    label = "functionals"

    def __init__(self, parts: Sequence[Feature], statistics: Sequence[str] = ("mean",)):
        super().__init__(parts)
        for name in statistics:
            if name not in STATISTICS and not _PERCENTILE.fullmatch(name):
                raise ValueError(f"no statistic {name!r}; there are: {', '.join(STATISTICS)} and percentiles p00-p99")
        if not statistics or len(set(statistics)) < len(statistics):
            raise ValueError(f"statistics must be named, each once; got {list(statistics)}")
        self.statistics = tuple(statistics)
        self.n_features, self.n_frames = sum(part.n_features for part in parts) * len(statistics), 1

    @property
    def names(self) -> list[str]:
        """Row and statistic: ``mfcc_000_mean``, ``mfcc_000_std`` ...."""
        return [f"{row}_{statistic}" for row in self.row_names for statistic in self.statistics]

    def combine(self, outputs: Sequence[Output]) -> Output:
        """One vector per clip."""
        vectors = []
        for part, output in zip(self.members, outputs, strict=True):
            rows = _Rows(*output, part.frames_per_second)
            vectors.append(torch.stack([_compute(name, rows) for name in self.statistics], dim=2).flatten(1))
        return torch.cat(vectors, dim=1)[:, :, None], torch.ones_like(outputs[0][1])


def _compute(name: str, rows: "_Rows") -> Tensor:
    return STATISTICS[name](rows) if name in STATISTICS else rows.percentile(int(name[1:]))


class _Rows:
    """Valid frames of a batch and their statistics, each (batch, n_features)."""

    def __init__(self, features: Tensor, n_valid: Tensor, frames_per_second: float | None):
        self.values, self.n_valid = features, n_valid
        self.per_second = frames_per_second or 1.0
        self.valid = frame_mask(n_valid, features.shape[2])[:, None]  # (B, 1, T)
        self.n = n_valid[:, None].to(features.dtype)  # (B, 1)

    def mean_of(self, values: Tensor) -> Tensor:
        return (values * self.valid).sum(2) / self.n

    @cached_property
    def mean(self) -> Tensor:
        return self.mean_of(self.values)

    @cached_property
    def deviation(self) -> Tensor:
        """From the mean, (batch, n_features, n_frames)."""
        return (self.values - self.mean[:, :, None]) * self.valid

    @cached_property
    def largest(self) -> Tensor:
        """Largest deviation; 1 where a row does not vary.

        Squares are taken of shares of it: those of a faint row (mel power, high polynomial coefficients) fall below
        single precision otherwise. No gradient: the statistics do not depend on it.
        """
        largest = self.deviation.detach().abs().amax(2)
        return torch.where(largest > 0, largest, torch.ones_like(largest))

    @cached_property
    def relative_std(self) -> Tensor:
        return root(self.mean_of((self.deviation / self.largest[:, :, None]).square()))

    @cached_property
    def minimum(self) -> Tensor:
        return self.values.masked_fill(self.valid == 0, math.inf).amin(2)

    @cached_property
    def maximum(self) -> Tensor:
        return self.values.masked_fill(self.valid == 0, -math.inf).amax(2)

    @cached_property
    def ordered(self) -> Tensor:
        """Valid values from the smallest on, (batch, n_features, n_frames)."""
        return self.values.masked_fill(self.valid == 0, math.inf).sort(dim=2).values

    def moment(self, order: int, of_normal: float) -> Tensor:
        """Mean of ``((x - mean) / std) ** order`` less ``of_normal``; 0 where a row varies by rounding only."""
        std = self.relative_std * self.largest
        varies = std > 1e-6 * self.mean.abs()
        std = torch.where(varies, std, torch.ones_like(std))
        moment = self.mean_of((self.deviation / std[:, :, None]) ** order) - of_normal
        return torch.where(varies, moment, torch.zeros_like(moment))

    def percentile(self, percent: int) -> Tensor:
        position = percent * (self.n_valid - 1)[:, None]  # (B, 1), in hundredths of a frame
        below = position // 100
        share = (position - 100 * below).to(self.values.dtype) / 100
        left = _take_frames(self.ordered, below)[:, :, 0]
        right = _take_frames(self.ordered, torch.minimum(below + 1, self.n_valid[:, None] - 1))[:, :, 0]
        return left + share * (right - left)

    def slope(self) -> Tensor:
        frame = torch.arange(self.values.shape[2], device=self.values.device, dtype=self.values.dtype)
        time = frame[None] - (self.n - 1) / 2  # (B, T), centred on the clip
        spread = self.n * (self.n.square() - 1) / 12  # its sum of squares: 1/2 for two frames, 0 for one
        return (self.deviation * time[:, None]).sum(2) / spread.clamp_min(0.5) * self.per_second

    def mean_abs_delta(self) -> Tensor:
        steps = (self.values[:, :, 1:] - self.values[:, :, :-1]).abs() * self.valid[:, :, 1:]
        return steps.sum(2) / (self.n - 1).clamp_min(1)


_PERCENTILE = re.compile(r"p\d\d")
STATISTICS: dict[str, Callable[[_Rows], Tensor]] = {
    "mean": lambda rows: rows.mean,
    "std": lambda rows: rows.relative_std * rows.largest,
    "min": lambda rows: rows.minimum,
    "max": lambda rows: rows.maximum,
    "range": lambda rows: rows.maximum - rows.minimum,
    "skewness": lambda rows: rows.moment(3, 0.0),
    "kurtosis": lambda rows: rows.moment(4, 3.0),
    "iqr": lambda rows: rows.percentile(75) - rows.percentile(25),
    "slope": _Rows.slope,
    "mean_abs_delta": _Rows.mean_abs_delta,
}
