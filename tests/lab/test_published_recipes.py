"""All recipes, from one table: parameters, outputs, a training step, the exported graph, and weights on disk."""

# ruff: noqa: E402 - imports follow the check that torch is there
import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import onnxruntime
from safetensors.torch import load, save
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE, load_waveform
from undertone.lab.batches import LabelledClips
from undertone.lab.corpora import load as load_corpora
from undertone.lab.data import Waveforms, pad_batch, to_int16
from undertone.lab.evaluation import CORPUS_CLASSES, get_protocol, softmax
from undertone.lab.export import PARITY, ExportedModel, to_onnx
from undertone.lab.muon import Muon
from undertone.lab.recipes import build_model, load_recipe, n_parameters, recipe_names
from undertone.lab.training import compute_logits, fit
from undertone.onnx_reader import check_graph

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

N_PARAMETERS = {  # of the network, as Keras counts; those under a comment are the published systems' own
    # stated by their authors
    "nathaniel-2dcnn": 3_525_672,
    "dhavan-simplernn": 362_630,
    "flask-cnn1d": 5_620_359,
    # frozen
    "bilstm-attention": 377_096,
    "crnn": 262_296,
    "dhavan-cnnlstm": 425_190,
    "dhavan-cnnlstm-mfcc": 376_038,
    "dhavan-cnnlstm-xvec": 421_158,
    "flask-cnn1d-2376": 7_193_223,
    "flask-cnn1d-mean": 2_671_239,
    "gru": 172_360,
    "lstm": 226_888,
    "nathaniel-1dcnn": 217_896,
    "ragab-mel-cnn": 391_559,
    "ragab-mfcc-cnn": 391_559,
    "ragab-mfcc-crnn": 296_647,
    "ragab-mfcc-crnn-time": 296_647,
    "shelleypi-cnn": 228_615,
    "shelleypi-cnnlstm": 4_036_615,
    "undertone-open": 584_264,
    "undertone-small": 1_168_128,
    "undertone-street": 584_264,
    "undertone-studio": 583_864,
    "x4nth055-mlp": 56_407,
}
INPUTS = {  # rows and frames of the network's input, where both are fixed
    "nathaniel-2dcnn": (106, 160),
    "nathaniel-1dcnn": (187, 1),
    "dhavan-simplernn": (554, 1),
    "dhavan-cnnlstm": (554, 1),
    "dhavan-cnnlstm-mfcc": (42, 1),
    "dhavan-cnnlstm-xvec": (512, 1),
    "flask-cnn1d": (1620, 1),
    "flask-cnn1d-2376": (2376, 1),
    "flask-cnn1d-mean": (180, 1),
    "ragab-mel-cnn": (128, 345),
    "ragab-mfcc-cnn": (128, 345),
    "ragab-mfcc-crnn": (128, 345),
    "ragab-mfcc-crnn-time": (128, 345),
    "shelleypi-cnn": (5200, 1),
    "shelleypi-cnnlstm": (40, 130),
    "x4nth055-mlp": (180, 1),
}
RECURRENT_NODES = {  # in the exported graph: one per layer and direction, whatever the number of steps
    "bilstm-attention": {"LSTM": 4},
    "crnn": {"GRU": 2},
    "dhavan-cnnlstm": {"LSTM": 1},
    "dhavan-cnnlstm-mfcc": {"LSTM": 1},
    "dhavan-cnnlstm-xvec": {"LSTM": 1},
    "dhavan-simplernn": {"RNN": 1},
    "gru": {"GRU": 2},
    "lstm": {"LSTM": 2},
    "ragab-mfcc-crnn": {"LSTM": 4},
    "ragab-mfcc-crnn-time": {"LSTM": 4},
    "shelleypi-cnnlstm": {"LSTM": 2},
}
# No gradient: a number added to all scores of an attention, and the recurrent weights of a sequence of one step.
WITHOUT_GRADIENT = {
    "undertone-open": {"pool.score.2.bias"},
    "undertone-street": {"pool.score.2.bias"},
    "undertone-studio": {"pool.score.2.bias"},
    "ragab-mfcc-crnn": {f"{layer}.{way}.weight_hh_l0" for layer in ("first", "second") for way in ("forth", "back")},
}
ALONE = [name for name in recipe_names() if not load_recipe(name).members]  # the others: test_ensemble.py
EXPORTED_QUICKLY = ("lstm",)  # in about 4 s; the others take 5 to 60
DURATIONS_S = (2.6, 1.3, 0.4)


def classes_of(recipe):
    protocol = None if recipe.published is None else recipe.published.protocol
    return CORPUS_CLASSES["ravdess"] if protocol is None else get_protocol(protocol).classes


@pytest.fixture(scope="module")
def batch(make_speech):
    """Voices of different length, padded with something that must not be heard: (waveform, lengths)."""
    waveform, lengths = pad_batch([make_speech(seed, duration_s) for seed, duration_s in enumerate(DURATIONS_S)])
    waveform, lengths = torch.from_numpy(waveform), torch.from_numpy(lengths)
    behind = torch.arange(waveform.shape[1])[None] >= lengths[:, None]
    return waveform.masked_fill(behind, 0.7), lengths


@pytest.fixture(scope="module", params=ALONE)
def recipe(request):
    return load_recipe(request.param)


@pytest.fixture(scope="module")
def model(recipe, batch):
    """A model after the first look at its training clips, its x-vectors and standardisation set. Not to be changed."""
    torch.manual_seed(0)
    model = build_model(recipe, len(classes_of(recipe))).eval()
    for module in model.modules():
        if hasattr(module, "fit_to"):
            module.is_fitted.fill_(True)
    if recipe.normalise == "fitted":
        with torch.no_grad():
            features, _ = model.front_end.extract(*batch)
        mean, std = features.mean(dim=0), features.std(dim=0)
        std[std < 1e-6 * mean.abs().max()] = 0  # rounding, not variation, as in training
        model.front_end.fit(mean, std)
    return model


def test_the_table_is_complete():
    assert set(N_PARAMETERS) == set(recipe_names())


def test_parameters_and_input(recipe, model):
    assert n_parameters(model.network) == N_PARAMETERS[recipe.name]
    front_end = model.front_end
    assert INPUTS.get(recipe.name, (front_end.n_features, None)) == (front_end.n_features, front_end.n_frames)


def test_no_strided_convolution_of_one_point(model):
    """Their bf16 gradient writes behind its memory in oneDNN 3.12: see ``ResidualSE2d``."""
    convolutions = [module for module in model.network.modules() if isinstance(module, torch.nn.modules.conv._ConvNd)]
    assert not [m for m in convolutions if set(m.kernel_size) == {1} and max(m.stride) > 1]


def test_what_a_recipe_says_about_itself(recipe):
    assert recipe.description
    published = recipe.published
    if published is not None:
        assert published.source.startswith("https://")
        assert published.note
        assert 0 <= published.score < 1
        assert get_protocol(published.protocol).leaks  # every one of these protocols leaks, and says how
        assert bool(recipe.copies) or not get_protocol(published.protocol).tests_copies


@torch.no_grad()
def test_padded_batch_is_one_by_one(recipe, model, batch):
    waveform, lengths = batch
    logits = model(waveform, lengths).logits
    assert logits.shape == (len(DURATIONS_S), len(classes_of(recipe)))
    assert logits.isfinite().all()
    for row, n in enumerate(lengths.tolist()):
        alone = model(waveform[row : row + 1, :n], lengths[row : row + 1]).logits[0]
        difference = np.abs(softmax(alone[None].numpy()) - softmax(logits[row : row + 1].numpy())).max()
        assert difference < PARITY


@torch.no_grad()
def test_edges_stay_finite(model):
    """Silence, full scale, a click, and a single sample."""
    waveform = torch.zeros(4, SAMPLE_RATE)
    waveform[1] = torch.where(torch.arange(SAMPLE_RATE) % 50 < 25, 1.0, -1.0)
    waveform[2:, 0] = 1.0
    assert model(waveform, torch.tensor([SAMPLE_RATE, SAMPLE_RATE, SAMPLE_RATE, 1])).logits.isfinite().all()


def test_a_training_step_moves_every_parameter(recipe, model, batch):
    """Gradients are finite and reach all, and the optimizer's step leaves no NaN."""
    with torch.no_grad():
        features, n_valid = model.front_end(*batch)
    features, n_valid = features.repeat(2, 1, 1), n_valid.repeat(2)
    features = features + 0.1 * features.std() * torch.randn(features.shape)
    network = copy.deepcopy(model.network).train()
    rates = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop, "muon": Muon}
    optimizer = rates[recipe.training.optimizer](network.parameters(), lr=recipe.training.lr)
    output, target = network(features, n_valid), torch.arange(len(features)) % len(classes_of(recipe))
    loss = F.cross_entropy(output.logits, target)
    if output.frame_vote is not None:
        loss = loss + F.cross_entropy(output.frame_vote, target)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name in WITHOUT_GRADIENT.get(recipe.name, ()), name
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@torch.no_grad()
def test_save_and_load(recipe, model, batch):
    stored = save({name: value.contiguous() for name, value in model.state_dict().items()})
    torch.manual_seed(1)
    fresh = build_model(recipe, len(classes_of(recipe))).eval()
    fresh.load_state_dict(load(stored))
    assert torch.equal(fresh(*batch).logits, model(*batch).logits)


@pytest.mark.parametrize(
    "recipe",
    [name if name in EXPORTED_QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in ALONE],
    indirect=True,
)
def test_the_exported_graph_gives_the_same(recipe, model, batch):
    """onnxruntime and torch, on a padded batch that is not of the traced size and length, and on clips one by one."""
    classes = classes_of(recipe)
    exported = ExportedModel(model, classes, classes, 1.0).eval()
    onnx_bytes = to_onnx(exported)
    check_graph(onnx_bytes)  # operators that undertone runs, and no others
    counts = Counter(node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node)
    found = {name: counts[name] for name in ("RNN", "GRU", "LSTM") if counts[name]}
    assert found == RECURRENT_NODES.get(recipe.name, {})
    session = onnxruntime.InferenceSession(onnx_bytes)
    waveform, lengths = batch
    for rows in ([0, 1, 2], [1], [2]):
        part = waveform[rows, : int(lengths[rows].max())], lengths[rows]
        with torch.no_grad():
            ours = exported(*part)[0].numpy()
        theirs = session.run(["logits"], {"waveform": part[0].numpy(), "lengths": part[1].numpy()})[0]
        assert np.abs(softmax(ours) - softmax(theirs)).max() < PARITY


def with_short_x_vectors(section):
    if section["kind"] == "x-vector":
        return {**section, "epochs": 1, "min_steps": 10}
    parts = {"parts": [with_short_x_vectors(part) for part in section["parts"]]} if "parts" in section else {}
    return {**section, **parts}


@pytest.mark.corpus
@pytest.mark.slow
def test_it_trains_on_real_clips(recipe, corpora_root, tmp_path):
    """An epoch through the loop that people run; x-vectors after ten steps instead of hundreds."""
    classes = classes_of(recipe)
    utterances = [u for u in load_corpora(corpora_root, ["crema-d"]) if u.emotion in classes][::200]
    clips = tuple(to_int16(load_waveform(utterance.path)) for utterance in utterances)
    speakers = sorted({utterance.speaker_id for utterance in utterances})
    train = LabelledClips(
        Waveforms(clips, tuple(utterance.utterance_id for utterance in utterances), {}),
        target=np.array([classes.index(utterance.emotion) for utterance in utterances]),
        group=np.zeros(len(clips), np.int64),
        speaker=np.array([speakers.index(utterance.speaker_id) for utterance in utterances]),
        allowed=np.ones((len(clips), len(classes)), dtype=bool),
    )
    short = replace(recipe, features=with_short_x_vectors(recipe.features)).with_training(epochs=1, batch_size=16)
    model, history = fit(short, classes, train, None, tmp_path / "run")
    assert np.isfinite(history.rows[0]["train_loss"])
    assert np.isfinite(compute_logits(model, train.waveforms)).all()
