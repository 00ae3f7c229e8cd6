"""Shared fixtures: synthesised sounds, a model file made by hand, and the real corpora where they are.

The model is written field by field in protobuf's wire format, so that these tests run in the base install, where there
is no ``onnx``, and so that files no exporter would write can be made too.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

SAMPLE_RATE = 16_000
LABELS = ("anger", "happiness", "neutral", "sadness")
HOP = 320  # samples per frame of the tiny model
TINY_SCALE = np.array([1, 1, 10], np.float32)  # of energy, amplitude, slope
TINY_WEIGHT = np.array([[9, -3, -6, 1], [-2, 5, 1, -7], [4, 2, -5, -1]], np.float32)  # (n_features, n_classes)
TINY_BIAS = np.array([-0.5, 0.1, 0.6, 0.3], np.float32)


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global generator


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def corpora_root():
    default = Path(__file__).parents[2] / "shared" / "corpora"
    root = Path(os.environ.get("UNDERTONE_DATA", default))
    if not root.is_dir():
        pytest.skip("no corpora: set UNDERTONE_DATA to the folder that holds RAVDESS, CREMA-D, ...")
    return root


# ---- sounds ----


def _tone(frequency_hz=220.0, duration_s=1.0, *, sample_rate=SAMPLE_RATE, amplitude=0.5):
    times_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (amplitude * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)


@pytest.fixture(scope="session")
def make_tone():
    """Function (frequency_hz, duration_s, *, sample_rate, amplitude) -> (n_samples,) float32."""
    return _tone


@pytest.fixture(scope="session")
def make_speech():
    """Function (seed, duration_s, *, sample_rate) -> a voiced sound with syllables, no two seeds alike."""

    def make(seed=0, duration_s=2.0, *, sample_rate=SAMPLE_RATE):
        rng = np.random.default_rng(seed)
        times_s = np.arange(round(duration_s * sample_rate)) / sample_rate
        f0_hz = rng.uniform(90, 260) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * times_s))
        phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate
        voice = sum(np.sin(k * phase) / k for k in range(1, 12))
        syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(2, 5) * times_s)
        return (rng.uniform(0.05, 0.3) * voice * syllables).astype(np.float32)

    return make


@pytest.fixture
def write_sound(tmp_path):
    """Function (name, waveform, sample_rate) -> path of a sound file below tmp_path."""

    def write(name, waveform, sample_rate=SAMPLE_RATE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            kind = path.suffix.removeprefix(".").upper() or "WAV"
            soundfile.write(file, waveform, sample_rate, format=kind)
        return path

    return write


# ---- ONNX by hand ----


def _varint(value):
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


class Proto:
    """Writes ONNX messages; field numbers as in onnx.proto."""

    @staticmethod
    def field(number, value):
        if isinstance(value, int):
            return _varint(number << 3) + _varint(value)
        if isinstance(value, float):
            return _varint(number << 3 | 5) + struct.pack("<f", value)
        payload = value.encode() if isinstance(value, str) else value
        return _varint(number << 3 | 2) + _varint(len(payload)) + payload

    @classmethod
    def tensor(cls, name, array, *, more=b""):
        array = np.asarray(array)
        kind = {"float32": 1, "int64": 7}[str(array.dtype)]
        dims = b"".join(cls.field(1, n) for n in array.shape)
        return dims + cls.field(2, kind) + cls.field(8, name) + cls.field(9, array.tobytes()) + more

    @classmethod
    def attribute(cls, name, value):
        start = cls.field(1, name)
        if isinstance(value, list):
            return start + b"".join(cls.field(8, n) for n in value) + cls.field(20, 7)
        if isinstance(value, np.ndarray):
            return start + cls.field(5, cls.tensor("", value)) + cls.field(20, 4)
        if isinstance(value, bytes):
            return start + cls.field(6, value) + cls.field(20, 5)  # a graph
        return start + cls.field(3, value) + cls.field(20, 2)

    @classmethod
    def node(cls, op_type, inputs, outputs, *, domain="", **attributes):
        names = b"".join(cls.field(1, name) for name in inputs) + b"".join(cls.field(2, name) for name in outputs)
        node = names + cls.field(4, op_type) + (cls.field(7, domain) if domain else b"")
        return node + b"".join(cls.field(5, cls.attribute(*item)) for item in attributes.items())

    @classmethod
    def value_info(cls, name, kind, shape):
        dims = [cls.field(1, n) if isinstance(n, int) else cls.field(2, n) for n in shape]
        shape_message = b"".join(cls.field(1, dim) for dim in dims)
        tensor_type = cls.field(1, {"float": 1, "int64": 7}[kind]) + cls.field(2, shape_message)
        return cls.field(1, name) + cls.field(2, cls.field(1, tensor_type))

    @classmethod
    def graph(cls, nodes, tensors, inputs, outputs):
        parts = [(1, nodes), (5, tensors), (11, inputs), (12, outputs)]
        return cls.field(2, "graph") + b"".join(cls.field(n, item) for n, items in parts for item in items)

    @classmethod
    def model(cls, graph, metadata=(), *, domains=("",), more=b""):
        opsets = b"".join(cls.field(8, (cls.field(1, name) if name else b"") + cls.field(2, 17)) for name in domains)
        entries = b"".join(cls.field(14, cls.field(1, key) + cls.field(2, value)) for key, value in metadata)
        return cls.field(1, 8) + opsets + cls.field(7, graph) + entries + more


@dataclass
class TinyGraph:
    """A network that follows the contract: energy, amplitude and slope of frames, averaged, into a linear layer.

    Its lists can be changed before ``build`` to make a file that does not follow it.
    """

    nodes: list = field(default_factory=list)
    tensors: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)

    def build(self, metadata=(), **options):
        return Proto.model(Proto.graph(self.nodes, self.tensors, self.inputs, self.outputs), metadata, **options)


def _tiny_graph():
    node, value_info = Proto.node, Proto.value_info
    constants = {
        "zero": np.array(0), "one": np.array(1), "axis_1": np.array([1]), "hop": np.array(HOP, np.float32),
        "pads": np.array([0, 0, 0, 0, 0, HOP - 1]),  # the end is padded to a whole frame
        "scale": TINY_SCALE, "weight": TINY_WEIGHT,
        "bias": TINY_BIAS,
        "difference": np.array([[[-1.0, 1.0]]], np.float32),
    }  # fmt: skip
    nodes = [
        # samples beyond a row's length are set to zero
        node("Shape", ["waveform"], ["shape"]),
        node("Gather", ["shape", "one"], ["n_samples"], axis=0),
        node("Range", ["zero", "n_samples", "one"], ["position"]),
        node("Unsqueeze", ["lengths", "axis_1"], ["lengths_column"]),
        node("Less", ["position", "lengths_column"], ["is_valid"]),
        node("Cast", ["is_valid"], ["mask"], to=1),
        node("Mul", ["waveform", "mask"], ["clean"]),
        # three numbers per sample: energy, amplitude, slope (that of the last valid sample is left out)
        node("Unsqueeze", ["clean", "axis_1"], ["clean_3d"]),
        node("Mul", ["clean_3d", "clean_3d"], ["energy"]),
        node("Abs", ["clean_3d"], ["amplitude"]),
        node("Conv", ["clean_3d", "difference"], ["slope_raw"], pads=[0, 1], kernel_shape=[2]),
        node("Unsqueeze", ["mask", "axis_1"], ["mask_3d"]),
        node("Mul", ["slope_raw", "mask_3d"], ["slope_valid"]),
        node("Abs", ["slope_valid"], ["slope"]),
        node("Concat", ["energy", "amplitude", "slope"], ["tracks"], axis=1),
        # means over frames of HOP samples
        node("Pad", ["tracks", "pads"], ["tracks_padded"]),
        node("AveragePool", ["tracks_padded"], ["frames_3d"], kernel_shape=[HOP], strides=[HOP]),
        node("Transpose", ["frames_3d"], ["frames_raw"], perm=[0, 2, 1]),
        node("Mul", ["frames_raw", "scale"], ["frames"]),
        # logits per frame, and of the mean over the valid samples
        node("MatMul", ["frames", "weight"], ["frame_scores"]),
        node("Add", ["frame_scores", "bias"], ["frame_logits"]),
        node("ReduceSum", ["frames", "axis_1"], ["frame_sum"], keepdims=0),
        node("Cast", ["lengths_column"], ["lengths_float"], to=1),
        node("Div", ["frame_sum", "lengths_float"], ["mean_per_hop"]),
        node("Mul", ["mean_per_hop", "hop"], ["embedding"]),
        node("MatMul", ["embedding", "weight"], ["scores"]),
        node("Add", ["scores", "bias"], ["logits"]),
    ]
    return TinyGraph(
        nodes=nodes,
        tensors=[Proto.tensor(name, np.asarray(array)) for name, array in constants.items()],
        inputs=[
            value_info("waveform", "float", ["batch", "n_samples"]),
            value_info("lengths", "int64", ["batch"]),
        ],
        outputs=[
            value_info("logits", "float", ["batch", len(LABELS)]),
            value_info("frame_logits", "float", ["batch", "n_frames", len(LABELS)]),
            value_info("embedding", "float", ["batch", 3]),
        ],
    )


@pytest.fixture
def tiny_graph():
    """A graph that follows the contract and may be bent."""
    return _tiny_graph()


@pytest.fixture(scope="session")
def proto():
    """Writer of ONNX messages."""
    return Proto


@pytest.fixture(scope="session")
def make_card():
    """Function (**changes) -> Card of the tiny model."""
    from undertone.model_file import Card, TrainingCorpus

    def make(**changes):
        content = {
            "name": "tiny",
            "version": "0.1",
            "description": "A model for tests, made by hand",
            "labels": LABELS,
            "min_duration_s": 0.1,
            "recommended_duration_s": 2.0,
            "max_duration_s": 4.0,
            "temperature": 1.5,
            "frame_hop_s": HOP / SAMPLE_RATE,
            "recipe": "by-hand",
            "recipe_hash": "0" * 64,
            "licence": "CC0-1.0",
            "corpora": (TrainingCorpus("made-up", "CC0-1.0", "https://example.org", 2, ("made-up/1", "made-up/2")),),
            "n_parameters": 16,
            "parity": 1e-6,
            "created": "2026-01-01",
            "intended_use": "tests",
            "not_fit_for": "anything else",
            "scores": {"ravdess-speaker": {"overall": {"uar": 0.25, "interval": [0.2, 0.3]}, "folds": [0, 4]}},
        }
        return Card(**{**content, **changes})

    return make


@pytest.fixture(scope="session")
def tiny_bytes():
    """The tiny model without a card."""
    return _tiny_graph().build()


@pytest.fixture(scope="session")
def model_path(tmp_path_factory, make_card, tiny_bytes):
    """A valid model file."""
    from undertone.model_file import write_card

    return write_card(tiny_bytes, make_card(), tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def fragile_path(tmp_path, make_card):
    """A valid model file whose network fails at run time on batches that are not 1 s long."""
    from undertone.model_file import write_card

    graph = _tiny_graph()
    graph.nodes[6] = Proto.node("Mul", ["one_second", "mask"], ["clean"])
    graph.nodes.insert(6, Proto.node("Reshape", ["waveform", "one_second_shape"], ["one_second"]))
    graph.tensors.append(Proto.tensor("one_second_shape", np.array([-1, SAMPLE_RATE])))
    return write_card(graph.build(), make_card(), tmp_path / "fragile.onnx")


@pytest.fixture(scope="session")
def tiny_probs(make_card):
    """Function waveform -> (n_classes,) probabilities of the tiny model, worked out in numpy."""

    def probs(waveform):
        waveform = np.asarray(waveform, np.float64)
        slope = np.abs(np.diff(waveform, append=0.0))
        embedding = TINY_SCALE * [np.mean(waveform**2), np.mean(np.abs(waveform)), np.mean(slope)]
        weights = np.exp((embedding @ TINY_WEIGHT + TINY_BIAS) / make_card().temperature)
        return weights / weights.sum()

    return probs


@pytest.fixture(scope="session")
def recognizer(model_path):
    import undertone

    return undertone.load_model(model_path)
