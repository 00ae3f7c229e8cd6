"""Zero crossings, energy and the shape of the spectrum: against librosa, padded, differentiated, exported."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

from undertone.audio import load_waveform
from undertone.lab.corpora import load
from undertone.lab.data import to_float, to_int16
from undertone.lab.features import (
    RMS,
    Bandwidth,
    Centroid,
    Flatness,
    PolyFeatures,
    Rolloff,
    ZeroCrossingRate,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
GEOMETRIES = [(512, 400, 160), (2048, 2048, 512)]
LENGTHS = [14_400, 9_999, 4_801, 160, 159, 1]
SMOOTH = ["rms", "centroid", "bandwidth", "flatness", "poly"]
TOLERANCE = {"zcr": 1e-6, "rms": 1e-4, "centroid": 1e-4, "bandwidth": 1e-3, "flatness": 1e-3}  # of the largest value


def build(name, geometry):
    """The module called ``name``; the two of the waveform have librosa's frame where the spectrum has it."""
    if name in ("zcr", "rms"):
        return {"zcr": ZeroCrossingRate, "rms": RMS}[name](*geometry[1:])
    if name == "poly":
        return PolyFeatures(2, *geometry)
    return {"centroid": Centroid, "bandwidth": Bandwidth, "rolloff": Rolloff, "flatness": Flatness}[name](*geometry)


def magnitude(waveform, geometry):
    n_fft, win_length, hop_length = geometry
    waveform = np.asarray(waveform, np.float64)
    return np.abs(librosa.stft(waveform, n_fft=n_fft, win_length=win_length, hop_length=hop_length))


def reference(waveform, name, geometry):
    frames = {"frame_length": geometry[1], "hop_length": geometry[2]}
    waveform = np.asarray(waveform, np.float64)
    if name == "zcr":
        return librosa.feature.zero_crossing_rate(waveform, **frames)
    if name == "rms":
        return librosa.feature.rms(y=waveform, **frames)
    spectrum = magnitude(waveform, geometry)
    if name == "flatness":
        return librosa.feature.spectral_flatness(S=spectrum)
    function = {"centroid": "spectral_centroid", "bandwidth": "spectral_bandwidth", "rolloff": "spectral_rolloff"}[name]
    return getattr(librosa.feature, function)(S=spectrum, sr=SAMPLE_RATE)


def run(module, waveform):
    features, n_valid = module(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert n_valid.tolist() == [features.shape[2]]
    return features[0].numpy()


def assert_agrees(name, geometry, waveform):
    ours, theirs = run(build(name, geometry), waveform), reference(waveform, name, geometry)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE[name] * np.abs(theirs).max()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", TOLERANCE)
def test_agrees_with_librosa(name, geometry, sounds):
    for waveform in [*sounds.values(), np.zeros(3_000, np.float32), np.full(700, 0.2, np.float32)]:
        assert_agrees(name, geometry, waveform)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_rolloff_is_librosas_or_one_bin_apart(share, geometry, sounds):
    n_equal = n_frames = 0
    for waveform in sounds.values():
        ours = run(Rolloff(*geometry, share=share), waveform)
        theirs = librosa.feature.spectral_rolloff(S=magnitude(waveform, geometry), sr=SAMPLE_RATE, roll_percent=share)
        bins_apart = np.abs(ours - theirs) * geometry[0] / SAMPLE_RATE
        assert bins_apart.max() < 1.01
        n_equal, n_frames = n_equal + (bins_apart < 0.5).sum(), n_frames + ours.size
    assert n_equal >= 0.999 * n_frames


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("order", [0, 1, 3, 9])
def test_poly_features(order, geometry, sounds):
    for name, waveform in sounds.items():
        if name == "click" and order:  # its spectrum is flat: all coefficients but the last are rounding
            continue
        ours = run(PolyFeatures(order, *geometry), waveform)
        theirs = librosa.feature.poly_features(S=magnitude(waveform, geometry), sr=SAMPLE_RATE, order=order)
        assert (np.abs(ours - theirs).max(axis=1) <= 1e-4 * np.abs(theirs).max(axis=1)).all()


def test_the_unit_of_poly_features_is_a_scale_of_each_row(sounds):
    in_hz, in_khz = PolyFeatures(4), PolyFeatures(4, unit_hz=1000)
    scaled = run(in_hz, sounds["voice"]) * 1000.0 ** np.arange(4, -1, -1)[:, None]
    np.testing.assert_allclose(run(in_khz, sounds["voice"]), scaled, rtol=1e-5)
    assert in_hz.names == ["poly_4", "poly_3", "poly_2", "poly_1", "poly_0"]


@pytest.mark.corpus
@pytest.mark.parametrize("corpus", ["ravdess", "crema-d", "tess", "savee"])
def test_agrees_with_librosa_on_real_clips(corpus, corpora_root):
    utterances = load(corpora_root, [corpus])
    for index in np.random.default_rng(0).choice(len(utterances), 5, replace=False):
        # As training keeps clips, in 16 bits: a decoder's 1e-20 has a centroid for librosa, and is silence here.
        waveform = to_float(to_int16(load_waveform(utterances[index].path)))
        for geometry in GEOMETRIES:
            for name in TOLERANCE:
                assert_agrees(name, geometry, waveform)
            theirs = librosa.feature.poly_features(S=magnitude(waveform, geometry), sr=SAMPLE_RATE, order=9)
            ours = run(PolyFeatures(9, *geometry), waveform)
            assert (np.abs(ours - theirs).max(axis=1) <= 1e-4 * np.abs(theirs).max(axis=1)).all()
            rolloff = run(Rolloff(*geometry), waveform)
            assert (np.abs(rolloff - reference(waveform, "rolloff", geometry)) < 1.0).mean() >= 0.999


# ---- batches ----


@pytest.fixture(scope="module")
def batch():
    noise = 0.1 * np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(LENGTHS)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", [*TOLERANCE, "rolloff", "poly"])
def test_padded_batch_is_one_by_one(name, geometry, batch):
    """Behind a row's length stands noise, or worse: it must not matter."""
    module, (waveform, lengths) = build(name, geometry), batch
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    features, n_valid = module(waveform, lengths)
    assert torch.equal(features, module(waveform.masked_fill(behind, np.nan), lengths)[0])
    for row, length in enumerate(LENGTHS):
        alone, n_alone = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert n_alone == n_valid[row] == alone.shape[2] == 1 + length // geometry[2]
        np.testing.assert_allclose(features[row, :, : n_valid[row]], alone[0], rtol=1e-4, atol=1e-4 * alone.abs().max())
        assert not features[row, :, n_valid[row] :].any()


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_finite_on_sound_and_on_silence(name, batch):
    for waveform in (batch[0], torch.zeros_like(batch[0])):
        waveform = waveform.clone().requires_grad_()
        build(name, GEOMETRIES[0])(waveform, batch[1])[0].sum().backward()
        assert waveform.grad.isfinite().all()
        assert not waveform.grad[1, LENGTHS[1] :].any()
    waveform = batch[0].clone().requires_grad_()
    build(name, GEOMETRIES[0])(waveform, batch[1])[0].square().sum().backward()
    assert waveform.grad[0].any()


@pytest.mark.parametrize("name", [*TOLERANCE, "rolloff", "poly"])
def test_one_sample_silence_and_full_scale_stay_finite(name):
    for waveform in (np.ones(1), np.zeros(1), np.zeros(5_000), np.sign(np.sin(np.arange(5_000)))):
        assert np.isfinite(run(build(name, GEOMETRIES[0]), waveform.astype(np.float32))).all()


def test_exported_graph_agrees_with_torch(export_features, rng):
    modules = {name: build(name, GEOMETRIES[0]) for name in [*TOLERANCE, "rolloff", "poly"]}
    run_graph = export_features(modules)
    for lengths in ([12_345], [24_000, 100, 7_777], [2, 1]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        exported = run_graph(waveform, lengths)
        for name, module in modules.items():
            features, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
            theirs, theirs_valid = exported[name]
            assert theirs_valid.tolist() == n_valid.tolist()
            assert theirs.shape == features.shape
            if name == "rolloff":  # steps from bin to bin
                assert (np.abs(theirs - features.numpy()) < 1.0).mean() >= 0.99
            else:
                assert np.abs(theirs - features.numpy()).max() <= 1e-4 * features.abs().max(), name


# ---- by hand ----


def test_values_worked_out_by_hand():
    alternating = np.tile(np.array([0.5, -0.5], np.float32), 500)
    # Frames of 4: every step inside a frame is a crossing, three of four samples; the first frame holds two samples.
    assert run(ZeroCrossingRate(4, 4), alternating)[0, :3].tolist() == [0.25, 0.75, 0.75]
    np.testing.assert_allclose(run(RMS(4, 4), alternating)[0, :3], [0.125**0.5, 0.5, 0.5], rtol=1e-6)
    silence = np.zeros(1_600, np.float32)
    assert not run(Centroid(), silence).any()
    assert not run(Rolloff(), silence).any()
    np.testing.assert_allclose(run(Flatness(), silence), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMS(401, 160), "an even frame_length"),
        (lambda: ZeroCrossingRate(400, 0), "a positive hop_length"),
        (lambda: Rolloff(share=1.0), "share must be in"),
        (lambda: PolyFeatures(-1), "need 0 <= order < 256"),
        (lambda: PolyFeatures(2, unit_hz=0), "unit_hz above 0"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
