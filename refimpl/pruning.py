"""Pruning: which codes become zero because their weight matters least.

Zeros are cheap: where most codes are zero, a zero costs a fraction of a bit.
Specification: docs/spec/pruning.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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


def wanda_score(weight: npt.NDArray[np.floating], mean_square: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """``S[i, j] = |W[i, j]| sqrt(mean_t X[t, j]**2)``, to be compared within a row: `prune_rows_mask`.

    Parameters
    ----------
    weight : float, shape (out, in)
    mean_square : float, shape (in,)
        The diagonal of the second moment H. The paper has the sum over tokens, which orders no row differently.

    Raises
    ------
    InvalidArgument
        The shapes do not fit.

    References
    ----------
    Sun et al., "Wanda", arXiv 2306.11695, equation 1.

    Examples
    --------
    >>> wanda_score(np.array([[-2.0, 1.0]]), np.array([1.0, 9.0]))
    array([[2., 3.]], dtype=float32)
    """
    return linf_score(weight, np.sqrt(mean_square))


def prune_mask(score: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
    """True where a weight is pruned: the ``floor(n * sparsity)`` lowest scores of the layer.

    Examples
    --------
    >>> prune_mask(np.array([[3.0, 1.0], [2.0, 1.0]]), 0.5)
    array([[False,  True],
           [False,  True]])
    """
    return select_lowest(score, prune_count(score.size, sparsity))


def global_shares(scores: Sequence[npt.NDArray[np.floating]], sparsity: float) -> list[float]:
    """The sparsity of each layer if one threshold holds for all of them.

    Scores of a layer are divided by their mean, so that layers of other sizes and units compare; then the
    ``floor(N * sparsity)`` lowest of all N are pruned, ties by the earlier layer and the lower index. A layer that has
    k of them gets the share ``(k + 1/2) / n``, of which `prune_count` makes k again.

    Parameters
    ----------
    scores : sequence of float arrays
        Of each layer, without NaN.
    sparsity : float

    Raises
    ------
    InvalidArgument
        NaN scores, or a sparsity outside [0, 1].

    References
    ----------
    "When Compression Meets Model Compression", arXiv 2502.15443, prunes by score; that layers share one budget, and how
    their scores compare, is our reading.

    Examples
    --------
    >>> global_shares([np.array([1.0, 1.0, 4.0]), np.array([50.0, 70.0])], 0.4)
    [0.8333333333333334, 0.0]
    """
    flat = [np.zeros(0, np.float32)]
    for score in scores:
        mean = float(np.mean(score, dtype=np.float64)) if score.size else 0.0
        flat.append((score.reshape(-1) / (mean or 1.0)).astype(np.float32))
    every = np.concatenate(flat)
    mask = select_lowest(every, prune_count(every.size, sparsity))
    ends = np.cumsum([f.size for f in flat])
    counts = [int(np.count_nonzero(mask[a:b])) for a, b in pairwise(ends)]
    return [min(1.0, (k + 0.5) / score.size) if k else 0.0 for k, score in zip(counts, scores, strict=True)]


def prune_rows_mask(score: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
    """True where a weight is pruned: the ``floor(in * sparsity)`` lowest scores of each row.

    Ties by lowest column: the first k of a stable sort.

    Raises
    ------
    InvalidArgument
        NaN scores, or a sparsity outside [0, 1].

    References
    ----------
    Sun et al., "Wanda", arXiv 2306.11695, section 3, "Comparison Group".

    Examples
    --------
    >>> prune_rows_mask(np.array([[3.0, 1.0], [2.0, 2.0]]), 0.5)
    array([[False,  True],
           [ True, False]])
    """
    return lowest_of_rows(score, prune_count(score.shape[1], sparsity))


@dataclass(frozen=True)
class NOfM:
    """The n:m pattern: of each m neighbouring weights of a row n are kept, m - n pruned.

    2:4 is what sparse tensor cores multiply. The codes of SparseGPT and Wanda count the pruned ones instead: the
    same for 2:4 and 4:8.

    Raises
    ------
    InvalidArgument
        Not 0 <= n <= m and m >= 1.

    References
    ----------
    Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", arXiv 2102.04010.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 <= self.n <= self.m or self.m < 1:
            raise InvalidArgument(f"the pattern is {self.n}:{self.m}, allowed are n:m with 0 <= n <= m and m >= 1")


def n_of_m_mask(score: npt.NDArray[np.floating], pattern: NOfM) -> npt.NDArray[np.bool_]:
    """True where a weight is pruned: the m - n lowest scores of each m neighbours in a row, ties by lowest column.

    Raises
    ------
    InvalidArgument
        Columns that are not whole groups of m, or NaN scores.

    Examples
    --------
    >>> n_of_m_mask(np.array([[3.0, 1.0, 2.0, 2.0]]), NOfM(1, 2))
    array([[False,  True,  True, False]])
    """
    rows, inputs = score.shape
    if inputs % pattern.m:
        raise InvalidArgument(f"{inputs} columns are not whole groups of {pattern.m}")
    return lowest_of_rows(score.reshape(-1, pattern.m), pattern.m - pattern.n).reshape(rows, inputs)


def lowest_of_rows(score: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.bool_]:
    """Mark the k lowest scores of each row, ties by lowest column.

    Examples
    --------
    >>> lowest_of_rows(np.array([[2.0, 1.0, 1.0]]), 1)
    array([[False,  True, False]])
    """
    if np.isnan(score).any():
        raise InvalidArgument("scores hold NaN")
    mask = np.zeros(score.shape, np.bool_)
    np.put_along_axis(mask, np.argsort(score, axis=1, kind="stable")[:, :k], True, axis=1)
    return mask


def zero_dead(weight: npt.NDArray[np.floating], hessian: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The weight with the columns zeroed whose input was never active, ``H[j, j] = 0``.

    What they are changes no output that was seen; zeroed, they widen no grid and are the first to be pruned.

    Parameters
    ----------
    weight : float, shape (out, in)
    hessian : float, shape (in, in)
        `refimpl.hessian.second_moment`.

    Examples
    --------
    >>> zero_dead(np.array([[2.0, 1.0]]), np.diag([0.0, 3.0]))
    array([[0., 1.]])
    """
    return np.where(np.diagonal(hessian) == 0, np.zeros((), weight.dtype), weight)


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
