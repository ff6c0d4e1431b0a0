"""Large tensors left in the file: the outline says the same as the model, and ONNX Runtime runs it alike."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_export_models import CONDITIONAL, NETS, feeds_for, net, normal, outputs_of, save, session

from onnx_export import references
from onnx_export.compress import compress
from onnx_export.files import read_model, read_outline
from onnx_export.outline import header, outline, whole
from onnx_export.references import is_reference, load_references, localized, tensors_in
from onnx_export.rewrite import call_for_each_reader
from onnx_export.runtime import FOLDER_OF_TENSORS, open_session
from onnx_export.session import load_session
from onnx_export.weights import bodies
from refimpl.errors import Corrupt, ExportError, Truncated


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(references, "LARGE", 100)


@pytest.fixture
def compressed(tmp_path):
    compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    return tmp_path / "o.onnx"


def external(path):
    """The same model with its tensors in a second file."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)


@pytest.mark.parametrize("inline", [True, False])
def test_what_is_read_is_the_model_and_is_written_as_it_was(compressed, inline):
    data = compressed.read_bytes()
    if not inline:
        external(compressed)
    model = read_model(compressed)
    referred = [t for t in model.graph.initializer if is_reference(t)]
    assert referred
    assert not any(t.raw_data for t in referred)
    assert b"".join(bytes(piece) for piece in whole(model)) == data
    assert load_references(model).SerializeToString(deterministic=True) == data


def test_tensors_of_nodes_and_bodies_are_references_too(tmp_path):
    node = onnx.helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(normal(64, 32), "k"))
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    for body in bodies(model.graph.node[0]):
        body.node.insert(0, node)
        body.node[1].input[1] = "k"
        body.initializer.append(model.graph.initializer[0])
    data = save(model, tmp_path / "m.onnx").read_bytes()
    read = read_model(tmp_path / "m.onnx")
    assert [is_reference(t) for t in tensors_in(read.graph)] == [True] * 6
    assert b"".join(bytes(piece) for piece in whole(read)) == data
    feeds = {"c": np.array(True), "x": normal(3, 64)}
    assert np.array_equal(open_session(read).run(None, feeds)[0], outputs_of(model, feeds)[0])


def test_a_body_in_a_body_without_end_is_refused(tmp_path):
    graph = b""
    for _ in range(3000):
        for field in (6, 5, 1):  # of an attribute, a node and a graph
            graph = header(field, len(graph)) + graph
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a" + header(7, len(graph)) + graph)
    with pytest.raises(Truncated, match="damaged"):
        read_model(tmp_path / "m.onnx")


def test_onnx_runtime_reads_the_tensors_where_they_are(compressed):
    options, model = ort.SessionOptions(), read_model(compressed)
    options.add_session_config_entry(FOLDER_OF_TENSORS, localized(model))
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = feeds_for(session(compressed))
    assert np.array_equal(opened.run(None, feeds)[0], outputs_of(compressed, feeds)[0])


def test_a_number_of_more_than_ten_bytes_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 1_000_000)
    with pytest.raises(IndexError, match="ten bytes"):
        outline(tmp_path / "m.onnx")


def test_damaged_files_are_refused(compressed):
    data = compressed.read_bytes()
    for cut in range(0, len(data), max(1, len(data) // 50)):
        compressed.write_bytes(data[:cut])
        with pytest.raises(Exception, match=r"o\.onnx") as error:
            load_session(compressed, "streaming")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"location": "../m.onnx"}, {"location": "gone"}, {"offset": "9" * 9}, {"length": "-1"}, {"offset": "x"}]
)
def test_tensors_outside_their_file_are_refused(compressed, change):
    external(compressed)
    model = read_outline(compressed)
    for entry in model.graph.initializer[0].external_data:
        entry.value = change.get(entry.key, entry.value)
    save(model, compressed)
    with pytest.raises(ExportError, match="cannot be read"):
        read_model(compressed)


def test_a_file_that_shrinks_is_one_clear_error(compressed):
    model = read_model(compressed)
    compressed.write_bytes(b"")
    with pytest.raises(Corrupt, match="its file cannot be read"):
        whole(model)


def test_a_call_for_each_reader(tmp_path):
    text = """<ir_version: 10, opset_import: ["": 21]>
        g (int64[1] i, float[64] x) => (float[1, 64] r, float[512] y)
        { r = Gather(w, i)  y = MatMul(w, x)  }"""
    model = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    split = load_references(read_model(tmp_path / "o.onnx"))
    assert call_for_each_reader(split)
    assert [n.op_type for n in split.graph.node if n.domain] == [split.graph.node[0].op_type] * 2
    assert not call_for_each_reader(split)
    feeds = {"i": np.array([5]), "x": w[3]}
    for got, wanted in zip(outputs_of(split, feeds), outputs_of(tmp_path / "o.onnx", feeds), strict=True):
        assert np.array_equal(got, wanted)
