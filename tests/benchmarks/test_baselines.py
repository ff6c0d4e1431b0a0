"""benchmarks/quality/baselines on layers of its own."""

import numpy as np
import onnx
import pytest
from layers import layer
from onnx import helper, numpy_helper

from benchmarks.quality.baselines import INT4, Input, Layer, calibrate, methods, nearest, scheduled, table
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


@pytest.mark.parametrize("name", methods())
def test_every_method_gives_weights_of_the_shape_and_a_price(name, layers):
    for x, s in zip(layers, methods()[name](layers), strict=True):
        assert s.weight.shape == x.weight.shape
        assert 0 < s.entropy <= s.nominal
        if name.startswith(("SparseGPT", "Wanda", "magnitude")) and "scheduled" not in name:
            share = 0.5 if "2:4" in name else float(name.split()[-1])
            assert np.mean(s.weight == 0) >= share - 1 / 64


def test_better_methods_have_smaller_errors(layers):
    errors = {name: error(layers, method(layers)) for name, method in methods().items()}
    assert errors["AWQ int3 g128"] <= errors["RTN int3 g128"]
    assert errors["GPTQ int3 g128"] < errors["RTN int3 g128"]
    for share in ("0.5", "0.7"):
        assert errors[f"SparseGPT {share}"] < errors[f"Wanda {share}"]
        assert errors[f"SparseGPT {share}"] < errors[f"SparseGPT joint {share}"]


def test_the_price_of_groups_is_scales_and_zero_points(layers):
    spec = QuantizationSpec(4, symmetric=False, granularity="group", group_size=16)
    assert nearest(spec, layers[0]).nominal == 16 * 64 * 4 + 16 * 4 * (16 + 4)
    assert nearest(INT4, layers[0]).nominal == 16 * 64 * 4 + 16 * (16 + 4)


def test_the_scheduler_prunes_the_mean_share(layers):
    stored = list(scheduled(QuantizationSpec(8, granularity="channel"), 0.6)(layers))
    zeros = sum(np.count_nonzero(s.weight == 0) for s in stored)
    assert zeros >= 0.6 * 3 * 16 * 64 - 3


def test_statistics_come_from_all_windows():
    random = np.random.default_rng(0)
    table, W = random.standard_normal((50, 6)).astype(np.float32), random.standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "W"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "t", 4])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(W, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    windows = random.integers(0, 50, (7, 5))
    found = calibrate(model, windows, {"x": 6})["x"]
    X = table[windows.reshape(-1)].astype(np.float64)
    assert np.allclose(found.hessian, X.T @ X / len(X), rtol=1e-5, atol=1e-6)
    assert np.allclose(found.maximum, np.abs(X).max(axis=0))
    assert np.allclose(found.mean, np.abs(X).mean(axis=0), rtol=1e-5)


def test_a_row_for_each_method_after_the_original():
    result = {"bits": 4.0, "entropy": 3.0, "perplexity": 51.0}
    printed = table(50.0, {"linear": {"one": result}, "all": {"one": result}}).splitlines()
    assert printed[2].startswith("| original |  |  | 50.000 |")
    assert printed[3] == "| one | 4.000 | 3.000 | 51.000 | +2.00 | 4.000 | 3.000 | 51.000 | +2.00 |"
