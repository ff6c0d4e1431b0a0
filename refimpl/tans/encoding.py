"""Encode dealt symbols: all lanes at once, one step at a time, from the last step to the first.

ANS is a stack: what is pushed last is popped first. The encoder walks backwards so that the
decoder walks forwards; the state the encoder ends in is the one the decoder starts from.
Specification: docs/spec/tans.md, "Encoding".
"""

import numpy as np
import numpy.typing as npt

from refimpl.tans.bits import write_fields
from refimpl.tans.classes import ClassTable
from refimpl.tans.lanes import deal
from refimpl.tans.tables import EncodeTable


def encode_lanes(
    symbols: npt.NDArray[np.uint8], lane_count: int, padding: int, table: EncodeTable, classes: ClassTable
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Code every lane into bits of its own.

    Parameters
    ----------
    symbols : uint8, shape (n,)
        n >= 1; each, or the leader of its class, has at least one slot in the table.
    lane_count : int
    padding : int
        Symbol that fills up the last lanes; the most frequent one costs least.
    table : EncodeTable
    classes : ClassTable

    Returns
    -------
    start_states : uint16, shape (lane_count,)
        Where the decoder of each lane begins.
    bit_lengths : int64, shape (lane_count,)
        Bits of each lane.
    payload : uint32, shape (words,)
        The lanes' bits, lane behind lane without gaps: what the decoder reads forwards, then the
        literals, which it reads backwards from the lane's end. Unused high bits of the last word are zero.

    Examples
    --------
    >>> from refimpl.tans.classes import NO_CLASSES, class_table
    >>> from refimpl.tans.tables import encode_table
    >>> table, classes = encode_table(np.array([22, 0, 8, 2])), class_table(NO_CLASSES)
    >>> start, lengths, payload = encode_lanes(np.array([0, 2, 0, 0], np.uint8), 1, 0, table, classes)
    >>> start, lengths, payload
    (array([2], dtype=uint16), array([3]), array([6], dtype=uint32))
    """
    dealt = deal(symbols, lane_count, padding)  # (steps, lanes)
    lanes = classes.leader[dealt]
    size = len(table.next_state)
    bits = np.zeros((len(lanes) - 1, lane_count), np.int64)  # given off on the way into step t
    widths = np.zeros((len(lanes) - 1, lane_count), np.int64)
    # Any state that emits the last symbol will do: that symbol costs nothing.
    state = table.last_state[lanes[-1]].astype(np.int64)
    for t in range(len(lanes) - 2, -1, -1):
        symbol = lanes[t]
        widths[t] = (state + table.bit_count_delta[symbol]) >> 16
        bits[t] = state & ((1 << widths[t]) - 1)
        number = (size + state) >> widths[t]  # in [q, 2q)
        state = table.next_state[table.first_slot[symbol] + number].astype(np.int64)
    bits = np.concatenate([bits, classes.index[dealt[::-1]]])
    widths = np.concatenate([widths, classes.width[lanes[::-1]]])
    return state.astype(np.uint16), widths.sum(axis=0), write_fields(bits.T, widths.T)
