"""Explaining: parts that add up to the sound, importances worked out by hand, and cells that matter on real clips."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import undertone
from undertone.audio import AudioError, find_audio, load_waveform
from undertone.explanation import MAX_CELLS, Cells, explain, hz_to_mel, mel_to_hz, overlap_add, spectrum


def all_parts(cells):
    n_bands, n_times = cells.shape
    return [cells.part(band, time) for band in range(n_bands) for time in range(n_times)]


# ---- cells ----


@settings(max_examples=25, deadline=None)
@given(
    n_samples=st.integers(1, 20_000),
    n_times=st.integers(1, 40),
    n_bands=st.integers(1, 32),
    seed=st.integers(0, 99),
)
def test_the_parts_add_up_to_the_sound(n_samples, n_times, n_bands, seed):
    waveform = np.random.default_rng(seed).uniform(-1, 1, n_samples).astype(np.float32)
    cells = Cells(waveform, n_times, n_bands)
    total = np.sum(all_parts(cells), axis=0, dtype=np.float64)
    np.testing.assert_allclose(total, waveform, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_samples", [1, 127, 128, 511, 512, 513, 16_000, 48_001])
def test_an_unaltered_spectrum_gives_the_sound_back(rng, n_samples):
    waveform = rng.uniform(-1, 1, n_samples).astype(np.float32)
    sound = overlap_add(spectrum(waveform))
    np.testing.assert_allclose(sound[512 : 512 + n_samples], waveform, atol=1e-6, rtol=0)
    np.testing.assert_allclose(sound[:512], 0, atol=1e-12)


def test_the_spectrum_is_scipys(rng):
    signal = pytest.importorskip("scipy.signal")
    waveform = rng.uniform(-1, 1, 12_800)
    window = np.sqrt(signal.get_window("hann", 512))
    _, _, expected = signal.stft(
        np.pad(waveform, 512), window=window, nperseg=512, noverlap=384, boundary=None, padded=False, scaling="spectrum"
    )
    np.testing.assert_allclose(spectrum(waveform), expected.T * window.sum(), atol=1e-9)


def test_edges_are_equal_in_time_and_on_the_mel_scale():
    cells = Cells(np.zeros(32_000, np.float32), 16, 8)
    np.testing.assert_allclose(cells.times_s, np.arange(17) / 8)
    assert (cells.bands_hz[0], cells.bands_hz[-1]) == (0, pytest.approx(8_000))
    np.testing.assert_allclose(np.diff(hz_to_mel(cells.bands_hz)), hz_to_mel(8_000) / 8)
    assert float(hz_to_mel(1_000)) == pytest.approx(999.99, abs=0.01)  # the scale's anchor
    assert float(mel_to_hz(hz_to_mel(440.0))) == pytest.approx(440)


def test_a_part_is_where_its_cell_is(make_tone):
    low, high = make_tone(300.0, 2.0), make_tone(3_000.0, 2.0)
    cells = Cells(low + high, 4, 8)
    band = int(np.searchsorted(cells.bands_hz, 3_000.0)) - 1
    part = cells.part(band, 1)  # 0.5 to 1.0 s
    inside = slice(8_512, 15_488)  # a frame's length from its edges
    np.testing.assert_allclose(part[inside], high[inside], atol=0.01)
    assert np.abs(part[:7_488]).max() < 1e-6
    assert np.abs(part[16_512:]).max() < 1e-6


# ---- importance against the tiny network's formula ----


def test_the_only_sound_is_the_only_thing_that_matters(recognizer, make_tone, tiny_probs):
    clip = np.zeros(32_000, np.float32)
    clip[13_000:15_000] = make_tone(1_000.0, 0.125)  # in 0.75 to 1.0 s, faded in and out so that it stays in its band
    clip[13_000:15_000] *= np.hanning(2_000)
    explanation = explain(recognizer, clip, sample_rate=16_000, n_times=8, n_bands=4)
    band = int(np.searchsorted(explanation.bands_hz, 1_000.0)) - 1
    index = recognizer.labels.index(explanation.emotion)
    before, after = tiny_probs(clip)[index], tiny_probs(np.zeros(32_000))[index]
    assert explanation.prob == pytest.approx(before, abs=1e-6)
    assert explanation.importance[band, 3] == pytest.approx(before - after, abs=1e-3)
    others = np.delete(explanation.importance.ravel(), band * 8 + 3)
    assert np.abs(others).max() < 1e-3 < 0.01 < abs(explanation.importance[band, 3])


def test_of_two_tones_each_has_its_own_importance(recognizer, make_tone, tiny_probs):
    low, high = make_tone(250.0, 2.0, amplitude=0.1), make_tone(5_000.0, 2.0, amplitude=0.05)
    explanation = explain(recognizer, low + high, sample_rate=16_000, emotion="sadness", n_times=1, n_bands=2)
    both, only_high, only_low = (tiny_probs(sound)[3] for sound in (low + high, high, low))
    np.testing.assert_allclose(explanation.importance[:, 0], [both - only_high, both - only_low], atol=2e-3)
    assert abs(both - only_low) > 0.01
    assert abs(both - only_high) > 0.01


def test_every_emotion_can_be_explained(recognizer, make_speech):
    clip = make_speech(1, 1.0)
    heard = recognizer.predict(clip, sample_rate=16_000)
    found = {
        label: explain(recognizer, clip, sample_rate=16_000, emotion=label, n_times=3, n_bands=2)
        for label in recognizer.labels
    }
    for label, explanation in found.items():
        assert (explanation.emotion, explanation.prob) == (label, pytest.approx(heard.probs[label], abs=1e-6))
    total = np.sum([explanation.importance for explanation in found.values()], axis=0)
    np.testing.assert_allclose(total, 0, atol=1e-9)  # what one emotion loses the others gain
    default = explain(recognizer, clip, sample_rate=16_000, n_times=3, n_bands=2)
    np.testing.assert_array_equal(default.importance, found[heard.emotion].importance)


def test_silence_has_nothing_that_matters(recognizer):
    explanation = explain(recognizer, np.zeros(16_000), sample_rate=16_000)
    assert explanation.importance.shape == (8, 16)
    np.testing.assert_array_equal(explanation.importance, 0)


def test_sums_and_plain_types(recognizer, make_speech):
    explanation = explain(recognizer, make_speech(2, 1.3), sample_rate=16_000, n_times=5, n_bands=3)
    np.testing.assert_allclose(explanation.by_time, [sum(explanation.importance[:, time]) for time in range(5)])
    np.testing.assert_allclose(explanation.by_band, [sum(explanation.importance[band]) for band in range(3)])
    content = json.loads(json.dumps(explanation.to_dict()))
    assert list(content) == ["emotion", "prob", "times_s", "bands_hz", "importance"]
    np.testing.assert_allclose(content["importance"], explanation.importance, atol=1e-6)
    assert content["times_s"] == pytest.approx([0, 0.26, 0.52, 0.78, 1.04, 1.3])
    assert content["bands_hz"][-1] == 8_000


def test_twice_the_same(recognizer, write_sound, make_speech):
    path = write_sound("clip.flac", make_speech(3, 1.1))
    one, two = explain(recognizer, path), explain(recognizer, str(path))
    np.testing.assert_array_equal(one.importance, two.importance)


# ---- odd clips and refusals ----


@pytest.mark.parametrize("n_samples", [1, 200, 511, 512, 1_100])
def test_very_short_clips_have_fewer_cells(recognizer, make_tone, n_samples):
    explanation = explain(recognizer, make_tone()[:n_samples], sample_rate=16_000)
    n_times = max(1, n_samples // 512)
    assert explanation.importance.shape == (8, n_times)
    assert explanation.times_s[-1] == n_samples / 16_000
    assert np.isfinite(explanation.importance).all()


def test_clips_beyond_the_networks_length_are_explained(recognizer, make_speech):
    clip = make_speech(4, 9.0)  # the tiny model takes 4 s at once
    explanation = explain(recognizer, clip, sample_rate=16_000, n_times=3, n_bands=1)
    heard = recognizer.predict(clip, sample_rate=16_000)
    silenced = clip.copy()
    silenced[: 3 * 16_000] = 0
    expected = heard.confidence - recognizer.predict(silenced, sample_rate=16_000).probs[heard.emotion]
    assert explanation.importance[0, 0] == pytest.approx(expected, abs=2e-3)


def test_long_clips_are_refused(recognizer, make_tone):
    with pytest.raises(AudioError, match="more than the 30 s allowed"):
        explain(recognizer, make_tone(duration_s=30.1), sample_rate=16_000)


@pytest.mark.parametrize(("n_times", "n_bands"), [(0, 8), (16, 0), (-1, 8), (16, 33), (MAX_CELLS, 2)])
def test_impossible_cells_are_refused(recognizer, make_tone, n_times, n_bands):
    with pytest.raises(ValueError, match="at least one of each"):
        explain(recognizer, make_tone(), sample_rate=16_000, n_times=n_times, n_bands=n_bands)


def test_an_unknown_emotion_is_refused(recognizer, make_tone):
    with pytest.raises(ValueError, match="knows no emotion 'joy'; it has anger, happiness"):
        explain(recognizer, make_tone(), sample_rate=16_000, emotion="joy")


def test_few_altered_clips_are_in_memory_at_a_time(recognizer, make_tone, monkeypatch):
    alive, most = set(), [0]
    cut = Cells.silenced

    def watched(cells):
        for waveform in cut(cells):
            alive.add(id(waveform))
            most[0] = max(most[0], len(alive))
            yield waveform

    predict_batch = type(recognizer).predict_batch

    def predict(self, group, **options):
        alive.clear()
        return predict_batch(self, group, **options)

    monkeypatch.setattr(Cells, "silenced", watched)
    monkeypatch.setattr(type(recognizer), "predict_batch", predict)
    explain(recognizer, make_tone(), sample_rate=16_000, n_times=20, n_bands=10)
    assert 0 < most[0] <= 16


# ---- real clips ----


@pytest.mark.corpus
def test_what_matters_most_matters_more_than_chance(corpora_root, rng):
    """Without its 12 most important cells of 128 a clip loses more of its emotion than without 12 at random."""
    recognizer = undertone.load_model(threads=1)
    clips = [path for corpus in ("RAVDESS", "CREMA-D") for path in find_audio([corpora_root / corpus])[300::1_000]]
    falls, random_falls = [], []
    for clip in clips:
        waveform = load_waveform(clip)
        explanation = explain(recognizer, clip)
        parts = np.stack(all_parts(Cells(waveform, 16, 8)))
        ranked = np.argsort(-explanation.importance.ravel())

        def fall(silenced, parts=parts, waveform=waveform, explanation=explanation):
            left = waveform - parts[silenced].sum(axis=0)
            return explanation.prob - recognizer.predict(left, sample_rate=16_000).probs[explanation.emotion]

        falls.append(fall(ranked[:12]))
        random_falls.append(np.mean([fall(rng.choice(128, 12, replace=False)) for _ in range(5)]))
        assert falls[-1] > random_falls[-1], clip
    assert len(clips) >= 6
    assert np.mean(falls) > 0.3
    assert np.mean(random_falls) < 0.5 * np.mean(falls)
