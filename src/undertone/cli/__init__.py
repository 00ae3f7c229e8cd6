"""The command line: each command parses its arguments, calls one function and prints.

typer takes a tenth of a second to import, more than recognising a clip: the plainest calls of ``undertone predict``
are parsed without it. Everything else, mistakes and questions included, is typer's.
"""

import os
import sys


def main() -> None:
    """Run the command line on this process's arguments and leave with its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["predict"]:
        from undertone.cli import predict

        if (plain := predict.parse_plain(arguments[1:])) is not None:
            sys.exit(_run_plain(plain))
    from undertone.cli.commands import app

    app(prog_name="undertone")


def _run_plain(arguments: dict) -> int:
    """Run ``undertone predict`` with the outcomes that typer gives Ctrl-C and a closed pipe."""
    from undertone.cli import predict

    try:
        status = predict.run(**arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
        return 1
    return status
