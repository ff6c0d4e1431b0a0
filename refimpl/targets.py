"""How exact each weight has to be, so that the model's outputs keep what they should in the fewest bits.

A first compression shows what each weight's error costs at the outputs. A dB more then costs every element of every
weight the same sixth of a bit, so no bit could be moved with profit where each element adds as much error as any
other: a weight's share of the error allowed is its share of the elements. Specification: docs/spec/pipeline.md,
"Targets".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

MOST_DB = 12.0  # two bits: farther from where it was measured an error is not foretold
MOST_LEFT = 1 / 64  # of all elements: so many may stay floats
Vector = npt.NDArray[np.float64]


def target_raises(errors: Sequence[float], sizes: Sequence[int], allowed: float, most: float = MOST_DB) -> Vector:
    """How many dB each weight's target has to be raised, or lowered if negative.

    Raised by r, an error falls to ``e 10**(-r / 10)`` and an element takes ``r / (20 log10(2))`` bits more: so it is
    for fine uniform codes. The sum of errors becomes ``allowed`` with the fewest bits where every weight's error is
    in proportion to its elements, ``e[i] 10**(-r[i] / 10) = level size[i]``, unless that takes more than ``most``.

    Parameters
    ----------
    errors : sequence of float, (weights,)
        What each weight's error adds to the outputs', measured; not negative.
    sizes : sequence of int, (weights,)
        Elements, positive.
    allowed : float
        Error of the outputs, in the unit of ``errors``; positive.
    most : float
        Largest change, dB.

    Returns
    -------
    float64, (weights,)
        dB. A weight whose error was not seen at the outputs is lowered by ``most``. Where ``allowed`` is out of reach,
        all are raised, or lowered, by ``most``.

    Raises
    ------
    InvalidArgument
        Something out of range, or vectors of different lengths.

    References
    ----------
    Shannon's reverse water-filling; Cover and Thomas, "Elements of Information Theory", section 10.3.3. The 6.02 dB
    of a bit: W. Bennett, "Spectra of quantized signals", 1948.

    Examples
    --------
    >>> target_raises([0.1, 0.02], [100, 100], 0.02)  # each is to add 0.01
    array([10.        ,  3.01029996])
    >>> target_raises([0.1, 0.02], [300, 100], 0.04)  # 0.03 and 0.01
    array([5.22878745, 3.01029996])
    >>> target_raises([0.1, 0.02, 0.0], [100, 100, 100], 1e-5)  # out of reach
    array([ 12.,  12., -12.])
    """
    e, n = check_errors(errors, sizes, allowed, most)
    least, largest = e * 10 ** (-most / 10), e * 10 ** (most / 10)
    seen = e > 0
    share = np.clip(level_of(e, n, allowed, most) * n, least, largest, where=seen, out=np.ones_like(e))
    return np.where(seen, 10 * np.log10(np.where(seen, e, 1) / share), -most)


def too_coarse(
    errors: Sequence[float], sizes: Sequence[int], costs: Sequence[float], allowed: float, most: float = MOST_DB
) -> npt.NDArray[np.bool_]:
    """Which weights had better stay floats, since their errors, as small as they get, are dear to all others.

    An error less allows all others to be coarser: at a level of error for each element, a unit of error is worth
    ``1 / (2 ln(2) level)`` bits. Where a weight's least error, ``e 10**(-most / 10)``, is worth more than the bits that
    floats take beyond its codes, it is left; those that are worth most for their bits first, and the level is found
    anew after each. While the least errors of all others exceed what is allowed, errors have no price: the next one is
    left. No weight is that would make those left more than `MOST_LEFT` of all elements.

    Parameters
    ----------
    errors, sizes, allowed, most
        See `target_raises`.
    costs : sequence of float, (weights,)
        Bits that leaving the weight as it is takes more; positive.

    Returns
    -------
    bool, (weights,)

    Raises
    ------
    InvalidArgument
        Something out of range, or vectors of different lengths.

    Examples
    --------
    >>> too_coarse([0.5, 0.1, 0.1], [10, 5000, 5000], [240.0, 1e5, 1e5], 0.02)  # 0.03 at the least, from 10 elements
    array([ True, False, False])
    >>> too_coarse([0.05, 0.1, 0.1], [10, 5000, 5000], [1e9, 1e5, 1e5], 0.02)  # too dear
    array([False, False, False])
    """
    e, n = check_errors(errors, sizes, allowed, most)
    cost = np.asarray(costs, np.float64)
    if cost.shape != e.shape or not (np.isfinite(cost) & (cost > 0)).all():
        raise InvalidArgument(f"{e.size} weights need as many costs, finite and positive")
    least = e * 10 ** (-most / 10)
    left = np.zeros(len(e), bool)
    for i in np.argsort(-least / cost, kind="stable"):
        rest = ~left
        level = level_of(e[rest], n[rest], allowed, most)
        worth = least[i] > 2 * np.log(2) * level * cost[i]
        if not (worth or least[rest].sum() > allowed) or n[left].sum() + n[i] > MOST_LEFT * n.sum():
            break
        left[i] = True
    return left


def level_of(e: Vector, n: Vector, allowed: float, most: float) -> float:
    """Error for each element at which all errors are what is allowed, or the nearest that there is."""
    least, largest = e * 10 ** (-most / 10), e * 10 ** (most / 10)
    bends = np.sort(np.concatenate([least / n, largest / n]))  # of the sum, piecewise linear in the level
    sums = np.clip(bends[:, None] * n, least, largest).sum(axis=1)
    return float(np.interp(allowed, sums, bends)) if len(e) else 0.0


def check_errors(errors: Sequence[float], sizes: Sequence[int], allowed: float, most: float) -> tuple[Vector, Vector]:
    """Errors and sizes as vectors.

    Raises
    ------
    InvalidArgument
        Something out of range, or vectors of different lengths.
    """
    e, n = np.asarray(errors, np.float64), np.asarray(sizes, np.float64)
    if e.ndim != 1 or e.shape != n.shape:
        raise InvalidArgument(f"{e.size} errors and {n.size} sizes, one of each is needed for each weight")
    if not (np.isfinite(e) & (e >= 0) & (n > 0)).all():
        raise InvalidArgument("errors must be finite and not negative, sizes positive")
    if not 0 < allowed < np.inf or not 0 <= most < np.inf:
        raise InvalidArgument(f"allowed is {allowed} and most {most}, both must be finite and not negative")
    return e, n
