"""Fetching files over HTTP so that what is on disk is whole and right, and unpacking zips without trust.

A file is written to ``.NAME.part`` beside its target, where a later call goes on, then checked, then renamed.
Too many requests (429), server errors and dropped connections are tried again with growing pauses. A file
that does not exist, or whose bytes are wrong, is an error; wrong bytes are deleted.
"""

import email.utils
import json
import stat
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from undertone.lab.corpora.utterance import CLIP_SUFFIXES, CorpusError

CHUNK_BYTES = 1 << 14  # a dropped connection loses less than this
MAX_FILE_BYTES = 4 << 30  # of a file whose size is not known beforehand
MAX_UNPACKED_BYTES = 8 << 30
MAX_RATIO = 100  # unpacked to packed; the corpora's WAVs reach about 2
N_ATTEMPTS = 6  # without getting any further
MAX_PAUSE_S = 300.0
TIMEOUT_S = (10, 60)  # to connect, to the next byte
N_WORKERS = 4  # files at once, for the corpora that come clip by clip
N_FAILURES = 5  # files given up before the rest is not tried
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(CorpusError):
    """A download that did not succeed; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a corpus: where it goes below the corpus folder, and where it comes from."""

    path: str  # relative, with "/"
    urls: tuple[str, ...]  # the official one first, mirrors after it
    checksum: str | None = None  # "md5:..." or "sha256:..."
    n_bytes: int | None = None


class _Interrupted(Exception):
    """A fault that may pass; ``pause_s`` is the pause the server asked for."""

    def __init__(self, reason: str, pause_s: float | None = None):
        super().__init__(reason)
        self.pause_s = pause_s


@dataclass
class Client:
    """HTTP with resuming and patience.

    Parameters
    ----------
    base_url
        Replaces scheme and host of every URL: a mirror or a test server.
    n_attempts
        How often to try without getting any further.
    sleep
        How to wait some seconds; None waits, but not beyond :meth:`stop`.
    """

    base_url: str | None = None
    n_attempts: int = N_ATTEMPTS
    n_workers: int = N_WORKERS
    sleep: Callable[[float], object] | None = None
    session: Any = field(default=None, repr=False)
    stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.session is None:
            import requests  # comes with pooch; only needed to download

            self.session = requests.Session()
            self.session.headers.update({"User-Agent": "undertone", "Accept-Encoding": "identity"})

    def stop(self) -> None:
        """Let downloads in other threads end at their next chunk, keeping what they have."""
        self.stopped.set()

    def get_json(self, url: str) -> Any:
        """Return the decoded JSON body of ``url``.

        Raises
        ------
        DownloadError
            If there is no answer, or it is no JSON.
        """
        body = self._persist(url, lambda: self._read(url), lambda: 0)
        try:
            return json.loads(body)
        except ValueError as error:
            raise DownloadError(f"{url} did not answer in JSON; try again later") from error

    def download(self, url: str, part: Path, *, n_bytes: int | None, advance: Callable[[int], None]) -> None:
        """Fetch ``url`` into ``part``, going on from what is there; ``advance`` is told the bytes written."""
        advance(_size(part))
        self._persist(url, lambda: self._continue(url, part, n_bytes, advance), lambda: _size(part))

    def _persist(self, url: str, action: Callable[[], Any], size: Callable[[], int]) -> Any:
        """Run ``action`` until it succeeds, or ``n_attempts`` in a row got no further."""
        n_failures, best = 0, size()
        while True:
            try:
                return action()
            except _Interrupted as interrupted:
                n_failures, best = (0, size()) if size() > best else (n_failures + 1, best)
                if n_failures >= self.n_attempts:
                    raise DownloadError(
                        f"{url}: {interrupted}; gave up after {n_failures} attempts. "
                        "What has arrived is kept: run the same command later to go on"
                    ) from interrupted
                pause_s = 2.0**n_failures if interrupted.pause_s is None else interrupted.pause_s
                (self.sleep or self.stopped.wait)(min(pause_s, MAX_PAUSE_S))
                self._check_stopped(url)

    def _check_stopped(self, url: str) -> None:
        if self.stopped.is_set():
            raise DownloadError(f"{url} was stopped; what has arrived is kept")

    def _read(self, url: str) -> bytes:
        import requests

        with self._open(url, {}) as response:
            try:
                return response.content
            except requests.RequestException as error:
                raise _Interrupted("the connection broke") from error

    def _continue(self, url: str, part: Path, n_bytes: int | None, advance: Callable[[int], None]) -> None:
        start = _size(part)
        if start and start == n_bytes:
            return
        with self._open(url, {"Range": f"bytes={start}-"} if start else {}) as response:
            if start and not _goes_on(response, start):
                advance(-start)
                part.unlink()
                if response.status_code != 200:  # 200: the whole file from its start, which is taken as it is
                    raise _Interrupted("the server cannot go on with the partial file", 0.0)
                start = 0
            self._write(response, part, start, n_bytes or MAX_FILE_BYTES, advance)

    def _write(self, response: Any, part: Path, start: int, limit: int, advance: Callable[[int], None]) -> None:
        import requests

        announced = response.headers.get("Content-Length", "")
        size = start
        with part.open("ab") as file:
            try:
                for chunk in response.iter_content(CHUNK_BYTES):
                    self._check_stopped(response.url)
                    size += len(chunk)
                    if size > limit:
                        break
                    file.write(chunk)
                    advance(len(chunk))
            except requests.RequestException as error:
                raise _Interrupted(f"the connection broke after {size:,} bytes") from error
        if size > limit:
            part.unlink()
            raise DownloadError(
                f"{response.url} sends more than the expected {limit:,} bytes; the file was deleted. "
                "The source has changed, or something on the way alters files"
            )
        if announced.isdigit() and size < start + int(announced):
            raise _Interrupted(f"the connection ended after {size:,} of {start + int(announced):,} bytes")

    @contextmanager
    def _open(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        import requests

        try:
            response = self.session.get(self._locate(url), headers=headers, stream=True, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise _Interrupted(f"no connection ({type(error).__name__})") from error
        with response:
            status = response.status_code
            if status in RETRY_STATUS:
                pause_s = _retry_after_s(response.headers.get("Retry-After", ""))
                raise _Interrupted(f"the server answered {status} ({response.reason})", pause_s)
            if status not in (200, 206) and not (status == 416 and headers):
                raise DownloadError(
                    f"{url} answered {status} ({response.reason}); look at the corpus's page whether it has "
                    "moved, download it by hand, or update undertone"
                )
            yield response

    def _locate(self, url: str) -> str:
        if self.base_url is None:
            return url
        parts = urlsplit(url)
        return self.base_url.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


def _goes_on(response: Any, start: int) -> bool:
    """Whether the answer continues at byte ``start``."""
    content_range = response.headers.get("Content-Range", "")
    return response.status_code == 206 and content_range.startswith(f"bytes {start}-")


def _retry_after_s(header: str) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fetch_files(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    client: Client,
    progress: bool | None = None,
    title: str = "",
) -> None:
    """Fetch every file that is not yet below ``folder`` with the right checksum, several at once.

    Raises
    ------
    DownloadError
        After all others were tried, or after ``N_FAILURES`` files failed; the message names the first ones.
    """
    client.stopped.clear()
    targets = [target_of(folder, file.path) for file in files]  # all checked before anything is written
    sizes = [file.n_bytes for file in files]
    total = sum(size or 0 for size in sizes) if None not in sizes else None
    errors: list[DownloadError] = []
    with _progress_bar(title, total, progress) as advance, ThreadPoolExecutor(client.n_workers) as pool:
        running: set[Future[None]] = set()
        try:
            for file, target in zip(files, targets, strict=True):
                running.add(pool.submit(_fetch_file, file, target, client, advance))
                if len(running) >= 2 * client.n_workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    errors += _errors(done)
                if len(errors) >= N_FAILURES:
                    break
            errors += _errors(wait(running).done)
        except BaseException:  # Ctrl-C must not wait for the files under way
            client.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if errors:
        more = f"\n({len(errors)} files failed)" if len(errors) > 1 else ""
        raise DownloadError("\n".join(str(error) for error in errors[:3]) + more)


def _errors(done: set[Future[None]]) -> list[DownloadError]:
    """Return the download errors of finished tasks; any other error is raised."""
    errors = []
    for future in done:
        error = future.exception()
        if isinstance(error, DownloadError):
            errors.append(error)
        elif error is not None:
            raise error
    return errors


def _fetch_file(file: RemoteFile, target: Path, client: Client, advance: Callable[[int], None]) -> None:
    for url in file.urls[:-1]:
        try:
            return _fetch_from(url, file, target, client, advance)
        except DownloadError:
            client._check_stopped(url)  # else: the next mirror
    return _fetch_from(file.urls[-1], file, target, client, advance)


def _fetch_from(url: str, file: RemoteFile, target: Path, client: Client, advance: Callable[[int], None]) -> None:
    """Leave a verified file at ``target``: pooch compares the checksum, then renames."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # a line per file would drown the progress bar
    part = target.with_name(f".{target.name}.part")
    n_fetched = 0

    def downloader(url: str, output_file: str, _pooch: object) -> None:
        nonlocal n_fetched
        client.download(url, part, n_bytes=file.n_bytes, advance=advance)
        n_fetched = _size(part)
        part.replace(output_file)

    fetch: Any = downloader  # pooch annotates its argument as a processor
    target.parent.mkdir(parents=True, exist_ok=True)
    for was_resumed in (part.exists(), False):
        try:
            pooch.retrieve(url, file.checksum, target.name, target.parent, downloader=fetch)
            break
        except DownloadError:
            raise
        except ValueError as error:  # pooch: the checksum differs; it has deleted the file
            advance(-n_fetched)
            if not was_resumed:  # else the old part may be to blame: once more from the start
                raise DownloadError(
                    f"{url} sent other bytes than published ({file.checksum}); the file was deleted. "
                    "Try again; if it stays so, the source has changed, or something on the way alters files"
                ) from error
    if not n_fetched:
        advance(file.n_bytes or 0)


@contextmanager
def _progress_bar(title: str, total: int | None, show: bool | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    show = console.is_terminal if show is None else show
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=console, disable=not show) as bars:
        task = bars.add_task(title, total=total)
        yield lambda n_bytes: bars.advance(task, n_bytes)


def target_of(folder: Path, path: str) -> Path:
    """Return ``folder / path``.

    Raises
    ------
    DownloadError
        If ``path`` leads out of ``folder`` or is not portable.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or any(character in path for character in "\\:\0"):
        raise DownloadError(f"{path!r} is not a safe file name; nothing was written. Do not trust this source")
    return folder.joinpath(*parts)


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack the clips and text files of a zip below ``folder``, each to a temporary name first.

    Raises
    ------
    DownloadError
        If the zip is damaged, leads out of ``folder``, holds a link, or unpacks to far more than it holds.
        Names and sizes are checked before anything is written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if _is_wanted(member)]
            targets = [target_of(folder, member.filename) for member in members]
            _check_members(archive, members)
            for member, target in zip(members, targets, strict=True):
                _extract(opened, member, target)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DownloadError(f"{archive} is damaged ({error}); run the same command for a fresh copy") from error
    return targets


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
    return not member.is_dir() and not hidden and path.suffix.lower() in (*CLIP_SUFFIXES, ".txt")


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    if any(stat.S_ISLNK(member.external_attr >> 16) for member in members):
        raise DownloadError(f"{archive} holds a symbolic link, which no corpus does; it was not unpacked")
    unpacked = sum(member.file_size for member in members)
    if unpacked > min(MAX_UNPACKED_BYTES, MAX_RATIO * archive.stat().st_size):
        raise DownloadError(f"{archive} would unpack to {unpacked:,} bytes, which no corpus does; it was not unpacked")


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with opened.open(member) as source, part.open("wb") as file:
            while chunk := source.read(CHUNK_BYTES):  # never yields more than member.file_size; checks the CRC
                file.write(chunk)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
