"""Normalized counts: the probabilities a table can express.

A tANS table of 2**table_log slots gives symbol s a share of ``counts[s]`` slots, so the counts
must sum to 2**table_log and every symbol that occurs needs at least one.

Each slot in turn goes to the symbol with the largest ``histogram[s] / (2 counts[s] + 1)``.
One more slot for a symbol that has q of them saves ``h log2((q+1)/q)`` bits, and
``2 / (2q + 1)`` is that logarithm's first-order value, so the greedy choice is the one of
Bloom's heap normalization without a logarithm. It is also Webster's (Sainte-Lague's)
apportionment with one seat guaranteed. Specification: docs/spec/tans.md, "Normalized counts".
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

MIN_TABLE_LOG = 5
MAX_TABLE_LOG = 12
LOG2_FRACTION_BITS = 16
STEP = 1.05  # between thresholds that are tried one after the other


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
    check_slots(histogram, table_log)
    slots = 1 << table_log
    threshold = int(histogram.sum()) / (2 * slots)
    most = slots_above(histogram, threshold)
    while int(most.sum()) < slots:
        threshold /= STEP
        most = slots_above(histogram, threshold)
    counts = most
    while int(counts.sum()) > slots:
        threshold *= STEP
        most, counts = counts, slots_above(histogram, threshold)
    # What is left over goes to the largest quotients among those that `most` has and `counts` has not.
    symbol, more = list_slots(most - counts)
    quotient = histogram[symbol] / (2 * (counts[symbol] + more) + 1)
    first = np.argsort(-quotient, kind="stable")  # of equal ones the lower symbol
    return counts + np.bincount(symbol[first[: slots - int(counts.sum())]], minlength=len(histogram))


def slots_above(histogram: npt.NDArray[np.int64], threshold: float) -> npt.NDArray[np.int64]:
    """Slots of each symbol: the guaranteed one, and more as long as its quotient is above the threshold.

    Entries below 2**39 and divisors below 2**14 keep distinct quotients apart in float64, equal ones equal.

    Examples
    --------
    >>> slots_above(np.array([70, 0, 25, 5]), 10)  # 70/3 and 70/5 are above 10
    array([3, 0, 1, 1])
    """
    q = ((histogram / threshold - 1) / 2).astype(np.int64)  # about the last quotient above
    q += histogram / (2 * q + 3) > threshold
    q -= histogram / (2 * q + 1) <= threshold
    return np.where(histogram > 0, np.maximum(q, 0) + 1, 0)


def list_slots(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(symbol, slot) pairs in symbol order: every symbol with slots 0 to q-1.

    Examples
    --------
    >>> symbol, slot = list_slots(np.array([2, 0, 3]))
    >>> symbol.tolist(), slot.tolist()
    ([0, 0, 2, 2, 2], [0, 1, 0, 1, 2])
    """
    symbol = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts  # (alphabet,) index of each symbol's slot 0
    return symbol, np.arange(len(symbol)) - first[symbol]


def coded_cost(histogram: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> int:
    """Ideal code length of the symbols under the counts, in 2**-16 bits.

    Examples
    --------
    >>> coded_cost(np.array([3, 1]), np.array([16, 16])) / 2**16
    4.0
    """
    table_log = int(counts.sum()).bit_length() - 1
    bits = (table_log << LOG2_FRACTION_BITS) - log2_table()[counts]
    return sum((histogram * bits).tolist())


@cache
def log2_table() -> npt.NDArray[np.int64]:
    """`log2_fixed` of 1 to 2**MAX_TABLE_LOG; entry 0 is unused."""
    table = np.array([0, *map(log2_fixed, range(1, (1 << MAX_TABLE_LOG) + 1))])
    table.flags.writeable = False
    return table


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


def check_slots(histogram: npt.NDArray[np.int64], table_log: int) -> None:
    """Raise `InvalidArgument` unless `normalize_counts` can share slots among these symbols."""
    check_table_log(table_log)
    present, slots = int(np.count_nonzero(histogram)), 1 << table_log
    if not 1 <= present <= slots:
        raise InvalidArgument(f"{present} symbols occur, a table of {slots} slots holds 1 to {slots}")
    if histogram.min() < 0 or histogram.max() >= 1 << 39:
        raise InvalidArgument("histogram entries must be in [0, 2**39)")


def check_histogram(histogram: npt.NDArray[np.int64]) -> None:
    """Raise `InvalidArgument` unless entries are non-negative and sum to less than 2**39."""
    total = sum(histogram.tolist())
    if total >= 1 << 39 or (len(histogram) and histogram.min() < 0):
        raise InvalidArgument(f"a histogram of {total} symbols, allowed are fewer than 2**39, none of them negative")
