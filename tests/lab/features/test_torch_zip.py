"""Tensors read without unpickling: what torch.save writes, and what must be refused."""

# ruff: noqa: E402 - imports follow the check that torch is there
import os
import pickle
import zipfile

import pytest

torch = pytest.importorskip("torch")

from undertone.lab.features import torch_zip
from undertone.lab.features.torch_zip import CheckpointError, read_tensors

pytestmark = pytest.mark.lab


@pytest.fixture
def make_file(tmp_path):
    """Function (program, {entry: bytes}) -> path of a zip as torch.save writes it, whatever is in it."""

    def make(program, entries=(), *, compression=zipfile.ZIP_STORED):
        path = tmp_path / "made.ckpt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", program)
            for name, content in dict(entries).items():
                archive.writestr(f"archive/{name}", content)
        return path

    return make


def rewrite(path, **changed):
    """Write the file again with some of its entries changed; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    folder = next(iter(entries)).split("/")[0]
    entries |= {f"{folder}/{name.replace('__', '/')}": content for name, content in changed.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.fixture
def saved(tmp_path):
    """(tensors, path): a state_dict of several kinds, and views that share or skip numbers."""
    shared = torch.arange(24.0)
    module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 5), torch.nn.BatchNorm1d(4))
    tensors = {
        **module.state_dict(),  # an OrderedDict with version numbers; num_batches_tracked is a scalar of int64
        "transposed": shared.view(4, 6).t(),
        "part": shared[5:20:3],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "saved.ckpt"
    torch.save(tensors, path)
    return tensors, path


def test_reads_what_torch_saves(saved):
    tensors, path = saved
    read = read_tensors(path)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_reads_a_state_dict(tmp_path):
    module = torch.nn.BatchNorm1d(4)
    torch.save(module.state_dict(), tmp_path / "state.ckpt")
    read = read_tensors(tmp_path / "state.ckpt")
    assert list(read) == list(module.state_dict())
    assert read["num_batches_tracked"].shape == ()


class _Runs:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_a_file_asks_for_is_run(protocol, make_file, tmp_path):
    harm = tmp_path / "harm"
    program = pickle.dumps({"weight": _Runs(os.mkdir, str(harm))}, protocol=protocol)
    pickle.loads(program)
    assert harm.is_dir()  # the file would do harm
    harm.rmdir()
    with pytest.raises(CheckpointError, match=r"data\.pkl (asks for|holds the instruction)"):
        read_tensors(make_file(program))
    assert not harm.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02cbuiltins\neval\n.", "asks for 'builtins eval'"),
        (b"\x80\x02ctorch\nload\n.", "asks for 'torch load'"),
        (b"\x80\x02(U\x01ai__main__\nThing\n.", "instruction"),
        (pickle.dumps([1, 2], 2), "instruction EMPTY_LIST"),
        (pickle.dumps({"a": 1}, 2), "not a dictionary of tensors"),
        (pickle.dumps({"a": {"b": None}}, 2), "not a dictionary of tensors"),
        (pickle.dumps({1: ()}, 2), "damaged"),
        (b"\x80\x02}.", None),  # an empty dictionary is one of tensors
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02\x85.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "calls collections OrderedDict in an unknown way"),
    ],
)
def test_other_programs_are_refused(program, message, make_file):
    path = make_file(program)
    if message is None:
        assert read_tensors(path) == {}
    else:
        with pytest.raises(CheckpointError, match=message):
            read_tensors(path)


def patch(path, old, new):
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        program = archive.read(name)
    assert program.count(old) == 1
    return rewrite(path, **{"data.pkl": program.replace(old, new)})


@pytest.fixture
def vector(tmp_path):
    """File of one tensor of seven numbers."""
    path = tmp_path / "vector.ckpt"
    torch.save({"v": torch.arange(7.0)}, path)
    return path


SHAPE_7, STRIDE_1 = b"K\x00K\x07\x85", b"K\x01\x85"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SHAPE_7, b"K\x00K\x08\x85", "larger than the numbers stored"),  # eight of seven
        (SHAPE_7, b"K\x01K\x07\x85", "larger than the numbers stored"),  # from the second on
        (SHAPE_7, b"K\x00J\xff\xff\xff\xff\x85", "impossible size"),
        (STRIDE_1, b"K\x02\x85", "larger than the numbers stored"),
        (STRIDE_1, b"K\x01K\x01\x86", "impossible size"),
        (STRIDE_1, b"J\xff\xff\xff\xff\x85", "impossible size"),
        (b"ctorch\nFloatStorage\n", b"ctorch\nDoubleStorage\n", "28 bytes, not 56"),
    ],
)
def test_sizes_that_the_file_does_not_hold_are_refused(old, new, message, vector):
    assert read_tensors(vector)["v"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(CheckpointError, match=message):
        read_tensors(patch(vector, old, new))


def test_a_stride_of_zero_does_not_unpack_to_more(tmp_path):
    torch.save({"v": torch.zeros(1).expand(1_000_000)}, tmp_path / "v.ckpt")
    with pytest.raises(CheckpointError, match="larger than the numbers stored"):
        read_tensors(tmp_path / "v.ckpt")


def test_many_tensors_of_one_storage_stay_bounded(tmp_path, monkeypatch):
    shared = torch.zeros(1_000)
    torch.save({str(n): shared[:] for n in range(100)}, tmp_path / "v.ckpt")
    monkeypatch.setattr(torch_zip, "MAX_BYTES", 100_000)
    with pytest.raises(CheckpointError, match="unpacks to more"):
        read_tensors(tmp_path / "v.ckpt")


def test_damaged_files_are_refused(vector, tmp_path, make_file):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "missing.ckpt")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(CheckpointError, match="convert it to safetensors"):
        read_tensors(tmp_path / "text")
    with pytest.raises(CheckpointError, match="compressed"):
        read_tensors(make_file(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_tensors(rewrite(vector, byteorder=b"big"))
    with pytest.raises(CheckpointError, match="missing"):
        read_tensors(rewrite(vector, byteorder=b"little", data__0=None))
    with pytest.raises(CheckpointError, match="exactly one"):
        read_tensors(rewrite(vector, **{"data.pkl": None}))


def test_a_file_cut_short_is_refused(vector):
    content = vector.read_bytes()
    vector.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="convert it to safetensors"):
        read_tensors(vector)


def test_a_large_file_is_refused(vector, monkeypatch):
    monkeypatch.setattr(torch_zip, "MAX_BYTES", 20)
    with pytest.raises(CheckpointError, match="larger than"):
        read_tensors(vector)
