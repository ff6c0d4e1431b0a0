import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import coder_inputs, normalized_counts, rng, symbol_arrays

from codec.kernels import NUMBA, TILE, pack_table
from refimpl.errors import StreamError
from refimpl.tans.counts import normalize_counts
from refimpl.tans.lanes import lane_length
from refimpl.tans.stream import NUMPY, decode_stream, encode_stream
from refimpl.tans.tables import decode_table, encode_table


def assert_same_stream(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes(), field.name
        else:
            assert left == right, field.name


def assert_twins_agree(symbols, **options):
    stream = encode_stream(symbols, **options)
    assert_same_stream(encode_stream(symbols, kernels=NUMBA, **options), stream)
    for kernels in (NUMPY, NUMBA):
        decoded = decode_stream(stream, kernels=kernels)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, symbols)


@given(symbol_arrays())
def test_histograms_are_twins(symbols):
    ours, theirs = NUMBA.histogram(symbols), NUMPY.histogram(symbols)
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()


def test_histogram_takes_shapes_strides_and_read_only_arrays():
    symbols = rng(0).integers(0, 9, (30, 31), np.uint8)
    for view in (symbols, symbols[::2, ::3], symbols.T, np.broadcast_to(np.uint8(3), (4, 5))):
        assert NUMBA.histogram(view).tolist() == NUMPY.histogram(view).tolist()


@given(coder_inputs())
@example((np.array([0], np.uint8), 5, 1))
@example((np.array([255], np.uint8), 12, 1))
@example((np.array([0, 255] * 50, np.uint8), 12, 100))
@example((np.full(77, 3, np.uint8), 5, 9))
@example((np.arange(256).astype(np.uint8), 8, 64))
@example((np.arange(256).astype(np.uint8), 12, 256))
def test_streams_are_twins(inputs):
    symbols, table_log, lanes = inputs
    assert_twins_agree(symbols, table_log=table_log, lane_count=lanes)


@pytest.mark.parametrize("lanes", [1, 2, TILE - 1, TILE, TILE + 1, 2 * TILE - 1, 2 * TILE, 2 * TILE + 1, 5 * TILE + 3])
@settings(max_examples=15)
@given(symbols=symbol_arrays(min_size=5 * TILE + 3, max_size=4000))
def test_streams_are_twins_around_the_tile(lanes, symbols):
    assert_twins_agree(symbols, table_log=10, lane_count=lanes)


@pytest.mark.parametrize("table_log", range(5, 13))
def test_streams_are_twins_in_every_table_size(table_log):
    symbols = rng(table_log).geometric(0.4, 9001).clip(0, 31).astype(np.uint8)
    assert_twins_agree(symbols, table_log=table_log, lane_count=37)


@settings(max_examples=20)
@given(symbol_arrays(min_size=1, max_size=20_000), st.sampled_from(["gpu", "archive"]))
def test_streams_are_twins_where_everything_is_chosen(symbols, profile):
    assert_twins_agree(symbols, profile=profile)


def test_streams_of_two_million_symbols_are_twins():
    symbols = (128 + 4 * rng(20).standard_normal(2_000_001)).round().clip(0, 255).astype(np.uint8)
    assert_twins_agree(symbols)


def test_streams_coded_in_several_pieces_are_twins():
    # more than 2**25 possible bits, so that the encoder's buffer is emptied between tiles
    symbols = rng(21).geometric(0.02, 3_000_000).clip(0, 255).astype(np.uint8)
    stream = encode_stream(symbols, table_log=12, lane_count=70)
    assert_same_stream(encode_stream(symbols, table_log=12, lane_count=70, kernels=NUMBA), stream)
    assert np.array_equal(decode_stream(stream, kernels=NUMBA), symbols)


def outcome(stream, kernels):
    try:
        return decode_stream(stream, kernels=kernels).tolist()
    except StreamError as error:
        return type(error)


@given(coder_inputs(max_size=300, max_table_log=9), st.data())
def test_twins_agree_on_damaged_words(inputs, data):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    flips = data.draw(
        hnp.arrays(np.uint32, len(stream.words), elements=st.sampled_from([0, 0, 1, 1 << 31, 0xFFFFFFFF]))
    )
    damaged = dataclasses.replace(stream, words=stream.words ^ flips)
    assert outcome(damaged, NUMPY) == outcome(damaged, NUMBA)


small = st.integers(-3, 700)
huge = st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 - 1, 2**80, -(2**63)])
hostile_counts = (
    normalized_counts(max_table_log=9)
    | hnp.arrays(np.int64, st.integers(0, 5))
    | hnp.arrays(np.int64, st.integers(0, 5), elements=st.sampled_from([-32, 0, 1, 16, 32, 4096, 2**62, 2**63 - 1]))
)


@settings(max_examples=300)
@given(coder_inputs(max_size=300, max_table_log=9), st.data())
def test_a_stream_of_any_fields_decodes_to_its_count_or_is_refused(inputs, data):
    symbols, table_log, lanes = inputs
    fuzzed = {
        "symbol_count": small | huge,
        "lane_count": small | huge,
        "length_base": small | huge,
        "length_width": st.integers(-2, 40) | huge,
        "counts": hostile_counts,
        "words": hnp.arrays(np.uint32, st.integers(0, 12)),
    }
    names = data.draw(st.lists(st.sampled_from(sorted(fuzzed)), min_size=1, max_size=6, unique=True))
    fields = data.draw(st.fixed_dictionaries({name: fuzzed[name] for name in names}))
    stream = dataclasses.replace(encode_stream(symbols, table_log=table_log, lane_count=lanes), **fields)
    results = []
    for kernels in (NUMPY, NUMBA):
        try:
            decoded = decode_stream(stream, kernels=kernels)
        except StreamError as error:
            results.append(type(error))
        else:
            assert len(decoded) == stream.symbol_count
            assert decoded.dtype == np.uint8
            results.append(decoded[:1000].tobytes())
    assert results[0] == results[1]


@settings(max_examples=200)
@given(
    normalized_counts(max_table_log=9),
    hnp.arrays(np.uint32, st.integers(0, 6)),
    hnp.arrays(np.uint16, st.integers(1, 70)),
    st.integers(1, 800),
    st.integers(0, 40),
    st.data(),
)
def test_decoders_are_twins_on_noise(counts, words, states, symbol_count, first_bit, data):
    # the kernels alone, below the checks of decode_stream
    states = states % np.uint16(counts.sum())
    lengths = data.draw(hnp.arrays(np.int64, len(states), elements=st.integers(0, 64)))
    results = []
    for kernels in (NUMPY, NUMBA):
        try:
            decoded = kernels.decode_lanes(words, first_bit, states, lengths, decode_table(counts), symbol_count)
            results.append(decoded.tolist())
        except StreamError as error:
            results.append(type(error))
    assert results[0] == results[1]
    if len(states) * 4 >= symbol_count and isinstance(results[0], list):
        assert len(results[0]) == symbol_count


@given(normalized_counts(max_table_log=8), st.integers(1, 40), st.integers(1, 400), st.data())
def test_encoders_are_twins_on_any_table_and_padding(counts, lanes, size, data):
    present = np.flatnonzero(counts).astype(np.uint8)
    symbols = rng(data.draw(st.integers(0, 99))).choice(present, size)
    padding = int(data.draw(st.sampled_from(present.tolist())))
    theirs = NUMPY.encode_lanes(symbols, lanes, padding, encode_table(counts))
    ours = NUMBA.encode_lanes(symbols, lanes, padding, encode_table(counts))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@given(normalized_counts())
def test_packed_tables_hold_the_three_columns(counts):
    table = decode_table(counts)
    packed = pack_table(table)
    assert np.array_equal(packed & 0xFF, table.bit_count)
    assert np.array_equal(packed >> 8 & 0xFF, table.symbol)
    assert np.array_equal(packed >> 16, table.base)


def test_the_longest_lane_of_the_dearest_symbols_fits_the_encoders_buffer():
    # symbols of one slot cost table_log bits each: nothing can be longer
    counts = normalize_counts(np.array([10**6, 1]), 12)
    symbols = np.ones(4096, np.uint8)
    for lanes in (1, 3, TILE + 1):
        theirs = NUMPY.encode_lanes(symbols, lanes, 1, encode_table(counts))
        ours = NUMBA.encode_lanes(symbols, lanes, 1, encode_table(counts))
        assert theirs[1].max() == 12 * (lane_length(4096, lanes) - 1)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
