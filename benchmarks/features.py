"""How many times faster than librosa the lab's features are, on real clips and the same processors.

    python benchmarks/features.py --data ../shared/corpora --json out.json

librosa's calls are its own defaults (22,050 Hz, frames of 2,048 samples every 512). Both run in the same processes,
one per core with one thread: librosa takes every other clip, ours batches of clips of similar length, several times
over, since it is done too soon to be timed once. Both get decoded clips at 22,050 Hz, both keep nothing, both have run
once before. For both, the C library is told to keep up to 32 MB of freed memory, as it would otherwise hand pages back
and fetch them again for every clip. Rounds alternate between the two, and the median of the rounds counts, so that
another job on the machine slows both.

The image is that of the recipe nathaniel-2dcnn: mel, chroma, second delta of MFCC-50, spectral contrast and tonnetz of
the harmonic part. For librosa it is the sum of its five calls, the short-time Fourier transform being shared as in the
published script; ours shares one among all. Tonnetz stands in for librosa's constant-Q form, as its docstring says.

Keys of the JSON: ratio_image, ratio_mfcc, ratio_mel (librosa's time over ours, on all cores), the milliseconds per clip
of every feature on one core and on all, and peak_rss_mb: the most memory that one process had while it computed and
dropped the image of that many clips, libraries included.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # in each process
os.environ["MALLOC_TRIM_THRESHOLD_"] = os.environ["MALLOC_MMAP_THRESHOLD_"] = str(32 * 2**20)  # bytes, see above

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import numpy as np

SAMPLE_RATE = 22_050  # Hz, librosa's default
FRAMES = {"n_fft": 2048, "win_length": 2048, "hop_length": 512}
OURS = {
    "mel": {"kind": "mel", "n_mels": 128, **FRAMES},
    "mfcc": {"kind": "mfcc", "n_mfcc": 40, "n_mels": 128, **FRAMES},
    "chroma": {"kind": "chroma", **FRAMES},
    "delta-mfcc": {"kind": "mfcc", "n_mfcc": 50, "n_mels": 128, "n_deltas": 2, "only_delta": True, **FRAMES},
    "contrast": {"kind": "spectral-contrast", **FRAMES},
    "tonnetz": {"kind": "tonnetz", "source": "harmonic", **FRAMES},
}
IMAGE = ["mel", "chroma", "delta-mfcc", "contrast", "tonnetz"]
OURS["image"] = {"kind": "stack", "parts": [OURS[name] for name in IMAGE]}

PASSES = 6  # of ours in a round: one would be over before the second process has begun
CLIPS = []  # of a worker process: (n_samples,) float32 each, from short to long
MODULES = {}  # of a worker process, by name


def compute_with_librosa(name, waveform):
    import librosa
    from librosa import feature

    given = {"y": waveform, "sr": SAMPLE_RATE}
    if name == "mel":
        feature.melspectrogram(**given, n_mels=128)
    elif name == "mfcc":
        feature.mfcc(**given, n_mfcc=40)
    elif name == "delta-mfcc":
        feature.delta(feature.mfcc(**given, n_mfcc=50), order=2)
    elif name == "tonnetz":
        feature.tonnetz(y=librosa.effects.harmonic(waveform), sr=SAMPLE_RATE)
    elif name == "chroma":
        feature.chroma_stft(S=np.abs(librosa.stft(waveform)) ** 2, sr=SAMPLE_RATE)
    elif name == "contrast":
        feature.spectral_contrast(S=np.abs(librosa.stft(waveform)), sr=SAMPLE_RATE)
    else:
        magnitude = np.abs(librosa.stft(waveform))
        feature.chroma_stft(S=magnitude**2, sr=SAMPLE_RATE)
        feature.spectral_contrast(S=magnitude, sr=SAMPLE_RATE)
        for part in ("mel", "delta-mfcc", "tonnetz"):
            compute_with_librosa(part, waveform)


def compute_with_ours(name, clips):
    """Features of one batch."""
    import torch

    waveform = torch.zeros(len(clips), max(map(len, clips)))
    for row, clip in zip(waveform, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    with torch.inference_mode():
        MODULES[name](waveform, torch.tensor([len(clip) for clip in clips]))


def start_worker(clips):
    import torch

    from undertone.lab.features import build_features

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # librosa says that short clips are short
    CLIPS.extend(sorted(clips, key=len))
    MODULES.update({name: build_features(section, sample_rate=SAMPLE_RATE).eval() for name, section in OURS.items()})


def run_librosa(task):
    name, first, step, _ = task
    for waveform in CLIPS[first::step]:
        compute_with_librosa(name, waveform)


def run_ours(task):
    name, first, step, batch_size = task
    for number in range(PASSES):  # in turns: there may be a batch more for one of the processes
        for start in range((first + number) % step * batch_size, len(CLIPS), step * batch_size):
            compute_with_ours(name, CLIPS[start : start + batch_size])


def time_s(pool, function, tasks):
    start_s = time.perf_counter()
    pool.map(function, tasks, chunksize=1)
    return time.perf_counter() - start_s


def compare(clips, n_cores, *, repeat, batch_size):
    """Milliseconds per clip, name -> (librosa, ours): medians over rounds that take turns."""
    milliseconds = {}
    with multiprocessing.get_context("spawn").Pool(n_cores, start_worker, (clips,)) as pool:
        for name in OURS:
            tasks = [(name, first, n_cores, batch_size) for first in range(n_cores)]
            rounds = [[time_s(pool, run, tasks) for run in (run_librosa, run_ours)] for _ in range(repeat + 1)]
            warm = np.array(rounds[1:]) * 1e3 / len(clips) / [1, PASSES]
            milliseconds[name] = tuple(float(statistics.median(column)) for column in warm.T)
    return milliseconds


def peak_rss_mb():
    """Most memory that this process ever had, as Linux counts it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_peak(task):
    """Peak memory in MB of this process, before and after it took features of ``n`` clips."""
    n, batch_size = task
    before_mb = peak_rss_mb()
    for start in range(0, n, batch_size):
        compute_with_ours("image", [CLIPS[index % len(CLIPS)] for index in range(start, min(start + batch_size, n))])
    return before_mb, peak_rss_mb()


def load_clips(root, n_clips):
    """Clips spread over all corpora, (n_samples,) float32 at 22,050 Hz."""
    import soxr

    from undertone.audio import SAMPLE_RATE as RATE
    from undertone.audio import load_waveform
    from undertone.lab.corpora import load

    utterances = load(root)
    chosen = np.random.default_rng(0).choice(len(utterances), min(n_clips, len(utterances)), replace=False)
    return [soxr.resample(load_waveform(utterances[index].path), RATE, SAMPLE_RATE) for index in chosen]


def print_table(one, many, n_cores):
    print(f"{'ms per clip':14}{'one core':>26}{f'{n_cores} cores':>30}")
    print(f"{'':14}" + f"{'librosa':>10}{'ours':>8}{'ratio':>8}    " * 2)
    for name in many:
        cells = [f"{theirs:10.2f}{ours:8.3f}{theirs / ours:8.1f}    " for theirs, ours in (one[name], many[name])]
        print(f"{name:14}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the corpora")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--n", type=int, default=100, help="clips")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[100, 1_000, 10_000], help="clips, of each measurement"
    )
    arguments = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    os.sched_setaffinity(0, cores)  # processes and threads started from here on keep to them
    clips = load_clips(arguments.data, arguments.n)
    options = {"repeat": arguments.repeat, "batch_size": arguments.batch_size}
    one = compare(clips, 1, **options)
    many = compare(clips, len(cores), **options)
    seconds = sum(map(len, clips)) / SAMPLE_RATE / len(clips)
    print(f"{len(clips)} clips of {seconds:.2f} s on average, batches of {arguments.batch_size}")
    print_table(one, many, len(cores))

    peaks_mb = {}
    for n in arguments.memory:  # in a new process each
        with multiprocessing.get_context("spawn").Pool(1, start_worker, (clips,)) as pool:
            before_mb, peaks_mb[str(n)] = pool.apply(measure_peak, [(n, arguments.batch_size)])
        print(f"{n:,} clips: {peaks_mb[str(n)]:.0f} MB at the peak, {before_mb:.0f} MB before the first")
    ratios = {f"ratio_{name}": round(many[name][0] / many[name][1], 2) for name in ("image", "mfcc", "mel")}
    print(", ".join(f"{name} {value}" for name, value in ratios.items()))
    if arguments.json:
        figures = {"clips": len(clips), "mean_duration_s": seconds, "cores": len(cores), "ms_one_core": one}
        content = {**ratios, **figures, "ms_all_cores": many, "peak_rss_mb": peaks_mb}
        temporary = arguments.json.with_suffix(".part")
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
