"""Features of a padded batch, their gradients, and their graphs."""

# ruff: noqa: E402 - imports follow the check that torch is there
import inspect
import io
import logging

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from undertone.lab.features import FEATURES, MFCC, FrontEnd, LogMel, PowerSpectrum, frame_mask

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

GEOMETRIES = [(512, 400, 160), (2048, 2048, 512)]
NAMES = ["power", "mel", "log-mel", "mfcc", "front end"]
LENGTHS = [14_400, 9_999, 4_801, 160, 159, 1]


@pytest.fixture(scope="module")
def make_module(build):
    def make(name, geometry):
        if name == "front end":
            return FrontEnd(LogMel(64, *geometry), normalise="band")
        return build(name, geometry)

    return make


@pytest.fixture(scope="module")
def batch():
    noise = 0.1 * np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(LENGTHS)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_padded_batch_is_one_by_one(name, geometry, make_module, batch):
    """What stands behind a row's length in the batch is noise here: it must not matter."""
    module, (waveform, lengths) = make_module(name, geometry), batch
    features, n_valid = module(waveform, lengths)
    assert n_valid.tolist() == [1 + length // geometry[2] for length in LENGTHS]
    for row, length in enumerate(LENGTHS):
        alone, n_alone = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert n_alone == n_valid[row] == alone.shape[2]
        np.testing.assert_allclose(features[row, :, : n_valid[row]], alone[0], rtol=1e-4, atol=1e-4)
        assert not features[row, :, n_valid[row] :].any()


@pytest.mark.parametrize("garbage", [1e4, np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_garbage_behind_the_length_is_ignored(name, garbage, make_module, batch):
    module, (waveform, lengths) = make_module(name, GEOMETRIES[0]), batch
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    clean, _ = module(waveform.masked_fill(behind, 0.0), lengths)
    dirty, _ = module(waveform.masked_fill(behind, garbage), lengths)
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow(name, geometry, make_module, batch):
    waveform, lengths = batch[0].clone().requires_grad_(), batch[1]
    features, _ = make_module(name, geometry)(waveform, lengths)
    features.square().mean().backward()
    assert waveform.grad.isfinite().all()
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    assert not waveform.grad[behind].any()
    for row, length in enumerate(LENGTHS[:3]):  # a single sample has no gradient under the window's zero
        assert (waveform.grad[row, :length] != 0).float().mean() > 0.95


def test_gradients_are_finite_on_silence():
    waveform = torch.zeros(1, 4_000, requires_grad=True)
    LogMel(64)(waveform, torch.tensor([4_000]))[0].sum().backward()
    assert waveform.grad.isfinite().all()


@pytest.mark.parametrize("geometry", [*GEOMETRIES, (512, 512, 128), (256, 200, 80), (1024, 640, 160),
                                      (4096, 4096, 1000), (1050, 1001, 333), (1202, 1200, 400)], ids=str)  # fmt: skip
def test_fourier_transform_is_the_exported_one(geometry, batch):
    """In two steps, whatever the divisors."""
    power = PowerSpectrum(*geometry)
    waveform = batch[0][:2]
    by_fft, _ = power(waveform, torch.tensor([waveform.shape[1]] * 2))
    exported = power.exported(waveform)
    np.testing.assert_allclose(exported, by_fft, rtol=1e-4, atol=1e-5 * float(by_fft.max()))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_spectrum_with_a_gradient_is_the_one_without(geometry, batch):
    """Without, a processor takes it row by row."""
    power, (waveform, lengths) = PowerSpectrum(*geometry), batch
    row_by_row, _ = power(waveform, lengths)
    at_once, _ = power(waveform.clone().requires_grad_(), lengths)
    assert torch.equal(row_by_row, at_once)


class _All(torch.nn.Module):
    """Every module in one graph: one export instead of many."""

    def __init__(self, modules):
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, waveform, lengths):
        return tuple(tensor for part in self.parts for tensor in part(waveform, lengths))


EXPORTED = {GEOMETRIES[0]: NAMES, GEOMETRIES[1]: ["power", "log-mel"]}  # an export takes seconds


@pytest.fixture(scope="module", params=GEOMETRIES, ids=str)
def exported(request, make_module):
    """(modules by name, session of a graph with the outputs ``NAME`` and ``NAME frames`` of each)."""
    modules = {name: make_module(name, request.param).eval() for name in EXPORTED[request.param]}
    outputs = [output for name in modules for output in (name, f"{name} frames")]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = {"batch": torch.export.Dim("batch"), "n_samples": torch.export.Dim("n_samples")}
    program = torch.onnx.export(
        _All(modules.values()).eval(),
        (torch.zeros(2, 16_000), torch.tensor([16_000, 8_000])),
        dynamo=True,
        input_names=["waveform", "lengths"],
        output_names=outputs,
        dynamic_shapes={"waveform": {0: dims["batch"], 1: dims["n_samples"]}, "lengths": {0: dims["batch"]}},
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return modules, session


@pytest.mark.parametrize("lengths", [[12_345], [24_000, 100, 7_777], [320, 160]], ids=str)
def test_exported_graph_agrees_with_torch(lengths, exported, rng):
    modules, session = exported
    waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
    theirs = session.run(None, {"waveform": waveform, "lengths": np.array(lengths)})
    theirs = dict(zip([output.name for output in session.get_outputs()], theirs, strict=True))
    for name, module in modules.items():
        features, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
        assert theirs[f"{name} frames"].tolist() == n_valid.tolist()
        assert theirs[name].shape == features.shape
        assert np.abs(theirs[name] - features.numpy()).max() <= 1e-4 * features.abs().max(), name


# ---- small things with hand-worked values ----


def test_frame_mask():
    assert frame_mask(torch.tensor([0, 2, 5]), 4).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_level_normalisation_makes_gain_irrelevant(batch):
    module = FrontEnd(LogMel(64, top_db=60.0), normalise="level")
    waveform, lengths = batch[0][:3], batch[1][:3]
    quiet, loud = module(0.1 * waveform, lengths)[0], module(waveform, lengths)[0]
    np.testing.assert_allclose(quiet, loud, atol=1e-4)


@pytest.mark.parametrize("normalise", ["level", "band"])
def test_normalised_features_average_to_zero_over_valid_frames(normalise, batch):
    module = FrontEnd(LogMel(64), normalise=normalise)
    features, n_valid = module(*batch)
    mean = features.sum(dim=2) / n_valid[:, None]  # (B, F); zero behind the valid frames
    if normalise == "level":
        mean = mean.mean(dim=1)
    np.testing.assert_allclose(mean, 0, atol=1e-4)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.4, 0.0), (0.08, 0.8)])
def test_speech_normalisation_hears_no_difference_in_the_silence_around(before_s, after_s, batch):
    module = FrontEnd(LogMel(64, top_db=80.0), normalise="speech")
    words = batch[0][:1, : int(batch[1][0])] * torch.hann_window(int(batch[1][0]))  # quiet at its ends, as words are
    n_before, n_after = (int(seconds * 16_000) for seconds in (before_s, after_s))
    longer = torch.nn.functional.pad(words, (n_before, n_after))
    alone, _ = module(words, torch.tensor([words.shape[1]]))
    within, _ = module(longer, torch.tensor([longer.shape[1]]))
    inside = slice(n_before // 160, n_before // 160 + alone.shape[2])
    assert (within[:, :, inside] - alone)[:, :, 2:-2].abs().max() < 0.02  # of 15 dB
    level = FrontEnd(LogMel(64, top_db=80.0), normalise="level")
    moved = (
        level(longer, torch.tensor([longer.shape[1]]))[0][:, :, inside]
        - level(words, torch.tensor([words.shape[1]]))[0]
    )
    assert moved[:, :, 2:-2].abs().min() > 0.1
    softer, _ = module(0.1 * words, torch.tensor([words.shape[1]]))
    np.testing.assert_allclose(softer[:, :, 2:-2], alone[:, :, 2:-2], atol=1e-3)


def test_nepers_are_decibels_in_another_unit(batch):
    nepers, decibels = LogMel(64, scale="ln")(*batch)[0], LogMel(64, scale="db")(*batch)[0]
    np.testing.assert_allclose(nepers * 10 / np.log(10), decibels, rtol=1e-5, atol=1e-5)


def test_every_named_feature_says_how_many_rows_it_gives(batch):
    for kind, feature in FEATURES.items():
        if "parts" in inspect.signature(feature).parameters:  # see test_compose.py
            continue
        module = feature()
        if kind == "x-vector":  # any weights show its rows
            module.is_fitted.fill_(True)
        assert module(*batch)[0].shape[1] == module.n_features, kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PowerSpectrum(512, 600, 160), "win_length <= n_fft"),
        (lambda: PowerSpectrum(512, 400, 0), "0 < hop_length"),
        (lambda: MFCC(n_deltas=4), "n_deltas must be 0 to 3"),
        (lambda: LogMel(scale="log10"), "scale must be 'db' or 'ln'"),
        (lambda: FrontEnd(LogMel(), normalise="speaker"), "normalise must be"),
        (lambda: PowerSpectrum()(torch.zeros(100), torch.tensor([100])), "expected waveform of shape"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
