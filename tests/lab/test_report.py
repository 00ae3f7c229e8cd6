"""The report, on made-up folds that ``summarise`` itself scored."""

import copy
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from undertone.emotions import EMOTIONS
from undertone.lab.corpora import Problem
from undertone.lab.evaluation import CORPUS_CLASSES, get_protocol
from undertone.lab.evaluation.protocols import list_test_speakers
from undertone.lab.experiment import summarise
from undertone.lab.recipes import load_recipe
from undertone.lab.report import EMOTION_COLOURS, describe_folds, scores_for_card, summary_table, write_report

HOSTILE = '<img src=x onerror="alert(1)">$\\frac{&}{--}$'
N_EPOCHS = 12
BANNER = "This split leaks (made up)."


def _sex(speaker):
    return "female" if speaker.startswith("tess") or speaker[-1] in "02468" else "male"


def _make_fold(protocol, fold, *, n_clips=2, speakers=None, has_dev=True, **changes):
    """A finished fold of ``protocol`` as ``fold.json`` holds it: ``n_clips`` per speaker and emotion."""
    rng = np.random.default_rng(fold)
    classes = get_protocol(protocol).classes
    tested = speakers or list_test_speakers(get_protocol(protocol), fold)
    test = [
        {
            "id": f"{speaker}-{emotion}-{number}",
            "corpus": corpus,
            "speaker": speaker,
            "sex": _sex(speaker),
            "emotion": emotion,
        }
        for corpus, names in tested.items()
        for speaker in names
        for emotion in CORPUS_CLASSES[corpus]
        if emotion in classes
        for number in range(n_clips)
    ]
    target = np.array([classes.index(clip["emotion"]) for clip in test])
    logits = rng.normal(size=(len(test), len(classes))) * 1.6
    logits[np.arange(len(test)), target] += 2.4
    history = []
    for epoch in range(1, N_EPOCHS + 1):
        row = {"epoch": epoch, "train_loss": 0.6 + 2 * np.exp(-epoch / 5) + 0.03 * rng.normal(), "seconds": 9.0}
        if has_dev:
            row["dev_uar"] = 0.68 - 0.5 * np.exp(-epoch / 4) + 0.02 * rng.normal()
            row["dev_loss"] = 1.0 + np.exp(-epoch / 4) + 0.03 * rng.normal()
        history.append(row)
    return {
        "protocol": protocol,
        "fold": fold,
        "classes": list(classes),
        "recipe": load_recipe("undertone-street").to_json(),
        "recipe_hash": "0123456789ab",
        "seed": 0,
        "n_parameters": 812_345,
        "temperature": 1.7,
        "history": history,
        "best_epoch": N_EPOCHS - 2 if has_dev else N_EPOCHS,
        "dev_uar": history[N_EPOCHS - 3]["dev_uar"] if has_dev else None,
        "training_seconds": 432.1,
        "audit": {},
        "audit_summary": f"Audit of {protocol}, fold {fold}: nothing leaks\n  ok    no speaker is in two parts",
        "banner": "",
        "notes": [],
        "extra_train": [],
        "test": test,
        "test_logits": logits.tolist(),
    } | changes


@pytest.fixture(scope="module")
def ravdess():
    return summarise([_make_fold("ravdess-speaker", fold) for fold in range(6)])


@pytest.fixture(scope="module")
def pooled():
    return summarise([_make_fold("pooled-speaker", fold, n_clips=1) for fold in (0, 4)])


@pytest.fixture(scope="module")
def hostile():
    """A report that leaks, on one speaker and a class less, whose every text means harm."""
    fold = _make_fold("crema-d-random", 0, n_clips=1, speakers={"crema-d": (f"crema-d/{HOSTILE}",)})
    keep = [row for row, clip in enumerate(fold["test"]) if clip["emotion"] != "fear"]
    fold["test"] = [fold["test"][row] for row in keep]
    fold["test_logits"] = [fold["test_logits"][row] for row in keep]
    fold["recipe"] = {**fold["recipe"], "name": HOSTILE, "description": HOSTILE}
    fold |= {"banner": f"{BANNER} {HOSTILE}", "audit": {}, "audit_summary": HOSTILE, "extra_train": [HOSTILE]}
    fold["history"][3]["train_loss"] = float("nan")
    dataset = SimpleNamespace(
        utterances=(),
        problems=(Problem("conflict", (HOSTILE, "b"), (HOSTILE, "b"), ("anger", "fear")),),
        unreadable={HOSTILE: HOSTILE},
    )
    return summarise([fold], dataset)  # type: ignore[arg-type]


class _Page(HTMLParser):
    """Collects the tags of a page, and its text."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def _read_page(report, out_dir):
    html = write_report(report, out_dir).read_text(encoding="utf-8")
    page = _Page(html)
    assert not page.open
    return SimpleNamespace(
        html=html,
        tags=page.tags,
        attributes=page.attributes,
        text=" ".join(" ".join(page.text).split()),
        folder=out_dir,
    )


@pytest.fixture(scope="module")
def ravdess_page(ravdess, tmp_path_factory):
    return _read_page(ravdess, tmp_path_factory.mktemp("ravdess") / "made" / "report")


@pytest.fixture(scope="module")
def pooled_page(pooled, tmp_path_factory):
    return _read_page(pooled, tmp_path_factory.mktemp("pooled"))


@pytest.fixture(scope="module")
def hostile_page(hostile, tmp_path_factory):
    return _read_page(hostile, tmp_path_factory.mktemp("hostile"))


def test_files(ravdess, ravdess_page):
    folder = ravdess_page.folder
    written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    drawn = ("confusion", "learning", "reliability", "speakers")
    figures = {f"figures/{name}.svg" for name in drawn}
    assert written == figures | {"report.html", "report.json"}  # nothing temporary is left
    content = json.loads((folder / "report.json").read_text())
    assert content.pop("packages")["torch"] == ravdess["torch"]
    assert content == json.loads(json.dumps(ravdess))


def test_same_report_same_bytes(ravdess, ravdess_page, tmp_path):
    before = copy.deepcopy(ravdess)
    assert write_report(ravdess, tmp_path).read_text(encoding="utf-8") == ravdess_page.html
    assert ravdess == before


def test_page_shows_the_scores(ravdess, ravdess_page):
    scores = ravdess["scores"]
    low, high = scores["intervals"]["uar"]
    expected = ["ravdess-speaker", "all 6 folds", f"{scores['uar']:.3f}", f"{low:.3f} – {high:.3f}"]
    expected += [f"{scores[name]:.3f}" for name in ("war", "f1_macro", "ece", "ece_uncalibrated")]
    expected += [f"{fold['uar']:.3f}" for fold in ravdess["per_fold"]]
    expected += [f"{row['recall']:.3f}" for row in scores["per_class"].values()]
    expected += ["undertone lab evaluate ravdess-speaker undertone-street --data ROOT", "label_smoothing"]
    assert [words for words in expected if words not in ravdess_page.text] == []
    assert "Not the whole protocol" not in ravdess_page.text
    assert ravdess_page.tags.count("svg") == 4
    assert sum(name == "role" and value == "alert" for name, value in ravdess_page.attributes) == 0


def test_page_is_one_file_without_scripts(pooled, pooled_page):
    assert not {"script", "link", "img", "iframe", "object"} & set(pooled_page.tags)
    links = [value for name, value in pooled_page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(value.startswith("#") for value in links)
    ids = [value for name, value in pooled_page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in links} <= set(ids)  # figures do not point into each other
    assert "@import" not in pooled_page.html
    assert set(re.findall(r"url\(([^)]*)\)", pooled_page.html)) <= {f"#{name}" for name in ids}


def test_every_figure_is_told_in_words(pooled, pooled_page):
    figures = re.findall(r"<svg [^>]*>", pooled_page.html)
    words = [re.search(r'role="img" aria-label="([^"]{40,})"', figure) for figure in figures]
    assert len(figures) == 2 + 4 * 4 + 1 - 2  # SAVEE and TESS have one speaker each: nothing to sort
    assert all(words)


def test_figures_follow_the_colour_scheme(ravdess, ravdess_page):
    drawings = "".join(re.findall(r"<svg .*?</svg>", ravdess_page.html, flags=re.DOTALL))
    colours = set(re.findall(r"#[0-9a-f]{6}\b", drawings))
    assert colours <= set(EMOTION_COLOURS.values())
    assert "var(--ink)" in drawings
    assert "var(--accent)" in drawings


def test_every_emotion_has_a_colour_of_its_own():
    assert tuple(EMOTION_COLOURS) == EMOTIONS
    assert len(set(EMOTION_COLOURS.values())) == len(EMOTIONS)


def test_page_of_a_pooled_protocol(pooled, pooled_page):
    assert "Not the whole protocol: folds 0 and 4 of 6" in pooled_page.text
    for corpus, folder in (("ravdess", "RAVDESS"), ("crema-d", "CREMA-D"), ("tess", "TESS"), ("savee", "SAVEE")):
        both = pooled["corpora"][corpus]
        assert folder in pooled_page.text
        assert f"{both['restricted']['uar']:.3f}" in pooled_page.text
        assert f"UAR {both['unrestricted']['uar']:.3f}, WAR {both['unrestricted']['war']:.3f}" in pooled_page.text
    assert "one speaker: no interval" in pooled_page.text  # TESS and SAVEE have one each
    assert "--folds 0,4" in pooled_page.text


def test_nothing_hostile_gets_into_the_page(hostile, hostile_page):
    assert "<img" not in hostile_page.html
    assert not [name for name, _ in hostile_page.attributes if name.startswith("on")]
    assert hostile_page.text.count(" ".join(HOSTILE.split())) >= 8  # shown, as it is written
    for figure in (hostile_page.folder / "figures").glob("*.svg"):
        assert "<img" not in figure.read_text()


def test_a_leak_is_told_first(hostile, hostile_page):
    body = hostile_page.html[hostile_page.html.index("<body>") :]
    assert body.index('role="alert"') < body.index("<h1>")
    assert BANNER in hostile_page.text
    assert "Nobody spoke fear here" in hostile_page.text
    assert "2 clips left out by rule" in hostile_page.text
    assert "No speaker, no audio" not in hostile_page.text


def test_a_run_that_diverged_is_still_json(hostile_page):
    content = json.loads((hostile_page.folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["per_fold"][0]["history"][3]["train_loss"] is None


def test_a_protocol_without_dev(tmp_path):
    report = summarise([_make_fold("tess-speaker", fold, has_dev=False) for fold in (0, 1)])
    text = _read_page(report, tmp_path).text
    assert "no dev" in text
    assert "12 of 12" in text


@pytest.mark.parametrize("protocol", ["emodb-speaker", "savee-speaker"])
def test_other_numbers_of_folds(protocol, tmp_path):
    n_folds = get_protocol(protocol).n_folds
    report = summarise([_make_fold(protocol, fold) for fold in range(n_folds)])
    page = _read_page(report, tmp_path)
    assert f"all {n_folds} folds" in page.text
    assert page.tags.count("svg") == 4


def test_speakers_are_marked_by_sex_where_it_is_known(ravdess, tmp_path):
    report = copy.deepcopy(ravdess)
    for name, row in report["scores"]["per_speaker"].items():
        row["sex"] = _sex(name)
    text = _read_page(report, tmp_path).text
    assert "woman" in text
    assert "man" in text


def test_card_scores_of_one_corpus(ravdess):
    card = scores_for_card(ravdess, "undertone lab evaluate ravdess-speaker")
    scores = ravdess["scores"]
    assert card["command"] == "undertone lab evaluate ravdess-speaker"
    assert (card["folds"], card["n_folds"], card["seed"]) == ([0, 1, 2, 3, 4, 5], 6, 0)
    assert card["uar"] == scores["uar"]
    assert card["uar_interval"] == scores["intervals"]["uar"]
    assert card["sex_gap"]["female"] == scores["sex_gap"]["female"]
    assert [set(fold) for fold in card["per_fold"]] == [{"fold", "uar", "war", "n_speakers"}] * 6
    assert not {"corpora", "leaks", "extra_train"} & set(card)
    assert len(json.dumps(card, allow_nan=False)) < 4_000


def test_card_scores_of_a_pooled_protocol(pooled):
    card = scores_for_card(pooled, "command")
    assert list(card["corpora"]) == ["crema-d", "ravdess", "savee", "tess"]
    crema_d, both = card["corpora"]["crema-d"], pooled["corpora"]["crema-d"]
    assert crema_d["n_classes"] == len(crema_d["classes"]) == 6
    assert crema_d["war_interval"] == both["restricted"]["intervals"]["war"]
    assert crema_d["unrestricted"]["uar"] == both["unrestricted"]["uar"]
    assert crema_d["ece_uncalibrated"] == both["restricted"]["ece_uncalibrated"]
    assert card["corpora"]["tess"]["uar_interval"] is None
    assert card["restricted"] == {key: pooled["restricted"][key] for key in ("ece", "ece_uncalibrated")}
    assert card["restricted"]["ece"] != card["ece"]


def test_card_of_a_leaking_protocol_says_so(hostile):
    card = scores_for_card(hostile, "command")
    assert card["leaks"].startswith(BANNER)
    assert card["extra_train"] == [HOSTILE]


def _print(report, width=110):
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(summary_table(report))
    return console.export_text()


def test_summary_in_the_terminal(pooled):
    printed = _print(pooled)
    lines = {line.split("  ")[0].strip(): line for line in printed.splitlines()}
    for fold in pooled["per_fold"]:
        assert f"{fold['uar']:.3f}" in lines[f"fold {fold['fold']}"]
        assert "10/12" in lines[f"fold {fold['fold']}"]
    assert f"{pooled['corpora']['ravdess']['restricted']['uar']:.3f}" in lines["RAVDESS"]
    low, high = pooled["scores"]["intervals"]["uar"]
    assert f"{low:.3f}-{high:.3f}" in lines["together"]
    assert "folds 0 and 4 of 6" in printed


def test_summary_of_a_leak_starts_with_it(hostile):
    printed = " ".join(_print(hostile, width=200).split())
    assert printed.startswith(BANNER)
    assert HOSTILE in printed  # no markup, no escape


def test_folds_in_words(ravdess, pooled):
    assert describe_folds(ravdess) == "all 6 folds"
    assert describe_folds({"folds": [3], "n_folds": 6}) == "fold 3 of 6, counted from 0"
