"""Live sound in, an answer every hop: feed chunks of any size, get the emotion of the last few seconds.

One definition, two ways to it. Let the waveform be the sound as :mod:`undertone.audio` makes it (mono, 16 kHz, cut to
[-1, 1]), ``hop`` and ``window`` the samples in ``hop_s`` and ``window_s``. Answer k (1, 2, ...) stands at sample
``k * hop`` and is what the recognizer says of the ``window`` samples before it; at the beginning, of all there are,
filled up with silence to the card's ``min_duration_s``. Where a part of a hop is left at the end, one more answer
stands there.
:class:`Stream` computes it from chunks, :func:`track` from the whole waveform; they share no buffering.

Silence is a sound like any other: it gets an answer, which means little. ``level_db`` tells it from speech.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from undertone.audio import (
    SAMPLE_RATE,
    AudioError,
    AudioInfo,
    Source,
    check_header,
    load_waveform,
    mono_blocks,
)
from undertone.model_file import Card
from undertone.recognizer import Prediction, Recognizer

HOP_S = 0.5
MIN_HOP_S = 0.05  # 20 answers a second are more than anyone reads
FLOOR_DB = -100.0  # what a level below it, silence included, is said to be


@dataclass(frozen=True, slots=True)
class Update:
    """What the last seconds of a sound are heard as.

    ``probs`` holds one probability per label, in label order; they sum to 1 and ``confidence`` is the largest.
    """

    start_s: float  # of the window that was heard
    end_s: float  # of the window: where the stream stands
    emotion: str
    confidence: float
    probs: dict[str, float]
    level_db: float  # root mean square of the newest hop, dB below full scale, at least FLOOR_DB


class Stream:
    """One live sound; any number of them share a recognizer.

    A stream holds its own state and belongs to one thread at a time; different streams may be fed from different
    threads. It keeps the last window and hop of sound, however long it runs.

    Parameters
    ----------
    recognizer
        From :func:`undertone.load_model`. With many streams, load it with ``threads=1``: they keep the processors
        busy, and the threads inside one run would only get in each other's way.
    sample_rate
        Hz, of the chunks; other rates than 16 kHz are resampled, and the resampler holds back the last few
        hundredths of a second (0.04 s at 44.1 and 48 kHz, 0.12 s at 8 kHz) until more comes.
    n_channels
        Of the chunks; their mean is heard.
    hop_s
        Seconds of sound between two answers, ``MIN_HOP_S`` to ``window_s``.
    window_s
        Seconds of sound that an answer is about: from the card's ``min_duration_s`` to its ``max_duration_s``;
        None is its ``recommended_duration_s``.

    Raises
    ------
    AudioError
        If sample rate or channels are out of the range of :mod:`undertone.audio`.
    ValueError
        If hop or window are out of range.

    Examples
    --------
    >>> import undertone
    >>> stream = undertone.Stream(undertone.load_model(), sample_rate=48_000)  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for update in stream.feed(chunk):
    ...         print(update.end_s, update.emotion, update.confidence)
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        sample_rate: int = SAMPLE_RATE,
        n_channels: int = 1,
        hop_s: float = HOP_S,
        window_s: float | None = None,
    ) -> None:
        for name, value in (("sample_rate", sample_rate), ("n_channels", n_channels)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise AudioError(f"{name} is {value!r}; pass a whole number")
        try:
            check_header(AudioInfo("array", int(sample_rate), int(n_channels), None))
        except AudioError as error:
            raise AudioError(f"stream: {error}") from None
        self.recognizer = recognizer
        self.sample_rate = int(sample_rate)
        self.n_channels = int(n_channels)
        self._hop, self._window = _grid(recognizer.card, hop_s, window_s)
        self._recent = _Recent(self._window)  # a hop is no longer than a window
        self._n_heard = 0  # samples at 16 kHz
        self._n_answered = 0  # of these, up to the newest answer
        self._ended = False
        self._resampler = None
        if self.sample_rate != SAMPLE_RATE:
            import soxr  # only here: 16 kHz input does without

            self._resampler = soxr.ResampleStream(self.sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    @property
    def hop_s(self) -> float:
        """Seconds between two answers."""
        return self._hop / SAMPLE_RATE

    @property
    def window_s(self) -> float:
        """Seconds that an answer is about."""
        return self._window / SAMPLE_RATE

    def feed(self, chunk: np.ndarray) -> list[Update]:
        """Take the next piece of sound and return the answers that it completes, mostly none or one.

        A chunk that is refused changes nothing: the stream can go on with the next one.

        Parameters
        ----------
        chunk
            (n,) for one channel, or (n, n_channels), n from 0. Float in [-1, 1], or int8, int16, int32 or uint8,
            scaled by their type.

        Raises
        ------
        AudioError
            If the chunk cannot be used: NaN or infinite values, unscaled integers as floats, another number of
            channels.
        AudioError, ModelFileError
            If the network gives no finite answer, or fails: a fault of the model. The stream has ended then.
        ValueError
            If the stream has ended.
        """
        if self._ended:
            raise ValueError("this stream has ended; make a new one for new sound")
        self._check_channels(chunk)
        blocks = list(mono_blocks(chunk, sample_rate=self.sample_rate))  # the whole chunk is checked before any is used
        return self._hear(self._resample(block) for block in blocks)

    def finish(self) -> list[Update]:
        """End the stream and return the rest of its answers.

        These are the hops that what the resampler held back completes, and one for a last hop that is shorter, if
        any of it is there. So the last ``end_s`` is the sound's duration. A stream that has heard nothing, or has
        ended before, gives none.
        """
        if self._ended:
            return []
        updates = self._hear([self._resample(np.empty(0, np.float32), last=True)])
        self._ended = True
        if self._n_heard > self._n_answered:
            updates.append(self._answer())
        return updates

    def _check_channels(self, chunk: np.ndarray) -> None:
        if not isinstance(chunk, np.ndarray):
            raise AudioError(f"a chunk is a numpy array, not {type(chunk).__name__}; see numpy.frombuffer for bytes")
        n_channels = 1 if chunk.ndim == 1 else chunk.shape[-1] if chunk.ndim == 2 else None
        if n_channels != self.n_channels:
            shapes = "(n,) or (n, 1)" if self.n_channels == 1 else f"(n, {self.n_channels})"
            raise AudioError(f"chunk of shape {chunk.shape}: this stream takes {shapes}; channels come last")

    def _resample(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        return block if self._resampler is None else self._resampler.resample_chunk(block, last=last)

    def _hear(self, blocks: Iterable[np.ndarray]) -> list[Update]:
        """Take blocks at 16 kHz and answer at the end of each hop."""
        updates = []
        try:
            for block in blocks:
                remaining = np.clip(block, -1.0, 1.0)
                while len(remaining):
                    n_missing = self._n_answered + self._hop - self._n_heard
                    self._recent.append(remaining[:n_missing])
                    self._n_heard += min(n_missing, len(remaining))
                    remaining = remaining[n_missing:]
                    if self._n_heard == self._n_answered + self._hop:
                        updates.append(self._answer())
        except BaseException:
            self._ended = True  # part of the chunk was not heard: times would be wrong from here
            raise
        return updates

    def _answer(self) -> Update:
        newest = self._recent.last(self._n_heard - self._n_answered)
        self._n_answered = self._n_heard
        start = max(0, self._n_heard - self._window)
        prediction = self.recognizer.predict(self._recent.last(self._window), sample_rate=SAMPLE_RATE)
        return _update(prediction, start, self._n_heard, newest)


def track(
    recognizer: Recognizer,
    source: Source,
    *,
    sample_rate: int | None = None,
    hop_s: float = HOP_S,
    window_s: float | None = None,
) -> list[Update]:
    """Return what a :class:`Stream` would say of a whole clip, up to ``audio.MAX_DURATION_S``, computed at once.

    Parameters
    ----------
    source, sample_rate
        As :func:`undertone.audio.load_waveform` takes them.
    hop_s, window_s
        As :class:`Stream` takes them.

    Raises
    ------
    AudioError
        If the sound cannot be used.
    ValueError
        If hop or window are out of range.
    """
    hop, window = _grid(recognizer.card, hop_s, window_s)
    waveform = load_waveform(source, sample_rate=sample_rate)
    edges = [*range(0, len(waveform), hop), len(waveform)]
    windows = (waveform[max(0, end - window) : end] for end in edges[1:])
    predictions = recognizer.predict_iter(windows, sample_rate=SAMPLE_RATE, on_error="raise")
    return [
        _update(prediction, max(0, end - window), end, waveform[start:end])
        for prediction, (start, end) in zip(predictions, pairwise(edges), strict=True)
    ]


class _Recent:
    """The last ``n_samples`` of a sound. Memory for twice as many, so that most appends move nothing."""

    def __init__(self, n_samples: int) -> None:
        self._n_samples = n_samples
        self._memory = np.zeros(2 * n_samples, np.float32)
        self._end = 0

    def append(self, piece: np.ndarray) -> None:
        """Take at most ``n_samples`` more."""
        if self._end + len(piece) > len(self._memory):
            self._memory[: self._n_samples] = self._memory[self._end - self._n_samples : self._end]
            self._end = self._n_samples
        self._memory[self._end : self._end + len(piece)] = piece
        self._end += len(piece)

    def last(self, n: int) -> np.ndarray:
        """Return the last ``n`` samples, or all there are; valid until the next append."""
        return self._memory[max(0, self._end - n) : self._end]


def _grid(card: Card, hop_s: float, window_s: float | None) -> tuple[int, int]:
    """Return the samples in a hop and in a window, after checking both."""
    if window_s is None:
        window_s = card.recommended_duration_s
    if not card.min_duration_s <= window_s <= card.max_duration_s:
        raise ValueError(
            f"window_s is {window_s}; this model takes {card.min_duration_s:g} to {card.max_duration_s:g} seconds"
        )
    if not MIN_HOP_S <= hop_s <= window_s:
        raise ValueError(
            f"hop_s is {hop_s}; give {MIN_HOP_S:g} to {window_s:g} seconds: a longer hop than the window would leave "
            "sound unheard"
        )
    return round(hop_s * SAMPLE_RATE), round(window_s * SAMPLE_RATE)


def _update(prediction: Prediction, start: int, end: int, newest: np.ndarray) -> Update:
    """Put the answer of the window from sample ``start`` to ``end`` into the stream's time."""
    assert prediction.emotion is not None and prediction.confidence is not None  # errors have been raised
    return Update(
        start_s=start / SAMPLE_RATE,
        end_s=end / SAMPLE_RATE,
        emotion=prediction.emotion,
        confidence=prediction.confidence,
        probs=prediction.probs,
        level_db=level_db(newest),
    )


def level_db(waveform: np.ndarray) -> float:
    """Root mean square of a waveform, (n,), in dB relative to full scale, at least FLOOR_DB.

    Examples
    --------
    >>> round(level_db(np.full(100, 0.1)), 6), level_db(np.zeros(100))
    (-20.0, -100.0)
    """
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
