"""Products that ONNX Runtime need not pack weights for: what they compute, and which are left alone."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_export_models import NETS, feeds_for, net, normal, save, session

from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.native import library_path
from onnx_export.products import ROWS, turn_products
from onnx_export.session import load_session
from refimpl.errors import ExportError

GEMM = "(float[n, 64] x) => (float[n, 32] y) {{ y = Gemm <{}> (x, w{}) }}"
native_only = pytest.mark.skipif(library_path() is None, reason="the native op library was not built")


def gemm(attributes="transB = 1", bias=", b", opset=21, rows=32, columns=64, **tensors):
    tensors = {"w": normal(rows, columns)} | ({"b": normal(32, seed=3)} if bias else {}) | tensors
    return net(GEMM.format(attributes, bias), opset, **tensors)


def compressed(model, folder):
    compress(save(model, folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


@native_only
@pytest.mark.parametrize("bias", [{"b": normal(32, seed=3)}, {"b": normal(1, 32, seed=3)}, {"b": normal(1)[0]}, {}])
def test_both_ways_give_the_product_for_any_number_of_rows(tmp_path, bias):
    path = compressed(gemm(bias=", b" if bias else "", **bias), tmp_path)
    streaming, resident = load_session(path, "streaming"), load_session(path)
    for rows in (0, 1, *ROWS, ROWS[1] + 1, 300):
        x = np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)
        results = [opened.run(None, {"x": x})[0] for opened in (streaming, resident)]
        assert results[0].shape == (rows, 32)
        assert np.allclose(*results, rtol=1e-5, atol=1e-5)


@native_only
def test_weights_in_turned_products_are_exact(tmp_path):
    path = compressed(gemm(bias=""), tmp_path)
    identity = np.eye(64, dtype=np.float32)
    results = [load_session(path, mode).run(None, {"x": identity})[0] for mode in ("streaming", "resident")]
    assert ROWS[0] <= len(identity) <= ROWS[1]
    assert np.array_equal(*results)


def test_values_keep_their_names_and_other_nodes_stay(tmp_path):
    model = read_model(compressed(gemm(), tmp_path))
    kinds = [node.op_type for node in model.graph.node]
    assert turn_products(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [*kinds[:-1], "Shape", "Less", "Greater", "Or", "If"]
    assert model.graph.node[-1].output == ["y"]


def test_names_that_are_taken_are_left_alone(tmp_path):
    body = "(float[n, 64] x) => (float[n, 32] y) { turned = Relu(x) \n y = Gemm <transB = 1> (turned, w) }"
    path = compressed(net(body, w=normal(32, 64)), tmp_path)
    model = read_model(path)
    assert turn_products(model) == 1
    feeds = feeds_for(session(path), size=5)
    turned = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(turned.run(None, feeds)[0], session(path).run(None, feeds)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        gemm("transB = 1, alpha = 0.5"),
        gemm("transB = 1, beta = 0.5"),
        gemm("transB = 0", rows=64, columns=32),
        gemm(opset=13),
        net("(float[64, n] x) => (float[n, 32] y) { y = Gemm <transA = 1, transB = 1> (x, w) }", w=normal(32, 64)),
        net("(float16[n, 64] x) => (float16[n, 32] y) { y = Gemm <transB = 1> (x, w) }",
            w=normal(32, 64, dtype=np.float16)),
        net("(float[n, 64] x) => (float[64, 32] y) { y = Gemm <transB = 1> (w, x) }", w=normal(64, 64)),
        NETS["deep"](),
        NETS["if"](),
    ],
    ids=["alpha", "beta", "no transB", "old opset", "transA", "float16", "weight in front", "MatMul", "subgraph"],
)  # fmt: skip
def test_all_else_is_left_alone(model, tmp_path):
    model = read_model(compressed(model, tmp_path))
    before = model.SerializeToString(deterministic=True)
    assert turn_products(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_are_not_compressed_are_left_alone():
    assert turn_products(gemm()) == 0


@native_only
def test_damage_is_found_in_turned_products_too(tmp_path):
    path = compressed(gemm(), tmp_path)
    model = onnx.load(path)
    stream = next(t for t in model.graph.initializer if t.name.endswith((".stream", ".symbols")))
    stream.raw_data = bytes([stream.raw_data[0] ^ 1]) + stream.raw_data[1:]
    onnx.save(model, path)
    with pytest.raises(ExportError, match="stored_crc"):
        load_session(path, "streaming").run(None, {"x": np.zeros((4, 64), np.float32)})
