from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.errors import InvalidArgument
from refimpl.select import prune_count, select_lowest

scores = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
    elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, np.inf]) | st.floats(0, 4, width=32),
)


def lowest_by_sorting(score, k):
    mask = np.zeros(score.size, bool)
    mask[np.argsort(score.reshape(-1), kind="stable")[:k]] = True
    return mask.reshape(score.shape)


@given(scores)
def test_every_k_marks_exactly_the_first_k_of_a_stable_sort(score):
    for k in range(score.size + 1):
        mask = select_lowest(score, k)
        assert np.count_nonzero(mask) == k
        assert np.array_equal(mask, lowest_by_sorting(score, k))


@pytest.mark.parametrize("value", [0.0, -3.5, np.inf])
def test_all_ties_go_to_the_lowest_indices(value):
    for k in range(13):
        assert select_lowest(np.full((3, 4), value), k).reshape(-1).tolist() == [True] * k + [False] * (12 - k)


def test_minus_zero_ties_with_zero():
    assert select_lowest(np.array([0.0, -0.0, -0.0]), 1).tolist() == [True, False, False]


def test_a_large_score_agrees_with_the_sort():
    score = np.random.default_rng(5).integers(0, 50, (300, 301)).astype(np.float32)
    for k in (1, 777, 45_000, score.size - 1):
        assert np.array_equal(select_lowest(score, k), lowest_by_sorting(score, k))


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(InvalidArgument, match="k is"):
        select_lowest(np.zeros(3), k)


def test_nan_scores_are_refused():
    with pytest.raises(InvalidArgument, match="NaN"):
        select_lowest(np.array([0.0, np.nan]), 0)


@given(st.integers(0, 10**9), st.integers(0, 1000))
def test_count_is_the_exact_floor_of_a_decimal_share(total, thousandths):
    assert prune_count(total, thousandths / 1000) == total * thousandths // 1000


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_count_is_the_floor_of_the_shortest_decimal(total, sparsity):
    assert prune_count(total, sparsity) == int(total * Fraction(repr(sparsity)) // 1)


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, np.nan])
def test_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(InvalidArgument, match="sparsity"):
        prune_count(10, sparsity)
