import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import symbol_arrays, weights

from refimpl.metrics import entropy, entropy_of_counts, mean_squared_error, sqnr_db


@given(symbol_arrays())
def test_entropy_lies_between_zero_and_the_log_of_the_alphabet(symbols):
    distinct = len(np.unique(symbols))
    assert 0 <= entropy(symbols) <= math.log2(max(distinct, 1)) <= 8


@given(st.integers(0, 255), st.integers(1, 100_000))
def test_one_symbol_has_no_entropy_at_all(symbol, count):
    assert entropy_of_counts(np.array([count])) == 0
    assert entropy(np.full(count % 100, symbol, np.uint8)) == 0


@given(st.integers(1, 20_000), st.integers(0, 8))
def test_uniform_symbols_have_the_log_of_the_alphabet(count, log):
    assert entropy_of_counts(np.full(1 << log, count)) == pytest.approx(log, abs=1e-12)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_entropy_of_two_symbols_is_the_binary_entropy(a, b):
    p = a / (a + b)
    expected = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert entropy_of_counts(np.array([a, 0, b])) == pytest.approx(expected, abs=1e-9)


@given(symbol_arrays(), st.randoms(use_true_random=False))
def test_entropy_knows_frequencies_only(symbols, random):
    shuffled = symbols.tolist()
    random.shuffle(shuffled)
    relabelled = 255 - np.array(shuffled, np.uint8)
    assert entropy(relabelled) == pytest.approx(entropy(symbols), abs=1e-12)


def test_entropy_of_geometric_counts():
    # p = 1/2, 1/4, ..., 1/2^k, 1/2^k: 2 - 2^(1-k) bits
    k = 20
    counts = np.array([1 << (k - i) for i in range(1, k + 1)] + [1])
    assert entropy_of_counts(counts) == pytest.approx(2 - 2.0 ** (1 - k), abs=1e-12)


@given(weights(), st.floats(-100, 100, width=32))
def test_mean_squared_error_of_a_shift_is_its_square(weight, shift):
    double = weight.astype(np.float64)
    moved = double + shift
    assert mean_squared_error(double, moved) == pytest.approx(float(np.mean((double - moved) ** 2)))
    assert mean_squared_error(np.zeros(3), np.full(3, shift)) == pytest.approx(shift * shift)


def test_error_of_nothing_is_zero():
    assert mean_squared_error(np.empty(0), np.empty(0)) == 0


def test_exact_weights_have_infinite_sqnr_and_noise_on_zeros_minus_infinite():
    assert sqnr_db(np.ones(2), np.ones(2)) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf


@given(hnp.arrays(np.float64, 6, elements=st.floats(1, 10)), st.floats(0.001, 1))
def test_a_relative_error_r_is_minus_20_log_r_db(signal, relative):
    assert sqnr_db(signal, signal * (1 - relative)) == pytest.approx(-20 * math.log10(relative), abs=1e-6)


def test_weight_of_a_channel_counts_its_noise_and_its_signal():
    signal, noisy = np.array([[1.0, 1.0]]), np.array([[1.0, 0.9]])
    assert sqnr_db(signal, noisy, np.array([1.0, 0.0])) == math.inf
    assert sqnr_db(signal, noisy, np.array([3.0, 1.0])) == pytest.approx(10 * math.log10(4 / 0.01))
