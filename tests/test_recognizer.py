"""Recognising: equal answers by every way in, and a stated outcome for every odd clip."""

import io
import itertools
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import undertone
from undertone import recognizer as recognizer_module
from undertone.audio import AudioError, load_waveform
from undertone.recognizer import Recognizer, softmax

DURATIONS_S = (0.02, 0.1, 0.5, 0.73, 1.0, 1.9, 2.5, 3.99, 4.0, 4.01, 5.0, 9.3)


@pytest.fixture
def clips(make_speech):
    """Sounds of many lengths: below the shortest, above the longest the tiny model takes, and between."""
    return [make_speech(seed, duration_s) for seed, duration_s in enumerate(DURATIONS_S)]


def assert_same(one, other, *, atol=1e-6):
    assert (one.emotion, one.error, one.end_s) == (other.emotion, other.error, other.end_s)
    assert list(one.probs) == list(other.probs)
    np.testing.assert_allclose(list(one.probs.values()), list(other.probs.values()), atol=atol, rtol=0)


# ---- against numpy ----


def test_probs_are_the_networks_after_temperature(recognizer, make_speech, tiny_probs):
    waveform = make_speech(3, 1.37)
    prediction = recognizer.predict(waveform, sample_rate=16_000)
    np.testing.assert_allclose(list(prediction.probs.values()), tiny_probs(waveform), atol=1e-6)
    assert prediction.emotion == max(prediction.probs, key=prediction.probs.get)
    assert prediction.confidence == max(prediction.probs.values())
    assert sum(prediction.probs.values()) == pytest.approx(1.0, abs=1e-12)
    assert (prediction.path, prediction.start_s, prediction.end_s) == (None, 0.0, pytest.approx(1.37))


def test_long_clip_is_the_mean_of_equal_windows(recognizer, make_speech, tiny_probs):
    waveform = make_speech(1, 5.0)  # above max_duration_s = 4: three windows of at most 2 s, cut at frames of 320
    edges = [0, 26_560, 53_440, 80_000]
    windows = [waveform[start:end] for start, end in itertools.pairwise(edges)]
    expected = np.average([tiny_probs(window) for window in windows], axis=0, weights=np.diff(edges))
    prediction = recognizer.predict(waveform, sample_rate=16_000)
    np.testing.assert_allclose(list(prediction.probs.values()), expected, atol=1e-6)
    assert prediction.end_s == 5.0


def test_short_clip_is_filled_up_with_silence(recognizer, tiny_probs):
    prediction = recognizer.predict(np.ones(1), sample_rate=16_000)
    filled = np.pad([1.0], (0, 1_599))  # min_duration_s = 0.1
    np.testing.assert_allclose(list(prediction.probs.values()), tiny_probs(filled), atol=1e-6)
    assert prediction.end_s == 1 / 16_000


def test_softmax_of_large_logits():
    probs = softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32), 0.5)
    np.testing.assert_array_equal(probs, [[1.0, 0.0], [0.5, 0.5]])
    assert probs.dtype == np.float64


# ---- equalities ----


def test_predict_equals_predict_batch(recognizer, clips):
    together = recognizer.predict_batch(clips, sample_rate=16_000)
    for clip, prediction in zip(clips, together, strict=True):
        assert_same(recognizer.predict(clip, sample_rate=16_000), prediction)


@pytest.mark.parametrize("bounds", [{"batch_size": 1}, {"batch_size": 3}, {"batch_seconds": 0.001}, {"batch_size": 99}])
def test_bounds_of_a_batch_change_no_result(recognizer, clips, bounds):
    expected = recognizer.predict_batch(clips, sample_rate=16_000)
    for one, other in zip(expected, recognizer.predict_batch(clips, sample_rate=16_000, **bounds), strict=True):
        assert_same(one, other)


def test_waveforms_that_were_checked_before_give_the_same(recognizer, clips):
    expected = recognizer.predict_batch(clips, sample_rate=16_000)
    found = recognizer.predict_waveforms([load_waveform(clip, sample_rate=16_000) for clip in clips])
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_a_waveform_that_was_not_checked_costs_its_row_only(recognizer, clips):
    """What a decoder sends that was taken over."""
    empty, no_numbers = clips[3][:0], np.full(16_000, np.nan, np.float32)
    first, _, second, last = recognizer.predict_waveforms([clips[3], empty, no_numbers, clips[4]])
    assert "no finite answer" in second.error
    for one, clip in ((first, clips[3]), (last, clips[4])):
        assert_same(one, recognizer.predict(clip, sample_rate=16_000))


def test_shuffled_input_gives_shuffled_output(recognizer, make_speech, rng, monkeypatch):
    monkeypatch.setattr(recognizer_module, "CHUNK_SIZE", 4)
    clips = [make_speech(seed, 0.3 + 0.05 * (seed % 11)) for seed in range(30)]
    order = rng.permutation(len(clips))
    expected = recognizer.predict_batch(clips, sample_rate=16_000)
    shuffled = recognizer.predict_batch([clips[index] for index in order], sample_rate=16_000)
    for index, prediction in zip(order, shuffled, strict=True):
        assert_same(expected[index], prediction)


def test_number_of_threads_changes_no_result(recognizer, clips):
    for threads in (1, 5):
        other = Recognizer(recognizer.model, threads=threads)
        for one, two in zip(
            recognizer.predict_batch(clips * 9, sample_rate=16_000),
            other.predict_batch(clips * 9, sample_rate=16_000),
            strict=True,
        ):
            assert_same(one, two)


def test_48_khz_agrees_with_16_khz(recognizer, make_speech):
    for seed in range(5):
        at_16 = recognizer.predict(make_speech(seed), sample_rate=16_000)
        at_48 = recognizer.predict(make_speech(seed, sample_rate=48_000), sample_rate=48_000)
        assert_same(at_16, at_48, atol=0.01)


def test_file_open_file_and_array_agree(recognizer, write_sound, make_speech):
    waveform = make_speech(2)
    path = write_sound("clip.flac", waveform)
    from_path = recognizer.predict(path)
    assert_same(from_path, recognizer.predict(str(path)))
    assert_same(from_path, recognizer.predict(io.BytesIO(path.read_bytes())))
    assert_same(from_path, recognizer.predict(waveform, sample_rate=16_000), atol=1e-3)  # FLAC: 16 bit
    assert from_path.path == str(path)


def test_one_line_use(model_path, write_sound, make_speech, recognizer):
    path = write_sound("clip.wav", make_speech())
    assert_same(undertone.predict(path, model=model_path), recognizer.predict(path))


def test_many_threads_share_a_recognizer(recognizer, clips):
    expected = [recognizer.predict(clip, sample_rate=16_000) for clip in clips]
    found = {}

    def work(index):
        found[index] = [recognizer.predict(clip, sample_rate=16_000) for clip in clips]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for predictions in found.values():
        for one, other in zip(expected, predictions, strict=True):
            assert_same(one, other)
    assert len(found) == 4


# ---- frames and embeddings ----


def test_frames_are_those_that_begin_in_the_sound(recognizer, clips):
    together = recognizer.predict_batch(clips, sample_rate=16_000, frames=True, embedding=True)
    for clip, prediction in zip(clips, together, strict=True):
        alone = recognizer.predict(clip, sample_rate=16_000, frames=True, embedding=True)
        assert prediction.frame_probs.shape == (-(-len(clip) // 320), 4)
        np.testing.assert_allclose(prediction.frame_probs.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(prediction.frame_probs, alone.frame_probs, atol=1e-6)
        assert prediction.embedding.shape == (3,)
        np.testing.assert_allclose(prediction.embedding, alone.embedding, atol=1e-6)


def test_frames_follow_the_sound(recognizer, make_tone, tiny_probs):
    halves = np.concatenate([np.zeros(16_000), make_tone(duration_s=1.0)])
    frame_probs = recognizer.predict(halves, sample_rate=16_000, frames=True).frame_probs
    np.testing.assert_allclose(frame_probs[:50], np.tile(tiny_probs(np.zeros(320)), (50, 1)), atol=1e-6)
    assert np.abs(frame_probs[50:] - frame_probs[0]).max(axis=1).min() > 0.05


def test_neither_unless_asked(recognizer, make_tone):
    prediction = recognizer.predict(make_tone(), sample_rate=16_000)
    assert prediction.frame_probs is None
    assert prediction.embedding is None


def test_a_model_with_logits_only(tmp_path, tiny_graph, make_card, make_tone):
    del tiny_graph.outputs[1:]
    path = undertone.model_file.write_card(tiny_graph.build(), make_card(frame_hop_s=None), tmp_path / "small.onnx")
    prediction = undertone.load_model(path).predict(make_tone(), sample_rate=16_000, frames=True, embedding=True)
    assert prediction.frame_probs is None
    assert prediction.embedding is None
    assert prediction.emotion in prediction.probs


# ---- errors ----


def test_bad_files_cost_their_rows_only(recognizer, write_sound, make_speech, tmp_path):
    good = write_sound("good.wav", make_speech())
    text = tmp_path / "text.wav"
    text.write_text("this is no sound")
    sources = [text, good, tmp_path / "missing.wav", tmp_path, good]
    predictions = recognizer.predict_batch(sources)
    assert [prediction.path for prediction in predictions] == list(map(str, sources))
    assert [prediction.error is None for prediction in predictions] == [False, True, False, False, True]
    assert_same(predictions[1], recognizer.predict(good))
    assert predictions[0].emotion is None
    assert predictions[0].probs == {}
    assert "missing.wav" in predictions[2].error


def test_errors_can_be_raised(recognizer, tmp_path):
    with pytest.raises(AudioError, match=r"missing\.wav"):
        recognizer.predict_batch([tmp_path / "missing.wav"], on_error="raise")
    with pytest.raises(AudioError, match=r"missing\.wav"):
        recognizer.predict(tmp_path / "missing.wav")


def test_array_without_sample_rate(recognizer, make_tone):
    with pytest.raises(AudioError, match="sample_rate"):
        recognizer.predict(make_tone())


def test_answer_that_is_no_number(tmp_path, tiny_graph, proto, make_card, make_tone):
    """A network that divides by zero gives an error, not a confident nonsense."""
    silence_breaks_it = [
        proto.node("Div", ["logits_before", "frame_scores_sum"], ["logits"]),
        proto.node("ReduceMax", ["clean"], ["loudest"], axes=[1], keepdims=1),
        proto.node("Mul", ["loudest", "zero_float"], ["frame_scores_sum"]),
    ]
    tiny_graph.nodes[-1] = proto.node("Add", ["scores", "bias"], ["logits_before"])
    tiny_graph.nodes += [silence_breaks_it[1], silence_breaks_it[2], silence_breaks_it[0]]
    tiny_graph.tensors.append(proto.tensor("zero_float", np.array(0, np.float32)))
    path = undertone.model_file.write_card(tiny_graph.build(), make_card(), tmp_path / "broken.onnx")
    broken = undertone.load_model(path)
    prediction = broken.predict_batch([make_tone()], sample_rate=16_000)[0]
    assert "no finite answer" in prediction.error
    with pytest.raises(AudioError, match="no finite answer"):
        broken.predict(make_tone(), sample_rate=16_000)


def test_a_network_that_fails_on_some_clips(fragile_path, write_sound, make_speech):
    fragile = undertone.load_model(fragile_path)
    durations_s = (1.0, 1.2, 1.0, 1.5, 5.0, 1.0)
    paths = [
        write_sound(f"{index}.wav", make_speech(index, duration_s)) for index, duration_s in enumerate(durations_s)
    ]
    predictions = fragile.predict_batch(paths)
    assert [prediction.error is None for prediction in predictions] == [True, False, True, False, False, True]
    for path, prediction in zip(paths, predictions, strict=True):
        if prediction.error is None:
            assert_same(prediction, fragile.predict(path))
        else:
            assert prediction.error.startswith(f"{path}: fragile.onnx failed")
            assert (prediction.emotion, prediction.probs) == (None, {})


def test_a_network_that_fails_can_raise(fragile_path, make_tone):
    fragile = undertone.load_model(fragile_path)
    with pytest.raises(undertone.model_file.ModelFileError, match=r"fragile\.onnx failed"):
        fragile.predict(make_tone(duration_s=2.0), sample_rate=16_000)
    with pytest.raises(undertone.model_file.ModelFileError, match=r"fragile\.onnx failed"):
        fragile.predict_batch([make_tone(), make_tone(duration_s=2.0)], sample_rate=16_000, on_error="raise")


@pytest.mark.parametrize("bounds", [{"batch_size": 0}, {"batch_seconds": 0}])
def test_bounds_that_leave_no_room(recognizer, bounds):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        recognizer.predict_batch([], **bounds)


# ---- batches ----


def test_no_sources(recognizer):
    assert recognizer.predict_batch([]) == []


def test_progress_counts_every_clip(recognizer, clips):
    seen = []
    recognizer.predict_batch(clips, sample_rate=16_000, on_progress=seen.append)
    assert seen == list(range(1, len(clips) + 1))


def test_runs_of_the_network_stay_within_their_bounds(recognizer, clips, monkeypatch):
    shapes = []
    run = type(recognizer.model).run

    def watch(model, waveforms, lengths, outputs):
        shapes.append(waveforms.shape)
        return run(model, waveforms, lengths, outputs)

    monkeypatch.setattr(type(recognizer.model), "run", watch)
    recognizer.predict_batch(clips * 3, sample_rate=16_000, batch_size=4, batch_seconds=6.0)
    assert max(n for n, _ in shapes) == 4
    assert max(n * n_samples for n, n_samples in shapes) <= 6.0 * 16_000
    longest = max(n_samples for _, n_samples in shapes)
    assert longest <= 4.0 * 16_000


def test_only_a_few_sources_are_taken_ahead(recognizer, make_tone, monkeypatch):
    monkeypatch.setattr(recognizer_module, "CHUNK_SIZE", 2)
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield make_tone(duration_s=0.1)

    predictions = Recognizer(recognizer.model, threads=2).predict_iter(endless(), sample_rate=16_000)
    for _ in range(10):
        next(predictions)
    predictions.close()
    assert len(taken) <= 10 + 2 * 4


def test_memory_does_not_grow_with_the_number_of_clips(recognizer, make_tone, write_sound):
    """One file of 2 minutes, 24 times: 184 MB of float32 if all were kept."""
    path = write_sound("long.wav", make_tone(duration_s=120.0))
    tracemalloc.start()
    predictions = Recognizer(recognizer.model, threads=1).predict_batch([path] * 24)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [prediction.error for prediction in predictions] == [None] * 24
    assert peak < 60e6


# ---- the package ----


def test_import_is_light():
    heavy = "('numpy', 'onnxruntime', 'soundfile', 'soxr', 'typer', 'rich', 'torch')"
    code = f"import sys, undertone; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in undertone.__all__:
        assert getattr(undertone, name) is not None
    assert undertone.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = undertone.nothing


DEMO = Path(__file__).parents[1] / "demo"


def test_shipped_models_hear_the_demo_recordings():
    recordings = undertone.audio.find_audio([DEMO])
    for name in undertone.installed_models():
        for prediction in undertone.load_model(name).predict_batch(recordings):
            assert prediction.error is None
            assert prediction.emotion in prediction.probs


@pytest.mark.corpus
def test_real_clips_of_every_corpus(corpora_root, recognizer):
    for corpus in ("RAVDESS", "CREMA-D", "TESS", "SAVEE"):
        clips = undertone.audio.find_audio([corpora_root / corpus])[:20]
        for clip, prediction in zip(clips, recognizer.predict_batch(clips), strict=True):
            assert_same(recognizer.predict(clip), prediction)
