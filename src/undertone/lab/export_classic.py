"""A fitted estimator of the zoo -> the same one-file model as a network: features, estimator and logits in one graph.

Two graphs are joined: the feature module through torch's exporter, the scikit-learn pipeline through skl2onnx. The file
is compared with torch and scikit-learn on real clips before it is written. Operators of ``ai.onnx.ml`` that such a file
needs (trees, support vectors, scalers, linear models) stand in the fixed list of :mod:`undertone.onnx_reader`; a graph
with any other is refused here as it is on opening.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from undertone.lab.data import Waveforms, bucket_batches, pad_batch, to_float
from undertone.lab.evaluation import softmax
from undertone.lab.export import (
    MAX_DURATION_S,
    MIN_DURATION_S,
    NOT_FIT_FOR,
    PARITY,
    RECOMMENDED_DURATION_S,
    ExportError,
    intended_use,
    to_onnx,
    weights_licence,
)
from undertone.lab.features import Feature
from undertone.lab.zoo import MIN_PROB, build_vector_features, compute_zoo_logits, get_family
from undertone.model_file import Card, TrainingCorpus, open_model, write_card

if TYPE_CHECKING:
    import onnx
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline

ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
# Decisions with steps (leaves of trees, sets of neighbours): the last digits of a feature, which torch and the file
# compute differently, move a clip over one now and then, and with it a vote. On equal vectors they agree to PARITY too.
STEPPED = ("forest", "extra-trees", "boosting", "bagging", "adaboost", "lightgbm", "knn")
STEPPED_PARITY = 0.02  # mean over clips of the largest difference of a probability


class VectorModel(nn.Module):
    """The front part of the graph: one vector per clip, standardised by numbers that spread over the clips."""

    def __init__(self, features: Feature):
        super().__init__()
        self.features = features

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor]:
        """Vectors (batch, n_values)."""
        return (self.features(waveform, lengths)[0][:, :, 0],)


def export_classic(
    section: Mapping[str, Any],
    family: str,
    settings: Mapping[str, Any],
    pipeline: "Pipeline",
    temperature: float,
    out: Path,
    clips: Waveforms,
    *,
    labels: Sequence[str],
    corpora: Sequence[TrainingCorpus],
    name: str,
    scores: Mapping[str, Any] | None = None,
) -> Card:
    """Write the model file of a fitted pipeline of the zoo.

    Parameters
    ----------
    section
        The ``[features]`` that its vectors were made with.
    family, settings
        What the pipeline is, for the card.
    temperature
        Of its logits, fitted on speakers it had not heard.
    clips
        Real clips on which torch and scikit-learn are compared with the file.
    labels
        Emotions in the order of the class indices.
    corpora
        What the pipeline has heard.
    scores
        Measured scores by protocol for the card.

    Raises
    ------
    ExportError
        If there are no clips to compare on, a class was not trained, the pipeline cannot be written as a graph, or the
        file differs from scikit-learn by more than ``PARITY`` in a probability; nothing is written then.
    """
    if not len(clips):
        raise ExportError("there are no clips to compare scikit-learn and the file on; give some of the corpora")
    if list(pipeline.classes_) != list(range(len(labels))):
        raise ExportError(f"the estimator knows {len(pipeline.classes_)} classes, and there are {len(labels)} labels")
    features = build_vector_features(section)
    classifier = convert_pipeline(pipeline, features.n_features)
    onnx_bytes = join_graphs(to_onnx(VectorModel(features).eval()), classifier, has_probs=has_probs(pipeline))
    recipe_settings = {"features": dict(section), "family": family, "settings": dict(settings)}
    draft: dict[str, Any] = {
        "name": name,
        "version": version("undertone"),
        "description": f"{get_family(family).title} on {features.n_features} values per clip ({section['kind']})",
        "labels": tuple(labels),
        "min_duration_s": MIN_DURATION_S,
        "recommended_duration_s": RECOMMENDED_DURATION_S,
        "max_duration_s": MAX_DURATION_S,
        "temperature": float(temperature),
        "recipe": f"zoo/{family}",
        "recipe_hash": sha256(json.dumps(recipe_settings, sort_keys=True).encode()).hexdigest()[:12],
        "recipe_settings": json.loads(json.dumps(recipe_settings)),  # tuples become lists, as they are read back
        "licence": weights_licence([corpus.name for corpus in corpora]),
        "corpora": tuple(corpora),
        "n_parameters": count_numbers(classifier),
        "created": date.today().isoformat(),
        "intended_use": intended_use([corpus.name for corpus in corpora]),
        "not_fit_for": NOT_FIT_FOR,
        "scores": dict(scores or {}),
        "package_versions": {
            package: version(package) for package in ("torch", "onnx", "numpy", "scikit-learn", "skl2onnx")
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = write_card(onnx_bytes, Card(**draft, parity=0.0), Path(folder) / "trial.onnx")
        differences = compare_file(features, pipeline, trial, clips, temperature)
    _check_parity(compare_classifier(features, pipeline, classifier, clips, temperature).max(), PARITY)
    if family in STEPPED:
        _check_parity(differences.mean(), STEPPED_PARITY)
    else:
        _check_parity(differences.max(), PARITY)
    card = Card(**draft, parity=float(differences.max()))
    write_card(onnx_bytes, card, out)
    return card


def has_probs(pipeline: "Pipeline") -> bool:
    """Whether a pipeline gives probabilities; else it gives decision values."""
    return hasattr(pipeline, "predict_proba")


def convert_pipeline(pipeline: "Pipeline", n_values: int) -> "onnx.ModelProto":
    """Graph of a fitted pipeline: ``vector`` (batch, n_values) -> label, and probabilities or decision values.

    Raises
    ------
    ExportError
        If skl2onnx cannot write it.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import HistGradientBoostingClassifier

    estimator = pipeline[-1]
    if isinstance(estimator, HistGradientBoostingClassifier):
        return _convert_boosting(estimator, n_values)
    _register_lightgbm(estimator)
    options: dict[str, Any] = {"zipmap": False} if has_probs(pipeline) else {"zipmap": False, "raw_scores": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_sklearn(
                pipeline,
                initial_types=[("vector", FloatTensorType([None, n_values]))],
                options={id(estimator): options},
                target_opset={"": _opset(), ML_DOMAIN: ML_OPSET},
            )
    except (RuntimeError, NotImplementedError, ValueError, NameError) as error:
        raise ExportError(f"skl2onnx cannot write {type(estimator).__name__}: {error!s:.300}") from error
    return converted  # type: ignore[return-value]


def _opset() -> int:
    """Operator set of torch's exporter, which both graphs have to share."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def _register_lightgbm(estimator: Any) -> None:
    """Tell skl2onnx how LightGBM is written, where it is one."""
    if type(estimator).__module__.split(".")[0] != "lightgbm":
        return
    from importlib import import_module

    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    try:
        convert = import_module("onnxmltools.convert.lightgbm.operator_converters.LightGbm").convert_lightgbm
    except ImportError as error:
        raise ExportError(
            "'onnxmltools' is needed to write LightGBM but is not installed; run: pip install 'undertone[boosting]'"
        ) from error
    update_registered_converter(
        type(estimator),
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )


def _convert_boosting(estimator: "HistGradientBoostingClassifier", n_values: int) -> "onnx.ModelProto":
    """Write histogram gradient boosting ourselves: skl2onnx 1.20 mixes integers and truth values, which fails."""
    from onnx import TensorProto, helper

    columns: dict[str, list[Any]] = {f"nodes_{key}": [] for key in (
        "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
        "missing_value_tracks_true")}  # fmt: skip
    leaves: dict[str, list[Any]] = {f"class_{key}": [] for key in ("treeids", "nodeids", "ids", "weights")}
    tree = 0
    for round_of_trees in estimator._predictors:
        for index, predictor in enumerate(round_of_trees):
            for number, node in enumerate(predictor.nodes):
                is_leaf = bool(node["is_leaf"])
                values = (
                    tree,
                    number,
                    0 if is_leaf else int(node["feature_idx"]),
                    "LEAF" if is_leaf else "BRANCH_LEQ",
                    0.0 if is_leaf else _round_down(float(node["num_threshold"])),
                    0 if is_leaf else int(node["left"]),
                    0 if is_leaf else int(node["right"]),
                    0 if is_leaf else int(node["missing_go_to_left"]),
                )
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
                if is_leaf:
                    weights = (tree, number, index, float(node["value"]))
                    for column, value in zip(leaves.values(), weights, strict=True):
                        column.append(value)
            tree += 1
    classes: Any = estimator.classes_
    baseline: Any = estimator._baseline_prediction
    n_classes = len(classes)
    attributes: dict[str, Any] = {
        "post_transform": "LOGISTIC" if n_classes == 2 else "SOFTMAX",
        "classlabels_int64s": list(range(n_classes)),
        "base_values": [float(value) for value in baseline.ravel()],
    }
    attributes |= columns | leaves
    node = helper.make_node(
        "TreeEnsembleClassifier", ["vector"], ["label", "probabilities"], domain=ML_DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node],
        "boosting",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [None, n_values])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, n_classes]),
        ],
    )
    opsets = [helper.make_opsetid("", _opset()), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _round_down(threshold: float) -> float:
    """Largest float32 up to a threshold: ``value <= threshold`` stays what it was for every float32 value."""
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))


def join_graphs(front: bytes, classifier: "onnx.ModelProto", *, has_probs: bool) -> bytes:
    """Return one graph, waveform and lengths -> logits, of the features' and the classifier's.

    Logits are the logarithm of the classifier's probabilities, not below that of ``MIN_PROB``, or its decision values.
    """
    import onnx
    from onnx import compose, helper

    before = onnx.load_from_string(front)
    _rename(before.graph, before.graph.output[0].name, "front_vector")
    opsets = {entry.domain: entry.version for entry in before.opset_import}
    after = _at_opset(classifier, opsets[""])
    after.ir_version = before.ir_version
    values = after.graph.output[1].name
    joined = compose.merge_models(
        before,
        compose.add_prefix(after, "classic_"),
        io_map=[("front_vector", f"classic_{after.graph.input[0].name}")],
        outputs=[f"classic_{values}"],
    )
    graph, last = joined.graph, f"classic_{values}"
    if has_probs:
        graph.initializer.append(helper.make_tensor("min_prob", onnx.TensorProto.FLOAT, [], [MIN_PROB]))
        graph.initializer.append(helper.make_tensor("max_prob", onnx.TensorProto.FLOAT, [], [1.0]))
        graph.node.append(helper.make_node("Clip", [last, "min_prob", "max_prob"], ["probs"]))
        graph.node.append(helper.make_node("Log", ["probs"], ["logits"]))
    else:
        graph.node.append(helper.make_node("Identity", [last], ["logits"]))
    n_classes = graph.output[0].type.tensor_type.shape.dim[-1].dim_value or None
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", n_classes]))
    del graph.value_info[:]
    onnx.checker.check_model(joined)
    return joined.SerializeToString()


def _rename(graph: "onnx.GraphProto", old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    graph.output[0].name = new


def _at_opset(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """Return the model with its standard operators in another version of the set."""
    from onnx import version_converter

    versions = {entry.domain: entry.version for entry in model.opset_import}
    converted = model
    if versions.get("", opset) != opset:
        converted = version_converter.convert_version(model, opset)
    elsewhere = {domain: number for domain, number in versions.items() if domain}
    del converted.opset_import[:]
    for domain, number in {"": opset, **elsewhere}.items():
        entry = converted.opset_import.add()
        entry.domain, entry.version = domain, number
    return converted


def count_numbers(model: "onnx.ModelProto") -> int:
    """Numbers that fitting has set, as stored in a graph: values of its floating-point attributes and constants."""
    import onnx

    stored = [value for value in model.graph.initializer if value.data_type == onnx.TensorProto.FLOAT]
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    return sum(int(np.prod(value.dims)) for value in stored) + sum(len(attribute.floats) for attribute in attributes)


def compare_classifier(
    features: Feature, pipeline: "Pipeline", classifier: "onnx.ModelProto", clips: Waveforms, temperature: float
) -> np.ndarray:
    """Largest difference of a probability, clip by clip, between scikit-learn and its graph on equal vectors, (n,)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(classifier.SerializeToString(), providers=["CPUExecutionProvider"])
    vectors = np.concatenate([vectors for _, _, vectors in _vectors_of(features, clips)])
    theirs = np.asarray(session.run(None, {"vector": vectors})[1])
    if has_probs(pipeline):
        theirs = np.log(np.clip(theirs, MIN_PROB, 1.0))
    return _difference(pipeline, vectors, theirs, temperature)


def compare_file(
    features: Feature, pipeline: "Pipeline", file: Path, clips: Waveforms, temperature: float
) -> np.ndarray:
    """Largest difference of a probability, clip by clip, between scikit-learn and a model file, (n,)."""
    opened = open_model(file)
    differences = [
        _difference(pipeline, vectors, opened.run(waveform, lengths)["logits"], temperature)
        for waveform, lengths, vectors in _vectors_of(features, clips)
    ]
    return np.concatenate(differences)


@torch.inference_mode()
def _vectors_of(features: Feature, clips: Waveforms) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of clips: waveforms, lengths and vectors."""
    batches = []
    for rows in bucket_batches(clips.n_samples, 8):
        waveform, lengths = pad_batch([to_float(clips.clips[row]) for row in rows])
        vectors = features(torch.from_numpy(waveform), torch.from_numpy(lengths))[0][:, :, 0].numpy()
        batches.append((waveform, lengths, vectors))
    return batches


def _difference(pipeline: "Pipeline", vectors: np.ndarray, theirs: np.ndarray, temperature: float) -> np.ndarray:
    ours = compute_zoo_logits(pipeline, vectors, theirs.shape[1])
    difference = softmax(ours, temperature=temperature) - softmax(theirs, temperature=temperature)
    return np.abs(difference).max(axis=1)


def _check_parity(difference: float, allowed: float) -> None:
    if not difference < allowed:
        raise ExportError(
            f"scikit-learn and the file differ by {difference:.2g} in a probability (at most {allowed:g} is allowed); "
            "choose another family"
        )
