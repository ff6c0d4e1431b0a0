"""Bands: input channels of a weight that share one step and one table.

Channels differ: in how large their weights are, and in how much the layer's output feels an error in them. A table or a
step for each would cost more than it saves, so channels are sorted by the number that tells them apart and the row of
them is cut into a few bands, where and how often it is cheapest. Specification: docs/spec/rate.md, "Bands".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.metrics import entropy_of_counts
from refimpl.search import truncate_mantissa

MOST_BANDS = 8
SLICES = 64  # runs of sorted channels between which a band may end
Bands = npt.NDArray[np.uint8]  # band of each channel, (channels,)
Counts = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SteppedBands:
    """Bands of the columns of a weight, and the step of each."""

    of_column: Bands  # (in,)
    steps: npt.NDArray[np.float32]  # (bands,) relative to the tensor's step, 8 significant bits

    @property
    def of_columns(self) -> npt.NDArray[np.float32]:
        """Relative step of each column, (1, in)."""
        return self.steps[self.of_column][np.newaxis]


def code_bands(counts: Counts, price: float) -> Bands:
    """Bands of channels whose codes are known: those whose codes are alike, each band coded with a table of its own.

    Parameters
    ----------
    counts : int64, shape (channels, symbols)
        How often each symbol occurs in each channel.
    price : float
        Bits that a further band costs.

    Returns
    -------
    uint8, shape (channels,)
        All zero where one table is the cheapest. Band 0 has the channels with the narrowest codes.

    Examples
    --------
    >>> narrow, wide = [0, 500, 0, 0], [125, 125, 125, 125]
    >>> code_bands(np.array([narrow, wide, narrow, wide]), price=100)
    array([0, 1, 0, 1], dtype=uint8)
    >>> code_bands(np.array([narrow, wide, narrow, wide]), price=10_000)
    array([0, 0, 0, 0], dtype=uint8)
    """
    counts = np.asarray(counts, np.int64)
    symbols = np.arange(counts.shape[1])
    middle = int(counts.sum(0) @ symbols) // max(int(counts.sum()), 1)
    spread = counts @ np.abs(symbols - middle)
    order, ends = slices(spread)
    sums = np.zeros((len(ends), counts.shape[1]), np.int64)
    for k in range(1, len(ends)):
        sums[k] = sums[k - 1] + counts[order[ends[k - 1] : ends[k]]].sum(0)
    return assign(order, ends, cut(len(ends) - 1, lambda first, last: code_length(sums[last] - sums[first]), price))


def stepped_bands(factor: Matrix, rows: int, price: float) -> SteppedBands:
    """Bands of the columns of a weight by what an error in each costs the output once later columns made up for it.

    Error feedback with steps s_j loses ``sum_j s_j**2 / (12 U[j, j]**2)`` in each row, so steps in proportion to
    U[j, j] take the fewest bits for a loss. Columns of a band share the step ``(mean_j U[j, j]**-2)**(-1/2)``, and the
    bits of a weight of the band, up to what all bands have in common, are ``log2(mean_j U[j, j]**-2) / 2``.

    Parameters
    ----------
    factor : float64, shape (in, in)
        `refimpl.hessian.inverse_factor`.
    rows : int
        Weights in a column.
    price : float
        Bits that a further band costs.

    Returns
    -------
    SteppedBands
        Steps with a geometric mean over columns of about 1. One band with step 1 where no cut pays.

    References
    ----------
    "WaterSIC", arXiv 2603.04956: steps in proportion to the factor's diagonal.

    Examples
    --------
    >>> bands = stepped_bands(np.diag([1.0, 8.0, 1.0, 8.0]), rows=1000, price=100)
    >>> bands.of_column, bands.steps
    (array([0, 1, 0, 1], dtype=uint8), array([0.35351562, 2.828125  ], dtype=float32))
    """
    if factor.ndim != 2 or factor.shape[0] != factor.shape[1]:
        raise InvalidArgument(f"the factor has shape {factor.shape}, it must be square")
    diagonal = np.diagonal(factor)
    weight = diagonal**-2.0  # of an error
    order, ends = slices(diagonal)
    sums = np.concatenate([[0.0], np.cumsum(weight[order])])[ends]

    def bits(first: int, last: int) -> float:
        columns = int(ends[last] - ends[first])
        return rows * columns * float(np.log2((sums[last] - sums[first]) / columns)) / 2

    of_column = assign(order, ends, cut(len(ends) - 1, bits, price))
    steps = np.array([np.mean(weight[of_column == g]) ** -0.5 for g in range(int(of_column.max(initial=0)) + 1)])
    if len(steps) == 1:
        return SteppedBands(of_column, np.ones(1, np.float32))
    common = np.exp(np.mean(np.log(steps[of_column])))
    return SteppedBands(of_column, truncate_mantissa((steps / common).astype(np.float32)))


def slices(key: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """(channels in the order of a key, equal ones in their own; where the slices of that row end, 0 first).

    Examples
    --------
    >>> slices(np.array([3, 1, 2, 1]))
    (array([1, 3, 2, 0]), array([0, 1, 2, 3, 4]))
    """
    count = min(SLICES, len(key))
    return np.argsort(key, kind="stable"), np.arange(count + 1) * len(key) // max(count, 1)


def cut(count: int, bits: Callable[[int, int], float], price: float) -> list[int]:
    """Cut a row of slices into at most `MOST_BANDS` runs with the fewest bits in all.

    Parameters
    ----------
    count : int
    bits : callable
        ``bits(first, last)`` of the slices first to last - 1 as one run.
    price : float
        Bits of each run beside.

    Returns
    -------
    list of int
        Ends of the runs but the last. Of equally cheap ways the one with fewest runs, then with the earliest ends.

    Examples
    --------
    >>> cut(4, lambda first, last: (last - first) ** 2, price=3)
    [2]
    """
    if count == 0:
        return []
    best = [(bits(0, last) + price, 0) for last in range(1, count + 1)]  # (bits of slices before, where the run began)
    ways = [best]
    lengths = {(first, last): bits(first, last) for first in range(1, count) for last in range(first + 1, count + 1)}
    for runs in range(2, min(MOST_BANDS, count) + 1):
        before = ways[-1]
        ways.append(
            [
                min(
                    ((before[first - 1][0] + lengths[first, last] + price, first) for first in range(runs - 1, last)),
                    default=(np.inf, 0),
                )
                for last in range(1, count + 1)
            ]
        )
    runs = min(range(len(ways)), key=lambda k: ways[k][-1][0])
    ends, last = [], count
    for k in range(runs, 0, -1):
        last = ways[k][last - 1][1]
        ends.append(last)
    return ends[::-1]


def assign(order: npt.NDArray[np.intp], ends: npt.NDArray[np.int64], cuts: list[int]) -> Bands:
    """Band of each channel from where the row of slices is cut."""
    bands = np.zeros(len(order), np.uint8)
    for g, at in enumerate(cuts):
        bands[order[ends[at] :]] = g + 1
    return bands


def code_length(counts: Counts) -> float:
    """Bits of symbols that occur so often, at their order-0 entropy.

    Examples
    --------
    >>> code_length(np.array([1, 1, 2]))
    6.0
    """
    return float(counts.sum()) * entropy_of_counts(counts)
