"""Products that read symbols: what they compute, to which error, and which products are left alone."""

import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_export_models import NETS, feeds_for, net, normal, save
from stored_tensors import blocks, expected
from strategies import rng, seeds

from codec.frame import Frame
from codec.tensor import StoredTensor, store_weight
from onnx_export.calls import KIND_OF, write_call
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.native import library_path
from onnx_export.products import SYMBOLS_DOMAIN, multiply_symbols
from onnx_export.runtime import open_session, placement
from onnx_export.session import load_session
from refimpl.errors import ExportError
from refimpl.tans.blocks import decode_block

native_only = pytest.mark.skipif(library_path() is None, reason="the native op library was not built")
UNIT = 2.0**-24  # relative error of a float32 operation
WAYS = ("MatMul", "Gemm", "transB", "Transpose")
GEMM = "(float[n, 64] x) => (float[n, 32] y) {{ y = Gemm <{}> (x, w{}) }}"


def numbers_for(shape, random, spread):
    """A scale and a zero point, one number or one for each row, column or element."""
    sizes = tuple(n if wanted else 1 for n, wanted in zip(shape, spread, strict=True))
    return np.ldexp(random.random(sizes) + 0.5, -6).astype(np.float32), random.integers(0, 256, sizes, np.uint8)


@st.composite
def matrices(draw, kind):
    """A float32 matrix in a block of the kind."""
    block = draw(blocks(kind))
    count, random = block.symbol_count, rng(draw(seeds))
    rows = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    shape, axes = (rows, count // rows), st.tuples(st.booleans(), st.booleans())
    scale, _ = numbers_for(shape, random, draw(axes))
    _, zero_point = numbers_for(shape, random, draw(axes))
    frame = Frame(block, zlib.crc32(np.ascontiguousarray(decode_block(block)).data))
    return StoredTensor(shape, "float32", frame, zero_point, scale)


def model_of(stored, nodes, x_shape, y_shape, **tensors):
    """A call of a weight ``w``, and what reads it."""
    call = write_call("w", stored)
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, x_shape), info("y", TensorProto.FLOAT, y_shape)
    given = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(
        [call.node, *nodes], "product", [x], [y], [*call.inputs, *given],
        value_info=[info("w", TensorProto.FLOAT, stored.shape)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions(call.functions, 21))


def product_nodes(way):
    """y = x w, or x w^T, by what a graph may have for it; the second has a bias."""
    make = helper.make_node
    return {
        "MatMul": [make("MatMul", ["x", "w"], ["y"])],
        "Gemm": [make("Gemm", ["x", "w", "b"], ["y"])],
        "transB": [make("Gemm", ["x", "w"], ["y"], transB=1)],
        "Transpose": [make("Transpose", ["w"], ["v"], perm=[1, 0]), make("MatMul", ["x", "v"], ["y"])],
    }[way]


def check_product(stored, way, lead, threads=1):
    """Run a product with X of some leading axes and compare it with the one in float64."""
    weight = expected(stored).astype(np.float64)
    weight = weight.T if way in ("transB", "Transpose") else weight
    depth, columns = weight.shape
    x = rng(math.prod(lead) + 7 * depth).standard_normal((*lead, depth)).astype(np.float32)
    bias = rng(3).standard_normal(columns).astype(np.float32) if way == "Gemm" else np.zeros(columns, np.float32)
    tensors = {"b": bias} if way == "Gemm" else {}
    model = model_of(stored, product_nodes(way), [*lead, depth], [*lead, columns], **tensors)
    assert multiply_symbols(model) == {"w"}
    y = with_threads(model, threads).run(None, {"x": x})[0]
    assert y.shape == (*lead, columns)
    # Each sum takes depth products and as many additions, whatever their order, each off by at most a unit.
    sizes = np.abs(x).astype(np.float64) @ np.abs(weight) + np.abs(bias)
    assert (np.abs(y - (x.astype(np.float64) @ weight + bias)) <= 1.01 * (depth + 1) * UNIT * sizes + 1e-38).all()


def with_threads(model, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return open_session(model, options=options, native=True)


def leads(way):
    """The axes of X but the last; a Gemm's X is a matrix."""
    matrix = way in ("Gemm", "transB")
    return st.lists(st.integers(0, 5) | st.integers(6, 40), min_size=int(matrix), max_size=1 if matrix else 3)


@native_only
@pytest.mark.parametrize("name", [name for name, kind in KIND_OF.items() if kind.is_weight])
@settings(max_examples=30)
@given(data=st.data())
def test_products_are_those_of_the_weights_whatever_their_shapes(name, data):
    way = data.draw(st.sampled_from(WAYS))
    check_product(data.draw(matrices(KIND_OF[name])), way, data.draw(leads(way)))


def large_matrices():
    """Several blocks each way, and edges of all of them."""
    random = rng(4)
    symbols = np.minimum(random.geometric(0.2, (701, 333)), 60).astype(np.uint8)
    for spread in ((0, 0), (0, 1), (1, 0), (1, 1)):
        scale, zero_point = numbers_for(symbols.shape, random, spread)
        yield store_weight(symbols, zero_point, scale, "float32")
        yield store_weight(np.minimum(symbols, 15), np.uint8([3]), scale, "float32", fraction=0.5)


@native_only
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_products_on_any_number_of_threads(threads):
    for stored in large_matrices():
        for way, rows in (("MatMul", 1), ("Transpose", 29), ("Gemm", 401), ("transB", 13)):
            check_product(stored, way, [rows], threads)


@native_only
@pytest.mark.parametrize("decoder", ["portable", "avx2", "avx512"])
def test_every_instruction_set_multiplies(decoder):
    """One that the processor lacks falls back to what it has."""
    script = """
from test_products import WAYS, check_product, large_matrices
for stored in large_matrices():
    for way in WAYS:
        for rows in (1, 5, 19):
            check_product(stored, way, [rows])
for way in WAYS:
    for rows in range(14):
        check_product(stored, way, [rows])
"""
    here = Path(__file__).parent
    environment = os.environ | {"TANSOR_DECODER": decoder, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@native_only
@pytest.mark.parametrize("way", WAYS)
def test_weights_in_products_are_exact(way):
    for stored in large_matrices():
        weight = expected(stored)
        turned = way in ("transB", "Transpose")
        depth, columns = weight.shape[::-1] if turned else weight.shape
        tensors = {"b": np.zeros(columns, np.float32)} if way == "Gemm" else {}
        model = model_of(stored, product_nodes(way), [depth, depth], [depth, columns], **tensors)
        multiply_symbols(model)
        y = with_threads(model, 1).run(None, {"x": np.eye(depth, dtype=np.float32)})[0]
        assert np.array_equal(y, weight.T if turned else weight)


@native_only
def test_a_factor_of_another_size_is_refused():
    stored = next(large_matrices())
    model = model_of(stored, product_nodes("MatMul"), ["n", "k"], ["n", 333])
    multiply_symbols(model)
    with pytest.raises(Exception, match="factors do not fit"):
        with_threads(model, 1).run(None, {"x": np.zeros((2, 700), np.float32)})


# Look-ups


@native_only
@settings(max_examples=30)
@given(st.data())
def test_rows_are_exact(data):
    stored = data.draw(matrices(KIND_OF[data.draw(st.sampled_from(["DecompressLinear", "RawPackedLinear"]))]))
    count, width = stored.shape
    nodes = [helper.make_node("Gather", ["w", "rows"], ["picked"]), helper.make_node("Mul", ["picked", "x"], ["y"])]
    rows = np.array(data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=4)))[None]
    model = model_of(stored, nodes, [1], [*rows.shape, width], rows=rows)
    assert multiply_symbols(model) == {"w"}
    picked = with_threads(model, 1).run(None, {"x": np.ones(1, np.float32)})[0]
    assert np.array_equal(picked, expected(stored)[rows])


@native_only
def test_a_table_read_at_both_ends_is_decoded_once(tmp_path):
    body = """(int64[n] rows) => (float[n, 90] y) {
        e = Gather(w, rows)
        r = Relu(e)
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul(r, t) }"""
    path = compressed(net(body, w=normal(90, 64)), tmp_path)
    streaming, resident = load_session(path, "streaming"), load_session(path)
    assert kinds_of(streaming)[f"{SYMBOLS_DOMAIN}.MatMul"] == 1
    assert sum(kind.endswith("Linear") for kind in kinds_of(streaming).elements()) == 1
    rows = {"rows": np.array([3, 0, 89])}
    assert np.allclose(streaming.run(None, rows)[0], resident.run(None, rows)[0], rtol=1e-5, atol=1e-6)


# In a graph


def gemm(attributes="transB = 1", bias=", b", rows=32, columns=64, **tensors):
    tensors = {"w": normal(rows, columns)} | ({"b": normal(32, seed=3)} if bias else {}) | tensors
    return net(GEMM.format(attributes, bias), **tensors)


def compressed(model, folder):
    compress(save(model, folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


def kinds_of(session):
    placed = placement(session)
    if placed is None:
        pytest.skip("this ONNX Runtime does not tell what runs where")
    return placed["cpu"]


@native_only
@pytest.mark.parametrize("bias", [normal(32, seed=3), normal(1, 32, seed=3), normal(1), normal(1)[0], None])
def test_biases_of_all_shapes(tmp_path, bias):
    path = compressed(gemm(bias="") if bias is None else gemm(b=bias), tmp_path)
    x = {"x": normal(5, 64, seed=9)}
    results = [load_session(path, mode).run(None, x)[0] for mode in ("streaming", "resident")]
    assert np.allclose(*results, rtol=1e-5, atol=1e-6)


@native_only
@pytest.mark.parametrize("name", ["deep", "if"])
def test_a_model_gives_what_it_gave(tmp_path, name):
    path = compressed(NETS[name](), tmp_path)
    before = path.read_bytes()
    streaming, resident = load_session(path, "streaming"), load_session(path)
    feeds = feeds_for(resident)
    assert np.allclose(streaming.run(None, feeds)[0], resident.run(None, feeds)[0], rtol=1e-5, atol=1e-5)
    assert path.read_bytes() == before


def test_other_values_keep_their_names(tmp_path):
    model = read_model(compressed(gemm(), tmp_path))
    assert multiply_symbols(model) == {"w"}
    assert [(node.domain, node.output[0]) for node in model.graph.node] == [
        (SYMBOLS_DOMAIN, "w.symbols_"), (SYMBOLS_DOMAIN, "y"),  # an initializer is called w.symbols: it is stored raw
    ]  # fmt: skip


def test_names_that_are_taken_are_left_alone(tmp_path):
    body = "(float[n, 64] x) => (float[n, 32] y) { w__symbols = Relu(x) \n y = MatMul(w__symbols, w) }"
    model = read_model(compressed(net(body.replace("__", "_"), w=normal(64, 32)), tmp_path))
    model.graph.node[-2].output[0] = model.graph.node[-1].input[0] = "w.symbols"
    assert multiply_symbols(model) == {"w"}
    assert [node.output[0] for node in model.graph.node] == ["w.symbols_", "w.symbols", "y"]


SQUARE = "(float[64, n] x) => (float[64, n] y) {{ {} }}"


@pytest.mark.parametrize(
    "model",
    [
        gemm("transB = 1, alpha = 0.5"),
        gemm("transB = 1, beta = 0.5"),
        net("(float[64, n] x) => (float[n, 32] y) { y = Gemm <transA = 1> (x, w) }", w=normal(64, 32)),
        net("(float16[n, 64] x) => (float16[n, 32] y) { y = MatMul(x, w) }", w=normal(64, 32, dtype=np.float16)),
        net("(float[n, 2, 64] x) => (float[n, 2, 32] y) { y = MatMul(x, w) }", w=normal(2, 64, 32)),
        net(SQUARE.format("y = MatMul(w, x)"), w=normal(64, 64)),
        net(SQUARE.format("v = MatMul(w, w) \n y = MatMul(v, x)"), w=normal(64, 64)),
        net(SQUARE.format("v = Transpose(w) \n y = MatMul(v, x)"), w=normal(64, 64)),
        net(SQUARE.format("v = Transpose <perm = [0, 1]> (w) \n u = MatMul(v, v) \n y = MatMul(u, x)"),
            w=normal(64, 64)),
        net(SQUARE.format("i = Constant <value = int64 {3}> () \n c = Gather <axis = 1> (w, i) \n y = Add(x, c)"),
            w=normal(64, 64)),
        net("(float[n, 64] x) => (float[n, 64] y, float[64, 64] z) { y = MatMul(x, w) \n z = Sqrt(w) }",
            w=normal(64, 64)),
        NETS["loop"](),
    ],
    ids=["alpha", "beta", "transA", "float16", "three axes", "in front", "both", "Transpose in front",
         "no Transpose", "columns", "another reader", "subgraph"],
)  # fmt: skip
def test_all_else_is_left_alone(model, tmp_path):
    model = read_model(compressed(model, tmp_path))
    before = model.SerializeToString(deterministic=True)
    assert multiply_symbols(model) == set()
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_leave_the_graph_are_left_alone(tmp_path):
    model = read_model(compressed(gemm(), tmp_path))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 64]))
    assert multiply_symbols(model) == set()


def test_weights_that_are_not_compressed_are_left_alone():
    assert multiply_symbols(gemm()) == set()


@native_only
def test_damage_is_found_in_products_too(tmp_path):
    path = compressed(gemm(), tmp_path)
    model = onnx.load(path)
    stream = next(t for t in model.graph.initializer if t.name.endswith((".stream", ".symbols")))
    stream.raw_data = bytes([stream.raw_data[0] ^ 1]) + stream.raw_data[1:]
    onnx.save(model, path)
    with pytest.raises(ExportError, match="stored_crc"):
        load_session(path, "streaming")
