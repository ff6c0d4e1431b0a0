"""Decode all lanes at once, one step at a time.

Specification: docs/spec/tans.md, "Decoding".
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import Corrupt
from refimpl.tans.bits import read_fields
from refimpl.tans.classes import ClassTable
from refimpl.tans.lanes import collect, lane_length
from refimpl.tans.nibbles import unpack_nibbles
from refimpl.tans.tables import DecodeTable


def decode_lanes(
    words: npt.NDArray[np.uint32],
    first_bit: int,
    start_states: npt.NDArray[np.uint16],
    bit_lengths: npt.NDArray[np.int64],
    table: DecodeTable,
    classes: ClassTable,
    symbol_count: int,
    packed: bool = False,
) -> npt.NDArray[np.uint8]:
    """Decode every lane.

    Parameters
    ----------
    words : uint32, shape (words,)
    first_bit : int
        Where lane 0 begins in the words.
    start_states : uint16, shape (lane_count,)
        Below the table's size.
    bit_lengths : int64, shape (lane_count,)
        Bits of each lane; lanes lie behind one another, the last one within the words.
    table : DecodeTable
    classes : ClassTable
    symbol_count : int
        Coded symbols, the padding left out.
    packed : bool
        Unpack each of them into two nibbles.

    Returns
    -------
    uint8, shape (symbol_count,), or (2 * symbol_count,) if packed

    Raises
    ------
    Corrupt
        A lane does not use exactly its bits.

    Examples
    --------
    >>> from refimpl.tans.classes import NO_CLASSES, class_table
    >>> from refimpl.tans.tables import decode_table
    >>> table, classes = decode_table(np.array([22, 0, 8, 2])), class_table(NO_CLASSES)
    >>> decode_lanes(np.array([6], np.uint32), 0, np.array([2], np.uint16), np.array([3]), table, classes, 4)
    array([0, 2, 0, 0], dtype=uint8)
    """
    lane_count = len(start_states)
    steps = lane_length(symbol_count, lane_count)
    lanes = np.empty((steps, lane_count), np.uint8)
    end = first_bit + np.cumsum(bit_lengths)
    position = end - bit_lengths
    state = start_states.astype(np.int64)
    for t in range(steps):
        leader = table.symbol[state]
        width = classes.width[leader].astype(np.int64)
        if width.any():  # literals lie at the end of the lane, the first of them last
            end = end - width
            lanes[t] = classes.member[classes.first[leader] + read_fields(words, end, width)]
        else:
            lanes[t] = leader
        if t < steps - 1:  # the last symbol is in the state alone
            width = table.bit_count[state].astype(np.int64)
            state = table.base[state] + read_fields(words, position, width)
            position = position + width
    if not np.array_equal(position, end):
        lane = int(np.flatnonzero(position != end)[0])
        raise Corrupt(f"lane {lane} does not use exactly its bits")
    symbols = collect(lanes, symbol_count)
    return unpack_nibbles(symbols) if packed else symbols
