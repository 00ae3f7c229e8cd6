"""Features against an independent truth: librosa 0.11, at the field's geometry and at librosa's own."""

# ruff: noqa: E402 - imports follow the check that torch is there
from contextlib import nullcontext

import numpy as np
import pytest

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

from undertone.audio import load_waveform
from undertone.lab.corpora import load
from undertone.lab.features import delta, mel_filters

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

GEOMETRIES = [(512, 400, 160), (2048, 2048, 512)]
NAMES = ["power", "mel", "log-mel", "mfcc"]


def assert_agrees(module, waveform, expected):
    features, n_valid = module(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert n_valid.tolist() == [expected.shape[1]]
    assert features.shape[1:] == expected.shape
    worst = np.abs(features[0].numpy() - expected).max() / np.abs(expected).max()
    assert worst < 1e-4


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_librosa(name, geometry, build, reference, sounds):
    module = build(name, geometry)
    for waveform in sounds.values():
        assert_agrees(module, waveform, reference(waveform, name, geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("level", [1e-4, 1e-2, 3.0])
def test_log_mel_agrees_at_any_level(level, geometry, build, reference, sounds):
    waveform = (level * sounds["voice"]).astype(np.float32)
    assert_agrees(build("log-mel", geometry), waveform, reference(waveform, "log-mel", geometry))


def test_digital_silence_is_the_floor(build):
    features, _ = build("log-mel", GEOMETRIES[0])(torch.zeros(1, 4_000), torch.tensor([4_000]))
    np.testing.assert_allclose(features, -100.0, rtol=1e-6)  # 10 log10(1e-10)


@pytest.mark.corpus
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("corpus", ["ravdess", "crema-d", "tess", "savee"])
def test_agrees_with_librosa_on_real_clips(corpus, geometry, corpora_root, build, reference):
    utterances = load(corpora_root, [corpus])
    chosen = np.random.default_rng(0).choice(len(utterances), 12, replace=False)
    modules = {name: build(name, geometry) for name in NAMES}
    for index in chosen:
        waveform = load_waveform(utterances[index].path)
        for name, module in modules.items():
            assert_agrees(module, waveform, reference(waveform, name, geometry))


@pytest.mark.parametrize(
    ("n_fft", "n_mels", "range_hz"),
    [(512, 64, (0, 8_000)), (512, 64, (50, 7_600)), (512, 128, (0, 8_000)), (2048, 128, (0, 8_000)),
     (2048, 40, (300, 3_400))],
)  # fmt: skip
def test_mel_filters(n_fft, n_mels, range_hz):
    ours = mel_filters(n_fft, n_mels, f_min_hz=range_hz[0], f_max_hz=range_hz[1])
    with pytest.warns(UserWarning, match="Empty filters") if not ours.any(axis=1).all() else nullcontext():
        theirs = librosa.filters.mel(sr=16_000, n_fft=n_fft, n_mels=n_mels, fmin=range_hz[0], fmax=range_hz[1])
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("range_hz", [(-1, 8_000), (300, 300), (0, 8_001)])
def test_mel_filters_outside_the_spectrum_are_refused(range_hz):
    with pytest.raises(ValueError, match="need 0 <= f_min_hz < f_max_hz <= 8000"):
        mel_filters(512, 40, f_min_hz=range_hz[0], f_max_hz=range_hz[1])


@pytest.mark.parametrize(
    ("order", "width"), [(order, width) for order in (1, 2, 3) for width in (3, 5, 9) if order < width]
)
def test_delta(order, width, rng):
    features = rng.standard_normal((5, 40)).astype(np.float32)
    ours = delta(torch.from_numpy(features)[None], torch.tensor([40]), order=order, width=width)[0]
    theirs = librosa.feature.delta(features.astype(np.float64), order=order, width=width)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n_frames", range(1, 12))
def test_delta_of_rows_shorter_than_the_width(n_frames, order, rng):
    """Shorter than the nine frames librosa needs: the last frame is held, alone or in a padded batch."""
    features = rng.standard_normal((5, n_frames)).astype(np.float32)
    held = np.pad(features, ((0, 0), (0, max(0, 9 - n_frames))), mode="edge")
    theirs = librosa.feature.delta(held.astype(np.float64), order=order)[:, :n_frames]
    alone = delta(torch.from_numpy(features)[None], torch.tensor([n_frames]), order=order)[0]
    np.testing.assert_allclose(alone, theirs, rtol=1e-4, atol=1e-6)

    batch = torch.full((2, 5, 30), 7.0)
    batch[0, :, :n_frames] = torch.from_numpy(features)
    padded = delta(batch, torch.tensor([n_frames, 30]), order=order)[0]
    np.testing.assert_allclose(padded[:, :n_frames], theirs, rtol=1e-4, atol=1e-6)
    assert not padded[:, n_frames:].any()
