"""What the commands of ``undertone lab`` share: the group, their common options, progress, and how errors end."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.plain_help import Group
from undertone.cli.terminal import complain, fail

RUNS = Path("runs")
COMMANDS = ["corpora", "recipes", "train", "evaluate", "test", "export", "compare", "audit", "search", "study",
            "table", "features"]  # fmt: skip
EXIT_STOPPED = 130  # as shells have it for Ctrl-C


class LabCommands(Group):
    """The lab's commands: what is wrong with input, or not installed, ends in a line that says what to do."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order in which one needs them."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            module = (error.name or "").split(".")[0]
            if module == "undertone":
                raise  # a mistake of ours
            fail(f"the lab needs '{module}', which is not installed; run: pip install 'undertone[lab]'")
        except ValueError as error:
            if type(error).__module__.split(".")[0] != "undertone":
                raise  # not one of those that say what to do
            *lines, last = str(error).splitlines()
            for line in lines:
                complain(line)
            fail(last)
        except BrokenPipeError:
            raise
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename else error)


class Accelerator(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


app = typer.Typer(
    cls=LabCommands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a TOML file.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="ROOT",
        envvar="UNDERTONE_DATA",
        help="The folder that holds RAVDESS, CREMA-D, TESS, SAVEE, EMO-DB: those of them you have.",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Run folder; a new name below runs/ for each recipe and protocol if not given.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Decides every random number of training.")]
Processor = Annotated[Accelerator, typer.Option("--accelerator", help="Where to compute.")]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", min=1, metavar="N", help="Passes over the clips, if not the recipe's.", show_default=False
    ),
]


def read_recipe(name: str, epochs: int | None) -> Any:
    """Return a recipe by name or file, with another number of epochs if given."""
    from undertone.lab.recipes import load_recipe

    recipe = load_recipe(name)
    return recipe if epochs is None else recipe.with_training(epochs=epochs)


def need_root(data: Path | None) -> Path:
    """Return the folder of the corpora, or end with what to give."""
    if data is None:
        fail("where are the corpora? Give their folder as --data ROOT, or set UNDERTONE_DATA to it")
    return data


def check_processor(accelerator: Accelerator) -> str:
    """Name of the processor asked for, if there is one here."""
    import torch

    if accelerator is Accelerator.GPU and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        fail("torch finds no GPU here; leave --accelerator out, or say cpu")
    return accelerator.value


def default_jobs(accelerator: str) -> int:
    """Folds to train at a time."""
    import torch

    return 1 if accelerator != "cpu" and torch.cuda.is_available() else os.cpu_count() or 1


@contextmanager
def stopping() -> Iterator[None]:
    """End a run that was stopped by Ctrl-C with a word on how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        complain("stopped; give the same command again and it goes on from here")
        raise typer.Exit(EXIT_STOPPED) from None


@contextmanager
def decoding(label: str = "decoding") -> Iterator[Callable[[int, int], None] | None]:
    """Progress bar of decoding, or of what else is done clip by clip, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("", total=None, visible=False)

    def show(done: int, total: int) -> None:
        if not bar.live.is_started and done < total:
            bar.start()
        bar.update(task, completed=done, total=total, visible=True)
        if done == total:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, int, dict[str, float]], None]]:
    """Progress of the epochs, a bar per fold: live on a terminal, else a line per epoch on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("fold {task.fields[fold]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    tasks: dict[int, Any] = {}

    def show(fold: int, done: int, total: int, row: dict[str, float]) -> None:
        measured = f"loss {row['train_loss']:.3f}" + (f"  dev UAR {row['dev_uar']:.3f}" if "dev_uar" in row else "")
        if not console.is_terminal:
            typer.echo(
                f"fold {fold}  epoch {done}/{total}  {measured}  {row['clips_per_second']:.0f} clips/s",
                err=True,
            )
            return
        bar.start()
        if fold not in tasks:
            tasks[fold] = bar.add_task("", total=total, fold=fold)
        bar.update(tasks[fold], completed=done, description=measured)

    try:
        yield show
    except KeyboardInterrupt:
        complain("stopped; give the same command again and it goes on from here")
        raise typer.Exit(EXIT_STOPPED) from None
    finally:
        if bar.live.is_started:  # else it ends with an empty line
            bar.stop()
