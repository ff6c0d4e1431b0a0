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
from functools import cache

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
    # h < 2**39 and 2q+1 < 2**14 keep distinct quotients apart in float64, equal ones equal:
    # the order is exact. The symbol in the tuple settles ties for the lower one.
    counts = most_slots(histogram, slots)
    gains = [(-int(histogram[s]) / int(2 * counts[s] + 1), int(s)) for s in present]
    heapq.heapify(gains)
    for _ in range(slots - int(counts.sum())):
        symbol = gains[0][1]
        counts[symbol] += 1
        heapq.heapreplace(gains, (-int(histogram[symbol]) / int(2 * counts[symbol] + 1), symbol))
    return counts


def most_slots(histogram: npt.NDArray[np.int64], slots: int) -> npt.NDArray[np.int64]:
    """Slots that go to a symbol before any quotient falls to a threshold that leaves some slots over.

    The order within them does not matter, so they are given at once.
    """
    threshold = int(histogram.sum()) / (2 * slots)
    while True:
        threshold *= 1.05
        j = ((histogram / threshold - 1) / 2).astype(np.int64)  # about the last slot above the threshold
        j = np.where(histogram / (2 * j + 3) > threshold, j + 1, j)
        j = np.where(histogram / (2 * j + 1) > threshold, j, j - 1)
        counts = np.where(histogram > 0, np.maximum(j, 0) + 1, 0)
        if int(counts.sum()) <= slots:
            return counts


def coded_cost(histogram: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> int:
    """Ideal code length of the symbols under the counts, in 2**-16 bits.

    Examples
    --------
    >>> coded_cost(np.array([3, 1]), np.array([16, 16])) / 2**16
    4.0
    """
    table_log = int(counts.sum()).bit_length() - 1
    logs, whole = log2_table(table_log), table_log << LOG2_FRACTION_BITS
    return sum(h * (whole - logs[q]) for h, q in zip(histogram.tolist(), counts.tolist(), strict=True) if h)


@cache
def log2_table(table_log: int) -> tuple[int, ...]:
    """`log2_fixed` of 1 to 2**table_log; entry 0 is unused."""
    return (0, *(log2_fixed(q) for q in range(1, (1 << table_log) + 1)))


def log2_fixed(x: int) -> int:
    """``log2(x)`` in units of 2**-16, truncated, by integer squaring alone.

    The mantissa is held as 31 fractional bits in 64-bit arithmetic, so any language repeats it.

    Examples
    --------
    >>> log2_fixed(8), round(log2_fixed(3) / 2**16, 4)
    (196608, 1.585)
    """
    if not 1 <= x < 1 << 32:
        raise InvalidArgument(f"the logarithm of {x} was asked for, allowed are 1 to 2**32 - 1")
    whole = x.bit_length() - 1
    mantissa = x << (31 - whole)  # in [2**31, 2**32): a number in [1, 2)
    fraction = 0
    for _ in range(LOG2_FRACTION_BITS):
        mantissa = mantissa * mantissa >> 31
        bit = mantissa >> 32
        mantissa >>= bit
        fraction = fraction << 1 | bit
    return whole << LOG2_FRACTION_BITS | fraction


def stored_counts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Normalized counts in the dtype they are stored in: uint8 if all fit, else uint16.

    Examples
    --------
    >>> stored_counts(np.array([22, 0, 8, 2])).dtype
    dtype('uint8')
    """
    return counts.astype(np.uint8) if counts.max() < 256 else counts.astype(np.uint16)


def check_table_log(table_log: int) -> None:
    """Raise `InvalidArgument` unless ``table_log`` is 5 to 12."""
    if not MIN_TABLE_LOG <= table_log <= MAX_TABLE_LOG:
        raise InvalidArgument(f"table_log is {table_log}, allowed are {MIN_TABLE_LOG} to {MAX_TABLE_LOG}")
