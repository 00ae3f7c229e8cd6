"""Weights in 8 bits: rounded per output, stored as whole numbers, and the file answers as the rounded network does."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from undertone.lab.export import export_run, load_run
from undertone.lab.rounding import round_weights, store_weights_as_int8
from undertone.model_file import open_model

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]


def test_each_output_has_its_own_scale_and_keeps_its_largest_weight():
    layer = torch.nn.Conv1d(3, 2, 5)
    before = layer.weight.detach().clone() * torch.tensor([1.0, 100.0])[:, None, None]
    with torch.no_grad():
        layer.weight.copy_(before)
    bias = layer.bias.detach().clone()
    round_weights(layer)
    step = before.abs().amax(dim=(1, 2)) / 127
    difference = (layer.weight.detach() - before).abs().amax(dim=(1, 2))
    assert (difference <= step / 2 * 1.001).all() and (difference > 0).all()
    assert torch.allclose(layer.weight.detach().abs().amax(dim=(1, 2)), before.abs().amax(dim=(1, 2)))
    assert torch.equal(layer.bias.detach(), bias)
    again = layer.weight.detach().clone()
    assert torch.allclose(round_weights(layer).weight, again, rtol=1e-6)


def test_an_output_of_zeros_stays_zero():
    layer = torch.nn.Linear(3, 2)
    layer.weight.data[0] = 0
    assert not round_weights(layer).weight[0].any()


def test_a_file_in_8_bits_is_smaller_and_answers_as_the_rounded_network(evaluated, make_clip, make_waveforms, tmp_path):
    rng = np.random.default_rng(0)
    clips = make_waveforms([make_clip(kind, rng) for kind in range(6)])
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    fold = evaluated[0] / "fold-0"
    export_run(fold, whole, clips, name="whole", description="tiny")
    card = export_run(fold, small, clips, name="small", description="tiny", int8=True)
    assert card.parity < 1e-4  # against torch with rounded weights, on these clips
    weights = [value for value in load_run(fold)[0].network.parameters() if value.ndim > 1]
    saved = whole.stat().st_size - small.stat().st_size
    assert saved > 2 * sum(value.numel() for value in weights)  # 3 of 4 bytes, less the scales
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(small).graph.initializer}
    assert all(stored[name] == onnx.TensorProto.INT8 for name in stored if name.endswith(".int8"))
    waveform, lengths = np.stack([clips.clips[0] / 32_768.0] * 2).astype(np.float32), np.full(2, len(clips.clips[0]))
    answers = [open_model(path).run(waveform, lengths)["logits"] for path in (whole, small)]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.5


def test_weights_that_are_not_rounded_are_refused(evaluated, make_clip, make_waveforms, tmp_path):
    clips = make_waveforms([make_clip(0, np.random.default_rng(0))])
    export_run(evaluated[0] / "fold-0", tmp_path / "whole.onnx", clips, name="whole", description="tiny")
    with pytest.raises(ValueError, match="not rounded"):
        store_weights_as_int8((tmp_path / "whole.onnx").read_bytes())
    with pytest.raises(ValueError, match="no weights"):
        store_weights_as_int8((tmp_path / "whole.onnx").read_bytes(), where="elsewhere")
