"""Which tensor gets how many bits: equal loss for the last bit, everywhere.

Each tensor's error at the model's outputs is its gain times its mean squared error. The sum over tensors is least
for a given size where no bit could be moved from one tensor to another with profit: where the loss that a further
bit would save is the same for all. No such price leads to the points of a curve above its lower convex hull, so a
price alone may leave much of a target unspent: what is left is spent point by point.
Specification: docs/spec/rate.md, "Allocation".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.rate import RateCurve

Vector = npt.NDArray[np.float64]
FINENESS = 2.0**-6  # of log2(step): how finely steps are chosen
BISECTIONS = 60
ROUNDING = 1e-12  # of a budget: sums in another order do not exceed it


@dataclass(frozen=True)
class Demand:
    """A tensor that wants bits."""

    curve: RateCurve
    weights: int  # elements
    gain: float  # error at the outputs for a mean squared error of 1
    overhead: float = 0.0  # bits of the whole tensor that the curve does not know: tables, lanes, scales


@dataclass(frozen=True)
class Share:
    """What a tensor gets, and what that is expected to cost."""

    step: float
    bits: float  # of the whole tensor, overhead included
    error: float  # at the outputs


def allocate_bits(demands: Sequence[Demand], target_bits: float) -> list[Share]:
    """Steps that use up a number of bits with the least error.

    Parameters
    ----------
    demands : sequence of Demand
    target_bits : float
        Of all tensors together, overheads included.

    Returns
    -------
    list of Share
        In the order of the demands. The nearest end where no step reaches the target.

    Raises
    ------
    InvalidArgument
        A target that is not positive.

    References
    ----------
    Y. Shoham and A. Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988.

    Examples
    --------
    >>> from refimpl.rate import rate_curve
    >>> curve = rate_curve(np.random.default_rng(0).normal(size=(64, 64)))
    >>> shares = allocate_bits([Demand(curve, 4096, 1.0), Demand(curve, 4096, 16.0)], 6 * 4096)
    >>> [round(s.bits / 4096, 1) for s in shares]  # 16 times the gain: a quarter of the step, 2 bits more
    [2.1, 3.9]
    """
    return [share for _, share in ways_by_bits([[d] for d in demands], target_bits)]


def allocate_error(demands: Sequence[Demand], target_error: float) -> list[Share]:
    """Steps that keep the error at the outputs within a target with the fewest bits.

    Raises
    ------
    InvalidArgument
        A target that is not positive.

    Examples
    --------
    >>> from refimpl.rate import rate_curve
    >>> curve = rate_curve(np.random.default_rng(0).normal(size=(64, 64)))
    >>> share, = allocate_error([Demand(curve, 4096, 1.0)], 1 / 12)
    >>> round(share.step, 1)
    1.0
    """
    return [share for _, share in ways_by_error([[d] for d in demands], target_error)]


def choose_by_bits(tensors: Sequence[Sequence[Demand]], target_bits: float) -> list[int]:
    """Of the ways to quantize each tensor, which one to take for a number of bits.

    The way that costs least at the price of a bit that all tensors pay: one that cannot get as fine as the others
    want loses where bits are many, one that stores more beside its codes where they are few.

    Parameters
    ----------
    tensors : sequence of sequences of Demand
        The ways of each tensor, at least one.
    target_bits : float
        Of all tensors together, overheads included.

    Returns
    -------
    list of int
        Index of the way of each tensor; of equals the first.

    Raises
    ------
    InvalidArgument
        A target that is not positive.

    Examples
    --------
    >>> from refimpl.rate import rate_curve
    >>> curve = rate_curve(np.random.default_rng(0).normal(size=(64, 64)))
    >>> rough = RateCurve(curve.step[20:], curve.bits[20:], curve.error[20:])
    >>> ways = [Demand(rough, 4096, 1.0), Demand(curve, 4096, 1.0, overhead=999.0)]
    >>> choose_by_bits([ways], 2 * 4096), choose_by_bits([ways], 8 * 4096)
    ([0], [1])
    """
    return [i for i, _ in ways_by_bits(tensors, target_bits)]


def choose_by_error(tensors: Sequence[Sequence[Demand]], target_error: float) -> list[int]:
    """The same for an error at the outputs, see `choose_by_bits`."""
    return [i for i, _ in ways_by_error(tensors, target_error)]


def ways_by_bits(tensors: Sequence[Sequence[Demand]], target_bits: float) -> list[tuple[int, Share]]:
    """(index of the way, its share) of each tensor: the finest shares within a number of bits."""
    if not target_bits > 0:
        raise InvalidArgument(f"the target is {target_bits} bits, it must be positive")
    ways, points, at = cheapest_ways(tensors, lambda bits, _: bits <= target_bits)
    at = spend([p.bits for p in points], [p.error for p in points], at, target_bits)
    return [(way, p.share(k)) for way, p, k in zip(ways, points, at, strict=True)]


def ways_by_error(tensors: Sequence[Sequence[Demand]], target_error: float) -> list[tuple[int, Share]]:
    """(index of the way, its share) of each tensor: the coarsest shares within an error at the outputs."""
    if not target_error > 0:
        raise InvalidArgument(f"the target error is {target_error}, it must be positive")
    ways, points, at = cheapest_ways(tensors, lambda _, error: error >= target_error, coarse_side=False)
    at = spend([p.error for p in points], [p.bits for p in points], at, target_error)
    return [(way, p.share(k)) for way, p, k in zip(ways, points, at, strict=True)]


@dataclass(frozen=True)
class Points:
    """What a tensor may get, one way."""

    step: Vector  # (points,) ascending
    bits: Vector  # of the whole tensor, overhead included
    error: Vector  # at the outputs

    def share(self, at: int) -> Share:
        """One of them."""
        return Share(float(self.step[at]), float(self.bits[at]), float(self.error[at]))


def points_of(demand: Demand) -> Points:
    """The points of a demand, with finer steps than its curve has."""
    fine = refine(demand.curve)
    return Points(fine.step, demand.weights * fine.bits + demand.overhead, demand.gain * fine.error)


def cheapest_ways(
    tensors: Sequence[Sequence[Demand]], enough: Callable[[float, float], bool], *, coarse_side: bool = True
) -> tuple[list[int], list[Points], list[int]]:
    """(way, its points, point) of each tensor with the least ``error + price * bits``.

    The price of a bit is bisected until the bits and errors of all are just enough (or, on the other side, not yet).
    """
    every = [[points_of(d) for d in ways] for ways in tensors]
    low, high = -300.0, 300.0  # log2 of the price

    def pick(exponent: float) -> list[tuple[int, int]]:
        price = 2.0**exponent
        found = []
        for ways in every:
            costs = [p.error + price * p.bits for p in ways]
            best = [int(np.argmin(c)) for c in costs]
            way = int(np.argmin([c[k] for c, k in zip(costs, best, strict=True)]))
            found.append((way, best[way]))
        return found

    def sums(picked: Sequence[tuple[int, int]]) -> tuple[float, float]:
        pairs = [(ways[i], k) for ways, (i, k) in zip(every, picked, strict=True)]
        return sum(float(p.bits[k]) for p, k in pairs), sum(float(p.error[k]) for p, k in pairs)

    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if enough(*sums(pick(middle))):
            high = middle
        else:
            low = middle
    picked = pick(high if coarse_side else low)
    chosen = [ways[i] for ways, (i, _) in zip(every, picked, strict=True)]
    return [i for i, _ in picked], chosen, [k for _, k in picked]


def spend(costs: Sequence[Vector], values: Sequence[Vector], at: Sequence[int], budget: float) -> list[int]:
    """Spend what is left of a budget: move tensors, one at a time, to points whose value is lower.

    Each move is the one that lowers the value most for its cost among those that fit; one that costs nothing more goes
    first. Ties go to the first tensor, its first point.

    Parameters
    ----------
    costs, values : sequence of float64 vectors
        Of each tensor's points.
    at : sequence of int
        The point that each tensor has.
    budget : float
        That the costs of all may reach.

    Returns
    -------
    list of int
        The point that each tensor gets. None has another one of a lower value within what is left.

    Examples
    --------
    >>> costs, values = [np.array([0.0, 3.0, 8.0])] * 2, [np.array([9.0, 7.0, 0.0]), np.array([5.0, 4.0, 0.0])]
    >>> spend(costs, values, [0, 0], 2.0), spend(costs, values, [0, 0], 7.0), spend(costs, values, [0, 0], 12.0)
    ([0, 0], [1, 1], [2, 1])
    """
    found = list(at)
    left = budget * (1 - ROUNDING) - sum(float(c[k]) for c, k in zip(costs, found, strict=True))

    def best_move(i: int) -> tuple[float, float, int]:
        """(value that a tensor's best move saves for its cost, the cost, its point); 0 where none fits."""
        more, less = costs[i] - costs[i][found[i]], values[i][found[i]] - values[i]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            worth = np.where((less > 0) & (more <= left), np.where(more > 0, less / more, np.inf), 0.0)
        k = int(np.argmax(worth))
        return float(worth[k]), float(more[k]), k

    moves = [best_move(i) for i in range(len(found))]
    while moves:
        i = max(range(len(moves)), key=lambda i: moves[i][0])
        worth, cost, k = moves[i]
        if not worth > 0:
            break
        if cost <= left:  # else others have spent what it wanted
            found[i], left = k, left - cost
        moves[i] = best_move(i)
    return found


def bend(demand: Demand, points: Sequence[tuple[float, float]]) -> Demand:
    """A demand whose error goes through what was measured.

    The factor between measured and expected error runs straight over log2(step) on logarithmic scales, and
    stays what it is beyond the first and the last point: a layer may break where its curve goes on as before.

    Parameters
    ----------
    demand : Demand
    points : sequence of (step, error at the outputs)
        At least one, errors above 0.

    Examples
    --------
    >>> from refimpl.rate import rate_curve
    >>> curve = rate_curve(np.random.default_rng(0).normal(size=(64, 64)))
    >>> bent = bend(Demand(curve, 4096, 1.0), [(curve.step[0], curve.error[0]), (curve.step[-1], 8 * curve.error[-1])])
    >>> [round(float(x), 2) for x in (bent.curve.error / curve.error)[[0, 20, -1]]]
    [1.0, 3.67, 8.0]
    """
    curve, tiny = demand.curve, np.finfo(np.float64).tiny
    x = np.log2(curve.step)
    ordered = sorted(points)
    at = np.log2([step for step, _ in ordered])
    expected = np.interp(at, x, np.log2(np.maximum(demand.gain * curve.error, tiny)))
    factor = np.log2([max(error, tiny) for _, error in ordered]) - expected
    bent = RateCurve(curve.step, curve.bits, curve.error * 2.0 ** np.interp(x, at, factor))
    return replace(demand, curve=bent)


def refine(curve: RateCurve) -> RateCurve:
    """A curve with finer steps in between: bits and the logarithm of the error run straight over log2(step)."""
    if len(curve.step) < 2:
        return curve
    x = np.log2(curve.step)
    fine = np.arange(x[0], x[-1], FINENESS)
    tiny = np.finfo(np.float64).tiny
    error = 2.0 ** np.interp(fine, x, np.log2(np.maximum(curve.error, tiny)))
    return RateCurve(2.0**fine, np.interp(fine, x, curve.bits), error)
