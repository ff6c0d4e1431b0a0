"""Classes: rare symbols that share table slots.

A symbol that is rarer than one slot of the table still takes a whole slot, and the frequent ones pay for
it. So rare symbols of about equal frequency are put into classes of 2**w: the class is coded as one
symbol, its *leader*, and w *literal* bits say which *member* was meant. A class costs
``w - (entropy within the class)`` bits for each of its symbols and wins back the slots.

Stored as bytes: the number of classes, their ``w``, then the 2**w members of each, the leader first; a class
with fewer symbols repeats its leader. Nothing is stored for no classes. Specification: docs/spec/tans.md, "Classes".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.counts import LOG2_FRACTION_BITS, log2_table

MAX_LITERAL_WIDTH = 8
LOG2_E = 94548  # log2(e) in units of 2**-16
MAX_CLASS_BYTES = (1 << 16) - 1
LITERAL_PRICE = 1  # bits that a literal must win besides its own, to be worth a decoder's time
NO_CLASSES = np.empty(0, np.uint8)


@dataclass(frozen=True)
class ClassTable:
    """For every symbol: whom it is coded as, and how a decoded leader becomes the member meant."""

    leader: npt.NDArray[np.uint8]  # (256,) the symbol itself if it is in no class
    index: npt.NDArray[np.uint8]  # (256,) its literal: its number in its class
    width: npt.NDArray[np.uint8]  # (256,) literal bits that follow a leader, 0 for all other symbols
    first: npt.NDArray[np.int64]  # (256,) where a leader's members begin in `member`
    member: npt.NDArray[np.uint8]  # (256 + members,) all symbols, then the members of all classes


def class_table(classes: npt.NDArray[np.uint8]) -> ClassTable:
    """Expand stored classes into look-up tables.

    Parameters
    ----------
    classes : uint8, shape (bytes,)

    Raises
    ------
    Corrupt
        A width is not 1 to 8, there are more or fewer bytes than that or more than 65535, or a symbol leads
        two classes.

    Examples
    --------
    >>> table = class_table(np.array([1, 1, 9, 5], np.uint8))
    >>> table.leader[5], table.index[5], table.width[9], table.member[table.first[9] + 1]
    (np.uint8(9), np.uint8(1), np.uint8(1), np.uint8(5))
    """
    everything = np.arange(256, dtype=np.uint8)
    leader, index, width = everything.copy(), np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    first = np.arange(256)
    count = int(classes[0]) if len(classes) else 0
    widths, members = classes[1 : 1 + count].astype(np.int64), classes[1 + count :]
    if len(classes) and (
        count == 0 or len(widths) != count or not ((widths > 0) & (widths <= MAX_LITERAL_WIDTH)).all()
    ):
        raise Corrupt(f"{count} classes with literals of {widths.tolist()} bits")
    sizes = 1 << widths
    if len(classes) > MAX_CLASS_BYTES:
        raise Corrupt(f"classes of {len(classes)} bytes, at most {MAX_CLASS_BYTES} can be stored")
    if len(members) != sizes.sum():
        raise Corrupt(f"{len(members)} members in classes of {sizes.tolist()}")
    begins = np.cumsum(sizes) - sizes
    if len(np.unique(members[begins])) != count:
        raise Corrupt("a symbol leads two classes")
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        group = members[begin : begin + size][::-1]  # backwards: a repeated symbol gets its lowest index
        leader[group], index[group] = group[-1], np.arange(size)[::-1]
    width[members[begins]] = widths
    first[members[begins]] = 256 + begins
    return ClassTable(leader, index, width, first, np.concatenate([everything, members]))


def plan_classes(histogram: npt.NDArray[np.int64], table_log: int) -> npt.NDArray[np.uint8]:
    """The classes that save most.

    Symbols are lined up by frequency, rarest first, and the line is cut into single symbols and classes of 2**w
    neighbours (fewer at its frequent end) so that the sum of prices is least: dynamic programming. A part that
    occurs C times in N symbols gets ``q = max(1, round(C L / N))`` slots of L; its price in bits is

        C (log2 L - log2 q)  +  q N log2(e) / L  +  C (w + 1) + 8 (1 + 2**w)  if w > 0

    code length, what its slots cost the others, literals, and the class itself; all in integers. One bit
    more than its own is what a literal must win to be worth a decoder's time.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
        Non-negative, its sum below 2**39.
    table_log : int

    Returns
    -------
    uint8, shape (bytes,)
        Empty if no class pays.

    Raises
    ------
    InvalidArgument
        An entry is negative, or the histogram sums to 2**39 or more.

    Examples
    --------
    >>> plan_classes(np.array([100000, 1, 2, 1]), 5)
    array([1, 1, 1, 3], dtype=uint8)
    """
    order = np.argsort(histogram, kind="stable")
    total = sum(histogram.tolist())
    if total >= 1 << 39 or (len(histogram) and histogram.min() < 0):
        raise InvalidArgument(f"a histogram of {total} symbols, allowed are fewer than 2**39, none of them negative")
    order = order[histogram[order] > 0]
    count = len(order)
    if count < 2:
        return NO_CLASSES
    ends = np.minimum(np.arange(count)[:, None] + (1 << np.arange(MAX_LITERAL_WIDTH + 1)), count)
    sums = np.concatenate([[0], np.cumsum(histogram[order])])
    prices = class_prices(sums[ends] - sums[:count, None], total, table_log).tolist()
    best: list[int] = [0] + [1 << 62] * count
    width_to = [0] * (count + 1)
    begin_of = [0] * (count + 1)
    for begin, row in enumerate(prices):
        before = best[begin]
        for width, price in enumerate(row[: (count - begin - 1).bit_length() + 1]):
            end = begin + (1 << width)
            end = end if end < count else count
            if before + price < best[end]:
                best[end], width_to[end], begin_of[end] = before + price, width, begin
    widths, members = [], []
    end = count
    while end:
        if width_to[end]:
            group = order[begin_of[end] : end].tolist()
            widths.append(width_to[end])
            members.append(group + group[:1] * ((1 << width_to[end]) - len(group)))
        end = begin_of[end]
    if not widths:
        return NO_CLASSES
    return np.array([len(widths), *widths[::-1], *(symbol for group in members[::-1] for symbol in group)], np.uint8)


def class_prices(occurrences: npt.NDArray[np.int64], total: int, table_log: int) -> npt.NDArray[np.int64]:
    """Price of every part, see `plan_classes`: (parts, widths) from and to the same shape, in 2**-16 bits."""
    slots = np.maximum(1, ((occurrences << (table_log + 1)) + total) // (2 * total))
    logs = np.array(log2_table(table_log))
    coded = occurrences * ((table_log << LOG2_FRACTION_BITS) - logs[slots]) + slots * (total * LOG2_E >> table_log)
    width = np.arange(occurrences.shape[1])
    literals = occurrences * (width + LITERAL_PRICE) << LOG2_FRACTION_BITS
    stored = 8 * (1 + (1 << width)) << LOG2_FRACTION_BITS
    return coded + np.where(width > 0, literals + stored, 0)


def merge_histogram(histogram: npt.NDArray[np.int64], table: ClassTable) -> npt.NDArray[np.int64]:
    """Occurrences of leaders, and of symbols in no class: what the table has slots for.

    Leaders lie within the histogram, as those of `plan_classes` do.

    Examples
    --------
    >>> merge_histogram(np.array([7, 2, 0, 1]), class_table(np.array([1, 1, 3, 1], np.uint8)))
    array([7, 0, 0, 3])
    """
    merged = np.zeros(len(histogram), np.int64)
    np.add.at(merged, table.leader[: len(histogram)], histogram)
    return merged
