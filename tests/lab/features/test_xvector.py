"""x-vectors: of a padded batch, in a graph, trained on made-up speakers, and with SpeechBrain's weights."""

# ruff: noqa: E402 - imports follow the check that torch is there
import copy
import io
import logging
import sys

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load, save, save_file

from undertone.lab.data import decode_utterances, pad_batch, to_float, to_int16
from undertone.lab.features import build_features
from undertone.lab.features.resample import Resample
from undertone.lab.features.torch_zip import CheckpointError
from undertone.lab.features.xvector import XVector

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SHORT = {"epochs": 2, "min_steps": 40}  # one batch an epoch here
SIZES = {"n_mels": 12, "width": 16, "n_pooled": 24, "n_embedding": 20}
LENGTHS = [14_400, 9_999, 1_600, 799, 160, 1]  # samples; 1,600 are 0.1 s


def randomise(network, seed=0):
    """Weights and batch-norm statistics that an untrained network does not have by chance."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise / max(1, value[0].numel()) ** 0.5)


@pytest.fixture(scope="module")
def module():
    made = XVector(**SIZES)
    randomise(made.network)
    made.is_fitted.fill_(True)
    return made


@pytest.fixture(scope="module")
def batch():
    noise = 0.1 * np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(LENGTHS)


# ---- a feature like the others ----


def test_one_vector_per_clip(module, batch):
    vectors, n_valid = module(*batch)
    assert vectors.shape == (len(LENGTHS), 20, 1)
    assert n_valid.tolist() == [1] * len(LENGTHS)
    assert (module.n_features, module.n_frames, module.frames_per_second) == (20, 1, None)
    assert module.names[:2] == ["xvector_000", "xvector_001"]
    assert vectors.isfinite().all()


@pytest.mark.parametrize("garbage", [0.0, 1e4, np.nan, np.inf])
def test_padded_batch_is_one_by_one(garbage, module, batch):
    waveform, lengths = batch[0].clone(), batch[1]
    waveform[torch.arange(waveform.shape[1]) >= lengths[:, None]] = garbage
    vectors, _ = module(waveform, lengths)
    for row, length in enumerate(LENGTHS):
        alone, _ = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(vectors[row], alone[0], rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_padded_batch_is_one_by_one_at_another_rate(batch):
    module = XVector(**SIZES, sample_rate=22_050)
    randomise(module.network)
    module.is_fitted.fill_(True)
    vectors, _ = module(*batch)
    for row, length in enumerate(LENGTHS):
        alone, _ = module(batch[0][row : row + 1, :length], batch[1][row : row + 1])
        np.testing.assert_allclose(vectors[row], alone[0], rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("waveform", [torch.zeros(1, 4_000), torch.ones(1, 4_000), torch.ones(1, 1)], ids=str)
def test_silence_and_full_scale_stay_finite(waveform, module):
    waveform = waveform.clone().requires_grad_()
    vectors, _ = module(waveform, torch.tensor([waveform.shape[1]]))
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert waveform.grad.isfinite().all()


def test_gradients_reach_the_waveform_and_not_the_frozen_weights(module, batch):
    waveform = batch[0].clone().requires_grad_()
    module(waveform, batch[1])[0].square().sum().backward()
    assert (waveform.grad[0] != 0).float().mean() > 0.95
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())


def test_gain_does_not_matter(module, batch):
    quiet, loud = module(0.1 * batch[0], batch[1])[0][:4], module(batch[0], batch[1])[0][:4]
    np.testing.assert_allclose(quiet, loud, atol=1e-3 * float(loud.abs().max()))


def test_another_sample_rate_is_heard_alike(module, make_speech):
    """Up to 22,050 Hz and back: what lies above 0.9 of the Nyquist frequency is lost, the voice is not."""
    waveform = torch.from_numpy(make_speech(1, 1.0))[None]
    there = XVector(**SIZES, sample_rate=22_050)
    there.load_state_dict(module.state_dict())
    expected = module(waveform, torch.tensor([16_000]))[0][0, :, 0]
    vector = there(*Resample(16_000, 22_050)(waveform, torch.tensor([16_000])))[0][0, :, 0]
    assert torch.cosine_similarity(vector, expected, dim=0) > 0.98


def test_training_the_rest_does_not_change_it(module, batch):
    before = module(*batch)[0]
    whole = torch.nn.Sequential(module).train()
    assert not module.network.training
    module(*batch)
    assert torch.equal(whole[0](*batch)[0], before)


def test_exported_graph_agrees_with_torch(module, rng):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = {"batch": torch.export.Dim("batch"), "n_samples": torch.export.Dim("n_samples")}
    program = torch.onnx.export(
        copy.deepcopy(module),
        (torch.zeros(2, 16_000), torch.tensor([16_000, 8_000])),
        dynamo=True,
        input_names=["waveform", "lengths"],
        output_names=["vectors", "n_valid"],
        dynamic_shapes={"waveform": {0: dims["batch"], 1: dims["n_samples"]}, "lengths": {0: dims["batch"]}},
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for lengths in ([12_345], [24_000, 1_600, 7_777], [320, 160]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        theirs, n_valid = session.run(None, {"waveform": waveform, "lengths": np.array(lengths)})
        ours, _ = module(torch.from_numpy(waveform), torch.tensor(lengths))
        assert n_valid.tolist() == [1] * len(lengths)
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours.numpy()).max() <= 1e-4 * ours.abs().max()


# ---- weights ----


def test_without_weights_there_is_no_vector(batch):
    with pytest.raises(RuntimeError, match=r"no weights: call fit_to\(clips, speaker, seed=\.\.\.\)"):
        XVector(**SIZES)(*batch)


def test_weights_survive_a_checkpoint(module, batch):
    restored = XVector(**SIZES)
    restored.load_state_dict(load(save(module.state_dict())))
    assert torch.equal(restored(*batch)[0], module(*batch)[0])


def test_built_from_a_recipe():
    module = build_features({"kind": "x-vector", "width": 16, "n_pooled": 24, "epochs": 3}, sample_rate=44_100)
    assert (module.n_features, module.epochs, module.sample_rate) == (512, 3, 44_100)
    published = build_features({"kind": "x-vector", "pretrained": "speechbrain/spkrec-xvect-voxceleb"})
    assert sum(parameter.numel() for parameter in published.parameters()) == 4_211_604  # 4.2 M


@pytest.mark.parametrize("name", ["n_mels", "width", "n_pooled", "n_embedding", "epochs", "min_steps"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match="must be positive"):
        XVector(**{**SIZES, name: -1})


# ---- training ----


@pytest.fixture(scope="module")
def voices(make_clip):
    """Function (n_per_speaker, seed) -> (clips, speaker) of four made-up speakers, who differ in pitch.

    They pause between syllables: of a sound that never changes, the mean over the clip is all there is, and it is
    taken off.
    """

    def speak(kind, rng):
        voice = make_clip(kind, rng, rng.uniform(0.5, 0.9))
        phase = 2 * np.pi * rng.uniform(3, 6) * np.arange(len(voice)) / 16_000 + rng.uniform(0, 6)
        return to_int16(voice * (np.sin(phase) > -0.3) + 0.01 * rng.standard_normal(len(voice)))

    def make(n_per_speaker, seed):
        rng = np.random.default_rng(seed)
        speaker = np.repeat([3, 5, 8, 9], n_per_speaker)
        return [speak(kind, rng) for kind in np.repeat(range(4), n_per_speaker)], speaker

    return make


def fit(voices, *, seed=0, **options):
    module, measured = XVector(**{**SIZES, **SHORT, **options}), []
    module.fit_to(*voices(8, 1), seed=seed, on_epoch=lambda *report: measured.append(report))
    return module, measured


@pytest.fixture(scope="module")
def fitted(voices):
    return fit(voices)


@pytest.fixture(scope="module")
def short(voices):
    return fit(voices, min_steps=4)


def embed(module, clips):
    waveform, lengths = pad_batch([to_float(clip) for clip in clips])
    vectors = module(torch.from_numpy(waveform), torch.from_numpy(lengths))[0][:, :, 0]
    return torch.nn.functional.normalize(vectors - vectors.mean(dim=0), dim=1)


def test_learns_to_tell_speakers_apart(fitted, voices):
    module, measured = fitted
    assert [(done, n) for done, n, _ in measured] == [(epoch, 40) for epoch in range(1, 41)]
    assert measured[-1][2]["accuracy"] > 0.9
    assert measured[-1][2]["loss"] < measured[0][2]["loss"] / 2
    assert bool(module.is_fitted)
    clips, speaker = voices(6, 2)  # further clips of them
    vectors = embed(module, clips)
    nearest = (vectors @ vectors.T - 3 * torch.eye(len(vectors))).argmax(dim=1).numpy()
    assert (speaker[nearest] == speaker).mean() > 0.9


def test_same_seed_same_weights(short, voices):
    torch.manual_seed(123)  # nothing outside decides
    again = XVector(**SIZES, epochs=4, min_steps=1)
    state, measured = torch.get_rng_state(), []
    again.fit_to(*voices(8, 1), seed=0, on_epoch=lambda *report: measured.append(report))
    assert torch.equal(torch.get_rng_state(), state)
    assert measured == short[1]
    for name, value in again.state_dict().items():
        assert torch.equal(value, short[0].state_dict()[name]), name
    again.fit_to(*voices(8, 1), seed=1)
    assert not torch.equal(again.network.segment.weight, short[0].network.segment.weight)
    again.fit_to(*voices(8, 1), seed=0)  # starts afresh, whatever it learnt before
    assert torch.equal(again.network.segment.weight, short[0].network.segment.weight)


def test_fitted_is_frozen(fitted):
    module, _ = fitted
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


def test_clips_that_could_not_be_decoded_are_left_out(short, voices):
    clips, speaker = voices(8, 1)
    module = XVector(**SIZES, epochs=4, min_steps=1)
    module.fit_to([np.zeros(0, np.int16), *clips], np.array([77, *speaker]), seed=0)
    assert torch.equal(module.network.segment.weight, short[0].network.segment.weight)


def test_one_speaker_is_not_enough(voices):
    clips, speaker = voices(2, 1)
    with pytest.raises(ValueError, match="two are needed, got 1"):
        XVector(**SIZES).fit_to(clips, np.zeros_like(speaker), seed=0)
    with pytest.raises(ValueError, match="8 clips, but 7 speakers"):
        XVector(**SIZES).fit_to(clips, speaker[1:], seed=0)


@pytest.mark.corpus
def test_tells_real_speakers_apart(corpora_root):
    """Two women and two men, 20 clips each to train on; others of theirs lie nearest to one of the same speaker."""
    from undertone.lab.corpora import load as load_corpora

    utterances = [
        utterance
        for utterance in load_corpora(corpora_root, ["savee", "tess"])
        if utterance.speaker_id in ("savee/DC", "savee/JK", "tess/OAF", "tess/YAF")
    ]
    rng = np.random.default_rng(0)
    names = np.array([utterance.speaker_id for utterance in utterances])
    rows = np.concatenate([rng.choice(np.flatnonzero(names == name), 30, replace=False) for name in np.unique(names)])
    clips = decode_utterances([utterances[row] for row in rows]).clips
    speaker = np.repeat(np.arange(4), 30)
    is_train = np.tile(np.arange(30) < 20, 4)
    module = XVector(width=32, n_pooled=64, n_embedding=32, min_steps=80)
    module.fit_to([clips[row] for row in np.flatnonzero(is_train)], speaker[is_train], seed=0)
    vectors = embed(module, clips)
    nearest = (vectors[~is_train] @ vectors[is_train].T).argmax(dim=1).numpy()
    assert (speaker[is_train][nearest] == speaker[~is_train]).mean() >= 0.9


# ---- SpeechBrain's weights ----

BLOCKS = [(24, 512, 5, 1), (512, 512, 3, 2), (512, 512, 3, 3), (512, 512, 1, 1), (512, 1500, 1, 1)]


def make_weights(seed=0):
    """Random weights under SpeechBrain's names: five times convolution, activation, norm; pooling; linear."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    weights = {}
    for index, (n_in, n_out, kernel, _) in enumerate(BLOCKS):
        conv, norm = f"blocks.{3 * index}.conv", f"blocks.{3 * index + 2}.norm"
        weights[f"{conv}.weight"] = draw(n_out, n_in, kernel) / (n_in * kernel) ** 0.5
        weights[f"{conv}.bias"] = draw(n_out)
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = draw(n_out), draw(n_out)
        weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"] = draw(n_out), draw(n_out).abs() + 0.5
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(1000)
    weights["blocks.16.w.weight"], weights["blocks.16.w.bias"] = draw(512, 3000) / 3000**0.5, draw(512)
    return weights


def reference_bands(waveform):
    """Fbank(n_mels=24) and InputNormalization(norm_type="sentence", std_norm=False) in numpy: (T, 24), double."""
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(waveform.astype(np.float64), 200)
    frames = np.stack([padded[start : start + 400] for start in range(0, len(waveform) + 1, 160)])
    power = np.abs(np.fft.rfft(frames * window)) ** 2  # (T, 201)
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 26)
    hz = 700 * (10 ** (mel / 2595) - 1)
    filters = np.zeros((24, 201))
    for band in range(24):
        centre, width = hz[band + 1], hz[band + 1] - hz[band]
        for index, frequency in enumerate(np.linspace(0, 8000, 201)):
            slope = (frequency - centre) / width
            filters[band, index] = max(0.0, min(slope + 1, 1 - slope))
    decibels = 10 * np.log10(np.maximum(power @ filters.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return decibels - decibels.mean(axis=0)


def reference_vector(waveform, weights):
    """Xvector of one clip, step by step, without the noise that SpeechBrain adds to the pooled means."""
    frames = torch.from_numpy(reference_bands(waveform)).T[None]  # (1, 24, T)
    weights = {name: value.double() for name, value in weights.items()}
    for index, (_, _, kernel, dilation) in enumerate(BLOCKS):
        conv, norm = f"blocks.{3 * index}.conv.", f"blocks.{3 * index + 2}.norm."
        reach = dilation * (kernel - 1) // 2
        padded = torch.nn.functional.pad(frames, (reach, reach), mode="reflect")
        frames = torch.nn.functional.conv1d(padded, weights[conv + "weight"], weights[conv + "bias"], dilation=dilation)
        frames = torch.where(frames > 0, frames, 0.01 * frames)
        centred = frames - weights[norm + "running_mean"][:, None]
        frames = centred / (weights[norm + "running_var"][:, None] + 1e-5).sqrt()
        frames = frames * weights[norm + "weight"][:, None] + weights[norm + "bias"][:, None]
    pooled = torch.cat([frames.mean(dim=2), frames.std(dim=2) + 1e-5], dim=1)[0]
    return weights["blocks.16.w.weight"] @ pooled + weights["blocks.16.w.bias"]


@pytest.fixture(scope="module")
def weights():
    return make_weights()


@pytest.fixture
def make_folder(tmp_path):
    """Function (weights) -> folder with the files of the model on the hub."""

    def make(weights):
        folder = tmp_path / "spkrec-xvect-voxceleb"
        folder.mkdir(exist_ok=True)
        (folder / "hyperparams.yaml").write_text("n_mels: 24\n")
        torch.save(weights, folder / "embedding_model.ckpt")
        torch.save({"weight": torch.zeros(7205, 512)}, folder / "classifier.ckpt")
        return folder

    return make


def test_published_weights_give_the_published_vectors(make_folder, weights, make_speech):
    module = XVector(pretrained=str(make_folder(weights)))
    module.fit_to([], np.array([], np.int64), seed=0)  # loads, and trains nothing
    clips = [make_speech(seed, duration_s) for seed, duration_s in [(1, 1.1), (2, 0.5), (3, 0.1)]]
    waveform, lengths = pad_batch(clips)
    vectors = module(torch.from_numpy(waveform), torch.from_numpy(lengths))[0]
    for clip, vector in zip(clips, vectors, strict=True):
        expected = reference_vector(clip, weights)
        assert (vector[:, 0] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_bands_are_the_published_ones(make_speech):
    waveform = make_speech(4, 0.7)
    bands, _ = XVector().bank(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    np.testing.assert_allclose(bands[0].T, reference_bands(waveform), atol=1e-2)  # dB


def test_safetensors_come_first(make_folder, weights, tmp_path):
    folder = make_folder(weights)
    save_file(make_weights(seed=1), folder / "embedding_model.safetensors")
    module = XVector(pretrained=str(folder))
    module.fit_to([], np.array([], np.int64), seed=0)
    assert torch.equal(module.network.segment.bias, make_weights(seed=1)["blocks.16.w.bias"])
    (folder / "embedding_model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        module.load_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("blocks.14.norm.running_var"), r"lacks blocks\.14\.norm\.running_var \(1 missing"),
        (lambda weights: weights.pop("blocks.16.w.bias"), r"lacks blocks\.16\.w\.bias"),
        (lambda weights: weights.update({"blocks.17.w.bias": torch.zeros(3)}), r"holds blocks\.17\.w\.bias, which"),
        (lambda weights: weights.update({"blocks.16.w.bias": torch.zeros(3)}), r"is \(3,\), here \(512,\)"),
        (lambda weights: weights["blocks.0.conv.bias"].fill_(np.nan), r"blocks\.0\.conv\.bias .* not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, make_folder):
    weights = make_weights()
    change(weights)
    module = XVector(pretrained=str(make_folder(weights)))
    before = copy.deepcopy(module.network.state_dict())
    with pytest.raises(CheckpointError, match=message):
        module.fit_to([], np.array([], np.int64), seed=0)
    assert not bool(module.is_fitted)
    assert all(torch.equal(before[name], value) for name, value in module.network.state_dict().items())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no embedding_model\.safetensors or embedding_model\.ckpt"):
        XVector(**SIZES).load_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        XVector(**SIZES).load_pretrained(tmp_path / "missing")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'undertone\[ssl\]'"):
        XVector(pretrained="speechbrain/spkrec-xvect-voxceleb").fit_to([], np.array([], np.int64), seed=0)


def test_the_hub_gives_a_folder(monkeypatch, make_folder, weights):
    """The library is asked for the two files that are used, by the model's name; its failures name a way out."""
    asked = []

    class Hub:
        @staticmethod
        def snapshot_download(name, *, allow_patterns):
            asked.append((name, allow_patterns))
            if name != "speechbrain/spkrec-xvect-voxceleb":
                raise OSError("no network")
            return str(make_folder(weights))

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    module = XVector(pretrained="speechbrain/spkrec-xvect-voxceleb")
    module.load_pretrained(module.pretrained)
    assert "embedding_model.ckpt" in asked[0][1]
    assert not any(name.startswith("classifier") for name in asked[0][1])
    assert bool(module.is_fitted)
    with pytest.raises(CheckpointError, match=r"could not be fetched \(no network\); give a folder"):
        XVector().load_pretrained("somebody/else")
