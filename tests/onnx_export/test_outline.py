"""Large tensors left in the file: the outline says the same as the model, and ONNX Runtime runs it alike."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_export_models import NETS, feeds_for, outputs_of, save, session

import onnx_export.outline
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.outline import TensorFiles, outline
from onnx_export.rewrite import call_for_each_reader
from onnx_export.session import FOLDER_OF_TENSORS, load_session
from refimpl.errors import Corrupt


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(onnx_export.outline, "LARGE", 100)


@pytest.fixture
def compressed(tmp_path):
    compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    return tmp_path / "o.onnx"


@pytest.mark.parametrize("inline", [True, False])
def test_the_outline_of_a_file_is_its_model(compressed, inline):
    if not inline:
        model = onnx.load(compressed)
        onnx.save(model, compressed, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = outline(compressed)
    files = TensorFiles(compressed.parent)
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert external
    for tensor in external:
        data = files(tensor).tobytes()
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
    whole = read_model(compressed)
    for tensor in whole.graph.initializer:
        tensor.ClearField("data_location")
    assert model.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


def test_onnx_runtime_reads_the_tensors_where_they_are(compressed):
    options = ort.SessionOptions()
    options.add_session_config_entry(FOLDER_OF_TENSORS, str(compressed.parent))
    opened = ort.InferenceSession(outline(compressed).SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = feeds_for(session(compressed))
    assert np.array_equal(opened.run(None, feeds)[0], outputs_of(compressed, feeds)[0])


def test_a_number_of_more_than_ten_bytes_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 1_000_000)
    with pytest.raises(Corrupt, match="ten bytes"):
        outline(tmp_path / "m.onnx")


def test_damaged_files_are_refused(compressed):
    data = compressed.read_bytes()
    for cut in range(0, len(data), max(1, len(data) // 50)):
        compressed.write_bytes(data[:cut])
        with pytest.raises(Exception, match=r"o\.onnx") as error:
            load_session(compressed, "streaming")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"location": "../m.onnx"}, {"location": "gone"}, {"offset": "9" * 9}, {"length": "-1"}]
)
def test_tensors_outside_their_file_are_refused(compressed, change):
    tensor = next(t for t in outline(compressed).graph.initializer if t.external_data)
    for entry in tensor.external_data:
        entry.value = change.get(entry.key, entry.value)
    with pytest.raises(Corrupt, match="cannot be read"):
        TensorFiles(compressed.parent)(tensor)


def test_a_call_for_each_reader(tmp_path):
    text = """<ir_version: 10, opset_import: ["": 21]>
        g (int64[1] i, float[64] x) => (float[1, 64] r, float[512] y)
        { r = Gather(w, i)  y = MatMul(w, x)  }"""
    model = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    split = read_model(tmp_path / "o.onnx")
    assert call_for_each_reader(split)
    assert [n.op_type for n in split.graph.node if n.domain] == [split.graph.node[0].op_type] * 2
    assert not call_for_each_reader(split)
    feeds = {"i": np.array([5]), "x": w[3]}
    for got, wanted in zip(outputs_of(split, feeds), outputs_of(tmp_path / "o.onnx", feeds), strict=True):
        assert np.array_equal(got, wanted)
