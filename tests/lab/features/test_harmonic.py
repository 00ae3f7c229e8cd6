"""Chroma, spectral contrast, tonnetz and harmonic-percussive separation against librosa 0.11, alone and in batches."""

# ruff: noqa: E402 - imports follow the check that torch is there
import io
import logging

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

from undertone.audio import load_waveform
from undertone.lab.corpora import load
from undertone.lab.features import FEATURES, Chroma, Harmonic, Percussive, SpectralContrast, Stack, Tonnetz
from undertone.lab.features.harmonic import HarmonicChroma, harmonic_mask, sliding_median
from undertone.onnx_reader import check_graph

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

RATES = {(512, 400, 160): 16_000, (2048, 2048, 512): 22_050}  # the field's geometry, and librosa's own
LENGTHS = [14_400, 9_999, 4_801, 160, 159, 1]
CORPORA = ["ravdess", "crema-d", "tess", "savee"]
KINDS = {
    "chroma": Chroma,
    "chroma at 440 Hz": lambda *args, **kwargs: Chroma(12, *args, tuning=0.0, **kwargs),
    "harmonic": Harmonic,
    "percussive": Percussive,
    "spectral-contrast": SpectralContrast,
    "tonnetz": Tonnetz,
    "tonnetz of the harmonic part": Tonnetz,
}


def build(name, geometry):
    options = {"sample_rate": RATES[geometry]}
    if name.startswith("tonnetz"):
        return Tonnetz("harmonic" if "part" in name else "chroma", *geometry, **options)
    if name.startswith("chroma"):
        return Chroma(12, *geometry, tuning=0.0 if "440" in name else None, **options)
    if name == "spectral-contrast":
        return SpectralContrast(6, *geometry, **options)
    return KINDS[name](*geometry, **options)


def magnitudes(waveform, geometry):
    n_fft, win_length, hop_length = geometry
    return np.abs(librosa.stft(waveform.astype(np.float64), n_fft=n_fft, win_length=win_length, hop_length=hop_length))


def run(module, waveform):
    features, n_valid = module(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert n_valid.tolist() == [features.shape[2]]
    return features[0].numpy()


@pytest.fixture(scope="module")
def clips(corpora_root):
    """Three clips of each corpus."""
    rng = np.random.default_rng(0)
    utterances = [load(corpora_root, [corpus]) for corpus in CORPORA]
    return [
        load_waveform(of_corpus[index].path)
        for of_corpus in utterances
        for index in rng.choice(len(of_corpus), 3, replace=False)
    ]


@pytest.fixture(scope="module")
def resampled(clips):
    """The clips at 22,050 Hz, as librosa would load them."""
    return [librosa.resample(clip, orig_sr=16_000, target_sr=22_050, res_type="soxr_hq") for clip in clips]


def check_chroma(waveform, geometry):
    sample_rate, power = RATES[geometry], magnitudes(waveform, geometry) ** 2
    at_440_hz = librosa.feature.chroma_stft(S=power, sr=sample_rate, tuning=0.0)
    np.testing.assert_allclose(run(build("chroma at 440 Hz", geometry), waveform), at_440_hz, atol=1e-4)
    module = build("chroma", geometry)
    tuning = float(module.estimate_tuning(torch.from_numpy(power).float()[None]))
    assert tuning == pytest.approx(librosa.estimate_tuning(S=power, sr=sample_rate), abs=1e-6)
    expected = librosa.feature.chroma_stft(S=power, sr=sample_rate)
    np.testing.assert_allclose(run(module, waveform), expected, atol=1e-4)
    np.testing.assert_allclose(
        run(build("tonnetz", geometry), waveform), librosa.feature.tonnetz(chroma=expected), atol=1e-4
    )


def check_separation(waveform, geometry):
    magnitude = magnitudes(waveform, geometry)
    for name, expected in zip(("harmonic", "percussive"), librosa.decompose.hpss(magnitude), strict=True):
        ours = run(build(name, geometry), waveform)
        np.testing.assert_allclose(ours, expected**2, atol=1e-4 * magnitude.max() ** 2)


def check_contrast(waveform, geometry):
    """Where no band is below single precision; elsewhere nothing but the floor is said."""
    module, magnitude = build("spectral-contrast", geometry), magnitudes(waveform, geometry)
    expected = librosa.feature.spectral_contrast(S=magnitude, sr=RATES[geometry])
    ours, loudest = run(module, waveform), magnitude.max(axis=0)
    assert ours.shape == expected.shape
    assert np.isfinite(ours).all()
    valley = np.stack([np.sort(magnitude[first:last], axis=0)[:n].mean(axis=0) for first, last, n in module.bands])
    error_db = np.abs(ours - expected)
    assert error_db[valley > 1e-4 * loudest].max(initial=0) < 0.01
    assert error_db[valley > 1e-6 * loudest].max(initial=0) < 0.5
    return error_db, valley > 1e-4 * loudest


@pytest.mark.parametrize("geometry", RATES, ids=str)
@pytest.mark.parametrize("check", [check_chroma, check_separation, check_contrast])
@pytest.mark.parametrize("sound", ["voice", "another voice", "noise"])
def test_agrees_with_librosa(check, geometry, sound, sounds):
    check(sounds[sound], geometry)


@pytest.mark.corpus
@pytest.mark.parametrize("check", [check_chroma, check_separation, check_contrast])
def test_agrees_with_librosa_on_real_clips(check, clips):
    for waveform in clips:
        check(waveform, (512, 400, 160))


@pytest.mark.corpus
@pytest.mark.parametrize("check", [check_chroma, check_separation, check_contrast])
def test_agrees_with_librosa_on_real_clips_at_its_own_geometry(check, resampled):
    for waveform in resampled:
        check(waveform, (2048, 2048, 512))


@pytest.mark.corpus
def test_share_of_real_contrast_within_the_tight_tolerance(clips, resampled):
    for waveforms, geometry in ((clips, (512, 400, 160)), (resampled, (2048, 2048, 512))):
        within = np.concatenate([check_contrast(waveform, geometry)[1].ravel() for waveform in waveforms])
        assert within.mean() > 0.6


@pytest.mark.corpus
def test_harmonic_tonnetz_stands_in_for_librosas(resampled):
    """The difference that its docstring states, of a feature whose own deviation is 0.12."""
    ours = [run(build("tonnetz of the harmonic part", (2048, 2048, 512)), clip) for clip in resampled]
    theirs = [librosa.feature.tonnetz(y=librosa.effects.harmonic(clip), sr=22_050) for clip in resampled]
    ours, theirs = np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)
    assert np.abs(ours - theirs).mean() < 0.05
    assert np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(ours, theirs, strict=True)]) > 0.75


@pytest.mark.parametrize(("n_chroma", "tuning"), [(12, 0.0), (12, -0.37), (24, 0.2), (7, 0.0)])
def test_chroma_filters(n_chroma, tuning):
    ours = Chroma(n_chroma, 2048, 2048, 512, tuning=tuning, sample_rate=22_050).filters[0]
    theirs = librosa.filters.chroma(sr=22_050, n_fft=2048, n_chroma=n_chroma, tuning=tuning)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("cents", [-40, -15, 0, 25])
def test_tuning_of_mistuned_chords(cents):
    times_s = np.arange(44_100) / 22_050
    notes_hz = 440 * 2 ** (np.array([-5, 0, 4, 7]) / 12 + cents / 1200)
    chord = np.sum(0.1 * np.sin(2 * np.pi * notes_hz[:, None] * times_s), axis=0).astype(np.float32)
    module = Chroma(12, 2048, 2048, 512, sample_rate=22_050)
    power, _ = module.power(torch.from_numpy(chord)[None], torch.tensor([len(chord)]))
    assert float(module.estimate_tuning(power)) == pytest.approx(cents / 100, abs=0.04)


def test_a_note_is_its_own_pitch_class():
    times_s = np.arange(22_050) / 22_050
    for row, note_hz in ((0, 523.25), (4, 659.26), (9, 440.0)):  # C, E, A
        note = (0.3 * np.sin(2 * np.pi * note_hz * times_s)).astype(np.float32)
        chroma = run(Chroma(12, 2048, 2048, 512, sample_rate=22_050), note)
        assert (chroma[:, 5:-5].argmax(axis=0) == row).all()
        harmonic = run(HarmonicChroma(2048, 2048, 512, sample_rate=22_050), note)
        assert (harmonic[:, 5:-5].argmax(axis=0) == row).all()


@pytest.mark.parametrize("kernel", [3, 15, 31, 63])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100])
def test_sliding_median(kernel, n, rng):
    rows = rng.integers(0, 20, (2, n + kernel - 1, 3)).astype(np.float32)  # with ties
    ours = sliding_median(torch.from_numpy(rows), kernel)
    theirs = np.median(np.lib.stride_tricks.sliding_window_view(rows, kernel, axis=1), axis=-1)
    assert np.array_equal(ours, theirs)


def median_of_mirrored(power, axis):
    """What ``scipy.ndimage.median_filter(mode="reflect")`` does; it reads out of bounds on less than half a kernel."""
    padded = np.pad(power, [(15, 15) if dimension == axis else (0, 0) for dimension in range(2)], mode="symmetric")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 31, axis=axis), axis=-1)


@pytest.mark.parametrize("n_frames", [1, 2, 7, 40])
def test_separation_of_clips_shorter_than_the_kernel(n_frames, rng):
    power = rng.random((257, n_frames)).astype(np.float32)
    harmonic, percussive = median_of_mirrored(power, 1), median_of_mirrored(power, 0)
    expected = power * (harmonic / (harmonic + percussive)) ** 2
    ours = Harmonic().from_power(torch.from_numpy(power)[None], torch.tensor([n_frames]))[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("level", [1e-12, 1.0, 1e12])
def test_medians_in_half_precision_move_the_mask_by_a_thousandth(level, rng):
    power = torch.from_numpy(level * rng.exponential(1.0, (3, 257, 40)).astype(np.float32) ** 4)
    power[2] = 0  # a silent clip
    n_valid = torch.tensor([40, 7, 40])
    exact = harmonic_mask(power, n_valid)
    half = harmonic_mask(power, n_valid, half=True)
    assert 0 < (half - exact).abs().max() < 1e-3
    assert (half[2] == 0.5).all()
    with_gradient = harmonic_mask(power.clone().requires_grad_(), n_valid, half=True)
    torch.testing.assert_close(with_gradient.detach(), exact, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def batch():
    noise = 0.1 * np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(LENGTHS)


@pytest.mark.parametrize("geometry", RATES, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_padded_batch_is_one_by_one(name, geometry, batch):
    """What stands behind a row's length is NaN here: it must not matter."""
    module, (waveform, lengths) = build(name, geometry), batch
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    features, n_valid = module(waveform.masked_fill(behind, torch.nan), lengths)
    assert features.shape[1] == module.n_features == len(module.names)
    for row, length in enumerate(LENGTHS):
        alone, n_alone = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert n_alone == n_valid[row] == alone.shape[2]
        np.testing.assert_allclose(features[row, :, : n_valid[row]], alone[0], rtol=1e-3, atol=1e-4)
        assert not features[row, :, n_valid[row] :].any()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_gradients_and_values_are_finite(name, level, batch):
    waveform = (level * batch[0] / batch[0].abs().max()).requires_grad_()
    features, _ = build(name, (512, 400, 160))(waveform, batch[1])
    features.square().mean().backward()
    assert features.isfinite().all()
    assert waveform.grad.isfinite().all()
    assert bool(waveform.grad.any()) == (level > 0)
    if level == 0 and "harmonic" not in name:
        assert not features.any()


def test_silence_has_no_tuning_and_no_chroma():
    module = Chroma()
    power = torch.zeros(2, 257, 20)
    assert module.estimate_tuning(power).tolist() == [0, 0]
    assert not module.from_power(power, torch.tensor([20, 20])).any()


@pytest.mark.slow  # an export takes long, whatever it then runs in
def test_exported_graph_agrees_with_torch(rng):
    parts = [Chroma(), SpectralContrast(), Tonnetz("harmonic")]
    module = Stack(parts).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = {"batch": torch.export.Dim("batch"), "n_samples": torch.export.Dim("n_samples")}
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 16_000), torch.tensor([16_000, 8_000])),
        dynamo=True,
        input_names=["waveform", "lengths"],
        dynamic_shapes={"waveform": {0: dims["batch"], 1: dims["n_samples"]}, "lengths": {0: dims["batch"]}},
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    check_graph(buffer.getvalue())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    for lengths in ([12_345], [24_000, 100, 7_777], [320, 160]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        features, n_frames = session.run(None, {"waveform": waveform, "lengths": np.array(lengths)})
        expected, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
        assert n_frames.tolist() == n_valid.tolist()
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-3)  # contrast is in dB, up to 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chroma(0), "n_chroma must be at least 1"),
        (lambda: SpectralContrast(7), "do not start below 8000"),
        (lambda: SpectralContrast(f_min_hz=0.0), "do not start below 8000"),
        (lambda: SpectralContrast(6, 64, 64, 32), "fewer than two bins"),
        (lambda: SpectralContrast(quantile=0.7), "quantile must be"),
        (lambda: Harmonic(kernel=30), "one less than a power of two"),
        (lambda: Tonnetz("cqt"), "source must be 'chroma' or 'harmonic'"),
        (lambda: HarmonicChroma(64, 64, 32, sample_rate=100), "holds no octave"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kinds_are_registered():
    kinds = {"chroma": Chroma, "harmonic": Harmonic, "percussive": Percussive, "spectral-contrast": SpectralContrast}
    assert {**FEATURES, **kinds, "tonnetz": Tonnetz} == FEATURES
