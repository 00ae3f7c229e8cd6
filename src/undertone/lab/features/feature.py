"""What every feature module is: rows with names, a frame rate, and valid frames per row of a batch."""

import torch
from torch import Tensor, nn


def frame_mask(n_valid: Tensor, n_frames: int) -> Tensor:
    """Mask of the valid frames.

    Parameters
    ----------
    n_valid : (batch,) int64
        Valid frames per row.
    n_frames
        Frames of the padded batch.

    Returns
    -------
    (batch, n_frames) float32, 1 where a frame is valid and 0 behind it.

    Examples
    --------
    >>> frame_mask(torch.tensor([1, 3]), 3)
    tensor([[1., 0., 0.],
            [1., 1., 1.]])
    """
    position = torch.arange(n_frames, device=n_valid.device)
    return (position[None, :] < n_valid[:, None]).float()


def cut_excerpt(
    waveform: Tensor, lengths: Tensor, *, offset_s: float, duration_s: float, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """Part of each clip, (batch, n_samples) and lengths: from ``offset_s`` on, ``duration_s`` at most (0: to the end).

    Of clips that end before the offset, or within 0.1 s behind it, the last 0.1 s is kept.
    """
    if offset_s:
        start = (lengths - sample_rate // 10).clamp(0, round(offset_s * sample_rate))  # (B,)
        index = torch.arange(waveform.shape[1], device=waveform.device)[None] + start[:, None]
        waveform = waveform.gather(1, index.clamp_max(waveform.shape[1] - 1))
        lengths = lengths - start
    if duration_s:
        longest = round(duration_s * sample_rate)
        waveform, lengths = waveform[:, :longest], lengths.clamp_max(longest)
    return waveform, lengths


class Feature(nn.Module):
    """A feature module: ``forward(waveform, lengths)`` gives (batch, n_features, n_frames) and valid frames per row.

    Attributes
    ----------
    n_features
        Rows of the output.
    frames_per_second
        Frames per second of sound; None where a clip gives a fixed number of frames, whatever its length.
    n_frames
        That fixed number; None where frames follow the clip's length. A vector per clip is one frame.
    label
        Word that names the rows; see ``names``.
    in_graph
        Whether it can be part of a model file.
    """

    n_features: int
    frames_per_second: float | None = None
    n_frames: int | None = None
    label: str = "feature"
    in_graph: bool = True

    @property
    def names(self) -> list[str]:
        """Name of each row, for feature tables: ``label`` alone for a single row, else with its number."""
        if self.n_features == 1:
            return [self.label]
        return [f"{self.label}_{row:03d}" for row in range(self.n_features)]

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features, zero behind the valid frames, and valid frames per row."""
        raise NotImplementedError
