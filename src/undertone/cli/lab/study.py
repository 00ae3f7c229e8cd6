"""``undertone lab study``: what a change of a recipe does to speakers that are not tested."""

import json
from typing import Annotated, Any

import typer

from undertone.cli.lab.options import (
    RUNS,
    Accelerator,
    AsJson,
    Data,
    Epochs,
    Processor,
    RecipeName,
    RunFolder,
    app,
    check_processor,
    decoding,
    default_jobs,
    need_root,
    read_recipe,
    stopping,
)
from undertone.cli.plain_help import Command
from undertone.cli.terminal import fail


@app.command("study", cls=Command, no_args_is_help=True)
def study(
    recipe: RecipeName,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="CHANGES",
            help="section.key=value as in the recipe's TOML, several separated by semicolons; give it once for each "
            "variation.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="LIST", help="A training each.")] = "0,1,2",
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Whose folds and classes.")
    ] = "pooled-speaker",
    dev_folds: Annotated[
        str,
        typer.Option("--dev-folds", metavar="LIST", help="The speakers tested in these folds are scored; the others "
                     "are trained on."),
    ] = "3,4",
    data: Data = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Trainings at a time; one for each core if not given.",
                     show_default=False),
    ] = None,
    conditions: Annotated[
        bool,
        typer.Option("--conditions", help="Score the dev clips in noise, rooms, telephones and codecs, too; what is "
                     "trained already is not trained again."),
    ] = False,
    out: RunFolder = None,
    epochs: Epochs = None,
    accelerator: Processor = Accelerator.AUTO,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare variations of a recipe on dev speakers, several seeds each.

    The speakers of the dev folds are scored, once, with the last weights; no test
    score is made, so a study can be repeated as often as one likes. Believe a
    difference when it is larger than what the seeds make of it.

    [bold]Examples[/bold]

      [cyan]undertone lab study undertone-street --vary augment.warp=0.15 --data corpora[/cyan]
      [cyan]undertone lab study mine.toml --vary "training.ema=0; training.lr=2e-3"[/cyan]
      [cyan]undertone lab study mine.toml --vary "network.widths=[8,16,32]" --seeds 0[/cyan]
      [cyan]undertone lab study mine.toml --vary augment.warp=0.15 --conditions[/cyan]

    Stop at any moment: the same command goes on from there, and more variations
    or seeds add to what is finished.
    """
    from undertone.lab.study import run_study

    root, wanted = need_root(data), read_recipe(recipe, epochs)
    processor = check_processor(accelerator)
    folder = out or RUNS / protocol / f"study-{wanted.name}-dev{dev_folds.replace(',', '-')}"

    def on_trial(change: str, seed: int, result: dict[str, Any]) -> None:
        typer.echo(f"seed {seed}  {change}: {_uars(result['uar'])}  mean UAR {result['mean_uar']:.3f}", err=True)

    with stopping(), decoding() as on_decode:
        rows = run_study(
            root, wanted, vary or [], folder, protocol=protocol, dev_folds=_numbers("--dev-folds", dev_folds),
            seeds=_numbers("--seeds", seeds), conditions=conditions, jobs=jobs or default_jobs(processor),
            accelerator=processor, on_decode=on_decode, on_trial=on_trial,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _tell(rows)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"{option} takes numbers such as 0,4, not {text!r}")


def _uars(uar: dict[str, float]) -> str:
    return "  ".join(f"{corpus} {value:.3f}" for corpus, value in uar.items())


def _tell(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        spread, spread_of_difference = ("", "") if row["deviation"] is None else (
            f" ± {row['deviation']:.3f}", f" ± {row['difference_deviation']:.3f}")  # fmt: skip
        typer.echo(row["change"])
        typer.echo(
            f"  mean UAR {row['mean_uar']:.3f}{spread}  difference {row['difference']:+.3f}{spread_of_difference}  "
            f"{_uars(row['uar'])}"
        )
        if row["lost"]:
            lost = "  ".join(f"{name} {100 * value:.1f}" for name, value in row["lost"].items())
            typer.echo(f"  points of UAR lost: {lost}")
        typer.echo(
            f"  train WAR {row['train_war']:.3f}  {row['n_parameters']:,} parameters  "
            f"{row['training_seconds'] / 60:.1f} min"
        )
    typer.echo(f"speakers who are not tested; {len(rows[0]['seeds'])} seed(s), ± their standard deviation")
