"""Symbol spread: which table slot holds which symbol.

This is what encoder and decoder must agree on. Changing it changes every coded byte.

The q slots of a symbol want to lie evenly: slot j belongs near the fraction (2j+1)/(2q) of the
table. A symbol with a single slot is usually rarer than that slot says, so it goes to the end,
where it costs more bits and leaves cheaper states to the others. Measured against Duda's tuned
spread, which needs logarithms of true probabilities, this integer rule is as close to entropy
to within 0.03 points at table_log 12 (docs/decisions.md). Specification: docs/spec/tans.md, "Symbol spread".
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.tans.counts import MAX_TABLE_LOG, MIN_TABLE_LOG, list_slots


def spread_symbols(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Lay the symbols out over the table.

    Slot j (0 <= j < q) of a symbol with q slots has the integer key ``((2j+1) << 16) // (2q)``,
    or ``1 << 16`` if q is 1. Slots are listed symbol by symbol and sorted by key, stably.

    Parameters
    ----------
    counts : int64, shape (alphabet,)
        Normalized counts: non-negative, summing to a power of two from 2**5 to 2**12.

    Returns
    -------
    uint8, shape (2**table_log,)
        The symbol of each state.

    Raises
    ------
    InvalidArgument
        The counts do not sum to an allowed table size, or the alphabet exceeds 256.

    References
    ----------
    J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
    compression rate of arithmetic coding", arXiv 1311.2540, section 4; C. Bloom, "Understanding ANS".

    Examples
    --------
    >>> spread_symbols(np.array([22, 0, 8, 2]))[:9]
    array([0, 2, 0, 0, 0, 2, 0, 0, 3], dtype=uint8)
    """
    return spread_slots(counts)[0].astype(np.uint8)


def spread_slots(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(symbol, slot) of each state, `spread_symbols` and the number of states below with the same symbol.

    Examples
    --------
    >>> symbol, slot = spread_slots(np.array([22, 0, 8, 2]))
    >>> symbol[:9].tolist(), slot[:9].tolist()
    ([0, 2, 0, 0, 0, 2, 0, 0, 3], [0, 0, 1, 2, 3, 1, 4, 5, 0])
    """
    table_log_of(counts)
    symbol, slot = list_slots(counts)
    q = counts.astype(np.uint32)[symbol]
    key = ((2 * slot + 1) << 16).astype(np.uint32) // (2 * q)
    # The keys are below 2**16 - 7, so 2**16 - 1 sorts like 2**16, and 16 bits are sorted in no time.
    order = np.argsort(np.where(q == 1, (1 << 16) - 1, key).astype(np.uint16), kind="stable")
    return symbol[order], slot[order]


def table_log_of(counts: npt.NDArray[np.int64]) -> int:
    """The table_log that normalized counts belong to.

    Raises
    ------
    InvalidArgument
        The counts are negative, too many, or do not sum to a power of two from 2**5 to 2**12.

    Examples
    --------
    >>> table_log_of(np.array([22, 0, 8, 2]))
    5
    """
    total = int(counts.sum()) if len(counts) else 0
    table_log = total.bit_length() - 1
    if total != 1 << max(table_log, 0) or not MIN_TABLE_LOG <= table_log <= MAX_TABLE_LOG:
        raise InvalidArgument(f"normalized counts sum to {total}, allowed are powers of two from 32 to 4096")
    if len(counts) > 256 or counts.min() < 0 or counts.max() > total:  # the last: a sum beyond 64 bits
        raise InvalidArgument("normalized counts must be 1 to 256 non-negative numbers")
    return table_log
