"""Files that appear under their name only when all of them is there: a reader, or a crash, never finds half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file, text as UTF-8, through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a new, empty file beside ``path`` that takes its place at the end.

    Left by an exception, the new file is gone and one that was there before stays as it was. Links stay links.
    """
    target = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # on the disk before it has the name: power may fail, too
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # made for this user alone
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
