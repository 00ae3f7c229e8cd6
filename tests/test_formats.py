"""Rows of predictions, read back by other readers than the ones that wrote them."""

import csv
import io
import json

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


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    out = tmp_path / "out.jsonl"
    prediction = Prediction("a\udcff.wav", None, None, {}, 0.0, 0.0, error="?")
    with formats.open_output(out) as file:
        formats.write_jsonl([prediction], file)
    assert json.loads(out.read_text(encoding="utf-8"))["path"] == "a\udcff.wav"
