"""From a finished run to a model file: the same answers as torch, or no file."""

# ruff: noqa: E402 - imports follow the check that torch is there
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from undertone.lab import export
from undertone.lab.data import pad_batch, to_float
from undertone.lab.evaluation import softmax
from undertone.lab.experiment import load_dataset
from undertone.lab.export import (
    ExportedModel,
    ExportError,
    export_run,
    intended_use,
    load_run,
    measure_parity,
    weights_licence,
)
from undertone.model_file import open_model, read_card
from undertone.recognizer import load_model

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

ABOUT = {"name": "tiny", "description": "for tests"}


@pytest.fixture(scope="module")
def run_dir(evaluated):
    return evaluated[0] / "fold-0"


@pytest.fixture(scope="module")
def clips(ravdess_root, evaluated):
    """Clips of the eight emotions by three actors, of different lengths."""
    return load_dataset(ravdess_root, cache_dir=evaluated[2]).waveforms.select(range(0, 24))


@pytest.fixture(scope="module")
def merged(run_dir, clips, tmp_path_factory):
    """The run's model file with calm in neutral: (path, card returned)."""
    path = tmp_path_factory.mktemp("export") / "merged.onnx"
    scores = {"ravdess-speaker": {"overall": {"uar": 0.2}}}
    return path, export_run(run_dir, path, clips, merge_calm=True, scores=scores, **ABOUT)


@pytest.fixture(scope="module")
def torch_output(run_dir, clips):
    """What torch says about the clips one by one: a list of Output."""
    model, _ = load_run(run_dir)
    with torch.inference_mode():
        return [model(torch.from_numpy(to_float(clip))[None], torch.tensor([len(clip)])) for clip in clips.clips]


def run_file(path, clips, outputs=("logits", "frame_logits", "embedding"), **changes):
    waveform, lengths = pad_batch([to_float(clip) for clip in clips])
    waveform = changes.get("change", lambda waveform, _: waveform)(waveform, lengths)
    return open_model(path, threads=1).run(waveform, lengths, outputs)


def probs_of(logits, temperature):
    return softmax(np.asarray(logits, np.float64), temperature=temperature)


# ---- the same answers ----


def test_probabilities_are_those_of_torch_with_calm_in_neutral(merged, run_dir, clips, torch_output):
    path, card = merged
    _, result = load_run(run_dir)
    classes, temperature = result["classes"], result["temperature"]
    ours = probs_of(np.concatenate([output.logits for output in torch_output]), temperature)
    theirs = probs_of(run_file(path, clips.clips)["logits"], card.temperature)
    assert card.labels == tuple(name for name in classes if name != "calm")
    for label, column in zip(card.labels, theirs.T, strict=True):
        sources = ("neutral", "calm") if label == "neutral" else (label,)
        expected = ours[:, [classes.index(name) for name in sources]].sum(axis=1)
        np.testing.assert_allclose(column, expected, atol=1e-4, err_msg=label)
    assert ours[:, classes.index("calm")].max() > 1e-3  # something was there to be merged


def test_the_frame_track_is_merged_in_the_same_way(merged, run_dir, clips, torch_output):
    path, card = merged
    classes = load_run(run_dir)[1]["classes"]
    theirs = run_file(path, clips.clips)["frame_logits"]
    neutral = card.labels.index("neutral")
    for row, output in enumerate(torch_output):
        ours = probs_of(output.frame_logits[0], card.temperature)
        expected = ours[:, classes.index("neutral")] + ours[:, classes.index("calm")]
        track = probs_of(theirs[row, : len(ours)], card.temperature)
        np.testing.assert_allclose(track[:, neutral], expected, atol=1e-4)


def test_the_embedding_is_that_of_torch(merged, clips, torch_output):
    theirs = run_file(merged[0], clips.clips)["embedding"]
    ours = np.concatenate([output.embedding for output in torch_output])
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_without_merging_all_eight_classes_agree(run_dir, clips, torch_output, tmp_path):
    card = export_run(run_dir, tmp_path / "eight.onnx", clips, **ABOUT)
    assert card.labels == tuple(load_run(run_dir)[1]["classes"])
    assert card.parity < 1e-4
    theirs = run_file(tmp_path / "eight.onnx", clips.clips)["logits"]
    ours = np.concatenate([output.logits for output in torch_output])
    np.testing.assert_allclose(probs_of(theirs, card.temperature), probs_of(ours, card.temperature), atol=1e-4)


def test_the_chosen_weights_are_exported(run_dir, evaluated, ravdess_root):
    """``load_run`` gives the logits that the run's own test measured."""
    model, result = load_run(run_dir)
    dataset = load_dataset(ravdess_root, cache_dir=evaluated[2])
    rows = {utterance.utterance_id: row for row, utterance in enumerate(dataset.utterances)}
    for clip, expected in list(zip(result["test"], result["test_logits"], strict=True))[::7]:
        waveform = torch.from_numpy(to_float(dataset.waveforms.clips[rows[clip["id"]]]))[None]
        with torch.inference_mode():
            logits = model(waveform, torch.tensor([waveform.shape[1]])).logits[0]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


# ---- any batch, any length, any padding ----


@pytest.mark.parametrize("garbage", [0.9, np.nan], ids=str)
def test_padding_never_changes_an_output(garbage, merged, clips):
    path, card = merged
    some = [clips.clips[0], clips.clips[5], clips.clips[9][:1_700]]

    def fill(waveform, lengths):
        waveform = np.pad(waveform, ((0, 0), (0, 9_999)))
        waveform[np.arange(waveform.shape[1]) >= lengths[:, None]] = garbage
        return waveform

    together = run_file(path, some, change=fill)
    for row, clip in enumerate(some):
        alone = run_file(path, [clip])
        for name in ("logits", "embedding"):
            np.testing.assert_allclose(together[name][row], alone[name][0], rtol=1e-4, atol=1e-4, err_msg=name)
        n_frames = -(-(len(clip) // 160 + 1) // 4)
        assert alone["frame_logits"].shape == (1, n_frames, len(card.labels))
        np.testing.assert_allclose(
            together["frame_logits"][row, :n_frames], alone["frame_logits"][0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("n_samples", [1, 159, 1_600, 16_000, 100_000])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_batch_and_length_are_free(n_rows, n_samples, merged, rng):
    path, card = merged
    clips = (3_000 * rng.standard_normal((n_rows, n_samples))).astype(np.int16)
    outputs = run_file(path, clips)
    assert outputs["logits"].shape == (n_rows, len(card.labels))
    assert outputs["frame_logits"].shape[:2] == (n_rows, -(-(n_samples // 160 + 1) // 4))
    assert all(np.isfinite(values).all() for values in outputs.values())


# ---- the file and its card ----


def test_the_use_floor_opens_it(merged, clips):
    path, card = merged
    prediction = load_model(path).predict(to_float(clips.clips[0]), sample_rate=16_000)
    assert set(prediction.probs) == set(card.labels)
    assert sum(prediction.probs.values()) == pytest.approx(1)
    expected = probs_of(run_file(path, clips.clips[:1])["logits"], card.temperature)[0]
    np.testing.assert_allclose(list(prediction.probs.values()), expected, atol=1e-4)


def test_the_card_says_what_the_model_is(merged, run_dir, evaluated):
    path, card = merged
    _, result = load_run(run_dir)
    assert read_card(path) == card
    assert card.parity < 1e-4
    assert card.temperature == result["temperature"]
    assert (card.recipe, card.recipe_hash) == ("tiny", result["recipe_hash"])
    assert card.frame_hop_s == 0.04  # 10 ms per frame of the spectrum, four of them to a frame logit
    assert card.scores == {"ravdess-speaker": {"overall": {"uar": 0.2}}}
    [corpus] = card.corpora
    assert corpus.name == "ravdess"
    assert not set(corpus.speakers) & {clip["speaker"] for clip in result["test"]}
    assert "non-commercial" in card.licence
    assert corpus.licence in card.licence
    assert card.n_parameters == evaluated[1]["n_parameters"] > 1_000


def test_the_file_carries_no_notes_of_the_exporter(merged):
    proto = onnx.load_from_string(merged[0].read_bytes())
    assert [node.name for node in proto.graph.node if node.doc_string or node.metadata_props] == []
    assert str(export.__file__).encode() not in merged[0].read_bytes()


@pytest.mark.parametrize(("hop_length", "time_stages", "expected_s"), [(160, 1, 0.02), (512, 2, 0.128)])
def test_frame_hop(hop_length, time_stages, expected_s, make_recipe):
    from undertone.lab.recipes import build_model

    geometry = {"n_fft": 2048, "win_length": 2048, "hop_length": hop_length}
    recipe = make_recipe(features=geometry, network={"time_stages": time_stages})
    assert build_model(recipe, 4).frame_hop_s == pytest.approx(expected_s)


def test_the_licence_follows_from_the_corpora():
    both = weights_licence(["crema-d", "ravdess"])
    assert "non-commercial" in both
    assert "ODbL" in both
    assert "CC BY-NC-SA 4.0" in both
    assert weights_licence(["crema-d"]).startswith("Commercial use included")
    assert "products" in intended_use(["crema-d"])
    assert "products" not in intended_use(["crema-d", "ravdess"])


# ---- no file ----


@pytest.fixture
def quick_export(merged, monkeypatch):
    """Exports take the graph that is there already; what is tested here comes after it."""
    monkeypatch.setattr(export, "to_onnx", lambda _: merged[0].read_bytes())


@pytest.mark.parametrize("parity", [1e-4, 0.3, np.nan])
def test_a_file_that_differs_from_torch_is_not_written(parity, run_dir, clips, quick_export, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "measure_parity", lambda *_: parity)
    with pytest.raises(ExportError, match="torch and the file differ"):
        export_run(run_dir, tmp_path / "out.onnx", clips, merge_calm=True, **ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_stays_when_the_new_one_is_refused(run_dir, clips, quick_export, monkeypatch, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"the old one")
    monkeypatch.setattr(export, "measure_parity", lambda *_: 1.0)
    with pytest.raises(ExportError):
        export_run(run_dir, out, clips, merge_calm=True, **ABOUT)
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("output", ["logits", "frame_logits"])
@pytest.mark.parametrize("change", [0.0, 0.01, np.nan])
def test_parity_sees_a_difference_in_any_clip(output, change, run_dir, clips, monkeypatch):
    """The file gives torch's logits here, but for one number of one clip."""
    model, result = load_run(run_dir)
    exported = ExportedModel(model, result["classes"], result["classes"], result["temperature"]).eval()
    odd = to_float(clips.clips[11])

    def answer(waveform, lengths, outputs):
        values = exported(torch.from_numpy(waveform), torch.from_numpy(lengths))
        answered = {name: value.numpy().copy() for name, value in zip(export.OUTPUTS, values, strict=True)}
        for row, length in enumerate(lengths):
            if length == len(odd) and (waveform[row, :length] == odd).all():
                answered[output].reshape(len(lengths), -1)[row, 0] += change
        return {name: answered[name] for name in outputs}

    monkeypatch.setattr(export, "open_model", lambda _: SimpleNamespace(run=answer, outputs=export.OUTPUTS))
    if np.isnan(change):
        with pytest.raises(ValueError, match="NaN"):
            measure_parity(exported, None, clips, result["temperature"])
    else:
        parity = measure_parity(exported, None, clips, result["temperature"])
        assert (parity < 1e-6) if change == 0 else (parity > export.PARITY)


def test_without_clips_nothing_can_be_compared_and_nothing_is_written(run_dir, clips, quick_export, tmp_path):
    with pytest.raises(ExportError, match="no clips"):
        export_run(run_dir, tmp_path / "out.onnx", clips.select([]), merge_calm=True, **ABOUT)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_refused(run_dir, clips, tmp_path):
    with pytest.raises(ExportError, match=r"no finished run \(no fold\.json\)"):
        export_run(tmp_path / "nothing", tmp_path / "out.onnx", clips, **ABOUT)
    shutil.copytree(run_dir, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "fold.json").unlink()
    with pytest.raises(ExportError, match="train it to the end first"):
        export_run(tmp_path / "unfinished", tmp_path / "out.onnx", clips, **ABOUT)
    assert not (tmp_path / "out.onnx").exists()


def test_a_class_without_a_label_is_refused(run_dir):
    model, result = load_run(run_dir)
    with pytest.raises(ExportError, match="cannot give"):
        ExportedModel(model, result["classes"], ["anger", "neutral"], 1.0)
