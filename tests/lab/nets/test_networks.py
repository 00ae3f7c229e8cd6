"""All networks, from one table."""

# ruff: noqa: E402 - imports follow the check that torch is there
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load, save
from torch.nn import functional as F

from undertone.lab.features import frame_mask
from undertone.lab.nets import NETWORKS
from undertone.lab.nets.blocks import AttentiveStatsPool, Dropout, ResidualSE2d, SqueezeExcite2d

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

N_CLASSES, N_FEATURES = 5, 24
N_FRAMES = [61, 40, 33, 8, 1]  # valid frames per row of the batch


@dataclass
class Row:
    """A network and its input; ``n_frames`` None is one that follows the clip's length."""

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    n_features: int = N_FEATURES
    n_frames: int | None = None
    stride: int = 0  # frames of the input per frame logit
    unused: tuple[str, ...] = ()  # parameters that no gradient reaches, and why not stands beside

    def __str__(self):
        return f"{self.kind} {self.arguments or 'defaults'}"

    def build(self):
        frames = {} if self.n_frames is None else {"n_frames": self.n_frames}
        return NETWORKS[self.kind](self.n_features, N_CLASSES, **frames, **self.arguments)


# A number added to every score of the attention alike changes no softmax: its gradient is rounding, or zero.
ATTENTION = ("pool.score.2.bias",)
# The state before the only step is zero, so that nothing recurrent takes part: the published system's own defect.
ONE_STEP = tuple(f"{layer}.{way}.weight_hh_l0" for layer in ("first", "second") for way in ("forth", "back"))

NETWORK_TABLE = [
    Row("se-resnet", stride=4, unused=ATTENTION),
    Row("se-resnet", {"widths": [4, 8], "time_stages": 1, "n_hidden": 16, "n_embedding": 8},
        stride=2, unused=ATTENTION),
    Row("se-resnet", {"widths": [4, 6, 8], "n_blocks": 2, "time_stages": 3, "n_hidden": 12, "n_embedding": 6},
        stride=8, unused=ATTENTION),
    Row("se-resnet", {"widths": [4, 8], "n_hidden": 16, "n_embedding": 8, "centred": True},
        stride=4, unused=ATTENTION),
    Row("rnn"),
    Row("rnn", {"cell": "gru", "n_units": [12, 8], "pool": "mean"}),
    Row("rnn", {"cell": "lstm", "n_units": [12, 8], "bidirectional": True, "pool": "attention"}),
    Row("rnn", {"cell": "rnn", "n_units": [12], "bidirectional": True, "n_hidden": []}),
    Row("crnn"),
    Row("crnn", {"widths": [4, 8], "time_stages": 0, "cell": "lstm", "n_units": 6}, n_features=23),
    Row("rnn", {"cell": "rnn", "n_units": [16], "n_hidden": [8]}, n_frames=1),
    Row("mlp", n_frames=1),
    Row("mlp", {"n_hidden": [16, 8], "dropout": 0.2}, n_frames=7),
    Row("cnn-1d", n_frames=40),
    Row("cnn-1d", {"stages": [[8, 5, 2, 0.0], [12, 5, 2, 0.2]], "padding": "valid", "norm": False, "n_hidden": [6]},
        n_features=187, n_frames=1),
    Row("cnn-1d", {"stages": [[8, 5, 5, 0.0], [6, 3, 3, 0.2]], "pool_stride": 2, "n_hidden": [10]},
        n_features=50, n_frames=1),
    Row("cnn-1d", {"activation": "elu", "lstm": [8, 6], "n_hidden": [8, 4], "n_hidden_activation": "leaky-relu",
                   "dropout": 0.1}, n_frames=130),
    Row("cnn-1d", {"n_hidden": []}, n_frames=60),
    Row("conv-lstm-1d", {"n_channels": 6, "n_units": 8, "n_hidden": [6, 5]}, n_features=42, n_frames=1),
    Row("conv-lstm-1d", {"n_channels": 6, "n_units": 8}, n_frames=15),
    Row("cnn-2d", {"widths": [4, 8, 12]}, n_features=32, n_frames=45),
    Row("cnn-2d", {"widths": [4, 8, 12], "padding": "valid"}, n_features=32, n_frames=45),
    Row("crnn-2d", {"widths": [4, 8], "n_units": 6, "time_stages": 1}, n_frames=45),
    Row("crnn-2d", {"widths": [4, 8], "n_units": 6, "time_stages": 2, "one_step": True}, n_frames=45, unused=ONE_STEP),
    Row("flat-cnn-2d", {"widths": [4, 6], "n_hidden": [8, 6]}, n_features=30, n_frames=40),
]  # fmt: skip
LENGTH_AWARE = [row for row in NETWORK_TABLE if row.n_frames is None]
FIXED = [row for row in NETWORK_TABLE if row.n_frames is not None]
WITH_FRAMES = [row for row in NETWORK_TABLE if row.stride]


@pytest.fixture(params=NETWORK_TABLE, ids=str)
def row(request):
    return request.param


@pytest.fixture
def network(row):
    """A network whose batch norms have statistics of their own, so that masked frames would show."""
    torch.manual_seed(0)
    network = row.build()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.3)
    return network.eval()


@pytest.fixture
def batch(row):
    """Features as a front end gives them, zero behind the valid frames."""
    n_valid = torch.tensor(N_FRAMES if row.n_frames is None else [row.n_frames] * len(N_FRAMES))
    shape = (len(N_FRAMES), row.n_features, int(n_valid.max()))
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return features * frame_mask(n_valid, shape[2])[:, None], n_valid


def test_every_network_is_in_the_table():
    assert {row.kind for row in NETWORK_TABLE} == set(NETWORKS)


def test_logits_and_embedding(network, batch):
    output = network(*batch)
    assert output.logits.shape == (len(N_FRAMES), N_CLASSES)
    assert output.logits.isfinite().all()
    assert output.embedding is None or output.embedding.shape[0] == len(N_FRAMES)


@pytest.mark.parametrize("row", WITH_FRAMES, ids=str, indirect=True)
def test_frame_logits(row, network, batch):
    output = network(*batch)
    assert output.frame_logits.shape == (len(N_FRAMES), -(-max(N_FRAMES) // row.stride), N_CLASSES)
    assert output.n_valid.tolist() == [-(-n // row.stride) for n in N_FRAMES]
    assert output.frame_vote.shape == output.logits.shape
    assert network.frame_stride == row.stride
    for frames, n in zip(output.frame_logits, output.n_valid, strict=True):
        assert not frames[n:].any()
        assert frames[:n].any(dim=1).all()


@pytest.mark.parametrize("row", LENGTH_AWARE, ids=str, indirect=True)
def test_padded_batch_is_one_by_one(network, batch):
    features, n_valid = batch
    together = network(features, n_valid)
    for index, n in enumerate(n_valid.tolist()):
        alone = network(features[index : index + 1, :, :n], n_valid[index : index + 1])
        for name in ("logits", "embedding", "frame_vote"):
            if getattr(alone, name) is not None:
                ours, theirs = getattr(together, name)[index], getattr(alone, name)[0]
                np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-5, err_msg=name)
        if alone.frame_logits is not None:
            frames = together.frame_logits[index, : together.n_valid[index]]
            np.testing.assert_allclose(frames.detach(), alone.frame_logits[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", LENGTH_AWARE, ids=str, indirect=True)
def test_all_valid_frames_count(network, batch):
    """The last one as the first: a network that cut a frame too many off would pass the test above."""
    network.double()  # an LSTM has nearly forgotten what it read 60 frames ago
    features, n_valid = batch[0].double(), batch[1]
    before = network(features, n_valid).logits
    rows = torch.arange(len(features))
    for frame in (torch.zeros_like(n_valid), n_valid - 1):
        changed = features.clone()
        changed[rows, :, frame] += 1.0
        assert ((network(changed, n_valid).logits - before).abs().amax(dim=1) > 1e-9).all()


@pytest.mark.parametrize("row", FIXED, ids=str, indirect=True)
def test_an_input_of_fixed_size_counts_as_a_whole(network, batch):
    features, n_valid = batch
    np.testing.assert_array_equal(
        network(features, n_valid // 2 + 1).logits.detach(), network(features, n_valid).logits.detach()
    )


@pytest.mark.parametrize("row", [row for row in FIXED if row.kind != "rnn"], ids=str)
def test_frames_that_follow_the_clip_are_refused_where_they_have_to_be_fixed(row):
    with pytest.raises(ValueError, match="needs a fixed number of frames; wrap the features in kind = 'fixed-frames'"):
        NETWORKS[row.kind](row.n_features, N_CLASSES, n_frames=None, **row.arguments)


def test_row_order_does_not_matter(network, batch):
    features, n_valid = batch
    order = torch.tensor([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        network(features[order], n_valid[order]).logits.detach(),
        network(features, n_valid).logits[order].detach(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gradients_reach_every_parameter(row, network, batch):
    """With both losses that training puts on it, in training mode."""
    torch.manual_seed(2)  # dropout
    output = network.train()(*batch)
    target = torch.arange(len(N_FRAMES)) % N_CLASSES
    loss = F.cross_entropy(output.logits, target)
    if output.frame_vote is not None:
        loss = loss + F.cross_entropy(output.frame_vote, target)
    loss.backward()
    without = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    }
    assert without <= set(row.unused)
    assert row.unused != ONE_STEP or without == set(ONE_STEP)


def test_save_and_load(row, network, batch):
    stored = save({name: value.contiguous() for name, value in network.state_dict().items()})
    torch.manual_seed(1)
    fresh = row.build().eval()
    assert not torch.equal(fresh(*batch).logits, network(*batch).logits)
    fresh.load_state_dict(load(stored))
    for ours, theirs in zip(fresh(*batch), network(*batch), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_the_layout_that_training_uses_changes_nothing(network, batch):
    before = network(*batch).logits.detach()
    after = network.to(memory_format=torch.channels_last)(*batch).logits.detach()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_half_precision_of_training_stays_near(network, batch):
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*batch).logits.float().detach()
    np.testing.assert_allclose(half, network(*batch).logits.detach(), rtol=0.1, atol=0.05)


def test_one_seed_gives_one_network(row):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in row.build().parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("kind", "n_features", "arguments", "message"),
    [
        ("se-resnet", 24, {"time_stages": 0}, "time_stages must be 1 to 4"),
        ("se-resnet", 24, {"time_stages": 5}, "time_stages must be 1 to 4"),
        ("crnn", 24, {"time_stages": 4}, "time_stages must be 0 to 3"),
        ("crnn-2d", 64, {"n_frames": 64, "time_stages": 5}, "time_stages must be 0 to 4"),
        ("rnn", 24, {"cell": "elman"}, "cell must be one of rnn, gru, lstm, got 'elman'"),
        ("rnn", 24, {"pool": "max"}, "pool must be one of last, mean, attention, got 'max'"),
        ("cnn-2d", 24, {"n_frames": 100}, "4 stages need 46 x 46 values, got 24 x 100"),
        ("cnn-1d", 24, {"n_frames": 12, "padding": "valid"}, "sequence of 1 steps is too short"),
        ("cnn-1d", 24, {"n_frames": 50, "activation": "gelu"}, "activation must be one of relu, elu, leaky-relu"),
        ("cnn-1d", 24, {"n_frames": 50, "padding": "full"}, "[Ii]nvalid padding string 'full'"),
        ("cnn-2d", 64, {"n_frames": 64, "padding": "full"}, "[Ii]nvalid padding string 'full'"),
    ],
)
def test_errors_say_what_is_wrong(kind, n_features, arguments, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[kind](n_features, 5, **arguments)


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


@pytest.mark.parametrize("p", [0.2, 0.5, 0.85])
def test_dropout_keeps_its_share_and_the_mean(p):
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(400, 1001))  # no multiple of the four values that are drawn together
    kept = dropped != 0
    np.testing.assert_allclose(kept.float().mean(), 1 - p, atol=5 * (p * (1 - p) / kept.numel()) ** 0.5)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    # No value of the four knows of the others, nor a row of the next.
    centred = kept.float() - (1 - p)
    for other in (centred.roll(1, 1), centred.roll(4, 1), centred.roll(1, 0)):
        assert abs(float((centred * other).mean())) < 5 * p * (1 - p) / kept.numel() ** 0.5


def test_dropout_and_its_gradient_drop_the_same_values_and_keep_the_layout():
    hidden = torch.randn(3, 5, 2, 7).to(memory_format=torch.channels_last).requires_grad_()
    dropped = Dropout(0.4)(hidden)
    dropped.sum().backward()
    assert dropped.stride() == hidden.grad.stride() == hidden.stride()
    torch.testing.assert_close(dropped, hidden.grad * hidden)
    sliced = torch.ones(4, 6, 9)[:, ::2, 1:]
    assert Dropout(0.4)(sliced).shape == (4, 3, 8)


def test_dropout_repeats_with_its_seed_and_rests_in_evaluation():
    hidden = torch.randn(64, 32)
    first, again = (torch.manual_seed(3) and Dropout(0.3)(hidden) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, Dropout(0.3)(hidden))
    assert torch.equal(Dropout(0.3).eval()(hidden), hidden)


@pytest.mark.parametrize(("p", "share"), [(0.0, 1.0), (1e-7, 1.0), (1.0, 0.0)])
def test_dropout_of_nearly_nothing_or_all(p, share):
    hidden = torch.rand(50, 20) + 1
    torch.testing.assert_close(Dropout(p)(hidden), share * hidden)
