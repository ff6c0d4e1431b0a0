"""The choice of a model, jitted: bit for bit that of refimpl.tans.model.

A tensor of a quarter of a million symbols is coded in less than a millisecond, and NumPy would take as long for the
hundreds of short arrays that this choice is made of.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from refimpl.errors import InvalidArgument
from refimpl.tans.classes import LOG2_E, MAX_LITERAL_WIDTH, UNIT, rarest_first
from refimpl.tans.counts import LOG2_FRACTION_BITS, check_slots, log2_table
from refimpl.tans.model import Model

SYMBOLS = 256
CLASS_BYTES = 1 + SYMBOLS // 2 + 2 * SYMBOLS  # at most: all classes but the last are full, more than half of it is
NEAR = 4  # slots that are given or taken one by one
# Rows of working memory: Numba would take longer to compile arrays that are made in the loops.
SUM, SINGLE, BEST, BEGIN, WIDTH, PART, MERGED, COUNTS = range(8)


def normalize_counts(histogram: npt.NDArray[np.int64], table_log: int) -> npt.NDArray[np.int64]:
    """Twin of `refimpl.tans.counts.normalize_counts`.

    Examples
    --------
    >>> normalize_counts(np.array([70, 0, 25, 5]), 5)
    array([22,  0,  8,  2])
    """
    check_slots(histogram, table_log)
    check_alphabet(histogram)
    work = np.zeros((COUNTS + 1, SYMBOLS + 1), np.int64)
    work[MERGED, : len(histogram)] = histogram
    share_slots(np.int64(histogram.sum()), np.int64(len(histogram)), np.int64(table_log), work)
    return work[COUNTS, : len(histogram)].copy()


def cheapest_model(histogram: npt.NDArray[np.int64], lane_count: int, table_logs: range, literal_price: int) -> Model:
    """Twin of `refimpl.tans.model.cheapest_model`.

    Examples
    --------
    >>> cheapest_model(np.array([500, 300, 200]), 1, range(5, 13), 1 << 16).counts
    array([16, 10,  6])
    """
    check_alphabet(histogram)
    symbols, bits = rarest_first(histogram)
    work = np.zeros((COUNTS + 1, SYMBOLS + 1), np.int64)
    work[SUM, 1 : len(symbols) + 1] = np.cumsum(histogram[symbols])
    gained = np.zeros(SYMBOLS + 1)
    classes = np.empty(CLASS_BYTES, np.uint8)
    alphabet, size = search_models(
        symbols, bits, lane_count, table_logs[0], table_logs[-1], literal_price, log2_table(), work, gained, classes
    )
    return Model(work[COUNTS, :alphabet].copy(), classes[:size])


def check_alphabet(histogram: npt.NDArray[np.int64]) -> None:
    """Raise `InvalidArgument` if there are more symbols than bytes have values."""
    if len(histogram) > SYMBOLS:
        raise InvalidArgument(f"an alphabet of {len(histogram)} symbols, at most {SYMBOLS} can be stored")


@njit(nogil=True)
def search_models(
    symbols: Any, bits: Any, lane_count: Any, least: Any, most: Any, literal_price: Any, logs: Any, work: Any,
    gained: Any, classes: Any,
) -> Any:  # fmt: skip
    """Write counts and classes of the model with the lowest cost; return (alphabet, bytes of classes).

    Parameters
    ----------
    symbols, bits : `refimpl.tans.classes.rarest_first`
    least, most : table_logs that are tried, and all between them
    logs : `refimpl.tans.counts.log2_table`
    work : zeros but for the row of sums, (rows, 257)
    gained : zeros, (257,)
    """
    lowest, chosen = np.int64(0), np.int64(0)
    for k in range(least, most + 2):
        r = np.int64(k if k <= most else chosen)  # at last that of the lowest cost once more
        parts = plan_parts(bits, r, literal_price, logs, work, gained)
        cost, alphabet, size = write_model(symbols, r, parts, lane_count, literal_price, logs, work, classes)
        if k == least or cost < lowest:
            lowest, chosen = cost, r
    return alphabet, size


@njit(inline="always")
def plan_parts(bits: Any, r: Any, literal_price: Any, logs: Any, work: Any, gained: Any) -> Any:
    """Cut the line as `refimpl.tans.classes.cut` does: write the width of each part, return how many there are."""
    count = len(bits)
    total = work[SUM, count]
    for i in range(count):
        c = work[SUM, i + 1] - work[SUM, i]
        work[BEST, i + 1] = 1 << 62
        work[SINGLE, i] = part_price(c, np.int64(0), total, r, literal_price, logs)
        gained[i + 1] = gained[i] + ((work[SINGLE, i] - c * literal_price) / UNIT - bits[i] - 8)
    for begin in range(count):
        for w in range(MAX_LITERAL_WIDTH + 1):
            if begin + (1 << w >> 1) >= count:
                break
            end = min(begin + (1 << w), count)
            if w == 0:
                price = work[SINGLE, begin]
            elif gained[end] > gained[begin]:  # else it cannot be cheaper, see refimpl.tans.classes.worthwhile
                c = work[SUM, end] - work[SUM, begin]
                price = part_price(c, w, total, r, literal_price, logs)
            else:
                continue
            if work[BEST, begin] + price < work[BEST, end]:
                work[BEST, end], work[BEGIN, end], work[WIDTH, end] = work[BEST, begin] + price, begin, w
    parts, at = 0, count
    while at:  # from the end
        work[PART, parts] = work[WIDTH, at]
        parts, at = parts + 1, work[BEGIN, at]
    return parts


@njit(inline="always")
def part_price(c: Any, w: Any, total: Any, r: Any, literal_price: Any, logs: Any) -> Any:
    """Twin of `refimpl.tans.classes.part_prices`."""
    slots = max(np.int64(1), np.int64(np.uint64((c << (r + 1)) + total) // np.uint64(2 * total)))
    price = c * ((r << LOG2_FRACTION_BITS) - logs[slots]) + slots * (total * LOG2_E >> r)
    if w > 0:
        price += c * ((w << LOG2_FRACTION_BITS) + literal_price) + (8 * (1 + (1 << w)) << LOG2_FRACTION_BITS)
    return price


@njit(inline="always")
def write_model(
    symbols: Any, r: Any, parts: Any, lane_count: Any, literal_price: Any, logs: Any, work: Any, classes: Any
) -> Any:
    """Write counts and classes; return (`refimpl.tans.model.model_cost`, alphabet, bytes of classes)."""
    number = np.int64(0)
    for i in range(parts):
        number += work[PART, i] > 0
    size = number + 1 if number else number
    classes[0] = number
    number, begin, alphabet, cost = np.int64(1), np.int64(0), np.int64(0), np.int64(0)
    for s in range(SYMBOLS):
        work[MERGED, s] = 0
    for i in range(parts - 1, -1, -1):
        w = work[PART, i]
        end = min(begin + (1 << w), len(symbols))
        leader = symbols[begin]
        c = work[SUM, end] - work[SUM, begin]
        work[MERGED, leader] = c
        alphabet = max(alphabet, leader + 1)
        if w:
            classes[number] = w
            number += 1
            for k in range(begin, begin + (1 << w)):
                classes[size] = symbols[k] if k < end else leader
                size += 1
            cost += c * ((w << LOG2_FRACTION_BITS) + literal_price)
        begin = end
    share_slots(work[SUM, len(symbols)], alphabet, r, work)
    wide = 1
    for s in range(alphabet):
        if work[MERGED, s]:
            cost += work[MERGED, s] * ((r << LOG2_FRACTION_BITS) - logs[work[COUNTS, s]])
            if work[COUNTS, s] > 255:
                wide = 2
    return cost + ((lane_count * r + 8 * (wide * alphabet + size)) << LOG2_FRACTION_BITS), alphabet, size


@njit(nogil=True)
def share_slots(total: Any, alphabet: Any, r: Any, work: Any) -> Any:
    """Twin of `refimpl.tans.counts.normalize_counts`, from merged occurrences to counts.

    Symbols get slots for all quotients h / (2 q + 1) from a threshold on, which is moved until their sum is near.
    What is missing goes to the largest quotients that are left, what is too much is taken from the smallest.
    """
    slots = np.int64(1) << r
    threshold = total / (2 * slots)
    used: Any = np.int64(0)
    for _ in range(16):
        used = np.int64(0)
        for s in range(alphabet):
            h = work[MERGED, s]
            work[COUNTS, s] = max(np.int64(1), np.int64((h / threshold + 1) / 2)) if h else 0
            used += work[COUNTS, s]
        if abs(used - slots) <= NEAR:
            break
        threshold *= used / slots
    while True:
        up = down = 0
        most, fewest = 0.0, np.inf
        for s in range(alphabet):
            h, q = work[MERGED, s], work[COUNTS, s]
            if h and h / (2 * q + 1) > most:
                up, most = s, h / (2 * q + 1)
            if q > 1 and h / (2 * q - 1) <= fewest:
                down, fewest = s, h / (2 * q - 1)
        if used < slots:
            work[COUNTS, up] += 1
            used += 1
        elif used > slots:
            work[COUNTS, down] -= 1
            used -= 1
        elif most > fewest or (most == fewest and up < down):  # division may have put it on the wrong side
            work[COUNTS, up] += 1
            work[COUNTS, down] -= 1
        else:
            return
