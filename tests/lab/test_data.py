"""The cache of decoded clips, and batches of similar length."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from undertone.audio import load_waveform
from undertone.lab import data
from undertone.lab.corpora import Utterance, load
from undertone.lab.data import bucket_batches, decode_utterances, pad_batch, to_float, to_int16

pytestmark = pytest.mark.lab


def utterance(path, corpus="ravdess"):
    return Utterance(Path(path), corpus, f"{corpus}/01", "male", "anger", f"{corpus}/01")


@pytest.fixture
def clips(write_sound, make_speech):
    """Four clips of two corpora in three formats; the first two hold the same audio."""
    voice = to_int16(make_speech(0, 0.5))  # whole numbers: libsndfile rounds floats otherwise for WAV than for FLAC
    return [
        utterance(write_sound("a.wav", voice)),
        utterance(write_sound("b.flac", voice), "savee"),
        utterance(write_sound("c.wav", make_speech(1, 0.7, sample_rate=48_000), 48_000)),
        utterance(write_sound("d.wav", np.zeros(3_000, np.float32)), "savee"),
    ]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were really decoded, in any order."""
    paths = []
    monkeypatch.setattr(data, "load_waveform", lambda path: paths.append(path.name) or load_waveform(path))
    return paths


def assert_same(first, second):
    assert first.digests == second.digests
    assert first.errors == second.errors
    for one, two in zip(first.clips, second.clips, strict=True):
        np.testing.assert_array_equal(one, two)


# ---- decoding ----


def test_clips_are_what_the_use_floor_decodes(clips, cache):
    waveforms = decode_utterances(clips, cache)
    assert len(waveforms) == 4
    for clip, row in zip(waveforms.clips, clips, strict=True):
        assert clip.dtype == np.int16
        np.testing.assert_allclose(to_float(clip), load_waveform(row.path), atol=1 / 32_767)
    assert waveforms.n_samples.tolist() == [8_000, 8_000, 11_200, 3_000]
    assert waveforms.is_silent.tolist() == [False, False, False, True]
    assert waveforms.errors == {}


def test_equal_audio_has_equal_digests_whatever_its_format(clips, cache):
    digests = decode_utterances(clips, cache).digests
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[3] == hashlib.sha256(np.zeros(3_000, np.int16).tobytes()).hexdigest()


def test_the_second_time_nothing_is_decoded(clips, cache, decoded):
    first = decode_utterances(clips, cache)
    assert sorted(decoded) == ["a.wav", "b.flac", "c.wav", "d.wav"]
    again = decode_utterances(clips, cache)
    assert len(decoded) == 4
    assert_same(first, again)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]  # no temporary file is left


@pytest.mark.parametrize("change", ["content", "time", "added", "removed"])
def test_a_change_is_decoded_anew_in_its_corpus_only(change, clips, cache, decoded, make_speech):
    first = decode_utterances(clips, cache)
    decoded.clear()
    path = clips[0].path
    if change == "content":
        soundfile.write(path, make_speech(5, 0.5), 16_000)
        os.utime(path, ns=(1, 1))  # a clock too coarse for the two writes must not hide this one
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "added":
        soundfile.write(path.with_name("e.wav"), make_speech(6, 0.3), 16_000)
        clips = [*clips, utterance(path.with_name("e.wav"))]
    else:
        clips = clips[1:]
    again = decode_utterances(clips, cache)
    expected = {"content": ["a.wav", "c.wav"], "time": ["a.wav", "c.wav"], "added": ["a.wav", "c.wav", "e.wav"],
                "removed": ["c.wav"]}  # fmt: skip
    assert sorted(decoded) == expected[change]
    if change == "content":
        assert again.digests[0] != first.digests[0]
        assert again.digests[1:] == first.digests[1:]


def test_order_of_the_utterances_is_kept(clips, cache):
    forwards, backwards = decode_utterances(clips, cache), decode_utterances(clips[::-1], cache)
    assert_same(forwards.select([3, 2, 1, 0]), backwards)


def test_unreadable_clips_are_reported_and_the_rest_is_decoded(clips, cache, tmp_path):
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    broken = [utterance(tmp_path / "text.wav"), clips[0], utterance(tmp_path / "empty.wav"), *clips[2:]]
    for _ in range(2):  # decoded, then from the cache
        waveforms = decode_utterances(broken, cache)
        assert sorted(waveforms.errors) == [0, 2]
        assert all(waveforms.errors.values())
        assert [waveforms.digests[row] for row in (0, 2)] == ["", ""]
        assert waveforms.n_samples.tolist() == [0, 8_000, 0, 11_200, 3_000]
        assert waveforms.is_silent.tolist() == [False, False, False, False, True]  # unreadable is not silent
    chosen = waveforms.select([2, 1])
    assert (list(chosen.errors), len(chosen.clips[1])) == ([0], 8_000)


def test_an_interrupted_decode_is_not_taken_for_a_whole_one(clips, cache, decoded):
    """The samples were written, their index was not: without it they do not count."""
    first = decode_utterances(clips, cache)
    for index in cache.glob("*.json"):
        index.unlink()
    for samples in list(cache.glob("*.npy")):
        part = samples.read_bytes()[:200]
        samples.unlink()  # a new file of that name: the old one is still mapped
        samples.write_bytes(part)
    decoded.clear()
    assert_same(decode_utterances(clips, cache), first)
    assert len(decoded) == 4


def test_a_decode_that_breaks_off_leaves_nothing_behind(clips, cache):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_utterances(clips, cache, progress=stop)
    assert not list(cache.iterdir())


def test_progress_ends_at_all_clips(clips, cache):
    steps = []
    decode_utterances(clips, cache, progress=lambda *step: steps.append(step))
    assert steps[-1] == (4, 4)
    assert [n for n, _ in steps] == sorted(n for n, _ in steps)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("UNDERTONE_CACHE", raising=False)
    assert data.default_cache_dir() == tmp_path / "xdg" / "undertone"
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "own"))
    assert data.default_cache_dir() == tmp_path / "own"


DECODER = """
import sys, time
from pathlib import Path
from undertone.lab.corpora import Utterance
from undertone.lab.data import decode_utterances
paths = sorted(Path(sys.argv[1]).glob("*.wav"))
clips = [Utterance(path, "ravdess", "ravdess/01", "male", "anger", "ravdess/01") for path in paths]
print("ready", flush=True)
sys.stdin.readline()
print(*decode_utterances(clips, Path(sys.argv[2])).digests)
"""


def test_two_processes_may_decode_at_once(write_sound, make_speech, tmp_path, cache):
    for seed in range(12):
        write_sound(f"{seed:02d}.wav", make_speech(seed, 1.0, sample_rate=44_100), 44_100)
    command = [sys.executable, "-c", DECODER, str(tmp_path), str(cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(2) as pool:  # both begin now
        outputs = list(pool.map(lambda process: process.communicate("go\n")[0].split(), both))
    assert [process.returncode for process in both] == [0, 0]
    clips = [utterance(path) for path in sorted(tmp_path.glob("*.wav"))]
    expected = [hashlib.sha256(to_int16(load_waveform(c.path)).tobytes()).hexdigest() for c in clips]
    assert outputs == [expected, expected]
    assert list(decode_utterances(clips, cache).digests) == expected


def test_int16_is_clipped_never_wrapped():
    loud = to_int16(np.array([1.0, -1.0, 1.5, -2.0, 0.0], np.float32))
    assert loud.tolist() == [32_767, -32_768, 32_767, -32_768, 0]
    assert to_float(loud).tolist() == [32_767 / 32_768, -1, 32_767 / 32_768, -1, 0]


def test_sixteen_bit_samples_come_back_as_they_are():
    codes = np.arange(-32_768, 32_768, dtype=np.int16)
    assert np.array_equal(to_int16(to_float(codes)), codes)


@pytest.mark.corpus
def test_known_duplicates_of_ravdess_are_found_by_their_digests(corpora_root, cache):
    actor_7 = [row for row in load(corpora_root, ["ravdess"]) if row.speaker_id == "ravdess/07"]
    digests = decode_utterances(actor_7, cache).digests
    same = {row.path.stem for row, digest in zip(actor_7, digests, strict=True) if digests.count(digest) > 1}
    assert same == {"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}


# ---- batches ----

LENGTHS = st.lists(st.integers(1, 100_000), max_size=120)


@given(LENGTHS, st.integers(1, 16), st.integers(1, 12), st.one_of(st.none(), st.integers(0, 1_000)))
def test_batches_hold_each_clip_once(lengths, batch_size, n_buckets, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = list(bucket_batches(np.array(lengths, np.int64), batch_size, rng=rng, n_buckets=n_buckets))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    assert len(batches) <= -(-len(lengths) // batch_size) + 1


@given(LENGTHS, st.integers(1, 16), st.integers(0, 1_000))
def test_one_generator_gives_one_order(lengths, batch_size, seed):
    first, again = (
        [batch.tolist() for batch in bucket_batches(np.array(lengths), batch_size, rng=np.random.default_rng(s))]
        for s in (seed, seed)
    )
    assert first == again


def test_another_generator_gives_other_batches():
    lengths = np.random.default_rng(0).integers(1_000, 60_000, 300)
    first, other = (
        [batch.tolist() for batch in bucket_batches(lengths, 8, rng=np.random.default_rng(s))] for s in (0, 1)
    )
    assert first != other


def test_batches_are_evenly_long_and_still_mixed():
    lengths = np.random.default_rng(0).integers(16_000, 80_000, 1_000)

    def padded(batches):
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()

    shuffled = np.random.default_rng(1).permutation(1_000).reshape(-1, 20)
    batches = list(bucket_batches(lengths, 20, rng=np.random.default_rng(2)))
    assert padded(shuffled) > 1.5
    assert padded(batches) < 1.15
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5  # long and short batches alternate
    assert padded(bucket_batches(lengths, 20)) < 1.03


def test_without_generator_clips_come_sorted_by_length():
    lengths = np.array([5, 1, 4, 2, 4])
    assert np.concatenate(list(bucket_batches(lengths, 2))).tolist() == [1, 3, 2, 4, 0]


def test_padding():
    batch, lengths = pad_batch([np.ones(3, np.float32), np.full(5, 2, np.float32)])
    assert batch.tolist() == [[1, 1, 1, 0, 0], [2, 2, 2, 2, 2]]
    assert (batch.dtype, lengths.dtype, lengths.tolist()) == (np.float32, np.int64, [3, 5])
