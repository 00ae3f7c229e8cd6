"""``undertone lab features``: a table of features, for people who want numbers and no network."""

import json
from pathlib import Path
from typing import Annotated

import typer

from undertone.cli.lab.options import AsJson, Data, app, decoding, need_root
from undertone.cli.plain_help import Command
from undertone.cli.terminal import EXIT_SOME_FAILED, complain, fail, printable


@app.command("features", cls=Command)
def features(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Clips, and folders of them; without, the corpora below --data."),
    ] = None,
    name: Annotated[
        str,
        typer.Option("--features", metavar="SET", help="A named set, a recipe, or a TOML file of one."),
    ] = "prosody",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="table.csv or table.parquet; CSV to the terminal if not given.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="A row per frame instead of a row per clip.")] = False,
    statistics: Annotated[
        str | None,
        typer.Option(
            "--statistics",
            metavar="LIST",
            help="Over time, instead of the set's own: mean,std,p95, ...",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    corpora: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus", metavar="NAME", help="Only this corpus; may be given more than once.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    r"""Write a table of acoustic features, with a name for every column.

    A row per clip: its path, corpus, speaker and emotion (where they are known),
    then the values, then what is wrong with it if it cannot be used. Such a clip
    stops nothing.

    Sets of features are [bold]prosody[/bold] (pitch, loudness, voice quality, pauses), [bold]mfcc[/bold],
    [bold]spectral[/bold] (MFCC and mel bands), [bold]prosody+spectral[/bold], [bold]all[/bold], and openSMILE's
    [bold]egemaps[/bold] and [bold]compare-2016[/bold] (pip install 'undertone\[egemaps]'). A recipe gives what its
    network gets, before it is normalised.

    [bold]Examples[/bold]

      [cyan]undertone lab features clips/ -o table.csv[/cyan]
      [cyan]undertone lab features --data corpora --corpus ravdess -o ravdess.parquet[/cyan]
      [cyan]undertone lab features clip.wav --features mfcc --frames -o frames.csv[/cyan]
      [cyan]undertone lab features clips/ --features x4nth055-mlp -o table.csv[/cyan]

    Tables end in .csv or .parquet (that needs: pip install 'undertone\[parquet]').
    The exit code is 1 when a clip could not be used.
    """
    from undertone.audio import find_audio
    from undertone.lab.corpora import load
    from undertone.lab.feature_table import load_table_features, write_feature_table

    chosen = statistics.split(",") if statistics else None
    front_end = load_table_features(name, frames=frames, statistics=chosen)
    clips = find_audio(paths) if paths else load(need_root(data), corpora)
    if not clips:
        fail("nothing to do; give sound files, or a folder that has some")
    with decoding("computing") as progress:
        summary = write_feature_table(clips, front_end, out, progress=progress)
    if as_json and out:
        content = {"table": str(out), "n_rows": summary.n_rows, "columns": summary.columns, "errors": summary.errors}
        typer.echo(json.dumps(content, indent=1))
    elif out:
        typer.echo(f"{printable(out)}: {summary.n_rows:,} rows, {front_end.n_features:,} values each")
    if summary.errors:
        complain(f"{len(summary.errors)} of {len(clips)} could not be used; see column 'error'")
        raise typer.Exit(EXIT_SOME_FAILED)
