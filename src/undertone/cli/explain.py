"""``undertone explain``: which moments and which frequencies of a clip made the difference."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from undertone.cli.terminal import COLOURS, LateProgress, bar, fail, has_unicode, paint, printable

if TYPE_CHECKING:
    import numpy as np

    from undertone.explanation import Explanation

SUFFIXES = (".svg", ".html", ".png", ".json")
MAX_CELL_WIDTH = 3  # columns
LABEL_WIDTH = 18  # columns, "3,934 - 5,649 Hz" with its margins
BAR_WIDTH = 16  # columns, sums
N_STRONGEST = 3


def run(
    clip: Path,
    model: str,
    emotion: str | None,
    out: Path | None,
    as_json: bool,
    n_times: int,
    n_bands: int,
) -> None:
    """Explain one clip: print a map, or write a picture."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
    if out is not None and out.suffix.lower() not in SUFFIXES:
        fail(f"cannot tell the format of {out}: name it {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if out is not None and as_json:
        fail("give --out or --json, not both; --out FILE.json writes the same")
    from undertone.audio import load_waveform
    from undertone.explanation import MAX_DURATION_S, explain
    from undertone.recognizer import load_model

    progress = LateProgress(n_times * n_bands, label="silencing")

    def show(n_done: int) -> None:
        while progress.n_done < n_done:
            progress.advance()

    try:
        recognizer = load_model(model)
        waveform = load_waveform(clip, max_duration_s=MAX_DURATION_S)
        with progress:
            explanation = explain(
                recognizer,
                waveform,
                sample_rate=recognizer.card.sample_rate,
                emotion=emotion,
                n_times=n_times,
                n_bands=n_bands,
                on_progress=show,
            )
    except ValueError as error:  # what cannot be used: the sound, the model file, the emotion, the cells
        fail(error)
    if out is not None:
        _write(explanation, waveform, clip, out)
    elif as_json:
        print(_json(explanation, clip))
    else:
        print("\n".join(map_lines(explanation, printable(clip))))


def _json(explanation: "Explanation", clip: Path) -> str:
    return json.dumps({"path": str(clip), **explanation.to_dict()}, ensure_ascii=False)


def _write(explanation: "Explanation", waveform: "np.ndarray", clip: Path, out: Path) -> None:
    from undertone import picture
    from undertone.files import write_file
    from undertone.formats import open_output

    name = printable(clip.name)
    try:
        if out.suffix.lower() == ".png":
            write_file(out, picture.to_png(explanation, waveform))
            print(f"{printable(out)}: without axes or words; .svg and .html have them")
            return
        with open_output(out) as file:
            if out.suffix.lower() == ".svg":
                file.write(picture.to_svg(explanation, waveform, name=name))
            elif out.suffix.lower() == ".html":
                file.write(picture.to_html(explanation, waveform, name=name))
            else:
                file.write(_json(explanation, clip) + "\n")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")


# ---- the map ----


def map_lines(explanation: "Explanation", path: str) -> Iterator[str]:
    """Yield the lines of a map for the terminal: time to the right, frequency upwards, sums at the edges."""
    from undertone.picture import describe, strongest

    emotion = paint(explanation.emotion, "bold", COLOURS[explanation.emotion])
    yield f"\n {emotion} {explanation.prob:.1%}  {paint(path, 'dim')}\n"
    n_times = len(explanation.by_time)
    room = get_terminal_size().columns - LABEL_WIDTH - BAR_WIDTH - 3
    cell_width = min(MAX_CELL_WIDTH, max(1, room // n_times))
    scale = max(0.01, float(abs(explanation.importance).max()))
    largest = max(0.01, float(abs(explanation.by_band).max()))
    edges_hz = [f"{edge:,.0f}" for edge in explanation.bands_hz]
    for band in reversed(range(len(explanation.importance))):
        label = f"{edges_hz[band]:>6} - {edges_hz[band + 1]:>5} Hz"
        cells = "".join(_cell(value / scale, cell_width) for value in explanation.importance[band])
        total = explanation.by_band[band]
        yield f" {paint(label, 'dim')} {cells}  {_coloured(bar(abs(total) / largest, BAR_WIDTH), total)}"
    width = cell_width * n_times
    end = f"{explanation.times_s[-1]:.2f} s"
    yield paint(f"{'':{LABEL_WIDTH}} 0{end:>{max(width - 1, len(end) + 1)}}", "dim")
    yield ""
    cells = strongest(explanation, N_STRONGEST)
    for index, cell in enumerate(cells):
        yield f" {'most' if index == 0 else '':>5}  {describe(explanation, *cell)}"
    if not cells:
        yield "  no cell makes a difference alone"
    strong, weak = (_cell(sign, MAX_CELL_WIDTH) for sign in (1.0, -1.0))
    yield f"\n {strong} less probable without it   {weak} more probable without it\n"


def _cell(strength: float, width: int) -> str:
    """Draw a cell, ``strength`` in [-1, 1]: shades where silencing lowers the probability, lines where it raises it."""
    marks = " ░▒▓█" if has_unicode() else " .+*#"
    if strength < 0:
        marks = " ··──" if has_unicode() else " ..--"
    level = min(4, int(abs(strength) * 4.999))
    return _coloured(marks[level] * width, strength)


def _coloured(text: str, value: float) -> str:
    return paint(text, "red" if value > 0 else "blue") if text.strip() else text
