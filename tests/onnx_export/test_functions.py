import math
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_export_models import call_model, outputs_of
from strategies import coder_inputs, rng, seeds, symbol_arrays

from codec.frame import Frame
from codec.tensor import DTYPES, FLOATS, StoredTensor, load, store_integers, store_weight
from onnx_export.calls import KIND_OF
from onnx_export.functions import BODIES, DOMAIN, functions
from refimpl.tans.blocks import Block, Chunks, decode_block, encode_block, split_chunks
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.stream import NUMPY, encode_stream

OPSETS = (11, 12, 13, 18, 21, 26)
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
OLDEST = {"bfloat16": 13, "int4": 21, "uint4": 21}  # opset in which Cast learnt the type
OPERATORS = {
    "Add", "ArgMax", "Cast", "Concat", "Constant", "CumSum", "Div", "Equal", "Expand", "Gather", "Less", "Loop", "Mod",
    "Mul", "NonZero", "Range", "ReduceProd", "Reshape", "ScatterND", "Shape", "Slice", "Sub", "TopK", "Where",
    "Identity",
}  # fmt: skip


def spread_out(symbols, classes):
    """The same symbols with a few far ones at a thousandth each: what classes are for."""
    rare = (np.arange(6000) * 7919 % 211).astype(np.uint8)
    mixed = np.resize(symbols, 6000)
    return np.where(np.arange(6000) % 97 == 0, rare, mixed).astype(np.uint8) if classes else symbols


@st.composite
def blocks(draw, kind, alphabet=256, max_size=600):
    """A block of the kind, whether or not that is the shortest one."""
    if kind.packed:
        alphabet = min(alphabet, 16)
    if kind.mode == "constant":
        return Block(
            "constant", draw(st.integers(1, max_size)), np.array([draw(st.integers(0, alphabet - 1))], np.uint8)
        )
    symbols, table_log, lane_count = draw(coder_inputs(max_size=max_size))
    symbols = (spread_out(symbols, kind.classes) % np.uint16(alphabet)).astype(np.uint8)
    if kind.packed and len(symbols) > 1:
        symbols[:2] = 1, 2  # a packed stream may not be one byte repeated
    units = pack_nibbles(symbols) if kind.packed else symbols
    if kind.mode == "raw":
        return Block("raw", len(symbols), units, packed=kind.packed)
    table_log = None if kind.classes else max(table_log, (len(np.unique(units)) - 1).bit_length())
    kept, chunks, coded = np.empty(0, np.uint8), None, units
    if kind.mode == "partial":
        per_block = draw(st.integers(2, 5))
        units = np.resize(units, max(len(units), per_block))
        if not kind.packed:
            symbols = units
        chunk = draw(st.integers(1, len(units) // per_block))
        chunks = Chunks(chunk, per_block, draw(st.integers(1, per_block - 1)))
        kept, coded = split_chunks(units, chunks)
    stream = encode_stream(coded, table_log=table_log, lane_count=min(lane_count, len(coded)))
    if kind.packed and kind.mode == "coded":
        assume(np.count_nonzero(stream.counts) > 1)
    count = 2 * len(units) if kind.packed else len(units)
    return Block(kind.mode, count, kept, stream, chunks, kind.packed)


def shapes(size):
    """Shapes of so many elements: rank 1 to 4."""

    def cut(dims):
        return (*dims, size // math.prod(dims)) if size % math.prod(dims) == 0 else (1, size, *(1 for _ in dims))

    return st.lists(st.sampled_from([1, 2, 3, 4, 5]), max_size=3).map(cut).flatmap(st.permutations).map(tuple)


@st.composite
def stored_weights(draw, kind):
    """A weight: scale and zero point are one number, or vary along some axes."""
    block = draw(blocks(kind))
    shape = draw(shapes(block.symbol_count))
    symbols_crc = zlib.crc32(np.ascontiguousarray(decode_block(block)).data)
    random = rng(draw(seeds))

    def broadcastable():
        return tuple(n if draw(st.booleans()) else 1 for n in shape)

    scale = np.ldexp(random.random(broadcastable()) + 0.5, draw(st.integers(-20, 6))).astype(np.float32)
    zero_point = random.integers(0, 256, draw(st.just((1,)) | st.builds(broadcastable)), np.uint8)
    return StoredTensor(shape, draw(st.sampled_from(sorted(FLOATS))), Frame(block, symbols_crc), zero_point, scale)


@st.composite
def stored_integers(draw, kind):
    """An integer tensor whose symbols begin at its smallest value."""
    dtype = draw(st.sampled_from(sorted(RANGES)))
    low, high = RANGES[dtype]
    block = draw(blocks(kind, alphabet=high - low + 1))
    symbols = decode_block(block)
    zero = min(-low, 0 if low == 0 else draw(st.integers(max(0, int(symbols.max()) - high), -low)))
    frame = Frame(block, zlib.crc32(np.ascontiguousarray(symbols).data))
    return StoredTensor(draw(shapes(len(symbols))), dtype, frame, np.array([zero], np.uint8), None)


def expected(stored):
    """The value in wide numbers, by the NumPy reference and the formulas of docs/spec/container.md."""
    symbols = decode_block(stored.frame.block, kernels=NUMPY).reshape(stored.shape)
    if stored.scale is None:
        return symbols.astype(np.int32) - stored.zero_point
    exact = (symbols.astype(np.float32) - stored.zero_point.astype(np.float32)) * stored.scale
    return exact.astype(FLOATS[stored.dtype]).astype(np.float32)


def check_everywhere(stored, opset):
    """ONNX Runtime, the reference evaluator, the codec and the NumPy reference agree bit for bit."""
    model = call_model("w", stored, max(opset, OLDEST.get(stored.dtype, 0)))
    onnx.checker.check_model(model, full_check=True)
    value, kind = expected(stored), np.int32 if stored.scale is None else np.float32
    for decoded in (load(stored).astype(kind), *outputs_of(model), *ReferenceEvaluator(model).run(None, {})):
        assert decoded.dtype == kind
        assert decoded.shape == stored.shape
        assert np.array_equal(decoded.view(np.int32), value.astype(kind).view(np.int32))


@pytest.mark.parametrize("name", [name for name, kind in KIND_OF.items() if kind.is_weight])
@settings(max_examples=15)
@given(data=st.data())
def test_weights_decode_alike_everywhere(name, data):
    check_everywhere(data.draw(stored_weights(KIND_OF[name])), data.draw(st.sampled_from(OPSETS)))


@pytest.mark.parametrize("name", [name for name, kind in KIND_OF.items() if not kind.is_weight])
@settings(max_examples=12)
@given(data=st.data())
def test_integers_decode_alike_everywhere(name, data):
    check_everywhere(data.draw(stored_integers(KIND_OF[name])), data.draw(st.sampled_from(OPSETS)))


@pytest.mark.parametrize("profile", ["gpu", "archive"])
@pytest.mark.parametrize("fraction", [1.0, 0.75, 0.25])
@settings(max_examples=12)
@given(symbols=symbol_arrays(min_size=1, max_size=4000), dtype=st.sampled_from(sorted(FLOATS)))
def test_what_the_codec_chooses_decodes_in_onnx_runtime(profile, fraction, symbols, dtype):
    zero_point, scale = np.array(symbols[0]), np.array(0.37, np.float32)
    stored = store_weight(symbols, zero_point, scale, dtype, profile=profile, fraction=fraction)
    (decoded,) = outputs_of(call_model("w", stored))
    assert np.array_equal(decoded, expected(stored))
    assert np.array_equal(decoded, load(stored).astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "opset"), [(dtype, opset) for dtype in DTYPES for opset in OPSETS if opset >= OLDEST.get(dtype, 0)]
)
def test_every_type_decodes_at_every_opset_that_has_it(dtype, opset):
    random = rng(3)
    if dtype in FLOATS:
        symbols = np.minimum(random.geometric(0.4, (9, 41)), 20).astype(np.uint8)
        symbols[0, 0] = 20
        scale = random.random((1, 41)).astype(np.float32)
        stored = store_weight(symbols, np.full((9, 1), 3, np.uint8), scale, dtype, fraction=0.5)
    else:
        low, high = RANGES[dtype]
        values = np.clip(random.normal(0, (high - low) / 30, (9, 41)).round() + 2, low, high).astype(np.int16)
        stored = store_integers(values.astype(np.int8 if low else np.uint8).astype(DTYPES[dtype]))
    assert stored.frame.block.mode in ("coded", "partial")
    check_everywhere(stored, opset)


@pytest.mark.parametrize("table_log", range(5, 13))
def test_every_table_size_decodes(table_log):
    symbols = np.minimum(rng(table_log).geometric(0.4, 500) - 1, 31).astype(np.uint8)
    block = encode_block(symbols, table_log=table_log, lane_count=7)
    stored = StoredTensor((500,), "float32", Frame(block, zlib.crc32(symbols)), np.uint8([4]), np.float32([0.1]))
    assert block.mode == "coded"
    check_everywhere(stored, 21)


def test_all_256_symbols_decode():
    symbols = rng(0).permutation(np.arange(512) % 256).astype(np.uint8)
    stream = encode_stream(symbols, table_log=12, lane_count=3)
    frame = Frame(Block("coded", 512, symbols[:0], stream), zlib.crc32(symbols))
    check_everywhere(StoredTensor((2, 256), "float32", frame, np.uint8([128]), np.float32([[1], [2]])), 11)


def test_a_window_at_the_end_of_the_words_reads_no_further():
    # One lane whose bits end with the last word: the loop's last iteration reads behind it.
    symbols = np.tile(np.array([0, 1], np.uint8), 500)
    for size in range(970, 1000):
        stream = encode_stream(symbols[:size], table_log=5, lane_count=1)
        frame = Frame(Block("coded", size, symbols[:0], stream), zlib.crc32(symbols[:size]))
        stored = StoredTensor((size,), "float32", frame, np.uint8([0]), np.float32([1]))
        assert np.array_equal(outputs_of(call_model("w", stored))[0], symbols[:size])


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_standard_operators_with_the_outputs_that_the_checker_expects(name):
    for function in functions([name], 13):
        assert function.domain == DOMAIN
        assert {o.domain: o.version for o in function.opset_import} == {"": 13, DOMAIN: 1}
        called = {(node.domain, node.op_type) for node in function.node}
        assert {op for domain, op in called if domain != DOMAIN} <= OPERATORS
        assert {op for domain, op in called if domain == DOMAIN} <= set(BODIES)
        onnx.checker.check_function(function, checker_context(13))


def checker_context(opset):
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 8, {"": opset, DOMAIN: 1}
    return context


def test_only_what_is_called_is_in_a_model():
    assert set(KIND_OF) <= set(BODIES)
    assert [f.name for f in functions(["RawLinear"], 21)] == ["Dequantize", "RawLinear"]
    assert [f.name for f in functions(["DecompressPackedInteger"], 21)] == [
        "Steps", "Unpack", "Integer", "DecompressPacked", "DecompressPackedInteger",
    ]  # fmt: skip
    names = [f.name for f in functions(KIND_OF, 21)]
    assert len(names) == len(set(names)) == len(BODIES)
