import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper
from onnx_export_models import CONDITIONAL, LOOPED, NETS, arrays_of, as_constant_nodes, net, normal
from strategies import rng

from onnx_export.weights import (
    Reader,
    along_axis,
    find_constants,
    find_inside,
    fingerprint,
    from_matrix,
    from_rows,
    to_matrix,
    to_rows,
)


def readers(model, name="w"):
    (constant,) = [c for c in find_constants(model) if c.name == name]
    return constant.readers, constant.other_readers


# name -> (nodes, shape of w, its reader); x is the other input
READERS = {
    "MatMul, right": ("y = MatMul(x, w)", (64, 32), Reader("MatMul", 0, "x", -1)),
    "MatMul, left": ("y = MatMul(w, x)", (64, 32), Reader("MatMul", 1, None, -2)),
    "MatMul, batched": ("y = MatMul(x, w)", (4, 64, 32), Reader("MatMul", 1, "x", -1)),
    "MatMul, left, batched": ("y = MatMul(w, x)", (4, 64, 32), Reader("MatMul", 2, None, -2)),
    "Gemm": ("y = Gemm(x, w)", (64, 32), Reader("Gemm", 0, "x", -1)),
    "Gemm, bias": ("y = Gemm(x, w, b)", (64, 32), Reader("Gemm", 0, "x", -1)),
    "Gemm, transB": ("y = Gemm <transB = 1> (x, w)", (64, 32), Reader("Gemm", 1, "x", -1)),
    "Gemm, transA": ("y = Gemm <transA = 1> (x, w)", (64, 32), Reader("Gemm", 0, "x", -2)),
    "Gemm, both": ("y = Gemm <transA = 1, transB = 1> (x, w)", (64, 32), Reader("Gemm", 1, "x", -2)),
    "Gemm, left": ("y = Gemm(w, x)", (64, 32), Reader("Gemm", 1, "x", -2)),
    "Gemm, left, transA": ("y = Gemm <transA = 1> (w, x)", (64, 32), Reader("Gemm", 0, "x", -2)),
    "Gemm, left, transB": ("y = Gemm <transB = 1> (w, x)", (64, 32), Reader("Gemm", 1, "x", -1)),
    "Gemm, left, both": ("y = Gemm <transA = 1, transB = 1> (w, x)", (64, 32), Reader("Gemm", 0, "x", -1)),
    "Conv": ("y = Conv(x, w)", (32, 16, 3, 3), Reader("Conv", 1, "x", 1, row_axis=0)),
    "Conv, 1d": ("y = Conv(x, w, b)", (32, 16, 3), Reader("Conv", 1, "x", 1, row_axis=0)),
    "Conv, grouped": ("y = Conv <group = 2> (x, w)", (32, 8, 3, 3), Reader("Conv", 1, None, 1, row_axis=0)),
    "Conv, depthwise": ("y = Conv <group = 32> (x, w)", (32, 1, 3, 3), Reader("Conv", 1, None, 1, row_axis=0)),
    "ConvTranspose": ("y = ConvTranspose(x, w)", (16, 32, 3, 3), Reader("ConvTranspose", 0, "x", 1, row_axis=1)),
    "Gather": ("y = Gather(w, x)", (64, 32), Reader("Gather", 1, None, -1)),
    "Gather, axis 0": ("y = Gather <axis = 0> (w, x)", (64, 32), Reader("Gather", 1, None, -1)),
    "LSTM": ("y = LSTM <hidden_size = 32> (x, w, r)", (1, 128, 16), Reader("LSTM", 2, None, -1)),
    "LSTM, recurrent": ("y = LSTM <hidden_size = 32> (x, r, w)", (1, 128, 32), Reader("LSTM", 2, None, -1)),
    "GRU": ("y = GRU <hidden_size = 32> (x, w, r)", (1, 96, 16), Reader("GRU", 2, None, -1)),
    "behind Identity": ("v = Identity(w) y = MatMul(x, v)", (64, 32), Reader("MatMul", 0, "x", -1)),
    "behind Cast": ("v = Cast <to = 1> (w) y = MatMul(x, v)", (64, 32), Reader("MatMul", 0, "x", -1)),
    "behind Transpose": ("v = Transpose(w) y = MatMul(x, v)", (32, 64), Reader("MatMul", 1, "x", -1)),
    "behind perm": ("v = Transpose <perm = [2, 0, 1]> (w) y = MatMul(x, v)", (64, 32, 4), Reader("MatMul", 0, "x", -1)),
    "behind two": ("u = Transpose(w) v = Transpose(u) y = MatMul(x, v)", (64, 32), Reader("MatMul", 0, "x", -1)),
    "behind three": ("s = Cast <to = 1> (w) u = Transpose(s) v = Identity(u) y = MatMul(x, v)", (32, 64),
                     Reader("MatMul", 1, "x", -1)),
    "Conv behind Transpose": ("v = Transpose <perm = [3, 2, 0, 1]> (w) y = Conv(x, v)", (3, 3, 16, 32),
                              Reader("Conv", 2, "x", 1, row_axis=3)),
    "Conv behind Cast": ("v = Cast <to = 1> (w) y = Conv(x, v)", (32, 16, 3, 3), Reader("Conv", 1, "x", 1, row_axis=0)),
}  # fmt: skip


@pytest.mark.parametrize("case", READERS)
@pytest.mark.parametrize("in_node", [False, True])
def test_readers_that_are_understood(case, in_node):
    nodes, shape, reader = READERS[case]
    model = net(f"(float[a, b] x) => (float[c, d] y) {{ {nodes} }}", w=normal(*shape))
    if in_node:
        as_constant_nodes(model)
    assert readers(model) == ((reader,), ())
    (constant,) = find_constants(model)
    assert (constant.in_node, constant.input_axis, constant.row_axis) == (in_node, reader.input_axis, reader.row_axis)
    assert np.array_equal(constant.array, normal(*shape))


@pytest.mark.parametrize(
    ("nodes", "shape", "other"),
    [
        ("y = Add(x, w)", (64, 32), "Add"),
        ("y = Gather <axis = 1> (w, x)", (64, 32), "Gather"),
        ("y = Gather(x, w)", (64, 32), "Gather"),
        ("y = Gemm(x, x, w)", (64, 32), "the bias of Gemm"),
        ("y = Conv(w, x)", (1, 4, 32, 32), "Conv"),
        ("y = MatMul(x, w)", (2048,), "MatMul"),
        ("v = Reshape(w, x) y = MatMul(x, v)", (64, 32), "Reshape"),
        ("y = Einsum <equation = \"ab,bc->ac\"> (x, w)", (64, 32), "Einsum"),
        ("v = Transpose(w) y = Add(x, v)", (64, 32), "Add"),
        ("y = LSTM <hidden_size = 32> (w, x, x)", (8, 16, 16), "LSTM"),
        ("y, s = com.example.MatMul(x, w)", (64, 32), "MatMul"),
    ],
)  # fmt: skip
def test_other_readers_are_listed(nodes, shape, other):
    assert readers(net(f"(float[a, b] x) => (float[c, d] y) {{ {nodes} }}", w=normal(*shape))) == ((), (other,))


def test_all_readers_of_a_weight_are_found():
    model = net("(float[n, 64] x) => (float y) { a = MatMul(x, w) b = MatMul(a, w) c = Mul(b, w) y = Gemm(w, c) }",
                w=normal(64, 64))  # fmt: skip
    understood, others = readers(model)
    assert [(r.activation, r.input_axis) for r in understood] == [("x", 0), ("a", 0), ("c", 1)]
    assert others == ("Mul",)
    assert find_constants(model)[0].input_axis is None


def test_an_output_of_the_model_is_no_reader_that_may_be_approximated():
    model = net("(float[n, 64] x) => (float[n, 32] y, float[64, 32] w) { y = MatMul(x, w) }", w=normal(64, 32))
    assert len(readers(model)[1]) == 1
    behind = "(float[n, 64] x) => (float[n, 32] y, float[32, 64] t) { y = MatMul(x, w) t = Transpose(w) }"
    assert len(readers(net(behind, w=normal(64, 32)))[1]) == 1


@pytest.mark.parametrize(("text", "activation"), [(CONDITIONAL, None), (LOOPED, None)])
def test_readers_inside_bodies_count_but_watch_nothing(text, activation):
    side = 64 if text == LOOPED else 32
    assert readers(net(text, w=normal(64, side), v=normal(64, side))) == ((Reader("MatMul", 0, activation, -1),), ())


def test_what_a_body_does_behind_a_transpose_counts():
    text = CONDITIONAL.replace("a = MatMul(x, w)", "u = Transpose(w) a = MatMul(x, u)")
    assert readers(net(text, w=normal(32, 64), v=normal(64, 32))) == ((Reader("MatMul", 1, None, -1),), ())


def test_what_a_body_returns_is_no_reader_that_may_be_approximated():
    text = CONDITIONAL.replace("a = MatMul(x, w)", "a = Identity(w)").replace("n,", "64,")
    assert readers(net(text, w=normal(64, 32), v=normal(64, 32))) == ((), ("If",))


CARRIED = """(float[n, 64] x) => (float[n, 64] y, float[64, 64] last) {
    times = Constant <value = int64 {2}> ()
    yes = Constant <value = bool {1}> ()
    y, last = Loop(times, yes, x, w) <body = b (int64 i, bool go, float[n, 64] s, float[64, 64] u) =>
        (bool more, float[n, 64] t, float[64, 64] o) {
        more = Identity(go)
        t = MatMul(s, u)
        o = Identity(u)
    }> }"""


def test_what_a_loop_carries_as_it_is_is_read_in_its_body():
    model = net(CARRIED, w=normal(64, 64))
    assert readers(model) == ((Reader("MatMul", 0, None, -1),), ("the model's caller",))
    del model.graph.output[1]
    assert readers(model) == ((Reader("MatMul", 0, None, -1),), ())
    changed = net(CARRIED.replace("o = Identity(u)", "o = Tanh(u)"), w=normal(64, 64))
    assert readers(changed) == ((), ("Loop",))


SLICED = {
    "Slice": ("a = Slice(w, zero, some) y = MatMul(x, a)", Reader("MatMul", 0, None, -1)),
    "Split": ("a, b = Split <axis = 0> (w) y = MatMul(x, b)", Reader("MatMul", 0, None, -1)),
    "Concat": ("a = Concat <axis = 1> (w, x) y = MatMul(x, a)", Reader("MatMul", 0, None, -1)),
    "Unsqueeze": ("a = Unsqueeze(w, zero) y = MatMul(x, a)", Reader("MatMul", 0, "x", -1)),
    "Unsqueeze, last": ("a = Unsqueeze(w, last) b = Squeeze(a, last) y = MatMul(x, b)", Reader("MatMul", 0, "x", -1)),
    "gates in another order": (
        """a = Slice(w, zero, some) b = Slice(w, some, many) c = Concat <axis = 0> (b, a) d = Unsqueeze(c, zero)
        y = LSTM <hidden_size = 32> (x, d, r)""",
        Reader("LSTM", 1, None, -1),
    ),
}


@pytest.mark.parametrize("case", SLICED)
def test_nodes_that_only_move_values_are_looked_through(case):
    nodes, reader = SLICED[case]
    whole = net(f"(float[a, b] x) => (float[c, d] y) {{ {nodes} }}", w=normal(128, 32),
                zero=np.array([0]), some=np.array([64]), many=np.array([128]), last=np.array([-1]))  # fmt: skip
    understood, others = readers(whole)
    assert others == ()
    assert set(understood) == {reader}


@pytest.mark.parametrize(
    "nodes",
    ["a = Unsqueeze(w, x) y = MatMul(x, a)", "a = Unsqueeze(w, last) y = MatMul(x, a)", "a = Slice(x, w) y = Tanh(a)"],
)
def test_axes_that_are_not_known_or_not_of_the_constant_are_no_channels(nodes):
    model = net(f"(float[a, b] x) => (float[c, d] y) {{ {nodes} }}", w=normal(64, 32), last=np.array([1]))
    understood, others = readers(model)
    assert understood == ()
    assert len(others) == 1


def test_names_of_a_body_mean_nothing_outside_it():
    text = CONDITIONAL.replace("a = MatMul(x, w)", "u = Transpose(w) a = MatMul(x, u)").replace(
        "b = MatMul(x, v)", "u = Transpose(v) b = MatMul(x, u)"
    )
    model = net(text, w=normal(32, 64), v=normal(32, 64, seed=1))
    assert readers(model, "w") == readers(model, "v") == ((Reader("MatMul", 1, None, -1),), ())


def test_nested_bodies_are_read():
    inner = "z = If(c) <then_branch = p () => (float[n, 32] q) { q = MatMul(x, w) }, else_branch = r () => (float[n, 32] s) { s = MatMul(x, w) }>"  # noqa: E501
    text = CONDITIONAL.replace("a = MatMul(x, w)", f"{inner} a = Identity(z)").replace("MatMul(x, v)", "MatMul(x, w)")
    understood, others = readers(net(text, w=normal(64, 32)))
    assert len(understood) == 3
    assert others == ()


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.uint4],
)
def test_weights_of_every_type_are_found(dtype):
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=np.ones((64, 32), dtype))
    (constant,) = find_constants(model)
    assert constant.array.dtype == dtype
    assert constant.is_float == (dtype in (np.float32, np.float16, ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_, np.str_])
def test_other_types_are_no_weights(dtype):
    assert find_constants(net("(float[n] x) => (float[n] y) { y = Tanh(x) }", w=np.ones((64, 32), dtype))) == []


def test_an_unknown_type_is_no_weight():
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=normal(64, 32))
    model.graph.initializer[0].data_type = 65
    assert find_constants(model) == []
    assert find_inside(model) == []


def test_constants_inside_bodies_are_found_apart():
    text = CONDITIONAL.replace("b = MatMul(x, v)", "k = Constant <value = float[2] {1.0, 2.0}> () b = MatMul(x, v)")
    model = net(text, w=normal(64, 32))
    bodies = [a.g for a in model.graph.node[0].attribute]
    bodies[1].initializer.append(numpy_helper.from_array(normal(64, 32, seed=3), "v"))
    bodies[0].initializer.append(numpy_helper.from_array(np.arange(5), "numbers"))
    found = dict(find_inside(model))
    assert found.keys() == {"k", "v"}
    assert np.array_equal(found["v"], normal(64, 32, seed=3))
    assert [c.name for c in find_constants(model)] == ["w"]


def test_scalars_vectors_and_empty_tensors_are_found():
    model = net("(float[n] x) => (float[n] y) { a = Mul(x, s) y = Add(a, v) }", s=np.float32(2), v=normal(9),
                e=np.empty((0, 4), np.float32))  # fmt: skip
    assert [(c.name, c.array.shape, c.readers) for c in find_constants(model)] == [
        ("s", (), ()), ("v", (9,), ()), ("e", (0, 4), ())
    ]  # fmt: skip
    assert [c.other_readers for c in find_constants(model)] == [("Mul",), ("Add",), ()]


@pytest.mark.parametrize("case", NETS)
def test_no_weight_of_a_model_is_missed(case):
    model = NETS[case]()
    assert {c.name for c in find_constants(model)} == arrays_of(model).keys() - {"times", "yes"}


def test_names_that_a_local_function_reads_are_not_understood():
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = local.f(x, w) }", w=normal(64, 32))
    body = onnx.parser.parse_function('<domain: "local", opset_import: ["" : 21]> f (a, b) => (c) { c = MatMul(a, b) }')
    model.functions.append(body)
    assert readers(model) == ((), ("f",))


@given(hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)), st.data())
def test_matrices_and_rows_are_undone(array, data):
    axis = data.draw(st.integers(0, array.ndim - 1))
    matrix, rows = to_matrix(array, axis), to_rows(array, axis)
    assert matrix.shape == (array.size // array.shape[axis], array.shape[axis])
    assert rows.shape == (array.shape[axis], array.size // array.shape[axis])
    assert np.array_equal(from_matrix(matrix, array.shape, axis), array)
    assert np.array_equal(from_rows(rows, array.shape, axis), array)
    scaled = along_axis(np.arange(array.shape[axis]), array.ndim, axis) * array
    assert np.array_equal(to_matrix(scaled, axis), matrix * np.arange(array.shape[axis]))


def test_fingerprints_tell_types_and_shapes_apart():
    array = rng(1).integers(0, 9, (4, 6), np.uint8)
    different = [array, array.T, array.reshape(6, 4), array.view(np.int8), array + 1]
    assert len({fingerprint(a) for a in different}) == len(different)
    assert fingerprint(array.T) == fingerprint(np.ascontiguousarray(array.T))


def test_an_initializer_is_found_under_every_way_of_writing_it():
    values = normal(4, 300)
    raw = numpy_helper.from_array(values, "raw")
    listed = helper.make_tensor("listed", onnx.TensorProto.FLOAT, values.shape, values.reshape(-1).tolist())
    model = net("(float[n, 4] x) => (float[n, 300] y) { a = MatMul(x, raw) b = MatMul(x, listed) y = Add(a, b) }")
    model.graph.initializer.extend([raw, listed])
    first, second = find_constants(model)
    assert fingerprint(first.array) == fingerprint(second.array)
