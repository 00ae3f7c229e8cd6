"""Tensors out of a file that ``torch.save`` wrote, without unpickling anything.

Such a file is a zip of raw numbers (``data/0``, ``data/1``, ...) and of ``data.pkl``, a pickle program that says which
tensor is made of which. A pickle program may call any function; nothing here runs one. Its instructions are listed with
``pickletools.genops`` and interpreted by a table that knows dictionaries, tuples, strings, integers and the one
function that makes a tensor of a storage. Any other instruction or name is an error, and so is a size the file does not
hold.
"""

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_PROGRAM_BYTES = 1 << 20  # data.pkl of a few hundred tensors is some 10 kB
MAX_BYTES = 1 << 29  # 512 MB of numbers

STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch BoolStorage": torch.bool,
}
MAKE_TENSOR = "torch._utils _rebuild_tensor_v2"
MAKE_DICT = "collections OrderedDict"


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class _Name:
    """A global that the program mentions; it is never imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers of one kind in the entry ``data/KEY`` of the zip."""

    key: str
    dtype: torch.dtype
    n_values: int


class _Mark:
    pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a file written by ``torch.save(module.state_dict(), path)``.

    Raises
    ------
    CheckpointError
        If it is no such file, holds anything else than named tensors, or is larger than ``MAX_BYTES``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is no zip file as torch.save has written since torch 1.6 ({error}); "
            "convert it to safetensors where it comes from"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    programs = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        raise CheckpointError("not a file of torch.save: it needs exactly one FOLDER/data.pkl inside")
    if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
        raise CheckpointError(f"larger than {MAX_BYTES >> 20} MB")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and _read(archive, f"{folder}byteorder", 16) != b"little":
        raise CheckpointError("written on a big-endian machine")
    return _Program(archive, folder).run(_read(archive, programs[0], MAX_PROGRAM_BYTES))


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Bytes of a stored entry; torch does not compress, so a file never unpacks to more than it is."""
    try:
        entry = archive.getinfo(name)
    except KeyError as error:
        raise CheckpointError(f"the entry {name} is missing") from error
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
        raise CheckpointError(f"the entry {name} is compressed, or larger than {max_bytes} bytes")
    return archive.read(entry)


class _Program:
    """Interpreter of the instructions that a dictionary of tensors needs."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self.archive, self.folder = archive, folder
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.read_bytes = 0

    def run(self, program: bytes) -> dict[str, Tensor]:
        try:
            for opcode, argument, _ in pickletools.genops(program):
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (ValueError, IndexError, KeyError, TypeError) as error:  # a program that does not fit together
            raise CheckpointError(f"data.pkl is damaged: {error!r}") from error
        result = self.stack[-1] if len(self.stack) == 1 else None
        if not isinstance(result, dict) or not all(isinstance(value, Tensor) for value in result.values()):
            raise CheckpointError("not a dictionary of tensors, such as a state_dict()")
        return result

    def _step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "STOP"):
            return
        if name in ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"):
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(self._name(argument))
        elif name in FIXED_TUPLES:
            self.stack.append(self._pop(FIXED_TUPLES[name]))
        elif name in ("EMPTY_DICT", "MARK"):
            self.stack.append({} if name == "EMPTY_DICT" else _Mark())
        elif name == "TUPLE":
            self.stack.append(self._pop_to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
            self._set_items(items)
        elif name == "BINPERSID":
            self.stack.append(self._storage(*self.stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            self.stack.append(self._call(function, arguments))
        elif name == "BUILD":  # the version numbers a state_dict carries: an attribute of the dictionary, not needed
            self.stack.pop()
        else:
            raise CheckpointError(f"data.pkl holds the instruction {name}, which a dictionary of tensors does not need")

    def _name(self, argument: str) -> _Name:
        if argument not in (MAKE_TENSOR, MAKE_DICT, *STORAGES):
            raise CheckpointError(f"data.pkl asks for {argument!r}, which a dictionary of tensors does not need")
        return _Name(argument)

    def _pop(self, n: int) -> tuple[Any, ...]:
        items = tuple(self.stack[len(self.stack) - n :])
        if len(items) != n:
            raise IndexError("the stack is empty")
        del self.stack[len(self.stack) - n :]
        return items

    def _pop_to_mark(self) -> tuple[Any, ...]:
        marks = [index for index, item in enumerate(self.stack) if isinstance(item, _Mark)]
        items = tuple(self.stack[marks[-1] + 1 :])
        del self.stack[marks[-1] :]
        return items

    def _set_items(self, items: tuple[Any, ...]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or not all(isinstance(key, str) for key in items[::2]):
            raise TypeError("items are set of something that is no dictionary of names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _storage(self, kind: str, storage: _Name, key: str, _device: str, n_values: int) -> _Storage:
        if kind != "storage" or storage.name not in STORAGES or not key.isdigit() or n_values < 0:
            raise CheckpointError("data.pkl describes a storage in an unknown way")
        return _Storage(key, STORAGES[storage.name], n_values)

    def _call(self, function: _Name, arguments: tuple[Any, ...]) -> Any:
        if function.name == MAKE_DICT and not arguments:
            return {}
        if function.name == MAKE_TENSOR:
            return self._tensor(*arguments[:4])
        raise CheckpointError(f"data.pkl calls {function.name} in an unknown way")

    def _tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
            raise CheckpointError("data.pkl holds a tensor of impossible size")
        n_values = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if n_values else 0
        if n_values > storage.n_values or last >= max(storage.n_values, 1):
            raise CheckpointError("a tensor is larger than the numbers stored for it")
        n_bytes = storage.n_values * storage.dtype.itemsize
        self.read_bytes += n_bytes
        if self.read_bytes > MAX_BYTES:  # many tensors of one storage
            raise CheckpointError(f"unpacks to more than {MAX_BYTES >> 20} MB")
        content = _read(self.archive, f"{self.folder}data/{storage.key}", MAX_BYTES)
        if len(content) != n_bytes:
            raise CheckpointError(f"data/{storage.key} has {len(content)} bytes, not {n_bytes}")
        if not n_values:
            return torch.zeros(size, dtype=storage.dtype)
        values = torch.frombuffer(bytearray(content), dtype=storage.dtype)
        return values.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
