"""The page of an exploration: one HTML file with its style and figures inside, no script, no outside request."""

import shlex
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from undertone.files import write_file
from undertone.lab.corpora import CORPORA
from undertone.lab.drawing import EMOTION_COLOURS, figure_style, render, save_figure
from undertone.lab.explore import words
from undertone.lab.explore.figures import draw_all, title_of
from undertone.lab.explore.measure import Exploration, Progress
from undertone.lab.explore.summary import summarise
from undertone.model_file import DEFAULT_MODEL

WIDE = ("emotions", "intensities", "durations-emotion", "energy", "pitch")  # and the galleries: a paper's two columns


def write_page(
    exploration: Exploration,
    out: Path,
    *,
    summary: Mapping[str, Any] | None = None,
    figures: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the page to ``out``, under a temporary name first; return its path.

    Parameters
    ----------
    summary
        What :func:`undertone.lab.explore.summarise` returned; made here if None.
    figures
        Folder, made if missing, for each figure as a PDF, an SVG and a PNG file.
    progress
        Called with (stage, done, total).
    """
    summary = summarise(exploration) if summary is None else summary
    if figures:
        figures.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    with figure_style():
        for name, figure, alt in draw_all(exploration, summary):
            pictures[name] = render(name, figure, alt).inline()
            if figures:
                save_figure(figure, figures, name)
            if progress:
                progress("figures", len(pictures), len(pictures) + 1)
    write_file(out, _render_page(summary, pictures).encode())
    return out


def command_of(summary: Mapping[str, Any]) -> str:
    """Return the command line that makes this page once more, ``--data ROOT`` to be filled in."""
    line = ["undertone", "lab", "corpora", "explore", *summary["corpora"], "--data", "ROOT"]
    line += ["--max-clips", str(summary["settings"]["max_clips"])]
    if summary["settings"]["seed"]:
        line += ["--seed", str(summary["settings"]["seed"])]
    if summary["map"] and summary["map"]["model"] != DEFAULT_MODEL:
        line += ["--model", summary["map"]["model"]]
    return shlex.join(line)


def _render_page(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = resources.files("undertone.lab.explore").joinpath("explore.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"title": title_of, "number": _number, "signed": _signed}
    return environment.from_string(template).render(
        summary=summary,
        corpora=summary["corpora"],
        published=CORPORA,
        pictures={name: Markup(svg) for name, svg in pictures.items()},
        wide=[name for name in pictures if name in WIDE or name.startswith("gallery-")],
        words=words,
        colours=EMOTION_COLOURS,
        emotions=list(summary["pooled"]["emotions"]),
        n_excluded=sum(len(problem["excluded"]) for problem in summary["problems"]),
        command=command_of(summary),
        version=metadata.version("undertone"),
    )


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def _signed(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    return (text.lstrip("+-") if not float(text) else text).replace("-", "−")
