import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import coder_inputs

from refimpl.errors import Corrupt
from refimpl.tans.bits import write_fields
from refimpl.tans.counts import histogram, normalize_counts
from refimpl.tans.decoding import decode_lanes
from refimpl.tans.encoding import encode_lanes
from refimpl.tans.tables import decode_table, encode_table


def coded(symbols, table_log, lanes):
    counts = normalize_counts(histogram(symbols), table_log)
    return decode_table(counts), *encode_lanes(symbols, lanes, int(symbols[0]), encode_table(counts))


@given(coder_inputs())
def test_lanes_decode_to_the_symbols(inputs):
    symbols = inputs[0]
    table, start, lengths, payload = coded(*inputs)
    decoded = decode_lanes(payload, 0, start, lengths, table, len(symbols))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, symbols)


@given(coder_inputs(max_size=200), st.integers(0, 70))
def test_lanes_may_begin_at_any_bit(inputs, first_bit):
    symbols = inputs[0]
    table, start, lengths, payload = coded(*inputs)
    bits = np.unpackbits(payload.view(np.uint8), bitorder="little")
    shifted = write_fields(*np.broadcast_arrays(np.concatenate([np.ones(first_bit, int), bits.astype(int)]), 1))
    assert np.array_equal(decode_lanes(shifted, first_bit, start, lengths, table, len(symbols)), symbols)


@given(coder_inputs(max_size=200), st.data())
def test_a_wrong_lane_length_is_noticed(inputs, data):
    symbols, _, lanes = inputs
    table, start, lengths, payload = coded(*inputs)
    lane = data.draw(st.integers(0, lanes - 1))
    wrong = lengths.copy()
    wrong[lane] += data.draw(st.sampled_from([-1, 1, 32]))
    with pytest.raises(Corrupt):
        decode_lanes(payload, 0, start, wrong, table, len(symbols))
