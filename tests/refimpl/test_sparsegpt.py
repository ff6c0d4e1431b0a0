import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import layer, layers
from strategies import quantization_specs

from refimpl.errors import InvalidArgument
from refimpl.feedback import feed_back
from refimpl.hessian import damped, inverse_factor, output_error
from refimpl.pruning import NOfM, n_of_m_mask, prune, zero_dead
from refimpl.quantization import QuantizationSpec, dequantize, quantization_scale, quantize
from refimpl.select import prune_count, select_lowest
from refimpl.sparsegpt import prune_and_quantize, saliency, sparsegpt

shares = st.integers(0, 100).map(lambda percent: percent / 100)
blocks = st.integers(1, 25)
PATTERNS = [NOfM(2, 4), NOfM(1, 4), NOfM(4, 8), NOfM(1, 3), NOfM(0, 2), NOfM(3, 3)]


def signal(W, H):
    return output_error(W, damped(H))


def by_elimination(W, H, sparsity, block):
    """SparseGPT as the paper derives it: the inverse Hessian loses a column at a time, for all rows alike."""
    W, inverse = W.astype(np.float64), np.linalg.inv(damped(H))
    mask, done = np.zeros(W.shape, bool), 0
    for first in range(0, W.shape[1], block):
        last = min(first + block, W.shape[1])
        inverses, cost = inverse.copy(), np.empty((len(W), last - first))
        for j in range(first, last):
            cost[:, j - first] = W[:, j] ** 2 / inverses[j, j]
            inverses = inverses - np.outer(inverses[:, j], inverses[j]) / inverses[j, j]
        k = prune_count(len(W) * last, sparsity) - done
        done += k
        mask[:, first:last] = select_lowest(cost, k)
        for j in range(first, last):
            error = np.where(mask[:, j], W[:, j], 0) / inverse[j, j]
            W[:, j] -= error * inverse[j, j]
            W[:, j + 1 :] -= np.outer(error, inverse[j, j + 1 :])
            inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return mask, W


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.77])
@pytest.mark.parametrize("block", [24, 10, 1])
def test_it_does_what_the_derivation_does(sparsity, block):
    W, H = layer(4)
    result = sparsegpt(W, inverse_factor(H), sparsity, block=block)
    mask, pruned = by_elimination(W, H, sparsity, block)
    assert np.array_equal(result.mask, mask)
    assert np.allclose(result.reconstruction, pruned, rtol=1e-4, atol=1e-5)


def test_saliency_is_what_pruning_one_weight_costs():
    W, H = layer(9, rows=1)
    U = inverse_factor(H)
    costs = [feed_back(W, U, lambda k, columns, j=j: columns[:, 0] * (k != j))[1] for j in range(24)]
    assert np.allclose(costs, saliency(W, np.diagonal(U))[0])


@given(layers(), shares, blocks)
def test_exactly_the_share_is_pruned_up_to_the_end_of_each_block(drawn, sparsity, block):
    W, H = drawn
    result = sparsegpt(W, inverse_factor(H), sparsity, block=block)
    for last in [*range(block, W.shape[1], block), W.shape[1]]:
        assert np.count_nonzero(result.mask[:, :last]) == prune_count(len(W) * last, sparsity)
    assert not result.reconstruction[result.mask].any()


@given(layers(), shares)
def test_in_one_block_the_least_salient_go(drawn, sparsity):
    W, H = drawn
    U = inverse_factor(H)
    score = saliency(W, np.diagonal(U))
    result = sparsegpt(W, U, sparsity)
    assert np.array_equal(result.mask, select_lowest(score, prune_count(W.size, sparsity)))


def test_ties_go_to_the_lowest_index():
    result = sparsegpt(np.ones((2, 2)), np.eye(2), 0.75)
    assert result.mask.tolist() == [[True, True], [True, False]]


@given(layers(), shares, blocks)
def test_the_error_is_that_of_the_output(drawn, sparsity, block):
    W, H = drawn
    result = sparsegpt(W, inverse_factor(H), sparsity, block=block)
    expected = output_error(result.reconstruction.astype(np.float64) - W, damped(H))
    assert result.error == pytest.approx(expected, rel=1e-4, abs=1e-6 * signal(W, H))  # float32 weights


@given(layers(), blocks)
def test_no_sparsity_changes_nothing_and_all_of_it_leaves_nothing(drawn, block):
    W, H = drawn
    U = inverse_factor(H)
    none, every = (sparsegpt(W, U, s, block=block) for s in (0.0, 1.0))
    assert np.array_equal(none.reconstruction, W)
    assert none.error == 0
    assert every.mask.all()
    assert every.error == pytest.approx(signal(W, H), rel=1e-8)


@given(layers(kinds=("diagonal",)), shares)
def test_without_correlation_what_is_kept_stays(drawn, sparsity):
    W, H = drawn
    result = sparsegpt(W, inverse_factor(H), sparsity)
    assert np.array_equal(result.reconstruction, np.where(result.mask, 0, W))


def test_on_average_the_error_is_smaller_than_that_of_masking():
    ours = theirs = 0.0
    for seed in range(20):
        W, H = layer(seed)
        result = sparsegpt(W, inverse_factor(H), 0.5)
        ours += result.error
        theirs += output_error(np.where(result.mask, 0, W) - W, damped(H))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 99), block=blocks)
def test_each_group_of_a_row_keeps_n_of_m(pattern, seed, block):
    W, H = layer(seed)
    result = sparsegpt(W, inverse_factor(H), pattern, block=block)
    kept = (~result.mask).reshape(len(W), -1, pattern.m).sum(axis=2)
    assert (kept == pattern.n).all()
    assert not result.reconstruction[result.mask].any()


def test_a_pattern_is_chosen_among_weights_as_they_are_when_reached():
    W, H = layer(10)
    U = inverse_factor(H)
    result = sparsegpt(W, U, NOfM(2, 4))
    before = n_of_m_mask(saliency(W, np.diagonal(U)), NOfM(2, 4))
    assert np.array_equal(result.mask[:, :4], before[:, :4])
    assert not np.array_equal(result.mask, before)


def test_columns_that_are_not_whole_groups_are_refused():
    with pytest.raises(InvalidArgument, match="groups"):
        sparsegpt(np.ones((1, 6)), np.eye(6), NOfM(2, 4))


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, np.nan])
def test_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(InvalidArgument, match="sparsity"):
        sparsegpt(np.ones((1, 1)), np.eye(1), sparsity)


@given(layers(), shares, quantization_specs(), blocks)
def test_pruned_and_quantized_weights_can_be_stored(drawn, sparsity, spec, block):
    W, H = drawn
    result = prune_and_quantize(W, inverse_factor(H), sparsity, spec, block=block)
    codes = result.quantized.codes
    first, last = spec.code_range
    assert codes.dtype == (np.int8 if spec.symmetric else np.uint8)
    assert first <= codes.min()
    assert codes.max() <= last
    assert np.array_equal(result.reconstruction, dequantize(result.quantized, spec.group_size))
    assert np.array_equal(result.quantized.scale, quantization_scale(W, spec)[0])
    assert not result.reconstruction[result.mask].any()
    assert np.count_nonzero(result.mask) == prune_count(W.size, sparsity)


@given(layers(), shares, quantization_specs(), blocks)
def test_the_error_of_both_is_that_of_the_output(drawn, sparsity, spec, block):
    W, H = drawn
    result = prune_and_quantize(W, inverse_factor(H), sparsity, spec, block=block)
    expected = output_error(result.reconstruction.astype(np.float64) - W, damped(H))
    assert result.error == pytest.approx(expected, rel=1e-6, abs=1e-10 * signal(W, H))


@given(layers(kinds=("diagonal",)), shares, quantization_specs())
def test_without_correlation_it_prunes_what_rounding_gives(drawn, sparsity, spec):
    W, H = drawn
    result, rounded = prune_and_quantize(W, inverse_factor(H), sparsity, spec), quantize(W, spec)
    size = spec.group_size or W.shape[1]
    zero_point = np.repeat(rounded.zero_point, size, axis=1)[:, : W.shape[1]]
    assert np.array_equal(result.quantized.codes, prune(rounded.codes, result.mask, zero_point))


def test_a_given_scale_is_used_and_clips():
    W = np.array([[0.4, 9.0]], np.float32)
    scale = np.array([[0.5]], np.float32)
    result = prune_and_quantize(W, np.eye(2), 0.0, QuantizationSpec(3, granularity="channel"), scale=scale)
    assert result.quantized.codes.tolist() == [[1, 3]]
    assert result.quantized.scale.tolist() == [[0.5]]


def test_a_given_scale_is_symmetric():
    with pytest.raises(InvalidArgument, match="symmetric"):
        prune_and_quantize(np.ones((1, 1)), np.eye(1), 0, QuantizationSpec(symmetric=False), scale=np.ones((1, 1)))


@given(layers(kinds=("dead and loud",)), shares)
def test_dead_columns_are_the_first_to_go_and_widen_no_grid(drawn, sparsity):
    W, H = drawn
    dead = np.diagonal(H) == 0
    weight = zero_dead(np.where(dead, 1000 * W, W), H)
    result = prune_and_quantize(weight, inverse_factor(H), sparsity, QuantizationSpec(4, granularity="channel"))
    assert not result.reconstruction[:, dead].any()
    assert np.array_equal(
        result.quantized.scale, quantization_scale(zero_dead(W, H), QuantizationSpec(4, granularity="channel"))[0]
    )
    if prune_count(W.size, sparsity) >= np.count_nonzero(dead) * len(W):
        assert result.mask[:, dead].all()
