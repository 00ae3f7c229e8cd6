"""What every network returns."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Output of a network.

    Attributes
    ----------
    logits : (batch, n_classes)
    frame_logits : (batch, n_frames, n_classes), or None
        The track over time, zero behind the valid frames.
    embedding : (batch, n_embedding), or None
    frame_vote : (batch, n_classes), or None
        The frame logits averaged over time: a second loss on it is what trains them.
    n_valid : (batch,) int64, or None
        Valid frames of ``frame_logits`` per row.
    """

    logits: Tensor
    frame_logits: Tensor | None = None
    embedding: Tensor | None = None
    frame_vote: Tensor | None = None
    n_valid: Tensor | None = None
