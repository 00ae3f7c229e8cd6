"""Long recordings: who sounded how, when, in memory that does not grow with the recording.

The method, step by step; the constants below are its only settings:

1. The sound is decoded block by block, and speech is found in it (``undertone.speech``): regions between pauses, each
   found by its own sound. No answer crosses a pause, so that the same words get the same answer wherever they stand.
2. The model learnt from clips that begin and end quietly, and what lies around a region depends on its neighbours: it
   is heard with the little room that it comes with, the outer ``BOUNCE_S`` of which go on, to and fro, for ``FILL_S``.
3. A region up to ``MAX_WHOLE`` times the model's recommended duration is heard whole. A longer one is heard in
   overlapping windows of that duration, evenly spaced from its start to its end; each tenth of a second has the mean of
   the calibrated probabilities of its windows, weighted towards their middles.
4. A hidden Markov model smooths a longer region: an emotion goes on for another second with probability
   ``STAY_PROB``, each second of sound counts as one observation, and the most probable path (Viterbi) is cut into
   segments.
5. What was there before, sample for sample, gets the answer it got then, whatever lies around it now: a region is not
   heard again, and of a passage (``undertone.repeats``) that its neighbours made part of other regions, the answer of
   its first time is taken.
6. A segment's probabilities are their means over its time, its confidence is that of its emotion; below
   ``MIN_CONFIDENCE`` it is not sure, and its emotion None. Only then do neighbours of the same emotion become one,
   across pauses up to ``MAX_MERGE_PAUSE_S``.
"""

import bisect
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from undertone.audio import MAX_RECORDING_S, SAMPLE_RATE, Source, stream_blocks, stream_channels
from undertone.recognizer import Recognizer, load_model
from undertone.repeats import Passage, RepeatFinder
from undertone.speech import VAD, Region, SpeechFinder, load_detector

__all__ = ["ChannelTotals", "Segment", "Timeline", "TurningPoint", "timeline", "timeline_of_blocks"]

MAX_WHOLE = 1.5  # recommended durations that are heard at once
OVERLAP = 4  # windows that hear each moment of a longer region
FILL_S = 0.4  # of room in front and behind, made of
BOUNCE_S = 0.1  # of the region's own, to and fro

BIN_S = 0.1  # resolution inside a region
STAY_PROB = 0.7  # that an emotion goes on for another second
MIN_PROB = 1e-4  # no window rules an emotion out

MIN_CONFIDENCE = 0.4  # less is "not sure"
MAX_MERGE_PAUSE_S = 0.5
EDGE_S = 0.6  # at the ends of a passage the neighbours change what is found: so much of a piece there goes with it

JOB_S = 120.0  # of sound heard as one piece of work
MAX_PEAKS = 4_000  # columns of the waveform that is kept, per channel


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one emotion.

    Attributes
    ----------
    start_s, end_s
        Seconds from the start of the recording.
    emotion
        None where the model is not sure.
    confidence
        Mean probability of the emotion, in [0, 1]; the largest one where it is not sure.
    probs
        Mean probability of each label.
    channel
        Counted from 0; None where the channels were mixed.
    """

    start_s: float
    end_s: float
    emotion: str | None
    confidence: float
    probs: dict[str, float]
    channel: int | None = None

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """Where one emotion follows another; stretches that are not sure are passed over."""

    time_s: float
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """What adds up over one channel.

    Attributes
    ----------
    channel
        None where the channels were mixed.
    speech_s
        Duration of all segments.
    shares
        Of ``speech_s`` for each emotion heard, the largest first.
    not_sure
        Of ``speech_s`` without an emotion; with ``shares`` it adds up to 1.
    turning_points
        In order.
    longest_anger
        The longest segment of anger, or None.
    """

    channel: int | None
    speech_s: float
    shares: dict[str, float]
    not_sure: float
    turning_points: tuple[TurningPoint, ...]
    longest_anger: Segment | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The segments of a recording.

    Attributes
    ----------
    path
        None where the sound came as bytes, an array or an open file.
    duration_s
        Of the recording.
    labels
        Emotions the model tells apart.
    segments
        Sorted by start; those of one channel do not overlap, and between them nobody speaks.
    n_channels
        Kept apart; 1 where they were mixed.
    model
        Name of the model.
    peaks
        (n_channels, n_columns) float32 in [0, 1]: the waveform's outline, for pictures.
    """

    path: str | None
    duration_s: float
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]
    n_channels: int = 1
    model: str = ""
    peaks: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), np.float32), repr=False, compare=False)

    def channel(self, channel: int | None) -> tuple[Segment, ...]:
        """Segments of one channel, in order."""
        return tuple(segment for segment in self.segments if segment.channel == channel)

    def channels(self) -> tuple[int | None, ...]:
        """Return what ``Segment.channel`` can be: numbers from 0, or None alone where channels were mixed."""
        is_mixed = self.n_channels == 1 and all(segment.channel is None for segment in self.segments)
        return (None,) if is_mixed else tuple(range(self.n_channels))

    def totals(self) -> tuple[ChannelTotals, ...]:
        """Totals of each channel.

        Examples
        --------
        >>> calm = Segment(0.0, 3.0, "neutral", 0.9, {})
        >>> loud = Segment(4.0, 5.0, "anger", 0.8, {})
        >>> (totals,) = Timeline("call.wav", 6.0, ("anger", "neutral"), (calm, loud)).totals()
        >>> totals.shares, totals.turning_points
        ({'neutral': 0.75, 'anger': 0.25}, (TurningPoint(time_s=4.0, before='neutral', after='anger'),))
        """
        return tuple(_total(channel, self.channel(channel)) for channel in self.channels())


def timeline(
    recognizer: Recognizer | None,
    source: Source,
    *,
    sample_rate: int | None = None,
    channels: Literal["mix", "split"] = "mix",
    vad: VAD = "auto",
    min_confidence: float = MIN_CONFIDENCE,
    max_duration_s: float = MAX_RECORDING_S,
    on_progress: Callable[[float], object] | None = None,
) -> Timeline:
    """Tell the emotions of a recording of any length, stretch by stretch.

    Parameters
    ----------
    recognizer
        What :func:`undertone.load_model` returns; None loads the model that comes with undertone.
    source
        Path of a sound file, its bytes, an open binary file, or an array: (n_samples,) or (n_samples, n_channels).
    sample_rate
        Hz; needed for arrays, and for arrays only.
    channels
        ``"mix"`` hears all channels together; ``"split"`` each on its own, for recordings with a speaker on each.
    vad
        How speech is found: ``"silero"`` (extra ``vad``), ``"energy"``, or ``"auto"``, the first that is there.
    min_confidence
        Segments with less are not sure: their emotion is None.
    max_duration_s
        Longer recordings are refused.
    on_progress
        Called now and then with the seconds of the recording that have been read.

    Raises
    ------
    AudioError
        If the sound cannot be used; the message says why and what to do.
    ModelFileError
        If the network fails on this sound.

    Examples
    --------
    >>> import undertone
    >>> model = undertone.load_model()  # doctest: +SKIP
    >>> for segment in undertone.timeline(model, "call.wav", channels="split").segments:  # doctest: +SKIP
    ...     print(segment.channel, segment.start_s, segment.end_s, segment.emotion)
    """
    if channels not in ("mix", "split"):
        raise ValueError(f"channels is {channels!r}; it can be mix or split")
    read = stream_blocks if channels == "mix" else stream_channels
    return timeline_of_blocks(
        recognizer or load_model(),
        read(source, sample_rate=sample_rate, max_duration_s=max_duration_s),
        path=os.fsdecode(source) if isinstance(source, str | os.PathLike) else None,
        vad=vad,
        min_confidence=min_confidence,
        on_progress=on_progress,
    )


def timeline_of_blocks(
    recognizer: Recognizer,
    blocks: Iterable[np.ndarray],
    *,
    path: str | None = None,
    vad: VAD = "auto",
    min_confidence: float = MIN_CONFIDENCE,
    on_progress: Callable[[float], object] | None = None,
) -> Timeline:
    """Tell the emotions of sound that comes in blocks, whose sizes change nothing.

    What is not described here is as :func:`timeline` takes it.

    Parameters
    ----------
    blocks
        (n,) of mixed sound, or (n, n_channels) of channels to be kept apart: float32 in [-1, 1] at 16 kHz.
    """
    finders: list[SpeechFinder] = []
    repeats: list[RepeatFinder] = []
    is_mixed = True
    with ThreadPoolExecutor(1, "undertone-speech") as detecting, _Listener(recognizer, min_confidence) as listener:
        for block in blocks:
            is_mixed = block.ndim == 1
            columns = block[:, np.newaxis] if is_mixed else block
            finders = finders or [SpeechFinder(load_detector(vad), detecting) for _ in range(columns.shape[1])]
            repeats = repeats or [RepeatFinder() for _ in finders]
            for channel, finder in enumerate(finders):
                sound = np.ascontiguousarray(columns[:, channel])
                repeats[channel].feed(sound)
                for region in finder.feed(sound):
                    listener.hear(region, None if is_mixed else channel)
            if on_progress:
                on_progress(finders[0].n_samples / SAMPLE_RATE)
        for channel, finder in enumerate(finders):
            for region in finder.finish():
                listener.hear(region, None if is_mixed else channel)
        pieces = listener.finish()
    segments: list[Segment] = []
    for index, repeat in enumerate(repeats):
        channel = None if is_mixed else index
        own = (piece for piece in pieces if piece.channel == channel)
        segments += _merge(_repeat(own, repeat.finish()), recognizer.labels)
    return Timeline(
        path=path,
        duration_s=finders[0].n_samples / SAMPLE_RATE if finders else 0.0,
        labels=recognizer.labels,
        segments=tuple(sorted(segments, key=lambda segment: (segment.start_s, segment.channel or 0))),
        n_channels=max(1, len(finders)),
        model=recognizer.card.name,
        peaks=_outline(finders),
    )


# ---- from regions to pieces ----


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of one emotion inside a region."""

    start_s: float
    end_s: float
    top: int | None  # index of the emotion; None: not sure
    probs: np.ndarray  # (n_classes,) means
    speech_s: float  # weight of the means: without the pauses that were merged in
    channel: int | None = None


class _Listener:
    """Hears regions in the background, a job of about JOB_S at a time, and keeps what it heard in order.

    What shares a job is decided by the regions alone; which thread takes it changes nothing.
    """

    def __init__(self, recognizer: Recognizer, min_confidence: float) -> None:
        self.recognizer = recognizer
        self.min_confidence = min_confidence
        self._job: list[tuple[Region, int | None]] = []
        self._job_samples = 0
        self._running: deque[Future[list[_Piece]]] = deque()
        self._pieces: list[_Piece] = []
        self._heard: dict[bytes, tuple[_Piece, ...]] = {}  # by what a region sounds like; grows as _pieces does
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="undertone-timeline")  # the recognizer has more

    def __enter__(self) -> "_Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def hear(self, region: Region, channel: int | None) -> None:
        """Take a region; waits where the network cannot keep up, so that memory stays bounded."""
        self._job.append((region, channel))
        self._job_samples += len(region.waveform)
        if self._job_samples >= JOB_S * SAMPLE_RATE:
            self._start()

    def finish(self) -> list[_Piece]:
        """Return all pieces, in the order of the regions."""
        if self._job:
            self._start()
        while self._running:
            self._pieces += self._running.popleft().result()
        return self._pieces

    def _start(self) -> None:
        self._running.append(self._pool.submit(self._answer, self._job))
        self._job, self._job_samples = [], 0
        while len(self._running) > 2:
            self._pieces += self._running.popleft().result()

    def _answer(self, job: Sequence[tuple[Region, int | None]]) -> list[_Piece]:
        """Hear what has not been heard yet, in batches of similar length; one job after the other."""
        sounds = [_fingerprint(region) for region, _ in job]
        new: dict[bytes, Region] = {}
        for sound, (region, _) in zip(sounds, job, strict=True):
            if sound not in self._heard:
                new.setdefault(sound, region)
        plans = [_plan_windows(region, self.recognizer.card.recommended_duration_s) for region in new.values()]
        windows = [window for plan in plans for window in plan.windows]
        predictions = self.recognizer.predict_batch(windows, sample_rate=SAMPLE_RATE, on_error="raise")
        probs = iter([np.fromiter(prediction.probs.values(), np.float64) for prediction in predictions])
        for (sound, region), plan in zip(new.items(), plans, strict=True):
            own = np.stack([next(probs) for _ in plan.windows])  # (n_windows, n_classes)
            duration_s = (region.end - region.start) / SAMPLE_RATE
            self._heard[sound] = tuple(_cut_region(duration_s, plan.spread(own), self.min_confidence))
        return [
            piece
            for sound, (region, channel) in zip(sounds, job, strict=True)
            for piece in _place(self._heard[sound], region, channel)
        ]


def _place(pieces: Sequence[_Piece], region: Region, channel: int | None) -> Iterator[_Piece]:
    """Yield pieces that are in seconds from a region's start where this region is."""
    start_s, end_s = region.start / SAMPLE_RATE, region.end / SAMPLE_RATE
    edges_s = [*(start_s + piece.start_s for piece in pieces), end_s]
    for piece, (first_s, last_s) in zip(pieces, pairwise(edges_s), strict=True):
        yield replace(piece, start_s=first_s, end_s=last_s, channel=channel)


def _fingerprint(region: Region) -> bytes:
    """Return 16 bytes that stand for the region's sound, without the room around it."""
    speech = region.waveform[region.before : len(region.waveform) - region.after]
    return hashlib.blake2b(speech.tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class _Plan:
    """The windows of a region: their sound and when they start, in seconds from the region's start."""

    windows: list[np.ndarray]
    starts_s: np.ndarray  # (n_windows,)
    window_s: float
    duration_s: float  # of the region

    def spread(self, probs: np.ndarray) -> np.ndarray:
        """Turn probabilities of windows, (n_windows, n_classes), into those of bins, (n_bins, n_classes)."""
        if len(probs) == 1:
            return probs
        centres_s = (np.arange(max(1, round(self.duration_s / BIN_S))) + 0.5) * BIN_S
        from_middle = np.abs(centres_s[:, np.newaxis] - self.starts_s - self.window_s / 2)  # (n_bins, n_windows)
        weights = np.where(from_middle <= self.window_s / 2, self.window_s / 2 - from_middle + BIN_S, 0.0)
        return weights @ probs / weights.sum(axis=1, keepdims=True)


def _plan_windows(region: Region, window_s: float) -> _Plan:
    duration_s = (region.end - region.start) / SAMPLE_RATE
    sound, n_before = _with_quiet_ends(region)
    n_window = round(window_s * SAMPLE_RATE)
    if duration_s <= MAX_WHOLE * window_s or len(sound) <= n_window:
        return _Plan([sound], np.zeros(1), duration_s, duration_s)
    last = len(sound) - n_window
    n_windows = -int(-last * OVERLAP // n_window) + 1
    starts = [round(index * last / (n_windows - 1)) for index in range(n_windows)]
    starts_s = (np.array(starts) - n_before) / SAMPLE_RATE
    return _Plan([sound[start : start + n_window] for start in starts], starts_s, window_s, duration_s)


def _with_quiet_ends(region: Region) -> tuple[np.ndarray, int]:
    """Return the region with more of its room on both sides, and the samples in front of its start."""
    sound, n_bounce = region.waveform, round(BOUNCE_S * SAMPLE_RATE)
    n_front = 0 if region.is_cut_before else round(FILL_S * SAMPLE_RATE)
    n_back = 0 if region.is_cut_after else round(FILL_S * SAMPLE_RATE)
    front = np.pad(sound[:n_bounce], (n_front, 0), mode="symmetric")[:n_front]
    back = np.pad(sound[-n_bounce:], (0, n_back), mode="symmetric")[min(n_bounce, len(sound)) :]
    return np.concatenate([front, sound, back]), n_front + region.before


def _cut_region(duration_s: float, probs: np.ndarray, min_confidence: float) -> Iterator[_Piece]:
    """Yield a piece for each stretch of one emotion, from the region's start on; probs is (n_bins, n_classes)."""
    path = _smooth(probs)
    changes = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    edges_s = [BIN_S * change for change in changes[:-1]] + [duration_s]
    for index, (first, last) in enumerate(pairwise(changes)):
        mean = probs[first:last].mean(axis=0)
        top = int(path[first]) if mean[path[first]] >= min_confidence else None
        seconds = edges_s[index + 1] - edges_s[index]
        yield _Piece(edges_s[index], edges_s[index + 1], top, mean, seconds)


def _smooth(probs: np.ndarray) -> np.ndarray:
    """Most probable path, (n_bins,) class indices, of a hidden Markov model over probs, (n_bins, n_classes)."""
    n_bins, n_classes = probs.shape
    if n_bins == 1 or n_classes == 1:
        return probs.argmax(axis=1)
    evidence = BIN_S * np.log(np.maximum(probs, MIN_PROB))
    stay_prob = STAY_PROB**BIN_S
    stay, change = np.log(stay_prob), np.log((1 - stay_prob) / (n_classes - 1))
    best = evidence[0]
    came_from = np.empty((n_bins, n_classes), np.int64)
    for index in range(1, n_bins):
        leader = int(best.argmax())
        changed, stayed = best[leader] + change, best + stay
        came_from[index] = np.where(stayed >= changed, np.arange(n_classes), leader)
        best = np.maximum(stayed, changed) + evidence[index]
    path = np.empty(n_bins, np.int64)
    path[-1] = best.argmax()
    for index in range(n_bins - 1, 0, -1):
        path[index - 1] = came_from[index, path[index]]
    return path


# ---- from pieces to segments ----


def _repeat(pieces: Iterable[_Piece], passages: Iterable[Passage]) -> list[_Piece]:
    """Return the pieces of one channel, those of passages that come again being what they were the first time."""
    done: list[_Piece] = []
    rest = deque(pieces)
    passages = list(passages)
    limits_s = [*(passage.start_s for passage in passages[1:]), float("inf")]  # where the next passage begins
    for passage, limit_s in zip(passages, limits_s, strict=False):  # no passage, no limit
        start_s, end_s = passage.start_s, passage.end_s
        while rest and rest[0].start_s < start_s:
            piece = rest.popleft()
            if piece.end_s > start_s:
                rest.appendleft(_part(piece, start_s, piece.end_s))
                if start_s - piece.start_s <= EDGE_S:
                    start_s = piece.start_s
                    break
                piece = _part(piece, piece.start_s, start_s)
            done.append(piece)
        while rest and rest[0].end_s <= end_s:
            rest.popleft()
        if rest and rest[0].start_s < end_s:
            piece = rest.popleft()
            edge_s = min(piece.end_s, limit_s)
            if edge_s - end_s <= EDGE_S:
                end_s = edge_s
            if end_s < piece.end_s:
                rest.appendleft(_part(piece, end_s, piece.end_s))
        done += _earlier(done, passage, start_s, end_s)
    return [*done, *rest]


def _earlier(done: Sequence[_Piece], passage: Passage, start_s: float, end_s: float) -> list[_Piece]:
    """Return the pieces of a passage's first time, moved to now; the outer ones reach to ``start_s`` and ``end_s``."""
    first_s, last_s = passage.start_s - passage.earlier_s, passage.end_s - passage.earlier_s
    index = bisect.bisect_right(done, first_s, key=lambda piece: piece.end_s)
    found: list[_Piece] = []
    while index < len(done) and done[index].start_s < last_s:
        piece, index = done[index], index + 1
        from_s = start_s if piece.start_s <= first_s else piece.start_s + passage.earlier_s
        to_s = end_s if piece.end_s >= last_s else piece.end_s + passage.earlier_s
        found.append(_part(piece, from_s, to_s))
    return found


def _part(piece: _Piece, start_s: float, end_s: float) -> _Piece:
    """Return the piece from start_s to end_s, its weight in proportion."""
    share = (end_s - start_s) / (piece.end_s - piece.start_s)
    return replace(piece, start_s=start_s, end_s=end_s, speech_s=piece.speech_s * share)


def _merge(pieces: Iterable[_Piece], labels: Sequence[str]) -> Iterator[Segment]:
    """Yield the segments of one channel, with neighbours of the same emotion made one."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and (piece.top != group[-1].top or piece.start_s - group[-1].end_s > MAX_MERGE_PAUSE_S):
            yield _segment(group, labels)
            group = []
        group.append(piece)
    if group:
        yield _segment(group, labels)


def _segment(group: Sequence[_Piece], labels: Sequence[str]) -> Segment:
    mean = np.average([piece.probs for piece in group], axis=0, weights=[piece.speech_s for piece in group])
    top = group[0].top
    return Segment(
        start_s=group[0].start_s,
        end_s=group[-1].end_s,
        emotion=None if top is None else labels[top],
        confidence=float(mean.max() if top is None else mean[top]),
        probs=dict(zip(labels, mean.tolist(), strict=True)),
        channel=group[0].channel,
    )


def _total(channel: int | None, segments: Sequence[Segment]) -> ChannelTotals:
    speech_s = sum(segment.duration_s for segment in segments)
    seconds: dict[str | None, float] = {}
    for segment in segments:
        seconds[segment.emotion] = seconds.get(segment.emotion, 0.0) + segment.duration_s
    shares = {emotion: part / speech_s for emotion, part in seconds.items() if emotion is not None}
    sure = [segment for segment in segments if segment.emotion is not None]
    turns = [
        TurningPoint(after.start_s, str(before.emotion), str(after.emotion))
        for before, after in pairwise(sure)
        if before.emotion != after.emotion
    ]
    anger = [segment for segment in segments if segment.emotion == "anger"]
    return ChannelTotals(
        channel=channel,
        speech_s=speech_s,
        shares=dict(sorted(shares.items(), key=lambda item: -item[1])),
        not_sure=seconds.get(None, 0.0) / speech_s if speech_s else 0.0,
        turning_points=tuple(turns),
        longest_anger=max(anger, key=lambda segment: segment.duration_s, default=None),
    )


def _outline(finders: Sequence[SpeechFinder]) -> np.ndarray:
    """Largest amplitudes, (n_channels, n_columns), with at most MAX_PEAKS columns."""
    rows = [np.concatenate(finder.peaks) for finder in finders if finder.peaks]
    if not rows:
        return np.zeros((max(1, len(finders)), 0), np.float32)
    n_frames = len(rows[0])
    step = -(-n_frames // MAX_PEAKS)
    padded = np.zeros((len(rows), -(-n_frames // step) * step), np.float32)
    padded[:, :n_frames] = rows
    return padded.reshape(len(rows), -1, step).max(axis=2)
