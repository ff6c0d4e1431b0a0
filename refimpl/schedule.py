"""How much of each layer to prune: layers whose loss is larger are pruned less, in steps of log loss.

The loss of a layer is estimated before anything is pruned, from its weights and the inverse of its Hessian. Losses
of layers lie far apart, nearly exponentially distributed, and perplexity grows nearly exponentially with sparsity:
equal steps of the logarithm get equal steps of sparsity. Specification: docs/spec/pruning.md, "Sparsity of layers".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.hessian import Matrix
from refimpl.sparsegpt import saliency

LEVELS = 6
STEP = 0.03
MOST_SPARSITY = 0.95
Vector = npt.NDArray[np.float64]


def estimated_loss(weight: npt.NDArray[np.floating], factor: Matrix) -> float:
    """Mean saliency of a layer's weights: about what pruning one of them adds to the error of its output.

    Every weight is rated as it is, as if the columns before its own were settled without error: one look at the
    weight, no pass of pruning. The mean, not the sum, so that layers of different sizes compare.

    Parameters
    ----------
    weight : float, shape (out, in)
    factor : float64, shape (in, in)
        `refimpl.hessian.inverse_factor`.

    References
    ----------
    Zhang et al., "Aggressive Post-Training Compression on Extremely Large Language Models", arXiv 2409.20094,
    figures 2 to 5: one score for each linear module, from rows of the inverse Hessians. The mean is our reading,
    chosen by measurement (docs/decisions.md).

    Examples
    --------
    >>> estimated_loss(np.array([[2.0, 1.0]]), np.diag([1.0, 0.25]))
    10.0
    """
    return float(saliency(weight, np.diagonal(factor)).mean()) if weight.size else 0.0


def schedule(
    losses: Sequence[float],
    sizes: Sequence[int],
    sparsity: float,
    *,
    levels: int = LEVELS,
    step: float = STEP,
    most: float = MOST_SPARSITY,
) -> Vector:
    """The sparsity of each layer: ``step`` less for each level of log loss, with the given mean over all weights.

    Levels are the clusters of the logarithms, 0 for the lowest (`cluster`); then see `sparsities`.

    Parameters
    ----------
    losses : sequence of float, (layers,)
        Not negative; a loss of 0 counts as the smallest other one.
    sizes, sparsity, step, most
        See `sparsities`.
    levels : int
        Clusters, 1 or more; there are fewer if fewer losses differ.

    Raises
    ------
    InvalidArgument
        Something out of range.

    References
    ----------
    Zhang et al., arXiv 2409.20094: "log-level clustering" of the layers' losses sets the sparsities. Clusters, step
    and clipping are our reading, chosen by measurement (docs/decisions.md).

    Examples
    --------
    >>> schedule([1.0, 100.0, 90.0], [1, 1, 2], 0.7, levels=2, step=0.1)
    array([0.775, 0.675, 0.675])
    """
    loss = np.asarray(losses, np.float64)
    if loss.ndim != 1 or not np.isfinite(loss).all() or (loss < 0).any():
        raise InvalidArgument("losses must be a vector of finite numbers, none negative")
    smallest = loss.min(where=loss > 0, initial=np.inf)
    z = np.log(np.maximum(loss, smallest)) if np.isfinite(smallest) else loss
    return sparsities(cluster(z, levels), sizes, sparsity, step=step, most=most)


def sparsities(
    level: npt.NDArray[np.integer],
    sizes: Sequence[int],
    sparsity: float,
    *,
    step: float = STEP,
    most: float = MOST_SPARSITY,
) -> Vector:
    """``s = clip(x - step level, 0, most)``, with x such that ``sum size s = sparsity sum size``.

    The sum is piecewise linear in x and never falls: x is interpolated between the bends.

    Parameters
    ----------
    level : integer, (layers,)
    sizes : sequence of int, (layers,)
        Weights of each layer, positive.
    sparsity : float
        Mean over all weights, 0 to ``most``.
    step : float
        Not negative.
    most : float
        Largest sparsity of a layer, up to 1.

    Raises
    ------
    InvalidArgument
        Something out of range.

    Examples
    --------
    >>> sparsities(np.array([0, 1, 5]), [1, 1, 1], 0.3, step=0.2)
    array([0.55, 0.35, 0.  ])
    """
    size = np.asarray(sizes, np.float64)
    if size.shape != level.shape or not (size > 0).all():
        raise InvalidArgument("sizes must be positive, one for each layer")
    if not 0 <= sparsity <= most <= 1:
        raise InvalidArgument(f"sparsity is {sparsity}, allowed are 0 to {most}, and no layer above 1")
    if not 0 <= step < np.inf:
        raise InvalidArgument(f"step is {step}, allowed are finite numbers from 0")
    if len(size) == 0:
        return np.zeros(0)
    below = step * np.asarray(level, np.float64)
    bends = np.sort(np.concatenate([below, below + most]))
    means = np.clip(bends[:, None] - below, 0, most) @ (size / size.sum())
    result: Vector = np.clip(np.interp(sparsity, means, bends) - below, 0, most)
    return result


def cluster(values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Cluster numbers so that the sum of squared distances to the clusters' means is least.

    Exactly, by dynamic programming over the sorted distinct values: clusters are runs of them.

    Parameters
    ----------
    values : float, (n,)
        Finite.
    count : int
        1 or more; no cluster is empty, so there are no more than distinct values.

    Returns
    -------
    integer, (n,)
        0 for the cluster of the smallest values, and so on.

    Raises
    ------
    InvalidArgument
        A count below 1.

    References
    ----------
    Wang and Song, "Ckmeans.1d.dp", R Journal 3(2), 2011.

    Examples
    --------
    >>> cluster(np.array([0.0, 9.0, 1.0, 5.0, 9.5]), 3)
    array([0, 2, 0, 1, 2])
    """
    if count < 1:
        raise InvalidArgument(f"levels are {count}, allowed are 1 and more")
    points, index, weight = np.unique(values, return_inverse=True, return_counts=True)
    n = len(points)
    spread = spreads(points, weight)
    best = spread[0]  # best[last]: of the points before last, in the clusters so far
    starts = []  # starts[k][last]: where the last of k + 2 clusters of these points begins
    for _ in range(1, min(count, n)):
        sums = best[:, None] + spread
        starts.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    level, last = np.zeros(n, np.intp), n
    for start in reversed(starts):
        last = start[last]
        level[last:] += 1
    return level[index]


def spreads(points: npt.NDArray[np.floating], weight: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Entry [i, j]: sum of squared distances of points i to j - 1 to their mean; infinite for none.

    Examples
    --------
    >>> spreads(np.array([1.0, 3.0]), np.array([1, 1]))
    array([[inf,  0.,  2.],
           [inf, inf,  0.],
           [inf, inf, inf]])
    """
    centred = points - points.mean() if len(points) else points
    moments = [np.concatenate([[0.0], np.cumsum(weight * centred**p)]) for p in range(3)]
    count, total, square = (m[None, :] - m[:, None] for m in moments)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.maximum(square - total**2 / count, 0)
    return np.where(count > 0, spread, np.inf)
