"""Serving the application: one process, one line that says where, and a stop that lets running work end."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from undertone.serve.app import create_app
from undertone.serve.http import JsonFormatter
from undertone.serve.settings import Settings, SettingsError

MAX_FRAME_BYTES = 2**20  # of a live stream: half a minute of sound
KEEP_ALIVE_S = 15  # an open connection that asks for nothing


def run(settings: Settings, *, host: str, port: int, on_start: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Parameters
    ----------
    port
        0: any that is free.
    on_start
        Called with the address once the service answers.

    Raises
    ------
    ModelFileError
        If a model cannot be opened.
    SettingsError
        If the address cannot be used.
    """
    app = create_app(settings)
    listener = _listen(host, port)
    _log_as_json()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # a small frame could hold much
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.stop_timeout_s),
    )
    address = listener.getsockname()
    shown = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    _Server(config, lambda: on_start(f"http://{shown}:{address[1]}")).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it answers, and takes SIGTERM as the request that it is: the exit code is 0."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=2_048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host and --port"
        ) from None


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("undertone", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
