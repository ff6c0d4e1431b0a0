"""Random small graphs: what absorbs a scale computes the same, and what must not be touched is not."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_export_models import arrays_of, net, outputs_of
from strategies import rng, seeds

from onnx_export.absorb import find_sink, read_graph
from onnx_export.placement import layers_of, set_constants
from onnx_export.weights import find_constants
from refimpl.scaling import absorb

C = 12  # channels of the value that is divided
NORM = """
    m = ReduceMean <axes = [-1], keepdims = 1> (x)
    d = Sub(x, m)
    q = Mul(d, d)
    u = ReduceMean <axes = [-1], keepdims = 1> (q)
    v = Sqrt(u)
    n = Div(d, v)
    g = Mul(n, gamma)
    h = Add(g, beta)
"""
# name -> (opset, kind of the sink, nodes from x (n, 3, 12) to h, shapes of its constants)
FRONTS = {
    "LayerNormalization": (18, "LayerNorm", "h = LayerNormalization <axis = -1> (x, gamma, beta)",
                           {"gamma": (C,), "beta": (C,)}),
    "without bias": (18, "LayerNorm", "h = LayerNormalization <axis = -1> (x, gamma)", {"gamma": (C,)}),
    "last two axes": (18, "LayerNorm", "h = LayerNormalization <axis = -2> (x, gamma, beta)",
                      {"gamma": (3, C), "beta": (3, C)}),
    "decomposed": (13, "LayerNorm", NORM, {"gamma": (C,), "beta": (C,)}),
    "decomposed, constants first": (13, "LayerNorm",
                                    NORM.replace("(n, gamma)", "(gamma, n)").replace("(g, beta)", "(beta, g)"),
                                    {"gamma": (1, 1, C), "beta": (1, C)}),
    "root mean square": (13, "LayerNorm", "q = Mul(x, x) u = ReduceMean <axes = [-1]> (q) v = Sqrt(u) "
                         "n = Div(x, v) h = Mul(n, gamma)", {"gamma": (C,)}),
    "MatMul": (13, "linear", "h = MatMul(x, p)", {"p": (C, C)}),
    "MatMul, Add": (13, "linear", "a = MatMul(x, p) h = Add(a, b)", {"p": (C, C), "b": (C,)}),
    "MatMul, Sub": (13, "linear", "a = MatMul(x, p) h = Sub(b, a)", {"p": (C, C), "b": (C,)}),
    "Relu": (13, "linear", "a = MatMul(x, p) e = Add(a, b) h = Relu(e)", {"p": (C, C), "b": (C,)}),
    "LeakyRelu": (13, "linear", "a = MatMul(x, p) e = Add(a, b) f = LeakyRelu(e) h = Identity(f)",
                  {"p": (C, C), "b": (1, C)}),
    "Relu after LayerNormalization": (18, "LayerNorm", "a = LayerNormalization (x, gamma, beta) h = Relu(a)",
                                      {"gamma": (C,), "beta": (C,)}),
    "gate": (13, "linear", "a = MatMul(x, p) e = MatMul(x, q) f = Sigmoid(e) h = Mul(f, a)",
             {"p": (C, C), "q": (C, C)}),
    "attention": (13, "linear", """
        k = MatMul(x, p)
        a = Add(k, b)
        r = Reshape(a, split)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        o = MatMul(mix, t)
        e = Transpose <perm = [0, 2, 1, 3]> (o)
        h = Reshape(e, join)""", {"p": (C, C), "b": (C,), "mix": (3, 3)}),
    "squeezed": (13, "linear", "a = MatMul(x, p) e = Unsqueeze(a, first) f = Relu(e) h = Squeeze(f, first)",
                 {"p": (C, C)}),
}  # fmt: skip
GEMMS = {
    "Gemm": ("a = Gemm(y2, p, b)", {"p": (C, C), "b": (C,)}),
    "Gemm transB": ("a = Gemm <transB = 1> (y2, p, b)", {"p": (C, C), "b": (1, C)}),
    "Gemm alpha beta": ("a = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (y2, p, b)", {"p": (C, C), "b": (C,)}),
    "Gemm without C": ("a = Gemm(y2, p)", {"p": (C, C)}),
}
FRONTS |= {
    name: (13, "linear", f"y2 = Reshape(x, rows) {gemm} e = Relu(a) h = Reshape(e, back)", shapes)
    for name, (gemm, shapes) in GEMMS.items()
}
INTEGERS = {"split": [0, 3, 4, 3], "join": [0, 3, C], "first": [0], "rows": [-1, C], "back": [-1, 3, C]}


def model_of(nodes, shapes, opset=13, readers=("w",), dtype=np.float32, extra="", more_outputs="", **given):
    """x (n, 3, 12) -> h by the nodes, which weights read; the outputs are their products."""
    random = rng(3)
    text = f"(float[n, 3, {C}] x) => (" + ", ".join(f"float[n, 3, 5] y_{r}" for r in readers) + more_outputs + ") {"
    text += nodes + extra + " ".join(f"y_{r} = MatMul(h, {r})" for r in readers) + "}"
    arrays = {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    arrays |= {r: random.standard_normal((C, 5)).astype(dtype) for r in readers}
    arrays |= {n: np.array(i, np.int64) for n, i in INTEGERS.items() if f"{n})" in nodes}
    return net(text, opset, **(arrays | given))


def divide(model, s, readers=("w",), frozen=frozenset()):
    """The model with its value h divided by s and the weights multiplied, or None."""
    sink = find_sink(read_graph(model, frozen), "h", C, len(readers))
    if sink is None:
        return None, None
    arrays = arrays_of(model)
    edits = {name: absorb(arrays[name], s[index], inverse=True) for name, index in sink.edits.items()}
    edits |= {r: absorb(arrays[r], s[:, None], inverse=False) for r in readers}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    set_constants(changed, edits)
    return changed, sink


def scales(seed):
    return np.exp(rng(seed).standard_normal(C)).astype(np.float32)


def feeds(seed):
    return {"x": rng(seed).standard_normal((4, 3, C)).astype(np.float32)}


def with_output(model, name):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, C]))
    return copy


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("readers", [("w",), ("w", "w2", "w3")])
@given(seeds)
def test_the_outputs_stay_and_the_value_is_divided(front, readers, seed):
    opset, kind, nodes, shapes = FRONTS[front]
    model, s = model_of(nodes, shapes, opset, readers), scales(seed)
    changed, sink = divide(model, s, readers)
    assert sink is not None
    assert sink.kind == kind
    before, after = outputs_of(model, feeds(seed)), outputs_of(changed, feeds(seed))
    for a, b in zip(before, after, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    h, divided = (outputs_of(with_output(m, "h"), feeds(seed))[-1] for m in (model, changed))
    assert np.allclose(divided, h / s, rtol=1e-4, atol=1e-4 * np.abs(divided).max())


def refused(nodes, shapes, opset=13, readers=("w",), frozen=frozenset(), **more):
    return divide(model_of(nodes, shapes, opset, readers, **more), scales(1), readers, frozen)[1] is None


LINEAR = "a = MatMul(x, p) h = Add(a, b)"
SHAPES = {"p": (C, C), "b": (C,)}


def test_what_would_change_something_else_is_refused():
    assert not refused(LINEAR, SHAPES)
    assert refused(LINEAR, SHAPES, extra=" z = Relu(h) ", more_outputs=f", float[n, 3, {C}] z")  # another reader
    assert refused(LINEAR, SHAPES, extra=" z = Relu(a) ", more_outputs=f", float[n, 3, {C}] z")  # on the way
    assert refused(LINEAR, SHAPES, more_outputs=f", float[n, 3, {C}] h")  # an output
    assert refused(LINEAR, SHAPES, more_outputs=f", float[n, 3, {C}] a")
    assert refused(LINEAR, SHAPES, frozen={"b"})
    assert refused(LINEAR, SHAPES, frozen={"p"})
    assert refused(LINEAR, SHAPES, extra=" z = MatMul(x, p) ", more_outputs=f", float[n, 3, {C}] z")  # a shared weight
    assert refused(LINEAR, SHAPES, extra=" z = Mul(x, b) ", more_outputs=f", float[n, 3, {C}] z")  # a shared bias


def test_a_shared_bias_of_zeros_needs_no_change():
    zeros = np.zeros(C, np.float32)
    model = model_of(LINEAR, SHAPES, extra=" z = Mul(x, b) ", more_outputs=f", float[n, 3, {C}] z", b=zeros)
    changed, sink = divide(model, scales(2))
    assert set(sink.edits) == {"p"}
    before, after = outputs_of(model, feeds(2)), outputs_of(changed, feeds(2))
    assert np.allclose(before[0], after[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "nodes",
    [
        "h = Identity(x)",  # the model's input
        "a = MatMul(x, p) h = Tanh(a)",
        "a = MatMul(x, p) h = Gelu(a)",
        "a = MatMul(x, p) h = Softmax(a)",
        "a = MatMul(x, p) h = Add(a, x)",  # a residual
        "a = MatMul(x, p) h = Add(a, one)",  # no bias for each channel
        "a = MatMul(x, p) h = Mul(a, a)",
        "a = MatMul(x, p) h = Clip(a, zero, one)",
        "a = MatMul(x, p) t = Transpose <perm = [0, 2, 1]> (a) r = Reshape(t, back) h = Relu(r)",
        "a = MatMul(p, c1) h = Mul(x, a)",
    ],
)
def test_what_does_not_let_a_factor_through_is_refused(nodes):
    shapes = {n: s for n, s in {"p": (C, C), "c1": (C,)}.items() if f"{n})" in nodes or f"{n}," in nodes}
    scalars = {n: np.array(v, np.float32) for n, v in (("zero", 0), ("one", 6)) if n in nodes}
    assert refused(nodes, shapes, opset=21, **scalars)


def test_what_a_subgraph_reads_is_refused():
    text = f"""(bool c, float[n, 3, {C}] x) => (float[n, 3, 5] y, float[n, 3, {C}] z) {{
        a = MatMul(x, p)
        h = Relu(a)
        y = MatMul(h, w)
        z = If(c) <then_branch = t () => (float[n, 3, {C}] e) {{ e = Neg(INNER) }},
                   else_branch = f () => (float[n, 3, {C}] g) {{ g = Neg(x) }}> }}"""
    arrays = {"p": np.ones((C, C), np.float32), "w": np.ones((C, 5), np.float32)}
    for inner, is_refused in (("x", False), ("h", True), ("a", True)):
        sink = find_sink(read_graph(net(text.replace("INNER", inner), 13, **arrays), frozenset()), "h", C, 1)
        assert (sink is None) == is_refused


def test_what_a_caller_may_override_is_refused():
    model = model_of(LINEAR, SHAPES)
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [C]))
    assert divide(model, scales(1)) == (None, None)


def test_integers_are_left_alone():
    nodes = "r = DequantizeLinear(p, one) a = MatMul(x, r) h = Relu(a)"
    given = {"p": np.ones((C, C), np.int8), "one": np.ones((), np.float32)}
    assert refused(nodes, {}, **given)


@given(seeds, st.sampled_from([np.float16, np.float32]))
def test_constants_keep_their_dtype(seed, dtype):
    text = f"""(float16[n, {C}] x) => (float16[n, 5] y) {{
        h = LayerNormalization(x, gamma, beta) y = MatMul(h, w) }}"""
    text = text if dtype == np.float16 else text.replace("float16", "float")
    random = rng(seed)
    arrays = {n: random.standard_normal(s).astype(dtype) for n, s in
              (("gamma", (C,)), ("beta", (C,)), ("w", (C, 5)))}  # fmt: skip
    model, s = net(text, 18, **arrays), scales(seed)
    changed, _ = divide(model, s)
    for name, array in arrays_of(changed).items():
        expected = arrays[name].astype(np.float32) * s[:, None] if name == "w" else arrays[name].astype(np.float32) / s
        assert np.array_equal(array, expected.astype(dtype))


def test_layers_behind_a_transposed_weight_are_found():
    text = f"(float[n, {C}] x) => (float[n, 5] y) {{ t = Transpose(w) h = Relu(x) y = MatMul(h, t) }}"
    model = net(text, 13, w=np.ones((5, C), np.float32))
    from onnx_export.placement import Site

    (constant,) = find_constants(model)
    ((node, index),) = layers_of(model.graph, Site("h", (constant,)))
    assert (node.output[0], index) == ("y", 0)
