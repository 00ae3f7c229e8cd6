"""Keras's defaults, against its formulas worked out in numpy: published parameter counts and scores hang on them."""

# ruff: noqa: E402 - imports follow the check that torch is there
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

from undertone.lab.nets import CNN1D, RNN
from undertone.lab.nets.cnn_2d import ConvPoolNorm2d
from undertone.lab.nets.keras import (
    N_GATES,
    Recurrent,
    init_as_keras,
    max_pool_same,
    reverse_frames,
    run_recurrent,
    same_padding,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

N_IN, N_OUT = 3, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def keras_states(layer, sequence):
    """States of each frame, (n_frames, n_out), by the equations of Keras's documentation, one bias per gate."""
    kernel, recurrent = layer.weight_ih_l0.detach().numpy(), layer.weight_hh_l0.detach().numpy()
    kernel, bias = kernel[:, :-1], kernel[:, -1]
    h = c = np.zeros(recurrent.shape[1])
    states = []
    for x in sequence:
        from_input, from_state = kernel @ x + bias, recurrent @ h
        if isinstance(layer, nn.LSTM):
            i, f, g, o = np.split(from_input + from_state, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif isinstance(layer, nn.GRU):
            (r, z, n), (r_h, z_h, n_h) = np.split(from_input, 3), np.split(from_state, 3)
            keep = sigmoid(z + z_h)
            h = keep * h + (1 - keep) * np.tanh(n + sigmoid(r + r_h) * n_h)
        else:
            h = np.tanh(from_input + from_state)
        states.append(h)
    return np.stack(states)


def layer_of(cell, **options):
    torch.manual_seed(0)
    layer = Recurrent(N_IN, N_OUT, cell, **options)
    for parameter in layer.parameters():  # biases that are not zero
        parameter.data.normal_(0, 0.7)
    return layer


@pytest.mark.parametrize("cell", N_GATES)
def test_recurrent_layer_is_keras_equations(cell):
    layer, sequence = layer_of(cell), torch.randn(2, 7, N_IN)
    states = layer(sequence, torch.tensor([7, 7])).detach()
    for row in range(2):
        np.testing.assert_allclose(states[row], keras_states(layer.forth, sequence[row].numpy()), atol=1e-6)


@pytest.mark.parametrize("cell", N_GATES)
def test_both_directions_read_the_valid_frames_alone(cell):
    layer, sequence, n_valid = layer_of(cell, bidirectional=True), torch.randn(3, 7, N_IN), torch.tensor([7, 4, 1])
    states = layer(sequence, n_valid)
    last = layer.last(states, n_valid).detach().numpy()
    for row, n in enumerate(n_valid.tolist()):
        clip = sequence[row, :n].numpy()
        forth, back = keras_states(layer.forth, clip), keras_states(layer.back, clip[::-1])
        np.testing.assert_allclose(states[row, :n].detach(), np.hstack([forth, back[::-1]]), atol=1e-6)
        np.testing.assert_allclose(last[row], np.concatenate([forth[-1], back[-1]]), atol=1e-6)


@pytest.mark.parametrize("cell", N_GATES)
def test_the_operator_of_the_exported_graph_is_the_layer(cell):
    layer, sequence = layer_of(cell), torch.randn(2, 7, N_IN)
    with_ones = torch.cat([sequence, torch.ones(2, 7, 1)], dim=2)
    exported = run_recurrent(with_ones, layer.forth.weight_ih_l0, layer.forth.weight_hh_l0, cell)
    states = layer(sequence, torch.tensor([7, 7])).detach()
    np.testing.assert_allclose(exported.detach(), states, rtol=1e-5, atol=1e-6)


def test_one_bias_per_gate():
    for cell, n_gates in N_GATES.items():
        count = sum(parameter.numel() for parameter in Recurrent(N_IN, N_OUT, cell).parameters())
        assert count == n_gates * N_OUT * (N_IN + N_OUT + 1)


@pytest.mark.parametrize("cell", N_GATES)
def test_recurrent_layer_starts_as_keras_does(cell):
    layer = Recurrent(30, 20, cell).forth
    kernel, recurrent = layer.weight_ih_l0.detach().numpy(), layer.weight_hh_l0.detach().numpy()
    limit = math.sqrt(6 / (30 + N_GATES[cell] * 20))  # of Keras's (n_in, n_gates * n_out) kernel
    assert 0.9 * limit < np.abs(kernel[:, :-1]).max() <= limit
    bias = np.zeros(N_GATES[cell] * 20)
    if cell == "lstm":
        bias[20:40] = 1
    np.testing.assert_array_equal(kernel[:, -1], bias)
    np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(20), atol=1e-5)


def test_reversed_frames_are_their_own_inverse():
    sequence, n_valid = torch.randn(3, 6, 2), torch.tensor([6, 3, 1])
    there = reverse_frames(sequence, n_valid)
    assert torch.equal(there[1, :3], sequence[1, :3].flip(0))
    assert torch.equal(reverse_frames(there, n_valid), sequence)


def test_kernels_biases_and_batch_norm_start_as_keras_do():
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv1d(8, 16, 5), nn.Linear(100, 50), nn.BatchNorm1d(3))
    init_as_keras(network)
    for layer, (fan_in, fan_out) in zip(network, [(72, 144), (40, 80), (100, 50)], strict=False):
        limit = math.sqrt(6 / (fan_in + fan_out))
        assert 0.9 * limit < layer.weight.abs().max() <= limit
        assert not layer.bias.any()
    values, norm = torch.randn(64, 3) + 5, network[-1].train()
    norm(values)
    np.testing.assert_allclose(norm.running_mean, 0.01 * values.mean(dim=0), rtol=1e-5)
    assert norm.eps == 1e-3


@pytest.mark.parametrize("network", [CNN1D(24, 5, n_frames=60), RNN(24, 5, n_hidden=[8])], ids=["cnn-1d", "rnn"])
def test_networks_start_so(network):
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 11, 50])
@pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (3, 2), (5, 2), (5, 5), (3, 3), (3, 1)])
def test_same_pooling_is_tensorflow_formula(n, kernel_size, stride):
    n_out = math.ceil(n / stride)
    total = max((n_out - 1) * stride + kernel_size - n, 0)
    assert same_padding(n, kernel_size, stride) == (total // 2, total - total // 2)
    hidden = -torch.rand(2, 3, 1, n) - 1  # all below zero: padding with zeros would win
    padded = np.pad(hidden, ((0, 0), (0, 0), (0, 0), same_padding(n, kernel_size, stride)), constant_values=-np.inf)
    expected = [padded[..., step * stride : step * stride + kernel_size].max(axis=3) for step in range(n_out)]
    np.testing.assert_array_equal(max_pool_same(hidden, kernel_size, stride), np.stack(expected, axis=3))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pooling_before_the_rectifier_is_the_published_order(padding):
    """Convolution, rectifier, pooling, batch norm: the order in the published systems, worked out in that order."""
    torch.manual_seed(0)
    block, image = ConvPoolNorm2d(2, 5, padding).train(), torch.randn(3, 2, 17, 12)
    image.requires_grad_()
    ours = block(image)
    theirs = F.batch_norm(F.max_pool2d(F.relu(block.conv(image)), 2), None, None, training=True)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-5)
