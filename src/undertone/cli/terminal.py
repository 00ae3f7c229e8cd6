"""What commands share on the terminal: text that cannot play tricks, bars, errors, a progress bar that waits."""

import os
import sys
import threading
import unicodedata
from functools import cache
from typing import Any, NoReturn, Self

PROGRESS_AFTER_S = 2.0
EXIT_SOME_FAILED = 1
EXIT_UNUSABLE = 2  # nothing was done: wrong usage, or no such model

COLOURS = {
    "anger": "red",
    "disgust": "green",
    "fear": "magenta",
    "happiness": "yellow",
    "neutral": "",
    "sadness": "blue",
    "surprise": "cyan",
    "calm": "bright_cyan",
    "boredom": "bright_black",
}
_CODES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
    "white": "37", "bright_black": "90", "bright_cyan": "96",
}  # fmt: skip
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def printable(text: object) -> str:
    r"""Return text with all that is no visible character escaped: file names may hold terminal commands.

    Examples
    --------
    >>> printable("a\nb\x1b[31m.wav")
    'a\\nb\\x1b[31m.wav'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(text))


def complain(message: object) -> None:
    """Print a message for the user on standard error."""
    print(f"undertone: {printable(message)}", file=sys.stderr)


def fail(message: object) -> NoReturn:
    """Print an error and end the command: nothing was done."""
    complain(message)
    raise SystemExit(EXIT_UNUSABLE)


def paint(text: str, *styles: str) -> str:
    """Return text in these styles where standard output is a terminal that shows them (https://no-color.org)."""
    codes = [_CODES[style] for style in styles if style]
    if not codes or not has_colours():
        return text
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m"


@cache
def has_colours() -> bool:
    """Whether standard output is a terminal that shows colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    if os.name == "nt":
        os.system("")
    return True


def has_unicode() -> bool:
    """Whether standard output can show block characters."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def bar(fraction: float, width: int) -> str:
    """Draw a bar of ``fraction`` of ``width`` columns, in steps of an eighth of a column, or of ``#`` in ASCII.

    Examples
    --------
    >>> bar(0.5, 4) in ("██", "##")
    True
    """
    eighths = round(fraction * width * 8)
    if not has_unicode():
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def width_of(text: str) -> int:
    """Columns that printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


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

    def __init__(self, total: int, *, label: str) -> None:
        self.total = total
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

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            if self._bar:
                self._bar.stop()
            self._bar, self.total = None, 0  # a timer that fires just now shows nothing

    def advance(self, n: int = 1) -> None:
        """One more is done, or ``n``."""
        with self._lock:
            self.n_done += n
            if self._bar:
                self._bar.update(self._task, completed=self.n_done)

    def print(self, text: str) -> None:
        """Print to standard output, above the bar if both are on the same terminal."""
        with self._lock:
            if self._bar and sys.stdout.isatty():
                from rich.text import Text

                self._bar.console.print(Text.from_ansi(text))
            else:
                print(text)

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
                console=Console(stderr=not sys.stdout.isatty(), soft_wrap=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.n_done)
            self._bar.start()


def error_line(message: str) -> str:
    """Return the row of what could not be used; the message names the file."""
    mark = "✗" if has_unicode() else "x"
    return f"{paint(mark, 'bold', 'red')} {paint(printable(message), 'red')}"
