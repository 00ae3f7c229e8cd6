"""Features on a GPU: those of the processor, to the rounding of single precision."""

# ruff: noqa: E402 - imports follow the check that torch is there
import inspect

import pytest

torch = pytest.importorskip("torch")

from undertone.lab.features import FEATURES

pytestmark = [
    pytest.mark.lab,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]

# What is decided by a comparison (a peak of pitch, a bin of tuning, half precision) may fall the other way in a frame.
DECIDED = {"chroma", "pitch", "prosody", "prosody-functionals", "tonnetz", "voice", "spectral-contrast", "zcr"}


KINDS = [
    kind
    for kind, feature in FEATURES.items()
    if "parts" not in inspect.signature(feature).parameters and feature.in_graph
]


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_processor(kind, make_speech):
    module = FEATURES[kind]()
    if kind == "x-vector":
        module.is_fitted.fill_(True)
    waveform = torch.zeros(2, 16_000)
    for row, n in enumerate((16_000, 9_000)):
        waveform[row, :n] = torch.from_numpy(make_speech(row, n / 16_000))[:n]
    lengths = torch.tensor([16_000, 9_000])
    with torch.inference_mode():
        expected, n_expected = module(waveform, lengths)
        features, n_valid = module.cuda()(waveform.cuda(), lengths.cuda())
    assert n_valid.tolist() == n_expected.tolist()
    close = (features.cpu() - expected).abs() <= 1e-3 * expected.abs().max()
    assert close.float().mean() >= (0.98 if kind in DECIDED else 1.0)
