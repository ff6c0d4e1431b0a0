from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import layer, layers

from refimpl.errors import InvalidArgument
from refimpl.feedback import feed_back
from refimpl.hessian import inverse_factor
from refimpl.schedule import cluster, estimated_loss, schedule, sparsities
from refimpl.sparsegpt import sparsegpt

losses = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12)
shares = st.integers(0, 95).map(lambda percent: percent / 100)
steps = st.sampled_from([0.0, 0.01, 0.05, 0.3, 2.0])


def sizes_for(n):
    return st.lists(st.integers(1, 10**7), min_size=n, max_size=n)


@given(losses, st.data(), shares, steps, st.integers(1, 8))
def test_the_mean_is_met_and_every_layer_within_bounds(loss, data, share, step, levels):
    sizes = data.draw(sizes_for(len(loss)))
    s = schedule(loss, sizes, share, levels=levels, step=step)
    assert np.average(s, weights=sizes) == pytest.approx(share, rel=1e-12, abs=1e-12)
    assert s.min() >= 0
    assert s.max() <= 0.95


@given(losses, st.data(), shares, steps, st.integers(1, 8))
def test_a_larger_loss_is_never_pruned_more_and_there_are_no_more_levels_than_asked(loss, data, share, step, levels):
    s = schedule(loss, data.draw(sizes_for(len(loss))), share, levels=levels, step=step)
    assert (np.diff(s[np.argsort(loss, kind="stable")]) <= 0).all()
    assert len(np.unique(s)) <= levels


@given(losses, st.data(), shares, st.integers(1, 8))
def test_the_unit_and_the_order_of_layers_do_not_matter(loss, data, share, levels):
    sizes = data.draw(sizes_for(len(loss)))
    s = schedule(loss, sizes, share, levels=levels)
    order = np.array(data.draw(st.permutations(range(len(loss)))))
    again = schedule(np.array(loss)[order], np.array(sizes)[order], share, levels=levels)
    assert np.allclose(again, s[order], atol=1e-12)
    assert np.allclose(schedule(4 * np.array([1.0, 8.0, 100.0]), [1] * 3, share), schedule([1, 8, 100], [1] * 3, share))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data(), shares)
def test_levels_lie_a_step_apart_unless_at_a_bound(level, data, share):
    s = sparsities(np.array(level), data.draw(sizes_for(len(level))), share, step=0.05)
    inside = (s > 0) & (s < 0.95)
    origin = (s + 0.05 * np.array(level))[inside]
    assert np.allclose(origin, origin[:1], atol=1e-12)


def test_no_step_one_level_and_equal_losses_are_uniform():
    for s in (
        schedule([1.0, 5.0, 25.0], [1, 2, 3], 0.6, step=0),
        schedule([1.0, 5.0, 25.0], [1, 2, 3], 0.6, levels=1),
        schedule([7.0, 7.0, 7.0], [1, 2, 3], 0.6),
        schedule([0.0, 0.0, 0.0], [1, 2, 3], 0.6),
    ):
        assert np.allclose(s, 0.6, rtol=1e-12)


def test_no_loss_counts_as_the_smallest():
    assert schedule([0.0, 2.0, 9.0], [1, 1, 1], 0.5).tolist() == schedule([2.0, 2.0, 9.0], [1, 1, 1], 0.5).tolist()


def test_nothing_to_schedule():
    assert schedule([], [], 0.5).shape == (0,)


@pytest.mark.parametrize(
    "arguments",
    [
        {"losses": [-1.0, 1.0]},
        {"losses": [np.nan, 1.0]},
        {"losses": [[1.0, 1.0]]},
        {"losses": [1.0]},
        {"sizes": [0, 1]},
        {"sparsity": 0.96},
        {"sparsity": -0.1},
        {"sparsity": np.nan},
        {"most": 1.1},
        {"step": -1.0},
        {"step": np.inf},
        {"levels": 0},
    ],
)
def test_impossible_schedules_are_refused(arguments):
    usual = {"losses": [1.0, 2.0], "sizes": [1, 1], "sparsity": 0.5}
    with pytest.raises(InvalidArgument):
        schedule(**(usual | arguments))


def within(values, level):
    return sum(np.square(values[level == k] - values[level == k].mean()).sum() for k in np.unique(level))


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9), st.integers(1, 5))
def test_no_other_clusters_lie_closer_together(numbers, count):
    values = np.array(numbers, np.float64)
    level = cluster(values, count)
    distinct = np.unique(values)
    k = min(count, len(distinct))
    others = [
        np.searchsorted(cuts, values, side="right") for cuts in combinations(distinct[1:], k - 1)
    ]  # all runs of distinct values
    assert within(values, level) == pytest.approx(min(within(values, other) for other in others), abs=1e-9)
    assert np.array_equal(np.unique(level), np.arange(k))
    assert (np.diff(level[np.argsort(values, kind="stable")]) >= 0).all()


@given(st.lists(st.sampled_from([1.0, 2.0, 5.0, 5.5]), min_size=1, max_size=12), st.integers(1, 5))
def test_equal_numbers_share_a_cluster(numbers, count):
    level = cluster(np.array(numbers), count)
    assert len(set(zip(numbers, level.tolist(), strict=True))) == len(set(numbers))


def test_no_numbers_have_no_clusters():
    assert cluster(np.empty(0), 3).shape == (0,)


@given(layers(kinds=("diagonal",)))
def test_without_correlation_the_estimate_is_a_weights_share_of_pruning_everything(drawn):
    W, H = drawn
    U = inverse_factor(H)
    assert W.size * estimated_loss(W, U) == pytest.approx(sparsegpt(W, U, 1.0).error, rel=1e-9)


def test_the_estimate_is_the_mean_cost_of_pruning_each_weight_alone():
    W, H = layer(12, rows=1)
    U = inverse_factor(H)
    costs = [feed_back(W, U, lambda k, columns, j=j: columns[:, 0] * (k != j))[1] for j in range(24)]
    assert estimated_loss(W, U) == pytest.approx(np.mean(costs))


def test_the_estimate_grows_with_the_square_of_weights_and_inputs():
    W, H = layer(11)
    loss = estimated_loss(W, inverse_factor(H))
    assert estimated_loss(3 * W, inverse_factor(H)) == pytest.approx(9 * loss)
    assert estimated_loss(W, inverse_factor(9 * H)) == pytest.approx(9 * loss)


def test_no_weights_have_no_loss():
    assert estimated_loss(np.empty((0, 2)), np.eye(2)) == 0
