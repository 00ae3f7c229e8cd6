"""``undertone predict``: clips and folders in, one emotion each out."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from undertone.cli.terminal import (
    COLOURS,
    EXIT_SOME_FAILED,
    LateProgress,
    bar,
    complain,
    error_line,
    fail,
    fit,
    paint,
    printable,
    width_of,
)
from undertone.model_file import DEFAULT_MODEL

if TYPE_CHECKING:
    from undertone.recognizer import Prediction, Recognizer

FLAGS = {"--csv": "as_csv", "--json": "as_json", "--jsonl": "as_jsonl"}
OPTIONS = {"--model": "model", "-m": "model", "--out": "out", "-o": "out"}

BAR_WIDTH = 40  # columns, one clip
SHORT_BAR_WIDTH = 20  # columns, one row per clip


class Format(StrEnum):
    """How predictions are written for machines."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


def parse_plain(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments of :func:`run` for a plain call, or None where typer must look at it.

    Plain are paths and the options of ``FLAGS`` and ``OPTIONS`` written in full; the result is what typer gives.

    Examples
    --------
    >>> parse_plain(["clip.wav", "--json"])["as_json"], parse_plain(["--help"])
    (True, None)
    """
    parsed = {"paths": [], "model": DEFAULT_MODEL, "out": None, "threads": None}
    parsed |= dict.fromkeys(FLAGS.values(), False)
    remaining = iter(arguments)
    for argument in remaining:
        if argument in FLAGS:
            parsed[FLAGS[argument]] = True
        elif argument in OPTIONS:
            value = next(remaining, "")
            if not value or value.startswith("-"):
                return None
            parsed[OPTIONS[argument]] = value if argument in ("--model", "-m") else Path(value)
        elif not argument or argument.startswith("-"):
            return None
        else:
            parsed["paths"].append(Path(argument))
    return parsed if parsed["paths"] else None


def run(
    paths: Sequence[Path],
    model: str,
    as_csv: bool,
    as_json: bool,
    as_jsonl: bool,
    out: Path | None,
    threads: int | None,
) -> int:
    """Predict and print; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
    chosen = _choose_format(as_csv, as_json, as_jsonl, out)
    clips, n_empty = find_clips(paths)
    recognizer = load(model, threads)
    predictions = recognizer.predict_iter(clips)
    tally = _Tally()
    if chosen is None:
        _print_rows(predictions, clips, tally, label=recognizer.card.name)
    else:
        _write(predictions, clips, tally, chosen, out, recognizer.labels)
    if tally.n_errors or n_empty:
        return EXIT_SOME_FAILED
    return 0


class _Tally:
    """Counts what goes by."""

    n_clips = 0
    n_errors = 0

    def count(self, predictions: Iterable["Prediction"], progress: LateProgress) -> Iterator["Prediction"]:
        for prediction in predictions:
            self.n_clips += 1
            self.n_errors += prediction.error is not None
            yield prediction
            progress.advance()


def _choose_format(as_csv: bool, as_json: bool, as_jsonl: bool, out: Path | None) -> Format | None:
    asked = [format for format, flag in zip(Format, (as_csv, as_json, as_jsonl), strict=True) if flag]
    if len(asked) > 1:
        fail(f"give one of --{asked[0]} and --{asked[1]}, not both")
    if asked or out is None:
        return asked[0] if asked else None
    suffix = out.suffix.lower().removeprefix(".")
    if suffix not in list(Format):
        fail(f"cannot tell the format of {out}: name it .csv, .json or .jsonl, or add --csv, --json or --jsonl")
    return Format(suffix)


def find_clips(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Return files as named, whatever their suffix, those in folders, and how many folders are empty.

    What is wrong with a file that cannot be used, its own row tells.
    """
    from undertone.audio import find_audio

    clips, n_empty = [], 0
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long or out of reach
            found = find_audio([path])
            if not found:
                complain(f"no sound files in {printable(path)}")
                n_empty += 1
            clips += found
        else:
            clips.append(path)
    if not clips:
        fail("nothing to do; give sound files, or a folder that has some")
    return clips, n_empty


def load(model: str, threads: int | None) -> "Recognizer":
    """Load a model, or end the command."""
    from undertone.model_file import ModelFileError
    from undertone.recognizer import load_model

    try:
        return load_model(model, threads=threads)
    except ModelFileError as error:
        fail(error)


def _write(
    predictions: Iterable["Prediction"],
    clips: Sequence[Path],
    tally: _Tally,
    format: Format,
    out: Path | None,
    labels: Sequence[str],
) -> None:
    from undertone import formats

    progress = LateProgress(len(clips), label="listening")
    if out is None and sys.stdout.isatty():
        progress.total = 0  # the rows themselves show it
    try:
        with formats.open_output(out) as file, progress:
            counted = tally.count(predictions, progress)
            if format is Format.CSV:
                formats.write_csv(counted, file, labels)
            elif format is Format.JSON:
                formats.write_json(counted, file)
            else:
                formats.write_jsonl(counted, file)
    except OSError as error:
        if out is None:
            raise  # a closed pipe, which the command line framework knows
        fail(f"cannot write {out}: {error.strerror or error}")
    if out and tally.n_errors:
        complain(f"{tally.n_errors} of {tally.n_clips} could not be used; see column 'error'")


def _print_rows(predictions: Iterable["Prediction"], clips: Sequence[Path], tally: _Tally, *, label: str) -> None:
    """Print for people: all emotions of a single clip, or one line for each of several."""
    progress = LateProgress(len(clips), label="listening")
    path_width = _path_width(clips)
    with progress:
        for prediction in tally.count(predictions, progress):
            if prediction.error is not None:
                lines = error_line(prediction.error)
            elif len(clips) == 1:
                lines = _clip_lines(prediction, label)
            else:
                lines = _row(prediction, path_width)
            progress.print(lines)
    if tally.n_errors and tally.n_clips > 1:
        print(paint(f"{tally.n_errors} of {tally.n_clips} could not be used", "red"))


def _path_width(clips: Sequence[Path]) -> int:
    longest = max(width_of(printable(path)) for path in clips)
    if not sys.stdout.isatty():
        return longest  # in a file or a pipe nothing is cut off
    return max(12, min(longest, get_terminal_size().columns - SHORT_BAR_WIDTH - 22))


def _clip_lines(prediction: "Prediction", label: str) -> str:
    seconds = prediction.end_s - prediction.start_s
    lines = [
        "",
        f" {paint(printable(prediction.path), 'bold')}  {paint(f'{seconds:.1f} s  {label}', 'dim')}",
        "",
    ]
    for emotion, prob in sorted(prediction.probs.items(), key=lambda item: -item[1]):
        is_top = emotion == prediction.emotion
        name = paint(f"{emotion:<10}", "bold" if is_top else "")
        drawn = paint(f"{bar(prob, BAR_WIDTH):<{BAR_WIDTH}}", COLOURS[emotion])
        lines.append(f"  {name} {drawn} {paint(f'{prob:6.1%}', 'bold' if is_top else 'dim')}")
    return "\n".join([*lines, ""])


def _row(prediction: "Prediction", path_width: int) -> str:
    emotion, confidence = prediction.emotion or "", prediction.confidence or 0.0
    path = fit(printable(prediction.path), path_width)
    drawn = f"{bar(confidence, SHORT_BAR_WIDTH):<{SHORT_BAR_WIDTH}}"
    named = paint(f"{emotion:<10}", "bold", COLOURS[emotion])
    return f"{path}  {named} {paint(drawn, COLOURS[emotion])} {paint(f'{confidence:6.1%}', 'dim')}"
