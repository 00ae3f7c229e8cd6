"""Streams: the same answers as for the whole waveform, however it is cut, and a stated outcome for every odd chunk."""

import itertools
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import undertone
from undertone.audio import AudioError, load_waveform
from undertone.model_file import ModelFileError
from undertone.stream import FLOOR_DB, Stream, track


def feed_all(stream, sound, sizes):
    """Cut a sound into chunks of these sizes, again and again, feed them and finish."""
    updates, first = [], 0
    for size in itertools.cycle(sizes):
        if first >= len(sound):
            break
        updates += stream.feed(sound[first : first + size])
        first += size
    return updates + stream.finish()


def assert_same(updates, expected, *, atol=1e-5):
    assert [(one.start_s, one.end_s, one.emotion) for one in updates] == [
        (one.start_s, one.end_s, one.emotion) for one in expected
    ]
    for one, other in zip(updates, expected, strict=True):
        np.testing.assert_allclose(list(one.probs.values()), list(other.probs.values()), atol=atol, rtol=0)
        assert one.level_db == pytest.approx(other.level_db, abs=1e-5)
        assert (one.confidence, one.emotion) == (max(one.probs.values()), max(one.probs, key=one.probs.get))


@pytest.fixture(scope="module")
def sound(make_speech):
    return make_speech(1, 5.3)


# ---- the definition ----


def test_answers_against_the_networks_formula(recognizer, sound, tiny_probs):
    updates = feed_all(Stream(recognizer, hop_s=0.7, window_s=1.6), sound, [1_000])
    ends = [*range(11_200, len(sound), 11_200), len(sound)]
    assert [update.end_s for update in updates] == [end / 16_000 for end in ends]
    for update, end in zip(updates, ends, strict=True):
        start = max(0, end - 25_600)
        assert update.start_s == start / 16_000
        np.testing.assert_allclose(list(update.probs.values()), tiny_probs(sound[start:end]), atol=1e-6)
        newest = sound[(end - 1) // 11_200 * 11_200 : end].astype(np.float64)
        assert update.level_db == pytest.approx(20 * np.log10(np.sqrt(np.mean(newest**2))), abs=1e-6)


def test_the_card_gives_the_window(recognizer, sound):
    stream = Stream(recognizer)
    updates = feed_all(stream, sound, [8_000])
    assert (stream.hop_s, stream.window_s) == (0.5, recognizer.card.recommended_duration_s)
    assert [update.end_s for update in updates] == [*np.arange(0.5, 5.3, 0.5), 5.3]
    assert [update.start_s for update in updates] == pytest.approx([max(0, update.end_s - 2.0) for update in updates])


def test_silence_and_full_scale_have_a_level(recognizer):
    updates = feed_all(Stream(recognizer), np.concatenate([np.zeros(8_000), np.ones(8_000)]), [3_333])
    assert [update.level_db for update in updates] == [FLOOR_DB, 0.0]
    assert updates[0].emotion == recognizer.predict(np.zeros(8_000), sample_rate=16_000).emotion


def test_short_sounds_are_filled_up_with_silence(recognizer, tiny_probs):
    stream = Stream(recognizer)
    assert stream.feed(np.full(1, 0.5, np.float32)) == []
    (update,) = stream.finish()
    filled = np.pad([0.5], (0, 1_599))  # min_duration_s = 0.1
    np.testing.assert_allclose(list(update.probs.values()), tiny_probs(filled), atol=1e-6)
    assert (update.start_s, update.end_s) == (0.0, 1 / 16_000)


def test_a_whole_number_of_hops_leaves_no_rest(recognizer, sound):
    stream = Stream(recognizer)
    assert [update.end_s for update in stream.feed(sound[:16_000])] == [0.5, 1.0]
    assert stream.finish() == []


# ---- stream = whole waveform ----


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=6).filter(any),
    sample_rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
    n_channels=st.sampled_from([1, 2, 3]),
    kind=st.sampled_from(["float32", "float64", "int16", "int32", "uint8"]),
    hop_s=st.floats(0.3, 1.0),
    window_s=st.floats(1.0, 4.0),
    duration_s=st.floats(0.001, 6.0),
    seed=st.integers(0, 9),
)
def test_any_chunks_give_the_answers_of_the_whole(
    recognizer, make_speech, sizes, sample_rate, n_channels, kind, hop_s, window_s, duration_s, seed
):
    channels = [make_speech(seed + index, duration_s, sample_rate=sample_rate) for index in range(n_channels)]
    sound = np.stack(channels, axis=1).squeeze(axis=1) if n_channels == 1 else np.stack(channels, axis=1)
    sound = scaled(sound, kind)
    if not len(sound):
        return
    grid = {"hop_s": hop_s, "window_s": window_s}
    expected = track(recognizer, sound, sample_rate=sample_rate, **grid)
    stream = Stream(recognizer, sample_rate=sample_rate, n_channels=n_channels, **grid)
    assert_same(feed_all(stream, sound, sizes), expected)


def scaled(sound, kind):
    """Turn floats into PCM of a type."""
    if kind.startswith("float"):
        return sound.astype(kind)
    if kind == "uint8":
        return np.round(sound * 127 + 128).astype(np.uint8)
    return np.round(sound * 0.99 * np.iinfo(kind).max).astype(kind)


@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_chunks_of_one_sample_and_of_none(recognizer, make_speech, sample_rate):
    sound = make_speech(2, 1.2, sample_rate=sample_rate)
    updates = feed_all(Stream(recognizer, sample_rate=sample_rate), sound, [1, 0, 1, 1])
    assert_same(updates, track(recognizer, sound, sample_rate=sample_rate))


def test_one_large_chunk(recognizer, make_speech):
    sound = make_speech(3, 60.0)
    assert_same(feed_all(Stream(recognizer), sound, [len(sound)]), track(recognizer, sound, sample_rate=16_000))


def test_answers_come_as_soon_as_their_hop_is_there(recognizer, sound):
    stream = Stream(recognizer)
    assert stream.feed(sound[:7_999]) == []
    assert [update.end_s for update in stream.feed(sound[7_999:8_000])] == [0.5]


@pytest.mark.parametrize(("sample_rate", "delay_s"), [(8_000, 0.12), (44_100, 0.045), (48_000, 0.04), (192_000, 0.08)])
def test_the_resampler_holds_back_little(recognizer, make_speech, sample_rate, delay_s):
    sound = make_speech(0, 2.0, sample_rate=sample_rate)
    stream = Stream(recognizer, sample_rate=sample_rate)
    n_chunk = sample_rate // 1_000
    arrived_s = {}
    for first in range(0, len(sound), n_chunk):
        for update in stream.feed(sound[first : first + n_chunk]):
            arrived_s[update.end_s] = first / sample_rate
    assert list(arrived_s) == [0.5, 1.0, 1.5]
    assert max(arrived - end_s for end_s, arrived in arrived_s.items()) <= delay_s


def test_one_hop_is_the_offline_answer_of_a_clip(recognizer, write_sound, make_speech):
    path = write_sound("clip.wav", make_speech(4, 1.7))
    stream = Stream(recognizer, hop_s=2.0, window_s=4.0)
    (update,) = stream.feed(load_waveform(path)) + stream.finish()
    assert update.probs == pytest.approx(recognizer.predict(path).probs, abs=1e-6)
    assert update.probs == pytest.approx(track(recognizer, path, hop_s=2.0, window_s=4.0)[0].probs, abs=1e-6)


def test_loud_sound_is_cut_as_in_a_file(recognizer, make_tone):
    loud = make_tone(amplitude=3.0)
    assert_same(feed_all(Stream(recognizer), loud, [777]), track(recognizer, loud, sample_rate=16_000))


# ---- many at once ----


def test_streams_on_several_threads_share_a_recognizer(recognizer, make_speech):
    sounds = [make_speech(seed, 4.0 + 0.1 * seed) for seed in range(12)]
    expected = [track(recognizer, sound, sample_rate=16_000) for sound in sounds]
    found = {}

    def listen(indices):
        streams = {index: Stream(recognizer) for index in indices}
        updates = {index: [] for index in indices}
        for first in range(0, 90_000, 1_600):  # turn by turn: no state leaks from one to the next
            for index, stream in streams.items():
                updates[index] += stream.feed(sounds[index][first : first + 1_600])
        found.update({index: updates[index] + stream.finish() for index, stream in streams.items()})

    threads = [threading.Thread(target=listen, args=(range(first, 12, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, updates in enumerate(expected):
        assert_same(found[index], updates)


def test_a_long_stream_keeps_its_window_only(recognizer, rng):
    stream = Stream(recognizer, hop_s=2.0)
    minute = (0.1 * rng.standard_normal(960_000)).astype(np.float32)
    stream.feed(minute)
    tracemalloc.start()
    for _ in range(20):  # 77 MB of sound
        stream.feed(minute)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1e6
    assert peak < 12e6  # a chunk of 3.8 MB, cut to [-1, 1] in its blocks
    assert stream.feed(minute)[-1].end_s == 22 * 60.0


# ---- refusals ----


def refused(stream, chunk, match):
    with pytest.raises(AudioError, match=match):
        stream.feed(chunk)


def test_refused_chunks_change_nothing(recognizer, sound):
    stream = Stream(recognizer)
    updates = stream.feed(sound[:10_000])
    bad = sound[:10_000].copy()
    bad[9_000] = np.nan
    refused(stream, bad, "NaN or infinite values, the first after 0.56")
    bad[9_000] = -np.inf
    refused(stream, bad, "NaN or infinite")
    refused(stream, sound * 32_768, "scale it first")
    refused(stream, np.zeros(10, np.int64), "no known full scale")
    refused(stream, np.zeros(10, complex), "no known full scale")
    refused(stream, np.zeros((10, 2)), r"takes \(n,\) or \(n, 1\)")
    refused(stream, np.zeros((2, 2, 2)), r"takes \(n,\)")
    refused(stream, np.float32(0.5) + np.zeros(()), r"takes \(n,\)|numpy array")
    refused(stream, [0.0, 0.5], "numpy array, not list")
    refused(stream, b"\0\0", "numpy.frombuffer")
    updates += stream.feed(sound[10_000:]) + stream.finish()
    assert_same(updates, track(recognizer, sound, sample_rate=16_000))


def test_stereo_takes_stereo_only(recognizer):
    stream = Stream(recognizer, n_channels=2)
    refused(stream, np.zeros(10), r"takes \(n, 2\)")
    refused(stream, np.zeros((2, 10)), r"takes \(n, 2\)")
    assert stream.feed(np.zeros((0, 2))) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sample_rate": 999}, "999 Hz"),
        ({"sample_rate": 400_000}, "400000 Hz"),
        ({"sample_rate": 44_100.0}, "whole number"),
        ({"sample_rate": True}, "whole number"),
        ({"n_channels": 0}, "0 channels"),
        ({"n_channels": 33}, "33 channels"),
        ({"n_channels": 1.5}, "whole number"),
    ],
)
def test_impossible_inputs_are_refused(recognizer, options, match):
    with pytest.raises(AudioError, match=match):
        Stream(recognizer, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hop_s": 0.0}, "hop_s is 0.0"),
        ({"hop_s": -1.0}, "hop_s is -1"),
        ({"hop_s": float("nan")}, "hop_s is nan"),
        ({"hop_s": 1.5, "window_s": 1.0}, "sound unheard"),
        ({"window_s": 0.05}, "window_s is 0.05; this model takes 0.1 to 4 seconds"),
        ({"window_s": 4.5}, "window_s is 4.5"),
        ({"window_s": float("nan")}, "window_s is nan"),
    ],
)
def test_impossible_grids_are_refused(recognizer, make_tone, options, match):
    with pytest.raises(ValueError, match=match):
        Stream(recognizer, **options)
    with pytest.raises(ValueError, match=match):
        track(recognizer, make_tone(), sample_rate=16_000, **options)


# ---- the end ----


def test_an_ended_stream_says_so(recognizer, sound):
    stream = Stream(recognizer)
    assert stream.finish() == []  # nothing was heard
    with pytest.raises(ValueError, match="has ended"):
        stream.feed(sound)
    assert stream.finish() == []


def test_finish_gives_what_the_resampler_held_back(recognizer, make_speech):
    sound = make_speech(5, 1.0, sample_rate=48_000)
    stream = Stream(recognizer, sample_rate=48_000)
    assert [update.end_s for update in stream.feed(sound)] == [0.5]
    assert [update.end_s for update in stream.finish()] == [1.0]


def test_a_network_that_fails_ends_the_stream(fragile_path, sound):
    stream = Stream(undertone.load_model(fragile_path), hop_s=0.5, window_s=1.0)
    with pytest.raises(ModelFileError, match=r"fragile\.onnx failed"):  # takes 1 s only, the first hop has 0.5 s
        stream.feed(sound)
    with pytest.raises(ValueError, match="has ended"):
        stream.feed(sound)
    assert stream.finish() == []


# ---- real clips ----


@pytest.mark.corpus
def test_real_clips_through_the_shipped_model(corpora_root, rng):
    recognizer = undertone.load_model(threads=1)
    clips = undertone.audio.find_audio([corpora_root / "RAVDESS" / "Actor_01"])[:6]
    waveform = np.concatenate([load_waveform(clip) for clip in clips])
    expected = track(recognizer, waveform, sample_rate=16_000)
    for sizes in ([160], [1_024, 333], rng.integers(0, 9_000, 20).tolist()):
        assert_same(feed_all(Stream(recognizer), waveform, sizes), expected)
    assert len({update.emotion for update in expected}) > 1
