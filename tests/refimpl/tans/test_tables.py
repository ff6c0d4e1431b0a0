import numpy as np
from hypothesis import given
from oracle import decode_rows
from strategies import normalized_counts

from refimpl.tans.tables import bit_length, decode_table, encode_table


@given(normalized_counts())
def test_decode_table_equals_the_scalar_construction(counts):
    table = decode_table(counts)
    rows = list(zip(table.symbol.tolist(), table.bit_count.tolist(), table.base.tolist(), strict=True))
    assert rows == decode_rows(counts.tolist())
    assert (table.symbol.dtype, table.bit_count.dtype, table.base.dtype) == (np.uint8, np.uint8, np.uint16)


@given(normalized_counts())
def test_no_bits_lead_outside_the_table(counts):
    table = decode_table(counts)
    size = len(table.symbol)
    assert (table.base.astype(int) + (1 << table.bit_count.astype(int)) <= size).all()
    assert table.bit_count.max() < size.bit_length()


@given(normalized_counts())
def test_the_states_of_a_symbol_are_reached_once_from_anywhere(counts):
    table = decode_table(counts)
    size = len(table.symbol)
    for s in np.flatnonzero(counts):
        own = table.symbol == s
        ranges = zip(table.base[own].tolist(), table.bit_count[own].tolist(), strict=True)
        assert sorted(state for base, width in ranges for state in range(base, base + (1 << width))) == list(
            range(size)
        )


@given(normalized_counts())
def test_decoding_inverts_encoding_for_every_state_and_symbol(counts):
    encoder, decoder = encode_table(counts), decode_table(counts)
    size = len(decoder.symbol)
    state = np.arange(size)[:, None]  # (states, 1)
    symbol = np.flatnonzero(counts)[None]  # (1, symbols)
    width = (state + encoder.bit_count_delta[symbol].astype(np.int64)) >> 16
    bits = state & ((1 << width) - 1)
    before = encoder.next_state[encoder.first_slot[symbol] + ((size + state) >> width)].astype(np.int64)
    assert (decoder.symbol[before] == symbol).all()
    assert np.array_equal(decoder.bit_count[before], width)
    assert np.array_equal(decoder.base[before] + bits, np.broadcast_to(state, bits.shape))


@given(normalized_counts())
def test_the_last_state_is_the_lowest_that_emits_the_symbol(counts):
    encoder, decoder = encode_table(counts), decode_table(counts)
    for s in np.flatnonzero(counts):
        assert encoder.last_state[s] == np.flatnonzero(decoder.symbol == s)[0]


@given(normalized_counts())
def test_next_states_are_a_permutation_grouped_by_symbol_and_ascending(counts):
    encoder, decoder = encode_table(counts), decode_table(counts)
    assert np.array_equal(np.sort(encoder.next_state), np.arange(len(decoder.symbol)))
    order = decoder.symbol[encoder.next_state].astype(int) * 4096 + encoder.next_state
    assert (np.diff(order) > 0).all()


def test_bit_length_is_pythons():
    assert bit_length(np.arange(1, 8192)).tolist() == [x.bit_length() for x in range(1, 8192)]
