"""``undertone timeline``: long recordings in, who sounded how and when out."""

import base64
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, NamedTuple, TextIO

from undertone.cli.terminal import (
    COLOURS,
    EXIT_SOME_FAILED,
    LateProgress,
    bar,
    complain,
    error_line,
    fail,
    has_colours,
    has_unicode,
    paint,
    printable,
)

if TYPE_CHECKING:
    from undertone.recognizer import Recognizer
    from undertone.timelines import ChannelTotals, Segment, Timeline

MAX_ROWS = 40  # segments listed on a terminal
BAR_WIDTH = 20  # columns
MIN_STRIP, MAX_STRIP = 20, 120  # columns
MAX_EMBEDDED_BYTES = 3 * 2**20  # a sound up to this size goes into the HTML page itself
SUFFIXES = {".textgrid": "textgrid", ".txt": "audacity", ".htm": "html"}  # others are the format's name
MEDIA_TYPES = {
    ".flac": "audio/flac", ".mp3": "audio/mpeg", ".oga": "audio/ogg", ".ogg": "audio/ogg", ".opus": "audio/ogg",
    ".wav": "audio/wav", ".wave": "audio/wav",
}  # fmt: skip
ROW_FORMATS = ("csv", "jsonl")  # several recordings can share a file

_HEIGHTS = "▁▂▃▄▅▆▇█"


class Format(StrEnum):
    """What is written for machines and for other programs."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    TEXTGRID = "textgrid"
    VTT = "vtt"
    AUDACITY = "audacity"
    RTTM = "rttm"
    HTML = "html"


class Channels(StrEnum):
    """Whether channels are heard together or each on its own."""

    MIX = "mix"
    SPLIT = "split"


class Vad(StrEnum):
    """How speech is found."""

    AUTO = "auto"
    SILERO = "silero"
    ENERGY = "energy"


def run(
    paths: Sequence[Path],
    format: Format | None,
    channels: Channels,
    out: Path | None,
    model: str,
    vad: Vad,
    threads: int | None,
) -> int:
    """Hear all recordings and print or write their timelines; return the exit code."""
    from undertone.cli.predict import find_clips, load

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
    recordings, n_empty = find_clips(paths)
    target = _choose_target(recordings, format, out)
    recognizer = load(model, threads)
    _check_vad(vad)
    n_failed = 0
    try:
        with _Writer(target, recordings) as writer, LateProgress(_seconds(recordings), label="listening (s)") as bar:
            if target.format and target.path is None and sys.stdout.isatty():
                bar.total = 0  # the rows themselves show it
            for recording in recordings:
                found = _hear(recognizer, recording, channels, vad, bar)
                if isinstance(found, str):
                    n_failed += 1
                    if target.format is None:
                        bar.print(error_line(found))
                    else:
                        complain(found)
                elif target.format is None:
                    bar.print("\n".join(_lines(found)))
                else:
                    writer.write(found, recording)
    except OSError as error:
        if out is None:
            raise  # a closed pipe, which the command line framework knows
        fail(f"cannot write {error.filename or out}: {error.strerror or error}")
    if n_failed and len(recordings) > 1:
        complain(f"{n_failed} of {len(recordings)} could not be used")
    return EXIT_SOME_FAILED if n_failed or n_empty else 0


# ---- what goes where ----


class _Target(NamedTuple):
    """Where timelines go: a format for people if None; a file, a folder, or standard output if None."""

    format: Format | None
    path: Path | None
    is_folder: bool


def _choose_target(recordings: Sequence[Path], format: Format | None, out: Path | None) -> _Target:
    if out is None:
        if format and len(recordings) > 1 and format not in ROW_FORMATS:
            fail(f"{len(recordings)} recordings do not fit into one {format} file; give a folder: --out FOLDER")
        return _Target(format, None, is_folder=False)
    suffix = out.suffix.lower()
    name = SUFFIXES.get(suffix, suffix.removeprefix("."))
    is_folder = out.is_dir() or name not in list(Format)
    if is_folder and format is None:
        fail(f"cannot tell the format of {out}: add --format ({', '.join(Format)})")
    format = format or Format(name)
    if is_folder and len(recordings) == 1 and suffix and not out.is_dir():
        is_folder = False  # "-f csv -o table.dat" names a file
    if not is_folder and len(recordings) > 1 and format not in ROW_FORMATS:
        fail(f"{len(recordings)} recordings do not fit into {out}; give a folder: --out FOLDER")
    return _Target(format, out, is_folder)


class _Writer:
    """Writes timelines one after the other to where they belong."""

    def __init__(self, target: _Target, recordings: Sequence[Path]) -> None:
        self._target = target
        self._names = _names(recordings)
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> bool | None:
        return self._stack.__exit__(*error)  # type: ignore[arg-type]

    def write(self, timeline: "Timeline", recording: Path) -> None:
        from undertone import formats

        format, path, is_folder = self._target
        assert format is not None
        if is_folder:
            assert path is not None
            path.mkdir(parents=True, exist_ok=True)
            suffix = formats.TIMELINE_SUFFIXES.get(format, f".{format}")
            path = path / f"{self._names[recording]}{suffix}"
            with formats.open_output(path) as file:
                formats.write_timeline(timeline, file, format, audio=self._audio(recording, path.parent))
        elif self._file is None:
            self._file = self._stack.enter_context(formats.open_output(path))
            folder = Path.cwd() if path is None else path.parent
            formats.write_timeline(timeline, self._file, format, audio=self._audio(recording, folder))
        elif format is Format.CSV:
            formats.write_timeline_csv(timeline, self._file, header=False)
        else:
            formats.write_timeline(timeline, self._file, format)

    def _audio(self, recording: Path, folder: Path) -> str | None:
        return _audio(recording, folder) if self._target.format is Format.HTML else None


def _names(recordings: Sequence[Path]) -> dict[Path, str]:
    """Names for files of a folder, no two alike (nor on a system to which A and a are): stem, name, name 2, ..."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for recording in recordings:
        candidates = [recording.stem, recording.name, *(f"{recording.name} {n}" for n in range(2, len(recordings) + 2))]
        name = next(name for name in candidates if name and name.casefold() not in taken)
        names.setdefault(recording, name)
        taken.add(name.casefold())
    return names


def _audio(recording: Path, folder: Path) -> str:
    """Where the page finds the sound: in itself if it is small, else on its way from ``folder``."""
    from undertone.formats import url_of_file

    media_type = MEDIA_TYPES.get(recording.suffix.lower())
    if media_type and recording.stat().st_size <= MAX_EMBEDDED_BYTES:
        return f"data:{media_type};base64,{base64.b64encode(recording.read_bytes()).decode()}"
    return url_of_file(os.path.relpath(recording.resolve(), folder.resolve()))


# ---- hearing ----


def _check_vad(vad: Vad) -> None:
    from undertone.speech import load_detector

    try:
        load_detector(vad.value)
    except ImportError as error:
        fail(error)


def _seconds(recordings: Sequence[Path]) -> int:
    """Seconds of all recordings by their headers; what cannot be used counts nothing."""
    from undertone.audio import AudioError, audio_info

    seconds = 0.0
    for recording in recordings if sys.stderr.isatty() else ():
        try:
            seconds += audio_info(recording).duration_s or 0.0
        except AudioError:  # told when its turn comes
            continue
    return round(seconds)


def _hear(
    recognizer: "Recognizer", recording: Path, channels: Channels, vad: Vad, progress: LateProgress
) -> "Timeline | str":
    """Return the timeline, or why there is none."""
    from undertone.audio import AudioError
    from undertone.model_file import ModelFileError
    from undertone.timelines import timeline

    start = progress.n_done
    try:
        return timeline(
            recognizer,
            recording,
            channels=channels.value,
            vad=vad.value,
            on_progress=lambda seconds: progress.advance(start + int(seconds) - progress.n_done),
        )
    except AudioError as error:
        return str(error)
    except ModelFileError as error:
        return f"{recording}: {error}"


# ---- for people ----


def _lines(timeline: "Timeline") -> Iterator[str]:
    from undertone.player import clock

    width = min(MAX_STRIP, max(MIN_STRIP, get_terminal_size().columns - 4))
    yield ""
    about = f"{clock(timeline.duration_s)}  {timeline.model}"
    yield f" {paint(printable(timeline.path), 'bold')}  {paint(about, 'dim')}"
    for row, channel in enumerate(timeline.channels()):
        yield ""
        if channel is not None:
            yield f"  {paint(f'channel {channel + 1}', 'bold')}"
        yield from _strip(timeline, row, channel, width)
    end = clock(timeline.duration_s)
    yield paint(f"  {clock(0)}{end:>{width - len(clock(0))}}", "dim")
    yield ""
    yield from _table(timeline)
    for totals in timeline.totals():
        yield ""
        yield from _totals(totals)
    yield ""


def _strip(timeline: "Timeline", row: int, channel: int | None, width: int) -> Iterator[str]:
    """Draw the outline of the waveform in the colours of its emotions; without colours, their initials too."""
    import numpy as np

    peaks = timeline.peaks[row] if row < len(timeline.peaks) else np.zeros(0)
    edges = np.linspace(0, len(peaks), width + 1).astype(int)
    tallest = max(float(peaks.max(initial=0.0)), 1e-6)
    emotions = _emotions(timeline.channel(channel), timeline.duration_s, width)
    drawn, initials = "", ""
    for column, emotion in enumerate(emotions):
        peak = float(peaks[edges[column] : max(edges[column] + 1, edges[column + 1])].max(initial=0.0)) / tallest
        height = _HEIGHTS[min(len(_HEIGHTS) - 1, int(peak**0.5 * len(_HEIGHTS)))]  # the root: soft speech shows too
        style = "bright_black" if emotion in ("", "?") else COLOURS[emotion]
        drawn += paint(height, style) if has_unicode() else ""
        initials += emotion[:2] if emotion in ("", "?") else _INITIALS[emotion]
        initials += " " * (column + 1 - len(initials))
    if drawn:
        yield f"  {drawn}"
    if not has_colours():
        yield f"  {initials.rstrip()}"


_INITIALS = {
    "anger": "A", "disgust": "D", "fear": "F", "happiness": "H", "neutral": "n", "sadness": "S", "surprise": "U",
    "calm": "c", "boredom": "b",
}  # fmt: skip


def _emotions(segments: Sequence["Segment"], duration_s: float, width: int) -> list[str]:
    """Return for each column the emotion that has most of it, ``?`` for not sure, nothing for silence."""
    column_s = duration_s / width
    seconds: list[dict[str, float]] = [{} for _ in range(width)]
    for segment in segments:
        name = segment.emotion or "?"
        for column in range(int(segment.start_s / column_s), min(width, int(segment.end_s / column_s) + 1)):
            start_s, end_s = column * column_s, (column + 1) * column_s
            part_s = min(end_s, segment.end_s) - max(start_s, segment.start_s)
            if part_s > 0:
                seconds[column][name] = seconds[column].get(name, 0.0) + part_s
    return [max(parts, key=lambda name: parts[name]) if parts else "" for parts in seconds]


def _table(timeline: "Timeline") -> Iterator[str]:
    from undertone.player import clock

    if not timeline.segments:
        yield "  no speech was found"
    n_rows = len(timeline.segments)
    shown = timeline.segments[:MAX_ROWS] if sys.stdout.isatty() and n_rows > MAX_ROWS else timeline.segments
    time_width = len(clock(timeline.duration_s))
    for segment in shown:
        times = f"{clock(segment.start_s):>{time_width}} – {clock(segment.end_s):<{time_width}}"
        channel = "" if segment.channel is None else f"  {segment.channel + 1}"
        style = COLOURS[segment.emotion] if segment.emotion else "dim"
        name = paint(f"{segment.emotion or 'not sure':<10}", "bold" if segment.emotion else "dim", style)
        drawn = paint(f"{bar(segment.confidence, BAR_WIDTH):<{BAR_WIDTH}}", style)
        yield f"  {times}{channel}  {name} {drawn} {paint(f'{segment.confidence:6.1%}', 'dim')}"
    if len(shown) < n_rows:
        yield paint(f"  and {n_rows - len(shown):,} more: --format csv lists them all", "dim")


def _totals(totals: "ChannelTotals") -> Iterator[str]:
    from undertone.player import clock

    channel = "" if totals.channel is None else f"channel {totals.channel + 1}, "
    yield f"  {paint(f'{channel}{clock(totals.speech_s)} of speech', 'bold')}"
    for emotion, share in [*totals.shares.items(), ("not sure", totals.not_sure)]:
        if share > 0:
            style = COLOURS.get(emotion, "dim")
            drawn = paint(f"{bar(share, BAR_WIDTH):<{BAR_WIDTH}}", style)
            yield f"    {emotion:<10} {drawn} {paint(f'{share:6.1%}', 'dim')}"
    turns = totals.turning_points
    if turns:
        arrow = "→" if has_unicode() else "->"
        first = ", ".join(f"{clock(turn.time_s)} {turn.before} {arrow} {turn.after}" for turn in turns[:2])
        yield f"    {len(turns):,} turning point{'s' * (len(turns) > 1)}: {first}{', ...' * (len(turns) > 2)}"
    if totals.longest_anger:
        yield f"    longest anger: {clock(totals.longest_anger.start_s)} – {clock(totals.longest_anger.end_s)}"
