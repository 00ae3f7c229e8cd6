"""Whole experiments on a made-up RAVDESS: every speaker tested once, nothing learnt from test clips, no fold twice."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from safetensors.torch import load_file

from undertone.lab import experiment
from undertone.lab.corpora import CORPORA, load
from undertone.lab.evaluation import FOLDS, LeakError, uar
from undertone.lab.experiment import (
    clean,
    evaluate,
    load_dataset,
    run_fold,
    select_speakers,
    summarise,
    test_model,
    train_final,
)
from undertone.lab.recipes import load_recipe
from undertone.lab.training import CHECKPOINT, TrainingError
from undertone.model_file import TrainingCorpus, write_card
from undertone.recognizer import load_model

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

ACTORS = {f"ravdess/{actor:02d}" for actor in range(1, 25)}
PROTOCOL = "ravdess-speaker"


@pytest.fixture(scope="module")
def dataset(ravdess_root, evaluated):
    return load_dataset(ravdess_root, cache_dir=evaluated[2])


def read_fold(run_dir, fold):
    return json.loads((run_dir / f"fold-{fold}" / "fold.json").read_text())


# ---- folds ----


def test_every_fold_tests_its_published_actors_and_hears_none_of_them(evaluated):
    run_dir, _, _ = evaluated
    for fold, actors in enumerate(FOLDS["ravdess"]):
        result = read_fold(run_dir, fold)
        heard = set(result["train_corpora"]["ravdess"]["speakers"])
        dev = {f"ravdess/{name[-2:]}" for name in result["dev"]}
        assert {clip["speaker"] for clip in result["test"]} == set(actors)
        assert len(result["test"]) == 8 * len(actors)
        assert len(dev) == 2
        assert heard | dev | set(actors) == ACTORS
        assert len(heard) + len(dev) + len(actors) == 24
        assert (result["audit"]["leaks"], result["banner"]) == (False, "")
        assert "nothing leaks" in result["audit_summary"]
        assert np.shape(result["test_logits"]) == (len(result["test"]), 8)
        assert result["temperature"] > 0


def test_the_report_scores_every_clip_of_every_speaker_once(evaluated):
    _, report, _ = evaluated
    assert report["folds"] == list(range(6))
    assert set(report["scores"]["per_speaker"]) == ACTORS
    assert {row["n"] for row in report["scores"]["per_speaker"].values()} == {8}
    assert (report["scores"]["n_utterances"], report["scores"]["n_speakers"]) == (192, 24)
    assert np.sum(report["scores"]["confusion"]) == 192
    assert sum(fold["n_utterances"] for fold in report["per_fold"]) == 192
    assert report["mean_uar"] == pytest.approx(np.mean([fold["uar"] for fold in report["per_fold"]]))


def test_scores_are_those_of_the_stored_logits(evaluated):
    run_dir, report, _ = evaluated
    folds = [read_fold(run_dir, fold) for fold in range(6)]
    classes = folds[0]["classes"]
    target = np.array([classes.index(clip["emotion"]) for fold in folds for clip in fold["test"]])
    predicted = np.concatenate([np.argmax(fold["test_logits"], axis=1) for fold in folds])
    assert report["scores"]["uar"] == pytest.approx(uar(target, predicted, n_classes=8))


def test_answers_are_compared_with_what_listeners_heard(evaluated, dataset):
    """Made-up votes: as meant, but for anger, which all heard as fear; sadness was a tie, surprise not asked."""
    votes = {"anger": ("fear",), "sadness": ("sadness", "fear"), "surprise": ()}
    heard = [replace(clip, voted_emotion=votes.get(clip.emotion, (clip.emotion,))) for clip in dataset.utterances]
    fold = read_fold(evaluated[0], 0)
    voted = summarise([fold], replace(dataset, utterances=tuple(heard)))["voted"]
    names = [("fear" if clip["emotion"] == "anger" else clip["emotion"]) for clip in fold["test"]]
    asked = [row for row, clip in enumerate(fold["test"]) if clip["emotion"] not in ("sadness", "surprise")]
    target = np.array([fold["classes"].index(names[row]) for row in asked])
    hit = np.argmax(fold["test_logits"], axis=1)[asked] == target
    assert voted["n_utterances"] == len(asked) == 24 and voted["corpora"] == ["ravdess"]
    assert voted["war"] == pytest.approx(hit.mean())
    assert voted["uar"] == pytest.approx(np.mean([hit[target == c].mean() for c in np.unique(target)]))
    assert voted["acted_war"] == pytest.approx(20 / 24)  # four clips of anger
    assert "voted" not in summarise([fold], dataset)  # nobody was asked


def test_done_folds_are_not_run_again(evaluated, ravdess_root, quick_recipe, monkeypatch):
    run_dir, report, cache_dir = evaluated
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr(experiment, "fit", None)  # nobody may train
    again = evaluate(ravdess_root, PROTOCOL, quick_recipe, run_dir, accelerator="cpu", cache_dir=cache_dir)
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()} == before
    assert again == report


def test_a_fold_cut_off_before_its_test_is_tested_without_training_again(
    evaluated, ravdess_root, quick_recipe, tmp_path
):
    run_dir, _, cache_dir = evaluated
    for fold in (0, 1):
        shutil.copytree(run_dir / f"fold-{fold}", tmp_path / f"fold-{fold}")
    (tmp_path / "fold-1" / "fold.json").unlink()
    trained = []
    evaluate(
        ravdess_root, PROTOCOL, quick_recipe, tmp_path, folds=[0, 1], accelerator="cpu", cache_dir=cache_dir,
        on_epoch=lambda *step: trained.append(step),
    )  # fmt: skip
    assert trained == []
    assert read_fold(tmp_path, 1)["test_logits"] == read_fold(run_dir, 1)["test_logits"]


def test_progress_names_the_fold(ravdess_root, make_recipe, evaluated, tmp_path):
    steps, recipe = [], make_recipe(training={"epochs": 2, "batch_size": 48})
    evaluate(
        ravdess_root, PROTOCOL, recipe, tmp_path, folds=[3], accelerator="cpu", cache_dir=evaluated[2],
        on_epoch=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [step[:3] for step in steps] == [(3, 1, 2), (3, 2, 2)]
    assert all(0 <= step[3]["dev_uar"] <= 1 for step in steps)


@pytest.mark.slow
def test_folds_in_parallel_are_the_folds_in_turn(evaluated, ravdess_root, quick_recipe, tmp_path):
    run_dir, _, cache_dir = evaluated
    steps = []
    report = evaluate(
        ravdess_root, PROTOCOL, quick_recipe, tmp_path, folds=[0, 1], jobs=2, accelerator="cpu", cache_dir=cache_dir,
        on_epoch=lambda *step: steps.append(step[:3]),
    )  # fmt: skip
    assert sorted(steps) == [(0, 1, 1), (1, 1, 1)]
    assert report["folds"] == [0, 1]
    for fold in (0, 1):
        ours, theirs = (np.array(read_fold(folder, fold)["test_logits"]) for folder in (tmp_path, run_dir))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_folds_of_two_runs_are_not_summarised(evaluated):
    folds = [read_fold(evaluated[0], fold) for fold in (0, 1)]
    for key, value in (("seed", 1), ("recipe_hash", "another"), ("extra_train", ["tess"])):
        with pytest.raises(TrainingError, match=f"differ in their {key}"):
            summarise([folds[0], {**folds[1], key: value}])


# ---- leaks ----


@pytest.mark.parametrize("what", ["speaker", "audio"])
def test_a_leaking_split_is_stopped_before_any_training(what, dataset, quick_recipe, monkeypatch, tmp_path):
    split = experiment.build_split(PROTOCOL, dataset.utterances, 0)
    if what == "speaker":
        leaking = replace(split, train=np.append(split.train, split.test[0]), test=split.test[1:])
    else:
        digests = list(dataset.waveforms.digests)
        digests[split.train[0]] = digests[split.test[0]]
        dataset = replace(dataset, waveforms=replace(dataset.waveforms, digests=tuple(digests)))
        leaking = split
    monkeypatch.setattr(experiment, "build_split", lambda *_, **__: leaking)
    monkeypatch.setattr(experiment, "fit", None)
    with pytest.raises(LeakError, match="IT LEAKS"):
        run_fold(dataset, PROTOCOL, quick_recipe, 0, tmp_path / "fold-0", accelerator="cpu")
    assert not list(tmp_path.iterdir())


def test_the_audio_of_tested_clips_does_not_change_the_model(make_ravdess, evaluated, quick_recipe, tmp_path):
    """Other voices for the tested actors: bit for bit the same weights, temperature and choice; other logits."""
    tested = [int(name[-2:]) for name in FOLDS["ravdess"][0]]
    root = make_ravdess(tmp_path / "corpora", seeds=dict.fromkeys(tested, 99))
    other = load_dataset(root, cache_dir=tmp_path / "cache")
    result = run_fold(other, PROTOCOL, quick_recipe, 0, tmp_path / "fold-0", accelerator="cpu")
    before = read_fold(evaluated[0], 0)
    ours, theirs = (load_file(f / "fold-0" / CHECKPOINT) for f in (tmp_path, evaluated[0]))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert result["temperature"] == before["temperature"]
    assert result["best_epoch"] == before["best_epoch"]
    assert result["test_logits"] != before["test_logits"]


# ---- the data set ----


def test_silent_doubled_short_and_unreadable_clips_are_left_out(make_ravdess, tmp_path):
    root = make_ravdess(tmp_path / "corpora", actors=[1, 2])
    folder = root / "RAVDESS" / "Actor_01"
    clips = sorted(folder.iterdir())
    soundfile.write(clips[0], np.zeros(8_000), 16_000)
    clips[2].write_bytes(clips[1].read_bytes())  # one recording under two labels: neither is kept
    soundfile.write(clips[3], 0.1 * np.ones(1_599), 16_000)
    clips[4].write_text("no sound")
    dataset = load_dataset(root, cache_dir=tmp_path / "cache")
    kept = {utterance.path.name for utterance in dataset.utterances}
    assert kept == {path.name for path in root.rglob("*.wav")} - {path.name for path in clips[:5]}
    assert sorted(problem.kind for problem in dataset.problems) == ["conflict", "silent"]
    assert list(dataset.unreadable) == [f"ravdess/{clips[4].stem}", f"ravdess/{clips[3].stem}"]
    assert len(dataset.waveforms) == len(dataset.utterances) == 11
    assert dataset.waveforms.n_samples.min() >= 1_600


def test_when_no_clip_can_be_read_the_reason_is_told(make_ravdess, quick_recipe, tmp_path):
    """Files of a repository whose large ones were never fetched, for example."""
    root = make_ravdess(tmp_path / "corpora", actors=[1, 2])
    for path in root.rglob("*.wav"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TrainingError, match=r"no fold .* 16 clips could not be used, the first, ravdess/03-01-.*: .+"):
        evaluate(root, PROTOCOL, quick_recipe, tmp_path / "run", cache_dir=tmp_path / "cache")


def test_a_fold_of_other_audio_under_the_same_names_is_refused(make_ravdess, quick_recipe, tmp_path):
    arguments = {"folds": [0], "accelerator": "cpu", "cache_dir": tmp_path / "cache"}
    for seeds, refused in ((None, False), ({11: 7}, True)):  # actor 11 is tested in fold 0
        root = make_ravdess(tmp_path / "corpora", seeds=seeds)
        if refused:
            with pytest.raises(TrainingError, match="holds a run with another audio"):
                evaluate(root, PROTOCOL, quick_recipe, tmp_path / "run", **arguments)
        else:
            evaluate(root, PROTOCOL, quick_recipe, tmp_path / "run", **arguments)


def test_speaker_embeddings_learn_from_training_clips_and_no_others(dataset, monkeypatch, tmp_path):
    from undertone.lab.features import XVector

    heard = []

    def fit_to(self, clips, speaker, *, seed):
        heard.append([clip.tobytes() for clip in clips])
        assert len(speaker) == len(clips)
        self.is_fitted.fill_(True)

    monkeypatch.setattr(XVector, "fit_to", fit_to)
    recipe = load_recipe("dhavan-cnnlstm-xvec").with_training(epochs=1)
    result = run_fold(dataset, PROTOCOL, recipe, 2, tmp_path, accelerator="cpu")
    clips = {clip.utterance_id: samples.tobytes()
             for clip, samples in zip(dataset.utterances, dataset.waveforms.clips, strict=True)}  # fmt: skip
    held_out = {*result["dev"], *(clip["id"] for clip in result["test"])}
    assert heard == [[samples for name, samples in clips.items() if name not in held_out]]


def test_calm_is_left_alone_on_corpora_that_have_no_label_for_it(dataset):
    classes = ("anger", "neutral", "calm")
    rows = [row for row, clip in enumerate(dataset.utterances) if clip.emotion in classes]
    clips = dataset.clips(np.array(rows), classes)
    assert clips.allowed.all()
    elsewhere = [replace(clip, corpus="crema-d") for clip in dataset.utterances]
    neutral = np.array([row for row in rows if dataset.utterances[row].emotion != "calm"])
    other = replace(dataset, utterances=tuple(elsewhere)).clips(neutral, classes)
    assert (other.allowed == [True, True, False]).all()
    assert replace(dataset, utterances=tuple(elsewhere)).clips(neutral, classes, masks=False).allowed.all()
    assert set(other.group) == {list(CORPORA).index("crema-d")}
    assert [classes[target] for target in other.target] == [dataset.utterances[row].emotion for row in neutral]


def test_train_final_hears_everybody_but_its_dev_speakers(dataset, quick_recipe, tmp_path):
    result = train_final(dataset, quick_recipe, tmp_path, accelerator="cpu")
    dev = {f"ravdess/{name[-2:]}" for name in result["dev"]}
    assert len(dev) == 2
    assert set(result["train_corpora"]["ravdess"]["speakers"]) == ACTORS - dev
    assert "test" not in result
    assert json.loads((tmp_path / "fold.json").read_text())["recipe_hash"] == quick_recipe.hash


def test_a_recipe_with_nothing_to_choose_trains_on_dev_too(dataset, make_recipe, tmp_path):
    recipe = make_recipe(training={"epochs": 1, "choose": "last", "joins_dev": True})
    result = run_fold(dataset, PROTOCOL, recipe, 0, tmp_path / "fold", accelerator="cpu")
    tested = {clip["speaker"] for clip in result["test"]}
    assert set(result["train_corpora"]["ravdess"]["speakers"]) == ACTORS - tested
    assert (result["dev"], result["temperature"], result["dev_uar"]) == ([], 1.0, None)
    assert any("nothing to choose" in note for note in result["notes"])
    final = train_final(dataset, recipe, tmp_path / "final", accelerator="cpu")
    assert set(final["train_corpora"]["ravdess"]["speakers"]) == ACTORS


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("01-03", {"01", "02", "03"}), ("24,ravdess/02", {"02", "24"}), ("05, 20-21", {"05", "20", "21"}), (None, None)],
)
def test_select_speakers(asked, expected, dataset):
    chosen = {clip.speaker_id for clip in select_speakers(dataset.utterances, asked)}
    assert chosen == (ACTORS if expected is None else {f"ravdess/{name}" for name in expected})


@pytest.mark.parametrize("asked", ["25", "30-40", "DC", "01,,02"])
def test_a_speaker_that_does_not_exist_is_an_error(asked, dataset):
    with pytest.raises(ValueError, match="no speaker is called"):
        select_speakers(dataset.utterances, asked)


# ---- a model file on a corpus ----


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_card, tiny_bytes):
    """A model of four emotions whose card says that it has heard actors 1 and 2, and a speaker of TESS."""
    corpora = (
        TrainingCorpus("ravdess", "CC BY-NC-SA 4.0", "https://example.org", 120, ("ravdess/01", "ravdess/02")),
        TrainingCorpus("tess", "CC BY-NC-ND 4.0", "https://example.org", 1_400, ("tess/OAF",)),
    )
    folder = tmp_path_factory.mktemp("heard")
    return load_model(write_card(tiny_bytes, make_card(corpora=corpora), folder / "heard.onnx"))


def test_a_model_file_is_scored_and_its_card_says_whom_it_has_heard(model, ravdess_root):
    clips = [clip for clip in load(ravdess_root) if clip.speaker_id in ("ravdess/02", "ravdess/03", "ravdess/04")]
    result = test_model(model, clips)
    assert result["heard_in_training"] == ["ravdess/02"]
    assert result["left_out"] == {"disgust": 3, "fear": 3, "surprise": 3}
    assert (result["corpus"], result["model"], result["unreadable"]) == ("ravdess", "tiny", {})
    scores = result["restricted"]
    assert scores["classes"] == ["anger", "happiness", "neutral", "sadness"]
    assert scores["n_utterances"] == 15
    assert scores["per_class"]["neutral"]["support"] == 6  # calm counts as neutral for a model that knows no calm
    known = {"calm": "neutral"}
    pairs = [(known.get(c.emotion, c.emotion), c) for c in clips if c.emotion not in result["left_out"]]
    target = np.array([scores["classes"].index(emotion) for emotion, _ in pairs])
    predicted = np.array([scores["classes"].index(model.predict(c.path).emotion) for _, c in pairs])
    assert scores["uar"] == pytest.approx(uar(target, predicted, n_classes=4))


def test_unheard_speakers_are_not_said_to_be_heard(model, ravdess_root):
    clips = [clip for clip in load(ravdess_root) if clip.speaker_id == "ravdess/05"]
    assert test_model(model, clips)["heard_in_training"] == []


def test_unreadable_clips_are_reported_and_the_rest_is_scored(model, ravdess_root, tmp_path):
    clips = [clip for clip in load(ravdess_root) if clip.speaker_id == "ravdess/05"]
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    row = next(i for i, clip in enumerate(clips) if clip.emotion == "anger")
    clips[row] = replace(clips[row], path=broken)
    result = test_model(model, clips)
    assert list(result["unreadable"]) == [str(broken)]
    assert result["restricted"]["n_utterances"] == 4
    assert result["restricted"]["absent_classes"] == ["anger"]


def test_nothing_to_score_is_an_error_that_says_why(model, ravdess_root, tmp_path):
    fear = [clip for clip in load(ravdess_root) if clip.emotion == "fear"]
    with pytest.raises(TrainingError, match="none of the clips has an emotion that the model knows: anger, "):
        test_model(model, fear)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(TrainingError, match="none of the 1 clips could be read"):
        test_model(model, [replace(fear[0], emotion="anger", path=tmp_path / "a.wav")])


def test_clean_takes_any_list_of_utterances(ravdess_root, tmp_path):
    some = load(ravdess_root)[:10]
    assert clean(some, cache_dir=tmp_path).utterances == tuple(some)


# ---- altered copies ----

COPIES = [
    {"name": "noise", "steps": [{"kind": "noise", "rate": 0.1}]},
    {"name": "noise-slow", "steps": [{"kind": "noise", "rate": 0.1}, {"kind": "stretch", "rate": 0.8}]},
]


@pytest.fixture(scope="module")
def copied(ravdess_root, make_recipe, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return load_dataset(ravdess_root, ["ravdess"], recipe=make_recipe(copies=COPIES), cache_dir=cache), cache


def test_copies_carry_their_clip(copied):
    dataset, _ = copied
    n = len(dataset.utterances) // 3
    for name, part in (("noise", dataset.utterances[n : 2 * n]), ("noise-slow", dataset.utterances[2 * n :])):
        for clip, copy in zip(dataset.utterances[:n], part, strict=True):
            assert (copy.source_id, copy.utterance_id) == (clip.utterance_id, f"{clip.utterance_id}#{name}")
            assert (copy.speaker_id, copy.emotion, copy.sex) == (clip.speaker_id, clip.emotion, clip.sex)
    lengths = dataset.waveforms.n_samples.reshape(3, n)
    assert (lengths[0] == lengths[1]).all()
    np.testing.assert_allclose(lengths[2], lengths[0] / 0.8, atol=1)
    assert len(set(dataset.waveforms.digests)) == 3 * n


def test_copies_do_not_depend_on_the_rest_of_the_list_and_are_made_once(copied, ravdess_root, make_recipe, monkeypatch):
    dataset, cache = copied
    recipe = make_recipe(copies=COPIES)
    clean_set = load_dataset(ravdess_root, ["ravdess"], cache_dir=cache)
    half = experiment.Dataset(clean_set.utterances[:40], clean_set.waveforms.select(range(40)), (), {})
    again = experiment.add_copies(half, recipe, cache_dir=cache)
    n = len(clean_set.utterances)
    assert again.waveforms.digests[40:80] == dataset.waveforms.digests[n : n + 40]
    monkeypatch.setattr(experiment, "apply_steps", lambda *_, **__: pytest.fail("made twice"))
    assert experiment.add_copies(half, recipe, cache_dir=cache).waveforms.digests == again.waveforms.digests


def test_names_of_copies_may_have_dots(ravdess_root, make_recipe, tmp_path):
    """Two names that are alike up to a dot are two files in the cache."""
    copies = [{"name": f"louder{gain}", "steps": [{"kind": "gain", "gain_db": gain}]} for gain in (1.5, 1.25)]
    dataset = load_dataset(ravdess_root, ["ravdess"], recipe=make_recipe(copies=copies), cache_dir=tmp_path)
    n = len(dataset.utterances) // 3
    peaks = [abs(dataset.waveforms.clips[row].astype(int)).max() for row in (0, n, 2 * n)]
    assert peaks[1] / peaks[0] == pytest.approx(10 ** (1.5 / 20), rel=1e-3)
    assert peaks[2] / peaks[0] == pytest.approx(10 ** (1.25 / 20), rel=1e-3)


def test_copies_are_for_training_where_speakers_are_kept_apart(copied, make_recipe, tmp_path):
    dataset, _ = copied
    recipe = make_recipe(copies=COPIES, training={"epochs": 1, "batch_size": 48})
    result = run_fold(dataset, "ravdess-speaker", recipe, 0, tmp_path, accelerator="cpu")
    assert not [clip["id"] for clip in result["test"] if "#" in clip["id"]]
    assert not [clip for clip in result["dev"] if "#" in clip]
    counts = result["audit"]["counts"]
    assert counts["train"]["rows"] == 3 * (
        len(dataset.utterances) // 3 - counts["dev"]["rows"] - counts["test"]["rows"]
    )
    assert not result["audit"]["leaks"]
    heard = result["train_corpora"]["ravdess"]
    assert heard["n_utterances"] == counts["train"]["rows"] // 3


def test_a_copy_that_cannot_be_made_is_a_recipe_error(make_recipe):
    from undertone.lab.recipes import RecipeError

    for copies, message in (
        ([{"name": "a", "steps": [{"kind": "echo"}]}], r"\[\[copies\]\] a: step 1 needs a kind out of"),
        ([{"name": "a", "steps": []}, {"name": "a", "steps": []}], "needs a name of its own"),
        ([{"name": "a", "step": []}], "unknown key 'step'"),
        ([{"name": "../a", "steps": []}], "no slash"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_recipe(copies=copies)


def test_restricted_scores_answer_each_clip_with_its_own_corpus_emotions():
    """Two corpora; the network's favourite, calm, is no answer on CREMA-D: its second choice counts there."""
    clips = [("ravdess", "calm"), ("ravdess", "anger"), ("crema-d", "anger"), ("crema-d", "neutral")]
    classes = ["anger", "neutral", "calm"]
    logits = [[0.0, 1.0, 3.0], [2.0, 0.0, 3.0], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0]]
    recipe = load_recipe("undertone-small")
    fold = {
        "protocol": "pooled-speaker", "fold": 0, "classes": classes, "recipe": recipe.to_json(), "seed": 0,
        "recipe_hash": recipe.hash, "temperature": 1.0, "banner": "", "extra_train": [], "audit": {}, "notes": [],
        "audit_summary": "", "history": [], "best_epoch": 1, "dev_uar": 0.5, "training_seconds": 1.0,
        "test_logits": logits,
        "test": [
            {"id": str(n), "corpus": corpus, "speaker": f"{corpus}/{n}", "sex": "female", "emotion": emotion}
            for n, (corpus, emotion) in enumerate(clips)
        ],
    }  # fmt: skip
    report = experiment.summarise([fold])
    assert report["scores"]["war"] == 0.25
    assert report["restricted"]["war"] == 0.75
