"""The network on a few threads: clips that wait at the same time share a run, long work has a thread of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from undertone.audio import SAMPLE_RATE
from undertone.model_file import available_cores
from undertone.recognizer import BATCH_SIZE, Prediction, Recognizer, load_model
from undertone.serve.errors import Refused

Answer = TypeVar("Answer")

MAX_WAITING_S = 1_200.0  # of decoded sound in memory; more is not decoded before some of it is heard


class Inference:
    """The models that are served, and the threads they run on.

    Parameters
    ----------
    models
        Names or files; the first is the default. A file is known by the name on its card.
    threads
        Runs of a network at a time; 0: one per processor.
    """

    def __init__(self, models: tuple[str, ...], *, threads: int = 0) -> None:
        self.threads = threads or available_cores()
        self.recognizers: dict[str, Recognizer] = {}
        for name_or_path in models:
            recognizer = load_model(name_or_path, threads=1)  # one run, one thread: the runs are in parallel
            self.recognizers.setdefault(recognizer.card.name, recognizer)
        self.default = next(iter(self.recognizers))
        self._clips = ThreadPoolExecutor(self.threads, thread_name_prefix="clips")
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._waiting: dict[str, list[_Clip]] = {name: [] for name in self.recognizers}
        self._n_running = 0
        self._waiting_s = 0.0  # of sound, decoded and not yet heard
        self.has_room = asyncio.Event()
        self.has_room.set()

    @property
    def n_waiting(self) -> int:
        """Clips that are decoded and not yet running."""
        return sum(map(len, self._waiting.values()))

    def recognizer(self, name: str | None) -> Recognizer:
        """Return a served model by its name, the default one for None, or raise :class:`Refused`: 404."""
        name = self.default if name is None else name
        if name not in self.recognizers:
            known = ", ".join(self.recognizers)
            raise Refused(404, "no_such_model", f"no model of this name is served; there are: {known}")
        return self.recognizers[name]

    async def predict(self, recognizer: Recognizer, waveform: np.ndarray) -> Prediction:
        """Return what ``recognizer.predict`` gives for a waveform; an error comes as a prediction that carries it."""
        clip = _Clip(waveform)
        self._waiting[recognizer.card.name].append(clip)
        self._add_waiting(len(waveform) / SAMPLE_RATE)
        self._dispatch()
        return await clip.answer

    async def run_clip(self, function: Callable[..., Answer], *arguments: object) -> Answer:
        """Run something short, a hop of a live stream, on the threads of the clips."""
        return await asyncio.get_running_loop().run_in_executor(self._clips, function, *arguments)

    async def run_job(self, function: Callable[..., Answer], *arguments: object) -> Answer:
        """Run something long on the thread that is kept for it: clips do not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._jobs, function, *arguments)

    def warm_up(self) -> None:
        """Run every model once, so that the first visitor does not wait for its memory."""
        for recognizer in self.recognizers.values():
            recognizer.predict(np.zeros(SAMPLE_RATE, np.float32), sample_rate=SAMPLE_RATE)

    def close(self) -> None:
        """Let running work end and take no more."""
        for executor in (self._clips, self._jobs):
            executor.shutdown(wait=True, cancel_futures=True)

    def _dispatch(self) -> None:
        """Give every thread a batch, and one to go on with: it does not wait for the event loop in between."""
        while self._n_running < 2 * self.threads:
            name = self._next_model()
            if name is None:
                return
            batch = _take_batch(self._waiting[name])
            self._n_running += 1
            run = asyncio.get_running_loop().run_in_executor(self._clips, _predict, self.recognizers[name], batch)
            run.add_done_callback(lambda run, batch=batch: self._finish(run, batch))

    def _next_model(self) -> str | None:
        """Return the model whose first clip waits longest, or None: a busy model must not starve another one."""
        busy = [name for name, clips in self._waiting.items() if clips]
        return min(busy, key=lambda name: self._waiting[name][0].since_s, default=None)

    def _add_waiting(self, seconds: float) -> None:
        self._waiting_s += seconds
        if self._waiting_s < MAX_WAITING_S:
            self.has_room.set()
        else:
            self.has_room.clear()

    def _finish(self, run: asyncio.Future[list[Prediction]], batch: list["_Clip"]) -> None:
        self._n_running -= 1
        self._add_waiting(-sum(len(clip.waveform) for clip in batch) / SAMPLE_RATE)
        for index, clip in enumerate(batch):
            if clip.answer.done():  # nobody waits for it any more
                continue
            if run.cancelled():
                clip.answer.cancel()
            elif error := run.exception():
                clip.answer.set_exception(error)
            else:
                clip.answer.set_result(run.result()[index])
        self._dispatch()


class _Clip:
    def __init__(self, waveform: np.ndarray) -> None:
        self.waveform = waveform
        loop = asyncio.get_running_loop()
        self.since_s = loop.time()
        self.answer: asyncio.Future[Prediction] = loop.create_future()


def _take_batch(waiting: list[_Clip]) -> list[_Clip]:
    """Take the one that waits longest and those of the most similar length: they share a run with little padding."""
    if len(waiting) <= BATCH_SIZE:
        batch = waiting[:]
    else:
        n_samples = len(waiting[0].waveform)
        batch = sorted(waiting, key=lambda clip: abs(len(clip.waveform) - n_samples))[:BATCH_SIZE]
    for clip in batch:
        waiting.remove(clip)
    return batch


def _predict(recognizer: Recognizer, batch: list[_Clip]) -> list[Prediction]:
    return recognizer.predict_waveforms([clip.waveform for clip in batch])


def file_name(recognizer: Recognizer) -> str:
    """Return the name of a model's file."""
    return Path(recognizer.model.path).name
