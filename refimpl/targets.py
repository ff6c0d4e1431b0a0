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
    e, n = np.asarray(errors, np.float64), np.asarray(sizes, np.float64)
    if e.ndim != 1 or e.shape != n.shape:
        raise InvalidArgument(f"{e.size} errors and {n.size} sizes, one of each is needed for each weight")
    if not (np.isfinite(e) & (e >= 0) & (n > 0)).all():
        raise InvalidArgument("errors must be finite and not negative, sizes positive")
    if not 0 < allowed < np.inf or not 0 <= most < np.inf:
        raise InvalidArgument(f"allowed is {allowed} and most {most}, both must be finite and not negative")
    least, largest = e * 10 ** (-most / 10), e * 10 ** (most / 10)
    bends = np.sort(np.concatenate([least / n, largest / n]))  # of the sum, piecewise linear in the level
    sums = np.clip(bends[:, None] * n, least, largest).sum(axis=1)
    level = np.interp(allowed, sums, bends) if len(e) else 0.0
    seen = e > 0
    share = np.clip(level * n, least, largest, where=seen, out=np.ones_like(e))
    return np.where(seen, 10 * np.log10(np.where(seen, e, 1) / share), -most)
