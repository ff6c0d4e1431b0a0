import numpy as np
import pytest
from onnx_export_models import NETS, arrays_of, feeds_for, net, normal, outputs_of, save, session
from strategies import rng

from codec.tensor import load, store_weight
from onnx_export.compress import compress
from onnx_export.probe import model_outputs, output_sqnr, probe_batches, with_weights
from onnx_export.ties import Tie


def test_the_signal_is_what_varies_around_the_mean():
    signal, noise = rng(0).standard_normal(10_000), rng(1).standard_normal(10_000)
    for offset in (0, 1000):
        assert output_sqnr([signal + offset], [signal + offset + 0.01 * noise]) == pytest.approx(40, abs=0.3)
    assert output_sqnr([signal], [signal]) == float("inf")
    assert output_sqnr([signal + 1000], [signal + 1001]) == pytest.approx(0, abs=0.3)  # a shift is noise


def test_the_worst_output_counts():
    good, bad = np.arange(9.0), np.arange(9.0) + (np.arange(9) % 2)
    assert output_sqnr([good, good], [good + 1e-3 * np.arange(9), bad]) == output_sqnr([good], [bad])


@pytest.mark.parametrize(
    "outputs",
    [[], [np.ones(5)], [np.full(5, np.nan)], [np.full(5, np.inf)], [np.empty(0)], [np.float64(3).reshape(())]],
)
def test_outputs_that_say_nothing_are_left_out(outputs):
    assert output_sqnr(outputs, [o + 1 for o in outputs]) is None


def test_infinite_places_are_left_out():
    a, b = np.array([1.0, 3.0, -np.inf, np.nan]), np.array([1.1, 3.1, -np.inf, 2.0])
    assert output_sqnr([a], [b * 1.01]) == output_sqnr([a[:2]], [b[:2] * 1.01])


def test_only_float_outputs_are_compared():
    model = net("(float[n, 4] x) => (float[n, 4] y, int64[2] s) { y = Tanh(x) s = Shape(x) }")
    (only,) = model_outputs(model, [{"x": np.ones((2, 4), np.float32)}, {"x": np.ones((3, 4), np.float32)}])
    assert only.shape == (20,)


def test_decoded_weights_take_the_place_of_the_originals():
    model = NETS["tied"]()
    before = model.SerializeToString()
    symbols = rng(0).integers(0, 9, (48, 40)).astype(np.uint8)
    stored = store_weight(symbols, np.array(4, np.uint8), np.array(0.1, np.float32), "float32")
    changed = with_weights(model, {"w": stored}, {"v": Tie("w", transposed=True)})
    assert model.SerializeToString() == before
    arrays = arrays_of(changed)
    assert np.array_equal(arrays["w"], load(stored))
    assert np.array_equal(arrays["v"], load(stored).T)
    expected = net(
        "(int64[n] i) => (float[n, 48] y) { e = Gather(w, i) y = MatMul(e, v) }", w=arrays["w"], v=arrays["v"]
    )
    feeds = feeds_for(session(model))
    assert np.array_equal(outputs_of(changed, feeds)[0], outputs_of(expected, feeds)[0])


@pytest.mark.parametrize(
    ("count", "first"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 4]), (36, range(0, 36, 4)), (1000, range(48, 1000, 100))]
)
def test_probes_are_spread_over_the_samples(count, first):
    model = net("(float[n, 4] x) => (float[n, 4] y) { y = Tanh(x) }")
    samples = np.arange(count, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    probes = probe_batches(session(model), {"x": samples})
    assert [int(p["x"][0, 0]) for p in probes] == list(first)


def test_large_outputs_end_the_probing(monkeypatch):
    model = net("(float[n, 4] x) => (float[n, 4] y) { y = Tanh(x) }")
    feeds = [{"x": np.full((2, 4), i, np.float32)} for i in range(5)]
    assert [o.size for o in model_outputs(model, feeds)] == [40]
    monkeypatch.setattr("onnx_export.probe.PROBE_BYTES", 40)
    assert [o.size for o in model_outputs(model, feeds)] == [16]


def test_calibration_keeps_what_the_outputs_need(tmp_path):
    # Sixteen layers in a row lose sixteen times as much: their targets are raised for it.
    layers = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(16))
    text = f"(float[n, 48] h0) => (float[n, 48] h16) {{ {layers} }}"
    weights = {f"w{i}": normal(48, 48, seed=i) * 3 for i in range(16)}
    source, samples = (
        save(net(text, **weights), tmp_path / "m.onnx"),
        rng(5).standard_normal((64, 48)).astype(np.float32),
    )
    report = compress(source, tmp_path / "o.onnx", calibration=samples, sparsity=0.0)
    feeds = {"h0": samples}
    sqnr = output_sqnr(outputs_of(source, feeds), outputs_of(tmp_path / "o.onnx", feeds))
    (line,) = [note for note in report["notes"] if "dB" in note]
    assert "targets of weights moved by +" in line
    assert sqnr > 20
    assert abs(float(line.split("keep ")[1].split(" dB")[0]) - sqnr) < 3
