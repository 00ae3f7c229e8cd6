"""The front end of a network: a feature module and its normalisation, of about unit scale."""

from torch import Tensor, nn

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.spectral import PowerSpectrum, frame_mask


class FrontEnd(nn.Module):
    """Features, normalised per clip over its valid frames.

    Parameters
    ----------
    normalise
        ``"level"`` takes the clip's overall mean off (how loud it was recorded); ``"band"`` the mean of each band (the
        channel's colour, too); ``"none"`` neither.
    scale
        Features are divided by it: a log-mel in dB spreads by about 15.
    """

    def __init__(self, features: nn.Module, *, normalise: str = "level", scale: float = 15.0):
        super().__init__()
        if normalise not in ("level", "band", "none"):
            raise ValueError(f"normalise must be 'level', 'band' or 'none', got {normalise!r}")
        self.features, self.normalise, self.scale = features, normalise, scale

    @property
    def n_features(self) -> int:
        """Rows of the output."""
        return self.features.n_features  # type: ignore[return-value]

    @property
    def frames_per_second(self) -> float:
        """Frames of the output per second of sound."""
        return next(SAMPLE_RATE / m.hop_length for m in self.modules() if isinstance(m, PowerSpectrum))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features, zero behind the valid frames, and valid frames per row."""
        features, n_valid = self.features(waveform, lengths)
        mask = frame_mask(n_valid, features.shape[2])[:, None]  # (B, 1, T)
        if self.normalise != "none":
            mean = features.sum(dim=2, keepdim=True) / n_valid[:, None, None]  # (B, F, 1)
            if self.normalise == "level":
                mean = mean.mean(dim=1, keepdim=True)
            features = (features - mean) * mask
        return features / self.scale, n_valid
