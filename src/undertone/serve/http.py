"""What is the same for every request: who may ask, the id, the headers, the log line, and errors as JSON.

One plain ASGI wrapper around the application. Its log line never holds an address, a file name or a query.
"""

import asyncio
import hmac
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from undertone.serve.errors import Refused
from undertone.serve.metrics import Metrics
from undertone.serve.settings import Settings

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Scope = MutableMapping[str, Any]

PROTECTED = ("/v1/", "/metrics")  # the token is asked for; the page, which asks the visitor for it, is open
LINGER_BYTES = 4 * 2**20  # read and thrown away after a refusal, so that its sender reads the answer

# 'self' for scripts and styles: the page has its own files. data: and blob: for pictures and sound made in the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; font-src 'self'; worker-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
]

log = logging.getLogger("undertone.serve")
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one for each line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message and the fields that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _to_json(line)


class Door:
    """Wraps the application: every request and every live stream comes in here."""

    def __init__(self, app: Any, *, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI wants it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        visit = Visit(scope, receive, send)
        scope["visit"] = visit
        try:
            self._check(scope)
            await self.app(scope, visit.receive, visit.send)
        except Refused as refused:
            self.metrics.refused.labels(refused.limit or refused.code).inc()
            await visit.refuse(refused)
        except Exception:
            log.exception("a fault of the service", extra={"fields": {"request_id": visit.request_id}})
            if visit.status:
                raise  # half an answer is sent: the server cuts the connection
            await visit.refuse(
                Refused(500, "internal", f"a fault of the service; its log has it as {visit.request_id}")
            )
        finally:
            self._record(scope, visit, time.perf_counter() - started_s)

    def _check(self, scope: Scope) -> None:
        headers = headers_of(scope)
        check_origin(headers, self.settings)
        if scope["path"].startswith(PROTECTED) and scope["method"] != "OPTIONS":
            check_token(headers.get("authorization", ""), self.settings)

    def _record(self, scope: Scope, visit: "Visit", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(visit.status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if visit.sound_s:
            self.metrics.sound.labels(route).inc(visit.sound_s)
        fields = {
            "request_id": visit.request_id,
            "method": scope["method"],
            "route": route,
            "status": visit.status,
            "ms": round(seconds * 1000, 1),
            "sound_s": round(visit.sound_s, 2),
        }
        log.info("request", extra={"fields": fields | ({"error": visit.error} if visit.error else {})})


class Visit:
    """One request on its way: what it has been answered so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = os.urandom(8).hex()
        self.status = 0
        self.sound_s = 0.0
        self.error = ""
        self.is_read = scope["method"] in ("GET", "HEAD", "OPTIONS")
        self._is_private = scope["path"].startswith(PROTECTED)
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        """Pass on what arrives."""
        message = await self._receive()
        if not message.get("more_body", False):
            self.is_read = True
        return message

    async def send(self, message: Any) -> None:
        """Pass on what is answered, with our headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *HEADERS, (b"x-request-id", self.request_id.encode())]
            if self._is_private:
                headers.append((b"cache-control", b"no-store"))
            message = message | {"headers": headers}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error; what is still on its way is read and thrown away, up to a limit."""
        self.error = refused.code
        body = refused.body()
        headers = [*refused.headers(), (b"content-length", str(len(body)).encode())]
        if not self.is_read:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": not self.is_read})
        if not self.is_read:
            await self._linger()
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        n_bytes = 0
        try:
            async with asyncio.timeout(1.0):
                while not self.is_read and n_bytes < LINGER_BYTES:
                    n_bytes += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request, the last of each name."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def check_token(authorization: str, settings: Settings, query: bytes = b"") -> None:
    """Raise :class:`Refused` (401) unless the token is in the header, or in the query of a live stream."""
    if settings.token is None:
        return
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer":
        given = parse_qs(query.decode("latin-1")).get("token", [""])[0]
    # the same time for every wrong token
    if not hmac.compare_digest(given.strip().encode(), settings.token.encode()):
        raise Refused(401, "unauthorized", "the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'")


def check_origin(headers: Mapping[str, str], settings: Settings) -> None:
    """Raise :class:`Refused` (403) for a page of another site, unless it is allowed."""
    origin = headers.get("origin")
    if origin is None or origin in settings.cors_origin or "*" in settings.cors_origin:
        return
    if origin == "null" or urlsplit(origin).netloc != headers.get("host"):
        raise Refused(
            403, "foreign_origin", "pages of other sites may not use this service (cors_origin names those that may)"
        )
