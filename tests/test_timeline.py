"""Timelines: every segment worked out again from regions and windows, the same for any blocks, totals by hand."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest

import undertone
from undertone import timelines
from undertone.audio import SAMPLE_RATE, AudioError
from undertone.model_file import ModelFileError, write_card
from undertone.recognizer import softmax
from undertone.repeats import Passage
from undertone.speech import EnergyDetector, Region, SpeechFinder
from undertone.timelines import Segment, Timeline, TurningPoint, timeline, timeline_of_blocks

SECOND = SAMPLE_RATE


@pytest.fixture
def recording(make_speech):
    """Function (seed, *durations_s) -> voiced sounds between pauses of 0.8 s, with a little noise."""

    def make(seed, *durations_s):
        parts = [np.zeros(SECOND, np.float32)]
        for index, duration_s in enumerate(durations_s):
            parts += [make_speech(100 * seed + index, duration_s), np.zeros(round(0.8 * SECOND), np.float32)]
        waveform = np.concatenate(parts)
        noise = np.random.default_rng(seed).normal(0, 1e-4, len(waveform))
        return (waveform + noise).astype(np.float32)

    return make


def hear(recognizer, waveform, **options):
    return timeline(recognizer, waveform, sample_rate=SAMPLE_RATE, vad="energy", **options)


# ---- answers ----


def test_a_short_region_has_the_answer_of_the_whole_region(recognizer, recording):
    waveform = recording(1, 1.5)
    finder = SpeechFinder(EnergyDetector())
    (region,) = finder.feed(waveform) + finder.finish()
    front, back = region.waveform[:1_600], region.waveform[-1_600:]  # 0.1 s of room, to and fro for 0.4 s
    to_and_fro = [front, front[::-1], front, front[::-1]], [back[::-1], back, back[::-1], back]
    heard = np.concatenate([*to_and_fro[0], region.waveform, *to_and_fro[1]])
    expected = recognizer.predict(heard, sample_rate=SAMPLE_RATE)
    (segment,) = hear(recognizer, waveform, min_confidence=0).segments
    assert segment.emotion == expected.emotion
    assert segment.probs == pytest.approx(expected.probs, abs=1e-6)
    assert (segment.start_s, segment.end_s) == (region.start / SECOND, region.end / SECOND)
    assert segment.start_s == pytest.approx(1.0, abs=0.05)
    assert segment.end_s == pytest.approx(2.5, abs=0.05)


def test_windows_of_a_long_region_cover_it_evenly():
    waveform = np.arange(10 * SECOND, dtype=np.float32)
    region = Region(0, len(waveform), waveform, 0, 0, is_cut_before=True, is_cut_after=True)
    plan = timelines._plan_windows(region, 2.0)
    starts = [int(window[0]) for window in plan.windows]
    assert {len(window) for window in plan.windows} == {2 * SECOND}
    assert (starts[0], starts[-1]) == (0, 8 * SECOND)
    steps = np.diff(starts)
    assert steps.max() - steps.min() <= 1
    assert steps.max() <= 2 * SECOND / timelines.OVERLAP
    assert plan.starts_s == pytest.approx(np.array(starts) / SECOND)


def test_bins_are_means_of_their_windows_weighted_to_the_middle():
    plan = timelines._Plan([np.zeros(1)] * 2, np.array([0.0, 1.0]), window_s=2.0, duration_s=3.0)
    spread = plan.spread(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert spread.shape == (30, 2)
    assert spread.sum(axis=1) == pytest.approx(1)
    assert spread[:10, 0] == pytest.approx(1)  # the first window alone
    assert spread[20:, 1] == pytest.approx(1)
    near, far = (
        1 - 0.05 + 0.1,
        0.05 + 0.1,
    )  # weights at 1.05 s: 0.05 s from the middle of the first, 0.95 s of the second
    assert spread[10, 0] == pytest.approx(near / (near + far))
    assert (np.diff(spread[10:20, 0]) < 0).all()


def brute_force(probs):
    """The most probable path, by trying all of them."""
    n_bins, n_classes = probs.shape
    stay_prob = timelines.STAY_PROB**timelines.BIN_S
    best, best_path = -math.inf, None
    for number in range(n_classes**n_bins):
        path = [number // n_classes**index % n_classes for index in range(n_bins)]
        score = sum(timelines.BIN_S * math.log(probs[index, state]) for index, state in enumerate(path))
        for before, after in pairwise(path):
            score += math.log(stay_prob if before == after else (1 - stay_prob) / (n_classes - 1))
        if score > best:
            best, best_path = score, path
    return best, best_path


@pytest.mark.parametrize("seed", range(5))
def test_smoothing_finds_the_most_probable_path(seed, monkeypatch):
    monkeypatch.setattr(timelines, "STAY_PROB", 1e-3)  # so that seven bins are enough to change in
    probs = softmax(8 * np.random.default_rng(seed).standard_normal((7, 3)))
    probs = np.maximum(probs, timelines.MIN_PROB)
    assert timelines._smooth(probs).tolist() == brute_force(probs)[1]


def test_a_moment_of_something_else_is_smoothed_away_and_seconds_are_not():
    probs = np.tile([0.8, 0.2], (60, 1))
    probs[30:33] = [0.2, 0.8]
    assert set(timelines._smooth(probs)) == {0}
    probs[30:] = [0.1, 0.9]
    path = timelines._smooth(probs)
    assert path.tolist() == [0] * 30 + [1] * 30


class Everything:
    """A detector to which all is speech."""

    def probs(self, sounds):
        return [np.ones(len(frames), np.float32) for frames in sounds]


def test_one_emotion_after_the_other_without_a_pause(recognizer, make_tone, monkeypatch):
    """The tiny model's emotions follow loudness: a region with two halves is two segments."""
    monkeypatch.setattr(timelines, "load_detector", lambda vad: Everything())
    halves = [make_tone(400, 10.0, amplitude=0.25), make_tone(3_000, 10.0, amplitude=1.0)]
    emotions = [recognizer.predict(half, sample_rate=SAMPLE_RATE).emotion for half in halves]
    assert len(set(emotions)) == 2
    segments = hear(recognizer, np.concatenate(halves), min_confidence=0).segments
    assert [segment.emotion for segment in segments] == emotions
    assert segments[0].end_s == segments[1].start_s == pytest.approx(10.0, abs=1.2)  # windows of 2 s hear both


def test_less_than_the_threshold_is_not_sure(recognizer, recording):
    waveform = recording(2, 1.0, 2.0, 1.5)
    sure = hear(recognizer, waveform, min_confidence=0).segments
    limit = sorted(segment.confidence for segment in sure)[len(sure) // 2]
    for segment in hear(recognizer, waveform, min_confidence=limit).segments:
        assert (segment.emotion is None) == (segment.confidence < limit)
        assert segment.confidence == pytest.approx(max(segment.probs.values()))


def piece(start_s, end_s, top, probs, channel=None):
    return timelines._Piece(start_s, end_s, top, np.array(probs), end_s - start_s, channel)


def test_neighbours_become_one_across_short_pauses():
    pieces = [
        piece(0.0, 1.0, 0, [0.9, 0.1]),
        piece(1.3, 1.8, 0, [0.6, 0.4]),  # a short pause
        piece(2.8, 3.8, 0, [0.9, 0.1]),  # a long one
        piece(3.8, 4.8, 1, [0.1, 0.9]),
        piece(4.9, 5.0, None, [0.5, 0.5]),
    ]
    segments = list(timelines._merge(pieces, ("anger", "neutral")))
    assert [(segment.start_s, segment.end_s, segment.emotion) for segment in segments] == [
        (0.0, 1.8, "anger"),
        (2.8, 3.8, "anger"),
        (3.8, 4.8, "neutral"),
        (4.9, 5.0, None),
    ]
    assert segments[0].probs == pytest.approx({"anger": 0.8, "neutral": 0.2})
    assert segments[0].confidence == pytest.approx(0.8)


# ---- invariance ----


@pytest.mark.parametrize("sizes", [(1_000_000,), (4_096,), (1, 100_000, 333), (163_840,), (16_001,)])
def test_blocks_change_nothing(recognizer, recording, sizes):
    waveform = recording(3, 1.0, 2.5, 9.0, 0.7, 1.2)
    edges = np.cumsum([0, *np.resize(sizes, 10_000)])
    blocks = [waveform[start:end] for start, end in pairwise(edges) if start < len(waveform)]
    expected = hear(recognizer, waveform)
    found = timeline_of_blocks(recognizer, blocks, vad="energy")
    assert len(expected.segments) > 2
    assert found == expected
    assert np.array_equal(found.peaks, expected.peaks)


def test_threads_change_nothing(model_path, recording, monkeypatch):
    monkeypatch.setattr(timelines, "JOB_S", 4.0)  # several jobs
    waveform = recording(4, *[1.0, 2.0, 5.0, 0.8] * 4)
    one, two = (hear(undertone.load_model(model_path, threads=n), waveform) for n in (1, 2))
    assert [segment.emotion for segment in one.segments] == [segment.emotion for segment in two.segments]
    for a, b in zip(one.segments, two.segments, strict=True):
        assert (a.start_s, a.end_s) == (b.start_s, b.end_s)
        assert a.probs == pytest.approx(b.probs, abs=1e-6)


def test_a_clip_that_comes_again_gets_the_same_answer(recognizer, make_speech):
    clip = np.concatenate([np.zeros(16_000), make_speech(7, 1.7), np.zeros(16_000)]).astype(np.float32)
    others = [make_speech(seed, 1.0 + 0.37 * seed) for seed in range(4)]
    parts = []
    starts = []
    for other in others:
        starts.append(sum(map(len, parts)) / SECOND)
        parts += [clip, np.zeros(3_000, np.float32), other, np.zeros(3_000, np.float32)]
    found = hear(recognizer, np.concatenate(parts), min_confidence=0)
    answers = [
        next(segment for segment in found.segments if start + 0.9 <= segment.start_s < start + 1.4) for start in starts
    ]
    assert len({answer.emotion for answer in answers}) == 1
    assert [answer.probs for answer in answers] == [pytest.approx(answers[0].probs, abs=1e-6)] * 4


@pytest.mark.parametrize("job_s", [1.0, timelines.JOB_S])
def test_a_region_that_comes_again_is_heard_once(recognizer, make_speech, monkeypatch, job_s):
    """Short or long, in the same job or a later one, in a room that is another one each time, on either channel."""
    monkeypatch.setattr(timelines, "JOB_S", job_s)
    heard = []
    predict = recognizer.predict_batch
    monkeypatch.setattr(
        recognizer, "predict_batch", lambda windows, **kw: heard.extend(windows) or predict(windows, **kw)
    )
    rng = np.random.default_rng(0)
    own = np.zeros(SECOND // 10)
    clips = [np.concatenate([own, make_speech(seed, duration_s), own]) for seed, duration_s in ((5, 1.3), (6, 9.0))]
    assert max(map(len, clips)) > timelines.MAX_WHOLE * recognizer.card.recommended_duration_s * SECOND
    parts = []
    for repeat in range(3):
        for clip in clips:
            room = rng.normal(0, 10.0 ** (-5 + repeat / 2), (2, SECOND))
            parts += [room[0], clip, room[1]]
    parts = [part.astype(np.float32) for part in parts]
    waveform = np.concatenate(parts)
    once = hear(recognizer, np.concatenate(parts[:6]), min_confidence=0)
    n_once = len(heard)
    heard.clear()
    found = hear(recognizer, np.stack([waveform, waveform], axis=1), channels="split", min_confidence=0)
    assert len(heard) == n_once
    answers = [(segment.emotion, segment.confidence) for segment in once.segments]
    for channel in (0, 1):
        assert [(segment.emotion, segment.confidence) for segment in found.channel(channel)] == answers * 3


def test_a_passage_has_the_answers_of_its_first_time():
    pieces = [
        piece(0.0, 2.0, 0, [0.9, 0.1]),
        piece(2.0, 3.0, 1, [0.1, 0.9]),
        piece(3.5, 5.0, 0, [0.7, 0.3]),
        piece(10.2, 16.0, 1, [0.2, 0.8]),  # from here on with neighbours
        piece(20.0, 23.0, None, [0.5, 0.5]),
    ]
    passages = [Passage(11.0, 13.0, 10.0), Passage(20.1, 21.9, 20.0)]
    found = [(p.start_s, p.end_s, p.top, p.speech_s) for p in timelines._repeat(pieces, passages)]
    # of 1.0 to 3.0 s, and before and behind it what is the neighbours'; of 0.1 to 1.9 s, what is left in front with it
    assert found == [
        (0.0, 2.0, 0, 2.0),
        (2.0, 3.0, 1, 1.0),
        (3.5, 5.0, 0, 1.5),
        (10.2, 11.0, 1, pytest.approx(0.8)),
        (11.0, 12.0, 0, pytest.approx(1.0)),
        (12.0, 13.0, 1, pytest.approx(1.0)),
        (13.0, 16.0, 1, pytest.approx(3.0)),
        (20.0, 21.9, 0, pytest.approx(1.9)),
        (21.9, 23.0, None, pytest.approx(1.1)),
    ]


def test_passages_that_follow_each_other_do_not_overlap():
    pieces = [piece(0.0, 2.0, 0, [0.9, 0.1]), piece(3.0, 5.0, 1, [0.1, 0.9]), piece(10.0, 14.1, None, [0.5, 0.5])]
    passages = [Passage(10.2, 11.9, 10.0), Passage(12.2, 14.0, 9.1)]  # one piece holds both, and what is between
    found = [(p.start_s, p.end_s, p.top) for p in timelines._repeat(pieces, passages)]
    assert found[2:] == [(10.0, 12.2, 0), (12.2, 14.1, 1)]


def test_a_passage_is_silent_where_its_first_time_was():
    pieces = [piece(1.0, 2.0, 0, [0.9, 0.1]), piece(10.0, 14.0, 1, [0.2, 0.8])]
    found = timelines._repeat(pieces, [Passage(10.2, 13.8, 10.0)])
    assert [(p.start_s, p.end_s, p.top) for p in found] == [(1.0, 2.0, 0), (11.0, 12.0, 0)]


def test_a_clip_that_flows_into_its_neighbours_has_the_answers_of_its_first_time(recognizer, make_speech, monkeypatch):
    rng = np.random.default_rng(0)
    clip = make_speech(7, 3.0)
    others = [rng.normal(0, level, 3 * SECOND).astype(np.float32) for level in (0.03, 0.1, 0.3, 0.6)]
    waveform = np.concatenate([part for other in others for part in (other, clip)])
    middle_s = np.linspace(0.5, 2.5, 41)

    def answers():
        found = hear(recognizer, waveform, min_confidence=0).segments
        return {
            tuple(
                next(s.emotion for s in found if s.start_s <= 3 + 6 * index + moment < s.end_s) for moment in middle_s
            )
            for index in range(len(others))
        }

    assert len(answers()) == 1
    monkeypatch.setattr(timelines.RepeatFinder, "finish", lambda _: [])
    assert len(answers()) > 1  # what it would be


@pytest.mark.parametrize("pause_s", [0.0, 0.15, 0.5])
def test_neighbours_change_no_answer(recognizer, make_speech, pause_s):
    """Nor whether it is sure: clips with 0.2 s of a room of their own, some soft and some noisy."""
    rng = np.random.default_rng(1)
    room = np.zeros(round(0.2 * SECOND))
    clips = []
    for seed in range(6):
        clip = np.concatenate([room, make_speech(seed, 1.1 + 0.137 * seed), room])
        noise = rng.normal(0, 10 ** -(2.5 + seed / 3), len(clip))
        clips.append((clip + noise).astype(np.float32))
    parts, places = [np.zeros(SECOND // 2, np.float32)], []
    for index in np.concatenate([rng.permutation(len(clips)) for _ in range(5)]):
        places.append((index, (sum(map(len, parts)) + len(clips[index]) / 2) / SECOND))
        parts += [clips[index], np.zeros(round(pause_s * SECOND), np.float32)]
    waveform = np.concatenate(parts)
    confidences = [segment.confidence for segment in hear(recognizer, waveform, min_confidence=0).segments]
    n_different = 0
    for limit in np.quantile(confidences, [0.2, 0.35, 0.5, 0.65, 0.8]):
        found = hear(recognizer, waveform, min_confidence=float(limit)).segments
        answers = {}
        for index, middle_s in places:
            (segment,) = (segment for segment in found if segment.start_s <= middle_s < segment.end_s)
            answers.setdefault(index, set()).add(segment.emotion)
        assert {len(given) for given in answers.values()} == {1}
        n_different += len(set.union(*answers.values()))
    assert n_different > 5, "all clips always have one answer, so that nothing was tested"


def test_the_file_is_its_samples(recognizer, recording, write_sound):
    waveform = recording(5, 1.5, 1.0)
    path = write_sound("call.wav", (waveform * 32_767).astype(np.int16))
    found = timeline(recognizer, path, vad="energy")
    assert found.path == str(path)
    assert found.duration_s == len(waveform) / SECOND
    assert found.labels == recognizer.labels
    from_bytes = timeline(recognizer, io.BytesIO(path.read_bytes()), vad="energy")
    assert from_bytes.path is None
    assert from_bytes.segments == found.segments


# ---- channels ----


def test_split_channels_are_heard_each_on_its_own(recognizer, recording):
    left, right = recording(6, 1.0, 2.0, 1.4), recording(7, 2.2, 0.9)
    frames = np.zeros((max(len(left), len(right)), 2), np.float32)
    frames[: len(left), 0], frames[: len(right), 1] = left, right
    found = hear(recognizer, frames, channels="split")
    assert found.n_channels == 2
    assert found.channels() == (0, 1)
    assert found.peaks.shape[0] == 2
    for channel in (0, 1):
        alone = hear(recognizer, np.ascontiguousarray(frames[:, channel]))
        assert len(alone.segments) > 0
        for a, b in zip(found.channel(channel), alone.segments, strict=True):
            assert (a.start_s, a.end_s, a.emotion, a.channel) == (b.start_s, b.end_s, b.emotion, channel)
            assert a.probs == pytest.approx(b.probs, abs=1e-6)
    assert [segment.start_s for segment in found.segments] == sorted(segment.start_s for segment in found.segments)


def test_mixed_channels_are_heard_as_their_mean(recognizer, recording):
    waveform = recording(8, 1.0, 1.5)
    frames = np.stack([waveform * 0.5, waveform * 1.5], axis=1)
    assert hear(recognizer, frames).segments == hear(recognizer, frames.mean(axis=1)).segments


def test_mono_can_be_split(recognizer, recording):
    found = hear(recognizer, recording(9, 1.0), channels="split")
    assert found.channels() == (0,)
    assert [segment.channel for segment in found.segments] == [0]


# ---- edges ----


def test_silence_has_no_segments(recognizer):
    found = hear(recognizer, np.zeros(3 * SECOND, np.float32))
    assert (found.segments, found.duration_s) == ((), 3.0)
    (totals,) = found.totals()
    assert (totals.speech_s, totals.shares, totals.not_sure, totals.longest_anger) == (0, {}, 0, None)


def test_one_sample(recognizer):
    assert hear(recognizer, np.zeros(1, np.float32)).segments == ()


def test_errors_say_what_to_do(recognizer, tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        timeline(recognizer, tmp_path / "missing.wav")
    with pytest.raises(ValueError, match="mix or split"):
        timeline(recognizer, tmp_path / "missing.wav", channels="left")  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="allowed here"):
        hear(recognizer, np.zeros(3 * SECOND, np.float32), max_duration_s=2.0)


def test_a_network_that_fails_ends_it(fragile_path, recording):
    with pytest.raises(ModelFileError, match="other clip lengths"):
        hear(undertone.load_model(fragile_path), recording(1, 1.0, 1.2))


def test_progress_grows_to_the_end(recognizer, recording):
    seen = []
    waveform = recording(2, 1.0, 1.0)
    hear(recognizer, waveform, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(waveform) / SECOND


def test_labels_are_the_models(tmp_path, tiny_bytes, make_card, recording):
    model = write_card(tiny_bytes, make_card(labels=("anger", "happiness", "neutral", "calm")), tmp_path / "m.onnx")
    found = hear(undertone.load_model(model), recording(3, 1.0))
    assert set(found.segments[0].probs) == {"anger", "happiness", "neutral", "calm"}


def test_exported_names():
    assert undertone.timeline is timeline
    assert undertone.Timeline is Timeline
    assert undertone.Segment is Segment


# ---- totals ----


def segment(start_s, end_s, emotion, channel=None):
    return Segment(start_s, end_s, emotion, 0.9, {}, channel)


def test_totals_by_hand():
    segments = (
        segment(0, 4, "neutral", 0),
        segment(1, 3, "anger", 1),
        segment(4, 5, None, 0),
        segment(6, 7, "anger", 0),
        segment(8, 8.5, "anger", 1),
        segment(9, 11, "neutral", 0),
        segment(11, 13, "anger", 0),
    )
    agent, customer = Timeline("a.wav", 20.0, ("anger", "neutral"), segments, n_channels=2).totals()
    assert (agent.channel, customer.channel) == (0, 1)
    assert agent.speech_s == 10
    assert agent.shares == pytest.approx({"neutral": 0.6, "anger": 0.3})
    assert list(agent.shares) == ["neutral", "anger"]
    assert agent.not_sure == pytest.approx(0.1)
    assert agent.turning_points == (
        TurningPoint(6, "neutral", "anger"),
        TurningPoint(9, "anger", "neutral"),
        TurningPoint(11, "neutral", "anger"),
    )
    assert agent.longest_anger == segments[-1]
    assert customer.shares == {"anger": 1.0}
    assert customer.turning_points == ()
    assert customer.longest_anger == segments[1]
