"""1-D convolutional networks on input of fixed size: frames as steps, or the values of a vector as a sequence."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from undertone.lab.nets.blocks import Dropout, require_frames
from undertone.lab.nets.keras import Recurrent, init_as_keras, max_pool_same
from undertone.lab.nets.output import Output

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "leaky-relu": lambda: nn.LeakyReLU(0.3)}  # Keras's slopes


def make_activation(name: str) -> nn.Module:
    """Build an activation by its name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def as_sequence(features: Tensor, n_frames: int) -> Tensor:
    """Return a sequence, (batch, n_channels, 1, n_steps): frames are its steps; of a vector (one frame), its values."""
    return (features.transpose(1, 2) if n_frames == 1 else features)[:, :, None]


class ConvPool1d(nn.Module):
    """Convolution, activation, batch norm or none, max pooling, dropout.

    Two-dimensional layers of height 1: they, and not the one-dimensional, are fast with the channels last in memory.

    Parameters
    ----------
    pool, stride
        Of the pooling, in steps. With ``padding="same"`` it rounds its output up, as the convolution keeps its own.
    """

    def __init__(self, n_in: int, n_out: int, kernel_size: int, pool: int, stride: int, dropout: float, *,
                 padding: str, activation: str, norm: bool):  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, (1, kernel_size), padding=padding)
        self.activation = make_activation(activation)
        self.norm = nn.BatchNorm2d(n_out) if norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.padding, self.pool, self.stride = padding, pool, stride

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden, (batch, n_out, 1, n_steps / stride), of (batch, n_in, 1, n_steps)."""
        hidden = self.norm(self.activation(self.conv(hidden)))
        if self.padding == "same":
            return self.dropout(max_pool_same(hidden, self.pool, self.stride))
        return self.dropout(nn.functional.max_pool2d(hidden, (1, self.pool), (1, self.stride)))


class CNN1D(nn.Module):
    """Convolutions with pooling, LSTMs if asked for, and dense layers on all steps that are left.

    Parameters
    ----------
    stages
        Channels, kernel size, pool size and dropout of each stage.
    pool_stride
        Steps between two pools; 0 is a pool's own size.
    padding
        ``"same"`` or ``"valid"``, of convolutions and pools.
    activation, n_hidden_activation
        ``"relu"``, ``"elu"`` or ``"leaky-relu"`` (slope 0.3), of stages and of dense layers.
    norm
        Batch norm behind each activation.
    lstm
        Units of each LSTM between stages and dense layers.
    n_hidden
        Units of each dense layer before the last.
    dropout
        Behind each LSTM, before the dense layers and behind each.

    References
    ----------
    The Kaggle lineage of ``CNN_model.json`` (5,620,359 parameters at 1,620 values and 7 classes); shelleypi/emotion;
    the 1-D ancestor of Nathaniel538/SER-using-2D-CNN.
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None,
                 stages: Sequence[Sequence[float]] = ((64, 5, 5, 0.3), (128, 5, 5, 0.3)), pool_stride: int = 0,
                 padding: str = "same", activation: str = "relu", norm: bool = True, lstm: Sequence[int] = (),
                 n_hidden: Sequence[int] = (128,), n_hidden_activation: str = "relu",
                 dropout: float = 0.0):  # fmt: skip
        super().__init__()
        self.n_frames = require_frames(n_frames)
        n_in, n_steps = (1, n_features) if n_frames == 1 else (n_features, self.n_frames)
        blocks = []
        for width, kernel_size, pool, drop in stages:
            n_out, kernel_size, pool = int(width), int(kernel_size), int(pool)
            stride = pool_stride or pool
            blocks.append(ConvPool1d(n_in, n_out, kernel_size, pool, stride, drop, padding=padding,
                                     activation=activation, norm=norm))  # fmt: skip
            n_in, n_steps = n_out, _count_steps(n_steps, kernel_size, pool, stride, padding)
        self.stages = nn.Sequential(*blocks)
        self.recurrent = nn.ModuleList(Recurrent(*pair) for pair in pairwise([n_in, *lstm]))
        self.dropout = Dropout(dropout)
        sizes = [[n_in, *lstm][-1] * n_steps, *n_hidden]
        layers: list[nn.Module] = []
        for size, n_out in pairwise(sizes):
            layers += [nn.Linear(size, n_out), make_activation(n_hidden_activation)]
            layers += [nn.BatchNorm1d(n_out)] if norm else []
            layers += [Dropout(dropout)]
        self.dense = nn.Sequential(*layers)
        self.classify = nn.Linear(sizes[-1], n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); all frames are read, whatever ``n_valid``."""
        hidden = self.stages(as_sequence(features, self.n_frames)).squeeze(2)  # (B, C, N)
        n_steps = torch.full_like(n_valid, hidden.shape[2])
        for layer in self.recurrent:
            hidden = self.dropout(layer(hidden.transpose(1, 2), n_steps)).transpose(1, 2)
        embedding = self.dense(self.dropout(hidden.flatten(1)))
        return Output(logits=self.classify(embedding), embedding=embedding if len(self.dense) else None)


class ConvLSTM1D(nn.Module):
    """Convolution, max pooling, LSTM, dense layers on each step, and one on all steps.

    Parameters
    ----------
    n_channels
        Of the convolution of size 3, without padding.
    n_units
        Of the LSTM.
    n_hidden
        Units of each dense layer of a step.
    dropout
        Behind each of these but the last.

    References
    ----------
    Dhavan06/ML-and-DL-Models, CNN-LSTM on CREMA-D.
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None, n_channels: int = 64,
                 n_units: int = 256, n_hidden: Sequence[int] = (128, 64, 32), dropout: float = 0.3):  # fmt: skip
        super().__init__()
        self.n_frames = require_frames(n_frames)
        n_in, n_steps = (1, n_features) if n_frames == 1 else (n_features, self.n_frames)
        self.conv = ConvPool1d(n_in, n_channels, 3, 2, 2, 0.0, padding="valid", activation="relu", norm=False)
        self.recurrent = Recurrent(n_channels, n_units)
        sizes = [n_units, *n_hidden]
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(sizes[-1] * _count_steps(n_steps, 3, 2, 2, "valid"), n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); all frames are read, whatever ``n_valid``."""
        sequence = self.conv(as_sequence(features, self.n_frames)).squeeze(2).transpose(1, 2)  # (B, N, C)
        hidden = self.recurrent(sequence, torch.full_like(n_valid, sequence.shape[1]))
        for number, layer in enumerate(self.dense, 1):
            hidden = torch.relu(layer(hidden))
            if number < len(self.dense):
                hidden = self.dropout(hidden)
        return Output(logits=self.classify(hidden.flatten(1)))


def _count_steps(n_steps: int, kernel_size: int, pool: int, stride: int, padding: str) -> int:
    n_out = -(-n_steps // stride) if padding == "same" else (n_steps - kernel_size + 1 - pool) // stride + 1
    if n_out < 1:
        raise ValueError(f"a sequence of {n_steps} steps is too short for a convolution of {kernel_size} and its pool")
    return n_out
