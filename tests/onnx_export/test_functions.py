import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_export_models import call_model, outputs_of
from stored_tensors import OLDEST, OPSETS, RANGES, expected, stored_integers, stored_weights
from strategies import rng, symbol_arrays

from codec.frame import Frame
from codec.tensor import DTYPES, FLOATS, StoredTensor, load, store_integers, store_weight
from onnx_export.calls import INTERLEAVE, KIND_OF
from onnx_export.functions import BODIES, DOMAIN, functions, parse
from refimpl.tans.blocks import Block, encode_block
from refimpl.tans.stream import encode_stream

OPERATORS = {
    "Add", "ArgMax", "ArgMin", "Cast", "Concat", "Constant", "CumSum", "Div", "Equal", "Expand", "Gather", "Identity",
    "Less", "Loop", "Mod", "Mul", "NonZero", "Range", "ReduceProd", "Reshape", "ScatterND", "Shape", "Slice", "Sub",
    "TopK", "Where",
}  # fmt: skip


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
        "Fields", "Step", "Steps", "Trim", "Unpack", "Integer", "DecompressPackedInteger",
    ]  # fmt: skip
    names = [f.name for f in functions([*KIND_OF, INTERLEAVE], 21)]
    assert len(names) == len(set(names)) == len(BODIES)


@pytest.mark.parametrize("name", BODIES)
def test_a_file_holds_the_body_with_short_names(name):
    (written,) = (f for f in functions([name], 21) if f.name == name)
    source = parse(f'<domain: "{DOMAIN}", opset_import: ["" : 21, "{DOMAIN}" : 1]> ' + BODIES[name])
    assert list(written.input) == list(source.input)
    assert list(written.output) == list(source.output)
    before, after = (list(nodes_of(f.node)) for f in (source, written))
    assert [(n.domain, n.op_type) for n in before] == [(n.domain, n.op_type) for n in after]
    pairs = {pair for b, a in zip(before, after, strict=True) for pair in zip(names_of(b), names_of(a), strict=True)}
    assert len(pairs) == len({b for b, _ in pairs}) == len({a for _, a in pairs})  # one to one
    ends = {*source.input, *source.output}
    assert all(len(a) <= 2 or a == b in ends for b, a in pairs)


def nodes_of(nodes):
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g.node)


def names_of(node):
    ends = [value.name for attribute in node.attribute for value in (*attribute.g.input, *attribute.g.output)]
    return [*node.input, *node.output, *ends]


def test_the_functions_of_a_usual_file_take_less_than_seven_kilobytes():
    assert sum(f.ByteSize() for f in functions(["DecompressLinear", "DecompressClassesLinear"], 21)) < 7000
