"""What live streams cost: compute per hop of one stream on one core, and the lag of many at once in real time.

    python benchmarks/stream.py                                 one stream; 50 streams on 2 threads for a minute
    python benchmarks/stream.py --streams 100 --sample-rate 48000 --json out.json

*Compute*: the time that ``Stream.feed`` takes for all chunks of a hop, its answer included; one processor, one thread
in the runtime. *Lag*: chunks arrive in real time, each stream at a phase of its own; a hop's lag runs from the moment
its last chunk is there to its answer. Streams that fall behind have a lag that grows without end, so the lag of the
last quarter of the time is given beside that of all. *Busy* is the part of the workers' time spent in ``feed``.
"""

import argparse
import heapq
import json
import os
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np

import undertone
from undertone.model_file import DEFAULT_MODEL
from undertone.stream import HOP_S, Stream

CHUNK_S = 0.05


def synthesise(duration_s, sample_rate, seed):
    """Voiced sound with syllables, 16-bit: what a microphone gives."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(int(duration_s * sample_rate)) / sample_rate
    phase = 2 * np.pi * rng.uniform(90, 260) * times_s
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8))
    sound = 0.1 * voice * (0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * times_s))
    return (32_768 * (sound + 0.003 * rng.standard_normal(len(times_s)))).astype(np.int16)


def in_chunks(sound, sample_rate):
    """Endless chunks of CHUNK_S: the sound, again and again."""
    n_chunk = int(CHUNK_S * sample_rate)
    while True:
        for first in range(0, len(sound) - n_chunk + 1, n_chunk):
            yield sound[first : first + n_chunk]


def summary_ms(seconds):
    """Median, 95th and 99th percentile and maximum, in milliseconds."""
    values = np.percentile(np.asarray(seconds) * 1_000, [50, 95, 99, 100]).round(2)
    return dict(zip(("median", "p95", "p99", "max"), values.tolist(), strict=True))


def measure_compute(recognizer, sample_rate, n_hops):
    """Seconds of compute per hop of one stream, when its window is full."""
    stream = Stream(recognizer, sample_rate=sample_rate)
    seconds, spent_s = [], 0.0
    for chunk in in_chunks(synthesise(10.0, sample_rate, 0), sample_rate):
        start_s = time.perf_counter()
        updates = stream.feed(chunk)
        spent_s += time.perf_counter() - start_s
        if updates:
            if updates[0].end_s > stream.window_s:
                seconds.append(spent_s)
            spent_s = 0.0
        if len(seconds) == n_hops:
            return seconds
    return seconds


def serve_streams(recognizer, sample_rate, seeds, start_s, duration_s, lags, busy):
    """Feed streams in real time from one thread; collects (moment, lag) per answer, and its busy seconds."""
    order = count()
    events = []
    for seed in seeds:
        phase_s = np.random.default_rng(seed).uniform(0, HOP_S)
        stream = Stream(recognizer, sample_rate=sample_rate)
        chunks = in_chunks(synthesise(6.0, sample_rate, seed), sample_rate)
        heapq.heappush(events, (start_s + phase_s, next(order), stream, chunks))
    busy_s = 0.0
    while events:
        due_s, _, stream, chunks = heapq.heappop(events)
        if (wait_s := due_s - time.perf_counter()) > 0:
            time.sleep(wait_s)
        begin_s = time.perf_counter()
        updates = stream.feed(next(chunks))
        end_s = time.perf_counter()
        busy_s += end_s - begin_s
        lags.extend((due_s - start_s, end_s - due_s) for _ in updates)
        if due_s + CHUNK_S < start_s + duration_s:
            heapq.heappush(events, (due_s + CHUNK_S, next(order), stream, chunks))
    busy.append(busy_s)


def measure_many(recognizer, sample_rate, n_streams, n_workers, duration_s):
    """Lags of many streams in real time, and how busy the workers were."""
    lags, busy = [], []
    start_s = time.perf_counter() + 2.0  # by then all streams are made
    arguments = (start_s, duration_s, lags, busy)
    workers = [
        threading.Thread(
            target=serve_streams, args=(recognizer, sample_rate, range(first, n_streams, n_workers), *arguments)
        )
        for first in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {
        "streams": n_streams,
        "workers": n_workers,
        "duration_s": duration_s,
        "answers": len(lags),
        "lag_ms": summary_ms([lag for _, lag in lags]),
        "lag_last_quarter_ms": summary_ms([lag for moment, lag in lags if moment > 0.75 * duration_s]),
        "busy": round(sum(busy) / (n_workers * duration_s), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--sample-rate", type=int, default=16_000, help="Hz, of the chunks")
    parser.add_argument("--hops", type=int, default=400, help="of the single stream")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2, help="threads that feed the streams")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the many streams")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    recognizer = undertone.load_model(arguments.model, threads=1)
    # of this thread, in which a runtime of one thread computes too
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if processors:
        os.sched_setaffinity(0, {min(processors)})
    compute = summary_ms(measure_compute(recognizer, arguments.sample_rate, arguments.hops))
    if processors:
        os.sched_setaffinity(0, processors)
    print(f"one stream, one processor, {arguments.sample_rate} Hz, hop {HOP_S} s: {compute} ms per hop")
    many = measure_many(recognizer, arguments.sample_rate, arguments.streams, arguments.workers, arguments.seconds)
    print(
        f"{many['streams']} streams, {many['workers']} workers, {many['answers']} answers in {many['duration_s']:g} s:"
    )
    print(f"  lag {many['lag_ms']} ms, in the last quarter {many['lag_last_quarter_ms']} ms; busy {many['busy']:.1%}")
    if arguments.json:
        figures = {"model": arguments.model, "sample_rate": arguments.sample_rate, "hop_s": HOP_S}
        figures |= {"load_average": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
        arguments.json.write_text(json.dumps({**figures, "compute_ms": compute, "many": many}, indent=1) + "\n")


if __name__ == "__main__":
    main()
