import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_export_models import call_model, integers
from strategies import rng

from codec.frame import Frame
from codec.tensor import StoredTensor, load, make_banded, store_integers, store_weight
from onnx_export.calls import Call, checksum, read_call, read_calls, write_call
from refimpl.errors import Corrupt, InvalidArgument, StreamError
from refimpl.tans.blocks import Block, Chunks, split_chunks
from refimpl.tans.stream import encode_stream

symbols = np.minimum(rng(7).geometric(0.6, (20, 30)) - 1, 9).astype(np.uint8)
scale = rng(8).random((1, 30)).astype(np.float32)
ZERO = np.array(2, np.uint8)


def partial():
    chunks = Chunks(64, 4, 3)
    raw, coded = split_chunks(symbols.reshape(-1), chunks)
    return Frame(Block("partial", 600, raw, encode_stream(coded, lane_count=2), chunks), zlib.crc32(symbols))


STORED = {
    "coded": store_weight(symbols, ZERO, scale, "float32"),
    "partial": StoredTensor((20, 30), "float16", partial(), ZERO, scale),
    "raw": StoredTensor((20, 30), "float32", Frame(Block("raw", 600, symbols.reshape(-1)), zlib.crc32(symbols)), ZERO,
                        scale),
    "constant": store_weight(symbols * 0, ZERO, np.array(0.5, np.float32), "bfloat16"),
    "integer": store_integers(integers(20, 30, width=3.0)),
    "partial integer": StoredTensor((20, 30), "uint8", partial(), np.array(0, np.uint8), None),
}  # fmt: skip
CALLS = {name: write_call("layer.w", stored) for name, stored in STORED.items()}
every = pytest.mark.parametrize("kind", STORED)


def copy_of(call):
    node, inputs = type(call.node)(), [type(t)() for t in call.inputs]
    node.CopyFrom(call.node)
    for new, old in zip(inputs, call.inputs, strict=True):
        new.CopyFrom(old)
    return Call(node, inputs)


def attribute(call, name):
    return next(a for a in call.node.attribute if a.name == name)


def part(call, name):
    return next(t for t in call.inputs if t.name.endswith(f".{name}"))


def reseal(call):
    """The call with a checksum of what is stored that is right again."""
    attribute(call, "stored_crc").i = checksum(call.inputs)
    return call


def set_part(call, name, array):
    part(call, name).CopyFrom(numpy_helper.from_array(array, f"layer.w.{name}"))
    return reseal(call)


def decode(call):
    """The value of a call that stands in a model."""
    graph = helper.make_graph([call.node], "one", [], [], call.inputs)
    ((_, stored, _),) = read_calls(helper.make_model(graph))
    return load(stored)


@every
def test_what_is_written_is_read(kind):
    stored, back = STORED[kind], read_call(CALLS[kind])
    assert (back.shape, back.dtype) == (stored.shape, stored.dtype)
    assert back.frame.block.mode == stored.frame.block.mode
    assert back.frame.symbols_crc == stored.frame.symbols_crc
    assert back.frame.block.chunks == stored.frame.block.chunks
    assert load(back).tobytes() == load(stored).tobytes()
    assert write_call("layer.w", back).node == CALLS[kind].node


@pytest.mark.parametrize("value", [np.arange(6, dtype=np.int8), np.arange(30, dtype=np.uint8), np.zeros(6, np.int8)])
def test_there_is_no_call_for_integers_that_coding_leaves_raw_or_constant(value):
    stored = store_integers(value.reshape(1, -1))
    assert stored.frame.block.mode in ("raw", "constant")
    with pytest.raises(InvalidArgument, match=f"q: .* integers in mode {stored.frame.block.mode}"):
        write_call("q", stored)
    coded = store_integers(np.resize(np.array([0, 0, 0, 1], value.dtype), (300, value.size)))
    assert coded.frame.block.mode == "coded"
    banded = make_banded(0, np.array([0] * 300 + [1], np.uint8), [coded, stored])
    with pytest.raises(InvalidArgument, match=r"q\.1: "):
        write_call("q", banded)


@every
def test_stored_bytes_are_those_of_the_inputs(kind):
    call = CALLS[kind]
    arrays = [numpy_helper.to_array(t) for t in call.inputs]
    assert call.stored_bytes == sum(a.nbytes for a in arrays)
    assert checksum(call.inputs) == zlib.crc32(b"".join(a.tobytes() for a in arrays))
    assert [t.name for t in call.inputs] == list(call.node.input)
    assert all(name.startswith("layer.w.") for name in call.node.input)


@every
def test_a_model_lists_its_calls(kind):
    ((name, stored, call),) = read_calls(call_model("layer.w", STORED[kind]))
    assert name == "layer.w"
    assert call.node.name == "layer.w.decompress"
    assert load(stored).tobytes() == load(STORED[kind]).tobytes()


@every
def test_every_flipped_bit_of_the_inputs_is_noticed(kind):
    for index, tensor in enumerate(CALLS[kind].inputs):
        for at in range(len(tensor.raw_data)):
            call = copy_of(CALLS[kind])
            data = bytearray(tensor.raw_data)
            data[at] ^= 1 << (at % 8)
            call.inputs[index].raw_data = bytes(data)
            with pytest.raises(Corrupt, match="checksum of the stored bytes"):
                read_call(call)


@every
@pytest.mark.parametrize("bit", range(32))
def test_a_flipped_bit_of_an_attribute_is_noticed_or_harmless(kind, bit):
    for name in ("to", "stored_crc", "symbols_crc"):
        call = copy_of(CALLS[kind])
        attribute(call, name).i ^= 1 << bit
        try:
            changed = decode(call)
        except StreamError:
            continue
        # The symbols of a constant are not read one by one, and small numbers are the same in INT8 and UINT8.
        assert (kind, name) in (("constant", "symbols_crc"), ("partial integer", "to"))
        assert np.array_equal(changed.astype(np.float32), load(STORED[kind]).astype(np.float32))


@every
@pytest.mark.parametrize("name", ["to", "stored_crc", "symbols_crc"])
def test_a_missing_attribute_is_corrupt(kind, name):
    model = call_model("layer.w", STORED[kind])
    model.graph.node[0].attribute.remove(attribute(Call(model.graph.node[0], []), name))
    with pytest.raises(Corrupt, match=r"layer\.w"):
        list(read_calls(model))


@every
def test_missing_and_odd_inputs_are_corrupt(kind):
    for index in range(len(CALLS[kind].inputs)):
        model = call_model("layer.w", STORED[kind])
        del model.graph.initializer[index]
        with pytest.raises(Corrupt, match=r"layer\.w"):
            list(read_calls(model))
        model = call_model("layer.w", STORED[kind])
        del model.graph.node[0].input[index]
        with pytest.raises(Corrupt, match=r"layer\.w"):
            list(read_calls(model))


@every
def test_inputs_of_another_type_or_rank_are_corrupt(kind):
    model = call_model("layer.w", STORED[kind])
    for tensor in model.graph.initializer:
        original, rank = tensor.data_type, len(tensor.dims)
        for data_type in range(-1, 30):
            if data_type != original:
                tensor.data_type = data_type
                # Counts are uint8 or uint16: a wrong sum or a wrong symbol tells them apart.
                with pytest.raises(StreamError, match=r"layer\.w"):
                    [load(stored) for _, stored, _ in read_calls(model)]
        tensor.data_type = original
        for dims in ([], [0], [-1], [3, -1], [2**40, 2**40], [1] * 70):
            before = list(tensor.dims)
            tensor.dims[:] = dims
            if dims != before:
                with contextlib.suppress(StreamError):
                    decoded = [load(stored) for _, stored, _ in read_calls(model)]
                    assert [d.shape for d in decoded] == [(20, 30)] or rank > 1
            tensor.dims[:] = before


def test_an_unknown_function_is_corrupt():
    model = call_model("layer.w", STORED["coded"])
    for op_type in ("Decompress", "Dequantize", "DecompressCubic", ""):
        model.graph.node[0].op_type = op_type
        with pytest.raises(Corrupt, match=r"layer\.w"):
            list(read_calls(model))


def test_an_input_that_is_no_initializer_is_corrupt():
    model = call_model("layer.w", STORED["coded"])
    model.graph.node[0].input[0] = "wide"
    with pytest.raises(Corrupt, match=r"layer\.w"):
        list(read_calls(model))


def test_integers_that_the_type_does_not_have_are_corrupt():
    call = copy_of(CALLS["integer"])
    attribute(call, "to").i = 21  # UINT4
    with pytest.raises(Corrupt):
        decode(call)


FIELDS = ("symbol_count", "table_log", "lane_count", "length_base", "length_width", "rows", "columns")
odd = st.sampled_from([-(2**63), -(2**31), -1, 0, 1, 2, 5, 12, 13, 31, 32, 599, 601, 2**31, 2**40, 2**62, 2**63 - 1])


@pytest.mark.parametrize("kind", ["coded", "partial", "integer", "partial integer"])
@settings(max_examples=80)
@given(changes=st.dictionaries(st.sampled_from(range(len(FIELDS))), odd, min_size=1, max_size=3))
def test_a_hostile_layout_is_refused_or_says_the_same(kind, changes):
    call = copy_of(CALLS[kind])
    layout = numpy_helper.to_array(part(call, "layout")).copy()
    for field, value in changes.items():
        layout[field] = value
    set_part(call, "layout", layout)
    try:
        decoded = decode(call)
    except StreamError:
        return
    assert decoded.tobytes() == load(STORED[kind]).tobytes()
    assert decoded.shape == tuple(layout[5:])


@pytest.mark.parametrize("kind", ["partial", "partial integer"])
@settings(max_examples=80)
@given(chunks=st.lists(odd | st.integers(-2, 70), max_size=4))
def test_hostile_chunks_are_refused_or_say_the_same(kind, chunks):
    call = set_part(copy_of(CALLS[kind]), "chunks", np.array(chunks, np.int64))
    try:
        decoded = decode(call)
    except StreamError:
        return
    assert decoded.tobytes() == load(STORED[kind]).tobytes()


@pytest.mark.parametrize("kind", ["coded", "partial", "integer"])
@settings(max_examples=80)
@given(data=st.data())
def test_hostile_counts_and_words_are_refused(kind, data):
    call = copy_of(CALLS[kind])
    name = data.draw(st.sampled_from(["counts", "stream"]))
    array = numpy_helper.to_array(part(call, name))
    changed = array.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(array) - 1))] = data.draw(st.integers(0, np.iinfo(array.dtype).max))
    changed = np.resize(changed, max(0, len(array) + data.draw(st.sampled_from([0, 0, 1, -1, 2, -2, 7]))))
    if np.array_equal(changed, array):
        return
    with pytest.raises(StreamError):
        decode(set_part(call, name, changed))


@pytest.mark.parametrize("shape", [[2**62, 2**62], [-1], [-5, -120], [2**63 - 1], [2**48], [0, 2**62, 2**62]])
def test_a_constant_of_an_impossible_shape_is_refused(shape):
    with pytest.raises(StreamError):
        decode(set_part(copy_of(CALLS["constant"]), "shape", np.array(shape, np.int64)))


@pytest.mark.parametrize("name", ["scale", "zero_point"])
@pytest.mark.parametrize("shape", [(2,), (30, 1), (20, 1, 30), (1, 20, 30), (0,), (21, 30)])
def test_scales_and_zero_points_that_do_not_fit_are_refused(name, shape):
    dtype = np.float32 if name == "scale" else np.uint8
    with pytest.raises(StreamError):
        decode(set_part(copy_of(CALLS["coded"]), name, np.ones(shape, dtype)))
