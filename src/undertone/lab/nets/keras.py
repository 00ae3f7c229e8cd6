"""Layers that behave as Keras's do, for the published systems: starting weights, batch norm, 'same' pooling, RNNs.

Keras and torch differ where a reader would not look: glorot-uniform kernels and zero biases, a batch norm with epsilon
1e-3 and momentum 0.99, 'same' pooling that rounds up, recurrent layers with one bias per gate. Each is a few points of
accuracy or a wrong parameter count when it is missed.
"""

import math
from collections.abc import Callable
from typing import Any

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
    """Largest of each window, (batch, channels, 1, ceil(n / stride)): Keras's ``MaxPooling1D(padding="same")``."""
    n = hidden.shape[3]
    before, _ = same_padding(n, kernel_size, stride)  # what is missing behind is ceil_mode's
    pooled = F.max_pool2d(hidden, (1, kernel_size), (1, stride), padding=(0, before), ceil_mode=True)
    return pooled[..., : -(-n // stride)]


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
        self.cell, self.n_out = cell, n_out * (1 + bidirectional)
        for direction in (self.forth, self.back):
            if direction is not None:
                _init_recurrent(direction, cell)

    def forward(self, sequence: Tensor, n_valid: Tensor) -> Tensor:
        """Hidden states, (batch, n_frames, n_out), of a sequence (batch, n_frames, n_in).

        What stands behind a row's ``n_valid`` frames changes no valid one; the states there mean nothing.
        """
        sequence = torch.cat([sequence, torch.ones_like(sequence[:, :, :1])], dim=2)
        forth = self._run(self.forth, sequence)
        if self.back is None:
            return forth
        back = self._run(self.back, reverse_frames(sequence, n_valid))
        return torch.cat([forth, reverse_frames(back, n_valid)], dim=2)

    def _run(self, layer: nn.RNNBase, sequence: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            return run_recurrent(sequence, layer.weight_ih_l0, layer.weight_hh_l0, self.cell)
        return layer(sequence)[0]

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
    kernel, recurrent = (layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0"))
    n_out = layer.hidden_size
    limit = math.sqrt(6 / (layer.input_size - 1 + N_GATES[cell] * n_out))
    with torch.no_grad():
        kernel.uniform_(-limit, limit)
        kernel[:, -1] = 0
        if cell == "lstm":
            kernel[FORGET_GATE * n_out : (FORGET_GATE + 1) * n_out, -1] = 1
        nn.init.orthogonal_(recurrent)  # of the whole (n_gates * n_out, n_out) matrix, as Keras does


# ---------------------------------------------------------------------------------------------- export
# torch.export unrolls recurrent layers, or takes minutes to find that it need not. An operator of our own is opaque to
# it, and one node in the ONNX graph.

ONNX_GATES = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}  # where ONNX's gates stand in torch's order


@torch.library.custom_op("undertone::recurrent", mutates_args=())
def run_recurrent(sequence: Tensor, kernel: Tensor, recurrent: Tensor, cell: str) -> Tensor:
    """Hidden states, (batch, n_frames, n_out), of one layer and direction without bias, from zeros on."""
    start = sequence.new_zeros(1, sequence.shape[0], recurrent.shape[1])
    run = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[cell]
    begin = [start, start] if cell == "lstm" else start
    return run(sequence, begin, [kernel, recurrent], False, 1, 0.0, False, False, True)[0]


@run_recurrent.register_fake
def _(sequence: Tensor, kernel: Tensor, recurrent: Tensor, cell: str) -> Tensor:
    return sequence.new_empty(sequence.shape[0], sequence.shape[1], recurrent.shape[1])


def onnx_translations() -> dict[Callable, Callable]:
    """Return what ``torch.onnx.export`` has to know of the operators here, its ``custom_translation_table``."""
    from onnxscript import opset18  # a leaf: torch brings it in for its exporter

    op: Any = opset18

    def translate(sequence: Any, kernel: Any, recurrent: Any, cell: str) -> Any:
        n_out = recurrent.shape[1]
        rows = op.Constant(value_ints=[gate * n_out + unit for gate in ONNX_GATES[cell] for unit in range(n_out)])

        def in_order(weight: Any) -> Any:  # (n_gates * n_out, n) -> (1, n_gates * n_out, n)
            return op.Unsqueeze(op.Gather(weight, rows, axis=0), [0])

        arguments = op.Transpose(sequence, perm=[1, 0, 2]), in_order(kernel), in_order(recurrent)
        if cell == "gru":
            states, _ = op.GRU(*arguments, hidden_size=n_out, linear_before_reset=1)
        elif cell == "lstm":
            states, _, _ = op.LSTM(*arguments, hidden_size=n_out)
        else:
            states, _ = op.RNN(*arguments, hidden_size=n_out)
        return op.Transpose(op.Squeeze(states, [1]), perm=[1, 0, 2])

    return {torch.ops.undertone.recurrent.default: translate}
