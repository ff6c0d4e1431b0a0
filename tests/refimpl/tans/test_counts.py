import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import apportion
from strategies import histograms, symbol_arrays, table_logs

from refimpl.errors import InvalidArgument
from refimpl.tans.counts import (
    check_table_log,
    choose_table_log,
    coded_cost,
    histogram,
    log2_fixed,
    normalize_counts,
)


def needed_log(counted):
    return max(5, int(np.count_nonzero(counted) - 1).bit_length())


@given(symbol_arrays())
def test_histogram_counts_every_symbol_up_to_the_largest(symbols):
    counted = histogram(symbols)
    assert counted.dtype == np.int64
    assert (
        counted.tolist() == [symbols.tolist().count(s) for s in range(int(symbols.max(initial=0)) + 1)][: len(counted)]
    )
    assert len(counted) == (int(symbols.max()) + 1 if len(symbols) else 0)


def test_histogram_takes_any_shape():
    assert histogram(np.array([[1, 1], [0, 3]], np.uint8)).tolist() == [1, 2, 0, 1]


@given(histograms(), table_logs)
def test_counts_fill_the_table_and_hold_exactly_the_present_symbols(counted, table_log):
    table_log = max(table_log, needed_log(counted))
    counts = normalize_counts(counted, table_log)
    assert counts.dtype == np.int64
    assert counts.shape == counted.shape
    assert counts.sum() == 1 << table_log
    assert np.array_equal(counts > 0, counted > 0)


@given(histograms(), table_logs)
def test_a_more_frequent_symbol_never_has_fewer_slots(counted, table_log):
    counts = normalize_counts(counted, max(table_log, needed_log(counted)))
    order = np.lexsort((-np.arange(len(counted)), counted))  # of equals, the lower symbol wins ties
    assert (np.diff(counts[order]) >= 0).all()


@given(histograms(max_alphabet=32), st.integers(5, 7))
def test_counts_are_those_of_webster_in_fractions(counted, table_log):
    assert normalize_counts(counted, table_log).tolist() == apportion(counted.tolist(), 1 << table_log)


@given(st.integers(1, 2**39 - 1), st.integers(0, 3), st.integers(0, 400), st.integers(0, 400))
@example(2**39 - 1, 1, 100, 99)
def test_float64_decides_close_races_as_fractions_do(largest, gap, q, r):
    # two symbols whose quotients nearly or exactly tie at (q, r) slots
    other = min(2**39 - 1, largest * (2 * r + 1) // (2 * q + 1) + gap)
    counted = np.array([largest, max(other, 1)])
    counts = normalize_counts(counted, 10)
    a, b = (Fraction(int(h)) for h in counted)
    p, s = (int(c) for c in counts)
    # no slot would rather be the other's: Webster's condition, ties for the lower symbol
    assert s == 1 or b / (2 * s - 1) > a / (2 * p + 1)
    assert p == 1 or a / (2 * p - 1) >= b / (2 * s + 1)


@given(histograms(), table_logs)
def test_every_slot_is_where_it_gains_most(counted, table_log):
    counts = normalize_counts(counted, max(table_log, needed_log(counted)))
    present = np.flatnonzero(counted)
    want = max(Fraction(int(counted[s]), 2 * int(counts[s]) + 1) for s in present)
    have = [Fraction(int(counted[s]), 2 * int(counts[s]) - 1) for s in present if counts[s] > 1]
    assert not have or min(have) >= want


@pytest.mark.parametrize(
    ("counted", "table_log"),
    [([0, 0], 5), ([], 5), ([1] * 33, 5), ([1], 4), ([1], 13), ([3, -1], 5), ([2**39], 5), ([1] * 256, 7)],
)
def test_what_no_table_can_hold_is_refused(counted, table_log):
    with pytest.raises(InvalidArgument):
        normalize_counts(np.array(counted, np.int64), table_log)


def test_a_full_table_gives_every_symbol_one_slot():
    assert normalize_counts(np.array([10**9] + [1] * 31), 5).tolist() == [1] * 32


@given(st.integers(1, 4096) | st.integers(1, 2**32 - 1))
def test_log2_is_truncated_close_to_the_truth(x):
    approximation = log2_fixed(x) / 2**16
    assert approximation <= math.log2(x)
    assert math.log2(x) - approximation < 2**-14


@given(st.integers(1, 2**32 - 2))
def test_log2_never_falls(x):
    assert log2_fixed(x) <= log2_fixed(x + 1)


@pytest.mark.parametrize("power", range(32))
def test_log2_of_a_power_is_exact(power):
    assert log2_fixed(1 << power) == power << 16


@pytest.mark.parametrize("x", [0, -5])
def test_log2_of_nothing_is_refused(x):
    with pytest.raises(InvalidArgument):
        log2_fixed(x)


@given(histograms(largest=10**6), table_logs)
def test_cost_is_the_cross_entropy(counted, table_log):
    counts = normalize_counts(counted, max(table_log, needed_log(counted)))
    present = counted > 0
    p, q = counted[present] / counted.sum(), counts[present] / counts.sum()
    own_entropy = -(p * np.log2(p)).sum()
    divergence = (p * np.log2(p / q)).sum()
    assert divergence >= -1e-12
    per_symbol = coded_cost(counted, counts) / 2**16 / counted.sum()
    assert per_symbol == pytest.approx(own_entropy + divergence, abs=2**-14)


@given(histograms(max_alphabet=64, largest=10**6), st.integers(1, 10**5))
def test_the_chosen_table_is_the_cheapest_and_smallest_of_equals(counted, lanes):
    def cost(table_log):
        return coded_cost(counted, normalize_counts(counted, table_log)) + (lanes * table_log << 16)

    allowed = range(needed_log(counted), 13)
    chosen = choose_table_log(counted, lanes)
    assert chosen in allowed
    assert all(cost(chosen) < cost(r) if r < chosen else cost(chosen) <= cost(r) for r in allowed if r != chosen)


def test_256_symbols_need_a_table_of_256_slots():
    assert choose_table_log(np.ones(256, np.int64), 1000) == 8


@pytest.mark.parametrize("table_log", range(5, 13))
def test_allowed_table_logs_pass(table_log):
    check_table_log(table_log)
