import json

import onnx
import pytest
from onnx_export_models import OPT, net, normal, save

from onnx_export.compress import compress
from onnx_export.inspect import inspect
from refimpl.errors import ExportError, InvalidArgument, StreamError

TEXT = "(float[n, 256] x) => (float[n, 128] y) { a = MatMul(x, w1) b = MatMul(a, w2) y = MatMul(b, w3) }"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    report = compress(
        save(net(TEXT, w1=normal(256, 384), w2=normal(384, 256), w3=normal(256, 128)), folder / "m.onnx"),
        folder / "o.onnx",
        fraction=0.75,
    )
    return folder / "o.onnx", report


def test_headers_say_what_the_report_said(compressed):
    path, report = compressed
    result = inspect(path)
    assert result["path"] == str(path)
    assert result["bytes"] == path.stat().st_size == report["output_bytes"]
    assert result["compressed"]
    assert result["made_by"] == {"recipe": "double", "tool": report["tool"]}
    keys = ("name", "shape", "mode", "elements", "stored_bytes", "side_bytes", "bits_per_weight")
    assert [{k: t[k] for k in keys} for t in result["tensors"]] == [{k: t[k] for k in keys} for t in report["tensors"]]
    assert all(5 <= t["table_log"] <= 12 and t["lane_count"] >= 1 for t in result["tensors"])
    json.dumps(result, allow_nan=False)


def test_nothing_is_decoded(compressed, monkeypatch):
    monkeypatch.setattr("codec.tensor.decode_frame", None)
    assert inspect(compressed[0])["tensors"]


def test_a_plain_model_is_no_error():
    result = inspect(OPT)
    assert (result["compressed"], result["tensors"], result["made_by"]) == (False, [], {})
    assert result["bytes"] == OPT.stat().st_size


@pytest.mark.parametrize("value", ["", "{", "[]", "[1]", "3", "null", '{"tool": 7}', "[" * 100_000])
def test_metadata_that_cannot_be_read_are_left_out(compressed, tmp_path, value):
    model = onnx.load(compressed[0])
    model.metadata_props[0].value = value
    result = inspect(save(model, tmp_path / "odd.onnx"))
    assert result["made_by"] in ({}, {"tool": "7"})
    assert len(result["tensors"]) == 3


def test_damage_is_named_by_file_and_tensor(compressed, tmp_path):
    model = onnx.load(compressed[0])
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(StreamError, match=r"bad\.onnx: w1: "):
        inspect(save(model, tmp_path / "bad.onnx"))


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"text")
    with pytest.raises(ExportError, match=r"m\.onnx"):
        inspect(tmp_path / "m.onnx")
    with pytest.raises(InvalidArgument, match=r"m\.bin"):
        inspect(tmp_path / "m.bin")
