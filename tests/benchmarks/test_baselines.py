"""benchmarks/quality/baselines on layers of its own."""

import numpy as np
import onnx
import pytest
from layers import layer
from onnx import helper, numpy_helper

from benchmarks.quality.baselines import baselines, compressed, each, groups, nearest, of_layers, scheduled
from benchmarks.quality.layers import Input, Layer, calibrate, linear_layers
from refimpl.hessian import output_error
from refimpl.quantization import QuantizationSpec


@pytest.fixture(scope="module")
def layers():
    made = []
    for seed in range(3):
        W, H = layer(seed, rows=16, inputs=64, tokens=1000)
        loudness = np.sqrt(np.diagonal(H))
        made.append(Layer(str(seed), W, Input(H, 3 * loudness, 0.8 * loudness), W))
    return made


def error(layers, stored):
    return sum(output_error(s.weight.astype(np.float64) - x.weight, x.input.hessian)
               for x, s in zip(layers, stored, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", of_layers(), ids=" ".join)
def test_every_method_gives_weights_of_the_shape_and_a_price(name, layers):
    for x, s in zip(layers, of_layers()[name](layers), strict=True):
        assert s.weight.shape == x.weight.shape
        assert 0 < s.entropy <= s.nominal
        if name[0] in ("SparseGPT", "SparseGPT joint", "Wanda", "magnitude"):
            share = 0.5 if ":" in name[1] else float(name[1])
            assert np.mean(s.weight == 0) >= share - 1 / 64


def test_better_methods_have_smaller_errors(layers):
    errors = {name: error(layers, method(layers)) for name, method in of_layers().items()}
    assert errors["AWQ", "int3 g128"] <= errors["RTN", "int3 g128"]
    assert errors["GPTQ", "int3 g128"] < errors["RTN", "int3 g128"]
    assert errors["GPTQ", "int3 g32"] < errors["GPTQ", "int3 g128"]
    for share in ("0.5", "0.7", "4:8"):
        assert errors["SparseGPT", share] < errors["Wanda", share]
        assert errors["SparseGPT", share] < errors["SparseGPT joint", share]


def test_the_price_of_groups_is_scales_and_zero_points(layers):
    spec = QuantizationSpec(4, symmetric=False, granularity="group", group_size=16)
    assert nearest(spec, layers[0]).nominal == 16 * 64 * 4 + 16 * 4 * (16 + 4)
    assert nearest(groups(4, 128), layers[0]).nominal == 16 * 64 * 4 + 16 * (16 + 4)


def test_the_scheduler_prunes_the_mean_share(layers):
    stored = list(scheduled(QuantizationSpec(8, granularity="channel"), 0.6)(layers))
    zeros = sum(np.count_nonzero(s.weight == 0) for s in stored)
    assert zeros >= 0.6 * 3 * 16 * 64 - 3


def lookup(opset=18):
    """(model of a table, a linear layer and a bias, the table, the weight)."""
    random = np.random.default_rng(0)
    table, W = (random.standard_normal(shape).astype(np.float32) for shape in ((50, 64), (64, 32)))
    tensors = {"table": table, "W": W, "b": np.ones(32, np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            helper.make_node("MatMul", ["x", "W"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "t", 32])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), table, W


@pytest.mark.parametrize("opset", [13, 18])
def test_statistics_come_from_all_samples(opset):
    model, table, _ = lookup(opset)
    ids = np.random.default_rng(1).integers(0, 50, (7, 5))
    found = calibrate(model, ids, {"x": 64})["x"]
    X = table[ids.reshape(-1)].astype(np.float64)
    assert np.allclose(found.hessian, X.T @ X / len(X), rtol=1e-5, atol=1e-6)
    assert np.allclose(found.maximum, np.abs(X).max(axis=0))
    assert np.allclose(found.mean, np.abs(X).mean(axis=0), rtol=1e-5)


def test_statistics_are_read_again(tmp_path):
    model, _, W = lookup()
    np.save(tmp_path / "ids.npy", np.random.default_rng(1).integers(0, 50, (7, 5)))
    (first,) = linear_layers(model, tmp_path / "ids.npy", tmp_path / "kept")
    assert np.array_equal(first.weight, W.T)
    (again,) = linear_layers(model, tmp_path / "missing.npy", tmp_path / "kept")
    assert np.array_equal(again.input.hessian, first.input.hessian)
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["inputs.npz"]


def test_the_scope_says_which_weights_change_and_count(tmp_path):
    model, table, W = lookup()
    np.save(tmp_path / "ids.npy", np.random.default_rng(1).integers(0, 50, (7, 5)))
    spec = QuantizationSpec(4, granularity="channel")
    price = {}
    for scope in ("linear", "all"):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        priced = compressed(each(lambda x: nearest(spec, x)), scope, copy, tmp_path / "ids.npy", tmp_path)
        values = {t.name: numpy_helper.to_array(t) for t in priced.model.graph.initializer}
        assert not np.array_equal(values["W"], W)
        assert np.array_equal(values["table"], table) == (scope == "linear")
        price[scope] = priced.stored_bytes
    assert price["linear"] == (64 * 32 * 4 + 32 * 16) / 8
    assert price["all"] == price["linear"] + 50 * 64 + 50 * 2 + 32 * 4


def test_methods_of_both_scopes():
    assert [(m.name, m.setting) for m in baselines("linear")] == list(of_layers())
    assert {m.name for m in baselines("all")} == {name for name, _ in of_layers()} - {"magnitude", "Wanda", "SparseGPT"}
