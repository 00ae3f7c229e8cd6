"""Muon: orthogonal steps for matrices, AdamW's for the rest."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from undertone.lab.muon import Muon, is_matrix, orthogonalise

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("shape", [(16, 25), (64, 576), (512, 128), (40, 40)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = orthogonalise(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ ours @ right.T  # diagonal where the singular vectors are kept
    well_conditioned = values > 0.05 * values[0]  # smaller values rise too, in more than five steps
    sizes = torch.diagonal(inside)[well_conditioned]
    assert torch.allclose(inside, torch.diag(torch.diagonal(inside)), atol=1e-8)
    assert sizes.min() > 0.6 and sizes.max() < 1.25


@pytest.mark.parametrize("shape", [(16, 25), (128, 1152), (512, 128)])
@pytest.mark.parametrize("smallest", [0.5, 1e-4])
def test_steps_on_gram_matrices_are_the_published_iteration(shape, smallest):
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), False)
    matrix = left * torch.logspace(0, np.log10(smallest), min(shape)) @ right
    x = (matrix if shape[0] <= shape[1] else matrix.T).double()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix).double(), x if shape[0] <= shape[1] else x.T, atol=1e-4, rtol=1e-3)


def test_small_matrices_and_vectors_step_as_adamw_does():
    def trained(kind):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        optimizer = kind(module.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(3):
            module(torch.randn(5, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return module.state_dict()

    ours, theirs = trained(Muon), trained(torch.optim.AdamW)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_matrix_steps_as_torchs_own_muon_does():
    def stepped(kind, **options):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(32, 48))
        optimizer = kind([weight], lr=0.01, weight_decay=0.1, **options)
        for _ in range(4):
            weight.grad = torch.randn(32, 48)
            optimizer.step()
        return weight.detach()

    ours = stepped(Muon, betas=(0.95, 0.99))
    theirs = stepped(torch.optim.Muon, momentum=0.95, adjust_lr_fn="match_rms_adamw")  # computes in bfloat16
    assert torch.allclose(ours, theirs, atol=1e-3) and not torch.allclose(ours, stepped(torch.optim.AdamW), atol=1e-2)


def test_a_convolution_is_the_matrix_of_its_channels():
    torch.manual_seed(0)
    kernel = torch.randn(16, 8, 3, 3)
    weights = [nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())]
    for weight in weights:
        weight.grad = (weight.detach() ** 2 - 1).clone()
        Muon([weight], lr=0.01).step()
    assert torch.equal(weights[0].flatten(1), weights[1])
    assert is_matrix(weights[0]) and not is_matrix(torch.zeros(7, 128)) and not is_matrix(torch.zeros(64))
    assert not is_matrix(torch.zeros(16, 1, 3, 3))  # a kernel for each channel, nine numbers


def test_a_state_that_is_read_back_goes_on_as_before():
    def make():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 3))
        return module, Muon(module.parameters(), lr=0.01)

    def train(module, optimizer, seeds):
        for seed in seeds:
            module(torch.randn(5, 20, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    whole, parts = make(), make()
    train(*whole, range(4))
    train(*parts, range(2))
    again = make()
    again[0].load_state_dict(parts[0].state_dict())
    again[1].load_state_dict(parts[1].state_dict())
    train(*again, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again[0].parameters(), strict=True))
