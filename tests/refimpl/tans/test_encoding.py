import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from oracle import decode_rows, encode_lane, number
from strategies import coder_inputs, models, rng, seeds, stored_classes

from refimpl.tans.classes import NO_CLASSES, class_table
from refimpl.tans.counts import histogram, normalize_counts
from refimpl.tans.encoding import encode_lanes
from refimpl.tans.lanes import deal
from refimpl.tans.tables import encode_table

ALONE = class_table(NO_CLASSES)


def assert_lanes_are_the_scalar_coders(symbols, lanes, padding, counts, classes):
    found = encode_lanes(symbols, lanes, padding, encode_table(counts), class_table(stored_classes(classes)))
    start, lengths, payload = found
    rows = decode_rows(counts.tolist())
    coded = [encode_lane(lane, rows, classes) for lane in deal(symbols, lanes, padding).T.tolist()]
    bits = "".join(b for _, b in coded)
    assert start.tolist() == [state for state, _ in coded]
    assert lengths.tolist() == [len(b) for _, b in coded]
    assert payload.tolist() == [number(bits[i : i + 32]) for i in range(0, len(bits), 32)]


@given(coder_inputs(max_size=150, max_table_log=8))
def test_every_lane_has_the_bits_of_the_scalar_coder(inputs):
    symbols, table_log, lanes = inputs
    counts = normalize_counts(histogram(symbols), table_log)
    assert_lanes_are_the_scalar_coders(symbols, lanes, int(symbols[0]), counts, [])


@given(models(max_table_log=8), st.integers(1, 150), st.integers(1, 40), seeds)
def test_every_lane_has_the_bits_and_literals_of_the_scalar_coder(model, size, lanes, seed):
    counts, classes, codable = model
    symbols = rng(seed).choice(codable, size).astype(np.uint8)
    assert_lanes_are_the_scalar_coders(symbols, lanes, int(codable[-1]), counts, classes)


@given(coder_inputs())
def test_types_and_sizes_are_those_promised(inputs):
    symbols, table_log, lanes = inputs
    counts = normalize_counts(histogram(symbols), table_log)
    start, lengths, payload = encode_lanes(symbols, lanes, int(symbols[0]), encode_table(counts), ALONE)
    assert (start.dtype, lengths.dtype, payload.dtype) == (np.uint16, np.int64, np.uint32)
    assert start.shape == lengths.shape == (lanes,)
    assert start.max() < 1 << table_log
    assert len(payload) == -(-int(lengths.sum()) // 32)


def test_one_symbol_costs_no_bits():
    counts = np.array([0, 32])
    _, lengths, payload = encode_lanes(np.ones(1000, np.uint8), 3, 1, encode_table(counts), ALONE)
    assert lengths.tolist() == [0, 0, 0]
    assert len(payload) == 0


def test_one_leader_costs_its_literals_only():
    classes = class_table(stored_classes([[1, 5, 6, 7]]))
    symbols = np.array([7, 1, 6, 5], np.uint8)
    _, lengths, payload = encode_lanes(symbols, 1, 1, encode_table(np.array([0, 32])), classes)
    assert lengths.tolist() == [8]
    assert payload.tolist() == [0b11_00_10_01]  # the decoder reads from the top


def test_a_lane_of_one_symbol_and_padding_codes_the_padding_only():
    counts = np.array([16, 16])
    start, lengths, _ = encode_lanes(np.array([1], np.uint8), 1, 0, encode_table(counts), ALONE)
    assert lengths.tolist() == [3]  # three steps of one bit; the fourth symbol is in the state alone
    assert start.shape == (1,)


def test_padding_that_leads_a_class_has_literals_too():
    classes = class_table(stored_classes([[0, 2]]))
    _, lengths, _ = encode_lanes(np.array([1], np.uint8), 1, 0, encode_table(np.array([16, 16])), classes)
    assert lengths.tolist() == [3 + 3]
