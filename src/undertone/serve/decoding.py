"""Decoding in processes that may die: started ahead, one job each at a time, replaced when they are lost."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from undertone.audio import SAMPLE_RATE
from undertone.serve.decode_worker import CLIP, DONE, ERROR, FRAME, JOB, READY, SOUND
from undertone.serve.settings import Settings

START_TIMEOUT_S = 30.0
JOBS_PER_WORKER = 10_000  # then it is replaced: what a decoder leaks is gone
_SOCKET_BYTES = 2**20  # a clip passes in one piece
_MAX_SOUND_BYTES = 64 * 2**20  # of one frame
_BYTES_PER_S = SAMPLE_RATE * 4

_log = logging.getLogger("undertone.serve")


class DecodeError(Exception):
    """A file that gives no sound: ``limit`` is the setting that was met, if it was one."""

    def __init__(self, message: str, *, limit: str | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class _WorkerLostError(Exception):
    """The worker is gone; the job may be innocent."""


class DecodePool:
    """A few decoding processes, and the jobs that wait for them.

    Parameters
    ----------
    on_lost
        Called whenever a process is lost and has to be replaced.
    """

    def __init__(self, settings: Settings, *, on_lost: Callable[[], object] = lambda: None) -> None:
        self.settings = settings
        self.on_lost = on_lost
        self._workers: set[_Worker] = set()
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._tasks: set[asyncio.Task] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The processes that are ready or at work."""
        return [worker.process.pid for worker in self._workers]

    async def start(self) -> None:
        """Start all processes and wait until they are ready."""
        await asyncio.gather(*(self._add_worker() for _ in range(self.settings.decode_workers)))

    async def close(self) -> None:
        """End all processes."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            worker.end()

    async def decode(self, content: memoryview, *, max_duration_s: float, limit: str) -> np.ndarray:
        """Return a file as a waveform, (n_samples,) float32, mono, [-1, 1], 16 kHz.

        Parameters
        ----------
        limit
            The setting that ``max_duration_s`` comes from, for the error.

        Raises
        ------
        DecodeError
            If it cannot be decoded, or not within the limits.
        """
        for _attempt in range(2):
            worker = await self._idle.get()
            # a job that nobody waits for any more still ends: its process is then ready for the next
            job = asyncio.create_task(self._run(worker, content, max_duration_s, limit))
            self._tasks.add(job)
            job.add_done_callback(self._tasks.discard)
            try:
                return await asyncio.shield(job)
            except _WorkerLostError:
                continue  # once: another file may have brought it down, or an operator
        raise DecodeError("could not be decoded: the decoder crashed on it; convert it to WAV or FLAC first")

    async def _run(self, worker: "_Worker", content: memoryview, max_duration_s: float, limit: str) -> np.ndarray:
        cpu_s = self.settings.decode_timeout_s
        try:
            async with asyncio.timeout(self.settings.decode_timeout_s):
                return await worker.run(content, max_duration_s, cpu_s)
        except TimeoutError:
            worker.kill()
            raise self._too_slow() from None
        except _TooMuchProcessorTimeError:
            raise self._too_slow() from None
        except _JobError as error:
            raise DecodeError(
                str(error), limit={"too_long": limit, "memory": "decode_memory_mb"}.get(error.code)
            ) from None
        finally:
            worker.n_jobs += 1
            if worker.is_lost or worker.n_jobs >= JOBS_PER_WORKER:
                self._replace(worker)
            else:
                self._idle.put_nowait(worker)

    def _too_slow(self) -> DecodeError:
        seconds = self.settings.decode_timeout_s
        return DecodeError(f"takes more than {seconds:g} s to decode; cut it into clips", limit="decode_timeout_s")

    def _replace(self, worker: "_Worker") -> None:
        self._workers.discard(worker)
        if worker.is_lost:
            self.on_lost()
        worker.end()
        if not self._is_closed:
            task = asyncio.create_task(self._add_worker())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _add_worker(self) -> None:
        while not self._is_closed:
            worker = await _start_worker(self.settings)
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await worker.ready
            except (TimeoutError, _WorkerLostError):
                worker.kill()
                _log.error("a decoding process did not start; trying again")
                await asyncio.sleep(1.0)
                continue
            except asyncio.CancelledError:
                worker.kill()
                raise
            worker.on_idle_loss = lambda: self._lose_idle(worker)
            self._workers.add(worker)
            self._idle.put_nowait(worker)
            return

    def _lose_idle(self, worker: "_Worker") -> None:
        """Replace a process that was lost while it had nothing to do, unless a job is about to find out."""
        waiting = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        for other in waiting:
            if other is not worker:
                self._idle.put_nowait(other)
        if worker in waiting:
            self._replace(worker)


async def _start_worker(settings: Settings) -> "_Worker":
    ours, theirs = socket.socketpair()
    with theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        ours.setblocking(False)
        command = [sys.executable, "-m", "undertone.serve.decode_worker"]
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(settings.decode_memory_mb)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(),
        )
    worker = _Worker(process)
    await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
    return worker


def _environment() -> dict[str, str]:
    """Return what Python needs to start, without our secrets; numpy's own threads would only take addresses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _JobError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _TooMuchProcessorTimeError(Exception):
    pass


class _Worker(asyncio.BufferedProtocol):
    """Our end of one process: writes a job, collects the frames of its answer."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.n_jobs = 0
        self.is_lost = False
        self.on_idle_loss: Callable[[], object] = lambda: None
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[np.ndarray] | None = None
        self._max_bytes = 0
        self._sound: list[bytearray] = []
        self._transport: asyncio.Transport | None = None
        self._expect(FRAME.size, None)

    async def run(self, content: memoryview, max_duration_s: float, cpu_s: float) -> np.ndarray:
        if self.is_lost or self._transport is None:
            raise _WorkerLostError
        self._answer = asyncio.get_running_loop().create_future()
        self._sound = []
        self._max_bytes = int((max_duration_s + 1) * _BYTES_PER_S)
        self._transport.write(JOB.pack(CLIP, len(content), max_duration_s, cpu_s))
        self._transport.write(content)
        try:
            return await self._answer
        finally:
            self._answer = None
            self._sound = []

    def kill(self) -> None:
        self.is_lost = True
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Close the socket, which ends the process if nothing else has."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.process.kill()

    # ---- asyncio.BufferedProtocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._n_filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._n_filled += nbytes
        if self._n_filled == len(self._buffer):
            self._take(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        was_lost, self.is_lost = self.is_lost, True
        self._transport = None
        code = self._exit_code()
        out_of_time = code == -signal.SIGXCPU
        for waiting in (self.ready, self._answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(_TooMuchProcessorTimeError() if out_of_time else _WorkerLostError())
        if self._answer is None and not was_lost:
            self.on_idle_loss()

    # ---- frames ----

    def _expect(self, n_bytes: int, kind: bytes | None) -> None:
        """Collect the next header (kind None), or the content of a frame."""
        self._buffer = bytearray(n_bytes)
        self._n_filled = 0
        self._kind = kind

    def _take(self, content: bytearray) -> None:
        if self._kind is None:
            kind, n_bytes = FRAME.unpack(content)
            if n_bytes > _MAX_SOUND_BYTES:
                self.kill()  # not what we started
            elif n_bytes:
                self._expect(n_bytes, kind)
            else:
                self._expect(FRAME.size, None)
                self._handle(kind, bytearray())
        else:
            kind = self._kind
            self._expect(FRAME.size, None)
            self._handle(kind, content)

    def _handle(self, kind: bytes, content: bytearray) -> None:
        answer = self._answer
        if kind == READY and not self.ready.done():
            self.ready.set_result(None)
        elif answer is None or answer.done():
            self.kill()  # it speaks without being asked
        elif kind == SOUND:
            self._sound.append(content)
            if sum(map(len, self._sound)) > self._max_bytes:
                self.kill()
        elif kind == DONE and self._sound:
            sound = self._sound[0] if len(self._sound) == 1 else b"".join(self._sound)
            answer.set_result(np.frombuffer(sound, np.float32))
        elif kind == ERROR:
            error = json.loads(content)
            answer.set_exception(_JobError(str(error["code"]), str(error["message"])))
        else:
            self.kill()

    def _exit_code(self) -> int:
        """Return how the process ended; it is ending, or made to."""
        self.process.kill()
        return self.process.wait()
