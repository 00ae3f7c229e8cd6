"""``undertone lab recipes|train|evaluate|test|export``. Each command parses, calls one function and prints."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.lab.options import (
    Accelerator,
    AsJson,
    Data,
    Epochs,
    Processor,
    RecipeName,
    RunFolder,
    Seed,
    app,
    check_processor,
    decoding,
    default_jobs,
    need_root,
    read_recipe,
    training_progress,
)
from undertone.cli.plain_help import Command
from undertone.cli.terminal import EXIT_SOME_FAILED, LateProgress, fail, printable


@app.command("recipes", cls=Command)
def recipes(as_json: AsJson = False) -> None:
    """List the recipes: named systems that can be trained.

    A recipe says everything about a system but the data: features, network,
    augmentation, training. Its hash stands in each report and model file.

    [bold]Examples[/bold]

      [cyan]undertone lab recipes[/cyan]
      [cyan]undertone lab recipes --json[/cyan]

    To make one, copy a TOML file of undertone/lab/recipes, change it, and give
    its path wherever a recipe is asked for. An unknown key is an error.
    """
    from undertone.lab.evaluation import get_protocol
    from undertone.lab.recipes import build_model, load_recipe, n_parameters, networks_of, recipe_names

    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        published = recipe.published
        n_classes = 8 if published is None else len(get_protocol(published.protocol).classes)
        rows.append(
            {
                "name": name,
                "description": recipe.description,
                "members": [member.name for member in recipe.members],
                "features": recipe.features.get("kind"),
                "network": recipe.network.get("kind"),
                "n_classes": n_classes,
                "n_parameters": n_parameters(networks_of(build_model(recipe, n_classes))),
                "published": None if published is None else asdict(published),
                "epochs": sum(part.training.epochs for part in recipe.members or [recipe]),
                "hash": recipe.hash,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        what = " + ".join(row["members"]) or f"{row['features']} -> {row['network']}"
        typer.echo(f"{row['name']}  {row['n_parameters']:,} parameters  {what}")
        typer.echo(f"  {row['description']}")


@app.command("train", cls=Command, no_args_is_help=True)
def train(
    recipe: RecipeName,
    data: Data = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", metavar="NAME", help="Train on one fold of this protocol, and test it.", show_default=False
        ),
    ] = "shipped",
    fold: Annotated[int, typer.Option("--fold", min=0, metavar="K", help="Which fold of the protocol.")] = 0,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="CORPUS",
            help="Hear this corpus only; may be given more than once. Not with --protocol, which has its own.",
            show_default=False,
        ),
    ] = None,
    out: RunFolder = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Processor = Accelerator.AUTO,
    as_json: AsJson = False,
) -> None:
    """Train a recipe once.

    It hears every clip on disk but those of a few dev speakers, on whom the best
    epoch is chosen: so the model that comes with undertone was made. With
    --protocol it hears the training part of one fold, and is tested on the test
    part, once, at the end.

    [bold]Examples[/bold]

      [cyan]undertone lab train undertone-small --data corpora[/cyan]
      [cyan]undertone lab train mine.toml --epochs 3 --data corpora[/cyan]
      [cyan]undertone lab train undertone-small --corpus crema-d --data corpora[/cyan]
      [cyan]undertone lab train undertone-small --protocol ravdess-speaker --fold 3[/cyan]

    The run folder then holds a log (log.csv, TensorBoard), the checkpoint and
    fold.json. Stop at any moment: the same command goes on from there.
    """
    from undertone.lab.corpora import get_corpus
    from undertone.lab.evaluation import get_protocol
    from undertone.lab.experiment import load_dataset, run_dir_of, run_fold, summarise, train_final

    wanted = read_recipe(recipe, epochs)
    is_final = protocol == "shipped"
    if corpus and not is_final:
        fail(f"--corpus says what a model for use hears; {protocol} has corpora of its own")
    only = tuple(get_corpus(name).name for name in corpus or ())
    folder = out or run_dir_of(protocol, wanted, seed, only)
    if is_final and fold:
        fail("--fold says which fold of a protocol: give --protocol too, such as --protocol ravdess-speaker")
    names = only or None
    if not is_final and not get_protocol(protocol).optional_corpora:
        names = get_protocol(protocol).corpora
    options: dict[str, Any] = {"seed": seed, "accelerator": check_processor(accelerator)}
    with decoding() as progress:
        dataset = load_dataset(need_root(data), names, recipe=wanted, progress=progress)
    with training_progress() as on_epoch:
        options["on_epoch"] = lambda *measured: on_epoch(fold, *measured)
        if is_final:
            result = train_final(dataset, wanted, folder, **options)
        else:
            folder = folder / f"fold-{fold}"
            result = run_fold(dataset, protocol, wanted, fold, folder, **options)
    kept = ("protocol", "fold", "recipe_hash", "seed", "best_epoch", "dev_uar", "temperature", "training_seconds")
    told = {"run": str(folder), **{key: result[key] for key in kept}}
    if not is_final:
        told["test_uar"] = summarise([result])["scores"]["uar"]
    typer.echo(json.dumps(told) if as_json else _tell_training(told, result["audit_summary"]))


@app.command("evaluate", cls=Command, no_args_is_help=True)
def evaluate(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="Such as ravdess-speaker.")],
    recipe: RecipeName,
    data: Data = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="LIST", help="Only these, such as 0,4.", show_default=False),
    ] = None,
    extra_train: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-train",
            metavar="CORPUS",
            help="Train on this corpus too; may be given more than once.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="Folds trained at a time; one for each core if not given, one on a GPU.",
            show_default=False,
        ),
    ] = None,
    conditions: Annotated[
        bool,
        typer.Option(
            "--conditions",
            help="Ask about the test clips again: in noise, rooms, telephones and codecs, and with weights in 8 bits.",
        ),
    ] = False,
    out: RunFolder = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Processor = Accelerator.AUTO,
    as_json: AsJson = False,
) -> None:
    """Train and test a recipe on every fold of a protocol, and report.

    A protocol says which speakers are heard in training and which are tested.
    Tested clips are seen once, after everything has been chosen on dev speakers;
    a split is audited for leaks before anything is trained.

    [bold]Protocols that test on new speakers[/bold]

      ravdess-speaker, crema-d-speaker, tess-speaker, savee-speaker,
      emodb-speaker, pooled-speaker, leave-one-corpus-out

    [bold]Protocols that leak, for comparison; their reports say so[/bold]

      pooled-random, pooled-random-augmented, pooled-random-augmented-7,
      crema-d-random

    [bold]Examples[/bold]

      [cyan]undertone lab evaluate ravdess-speaker undertone-small --data corpora[/cyan]
      [cyan]undertone lab evaluate pooled-speaker undertone-small --folds 0,4[/cyan]
      [cyan]undertone lab evaluate tess-speaker mine.toml --extra-train crema-d[/cyan]
      [cyan]undertone lab evaluate pooled-speaker undertone-small --conditions[/cyan]

    The run folder gets report.html and report.json. A finished fold is never run
    again: stop at any moment, and give the same command to go on. The exit code
    is 1 when a clip could not be used.
    """
    from undertone.lab.corpora import get_corpus
    from undertone.lab.experiment import evaluate as run
    from undertone.lab.experiment import run_dir_of
    from undertone.lab.report import summary_table, write_report

    wanted = read_recipe(recipe, epochs)
    extra = tuple(get_corpus(name).name for name in extra_train or ())
    folder = out or run_dir_of(protocol, wanted, seed, extra)
    processor = check_processor(accelerator)
    with decoding() as on_decode, training_progress() as on_epoch:
        report = run(
            need_root(data),
            protocol,
            wanted,
            folder,
            folds=None if folds is None else _numbers(folds),
            extra_train=extra,
            seed=seed,
            jobs=jobs or default_jobs(processor),
            accelerator=processor,
            on_decode=on_decode,
            on_epoch=on_epoch,
        )
    if conditions:
        report |= _measure_conditions(need_root(data), report, folder)
    path = write_report(report, folder)
    if as_json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"))
    else:
        from rich.console import Console

        Console().print(summary_table(report))
        for name, lost in report.get("conditions", {"lost": {}})["lost"].items():
            typer.echo(f"  {name}: {100 * lost:.1f} points of UAR lost")
        typer.echo(f"report: {printable(path)}")
    if n_unreadable := len(report["unreadable"]):
        typer.echo(f"{n_unreadable:,} clips could not be used; the report names them", err=True)
        raise typer.Exit(EXIT_SOME_FAILED)


def _measure_conditions(root: Path, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    from undertone.lab.evaluation import get_protocol
    from undertone.lab.experiment import load_dataset
    from undertone.lab.recipes import parse_recipe
    from undertone.lab.robustness import measure_conditions

    wanted = get_protocol(report["protocol"])
    corpora = None if wanted.optional_corpora else [*wanted.corpora, *report["extra_train"]]
    dataset = load_dataset(root, corpora, recipe=parse_recipe(report["recipe"]))
    with decoding("conditions") as on_condition:
        return measure_conditions(folder, report["folds"], dataset, on_condition=on_condition)


@app.command("test", cls=Command, no_args_is_help=True)
def test(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed model, or any model file.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS=DIR", help="Which corpus, and the folder it is in.")],
    speakers: Annotated[
        str | None,
        typer.Option("--speakers", metavar="LIST", help="Only these, such as 1001-1010,1042.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test a model file on a labelled corpus.

    A model does better on voices it was trained on than it will on yours. Its
    card names the speakers it has heard; the result says which of them are in
    the test, so that you can leave them out.

    [bold]Examples[/bold]

      [cyan]undertone lab test undertone-small EMO-DB=corpora/EMO-DB[/cyan]
      [cyan]undertone lab test mine.onnx CREMA-D=corpora/CREMA-D --speakers 1001-1010[/cyan]
      [cyan]undertone lab test mine.onnx SAVEE=corpora/SAVEE --speakers DC,JE --json[/cyan]

    Scores are given twice: among the emotions that the corpus has, and among all
    that the model knows. The exit code is 1 when a clip could not be read.
    """
    from undertone.lab.corpora import get_corpus
    from undertone.lab.experiment import select_speakers, test_model
    from undertone.recognizer import load_model

    name, _, folder = corpus.partition("=")
    if not folder:
        fail("give the corpus as CORPUS=DIR, for example CREMA-D=corpora/CREMA-D")
    utterances = select_speakers(get_corpus(name).parse(Path(folder).expanduser()), speakers)
    recognizer = load_model(model)
    with LateProgress(len(utterances), label="testing") as progress:
        result = test_model(recognizer, utterances, on_progress=lambda _: progress.advance())
    n_speakers = len({utterance.speaker_id for utterance in utterances})
    typer.echo(json.dumps(result) if as_json else _tell_test(result, n_speakers))
    raise typer.Exit(EXIT_SOME_FAILED if result["unreadable"] else 0)


@app.command("export", cls=Command, no_args_is_help=True)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished training, or of one fold.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The model file to write.")],
    data: Data = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model's name, if not the file's.", show_default=False),
    ] = None,
    merge_calm: Annotated[bool, typer.Option("--merge-calm", help="Seven emotions: count calm as neutral.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits: a quarter of the size.")] = False,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores",
            metavar="REPORT",
            help="A report.json of this recipe, whose scores go into the card.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the card as JSON instead of text.")] = False,
) -> None:
    """Write a trained run as one model file.

    Waveform in, emotion out: the features are inside, and so is a card that says
    what the model is, whom it has heard, how it scored, and which licence follows
    from its training data. The file must agree with torch on some of your clips
    to 0.0001 in every probability; else nothing is written.

    [bold]Examples[/bold] (RUN is the folder that 'undertone lab train' has named)

      [cyan]undertone lab export RUN -o mine.onnx --data corpora[/cyan]
      [cyan]undertone lab export RUN -o mine.onnx --merge-calm --scores report.json[/cyan]
      [cyan]undertone lab export RUN -o small.onnx --int8 --scores report.json[/cyan]
    """
    from undertone.lab.corpora import load
    from undertone.lab.experiment import parity_clips
    from undertone.lab.export import export_run, load_run
    from undertone.lab.report import command_of, scores_for_card

    if not out.parent.is_dir():
        fail(f"cannot write {out}: there is no folder {out.parent}")
    described = load_run(run)[1]
    reports = [_read_report(path) for path in scores or ()]
    if other := next((r for r in reports if r["recipe_hash"] != described["recipe_hash"]), None):
        fail(f"the report on {other['protocol']} is of another recipe ({other['recipe_hash']}): not this model's")
    if int8:
        if missing := next((r for r in reports if "int8" not in r), None):
            fail(f"the report on {missing['protocol']} says nothing of weights in 8 bits; evaluate with --conditions")
        reports = [report | report["int8"] for report in reports]
    described_as = described["recipe"]["description"] + ("; weights in 8 bits" if int8 else "")
    card = export_run(
        run,
        out,
        parity_clips(load(need_root(data))),
        name=name or out.stem,
        description=described_as,
        scores={r["protocol"]: scores_for_card(r, command_of(r)) for r in reports},
        merge_calm=merge_calm,
        int8=int8,
    )
    if as_json:
        typer.echo(card.to_json())
        return
    size = out.stat().st_size / 1e6
    typer.echo(f"{printable(out)}: {size:.1f} MB, {', '.join(card.labels)}")
    typer.echo(f"  agrees with torch to {card.parity:.1g}; its card: undertone models show {printable(out)}")


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        report = None
    if not isinstance(report, dict) or not {"protocol", "recipe_hash", "folds", "scores"} <= set(report):
        fail(f"{path} is no report.json of 'undertone lab evaluate'")
    return report


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--folds takes numbers such as 0,4, not {text!r}")


def _tell_training(told: dict[str, Any], audit_summary: str) -> str:
    scores = [(f"{part} UAR", told.get(f"{part}_uar")) for part in ("dev", "test")]
    measured = [f"epoch {told['best_epoch']} chosen", *(f"{name} {uar:.3f}" for name, uar in scores if uar is not None)]
    lines = [*audit_summary.splitlines(), f"{', '.join(measured)}, temperature {told['temperature']:.2f}"]
    return "\n".join(printable(line) for line in [*lines, f"run: {told['run']}"])


def _tell_test(result: dict[str, Any], n_speakers: int) -> str:
    own, every = result["restricted"], result["unrestricted"]
    interval = "" if own["intervals"]["uar"] is None else "[{:.3f}, {:.3f}]  ".format(*own["intervals"]["uar"])
    lines = [
        f"{result['model']} on {result['corpus']}: {own['n_utterances']:,} clips, {n_speakers} speakers",
        f"  UAR {own['uar']:.3f} {interval}WAR {own['war']:.3f}  among this corpus's {len(own['classes'])} emotions",
        f"  UAR {every['uar']:.3f}  WAR {every['war']:.3f}  among all {len(every['classes'])} of the model",
    ]
    lines += [
        f"  {n:,} clips of {emotion} left out: the model does not know it" for emotion, n in result["left_out"].items()
    ]
    if gone := sum(len(problem["excluded"]) for problem in result["problems"]):
        lines.append(f"  {gone:,} silent or doubled clips left out, as in every evaluation")
    lines += [f"  not readable: {path}: {error}" for path, error in result["unreadable"].items()]
    if heard := result["heard_in_training"]:
        lines.append(f"  NOTE: the model was trained or chosen on {len(heard)} of these speakers: {', '.join(heard)}")
        lines.append("  This score says how well voices are remembered, not how well a new voice is understood.")
    else:
        lines.append("  None of these speakers is in the model's training list.")
    return "\n".join(printable(line) for line in lines)
