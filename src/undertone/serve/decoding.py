"""Decoding in processes that may die: started ahead, one job each at a time, replaced when they are lost.

A clip comes back as a whole (:meth:`DecodePool.decode`), a long recording block by block while it is heard
(:meth:`DecodePool.blocks`): its decoder waits when nobody takes them.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from undertone.audio import MAX_CHANNELS, SAMPLE_RATE
from undertone.serve.decode_worker import CHANNELS, DONE, ERROR, FRAME, JOB, MIX, READY, SOUND, SPLIT
from undertone.serve.settings import Settings

START_TIMEOUT_S = 30.0
JOBS_PER_WORKER = 10_000  # then it is replaced: what a decoder leaks is gone
BLOCKS_AHEAD = 4  # decoded and not yet heard, of a long recording
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
    has_room
        Set while there is room for more decoded clips; without, they wait undecoded, and their process with them.
    on_lost
        Called whenever a process is lost and has to be replaced.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        has_room: asyncio.Event | None = None,
        on_lost: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self.on_lost = on_lost
        self._has_room = has_room
        self._workers: set[_Worker] = set()
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()  # the last one at work has its caches warm
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

    async def decode(self, content: memoryview, *, max_duration_s: float, limit: str | None) -> np.ndarray:
        """Return a file as a waveform, (n_samples,) float32, mono, [-1, 1], 16 kHz.

        Parameters
        ----------
        limit
            The setting that ``max_duration_s`` comes from, for the error; None where it is fixed.

        Raises
        ------
        DecodeError
            If it cannot be decoded, or not within the limits.
        """
        for _attempt in range(2):
            worker = await self._take_worker()
            pieces: list[np.ndarray] = []
            job = _Job(MIX, content, max_duration_s, self.settings.decode_timeout_s, pieces.append)
            done = self._start(worker, job)
            try:
                # a job that nobody waits for any more still ends: its process is then ready for the next
                await asyncio.shield(done)
            except _WorkerLostError:
                continue  # once: another file may have brought it down, or an operator
            except _JobError as error:
                raise self._explained(error, limit) from None
            if pieces:
                return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).view(np.float32)
        raise _crashed()

    def _start(self, worker: "_Worker", job: "_Job") -> asyncio.Future[None]:
        """Hand over a job that has to end in time, and take the worker back at its end."""
        done = worker.start(job)
        timer = asyncio.get_running_loop().call_later(job.cpu_s, worker.kill, _JobError("time", ""))

        def end(_done: asyncio.Future[None]) -> None:
            timer.cancel()
            self._put_back(worker)

        done.add_done_callback(end)
        return done

    async def _take_worker(self) -> "_Worker":
        """Wait for a free process, and with it for room."""
        worker = await self._idle.get()
        if self._has_room is not None and not self._has_room.is_set():
            try:
                await self._has_room.wait()
            except asyncio.CancelledError:
                self._put_back(worker)
                raise
        return worker

    @asynccontextmanager
    async def blocks(
        self, content: memoryview, *, split: bool, max_duration_s: float, limit: str
    ) -> AsyncIterator["BlockStream"]:
        """Decode a file while it is read, block by block; leaving the block early ends that.

        Parameters
        ----------
        split
            Whether channels are kept apart; ``max_duration_s`` then is that of all together.

        Raises
        ------
        DecodeError
            From the stream, if the file cannot be decoded, or not within the limits.
        """
        worker = await self._idle.get()
        stream = BlockStream(self, worker, limit)
        kind = SPLIT if split else MIX
        done = worker.start(_Job(kind, content, max_duration_s, self.settings.decode_timeout_s, stream.put))
        done.add_done_callback(stream.end)
        try:
            yield stream
        finally:
            if not done.done():
                worker.kill()
            await asyncio.wait([done])
            stream.close()
            self._put_back(worker)

    def _put_back(self, worker: "_Worker") -> None:
        worker.n_jobs += 1
        if worker.is_lost or worker.n_jobs >= JOBS_PER_WORKER:
            self._replace(worker)
        else:
            self._idle.put_nowait(worker)

    def _explained(self, error: "_JobError", limit: str | None) -> DecodeError:
        if error.code == "time":
            seconds = self.settings.decode_timeout_s
            return DecodeError(f"takes more than {seconds:g} s to decode; cut it into clips", limit="decode_timeout_s")
        limits = {"too_long": limit, "memory": "decode_memory_mb"}
        return DecodeError(str(error), limit=limits.get(error.code))

    def _keep(self, task: asyncio.Task) -> asyncio.Task:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _replace(self, worker: "_Worker") -> None:
        self._workers.discard(worker)
        if worker.is_lost:
            self.on_lost()
        worker.end()
        if not self._is_closed:
            self._keep(asyncio.create_task(self._add_worker()))

    async def _add_worker(self) -> None:
        """Start a process; tries until it is ready, for the service is of no use without."""
        while not self._is_closed:
            try:
                worker = await _start_worker(self.settings)
            except (OSError, TimeoutError, _WorkerLostError) as error:
                _log.error("a decoding process does not start, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(1.0)
                continue
            worker.on_idle_loss = self._lose_idle
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
    try:
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        async with asyncio.timeout(START_TIMEOUT_S):
            await worker.ready
    except BaseException:
        worker.kill()
        raise
    return worker


def _environment() -> dict[str, str]:
    """Return what Python needs to start, without our secrets.

    numpy's own threads would only take addresses. Without its two limits, glibc asks the system for each clip's memory
    anew, which takes as long as decoding it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    memory = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
    return kept | memory | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _JobError(Exception):
    """The worker's own words: unusable, too_long, memory; or time."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _crashed() -> DecodeError:
    return DecodeError("could not be decoded: the decoder crashed on it; convert it to WAV or FLAC first")


@dataclass(slots=True)
class _Job:
    kind: bytes
    content: memoryview
    max_duration_s: float
    cpu_s: float
    take: Callable[[np.ndarray], object]  # called with each piece of sound, the bytes of float32


class BlockStream:
    """The blocks of a recording, between its decoder, which the event loop feeds from, and a thread that hears them."""

    def __init__(self, pool: DecodePool, worker: "_Worker", limit: str) -> None:
        self._pool = pool
        self._worker = worker
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[np.ndarray | None] = asyncio.Queue()
        self._error: BaseException | None = None
        self._is_closed = False

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks as ``timeline_of_blocks`` takes them; for a thread that is not the event loop's."""
        while (block := asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()) is not None:
            yield block

    def put(self, sound: np.ndarray) -> None:
        """Take a piece of sound from the decoder."""
        self._waiting.put_nowait(sound)
        if self._waiting.qsize() >= BLOCKS_AHEAD:
            self._worker.pause()

    def end(self, done: asyncio.Future[None]) -> None:
        """Take note that the decoder is done."""
        self._error = done.exception()
        self._waiting.put_nowait(None)

    def close(self) -> None:
        """Give nothing more."""
        self._is_closed = True
        self._waiting.put_nowait(None)

    async def _next(self) -> np.ndarray | None:
        seconds = self._pool.settings.decode_timeout_s
        try:
            async with asyncio.timeout(seconds):
                sound = await self._waiting.get()
        except TimeoutError:
            self._worker.kill()
            raise self._pool._explained(_JobError("time", ""), self._limit) from None
        if self._is_closed:
            raise DecodeError("is no longer wanted")
        if sound is not None:
            self._worker.resume()
            block = sound.view(np.float32)
            return block.reshape(-1, self._worker.n_channels) if self._worker.n_channels else block
        if isinstance(self._error, _JobError):
            raise self._pool._explained(self._error, self._limit) from None
        if self._error is not None:
            raise _crashed()
        return None


class _Worker(asyncio.BufferedProtocol):
    """Our end of one process: writes a job, collects the frames of its answer."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.n_jobs = 0
        self.is_lost = False
        self.on_idle_loss: Callable[[_Worker], object] = lambda worker: None
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.n_channels = 0  # of the sound; 0 where they are mixed
        self._done: asyncio.Future[None] | None = None
        self._job: _Job | None = None
        self._n_room = 0
        self._is_paused = False
        self._transport: asyncio.Transport | None = None
        self._expect(FRAME.size, None)

    def start(self, job: _Job) -> asyncio.Future[None]:
        """Hand over the job; the future is done when all of its sound has been taken."""
        done = asyncio.get_running_loop().create_future()
        if self.is_lost or self._transport is None:
            done.set_exception(_WorkerLostError())
            return done
        self._done, self._job = done, job
        self._n_room = int((job.max_duration_s + 1) * _BYTES_PER_S)  # more would be no sound of this job
        self.n_channels = 0
        header = JOB.pack(job.kind, len(job.content), job.max_duration_s, job.cpu_s)
        self._transport.writelines([header, job.content])
        return done

    def _end(self, error: Exception | None = None) -> None:
        """Tell whoever waits for the job, if there is one."""
        done, self._done, self._job = self._done, None, None
        if done is None:
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def pause(self) -> None:
        """Let the decoder wait."""
        if self._transport is not None and not self._is_paused:
            self._transport.pause_reading()
            self._is_paused = True

    def resume(self) -> None:
        """Let the decoder go on."""
        if self._transport is not None and self._is_paused:
            self._transport.resume_reading()
            self._is_paused = False

    def kill(self, error: Exception | None = None) -> None:
        """End the process; its job, if it has one, ends with the error, or as one that was lost."""
        self.is_lost = True
        self.process.kill()
        if error is not None:
            self._end(error)
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
        return self._view[self._n_filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._n_filled += nbytes
        if self._n_filled == len(self._buffer):
            self._take(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        was_lost, self.is_lost = self.is_lost, True
        self._transport = None
        error = _JobError("time", "") if self._exit_code() == -signal.SIGXCPU else _WorkerLostError()
        if not self.ready.done():
            self.ready.set_exception(error)
        if self._done is None and not was_lost:
            self.on_idle_loss(self)
        self._end(error)

    # ---- frames ----

    def _expect(self, n_bytes: int, kind: bytes | None) -> None:
        """Collect the next header (kind None), or the content of a frame."""
        self._buffer = np.empty(n_bytes, np.uint8)  # unlike a bytearray it is not filled first
        self._view = self._buffer.data
        self._n_filled = 0
        self._kind = kind

    def _take(self, content: np.ndarray) -> None:
        if self._kind is None:
            kind, n_bytes = FRAME.unpack(content.data)
            if n_bytes > _MAX_SOUND_BYTES:
                self.kill()  # not what we started
            elif n_bytes:
                self._expect(n_bytes, kind)
            else:
                self._expect(FRAME.size, None)
                self._handle(kind, content[:0])
        else:
            kind = self._kind
            self._expect(FRAME.size, None)
            self._handle(kind, content)

    def _handle(self, kind: bytes, content: np.ndarray) -> None:
        job = self._job
        if kind == READY and not self.ready.done():
            self.ready.set_result(None)
        elif job is None:
            self.kill()  # it speaks without being asked
        elif kind in (SOUND, DONE) and len(content) % (4 * max(1, self.n_channels)) == 0:
            self._n_room -= len(content)
            if self._n_room < 0:
                self.kill()
                return
            if len(content):
                job.take(content)
            if kind == DONE:
                self._end()
        elif kind == CHANNELS and (text := bytes(content)).isdigit() and 1 <= int(text) <= MAX_CHANNELS:
            self.n_channels = int(text)
        elif kind == ERROR:
            error = json.loads(bytes(content))
            self._end(_JobError(str(error["code"]), str(error["message"])))
        else:
            self.kill()

    def _exit_code(self) -> int:
        """Return how the process ended; it is ending, or made to."""
        self.process.kill()
        return self.process.wait()
