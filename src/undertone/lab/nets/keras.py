"""Layers that behave as Keras's do, for the published systems: starting weights, batch norm, 'same' pooling, RNNs.

Keras and torch differ where a reader would not look: glorot-uniform kernels and zero biases, a batch norm with epsilon
1e-3 and momentum 0.99, 'same' pooling that rounds up, recurrent layers with one bias per gate. Each is a few points of
accuracy or a wrong parameter count when it is missed.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FORGET_GATE = 1  # torch's order of LSTM gates: input, forget, cell, output


def init_as_keras(network: nn.Module) -> None:
    """Set the starting weights and the batch norms of a whole network to Keras's defaults, in place.

    Draws from torch's global generator. Recurrent layers of this file start so by themselves.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.01  # Keras's momentum 0.99 is the share that stays


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return the samples to add before and behind for ceil(size / stride) outputs; the odd one goes behind.

    Examples
    --------
    >>> same_padding(1620, 5, 2), same_padding(405, 5, 2), same_padding(7, 2, 2)
    ((1, 2), (2, 2), (0, 1))
    """
    n_out = -(-size // stride)
    total = max(0, (n_out - 1) * stride + kernel_size - size)
    return total // 2, total - total // 2


def max_pool_same(hidden: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Largest of each window, (batch, channels, ceil(n / stride)): Keras's ``MaxPooling1D(padding="same")``."""
    padding = same_padding(hidden.shape[2], kernel_size, stride)
    return F.max_pool1d(F.pad(hidden, padding, value=-math.inf), kernel_size, stride)


class Recurrent(nn.Module):
    """A recurrent layer over the valid frames of each row, in one direction or both.

    It has one bias per gate, as Keras's SimpleRNN and LSTM (torch's own have two): the input gets a last column of
    ones, whose weights are the biases. An LSTM's forget gate starts at bias 1.

    Parameters
    ----------
    n_in, n_out
        Values per frame, and units per direction.
    cell
        ``"rnn"`` (tanh), ``"gru"`` or ``"lstm"``.
    """

    def __init__(self, n_in: int, n_out: int, cell: str = "lstm", *, bidirectional: bool = False):
        super().__init__()
        if cell not in N_GATES:
            raise ValueError(f"cell must be one of {', '.join(N_GATES)}, got {cell!r}")
        layer = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.forth = layer(n_in + 1, n_out, bias=False, batch_first=True)
        self.back = layer(n_in + 1, n_out, bias=False, batch_first=True) if bidirectional else None
        self.n_out = n_out * (1 + bidirectional)
        for direction in (self.forth, self.back):
            if direction is not None:
                _init_recurrent(direction, cell)

    def forward(self, sequence: Tensor, n_valid: Tensor) -> Tensor:
        """Hidden states, (batch, n_frames, n_out), of a sequence (batch, n_frames, n_in).

        What stands behind a row's ``n_valid`` frames changes no valid one; the states there mean nothing.
        """
        sequence = F.pad(sequence, (0, 1), value=1.0)
        forth, _ = self.forth(sequence)
        if self.back is None:
            return forth
        back, _ = self.back(reverse_frames(sequence, n_valid))
        return torch.cat([forth, reverse_frames(back, n_valid)], dim=2)

    def last(self, states: Tensor, n_valid: Tensor) -> Tensor:
        """State after the whole of each row was read, (batch, n_out): the backward half's stands on frame 0."""
        index = (n_valid - 1)[:, None, None].expand(-1, 1, states.shape[2])
        end = states.gather(1, index)[:, 0]
        if self.back is None:
            return end
        half = self.n_out // 2
        return torch.cat([end[:, :half], states[:, 0, half:]], dim=1)


def reverse_frames(sequence: Tensor, n_valid: Tensor) -> Tensor:
    """Sequence, (batch, n_frames, n), with each row's valid frames in reverse order; the others stay.

    Examples
    --------
    >>> reverse_frames(torch.tensor([[[1], [2], [3]]]), torch.tensor([2])).flatten().tolist()
    [2, 1, 3]
    """
    frame = torch.arange(sequence.shape[1], device=sequence.device)[None]  # (1, T)
    index = torch.where(frame < n_valid[:, None], n_valid[:, None] - 1 - frame, frame)  # (B, T)
    return sequence.gather(1, index[:, :, None].expand(-1, -1, sequence.shape[2]))


def _init_recurrent(layer: nn.RNNBase, cell: str) -> None:
    """Glorot-uniform kernel, orthogonal recurrent kernel, zero bias but for an LSTM's forget gate."""
    kernel, recurrent, n_out = layer.weight_ih_l0, layer.weight_hh_l0, layer.hidden_size
    limit = math.sqrt(6 / (layer.input_size - 1 + N_GATES[cell] * n_out))
    with torch.no_grad():
        kernel.uniform_(-limit, limit)
        kernel[:, -1] = 0
        if cell == "lstm":
            kernel[FORGET_GATE * n_out : (FORGET_GATE + 1) * n_out, -1] = 1
        nn.init.orthogonal_(recurrent)  # of the whole (n_gates * n_out, n_out) matrix, as Keras does
