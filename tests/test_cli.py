"""The command line, from outside: what is printed, where, and with which exit code."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from undertone.cli import predict as predict_module
from undertone.cli.commands import app
from undertone.cli.terminal import fit, printable, width_of

ESCAPE = "\x1b"


@pytest.fixture
def undertone(monkeypatch, model_path):
    """Function (*arguments) -> result with exit_code, stdout, stderr; predicts with the tiny model."""

    def run(*arguments, model=model_path):
        arguments = list(map(str, arguments))
        if arguments[0] == "predict" and model:
            arguments[1:1] = ["--model", str(model)]
        return CliRunner().invoke(app, arguments, prog_name="undertone")

    return run


@pytest.fixture
def run_process(model_path):
    """Function (*arguments) -> finished process of ``python -m undertone``."""

    def run(*arguments, **options):
        command = [sys.executable, "-m", "undertone", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, **options)

    return run


@pytest.fixture
def clip(write_sound, make_speech):
    return write_sound("clip.wav", make_speech())


# ---- one clip, many clips ----


def test_one_clip_shows_every_emotion_ranked(undertone, clip, recognizer):
    result = undertone("predict", clip)
    assert result.exit_code == 0
    rows = re.findall(r"^  (\w+) +[█▏▎▍▌▋▊▉#]* +([\d.]+)%$", result.stdout, re.MULTILINE)
    probs = recognizer.predict(clip).probs
    ranked = sorted(probs, key=probs.get, reverse=True)
    assert [name for name, _ in rows] == ranked
    assert [float(percent) for _, percent in rows] == [pytest.approx(100 * probs[name], abs=0.06) for name in ranked]
    assert str(clip) in result.stdout


def test_several_clips_have_a_row_each(undertone, write_sound, make_speech, recognizer):
    clips = [write_sound(f"{seed}.wav", make_speech(seed)) for seed in range(5)]
    lines = undertone("predict", *clips).stdout.splitlines()
    assert len(lines) == 5
    for line, clip in zip(lines, clips, strict=True):
        assert line.startswith(str(clip))
        assert recognizer.predict(clip).emotion in line


def test_folders_are_searched(undertone, write_sound, make_speech, tmp_path):
    for name in ("b.wav", "deep/down/a.flac", "c.ogg"):
        write_sound(name, make_speech())
    (tmp_path / "notes.txt").write_text("no sound")
    rows = json.loads(undertone("predict", tmp_path, "--json").stdout)
    assert sorted(row["path"] for row in rows) == sorted(
        str(tmp_path / name) for name in ("b.wav", "deep/down/a.flac", "c.ogg")
    )


def test_a_bad_file_costs_its_row_and_the_exit_code(undertone, clip, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("no sound at all, only text")
    result = undertone("predict", clip, text, tmp_path / "missing.wav", clip)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert [str(name) in line for name, line in zip((clip, text, "missing.wav", clip), lines, strict=False)] == [
        True
    ] * 4
    assert lines[-1] == "2 of 4 could not be used"


def test_a_single_bad_file(undertone, tmp_path):
    result = undertone("predict", tmp_path / "missing.wav")
    assert result.exit_code == 1
    assert "there is no such file" in result.stdout


def test_a_name_that_is_too_long_costs_its_row(undertone, clip, tmp_path):
    too_long = tmp_path / f"{'x' * 5_000}.wav"
    result = undertone("predict", too_long, clip, "--json")
    assert result.exit_code == 1
    assert [row["error"] is None for row in json.loads(result.stdout)] == [False, True]
    assert "cannot be read" in json.loads(result.stdout)[0]["error"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_clip_in_a_folder_that_is_locked_costs_its_row(undertone, clip, write_sound, make_tone):
    locked = write_sound("locked/inside.wav", make_tone())
    locked.parent.chmod(0)
    try:
        result = undertone("predict", locked, clip, "--json")
    finally:
        locked.parent.chmod(0o700)
    assert result.exit_code == 1
    assert "permission denied" in json.loads(result.stdout)[0]["error"]
    assert json.loads(result.stdout)[1]["error"] is None


def test_a_network_that_fails_costs_the_rows_concerned(undertone, fragile_path, write_sound, make_speech):
    clips = [write_sound(f"{seconds}.wav", make_speech(0, seconds)) for seconds in (1.0, 2.0)]
    result = undertone("predict", *clips, "--json", model=fragile_path)
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)
    assert good["error"] is None
    assert "fragile.onnx failed" in bad["error"]
    lines = undertone("predict", *clips, model=fragile_path).stdout.splitlines()
    assert [str(clip) in line for clip, line in zip(clips, lines, strict=False)] == [True, True]


# ---- for machines ----


def test_csv(undertone, clip, tmp_path):
    result = undertone("predict", clip, tmp_path / "missing.wav", "--csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert result.exit_code == 1
    assert list(rows[0]) == [
        *("path", "start_s", "end_s", "emotion", "confidence"),
        *("anger", "happiness", "neutral", "sadness"),
        "error",
    ]
    assert rows[0]["path"] == str(clip)
    assert rows[0]["error"] == ""
    assert sum(float(rows[0][label]) for label in ("anger", "happiness", "neutral", "sadness")) == pytest.approx(
        1, abs=1e-5
    )
    assert rows[1]["emotion"] == ""
    assert "no such file" in rows[1]["error"]


def test_json_and_jsonl_say_the_same(undertone, clip):
    as_json = json.loads(undertone("predict", clip, clip, "--json").stdout)
    as_jsonl = [json.loads(line) for line in undertone("predict", clip, clip, "--jsonl").stdout.splitlines()]
    assert as_json == as_jsonl
    assert as_json[0]["error"] is None


@pytest.mark.parametrize("suffix", [".csv", ".json", ".JSONL"])
def test_out_chooses_the_format_by_suffix(undertone, clip, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    result = undertone("predict", clip, "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert out.read_text() == undertone("predict", clip, f"--{suffix[1:].lower()}").stdout


def test_out_says_how_many_failed(undertone, clip, tmp_path):
    result = undertone("predict", clip, tmp_path / "missing.wav", "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "1 of 2 could not be used" in result.stderr


# ---- nothing done ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.wav", "--csv", "--json"], "not both"),
        (["x.wav", "-o", "out.txt"], "name it .csv, .json or .jsonl"),
        (["x.wav", "-o", "no/such/folder/out.csv"], "cannot write"),
        (["x.wav", "--no-such-option"], "No such option"),
        (["x.wav", "--threads", "0"], "--threads"),
    ],
)
def test_wrong_usage(undertone, arguments, message):
    result = undertone("predict", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_folder_without_sound(undertone, tmp_path, clip):
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = undertone("predict", empty)
    assert nothing.exit_code == 2
    assert f"no sound files in {empty}" in nothing.stderr
    assert undertone("predict", empty, clip).exit_code == 1


def test_no_such_model(undertone, clip, tmp_path):
    for model in ("no-such-model", tmp_path / "none.onnx", clip):
        result = undertone("predict", clip, model=model)
        assert result.exit_code == 2
        assert result.stderr.startswith("undertone: ")
        assert len(result.stderr.splitlines()) == 1


# ---- names that play tricks ----


NAMES = {
    "unicode": "grüße 猫 🎤.wav",
    "markup": "[red]loud[/red].wav",
    "closing markup": "[/].wav",
    "escape": f"{ESCAPE}[2Jgone.wav",
    "newline": "two\nlines.wav",
    "right to left": "a\u202evaw.wav",
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("n_clips", [1, 2])
def test_names_are_shown_not_obeyed(undertone, write_sound, make_tone, name, n_clips):
    path = write_sound(name, make_tone())
    result = undertone("predict", *[path] * n_clips)
    assert result.exit_code == 0
    assert printable(name) in result.stdout
    assert not set(result.stdout) & {ESCAPE, "\u202e"}
    assert len(result.stdout.splitlines()) == (8 if n_clips == 1 else 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_errors_are_shown_not_obeyed(undertone, tmp_path):
    result = undertone("predict", tmp_path / f"{ESCAPE}[31m[bold].wav", tmp_path / f"{ESCAPE}")
    assert result.exit_code == 1
    assert ESCAPE not in result.stdout
    assert "[bold].wav" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no text")
def test_a_name_that_is_no_text(run_process, make_tone, tmp_path, write_sound, model_path):
    path = os.fsencode(tmp_path) + b"/\xff.wav"
    write_sound("plain.wav", make_tone()).rename(os.fsdecode(path))
    for option in ([], ["--json"], ["--csv"]):
        result = run_process("predict", "-m", model_path, tmp_path, *option)
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"\\udcff.wav" in result.stdout


def test_a_name_that_starts_with_a_dash(undertone, write_sound, make_tone, tmp_path, monkeypatch):
    write_sound("-odd.wav", make_tone())
    monkeypatch.chdir(tmp_path)
    result = undertone("predict", "--json", "--", "-odd.wav")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["path"] == "-odd.wav"


@pytest.mark.parametrize("text", ["clip.wav", "猫" * 30, "a/" * 40, "e\u0301" * 40])
def test_fit_fills_exactly_its_width(text):
    for width in (12, 13, 40):
        assert width - 1 <= width_of(fit(text, width)) <= width


# ---- models ----


def test_models_show_prints_the_card(undertone, model_path, make_card):
    result = undertone("models", "show", model_path)
    assert result.exit_code == 0
    for expected in ("tiny 0.1", "anger, happiness, neutral, sadness", "made-up", "ravdess-speaker", "0.200 to 0.300"):
        assert expected in result.stdout


def test_models_show_prints_the_scores_of_the_lab_as_a_table(undertone, tmp_path, make_card, tiny_bytes):
    from undertone.model_file import write_card

    figures = {
        "n_classes": 4,
        "uar": 0.5,
        "uar_interval": [0.4, 0.6],
        "war": 0.55,
        "n_utterances": 1234,
        "n_speakers": 5,
    }
    pooled = {
        "corpora": {"ravdess": figures, "tess": {**figures, "uar_interval": None}},
        "ece": 0.05,
        "restricted": {"ece": 0.034},
        "sex_gap": {"gap": 0.036},
        "conditions": {"lost": {"telephone": 0.047}},
        "command": "undertone lab evaluate pooled-speaker tiny",
    }
    leaking = {**figures, "leaks": "SPEAKERS LEAK", "corpora": {"ravdess": {**figures, "n_classes": "many"}}}
    card = make_card(scores={"pooled-speaker": pooled, "pooled-random": {**figures, "leaks": "LEAKS"}, "odd": leaking})
    result = undertone("models", "show", write_card(tiny_bytes, card, tmp_path / "scored.onnx"))
    lines = result.stdout.splitlines()
    assert "  ravdess  0.500  0.400-0.600  0.550     0.250  1,234         5" in lines
    assert any(line.split() == ["tess", "0.500", "0.550", "0.250", "1,234", "5"] for line in lines)
    assert any(line.split() == ["all", "0.500", "0.400-0.600", "0.550", "0.250", "1,234", "5"] for line in lines)
    for expected in ("error 0.050 (0.034 among", "men: +3.6 points", "telephone: 4.7", "pooled-speaker tiny", "LEAKS"):
        assert expected in result.stdout
    assert "n_classes: many" in result.stdout  # what is not of the lab's making is printed as it is


def test_models_show_json_is_the_card(undertone, model_path, make_card):
    from undertone.model_file import Card

    result = undertone("models", "show", model_path, "--json")
    assert Card.from_json(result.stdout) == make_card()
    assert json.loads(result.stdout)["scores"]["ravdess-speaker"]["overall"]["uar"] == 0.25


def test_models_show_refuses_what_is_no_model(undertone, clip):
    result = undertone("models", "show", clip)
    assert result.exit_code == 2
    assert "is no model file" in result.stderr


def test_models_lists_what_is_installed(undertone, monkeypatch, model_path):
    from undertone import model_file

    monkeypatch.setattr(model_file, "MODELS_FOLDER", model_path.parent)
    assert undertone("models").stdout.startswith("tiny 0.1")
    assert [model["name"] for model in json.loads(undertone("models", "--json").stdout)] == ["tiny"]
    assert undertone("predict", "x.wav", model="nothing").stderr.count("installed: tiny") == 1


# ---- start-up ----


def test_version_and_help(undertone):
    assert re.fullmatch(r"undertone \d+\.\d+\.\d+\n", undertone("--version").stdout)
    help_text = undertone("--help").stdout
    for command in ("predict", "models", "lab"):
        assert command in help_text
    assert "undertone predict clip.wav" in help_text
    for arguments in (["predict", "--help"], ["models", "--help"], ["models", "show", "--help"]):
        result = undertone(*arguments, model=None)
        assert result.exit_code == 0
        assert "Examples" in result.stdout


def test_no_line_of_a_help_text_is_broken_at_eighty_columns():
    texts = [command.help for command in typer.main.get_command(app).commands.values() if command.help]
    lines = [line for text in texts for line in re.sub(r"\[/?\w+\]", "", text).splitlines()]
    assert len(texts) >= 5
    assert [line for line in lines if len(line) > 78] == []


PLAIN = [
    ["clip.wav"],
    ["a.wav", "--json", "b.wav", "--model", "m.onnx"],
    ["-m", "m.onnx", "-o", "out.csv", "a", "b"],
    ["--out", "out.json", "--csv", "--jsonl", "a"],
    ["[x]", "-m", "a", "-m", "b"],
]
NOT_PLAIN = [[], ["--help"], ["-h"], ["x", "--model=y"], ["x", "-my"], ["--", "-x"], ["x", "-o"], ["x", "-"], ["x", ""]]


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_plain_calls_are_parsed_as_typer_does(monkeypatch, arguments):
    seen = []
    names = ("paths", "model", "as_csv", "as_json", "as_jsonl", "out", "threads")
    monkeypatch.setattr(predict_module, "run", lambda *values: seen.append(dict(zip(names, values, strict=True))) or 0)
    result = CliRunner().invoke(app, ["predict", *arguments])
    assert result.exit_code == 0
    assert predict_module.parse_plain(arguments) == seen[0]


@pytest.mark.parametrize("arguments", NOT_PLAIN, ids=" ".join)
def test_other_calls_are_left_to_typer(arguments):
    assert predict_module.parse_plain(arguments) is None


def test_the_command_as_a_process(run_process, clip, model_path, undertone):
    result = run_process("predict", "-m", model_path, clip, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == undertone("predict", clip, "--json").stdout
    assert run_process("predict", "-m", model_path, "missing.wav").returncode == 1
    assert run_process("predict", "--model=none", clip).returncode == 2


def test_a_closed_pipe_is_no_accident(model_path, clip):
    command = [sys.executable, "-m", "undertone", "predict", "-m", str(model_path), *[str(clip)] * 200, "--csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1)


def test_predict_imports_no_more_than_it_needs(clip, model_path):
    code = (
        "import sys\n"
        f"sys.argv = ['undertone', 'predict', '-m', {str(model_path)!r}, {str(clip)!r}]\n"
        "from undertone.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = ('typer', 'rich', 'soxr', 'undertone.lab', 'undertone.cli.lab', 'concurrent.futures')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_lab_is_imported_only_when_called():
    code = (
        "import sys; from typer.testing import CliRunner; from undertone.cli.commands import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in sys.modules if name.startswith(('undertone.lab', 'undertone.cli.lab'))])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_lab_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from undertone.cli.commands import app; app(['lab', 'recipes'], prog_name='undertone')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "undertone: the lab needs 'torch', which is not installed; run: pip install 'undertone[lab]'\n"
    )


def test_a_module_of_ours_that_is_missing_is_no_missing_library(undertone, monkeypatch):
    monkeypatch.setitem(sys.modules, "undertone.cli.lab", None)
    result = undertone("lab", "recipes")
    assert result.exception.name == "undertone.cli.lab"
    assert "pip install" not in result.stderr
