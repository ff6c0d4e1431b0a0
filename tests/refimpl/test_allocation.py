from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.allocation import (
    Demand,
    allocate_bits,
    allocate_error,
    choose_by_bits,
    choose_by_error,
    points_of,
    ways_by_bits,
)
from refimpl.errors import InvalidArgument
from refimpl.rate import RateCurve, rate_curve

GAUSSIAN = rate_curve(np.random.default_rng(0).normal(size=(256, 64)))
LAPLACE = rate_curve(np.random.default_rng(1).laplace(size=(256, 64)))
demands = st.lists(
    st.builds(
        Demand,
        curve=st.sampled_from([GAUSSIAN, LAPLACE]),
        weights=st.integers(1000, 10**6),
        gain=st.floats(0.1, 10),
        overhead=st.floats(0, 1000),
    ),
    min_size=1,
    max_size=6,
)


@given(demands, st.floats(2.0, 5.0))
def test_bits_are_spent_and_not_exceeded(wanted, bits):
    target = bits * sum(d.weights for d in wanted) + sum(d.overhead for d in wanted)
    shares = allocate_bits(wanted, target)
    took = sum(s.bits for s in shares)
    assert 0.99 * target < took <= target
    assert allocate_bits(wanted, took * (1 + 1e-9)) == shares


@st.composite
def small_demands(draw):
    """Two or three tensors of a few points each, whose bits and errors fall as they like: curves are seldom convex."""
    found = []
    for _ in range(draw(st.integers(2, 3))):
        count = draw(st.integers(2, 4))
        drops = st.lists(st.floats(0.0, 4.0), min_size=count, max_size=count)
        bits, octaves = np.cumsum(draw(drops)), np.cumsum(draw(drops))
        curve = RateCurve(2.0 ** (np.arange(count) * 0.125), bits[::-1], 4.0 ** -octaves[::-1])
        found.append(Demand(curve, draw(st.integers(100, 1000)), 2.0 ** draw(st.integers(-3, 3))))
    return found


def every_choice(wanted):
    """(bits, error) of all choices of points."""
    points = [points_of(d) for d in wanted]
    return sum(np.ix_(*[p.bits for p in points])), sum(np.ix_(*[p.error for p in points]))


def no_move_is_left(wanted, shares, left, cost, value):
    """Whether no tensor has a point of a lower value for what is left."""
    for d, share in zip(wanted, shares, strict=True):
        points = points_of(d)
        more = getattr(points, cost) - getattr(share, cost)
        fits = (getattr(points, value) < getattr(share, value)) & (more < left * (1 - 1e-9))
        if fits.any():
            return False
    return True


@given(small_demands(), st.floats(0.0, 1.0))
def test_bits_beside_brute_force(wanted, where):
    bits, errors = every_choice(wanted)
    target = max(float(bits.min() + where * np.ptp(bits)), 1.0)
    shares = allocate_bits(wanted, target)
    took, error = sum(s.bits for s in shares), sum(s.error for s in shares)
    if target < bits.min():
        return
    assert took <= target
    assert errors[bits <= target].min() <= error * (1 + 1e-9)
    # Whatever reaches less error within the target needs two tensors to change at once.
    assert no_move_is_left(wanted, shares, target - took - 1e-9 * target, "bits", "error")
    assert error <= least_error_by_price(wanted, target) * (1 + 1e-9)


def test_a_move_that_costs_next_to_nothing_is_made():
    curve = RateCurve(np.array([1.0, 2.0**0.125]), np.array([5e-324, 0.0]), np.array([0.25, 1.0]))
    (share,) = allocate_bits([Demand(curve, 100, 1.0)], 1.0)
    assert share.error == pytest.approx(0.25)


def least_error_by_price(wanted, target):
    """The least error within a number of bits that one price for all tensors leads to."""
    points, found = [points_of(d) for d in wanted], np.inf
    for price in 2.0 ** np.arange(-40, 20, 0.25):
        picked = [p.share(int(np.argmin(p.error + price * p.bits))) for p in points]
        if sum(s.bits for s in picked) <= target:
            found = min(found, sum(s.error for s in picked))
    return found


@given(small_demands(), st.floats(0.01, 1.0))
def test_an_error_beside_brute_force(wanted, where):
    bits, errors = every_choice(wanted)
    target = float(errors.min() + where * np.ptp(errors))
    shares = allocate_error(wanted, target)
    took, error = sum(s.bits for s in shares), sum(s.error for s in shares)
    assert error <= target * (1 + 1e-9)
    assert bits[errors <= target].min() <= took * (1 + 1e-9)
    assert no_move_is_left(wanted, shares, target - error - 1e-9 * target, "error", "bits")


def test_a_curve_that_no_price_reaches_is_entered():
    """Half of its points lie above the straight line between its ends: by price alone it stays at the first."""
    steep = RateCurve(2.0 ** np.arange(3), np.array([4.0, 2.0, 0.0]), np.array([1e-6, 0.9, 1.0]))
    wanted = [Demand(steep, 10**6, 1.0), Demand(GAUSSIAN, 1000, 1e-9)]
    shares = allocate_bits(wanted, 2.5e6)
    assert sum(s.bits for s in shares) == pytest.approx(2.5e6, rel=0.01)
    assert shares[0].error < 0.9


def test_each_way_has_its_share():
    ways = [Demand(GAUSSIAN, 1000, 1.0), Demand(GAUSSIAN, 1000, 1.0, overhead=300.0)]
    ((way, share),) = ways_by_bits([ways], 3000)
    assert way == 0
    assert share == allocate_bits(ways[:1], 3000)[0]


@given(demands, st.floats(2.0, 5.0), st.integers(0, 5), st.floats(1, 10))
def test_a_way_that_costs_more_everywhere_is_not_taken(wanted, bits, worse, factor):
    target = bits * sum(d.weights for d in wanted)
    tensors = [[d] for d in wanted]
    i = worse % len(wanted)
    tensors[i] = [replace(wanted[i], overhead=wanted[i].overhead + 100 * factor), wanted[i]]
    assert choose_by_bits(tensors, target)[i] == 1
    tensors[i] = [replace(wanted[i], gain=wanted[i].gain * 2 * factor), wanted[i]]
    assert choose_by_error(tensors, 0.01 * sum(d.gain for d in wanted))[i] == 1


def test_a_way_that_gets_no_finer_loses_where_bits_are_many():
    rough = RateCurve(GAUSSIAN.step[16:], GAUSSIAN.bits[16:], GAUSSIAN.error[16:])
    ways = [Demand(rough, 1000, 1.0), Demand(GAUSSIAN, 1000, 1.0, overhead=300.0)]
    assert [choose_by_bits([ways], 1000 * bits)[0] for bits in (2, 3, 6, 8)] == [0, 0, 1, 1]
    for choose in (choose_by_bits, choose_by_error):
        with pytest.raises(InvalidArgument, match="positive"):
            choose([ways], 0)


@given(demands, st.floats(1.5, 4.0), st.integers(0, 5), st.integers(0, 5), st.floats(0.05, 0.5))
def test_no_bits_can_be_moved_with_profit(wanted, bits, giver, taker, amount):
    giver, taker = giver % len(wanted), taker % len(wanted)
    shares = allocate_bits(wanted, bits * sum(d.weights for d in wanted))
    if giver == taker or min(shares[giver].bits, shares[taker].bits) <= 0.3 * wanted[giver].weights:
        return

    def error_with(i, more):  # of tensor i if its entropy changed by so many bits
        curve, d = wanted[i].curve, wanted[i]
        per_weight = (shares[i].bits - d.overhead + more) / d.weights
        return d.gain * 2 ** np.interp(-per_weight, -curve.bits, np.log2(curve.error))

    moved = amount * min(wanted[giver].weights, wanted[taker].weights)
    if (shares[giver].bits - wanted[giver].overhead - moved) / wanted[giver].weights < 0.3:
        return
    before = error_with(giver, 0) + error_with(taker, 0)
    after = error_with(giver, -moved) + error_with(taker, moved)
    assert after > 0.995 * before


@given(demands, st.floats(1e-3, 1e-1))
def test_an_error_is_met_from_below(wanted, share):
    largest = sum(d.gain * d.curve.error[-1] for d in wanted)
    target = share * largest
    assert sum(s.error for s in allocate_error(wanted, target)) <= target


def test_four_times_the_gain_is_worth_a_bit():
    few, many = allocate_bits([Demand(GAUSSIAN, 1000, 1.0), Demand(GAUSSIAN, 1000, 4.0)], 7000)
    assert many.bits - few.bits == pytest.approx(1000, rel=0.06)
    assert few.step == pytest.approx(2 * many.step, rel=0.05)


def test_bits_go_where_weights_are_few():
    small, large = allocate_bits([Demand(GAUSSIAN, 1000, 1.0), Demand(GAUSSIAN, 16000, 1.0)], 3 * 17000)
    assert small.bits / 1000 - large.bits / 16000 == pytest.approx(2, rel=0.06)


@pytest.mark.parametrize("target", [0, -1, np.nan])
def test_targets_must_be_positive(target):
    with pytest.raises(InvalidArgument):
        allocate_bits([Demand(GAUSSIAN, 10, 1.0)], target)
    with pytest.raises(InvalidArgument):
        allocate_error([Demand(GAUSSIAN, 10, 1.0)], target)
