"""Serving the application: one process, one line that says where, and a stop that lets running work end."""

import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from undertone.serve.app import create_app
from undertone.serve.http import JsonFormatter
from undertone.serve.settings import Settings, SettingsError

MAX_FRAME_BYTES = 2**20  # of a live stream: half a minute of sound
KEEP_ALIVE_S = 15  # an open connection that asks for nothing
MAX_HEAD_BYTES = 65_536
MAX_CONNECTIONS = 4_096
GC_OBJECTS = 10_000  # new ones until a collection; requests leave no cycles


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
    _allow_open_files()
    app = create_app(settings)
    listener = _listen(host, port)
    _log_as_json()
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), {"head_timeout_s": settings.head_timeout_s}),
        loop=_loop(),
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # a small frame could hold much
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.stop_timeout_s),
    )
    gc.collect()
    gc.freeze()  # what is there now stays: a collection need not look through it
    gc.set_threshold(GC_OBJECTS)
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP with an end to what it lets through: slow, endless and too many heads of requests."""

    head_timeout_s = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._n_idle_bytes = 0  # since the parser last had something to tell
        self._n_header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._n_idle_bytes += len(data)
        super().data_received(data)
        if self._n_idle_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._n_header_bytes = 0
        self._start_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:  # those after a chunked body too
        self._n_idle_bytes = 0
        self._n_header_bytes += len(name) + len(value)
        if self._n_header_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head of the request is too large")  # ends as 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._n_idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._n_idle_bytes = 0
        super().on_message_complete()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(self.head_timeout_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def _loop() -> str:
    """Return the fast event loop where it is installed, which it is not on Windows."""
    return "uvloop" if find_spec("uvloop") else "asyncio"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=2_048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --host and --port"
        ) from None


def _allow_open_files() -> None:
    """Take all open files the system grants: each connection is one, and without any no decoder can be replaced."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("undertone", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
