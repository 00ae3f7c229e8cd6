"""``undertone models``: what is installed, and the card of any model file."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertone.cli.plain_help import Command, Group
from undertone.cli.terminal import fail, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from undertone.model_file import Card

app = typer.Typer(cls=Group, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON array.")] = False,
) -> None:
    """List the installed models, and show their cards.

    [bold]Examples[/bold]

      [cyan]undertone models[/cyan]                          what is installed
      [cyan]undertone models show undertone-small[/cyan]     what it heard, how well it does
      [cyan]undertone models show ./mine.onnx --json[/cyan]  the card of any model file
    """
    if context.invoked_subcommand is not None:
        return
    from undertone.model_file import ModelFileError, installed_models, read_card

    try:
        cards = {name: (path, read_card(path)) for name, path in installed_models().items()}
    except ModelFileError as error:
        fail(error)
    if as_json:
        summaries = [_summary(card, path.stat().st_size) for path, card in cards.values()]
        typer.echo(json.dumps(summaries, ensure_ascii=False, indent=1))
        return
    if not cards:
        typer.echo("No models are installed. Give a model file to --model, or reinstall undertone.")
    for path, card in cards.values():
        typer.echo(f"{card.name} {card.version}  {path.stat().st_size / 1e6:.1f} MB  {', '.join(card.labels)}")
        typer.echo(f"  {printable(card.description)}")
        typer.echo(f"  {printable(card.licence.partition(':')[0])}")


@app.command("show", cls=Command, no_args_is_help=True)
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="An installed model, or any model file.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Write the card as it is in the file.")] = False,
) -> None:
    """Show a model's card: what it heard, what it scores, what it is for.

    Only the card is read: showing a model never runs it.

    [bold]Examples[/bold]

      [cyan]undertone models show undertone-small[/cyan]
      [cyan]undertone models show mine.onnx --json | jq .scores[/cyan]
    """
    from undertone.model_file import ModelFileError, find_model, read_card

    try:
        card = read_card(find_model(name))
    except ModelFileError as error:
        fail(error)
    if as_json:
        typer.echo(card.to_json())
    else:
        _print_card(card)


def _summary(card: "Card", n_bytes: int) -> dict[str, Any]:
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "labels": list(card.labels),
        "licence": card.licence,
        "n_parameters": card.n_parameters,
        "n_bytes": n_bytes,
    }


def _print_card(card: "Card") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    hop = f", one frame each {card.frame_hop_s * 1000:g} ms" if card.frame_hop_s else ""
    _print(console, f"{card.name} {card.version}", "bold", indent=0)
    _print(console, card.description)
    _heading(console, "What it tells apart")
    _print(console, ", ".join(card.labels))
    _heading(console, "What it takes")
    _print(
        console,
        f"{card.min_duration_s:g} to {card.max_duration_s:g} s of mono sound at {card.sample_rate:,} Hz"
        f" (longer: windows of {card.recommended_duration_s:g} s){hop}",
    )
    _heading(console, "What it heard")
    for corpus in card.corpora:
        speakers = f"{len(corpus.speakers)} speakers"
        _print(console, f"{corpus.name}: {corpus.n_utterances:,} clips of {speakers} ({corpus.licence})")
    _heading(console, "How well it does")
    for protocol, scores in card.scores.items():
        _print_scores(console, protocol, scores)
    if not card.scores:
        _print(console, "no scores are in the card")
    _heading(console, "What it is for")
    _print(console, card.intended_use)
    _heading(console, "What it is not for")
    _print(console, card.not_fit_for)
    _heading(console, "How it was made")
    _print(
        console,
        f"recipe {card.recipe} ({card.recipe_hash[:12]}), {card.created}, {card.n_parameters:,} parameters",
    )
    _print(console, f"temperature {card.temperature:.3f}; file and training agree to {card.parity:.1e}")
    _heading(console, "Licence of the weights")
    _print(console, card.licence)


def _heading(console: "Console", text: str) -> None:
    console.print()
    _print(console, text, "bold cyan", indent=0)


def _print(console: "Console", content: "str | Table", style: str = "", indent: int = 2) -> None:
    from rich.padding import Padding
    from rich.text import Text

    shown = Text(printable(content), style=style) if isinstance(content, str) else content
    console.print(Padding(shown, (0, 0, 0, indent), expand=False))


def _print_scores(console: "Console", protocol: str, scores: Any) -> None:
    """Print what was measured under a protocol: a table, and what else is known in a line each."""
    rows = _score_rows(scores)
    if rows is None:  # not of the lab's making
        _print_tree(console, {protocol: scores}, indent=2)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "UAR", "95 %", "WAR", "guessing", "clips", "speakers"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print(console, protocol)
    if leaks := scores.get("leaks"):
        _print(console, leaks, "bold red")
    _print(console, table)
    for line in _score_lines(scores):
        _print(console, line)
    console.print()
    _print(console, "UAR is the mean of the recalls, WAR the share that is right; --json has all figures.", "dim")


def _score_rows(scores: Any) -> list[tuple[str, ...]] | None:
    """Cells of each corpus, or of all clips; None where the figures are not there."""
    parts = scores.get("corpora", {"all": scores}) if isinstance(scores, Mapping) else {}
    rows = []
    for name, part in parts.items():
        try:
            interval = part.get("uar_interval") or ()
            cells = (f"{part['uar']:.3f}", "-".join(f"{bound:.3f}" for bound in interval), f"{part['war']:.3f}")
            counts = (f"{1 / part['n_classes']:.3f}", f"{part['n_utterances']:,}", f"{part['n_speakers']:,}")
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        rows.append((name, *cells, *counts))
    return rows or None


def _score_lines(scores: Mapping[str, Any]) -> Iterator[str]:
    """Say how far confidences are off, what conditions cost, and how it was measured, where the card knows."""
    error, own = scores.get("ece"), scores.get("restricted")
    own_error = own.get("ece") if isinstance(own, Mapping) else None
    if isinstance(error, float):
        among = f" ({own_error:.3f} among the emotions of each clip's corpus)" if isinstance(own_error, float) else ""
        yield f"expected calibration error {error:.3f}{among}"
    gap = scores.get("sex_gap")
    if isinstance(gap, Mapping) and isinstance(gap.get("gap"), float):
        yield f"UAR of women minus that of men: {100 * gap['gap']:+.1f} points"
    conditions = scores.get("conditions")
    lost = conditions.get("lost") if isinstance(conditions, Mapping) else None
    if isinstance(lost, Mapping):
        costs = (
            f"{name}: {round(100 * points, 1) or 0:.1f}" for name, points in lost.items() if isinstance(points, float)
        )
        yield f"points of UAR lost: {'; '.join(costs)}"
    if "command" in scores:
        yield f"measured by {scores['command']}"


def _print_tree(console: "Console", tree: Mapping[str, Any], indent: int) -> None:
    """Print nested JSON with a line per number: scores differ between protocols."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _print(console, f"{key}", indent=indent)
            _print_tree(console, value, indent + 2)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            _print(console, f"{key}", indent=indent)
            for row in value:
                _print(console, ", ".join(f"{name} {_shown(part)}" for name, part in row.items()), indent=indent + 2)
        else:
            _print(console, f"{key}: {_shown(value)}", indent=indent)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return " to ".join(map(_shown, value)) if _is_interval(value) else ", ".join(map(_shown, value))
    return str(value)


def _is_interval(value: list | tuple) -> bool:
    return len(value) == 2 and all(isinstance(bound, float) for bound in value)
