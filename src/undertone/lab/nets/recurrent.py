"""Recurrent networks. Padding behind a clip's valid frames never changes their output."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.lab.features.feature import frame_mask
from undertone.lab.nets.blocks import ConvNorm2d, Dropout
from undertone.lab.nets.keras import Recurrent, init_as_keras
from undertone.lab.nets.output import Output

POOLS = ("last", "mean", "attention")


class Summary(nn.Module):
    """One vector per clip from the states of its valid frames.

    Parameters
    ----------
    n
        Values of a state.
    pool
        ``"last"``, the state after the whole clip; ``"mean"`` over its frames; or ``"attention"``, a mean whose weights
        are a softmax over the frames (Bahdanau et al. 2015, arXiv:1409.0473, without a query).
    """

    def __init__(self, n: int, pool: str):
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        self.pool = pool
        self.score = nn.Sequential(nn.Linear(n, n // 2), nn.Tanh(), nn.Linear(n // 2, 1, bias=False))
        if pool != "attention":
            self.score = None

    def forward(self, states: Tensor, n_valid: Tensor, layer: Recurrent) -> Tensor:
        """Vector, (batch, n), of states (batch, n_frames, n) that ``layer`` gave."""
        if self.pool == "last":
            return layer.last(states, n_valid)
        mask = frame_mask(n_valid, states.shape[1])[:, :, None]  # (B, T, 1)
        if self.score is None:
            weight = mask / n_valid[:, None, None]
        else:
            weight = torch.softmax(self.score(states).float().masked_fill(mask == 0, -torch.inf), dim=1)
        return (states * weight).sum(dim=1)


class Dense(nn.Sequential):
    """[linear, rectifier, dropout] per entry of ``sizes`` but the first, which is the input's."""

    def __init__(self, sizes: Sequence[int], dropout: float):
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(), Dropout(dropout)]
        super().__init__(*layers)


class RNN(nn.Module):
    """Recurrent layers over the frames, a summary of them, dense layers.

    A vector per clip (features of one frame) is read as the sequence of its values.

    Parameters
    ----------
    cell
        ``"rnn"``, ``"gru"`` or ``"lstm"``.
    n_units
        Units of each layer and direction.
    pool
        See :class:`Summary`.
    n_hidden
        Units of each dense layer before the last.
    dropout
        Between recurrent layers, and behind each dense layer.

    References
    ----------
    Dhavan06/ML-and-DL-Models, simple RNN on CREMA-D: 362,630 parameters at 554 values and 6 classes.
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None = None, cell: str = "lstm",
                 n_units: Sequence[int] = (128,), bidirectional: bool = False, pool: str = "last",
                 n_hidden: Sequence[int] = (64,), dropout: float = 0.3):  # fmt: skip
        super().__init__()
        self.reads_values = n_frames == 1
        layers, n_in = [], 1 if self.reads_values else n_features
        for n in n_units:
            layers.append(Recurrent(n_in, n, cell, bidirectional=bidirectional))
            n_in = layers[-1].n_out
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self.summary = Summary(n_in, pool)
        self.dense = Dense([n_in, *n_hidden], dropout)
        self.classify = nn.Linear([n_in, *n_hidden][-1], n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of a batch of features, (batch, n_features, n_frames), with ``n_valid`` valid frames per row."""
        states = features if self.reads_values else features.transpose(1, 2)  # (B, T, F)
        if self.reads_values:
            n_valid = torch.full_like(n_valid, states.shape[1])
        for number, layer in enumerate(self.layers):
            states = layer(self.dropout(states) if number else states, n_valid)
        embedding = self.dense(self.summary(states, n_valid, self.layers[-1]))
        return Output(logits=self.classify(embedding), embedding=embedding)


class CRNN(nn.Module):
    """2-D convolutions, a bidirectional recurrent layer over the frames that are left, attention, dense.

    Parameters
    ----------
    widths
        Channels of each stage (convolution, batch norm, rectifier, max pooling); each halves the bands, the first
        ``time_stages`` the frames, too.
    n_units
        Units of the recurrent layer and direction.
    dropout
        Behind the convolutions, and before the last layer.
    """

    def __init__(self, n_features: int, n_classes: int, *, widths: Sequence[int] = (16, 32, 64),
                 time_stages: int = 2, cell: str = "gru", n_units: int = 64, n_hidden: int = 64,
                 dropout: float = 0.3):  # fmt: skip
        super().__init__()
        if not 0 <= time_stages <= len(widths):
            raise ValueError(f"time_stages must be 0 to {len(widths)}, the number of stages, got {time_stages}")
        self.stages = nn.ModuleList(ConvNorm2d(*pair) for pair in pairwise([1, *widths]))
        self.time_stages = time_stages
        n_bands = n_features
        for _ in widths:
            n_bands = -(-n_bands // 2)
        self.dropout = Dropout(dropout)
        self.recurrent = Recurrent(widths[-1] * n_bands, n_units, cell, bidirectional=True)
        self.summary = Summary(2 * n_units, "attention")
        self.dense = Dense([2 * n_units, n_hidden], dropout)
        self.classify = nn.Linear(n_hidden, n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of a batch of features, (batch, n_features, n_frames), with ``n_valid`` valid frames per row.

        Frames behind the valid ones are zero before each pooling, and no rectified value is less: they are never the
        largest, nor is what a pool that reaches over the clip's end finds there when the clip stands alone.
        """
        hidden = features[:, None]  # (B, 1, F, T)
        for number, stage in enumerate(self.stages):
            mask = frame_mask(n_valid, hidden.shape[3])[:, None, None]
            hidden = F.relu(stage(hidden)) * mask
            halves = number < self.time_stages
            # An added band and frame instead of ceil_mode, whose sizes torch.export cannot follow.
            hidden = F.max_pool2d(F.pad(hidden, (0, int(halves), 0, hidden.shape[2] % 2)), (2, 1 + halves))
            n_valid = (n_valid + 1) // 2 if halves else n_valid
        sequence = self.dropout(hidden.flatten(1, 2).transpose(1, 2))  # (B, T, C * F)
        embedding = self.dense(self.summary(self.recurrent(sequence, n_valid), n_valid, self.recurrent))
        return Output(logits=self.classify(embedding), embedding=embedding)
