"""``undertone lab`` from outside: what it prints, where, with which exit code, and what it leaves on disk."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")

from undertone.cli import lab as lab_module
from undertone.cli.commands import app
from undertone.lab import experiment, export
from undertone.lab.corpora import CORPORA
from undertone.lab.evaluation import FOLDS, PROTOCOLS, LeakError
from undertone.lab.recipes import load_recipe, recipe_names
from undertone.model_file import TrainingCorpus, read_card, write_card

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

PROTOCOL = "ravdess-speaker"
EMOTION_CODES = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}  # SAVEE's clips per speaker


@pytest.fixture(scope="module")
def undertone(tmp_path_factory):
    """Function (*arguments, **environment) -> result of ``undertone lab`` with exit_code, stdout, stderr."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def run(*arguments, **environment):
        environment = {"UNDERTONE_DATA": None, "UNDERTONE_CACHE": cache, "COLUMNS": "80", **environment}
        return CliRunner().invoke(app, ["lab", *map(str, arguments)], prog_name="undertone", env=environment)

    run.cache = cache
    return run


def write_recipe(recipe, path):
    values = recipe.to_json()
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, content in values.items():
        if isinstance(content, dict):
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
    path.write_text("\n".join(lines))
    assert load_recipe(path) == recipe
    return path


@pytest.fixture(scope="module")
def recipe_file(quick_recipe, tmp_path_factory):
    """The tiny recipe of one epoch as a TOML file."""
    return write_recipe(quick_recipe, tmp_path_factory.mktemp("recipe") / "tiny.toml")


@pytest.fixture(scope="module")
def evaluated_here(undertone, ravdess_root, recipe_file, tmp_path_factory):
    """Two folds through the command line: run folder, result, and the command without ``--json``."""
    run_dir = tmp_path_factory.mktemp("runs") / "new"
    command = ["evaluate", PROTOCOL, recipe_file, "--data", ravdess_root, "--folds", "1,0,1", "-j", 1, "-o", run_dir]
    command += ["--accelerator", "cpu"]
    result = undertone(*command, "--json")
    return SimpleNamespace(folder=run_dir, result=result, command=command)


@pytest.fixture(scope="module")
def exported(undertone, evaluated_here, ravdess_root, tmp_path_factory):
    """The first of them as a model file: path, result."""
    path = tmp_path_factory.mktemp("export") / "mine.onnx"
    scores = evaluated_here.folder / "report.json"
    result = undertone(
        "export", evaluated_here.folder / "fold-0", "-o", path, "--data", ravdess_root, "--scores", scores,
        "--merge-calm", "--json",
    )  # fmt: skip
    return SimpleNamespace(path=path, result=result)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, make_card, tiny_bytes):
    """A model of four emotions that has heard actors 2 and 3."""
    heard = TrainingCorpus("ravdess", "CC BY-NC-SA 4.0", "https://example.org", 120, ("ravdess/02", "ravdess/03"))
    return write_card(tiny_bytes, make_card(corpora=(heard,)), tmp_path_factory.mktemp("model") / "heard.onnx")


def read_strictly(text):
    """JSON without NaN and infinity, which only Python reads."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# ---- help ----


def list_commands(command=None, path=()):
    command = command or typer.main.get_command(lab_module.app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from list_commands(child, (*path, name))


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(("path", "command"), list(list_commands()), ids=str)
def test_help_shows_its_examples_on_one_line_each(undertone, path, command, columns):
    result = undertone(*path, "--help", COLUMNS=str(columns))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", result.stdout).splitlines()]
    examples = [
        re.sub(r"\[/?cyan\]", "", line).strip() for line in command.help.splitlines() if line.startswith("  [cyan]")
    ]
    assert any(" ".join(("undertone lab", *path)) in example for example in examples)
    assert [example for example in examples if example not in lines] == []
    assert [line for line in re.sub(r"\[/?\w+\]", "", command.help).splitlines() if len(line) > 78] == []
    assert max(map(len, lines)) <= columns
    assert "[bold]" not in result.stdout
    assert "[/" not in result.stdout


def test_commands_come_in_the_order_in_which_one_needs_them(undertone):
    listed = re.findall(r"^│ (\w+) ", undertone("--help").stdout, re.MULTILINE)
    assert listed == [
        "corpora",
        "recipes",
        "train",
        "evaluate",
        "test",
        "export",
        "compare",
        "audit",
        "search",
        "study",
        "table",
        "features",
    ]


def test_help_names_every_protocol(undertone):
    words = set(re.findall(r"[\w-]+", undertone("evaluate", "--help").stdout))
    assert set(PROTOCOLS) <= words


# ---- recipes ----


def test_recipes(undertone):
    rows = read_strictly(undertone("recipes", "--json").stdout)
    assert [row["name"] for row in rows] == recipe_names()
    [own] = [row for row in rows if row["name"] == "undertone-small"]
    assert own["hash"] == load_recipe("undertone-small").hash
    assert 10_000 < own["n_parameters"] <= 2_000_000
    published = {
        "nathaniel-2dcnn": 3_525_672,
        "dhavan-simplernn": 362_630,
        "flask-cnn1d": 5_620_359,
    }  # stated
    assert {row["name"]: row["n_parameters"] for row in rows if row["name"] in published} == published
    text = undertone("recipes").stdout
    for row in rows:
        assert f"{row['name']}  {row['n_parameters']:,} parameters" in text


# ---- compare and audit ----


def test_compare_says_which_run_is_which_and_how_far_apart(undertone, evaluated):
    run_dir = evaluated[0]
    result = undertone("compare", run_dir, run_dir)
    assert result.exit_code == 0
    assert "A  tiny, ravdess-speaker, folds 0, 1, 2, 3, 4, 5, seed 0" in result.stdout
    assert "A - B: +0.000 [+0.000, +0.000], p = 1" in result.stdout
    assert read_strictly(undertone("compare", run_dir, run_dir, "--json").stdout)["left_out"] == [0, 0]
    alone = undertone("compare", run_dir)
    assert alone.exit_code and "give two runs or more" in alone.stderr


def test_audit_of_a_table_tells_by_its_exit_code(undertone, tmp_path):
    table = tmp_path / "split.csv"
    for speaker, code, words in ((2, 0, "nothing leaks"), (1, 1, "IT LEAKS")):
        table.write_text(f"path,speaker,split\na.wav,1,train\nb.wav,{speaker},test\n")
        result = undertone("audit", table)
        assert (result.exit_code, words in result.stdout) == (code, True)
        assert read_strictly(undertone("audit", table, "--json").stdout)["leaks"] == bool(code)
    missing = undertone("audit", tmp_path / "nothing.csv")
    assert missing.exit_code == 2 and "nothing.csv" in missing.stderr and "Traceback" not in missing.stderr


def test_features_of_a_library_are_refused_for_export_before_the_search(undertone, tmp_path):
    pytest.importorskip("opensmile")
    out = tmp_path / "zoo.onnx"
    result = undertone("search", "zoo", "--features", "egemaps", "--export", out, "--data", tmp_path)
    assert result.exit_code == 2 and "cannot be part of a model file" in result.stderr


def test_a_table_of_a_recipe_that_is_not_ours_is_refused_before_any_training(undertone, tmp_path):
    result = undertone("table", "mine.toml", "--data", tmp_path, "--out", tmp_path / "results.md")
    assert result.exit_code == 2 and "no recipe of undertone's is called 'mine.toml'" in result.stderr


# ---- corpora ----


def test_corpora_list_says_what_there_is(undertone):
    rows = read_strictly(undertone("corpora", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(CORPORA)
    for row in rows:
        corpus = CORPORA[row["name"]]
        assert (row["n_utterances"], row["n_speakers"]) == (corpus.n_utterances, corpus.n_speakers)
        assert (row["licence"], row["n_here"]) == (corpus.licence, None)
    table = undertone("corpora", "list").stdout
    assert re.search(r"^ravdess +1,440 +24 +8 ", table, re.MULTILINE)
    assert "here" not in table


def test_corpora_list_counts_what_is_here(undertone, ravdess_root, tmp_path):
    here = {row["name"]: row["n_here"] for row in read_strictly(
        undertone("corpora", "list", "--json", UNDERTONE_DATA=str(ravdess_root)).stdout
    )}  # fmt: skip
    assert here == {**dict.fromkeys(CORPORA, 0), "ravdess": 192}
    assert re.search(r"^ravdess +1,440 +24 +8 +192 ", undertone("corpora", "list", "--data", ravdess_root).stdout, re.M)
    nothing_yet = undertone("corpora", "list", "--json", "--data", tmp_path)
    assert nothing_yet.exit_code == 0
    assert {row["n_here"] for row in read_strictly(nothing_yet.stdout)} == {0}


@pytest.fixture
def flawed_root(make_ravdess, tmp_path):
    """Two actors, of whom three clips cannot be used as they are."""
    root = make_ravdess(tmp_path / "flawed", actors=[1, 2])
    clips = sorted((root / "RAVDESS" / "Actor_01").iterdir())
    soundfile.write(clips[0], np.zeros(8_000), 16_000)
    clips[2].write_bytes(clips[1].read_bytes())
    clips[4].write_text("no sound \x1b[2J")
    return root


def test_verify_names_what_is_wrong(undertone, flawed_root):
    result = undertone("corpora", "verify", "--data", flawed_root)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "ravdess: 16 of 1,440 clips, 2 of 24 speakers" in result.stdout
    assert "silent: ravdess/03-01-01-01-01-01-01" in result.stdout
    assert "conflict: ravdess/03-01-02-01-01-01-01 (calm) = ravdess/03-01-03-01-01-01-01 (happiness)" in result.stdout
    assert "unreadable: ravdess/03-01-05-01-01-01-01: " in result.stdout
    assert "\x1b" not in result.stdout


def test_verify_json_says_the_same(undertone, flawed_root):
    result = undertone("corpora", "verify", "--data", flawed_root, "--json")
    content = read_strictly(result.stdout)
    assert result.exit_code == 1
    assert content["counts"]["is_complete"] is False
    assert content["counts"]["corpora"][0]["n_utterances"] == 16
    assert sorted(problem["kind"] for problem in content["problems"]) == ["conflict", "silent"]
    assert list(content["unreadable"]) == ["ravdess/03-01-05-01-01-01-01"]


@pytest.fixture
def complete_root(tmp_path, rng):
    """All 480 clips of SAVEE by name, of a hundredth of a second."""
    for speaker in ("DC", "JE", "JK", "KL"):
        folder = tmp_path / "complete" / "SAVEE" / "AudioData" / speaker
        folder.mkdir(parents=True)
        for code, n_clips in EMOTION_CODES.items():
            for number in range(1, n_clips + 1):
                soundfile.write(folder / f"{code}{number:02d}.wav", 0.1 * rng.standard_normal(160), 16_000)
    return tmp_path / "complete"


def test_verify_of_a_complete_corpus(undertone, complete_root):
    result = undertone("corpora", "verify", "--data", complete_root)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "savee: 480 of 480 clips, 4 of 4 speakers, complete" in result.stdout
    assert "No silent or doubled clips." in result.stdout
    (complete_root / "SAVEE" / "AudioData" / "DC" / "a01.wav").unlink()
    assert undertone("corpora", "verify", "--data", complete_root, "--json").exit_code == 1


def test_download_of_savee_says_how_to_register(undertone, tmp_path):
    result = undertone("corpora", "download", "SAVEE", "--data", tmp_path / "corpora")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "register at http" in result.stderr
    assert str(tmp_path / "corpora" / "SAVEE" / "AudioData" / "DC" / "a01.wav") in result.stderr
    assert len(result.stderr.splitlines()) == 4
    assert not list(tmp_path.iterdir())


# ---- evaluate ----


def test_evaluate_writes_folds_and_reports(evaluated_here):
    folder, result = evaluated_here.folder, evaluated_here.result
    assert result.exit_code == 0
    for fold in (0, 1):
        content = read_strictly((folder / f"fold-{fold}" / "fold.json").read_text())
        assert {clip["speaker"] for clip in content["test"]} == set(FOLDS["ravdess"][fold])
    assert not (folder / "fold-2").exists()
    assert "<html" in (folder / "report.html").read_text()
    report = read_strictly((folder / "report.json").read_text())
    assert report["folds"] == [0, 1]  # fold 1 was asked for twice
    assert (report["scores"]["n_utterances"], report["scores"]["n_speakers"]) == (64, 8)


def test_evaluate_json_is_the_report_and_progress_is_not_in_it(evaluated_here):
    result = evaluated_here.result
    assert read_strictly(result.stdout) == read_strictly((evaluated_here.folder / "report.json").read_text())
    progress = r"fold (\d)  epoch 1/1  loss \d\.\d+  dev UAR \d\.\d+  \d+ clips/s"
    assert re.findall(progress, result.stderr) == ["0", "1"]
    assert len(result.stderr.splitlines()) == 2


def test_evaluate_again_trains_nothing_and_says_the_same_to_people(undertone, evaluated_here, monkeypatch):
    monkeypatch.setattr(experiment, "fit", None)
    trained = snapshot(evaluated_here.folder / "fold-0")
    result = undertone(*evaluated_here.command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert snapshot(evaluated_here.folder / "fold-0") == trained
    report = read_strictly(evaluated_here.result.stdout)
    for name, scores in (("fold 0", report["per_fold"][0]), ("all", report["scores"])):
        assert re.search(rf"^{name} +{scores['uar']:.3f} .*{scores['war']:.3f}", result.stdout, re.MULTILINE)
    assert result.stdout.splitlines()[-1] == f"report: {evaluated_here.folder / 'report.html'}"


def test_nothing_but_json_is_printed_by_a_process(undertone, evaluated_here):
    """Libraries that write past Python's streams, or warn at exit, would show here."""
    command = [sys.executable, "-m", "undertone", "lab", *map(str, evaluated_here.command), "--json"]
    environment = {"UNDERTONE_CACHE": undertone.cache, "OMP_NUM_THREADS": "1", "PATH": ""}
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert read_strictly(result.stdout)["scores"] == read_strictly(evaluated_here.result.stdout)["scores"]
    assert result.stderr == b""


@pytest.mark.parametrize("option", ["--seed", "--epochs"])
def test_a_run_folder_of_another_run_is_refused(undertone, evaluated_here, option):
    before = snapshot(evaluated_here.folder)
    result = undertone(*evaluated_here.command, option, 7)
    assert result.exit_code == 2
    assert re.search(r"fold-0 holds a run with another (seed|recipe_hash); choose another folder", result.stderr)
    assert snapshot(evaluated_here.folder) == before


def test_a_fold_that_does_not_exist_is_found_before_any_training(undertone, evaluated_here, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "fit", None)
    result = undertone(*evaluated_here.command, "-o", tmp_path / "new", "--folds", "0,9")
    assert result.exit_code == 2
    assert "ravdess-speaker has folds 0 to 5, not 9" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def asked(monkeypatch):
    """What ``evaluate`` is called with; it is stopped by Ctrl-C then."""
    calls = []

    def stop(*arguments, **options):
        calls.append((arguments, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "evaluate", stop)
    return calls


def test_clips_that_cannot_be_used_cost_the_exit_code_of_an_evaluation(
    undertone, evaluated_here, recipe_file, tmp_path, monkeypatch
):
    report = json.loads((evaluated_here.folder / "report.json").read_text())
    monkeypatch.setattr(experiment, "evaluate", lambda *_, **__: {**report, "unreadable": {"ravdess/a": "no sound"}})
    result = undertone("evaluate", PROTOCOL, recipe_file, "--data", tmp_path, "-o", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (1, "1 clips could not be used; the report names them\n")
    assert (tmp_path / "run" / "report.html").exists()


def test_evaluate_passes_on_what_it_was_told(undertone, asked, recipe_file, quick_recipe, tmp_path):
    undertone("evaluate", "tess-speaker", recipe_file, "--data", tmp_path, "--extra-train", "CREMAD", "--seed", 3)
    undertone("evaluate", "tess-speaker", recipe_file, "-j", 5, "-o", "x", "--epochs", 9, UNDERTONE_DATA=str(tmp_path))
    (first, options), (second, others) = asked
    assert first[:3] == (tmp_path, "tess-speaker", quick_recipe)
    assert str(first[3]) == f"runs/tess-speaker/tiny-{quick_recipe.hash}-seed3+crema-d"
    assert (options["extra_train"], options["seed"], options["folds"]) == (("crema-d",), 3, None)
    assert (second[0], str(second[3])) == (tmp_path, "x")
    assert second[2] == quick_recipe.with_training(epochs=9)
    assert (others["jobs"], others["extra_train"]) == (5, ())


def test_ctrl_c_says_that_it_can_go_on(undertone, asked, recipe_file, tmp_path):
    result = undertone("evaluate", PROTOCOL, recipe_file, "--data", tmp_path)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "undertone: stopped; give the same command again and it goes on from here\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal for one group of processes")
def test_ctrl_c_stops_folds_that_run_side_by_side(undertone, ravdess_root, make_recipe, tmp_path):
    recipe = write_recipe(make_recipe(training={"epochs": 10_000}), tmp_path / "long.toml")
    command = [sys.executable, "-m", "undertone", "lab", "evaluate", PROTOCOL, str(recipe), "--data", str(ravdess_root)]
    command += ["-o", str(tmp_path / "run"), "-j", "2", "--folds", "0,1,2", "--accelerator", "cpu"]
    environment = {**os.environ, "UNDERTONE_CACHE": undertone.cache, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert process.stderr.readline().startswith("fold ")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)  # until the last of its processes has closed stderr
    assert errors.splitlines()[-1] == "undertone: stopped; give the same command again and it goes on from here"
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert not (tmp_path / "run" / "fold-2").exists()


# ---- train ----


def test_train_writes_a_run_folder_once(undertone, ravdess_root, recipe_file, quick_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ("train", recipe_file, "--data", ravdess_root, "--accelerator", "cpu")
    result = undertone(*command)
    folder = tmp_path / "runs" / "shipped" / f"tiny-{quick_recipe.hash}-seed0"
    content = read_strictly((folder / "fold.json").read_text())
    assert result.exit_code == 0
    assert result.stderr.startswith("fold 0  epoch 1/1  loss ")
    assert content["audit_summary"] in result.stdout
    assert f"epoch 1 chosen, dev UAR {content['dev_uar']:.3f}, temperature" in result.stdout
    assert result.stdout.splitlines()[-1] == f"run: {folder.relative_to(tmp_path)}"
    again = undertone(*command, "--json")
    told = read_strictly(again.stdout)
    assert (again.exit_code, again.stderr) == (0, "")  # no epoch was run
    assert (told["run"], told["dev_uar"]) == (str(folder.relative_to(tmp_path)), content["dev_uar"])
    assert "test_uar" not in told


def test_train_on_a_fold_tells_its_test_score(undertone, evaluated_here, ravdess_root, recipe_file):
    command = ("train", recipe_file, "--protocol", PROTOCOL, "--fold", 1, "--data", ravdess_root)
    result = undertone(*command, "-o", evaluated_here.folder, "--json")
    told = read_strictly(result.stdout)
    fold = read_strictly(evaluated_here.result.stdout)["per_fold"][1]
    assert (result.exit_code, result.stderr) == (0, "")
    assert (told["protocol"], told["fold"], told["run"]) == (PROTOCOL, 1, str(evaluated_here.folder / "fold-1"))
    assert told["test_uar"] == pytest.approx(fold["uar"])
    assert f"test UAR {fold['uar']:.3f}" in undertone(*command, "-o", evaluated_here.folder).stdout


# ---- export ----


def test_export_writes_a_model_file_whose_card_has_the_scores(exported, evaluated_here, quick_recipe):
    assert exported.result.exit_code == 0
    card = read_card(exported.path)
    assert read_strictly(exported.result.stdout) == read_strictly(card.to_json())
    assert (card.name, card.recipe_hash) == ("mine", quick_recipe.hash)
    assert "neutral" in card.labels
    assert "calm" not in card.labels
    report = read_strictly(evaluated_here.result.stdout)
    assert list(card.scores) == [PROTOCOL]
    assert card.scores[PROTOCOL]["folds"] == [0, 1]
    assert card.scores[PROTOCOL]["uar"] == pytest.approx(report["scores"]["uar"], abs=1e-5)


def test_export_tells_people_where_it_is(undertone, exported, evaluated_here, ravdess_root, monkeypatch, tmp_path):
    seen = {}

    def write(run_dir, out, clips, **options):
        seen.update(options, n_clips=len(clips))
        out.write_bytes(exported.path.read_bytes())
        return read_card(exported.path)

    monkeypatch.setattr(export, "export_run", write)
    out = tmp_path / "other.onnx"
    result = undertone("export", evaluated_here.folder / "fold-1", "-o", out, "--data", ravdess_root)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{out}: 0.")
    assert f"undertone models show {out}" in result.stdout
    assert (seen["name"], seen["scores"], seen["merge_calm"], seen["n_clips"]) == ("other", {}, False, 12)


def test_export_refuses_scores_of_another_recipe(undertone, evaluated_here, ravdess_root, tmp_path):
    report = json.loads((evaluated_here.folder / "report.json").read_text())
    other = tmp_path / "report.json"
    other.write_text(json.dumps({**report, "recipe_hash": "0123456789ab"}))
    command = ("export", evaluated_here.folder / "fold-0", "-o", tmp_path / "x.onnx", "--data", ravdess_root)
    for path, message in (
        (other, "the report on ravdess-speaker is of another recipe (0123456789ab)"),
        (evaluated_here.folder / "report.html", "is no report.json of 'undertone lab evaluate'"),
        (evaluated_here.folder / "fold-0" / "fold.json", "is no report.json of 'undertone lab evaluate'"),
        (tmp_path / "nothing.json", "nothing.json: No such file or directory"),
    ):
        check_refusal(undertone(*command, "--scores", path), message)
    assert not (tmp_path / "x.onnx").exists()


def test_export_wants_one_fold_and_a_folder_to_write_to(undertone, evaluated_here, ravdess_root, tmp_path):
    data = ("--data", ravdess_root)
    whole = undertone("export", evaluated_here.folder, "-o", tmp_path / "x.onnx", *data)
    check_refusal(whole, f"export one, such as {evaluated_here.folder / 'fold-0'}")
    nowhere = undertone("export", evaluated_here.folder / "fold-0", "-o", tmp_path / "no" / "x.onnx", *data)
    check_refusal(nowhere, f"there is no folder {tmp_path / 'no'}")


# ---- test ----


def test_a_model_on_speakers_it_has_heard(undertone, model_file, ravdess_root):
    result = undertone("test", model_file, f"RAVDESS={ravdess_root / 'RAVDESS'}", "--speakers", "01-04")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "tiny on ravdess: 20 clips, 4 speakers" in result.stdout
    assert "NOTE: the model was trained or chosen on 2 of these speakers: ravdess/02, ravdess/03" in result.stdout
    assert "4 clips of fear left out" in result.stdout


def test_a_model_on_speakers_it_has_not_heard(undertone, model_file, ravdess_root):
    command = ("test", model_file, f"ravdess={ravdess_root / 'RAVDESS'}", "--speakers", "1,ravdess/05")
    check_refusal(undertone(*command), "no speaker is called '1'; there are 01, 02, ")
    command = (*command[:-1], "01,ravdess/05")
    assert "None of these speakers is in the model's training list." in undertone(*command).stdout
    told = read_strictly(undertone(*command, "--json").stdout)
    assert (told["corpus"], told["heard_in_training"]) == ("ravdess", [])
    assert told["restricted"]["n_utterances"] == 10


def test_an_exported_model_knows_whom_its_run_has_heard(undertone, exported, evaluated_here, ravdess_root):
    fold = read_strictly((evaluated_here.folder / "fold-0" / "fold.json").read_text())
    result = undertone("test", exported.path, f"RAVDESS={ravdess_root / 'RAVDESS'}", "--json")
    told = read_strictly(result.stdout)
    dev = {f"ravdess/{name[-2:]}" for name in fold["dev"]}  # they chose the epoch: no strangers either
    assert told["heard_in_training"] == sorted({*fold["train_corpora"]["ravdess"]["speakers"], *dev})
    assert told["restricted"]["n_utterances"] == 192
    assert not set(told["heard_in_training"]) & {clip["speaker"] for clip in fold["test"]}


def test_clips_that_cannot_be_read_cost_the_exit_code(undertone, model_file, flawed_root):
    result = undertone("test", model_file, f"RAVDESS={flawed_root / 'RAVDESS'}")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "not readable: " in result.stdout
    assert "\x1b" not in result.stdout


# ---- errors ----


def check_refusal(result, message):
    """One line on stderr that says ``message``, exit code 2, nothing on stdout, no traceback."""
    assert message in result.stderr
    assert result.stderr.startswith("undertone: ")
    assert (len(result.stderr.splitlines()), result.stdout, result.exit_code) == (1, "", 2)
    assert isinstance(result.exception, SystemExit)


SMALL = "undertone-small"
ERRORS = {
    "train without data": (["train", SMALL], "Give their folder as --data ROOT, or set UNDERTONE_DATA to it"),
    "evaluate without data": (["evaluate", PROTOCOL, SMALL], "where are the corpora?"),
    "verify without data": (["corpora", "verify"], "where are the corpora?"),
    "download without data": (["corpora", "download", "ravdess"], "where are the corpora?"),
    "download what is no corpus": (
        ["corpora", "download", "savee", "iemocap", "--data", "{tmp}"],
        "no corpus is called 'iemocap'; there are ravdess, crema-d, ",
    ),
    "data is no folder": (["train", SMALL, "--data", "{tmp}/none"], "none is not a folder"),
    "data holds no corpus": (["corpora", "verify", "--data", "{tmp}"], "has no folder RAVDESS, CREMA-D, "),
    "data lacks the corpus": (["evaluate", "tess-speaker", SMALL, "--data", "{root}"], "has no folder TESS"),
    "no such recipe": (["train", "huge", "--data", "{root}"], "no recipe named 'huge' and no such file"),
    "a recipe that is no TOML": (["train", "{clip}", "--data", "{root}"], "is not a TOML file"),
    "no such protocol": (["train", SMALL, "--protocol", "x", "--data", "{root}"], "there is no protocol 'x'"),
    "no such fold": (
        ["train", SMALL, "--protocol", PROTOCOL, "--fold", "6", "--data", "{root}", "-o", "{tmp}/run"],
        "has folds 0 to 5, not 6",
    ),
    "a fold of nothing": (["train", SMALL, "--fold", "3", "--data", "{root}"], "give --protocol too"),
    "folds that are no numbers": (
        ["evaluate", PROTOCOL, SMALL, "--folds", "first", "--data", "{root}"],
        "--folds takes numbers such as 0,4, not 'first'",
    ),
    "a corpus beside a protocol": (
        ["train", SMALL, "--corpus", "ravdess", "--protocol", "ravdess-speaker", "--data", "{root}"],
        "has corpora of its own",
    ),
    "nothing is tested": (["evaluate", "shipped", SMALL, "--data", "{root}"], "'shipped' tests nothing"),
    "extra training data that is no corpus": (
        ["evaluate", PROTOCOL, SMALL, "--extra-train", "x", "--data", "{root}"],
        "no corpus is called 'x'",
    ),
    "extra training data that is tested": (
        ["evaluate", PROTOCOL, SMALL, "--extra-train", "RAVDESS", "--data", "{root}", "-o", "{tmp}/run"],
        "already uses ravdess",
    ),
    "a run folder below a file": (
        ["train", SMALL, "--protocol", PROTOCOL, "--data", "{root}", "-o", "{clip}/run"],
        "Not a directory",
    ),
    "export without data": (["export", "{run}", "-o", "{tmp}/x.onnx"], "where are the corpora?"),
    "export of nothing": (["export", "{tmp}", "-o", "{tmp}/x.onnx", "--data", "{root}"], "train it to the end first"),
    "a corpus without folder": (["test", "{model}", "RAVDESS"], "give the corpus as CORPUS=DIR"),
    "no such corpus": (["test", "{model}", "IEMOCAP={root}"], "no corpus is called 'IEMOCAP'"),
    "no such folder": (["test", "{model}", "RAVDESS={tmp}/none"], "none is not a folder"),
    "a folder of something else": (["test", "{model}", "TESS={root}"], "no clip below"),
    "no such speakers": (["test", "{model}", "RAVDESS={root}", "--speakers", "30-40"], "no speaker is called '30-40'"),
    "no such model": (["test", "none", "RAVDESS={root}"], "none"),
    "no model file": (["test", "{clip}", "RAVDESS={root}"], "is no model file"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_what_is_wrong_is_said_in_one_line(
    undertone, arguments, message, ravdess_root, model_file, evaluated_here, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    places = {
        "tmp": tmp_path,
        "root": ravdess_root,
        "model": model_file,
        "run": evaluated_here.folder / "fold-0",
        "clip": next((ravdess_root / "RAVDESS" / "Actor_01").iterdir()),
    }
    check_refusal(undertone(*(str(argument).format(**places) for argument in arguments)), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["train"], ["evaluate", PROTOCOL], ["train", SMALL, "--accelerator", "tpu"]])
def test_wrong_usage(undertone, arguments):
    result = undertone(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_a_gpu_that_is_not_there(undertone, recipe_file, ravdess_root, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for command in (["train", recipe_file], ["evaluate", PROTOCOL, recipe_file]):
        check_refusal(undertone(*command, "--data", ravdess_root, "--accelerator", "gpu"), "torch finds no GPU here")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_message_of_several_lines_stays_one(undertone, recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        experiment, "load_dataset", raising(LeakError("IT LEAKS: \x1b\n  speaker 1\nNothing was done."))
    )
    result = undertone("train", recipe_file, "--data", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "undertone: IT LEAKS: \\x1b",
        "undertone:   speaker 1",
        "undertone: Nothing was done.",
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"), "pip install 'undertone[lab]'"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "runs/x"), "runs/x: Permission denied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_machine_lacks(undertone, recipe_file, tmp_path, monkeypatch, error, message):
    monkeypatch.setattr(experiment, "load_dataset", raising(error))
    check_refusal(undertone("train", recipe_file, "--data", tmp_path), message)


@pytest.mark.parametrize(
    "error",
    [ValueError("a mistake"), KeyError("x"), ModuleNotFoundError("x", name="undertone.lab.x"), ImportError("y")],
    ids=repr,
)
def test_mistakes_of_ours_are_not_dressed_up(undertone, recipe_file, tmp_path, monkeypatch, error):
    monkeypatch.setattr(experiment, "load_dataset", raising(error))
    assert undertone("train", recipe_file, "--data", tmp_path).exception is error
