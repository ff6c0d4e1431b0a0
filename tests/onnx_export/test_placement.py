"""Where channel scales go: the model computes the same, and the cheapest place is taken."""

import numpy as np
import onnx
import pytest
from onnx_export_models import arrays_of, net, outputs_of, save
from strategies import rng

from onnx_export.compress import compress
from onnx_export.placement import place_scales
from onnx_export.recipes import DOUBLE
from onnx_export.verify import verify
from onnx_export.weights import find_constants
from refimpl.activations import ActivationStatistics

C, OUT = 64, 96


def loud(channels, seed=0):
    """Statistics of channels that differ by two orders of magnitude."""
    maximum = np.exp(np.linspace(-2.5, 2.5, channels))[rng(seed).permutation(channels)]
    return ActivationStatistics(maximum, maximum**2 / 9, maximum**2 / 10)


def weights(*shape, seed=0):
    return (rng(seed).standard_normal(shape) * 0.05).astype(np.float32)


def place(model, watched, frozen=frozenset(), tied=frozenset()):
    constants = [c for c in find_constants(model) if c.array.ndim == 2]
    statistics = {(name, -1): loud(channels) for name, channels in watched.items()}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed, place_scales(changed, constants, tied, frozen, statistics, DOUBLE)


def check_same(before, after):
    x = rng(5).standard_normal((4, C)).astype(np.float32)
    for a, b in zip(outputs_of(before, {"x": x}), outputs_of(after, {"x": x}), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


READERS = " ".join(f"y{i} = MatMul(h, w{i})" for i in range(3))
OUTPUTS = ", ".join(f"float[n, {OUT}] y{i}" for i in range(3))
THREE = {f"w{i}": weights(C, OUT, seed=i) for i in range(3)}


def test_readers_of_a_normalization_share_one_scale_that_it_absorbs():
    text = f"(float[n, {C}] x) => ({OUTPUTS}) {{ h = LayerNormalization(x, g, b) {READERS} }}"
    model = net(text, 18, g=np.ones(C, np.float32), b=np.ones(C, np.float32), **THREE)
    changed, placement = place(model, {"h": C})
    assert {p.where for p in placement.placed.values()} == {"LayerNorm"}
    assert placement.placed.keys() == THREE.keys()
    first, *others = placement.placed.values()
    assert all(p is first for p in others)
    arrays = arrays_of(changed)
    assert np.array_equal(arrays["g"], np.float32(1) / first.channel_scale)
    assert np.array_equal(arrays["w1"], THREE["w1"] * first.channel_scale[:, None])
    assert placement.scaled == dict.fromkeys(THREE, (0,))
    assert not placement.added
    check_same(model, changed)


def test_without_a_place_to_absorb_several_readers_get_a_product_and_one_keeps_its_own_scales():
    text = f"(float[n, {C}] x) => ({OUTPUTS}) {{ h = Tanh(x) {READERS} }}"
    changed, placement = place(model := net(text, 13, **THREE), {"h": C})
    assert {p.where for p in placement.placed.values()} == {"activations"}
    (vector,) = placement.added
    assert (vector.elements, vector.stored_bytes) == (C, 4 * C)
    check_same(model, changed)
    onnx.checker.check_model(changed, full_check=True)
    alone = net(f"(float[n, {C}] x) => (float[n, {OUT}] y) {{ h = Tanh(x) y = MatMul(h, w) }}", 13, w=THREE["w0"])
    changed, placement = place(alone, {"h": C})
    assert not placement.placed
    assert changed == alone


def test_a_linear_layer_absorbs_and_its_rows_remember():
    text = f"""(float[n, {C}] x) => ({OUTPUTS}) {{ a = MatMul(x, p) e = Add(a, b) h = Relu(e) {READERS} }}"""
    model = net(text, 13, p=weights(C, C, seed=9), b=weights(C, seed=8), **THREE)
    changed, placement = place(model, {"h": C})
    assert {p.where for p in placement.placed.values()} == {"linear"}
    s = placement.placed["w0"].channel_scale
    assert np.array_equal(placement.row_scales["p"], s)
    assert placement.scaled["p"] == (1,)
    assert np.array_equal(arrays_of(changed)["p"], arrays_of(model)["p"] / s)
    check_same(model, changed)


def test_frozen_and_tied_weights_stay():
    text = f"(float[n, {C}] x) => ({OUTPUTS}) {{ h = LayerNormalization(x, g, b) {READERS} }}"
    model = net(text, 18, g=np.ones(C, np.float32), b=np.ones(C, np.float32), **THREE)
    for names in ({"w1"}, {"w0", "w1", "w2"}):
        for arguments in ({"tied": names}, {"frozen": names}):
            changed, placement = place(model, {"h": C}, **arguments)
            assert not placement.placed.keys() & names
            assert all(np.array_equal(arrays_of(changed)[n], arrays_of(model)[n]) for n in names)
            check_same(model, changed)
    assert not place(model, {})[1].placed  # nothing is known of h


def test_the_report_says_where_and_verify_compares_up_to_the_scales(tmp_path):
    text = f"(float[n, {C}] x) => ({OUTPUTS}) {{ h = LayerNormalization(x, g, b) {READERS} }}"
    g = np.exp(np.linspace(-2.5, 2.5, C)).astype(np.float32)
    model = net(text, 18, g=g, b=np.zeros(C, np.float32), **THREE)
    source, output = save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx"
    report = compress(source, output, calibration=rng(0).standard_normal((200, C)).astype(np.float32))
    assert {t["absorbed"] for t in report["tensors"]} == {"LayerNorm"}
    assert len({t["exponent"] for t in report["tensors"]}) == 1
    lines = verify(output, source)["tensors"]
    assert {tuple(t["scaled"]) for t in lines} == {(0,)}
    for line, tensor in zip(lines, report["tensors"], strict=True):
        assert line["sqnr_db"] == pytest.approx(tensor["sqnr_db"], abs=0.6)
    wrong = save(
        net(text, 18, g=g, b=np.zeros(C, np.float32), **{n: w[::-1] for n, w in THREE.items()}), tmp_path / "w.onnx"
    )
    assert all(t["sqnr_db"] < 5 for t in verify(output, wrong)["tensors"])
