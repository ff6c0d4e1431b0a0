import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.symbols import from_symbols, to_symbols

shapes = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.sampled_from([np.int8, np.uint8]).flatmap(lambda dtype: hnp.arrays(dtype, shapes)))
def test_symbols_become_the_codes_again(codes):
    symbols, zero = to_symbols(codes)
    back = from_symbols(symbols, zero, codes.dtype)
    assert symbols.dtype == np.uint8
    assert symbols.shape == codes.shape
    assert back.dtype == codes.dtype
    assert np.array_equal(back, codes)


@given(hnp.arrays(np.int8, st.integers(1, 20)))
def test_the_smallest_negative_code_is_symbol_zero(codes):
    symbols, zero = to_symbols(codes)
    assert zero == max(0, -int(codes.min()))
    if zero:
        assert symbols.min() == 0
    assert np.array_equal(symbols.astype(int), codes.astype(int) + zero)


def test_all_256_codes_fit():
    symbols, zero = to_symbols(np.arange(-128, 128).astype(np.int8))
    assert zero == 128
    assert symbols.tolist() == list(range(256))
