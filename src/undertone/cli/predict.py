"""``undertone predict``: clips and folders in, one emotion each out."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from undertone.cli.terminal import (
    COLOURS,
    EXIT_SOME_FAILED,
    LateProgress,
    bar,
    fail,
    fit,
    printable,
    width_of,
)

if TYPE_CHECKING:
    from rich.console import Console

    from undertone.recognizer import Prediction

BAR_WIDTH = 40  # columns, one clip
SHORT_BAR_WIDTH = 20  # columns, one row per clip


class Format(StrEnum):
    """How predictions are written for machines."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Sound files, or folders to search for them.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="An installed model, or any model file."),
    ] = "undertone-small",
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write a CSV table: times, emotion, a column per emotion, error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON array.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Write one JSON object a line.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write to FILE; its suffix (.csv, .json, .jsonl) chooses the format.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, metavar="N", help="Processors to use; all of them if not given.", show_default=False),
    ] = None,
) -> None:
    """Tell the emotion of each clip.

    A clip is one person speaking for a few seconds: WAV, FLAC, Ogg, Opus, MP3 or
    AIFF, at any sample rate. Folders are searched with all they contain.

    [bold]Examples[/bold]

      [cyan]undertone predict clip.wav[/cyan]                   a bar for each emotion
      [cyan]undertone predict *.wav[/cyan]                      a row for each clip
      [cyan]undertone predict calls/ -o calls.csv[/cyan]        a folder, as a table in a file
      [cyan]undertone predict calls/ --jsonl | jq .emotion[/cyan]
      [cyan]undertone predict -m my-model.onnx clip.wav[/cyan]  with a model of your own
      [cyan]undertone predict -- -odd-name.wav[/cyan]           a name that starts with a dash

    A file that cannot be used does not stop the others: its row says what is wrong.

    The exit code is 0 when every clip was scored, 1 when some could not be used,
    and 2 when nothing was done.
    """
    chosen = _choose_format(as_csv, as_json, as_jsonl, out)
    clips = _find_clips(paths)
    recognizer = _load(model, threads)
    predictions = recognizer.predict_iter(clips)
    tally = _Tally()
    if chosen is None:
        _print_rows(predictions, clips, tally, label=recognizer.card.name)
    else:
        _write(predictions, clips, tally, chosen, out, recognizer.labels)
    if tally.n_errors:
        raise typer.Exit(EXIT_SOME_FAILED)


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


def _find_clips(paths: Sequence[Path]) -> list[Path]:
    """Files as named, whatever their suffix (their row tells what is wrong), and what is in the folders."""
    from undertone.audio import find_audio

    clips = []
    for path in paths:
        if path.is_dir():
            found = find_audio([path])
            if not found:
                typer.echo(f"undertone: no sound files in {printable(path)}", err=True)
            clips += found
        else:
            clips.append(path)
    if not clips:
        fail("nothing to do; give sound files, or a folder that has some")
    return clips


def _load(model: str, threads: int | None):  # noqa: ANN202
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

    progress = LateProgress(len(clips), console=None, label="listening")
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
        typer.echo(f"undertone: {tally.n_errors} of {tally.n_clips} could not be used; see column 'error'", err=True)


def _print_rows(predictions: Iterable["Prediction"], clips: Sequence[Path], tally: _Tally, *, label: str) -> None:
    """Print for people: all emotions of a single clip, or one line for each of several."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    ascii_only = not (console.encoding or "").lower().startswith("utf")
    progress = LateProgress(len(clips), console=console if console.is_terminal else None, label="listening")
    path_width = _path_width(console, clips)
    with progress:
        for prediction in tally.count(predictions, progress):
            if prediction.error is not None:
                _print_error(console, prediction)
            elif len(clips) == 1:
                _print_clip(console, prediction, label, ascii_only)
            else:
                _print_row(console, prediction, path_width, ascii_only)
    if tally.n_errors and tally.n_clips > 1:
        console.print(f"{tally.n_errors} of {tally.n_clips} could not be used", style="red")


def _path_width(console: "Console", clips: Sequence[Path]) -> int:
    longest = max(width_of(printable(path)) for path in clips)
    if not console.is_terminal:
        return longest  # in a file or a pipe nothing is cut off
    return max(12, min(longest, console.width - SHORT_BAR_WIDTH - 22))


def _print_clip(console: "Console", prediction: "Prediction", label: str, ascii_only: bool) -> None:
    from rich.text import Text

    seconds = prediction.end_s - prediction.start_s
    header = Text.assemble("\n ", (printable(prediction.path), "bold"), (f"  {seconds:.1f} s  {label}\n", "dim"))
    console.print(header)
    ranked = sorted(prediction.probs.items(), key=lambda item: -item[1])
    for rank, (emotion, prob) in enumerate(ranked):
        drawn = bar(prob, BAR_WIDTH, ascii_only=ascii_only)
        style = COLOURS[emotion]
        line = Text.assemble(
            (f"  {emotion:<10} ", "bold" if rank == 0 else ""),
            (f"{drawn:<{BAR_WIDTH}}", style),
            (f" {prob:6.1%}", "bold" if rank == 0 else "dim"),
        )
        console.print(line)
    console.print()


def _print_row(console: "Console", prediction: "Prediction", path_width: int, ascii_only: bool) -> None:
    from rich.text import Text

    emotion, confidence = prediction.emotion or "", prediction.confidence or 0.0
    drawn = bar(confidence, SHORT_BAR_WIDTH, ascii_only=ascii_only)
    console.print(
        Text.assemble(
            fit(printable(prediction.path), path_width),
            (f"  {emotion:<10} ", f"bold {COLOURS[emotion]}"),
            (f"{drawn:<{SHORT_BAR_WIDTH}}", COLOURS[emotion]),
            (f" {confidence:6.1%}", "dim"),
        )
    )


def _print_error(console: "Console", prediction: "Prediction") -> None:
    from rich.text import Text

    # The message names the file: it is told once.
    console.print(Text.assemble(("✗ " if console.encoding.startswith("utf") else "x ", "bold red"), (printable(prediction.error), "red")))
