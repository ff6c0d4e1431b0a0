"""Which tensor gets how many bits: equal loss for the last bit, everywhere.

Each tensor's error at the model's outputs is its gain times its mean squared error. The sum over tensors is least
for a given size where no bit could be moved from one tensor to another with profit: where the loss that a further
bit would save is the same for all. Specification: docs/spec/rate.md, "Allocation".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refimpl.errors import InvalidArgument
from refimpl.rate import RateCurve

FINENESS = 2.0**-6  # of log2(step): how finely steps are chosen
BISECTIONS = 60


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
    return cheapest_ways(tensors, lambda shares: sum(s.bits for s in shares) <= target_bits)


def ways_by_error(tensors: Sequence[Sequence[Demand]], target_error: float) -> list[tuple[int, Share]]:
    """(index of the way, its share) of each tensor: the coarsest shares within an error at the outputs."""
    if not target_error > 0:
        raise InvalidArgument(f"the target error is {target_error}, it must be positive")
    return cheapest_ways(tensors, lambda shares: sum(s.error for s in shares) >= target_error, coarse_side=False)


def cheapest_ways(
    tensors: Sequence[Sequence[Demand]], enough: Callable[[list[Share]], bool], *, coarse_side: bool = True
) -> list[tuple[int, Share]]:
    """Bisect the price of a bit until the shares are just coarse enough (or, on the other side, not yet too coarse)."""
    fine = [[refine(d.curve) for d in ways] for ways in tensors]
    low, high = -300.0, 300.0  # log2 of the price

    def at(exponent: float) -> list[tuple[int, Share]]:
        price = 2.0**exponent
        found = []
        for ways, curves in zip(tensors, fine, strict=True):
            shares = [cheapest(d, c, price) for d, c in zip(ways, curves, strict=True)]
            found.append(min(enumerate(shares), key=lambda pair: pair[1].error + price * pair[1].bits))
        return found

    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if enough([share for _, share in at(middle)]):
            high = middle
        else:
            low = middle
    return at(high if coarse_side else low)


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


def cheapest(demand: Demand, fine: RateCurve, price: float) -> Share:
    """The step with the least ``error + price * bits``."""
    bits, error = demand.weights * fine.bits, demand.gain * fine.error
    best = int(np.argmin(error + price * bits))
    return Share(float(fine.step[best]), float(bits[best] + demand.overhead), float(error[best]))
