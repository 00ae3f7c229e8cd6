"""``undertone lab``: corpora, training, evaluation and export. Each command parses, calls one function and prints."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.plain_help import Command, Group
from undertone.cli.terminal import EXIT_SOME_FAILED, fail, printable

RUNS = Path("runs")


class LabCommands(Group):
    """The lab's commands: what is wrong with input, or not installed, ends in one line that says what to do."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _lab_errors():
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("undertone"):
                raise  # a mistake of ours
            fail(f"'{error.name}' is needed here but is not installed; run: pip install 'undertone[lab]'")


app = typer.Typer(
    cls=LabCommands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
corpora_app = typer.Typer(cls=Group, rich_markup_mode="rich", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora", help="List, download and verify the corpora.")

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="ROOT",
        envvar="UNDERTONE_DATA",
        help="Folder with one folder per corpus: RAVDESS, CREMA-D, TESS, SAVEE, EMO-DB.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random number in training.")]
Accelerator = Annotated[str, typer.Option("--accelerator", help="auto, cpu or gpu.")]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help="Other than the recipe's; the report says so.", show_default=False),
]


@app.callback()
def lab() -> None:
    """Make and measure models, under protocols that cannot leak.

    [bold]From nothing to a model file[/bold]

      [cyan]undertone lab corpora download ravdess --data corpora[/cyan]
      [cyan]undertone lab evaluate ravdess-speaker undertone-small --data corpora[/cyan]
      [cyan]undertone lab train undertone-small --data corpora[/cyan]
      [cyan]undertone lab export runs/shipped/undertone-small-... -o mine.onnx --data corpora[/cyan]
      [cyan]undertone lab test mine.onnx EMO-DB=corpora/EMO-DB[/cyan]

    Everything that takes long can be stopped at any moment and goes on where it was.
    """


# ---------------------------------------------------------------------------------------------- corpora


@corpora_app.callback()
def corpora() -> None:
    """Five corpora of acted emotional speech: what they are, where they come from, whether yours is complete."""


@corpora_app.command("list", cls=Command)
def list_corpora(data: Data = None, as_json: AsJson = False) -> None:
    """List the corpora, their licences, and what of them is on disk.

    [bold]Example[/bold]

      [cyan]undertone lab corpora list --data corpora[/cyan]
    """
    from undertone.lab.corpora import CORPORA, check_counts, load

    counts = check_counts(load(data)) if data else None
    here = {} if counts is None else {count.corpus: count.n_utterances for count in counts.corpora}
    if as_json:
        rows = [
            {
                "name": corpus.name,
                "folder": corpus.folder,
                "title": corpus.title,
                "n_utterances": corpus.n_utterances,
                "n_speakers": corpus.n_speakers,
                "emotions": list(corpus.emotions),
                "licence": corpus.licence,
                "licence_url": corpus.licence_url,
                "source_url": corpus.source_url,
                "n_here": here.get(corpus.name),
            }
            for corpus in CORPORA.values()
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("corpus", "clips", "speakers", "classes", *(["here"] if data else []), "licence"):
        table.add_column(column, justify="right" if column in ("clips", "speakers", "classes", "here") else "left")
    for corpus in CORPORA.values():
        row = [corpus.name, f"{corpus.n_utterances:,}", str(corpus.n_speakers), str(len(corpus.emotions))]
        table.add_row(*row, *([f"{here.get(corpus.name, 0):,}"] if data else []), corpus.licence)
    Console().print(table)


@corpora_app.command("download", cls=Command, no_args_is_help=True)
def download_corpus(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="ravdess, crema-d, tess, emo-db (or savee).")],
    data: Data = None,
) -> None:
    """Download corpora from their official sources, verified clip by clip where a checksum is published.

    A download that stops, or is stopped, goes on where it was when the command is given again.

    [bold]Example[/bold]

      [cyan]undertone lab corpora download ravdess crema-d --data corpora[/cyan]
    """
    from undertone.lab.corpora.download import RegistrationRequired, download

    root = _need_root(data)
    complete = True
    for name in names:
        try:
            counts = download(name, root)
        except RegistrationRequired as error:  # several lines that say how
            typer.echo(str(error), err=True)
            complete = False
        else:
            typer.echo(counts.summary())
            complete &= counts.is_complete
    raise typer.Exit(0 if complete else EXIT_SOME_FAILED)


@corpora_app.command("verify", cls=Command)
def verify(data: Data = None, as_json: AsJson = False) -> None:
    """Count clips against the official numbers; find silent, doubled, mislabelled and unreadable ones.

    The exit code is 0 when nothing is missing and every clip can be read.

    [bold]Example[/bold]

      [cyan]undertone lab corpora verify --data corpora[/cyan]
    """
    from undertone.lab.corpora import check_counts, find_problems, load
    from undertone.lab.data import decode_utterances

    utterances = load(_need_root(data))
    counts = check_counts(utterances)
    with _decoding() as progress:
        waveforms = decode_utterances(utterances, progress=progress)
    problems = find_problems(utterances, waveforms.digests, waveforms.is_silent.tolist())
    unreadable = {utterances[row].utterance_id: reason for row, reason in waveforms.errors.items()}
    if as_json:
        content = {
            "counts": counts.to_json(),
            "problems": [problem.to_json() for problem in problems],
            "unreadable": unreadable,
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        typer.echo(counts.summary())
        typer.echo("\nExcluded by rule:" if problems else "\nNo silent or doubled clips.")
        for problem in problems:
            typer.echo(f"  {problem}")
        for name, reason in unreadable.items():
            typer.echo(f"  unreadable: {name}: {printable(reason)}")
    raise typer.Exit(0 if counts.is_complete and not unreadable else EXIT_SOME_FAILED)


# ---------------------------------------------------------------------------------------------- training


@app.command("recipes", cls=Command)
def recipes(as_json: AsJson = False) -> None:
    """List the named systems: what they are, and how many parameters they have.

    [bold]Example[/bold]

      [cyan]undertone lab recipes --json[/cyan]
    """
    from undertone.lab.recipes import build_model, load_recipe, n_parameters, recipe_names

    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        rows.append(
            {
                "name": name,
                "description": recipe.description,
                "features": recipe.features["kind"],
                "network": recipe.network["kind"],
                "n_parameters": n_parameters(build_model(recipe, 8)),
                "epochs": recipe.training.epochs,
                "hash": recipe.hash,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']}  {row['n_parameters']:,} parameters  {row['features']} -> {row['network']}")
        typer.echo(f"  {row['description']}")


@app.command("train", cls=Command, no_args_is_help=True)
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a TOML file.")],
    data: Data = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="Train on a fold of a protocol, or on all but dev ('shipped').")
    ] = "shipped",
    fold: Annotated[int, typer.Option("--fold", min=0, help="Of the protocol.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Run folder.", show_default=False)
    ] = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Train a recipe once, and write a run folder.

    By default on all clips but those of a few dev speakers: the way the model that comes with
    undertone was made. With --protocol on one fold of it, tested once at the end.

    [bold]Examples[/bold]

      [cyan]undertone lab train undertone-small --data corpora[/cyan]
      [cyan]undertone lab train undertone-small --protocol ravdess-speaker --fold 3 --data corpora[/cyan]
    """
    from undertone.lab.evaluation import get_protocol
    from undertone.lab.experiment import load_dataset, run_fold, train_final

    wanted = _recipe(recipe, epochs)
    folder = out or _run_dir(protocol, wanted, seed)
    is_final = protocol == "shipped"
    names = None if is_final or get_protocol(protocol).optional_corpora else get_protocol(protocol).corpora
    with _decoding() as progress:
        dataset = load_dataset(_need_root(data), names, progress=progress)
    with _training() as on_epoch:
        options: dict[str, Any] = {"seed": seed, "accelerator": accelerator}
        options["on_epoch"] = lambda *measured: on_epoch(fold, *measured)
        if is_final:
            result = train_final(dataset, wanted, folder, **options)
        else:
            folder = folder / f"fold-{fold}"
            result = run_fold(dataset, protocol, wanted, fold, folder, **options)
    typer.echo(result["audit_summary"])
    chosen = "" if result["dev_uar"] is None else f", dev UAR {result['dev_uar']:.3f}"
    typer.echo(f"{folder}: epoch {result['best_epoch']} chosen{chosen}, temperature {result['temperature']:.2f}")


@app.command("evaluate", cls=Command, no_args_is_help=True)
def evaluate(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="Such as ravdess-speaker.")],
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a TOML file.")],
    data: Data = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="0,4", help="Only these; all by default.", show_default=False),
    ] = None,
    extra_train: Annotated[
        list[str] | None,
        typer.Option("--extra-train", metavar="CORPUS", help="Add this corpus to train.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Folds at a time; by default one per core, on CPU.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Run folder.", show_default=False)
    ] = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    as_json: AsJson = False,
) -> None:
    """Train and test a recipe on every fold of a protocol, and report.

    Test clips are seen once per fold, after everything has been chosen on dev. A finished fold is
    never run again: stop at any moment, and give the same command to go on.

    [bold]Protocols on unseen speakers[/bold]

      ravdess-speaker, crema-d-speaker, tess-speaker, savee-speaker, emodb-speaker,
      pooled-speaker, leave-one-corpus-out

    [bold]Protocols that leak, and say so[/bold]

      pooled-random, pooled-random-augmented, crema-d-random

    [bold]Examples[/bold]

      [cyan]undertone lab evaluate ravdess-speaker undertone-small --data corpora[/cyan]
      [cyan]undertone lab evaluate pooled-speaker undertone-small --folds 0,4 --data corpora[/cyan]
    """
    from undertone.lab.experiment import evaluate as run
    from undertone.lab.report import summary_table, write_report

    wanted = _recipe(recipe, epochs)
    folder = out or _run_dir(protocol, wanted, seed)
    with _decoding() as on_decode, _training() as on_epoch:
        report = run(
            _need_root(data),
            protocol,
            wanted,
            folder,
            folds=None if folds is None else _numbers(folds),
            extra_train=tuple(extra_train or ()),
            seed=seed,
            jobs=jobs or _default_jobs(accelerator),
            accelerator=accelerator,
            on_decode=on_decode,
            on_epoch=on_epoch,
        )
    path = write_report(report, folder)
    if as_json:
        typer.echo(json.dumps(report))
        return
    from rich.console import Console

    Console().print(summary_table(report))
    typer.echo(f"report: {path}")


@app.command("test", cls=Command, no_args_is_help=True)
def test(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed model, or any model file.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS=DIR", help="Which corpus, and its folder.")],
    speakers: Annotated[
        str | None,
        typer.Option("--speakers", metavar="LIST", help="Such as 1001-1010,1042 or DC,JE.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test a model file on a labelled corpus.

    A model is not tested on voices it was trained with, unless you want to: its card keeps the list
    of its training speakers, and the result says which of them were met again.

    [bold]Examples[/bold]

      [cyan]undertone lab test undertone-small EMO-DB=corpora/EMO-DB[/cyan]
      [cyan]undertone lab test mine.onnx CREMA-D=corpora/CREMA-D --speakers 1001-1010[/cyan]
    """
    from undertone.lab.corpora import get_corpus
    from undertone.lab.experiment import select_speakers, test_model
    from undertone.recognizer import load_model

    name, _, folder = corpus.partition("=")
    if not folder:
        fail("give the corpus as CORPUS=DIR, for example CREMA-D=corpora/CREMA-D")
    recognizer = load_model(model)
    utterances = select_speakers(get_corpus(name).parse(Path(folder)), speakers)
    result = test_model(recognizer, utterances)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(_tell_test(result, len({utterance.speaker_id for utterance in utterances})))


@app.command("export", cls=Command, no_args_is_help=True)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of one fold.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The model file to write.")],
    data: Data = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model; by default the file's.", show_default=False)
    ] = None,
    merge_calm: Annotated[
        bool, typer.Option("--merge-calm", help="Seven emotions: calm's probability is added to neutral's.")
    ] = False,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores",
            metavar="REPORT",
            help="report.json of an evaluation, for the card.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a run as one model file: waveform in, emotion out, with its card.

    The file is compared with torch on real clips first; if a probability differs by more than
    0.0001, nothing is written.

    [bold]Example[/bold]

      [cyan]undertone lab export runs/shipped/undertone-small-... -o mine.onnx --merge-calm --data corpora[/cyan]
    """
    from undertone.lab.corpora import load
    from undertone.lab.experiment import parity_clips
    from undertone.lab.export import export_run, load_run
    from undertone.lab.report import command_of, scores_for_card

    described = load_run(run)[1]
    reports = [json.loads(path.read_text()) for path in scores or ()]
    if other := next((r for r in reports if r["recipe_hash"] != described["recipe_hash"]), None):
        fail(f"the report on {other['protocol']} is of another recipe ({other['recipe_hash']}): not this model's")
    card = export_run(
        run,
        out,
        parity_clips(load(_need_root(data))),
        name=name or out.stem,
        description=described["recipe"]["description"],
        scores={r["protocol"]: scores_for_card(r, command_of(r)) for r in reports},
        merge_calm=merge_calm,
    )
    size = out.stat().st_size / 1e6
    typer.echo(f"{out}: {size:.1f} MB, {', '.join(card.labels)}; differs from torch by at most {card.parity:.1g}")


# ---------------------------------------------------------------------------------------------- helpers of the above


def _recipe(name: str, epochs: int | None) -> Any:
    from undertone.lab.recipes import load_recipe

    recipe = load_recipe(name)
    return recipe if epochs is None else recipe.with_training(epochs=epochs)


def _run_dir(protocol: str, recipe: Any, seed: int) -> Path:
    return RUNS / protocol / f"{recipe.name}-{recipe.hash}-seed{seed}"


def _need_root(data: Path | None) -> Path:
    if data is None:
        fail("where are the corpora? give --data ROOT, or set UNDERTONE_DATA")
    return data


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--folds takes numbers such as 0,4, not {text!r}")


def _default_jobs(accelerator: str) -> int:
    import torch

    return 1 if accelerator != "cpu" and torch.cuda.is_available() else os.cpu_count() or 1


def _tell_test(result: dict[str, Any], n_speakers: int) -> str:
    own, every = result["restricted"], result["unrestricted"]
    low, high = own["intervals"]["uar"] or (float("nan"), float("nan"))
    lines = [
        f"{result['model']} on {result['corpus']}: {own['n_utterances']:,} clips, {n_speakers} speakers",
        f"  UAR {own['uar']:.3f} [{low:.3f}, {high:.3f}]  WAR {own['war']:.3f}  among this corpus's "
        f"{len(own['classes'])} emotions",
        f"  UAR {every['uar']:.3f}  WAR {every['war']:.3f}  among all {len(every['classes'])} of the model",
    ]
    lines += [
        f"  {n:,} clips of {emotion} left out: the model does not know it" for emotion, n in result["left_out"].items()
    ]
    lines += [f"  not readable: {printable(path)}: {printable(error)}" for path, error in result["unreadable"].items()]
    if heard := result["heard_in_training"]:
        lines.append(f"  NOTE: the model was trained on {len(heard)} of these speakers: {', '.join(heard)}")
        lines.append("  This score says how well voices are remembered, not how well a new voice is understood.")
    else:
        lines.append("  None of these speakers is in the model's training list.")
    return "\n".join(lines)


@contextmanager
def _lab_errors() -> Iterator[None]:
    """Turn errors that say what to do into one line; everything else is a bug and stays one."""
    try:
        yield
    except ValueError as error:
        if type(error).__module__.split(".")[0] != "undertone":
            raise
        fail(error)


@contextmanager
def _decoding() -> Iterator[Callable[[int, int], None] | None]:
    """Progress bar of decoding, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
def _training() -> Iterator[Callable[[int, int, int, dict[str, float]], None]]:
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
    finally:
        bar.stop()
