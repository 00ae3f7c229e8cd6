"""Anybody's split as a CSV: what crosses is found, and a table that says no split says why."""

import csv

import pytest

from undertone.lab.split_table import SplitTableError, audit_table

pytestmark = pytest.mark.lab


@pytest.fixture
def write_table(tmp_path):
    """Function (columns, rows) -> path of a CSV with them."""

    def write(columns, rows):
        path = tmp_path / "split.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns.split(), *(row.split() for row in rows)])
        return path

    return write


def found(audit):
    return {(finding.kind, finding.first, finding.second): finding.n_rows for finding in audit.findings}


def test_a_split_by_speaker_is_fine(write_table):
    audit = audit_table(write_table("path speaker split", ["a.wav 1 train", "b.wav 2 Validation", "c.wav 3 test"]))
    assert not audit.leaks and not audit.findings
    assert {part: counts["rows"] for part, counts in audit.counts.items()} == {"train": 1, "dev": 1, "test": 1}


def test_speakers_and_copies_that_cross_are_counted_and_named(write_table):
    rows = ["a.wav 1 train a.wav", "b.wav 1 test b.wav", "noisy/a.wav 1 test a.wav", "c.wav 2 test c.wav"]
    audit = audit_table(write_table("path speaker split source", rows))
    assert found(audit) == {("speaker", "train", "test"): 2, ("copy", "train", "test"): 1}
    assert [finding.shared for finding in audit.findings] == [("1",), ("noisy/a.wav",)]
    assert "IT LEAKS" in audit.summary()


def test_one_name_in_two_folders_is_two_clips(write_table):
    """Many corpora number the clips of each speaker anew."""
    assert not audit_table(write_table("path speaker split", ["1/01.wav 1 train", "2/01.wav 2 test"])).leaks


def test_sentences_are_a_note(write_table):
    audit = audit_table(write_table("path speaker split sentence", ["a.wav 1 train dogs", "b.wav 2 test dogs"]))
    assert found(audit) == {("sentence", "train", "test"): 1} and not audit.leaks


def test_equal_sound_under_two_names_is_heard(write_table, write_sound, make_speech, tmp_path):
    for name, seed in (("a.wav", 0), ("b.flac", 0), ("c.wav", 1)):
        write_sound(name, (make_speech(seed, 0.5) * 32_768).round().astype("int16"))
    table = write_table("path speaker split", ["a.wav 1 train", "b.flac 2 test", "c.wav 3 test"])
    assert not audit_table(table).leaks
    assert found(audit_table(table, audio=True, cache_dir=tmp_path / "cache")) == {("audio", "train", "test"): 1}
    (tmp_path / "b.flac").unlink()
    with pytest.raises(SplitTableError, match=r"split.csv, line 3: .*b.flac"):
        audit_table(table, audio=True, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ("path speaker", ["a.wav 1"], "no column 'split'; it has: path, speaker"),
        ("path speaker split", ["a.wav 1 holdout"], "line 2: split is 'holdout'; there are: train, dev"),
        ("path split speaker", ["a.wav train 1", "b.wav test"], "line 3: speaker is empty"),
        ("path speaker split", [], "has no rows"),
    ],
)
def test_a_table_that_says_no_split_says_why(columns, rows, words, write_table):
    with pytest.raises(SplitTableError, match=words):
        audit_table(write_table(columns, rows))


def test_what_is_no_table_says_so(tmp_path):
    path = tmp_path / "split.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SplitTableError, match="not a CSV file in UTF-8"):
        audit_table(path)
