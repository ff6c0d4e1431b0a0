import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import apportion
from strategies import histograms, symbol_arrays, table_logs

from refimpl.errors import InvalidArgument
from refimpl.tans.counts import (
    check_table_log,
    coded_cost,
    histogram,
    log2_fixed,
    normalize_counts,
    slots_above,
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


def is_websters(counted, counts):
    """Whether every slot given comes before every slot refused: quotient, then the lower symbol. No two shares are."""
    present = [(int(h), int(q), -s) for s, (h, q) in enumerate(zip(counted, counts, strict=True)) if h]
    refused = max((Fraction(h, 2 * q + 1), s) for h, q, s in present)
    given = [(Fraction(h, 2 * q - 1), s) for h, q, s in present if q > 1]
    return all(q >= 1 for _, q, _ in present) and (not given or min(given) > refused)


@settings(max_examples=150)
@given(histograms(), table_logs)
@example(np.array([2**39 - 1]), 12)
@example(np.array([2**39 - 1] * 256), 12)
@example(np.array([2**39 - 1] * 255 + [2**39 - 2]), 12)
@example(np.array([2**39 - 1] + [1] * 255), 8)
@example(np.array([1] * 255 + [2**39 - 1]), 12)
@example(np.array([1, 3, 5, 7, 9, 11]), 12)
@example(np.array([3 * 5 * 7 * 11 * k for k in (1, 3, 5, 7, 9, 11)]), 11)
@example(np.array([2**39 - 1, 2**39 - 1, 2**38]), 10)
def test_every_slot_is_where_it_gains_most_and_ties_go_to_the_lower_symbol(counted, table_log):
    counts = normalize_counts(counted, max(table_log, needed_log(counted)))
    assert is_websters(counted, counts)


@pytest.mark.parametrize("table_log", [8, 10, 12])
@pytest.mark.parametrize(
    "counted",
    [
        [7] * 3,
        [2**39 - 1] * 7,
        [3, 1],
        [9, 3, 3, 1, 1, 1],
        [45, 15, 9, 5, 3, 1],
        [2**39 - 1, 1],
        [1, 2**39 - 1, 0, 2**20],
        [5 * 2**30, 3 * 2**30, 2**30],
        list(range(1, 26)),
        [100, 100, 100, 1, 1, 0, 1, 10**6],
    ],
)
def test_large_tables_are_those_of_webster_in_fractions(counted, table_log):
    assert normalize_counts(np.array(counted), table_log).tolist() == apportion(counted, 1 << table_log)


@given(histograms(), st.floats(0.001, 2.0**40) | st.integers(1, 1000))
def test_slots_above_a_threshold_are_those_with_larger_quotients(counted, threshold):
    threshold = max(threshold, counted.max() / 5000)
    for h, q in zip(counted.tolist(), slots_above(counted, threshold).tolist(), strict=True):
        assert q == 0 if h == 0 else q == 1 or h / (2 * q - 1) > threshold
        assert h / (2 * q + 1) <= threshold


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


@pytest.mark.parametrize("table_log", range(5, 13))
def test_allowed_table_logs_pass(table_log):
    check_table_log(table_log)
