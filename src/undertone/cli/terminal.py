"""What all commands share on the terminal: text that cannot play tricks, bars, errors, and a progress bar that waits."""

import sys
import threading
import unicodedata
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer

if TYPE_CHECKING:
    from rich.console import Console

PROGRESS_AFTER_S = 2.0
EXIT_SOME_FAILED = 1
EXIT_UNUSABLE = 2  # nothing was done: wrong usage, or no such model

COLOURS = {
    "anger": "red",
    "disgust": "green",
    "fear": "magenta",
    "happiness": "yellow",
    "neutral": "white",
    "sadness": "blue",
    "surprise": "cyan",
    "calm": "bright_cyan",
    "boredom": "bright_black",
}
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def printable(text: object) -> str:
    r"""Return text with all that is no visible character escaped: file names may hold terminal commands.

    Examples
    --------
    >>> printable("a\nb\x1b[31m.wav")
    'a\\nb\\x1b[31m.wav'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(text)
    )


def fail(message: object) -> NoReturn:
    """Print an error and end the command: nothing was done."""
    typer.echo(f"undertone: {printable(message)}", err=True)
    raise typer.Exit(EXIT_UNUSABLE)


def bar(fraction: float, width: int, *, ascii_only: bool = False) -> str:
    """Draw a bar of ``fraction`` of ``width`` columns, in steps of an eighth of a column.

    Examples
    --------
    >>> bar(0.5, 4), bar(0.53, 4), bar(0.5, 4, ascii_only=True)
    ('██', '██▏', '##')
    """
    eighths = round(fraction * width * 8)
    if ascii_only:
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def width_of(text: str) -> int:
    """Columns that printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text
    )


def fit(text: str, width: int) -> str:
    """Fill printable text up to ``width`` columns, or cut off its beginning: the end of a path says more.

    Examples
    --------
    >>> fit("clip.wav", 10), fit("folder/clip.wav", 10)
    ('clip.wav  ', '…/clip.wav')
    """
    if width_of(text) > width:
        while text and width_of(text) > width - 1:
            text = text[1:]
        text = f"…{text}"
    return text + " " * (width - width_of(text))


class LateProgress:
    """A progress bar that appears when the work takes longer than two seconds, and only on a terminal."""

    def __init__(self, total: int, *, console: "Console | None", label: str) -> None:
        """Prepare; ``console`` is where rows are being printed, if that is a terminal."""
        self.total = total
        self.console = console
        self.label = label
        self.n_done = 0
        self._bar: Any = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(PROGRESS_AFTER_S, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            if self._bar:
                self._bar.stop()
            self.total = 0  # a timer that fires just now shows nothing

    def advance(self) -> None:
        """One more is done."""
        with self._lock:
            self.n_done += 1
            if self._bar:
                self._bar.update(self._task, completed=self.n_done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with self._lock:
            if not self.total:
                return
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console or Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.n_done)
            self._bar.start()
