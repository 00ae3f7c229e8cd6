"""What the service does under load, beside the rate of the package itself on the same clips and processors.

    python benchmarks/service.py                           200 visitors, clips of 3 s, 60 s
    python benchmarks/service.py --seconds 10 --json out.json
    python benchmarks/service.py --requests 20000          until so many are answered: memory

Everything shares two processors: the service, its decoders, and the visitors, which are one asyncio process that sends
prepared bytes over open connections and reads the status and length of each answer. The processor time of each is
printed. The offline rate is that of ``predict_batch`` of the same bytes with both processors, measured before and after
the load. Where other programs run beside, both rates fall by what these take; the share by processor time is then the
steadier one: what a clip costs offline, to what it costs service and visitors together.
"""

import argparse
import asyncio
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

import undertone

SAMPLE_RATE = 16_000  # Hz
BOUNDARY = b"----undertone-benchmark"
OFFLINE_CLIPS = 1_500
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY = (429, 503)  # deliberate: come again


def make_clips(n_clips, duration_s, rng):
    """Bytes of WAV files with voiced sounds, no two alike."""
    clips = []
    times_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    for _ in range(n_clips):
        phase = 2 * np.pi * rng.uniform(90, 260) * times_s
        voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8))
        syllables = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * times_s)
        noise = rng.standard_normal(len(times_s)) * 0.003
        file = io.BytesIO()
        soundfile.write(file, 0.1 * voice * syllables + noise, SAMPLE_RATE, format="WAV")
        clips.append(file.getvalue())
    return clips


def offline_rate(recognizer, clips):
    """Clips a second of ``predict_batch``, and milliseconds of processor time per clip."""
    many = [clips[index % len(clips)] for index in range(OFFLINE_CLIPS)]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    recognizer.predict_batch(many)
    cpu_ms = 1000 * (time.process_time() - start_cpu_s) / len(many)
    return len(many) / (time.perf_counter() - start_s), cpu_ms


@contextmanager
def serving(options):
    """Start ``undertone serve``; yields its process and its port."""
    command = [sys.executable, "-m", "undertone", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            line = process.stdout.readline()
            yield process, int(re.search(r":(\d+) ", line)[1])
        finally:
            process.terminate()


def request_bytes(clip):
    """Return a whole HTTP request that uploads a clip."""
    part = b'Content-Disposition: form-data; name="file"; filename="clip.wav"\r\n\r\n'
    body = b"--" + BOUNDARY + b"\r\n" + part + clip + b"\r\n--" + BOUNDARY + b"--\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=" + BOUNDARY
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Load:
    """Visitors that upload one clip after the other, each over a connection of its own."""

    def __init__(self, port, requests):
        self.port = port
        self.requests = requests
        self.seconds = []  # of each answer with status 200
        self.statuses = Counter()

    async def run(self, n_visitors, *, stop_after_s=None, stop_after_requests=None, on_second=None):
        """Upload until the time is over, or so many clips are on their way."""
        self.stop_s = time.perf_counter() + (stop_after_s or 1e9)
        self.n_left = stop_after_requests or 10**12
        visitors = [asyncio.create_task(self._visit(index)) for index in range(n_visitors)]
        watching = asyncio.create_task(self._watch(on_second))
        await asyncio.gather(*visitors)
        watching.cancel()

    async def _watch(self, on_second):
        while on_second:
            on_second()
            await asyncio.sleep(1.0)

    async def _visit(self, index):
        while time.perf_counter() < self.stop_s and self.n_left > 0:
            try:
                await self._upload_all(index)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.statuses[type(error).__name__] += 1

    async def _upload_all(self, index):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while time.perf_counter() < self.stop_s and self.n_left > 0:
                self.n_left -= 1
                start_s = time.perf_counter()
                writer.write(self.requests[index % len(self.requests)])
                index += 1
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
                status = int(head[9:12])
                self.statuses[status] += 1
                if status == 200:
                    self.seconds.append(time.perf_counter() - start_s)
                elif status in BUSY:
                    await asyncio.sleep(1.0)  # as Retry-After says
                if b"connection: close" in head.lower():
                    return
        finally:
            writer.close()


def family(pid):
    """Process ids of a process and its children, which are replaced now and then."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_s(pid):
    """Seconds of processor time of a process and its children, those that have ended included."""
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split() for one in family(pid)]
    return sum(int(value) for row in fields for value in row[11:15]) / TICKS_PER_S


def memory_mb(pid):
    """Megabytes of memory of a process and its children, what they share counted once."""
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid)]
    return sum(int(re.search(r"Pss: +(\d+)", text)[1]) for text in texts) / 1024


def measure(arguments, clips, recognizer):
    """Return all figures of one run."""
    offline = [offline_rate(recognizer, clips)]
    with serving(arguments.serve) as (process, port):
        load = Load(port, [request_bytes(clip) for clip in clips])
        asyncio.run(load.run(8, stop_after_requests=100))  # warm
        load.seconds.clear(), load.statuses.clear()
        memory = []
        service_s, visitors_s, start_s = cpu_s(process.pid), time.process_time(), time.perf_counter()
        asyncio.run(
            load.run(
                arguments.visitors,
                stop_after_s=None if arguments.requests else arguments.seconds,
                stop_after_requests=arguments.requests,
                on_second=lambda: memory.append((sum(load.statuses.values()), memory_mb(process.pid))),
            )
        )
        elapsed_s = time.perf_counter() - start_s
        memory.append((sum(load.statuses.values()), memory_mb(process.pid)))
        service_s, visitors_s = cpu_s(process.pid) - service_s, time.process_time() - visitors_s
    offline.append(offline_rate(recognizer, clips))
    rates, offline_ms = zip(*offline, strict=True)
    service_ms, visitors_ms = 1000 * service_s / len(load.seconds), 1000 * visitors_s / len(load.seconds)
    milliseconds = np.array(load.seconds) * 1000
    return {
        "visitors": arguments.visitors,
        "clip_s": arguments.clip_s,
        "processors": len(os.sched_getaffinity(0)),
        "elapsed_s": round(elapsed_s, 1),
        "answered": len(load.seconds),
        "statuses": {str(status): count for status, count in load.statuses.items()},
        "refused": sum(load.statuses[status] for status in BUSY),
        "failed": sum(count for status, count in load.statuses.items() if status != 200 and status not in BUSY),
        "per_s": round(len(load.seconds) / elapsed_s, 1),
        "p50_ms": round(float(np.percentile(milliseconds, 50))),
        "p95_ms": round(float(np.percentile(milliseconds, 95))),
        "p99_ms": round(float(np.percentile(milliseconds, 99))),
        "offline_per_s": [round(rate, 1) for rate in rates],
        "share_of_offline": round(len(load.seconds) / elapsed_s / statistics.mean(rates), 3),
        "offline_cpu_ms_per_clip": round(statistics.mean(offline_ms), 2),
        "service_cpu_ms_per_request": round(service_ms, 2),
        "visitors_cpu_ms_per_request": round(visitors_ms, 2),
        "share_by_cpu": round(statistics.mean(offline_ms) / (service_ms + visitors_ms), 3),
        "load_average": os.getloadavg()[0],
        "memory_mb": [[count, round(megabytes, 1)] for count, megabytes in memory],
    }


def report(figures):
    """Print the figures for people."""
    print(
        f"{figures['visitors']} visitors, clips of {figures['clip_s']:g} s, {figures['elapsed_s']:g} s "
        f"on {figures['processors']} processors"
    )
    print(f"answered {figures['answered']:,}, refused {figures['refused']:,}, failed {figures['failed']:,}")
    print(f"latency p50 {figures['p50_ms']} ms, p95 {figures['p95_ms']} ms, p99 {figures['p99_ms']} ms")
    rates = " and ".join(f"{rate:g}" for rate in figures["offline_per_s"])
    print(f"{figures['per_s']:g} clips/s; offline {rates} clips/s: {figures['share_of_offline']:.0%}")
    print(
        f"processor time per clip: offline {figures['offline_cpu_ms_per_clip']:g} ms, "
        f"service {figures['service_cpu_ms_per_request']:g} ms and visitors "
        f"{figures['visitors_cpu_ms_per_request']:g} ms: {figures['share_by_cpu']:.0%}; "
        f"load average at the end {figures['load_average']:.1f}"
    )
    memory = figures["memory_mb"]
    marks = [memory[0], *[memory[len(memory) * part // 4] for part in (1, 2, 3)], memory[-1]]
    print("memory: " + ", ".join(f"{megabytes:g} MB after {count:,}" for count, megabytes in marks))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, help="stop after so many answers instead")
    parser.add_argument("--clip-s", type=float, default=3.0)
    parser.add_argument("--n-clips", type=int, default=100, help="different clips")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("serve", nargs="*", help="options of undertone serve, after --")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    clips = make_clips(arguments.n_clips, arguments.clip_s, np.random.default_rng(0))
    recognizer = undertone.load_model()
    recognizer.predict(clips[0])
    figures = measure(arguments, clips, recognizer)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
