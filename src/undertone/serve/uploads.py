"""The body of a request, read into memory within the limits, and the files in it.

The whole body is kept and then cut at its boundaries, without copying: nothing is written to disk, and a search for the
boundary in one piece takes a tenth of the time of a parser that is fed piece by piece. What it may be, in bytes, is
checked on the header and again on every piece that arrives, because a chunked body has no header that says.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from undertone.serve.errors import Refused, Room
from undertone.serve.settings import Settings

FIELD = "file"  # the form field that holds a sound file
MAX_NAME_LENGTH = 255  # characters of a file name that are handed back
MEGABYTE = 1_000_000
_MAX_PART_HEADER = 8_192  # bytes
_BOUNDARY = re.compile(  # RFC 2046; in quotes it may hold a blank
    r"""(?:^|;)\s*boundary=(?:"([0-9A-Za-z'()+_,\-./:=? ]{1,70})"|([0-9A-Za-z'()+_,\-./:=?]{1,70})\s*(?:;|$))""",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:\s*form-data((?:[^\r]|\r(?!\n))*)", re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*(name|filename\*?)=("(?:[^"\\]|\\.)*"|[^;]*)')

Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Upload:
    """One file: the name its sender gave it, without folders, and its bytes."""

    filename: str
    content: memoryview


class Body:
    """The body of one request; :meth:`read` fills it, and leaving the block gives its room back."""

    def __init__(self, settings: Settings, room: Room) -> None:
        self.settings = settings
        self.room = room
        self.content = bytearray()
        self.is_whole = False  # nothing is left to be read

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_: object) -> None:
        self.room.give_back(len(self.content))

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> bytearray:
        """Read all of it, or raise :class:`Refused`: 413 for too many bytes, 408 for too slow, 429 for no room."""
        self._check_header(headers)
        try:
            async with asyncio.timeout(self.settings.upload_timeout_s):
                while not self.is_whole:
                    self._add(await receive())
        except TimeoutError:
            raise Refused(
                408,
                "upload_timeout",
                f"the body was not there after {self.settings.upload_timeout_s:g} s; send less, or faster",
                limit="upload_timeout_s",
            ) from None
        return self.content

    def _check_header(self, headers: Mapping[str, str]) -> None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.settings.max_upload_mb * MEGABYTE:
            raise self._too_large()

    def _add(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.disconnect":
            raise Refused(400, "disconnected", "the body ends before its end")
        piece = message.get("body", b"")
        if len(self.content) + len(piece) > self.settings.max_upload_mb * MEGABYTE:
            raise self._too_large()
        self.room.take(len(piece))
        self.content += piece
        self.is_whole = not message.get("more_body", False)

    def _too_large(self) -> Refused:
        return Refused(
            413,
            "too_large",
            f"the request is larger than {self.settings.max_upload_mb:g} MB; send fewer or shorter files, or FLAC",
            limit="max_upload_mb",
        )


def check_content_type(content_type: str | None) -> bytes:
    """Return the boundary that a multipart form declares, or raise :class:`Refused`: 415 for any other type."""
    kind, _, parameters = (content_type or "").partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise Refused(
            415,
            "not_multipart",
            f"send the sound as multipart/form-data in the field '{FIELD}', for example: curl -F file=@clip.wav URL",
        )
    found = _BOUNDARY.search(parameters)
    if not found:
        raise _malformed("its boundary is missing or invalid")
    return (found[1] or found[2]).encode("ascii")


def split_files(body: bytearray, boundary: bytes, *, max_files: int) -> list[Upload]:
    """Return the files of a multipart form in their order; other fields are skipped.

    Raises
    ------
    Refused
        400 where the form is broken, 413 for more than ``max_files``, 422 where no field is named ``file``.
    """
    uploads = []
    for header, content in _parts(body, b"--" + boundary):
        disposition = _DISPOSITION.search(header)
        parameters = dict(_PARAMETER.findall(disposition[1])) if disposition else {}
        if _unquoted(parameters.get(b"name", b"")) != FIELD:
            continue
        if len(uploads) == max_files:
            raise Refused(
                413, "too_many_files", f"more than {max_files} files; send them in several requests", limit="max_files"
            )
        uploads.append(Upload(_file_name(parameters), content))
    if not uploads:
        raise Refused(422, "no_file", f"the form has no field '{FIELD}'; for example: curl -F file=@clip.wav URL")
    return uploads


def _parts(body: bytearray, delimiter: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the header and the content of each part."""
    view = memoryview(body)
    start = _first_delimiter(body, delimiter) + len(delimiter)
    while body[start : start + 2] == b"\r\n":
        end_of_header = body.find(b"\r\n\r\n", start, start + _MAX_PART_HEADER)
        if end_of_header < 0:
            raise _malformed("a part has no header, or one that is too long")
        end = body.find(b"\r\n" + delimiter, end_of_header + 2)
        if end < 0:
            raise _malformed("it ends in the middle of a part")
        yield bytes(view[start:end_of_header]), view[end_of_header + 4 : max(end, end_of_header + 4)]
        start = end + 2 + len(delimiter)
    if body[start : start + 2] != b"--":
        raise _malformed("its last boundary is missing")


def _first_delimiter(body: bytearray, delimiter: bytes) -> int:
    if body.startswith(delimiter):
        return 0
    start = body.find(b"\r\n" + delimiter, 0, _MAX_PART_HEADER)
    if start < 0:
        raise _malformed("its boundary is nowhere in it")
    return start + 2


def _malformed(what: str) -> Refused:
    return Refused(400, "malformed", f"the form cannot be read: {what}; let an HTTP library write it")


def _file_name(parameters: dict[bytes, bytes]) -> str:
    r"""Return a file name without folders and control characters; it is handed back and never opened.

    Examples
    --------
    >>> _file_name({b"filename": b'"../../etc/passwd"'}), _file_name({b"filename*": b"UTF-8''%C3%A9.wav"})
    ('passwd', 'é.wav')
    """
    if extended := parameters.get(b"filename*"):  # RFC 5987: charset'language'percent-encoded
        name = unquote(extended.rpartition(b"'")[2].decode("ascii", "replace"))
    else:
        name = _unquoted(parameters.get(b"filename", b""))
    last = re.split(r"[/\\]", name)[-1]
    return "".join(char for char in last if char.isprintable())[:MAX_NAME_LENGTH]


def _unquoted(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return re.sub(r'\\(["\\])', r"\1", text[1:-1]) if text[:1] == '"' else text
