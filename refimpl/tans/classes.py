"""Classes: rare symbols that share table slots.

A symbol that is rarer than one slot of the table still takes a whole slot, and the frequent ones pay for
it. So rare symbols of about equal frequency are put into classes of 2**w: the class is coded as one
symbol, its *leader*, and w *literal* bits say which *member* was meant. A class costs
``w - (entropy within the class)`` bits for each of its symbols and wins back the slots.

Stored as bytes: the number of classes, their ``w``, then the 2**w members of each, the leader first; a class
with fewer symbols repeats its leader. Nothing is stored for no classes. Specification: docs/spec/tans.md, "Classes".
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refimpl.errors import Corrupt
from refimpl.tans.counts import LOG2_FRACTION_BITS, check_histogram, log2_table

MAX_LITERAL_WIDTH = 8
UNIT = 1 << LOG2_FRACTION_BITS
LOG2_E = 94548  # log2(e) in units of 2**-16
MAX_CLASS_BYTES = (1 << 16) - 1
# What a literal must win besides its own bits to be worth a decoder's time, in 2**-16 bits.
LITERAL_PRICE = {"gpu": 1 << 16, "archive": 1 << 10}
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
    return expand(classes.tobytes())


@lru_cache(maxsize=16)  # the same classes are priced, checked and used one after the other
def expand(stored: bytes) -> ClassTable:
    """`class_table` of bytes; its arrays are read-only."""
    count = stored[0] if stored else 0
    widths, members = stored[1 : 1 + count], stored[1 + count :]
    if stored and (count == 0 or len(widths) != count or not all(1 <= w <= MAX_LITERAL_WIDTH for w in widths)):
        raise Corrupt(f"{count} classes with literals of {list(widths)} bits")
    if len(stored) > MAX_CLASS_BYTES:
        raise Corrupt(f"classes of {len(stored)} bytes, at most {MAX_CLASS_BYTES} can be stored")
    if len(members) != sum(1 << w for w in widths):
        raise Corrupt(f"{len(members)} members in classes with literals of {list(widths)} bits")
    table = ClassTable(
        leader=np.arange(256, dtype=np.uint8),
        index=np.zeros(256, np.uint8),
        width=np.zeros(256, np.uint8),
        first=np.arange(256),
        member=np.concatenate([np.arange(256, dtype=np.uint8), np.frombuffer(members, np.uint8)]),
    )
    begin = 256
    for w in widths:
        group = table.member[begin : begin + (1 << w)]
        if table.width[group[0]]:
            raise Corrupt(f"symbol {group[0]} leads two classes")
        table.width[group[0]], table.first[group[0]] = w, begin
        table.leader[group] = group[0]
        table.index[group[::-1]] = np.arange(1 << w)[::-1]  # backwards: a repeated symbol gets its lowest index
        begin += 1 << w
    for array in vars(table).values():
        array.flags.writeable = False
    return table


def plan_classes(
    histogram: npt.NDArray[np.int64], table_log: int, literal_price: int = LITERAL_PRICE["gpu"]
) -> npt.NDArray[np.uint8]:
    """The classes that save most.

    Symbols are lined up by frequency, rarest first, and the line is cut into single symbols and classes of 2**w
    neighbours (fewer at its frequent end) so that the sum of prices is least: dynamic programming. A part that
    occurs C times in N symbols gets ``q = max(1, round(C L / N))`` slots of L; its price in bits is

        C (log2 L - log2 q)  +  q N log2(e) / L  +  C (w + literal price) + 8 (1 + 2**w)  if w > 0

    code length, what its slots cost the others, literals, and the class itself; all in integers.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
        Non-negative, its sum below 2**39.
    table_log : int
    literal_price : int
        What a literal must win besides its own bits, in 2**-16 bits.

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
    check_histogram(histogram)
    return cut(line_up(histogram), table_log, literal_price)


class Line(NamedTuple):
    """Symbols that occur, rarest first, and all parts that the line can be cut into.

    A part begins at the place of its row and has the width of its column; too wide ones end at 0.
    """

    symbols: npt.NDArray[np.int64]  # (places,)
    occurrences: npt.NDArray[np.int64]  # (places, widths) of a part
    ends: npt.NDArray[np.int64]  # (places, widths) behind the last place
    bits: npt.NDArray[np.float64]  # (places,) least price of a symbol


def rarest_first(histogram: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(symbols, bits) of a line: the symbols that occur, and the least price of each, see `worthwhile`.

    Examples
    --------
    >>> symbols, bits = rarest_first(np.array([2, 0, 6]))
    >>> symbols, bits.round(3)
    (array([0, 2]), array([ 6.885, 11.146]))
    """
    order = np.argsort(histogram, kind="stable")
    symbols = order[np.count_nonzero(histogram == 0) :]
    h = histogram[symbols]
    return symbols, h * (np.log2(h.sum() / h) + LOG2_E / UNIT)


def line_up(histogram: npt.NDArray[np.int64]) -> Line:
    """The line that classes are cut from."""
    symbols, bits = rarest_first(histogram)
    sums = np.concatenate([[0], np.cumsum(histogram[symbols])])
    count, size = len(symbols), 1 << np.arange(MAX_LITERAL_WIDTH + 1)
    begins = np.arange(count)[:, None]
    ends = np.where(begins + size // 2 < count, np.minimum(begins + size, count), 0)
    return Line(symbols, np.maximum(0, sums[ends] - sums[begins]), ends, bits)


def cut(line: Line, table_log: int, literal_price: int) -> npt.NDArray[np.uint8]:
    """The classes of the cheapest cut, see `plan_classes`."""
    total = int(line.occurrences[:, 0].sum())
    worth = worthwhile(line, part_prices(line.occurrences[:, 0], 0, total, table_log, literal_price), literal_price)
    last = int(line.ends[worth].max(initial=0))  # behind it there are single symbols only
    worth[:, 0] = True
    begins, widths = np.nonzero(worth[:last])
    prices = part_prices(line.occurrences[begins, widths], widths, total, table_log, literal_price)
    best: list[int] = [0] + [1 << 62] * last
    begin_to, width_to = [0] * (last + 1), [0] * (last + 1)
    parts = begins, widths, line.ends[begins, widths], prices
    for begin, width, end, price in zip(*(column.tolist() for column in parts), strict=True):
        if best[begin] + price < best[end]:
            best[end], begin_to[end], width_to[end] = best[begin] + price, begin, width
    chosen: list[int] = []  # widths
    members: list[int] = []
    while last:
        begin, width = begin_to[last], width_to[last]
        if width:
            group = line.symbols[begin:last].tolist()
            members = group + group[:1] * ((1 << width) - len(group)) + members
            chosen = [width, *chosen]
        last = begin
    return np.array([len(chosen), *chosen, *members], np.uint8) if chosen else NO_CLASSES


def worthwhile(line: Line, singles: npt.NDArray[np.int64], literal_price: int) -> npt.NDArray[np.bool_]:
    """Which parts are classes that the cheapest cut may have, (places, widths), by the prices of single symbols.

    C of N occurrences cost no less than ``f(C) = C log2(N / C) + C log2(e)`` bits, the price of exactly C L / N slots.
    A class adds C w bits of literals, so it costs no less than the sum of f over its members: their entropy is at
    most w. A single symbol costs more than f, as slots are whole. At most this waste is what a symbol gains by a
    class, less the literal price and its 8 bits in the list of members: a class whose gains do not sum to more than
    zero is dearer than its symbols apart.
    """
    gains = (singles - line.occurrences[:, 0] * literal_price) / UNIT - line.bits - 8
    gained = np.concatenate([[0], np.cumsum(gains)])
    # The 8 bits of a class's width are left out: they are more than all rounding, of these sums and of prices.
    worth = (gained[line.ends] > gained[:-1, None]) & (line.ends > 0)
    worth[:, 0] = False
    return worth


def part_prices(
    occurrences: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64] | int,
    total: int,
    table_log: int,
    literal_price: int,
) -> npt.NDArray[np.int64]:
    """Prices of parts that occur so often and have literals of so many bits, see `plan_classes`, in 2**-16 bits."""
    slots = np.maximum(1, ((occurrences << (table_log + 1)) + total) // (2 * total))
    bits = (table_log << LOG2_FRACTION_BITS) - log2_table()[slots]
    width = np.asarray(width)
    literals = occurrences * ((width << LOG2_FRACTION_BITS) + literal_price)
    stored = 8 * (1 + (1 << width)) << LOG2_FRACTION_BITS
    price = occurrences * bits + slots * (total * LOG2_E >> table_log)
    return price + np.where(width > 0, literals + stored, 0)


def merge_histogram(histogram: npt.NDArray[np.int64], table: ClassTable) -> npt.NDArray[np.int64]:
    """Occurrences of leaders, and of symbols in no class: what the table has slots for.

    Leaders lie within the histogram, as those of `plan_classes` do.

    Examples
    --------
    >>> merge_histogram(np.array([7, 2, 0, 1]), class_table(np.array([1, 1, 3, 1], np.uint8)))
    array([7, 0, 0, 3])
    """
    # Sums below 2**39 are exact in float64.
    leader = table.leader[: len(histogram)]
    return np.bincount(leader, histogram, minlength=len(histogram)).astype(np.int64)
