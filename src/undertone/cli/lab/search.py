"""``undertone lab search``: the classic zoo under a protocol, or the settings of a network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli.lab.options import (
    RUNS,
    Accelerator,
    AsJson,
    Data,
    Epochs,
    Processor,
    RunFolder,
    Seed,
    app,
    check_processor,
    decoding,
    need_root,
    read_recipe,
    stopping,
)
from undertone.cli.plain_help import Command
from undertone.cli.terminal import fail, printable

ZOO = "zoo"


@app.command("search", cls=Command, no_args_is_help=True)
def search(
    target: Annotated[str, typer.Argument(metavar="zoo|RECIPE", help="The zoo, or a recipe's name or TOML file.")],
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Whom it trains on, and whom it tests.")
    ] = "ravdess-speaker",
    data: Data = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="SET",
            help="zoo: a named set, or a TOML file with \\[features].",
            show_default=False,
        ),
    ] = None,
    families: Annotated[
        str | None,
        typer.Option("--families", metavar="LIST", help="zoo: only these, such as svm-rbf,mlp.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="zoo: halving, random, grid or optuna; halving if not given.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=1,
            metavar="N",
            help="Settings to try; 12 of each family, 20 of a network.",
            show_default=False,
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="LIST", help="Only these, such as 0,4; a network's is 0.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="zoo: settings tried at a time.")] = 1,
    out: RunFolder = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="zoo: fit the winner on all clips, write a model file.", show_default=False
        ),
    ] = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Processor = Accelerator.AUTO,
    as_json: AsJson = False,
) -> None:
    """Search for good settings without looking at the test.

    [bold]zoo[/bold] is the classic estimators, from SVM to gradient boosting, on one vector
    of features per clip. In each fold of the protocol, the speakers that are not
    tested are dealt into inner folds: settings are judged on voices that the
    estimator has not heard. The best family of a fold is what the fold answers
    with. The table also says what the same winners get when the same clips are
    split by chance, so that you know how much of a published figure is leaking.

    A [bold]recipe[/bold]'s learning rate, batch size, dropout and augmentation are
    searched with Optuna, judged on dev speakers only: then evaluate the best.toml
    it writes.

    [bold]Examples[/bold]

      [cyan]undertone lab search zoo --protocol ravdess-speaker --data corpora[/cyan]
      [cyan]undertone lab search zoo --families svm-rbf,mlp --method optuna --trials 30[/cyan]
      [cyan]undertone lab search zoo --export zoo.onnx[/cyan]
      [cyan]undertone predict clip.wav --model zoo.onnx[/cyan]
      [cyan]undertone lab search undertone-street --trials 30 --epochs 15[/cyan]

    The folder gets results.json, results.csv and trials.csv. Stop at any moment:
    the same command goes on from there.
    """
    root = need_root(data)
    if export is not None and not export.parent.is_dir():
        fail(f"cannot write {export}: there is no folder {export.parent}")
    if target == ZOO:
        if epochs is not None:
            fail("--epochs is for networks: the zoo has none")
        chosen = {"features": features, "method": method, "n_trials": trials}
        values = {key: value for key, value in chosen.items() if value is not None} | {"seed": seed}
        _search_zoo(root, protocol, values, families, _numbers(folds), jobs, out, export, as_json)
        return
    for name, value in (("features", features), ("families", families), ("method", method), ("export", export)):
        if value is not None:
            fail(f"--{name} is for the zoo; a recipe has its own features, and Optuna searches it")
    _search_network(
        root, protocol, read_recipe(target, epochs), trials or 20, _numbers(folds) or [0], out, seed,
        check_processor(accelerator), as_json,
    )  # fmt: skip


def _search_zoo(
    root: Path,
    protocol: str,
    values: dict[str, Any],
    families: str | None,
    folds: list[int] | None,
    jobs: int,
    out: Path | None,
    export: Path | None,
    as_json: bool,
) -> None:
    from undertone.lab.export import check_exportable
    from undertone.lab.search import ZooConfig, export_winner, search_zoo
    from undertone.lab.zoo import build_vector_features, feature_section

    config = ZooConfig(**values, families=tuple(families.split(",")) if families else ())
    if export is not None:  # before hours of searching
        check_exportable(build_vector_features(feature_section(config.features)))
    folder = out or RUNS / protocol / f"zoo-{Path(config.features).stem}-{config.method}-seed{config.seed}"

    def on_family(fold: int, done: int, total: int, family: str, inner_uar: float) -> None:
        typer.echo(f"fold {fold}  {done}/{total}  {family}: UAR {inner_uar:.3f} on inner folds", err=True)

    with stopping(), decoding() as on_decode, decoding("features") as on_extract:
        results = search_zoo(root, protocol, folder, config, folds=folds, n_threads=jobs, on_decode=on_decode,
                             on_extract=on_extract, on_family=on_family)  # fmt: skip
    if as_json:
        typer.echo((folder / "results.json").read_text(encoding="utf-8"))
    else:
        _tell_zoo(results)
        typer.echo(f"results: {printable(folder / 'results.json')}")
    if export is None:
        return
    with stopping():
        card = export_winner(root, results, export, name=export.stem, n_threads=jobs)
    told = f"{printable(export)}: {card.description}, trained on all clips; its card: undertone models show "
    typer.echo(told + printable(export), err=as_json)


def _search_network(
    root: Path,
    protocol: str,
    recipe: Any,
    trials: int,
    folds: list[int],
    out: Path | None,
    seed: int,
    accelerator: str,
    as_json: bool,
) -> None:
    from undertone.lab.search import search_network

    folder = out or RUNS / protocol / f"search-{recipe.name}-{recipe.hash}-seed{seed}"

    def on_trial(done: int, total: int, row: dict[str, Any]) -> None:
        reached = "no dev UAR" if row["dev_uar"] is None else f"dev UAR {row['dev_uar']:.3f}"
        typer.echo(f"trial {done}/{total}  {row['state']}  {reached}  {row['epochs']} epochs", err=True)

    with stopping(), decoding() as on_decode:
        results = search_network(root, protocol, recipe, folder, n_trials=trials, folds=folds, seed=seed,
                                 accelerator=accelerator, on_decode=on_decode, on_trial=on_trial)  # fmt: skip
    if as_json:
        typer.echo((folder / "results.json").read_text(encoding="utf-8"))
        return
    _tell_network(results)
    typer.echo(f"now test it: undertone lab evaluate {protocol} {printable(folder / 'best.toml')}")


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--folds takes numbers such as 0,4, not {text!r}")


def _tell_zoo(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("family", "inner UAR", "test UAR", "test WAR", "chosen in folds", "seconds"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for row in results["families"]:
        won = ", ".join(map(str, row["folds_won"]))
        table.add_row(row["title"], f"{row['inner_uar']:.3f}", f"{row['uar']:.3f}", f"{row['war']:.3f}", won,
                      f"{row['seconds']:.0f}")  # fmt: skip
    console = Console()
    console.print(table)
    own, random = results["scores"], results["random_split"]
    interval = "" if own["intervals"]["uar"] is None else " [{:.3f}, {:.3f}]".format(*own["intervals"]["uar"])
    typer.echo(
        f"\n{results['protocol']}, {len(results['folds'])} of {results['n_folds']} folds, "
        f"{results['n_values']} values per clip ({printable(results['features'])})"
    )
    typer.echo(
        f"  UAR {own['uar']:.3f}{interval}  WAR {own['war']:.3f}  on {own['n_speakers']} speakers it has not heard"
        if not results["banner"]
        else f"  UAR {own['uar']:.3f}{interval}  WAR {own['war']:.3f}  {results['banner']}"
    )
    typer.echo(f"  UAR {random['uar']:.3f}  WAR {random['war']:.3f}  the same winners on a random split: IT LEAKS")
    typer.echo("  The families' own test scores are for information: nothing was chosen by them.")


def _tell_network(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [dimension["path"] for dimension in results["space"]]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("trial", "dev UAR", "epochs", "state", "values"):
        table.add_column(column, justify="left" if column in ("state", "values") else "right")
    for row in sorted(results["trials"], key=lambda row: -(row["dev_uar"] or 0)):
        reached = "" if row["dev_uar"] is None else f"{row['dev_uar']:.3f}"
        values = ", ".join(f"{name.split('.')[1]} {row[name]:g}" for name in names if name in row)
        table.add_row(str(row["trial"]), reached, str(row["epochs"]), row["state"], values)
    Console().print(table)
    best = results["best"]
    typer.echo(
        f"\nbest: trial {best['trial']}, UAR {best['dev_uar']:.3f} on the dev speakers; "
        f"the recipe itself: {results['own_dev_uar']:.3f}. No test clip was looked at."
    )
