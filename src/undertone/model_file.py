"""The model file: one ``.onnx``, waveform in, emotion out, with a card that says what it is.

Conventions: inputs ``waveform`` float32 (batch, n_samples) at 16 kHz and ``lengths`` int64 (batch,), the valid
samples of each row; outputs ``logits`` (batch, n_classes) and, where the network has them, ``frame_logits``
(batch, n_frames, n_classes) and ``embedding`` (batch, dim). The card is JSON in the metadata property
``undertone.card``. A file is read once, checked as bytes, and only those bytes reach the runtime: nothing outside
the file is opened, no operator outside a fixed list runs.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertone.emotions import EMOTIONS
from undertone.files import write_file
from undertone.onnx_reader import MIN_CLASSIC_RUNTIME, OnnxError, check_graph, read_metadata, replace_metadata

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

CARD_KEY = "undertone.card"
SCHEMA_VERSION = 1  # raised when a card of today's undertone can no longer be understood by yesterday's
SAMPLE_RATE = 16_000  # Hz; the only rate of the contract
MAX_FILE_BYTES = 512 * 2**20
MAX_CARD_BYTES = 2**20
MAX_CLIP_S = 600.0  # upper bound on a card's max_duration_s: a whole clip is one run of the network
DEFAULT_MODEL = "undertone-small"
MODELS_FOLDER = Path(__file__).parent / "models"

INPUTS = {"waveform": ("tensor(float)", 2), "lengths": ("tensor(int64)", 1)}
OUTPUTS = {
    "logits": ("tensor(float)", 2),
    "frame_logits": ("tensor(float)", 3),
    "embedding": ("tensor(float)", 2),
}


class ModelFileError(ValueError):
    """A model file that cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TrainingCorpus:
    """What a model has heard of one corpus; ``speakers`` tells later tests what they must not use."""

    name: str
    licence: str
    licence_url: str
    n_utterances: int
    speakers: tuple[str, ...]  # "ravdess/07"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model file is, what it was trained on and how well it does.

    ``scores`` is keyed by protocol name, each a free-form JSON object (overall, per corpus, intervals, folds
    run). ``parity`` is the largest difference of a probability between the network in training and the file.

    Raises
    ------
    ModelFileError
        If a value has the wrong type or is out of range.
    """

    name: str
    version: str
    description: str
    labels: tuple[str, ...]  # order of the logits; a subset of EMOTIONS in their order
    min_duration_s: float  # shorter clips are filled up with silence
    recommended_duration_s: float  # window length for longer recordings
    max_duration_s: float  # longest clip the network takes whole
    temperature: float  # probs = softmax(logits / temperature); fitted on dev
    recipe: str
    recipe_hash: str
    licence: str  # of the weights; follows from the corpora
    corpora: tuple[TrainingCorpus, ...]
    n_parameters: int
    parity: float
    created: str  # ISO date
    intended_use: str
    not_fit_for: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    recipe_settings: Mapping[str, Any] = field(default_factory=dict)  # the whole recipe, to repeat the training
    package_versions: Mapping[str, str] = field(default_factory=dict)
    frame_hop_s: float | None = None  # None where there are no frame_logits
    sample_rate: int = SAMPLE_RATE
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_card(self)

    def to_json(self) -> str:
        """Return the card as JSON text that :meth:`from_json` reads back to an equal card."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Read a card, strictly: unknown or missing keys, wrong types and newer schemas are errors.

        Raises
        ------
        ModelFileError
            If the text is no valid card.
        """
        if len(text.encode(errors="replace")) > MAX_CARD_BYTES:
            raise ModelFileError(f"the card is larger than {MAX_CARD_BYTES:,} bytes; shorten it and export again")
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"the card is no valid JSON ({error}); export the model again") from None
        if not isinstance(content, dict):
            raise ModelFileError("the card is no JSON object; export the model again")
        _check_schema(content.get("schema_version"))
        corpora = content.get("corpora")
        if isinstance(corpora, list):
            content["corpora"] = tuple(_build(TrainingCorpus, corpus) for corpus in corpora)
        return _build(cls, content)


@dataclass(frozen=True, slots=True)
class Model:
    """An opened model file: its card and a runtime session that has passed every check."""

    path: Path
    card: Card
    session: "onnxruntime.InferenceSession" = field(repr=False)
    outputs: tuple[str, ...]

    def run(
        self, waveforms: "np.ndarray", lengths: "np.ndarray", outputs: Sequence[str] = ("logits",)
    ) -> "dict[str, np.ndarray]":
        """Run the network on a padded batch; safe to call from several threads at once.

        Parameters
        ----------
        waveforms
            (batch, n_samples) float32 at 16 kHz in [-1, 1]; what is beyond a row's length is ignored.
        lengths
            (batch,) int64, valid samples of each row.
        outputs
            Which of ``self.outputs`` to compute.

        Raises
        ------
        ModelFileError
            If the network fails on this batch, or answers in a shape that is not the contract's.
        """
        try:
            results = self.session.run(list(outputs), {"waveform": waveforms, "lengths": lengths})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise self._failure(waveforms, f"failed ({_first_line(error)})") from error
        answer: dict[str, np.ndarray] = dict(zip(outputs, results, strict=True))  # type: ignore[arg-type]
        for name, values in answer.items():
            n_last = values.shape[-1] if name == "embedding" else len(self.card.labels)
            if values.ndim != OUTPUTS[name][1] or (len(values), values.shape[-1]) != (len(waveforms), n_last):
                raise self._failure(waveforms, f"gave {name} of shape {values.shape}")
        return answer

    def _failure(self, waveforms: "np.ndarray", what: str) -> ModelFileError:
        n_rows, n_samples = waveforms.shape
        return ModelFileError(
            f"{self.path.name} {what} on a batch of {n_rows} x {n_samples / SAMPLE_RATE:.2f} s; "
            "other clip lengths may work, otherwise export the model again or use another one"
        )


def read_card(path: str | Path) -> Card:
    """Read the card of a model file, without running or even parsing its graph.

    Raises
    ------
    ModelFileError
        If there is no such file, or it has no valid card.
    """
    path = Path(path)
    return _card_of(_read_bytes(path), path)


def write_card(model: bytes | str | Path, card: Card, out: str | Path) -> Path:
    """Write ``model`` (bytes of an ONNX file, or its path) with ``card`` in it to ``out``, atomically.

    Everything but the card stays as it is, byte by byte; the ``onnx`` package is not needed.

    Raises
    ------
    ModelFileError
        If the result would be refused by :func:`open_model` for its graph, its card or its size.
    """
    onnx_bytes = model if isinstance(model, bytes) else _read_bytes(Path(model))
    out = Path(out)
    try:
        check_graph(onnx_bytes)
        onnx_bytes = replace_metadata(onnx_bytes, CARD_KEY, card.to_json())
    except OnnxError as error:
        raise ModelFileError(f"cannot put a card on this model: {error}") from None
    _card_of(onnx_bytes, out)
    write_file(out, onnx_bytes)
    return out


def installed_models() -> dict[str, Path]:
    """Names of the models that came with undertone, and their files."""
    return {path.stem: path for path in sorted(MODELS_FOLDER.glob("*.onnx"))}


def find_model(name_or_path: str | Path) -> Path:
    """Find the file of an installed model by its name, or return the path given.

    Raises
    ------
    ModelFileError
        If it is neither.
    """
    installed = installed_models()
    if str(name_or_path) in installed:
        return installed[str(name_or_path)]
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        return path
    names = ", ".join(installed) or "none"
    raise ModelFileError(
        f"no model named {str(name_or_path)!r} and no such file (installed: {names}); "
        "give one of these names, or the path of an .onnx file"
    )


def open_model(name_or_path: str | Path = DEFAULT_MODEL, *, threads: int | None = None) -> Model:
    """Open an installed model by name, or any model file by path, after checking it.

    Parameters
    ----------
    name_or_path
        ``"undertone-small"``, or a path.
    threads
        Processor threads one run of the network may use; all there are if None.

    Raises
    ------
    ModelFileError
        If the file is missing, too large, cut off or no ONNX file; has no card, an invalid one or one of a newer
        schema; keeps weights outside itself; uses operators that are not allowed; or has other inputs and
        outputs than the contract.
    """
    path = find_model(name_or_path)
    onnx_bytes = _read_bytes(path)
    card = _card_of(onnx_bytes, path)
    try:
        is_classic = check_graph(onnx_bytes)
    except OnnxError as error:
        raise ModelFileError(f"{path.name} is refused: {error}") from None
    if is_classic:
        _check_runtime(path)
    session = _start_session(onnx_bytes, path, threads)
    return Model(path=path, card=card, session=session, outputs=_check_contract(session, card, path))


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            onnx_bytes = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from None
    if len(onnx_bytes) > MAX_FILE_BYTES:
        raise ModelFileError(f"{path.name} is larger than {MAX_FILE_BYTES // 2**20} MB: no model of undertone is")
    return onnx_bytes


def _card_of(onnx_bytes: bytes, path: Path) -> Card:
    try:
        metadata = read_metadata(onnx_bytes)
    except OnnxError as error:
        raise ModelFileError(f"{path.name} is no model file: {error}") from None
    if CARD_KEY not in metadata:
        raise ModelFileError(
            f"{path.name} has no undertone card, so its labels and sample rate are unknown; "
            "write one with 'undertone lab export' or undertone.model_file.write_card"
        )
    try:
        return Card.from_json(metadata[CARD_KEY])
    except ModelFileError as error:
        raise ModelFileError(f"{path.name}: {error}") from None


def _start_session(onnx_bytes: bytes, path: Path, threads: int | None) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its warnings are for who makes models, and go to stderr
    options.enable_mem_pattern = False  # every batch has a length of its own: patterns would pile up
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the format that was checked
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads stay idle
    try:
        return onnxruntime.InferenceSession(
            onnx_bytes, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ModelFileError(
            f"onnxruntime {onnxruntime.__version__} cannot open {path.name}: {_first_line(error)}; "
            "export it again, or update: pip install -U onnxruntime"
        ) from None


def _check_runtime(path: Path) -> None:
    """Refuse a classic estimator where the runtime would trust its tables."""
    import onnxruntime

    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    if (major, minor) < MIN_CLASSIC_RUNTIME:
        wanted = ".".join(map(str, MIN_CLASSIC_RUNTIME))
        raise ModelFileError(
            f"{path.name} holds a classic estimator, which onnxruntime {onnxruntime.__version__} runs without checking "
            f"its tables; update it: pip install -U 'onnxruntime>={wanted}'"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def available_cores() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_contract(session: "onnxruntime.InferenceSession", card: Card, path: Path) -> tuple[str, ...]:
    """Names of the outputs, after checking names, types and ranks of all inputs and outputs."""
    try:
        inputs = {node.name: (node.type, len(node.shape)) for node in session.get_inputs()}
        outputs = {node.name: (node.type, len(node.shape)) for node in session.get_outputs()}
    except UnicodeDecodeError:
        raise ModelFileError(f"{path.name} is damaged: it has names that are no text; get it again") from None
    if inputs != INPUTS:
        raise ModelFileError(
            f"{path.name} takes {_signature(inputs)} instead of {_signature(INPUTS)}; export it with these inputs"
        )
    if "logits" not in outputs or not outputs.items() <= OUTPUTS.items():
        raise ModelFileError(
            f"{path.name} gives {_signature(outputs)}; it must give logits and may give "
            f"others of {_signature(OUTPUTS)}; export it with these outputs"
        )
    for node in session.get_outputs():
        n_classes = node.shape[-1]
        if node.name != "embedding" and isinstance(n_classes, int) and n_classes != len(card.labels):
            raise ModelFileError(
                f"{path.name} gives {n_classes} classes in {node.name} but its card names {len(card.labels)} "
                "labels; export it again with its own card"
            )
    return tuple(outputs)


def _signature(nodes: Mapping[str, tuple[str, int]]) -> str:
    return ", ".join(f"{name} {kind} of rank {rank}" for name, (kind, rank) in nodes.items()) or "nothing"


# The card's checks ---------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_schema(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError("the card has no valid schema_version; export the model again")
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"the card has schema {version}, this undertone knows up to {SCHEMA_VERSION}; "
            "update: pip install -U undertone"
        )


def _build(kind: type, content: object) -> Any:
    """Make the dataclass ``kind`` from a JSON object that has all of its keys and no others."""
    if not isinstance(content, dict):
        raise ModelFileError(f"the card has {content!r:.60} where an object is expected; export the model again")
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(content.keys() - known.keys())
    missing = sorted(known.keys() - content.keys())
    if unknown or missing:
        raise ModelFileError(
            f"the card has unknown keys {unknown} and lacks {missing}; export the model again with this undertone"
        )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    built = kind(**values)
    if isinstance(built, TrainingCorpus):
        _check_corpus(built)
    return built


def _check_card(card: Card) -> None:
    _check_schema(card.schema_version)
    texts = ("name", "version", "description", "recipe", "recipe_hash", "licence")
    texts += ("created", "intended_use", "not_fit_for")
    for key in texts:
        _require(isinstance(getattr(card, key), str), card, key, "text")
    for key in ("scores", "recipe_settings", "package_versions"):
        _require(isinstance(getattr(card, key), Mapping), card, key, "an object")
    _require(card.name and card.name.isprintable(), card, "name", "a printable name")
    _require(card.sample_rate == SAMPLE_RATE, card, "sample_rate", f"{SAMPLE_RATE} Hz")
    _require(_is_number(card.temperature) and 0.01 <= card.temperature <= 100, card, "temperature", "0.01 to 100")
    _require(_is_number(card.parity) and 0 <= card.parity <= 1, card, "parity", "a difference of probabilities")
    _require(_is_count(card.n_parameters), card, "n_parameters", "a count")
    _check_labels(card)
    _check_durations(card)
    _require(isinstance(card.corpora, tuple), card, "corpora", "a list")
    for corpus in card.corpora:
        _require(isinstance(corpus, TrainingCorpus), card, "corpora", "a list of training corpora")
        _check_corpus(corpus)


def _check_labels(card: Card) -> None:
    is_list = isinstance(card.labels, tuple) and len(card.labels) >= 2
    in_order = is_list and tuple(emotion for emotion in EMOTIONS if emotion in card.labels) == card.labels
    _require(in_order, card, "labels", f"at least two of {EMOTIONS}, in this order")


def _check_durations(card: Card) -> None:
    keys = ("min_duration_s", "recommended_duration_s", "max_duration_s")
    for key in keys:
        _require(_is_number(getattr(card, key)), card, key, "seconds")
    durations = [getattr(card, key) for key in keys]
    in_order = 0 < durations[0] <= durations[1] <= durations[2] <= MAX_CLIP_S
    _require(in_order, card, "max_duration_s", f"0 < min <= recommended <= max <= {MAX_CLIP_S:g} s")
    hop = card.frame_hop_s
    _require(hop is None or (_is_number(hop) and 0.001 <= hop <= 1), card, "frame_hop_s", "0.001 to 1 s, or null")


def _check_corpus(corpus: TrainingCorpus) -> None:
    for key in ("name", "licence", "licence_url"):
        _require(isinstance(getattr(corpus, key), str), corpus, key, "text")
    _require(_is_count(corpus.n_utterances), corpus, "n_utterances", "a count")
    speakers = corpus.speakers
    all_text = isinstance(speakers, tuple) and all(isinstance(speaker, str) for speaker in speakers)
    _require(all_text, corpus, "speakers", "a list of speaker names")


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(is_valid: object, owner: object, key: str, expected: str) -> None:
    if not is_valid:
        value = getattr(owner, key)
        raise ModelFileError(f"the card's {key} is {value!r:.80}, expected {expected}; export the model again")
