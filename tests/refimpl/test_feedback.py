import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import layer, layers
from strategies import rng, seeds

from refimpl.errors import InvalidArgument
from refimpl.feedback import feed_back
from refimpl.hessian import damped, inverse_factor, output_error

blocks = st.integers(1, 25)


def signal(weight, H):
    return output_error(weight, damped(H))


def arbitrary(seed):
    """A rule that prunes, rounds, keeps and invents, weight by weight."""
    random = rng(seed)

    def decide(_, columns):
        w = columns[:, 0]
        choices = [np.zeros(len(w)), np.rint(2 * w) / 2, w, random.standard_normal(len(w))]
        return np.choose(random.integers(0, 4, len(w)), choices)

    return decide


@given(layers(), seeds, blocks)
def test_the_sum_of_squares_is_the_error_of_the_output_whatever_the_rule(drawn, seed, block):
    W, H = drawn
    settled, error = feed_back(W, inverse_factor(H), arbitrary(seed), block)
    assert error == pytest.approx(output_error(settled - W, damped(H)), rel=1e-8, abs=1e-10 * signal(W, H))


@given(layers(), blocks)
def test_keeping_everything_costs_nothing(drawn, block):
    W, H = drawn
    settled, error = feed_back(W, inverse_factor(H), lambda _, columns: columns[:, 0], block)
    assert np.array_equal(settled, W)
    assert error == 0


@given(layers(), blocks)
def test_pruning_everything_costs_the_signal(drawn, block):
    W, H = drawn
    settled, error = feed_back(W, inverse_factor(H), lambda _, columns: 0 * columns[:, 0], block)
    assert not settled.any()
    assert error == pytest.approx(signal(W, H), rel=1e-8)


@given(layers(), st.data())
def test_columns_that_are_kept_make_up_for_those_before_as_well_as_any_can(drawn, data):
    """Settle some columns anyhow, keep the rest as it comes: no other rest leaves a smaller error."""
    W, H = drawn
    cut = data.draw(st.integers(0, W.shape[1]))
    settled, error = feed_back(
        W, inverse_factor(H), lambda j, columns: np.rint(columns[:, 0]) if j < cut else columns[:, 0]
    )
    A = damped(H)
    E = (settled - W)[:, :cut]
    rest = -np.linalg.solve(A[cut:, cut:], A[cut:, :cut] @ E.T).T
    best = output_error(np.hstack([E, rest]), A)
    assert error == pytest.approx(best, rel=1e-7, abs=1e-10 * signal(W, H))


@given(layers(), blocks, blocks)
def test_blocks_change_results_by_the_rounding_of_sums_only(drawn, one, other):
    W, H = drawn
    U = inverse_factor(H)
    halves = [feed_back(W, U, lambda _, columns: columns[:, 0] / 2, block) for block in (one, other)]
    assert np.allclose(halves[0][0], halves[1][0], rtol=1e-8, atol=1e-8 * np.abs(halves[0][0]).max())
    assert halves[0][1] == pytest.approx(halves[1][1], rel=1e-8)


def test_rows_do_not_see_each_other():
    W, H = layer(1)
    U = inverse_factor(H)
    together = feed_back(W, U, lambda _, columns: np.rint(columns[:, 0]))
    apart = [feed_back(row[None], U, lambda _, columns: np.rint(columns[:, 0])) for row in W]
    assert np.array_equal(together[0], np.vstack([settled for settled, _ in apart]))
    assert together[1] == pytest.approx(sum(error for _, error in apart))


def test_a_rule_sees_the_rest_of_its_block():
    W, H = layer(2, inputs=7)
    seen = []
    feed_back(W, inverse_factor(H), lambda j, columns: seen.append((j, columns.shape[1])) or columns[:, 0], block=3)
    assert seen == [(0, 3), (1, 2), (2, 1), (3, 3), (4, 2), (5, 1), (6, 1)]


def test_the_weight_stays_as_it_was():
    W, H = layer(3)
    before = W.copy()
    feed_back(W.astype(np.float64), inverse_factor(H), arbitrary(0))
    assert np.array_equal(W, before)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_weights_of_other_shapes_are_refused(shape):
    with pytest.raises(InvalidArgument, match="does not fit"):
        feed_back(np.ones(shape), np.eye(3), lambda _, columns: columns[:, 0])
