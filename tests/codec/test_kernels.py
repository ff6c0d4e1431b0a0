import dataclasses
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import oracle
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit
from strategies import (
    coded_streams,
    coder_inputs,
    groups,
    hostile_classes,
    models,
    normalized_counts,
    rng,
    seeds,
    stored_classes,
    symbol_arrays,
)

from codec import kernels as module
from codec import vector
from codec.kernels import NUMBA, join_bits, numba_kernels, pack_decode_table, pack_encode_table, run
from codec.vector import LANES
from refimpl.errors import Corrupt, InvalidArgument, StreamError
from refimpl.tans.bits import append_bits
from refimpl.tans.classes import NO_CLASSES, class_table
from refimpl.tans.counts import normalize_counts
from refimpl.tans.lanes import lane_length
from refimpl.tans.stream import NUMPY, decode_stream, encode_stream, only_symbol
from refimpl.tans.tables import decode_table, encode_table

ALONE = class_table(NO_CLASSES)
TWINS = (NUMBA, numba_kernels(2), numba_kernels(3))
AROUND_A_TILE = (1, 2, 3, LANES - 1, LANES, LANES + 1, 2 * LANES - 1, 2 * LANES, 2 * LANES + 1, 3 * LANES + 5)
lane_counts = st.integers(1, 200) | st.sampled_from(AROUND_A_TILE)


@contextmanager
def small_ranges():
    """Ranges of 64 lanes, in threads as soon as there are two."""
    with patch.multiple(module, THREAD_SYMBOLS=0, CHUNK_BITS=1):
        yield


def each_twin():
    """All jitted kernels, with large ranges and with small ones."""
    yield NUMBA
    with small_ranges():
        yield from TWINS


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
    assert np.array_equal(decode_stream(stream), symbols)
    for kernels in each_twin():
        assert_same_stream(encode_stream(symbols, kernels=kernels, **options), stream)
        decoded = decode_stream(stream, kernels=kernels)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, symbols)


def assert_twin_lanes(model, symbols, lanes, padding, first_bit=0):
    """Encoders and decoders agree on every array, packed or not."""
    counts, drawn = model
    classes, table = class_table(stored_classes(drawn)), encode_table(counts)
    theirs = NUMPY.encode_lanes(symbols, lanes, padding, table, classes)
    start, lengths, payload = theirs
    payload = np.concatenate([np.full(first_bit // 32, 0xFFFFFFFF, np.uint32), payload])
    fields = payload, first_bit // 32 * 32, start, lengths, decode_table(counts), classes, len(symbols)
    unpacked, packed = (NUMPY.decode_lanes(*fields, packed) for packed in (False, True))
    assert np.array_equal(unpacked, symbols)
    for kernels in each_twin():
        for ours, reference in zip(kernels.encode_lanes(symbols, lanes, padding, table, classes), theirs, strict=True):
            assert ours.dtype == reference.dtype
            assert ours.tobytes() == reference.tobytes()
        for flag, expected in ((False, unpacked), (True, packed)):
            decoded = kernels.decode_lanes(*fields, flag)
            assert decoded.dtype == np.uint8
            assert np.array_equal(decoded, expected)


@given(symbol_arrays(max_size=400_000) | symbol_arrays())
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


@settings(max_examples=150)
@given(models(), st.integers(1, 1500), lane_counts, seeds, st.sampled_from([0, 32, 64]))
def test_lanes_of_any_model_are_twins(model, size, lanes, seed, first_bit):
    counts, drawn, codable = model
    symbols = rng(seed).choice(codable, size).astype(np.uint8)
    assert_twin_lanes((counts, drawn), symbols, lanes, int(codable[-1]), first_bit)


def mixed_model(table_log):
    """A table with classes of widths 1, 3 and 8: literals in nearly every group of four steps."""
    counts = normalize_counts(np.array([40, 0, 10, 0, 5, 3, 1, 1]), table_log)
    random = rng(table_log)
    return counts, [[2, 1], [5, 7, 9, 11, 13, 15, 17, 19], [6, *random.integers(20, 256, 255).tolist()]]


@pytest.mark.parametrize("lanes", range(1, 201))
def test_lanes_are_twins_for_every_number_of_lanes(lanes):
    table_log = 5 + lanes % 8
    counts, drawn = mixed_model(table_log)
    codable = np.array([0, 0, 0, 2, 1, 4, 5, 9, 19, 6, drawn[2][7], drawn[2][255]], np.uint8)
    size = lanes * (4 + lanes % 9) - lanes % 3 if lanes > 3 else 40 + lanes
    assert_twin_lanes((counts, drawn), rng(lanes).choice(codable, size), lanes, 0)
    assert_twin_lanes((counts, []), rng(lanes).choice(np.array([0, 0, 2, 4, 6], np.uint8), size), lanes, 2)


@pytest.mark.parametrize("lanes", AROUND_A_TILE)
@settings(max_examples=10)
@given(symbols=symbol_arrays(min_size=3 * LANES + 5, max_size=3000))
def test_streams_are_twins_around_the_tile(lanes, symbols):
    assert_twins_agree(symbols, table_log=10, lane_count=lanes)


@pytest.mark.parametrize("count", [4 * LANES + r for r in (-5, -4, -3, -1, 0, 1, 3, 4, 5)])
@pytest.mark.parametrize("lanes", [1, LANES - 1, LANES, LANES + 1])
def test_streams_are_twins_where_the_last_group_is_not_full(count, lanes):
    assert_twins_agree(rng(count).geometric(0.5, count).clip(0, 20).astype(np.uint8), table_log=6, lane_count=lanes)


@pytest.mark.parametrize("table_log", range(5, 13))
def test_streams_are_twins_in_every_table_size(table_log):
    symbols = rng(table_log).geometric(0.4, 9001).clip(0, 31).astype(np.uint8)
    assert_twins_agree(symbols, table_log=table_log, lane_count=37)


@settings(max_examples=20)
@given(symbol_arrays(min_size=1, max_size=20_000), st.sampled_from(["gpu", "archive"]))
def test_streams_are_twins_where_everything_is_chosen(symbols, profile):
    assert_twins_agree(symbols, profile=profile)


@given(coded_streams())
def test_streams_that_no_encoder_here_writes_are_decoded_alike(coded):
    stream, symbols = coded
    for kernels in each_twin():
        assert np.array_equal(decode_stream(stream, kernels=kernels), symbols)


def test_streams_of_two_million_symbols_are_twins():
    symbols = (128 + 4 * rng(20).standard_normal(2_000_001)).round().clip(0, 255).astype(np.uint8)
    stream = encode_stream(symbols)
    for kernels in TWINS:
        assert_same_stream(encode_stream(symbols, kernels=kernels), stream)
        assert np.array_equal(decode_stream(stream, kernels=kernels), symbols)


def test_streams_coded_in_several_pieces_are_twins():
    # more possible bits than a buffer has, so that it is emptied between ranges
    symbols = rng(21).geometric(0.02, 1_000_000).clip(0, 255).astype(np.uint8)
    stream = encode_stream(symbols, table_log=12, lane_count=300)
    with patch.object(module, "CHUNK_BITS", 1 << 22):
        for kernels in TWINS:
            assert_same_stream(encode_stream(symbols, table_log=12, lane_count=300, kernels=kernels), stream)


def test_ranges_run_in_threads_if_there_are_several_and_enough_symbols():
    symbols = rng(1).integers(0, 9, 5000, np.uint8)
    stream = encode_stream(symbols, lane_count=200)
    seen = []

    def count_ranges(task, ranges, jobs):
        seen.append((len(ranges), jobs))
        assert [first for first, _ in ranges[1:]] == [last for _, last in ranges[:-1]]
        assert (ranges[0][0], ranges[-1][1]) == (0, 200)
        assert all(last - first >= LANES for first, last in ranges[:-1])
        return run(task, ranges, jobs)

    with patch.object(module, "run", count_ranges):
        decode_stream(stream, kernels=numba_kernels(3))
        with small_ranges():
            decode_stream(stream, kernels=NUMBA)
            decode_stream(stream, kernels=numba_kernels(3))
            encode_stream(symbols, lane_count=200, kernels=numba_kernels(3))
    assert seen[0][1] == 1
    assert seen[1] == (1, 1)
    assert seen[2] == (2, 3)
    assert seen[3] == (4, 3)


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_of_ranges_are_in_order(jobs):
    ranges = [(i, i + 1) for i in range(20)]
    assert run(lambda first, last: (first, last), ranges, jobs) == ranges


def test_an_error_in_a_thread_is_raised():
    def fail(first, _last):
        raise ZeroDivisionError(first)

    with pytest.raises(ZeroDivisionError):
        run(fail, [(0, 1), (1, 2)], 2)


@given(st.lists(hnp.arrays(bool, st.integers(0, 100) | st.integers(500, 2000)), min_size=1, max_size=7))
def test_joined_bits_follow_without_a_gap(runs):
    def words(bits):
        padded = np.concatenate([bits, np.zeros(-len(bits) % 32, bool)])
        return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)

    parts, lengths = [words(bits) for bits in runs], [len(bits) for bits in runs]
    assert np.array_equal(join_bits(parts, lengths), words(np.concatenate(runs)))
    pair = parts[0], lengths[0], parts[-1], lengths[-1]
    for kernels in TWINS:
        ours, theirs = kernels.append_bits(*pair), NUMPY.append_bits(*pair)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("bad", [0, 63, 64, 129, 198])
@pytest.mark.parametrize("drawn", [[], [[1, 7]]])
def test_the_first_bad_lane_is_named_by_all(bad, drawn):
    counts, classes = np.array([20, 8, 4]), class_table(stored_classes(drawn))
    symbols = rng(bad).choice(np.array([0, 0, 1, 2], np.uint8), 5000)
    start, lengths, payload = NUMPY.encode_lanes(symbols, 200, 0, encode_table(counts), classes)
    lengths[bad] += 1
    lengths[199] -= 1
    for kernels in (NUMPY, *each_twin()):
        with pytest.raises(Corrupt, match=f"lane {bad} "):
            kernels.decode_lanes(payload, 0, start, lengths, decode_table(counts), classes, len(symbols))


def test_symbols_of_any_stride_are_encoded():
    symbols = rng(5).integers(0, 5, 2000, np.uint8)
    table = encode_table(np.array([10, 10, 4, 4, 4]))
    for view in (symbols[::2], symbols[::-1], np.broadcast_to(np.uint8(3), 999)):
        for ours, theirs in zip(*(k.encode_lanes(view, 9, 0, table, ALONE) for k in (NUMBA, NUMPY)), strict=True):
            assert np.array_equal(ours, theirs)


def test_words_that_are_read_only_or_not_aligned_are_decoded():
    symbols = rng(6).integers(0, 5, 2000, np.uint8)
    stream = encode_stream(symbols, lane_count=9)
    data = b"\0" + stream.words.tobytes()
    for words in (np.frombuffer(data, "<u4", offset=1), np.repeat(stream.words, 2)[::2]):
        assert np.array_equal(decode_stream(dataclasses.replace(stream, words=words), kernels=NUMBA), symbols)


def outcome(stream, kernels, packed=False):
    try:
        return decode_stream(stream, packed=packed, kernels=kernels).tolist()
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


@settings(max_examples=150)
@given(coded_streams(), st.booleans(), st.data())
def test_twins_agree_on_damaged_words_of_any_model(coded, packed, data):
    stream = coded[0]
    flips = data.draw(hnp.arrays(np.uint32, len(stream.words), elements=st.sampled_from([0, 0, 1, 1 << 31, 1 << 9])))
    damaged = dataclasses.replace(stream, words=stream.words ^ flips)
    expected = outcome(damaged, NUMPY, packed)
    for kernels in each_twin():
        assert outcome(damaged, kernels, packed) == expected


small = st.integers(-3, 700)
huge = st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 - 1, 2**80, -(2**63)])
hostile_counts = (
    normalized_counts(table_logs=(5, 9))
    | hnp.arrays(np.int64, st.integers(0, 5))
    | hnp.arrays(np.int64, st.integers(0, 5), elements=st.sampled_from([-32, 0, 1, 16, 32, 4096, 2**62, 2**63 - 1]))
)


@settings(max_examples=300)
@given(coder_inputs(max_size=300, max_table_log=9), st.booleans(), st.data())
def test_a_stream_of_any_fields_decodes_to_its_count_or_is_refused(inputs, packed, data):
    symbols, table_log, lanes = inputs
    fuzzed = {
        "symbol_count": small | huge,
        "lane_count": small | huge,
        "length_base": small | huge,
        "length_width": st.integers(-2, 40) | huge,
        "counts": hostile_counts,
        "classes": hostile_classes() | groups(max_width=4).map(stored_classes),
        "words": hnp.arrays(np.uint32, st.integers(0, 12)),
    }
    names = data.draw(st.lists(st.sampled_from(sorted(fuzzed)), min_size=1, max_size=7, unique=True))
    fields = data.draw(st.fixed_dictionaries({name: fuzzed[name] for name in names}))
    stream = dataclasses.replace(encode_stream(symbols, table_log=table_log, lane_count=lanes), **fields)
    results = []
    for kernels in (NUMPY, NUMBA):
        try:
            decoded = decode_stream(stream, packed=packed, kernels=kernels)
        except StreamError as error:
            results.append(type(error))
        else:
            assert len(decoded) == (2 if packed else 1) * stream.symbol_count
            assert decoded.dtype == np.uint8
            results.append(decoded[:1000].tobytes())
    assert results[0] == results[1]


@settings(max_examples=200)
@given(
    models(max_table_log=9),
    hnp.arrays(np.uint32, st.integers(1, 40)),
    hnp.arrays(np.uint16, st.integers(1, 140)),
    st.integers(1, 1200),
    st.integers(0, 40),
    st.booleans(),
    st.data(),
)
def test_decoders_are_twins_on_noise(model, words, states, symbol_count, first_bit, packed, data):
    # the kernels alone, below the checks of decode_stream but one: the lanes lie within the words
    counts, drawn, _ = model
    states = states % np.uint16(counts.sum())
    lengths = data.draw(hnp.arrays(np.int64, len(states), elements=st.integers(0, 64)))
    words = np.resize(words, max(len(words), (first_bit + int(lengths.sum()) + 31) // 32))
    fields = words, first_bit, states, lengths, decode_table(counts), class_table(stored_classes(drawn)), symbol_count
    results = []
    for kernels in (NUMPY, *each_twin()):
        try:
            results.append(kernels.decode_lanes(*fields, packed).tolist())
        except StreamError as error:
            results.append(str(error))
    assert all(result == results[0] for result in results)
    if isinstance(results[0], list):
        assert len(results[0]) == (2 if packed else 1) * symbol_count


@given(models(max_table_log=9), hnp.arrays(np.uint32, st.integers(1, 9)), st.integers(1, 90), st.data())
def test_decoders_are_twins_on_lanes_of_noise_that_are_used_up(model, words, steps, data):
    # lanes of just the bits that their symbols take, so that the symbols are compared
    counts, drawn, _ = model
    table, classes = decode_table(counts), class_table(stored_classes(drawn))
    assume(only_symbol(counts, classes) is None)
    state = data.draw(st.integers(0, int(counts.sum()) - 1))
    bits = "".join(oracle.field(int(word), 32) for word in words)
    rows, led = oracle.decode_rows(counts.tolist()), {members[0]: members for members in drawn}
    at, now, used, whole = 0, state, 0, 4 * -(-steps // 4)
    for step in range(whole):
        symbol, width, base = rows[now]
        used += (len(led.get(symbol, [symbol])).bit_length() - 1) + (width if step < whole - 1 else 0)
        now, at = base + oracle.number(bits[at : at + width]), at + width
    assume(used <= len(bits))
    fields = words, np.array([state], np.uint16), np.array([used])
    for first_bit in (0, len(bits) - used):
        outcomes = []
        for kernels in (NUMPY, NUMBA):
            try:
                outcomes.append(kernels.decode_lanes(fields[0], first_bit, *fields[1:], table, classes, whole).tolist())
            except StreamError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        if first_bit == 0:
            assert outcomes[0] == oracle.decode_lane(state, bits[:used], rows, whole, drawn)


@given(normalized_counts(), groups())
def test_packed_decode_tables_hold_the_three_columns_and_the_leaders(counts, drawn):
    table, classes = decode_table(counts), class_table(stored_classes(drawn))
    size = len(table.symbol)
    packed = pack_decode_table(table, classes)
    assert packed.dtype == np.uint32
    assert not packed[:size].any()
    packed = packed[size:]
    assert np.array_equal(packed & 15, table.bit_count)
    assert np.array_equal(packed >> 8 & 0xFF, table.symbol)
    assert np.array_equal((packed >> 16) << (packed & 15), table.base + size)
    assert not (packed >> 4 & 7).any()
    assert np.array_equal(packed >> 7 & 1, np.isin(table.symbol, [members[0] for members in drawn]))


@given(models(), seeds)
def test_packed_encode_tables_say_what_the_encode_table_says(model, seed):
    counts, drawn, codable = model
    table, classes = encode_table(counts), class_table(stored_classes(drawn))
    entries, next_state, first_states = pack_encode_table(table, classes)
    size = len(next_state)
    symbol = rng(seed).choice(codable, 50)
    leader = classes.leader[symbol]
    state = rng(seed + 1).integers(0, size, 50)
    width = (size + state + (entries[symbol] & 0x1FFFF)) >> 13
    assert np.array_equal(width, (state + table.bit_count_delta[leader].astype(np.int64)) >> 16)
    slot = ((entries[symbol] >> 17) + (size + state >> width)) & 8191
    assert np.array_equal(slot, table.first_slot[leader] + (size + state >> width))
    assert np.array_equal(next_state, table.next_state.astype(int) + size)
    assert np.array_equal(entries[symbol] >> 31, classes.width[leader] > 0)
    # the state that is begun with leads to the symbol's lowest
    first = first_states[symbol].astype(np.int64)
    width = (first - size + table.bit_count_delta[leader].astype(np.int64)) >> 16
    assert np.array_equal(table.next_state[table.first_slot[leader] + (first >> width)], table.last_state[leader])


@pytest.mark.parametrize("drawn", [[], [[1, *range(255, 0, -1)]]], ids=["states", "states and literals"])
def test_the_longest_lane_of_the_dearest_symbols_fits_the_encoders_buffer(drawn):
    # symbols of one slot cost table_log bits each, and at most 8 of a literal: nothing can be longer
    counts = normalize_counts(np.array([10**6, 1]), 12)
    symbols = np.ones(4096, np.uint8) if not drawn else rng(4).integers(2, 256, 4096, np.uint8)
    classes = class_table(stored_classes(drawn))
    for lanes in (1, 3, LANES, LANES + 1):
        theirs = NUMPY.encode_lanes(symbols, lanes, 1, encode_table(counts), classes)
        steps = lane_length(4096, lanes)
        assert theirs[1].max() == 12 * (steps - 1) + (8 * steps if drawn else 0)
        for kernels in each_twin():
            ours = kernels.encode_lanes(symbols, lanes, 1, encode_table(counts), classes)
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("jobs", [0, -1])
def test_fewer_than_one_thread_is_refused(jobs):
    with pytest.raises(InvalidArgument, match="at least one"):
        numba_kernels(jobs)


@given(st.lists(st.integers(0, 15), max_size=70))
def test_packed_nibbles_are_twins(drawn):
    symbols = np.array(drawn, np.uint8)
    for strided in (symbols, np.repeat(symbols, 2)[::2]):
        packed = NUMBA.pack_nibbles(strided)
        assert packed.dtype == np.uint8
        assert packed.tolist() == NUMPY.pack_nibbles(symbols).tolist()


@given(st.integers(0, 31), st.integers(0, 70), st.data())
def test_fields_of_one_width_are_twins(width, first_bit, data):
    values = np.array(data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=70)), np.int64)
    ours, theirs = NUMBA.pack_fields(values, width), NUMPY.pack_fields(values, width)
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()
    words = append_bits(np.zeros(-(-first_bit // 32), np.uint32), first_bit, theirs, width * len(values))
    ours, theirs = (kernels.unpack_fields(words, first_bit, width, len(values)) for kernels in (NUMBA, NUMPY))
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist() == values.tolist()


@pytest.fixture(scope="module")
def other_look_ups():
    """Kernels whose tables are looked up as on other processors."""
    with patch.object(vector, "GATHERS", not vector.GATHERS):  # read when a kernel is compiled
        loops = {name: njit(getattr(module, name).py_func) for name in ("encode_range", "decode_range")}
        with patch.multiple(module, **loops):
            stream = encode_stream(rng(0).integers(0, 5, 99, np.uint8), lane_count=3, kernels=NUMBA)
            decode_stream(stream, kernels=NUMBA)
    return loops


@given(models(), st.integers(1, 3000), lane_counts, st.booleans(), seeds)
def test_look_ups_by_gathers_and_by_scalar_loads_are_twins(other_look_ups, model, size, lanes, packed, seed):
    counts, drawn, codable = model
    classes = class_table(stored_classes(drawn))
    symbols = rng(seed).choice(codable, max(size, lanes)).astype(np.uint8)
    fields = symbols, lanes, int(codable[0]), encode_table(counts), classes
    start, lengths, payload = NUMBA.encode_lanes(*fields)
    coded = payload, 0, start, lengths, decode_table(counts), classes, len(symbols), packed
    decoded = NUMBA.decode_lanes(*coded)
    with patch.multiple(module, **other_look_ups):
        assert [part.tolist() for part in NUMBA.encode_lanes(*fields)] == [
            start.tolist(), lengths.tolist(), payload.tolist()
        ]  # fmt: skip
        assert np.array_equal(NUMBA.decode_lanes(*coded), decoded)


@pytest.mark.parametrize("lanes", [1, 64, 65, 100, 129, 200])
@pytest.mark.parametrize("log", [0, 9, 11, 13])
def test_tiles_of_too_many_bytes_are_cut(lanes, log):
    symbols = np.minimum(rng(lanes).geometric(0.3, 5000) - 1, 20).astype(np.uint8)
    stream = encode_stream(symbols, lane_count=lanes)
    with (
        patch.object(module, "MAX_TILE_BITS_LOG", log),
        patch.object(
            module,
            "decode_range",
            njit(module.decode_range.py_func),  # with the constant as it is now
        ),
    ):
        assert np.array_equal(decode_stream(stream, kernels=NUMBA), symbols)


@pytest.mark.parametrize("share", [0.01, 0.5, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_symbols_with_literals_may_be_frequent(share, packed):
    counts, stored = np.array([16, 8, 8]), stored_classes([[1, 3, 4, 5], [2, 200]])
    table, classes = encode_table(counts), class_table(stored)
    random = rng(8)
    symbols = np.where(random.random(70_000) < share, random.choice([1, 2, 3, 4, 5, 200], 70_000), 0).astype(np.uint8)
    for lanes in (1, 64, 100, 333):
        start, lengths, payload = theirs = NUMPY.encode_lanes(symbols, lanes, 0, table, classes)
        for ours, reference in zip(NUMBA.encode_lanes(symbols, lanes, 0, table, classes), theirs, strict=True):
            assert ours.tobytes() == reference.tobytes()
        fields = payload, 0, start, lengths, decode_table(counts), classes, len(symbols), packed
        assert np.array_equal(NUMBA.decode_lanes(*fields), NUMPY.decode_lanes(*fields))


@given(
    hnp.arrays(
        np.uint64,
        st.integers(0, 40),
        elements=st.sampled_from([0, 0, 1, 1 << 63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    )
)
def test_set_bits_are_listed(masks):
    words, places = np.zeros(len(masks) + 1, np.uint32), np.zeros(64 * len(masks) + 1, np.uint32)
    found = module.list_bits(masks, len(masks), words, places)
    bits = np.unpackbits(masks.astype("<u8").view(np.uint8), bitorder="little")
    assert places[:found].tolist() == np.flatnonzero(bits).tolist()


@given(hnp.arrays(np.uint8, st.integers(200, 400)), st.integers(7, 300), st.integers(0, 700), st.integers(0, 300))
def test_moved_bits_follow_those_before(source, begin, count, at):
    data = rng(at).integers(0, 256, 300, np.uint8)
    bits, before = (np.unpackbits(array, bitorder="little") for array in (source, data))
    end = module.move_bits(source, begin, count, data, at)
    after = np.unpackbits(data, bitorder="little")
    assert end == at + count
    assert after[:at].tolist() == before[:at].tolist()
    assert after[at:end].tolist() == bits[begin : begin + count].tolist()


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_output_begins_with_a_cache_line(size):
    memory = module.aligned_bytes(size)
    assert len(memory) == size
    assert memory.ctypes.data % 64 == 0
