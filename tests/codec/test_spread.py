"""The jitted spread is the reference's, slot by slot."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from strategies import normalized_counts

from codec.spread import spread_slots
from refimpl.errors import InvalidArgument
from refimpl.tans import spread


@settings(max_examples=300)
@given(normalized_counts())
@example(np.array([1] * 32))
@example(np.array([0, 4096]))
@example(np.array([1] * 255 + [4096 - 255]))
@example(np.array([2] * 128 + [0] * 128))
@example(np.array([16] * 256))
@example(np.arange(1, 91))  # sums to 4095
def test_spreads_are_twins(counts):
    counts = np.append(counts, 1) if counts.sum() == 4095 else counts
    for ours, theirs in zip(spread_slots(counts), spread.spread_slots(counts), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


def test_every_count_shares_the_largest_table_alike():
    for q in range(1, 4096):
        counts = np.array([q, 4096 - q])
        for ours, theirs in zip(spread_slots(counts), spread.spread_slots(counts), strict=True):
            assert np.array_equal(ours, theirs), q


@pytest.mark.parametrize("counts", [[], [31], [33], [8192], [-32, 64], [1] * 512])
def test_counts_that_no_table_has(counts):
    with pytest.raises(InvalidArgument):
        spread_slots(np.array(counts, np.int64))
