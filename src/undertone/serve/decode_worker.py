"""The process in which the bytes of strangers are decoded: ``python -m undertone.serve.decode_worker FD MEGABYTES``.

It holds no secret, writes no file and talks to the service alone, over the socket with the number FD. Its memory is
limited once, its processor time for each job. If a decoder in it hangs, crashes or is taken over, this process is lost
and nothing else.

A job is ``JOB`` (kind, bytes, seconds of sound, seconds of processor time) and the file. The answer is a row of frames,
each ``FRAME`` (kind, bytes) and its content: ``CHANNELS`` (how many, as text) where they are kept apart, ``SOUND``
(float32, 16 kHz, channels last) any number of times, then ``DONE`` (the rest of the sound) or ``ERROR`` (JSON: code,
message). ``READY`` comes once, at the start.
"""

import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress

from undertone.audio import SAMPLE_RATE, AudioError, audio_info, stream_blocks, stream_channels

JOB = struct.Struct("<cQdd")
FRAME = struct.Struct("<cQ")
MIX, SPLIT = b"m", b"s"  # kinds of jobs: channels mixed, or kept apart
READY, CHANNELS, SOUND, DONE, ERROR = b"R", b"C", b"S", b"D", b"E"
SOUND_SAMPLES = 2**18  # samples in one frame, at least, unless the sound ends: 16 s


def main() -> None:
    """Answer jobs until the service closes the socket."""
    link = socket.socket(fileno=int(sys.argv[1]))
    _limit_everything(int(sys.argv[2]) * 2**20)
    _give_way()
    link.sendall(FRAME.pack(READY, 0))
    while True:
        kind, n_bytes, max_duration_s, cpu_s = JOB.unpack(_receive(link, JOB.size))
        _limit_processor_time(cpu_s)
        _answer(link, kind, n_bytes, max_duration_s)


def _answer(link: socket.socket, kind: bytes, n_bytes: int, max_duration_s: float) -> None:
    try:
        _send_sound(link, kind, _receive(link, n_bytes), max_duration_s)
    except AudioError as error:
        _send_error(link, "unusable", str(error).removeprefix("audio data: "))
    except _TooLongError as error:
        _send_error(link, "too_long", str(error))
    except MemoryError:
        _send_error(link, "memory", "needs more memory to decode than a file may; convert it to WAV or FLAC first")
        link.shutdown(socket.SHUT_WR)  # whatever else failed for want of memory is not worth knowing
        while link.recv(2**16):  # a file that had no room: to leave it unread would take the error back
            pass
        sys.exit(1)


class _TooLongError(Exception):
    pass


def _send_sound(link: socket.socket, kind: bytes, content: bytes, max_duration_s: float) -> None:
    info = audio_info(content)
    n_channels = info.n_channels if kind == SPLIT else 1
    declared_s = (info.duration_s or 0.0) * n_channels
    if declared_s > max_duration_s:
        raise _TooLongError(f"lasts {declared_s:.1f} s by its header, more than the {max_duration_s:g} s allowed here")
    if kind == SPLIT:
        _send(link, CHANNELS, str(n_channels).encode())
    n_samples = 0
    waiting, n_waiting = [], 0
    for block in stream_channels(content) if kind == SPLIT else stream_blocks(content):
        n_samples += block.size
        if n_samples > max_duration_s * SAMPLE_RATE:
            raise _TooLongError(f"goes on after the {max_duration_s:g} s allowed here")
        waiting.append(block.data)
        n_waiting += block.size
        if n_waiting >= SOUND_SAMPLES:
            _send(link, SOUND, *waiting)
            waiting, n_waiting = [], 0
    _send(link, DONE, *waiting)


def _send(link: socket.socket, kind: bytes, *pieces: bytes | memoryview) -> None:
    n_bytes = sum(memoryview(piece).nbytes for piece in pieces)
    link.sendall(b"".join([FRAME.pack(kind, n_bytes), *pieces]))


def _send_error(link: socket.socket, code: str, message: str) -> None:
    _send(link, ERROR, json.dumps({"code": code, "message": message}).encode())


def _receive(link: socket.socket, n_bytes: int) -> bytes:
    """Return exactly that many bytes; ends the process where the service has closed the socket."""
    content = b""
    while len(content) < n_bytes:  # once, unless this process is stopped meanwhile
        piece = link.recv(n_bytes - len(content), socket.MSG_WAITALL)
        if not piece:
            sys.exit(0)
        content = content + piece if content else piece
    return content


def _limit_everything(memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which closes the socket when it is done
    if sys.platform != "darwin":  # macOS does not limit addresses
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the sound


def _give_way() -> None:
    """Let whoever has just handed over a file go on, where the system can: fewer switches between processes."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _limit_processor_time(cpu_s: float) -> None:
    """Let this process be killed once it has used that much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
