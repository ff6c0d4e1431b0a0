"""Normalized counts: the probabilities a table can express.

A tANS table of 2**table_log slots gives symbol s a share of ``counts[s]`` slots, so the counts
must sum to 2**table_log and every symbol that occurs needs at least one.

Each slot in turn goes to the symbol with the largest ``histogram[s] / (2 counts[s] + 1)``.
One more slot for a symbol that has q of them saves ``h log2((q+1)/q)`` bits, and
``2 / (2q + 1)`` is that logarithm's first-order value, so the greedy choice is the one of
Bloom's heap normalization without a logarithm. It is also Webster's (Sainte-Lague's)
apportionment with one seat guaranteed. Specification: docs/spec/tans.md, "Normalized counts".
"""

import heapq

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

MIN_TABLE_LOG = 5
MAX_TABLE_LOG = 12
LOG2_FRACTION_BITS = 16


def histogram(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count how often each symbol occurs, up to the largest that does.

    Parameters
    ----------
    symbols : uint8, any shape

    Returns
    -------
    int64, shape (alphabet,)
        ``alphabet`` is the largest symbol plus one; 0 for no symbols.

    Examples
    --------
    >>> histogram(np.array([2, 0, 2], np.uint8))
    array([1, 0, 2])
    """
    return np.bincount(symbols.ravel()).astype(np.int64)


def normalize_counts(histogram: npt.NDArray[np.int64], table_log: int) -> npt.NDArray[np.int64]:
    """Share 2**table_log table slots among the symbols that occur.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
        Occurrences of each symbol, below 2**39 (larger ones would need wider comparisons).
    table_log : int
        5 to 12.

    Returns
    -------
    int64, shape (alphabet,)
        Sums to ``2**table_log``; zero exactly where ``histogram`` is zero.

    Raises
    ------
    InvalidArgument
        No symbol occurs, more symbols occur than there are slots, or an argument is out of range.

    References
    ----------
    C. Bloom, "Understanding ANS 10: optimal count normalization", 2014.

    Examples
    --------
    >>> normalize_counts(np.array([70, 0, 25, 5]), 5)
    array([22,  0,  8,  2])
    """
    check_table_log(table_log)
    slots = 1 << table_log
    present = np.flatnonzero(histogram)
    if not 1 <= len(present) <= slots:
        raise InvalidArgument(f"{len(present)} symbols occur, a table of {slots} slots holds 1 to {slots}")
    if histogram.min() < 0 or histogram.max() >= 1 << 39:
        raise InvalidArgument("histogram entries must be in [0, 2**39)")
    counts = np.zeros(len(histogram), np.int64)
    counts[present] = 1
    # h < 2**39 and 2q+1 < 2**14 keep distinct quotients apart in float64, equal ones equal:
    # the order is exact. The symbol in the tuple settles ties for the lower one.
    gains = [(-int(histogram[s]) / 3, int(s)) for s in present]
    heapq.heapify(gains)
    for _ in range(slots - len(present)):
        symbol = gains[0][1]
        counts[symbol] += 1
        heapq.heapreplace(gains, (-int(histogram[symbol]) / int(2 * counts[symbol] + 1), symbol))
    return counts


def choose_table_log(histogram: npt.NDArray[np.int64], lane_count: int) -> int:
    """The table size that stores these symbols in the fewest bits.

    A larger table expresses the probabilities better but makes each lane's start state longer:
    the choice minimizes ``sum h[s] (table_log - log2 counts[s]) + lane_count * table_log`` in
    fixed-point integers; ties go to the smaller table.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
    lane_count : int

    Returns
    -------
    int
        5 to 12.

    Examples
    --------
    >>> choose_table_log(np.array([500, 300, 200]), lane_count=1)
    5
    """
    needed = max(MIN_TABLE_LOG, int(np.count_nonzero(histogram) - 1).bit_length())
    costs = [
        (coded_cost(histogram, normalize_counts(histogram, r)) + ((lane_count * r) << LOG2_FRACTION_BITS), r)
        for r in range(needed, MAX_TABLE_LOG + 1)
    ]
    return min(costs)[1]


def coded_cost(histogram: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> int:
    """Ideal code length of the symbols under the counts, in 2**-16 bits.

    Examples
    --------
    >>> coded_cost(np.array([3, 1]), np.array([16, 16])) / 2**16
    4.0
    """
    total = log2_fixed(int(counts.sum()))
    return sum(int(h) * (total - log2_fixed(int(q))) for h, q in zip(histogram, counts, strict=True) if h)


def log2_fixed(x: int) -> int:
    """``log2(x)`` in units of 2**-16, truncated, by integer squaring alone.

    The mantissa is held as 31 fractional bits in 64-bit arithmetic, so any language repeats it.

    Examples
    --------
    >>> log2_fixed(8), round(log2_fixed(3) / 2**16, 4)
    (196608, 1.585)
    """
    if x < 1:
        raise InvalidArgument(f"the logarithm of {x} does not exist")
    whole = x.bit_length() - 1
    mantissa = x << (31 - whole)  # in [2**31, 2**32): a number in [1, 2)
    fraction = 0
    for _ in range(LOG2_FRACTION_BITS):
        mantissa = mantissa * mantissa >> 31
        bit = mantissa >> 32
        mantissa >>= bit
        fraction = fraction << 1 | bit
    return whole << LOG2_FRACTION_BITS | fraction


def check_table_log(table_log: int) -> None:
    """Raise `InvalidArgument` unless ``table_log`` is 5 to 12."""
    if not MIN_TABLE_LOG <= table_log <= MAX_TABLE_LOG:
        raise InvalidArgument(f"table_log is {table_log}, allowed are {MIN_TABLE_LOG} to {MAX_TABLE_LOG}")
