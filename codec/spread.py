"""The symbol spread, jitted: bit for bit that of refimpl.tans.spread."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from refimpl.tans.spread import table_log_of

KEY_BITS = 16
LAST = (1 << KEY_BITS) - 1  # sorts like 2**16, which no key with more slots reaches


def spread_slots(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Twin of `refimpl.tans.spread.spread_slots`.

    Examples
    --------
    >>> symbol, slot = spread_slots(np.array([22, 0, 8, 2]))
    >>> symbol[:9].tolist(), slot[:9].tolist()
    ([0, 2, 0, 0, 0, 2, 0, 0, 3], [0, 0, 1, 2, 3, 1, 4, 5, 0])
    """
    table_log = table_log_of(counts)
    size = 1 << table_log
    symbol, slot, key, order = np.empty((4, size), np.int64)
    sort_slots(counts, KEY_BITS - table_log, symbol, slot, key, np.zeros(size + 1, np.int64), order)
    return symbol[order], slot[order]


@njit(nogil=True)
def sort_slots(counts: Any, shift: Any, symbol: Any, slot: Any, key: Any, begin: Any, order: Any) -> Any:
    """List slots symbol by symbol; write their order by key, stably: into as many buckets as slots, then one by one."""
    i = 0
    for s in range(len(counts)):
        q = counts[s]
        for j in range(q):
            # Exact: a quotient that is no integer is 2**-13 away from one, float64 rounds by less than 2**-36.
            key[i] = np.int64((2 * j + 1) * 65536.0 / (2 * q)) if q > 1 else LAST
            symbol[i], slot[i] = s, j
            begin[(key[i] >> shift) + 1] += 1
            i += 1
    for k in range(1, len(begin)):
        begin[k] += begin[k - 1]
    for i in range(len(order)):
        k = key[i] >> shift
        order[begin[k]] = i
        begin[k] += 1
    for i in range(1, len(order)):
        moved, k = order[i], i
        while k > 0 and key[order[k - 1]] > key[moved]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = moved
