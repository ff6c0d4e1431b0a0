import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import activation_maxima, rng, seeds, weights

from refimpl.errors import InvalidArgument
from refimpl.pruning import (
    NOfM,
    global_shares,
    linf_score,
    lowest_of_rows,
    magnitude_score,
    n_of_m_mask,
    prune,
    prune_mask,
    prune_rows_mask,
    wanda_score,
    zero_dead,
)
from refimpl.quantization import QuantizationSpec, dequantize, quantize
from refimpl.scaling import max_scale
from refimpl.select import prune_count, select_lowest


@given(weights())
def test_magnitude_is_the_linf_score_of_equal_activations(weight):
    assert np.array_equal(magnitude_score(weight), linf_score(weight, np.ones(weight.shape[1])))


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-9, 9, width=32)), hnp.arrays(np.float32, (5, 3),
       elements=st.floats(-9, 9, width=32)))  # fmt: skip
def test_linf_score_is_the_largest_contribution_to_an_output(weight, x):
    contribution = np.abs(weight[None].astype(np.float64) * x[:, None]).max(axis=0)
    assert np.allclose(linf_score(weight, np.abs(x).max(axis=0)), contribution, rtol=1e-6)


@given(weights(largest=1.0), st.data())
def test_scaling_leaves_the_linf_score_alone(weight, data):
    a = data.draw(activation_maxima(weight.shape[1]).map(lambda a: np.minimum(a, 1e4)))
    s = max_scale(a, data.draw(st.floats(0, 2))).astype(np.float64)
    assert np.allclose(linf_score(weight * s, a / s), linf_score(weight, a), rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize("shapes", [((2, 3), (2,)), ((3,), (3,)), ((2, 3), (1, 3))])
def test_maxima_of_other_shapes_are_refused(shapes):
    with pytest.raises(InvalidArgument, match="does not fit"):
        linf_score(np.ones(shapes[0]), np.ones(shapes[1]))


@given(weights(), st.floats(0, 1))
def test_the_mask_has_exactly_its_share_and_nothing_kept_scores_less(weight, sparsity):
    score = magnitude_score(weight)
    mask = prune_mask(score, sparsity)
    assert np.count_nonzero(mask) == prune_count(weight.size, sparsity)
    assert score[mask].max(initial=-1) <= score[~mask].min(initial=np.inf)


@given(hnp.arrays(np.int8, (3, 4)), hnp.arrays(bool, (3, 4)))
def test_pruned_codes_are_zero_and_the_others_stay(codes, mask):
    pruned = prune(codes, mask)
    assert pruned.dtype == codes.dtype
    assert not pruned[mask].any()
    assert np.array_equal(pruned[~mask], codes[~mask])


@given(weights(), st.integers(2, 8), st.data())
def test_pruned_asymmetric_codes_dequantize_to_zero(weight, bits, data):
    mask = data.draw(hnp.arrays(bool, weight.shape))
    spec = QuantizationSpec(bits=bits, symmetric=False, granularity="channel")
    result = quantize(weight, spec)
    codes = prune(result.codes, mask, result.zero_point)
    back = dequantize(type(result)(codes, result.scale, result.zero_point))
    assert codes.dtype == np.uint8
    assert not back[mask].any()
    assert np.array_equal(back[~mask], dequantize(result)[~mask])


tied = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([0.0, -0.0, 1.0, 2.0]))


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-9, 9, width=32)), hnp.arrays(np.float32, (5, 3),
       elements=st.floats(-9, 9, width=32)))  # fmt: skip
def test_wandas_score_is_the_weight_times_the_norm_of_its_input(weight, x):
    norms = np.linalg.norm(x.astype(np.float64), axis=0) / np.sqrt(5)
    assert np.allclose(wanda_score(weight, np.square(x, dtype=np.float64).mean(axis=0)), np.abs(weight) * norms)


@given(hnp.arrays(np.float32, (3, 4), elements=st.integers(1, 9)), st.floats(0, 1), st.integers(-8, 8))
def test_sums_over_tokens_or_means_and_units_choose_the_same_weights(weight, sparsity, power):
    mean_square = np.arange(1.0, 5.0)
    ours, theirs = (wanda_score(weight, m) for m in (mean_square, 4.0**power * mean_square))
    assert np.array_equal(prune_rows_mask(ours, sparsity), prune_rows_mask(theirs, sparsity))


@given(tied, st.floats(0, 1))
def test_each_row_loses_exactly_its_share_ties_by_lowest_column(score, sparsity):
    mask = prune_rows_mask(score, sparsity)
    k = prune_count(score.shape[1], sparsity)
    assert np.array_equal(mask, np.vstack([select_lowest(row, k) for row in score]))


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 6), st.data())
def test_each_group_keeps_n_of_its_m_weights_the_highest(rows, groups, m, data):
    n = data.draw(st.integers(0, m))
    score = data.draw(hnp.arrays(np.float32, (rows, groups * m), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])))
    mask = n_of_m_mask(score, NOfM(n, m))
    for i in range(rows):
        for g in range(groups):
            part = np.s_[i, g * m : (g + 1) * m]
            assert np.array_equal(mask[part], select_lowest(score[part], m - n))


@pytest.mark.parametrize(("n", "m"), [(-1, 2), (3, 2), (0, 0)])
def test_impossible_patterns_are_refused(n, m):
    with pytest.raises(InvalidArgument, match="pattern"):
        NOfM(n, m)


def test_columns_that_are_not_whole_groups_are_refused():
    with pytest.raises(InvalidArgument, match="groups"):
        n_of_m_mask(np.ones((1, 6)), NOfM(2, 4))


def test_nan_scores_are_refused():
    with pytest.raises(InvalidArgument, match="NaN"):
        lowest_of_rows(np.array([[1.0, np.nan]]), 1)


@pytest.mark.parametrize("sparsity", [-0.01, 1.01])
def test_impossible_shares_of_rows_are_refused(sparsity):
    with pytest.raises(InvalidArgument, match="sparsity"):
        prune_rows_mask(np.ones((1, 2)), sparsity)


@given(weights(), st.data())
def test_dead_columns_are_zeroed_and_the_others_stay(weight, data):
    diagonal = data.draw(hnp.arrays(np.float64, weight.shape[1], elements=st.sampled_from([0.0, 1e-300, 1.0])))
    result = zero_dead(weight, np.diag(diagonal))
    assert result.dtype == weight.dtype
    assert not result[:, diagonal == 0].any()
    assert np.array_equal(result[:, diagonal > 0], weight[:, diagonal > 0])


@given(seeds, st.floats(0, 1), st.integers(1, 5))
def test_one_threshold_for_all_layers_prunes_what_is_lowest_of_all(seed, sparsity, count):
    random = rng(seed)
    sizes = [tuple(random.integers(1, 8, 2)) for _ in range(count)]
    scores = [
        np.abs(random.standard_normal(s)).astype(np.float32) * np.float32(10.0 ** random.integers(-3, 4)) for s in sizes
    ]
    shares = global_shares(scores, sparsity)
    masks = [prune_mask(score, share) for score, share in zip(scores, shares, strict=True)]
    total = sum(s.size for s in scores)
    assert sum(int(m.sum()) for m in masks) == prune_count(total, sparsity)
    normalized = [s / np.mean(s, dtype=np.float64) for s in scores]
    pruned = [x for n, m in zip(normalized, masks, strict=True) for x in n[m]]
    kept = [x for n, m in zip(normalized, masks, strict=True) for x in n[~m]]
    assert max(pruned, default=0) <= min(kept, default=np.inf) * (1 + 1e-6)


@given(seeds, st.floats(0, 1))
def test_the_unit_of_a_layers_scores_does_not_matter(seed, sparsity):
    random = rng(seed)
    scores = [np.abs(random.standard_normal((4, 5))).astype(np.float32) for _ in range(3)]
    louder = [s * np.float32(2.0**k) for s, k in zip(scores, (-20, 0, 30), strict=True)]
    assert global_shares(louder, sparsity) == global_shares(scores, sparsity)


def test_layers_of_zeros_go_first_and_no_layers_are_no_shares():
    assert global_shares([np.ones((2, 2)), np.zeros((2, 2))], 0.5) == [0.0, 1.0]
    assert global_shares([], 0.5) == []
    assert global_shares([np.empty((0, 3)), np.ones((1, 2))], 0.5) == [0.0, 0.75]
