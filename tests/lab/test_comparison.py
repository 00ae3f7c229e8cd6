"""Runs side by side: the clips that all have tested, among their own emotions, and whether it was chance."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab.comparison import ComparisonError, compare_runs
from undertone.lab.evaluation import CORPUS_CLASSES, get_protocol

pytestmark = pytest.mark.lab

CLASSES = get_protocol("pooled-speaker").classes


@pytest.fixture
def make_run(tmp_path):
    """Function (name, right, *, folds) -> run folder; the first ``right`` clips of each speaker are answered right."""

    def make(name, right, *, folds=(0, 1), corpora=("crema-d", "savee"), classes=CLASSES):
        for fold in folds:
            test, logits = [], []
            for corpus in corpora:
                for speaker in range(4):
                    for kind, emotion in enumerate(CORPUS_CLASSES[corpus]):
                        test.append({"id": f"{corpus}/{fold}-{speaker}-{kind}", "corpus": corpus, "sex": "female",
                                     "speaker": f"{corpus}/{fold}{speaker}", "emotion": emotion})  # fmt: skip
                        row = dict.fromkeys(classes, 0.0) | ({"calm": 9.0} if "calm" in classes else {})
                        answer = emotion if kind < right else CORPUS_CLASSES[corpus][kind - 1]
                        logits.append([row[name] + 5.0 * (name == answer) for name in classes])
            folder = tmp_path / name / f"fold-{fold}"
            folder.mkdir(parents=True)
            content = {"protocol": "pooled-speaker", "fold": fold, "classes": classes, "seed": 0, "test": test,
                       "test_logits": logits, "recipe": {"name": name}}  # fmt: skip
            (folder / "fold.json").write_text(json.dumps(content))
        return tmp_path / name

    return make


def test_what_a_clip_is_answered_with_are_the_emotions_of_its_corpus(make_run):
    """Calm is the loudest answer of all, and no corpus here has it."""
    found = compare_runs([make_run("better", 5), make_run("worse", 2)])
    assert found["corpora"]["crema-d"]["uar"] == pytest.approx([5 / 6, 2 / 6])
    assert found["corpora"]["savee"]["uar"] == pytest.approx([5 / 7, 2 / 7])
    assert list(found["corpora"]) == ["all", "crema-d", "savee"]
    (difference,) = found["corpora"]["crema-d"]["differences"]
    assert difference["difference"] == pytest.approx(3 / 6)
    assert difference["p_value"] == difference["smallest_p"] == 2 / 2**8  # every one of eight speakers says so
    assert found["n_utterances"] == 2 * 4 * 13 and found["left_out"] == [0, 0]
    assert [run["recipe"] for run in found["runs"]] == ["better", "worse"]
    assert not any(run["leaks"] for run in found["runs"])


def test_only_what_all_have_tested_is_compared(make_run):
    runs = [make_run("one", 6), make_run("fewer", 6, folds=(1,)), make_run("other", 3, corpora=("savee",))]
    found = compare_runs(runs)
    assert list(found["corpora"]) == ["savee"]
    assert found["corpora"]["savee"]["n_speakers"] == 4
    assert found["n_utterances"] == 28 and found["left_out"] == [104 - 28, 52 - 28, 56 - 28]


def test_emotions_that_one_does_not_know_are_left_out(make_run):
    known = tuple(name for name in CLASSES if name not in ("surprise", "calm"))
    found = compare_runs([make_run("all", 6), make_run("six", 6, classes=known)])
    assert found["n_utterances"] == 2 * 4 * 12
    assert found["corpora"]["savee"]["uar"] == pytest.approx([1.0, 1.0])


def test_a_single_speaker_has_no_test(make_run):
    run = make_run("one", 4, folds=(0,), corpora=("savee",))
    path = run / "fold-0" / "fold.json"
    content = json.loads(path.read_text())
    for key in ("test", "test_logits"):
        content[key] = content[key][:7]
    path.write_text(json.dumps(content))
    shutil.copytree(run, run.with_name("two"))
    found = compare_runs([run, run.with_name("two")])["corpora"]["savee"]
    assert found["differences"] == [None] and found["intervals"] == [None, None]


def test_what_cannot_be_compared_says_why(make_run, tmp_path):
    run = make_run("one", 4)
    for runs, words in (([run], "two runs or more"), ([run, tmp_path], "no finished fold"),
                        ([run, make_run("other", 4, folds=(3,))], "no clip that all")):  # fmt: skip
        with pytest.raises(ComparisonError, match=words):
            compare_runs(runs)


def test_a_real_run_compared_with_itself(evaluated):
    run_dir, report, _ = evaluated
    found = compare_runs([run_dir, run_dir])["corpora"]["ravdess"]
    assert found["uar"] == pytest.approx(2 * [report["scores"]["uar"]])
    assert found["intervals"][0] == pytest.approx(report["scores"]["intervals"]["uar"])
    assert found["differences"][0]["difference"] == 0 and found["differences"][0]["p_value"] == 1
    assert np.allclose(found["differences"][0]["interval"], 0)
