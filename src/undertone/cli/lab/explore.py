"""``undertone lab corpora explore``: what corpora look like, as one page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.lab.corpora import corpora_app
from undertone.cli.lab.options import AsJson, Data, need_root
from undertone.cli.plain_help import Command
from undertone.cli.terminal import EXIT_SOME_FAILED, fail, printable
from undertone.model_file import DEFAULT_MODEL


@corpora_app.command("explore", cls=Command)
def explore_corpora(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Corpora; all that are there if not given.", show_default=False),
    ] = None,
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")] = Path("explore.html"),
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Also write each figure as PDF, SVG and PNG.", show_default=False
        ),
    ] = None,
    max_clips: Annotated[
        int,
        typer.Option("--max-clips", min=0, metavar="N", help="Clips of each corpus for pitch and the map."),
    ] = 500,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME|FILE", help="Whose embeddings are mapped.")
    ] = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Decides the sample and the map.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Look at corpora: one page of numbers and figures.

    Who speaks, which emotions, how long and how loud; how pitch and energy follow
    emotion; what a typical clip of each looks like; where a model puts them; what
    listeners heard; which clips are silent, doubled or unreadable.

    The page is one file that needs nothing from outside. Figures have the widths
    of a paper's columns. Durations and levels are measured on every clip, pitch
    and the map on a sample, drawn evenly over speakers and emotions.

    [bold]Examples[/bold]

      [cyan]undertone lab corpora explore --data corpora[/cyan]
      [cyan]undertone lab corpora explore ravdess savee --data corpora -o mine.html[/cyan]
      [cyan]undertone lab corpora explore --data corpora --figures figures[/cyan]
      [cyan]undertone lab corpora explore tess --data corpora --json > tess.json[/cyan]

    The exit code is 0, and 1 when a clip could not be read.
    """
    from undertone.lab.explore import explore, summarise, write_page
    from undertone.lab.explore.words import say_counts

    if not out.parent.is_dir():
        fail(f"cannot write {out}: there is no folder {out.parent}")
    with _stages() as progress:
        found = explore(need_root(data), names or None, model=model, max_clips=max_clips, seed=seed, progress=progress)
        summary = summarise(found)
        write_page(found, out, summary=summary, figures=figures, progress=progress)
    if as_json:
        typer.echo(json.dumps(summary, indent=1, allow_nan=False))
    else:
        lines = [say_counts(name, corpus) for name, corpus in summary["corpora"].items()]
        lines += [f"  unreadable: {name}: {reason}" for name, reason in summary["unreadable"].items()]
        lines += [f"page: {out}", *([f"figures: {figures}"] if figures else [])]
        typer.echo("\n".join(map(printable, lines)))
    raise typer.Exit(EXIT_SOME_FAILED if summary["unreadable"] else 0)


@contextmanager
def _stages() -> Iterator[Any]:
    """Progress of one stage after the other, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        stage = ""

        def show(now: str, done: int, total: int) -> None:
            nonlocal stage
            if now != stage:
                bar.reset(task, description=now)
                stage = now
            bar.update(task, completed=done, total=total)

        yield show
