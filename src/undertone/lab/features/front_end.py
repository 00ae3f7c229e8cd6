"""The front end of a network: the sound it looks at, a feature module, and their normalisation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, cut_excerpt, frame_mask
from undertone.lab.features.resample import Resample

NORMALISATIONS = ("level", "speech", "band", "none", "fitted")
SPEECH_RANGE_DB, SPEECH_EDGE_DB = 30.0, 3.0  # below the loudest frame; softness of that edge


@dataclass(frozen=True)
class InputConfig:
    """Which part of a clip a system looks at, and at which rate.

    Attributes
    ----------
    sample_rate
        Hz at which features are computed. Model files take 16 kHz and resample inside.
    offset_s
        Seconds left out at the start, as ``librosa.load(offset=...)`` does; of a shorter clip its last 0.1 s stay.
    duration_s
        Seconds kept from there; 0 keeps all.
    pad_s
        Clips are filled up with zeros to this length, which then counts as their own; 0 leaves them.
    """

    sample_rate: int = SAMPLE_RATE
    offset_s: float = 0.0
    duration_s: float = 0.0
    pad_s: float = 0.0


class FrontEnd(nn.Module):
    """Features of a part of the clip, normalised.

    Parameters
    ----------
    normalise
        ``"level"`` takes the clip's overall mean off (how loud it was recorded); ``"speech"`` the mean over the frames
        within 30 dB of the loudest, so that the silence around the words changes nothing (for features in dB);
        ``"band"`` the mean of each band (the channel's colour, too); ``"none"`` neither. ``"fitted"`` standardises
        every value of a fixed-size feature by the mean and deviation that it has over the training clips (see
        :meth:`fit`), as ``StandardScaler`` does.
    scale
        Features are divided by it: a log-mel in dB spreads by about 15. Not used by ``"fitted"``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: Feature, *, normalise: str = "level", scale: float = 15.0,
                 config: InputConfig = InputConfig()):  # fmt: skip
        super().__init__()
        if normalise not in NORMALISATIONS:
            raise ValueError(f"normalise must be one of {', '.join(NORMALISATIONS)}, got {normalise!r}")
        self.features, self.normalise, self.scale, self.config = features, normalise, scale, config
        self.resample = None if config.sample_rate == SAMPLE_RATE else Resample(SAMPLE_RATE, config.sample_rate)
        if normalise == "fitted":
            if features.n_frames is None:
                raise ValueError("normalise = 'fitted' needs features of a fixed number of frames")
            self.register_buffer("mean", torch.zeros(features.n_features, features.n_frames))
            self.register_buffer("std", torch.ones(features.n_features, features.n_frames))

    @property
    def n_features(self) -> int:
        """Rows of the output."""
        return self.features.n_features

    @property
    def n_frames(self) -> int | None:
        """Frames of the output where their number is fixed, else None."""
        return self.features.n_frames

    @property
    def frames_per_second(self) -> float | None:
        """Frames of the output per second of sound; None where their number is fixed."""
        return None if self.n_frames is not None else self.features.frames_per_second

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, zero behind the valid frames, and valid frames per row."""
        features, n_valid = self.extract(waveform, lengths)
        return self.standardise(features, n_valid), n_valid

    def extract(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features before their normalisation, (batch, n_features, n_frames), and valid frames per row."""
        return self.features(*self._cut(waveform, lengths))

    def standardise(self, features: Tensor, n_valid: Tensor) -> Tensor:
        """Normalise what :meth:`extract` gave."""
        if self.normalise == "fitted":
            return (features - self.mean) / self.std
        if self.normalise != "none":
            mask = frame_mask(n_valid, features.shape[2])[:, None]  # (B, 1, T)
            features = (features - self._mean(features, mask, n_valid)) * mask
        return features / self.scale

    def _mean(self, features: Tensor, mask: Tensor, n_valid: Tensor) -> Tensor:
        """Return what is taken off: (batch, n_features or 1, 1)."""
        if self.normalise == "speech":
            level = features.mean(dim=1, keepdim=True)  # (B, 1, T)
            loudest = level.masked_fill(mask == 0, -1e4).amax(dim=2, keepdim=True)
            weight = torch.sigmoid((level - loudest + SPEECH_RANGE_DB) / SPEECH_EDGE_DB) * mask
            return (level * weight).sum(dim=2, keepdim=True) / weight.sum(dim=2, keepdim=True)
        mean = features.sum(dim=2, keepdim=True) / n_valid[:, None, None]  # (B, F, 1)
        return mean if self.normalise == "band" else mean.mean(dim=1, keepdim=True)

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and deviation of ``"fitted"``, each (n_features, n_frames); where nothing varies, 1 divides."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def _cut(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Offset, duration and padding in 16 kHz samples, then the sample rate."""
        config = self.config
        waveform, lengths = cut_excerpt(
            waveform, lengths, offset_s=config.offset_s, duration_s=config.duration_s or config.pad_s,
            sample_rate=SAMPLE_RATE,
        )  # fmt: skip
        if config.pad_s:
            size = round(config.pad_s * SAMPLE_RATE)
            valid = frame_mask(lengths, waveform.shape[1])
            waveform = waveform.masked_fill(valid == 0, 0.0)
            waveform = nn.functional.pad(waveform, (0, size))[:, :size]
            lengths = torch.full_like(lengths, size)
        return (waveform, lengths) if self.resample is None else self.resample(waveform, lengths)
