import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layers import layers
from strategies import rng, seeds

from refimpl.errors import InvalidArgument
from refimpl.hessian import damped, inverse_factor, output_error, second_moment

numbers = st.floats(-100, 100)
activations = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=numbers)


@given(activations)
def test_second_moment_is_the_mean_of_the_outer_products(X):
    expected = sum(np.outer(x, x) for x in X) / len(X)
    assert np.allclose(second_moment(X), expected, rtol=1e-12, atol=1e-9)


@given(activations, st.integers(1, 7))
def test_moments_of_parts_combine_by_their_tokens(X, cut):
    parts = [X[:cut], X[cut:]]
    combined = sum(len(part) * second_moment(part) for part in parts) / len(X)
    assert np.allclose(combined, second_moment(X), rtol=1e-12, atol=1e-9)


def test_no_tokens_have_no_moment():
    assert second_moment(np.empty((0, 3))).tolist() == np.zeros((3, 3)).tolist()


@given(activations, st.data())
def test_output_error_is_the_mean_square_of_the_change_of_the_outputs(X, data):
    E = data.draw(hnp.arrays(np.float64, (3, X.shape[1]), elements=numbers))
    expected = np.square(X @ E.T).sum() / len(X)
    assert output_error(E, second_moment(X)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(layers(), st.floats(0, 1))
def test_damping_adds_to_the_diagonal_and_cuts_dead_columns_off(drawn, damping):
    H = drawn[1]
    before, result = H.copy(), damped(H, damping)
    assert np.array_equal(H, before)
    live = np.diagonal(H) > 0
    mean = np.diagonal(H).mean() if live.any() else 1.0
    off = ~np.eye(len(H), dtype=bool)
    assert np.array_equal(result[off], np.where(np.outer(live, live), H, 0)[off])
    assert np.allclose(np.diagonal(result)[live], np.diagonal(H)[live] + damping * mean, rtol=1e-12)
    assert np.allclose(np.diagonal(result)[~live], mean, rtol=1e-12)


@given(layers(), st.floats(2.0**-20, 2.0**20))
def test_the_unit_of_the_activations_moves_the_damped_hessian_along(drawn, unit):
    assume(drawn[1].any())
    assert np.allclose(damped(drawn[1] * unit), damped(drawn[1]) * unit, rtol=1e-12, atol=0)


def test_nothing_active_is_the_identity():
    assert damped(np.zeros((2, 2))).tolist() == [[1, 0], [0, 1]]
    assert damped(np.zeros((0, 0))).shape == (0, 0)


@given(layers())
def test_the_factor_is_that_of_the_inverse(drawn):
    H = damped(drawn[1])
    U = inverse_factor(drawn[1])
    assert np.array_equal(U, np.triu(U))
    assert (np.diagonal(U) > 0).all()
    assert np.allclose(U.T @ U @ H, np.eye(len(H)), atol=1e-9)


@given(layers())
def test_each_row_of_the_factor_inverts_what_is_left_of_the_hessian(drawn):
    H = damped(drawn[1])
    U = inverse_factor(drawn[1])
    for j in range(len(H)):
        first = np.linalg.inv(H[j:, j:])[0]
        assert np.allclose(U[j, j:] * U[j, j], first, rtol=1e-7, atol=1e-9 * first[0])


@given(layers())
def test_a_column_costs_least_when_those_behind_it_make_up_for_it(drawn):
    """U[j, j]**-2 is the least that a unit error in column j costs, columns before it being settled."""
    H = damped(drawn[1])
    U = inverse_factor(drawn[1])
    for j in range(len(H)):
        best = np.linalg.solve(H[j + 1 :, j + 1 :], -H[j + 1 :, j])
        error = np.concatenate([[1.0], best])
        assert error @ H[j:, j:] @ error == pytest.approx(U[j, j] ** -2, rel=1e-7)
        assert np.allclose(-U[j, j + 1 :] / U[j, j], -best, rtol=1e-6, atol=1e-6 * np.abs(best).max(initial=1))


@given(seeds)
def test_a_singular_hessian_is_damped_more(seed):
    x = rng(seed).standard_normal(6)
    U = inverse_factor(np.outer(x, x), 0.0)  # rank 1
    assert np.isfinite(U).all()
    assert np.allclose(U.T @ U @ damped(np.outer(x, x)), np.eye(6), atol=1e-6)


def test_an_indefinite_hessian_is_refused():
    with pytest.raises(InvalidArgument, match="positive"):
        inverse_factor(np.array([[1.0, 9.0], [9.0, 1.0]]))


@pytest.mark.parametrize(
    "H", [np.ones(2), np.ones((2, 3)), np.diag([1.0, -1.0]), np.diag([1.0, np.nan]), np.full((2, 2), np.inf)]
)
def test_impossible_hessians_are_refused(H):
    with pytest.raises(InvalidArgument, match="Hessian"):
        damped(H)


@pytest.mark.parametrize("damping", [-0.1, np.nan])
def test_impossible_damping_is_refused(damping):
    with pytest.raises(InvalidArgument, match="damping"):
        damped(np.eye(2), damping)
