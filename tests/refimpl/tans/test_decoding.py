import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import unpack
from strategies import coder_inputs, models, rng, seeds, stored_classes

from refimpl.errors import Corrupt
from refimpl.tans.bits import write_fields
from refimpl.tans.classes import NO_CLASSES, class_table
from refimpl.tans.counts import histogram, normalize_counts
from refimpl.tans.decoding import decode_lanes
from refimpl.tans.encoding import encode_lanes
from refimpl.tans.tables import decode_table, encode_table

ALONE = class_table(NO_CLASSES)


def coded(symbols, table_log, lanes):
    counts = normalize_counts(histogram(symbols), table_log)
    return decode_table(counts), *encode_lanes(symbols, lanes, int(symbols[0]), encode_table(counts), ALONE)


def coded_in_classes(model, size, lanes, seed):
    counts, drawn, codable = model
    symbols, classes = rng(seed).choice(codable, size).astype(np.uint8), class_table(stored_classes(drawn))
    parts = encode_lanes(symbols, lanes, int(codable[0]), encode_table(counts), classes)
    return symbols, classes, decode_table(counts), *parts


@given(coder_inputs())
def test_lanes_decode_to_the_symbols(inputs):
    symbols = inputs[0]
    table, start, lengths, payload = coded(*inputs)
    decoded = decode_lanes(payload, 0, start, lengths, table, ALONE, len(symbols))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, symbols)


@given(models(), st.integers(1, 300), st.integers(1, 40), seeds)
def test_lanes_with_literals_decode_to_the_symbols(model, size, lanes, seed):
    symbols, classes, table, start, lengths, payload = coded_in_classes(model, size, lanes, seed)
    decoded = decode_lanes(payload, 0, start, lengths, table, classes, len(symbols))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, symbols)


@given(models(), st.integers(1, 100), st.integers(1, 10), seeds)
def test_packed_lanes_decode_to_two_nibbles_a_byte(model, size, lanes, seed):
    symbols, classes, table, start, lengths, payload = coded_in_classes(model, size, lanes, seed)
    decoded = decode_lanes(payload, 0, start, lengths, table, classes, len(symbols), packed=True)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == unpack(symbols.tolist())


def behind(first_bit, payload):
    bits = np.unpackbits(payload.view(np.uint8), bitorder="little")
    return write_fields(*np.broadcast_arrays(np.concatenate([np.ones(first_bit, int), bits.astype(int)]), 1))


@given(coder_inputs(max_size=200), st.integers(0, 70))
def test_lanes_may_begin_at_any_bit(inputs, first_bit):
    symbols = inputs[0]
    table, start, lengths, payload = coded(*inputs)
    decoded = decode_lanes(behind(first_bit, payload), first_bit, start, lengths, table, ALONE, len(symbols))
    assert np.array_equal(decoded, symbols)


@given(models(), st.integers(1, 200), st.integers(1, 40), seeds, st.integers(0, 70))
def test_lanes_with_literals_may_begin_at_any_bit(model, size, lanes, seed, first_bit):
    symbols, classes, table, start, lengths, payload = coded_in_classes(model, size, lanes, seed)
    decoded = decode_lanes(behind(first_bit, payload), first_bit, start, lengths, table, classes, len(symbols))
    assert np.array_equal(decoded, symbols)


@given(coder_inputs(max_size=200), st.data())
def test_a_wrong_lane_length_is_noticed(inputs, data):
    symbols, _, lanes = inputs
    table, start, lengths, payload = coded(*inputs)
    lane = data.draw(st.integers(0, lanes - 1))
    wrong = lengths.copy()
    wrong[lane] += data.draw(st.sampled_from([-1, 1, 32]))
    with pytest.raises(Corrupt):
        decode_lanes(payload, 0, start, wrong, table, ALONE, len(symbols))


def test_a_wrong_length_of_a_lane_of_literals_is_noticed_and_named():
    classes = class_table(stored_classes([[1, 5]]))
    symbols = np.array([5, 1, 5, 5] * 3, np.uint8)
    table = decode_table(np.array([0, 32]))
    start, lengths, payload = encode_lanes(symbols, 3, 1, encode_table(np.array([0, 32])), classes)
    for change in ([0, 1, -1], [0, -1, 0], [0, 40, 0]):
        with pytest.raises(Corrupt, match="lane 1 "):
            decode_lanes(payload, 0, start, lengths + np.array(change), table, classes, 12)
