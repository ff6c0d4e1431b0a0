import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import weights

from refimpl.errors import InvalidArgument
from refimpl.numerics import check_weight, divide_and_round, round_half_even


@given(hnp.arrays(np.float64, 5, elements=st.floats(-1e6, 1e6) | st.integers(-999, 999).map(lambda n: n + 0.5)))
def test_rounding_is_pythons_half_to_even(x):
    assert round_half_even(x).tolist() == [round(v) for v in x.tolist()]


def test_rounding_keeps_the_dtype():
    assert round_half_even(np.array([0.5], np.float32)).dtype == np.float32


def test_codes_come_from_dividing_not_from_the_reciprocal():
    scale = np.float32(7)
    ties = (np.arange(127, dtype=np.float32) + np.float32(0.5)) * scale  # exact, 45.5 / 7 is 6.5
    assert divide_and_round(ties, scale).tolist() == [round(k + 0.5) for k in range(127)]
    by_reciprocal = np.rint(ties * (np.float32(1) / scale))
    assert by_reciprocal[6] == 7
    assert np.count_nonzero(by_reciprocal != divide_and_round(ties, scale)) == 39


@given(weights(), st.floats(2.0**-60, 2.0**60, width=32))
def test_quotients_are_rounded_once_to_float32(weight, scale):
    quotient = (weight.astype(np.float64) / np.float64(scale)).astype(np.float32)  # float64 holds 2 * 24 + 2 bits
    assert np.array_equal(divide_and_round(weight, np.float32(scale)), np.rint(quotient))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_non_finite_weights_are_refused(bad, dtype):
    with pytest.raises(InvalidArgument, match="infinite"):
        check_weight(np.array([[1, bad]], dtype))


def test_a_float64_weight_beyond_float32_is_refused():
    with pytest.raises(InvalidArgument):
        check_weight(np.array([[1e39]]))


@given(weights())
def test_finite_weights_pass_unchanged(weight):
    assert check_weight(weight).tobytes() == weight.tobytes()
