import dataclasses

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import coder_inputs, rng, symbol_arrays

from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError, Truncated
from refimpl.metrics import entropy
from refimpl.tans.counts import coded_cost, histogram, normalize_counts
from refimpl.tans.stream import Stream, append_bits, decode_stream, encode_stream, lane_sides


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
    counts = oracle.apportion(histogram(symbols).tolist(), 1 << table_log)
    words, base, width = oracle.encode_words(symbols.tolist(), counts, lanes)
    assert stream.counts.tolist() == counts
    assert (stream.length_base, stream.length_width) == (base, width)
    assert stream.words.tolist() == words


@pytest.mark.parametrize(("table_log", "lanes"), [(5, 1), (8, 7), (12, 3)])
def test_the_scalar_coder_and_the_lanes_read_each_other(table_log, lanes):
    symbols = np.minimum(rng(table_log).geometric(0.3, 700), 20).astype(np.uint8)
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    counts = stream.counts.tolist()
    words, base, width = oracle.encode_words(symbols.tolist(), counts, lanes)
    assert stream.words.tolist() == words
    fields = (len(symbols), lanes, stream.length_base, stream.length_width, counts)
    assert oracle.decode_words(stream.words, *fields) == symbols.tolist()
    by_hand = Stream(len(symbols), lanes, base, width, stream.counts, np.array(words, np.uint32))
    assert np.array_equal(decode_stream(by_hand), symbols)


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
    states, lengths, found_log = lane_sides(stream)
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


def test_more_symbols_than_slots_are_refused():
    with pytest.raises(InvalidArgument, match="slots"):
        encode_stream(np.arange(33, dtype=np.uint8), table_log=5)


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


@given(hnp.arrays(bool, st.integers(0, 100)), hnp.arrays(bool, st.integers(0, 100)))
def test_appended_bits_follow_without_a_gap(head, tail):
    def words(bits):
        padded = np.concatenate([bits, np.zeros(-len(bits) % 32, bool)])
        return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)

    joined = append_bits(words(head), len(head), words(tail), len(tail))
    assert np.array_equal(joined, words(np.concatenate([head, tail])))
