"""The model file: what is accepted, and that everything else is refused with a sentence that says what to do."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from undertone import model_file, onnx_reader
from undertone.model_file import CARD_KEY, Card, ModelFileError, open_model, read_card, write_card


@pytest.fixture
def write_model(tmp_path, make_card):
    """Function (onnx_bytes, card_json=None) -> path of a file with the card put in unchecked."""

    def write(onnx_bytes, card_json=None):
        path = tmp_path / "model.onnx"
        card_json = make_card().to_json() if card_json is None else card_json
        path.write_bytes(onnx_reader.replace_metadata(onnx_bytes, CARD_KEY, card_json))
        return path

    return write


def changed(card, **changes):
    return json.dumps({**json.loads(card.to_json()), **changes})


# ---- accepted ----


def test_card_survives_the_file(model_path, make_card):
    assert read_card(model_path) == make_card()


def test_open_model_runs_what_the_card_says(model_path, make_tone):
    model = open_model(model_path)
    outputs = model.run(make_tone()[np.newaxis], np.array([16_000]), model.outputs)
    assert model.outputs == ("logits", "frame_logits", "embedding")
    assert [outputs[name].shape for name in model.outputs] == [(1, 4), (1, 50, 4), (1, 3)]


def test_a_card_is_replaced_and_all_else_kept(model_path, make_card, tmp_path, tiny_bytes):
    second = write_card(model_path, make_card(version="0.2"), tmp_path / "second.onnx")
    assert read_card(second).version == "0.2"
    assert second.read_bytes().count(CARD_KEY.encode()) == 1
    assert second.read_bytes().startswith(tiny_bytes)


def test_metadata_agrees_with_onnxruntime(model_path):
    import onnxruntime

    session = onnxruntime.InferenceSession(model_path)
    assert session.get_modelmeta().custom_metadata_map == onnx_reader.read_metadata(model_path.read_bytes())


def test_tiny_model_is_valid_onnx(model_path):
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(onnx.load(model_path), full_check=True)


def test_reading_a_card_loads_no_runtime(model_path):
    code = (
        f"import sys; from undertone.model_file import read_card; read_card({str(model_path)!r});"
        "print([name for name in ('onnxruntime', 'onnx', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, make_card, monkeypatch, tiny_bytes):
    out = write_card(tiny_bytes, make_card(), tmp_path / "model.onnx")
    before = out.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_card(tiny_bytes, make_card(version="9"), out)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_installed_models_open_and_are_found_by_name():
    for name, path in model_file.installed_models().items():
        assert open_model(name).card == read_card(path)


# ---- failing only when run ----


def test_a_network_that_fails_on_a_length(fragile_path, make_tone):
    model = open_model(fragile_path)
    assert model.run(make_tone()[np.newaxis], np.array([16_000]))["logits"].shape == (1, 4)
    with pytest.raises(ModelFileError, match=r"fragile\.onnx failed .*Reshape.* 1 x 1\.50 s; other clip lengths"):
        model.run(make_tone(duration_s=1.5)[np.newaxis], np.array([24_000]))


@pytest.mark.parametrize("change", ["rows", "classes"])
def test_an_answer_of_another_shape(write_model, tiny_graph, proto, make_tone, change):
    tiny_graph.nodes[-1] = proto.node("Add", ["scores", "bias"], ["once"])
    if change == "rows":
        tiny_graph.nodes.append(proto.node("Concat", ["once", "once"], ["logits"], axis=0))
    else:  # as many as there are frames
        tiny_graph.nodes.append(proto.node("ReduceSum", ["frames_3d", "axis_1"], ["logits"], keepdims=0))
    tiny_graph.outputs[0] = proto.value_info("logits", "float", ["any", "number"])
    model = open_model(write_model(tiny_graph.build()))
    with pytest.raises(ModelFileError, match=r"gave logits of shape .*export the model again"):
        model.run(make_tone()[np.newaxis], np.array([16_000]))


# ---- refused: the file ----


def test_missing_file_names_what_is_installed(tmp_path):
    with pytest.raises(ModelFileError, match=r"no model named .*nothing\.onnx.*installed: "):
        open_model(tmp_path / "nothing.onnx")


def test_name_that_is_too_long_for_a_file():
    with pytest.raises(ModelFileError, match="no such file"):
        open_model("x" * 5_000)


def test_folder(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        open_model(tmp_path)


def test_no_card(tmp_path, tiny_bytes):
    path = tmp_path / "bare.onnx"
    path.write_bytes(tiny_bytes)
    with pytest.raises(ModelFileError, match=r"no undertone card.*write one"):
        open_model(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"RIFF\x00\x00\x00\x00WAVE", b"\x00" * 100])
def test_other_content(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        open_model(path)


def test_random_bytes(tmp_path, rng):
    path = tmp_path / "model.onnx"
    for size in (1, 10, 1_000, 100_000):
        path.write_bytes(rng.bytes(size))
        with pytest.raises(ModelFileError):
            open_model(path)


def test_truncated_anywhere(tmp_path, model_path):
    whole = model_path.read_bytes()
    path = tmp_path / "cut.onnx"
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            open_model(path)


def test_mutated_bytes_end_in_a_model_or_a_refusal(tmp_path, model_path, rng):
    whole = np.frombuffer(model_path.read_bytes(), np.uint8)
    path = tmp_path / "mutated.onnx"
    n_refused = 0
    for _ in range(150):
        mutated = whole.copy()
        mutated[rng.integers(len(whole), size=rng.integers(1, 4))] = rng.integers(256)
        path.write_bytes(mutated.tobytes())
        try:
            open_model(path)
        except ModelFileError:
            n_refused += 1
    assert n_refused > 50


def test_huge_file(tmp_path, monkeypatch, model_path):
    monkeypatch.setattr(model_file, "MAX_FILE_BYTES", model_path.stat().st_size - 1)
    with pytest.raises(ModelFileError, match="larger than"):
        open_model(model_path)


# ---- refused: the graph ----


def external_location(proto):
    entry = proto.field(13, proto.field(1, "location") + proto.field(2, "/etc/passwd"))
    return entry + proto.field(14, 1)


def test_external_data(write_model, tiny_graph, proto):
    stored_elsewhere = proto.tensor("extra", np.zeros(1, np.float32), more=external_location(proto))
    tiny_graph.tensors.append(stored_elsewhere)
    with pytest.raises(ModelFileError, match="weights are in another file"):
        open_model(write_model(tiny_graph.build()))


def test_external_data_in_a_constant_of_a_subgraph(write_model, tiny_graph, proto):
    tensor = proto.tensor("", np.zeros(1, np.float32), more=external_location(proto))
    attribute = proto.field(1, "value") + proto.field(5, tensor) + proto.field(20, 4)
    constant = proto.node("Constant", [], ["inner"]) + proto.field(5, attribute)
    graph = proto.graph([constant], [], [], [proto.value_info("inner", "float", [1])])
    tiny_graph.nodes.append(proto.node("If", ["is_true"], ["unused"], then_branch=graph, else_branch=graph))
    with pytest.raises(ModelFileError, match="weights are in another file"):
        open_model(write_model(tiny_graph.build()))


@pytest.mark.parametrize("number", [13, 14])
def test_external_data_said_twice(write_model, tiny_graph, proto, number):
    """The last of two values counts for a parser; undertone refuses if either says so."""
    more = external_location(proto) if number == 13 else proto.field(14, 1) + proto.field(14, 0)
    tiny_graph.tensors.append(proto.tensor("extra", np.zeros(1, np.float32), more=more))
    with pytest.raises(ModelFileError, match="weights are in another file"):
        open_model(write_model(tiny_graph.build()))


@pytest.mark.parametrize(
    ("op_type", "domain", "named"),
    [
        ("Evil", "", "'Evil'"),
        ("Loop", "", "'Loop'"),
        ("RandomNormal", "", "'RandomNormal'"),
        ("FusedMatMul", "com.microsoft", "'com.microsoft:FusedMatMul'"),
        ("Relu", "my.own", "'my.own:Relu'"),
        ("StringNormalizer", "", "'StringNormalizer'"),
    ],
)
def test_operators_that_are_not_allowed(write_model, tiny_graph, proto, op_type, domain, named):
    tiny_graph.nodes.append(proto.node(op_type, ["logits"], ["unused"], domain=domain))
    with pytest.raises(ModelFileError, match=f"uses the operator {named}"):
        open_model(write_model(tiny_graph.build(domains=("", domain) if domain else ("",))))


def test_functions_of_its_own(write_model, tiny_graph, proto):
    function = proto.field(25, proto.field(1, "Mine"))
    with pytest.raises(ModelFileError, match="functions of its own"):
        open_model(write_model(tiny_graph.build(more=function)))


def test_graphs_nested_without_end(write_model, tiny_graph, proto):
    graph = proto.graph([], [], [], [])
    for _ in range(onnx_reader.MAX_DEPTH + 1):
        graph = proto.graph([proto.node("If", ["is_true"], ["x"], then_branch=graph)], [], [], [])
    tiny_graph.nodes.append(proto.node("If", ["is_true"], ["x"], then_branch=graph))
    with pytest.raises(ModelFileError, match="nested"):
        open_model(write_model(tiny_graph.build()))


def test_the_other_format_of_the_runtime(write_model, tiny_graph, proto):
    """A file that is protobuf to us must not be a flatbuffer, with other content, to the runtime."""
    disguised = proto.field(2, "  ORTM" + "x" * 20) + tiny_graph.build()
    assert disguised[4:8] == b"ORTM"
    assert open_model(write_model(disguised)).outputs


def test_a_graph_that_does_not_fit_together(write_model, tiny_graph):
    del tiny_graph.nodes[3]
    with pytest.raises(ModelFileError, match=r"onnxruntime .* cannot open"):
        open_model(write_model(tiny_graph.build()))


def test_every_allowed_operator_exists():
    defs = pytest.importorskip("onnx.defs")
    known = {(schema.domain, schema.name) for schema in defs.get_all_schemas()}
    assert not {("", name) for name in onnx_reader.STANDARD_OPERATORS} - known
    assert not {("ai.onnx.ml", name) for name in onnx_reader.CLASSIC_OPERATORS} - known


# ---- refused: inputs and outputs ----


def test_wrong_input_name(write_model, tiny_graph):
    content = tiny_graph.build().replace(b"waveform", b"wave_in_")
    with pytest.raises(ModelFileError, match=r"takes wave_in_ .*instead of waveform"):
        open_model(write_model(content))


def test_further_input(write_model, tiny_graph, proto):
    tiny_graph.inputs.append(proto.value_info("speaker", "int64", ["batch"]))
    with pytest.raises(ModelFileError, match=r"speaker .*instead of"):
        open_model(write_model(tiny_graph.build()))


def test_wrong_rank(write_model, tiny_graph, proto):
    tiny_graph.outputs[1] = proto.value_info("frame_sum", "float", ["batch", 3])
    with pytest.raises(ModelFileError, match=r"gives .*frame_sum"):
        open_model(write_model(tiny_graph.build()))


def test_no_logits(write_model, tiny_graph):
    del tiny_graph.outputs[0]
    with pytest.raises(ModelFileError, match="must give logits"):
        open_model(write_model(tiny_graph.build()))


def test_labels_and_classes_differ_in_number(write_model, tiny_graph, make_card):
    with pytest.raises(ModelFileError, match=r"4 classes in logits but its card names 2"):
        open_model(write_model(tiny_graph.build(), changed(make_card(), labels=["anger", "fear"])))


# ---- refused: the card ----


def test_newer_schema(write_model, tiny_bytes, make_card):
    newer = changed(make_card(), schema_version=model_file.SCHEMA_VERSION + 1, new_key="?")
    with pytest.raises(ModelFileError, match="pip install -U undertone"):
        read_card(write_model(tiny_bytes, newer))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"schema_version": true}',
        "[" * 100_000,
        '{"schema_version": NaN}',
        '{"schema_version": 1}',
    ],
    ids=lambda text: text[:20],
)
def test_card_that_is_none(text):
    with pytest.raises(ModelFileError, match="export"):
        Card.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"labels": ["happiness", "anger"]},  # not in the order of EMOTIONS
        {"labels": ["anger", "anger"]},
        {"labels": ["anger"]},
        {"labels": "anger"},
        {"labels": ["anger", ["fear"]]},
        {"labels": ["angry", "fear"]},
        {"sample_rate": 8_000},
        {"temperature": 0},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": 10**400},
        {"min_duration_s": 5.0},
        {"min_duration_s": 0},
        {"max_duration_s": 1e6},
        {"frame_hop_s": 0.0},
        {"name": ""},
        {"name": "tiny\x1b[31m"},
        {"name": None},
        {"description": 7},
        {"scores": []},
        {"corpora": {}},
        {"corpora": ["RAVDESS"]},
        {"corpora": [{"name": "RAVDESS"}]},
        {"corpora": [{"name": "a", "licence": "b", "licence_url": "c", "n_utterances": -1, "speakers": []}]},
        {"corpora": [{"name": "a", "licence": "b", "licence_url": "c", "n_utterances": 1, "speakers": [1]}]},
        {"n_parameters": 0.5},
        {"parity": -1},
        {"schema_version": "1"},
    ],
    ids=str,
)
def test_card_with_a_wrong_value(make_card, change):
    with pytest.raises(ModelFileError, match="export"):
        Card.from_json(changed(make_card(), **change))


def test_card_with_a_missing_key(make_card):
    content = json.loads(make_card().to_json())
    del content["licence"]
    with pytest.raises(ModelFileError, match=r"lacks \['licence'\]"):
        Card.from_json(json.dumps(content))


def test_card_of_a_megabyte(make_card):
    with pytest.raises(ModelFileError, match="larger than"):
        Card.from_json(changed(make_card(), description="x" * model_file.MAX_CARD_BYTES))


def test_a_wrong_card_cannot_be_made(make_card):
    with pytest.raises(ModelFileError, match="temperature"):
        dataclasses.replace(make_card(), temperature=-1.0)


def test_write_card_refuses_what_could_not_be_opened(tmp_path, tiny_graph, proto, make_card):
    tiny_graph.nodes.append(proto.node("Evil", ["logits"], ["unused"]))
    with pytest.raises(ModelFileError, match="Evil"):
        write_card(tiny_graph.build(), make_card(), tmp_path / "evil.onnx")
    assert not list(tmp_path.iterdir())
