"""The look of the lab's figures: colours, a page's dark mode, and figures as files.

Figures are drawn once, in the colours of ``PALETTE``; inside a page each of these becomes a CSS variable, which is
how they turn dark. Emotions and corpora keep their colours in every figure. No reader has to tell nine hues apart:
whatever has a colour also has a name, a marker or a place of its own.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertone.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMOTION_COLOURS = {
    "anger": "#d1495b",
    "disgust": "#6a994e",
    "fear": "#8e6bbf",
    "happiness": "#e0a526",
    "neutral": "#8d96a3",
    "sadness": "#4a7fc1",
    "surprise": "#e2793f",
    "calm": "#4fa8a0",
    "boredom": "#a68a6d",
}
EMOTION_MARKERS = {
    "anger": "^",
    "disgust": "v",
    "fear": "D",
    "happiness": "o",
    "neutral": "s",
    "sadness": "P",
    "surprise": "*",
    "calm": "X",
    "boredom": "h",
}
CORPUS_COLOURS = {  # apart also with a colour-vision deficiency: tests/lab/test_explore.py
    "ravdess": "#2c57f2",
    "crema-d": "#ef790c",
    "tess": "#12b39b",
    "savee": "#cc69d5",
    "emo-db": "#7a6c3b",
}
PALETTE = {  # name of the CSS variable -> its value in light, as a literal found nowhere else in a figure
    "paper": "#fffffe",
    "ink": "#1d2330",
    "muted": "#667085",
    "line": "#dfe3ea",
    "accent": "#3a56c5",
    "on-accent": "#fefefe",
}
RASTER_DPI = 200  # of the PNG files, and of pictures inside vector files
FORMATS = ("pdf", "svg", "png")


@dataclass(frozen=True)
class Picture:
    """A figure as SVG; ``alt`` says in words what it shows."""

    name: str
    svg: str
    alt: str

    def inline(self) -> str:
        """Return the drawing for a page: variables for colours, the page's font, names of its own, its words."""
        from markupsafe import escape

        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
        svg = re.sub(r"<[^>]*>", lambda tag: self._adapt(tag[0]), svg)
        points = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
        head = re.search(r'viewBox="[^"]*"', svg)[0]  # type: ignore[index]
        words = escape(self.alt)
        start = f'<svg {head} width="{points * 4 / 3:.0f}" role="img" aria-label="{words}"><title>{words}</title>'
        return start + svg[svg.index(">") + 1 :]

    def _adapt(self, tag: str) -> str:
        if tag.startswith("<image"):  # its pixels are no place to search in
            return tag.replace("\n", "").replace('id="', f'id="{self.name}-')
        for variable, colour in PALETTE.items():
            tag = tag.replace(colour, f"var(--{variable})")
        tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
        tag = re.sub(r"(\.\d\d)\d+", r"\1", tag).replace("\n", " ")
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", tag)


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw what is drawn inside in the house's style."""
    import matplotlib

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # letters stay letters: small, searchable, in the page's font
        "svg.hashsalt": "undertone",  # the same figure is the same file
        "pdf.fonttype": 42,  # whole fonts, as publishers want them
        "text.parse_math": False,  # a speaker may be called $1
        "font.size": 8.5,
        "axes.edgecolor": PALETTE["line"],
        "axes.labelcolor": PALETTE["muted"],
        "axes.titlesize": 8.5,
        "axes.titlecolor": PALETTE["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": PALETTE["paper"],
        "grid.color": PALETTE["line"],
        "grid.linewidth": 0.6,
        "text.color": PALETTE["ink"],
        "xtick.color": PALETTE["line"],
        "ytick.color": PALETTE["line"],
        "xtick.labelcolor": PALETTE["muted"],
        "ytick.labelcolor": PALETTE["muted"],
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(style):
        yield


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Return an empty figure that lays itself out and opens no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def calm(axes: "Axes", *, grid: str = "y") -> None:
    """Take away ticks and the left edge; leave a light grid along ``grid`` (``"x"``, ``"y"`` or none)."""
    axes.tick_params(length=0)
    if grid:
        axes.grid(axis=grid)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def render(name: str, figure: "Figure", alt: str) -> Picture:
    """Return the figure as SVG; from then on its layout stays as it is."""
    picture = Picture(name, _as_bytes(figure, "svg").decode(), alt)
    figure.set_layout_engine("none")  # or it would be laid out again for each file
    return picture


def save_figure(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the figure to ``folder/name.FORMAT`` for each format, each under a temporary name first."""
    paths = [folder / f"{name}.{kind}" for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        write_file(path, _as_bytes(figure, kind))
    return paths


def _as_bytes(figure: "Figure", kind: str) -> bytes:
    undated = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=RASTER_DPI, metadata=undated)  # type: ignore[arg-type]
    return file.getvalue()
