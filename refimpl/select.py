"""Exact-k selection: the one function that decides what is pruned.

"Prune k of n" prunes exactly k; among equal scores the lowest index goes first.
Specification: docs/spec/pruning.md.
"""

from decimal import ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument


def prune_count(total: int, sparsity: float) -> int:
    """``floor(total * sparsity)``, computed in decimal: 0.29 of 100 is 29.

    Raises
    ------
    InvalidArgument
        Sparsity outside [0, 1].

    Examples
    --------
    >>> prune_count(100, 0.29), int(100 * 0.29)
    (29, 28)
    """
    if not 0 <= sparsity <= 1:
        raise InvalidArgument(f"sparsity is {sparsity}, allowed are 0 to 1")
    return int((Decimal(repr(float(sparsity))) * total).to_integral_value(ROUND_FLOOR))


def select_lowest(score: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.bool_]:
    """Mark the k lowest scores, ties by lowest index in C order.

    Parameters
    ----------
    score : float, any shape
        Without NaN.
    k : int
        0 to ``score.size``.

    Returns
    -------
    bool, shape of score
        Exactly k True.

    Raises
    ------
    InvalidArgument
        NaN scores or k out of range.

    Examples
    --------
    >>> select_lowest(np.array([2.0, 1.0, 1.0, 1.0]), 2)
    array([False,  True,  True, False])
    """
    if not 0 <= k <= score.size:
        raise InvalidArgument(f"k is {k}, allowed are 0 to {score.size}")
    flat = score.reshape(-1)
    if np.isnan(flat).any():
        raise InvalidArgument("scores hold NaN")
    if k == 0:
        return np.zeros(score.shape, np.bool_)
    threshold = np.partition(flat, k - 1)[k - 1]
    mask = flat < threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: k - np.count_nonzero(mask)]] = True
    return mask.reshape(score.shape)
