"""Everything that a strategy draws is legal, and what is legal is drawn."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import decode, encode
from codec.frame import read_frame
from codec.kernels import NUMBA
from conformance import strategies
from conformance.frames import draw_frame, routes_of
from refimpl.quantization import quantize
from refimpl.tans.blocks import decode_block
from refimpl.tans.classes import class_table
from refimpl.tans.counts import normalize_counts
from refimpl.tans.spread import table_log_of
from refimpl.tans.stream import NUMPY, decode_stream, lane_sides

KERNELS = pytest.mark.parametrize("kernels", [NUMPY, NUMBA], ids=["numpy", "numba"])


@KERNELS
@given(frame=strategies.frames())
def test_frames_decode_to_their_symbols(kernels, frame):
    assert decode(frame.data, kernels=kernels).tolist() == frame.symbols.tolist()


@KERNELS
def test_many_frames_decode_to_their_symbols(kernels):
    for number in range(300):
        frame = draw_frame(Random(number), modes=["coded", "partial"])
        assert decode(frame.data, kernels=kernels).tolist() == frame.symbols.tolist(), number


@KERNELS
@given(drawn=strategies.streams())
def test_streams_decode_to_their_symbols(kernels, drawn):
    assert decode_stream(drawn.stream, kernels=kernels).tolist() == drawn.symbols.tolist()


def leaders(stream):
    classes = stream.classes
    at = 1 + int(classes[0]) if len(classes) else 0
    begins = at + np.cumsum([0, *(1 << classes[1:at].astype(int))])[:-1]
    return classes[begins.astype(int)].tolist(), classes[at:].tolist()


def is_repeated_leader(stream):
    heads, members = leaders(stream)
    return any(members.count(head) > 1 for head in heads)


def lane_sides_of(stream):
    return lane_sides(stream, class_table(stream.classes))[1]


WANTED = {
    "an odd number of packed partial symbols": lambda b: b.packed and b.mode == "partial" and b.symbol_count % 2,
    "raw that would shrink": lambda b: b.mode == "raw" and not b.packed and len(encode(b.raw)) < len(b.raw),
    "an empty constant": lambda b: b.mode == "constant" and not b.symbol_count,
    "odd chunks": lambda b: b.mode == "partial" and b.chunks.symbols % 2 and b.chunks.per_block > 4,
    "many chunks": lambda b: b.mode == "partial" and b.chunks.per_block > 64,
    "a lane for each symbol": lambda b: b.stream and b.stream.lane_count == b.stream.symbol_count > 20,
    "more than 64 lanes": lambda b: b.stream and b.stream.lane_count > 64,
    "zeros behind the counts": lambda b: b.stream and b.stream.counts[-1] == 0,
    "one symbol in no bits": lambda b: b.stream and np.count_nonzero(b.stream.counts) == 1,
    "all 256 counts": lambda b: b.stream and len(b.stream.counts) == 256,
    "a table of 32 slots": lambda b: b.stream and table_log_of(b.stream.counts) == 5,
    "a table of 4096 slots": lambda b: b.stream and table_log_of(b.stream.counts) == 12,
    "the widest lengths": lambda b: b.stream and b.stream.length_width == 31,
    "a base below all lengths": lambda b: b.stream and b.stream.length_base < lane_sides_of(b.stream).min(),
    "a member that leads elsewhere": lambda b: b.stream and is_repeated_leader(b.stream),
    "a leader without slots": lambda b: b.stream and set(leaders(b.stream)[0]) - set(np.flatnonzero(b.stream.counts)),
    "a member that never occurs": lambda b: (
        b.stream and not b.packed and set(leaders(b.stream)[1]) - set(decode_block(b).tolist())
    ),
    "a class of 256": lambda b: b.stream and 8 in b.stream.classes[1 : 1 + (b.stream.classes[:1].sum())],
}


@pytest.fixture(scope="module")
def drawn_frames():
    return [draw_frame(Random(f"frame {number}")).data for number in range(2000)]


@pytest.mark.parametrize("wanted", WANTED)
def test_what_is_legal_is_drawn(wanted, drawn_frames):
    assert any(WANTED[wanted](read_frame(data).block) for data in drawn_frames)


def test_counts_are_stored_wider_than_needed(drawn_frames):
    blocks = [(data, read_frame(data).block) for data in drawn_frames]
    assert any(block.stream and data[41] == 2 and block.stream.counts.max() < 256 for data, block in blocks)


def test_our_encoder_writes_other_frames(drawn_frames):
    some = drawn_frames[:200]
    assert sum(encode(decode(data)) == data for data in some) < len(some) / 2


@given(
    st.data(),
    st.sampled_from(["raw", "coded", "partial"]),
    st.booleans(),
    st.booleans(),
    st.integers(5, 12),
    st.integers(2, 40),
    st.integers(1, 5),
)
def test_frames_are_narrowed(data, mode, packed, with_classes, table_log, units, lanes):
    drawn = strategies.frames(
        modes=[mode], packed=packed, with_classes=with_classes, table_logs=(table_log, table_log), max_units=units,
        max_lanes=lanes,
    )  # fmt: skip
    frame = data.draw(drawn)
    block = read_frame(frame.data).block
    assert (block.mode, block.packed) == (mode, packed)
    assert block.unit_count <= units
    if block.stream is not None:
        assert block.stream.lane_count <= lanes
        assert table_log_of(block.stream.counts) == table_log
        assert bool(len(block.stream.classes)) == with_classes
    np.testing.assert_array_equal(decode(frame.data), frame.symbols)


@given(st.data(), strategies.quantization_specs())
def test_weights_can_be_quantized(data, spec):
    weight = data.draw(strategies.weights())
    assert weight.dtype == np.float32
    assert np.isfinite(weight).all()
    assert quantize(weight, spec).codes.shape == weight.shape


@given(strategies.weights(shape=(3, 4), largest=2.0), strategies.weights(max_side=2))
def test_weights_are_narrowed(shaped, small):
    assert shaped.shape == (3, 4)
    assert abs(shaped).max() <= 2
    assert max(small.shape) <= 2


@given(
    strategies.activation_maxima(4), strategies.activation_maxima(4, largest=0.5), strategies.activation_statistics(4)
)
def test_activations_are_possible(maxima, small, statistics):
    assert maxima.shape == (4,)
    assert (maxima >= 0).all()
    assert small.max() <= 0.5
    assert (statistics.variance <= statistics.mean_square).all()
    assert (statistics.mean_square <= statistics.maximum**2).all()


@given(strategies.quantization_specs(bits=(3, 4), symmetric=True, granularities=["group"], max_group_size=2))
def test_specifications_are_narrowed(spec):
    assert spec.bits in (3, 4)
    assert spec.symmetric
    assert spec.granularity == "group"
    assert spec.group_size <= 2


@given(strategies.symbols(), strategies.symbols(min_size=2, max_size=70, alphabet=3))
def test_symbols_are_bytes(symbols, few):
    assert symbols.dtype == few.dtype == np.uint8
    assert 2 <= len(few) <= 70
    assert few.max() < 3


@given(strategies.histograms(), strategies.histograms(max_alphabet=5, largest_sum=1000))
def test_histograms_can_be_normalized(histogram, small):
    assert histogram.sum() < 1 << 39
    assert normalize_counts(histogram, 8).sum() == 256
    assert len(small) <= 5
    assert 1 <= small.sum() <= 1000


@given(strategies.normalized_counts(), strategies.normalized_counts(table_logs=(6, 6), max_alphabet=9, least_present=2))
def test_normalized_counts_are_those_of_a_table(counts, few):
    assert 5 <= table_log_of(counts) <= 12
    assert table_log_of(few) == 6
    assert len(few) <= 9
    assert np.count_nonzero(few) >= 2


@given(strategies.classes(), strategies.classes(max_classes=2, allow_none=False), strategies.models())
def test_classes_are_valid(classes, few, model):
    class_table(classes)
    class_table(few)
    assert len(classes) < 1 << 16
    assert 1 <= few[0] <= 2
    class_table(model.classes)
    assert routes_of(model.counts.tolist(), model.classes.tobytes())


@given(strategies.models(with_classes=True, table_logs=(7, 7)), strategies.models(with_classes=False, max_alphabet=3))
def test_models_are_narrowed(with_classes, without):
    assert len(with_classes.classes)
    assert with_classes.counts.sum() == 128
    assert not len(without.classes)
    assert len(without.counts) <= 3


@given(strategies.coder_inputs(max_size=200), strategies.coder_inputs(max_size=200, max_lanes=3))
def test_coder_inputs_are_taken(given_, few):
    symbols, table_log, lanes = given_
    assert decode(encode(symbols, table_log=table_log, lane_count=lanes)).tolist() == symbols.tolist()
    assert few[2] <= 3
