"""A trained run -> one model file: the same front end and network as in training, waveform in, emotion out.

The file is compared with torch on real clips before it is written. A temperature of one number and the merging of calm
into neutral need no second model: both happen in the graph or in the card.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from undertone.audio import SAMPLE_RATE
from undertone.lab.corpora import CORPORA
from undertone.lab.data import Waveforms, bucket_batches, pad_batch, to_float
from undertone.lab.evaluation import softmax
from undertone.lab.nets.keras import onnx_translations
from undertone.lab.recipes import EmotionModel, Model, build_model, n_parameters, networks_of, parse_recipe, parts_of
from undertone.lab.rounding import round_weights, store_weights_as_int8
from undertone.lab.training import CHECKPOINT
from undertone.model_file import Card, TrainingCorpus, open_model, write_card

PARITY = 1e-4  # largest difference of a probability between torch and the file
OUTPUTS = ["logits", "frame_logits", "embedding"]  # in the order of ExportedModel
MERGED = {"calm": "neutral"}  # in a seven-class file
MIN_DURATION_S, RECOMMENDED_DURATION_S, MAX_DURATION_S = 0.1, 3.0, 30.0

RESEARCH_USE = "Research on, and demonstrations of, emotion recognition in short clips of acted English speech."
OPEN_USE = (
    "Research on emotion recognition in short clips of acted English speech, demonstrations, and a start for products "
    "of your own, which a test on your own recordings must come before."
)
NOT_FIT_FOR = (
    "Decisions about people (hiring, schooling, policing, health); spontaneous or non-English speech, children and "
    "noisy rooms without a test of your own. It hears how actors portray emotions, not what people feel."
)


class ExportError(ValueError):
    """A run that cannot become a model file; the message says why."""


class ExportedModel(nn.Module):
    """The graph of a model file: logits, frame logits and embedding as a plain tuple.

    Parameters
    ----------
    classes
        Emotions of the model's logits.
    labels
        Emotions of the file's logits: the same, or without those of ``MERGED``.
    temperature
        Merged probabilities add up at this temperature, so that they do after calibration.
    """

    def __init__(self, model: Model, classes: Sequence[str], labels: Sequence[str], temperature: float):
        super().__init__()
        self.model, self.temperature = model, temperature
        self.sources = [
            [
                index
                for index, name in enumerate(classes)
                if name == label or (MERGED.get(name) == label and name not in labels)
            ]
            for label in labels
        ]
        if sorted(index for source in self.sources for index in source) != list(range(len(classes))):
            raise ExportError(f"cannot give {', '.join(labels)} from {', '.join(classes)}")

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Logits (batch, n_labels) and, where the network has them, frame logits and embedding."""
        output = self.model(waveform, lengths)
        outputs = [self._merge(output.logits)]
        if output.frame_logits is not None:
            outputs.append(self._merge(output.frame_logits))
        if output.embedding is not None:
            outputs.append(output.embedding)
        return tuple(outputs)

    def _merge(self, logits: Tensor) -> Tensor:
        parts = [
            logits[..., source[0]]
            if len(source) == 1
            else self.temperature * torch.logsumexp(logits[..., source] / self.temperature, dim=-1)
            for source in self.sources
        ]
        return torch.stack(parts, dim=-1)


def load_run(run_dir: Path) -> tuple[Model, dict[str, Any]]:
    """Return the chosen weights of a finished run, on the CPU, and what its ``fold.json`` says."""
    import json

    described = run_dir / "fold.json"
    if not described.exists():
        if folds := sorted(run_dir.glob("fold-*/fold.json")):
            raise ExportError(f"{run_dir} holds the folds of an evaluation; export one, such as {folds[0].parent}")
        raise ExportError(f"{run_dir} holds no finished run (no fold.json); train it to the end first")
    result = json.loads(described.read_text())
    recipe = parse_recipe(result["recipe"])
    model = build_model(recipe, len(result["classes"]))
    folders = [run_dir / member.name for member in recipe.members] or [run_dir]
    for part, folder in zip(parts_of(model), folders, strict=True):
        _load_weights(part, folder / CHECKPOINT)
    return model.eval(), result


def _load_weights(model: EmotionModel, path: Path) -> None:
    with safe_open(str(path), "pt") as file:
        for part, prefix in ((model.network, "best/"), (model.front_end, "front_end/")):
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            part.load_state_dict({name.removeprefix(prefix): file.get_tensor(name) for name in names})


def export_run(
    run_dir: Path,
    out: Path,
    clips: Waveforms,
    *,
    name: str,
    description: str,
    scores: Mapping[str, Any] | None = None,
    merge_calm: bool = False,
    int8: bool = False,
    model_version: str | None = None,
) -> Card:
    """Write the model file of a finished run.

    Parameters
    ----------
    run_dir
        Folder of a fold, or of the final training.
    clips
        Real clips on which torch and the file are compared.
    scores
        Measured scores by protocol for the card.
    merge_calm
        Add calm's probability to neutral's.
    int8
        Round the network's weights to 8 bits, and store them so: a quarter of the size.

    Raises
    ------
    ExportError
        If the run is not finished, there are no clips to compare torch and the file on, or the two differ by more
        than ``PARITY``; nothing is written then.
    """
    if not len(clips):
        raise ExportError("there are no clips to compare torch and the file on; give some of the training corpora")
    model, result = load_run(run_dir)
    classes = tuple(result["classes"])
    labels = tuple(label for label in classes if not (merge_calm and label in MERGED))
    if int8:
        for network in networks_of(model):
            round_weights(network)
    exported = ExportedModel(model, classes, labels, result["temperature"]).eval()
    onnx_bytes = to_onnx(exported)
    if int8:
        onnx_bytes = store_weights_as_int8(onnx_bytes)
    corpora = tuple(_training_corpus(name, heard, result["dev"]) for name, heard in result["train_corpora"].items())
    draft = {
        "name": name,
        "version": model_version or version("undertone"),
        "description": description,
        "labels": labels,
        "min_duration_s": MIN_DURATION_S,
        "recommended_duration_s": RECOMMENDED_DURATION_S,
        "max_duration_s": MAX_DURATION_S,
        "temperature": float(result["temperature"]),
        "recipe": result["recipe"]["name"],
        "recipe_hash": result["recipe_hash"],
        "recipe_settings": result["recipe"],
        "licence": weights_licence([corpus.name for corpus in corpora]),
        "corpora": corpora,
        "n_parameters": n_parameters(model),
        "created": date.today().isoformat(),
        "intended_use": intended_use([corpus.name for corpus in corpora]),
        "not_fit_for": NOT_FIT_FOR,
        "scores": dict(scores or {}),
        "package_versions": {package: version(package) for package in ("torch", "onnx", "numpy")},
        "frame_hop_s": model.frame_hop_s,
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = write_card(onnx_bytes, Card(**draft, parity=0.0), Path(folder) / "trial.onnx")
        parity = measure_parity(exported, trial, clips, result["temperature"])
    if not parity < PARITY:
        raise ExportError(f"torch and the file differ by {parity:.2g} in a probability (at most {PARITY:g} is allowed)")
    card = Card(**draft, parity=parity)
    write_card(onnx_bytes, card, out)
    return card


def check_exportable(module: nn.Module) -> None:
    """Raise an :class:`ExportError` if a module has features that another library computes."""
    if outside := [type(part).__name__ for part in module.modules() if not getattr(part, "in_graph", True)]:
        raise ExportError(f"features that a library computes ({outside[0]}) cannot be part of a model file")


def to_onnx(exported: nn.Module) -> bytes:
    """ONNX bytes of a module (waveform, lengths) -> (logits, ...), with a dynamic batch and number of samples.

    Raises
    ------
    ExportError
        If the module has features that another library computes.
    """
    check_exportable(exported)
    waveform, lengths = torch.zeros(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2])
    with torch.no_grad():
        names = OUTPUTS[: len(exported(waveform, lengths))]
    batch, n_samples = torch.export.Dim("batch"), torch.export.Dim("n_samples")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which is not wanted here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            copy.deepcopy(exported),
            (waveform, lengths),
            dynamo=True,
            input_names=["waveform", "lengths"],
            output_names=names,
            dynamic_shapes={"waveform": {0: batch, 1: n_samples}, "lengths": {0: batch}},
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter's notes on where each node came from: half the file's text
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    return proto.SerializeToString()


@torch.inference_mode()
def measure_parity(exported: nn.Module, file: Path, clips: Waveforms, temperature: float) -> float:
    """Largest difference of a probability between torch and a model file on clips, padded batches and one by one.

    The frames' probabilities count as the clip's do.
    """
    opened = open_model(file)
    worst = 0.0
    for size in (1, 8):
        for rows in bucket_batches(clips.n_samples, size):
            waveform, lengths = pad_batch([to_float(clips.clips[row]) for row in rows])
            names = [name for name in OUTPUTS if name in opened.outputs and name != "embedding"]
            theirs = opened.run(waveform, lengths, names)
            ours = dict(zip(OUTPUTS, exported(torch.from_numpy(waveform), torch.from_numpy(lengths)), strict=False))
            for name in names:
                worst = max(worst, _difference(theirs[name], ours[name].numpy(), temperature))
    return worst


def _difference(theirs: np.ndarray, ours: np.ndarray, temperature: float) -> float:
    if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        raise ExportError("the network gives NaN or infinite logits on these clips; its training went wrong")
    return float(np.abs(softmax(theirs, temperature=temperature) - softmax(ours, temperature=temperature)).max())


def weights_licence(corpora: Sequence[str]) -> str:
    """Licence that follows for weights from the corpora they were trained on, as one sentence."""
    sources = ", ".join(f"{CORPORA[name].folder} ({CORPORA[name].licence})" for name in corpora)
    if _is_non_commercial(corpora):
        return f"Research, non-commercial use only: trained on {sources}, which must be credited."
    return f"Commercial use included, as the training data's licences allow it: {sources}, which must be credited."


def intended_use(corpora: Iterable[str]) -> str:
    """Say what a model of these corpora is meant for, in one sentence."""
    return RESEARCH_USE if _is_non_commercial(corpora) else OPEN_USE


def _is_non_commercial(corpora: Iterable[str]) -> bool:
    return any(CORPORA[name].non_commercial for name in corpora)


def _training_corpus(name: str, heard: dict[str, Any], dev: Sequence[str]) -> TrainingCorpus:
    """Describe a corpus for the card: dev speakers chose epoch and temperature, so they are no strangers either."""
    corpus = CORPORA[name]
    dev_speakers = {corpus.speaker_of(clip.split("/", 1)[1]) for clip in dev if clip.startswith(f"{name}/")}
    return TrainingCorpus(
        name=name,
        licence=corpus.licence,
        licence_url=corpus.licence_url,
        n_utterances=heard["n_utterances"],
        speakers=tuple(sorted({*heard["speakers"], *dev_speakers})),
    )
