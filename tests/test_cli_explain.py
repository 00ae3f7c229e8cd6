"""``undertone explain``: the map, the files, and what is said when there is nothing to explain."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from undertone.cli import explain as explaining
from undertone.cli.commands import app
from undertone.explanation import Explanation
from undertone.explanation import explain as explain_clip


@pytest.fixture
def explain(model_path):
    """Function (*arguments) -> result of ``undertone explain`` with the tiny model."""

    def run(*arguments, model=model_path):
        return CliRunner().invoke(app, ["explain", "--model", str(model), *map(str, arguments)], prog_name="undertone")

    return run


@pytest.fixture
def clip(write_sound, make_speech):
    return write_sound("clip.wav", make_speech(1, 1.6))


# ---- numbers ----


def test_json_is_the_explanation(explain, clip, recognizer):
    result = explain(clip, "--json", "--times", 5, "--bands", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    expected = explain_clip(recognizer, clip, n_times=5, n_bands=3)
    assert json.loads(result.stdout) == {"path": str(clip), **expected.to_dict()}


def test_an_emotion_of_ones_own_choice(explain, clip, recognizer):
    heard = recognizer.predict(clip)
    other = min(heard.probs, key=heard.probs.get)
    shown = json.loads(explain(clip, "--json", "--emotion", other).stdout)
    assert (shown["emotion"], shown["prob"]) == (other, pytest.approx(heard.probs[other], abs=1e-6))


# ---- the map ----


def test_the_map_has_a_row_for_each_band_and_names_the_strongest(explain, clip, recognizer):
    lines = explain(clip, "--times", 6, "--bands", 4).stdout.splitlines()
    explanation = explain_clip(recognizer, clip, n_times=6, n_bands=4)
    assert lines[1].startswith(f" {explanation.emotion} {explanation.prob:.1%}")
    assert str(clip) in lines[1]
    rows = [line for line in lines if " Hz " in line and " - " in line]
    lower_hz = [int(line.split(" - ")[0].replace(",", "")) for line in rows]
    assert lower_hz == [round(edge) for edge in explanation.bands_hz[-2::-1]]
    most = next(line for line in lines if line.startswith("  most"))
    band, time = np.unravel_index(explanation.importance.argmax(), (4, 6))
    assert f"{explanation.times_s[time]:.2f}-{explanation.times_s[time + 1]:.2f} s" in most
    assert f"{explanation.prob:.1%} -> {explanation.prob - explanation.importance[band, time]:.1%}" in most


def test_cells_are_drawn_where_and_as_strong_as_they_are():
    importance = np.array([[0.4, 0.0, -0.4], [0.2, 0.0, 0.0]])
    explanation = Explanation("anger", 0.9, np.linspace(0, 1.5, 4), np.array([0.0, 2_000, 8_000]), importance)
    lines = list(explaining.map_lines(explanation, "clip.wav"))
    upper, lower = lines[1:3]
    assert upper.startswith("  2,000 - 8,000 Hz")
    assert lower.startswith("      0 - 2,000 Hz")
    marks = {"█": 4, "▓": 3, "▒": 2, "░": 1, "#": 4, "*": 3, "+": 2, ".": 1, "─": -4, "-": -4, " ": 0}
    first = len("  2,000 - 8,000 Hz ")  # and three columns for each cell
    assert [marks[upper[column]] for column in (first, first + 3, first + 6)] == [2, 0, 0]
    assert [marks[lower[column]] for column in (first, first + 3, first + 6)] == [4, 0, -4]
    assert lines[3].split() == ["0", "1.50", "s"]


@pytest.mark.parametrize("columns", [80, 100])
def test_the_map_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    importance = np.random.default_rng(0).uniform(-1, 1, (8, 16))
    explanation = Explanation("anger", 0.9, np.linspace(0, 3, 17), np.linspace(0, 8_000, 9), importance)
    widths = [len(line) for line in explaining.map_lines(explanation, "clip.wav")]
    assert columns - 20 < max(widths) <= columns


def test_nothing_that_matters_is_said_so(explain, write_sound):
    result = explain(write_sound("silence.wav", np.zeros(16_000)))
    assert result.exit_code == 0
    assert "no cell makes a difference alone" in result.stdout


# ---- files ----


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("why.svg", b"<svg"), ("why.html", b"<!doctype html>"), ("why.PNG", b"\x89PNG"), ("why.json", b'{"path"')],
)
def test_the_suffix_chooses_the_format(explain, clip, tmp_path, name, beginning):
    result = explain(clip, "--out", tmp_path / name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(beginning)
    assert ("without axes" in result.stdout) == (name == "why.PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.wav", name]  # and no temporary file


def test_the_json_file_is_what_json_prints(explain, clip, tmp_path):
    explain(clip, "-o", tmp_path / "why.json")
    assert json.loads((tmp_path / "why.json").read_text()) == json.loads(explain(clip, "--json").stdout)


@pytest.mark.parametrize("name", ["why.svg", "why.png"])
def test_a_folder_that_is_not_there(explain, clip, tmp_path, name):
    result = explain(clip, "-o", tmp_path / "missing" / name)
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert "No such file" in result.stderr


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "why.pdf"], "cannot tell the format of why.pdf: name it .svg, .html, .png or .json"),
        (["-o", "why.svg", "--json"], "not both"),
        (["--emotion", "joy"], "knows no emotion 'joy'"),
        (["--times", "500"], "1024 cells in all"),
    ],
)
def test_impossible_options(explain, clip, arguments, message):
    result = explain(clip, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_sounds_that_cannot_be_explained(explain, write_sound, make_tone, tmp_path):
    for path, message in (
        (tmp_path / "missing.wav", "there is no such file"),
        (write_sound("long.wav", make_tone(duration_s=31.0)), "more than the 30 s allowed"),
    ):
        result = explain(path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_are_shown_not_obeyed(explain, write_sound, make_tone, tmp_path):
    path = write_sound("\x1b[31m<script>&.wav", make_tone())
    assert "\x1b" not in explain(path).stdout
    for suffix in ("svg", "html"):
        explain(path, "-o", tmp_path / f"why.{suffix}")
        text = (tmp_path / f"why.{suffix}").read_text()
        assert "\x1b" not in text
        assert "<script>&" not in text
        assert "&lt;script&gt;&amp;.wav" in text
