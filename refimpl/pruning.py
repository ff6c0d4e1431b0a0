"""Pruning: which codes become zero because their weight matters least.

Zeros are cheap: where most codes are zero, a zero costs a fraction of a bit.
Specification: docs/spec/pruning.md.
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.select import prune_count, select_lowest


def magnitude_score(weight: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """``S = |W|``.

    References
    ----------
    Han et al., "Learning both Weights and Connections", arXiv 1506.02626, section 3.

    Examples
    --------
    >>> magnitude_score(np.array([[-2.0, 1.0]]))
    array([[2., 1.]], dtype=float32)
    """
    return np.abs(weight).astype(np.float32)


def linf_score(weight: npt.NDArray[np.floating], activation_max: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """``S[i, j] = |W[i, j]| max_t |X[t, j]|``: the most that a weight can add to an output.

    Wanda's score with the l-infinity norm of the activations instead of the l2 norm. Scaling
    changes nothing: W s and X / s give the same score.

    Parameters
    ----------
    weight : float, shape (out, in)
    activation_max : float, shape (in,)

    Raises
    ------
    InvalidArgument
        The shapes do not fit.

    References
    ----------
    "When Compression Meets Model Compression", arXiv 2502.15443 (the activations' l-infinity norm rates
    importance); Sun et al., "Wanda", arXiv 2306.11695, equation 1.

    Examples
    --------
    >>> linf_score(np.array([[-2.0, 1.0]]), np.array([1.0, 3.0]))
    array([[2., 3.]], dtype=float32)
    """
    if weight.ndim != 2 or activation_max.shape != weight.shape[1:]:
        raise InvalidArgument(f"weight {weight.shape} does not fit activation maxima {activation_max.shape}")
    return (np.abs(weight) * activation_max).astype(np.float32)


def prune_mask(score: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
    """True where a weight is pruned: the ``floor(n * sparsity)`` lowest scores of the layer.

    Examples
    --------
    >>> prune_mask(np.array([[3.0, 1.0], [2.0, 1.0]]), 0.5)
    array([[False,  True],
           [False,  True]])
    """
    return select_lowest(score, prune_count(score.size, sparsity))


def prune(
    codes: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_], zero_point: npt.NDArray[np.integer] | int = 0
) -> npt.NDArray[np.integer]:
    """Set pruned codes to the code of zero.

    Parameters
    ----------
    codes : int8 or uint8
    mask : bool, shape of codes
    zero_point : integer, broadcastable

    Examples
    --------
    >>> prune(np.array([[3, -1]], np.int8), np.array([[False, True]]))
    array([[3, 0]], dtype=int8)
    """
    return np.where(mask, np.asarray(zero_point, codes.dtype), codes)
