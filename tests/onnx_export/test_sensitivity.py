import numpy as np
import pytest
from onnx_export_models import NETS, as_constant_nodes, feeds_for, net, normal, outputs_of, session

from onnx_export.probe import output_sqnr
from onnx_export.sensitivity import Probe, overridable, ratio_of_sums
from onnx_export.ties import find_ties
from onnx_export.weights import find_constants


def parts(model):
    return find_ties([c for c in find_constants(model) if c.is_float and c.array.ndim > 1])


@pytest.mark.parametrize("name", ["deep", "conv", "gather", "tied", "constant nodes", "graph input", "if", "float16"])
def test_nothing_replaced_changes_nothing(name):
    model = NETS[name]()
    constants, ties = parts(model)
    feeds = feeds_for(session(model))
    changed = overridable(model, {c.name: c.array for c in constants}, ties)
    assert all(
        np.allclose(a, b, atol=1e-3) for a, b in zip(outputs_of(model, feeds), outputs_of(changed, feeds), strict=True)
    )
    assert Probe(model, constants, ties, [feeds]).error({}) == pytest.approx(0, abs=1e-9)


def test_the_error_is_that_of_the_model_with_the_weight_replaced():
    for make in (NETS["deep"], lambda: as_constant_nodes(NETS["deep"]())):
        model = make()
        constants, ties = parts(model)
        feeds = [feeds_for(session(model), seed=i) for i in range(3)]
        probe = Probe(model, constants, ties, feeds)
        new = normal(96, 64, seed=2) + 0.1 * normal(96, 64, seed=9)
        changed = net(
            """(float[n, 64] x) => (float[n, 32] y) {
                a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Tanh(c) y = MatMul(d, w3) }""",
            w1=normal(64, 96), w2=new, w3=normal(64, 32, seed=3),
        )  # fmt: skip
        before = [np.concatenate([outputs_of(model, f)[0].ravel() for f in feeds])]
        after = [np.concatenate([outputs_of(changed, f)[0].ravel() for f in feeds])]
        assert -10 * np.log10(probe.error({"w2": new})) == pytest.approx(output_sqnr(before, after), abs=0.05)


def test_what_is_tied_changes_with_its_source():
    model = NETS["tied"]()
    constants, ties = parts(model)
    assert ties
    feeds = feeds_for(session(model))
    new = normal(48, 40, seed=5)
    changed = net("(int64[n] i) => (float[n, 48] y) { e = Gather(w, i) y = MatMul(e, v) }", w=new, v=new.T)
    (after,) = Probe(model, constants, ties, [feeds]).outputs(feeds, {"w": new})
    assert np.array_equal(after, outputs_of(changed, feeds)[0])


def test_outputs_that_say_nothing_have_no_error():
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=normal(64, 32))
    constants, ties = parts(model)
    probe = Probe(model, constants, ties, [{"x": np.zeros((2, 64), np.float32)}])
    assert probe.error({"w": normal(64, 32, seed=1)}) is None


def test_other_inputs_have_outputs_of_their_own():
    model = NETS["deep"]()
    constants, ties = parts(model)
    first, second = ([feeds_for(session(model), seed=i) for i in seeds] for seeds in ((0, 1), (2, 3, 4)))
    probe, new = Probe(model, constants, ties, first), {"w2": normal(96, 64, seed=2) + 0.1 * normal(96, 64, seed=9)}
    before = probe.error(new)
    other = probe.on(second)
    assert other.error(new) == Probe(model, constants, ties, second).error(new) != before
    assert probe.error(new) == before
    assert other.bound(new) > other.error(new)


def test_the_standard_error_is_how_far_a_ratio_of_sums_scatters():
    rng = np.random.default_rng(0)
    signal = rng.uniform(1, 3, size=(4000, 30))
    noise = 0.1 * signal * rng.gamma(2.0, 0.5, size=signal.shape)
    found = np.array([ratio_of_sums(n, s) for n, s in zip(noise, signal, strict=True)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)
    assert ratio_of_sums(np.ones(3), np.zeros(3)) is None
    assert ratio_of_sums(np.ones(1), np.full(1, 4.0)) == (0.25, 0.0)
