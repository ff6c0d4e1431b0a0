"""The jitted choice of a model is the reference's, to the bit."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import histograms, rng, seeds, table_logs

from codec import choice
from refimpl.errors import InvalidArgument
from refimpl.tans import counts, model
from refimpl.tans.classes import LITERAL_PRICE

choose_model = partial(model.choose_model, cheapest=choice.cheapest_model)
prices = st.sampled_from([0, *LITERAL_PRICE.values()])
lane_counts = st.integers(1, 10**5)


@st.composite
def bells(draw):
    """Occurrences as those of quantized weights: many single ones at the ends."""
    center, width, total = draw(st.tuples(st.integers(0, 255), st.floats(0.3, 60), st.integers(1, 10**7)))
    expected = total * np.exp(-(((np.arange(256) - center) / width) ** 2) / 2) / width
    counted = rng(draw(seeds)).poisson(expected + draw(st.sampled_from([0.0, 0.5, 3.0])))
    counted[center] += 1
    return counted[: np.flatnonzero(counted)[-1] + 1].astype(np.int64)


def assert_same(counted, *arguments):
    ours, theirs = choose_model(counted, *arguments), model.choose_model(counted, *arguments)
    assert ours.counts.dtype == theirs.counts.dtype
    assert ours.classes.dtype == theirs.classes.dtype
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.classes.tolist() == theirs.classes.tolist()


@settings(max_examples=500)
@given(histograms(largest=2**30) | histograms(max_alphabet=64, largest=10**6) | bells(), lane_counts, prices)
@example(np.ones(256, np.int64), 1000, 1 << 16)
@example(np.array([0, 0, 5]), 1, 1 << 16)
@example(np.array([100000] + [1] * 255), 3, 0)
@example(np.array([2**39 - 257] + [1] * 256)[:256], 1, 1 << 10)
def test_models_are_twins(counted, lanes, price):
    assert_same(counted, lanes, None, price)


@given(histograms(max_alphabet=32), table_logs, lane_counts)
def test_a_set_table_is_taken(counted, table_log, lanes):
    if sum(counted.tolist()) < 1 << 39:
        assert_same(counted, lanes, table_log)


@settings(max_examples=500)
@given(histograms() | bells(), table_logs)
@example(np.array([1] * 32), 5)
@example(np.array([2**39 - 1, 1, 1]), 12)
def test_normalized_counts_are_twins(counted, table_log):
    table_log = max(table_log, int(np.count_nonzero(counted) - 1).bit_length())
    ours, theirs = choice.normalize_counts(counted, table_log), counts.normalize_counts(counted, table_log)
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("counted", "table_log", "message"),
    [
        ([0, 0], 5, "0 symbols occur"),
        ([1] * 33, 5, "33 symbols occur"),
        ([3, -1], 5, "histogram entries"),
        ([1 << 39], 5, "histogram entries"),
        ([1], 13, "table_log is 13"),
        ([1] * 257, 12, "an alphabet of 257 symbols"),
    ],
)
def test_counts_that_cannot_be_normalized(counted, table_log, message):
    with pytest.raises(InvalidArgument, match=message):
        choice.normalize_counts(np.array(counted, np.int64), table_log)


@pytest.mark.parametrize(
    ("counted", "message"),
    [
        ([], "no symbol occurs"),
        ([0, 0], "no symbol occurs"),
        ([3, -1], "none of them negative"),
        ([1 << 38, 1 << 38], "fewer than 2\\*\\*39"),
        ([1] * 257, "an alphabet of 257 symbols"),
    ],
)
def test_histograms_without_a_model(counted, message):
    with pytest.raises(InvalidArgument, match=message):
        choose_model(np.array(counted, np.int64), 1)
