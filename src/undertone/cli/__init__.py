"""The command line: each command parses its arguments, calls one function and prints.

Only typer is imported here. Commands import what they run when they run, and ``undertone lab`` is imported when it
is asked for, so that recognising one clip starts fast and works without the lab's libraries.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from undertone.cli import models, predict

EPILOG = "[dim]Every command explains itself: [/dim]undertone predict --help"

app = typer.Typer(
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


class LabGroup(TyperGroup):
    """Stands for ``undertone lab`` in the help; becomes the real thing when it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the lab's commands and hand over to them."""
        lab = typer.main.get_command(import_module("undertone.cli.lab").app)
        return lab.make_context(info_name, args, parent, **extra)


def _print_version(wanted: bool) -> None:
    if wanted:
        import undertone

        typer.echo(f"undertone {undertone.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Hear how something is said: emotion recognition in speech.

    One small model file comes with undertone and runs on this computer, offline;
    nothing you give it leaves the machine.

    [bold]Start here[/bold]

      [cyan]undertone predict clip.wav[/cyan]              the emotion of one clip, as bars
      [cyan]undertone predict interviews/ --csv[/cyan]     a folder as a table, to a file or a pipe
      [cyan]undertone models show undertone-small[/cyan]   what the model heard, how well it does

    The model was taught by actors. It hears how they portrayed an emotion, which
    is not what a person feels: do not judge people by it.
    """


app.command("predict", no_args_is_help=True)(predict.predict)
app.add_typer(models.app, name="models")
app.add_typer(
    typer.Typer(),
    name="lab",
    cls=LabGroup,
    help="Train, evaluate and compare models. Needs pip install 'undertone\\[lab]'.",
)
