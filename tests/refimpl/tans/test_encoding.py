import numpy as np
from hypothesis import given
from oracle import decode_rows, encode_lane, number
from strategies import coder_inputs

from refimpl.tans.counts import histogram, normalize_counts
from refimpl.tans.encoding import encode_lanes
from refimpl.tans.lanes import deal
from refimpl.tans.tables import encode_table


@given(coder_inputs(max_size=150, max_table_log=8))
def test_every_lane_has_the_bits_of_the_scalar_coder(inputs):
    symbols, table_log, lanes = inputs
    counts = normalize_counts(histogram(symbols), table_log)
    padding = int(symbols[0])
    start, lengths, payload = encode_lanes(symbols, lanes, padding, encode_table(counts))
    rows = decode_rows(counts.tolist())
    coded = [encode_lane(lane, rows) for lane in deal(symbols, lanes, padding).T.tolist()]
    bits = "".join(b for _, b in coded)
    assert start.tolist() == [state for state, _ in coded]
    assert lengths.tolist() == [len(b) for _, b in coded]
    assert payload.tolist() == [number(bits[i : i + 32]) for i in range(0, len(bits), 32)]


@given(coder_inputs())
def test_types_and_sizes_are_those_promised(inputs):
    symbols, table_log, lanes = inputs
    counts = normalize_counts(histogram(symbols), table_log)
    start, lengths, payload = encode_lanes(symbols, lanes, int(symbols[0]), encode_table(counts))
    assert (start.dtype, lengths.dtype, payload.dtype) == (np.uint16, np.int64, np.uint32)
    assert start.shape == lengths.shape == (lanes,)
    assert start.max() < 1 << table_log
    assert len(payload) == -(-int(lengths.sum()) // 32)


def test_one_symbol_costs_no_bits():
    counts = np.array([0, 32])
    _, lengths, payload = encode_lanes(np.ones(1000, np.uint8), 3, 1, encode_table(counts))
    assert lengths.tolist() == [0, 0, 0]
    assert len(payload) == 0


def test_a_lane_of_one_symbol_and_padding_codes_the_padding_only():
    counts = np.array([16, 16])
    start, lengths, _ = encode_lanes(np.array([1], np.uint8), 1, 0, encode_table(counts))
    assert lengths.tolist() == [3]  # three steps of one bit; the fourth symbol is in the state alone
    assert start.shape == (1,)
