"""``undertone lab table``: published systems, what they report and what they are worth."""

from pathlib import Path
from typing import Annotated

import typer

from undertone.cli.lab.options import (
    RUNS,
    Accelerator,
    Data,
    Processor,
    app,
    check_processor,
    default_jobs,
    need_root,
    training_progress,
)
from undertone.cli.plain_help import Command
from undertone.cli.terminal import fail, printable


@app.command("table", cls=Command)
def table(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE]...", help="Only these recipes; all of them if not given.", show_default=False),
    ] = None,
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")] = Path("results.md"),
    unseen_share: Annotated[
        float,
        typer.Option(
            "--unseen-share",
            min=0.01,
            max=1.0,
            metavar="S",
            help="Share of a system's epochs to train on new speakers; each page says how many it were.",
        ),
    ] = 1.0,
    only_finished: Annotated[
        bool, typer.Option("--only-finished", help="Train nothing: write what has been measured so far.")
    ] = False,
    accelerator: Processor = Accelerator.AUTO,
) -> None:
    """Measure every published system twice, and write the table.

    Once under the protocol its authors used, which mostly leaks, and once on
    speakers it has never heard (folds 0 and 4 of pooled-speaker, which between
    them test all four corpora; systems of one corpus on that corpus, too). Beside
    the page, a folder of the same name gets a page for each system, with its
    curves and scores.

    [bold]Examples[/bold]

      [cyan]undertone lab table --data corpora -o docs/results.md[/cyan]
      [cyan]undertone lab table ragab-mel-cnn flask-cnn1d --data corpora[/cyan]
      [cyan]undertone lab table --only-finished --data corpora[/cyan]

    All of it takes days on two cores. Stop at any moment: the same command goes
    on from there, and evaluations that are finished are never run again.
    """
    from undertone.lab.recipes import recipe_names
    from undertone.lab.results import finished, keep_counts, plan_jobs, run_job, write_pages

    if unknown := sorted(set(recipes or ()) - set(recipe_names())):
        fail(f"no recipe of undertone's is called {unknown[0]!r}; there are: {', '.join(recipe_names())}")
    processor, root = check_processor(accelerator), need_root(data)
    planned = plan_jobs(recipes, unseen_share=unseen_share)
    folder = out.with_suffix("")
    keep_counts(root, folder)
    for job in finished(planned, RUNS) if only_finished else planned:
        typer.echo(f"{job.recipe.name} under {job.protocol}", err=True)
        with training_progress() as on_epoch:
            run_job(root, job, RUNS, folder, jobs=default_jobs(processor), accelerator=processor, on_epoch=on_epoch)
        write_pages(folder, out)
    write_pages(folder, out)
    typer.echo(f"table: {printable(out)}")
