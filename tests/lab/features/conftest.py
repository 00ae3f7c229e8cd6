"""librosa's answers, what is measured against them, and features as an exported graph."""

import io
import logging

import numpy as np
import onnxruntime
import pytest

SAMPLE_RATE = 16_000


@pytest.fixture(scope="session")
def reference():
    """Function (waveform, name, geometry) -> librosa 0.11's features, (F, T), in double precision."""
    librosa = pytest.importorskip("librosa")

    def mfcc_with_deltas(log_mel):
        mfcc = librosa.feature.mfcc(S=log_mel, n_mfcc=13)
        return np.concatenate([mfcc] + [librosa.feature.delta(mfcc, width=9, order=order) for order in (1, 2)])

    def compute(waveform, name, geometry):
        n_fft, win_length, hop_length = geometry
        frames = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        waveform = np.asarray(waveform, np.float64)
        if name == "power":
            return np.abs(librosa.stft(waveform, **frames)) ** 2
        mel = librosa.feature.melspectrogram(y=waveform, sr=SAMPLE_RATE, n_mels=64, pad_mode="constant", **frames)
        if name == "mel":
            return mel
        log_mel = librosa.power_to_db(mel, ref=1.0, top_db=80.0)
        return log_mel if name == "log-mel" else mfcc_with_deltas(log_mel)

    return compute


@pytest.fixture(scope="session")
def build(one_thread):
    """Function (name, geometry) -> the feature module that ``reference`` answers for."""
    from undertone.lab.features import MFCC, LogMel, Mel, PowerSpectrum

    def make(name, geometry):
        if name == "power":
            return PowerSpectrum(*geometry)
        if name == "mfcc":
            return MFCC(13, 64, *geometry, n_deltas=2)
        return {"mel": Mel, "log-mel": LogMel}[name](64, *geometry)

    return make


@pytest.fixture(scope="session")
def sounds(make_speech):
    """Waveforms of several lengths: voices, noise, a click in silence, a tone at full scale."""
    rng = np.random.default_rng(1)
    click = np.zeros(9_000, np.float32)
    click[4_000] = 0.8
    times_s = np.arange(12_345) / SAMPLE_RATE
    return {
        "voice": make_speech(1, 1.3),
        "another voice": make_speech(2, 0.777),
        "noise": (0.1 * rng.standard_normal(10_240)).astype(np.float32),
        "click": click,
        "tone": np.sin(2 * np.pi * 997 * times_s).astype(np.float32),
    }


@pytest.fixture(scope="session")
def export_features(one_thread):
    """Function {name: module} -> function (waveform, lengths) -> {name: (features, n_valid)}, by one exported graph."""
    torch = pytest.importorskip("torch")

    class All(torch.nn.Module):
        def __init__(self, modules):
            super().__init__()
            self.parts = torch.nn.ModuleList(modules)

        def forward(self, waveform, lengths):
            return tuple(tensor for part in self.parts for tensor in part(waveform, lengths))

    def export(modules):
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        dims = {"batch": torch.export.Dim("batch"), "n_samples": torch.export.Dim("n_samples")}
        program = torch.onnx.export(
            All(modules.values()).eval(),
            (torch.zeros(2, 16_000), torch.tensor([16_000, 8_000])),
            dynamo=True,
            input_names=["waveform", "lengths"],
            dynamic_shapes={"waveform": {0: dims["batch"], 1: dims["n_samples"]}, "lengths": {0: dims["batch"]}},
            verbose=False,
        )
        buffer = io.BytesIO()
        program.save(buffer)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])

        def run(waveform, lengths):
            tensors = session.run(None, {"waveform": waveform, "lengths": np.array(lengths, np.int64)})
            return dict(zip(modules, zip(tensors[::2], tensors[1::2], strict=True), strict=True))

        return run

    return export
