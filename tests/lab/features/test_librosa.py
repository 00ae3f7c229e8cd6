"""Features against an independent truth: librosa 0.11, at the field's geometry and at librosa's own."""

# ruff: noqa: E402 - imports follow the check that torch is there
from contextlib import nullcontext

import numpy as np
import pytest
import soxr

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

from undertone.audio import load_waveform
from undertone.lab.corpora import load
from undertone.lab.features import MFCC, Mel, delta, mel_filters

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


PUBLISHED = [  # sample rate, n_mfcc, derivative alone: all that the recipes of published systems have
    (22_050, 50, 2), (22_050, 20, 3), (22_050, 40, 0), (22_050, 13, 0), (16_000, 40, 0), (44_100, 128, 0),
]  # fmt: skip


def published_features(waveform, sample_rate, n_mfcc, order):
    """Mel and MFCC of librosa in double precision, as the published systems call it (zeros at the ends)."""
    mel = librosa.feature.melspectrogram(y=waveform.astype(np.float64), sr=sample_rate, pad_mode="constant")
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80.0), n_mfcc=n_mfcc)
    return mel, librosa.feature.delta(mfcc, order=order) if order else mfcc


def assert_published(waveform, sample_rate, n_mfcc, order):
    frames = {"n_fft": 2048, "win_length": 2048, "hop_length": 512, "sample_rate": sample_rate}
    mel, mfcc = published_features(waveform, sample_rate, n_mfcc, order)
    assert_agrees(Mel(128, **frames), waveform, mel)
    assert_agrees(MFCC(n_mfcc, 128, **frames, n_deltas=order, only_delta=order > 0), waveform, mfcc)


@pytest.mark.parametrize(("sample_rate", "n_mfcc", "order"), PUBLISHED)
def test_agrees_with_librosa_as_published_systems_call_it(sample_rate, n_mfcc, order, make_speech):
    assert_published(make_speech(3, 1.2, sample_rate=sample_rate), sample_rate, n_mfcc, order)


@pytest.mark.corpus
@pytest.mark.parametrize("corpus", ["ravdess", "crema-d", "tess", "savee"])
def test_agrees_with_librosa_as_published_systems_call_it_on_real_clips(corpus, corpora_root):
    utterances = load(corpora_root, [corpus])
    for index in np.random.default_rng(1).choice(len(utterances), 3, replace=False):
        waveform = load_waveform(utterances[index].path)
        for sample_rate, n_mfcc, order in PUBLISHED:
            resampled = soxr.resample(waveform, 16_000, sample_rate).astype(np.float32)
            assert_published(resampled, sample_rate, n_mfcc, order)


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
