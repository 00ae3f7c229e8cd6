"""All networks, from one table."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load, save
from torch.nn import functional as F

from undertone.lab.features import frame_mask
from undertone.lab.nets import NETWORKS
from undertone.lab.nets.blocks import AttentiveStatsPool, ResidualSE2d, SqueezeExcite2d
from undertone.lab.recipes import build_model, load_recipe, n_parameters, recipe_names

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

MAX_PARAMETERS = 2_000_000
N_CLASSES, N_FEATURES = 5, 24
NETWORK_TABLE = [  # kind, arguments, frames of the input per frame logit
    ("se-resnet", {}, 4),
    ("se-resnet", {"widths": [4, 8], "time_stages": 1, "n_hidden": 16, "n_embedding": 8}, 2),
    ("se-resnet", {"widths": [4, 6, 8], "n_blocks": 2, "time_stages": 3, "n_hidden": 12, "n_embedding": 6}, 8),
]
N_FRAMES = [61, 40, 33, 8, 1]  # valid frames per row of the batch


@pytest.fixture(params=NETWORK_TABLE, ids=lambda row: f"{row[0]} {row[1] or 'defaults'}")
def row(request):
    return request.param


@pytest.fixture
def network(row):
    """A network whose batch norms have statistics of their own, so that masked frames would show."""
    torch.manual_seed(0)
    kind, arguments, _ = row
    network = NETWORKS[kind](N_FEATURES, N_CLASSES, **arguments)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.3)
    return network.eval()


@pytest.fixture
def batch():
    """Features as a front end gives them, zero behind the valid frames."""
    n_valid = torch.tensor(N_FRAMES)
    features = torch.randn(len(N_FRAMES), N_FEATURES, max(N_FRAMES), generator=torch.Generator().manual_seed(1))
    return features * frame_mask(n_valid, max(N_FRAMES))[:, None], n_valid


def test_every_network_is_in_the_table():
    assert {kind for kind, *_ in NETWORK_TABLE} == set(NETWORKS)


def test_output_shapes(row, network, batch):
    output = network(*batch)
    assert output.logits.shape == (len(N_FRAMES), N_CLASSES)
    assert output.frame_logits.shape == (len(N_FRAMES), -(-max(N_FRAMES) // row[2]), N_CLASSES)
    assert output.n_valid.tolist() == [-(-n // row[2]) for n in N_FRAMES]
    assert output.frame_vote.shape == output.logits.shape
    assert output.embedding.shape[0] == len(N_FRAMES)
    assert network.frame_stride == row[2]


def test_padded_batch_is_one_by_one(network, batch):
    features, n_valid = batch
    together = network(features, n_valid)
    for index, n in enumerate(N_FRAMES):
        alone = network(features[index : index + 1, :, :n], n_valid[index : index + 1])
        for name in ("logits", "embedding", "frame_vote"):
            ours, theirs = getattr(together, name)[index], getattr(alone, name)[0]
            np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-5, err_msg=name)
        frames = together.frame_logits[index, : together.n_valid[index]]
        np.testing.assert_allclose(frames.detach(), alone.frame_logits[0].detach(), rtol=1e-4, atol=1e-5)


def test_frame_logits_are_zero_behind_the_valid_frames(network, batch):
    output = network(*batch)
    for frames, n in zip(output.frame_logits, output.n_valid, strict=True):
        assert not frames[n:].any()
        assert frames[:n].any(dim=1).all()


def test_row_order_does_not_matter(network, batch):
    features, n_valid = batch
    order = torch.tensor([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        network(features[order], n_valid[order]).logits.detach(),
        network(features, n_valid).logits[order].detach(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gradients_reach_every_parameter(network, batch):
    """With both losses that training puts on it, in training mode."""
    output = network.train()(*batch)
    target = torch.arange(len(N_FRAMES)) % N_CLASSES
    (F.cross_entropy(output.logits, target) + F.cross_entropy(output.frame_vote, target)).backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    # A number added to every score of the attention alike changes no softmax: its gradient is rounding, or zero.
    assert [name for name in without if name != "pool.score.2.bias"] == []


def test_save_and_load(row, network, batch):
    stored = save(network.state_dict())
    torch.manual_seed(1)
    fresh = NETWORKS[row[0]](N_FEATURES, N_CLASSES, **row[1]).eval()
    assert not torch.equal(fresh(*batch).logits, network(*batch).logits)
    fresh.load_state_dict(load(stored))
    for ours, theirs in zip(fresh(*batch), network(*batch), strict=True):
        assert torch.equal(ours, theirs)


def test_one_seed_gives_one_network():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in NETWORKS["se-resnet"](24, 5).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("time_stages", [0, 5])
def test_more_halvings_than_stages_are_refused(time_stages):
    with pytest.raises(ValueError, match="time_stages must be 1 to 4"):
        NETWORKS["se-resnet"](24, 5, time_stages=time_stages)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_stay_small(name):
    assert 0 < n_parameters(build_model(load_recipe(name), n_classes=8)) <= MAX_PARAMETERS


# ---- blocks, against values worked out in numpy ----


def test_attentive_pooling_is_a_weighted_mean_and_deviation():
    torch.manual_seed(0)
    pool, hidden = AttentiveStatsPool(3, 4), torch.randn(2, 3, 7)
    mask = frame_mask(torch.tensor([7, 4]), 7)
    pooled, attention = (tensor.detach().numpy() for tensor in pool(hidden, mask))
    np.testing.assert_allclose(attention.sum(axis=2), 1, rtol=1e-5)
    assert not attention[1, :, 4:].any()
    values = hidden.numpy()
    mean = (values * attention).sum(axis=2)
    deviation = np.sqrt(((values - mean[:, :, None]) ** 2 * attention).sum(axis=2))
    np.testing.assert_allclose(pooled, np.concatenate([mean, deviation], axis=1), rtol=1e-4, atol=1e-5)


def test_pooling_of_constant_frames_has_a_finite_gradient():
    """The deviation is zero there, and the root's slope infinite without a floor."""
    hidden = torch.ones(1, 3, 5, requires_grad=True)
    AttentiveStatsPool(3, 4)(hidden, torch.ones(1, 5))[0].sum().backward()
    assert hidden.grad.isfinite().all()


def test_squeeze_excite_looks_at_valid_frames_only():
    torch.manual_seed(0)
    gate, hidden = SqueezeExcite2d(8), torch.randn(1, 8, 4, 6)
    mask = frame_mask(torch.tensor([4]), 6)[:, None, None]
    other = hidden.clone()
    other[..., 4:] = 100.0
    np.testing.assert_allclose(gate(hidden, mask)[..., :4].detach(), gate(other, mask)[..., :4].detach(), rtol=1e-6)


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
def test_residual_block_is_zero_where_its_mask_is(stride):
    torch.manual_seed(0)
    block, n_out = ResidualSE2d(4, 8, stride).eval(), -(-10 // stride[1])
    mask = frame_mask(torch.tensor([10, 3]), 10)[:, None, None]
    small = frame_mask(torch.tensor([10, 3]).add(stride[1] - 1) // stride[1], n_out)[:, None, None]
    out = block(torch.randn(2, 4, 6, 10) * mask, small)
    assert out.shape == (2, 8, 6 // stride[0], n_out)
    assert torch.equal(out, out * small)
    assert out.any()
