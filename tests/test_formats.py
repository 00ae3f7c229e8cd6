"""Rows of predictions, read back by other readers than the ones that wrote them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from undertone import formats
from undertone.recognizer import Prediction

LABELS = ("anger", "neutral")
GOOD = Prediction("a.wav", "anger", 0.9000004, {"anger": 0.9000004, "neutral": 0.0999996}, 0.0, 1.23456)
BAD = Prediction("b.wav", None, None, {}, 0.0, 0.0, error='b.wav: is "no" sound,\nreally')


def csv_rows(predictions):
    file = io.StringIO()
    formats.write_csv(predictions, file, LABELS)
    return list(csv.reader(io.StringIO(file.getvalue())))


def test_csv_columns():
    header, good, bad = csv_rows([GOOD, BAD])
    assert header == ["path", "start_s", "end_s", "emotion", "confidence", "anger", "neutral", "error"]
    assert good == ["a.wav", "0.0", "1.235", "anger", "0.9", "0.9", "0.1", ""]
    assert bad == ["b.wav", "0.0", "0.0", "", "", "", "", 'b.wav: is "no" sound,\nreally']


def test_csv_without_rows_has_its_header():
    assert len(csv_rows([])) == 1


@pytest.mark.parametrize(
    "name", ["ü 猫 🎤.wav", "a,b.wav", 'a"b.wav', "a\nb.wav", "a\r\nb.wav", " a ", "[red]x[/red].wav"]
)
def test_odd_names_survive(name):
    prediction = Prediction(name, "anger", 1.0, {"anger": 1.0, "neutral": 0.0}, 0.0, 1.0)
    file = io.StringIO(newline="")
    formats.write_csv([prediction], file, LABELS)
    assert next(csv.DictReader(io.StringIO(file.getvalue(), newline="")))["path"] == name
    file = io.StringIO()
    formats.write_jsonl([prediction, prediction], file)
    assert [json.loads(line)["path"] for line in file.getvalue().split("\n")[:-1]] == [name, name]


@pytest.mark.parametrize("predictions", [[], [GOOD], [GOOD, BAD, GOOD]])
def test_json_is_one_array(predictions):
    file = io.StringIO()
    formats.write_json(predictions, file)
    assert json.loads(file.getvalue()) == [formats.to_dict(prediction) for prediction in predictions]


def test_json_keys_are_the_columns():
    assert formats.to_dict(GOOD) == {
        "path": "a.wav",
        "start_s": 0.0,
        "end_s": 1.235,
        "emotion": "anger",
        "confidence": 0.9,
        "probs": {"anger": 0.9, "neutral": 0.1},
        "error": None,
    }


def test_rows_are_written_as_they_come():
    file = io.StringIO()

    def watched():
        yield GOOD
        assert "a.wav" in file.getvalue()
        yield BAD

    formats.write_jsonl(watched(), file)
    assert file.getvalue().count("\n") == 2


def test_file_appears_when_all_is_written(tmp_path):
    out = tmp_path / "out.csv"
    with formats.open_output(out) as file:
        file.write("all\n")
        assert not out.exists()
    assert out.read_bytes() == b"all\n"
    assert list(tmp_path.iterdir()) == [out]


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("before")
    with pytest.raises(KeyboardInterrupt), formats.open_output(out) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("before", ["before", None], ids=["file", "dangling"])
def test_a_link_stays_a_link(tmp_path, before):
    (tmp_path / "there").mkdir()
    target, out = tmp_path / "there" / "target.csv", tmp_path / "out.csv"
    if before:
        target.write_text(before)
    out.symlink_to(target)
    with formats.open_output(out) as file:
        file.write("all\n")
    assert out.readlink() == target
    assert target.read_text() == "all\n"
    assert sorted(tmp_path.rglob("*")) == [out, target.parent, target]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_written_to(tmp_path):
    out = tmp_path / "pipe.csv"
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)  # before the writer, which would wait for it
    try:
        with formats.open_output(out) as file:
            file.write("all\n")
        assert os.read(reader, 100) == b"all\n"
    finally:
        os.close(reader)
    assert out.is_fifo()


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev")
def test_a_device_is_written_to(tmp_path):
    out = tmp_path / "out.csv"
    out.symlink_to("/dev/null")
    with formats.open_output(out) as file:
        file.write("all\n")
    assert out.is_symlink()
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/stdout")
def test_standard_output_by_name_appends_to_what_it_is(tmp_path):
    name = tmp_path / "stdout"  # a link of our own: root could replace /dev/stdout itself
    name.symlink_to("/dev/stdout")
    code = (
        "from pathlib import Path; from undertone import formats\n"
        f"with formats.open_output(Path({str(name)!r})) as file: file.write('all\\n')"
    )
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert log.read_text() == "before\nall\n"
    piped = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert piped.stdout == b"all\n"


def test_a_folder_is_no_place_for_rows(tmp_path):
    with pytest.raises(OSError), formats.open_output(tmp_path) as file:
        file.write("all\n")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    out = tmp_path / "out.jsonl"
    prediction = Prediction("a\udcff.wav", None, None, {}, 0.0, 0.0, error="?")
    with formats.open_output(out) as file:
        formats.write_jsonl([prediction], file)
    assert json.loads(out.read_text(encoding="utf-8"))["path"] == "a\udcff.wav"
