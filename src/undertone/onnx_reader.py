"""Reading an ONNX file before anything runs it: the metadata, and whether the graph is one we accept.

A bounded walk over the protobuf wire format, in plain Python, so that neither the ``onnx`` package nor a runtime
session is needed to look at a file that somebody else sent. It accepts less than a protobuf parser does: whatever
it does not know how to bound, it refuses. Where protobuf lets a field occur twice (the last one counts, or both
are merged), every occurrence is checked.

References
----------
Wire format: https://protobuf.dev/programming-guides/encoding. Field numbers: ``onnx/onnx.proto`` (IR version 13).
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_DEPTH = 16  # subgraphs inside attributes of nodes inside subgraphs ...
MAX_FIELDS = 2_000_000  # visited in all; a 2 M-parameter network has about 10,000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 (groups) are refused

# The operators a model file may use: standard ones that map numbers to numbers, the same way each time.
# Left out: random numbers, strings, images, sequences and optionals, losses, and Loop (time without bound).
STANDARD_OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Compress
    Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DepthToSpace
    DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization MelWeightMatrix Min Mish
    Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RotaryEmbedding Round STFT Scan ScatterElements
    ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - a table to read
)
# Those of a classic estimator: what the zoo's exporter writes, and no more of the domain. Their attributes are tables
# that a runtime has to check before it indexes with them. MIN_CLASSIC_RUNTIME is the first onnxruntime that was seen to
# refuse wrong ones (feature and class numbers out of range, tables too short); older ones read beyond their memory.
CLASSIC = "ai.onnx.ml"
CLASSIC_OPERATORS = frozenset(
    """
    ArrayFeatureExtractor LinearClassifier Normalizer SVMClassifier Scaler TreeEnsembleClassifier
    """.split()  # noqa: SIM905 - a table to read
)
MIN_CLASSIC_RUNTIME = (1, 28)
MAX_TREE_DEPTH = 256  # onnxruntime builds trees by recursion: one of 16,000 levels overflows the stack
OPERATORS = {"": STANDARD_OPERATORS, "ai.onnx": STANDARD_OPERATORS, CLASSIC: CLASSIC_OPERATORS}


class OnnxError(ValueError):
    """Bytes that are no ONNX file, or one with something in it that undertone does not run."""


class Field(NamedTuple):
    """One field of a protobuf message: ``value`` of a varint, or the span ``start:end`` of its bytes."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


def read_metadata(onnx_bytes: bytes) -> dict[str, str]:
    """Metadata properties of the model, key to value, without parsing its graph.

    Raises
    ------
    OnnxError
        If the bytes are no protobuf message or a property is not UTF-8.
    """
    metadata: dict[str, str] = {}
    for field in _fields(onnx_bytes, 0, len(onnx_bytes)):
        if _MODEL.get(field.number) == "metadata" and field.wire_type == _BYTES:
            key, value = _property(onnx_bytes, field)
            metadata[key] = value
    return metadata


def replace_metadata(onnx_bytes: bytes, key: str, value: str) -> bytes:
    """Return the same model with metadata property ``key`` set to ``value``; every other byte is kept."""
    kept = []
    begin = 0
    for field in _fields(onnx_bytes, 0, len(onnx_bytes)):
        is_property = _MODEL.get(field.number) == "metadata" and field.wire_type == _BYTES
        if not (is_property and _property(onnx_bytes, field)[0] == key):
            kept.append(onnx_bytes[begin : field.end])
        begin = field.end
    entry = _message(1, key.encode()) + _message(2, value.encode())
    return b"".join([*kept, _message(14, entry)])


def check_graph(onnx_bytes: bytes) -> bool:
    """Refuse a graph that reaches outside its file or uses an operator we do not know.

    Returns
    -------
    bool
        Whether it uses operators of classic estimators, which need a runtime from ``MIN_CLASSIC_RUNTIME`` on.

    Raises
    ------
    OnnxError
        For external data, functions of its own, training information, an operator or domain that is not in
        ``OPERATORS``, a message nested or sized beyond ``MAX_DEPTH`` and ``MAX_FIELDS``, or trees that are none, or
        deeper than ``MAX_TREE_DEPTH``.
    """
    walk = _Walk(onnx_bytes)
    walk.model()
    return walk.is_classic


# Field numbers of the messages that are entered; whatever is not listed is skipped unread.
_MODEL = {7: "graph", 14: "metadata", 20: "training", 25: "functions"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_NODE = {4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE = {1: "tensor", 2: "tensor"}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
# Numbers in an attribute (floats = 7, ints = 8), and the modes of tree nodes (strings = 9): a forest has millions. They
# are skipped unread like all that is not listed, but as a run. No alternative begins like another, and nothing that has
# matched is given back, so that the time is linear in the bytes whatever they are.
_NUMBERS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}+[\x00-\x7f]|\x4a(?:\x0aBRANCH_LEQ|\x04LEAF))*+", re.DOTALL)
_FLOATS = re.compile(rb"(?:\x3d.{4})*+", re.DOTALL)


class _Walk:
    """One pass over the parts of a model that can name a file or an operator."""

    def __init__(self, onnx_bytes: bytes) -> None:
        self.onnx_bytes = onnx_bytes
        self.n_fields = 0
        self.is_classic = False

    def model(self) -> None:
        has_graph = False
        for field in self._fields(0, len(self.onnx_bytes)):
            kind = _MODEL.get(field.number)
            if kind == "graph" and field.wire_type == _BYTES:
                has_graph = True
                self._graph(field, depth=0)
            elif kind in ("training", "functions"):
                raise OnnxError(f"it carries {kind} of its own; export it again with everything inlined")
        if not has_graph:
            raise OnnxError("it has no graph, so it is no ONNX model")

    def _graph(self, span: Field, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise OnnxError(f"its graphs are nested more than {MAX_DEPTH} deep")
        for field in self._fields(span.start, span.end):
            kind = _GRAPH.get(field.number)
            if kind is None or field.wire_type != _BYTES:
                continue
            if kind == "node":
                self._node(field, depth)
            else:
                self._tensor(field, kind)

    def _node(self, span: Field, depth: int) -> None:
        op_types, domains, attributes = [], [], []
        for field in self._fields(span.start, span.end):
            kind = _NODE.get(field.number)
            if kind is None or field.wire_type != _BYTES:
                continue
            if kind == "attribute":
                self._attribute(field, depth)
                attributes.append(field)
            else:
                text = _text(self.onnx_bytes, field)
                (op_types if kind == "op_type" else domains).append(text)
        for domain in domains or [""]:
            for op_type in op_types or [""]:
                if op_type not in OPERATORS.get(domain, ()):
                    name = f"{domain}:{op_type}" if domain else op_type
                    raise OnnxError(f"it uses the operator {name!r}, which undertone does not run")
        if CLASSIC in domains:
            self.is_classic = True
            if "TreeEnsembleClassifier" in op_types:
                self._trees(attributes)

    def _trees(self, attributes: list[Field]) -> None:
        """Refuse tables of nodes that are no trees, or trees too deep for a runtime that walks them by recursion."""
        tables: dict[str, list[int] | list[bytes]] = {}
        for attribute in attributes:
            name, integers, texts = self._table(attribute)
            if name in tables:
                raise OnnxError(f"it gives {name!r} of a tree twice; export it again")
            tables[name] = texts if name == "nodes_modes" else integers
        columns = [tables.get(name, []) for name in _TREE]
        if not columns[0] or len({len(column) for column in columns}) != 1:
            raise OnnxError("its trees have tables of different lengths, or none; export it again")
        if not _are_trees(*columns):
            raise OnnxError(f"its trees are no trees, or deeper than {MAX_TREE_DEPTH} levels; export smaller ones")

    def _table(self, span: Field) -> tuple[str, list[int], list[bytes]]:
        """Name, whole numbers and texts of an attribute."""
        name, integers, texts = "", [], []
        for field in self._fields(span.start, span.end, skip=_FLOATS):
            if field.number == 1 and field.wire_type == _BYTES:
                name = _text(self.onnx_bytes, field)
            elif field.number == 8 and field.wire_type == _VARINT:
                integers.append(field.value)
            elif field.number == 8 and field.wire_type == _BYTES:
                raise OnnxError("it writes the numbers of trees in packed form; export it again")
            elif field.number == 9 and field.wire_type == _BYTES:
                texts.append(self.onnx_bytes[field.start : field.end])
        return name, integers, texts

    def _attribute(self, span: Field, depth: int) -> None:
        for field in self._fields(span.start, span.end, skip=_NUMBERS):
            kind = _ATTRIBUTE.get(field.number)
            if kind is None or field.wire_type != _BYTES:
                continue
            if kind == "graph":
                self._graph(field, depth + 1)
            else:
                self._tensor(field, kind)

    def _tensor(self, span: Field, kind: str) -> None:
        for field in self._fields(span.start, span.end):
            if kind == "sparse":
                if field.number in _SPARSE and field.wire_type == _BYTES:
                    self._tensor(field, "tensor")
            elif field.number == _TENSOR_EXTERNAL_DATA or (
                field.number == _TENSOR_DATA_LOCATION and (field.value or field.wire_type != _VARINT)
            ):
                raise OnnxError("its weights are in another file; export it again as one file")

    def _fields(self, start: int, end: int, skip: re.Pattern[bytes] | None = None) -> Iterator[Field]:
        for field in _fields(self.onnx_bytes, start, end, skip):
            self.n_fields += 1
            if self.n_fields > MAX_FIELDS:
                raise OnnxError(f"it has more than {MAX_FIELDS:,} fields")
            yield field


_TREE = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_modes")


def _are_trees(trees: Sequence, nodes: Sequence, true: Sequence, false: Sequence, modes: Sequence) -> bool:
    """Whether each node but a root has one parent, every node is below a root, and none is too deep."""
    row_of = {key: row for row, key in enumerate(zip(trees, nodes, strict=True))}
    children: dict[int, tuple[int | None, int | None]] = {}
    for row, mode in enumerate(modes):
        if mode != b"LEAF":
            children[row] = row_of.get((trees[row], true[row])), row_of.get((trees[row], false[row]))
    below = [child for pair in children.values() for child in pair]
    if len(row_of) != len(nodes) or None in below or len(set(below)) != len(below):
        return False
    level: list = sorted(set(range(len(nodes))) - set(below))
    n_seen = 0
    for _ in range(MAX_TREE_DEPTH):
        n_seen += len(level)
        level = [child for row in level for child in children.get(row, ())]
        if not level:
            return n_seen == len(nodes)
    return False


def _fields(data: bytes, position: int, end: int, skip: re.Pattern[bytes] | None = None) -> Iterator[Field]:
    """Fields of the message in ``data[position:end]``, in file order, without those that ``skip`` matches as a run."""
    while position < end:
        if skip is not None and (run := skip.match(data, position, end)):
            position = run.end()
            if position == end:
                return
        key, position = _varint(data, position, end)
        number, wire_type = key >> 3, key & 7
        if key > 0xFFFFFFFF or number == 0:
            raise OnnxError("it is damaged, or no ONNX file")
        value, start = 0, position
        if wire_type == _VARINT:
            value, position = _varint(data, position, end)
        elif wire_type == _BYTES:
            size, start = _varint(data, position, end)
            position = start + size
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise OnnxError("it is damaged, or no ONNX file")
        if position > end:
            raise OnnxError("it ends too early: it was cut off, or is no ONNX file")
        yield Field(number, wire_type, value, start, position)


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Value of the varint at ``position`` (at most 64 bits) and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise OnnxError("it ends too early: it was cut off, or is no ONNX file")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxError("it is damaged, or no ONNX file")


def _property(data: bytes, span: Field) -> tuple[str, str]:
    """Key and value of a ``StringStringEntryProto``."""
    texts = {1: "", 2: ""}
    for field in _fields(data, span.start, span.end):
        if field.number in texts and field.wire_type == _BYTES:
            texts[field.number] = _text(data, field)
    return texts[1], texts[2]


def _text(data: bytes, span: Field) -> str:
    try:
        return data[span.start : span.end].decode()
    except UnicodeDecodeError:
        raise OnnxError("it has text that is not UTF-8: it is damaged, or no ONNX file") from None


def _message(number: int, payload: bytes) -> bytes:
    """Wire form of a length-delimited field."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(payload)) + payload


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
