import numpy as np
import oracle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.tans.nibbles import pack_nibbles, unpack_nibbles

nibbles = hnp.arrays(np.uint8, st.integers(0, 70), elements=st.integers(0, 15))


@given(nibbles)
def test_bytes_hold_two_symbols_the_first_in_the_low_half(symbols):
    before = symbols.copy()
    packed = pack_nibbles(symbols)
    assert packed.dtype == np.uint8
    assert packed.tolist() == oracle.pack(symbols.tolist())
    assert np.array_equal(symbols, before)


@given(hnp.arrays(np.uint8, st.integers(0, 70)))
def test_any_bytes_unpack(packed):
    symbols = unpack_nibbles(packed)
    assert symbols.dtype == np.uint8
    assert symbols.tolist() == oracle.unpack(packed.tolist())
    assert np.array_equal(pack_nibbles(symbols), packed)


@given(nibbles)
def test_unpacking_undoes_packing_up_to_a_zero(symbols):
    unpacked = unpack_nibbles(pack_nibbles(symbols))
    assert np.array_equal(unpacked[: len(symbols)], symbols)
    assert not unpacked[len(symbols) :].any()
    assert len(unpacked) == len(symbols) + len(symbols) % 2


def test_read_only_arrays_are_packed():
    assert pack_nibbles(np.broadcast_to(np.uint8(5), 3)).tolist() == [0x55, 5]
