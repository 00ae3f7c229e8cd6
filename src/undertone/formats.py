"""Predictions as CSV, JSON and JSON Lines, row by row, so that a table can be longer than memory; timelines too.

Text is UTF-8. The parts of a file name that are no text (possible on Linux) appear as backslash escapes. Seconds
have three decimals, probabilities six. Where a format has room for one line only (WebVTT, RTTM), what is no visible
character in a name is escaped too.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from undertone.files import replacing

if TYPE_CHECKING:
    from undertone.recognizer import Prediction
    from undertone.timelines import Segment, Timeline

NOT_SURE = "not sure"  # where a format has no null


def write_csv(predictions: Iterable["Prediction"], file: TextIO, labels: Sequence[str]) -> None:
    """Write ``path, start_s, end_s, emotion, confidence``, one column per label, and ``error``.

    Parameters
    ----------
    predictions
        Read one at a time; each row is written before the next one is asked for.
    labels
        The model's labels, in their order: the columns are there even if every row is an error.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "start_s", "end_s", "emotion", "confidence", *labels, "error"])
    for prediction in predictions:
        probs = [_rounded(prediction.probs.get(label), 6) for label in labels]
        writer.writerow(
            [
                prediction.path,
                _rounded(prediction.start_s, 3),
                _rounded(prediction.end_s, 3),
                prediction.emotion,
                _rounded(prediction.confidence, 6),
                *probs,
                prediction.error,
            ]
        )


def write_jsonl(predictions: Iterable["Prediction"], file: TextIO) -> None:
    """Write one JSON object a line, as :func:`to_dict` makes it."""
    for prediction in predictions:
        file.write(json.dumps(to_dict(prediction), ensure_ascii=False) + "\n")


def write_json(predictions: Iterable["Prediction"], file: TextIO) -> None:
    """Write one JSON array with an object per prediction, as :func:`to_dict` makes it."""
    separator = "[\n"
    for prediction in predictions:
        file.write(separator + json.dumps(to_dict(prediction), ensure_ascii=False))
        separator = ",\n"
    file.write("\n]\n" if separator == ",\n" else "[]\n")


def to_dict(prediction: "Prediction") -> dict[str, Any]:
    """Return a prediction as plain JSON types: the columns of the CSV, with ``probs`` as one object."""
    return {
        "path": prediction.path,
        "start_s": _rounded(prediction.start_s, 3),
        "end_s": _rounded(prediction.end_s, 3),
        "emotion": prediction.emotion,
        "confidence": _rounded(prediction.confidence, 6),
        "probs": {label: _rounded(prob, 6) for label, prob in prediction.probs.items()},
        "error": prediction.error,
    }


def write_timeline(timeline: "Timeline", file: TextIO, format: str, *, audio: str | None = None) -> None:
    """Write a timeline.

    Parameters
    ----------
    format
        A key of ``TIMELINE_FORMATS``.
    audio
        For ``"html"``, where its player finds the sound: a URL relative to the page, or a ``data:`` URL. If None, the
        recording's file name: a page that lies beside it plays it.

    Raises
    ------
    ValueError
        If there is no such format.
    """
    if format not in TIMELINE_FORMATS:
        raise ValueError(f"no format is called {format!r}; there are {', '.join(TIMELINE_FORMATS)}")
    if format == "html":
        write_timeline_html(timeline, file, audio=audio)
    else:
        TIMELINE_FORMATS[format](timeline, file)


def timeline_to_dict(timeline: "Timeline") -> dict[str, Any]:
    """Return a timeline as plain JSON types; an emotion that is null is not sure."""
    return {
        "path": timeline.path,
        "duration_s": _rounded(timeline.duration_s, 3),
        "n_channels": timeline.n_channels,
        "model": timeline.model,
        "labels": list(timeline.labels),
        "segments": [_segment_to_dict(segment) for segment in timeline.segments],
        "totals": [
            {
                "channel": totals.channel,
                "speech_s": _rounded(totals.speech_s, 3),
                "shares": {emotion: _rounded(share, 6) for emotion, share in totals.shares.items()},
                "not_sure": _rounded(totals.not_sure, 6),
                "turning_points": [
                    {"time_s": _rounded(turn.time_s, 3), "before": turn.before, "after": turn.after}
                    for turn in totals.turning_points
                ],
                "longest_anger": totals.longest_anger and _segment_to_dict(totals.longest_anger),
            }
            for totals in timeline.totals()
        ],
    }


def _segment_to_dict(segment: "Segment") -> dict[str, Any]:
    return {
        "channel": segment.channel,
        "start_s": _rounded(segment.start_s, 3),
        "end_s": _rounded(segment.end_s, 3),
        "emotion": segment.emotion,
        "confidence": _rounded(segment.confidence, 6),
        "probs": {label: _rounded(prob, 6) for label, prob in segment.probs.items()},
    }


def write_timeline_csv(timeline: "Timeline", file: TextIO, *, header: bool = True) -> None:
    """Write ``path, channel, start_s, end_s, emotion, confidence`` and one column per label, a row per segment.

    An empty emotion is not sure, an empty channel means that all were mixed. Rows of several timelines of one model can
    follow each other: ``header`` for the first only.
    """
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(["path", "channel", "start_s", "end_s", "emotion", "confidence", *timeline.labels])
    for segment in timeline.segments:
        row = _segment_to_dict(segment)
        probs = [row["probs"].get(label) for label in timeline.labels]
        writer.writerow([_text(timeline.path), *(row[name] for name in _SEGMENT_COLUMNS), *probs])


_SEGMENT_COLUMNS = ("channel", "start_s", "end_s", "emotion", "confidence")


def write_timeline_json(timeline: "Timeline", file: TextIO) -> None:
    """Write one JSON object, as :func:`timeline_to_dict` makes it."""
    file.write(_json(timeline_to_dict(timeline)) + "\n")


def write_timeline_jsonl(timeline: "Timeline", file: TextIO) -> None:
    """Write one JSON object a segment, each with the ``path``."""
    for segment in timeline.segments:
        file.write(_json({"path": timeline.path, **_segment_to_dict(segment)}) + "\n")


def write_timeline_textgrid(timeline: "Timeline", file: TextIO) -> None:
    """Write a Praat TextGrid in the long format, one interval tier per channel.

    A tier covers the whole recording: an interval holds the emotion, ``not sure``, or nothing where nobody speaks.
    """
    end_s = f"{timeline.duration_s:.3f}"
    channels = timeline.channels()
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s}"]
    lines += ["tiers? <exists>", f"size = {len(channels)}", "item []:"]
    for number, channel in enumerate(channels, 1):
        intervals = _intervals(timeline.channel(channel), timeline.duration_s)
        name = "emotion" if channel is None else f"emotion, channel {channel + 1}"
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end_s}", f"        intervals: size = {len(intervals)}"]
        for index, (start, end, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{index}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines.append(f'            text = "{text}"')
    file.write("\n".join(lines) + "\n")


def _intervals(segments: Sequence["Segment"], duration_s: float) -> list[tuple[str, str, str]]:
    """Return (start, end, text) in milliseconds as text, from 0 to the end without a gap."""
    last = round(duration_s * 1_000)
    edges: list[tuple[int, int, str]] = []
    position = 0
    for segment in segments:
        start, end = round(segment.start_s * 1_000), min(round(segment.end_s * 1_000), last)
        if start > position:
            edges.append((position, start, ""))
        if end > max(start, position):
            edges.append((max(start, position), end, segment.emotion or NOT_SURE))
            position = end
    if position < last or not edges:
        edges.append((position, last, ""))
    return [(f"{start / 1_000:.3f}", f"{end / 1_000:.3f}", text) for start, end, text in edges]


def write_timeline_vtt(timeline: "Timeline", file: TextIO) -> None:
    """Write WebVTT subtitles: a cue per segment, with the channel as the voice where channels are apart."""
    file.write("WEBVTT\n\n")
    if timeline.path is not None:
        name = _one_line(timeline.path).replace("-->", "--\\x3e")  # the arrow would end the note
        file.write(f"NOTE {name}\n\n")
    for number, segment in enumerate(timeline.segments, 1):
        start, end = round(segment.start_s * 1_000), round(segment.end_s * 1_000)
        if end <= start:
            continue
        voice = "" if segment.channel is None else f"<v Channel {segment.channel + 1}>"
        file.write(f"{number}\n{_clock(start)} --> {_clock(end)}\n{voice}{_words(segment)}\n\n")


def write_timeline_audacity(timeline: "Timeline", file: TextIO) -> None:
    """Write Audacity's labels: start, end and text, parted by tabs."""
    for segment in timeline.segments:
        channel = "" if segment.channel is None else f"channel {segment.channel + 1}: "
        file.write(f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{channel}{_words(segment)}\n")


def write_timeline_rttm(timeline: "Timeline", file: TextIO) -> None:
    """Write RTTM, NIST's rich transcription time marks, with the emotion in the speaker's place.

    Fields are parted by blanks, so the recording is the file's name with an underscore for each blank in it. Channels
    count from 1.
    """
    name = "recording" if timeline.path is None else _one_line(Path(timeline.path).stem)
    name = "_".join(name.split()) or "recording"
    for segment in timeline.segments:
        start, end = round(segment.start_s * 1_000), round(segment.end_s * 1_000)
        channel = 1 if segment.channel is None else segment.channel + 1
        emotion = (segment.emotion or NOT_SURE).replace(" ", "_")
        times = f"{start / 1_000:.3f} {(end - start) / 1_000:.3f}"
        confidence = f"{segment.confidence:.6f}"
        file.write(f"SPEAKER {name} {channel} {times} <NA> <NA> {emotion} {confidence} <NA>\n")


def write_timeline_html(timeline: "Timeline", file: TextIO, *, audio: str | None = None) -> None:
    """Write a page that plays the recording over its coloured waveform; it asks nothing of any network.

    Parameters
    ----------
    audio
        As in :func:`write_timeline`.
    """
    from undertone.player import fill_page  # only here: the page is larger than the rest

    content = timeline_to_dict(timeline)
    content["path"] = _one_line(timeline.path) if timeline.path is not None else None
    content["peaks"] = [[round(float(peak), 3) for peak in row] for row in timeline.peaks]
    if audio is None and timeline.path is not None:
        audio = url_of_file(Path(timeline.path).name)
    file.write(fill_page(content, audio=audio))


def url_of_file(path: str | os.PathLike[str]) -> str:
    """Return a path as a relative URL, byte by byte: whatever a name holds, the browser asks for that file."""
    from urllib.parse import quote

    quoted = quote(os.fsencode(path).replace(os.sep.encode(), b"/"))
    return quoted if quoted.startswith("/") else f"./{quoted}"  # "a:b.wav" alone would be a scheme


TIMELINE_FORMATS: dict[str, Callable[["Timeline", TextIO], None]] = {
    "csv": write_timeline_csv,
    "json": write_timeline_json,
    "jsonl": write_timeline_jsonl,
    "textgrid": write_timeline_textgrid,
    "vtt": write_timeline_vtt,
    "audacity": write_timeline_audacity,
    "rttm": write_timeline_rttm,
    "html": write_timeline_html,
}
TIMELINE_SUFFIXES = {"textgrid": ".TextGrid", "audacity": ".txt"}  # others have the format's name


def _words(segment: "Segment") -> str:
    return f"{segment.emotion or NOT_SURE} {segment.confidence:.0%}"


def _clock(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1_000)
    return f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{milliseconds:03d}"


def _one_line(text: str) -> str:
    """Return text with all that is no visible character as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _text(text: str | None) -> str | None:
    """Return text that every file takes: bytes of a name that are no text as escapes."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(content: object) -> str:
    """Return JSON that every file takes; a byte of a name that is no text is the escape that reads back as it."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under its name only when all is written; None is standard output.

    Left by an exception, it leaves no file behind, and one that was there before stays as it was. Links stay
    links, and what is no regular file (a named pipe, a device such as /dev/null) is written to as it comes.
    """
    if path is None or _is_standard_output(path):
        yield _standard_output()
        return
    if path.exists() and not path.is_file():
        with _open_text(path) as file:
            yield file
        return
    with replacing(path) as temporary, _open_text(temporary) as file:
        yield file


def _open_text(file: Path) -> TextIO:
    return open(file, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: PTH123


def _is_standard_output(path: Path) -> bool:
    """Whether this is /dev/stdout, say, or the file that standard output goes to: to replace it would lose rows."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _standard_output() -> TextIO:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return sys.stdout


def _rounded(value: float | None, n_decimals: int) -> float | None:
    return None if value is None else round(value, n_decimals)
