"""Activations as 8-bit integers: what the graph computes, and which kernels run."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_export_models import OPT, arrays_of, net, normal, outputs_of, save
from strategies import rng

from codec.tensor import load_symbols
from onnx_export import session as session_module
from onnx_export.calls import read_calls
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.session import load_session
from onnx_export.verify import verify
from refimpl.activations import activation_grid, integer_linear, quantize_activations
from refimpl.errors import InvalidArgument

MLP = """(float[n, 64] x) => (float[n, 32] y) {
    a = Gemm <transB = 1> (x, w1, b1) r = Relu(a) c = MatMul(r, w2) d = Add(c, b2) e = Tanh(d) y = MatMul(e, w3) }"""
WEIGHTS = {
    "w1": normal(96, 64), "b1": normal(96, seed=4), "w2": normal(96, 64, seed=2), "b2": normal(64, seed=5),
    "w3": normal(64, 32, seed=3),
}  # fmt: skip


def loud(samples, channels, seed=0):
    """Inputs of which some channels are louder than others."""
    return (rng(seed).standard_normal((samples, channels)) * np.exp(np.linspace(-2, 2, channels))).astype(np.float32)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlp")
    source, output = save(net(MLP, **WEIGHTS), folder / "m.onnx"), folder / "o.onnx"
    report = compress(source, output, calibration=loud(200, 64), activations="int8")
    return source, output, report


def kernels(path, mode, feeds, monkeypatch, folder):
    """The operators that ONNX Runtime has run, after all its fusions."""
    real = session_module.open_session

    def profiled(model, device="cpu", options=None, **more):
        options = ort.SessionOptions() if options is None else options
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / mode)
        return real(model, device, options, **more)

    monkeypatch.setattr(session_module, "open_session", profiled)
    session = load_session(path, mode)
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {e["args"]["op_name"] for e in events if "op_name" in e.get("args", {})}


def test_the_outputs_stay_close_in_all_modes(mlp):
    source, output, report = mlp
    feeds = {"x": loud(50, 64, seed=1)}
    (before,) = outputs_of(source, feeds)
    resident = load_session(output, "resident").run(None, feeds)[0]
    for after in (outputs_of(output, feeds)[0], resident, load_session(output, "streaming").run(None, feeds)[0]):
        assert after.shape == before.shape
        noise = np.square(after - before).mean() / before.var()
        assert 1e-6 < noise < 10**-1.9
    assert any("3 values that layers read are quantized" in note for note in report["notes"])


def test_integer_kernels_multiply_in_resident_mode_alone(mlp, monkeypatch, tmp_path):
    feeds = {"x": loud(5, 64)}
    resident = kernels(mlp[1], "resident", feeds, monkeypatch, tmp_path)
    assert {"QGemm", "MatMulIntegerToFloat"} & resident
    assert not {"Gemm", "MatMul", "FusedGemm", "FusedMatMul"} & resident
    streaming = kernels(mlp[1], "streaming", feeds, monkeypatch, tmp_path)
    assert not {"QGemm", "MatMulIntegerToFloat"} & streaming


def test_decompressed_models_multiply_integers_too(mlp, tmp_path):
    _, output, _ = mlp
    plain = tmp_path / "plain.onnx"
    decompress(output, plain)
    onnx.checker.check_model(onnx.load(plain), full_check=True)
    feeds = {"x": loud(50, 64, seed=1)}
    expected = load_session(output, "resident").run(None, feeds)[0]
    assert np.array_equal(outputs_of(plain, feeds)[0], expected)


def test_scales_go_where_integers_can_do_without_them(mlp):
    source, output, report = mlp
    assert {t["absorbed"] for t in report["tensors"]} <= {None, "linear", "activations", "LayerNorm"}
    first = next(t for t in report["tensors"] if t["name"] == "w1")
    assert (first["absorbed"], first["exponent"] > 0) == ("activations", True)  # it reads the model's input
    model = onnx.load(output)
    (scaling,) = (n for n in model.graph.node if n.output[0] == "x.scaled")
    assert scaling.op_type == "Mul"
    inserted = [s for s in report["skipped"] if s["reason"] == "a channel scale on activations"]
    assert 64 in {s["elements"] for s in inserted}
    weights = report["weights"]
    arrays = arrays_of(onnx.load(source))
    assert weights["count"] == sum(array.size for array in arrays.values())
    assert weights["original_bytes"] == sum(array.nbytes for array in arrays.values())
    assert weights["copied_bytes"] >= sum(s["stored_bytes"] for s in inserted)
    assert weights["bits_per_weight"] == 8 * weights["stored_bytes"] / weights["count"]
    for _, stored, _ in read_calls(model):
        assert stored.scale.size in (1, max(stored.shape), min(stored.shape))
    assert verify(output, source)["ok"]


def test_a_layer_computes_what_the_reference_says(tmp_path):
    weight = normal(64, 32)
    text = "(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }"
    source, output = save(net(text, w=weight), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    samples = rng(3).standard_normal((64, 64)).astype(np.float32)
    compress(source, output, calibration=samples, activations="int8")
    model = onnx.load(output)
    arrays = arrays_of(model)
    ((_, stored, _),) = read_calls(model)
    x = rng(4).standard_normal((20, 64)).astype(np.float32)
    scaled = x * arrays["x.inverse_scale"] if "x.inverse_scale" in arrays else x
    seen = samples * arrays["x.inverse_scale"] if "x.inverse_scale" in arrays else samples
    name = next(n for n in arrays if n.endswith(".zero_point") and n != "w.zero_point")[: -len(".zero_point")]
    scale, zero_point = arrays[f"{name}.scale"], arrays[f"{name}.zero_point"]
    assert (scale, zero_point) == activation_grid(seen.min(), seen.max())
    codes = (load_symbols(stored).astype(int) - int(stored.zero_point.item())).astype(np.int8).T
    steps = stored.scale.reshape(-1, 1)
    expected = integer_linear(quantize_activations(scaled, scale, zero_point), scale, zero_point, codes, steps)
    (computed,) = load_session(output, "resident").run(None, {"x": x})
    assert np.allclose(computed, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_convolutions_get_pairs_and_keep_their_row_scales(tmp_path, monkeypatch):
    text = """(float[n, 16, 8, 8] x) => (float[n, 16, 4, 4] y) { a = Conv(x, w1, b) r = Relu(a) y = Conv(r, w2) }"""
    arrays = {"w1": normal(16, 16, 3, 3), "b": normal(16), "w2": normal(16, 16, 3, 3, seed=2)}
    source, output = save(net(text, **arrays), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    samples = rng(1).standard_normal((64, 16, 8, 8)).astype(np.float32)
    compress(source, output, calibration=samples, activations="int8")
    feeds = {"x": samples[:4]}
    (before,) = outputs_of(source, feeds)
    for session in (load_session(output, "resident"), load_session(output, "streaming")):
        after = session.run(None, feeds)[0]
        assert np.square(after - before).mean() < 0.01 * before.var()
    assert "QLinearConv" in kernels(output, "resident", feeds, monkeypatch, tmp_path)


def test_names_of_integers_that_the_model_has_already_are_avoided(tmp_path):
    text = "(float[n, 64] x) => (float[n, 32] y) { z = Mul(x, s) c = Add(z, t) y = MatMul(c, w) }"
    model = net(text, w=normal(64, 32), s=normal(64), t=normal(64, seed=2))
    for old, new in (("s", "w.scale"), ("t", "w.codes")):
        next(t for t in model.graph.initializer if t.name == old).name = new
        next(n for n in model.graph.node if old in n.input).input[1] = new
    output, plain = tmp_path / "o.onnx", tmp_path / "p.onnx"
    compress(save(model, tmp_path / "m.onnx"), output, calibration=loud(200, 64), activations="int8")
    decompress(output, plain)
    feeds = {"x": loud(50, 64, seed=1)}
    expected = outputs_of(output, feeds)[0]
    resident = load_session(output, "resident").run(None, feeds)[0]
    assert np.allclose(resident, expected, atol=1e-3 * np.abs(expected).max())
    assert np.array_equal(outputs_of(plain, feeds)[0], resident)
    assert {"w.scale_", "w.codes_"} <= arrays_of(onnx.load(plain)).keys()


@pytest.mark.parametrize("opset", [13, 21])
def test_half_precision_is_cast_around_the_pair(tmp_path, opset):
    text = "(float16[n, 64] x) => (float16[n, 32] y) { y = MatMul(x, w) }"
    source = save(net(text, opset, w=normal(64, 32, dtype=np.float16)), tmp_path / "m.onnx")
    samples = rng(1).standard_normal((64, 64)).astype(np.float16)
    compress(source, tmp_path / "o.onnx", calibration=samples, activations="int8")
    (before,), (after,) = (outputs_of(p, {"x": samples[:8]}) for p in (source, tmp_path / "o.onnx"))
    assert after.dtype == np.float16
    assert np.square(after.astype(float) - before.astype(float)).mean() < 0.02 * before.astype(float).var()


def test_the_head_that_is_tied_to_a_table_is_left_alone(tmp_path):
    tokens = rng(0).integers(32, 123, (8, 64)).astype(np.uint8)
    compress(OPT, tmp_path / "o.onnx", calibration=tokens, activations="int8")
    model = onnx.load(tmp_path / "o.onnx")
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    head = next(n for n in model.graph.node if "logits" in n.output)
    assert makers[head.input[0]] == "LayerNormalization"
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == 20
    feeds = {model.graph.input[0].name: tokens[:2].astype(np.int64)}
    assert np.isfinite(outputs_of(tmp_path / "o.onnx", feeds)[0]).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"calibration": None}, "--calibration"),
        ({"recipe": "lossless", "calibration": None}, "lossless"),
        ({"recipe": "rate"}, "rate"),
        ({"recipe": "aggressive"}, "aggressive"),
        ({"activations": "int4"}, "int4"),
    ],
)
def test_what_cannot_be_quantized_is_refused(tmp_path, arguments, word):
    source = save(net(MLP, **WEIGHTS), tmp_path / "m.onnx")
    given = {"calibration": loud(4, 64), "activations": "int8", **arguments}
    with pytest.raises(InvalidArgument, match=word):
        compress(source, tmp_path / "o.onnx", **given)
    assert not (tmp_path / "o.onnx").exists()
