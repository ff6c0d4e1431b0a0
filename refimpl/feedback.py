"""Error feedback: what one column's rounding or pruning does to the output, later columns undo.

The loop that GPTQ, SparseGPT and the rate quantizer share. Columns (input channels) are settled from the first to
the last. The error of column j, divided by U[j, j], moves every column behind it by ``-U[j, k]``: the optimal brain
surgeon's update when exactly the columns before are settled. For any rule whatever,

    sum_j ((w_j - q_j) / U[j, j])**2 = (q - w)^T H (q - w)    (left w_j: updated, right w: original)

so the left side is the loss without ever forming it. Specification: docs/spec/hessian.md, "Feedback".
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

BLOCK = 128  # columns updated at once; what is behind them is updated by one product of matrices
Matrix = npt.NDArray[np.float64]
# (column j, working copy of the block's columns from j on) -> what becomes of column j
Decide = Callable[[int, Matrix], npt.NDArray[np.floating]]


def feed_back(
    weight: npt.NDArray[np.floating], factor: Matrix, decide: Decide, block: int = BLOCK
) -> tuple[Matrix, float]:
    """Settle the columns of a weight one by one, each error fed into the columns behind it.

    Parameters
    ----------
    weight : float, shape (out, in)
    factor : float64, shape (in, in)
        `refimpl.hessian.inverse_factor`.
    decide : callable
        ``decide(j, columns)`` gets the up-to-date columns j to the end of the block, float64 (out, ..), not to be
        changed, and returns the values of column j, (out,).
    block : int
        Columns in a block: how far ``decide`` can look.

    Returns
    -------
    settled : float64, shape (out, in)
    error : float
        ``sum_i (q_i - w_i)^T H (q_i - w_i)``, with the H that the factor was made of.

    Raises
    ------
    InvalidArgument
        The shapes do not fit.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323, section 3.3 and algorithm 1; Frantar and Alistarh, "SparseGPT",
    arXiv 2301.00774, algorithm 1.

    Examples
    --------
    >>> from refimpl.hessian import inverse_factor, output_error
    >>> H, W = np.array([[4.0, 2.0], [2.0, 2.0]]), np.array([[0.4, 0.4]])
    >>> settled, error = feed_back(W, inverse_factor(H, 0.0), lambda j, columns: np.rint(columns[:, 0]))
    >>> settled, round(error, 6)
    (array([[0., 1.]]), 0.4)
    >>> round(output_error(settled - W, H), 6), round(output_error(np.rint(W) - W, H), 6)
    (0.4, 1.6)
    """
    W = np.array(weight, np.float64)
    if W.ndim != 2 or factor.shape != (W.shape[1],) * 2:
        raise InvalidArgument(f"weight {W.shape} does not fit a factor of shape {factor.shape}")
    settled = np.empty_like(W)
    total = 0.0
    for first in range(0, W.shape[1], block):
        last = min(first + block, W.shape[1])
        errors = np.empty((len(W), last - first))
        for j in range(first, last):
            columns = W[:, j:last]
            settled[:, j] = decide(j, columns)
            error = (columns[:, 0] - settled[:, j]) / factor[j, j]
            columns -= np.outer(error, factor[j, j:last])
            errors[:, j - first] = error
        total += float(np.square(errors).sum())
        W[:, last:] -= errors @ factor[first:last, last:]
    return settled, total
