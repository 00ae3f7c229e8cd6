"""How many times faster than real time a folder of clips is recognised, decoding included.

    python benchmarks/throughput.py                            1,000 synthesised clips, FLAC
    python benchmarks/throughput.py --clips ../corpora/TESS    a folder of your own, up to --n clips

The time is that of ``predict_batch`` on the paths, with the model already loaded and one clip predicted before.
Every repetition is printed; the median is what to quote, with the processors used.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import undertone
from undertone.audio import find_audio
from undertone.model_file import DEFAULT_MODEL, available_cores

SAMPLE_RATE = 16_000  # Hz


def synthesise(folder, n_clips, rng):
    """Write voiced sounds of 1.5 to 5 s, the lengths of acted corpora."""
    for index in range(n_clips):
        times_s = np.arange(int(rng.uniform(1.5, 5.0) * SAMPLE_RATE)) / SAMPLE_RATE
        phase = 2 * np.pi * rng.uniform(90, 260) * times_s
        voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 8))
        syllables = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * times_s)
        noise = rng.standard_normal(len(times_s)) * 0.003
        soundfile.write(folder / f"{index:05d}.flac", 0.1 * voice * syllables + noise, SAMPLE_RATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of clips; synthesised ones if not given")
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    recognizer = undertone.load_model(arguments.model, threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.clips is None:
            synthesise(Path(folder), arguments.n, np.random.default_rng(0))
        paths = find_audio([arguments.clips or Path(folder)])[: arguments.n]
        recognizer.predict(paths[0])
        speeds = []
        for _ in range(arguments.repeat):
            start_s = time.perf_counter()
            predictions = recognizer.predict_batch(paths)
            elapsed_s = time.perf_counter() - start_s
            sound_s = sum(prediction.end_s for prediction in predictions)
            failed = sum(prediction.error is not None for prediction in predictions)
            speeds.append(sound_s / elapsed_s)
            print(f"{len(paths)} clips, {sound_s:,.0f} s of sound in {elapsed_s:.2f} s: {speeds[-1]:,.0f} x", end="")
            print(f"  ({failed} could not be used)" if failed else "")
    threads = arguments.threads or available_cores()
    print(f"median: {statistics.median(speeds):,.0f} times real time on {threads} processors")


if __name__ == "__main__":
    main()
