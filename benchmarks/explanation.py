"""Whether an explanation points at what the model hears, and what it costs.

    python benchmarks/explanation.py ../corpora/RAVDESS ../corpora/CREMA-D --n 40

*Faithful*: from each clip, its most important cells are silenced together, as many at random, and as many of the
loudest. An explanation that means something lowers the probability of its emotion further than chance does, and
than loudness does.
*Cost*: seconds for a clip of 3 s and one of 30 s, with all processors and with one thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import undertone
from undertone.audio import SAMPLE_RATE, find_audio, load_waveform
from undertone.explanation import N_BANDS, N_TIMES, Cells, explain
from undertone.model_file import DEFAULT_MODEL, available_cores

N_RANDOM = 5  # draws of random cells, for each clip


def falls(recognizer, path, n_silenced, rng):
    """How far the probability falls without the most important, random, and the loudest cells."""
    waveform = load_waveform(path)
    explanation = explain(recognizer, path)
    cells = Cells(waveform, N_TIMES, N_BANDS)
    n_bands, n_times = cells.shape
    parts = np.stack([cells.part(band, time) for band in range(n_bands) for time in range(n_times)])

    def fall(silenced):
        left = waveform - parts[silenced].sum(axis=0)
        probs = recognizer.predict(left, sample_rate=SAMPLE_RATE).probs
        return explanation.prob - probs[explanation.emotion]

    important = np.argsort(-explanation.importance.ravel())[:n_silenced]
    loudest = np.argsort(-np.square(parts).sum(axis=1))[:n_silenced]
    random = [fall(rng.choice(len(parts), n_silenced, replace=False)) for _ in range(N_RANDOM)]
    return fall(important), np.mean(random), fall(loudest)


def seconds(recognizer, waveform):
    """Median time of three explanations."""
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        explain(recognizer, waveform, sample_rate=SAMPLE_RATE)
        times_s.append(time.perf_counter() - start_s)
    return np.median(times_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=40, help="clips of each folder, drawn with a fixed seed")
    parser.add_argument("--silenced", type=int, default=12, help=f"cells of {N_TIMES * N_BANDS}")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    recognizer = undertone.load_model(arguments.model)
    for folder in arguments.folders:
        rng = np.random.default_rng(0)
        clips = find_audio([folder])
        chosen = [clips[index] for index in sorted(rng.choice(len(clips), min(arguments.n, len(clips)), replace=False))]
        found = np.array([falls(recognizer, clip, arguments.silenced, rng) for clip in chosen])
        means = found.mean(axis=0)
        share = np.mean(found[:, 0] > found[:, 1])
        print(
            f"{folder.name}: {len(chosen)} clips, probability falls by {means[0]:.3f} without the {arguments.silenced}",
            end="",
        )
        print(
            f" most important cells, by {means[1]:.3f} without random ones, by {means[2]:.3f} without the loudest;",
            end="",
        )
        print(f" more than random in {share:.0%} of clips")
    sound = load_waveform(find_audio([arguments.folders[0]])[0])
    for duration_s in (3, 30):
        waveform = np.resize(sound, duration_s * SAMPLE_RATE)
        for threads in sorted({1, available_cores()}):
            cost_s = seconds(undertone.load_model(arguments.model, threads=threads), waveform)
            print(f"{duration_s} s of sound, {threads} threads: {cost_s:.2f} s")


if __name__ == "__main__":
    main()
