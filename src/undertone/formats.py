"""Predictions as CSV, JSON and JSON Lines, row by row, so that a table can be longer than memory.

Text is UTF-8. The parts of a file name that are no text (possible on Linux) appear as backslash escapes. Seconds
have three decimals, probabilities six.
"""

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from undertone.recognizer import Prediction


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
    target = Path(os.path.realpath(path))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with _open_text(descriptor) as file:
            yield file
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _open_text(file: Path | int) -> TextIO:
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


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _rounded(value: float | None, n_decimals: int) -> float | None:
    return None if value is None else round(value, n_decimals)
