"""The process in which the bytes of strangers are decoded: ``python -m undertone.serve.decode_worker FD MEGABYTES``.

It holds no secret, writes no file and talks to the service alone, over the socket with the number FD. Its memory is
limited once, its processor time for each job. If a decoder in it hangs, crashes or is taken over, this process is lost
and nothing else.

A job is ``JOB`` (kind, bytes, seconds of sound, seconds of processor time) and the file. The answer is a row of frames,
each ``FRAME`` (kind, bytes) and its content: ``CHANNELS`` (how many, as text) where they are kept apart, ``SOUND``
(float32, 16 kHz, channels last) any number of times, then ``DONE`` or ``ERROR`` (JSON: code, message). ``READY`` comes
once, at the start.
"""

import json
import resource
import signal
import socket
import struct
import sys

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
    link.sendall(FRAME.pack(READY, 0))
    while header := _receive(link, JOB.size):
        kind, n_bytes, max_duration_s, cpu_s = JOB.unpack(header)
        _limit_processor_time(cpu_s)
        _answer(link, kind, n_bytes, max_duration_s)


def _answer(link: socket.socket, kind: bytes, n_bytes: int, max_duration_s: float) -> None:
    content = _receive(link, n_bytes)
    try:
        _send_sound(link, kind, content, max_duration_s)
    except AudioError as error:
        _send_error(link, "unusable", str(error).removeprefix("audio data: "))
    except _TooLongError as error:
        _send_error(link, "too_long", str(error))
    except MemoryError:
        _send_error(link, "memory", "needs more memory to decode than a file may; convert it to WAV or FLAC first")
        sys.exit(1)  # whatever else failed for want of memory is not worth knowing


class _TooLongError(Exception):
    pass


def _send_sound(link: socket.socket, kind: bytes, content: bytearray, max_duration_s: float) -> None:
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
        waiting.append(block)
        n_waiting += block.size
        if n_waiting >= SOUND_SAMPLES:
            _send(link, SOUND, b"".join(waiting))
            waiting, n_waiting = [], 0
    _send(link, SOUND, b"".join(waiting), then=FRAME.pack(DONE, 0))


def _send(link: socket.socket, kind: bytes, content: bytes, *, then: bytes = b"") -> None:
    link.sendall(b"".join([FRAME.pack(kind, len(content)), content, then]))


def _send_error(link: socket.socket, code: str, message: str) -> None:
    _send(link, ERROR, json.dumps({"code": code, "message": message}).encode())


def _receive(link: socket.socket, n_bytes: int) -> bytearray:
    """Return exactly that many bytes, or none where the service has closed the socket."""
    content = bytearray(n_bytes)
    view = memoryview(content)
    n_done = 0
    while n_done < n_bytes:
        n_new = link.recv_into(view[n_done:])
        if n_new == 0:
            sys.exit(0)
        n_done += n_new
    return content


def _limit_everything(memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which closes the socket when it is done
    if sys.platform != "darwin":  # macOS does not limit addresses
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the sound


def _limit_processor_time(cpu_s: float) -> None:
    """Let this process be killed once it has used that much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
