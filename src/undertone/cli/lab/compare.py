"""``undertone lab compare`` and ``audit``: whether one run is better than another, and whether a split leaks."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.lab.options import AsJson, app
from undertone.cli.plain_help import Command
from undertone.cli.terminal import EXIT_SOME_FAILED, printable


@app.command("compare", cls=Command, no_args_is_help=True)
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders of evaluate; the first with each other.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: whether one is better, or it could be chance.

    UAR of each on the clips that all of them have tested, each clip among the
    emotions of its corpus, with 95 % intervals over speakers; then how far the
    first is from each other one. p is that of a paired test over speakers: how
    often a difference as large would come up if the two were equally good.

    [bold]Example[/bold]

      [cyan]undertone lab compare runs/pooled-speaker/undertone-s*[/cyan]
    """
    from undertone.lab.comparison import compare_runs

    found = compare_runs(runs)
    typer.echo(json.dumps(found, indent=1)) if as_json else _tell(found)


def _tell(found: dict[str, Any]) -> None:
    for letter, run in zip(_letters(found["runs"]), found["runs"], strict=True):
        folds = ", ".join(map(str, run["folds"]))
        leaks = "; its split LEAKS" if run["leaks"] else ""
        typer.echo(f"{letter}  {run['recipe']}, {run['protocol']}, folds {folds}, seed {run['seed']}{leaks}")
        typer.echo(f"   {printable(run['path'])}")
    if any(found["left_out"]):
        typer.echo(f"{found['n_utterances']:,} clips are in all; left out: {', '.join(map(str, found['left_out']))}")
    for corpus, values in found["corpora"].items():
        typer.echo(f"\n{corpus}: {values['n_utterances']:,} clips, {_speakers(values['n_speakers'])}")
        for number, letter in enumerate(_letters(found["runs"])):
            interval = values["intervals"][number]
            bounds = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
            typer.echo(f"  {letter}  UAR {values['uar'][number]:.3f}{bounds}{_difference(values, number, letter)}")


def _speakers(n: int) -> str:
    return f"{n} speaker{'' if n == 1 else 's'}"


def _letters(runs: list[Any]) -> list[str]:
    return [chr(ord("A") + number) if number < 26 else str(number) for number in range(len(runs))]


def _difference(values: dict[str, Any], number: int, letter: str) -> str:
    found = values["differences"][number - 1] if number else None
    if found is None:
        return ""
    low, high = found["interval"]
    least = f" (with {_speakers(found['n_speakers'])} never below {found['smallest_p']:.2g})" if found["exact"] else ""
    return f"   A - {letter}: {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = {found['p_value']:.2g}{least}"


@app.command("audit", cls=Command, no_args_is_help=True)
def audit(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A row per clip: path, speaker, split.")],
    audio: Annotated[
        bool, typer.Option("--audio", help="Decode the clips, too: finds a recording under two names.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out whether a split leaks, that of any project.

    The table has the columns path, speaker and split (train, dev or test), and
    may have source (of an augmented copy: the path of the clip that it was made
    of) and sentence. Paths are taken from the table's folder. What crosses from
    one part to another is counted and named.

    [bold]Examples[/bold]

      [cyan]undertone lab audit split.csv[/cyan]
      [cyan]undertone lab audit split.csv --audio --json[/cyan]

    The exit code is 1 when it leaks.
    """
    from undertone.lab.split_table import audit_table

    found = audit_table(table, audio=audio)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.summary())
    if found.leaks:
        raise typer.Exit(EXIT_SOME_FAILED)
