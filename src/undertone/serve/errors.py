"""Requests that are refused: one exception, one JSON form, and room for those that come at the same time."""

import json
from typing import Any, Self

RETRY_AFTER_S = 1


class Refused(Exception):
    """A request that gets no answer: the status, a code for programs and a sentence that says what to do.

    Parameters
    ----------
    limit
        The setting that was met, if it was one.
    retry
        Whether the same request can succeed a little later.
    """

    def __init__(self, status: int, code: str, message: str, *, limit: str | None = None, retry: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.limit = limit
        self.retry = retry

    def body(self, **more: Any) -> bytes:
        """Return ``{"error": {"code", "message", "limit"}}`` as JSON, ``limit`` only where there is one."""
        error = {"code": self.code, "message": self.message} | ({"limit": self.limit} if self.limit else {})
        return json.dumps({"error": error} | more, ensure_ascii=False).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to it."""
        headers = [(b"content-type", b"application/json")]
        if self.retry:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


class Room:
    """A limit on what goes on at a time; who finds no room is refused at once, with 429.

    Everything happens on the event loop: no lock is needed.
    """

    def __init__(self, limit: str, size: int, what: str) -> None:
        self.limit = limit
        self.size = size
        self.what = what
        self.used = 0

    def take(self, amount: int = 1) -> None:
        """Take some, or raise :class:`Refused`."""
        if self.used + amount > self.size:
            raise Refused(
                429,
                "busy",
                f"the service is busy, {self.what}; try again in a moment ({self.limit})",
                limit=self.limit,
                retry=True,
            )
        self.used += amount

    def give_back(self, amount: int = 1) -> None:
        """Give back what was taken."""
        self.used -= amount

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
