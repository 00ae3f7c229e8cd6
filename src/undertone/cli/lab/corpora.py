"""``undertone lab corpora``: which corpora there are, where from, and whether they are whole."""

import json
from pathlib import Path
from typing import Annotated

import typer

from undertone.cli.lab.options import AsJson, Data, app, decoding, need_root
from undertone.cli.plain_help import Command, Group
from undertone.cli.terminal import EXIT_SOME_FAILED, printable

corpora_app = typer.Typer(cls=Group, rich_markup_mode="rich", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora")


@corpora_app.callback()
def corpora() -> None:
    """Get the corpora of acted emotional speech, and see whether they are whole.

    Five are known by their official names and folders: RAVDESS, CREMA-D, TESS
    and SAVEE are English, EMO-DB is German.

    [bold]Start here[/bold]

      [cyan]undertone lab corpora list[/cyan]                             sizes and licences
      [cyan]undertone lab corpora download ravdess --data corpora[/cyan]  200 MB
      [cyan]undertone lab corpora verify --data corpora[/cyan]            is all of it there?

    Each has a licence of its own, which also binds the models trained on it:
    most of them are for research only.
    """


@corpora_app.command("list", cls=Command)
def list_corpora(data: Data = None, as_json: AsJson = False) -> None:
    """List the corpora: sizes, classes, licences, and what of them is here.

    With --data (or UNDERTONE_DATA) it also counts the clips you have.

    [bold]Examples[/bold]

      [cyan]undertone lab corpora list[/cyan]
      [cyan]undertone lab corpora list --data corpora --json[/cyan]
    """
    from undertone.lab.corpora import CORPORA

    here = {name: _count_clips(data, name) for name in CORPORA} if data else {}
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
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="ravdess, crema-d, tess, savee or emo-db.")],
    data: Data = None,
) -> None:
    """Download corpora from their official sources.

    Each file is compared with the checksum its publisher gives, where there is
    one. A download that broke off goes on where it was when the same command is
    given again. SAVEE wants you to register: the command says how.

    [bold]Examples[/bold]

      [cyan]undertone lab corpora download ravdess --data corpora[/cyan]
      [cyan]undertone lab corpora download crema-d tess emo-db --data corpora[/cyan]

    The exit code is 0 when every one of them is complete, and 1 when not.
    """
    from undertone.lab.corpora import get_corpus
    from undertone.lab.corpora.download import RegistrationRequired, download

    root = need_root(data)
    names = [get_corpus(name).name for name in names]
    complete = True
    for name in names:
        try:
            counts = download(name, root)
        except RegistrationRequired as error:  # several lines that say how
            typer.echo("\n".join(printable(line) for line in str(error).splitlines()), err=True)
            complete = False
        else:
            typer.echo(counts.summary())
            complete &= counts.is_complete
    raise typer.Exit(0 if complete else EXIT_SOME_FAILED)


@corpora_app.command("verify", cls=Command)
def verify(data: Data = None, as_json: AsJson = False) -> None:
    """Check the corpora on disk, clip by clip.

    Clips are counted against the official numbers, by speaker and by emotion.
    Then all are decoded: those that are silent, that are there twice, or that are
    one recording under two labels are named. Training leaves them out by itself.

    [bold]Examples[/bold]

      [cyan]undertone lab corpora verify --data corpora[/cyan]
      [cyan]undertone lab corpora verify --data corpora --json > corpora.json[/cyan]

    The exit code is 0 when no clip is missing and every one can be read, and 1
    when not.
    """
    from undertone.lab.corpora import check_counts, find_problems, load
    from undertone.lab.data import decode_utterances

    utterances = load(need_root(data))
    counts = check_counts(utterances)
    with decoding() as progress:
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


def _count_clips(root: Path, name: str) -> int:
    from undertone.lab.corpora import CorpusError, load

    try:
        return len(load(root, [name]))
    except CorpusError:
        return 0
