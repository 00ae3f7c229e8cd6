"""How long the first answer takes: ``undertone predict CLIP`` against importing what it stands on.

    python benchmarks/cold_start.py [CLIP] [--model NAME|FILE] [--runs 15]

Both are started in turn, and the ratio is taken pair by pair, so that a machine whose speed drifts does not move it.
The yardstick is ``python -c "import numpy, soundfile, onnxruntime"``; the aim is a median of at most 2.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from undertone.model_file import DEFAULT_MODEL

YARDSTICK = [sys.executable, "-c", "import numpy, soundfile, onnxruntime"]
DEMO_CLIP = Path(__file__).parents[1] / "demo" / "flat.flac"


def seconds_of(command):
    """Wall time of a command that must succeed, start to exit."""
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", default=str(DEMO_CLIP))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    undertone = shutil.which("undertone", path=str(Path(sys.executable).parent)) or "undertone"
    command = [undertone, "predict", "--model", arguments.model, arguments.clip]
    seconds_of(YARDSTICK), seconds_of(command)  # once, to fill the file cache
    pairs = [(seconds_of(command), seconds_of(YARDSTICK)) for _ in range(arguments.runs)]
    ours_s, theirs_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    print(f"undertone predict: {ours_s:.3f} s; importing numpy, soundfile and onnxruntime: {theirs_s:.3f} s")
    print(f"ratio, pair by pair: {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
