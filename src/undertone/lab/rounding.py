"""Weights in 8 bits: a model file of a quarter of the size, computed as fast and almost as well.

Each weight becomes a whole number from -127 to 127 times a scale, one scale for each output of its layer. The file
holds the whole numbers, and the runtime multiplies them out when it opens the file; sums are made in float32 as before.
Biases, norms and the front end stay as they are.
"""

import re

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

LEVELS = 127
WEIGHTED = ("Conv", "Gemm")  # operators whose second input has the outputs of its layer on its first axis


@torch.no_grad()
def round_weights(network: nn.Module) -> nn.Module:
    """Round the weights of a network, in place, to what 8 bits hold; return it.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.27, 0.123]]))
    >>> round_weights(layer).weight.data
    tensor([[1.2700, 0.1200]])
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:
            whole, scale = _to_int8(parameter.numpy())
            parameter.copy_(torch.from_numpy(_to_float(whole, scale)))
    return network


def store_weights_as_int8(model: bytes, *, where: str = r"model\.(members\.\d+\.)?network\.") -> bytes:
    """Replace the rounded weights of an ONNX file by whole numbers and scales; its answers stay the same.

    Parameters
    ----------
    where
        A regular expression of what the names of the networks' weights begin with, as
        :func:`undertone.lab.export.to_onnx` names them.

    Raises
    ------
    ValueError
        If a weight is not rounded, or the file has none.
    """
    proto = onnx.load_from_string(model)
    weights = {node.input[1] for node in proto.graph.node if node.op_type in WEIGHTED}
    chosen = [tensor for tensor in proto.graph.initializer
              if tensor.name in weights and re.match(where, tensor.name) and len(tensor.dims) > 1]  # fmt: skip
    if not chosen:
        raise ValueError("this file has no weights of convolutions or dense layers to store in 8 bits")
    nodes = []
    for tensor in chosen:
        values = numpy_helper.to_array(tensor)
        whole, scale = _to_int8(values)
        if not np.allclose(_to_float(whole, scale), values, rtol=1e-5, atol=0):
            raise ValueError(f"{tensor.name} is not rounded to 8 bits; round the network before exporting it")
        parts = {"int8": whole, "scale": scale, "zero": np.zeros(len(scale), np.int8)}
        names = {kind: f"{tensor.name}.{kind}" for kind in parts}
        proto.graph.initializer.extend(numpy_helper.from_array(part, names[kind]) for kind, part in parts.items())
        nodes.append(helper.make_node("DequantizeLinear", list(names.values()), [tensor.name], axis=0))
        proto.graph.initializer.remove(tensor)
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    return proto.SerializeToString()


def _to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers, shaped as the weight, and the scale of each output, (n_outputs,) float32."""
    peak = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(peak > 0, peak / LEVELS, 1).astype(np.float32)
    return np.round(weight / _spread(scale, weight)).astype(np.int8), scale


def _to_float(whole: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return whole.astype(np.float32) * _spread(scale, whole)


def _spread(scale: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))
