"""A file is there whole or not at all."""

import os

import pytest

from undertone.files import replacing, write_file


def test_text_and_bytes(tmp_path):
    write_file(tmp_path / "a.txt", "säd\n")
    write_file(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == "säd\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"


def test_what_fails_half_way_leaves_all_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "before"
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_mode_follows_the_mask_and_links_stay_links(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    mask = os.umask(0o027)
    try:
        write_file(link, "x")
    finally:
        os.umask(mask)
    assert link.is_symlink() and target.read_text() == "x"
    assert target.stat().st_mode & 0o777 == 0o640
