"""Fuzzing of ``undertone.audio``: mutated files must end in a waveform or in AudioError.

    python -m tests.fuzz.audio --n 20000 --seed 0 --jobs 2

A case is a pair (seed, index): the same pair is the same bytes everywhere, because the files that are
mutated are kept in ``seeds/`` (made once by ``--make-seeds``; encoders differ between versions and draw serial
numbers). Cases run in worker processes whose address space is limited to 1 GB. A case fails when it takes
longer than ``--timeout``, kills its worker, raises anything but AudioError, or returns something that is no
waveform; its bytes are then written to ``--keep``, and its numbers belong into ``kept.json``, which the tests
replay. The exit code is 0 when no case failed.
"""

import argparse
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
KEPT = HERE / "kept.json"
MEMORY_LIMIT = 1 << 30  # bytes of address space, so of resident memory too
RESULT, REFUSED = "result", "AudioError"
GOOD = (RESULT, REFUSED)

# values that parsers stumble over
_EDGES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    24,
    32,
    64,
    255,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
_REFUSED_SEEDS = ("gsm.wav", "ima.aifc", "ima.wav", "ms.wav", "pcm16.caf", "pcm16.w64")
_TAGS = (
    b"fmt ",
    b"data",
    b"fact",
    b"LIST",
    b"ds64",
    b"RIFF",
    b"COMM",
    b"SSND",
    b"FORM",
    b"OggS",
    b"fLaC",
    b"ID3\x04",
)


# ---- cases ----


def load_seeds() -> dict[str, bytes]:
    """Return the files to mutate by name, in a fixed order."""
    return {path.name: path.read_bytes() for path in sorted(SEEDS.iterdir())}


def make_case(seed: int, index: int, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    """Return how a case was made, in words, and its bytes."""
    rng = np.random.default_rng([seed, index])
    name = _choose(rng, list(seeds))
    if name in _REFUSED_SEEDS:  # they are here to be mistaken for something else; mostly another choice is worth more
        name = _choose(rng, list(seeds))
    content = bytearray(seeds[name])
    steps = [name]
    for _ in range(_choose(rng, (1, 1, 1, 1, 2, 2, 3, 4))):
        mutation = _choose(rng, _GENTLE if rng.random() < 0.5 else _MUTATIONS)
        content = mutation(rng, content, seeds)
        steps.append(mutation.__name__.strip("_"))
    if rng.random() < 0.7:  # else nearly every mutated Ogg page would be dropped for its checksum
        content = _repair_ogg(content)
    return " ".join(steps), bytes(content)


def _choose(rng, items):
    return items[int(rng.integers(len(items)))]


def _position(rng, content: bytearray) -> int:
    """Often in the header, where it matters most."""
    end = min(len(content), 96) if rng.random() < 0.3 else len(content)
    return int(rng.integers(max(1, end)))


def _span(rng, content: bytearray) -> tuple[int, int]:
    start = _position(rng, content)
    return start, start + int(rng.integers(1, 2 ** int(rng.integers(1, 12))))


def _flip_bits(rng, content, seeds):
    for _ in range(_choose(rng, (1, 1, 2, 4, 16))):
        if content:
            content[_position(rng, content)] ^= 1 << int(rng.integers(8))
    return content


def _set_field(rng, content, seeds):
    n_bytes = _choose(rng, (1, 2, 4, 8))
    value = _choose(rng, _EDGES) if rng.random() < 0.7 else int(rng.integers(2**32))
    field = (value % 256**n_bytes).to_bytes(n_bytes, _choose(rng, ("little", "big")))
    start = _position(rng, content)
    content[start : start + n_bytes] = field
    return content


def _set_chunk_size(rng, content, seeds):
    found = [content.find(tag) for tag in _TAGS if tag in content]
    if found:
        start = _choose(rng, found) + 4
        value = _choose(rng, _EDGES) if rng.random() < 0.5 else int(rng.integers(2 * len(content)))
        content[start : start + 4] = struct.pack(_choose(rng, ("<I", ">I")), value)
    return content


def _truncate(rng, content, seeds):
    return content[: _position(rng, content)]


def _delete(rng, content, seeds):
    start, end = _span(rng, content)
    del content[start:end]
    return content


def _repeat(rng, content, seeds):
    start, end = _span(rng, content)
    content[start:start] = content[start:end] * int(rng.integers(1, 40))
    return content


def _insert_noise(rng, content, seeds):
    start, end = _span(rng, content)
    content[start:start] = rng.bytes(end - start)
    return content


def _overwrite(rng, content, seeds):
    start, end = _span(rng, content)
    filler = (
        rng.bytes(end - start) if rng.random() < 0.5 else bytes([_choose(rng, (0, 0x7F, 0x80, 0xFF))]) * (end - start)
    )
    content[start:end] = filler
    return content


def _insert_tag(rng, content, seeds):
    start = _position(rng, content)
    content[start:start] = _choose(rng, _TAGS) + struct.pack(_choose(rng, ("<I", ">I")), _choose(rng, _EDGES))
    return content


def _splice(rng, content, seeds):
    other = seeds[_choose(rng, list(seeds))]
    return content[: _position(rng, content)] + other[_position(rng, bytearray(other)) :]


def _swap_header(rng, content, seeds):
    other = seeds[_choose(rng, list(seeds))]
    n_bytes = _choose(rng, (4, 12, 36, 44, 64))
    return bytearray(other[:n_bytes]) + content[n_bytes:]


def _prepend_id3(rng, content, seeds):
    size = int(rng.integers(0, 40)) if rng.random() < 0.8 else int(rng.integers(2**28))
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return bytearray(b"ID3\x04\x00" + bytes([_choose(rng, (0, 0x10))]) + digits) + rng.bytes(min(size, 40)) + content


_GENTLE = (_flip_bits, _set_field, _set_chunk_size, _overwrite, _insert_noise)
_MUTATIONS = (
    _flip_bits,
    _set_field,
    _set_chunk_size,
    _truncate,
    _delete,
    _repeat,
    _insert_noise,
    _overwrite,
    _insert_tag,
    _splice,
    _swap_header,
    _prepend_id3,
)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    return table


_CRC = _crc_table()


def _repair_ogg(content: bytearray) -> bytearray:
    """Give every Ogg page the checksum of what it holds now."""
    start = content.find(b"OggS")
    while start >= 0 and start + 27 <= len(content):
        body = start + 27 + content[start + 26]
        end = min(len(content), body + sum(content[start + 27 : body]))
        content[start + 22 : start + 26] = bytes(4)
        crc = 0
        for byte in content[start:end]:
            crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
        content[start + 22 : start + 26] = struct.pack("<I", crc)
        start = content.find(b"OggS", start + 27)
    return content


# ---- running a case, in a worker ----


def run_case(content: bytes, folder: Path | None, misdeed: Callable[[], object] | None = None) -> str:
    """Return ``"result"``, ``"AudioError"``, or what went wrong; by way of a file if a folder is given."""
    from undertone.audio import MAX_DURATION_S, SAMPLE_RATE, AudioError, load_waveform

    source: bytes | Path = content
    if folder is not None:
        source = folder / "case.wav"
        source.write_bytes(content)
    try:
        if misdeed:
            misdeed()
        waveform = load_waveform(source)
    except AudioError as error:
        return REFUSED if len(str(error)) > 20 else f"AudioError without a sentence: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if waveform.dtype != np.float32 or waveform.ndim != 1 or not 1 <= len(waveform) <= MAX_DURATION_S * SAMPLE_RATE + 1:
        return f"no waveform: {waveform.dtype} {waveform.shape}"
    return RESULT if np.abs(waveform).max() <= 1 else "no waveform: beyond [-1, 1]"


_SABOTAGE: dict[str, Callable[[], object]] = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(3_600),
    "memory": lambda: np.ones(MEMORY_LIMIT // 8),
    "exception": lambda: 1 / 0,
}


def measure_peak_mb() -> int:
    """Largest memory of this process so far; Linux's ru_maxrss would begin at what the parent had when it forked."""
    import resource  # not on Windows

    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _work(seed: int, indices: list[int], sabotage: str | None) -> None:
    """Run cases and print a line before and after each; in limited memory, so that a bomb is a MemoryError.

    With ``sabotage``, case 1 goes wrong in that way, so that a test can tell whether it would be noticed.
    """
    import faulthandler
    import logging
    import resource

    faulthandler.enable()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds = load_seeds()
    with tempfile.TemporaryDirectory() as folder:
        for index in indices:
            print(json.dumps({"begin": index}), flush=True)
            _, content = make_case(seed, index, seeds)
            start_s = time.perf_counter()
            misdeed = _SABOTAGE[sabotage] if sabotage and index == 1 else None
            outcome = run_case(content, Path(folder) if index % 2 else None, misdeed)
            peak_mb = measure_peak_mb()
            took_s = time.perf_counter() - start_s
            print(
                json.dumps({"end": index, "outcome": outcome, "took_s": took_s, "peak_mb": peak_mb}),
                flush=True,
            )


# ---- running many, in the parent ----


@dataclass
class Report:
    """What became of a run: counts by outcome, the failures, the extremes."""

    counts: Counter
    failures: dict[int, str]
    slowest_s: float = 0.0
    slowest: int = -1
    peak_mb: int = 0

    def __str__(self) -> str:
        """Return the report as lines for people."""
        total = sum(self.counts.values())
        lines = [f"{total} cases: " + ", ".join(f"{n} {what}" for what, n in self.counts.most_common())]
        lines.append(f"slowest {self.slowest_s:.2f} s (case {self.slowest}), peak memory {self.peak_mb} MB")
        return "\n".join(lines + [f"FAILED case {index}: {what}" for index, what in sorted(self.failures.items())])


def run(
    seed: int, indices: list[int], *, n_jobs: int = 1, timeout_s: float = 20.0, sabotage: str | None = None
) -> Report:
    """Run the cases (seed, index) of ``indices`` in worker processes and return the report."""
    report = Report(Counter(), {})
    waiting = [_Worker(seed, part, sabotage) for job in range(n_jobs) if (part := indices[job::n_jobs])]
    try:
        while waiting:
            ready, _, _ = select.select([worker.process.stdout for worker in waiting], [], [], 0.5)
            waiting = [
                worker
                for worker in waiting
                if worker.step(report, can_read=worker.process.stdout in ready, timeout_s=timeout_s)
            ]
    finally:
        for worker in waiting:
            worker.stop()
    return report


class _Worker:
    """One worker process and the cases it still has to do; started again after a case that killed it."""

    def __init__(self, seed: int, indices: list[int], sabotage: str | None):
        self.left = indices
        self.command = [sys.executable, str(Path(__file__).resolve()), "--worker", "--seed", str(seed)]
        if sabotage:
            self.command += ["--sabotage", sabotage]
        self.start()

    def start(self) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            bufsize=0,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.left).encode() + b"\n")
        self.process.stdin.close()
        self.text = b""
        self.current: int | None = None
        self.since_s = time.monotonic()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()

    def step(self, report: Report, *, can_read: bool, timeout_s: float) -> bool:
        """Read what there is; return whether this worker has more to do."""
        if can_read:
            assert self.process.stdout is not None
            content = os.read(self.process.stdout.fileno(), 1 << 16)
            self.text += content
            *lines, self.text = self.text.split(b"\n")
            for line in lines:
                self._take(json.loads(line), report)
            if content:
                return True
            return self._end(report, f"crash: exit code {self.process.wait()}")
        if time.monotonic() - self.since_s > timeout_s:
            return self._end(report, f"hang: over {timeout_s:g} s")
        return True

    def _take(self, message: dict, report: Report) -> None:
        self.since_s = time.monotonic()
        if "begin" in message:
            self.current = message["begin"]
            return
        self.current = None
        self.left = self.left[1:]
        outcome = message["outcome"]
        report.counts[outcome if outcome in GOOD else "other"] += 1
        if outcome not in GOOD:
            report.failures[message["end"]] = outcome
        if message["took_s"] > report.slowest_s:
            report.slowest_s, report.slowest = message["took_s"], message["end"]
        report.peak_mb = max(report.peak_mb, message["peak_mb"])

    def _end(self, report: Report, what: str) -> bool:
        """Count the case that ended the worker, and go on with the next in a new one."""
        if not self.left:
            self.stop()
            return False
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")[-2_000:]
        self.stop()
        if self.current is None:
            raise RuntimeError(f"the worker ended before its first case ({what}):\n{said}")
        report.counts[what.split(":")[0]] += 1
        report.failures[self.current] = f"{what}\n{said}"
        self.left = self.left[1:]
        if self.left:
            self.start()
        return bool(self.left)


# ---- the seeds ----


def make_seeds() -> None:
    """Write the files to mutate: small, one of every kind that is read and of some that are refused."""
    import soundfile

    kinds = {
        "pcm16.wav": ("WAV", "PCM_16", 8_000, 1),
        "pcm8.wav": ("WAV", "PCM_U8", 8_000, 2),
        "pcm24.wav": ("WAVEX", "PCM_24", 16_000, 2),
        "pcm32.wav": ("WAV", "PCM_32", 8_000, 1),
        "float.wav": ("WAV", "FLOAT", 8_000, 1),
        "double.wav": ("WAVEX", "DOUBLE", 8_000, 1),
        "alaw.wav": ("WAV", "ALAW", 8_000, 1),
        "ulaw.wav": ("WAV", "ULAW", 8_000, 1),
        "rf64.wav": ("RF64", "PCM_16", 8_000, 1),
        "ima.wav": ("WAV", "IMA_ADPCM", 8_000, 1),
        "ms.wav": ("WAV", "MS_ADPCM", 8_000, 2),
        "gsm.wav": ("WAV", "GSM610", 8_000, 1),
        "pcm16.aiff": ("AIFF", "PCM_16", 8_000, 1),
        "pcm24.aiff": ("AIFF", "PCM_24", 11_025, 1),
        "float.aifc": ("AIFF", "FLOAT", 8_000, 1),
        "ulaw.aifc": ("AIFF", "ULAW", 8_000, 1),
        "ima.aifc": ("AIFF", "IMA_ADPCM", 8_000, 1),
        "pcm16.flac": ("FLAC", "PCM_16", 16_000, 1),
        "pcm24.flac": ("FLAC", "PCM_24", 22_050, 2),
        "mono.ogg": ("OGG", "VORBIS", 16_000, 1),
        "stereo.ogg": ("OGG", "VORBIS", 44_100, 2),
        "mono.opus": ("OGG", "OPUS", 16_000, 1),
        "stereo.opus": ("OGG", "OPUS", 48_000, 2),
        "mono.mp3": ("MP3", "MPEG_LAYER_III", 16_000, 1),
        "stereo.mp3": ("MP3", "MPEG_LAYER_III", 44_100, 2),
        "pcm16.caf": ("CAF", "PCM_16", 8_000, 1),
        "pcm16.w64": ("W64", "PCM_16", 8_000, 1),
    }
    SEEDS.mkdir(exist_ok=True)
    for name, (container, subtype, sample_rate, n_channels) in kinds.items():
        rng = np.random.default_rng(0)
        duration_s = 0.5 if container in ("FLAC", "OGG", "MP3") else 0.12  # so that content outweighs headers
        times_s = np.arange(round(duration_s * sample_rate)) / sample_rate
        sound = 0.4 * np.sin(2 * np.pi * 220 * times_s) + 0.02 * rng.standard_normal(len(times_s))
        frames = np.repeat(sound[:, np.newaxis], n_channels, axis=1).astype(np.float32)
        temporary = SEEDS / f"{name}.part"
        with temporary.open("wb") as file:
            soundfile.write(file, frames, sample_rate, format=container, subtype=subtype)
        temporary.rename(SEEDS / name)


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds a case may take")
    parser.add_argument("--keep", type=Path, default=Path(".cache/fuzz"), help="folder for the bytes of failed cases")
    parser.add_argument("--make-seeds", action="store_true", help="write seeds/ anew and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sabotage", choices=list(_SABOTAGE), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_seeds:
        make_seeds()
        return 0
    if arguments.worker:
        _work(arguments.seed, json.loads(sys.stdin.readline()), arguments.sabotage)
        return 0
    start_s = time.perf_counter()
    indices = list(range(arguments.first, arguments.first + arguments.n))
    report = run(arguments.seed, indices, n_jobs=arguments.jobs, timeout_s=arguments.timeout)
    print(f"{report}\nseed {arguments.seed}, {time.perf_counter() - start_s:.0f} s")
    seeds = load_seeds()
    for index in report.failures:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        steps, content = make_case(arguments.seed, index, seeds)
        (arguments.keep / f"{arguments.seed}-{index}.bin").write_bytes(content)
        print(f"{arguments.keep}/{arguments.seed}-{index}.bin: {steps}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
