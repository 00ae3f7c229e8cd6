"""From sound to emotion: decode, pad, run the model file, turn logits into probabilities.

One clip or a folder of a million go the same way. A *segment* is what the network sees at once: a whole clip, or
one window of a clip that is longer than the model takes. Sources are handled in chunks, a few of them at a time on
as many threads as there are processors; within a chunk, segments of similar length share a batch. Memory is
bounded by the chunk's longest clip, never by the number of clips.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from undertone.audio import SAMPLE_RATE, AudioError, Source, load_waveform
from undertone.model_file import DEFAULT_MODEL, Card, Model, ModelFileError, available_cores, open_model

CHUNK_SIZE = 32  # sources decoded and scored together by one thread
BATCH_SIZE = 8  # segments in one run of the network: more is no faster on processors
BATCH_SECONDS = 60.0  # of padded sound in one run: bounds the network's memory


@dataclass(frozen=True, slots=True)
class Prediction:
    """The emotion heard in one clip, or the reason why there is none.

    ``probs`` holds one probability per label, in label order; they sum to 1 and ``confidence`` is the largest.
    With an ``error``, ``emotion`` and ``confidence`` are None and ``probs`` is empty.
    """

    path: str | None  # None where the sound came as an array or an open file
    emotion: str | None
    confidence: float | None
    probs: dict[str, float]
    start_s: float
    end_s: float
    error: str | None = None
    frame_probs: np.ndarray | None = field(default=None, repr=False, compare=False)  # (n_frames, n_classes)
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)  # (dim,)


class Recognizer:
    """A model file, ready to predict; safe to share between threads.

    Parameters
    ----------
    model
        An opened model file.
    threads
        Chunks that :meth:`predict_batch` handles at a time; one per processor if None.

    Examples
    --------
    >>> import numpy as np, undertone
    >>> recognizer = undertone.load_model()  # doctest: +SKIP
    >>> recognizer.predict("clip.wav").emotion  # doctest: +SKIP
    'happiness'
    """

    def __init__(self, model: Model, *, threads: int | None = None) -> None:
        self.model = model
        self.threads = threads or available_cores()

    @property
    def card(self) -> Card:
        """What the model is, what it was trained on, and its scores."""
        return self.model.card

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotions the model tells apart, in the order of the probabilities."""
        return self.model.card.labels

    def predict(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        frames: bool = False,
        embedding: bool = False,
    ) -> Prediction:
        """Probabilities of each emotion in one clip.

        Clips up to the card's ``max_duration_s`` are heard whole. Longer ones are cut into equal windows of at
        most ``recommended_duration_s``, whose probabilities are averaged by duration. Clips shorter than
        ``min_duration_s`` are filled up with silence.

        Parameters
        ----------
        source
            Path of a sound file, its bytes, an open binary file, or an array: (n_samples,) or
            (n_samples, n_channels).
        sample_rate
            Hz; needed for arrays, and for arrays only.
        frames
            Also give ``frame_probs``, (n_frames, n_classes), one row each ``card.frame_hop_s`` seconds; None where
            the model has no frame track.
        embedding
            Also give ``embedding``, (dim,); None where the model has none.

        Raises
        ------
        AudioError
            If the sound cannot be used, or lasts longer than ``audio.MAX_DURATION_S``; the message says why and
            what to do.
        ModelFileError
            If the network fails on this sound: a fault of the model file that shows only when it runs.
        """
        options = _Options(frames=frames, embedding=embedding, on_error="raise")
        return self._predict_chunk([source], sample_rate, options)[0]

    def predict_batch(
        self,
        sources: Iterable[Source],
        *,
        sample_rate: int | None = None,
        frames: bool = False,
        embedding: bool = False,
        batch_size: int = BATCH_SIZE,
        batch_seconds: float = BATCH_SECONDS,
        on_error: Literal["row", "raise"] = "row",
        on_progress: Callable[[int], object] | None = None,
    ) -> list[Prediction]:
        """Predictions of many clips, in the order of ``sources``; each the same as :meth:`predict` gives.

        Parameters
        ----------
        batch_size, batch_seconds
            Upper bounds on segments, and on seconds of padded sound, in one run of the network.
        on_error
            ``"row"``: a clip that cannot be used, or on which the network fails, gets a prediction that carries
            the ``error``, the rest is scored. ``"raise"``: such a clip ends the call with its ``AudioError`` or
            ``ModelFileError``.
        on_progress
            Called with the number of clips done so far.
        """
        predictions = []
        for prediction in self.predict_iter(
            sources,
            sample_rate=sample_rate,
            frames=frames,
            embedding=embedding,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            on_error=on_error,
        ):
            predictions.append(prediction)
            if on_progress:
                on_progress(len(predictions))
        return predictions

    def predict_iter(
        self,
        sources: Iterable[Source],
        *,
        sample_rate: int | None = None,
        frames: bool = False,
        embedding: bool = False,
        batch_size: int = BATCH_SIZE,
        batch_seconds: float = BATCH_SECONDS,
        on_error: Literal["row", "raise"] = "row",
    ) -> Iterator[Prediction]:
        """Yield what :meth:`predict_batch` returns, one by one as it is ready: for folders of any size."""
        if batch_size < 1 or batch_seconds <= 0:
            raise ValueError("batch_size must be at least 1 and batch_seconds above 0")
        options = _Options(frames, embedding, on_error, batch_size, batch_seconds)
        remaining = iter(sources)
        size = _chunk_size(sources, self.threads)
        chunks = iter(lambda: list(islice(remaining, size)), [])
        if self.threads == 1 or (isinstance(sources, Sized) and len(sources) <= size):
            for chunk in chunks:
                yield from self._predict_chunk(chunk, sample_rate, options)
            return
        from concurrent.futures import ThreadPoolExecutor  # not needed for a single clip

        with ThreadPoolExecutor(self.threads, thread_name_prefix="undertone") as pool:
            pending = deque()
            try:
                for chunk in chunks:
                    pending.append(pool.submit(self._predict_chunk, chunk, sample_rate, options))
                    if len(pending) > self.threads:  # one chunk ahead of those at work
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def predict_waveforms(self, waveforms: Sequence[np.ndarray]) -> list[Prediction]:
        """Predictions of what :func:`undertone.audio.load_waveform` has returned: it is not checked again.

        Parameters
        ----------
        waveforms
            Each (n_samples,) float32, mono, [-1, 1], 16 kHz. One on which the network fails gets a prediction that
            carries the ``error``.
        """
        clips = [_Clip(path=None) for _ in waveforms]
        segments = [segment for pair in zip(clips, waveforms, strict=True) for segment in _cut(*pair, self.card)]
        options = _Options()
        self._run_segments(segments, options)
        return [self._finish(clip, options) for clip in clips]

    def _predict_chunk(
        self, sources: Sequence[Source], sample_rate: int | None, options: "_Options"
    ) -> list[Prediction]:
        clips: list[_Clip] = []
        waiting: list[_Segment] = []
        waiting_seconds = 0.0
        for source in sources:
            clip = _Clip(path=_path_of(source))
            clips.append(clip)
            try:
                waveform = load_waveform(source, sample_rate=sample_rate)
            except (AudioError, OSError) as error:
                if options.on_error == "raise":
                    raise
                clip.error = str(error)
                continue
            waiting += _cut(clip, waveform, self.card)
            waiting_seconds += clip.duration_s
            if waiting_seconds > 4 * options.batch_seconds:  # enough to sort; bounds the chunk's memory
                self._run_segments(waiting, options)
                waiting, waiting_seconds = [], 0.0
        self._run_segments(waiting, options)
        return [self._finish(clip, options) for clip in clips]

    def _run_segments(self, segments: list["_Segment"], options: "_Options") -> None:
        """Run all segments, batched by length, and leave the results with their clips."""
        for batch in _batches(segments, options.batch_size, options.batch_seconds):
            try:
                self._run_batch(batch, options)
            except ModelFileError as error:
                if len(batch) == 1:
                    batch[0].fail(error)
                else:  # each alone: the others must not pay for the one on which the network fails
                    for segment in batch:
                        self._run_segments([segment], options)

    def _run_batch(self, batch: list["_Segment"], options: "_Options") -> None:
        lengths = np.array([segment.n_samples for segment in batch], dtype=np.int64)
        waveforms = np.zeros((len(batch), lengths.max()), dtype=np.float32)
        for row, segment in zip(waveforms, batch, strict=True):
            row[: len(segment.waveform)] = segment.waveform
        results = self.model.run(waveforms, lengths, self._outputs(options))
        for index, segment in enumerate(batch):
            segment.keep({name: values[index] for name, values in results.items()}, self.card)

    def _outputs(self, options: "_Options") -> list[str]:
        wanted = ["logits", *["frame_logits"] * options.frames, *["embedding"] * options.embedding]
        return [name for name in wanted if name in self.model.outputs]

    def _finish(self, clip: "_Clip", options: "_Options") -> Prediction:
        """Average the clip's segments by duration, or pass on its error."""
        if clip.error is None:
            failure: AudioError | ModelFileError | None = clip.failure
            if failure is None:
                probs = clip.average("probs")
                if np.isfinite(probs).all():
                    return self._prediction(clip, probs)
                failure = AudioError(
                    "the model gave no finite answer for this sound; please report the model file and the sound"
                )
            if options.on_error == "raise":
                raise failure
            clip.error = str(failure) if clip.path is None else f"{clip.path}: {failure}"
        return Prediction(clip.path, None, None, {}, 0.0, clip.duration_s, error=clip.error)

    def _prediction(self, clip: "_Clip", probs: np.ndarray) -> Prediction:
        top = int(probs.argmax())
        first = clip.segments[0].results
        return Prediction(
            path=clip.path,
            emotion=self.labels[top],
            confidence=float(probs[top]),
            probs=dict(zip(self.labels, probs.tolist(), strict=True)),
            start_s=0.0,
            end_s=clip.duration_s,
            frame_probs=np.concatenate([segment.results["frame_probs"] for segment in clip.segments])
            if "frame_probs" in first
            else None,
            embedding=clip.average("embedding") if "embedding" in first else None,
        )


def load_model(name_or_path: str | Path = DEFAULT_MODEL, *, threads: int | None = None) -> Recognizer:
    """Load an installed model by name, or any model file by path.

    Parameters
    ----------
    name_or_path
        ``"undertone-small"`` comes with undertone; ``undertone models`` lists what is installed.
    threads
        Processor threads to use; all there are if None.

    Raises
    ------
    ModelFileError
        If there is no such model, or the file is refused; the message says what to do.
    """
    return Recognizer(open_model(name_or_path, threads=threads), threads=threads)


def predict(source: Source, *, sample_rate: int | None = None, model: str | Path = DEFAULT_MODEL) -> Prediction:
    """Probabilities of each emotion in one clip: :meth:`Recognizer.predict` with a model loaded once.

    Examples
    --------
    >>> import undertone
    >>> undertone.predict("clip.wav").emotion  # doctest: +SKIP
    'happiness'
    """
    return _loaded(model).predict(source, sample_rate=sample_rate)


_loaded = lru_cache(maxsize=4)(load_model)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities along the last axis, float64 in [0, 1], of ``logits / temperature``.

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    scaled = logits.astype(np.float64) / temperature
    with np.errstate(invalid="ignore"):  # logits that are no finite numbers give probs that are NaN
        weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, slots=True)
class _Options:
    frames: bool = False
    embedding: bool = False
    on_error: str = "row"
    batch_size: int = BATCH_SIZE
    batch_seconds: float = BATCH_SECONDS


@dataclass(slots=True)
class _Clip:
    """One source on its way through a chunk."""

    path: str | None
    duration_s: float = 0.0
    error: str | None = None
    segments: list["_Segment"] = field(default_factory=list)

    @property
    def failure(self) -> ModelFileError | None:
        """Why the network has no answer for one of the segments."""
        return next((segment.failure for segment in self.segments if segment.failure), None)

    def average(self, name: str) -> np.ndarray:
        """Mean of the segments' results, weighted by their durations."""
        weights = np.array([segment.n_samples for segment in self.segments], dtype=np.float64)
        values = np.stack([segment.results[name] for segment in self.segments])
        return np.average(values, axis=0, weights=weights)


@dataclass(slots=True)
class _Segment:
    """What the network sees at once: ``waveform``, filled up with silence to ``n_samples``."""

    waveform: np.ndarray  # (n,) float32; emptied once it has been run
    n_samples: int
    results: dict[str, np.ndarray] = field(default_factory=dict)
    failure: ModelFileError | None = None

    def fail(self, error: ModelFileError) -> None:
        """Take the error in place of an answer and let go of the sound."""
        self.failure = error
        self.waveform = self.waveform[:0].copy()

    def keep(self, outputs: dict[str, np.ndarray], card: Card) -> None:
        """Take the network's outputs for this segment and let go of its sound."""
        n_valid = len(self.waveform)
        self.results["probs"] = softmax(outputs["logits"], card.temperature)
        if "embedding" in outputs:
            self.results["embedding"] = outputs["embedding"].copy()
        if "frame_logits" in outputs and card.frame_hop_s:
            n_frames = -int(-n_valid // round(card.frame_hop_s * card.sample_rate))  # frames that began in the sound
            self.results["frame_probs"] = softmax(outputs["frame_logits"][:n_frames], card.temperature)
        self.waveform = self.waveform[:0].copy()


def _chunk_size(sources: Iterable[Source], threads: int) -> int:
    """Return the sources per chunk: CHUNK_SIZE, or fewer where that leaves a thread without work."""
    if threads == 1 or not isinstance(sources, Sized):
        return CHUNK_SIZE
    return min(max(1, -(-len(sources) // (2 * threads))), CHUNK_SIZE)


def _path_of(source: Source) -> str | None:
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else None


def _cut(clip: _Clip, waveform: np.ndarray, card: Card) -> list[_Segment]:
    """Give the clip its duration and its segments: itself, or equal windows that start on a frame."""
    n_samples = len(waveform)
    clip.duration_s = n_samples / SAMPLE_RATE
    n_windows = 1
    if clip.duration_s > card.max_duration_s:
        n_windows = -int(-clip.duration_s // card.recommended_duration_s)
    hop = round((card.frame_hop_s or 1 / SAMPLE_RATE) * SAMPLE_RATE)
    edges = [round(index * n_samples / n_windows / hop) * hop for index in range(n_windows)]
    shortest = round(card.min_duration_s * SAMPLE_RATE)
    for start, end in zip(edges, [*edges[1:], n_samples], strict=True):
        clip.segments.append(_Segment(waveform[start:end], max(end - start, shortest)))
    return clip.segments


def _batches(segments: list[_Segment], batch_size: int, batch_seconds: float) -> Iterator[list[_Segment]]:
    """Yield segments in batches of similar length, within both bounds (a single segment may exceed the second)."""
    batch: list[_Segment] = []
    for segment in sorted(segments, key=lambda segment: segment.n_samples):
        padded_s = (len(batch) + 1) * segment.n_samples / SAMPLE_RATE  # the newest is the longest
        if batch and (len(batch) == batch_size or padded_s > batch_seconds):
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch
