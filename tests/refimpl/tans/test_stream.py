import contextlib
import dataclasses

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import coded_streams, coder_inputs, hostile_classes, rng, stored_classes, stream_by_hand, symbol_arrays

from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError, Truncated
from refimpl.metrics import entropy
from refimpl.tans.blocks import Block
from refimpl.tans.classes import NO_CLASSES, class_table
from refimpl.tans.counts import coded_cost, histogram, normalize_counts
from refimpl.tans.model import make_model
from refimpl.tans.stream import decode_stream, encode_stream, lane_sides, only_symbol


def gaussian_symbols(sigma, count=100_000):
    return (128 + sigma * rng(1).standard_normal(count)).round().clip(0, 255).astype(np.uint8)


@given(coder_inputs())
def test_streams_decode_to_their_symbols(inputs):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    assert stream.symbol_count == len(symbols)
    assert stream.lane_count == lanes
    assert stream.counts.sum() == 1 << table_log
    assert np.array_equal(decode_stream(stream), symbols)


@given(symbol_arrays(min_size=1, max_size=5000), st.sampled_from(["gpu", "archive"]))
def test_streams_with_chosen_lanes_and_tables_decode_too(symbols, profile):
    stream = encode_stream(symbols, profile=profile)
    assert np.array_equal(decode_stream(stream), symbols)


@given(coder_inputs(max_size=150, max_table_log=8))
def test_words_equal_those_of_the_scalar_coder(inputs):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    classes = oracle.read_classes(stream.classes.tolist())
    counts = oracle.apportion(oracle.merged(histogram(symbols).tolist(), classes), 1 << table_log)
    counts = counts[: len(stream.counts)]  # zeros at the end are not stored
    words, base, width = oracle.encode_words(symbols.tolist(), counts, lanes, classes)
    assert stream.counts.tolist() == counts
    assert sum(counts) == 1 << table_log
    assert (stream.length_base, stream.length_width) == (base, width)
    assert stream.words.tolist() == words


def with_rare_symbols(count=3000):
    """Symbols that the encoder puts into classes."""
    random = rng(count)
    rare = random.random(count) < 0.03
    return np.where(rare, random.integers(100, 164, count), random.geometric(0.8, count)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("table_log", "lanes"), [(5, 1), (6, 7), (8, 3)])
def test_words_with_literals_equal_those_of_the_scalar_coder(table_log, lanes):
    symbols = with_rare_symbols()
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    classes = oracle.read_classes(stream.classes.tolist())
    assert classes
    words, base, width = oracle.encode_words(symbols.tolist(), stream.counts.tolist(), lanes, classes)
    assert (stream.length_base, stream.length_width, stream.words.tolist()) == (base, width, words)
    fields = (len(symbols), lanes, base, width, stream.counts.tolist(), classes)
    assert oracle.decode_words(stream.words, *fields) == symbols.tolist()
    assert np.array_equal(decode_stream(stream), symbols)


@pytest.mark.parametrize(("table_log", "lanes"), [(5, 1), (8, 7), (12, 3)])
def test_the_scalar_coder_and_the_lanes_read_each_other(table_log, lanes):
    symbols = np.minimum(rng(table_log).geometric(0.3, 700), 20).astype(np.uint8)
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    classes = oracle.read_classes(stream.classes.tolist())
    by_hand = stream_by_hand(symbols, stream.counts, classes, lanes)
    assert stream.words.tolist() == by_hand.words.tolist()
    fields = (len(symbols), lanes, stream.length_base, stream.length_width, stream.counts.tolist(), classes)
    assert oracle.decode_words(stream.words, *fields) == symbols.tolist()
    assert np.array_equal(decode_stream(by_hand), symbols)


@given(coded_streams())
def test_streams_of_any_model_decode(coded):
    # random classes, leaders without slots or in other classes, any padding: no encoder here writes them
    stream, symbols = coded
    assert np.array_equal(decode_stream(stream), symbols)


@given(coded_streams())
def test_packed_streams_decode_to_two_symbols_a_byte_or_are_refused(coded):
    stream, symbols = coded
    if only_symbol(stream.counts, class_table(stream.classes)) is None:
        assert decode_stream(stream, packed=True).tolist() == oracle.unpack(symbols.tolist())
    else:
        with pytest.raises(Corrupt, match="packed"):
            decode_stream(stream, packed=True)


@given(symbol_arrays(min_size=1, max_size=2000), st.integers(8, 12), st.integers(1, 20))
def test_streams_have_the_model_of_their_symbols(symbols, table_log, lanes):
    stream = encode_stream(symbols, table_log=table_log, lane_count=min(lanes, len(symbols)))
    model = make_model(histogram(symbols), table_log)
    assert stream.counts.tolist() == model.counts.tolist()
    assert stream.classes.tolist() == model.classes.tolist()


@pytest.mark.parametrize("table_log", [7, 8])
def test_classes_make_a_stream_shorter(table_log):
    symbols = with_rare_symbols(20_000)
    stream = encode_stream(symbols, table_log=table_log, lane_count=20)
    plain = normalize_counts(histogram(symbols), table_log)
    least = (coded_cost(histogram(symbols), plain) >> 16) + 20 * table_log + 8 * len(plain)
    assert len(stream.classes)
    assert Block("coded", len(symbols), symbols[:0], stream).stored_bits < least


@pytest.mark.parametrize("sigma", [0.7, 3, 20])
def test_payload_of_gaussian_symbols_is_within_a_percent_of_entropy(sigma):
    symbols = gaussian_symbols(sigma)
    stream = encode_stream(symbols)
    payload = 32 * len(stream.words) - stream.side_bits
    assert payload <= 1.01 * len(symbols) * entropy(symbols)


@pytest.mark.parametrize("table_log", [8, 10, 12])
def test_payload_and_start_states_cost_what_the_counts_say(table_log):
    # cross entropy = entropy + KL(symbols || counts); tANS adds little to it
    symbols = gaussian_symbols(3)
    stream = encode_stream(symbols, table_log=table_log, lane_count=16)
    counted = histogram(symbols)
    cross_entropy = coded_cost(counted, normalize_counts(counted, table_log)) / 2**16
    assert cross_entropy >= 0.9999 * len(symbols) * entropy(symbols)
    spent = 32 * len(stream.words) - 16 * stream.length_width
    assert len(symbols) * entropy(symbols) <= spent <= 1.001 * cross_entropy + 16 * table_log


def test_archive_spends_less_on_the_side_than_gpu():
    symbols = gaussian_symbols(3)
    gpu, archive = (encode_stream(symbols, profile=p) for p in ("gpu", "archive"))
    assert archive.lane_count < gpu.lane_count
    assert archive.side_bits < gpu.side_bits
    assert gpu.side_bits < 0.03 * 32 * len(gpu.words)
    assert archive.side_bits < 0.003 * 32 * len(archive.words)


@given(coder_inputs())
def test_the_shortest_lane_is_the_base_and_the_width_holds_the_longest(inputs):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    states, lengths, found_log = lane_sides(stream, class_table(stream.classes))
    assert found_log == table_log
    assert states.max() < 1 << table_log
    assert lengths.min() == stream.length_base
    assert int(lengths.max() - lengths.min()).bit_length() == stream.length_width
    assert stream.side_bits == lanes * (table_log + stream.length_width)
    assert len(stream.words) == -(-(stream.side_bits + int(lengths.sum())) // 32)


@pytest.mark.parametrize(
    "options", [{"lane_count": 0}, {"lane_count": 5}, {"table_log": 4}, {"table_log": 13}, {"profile": "fast"}]
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InvalidArgument):
        encode_stream(np.array([1, 2, 3, 4], np.uint8), **options)


def test_no_symbols_are_no_stream():
    with pytest.raises(InvalidArgument, match="at least one"):
        encode_stream(np.empty(0, np.uint8))


def test_more_symbols_than_slots_are_refused_where_no_class_pays():
    with pytest.raises(InvalidArgument, match="slots"):
        encode_stream(np.tile(np.arange(33, dtype=np.uint8), 1000), table_log=5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"symbol_count": 0}, Corrupt),
        ({"symbol_count": -1}, Corrupt),
        ({"symbol_count": 1}, Corrupt),  # fewer than lanes
        ({"symbol_count": 2**40}, LimitExceeded),
        ({"symbol_count": 2**70}, LimitExceeded),
        ({"lane_count": 0}, Corrupt),
        ({"lane_count": -1}, Corrupt),
        ({"lane_count": 301}, Corrupt),
        ({"lane_count": 300}, Truncated),
        ({"length_base": -1}, Corrupt),
        ({"length_base": 2**31}, Truncated),
        ({"length_base": 2**62}, Truncated),  # four lanes of it are 0 in 64 bits
        ({"length_base": 2**80}, Truncated),
        ({"length_width": -1}, Corrupt),
        ({"length_width": 32}, Corrupt),
        ({"length_width": 31}, Truncated),
        ({"counts": np.array([32, 1])}, Corrupt),
        ({"counts": np.empty(0, np.int64)}, Corrupt),
        ({"counts": np.array([2**63 - 1, 2**63 - 1, 34])}, Corrupt),
        ({"words": np.empty(0, np.uint32)}, Truncated),
        ({"classes": np.array([0], np.uint8)}, Corrupt),
        ({"classes": np.array([1, 1, 0], np.uint8)}, Corrupt),
        ({"classes": np.array([1, 9, 0, 1], np.uint8)}, Corrupt),
        ({"classes": np.array([2, 1, 1, 0, 1, 0, 2], np.uint8)}, Corrupt),
        ({"classes": np.array([1, 1, 0, 1], np.uint8)}, Corrupt),  # literals that are not there
    ],
)
def test_each_contradiction_has_its_error(change, error):
    symbols = np.tile(np.array([0, 1, 2], np.uint8), 100)
    stream = encode_stream(symbols, lane_count=4, table_log=5)
    with pytest.raises(error):
        decode_stream(dataclasses.replace(stream, **change))


@given(coder_inputs(max_size=200), st.integers(1, 5))
def test_missing_words_are_noticed(inputs, missing):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    with pytest.raises(StreamError):
        decode_stream(dataclasses.replace(stream, words=stream.words[:-missing]))


@given(coder_inputs(max_size=200), hnp.arrays(np.uint32, st.integers(1, 3)))
def test_words_left_over_are_noticed(inputs, more):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    with pytest.raises(Corrupt):
        decode_stream(dataclasses.replace(stream, words=np.concatenate([stream.words, more])))


def test_bits_behind_the_last_lane_must_be_zero():
    stream = encode_stream(np.array([0, 1, 0, 0, 1], np.uint8), lane_count=1, table_log=5)
    words = stream.words.copy()
    words[-1] |= np.uint32(1 << 31)
    with pytest.raises(Corrupt, match="not zero"):
        decode_stream(dataclasses.replace(stream, words=words))


@pytest.mark.parametrize("count", [10**6, 2**40, 2**62])
def test_one_symbol_may_be_claimed_often_without_memory(count):
    stream = encode_stream(np.full(3, 9, np.uint8))
    decoded = decode_stream(dataclasses.replace(stream, symbol_count=count))
    assert len(decoded) == count
    assert decoded[0] == decoded[-1] == 9
    assert decoded.strides == (0,)


def test_one_symbol_cannot_be_claimed_more_often_than_an_array_holds():
    stream = encode_stream(np.full(3, 9, np.uint8))
    with pytest.raises(LimitExceeded):
        decode_stream(dataclasses.replace(stream, symbol_count=2**64))


def test_one_symbol_has_no_bits_to_read():
    stream = encode_stream(np.full(3, 9, np.uint8))
    with pytest.raises(Corrupt):
        decode_stream(dataclasses.replace(stream, length_base=1))


def test_one_leader_is_read_by_its_literals_and_limited_by_them():
    stream = stream_by_hand(np.array([9, 4] * 20, np.uint8), np.array([32]), [[0, 9, 4, 5]], 2)
    assert decode_stream(stream).tolist() == [9, 4] * 20
    assert decode_stream(stream, packed=True).tolist() == [9, 0, 4, 0] * 20
    with pytest.raises(StreamError):
        decode_stream(dataclasses.replace(stream, symbol_count=10**6))
    with pytest.raises(LimitExceeded):
        decode_stream(dataclasses.replace(stream, symbol_count=2**40))


def test_a_symbol_that_leads_no_class_is_repeated_whatever_the_classes():
    stream = dataclasses.replace(encode_stream(np.full(3, 9, np.uint8)), classes=stored_classes([[8, 9]]))
    assert decode_stream(dataclasses.replace(stream, symbol_count=2**50)).strides == (0,)


@settings(max_examples=100)
@given(coded_streams(max_size=100, max_table_log=6), hostile_classes())
def test_a_stream_with_other_classes_decodes_to_its_count_or_is_refused(coded, classes):
    stream = dataclasses.replace(coded[0], classes=classes)
    with contextlib.suppress(StreamError):
        assert len(decode_stream(stream)) == stream.symbol_count


def test_streams_without_rare_symbols_have_no_classes():
    assert encode_stream(np.tile(np.arange(4, dtype=np.uint8), 100)).classes.tolist() == NO_CLASSES.tolist()
