"""Exploration: numbers against hand counts on made-up corpora, and a page that stands on its own."""

import csv
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from undertone.cli.commands import app
from undertone.lab.corpora import CORPORA, CorpusError, load
from undertone.lab.drawing import CORPUS_COLOURS, EMOTION_COLOURS, EMOTION_MARKERS
from undertone.lab.explore import explore, summarise, write_page
from undertone.lab.explore.measure import arrange, draw_sample, measure_clip, neighbour_shares
from undertone.lab.explore.summary import count_votes, relative_to_neutral
from undertone.lab.explore.words import listed, say_counts, say_votes

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
BROKEN, SILENT = "03-01-04-01-01-01-02", "03-01-05-01-01-01-03"
TWICE = ("03-01-01-01-01-01-04", "03-01-01-01-02-01-04")  # the same recording as two sentences
FREQUENCIES_HZ = {"a": 300.0, "n": 150.0, "sa": 120.0}  # of SAVEE's made-up voices
AMPLITUDES = {"a": 0.4, "n": 0.1, "sa": 0.05}
LEAD_S, VOICE_S, TAIL_S = 0.3, 0.6, 0.2


def _savee_clip(code, phase):
    times_s = np.arange(round(VOICE_S * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * k * FREQUENCIES_HZ[code] * times_s + k * phase) / k for k in range(1, 6))
    silence = [np.zeros(round(duration_s * SAMPLE_RATE)) for duration_s in (LEAD_S, TAIL_S)]
    return np.concatenate([silence[0], AMPLITUDES[code] * voice / np.abs(voice).max(), silence[1]])


def _write_crema_d(folder, clip):
    """Two actors say one sentence in two emotions; listeners hear all sadness as neutral, once with a tie."""
    (folder / "AudioWAV").mkdir(parents=True)
    votes = {"1001_IEO_SAD_LO": "N", "1001_IEO_ANG_HI": "A", "1002_IEO_SAD_HI": "N:S", "1002_IEO_ANG_LO": "A"}
    for name in votes:
        soundfile.write(folder / "AudioWAV" / f"{name}.wav", clip(len(name) % 3), SAMPLE_RATE)
    with (folder / "summaryTable.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "FileName", "VoiceVote", "VoiceLevel"])
        for number, (name, vote) in enumerate(votes.items()):
            table.writerow([number, name, vote, ":".join(["50"] * len(vote.split(":")))])


@pytest.fixture(scope="module")
def root(make_ravdess, make_clip, tmp_path_factory):
    """RAVDESS of four actors with a broken, a silent and a doubled clip; SAVEE of two; a little CREMA-D."""
    root = make_ravdess(tmp_path_factory.mktemp("explored"), actors=range(1, 5))
    actor = root / "RAVDESS" / "Actor_02"
    (actor / f"{BROKEN}.wav").write_bytes(b"RIFF not a sound")
    soundfile.write(root / "RAVDESS" / "Actor_03" / f"{SILENT}.wav", np.zeros(4_000), SAMPLE_RATE)
    folder = root / "RAVDESS" / "Actor_04"
    (folder / f"{TWICE[1]}.wav").write_bytes((folder / f"{TWICE[0]}.wav").read_bytes())
    for phase, speaker in enumerate(("DC", "JE")):
        folder = root / "SAVEE" / "AudioData" / speaker
        folder.mkdir(parents=True)
        for code in FREQUENCIES_HZ:
            for number in (1, 2):
                clip = _savee_clip(code, phase) / number  # each speaker's second clip is half as loud
                soundfile.write(folder / f"{code}{number:02d}.wav", clip, SAMPLE_RATE)
    rng = np.random.default_rng(1)
    _write_crema_d(root / "CREMA-D", lambda kind: make_clip(kind, rng, rng.uniform(0.3, 0.5)))
    return root


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("explored-cache")


@pytest.fixture(scope="module")
def explored(root, model_path, cache_dir):
    stages = []
    found = explore(
        root, model=model_path, max_clips=20, cache_dir=cache_dir, progress=lambda *step: stages.append(step)
    )
    return SimpleNamespace(found=found, summary=summarise(found), stages=stages)


@pytest.fixture(scope="module")
def page(explored, tmp_path_factory):
    return _Page(write_page(explored.found, tmp_path_factory.mktemp("page") / "explore.html"))


class _Page(HTMLParser):
    """Tags, attributes and text of a page, and whether every tag is closed."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, path):
        super().__init__()
        self.path, self.html = path, path.read_text(encoding="utf-8")
        self.tags, self.open, self.words, self.attributes = [], [], [], []
        self.feed(self.html)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


# ---- counts ----


def test_counts_are_those_on_disk(explored):
    corpora = explored.summary["corpora"]
    assert list(corpora) == ["ravdess", "crema-d", "savee"]
    ravdess, savee = corpora["ravdess"], corpora["savee"]
    assert ravdess["n_utterances"] == 4 * 8 + 1
    assert ravdess["emotions"] == {name: 5 if name == "neutral" else 4 for name in CORPORA["ravdess"].emotions}
    assert ravdess["emotions_by_sex"]["neutral"] == {"female": 3, "male": 2}  # actor 04 said it twice
    assert ravdess["speakers_by_sex"] == {"female": 2, "male": 2}
    assert ravdess["intensities"]["anger"] == {"normal": 4}
    assert ravdess["sentences"] == ravdess["sentences"] | {"n": 2, "n_in_every_emotion": 1, "n_in_one_emotion": 1}
    assert savee["speakers_by_sex"] == {"male": 2}
    assert savee["intensities"] is None
    assert savee["emotions"] == {"anger": 4, "neutral": 4, "sadness": 4}
    pooled = explored.summary["pooled"]
    assert pooled["n_utterances"] == 33 + 4 + 12
    assert pooled["emotions"]["anger"] == 4 + 2 + 4
    assert {speaker: row["age"] for speaker, row in pooled["speakers"].items() if row["age"]} == {
        "crema-d/1001": 51,
        "crema-d/1002": 21,
    }


def test_a_bad_clip_costs_nothing_but_itself(explored):
    assert list(explored.summary["unreadable"]) == [f"ravdess/{BROKEN}"]
    kinds = {problem["kind"]: problem["utterance_ids"] for problem in explored.summary["problems"]}
    assert kinds == {"silent": [f"ravdess/{SILENT}"], "duplicate": [f"ravdess/{name}" for name in TWICE]}
    ids = [utterance.utterance_id for utterance in explored.found.utterances]
    broken, silent = ids.index(f"ravdess/{BROKEN}"), ids.index(f"ravdess/{SILENT}")
    assert np.isnan(explored.found.duration_s[broken])
    assert explored.found.duration_s[silent] == pytest.approx(0.25)
    assert np.isnan(explored.found.level_db[[broken, silent]]).all()
    assert not explored.found.sampled[[broken, silent]].any()
    assert not {broken, silent} & set(explored.found.representatives.values())
    assert explored.summary["corpora"]["ravdess"]["duration_s"]["all"]["n"] == 32


def test_durations_silence_and_level_of_a_known_clip(explored):
    savee = explored.summary["corpora"]["savee"]
    assert savee["duration_s"]["all"]["median"] == pytest.approx(LEAD_S + VOICE_S + TAIL_S)
    assert savee["lead_s"]["all"]["median"] == pytest.approx(LEAD_S, abs=0.02)
    assert savee["tail_s"]["all"]["median"] == pytest.approx(TAIL_S, abs=0.02)
    assert savee["hours"] == pytest.approx(12 * 1.1 / 3600)
    # anger has four times neutral's amplitude, sadness half of it
    assert savee["level_from_neutral_db"]["anger"] == pytest.approx(20 * np.log10(4), abs=0.2)
    assert savee["level_from_neutral_db"]["sadness"] == pytest.approx(-20 * np.log10(2), abs=0.2)


def test_pitch_of_known_voices(explored):
    savee = explored.summary["corpora"]["savee"]
    for emotion, code in (("anger", "a"), ("neutral", "n"), ("sadness", "sa")):
        assert savee["pitch_hz"][emotion]["male"]["n"] == 4
        assert savee["pitch_hz"][emotion]["male"]["median"] == pytest.approx(FREQUENCIES_HZ[code], rel=0.01)
        assert savee["pitch_hz"][emotion]["female"]["n"] == 0
    assert savee["pitch_from_neutral_st"]["anger"] == pytest.approx(12, abs=0.2)  # an octave
    assert savee["pitch_from_neutral_st"]["sadness"] == pytest.approx(12 * np.log2(120 / 150), abs=0.2)


def test_measure_clip_at_its_edges():
    assert np.isnan(measure_clip(np.zeros(0, np.int16))).all()
    duration_s, *rest = measure_clip(np.zeros(800, np.int16))
    assert duration_s == 0.05
    assert np.isnan(rest).all()
    one = measure_clip(np.array([-32_768], np.int16))
    assert one[0] == 1 / SAMPLE_RATE
    assert one[1:] == (0.0, 0.0, 0.0, 0.0, 1.0)
    tone = (16_384 * np.sin(2 * np.pi * 200 * np.arange(16_000) / SAMPLE_RATE)).astype(np.int16)
    assert measure_clip(tone)[3] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)


def test_difference_from_neutral_is_within_the_speaker(explored):
    found = explored.found
    shift = {"savee/DC": 0.0, "savee/JE": 100.0}  # a louder speaker changes nothing
    step = {"anger": 3.0, "neutral": 0.0, "sadness": -2.0}
    values = np.array(
        [shift.get(clip.speaker_id, np.nan) + step.get(clip.emotion, np.nan) for clip in found.utterances]
    )
    assert relative_to_neutral(found, values, "savee") == {"anger": 3.0, "neutral": 0.0, "sadness": -2.0}
    assert set(relative_to_neutral(found, values, "ravdess").values()) == {None}


# ---- votes ----


def test_votes_count_ties_in_parts(explored):
    votes = explored.summary["votes"]
    assert (votes["meant"], votes["heard"]) == (["anger", "sadness"], ["anger", "neutral", "sadness"])
    assert votes["counts"] == [[2.0, 0.0, 0.0], [0.0, 1.5, 0.5]]
    assert (votes["n"], votes["n_ties"], votes["agreement"]) == (4, 1, 2.5 / 4)
    assert votes["by_intensity"] == {"low": {"n": 2, "agreement": 0.5}, "high": {"n": 2, "agreement": 0.75}}
    told = say_votes(votes)
    assert "sadness is taken for neutral (75 %)" in told
    assert "anger is heard best (100 %)" in told


def test_no_votes_no_section(root):
    assert count_votes(load(root, ["savee"])) is None


# ---- the sample, the gallery, the map ----


def test_sample_is_even_over_speakers_and_emotions(root):
    utterances = load(root, ["ravdess", "savee"])
    usable = np.ones(len(utterances), bool)
    chosen = draw_sample(utterances, usable, 6, seed=0)
    for corpus in ("ravdess", "savee"):
        own = [clip for clip, is_in in zip(utterances, chosen, strict=True) if is_in and clip.corpus == corpus]
        assert len(own) == 6
        assert len({(clip.speaker_id, clip.emotion) for clip in own}) == 6
    assert (draw_sample(utterances, usable, 6, seed=0) == chosen).all()
    assert (draw_sample(utterances, usable, 6, seed=1) != chosen).any()
    alone = [row for row, clip in enumerate(utterances) if clip.corpus == "savee"]
    savee = [utterances[row] for row in alone]
    assert (draw_sample(savee, np.ones(len(savee), bool), 6, seed=0) == chosen[alone]).all()
    assert draw_sample(utterances, usable, 10_000, seed=0).all()


def test_representative_is_the_most_usual_clip(explored):
    savee = explored.summary["corpora"]["savee"]["representatives"]
    assert set(savee) == {"anger", "neutral", "sadness"}
    level = dict(zip([u.utterance_id for u in explored.found.utterances], explored.found.level_db, strict=True))
    for emotion, clip in savee.items():
        rows = explored.found.rows(corpus="savee", emotion=emotion)
        distance = np.abs(explored.found.level_db[rows] - np.median(explored.found.level_db[rows]))
        assert abs(level[clip] - np.median(explored.found.level_db[rows])) == pytest.approx(distance.min())


def test_neighbours_of_separate_and_of_mixed_groups(rng):
    labels = ["a"] * 40 + ["b"] * 40
    apart = rng.normal(size=(80, 3)) + 50 * (np.arange(80) >= 40)[:, None]
    share, chance = neighbour_shares(apart, labels)
    assert share == 1
    assert chance == pytest.approx(39 / 79)
    mixed, _ = neighbour_shares(rng.normal(size=(80, 3)), labels)
    assert abs(mixed - chance) < 0.1


def test_arrange_keeps_groups_apart_and_repeats_itself(rng):
    vectors = rng.normal(size=(60, 8)) + 30 * (np.arange(60) >= 30)[:, None]
    positions, method = arrange(vectors, seed=0)
    assert (positions.shape, method) == ((60, 2), "t-SNE")
    assert neighbour_shares(positions, ["a"] * 30 + ["b"] * 30)[0] == 1
    assert (arrange(vectors, seed=0)[0] == positions).all()
    few, method = arrange(vectors[:1], seed=0)
    assert (few.tolist(), method) == ([[0.0, 0.0]], "PCA")


def test_map_says_what_the_model_has_heard(explored):
    found = explored.summary["map"]
    assert found["n"] == 20 + 4 + 12
    assert (found["model"], found["dim"], found["n_speakers_heard_in_training"]) == ("tiny", 3, 0)
    assert explored.found.embedded.positions.shape == (36, 2)


def test_progress_tells_every_stage(explored):
    stages = list(dict.fromkeys(stage for stage, _, _ in explored.stages))
    assert stages == ["decoding", "levels", "pitch", "embeddings", "map"]
    for stage in stages:
        *_, (done, total) = [step[1:] for step in explored.stages if step[0] == stage]
        assert done == total


# ---- the page ----


def test_page_asks_nothing_from_outside(page):
    assert not {"script", "link", "img", "iframe", "object", "video", "audio"} & set(page.tags)
    links = [(tag, value) for tag, name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    for tag, value in links:
        assert value.startswith(("#", "data:image/png;base64,")) or (tag == "a" and value.startswith("http"))
    assert {"a", "image"} <= {tag for tag, _ in links}
    assert "@import" not in page.html
    assert not re.findall(r"url\((?!#)", page.html)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_ids_are_unique_and_figures_told_in_words(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    figures = re.findall(r"<svg [^>]*>", page.html)
    assert len(figures) == page.tags.count("figure") >= 14
    assert all(re.search(r'role="img" aria-label="[^"]{40,}"', figure) for figure in figures)


def test_figures_follow_the_colour_scheme(page):
    drawings = "".join(re.findall(r"<svg .*?</svg>", page.html, flags=re.DOTALL))
    colours = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"data:[^\"]*", "", drawings)))
    assert colours <= {*EMOTION_COLOURS.values(), *CORPUS_COLOURS.values()}
    assert "var(--ink)" in drawings


def test_page_says_the_numbers(explored, page):
    corpora = explored.summary["corpora"]
    expected = [say_counts(name, corpus) for name, corpus in corpora.items()]
    expected += [f"ravdess/{BROKEN}", f"ravdess/{SILENT} (", "domain shift", "anger is 12.0 dB louder"]
    expected += ["at most 20 of a corpus", "undertone lab corpora explore ravdess crema-d savee --data ROOT"]
    assert [words for words in expected if words not in page.text] == []
    assert "SAVEE: 12 of 480 clips (13 s), 2 speakers (2 men), 3 emotions; 4 clips of each." in page.text


@pytest.mark.parametrize("corpus", ["savee", "crema-d", "ravdess"])
def test_any_one_corpus(corpus, root, cache_dir, tmp_path):
    found = explore(root, [corpus], max_clips=0, cache_dir=cache_dir)
    summary = summarise(found)
    page = _Page(write_page(found, tmp_path / "one.html"))
    assert list(summary["corpora"]) == [corpus]
    assert summary["map"] is None
    assert "map" not in {value for _, name, value in page.attributes if name == "id"}
    if corpus == "crema-d":  # the same bytes again
        assert write_page(found, tmp_path / "again.html").read_text(encoding="utf-8") == page.html
    assert (summary["votes"] is not None) == (corpus == "crema-d")


def test_nothing_readable_is_still_a_page(tmp_path, cache_dir):
    folder = tmp_path / "RAVDESS" / "Actor_01"
    folder.mkdir(parents=True)
    (folder / "03-01-01-01-01-01-01.wav").write_bytes(b"nothing")
    found = explore(tmp_path, max_clips=5, cache_dir=cache_dir)
    page = _Page(write_page(found, tmp_path / "none.html"))
    assert "ravdess/03-01-01-01-01-01-01" in page.text
    assert found.embedded is None
    json.dumps(summarise(found), allow_nan=False)


def test_refusals(root, cache_dir, tmp_path):
    with pytest.raises(CorpusError, match="TESS"):
        explore(root, ["tess"], cache_dir=cache_dir)
    with pytest.raises(ValueError, match="max_clips"):
        explore(root, max_clips=-1, cache_dir=cache_dir)


# ---- the command ----


@pytest.fixture(scope="module")
def command(root, cache_dir):
    def run(*arguments):
        environment = {"UNDERTONE_DATA": str(root), "UNDERTONE_CACHE": str(cache_dir), "COLUMNS": "80"}
        return CliRunner().invoke(app, ["lab", "corpora", "explore", *map(str, arguments)], env=environment)

    return run


def test_command_writes_page_and_figures(command, model_path, tmp_path):
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    result = command("SAVEE", "-o", out, "--figures", figures, "--max-clips", 4, "--model", model_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("SAVEE: 12 of 480 clips")
    assert str(out) in result.stdout
    assert _Page(out).tags.count("figure") >= 6
    names = {path.stem for path in figures.iterdir()}
    assert {"emotions", "durations", "energy", "pitch", "gallery-savee", "map-speaker"} <= names
    files = {f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "png")}
    assert {path.name for path in figures.iterdir()} == files  # nothing temporary is left
    assert (figures / "pitch.png").read_bytes().startswith(b"\x89PNG")


def test_command_as_json(command, tmp_path):
    result = command("ravdess", "-o", tmp_path / "page.html", "--max-clips", 0, "--json")
    assert result.exit_code == 1  # one clip is unreadable
    numbers = json.loads(result.stdout)
    assert numbers["corpora"]["ravdess"]["n_utterances"] == 33
    assert list(numbers["unreadable"]) == [f"ravdess/{BROKEN}"]


def test_command_refuses_a_folder_that_is_not_there(command, tmp_path):
    result = command("savee", "-o", tmp_path / "no" / "page.html")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


# ---- colours ----

# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB: https://doi.org/10.1109/TVCG.2009.113
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _lab(colour, matrix):
    srgb = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    white = to_xyz.sum(axis=1)
    ratio = to_xyz @ linear / white
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_corpus_colours_differ_for_every_reader(deficiency):
    found = [_lab(colour, DEFICIENCIES[deficiency]) for colour in CORPUS_COLOURS.values()]
    apart = [np.linalg.norm(one - other) for row, one in enumerate(found) for other in found[:row]]
    assert min(apart) > 30  # CIE 1976; 2 can just be seen side by side


def test_no_emotion_is_told_by_colour_alone():
    assert set(EMOTION_MARKERS) == set(EMOTION_COLOURS)
    assert len(set(EMOTION_MARKERS.values())) == len(EMOTION_MARKERS)


def test_listed():
    assert listed(["a", "b"]) == "a and b"


# ---- real clips ----


@pytest.mark.corpus
def test_real_corpora(corpora_root, tmp_path, cache_dir):
    """SAVEE as it was published: men around 130 Hz, anger louder than sadness, no clip left out."""
    found = explore(corpora_root, ["savee"], max_clips=28, cache_dir=cache_dir)
    savee = summarise(found)["corpora"]["savee"]
    assert savee["n_utterances"] == savee["n_official"] == 480
    assert savee["emotions"]["neutral"] == 2 * savee["emotions"]["anger"] == 120
    assert savee["sentences"]["n_in_every_emotion"] == 3
    assert 90 < savee["pitch_hz"]["neutral"]["male"]["median"] < 160
    assert savee["pitch_from_neutral_st"]["anger"] > 2
    assert savee["level_from_neutral_db"]["anger"] > savee["level_from_neutral_db"]["sadness"] + 3
    assert not found.problems
    assert _Page(write_page(found, tmp_path / "savee.html")).text.count("SAVEE") > 5
