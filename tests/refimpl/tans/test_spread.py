import numpy as np
import pytest
from hypothesis import given
from oracle import spread
from strategies import normalized_counts

from refimpl.errors import InvalidArgument
from refimpl.tans.counts import list_slots
from refimpl.tans.spread import spread_slots, spread_symbols, table_log_of


@given(normalized_counts())
def test_every_symbol_has_its_count_of_slots(counts):
    symbols = spread_symbols(counts)
    assert symbols.dtype == np.uint8
    assert np.array_equal(np.bincount(symbols, minlength=len(counts)), counts)


@given(normalized_counts())
def test_slots_count_the_states_below_with_the_same_symbol(counts):
    symbol, slot = (part.tolist() for part in spread_slots(counts))
    assert symbol == spread_symbols(counts).tolist()
    seen = [0] * len(counts)
    for s, j in zip(symbol, slot, strict=True):
        assert j == seen[s]
        seen[s] += 1


@given(normalized_counts())
def test_spread_is_the_stable_sort_by_key(counts):
    assert spread_symbols(counts).tolist() == spread(counts.tolist())


@given(normalized_counts())
def test_symbols_with_one_slot_come_last_in_order(counts):
    single = np.flatnonzero(counts == 1)
    assert spread_symbols(counts)[counts.sum() - len(single) :].tolist() == single.tolist()


@given(normalized_counts())
def test_slots_lie_evenly_before_the_singles(counts):
    symbols = spread_symbols(counts)
    inside = int(counts[counts > 1].sum())
    for s in np.flatnonzero(counts > 1):
        at = np.flatnonzero(symbols == s)
        ideal = (2 * np.arange(counts[s]) + 1) / (2 * counts[s]) * inside
        assert np.abs(at - ideal).max() <= np.count_nonzero(counts > 1) + 1


@given(normalized_counts())
def test_slots_are_listed_symbol_by_symbol(counts):
    symbol, slot = list_slots(counts)
    expected = [(s, j) for s, q in enumerate(counts.tolist()) for j in range(q)]
    assert list(zip(symbol.tolist(), slot.tolist(), strict=True)) == expected


@given(normalized_counts())
def test_table_log_is_the_logarithm_of_the_sum(counts):
    assert 1 << table_log_of(counts) == counts.sum()


@pytest.mark.parametrize(
    "counts",
    [
        [],
        [0],
        [31],
        [33],
        [16],
        [8192],
        [48],
        [33, -1],
        [-32, 64],
        [0] * 256 + [32],
        [2**62, 2**62, 2**62, 2**62 + 32],  # the sum is 32 in 64 bits
        [2**63 - 1, 2**63 - 1, 34],
    ],
)
def test_counts_of_no_table_are_refused(counts):
    with pytest.raises(InvalidArgument):
        spread_symbols(np.array(counts, np.int64))
