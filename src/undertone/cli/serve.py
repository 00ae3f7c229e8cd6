"""``undertone serve``: the page and the service on an address of this computer."""

import dataclasses
import inspect
import os
from functools import partial
from typing import Annotated, Any

import typer

from undertone.cli.terminal import complain, fail
from undertone.model_file import ModelFileError
from undertone.serve.settings import Settings, SettingsError, environment_name

HOST = "127.0.0.1"
PORT = 8_000
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def run(host: str, port: int, **given: Any) -> None:
    """Serve until the command is stopped; settings that are not given come from the environment."""
    if os.name == "nt":
        fail("the service needs Linux or macOS, whose limits on processes it uses; on Windows, run it in WSL or Docker")
    try:
        from undertone.serve import server
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "undertone":
            raise  # a mistake of ours
        fail(f"the service needs '{module}', which is not installed; run: pip install \"undertone[web]\"")
    overrides = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value not in (None, [])
    }
    try:
        settings = Settings.from_environment(overrides=overrides)
        is_open = settings.token is None and host not in LOCAL_HOSTS
        server.run(settings, host=host, port=port, on_start=partial(_announce, is_open=is_open))
    except (SettingsError, ModelFileError) as error:
        fail(error)


def _announce(address: str, *, is_open: bool) -> None:
    print(f"undertone listens on {address} (Ctrl-C stops it)", flush=True)
    if is_open:
        complain("no token is set: whoever reaches this address can use it (--token)")


def options() -> inspect.Signature:
    """Return the command's parameters: the address, and an option for every setting."""
    kinds = {
        "host": Annotated[
            str, typer.Option(metavar="NAME", help="Address to listen on; 0.0.0.0: every one of this computer.")
        ],
        "port": Annotated[
            int, typer.Option(metavar="N", min=0, max=65_535, help="Port to listen on; 0: any that is free.")
        ],
    }
    defaults: dict[str, Any] = {"host": HOST, "port": PORT}
    for entry in dataclasses.fields(Settings):
        kinds[entry.name], defaults[entry.name] = _option(entry), None
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind)
        for name, kind in kinds.items()
    ]
    return inspect.Signature(parameters)


def _option(entry: dataclasses.Field) -> Any:
    default = entry.default
    notes = [f"default {default:,}".removesuffix(".0")] if isinstance(default, int | float) else []
    help_text = f"{entry.metadata['help']} [dim]\\[{'; '.join([*notes, environment_name(entry.name)])}][/dim]"
    names = [f"--{entry.name.replace('_', '-')}", *["-m"] * (entry.name == "model")]
    option = typer.Option(*names, help=help_text, show_default=False, metavar=_metavar(default))
    if isinstance(default, tuple):
        return Annotated[list[str] | None, option]
    return Annotated[(str if default is None else type(default)) | None, option]


def _metavar(default: object) -> str:
    return "N" if isinstance(default, int | float) else "TEXT"
