import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from refimpl.errors import InvalidArgument
from refimpl.targets import MOST_LEFT, target_raises, too_coarse

errors = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e3)), min_size=1, max_size=9)
alloweds = st.floats(1e-8, 1e3)
mosts = st.sampled_from([0.0, 3.0, 12.0, 60.0])


def sizes_for(n):
    return st.lists(st.integers(1, 10**7), min_size=n, max_size=n)


def after(errors, raises):
    return np.asarray(errors) * 10 ** (-raises / 10)


@given(errors, st.data(), alloweds, mosts)
def test_the_errors_add_up_to_what_is_allowed_or_all_are_at_an_end(error, data, allowed, most):
    raises = target_raises(error, data.draw(sizes_for(len(error))), allowed, most)
    total, seen = after(error, raises).sum(), np.array(error) > 0
    assert (np.abs(raises) <= most + 1e-9).all()
    if total > allowed * (1 + 1e-9):
        assert np.allclose(raises[seen], most)
    elif total < allowed * (1 - 1e-9):
        assert np.allclose(raises, -most)


@given(errors, st.data(), alloweds, mosts)
def test_elements_add_equal_errors_unless_at_a_bound(error, data, allowed, most):
    sizes = np.array(data.draw(sizes_for(len(error))))
    raises = target_raises(error, sizes, allowed, most)
    each = after(error, raises) / sizes
    inside = (np.abs(raises) < most - 1e-6) & (np.array(error) > 0)
    assert np.allclose(each[inside], each[inside][:1], rtol=1e-9)
    if inside.any():
        level = each[inside][0]
        assert (each[raises >= most - 1e-6] >= level * (1 - 1e-6)).all()  # they would be raised further
        assert (each[raises <= 1e-6 - most] <= level * (1 + 1e-6)).all()


@given(st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=4), st.data(), st.floats(1e-3, 0.1))
def test_no_other_targets_of_this_error_take_fewer_bits(error, data, allowed):
    n = len(error)
    sizes = np.array(data.draw(st.lists(st.integers(1, 100), min_size=n, max_size=n)), float)
    raises = target_raises(error, sizes, allowed, 60.0)
    found = minimize(
        lambda r: sizes @ r / sizes.sum(),
        np.zeros(n),
        constraints={"type": "ineq", "fun": lambda r: np.log(allowed / after(error, r).sum())},
        bounds=[(-60, 60)] * n,
        method="SLSQP",
    )
    assert sizes @ raises / sizes.sum() <= found.fun + 1e-3 or not found.success


def test_what_is_not_seen_is_lowered_and_nothing_is_nothing():
    assert target_raises([0.0, 0.1], [5, 5], 0.1) == pytest.approx([-12.0, 0.0])
    assert target_raises([0.0], [5], 0.1).tolist() == [-12.0]
    assert target_raises([], [], 0.1).tolist() == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (([1.0], [1, 2], 0.1), "one of each"),
        (([-1.0], [1], 0.1), "not negative"),
        (([np.nan], [1], 0.1), "finite"),
        (([np.inf], [1], 0.1), "finite"),
        (([1.0], [0], 0.1), "positive"),
        (([1.0], [1], 0.0), "allowed is 0"),
        (([1.0], [1], np.nan), "allowed is nan"),
        (([1.0], [1], 0.1, -1.0), "most -1"),
    ],
)
def test_what_makes_no_sense_is_refused(given, says):
    with pytest.raises(InvalidArgument, match=says):
        target_raises(*given)


def bits_of(error, sizes, costs, allowed, most, left):
    """Bits beyond those of the codes as they are, infinite where the errors cannot be what is allowed."""
    rest = ~left
    raises = target_raises(error[rest], sizes[rest], allowed, most)
    if after(error[rest], raises).sum() > allowed * (1 + 1e-9):
        return np.inf
    return sizes[rest] @ raises / (20 * np.log10(2)) + costs[left].sum()


@given(st.integers(0, 1000), st.floats(1e-4, 1e-1))
def test_what_is_left_saves_bits_or_makes_the_aim_possible(seed, allowed):
    random = np.random.default_rng(seed)
    sizes = np.array([*random.integers(1, 20, 4), *random.integers(1000, 5000, 4)])
    error, costs = np.exp(random.normal(-4, 2, 8)), 26.0 * sizes
    left = too_coarse(error, sizes, costs, allowed)
    assert sizes[left].sum() <= MOST_LEFT * sizes.sum()
    none = np.zeros(8, bool)
    before, now = (bits_of(error, sizes, costs, allowed, 12.0, which) for which in (none, left))
    assert now <= before or before == np.inf


def test_nothing_is_left_that_costs_nothing_or_too_much():
    assert not too_coarse([1e-6, 1e-6], [10, 5000], [240.0, 1e5], 0.02).any()
    assert not too_coarse([0.0, 0.0], [10, 5000], [240.0, 1e5], 0.02).any()
    assert not too_coarse([5.0, 0.1], [5000, 5000], [1e5, 1e5], 0.02).any()  # half of all elements
    assert too_coarse([], [], [], 0.02).tolist() == []


@pytest.mark.parametrize("costs", [[1.0], [1.0, 0.0], [1.0, np.inf], [1.0, np.nan]])
def test_costs_must_be_positive_and_as_many(costs):
    with pytest.raises(InvalidArgument, match="costs"):
        too_coarse([0.1, 0.1], [1, 2], costs, 0.1)
