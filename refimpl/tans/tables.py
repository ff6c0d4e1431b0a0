"""State tables of the encoder and the decoder, both built from the symbol spread.

A state is an index 0 <= state < L = 2**table_log; it stands for the ANS number L + state.
The slots of a symbol with count q, in the order of the table, carry the numbers q to 2q-1:
reading just enough bits behind such a number x brings it back to [L, 2L).
Specification: docs/spec/tans.md, "State tables".
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from refimpl.tans.spread import spread_slots


class SpreadSlots(Protocol):
    """Signature of `refimpl.tans.spread.spread_slots`."""

    def __call__(self, counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...


@dataclass(frozen=True)
class DecodeTable:
    """One row per state: emit ``symbol``, then move to ``base`` + the next ``bit_count`` bits."""

    symbol: npt.NDArray[np.uint8]  # (2**table_log,)
    bit_count: npt.NDArray[np.uint8]  # (2**table_log,) 0 to table_log
    base: npt.NDArray[np.uint16]  # (2**table_log,) next state when all those bits are 0


@dataclass(frozen=True)
class EncodeTable:
    """How to come from a state to one that emits a given symbol.

    For state x = L + state, symbol s gives off its low ``bit_count`` bits, where
    ``bit_count = (state + bit_count_delta[s]) >> 16``, and moves to
    ``next_state[first_slot[s] + (x >> bit_count)]``.
    """

    bit_count_delta: npt.NDArray[np.uint32]  # (alphabet,)
    first_slot: npt.NDArray[np.int32]  # (alphabet,) symbol's first entry in next_state, minus its count
    next_state: npt.NDArray[np.uint16]  # (2**table_log,) states grouped by symbol, ascending
    last_state: npt.NDArray[np.uint16]  # (alphabet,) the state to begin with: the symbol's lowest


def decode_table(counts: npt.NDArray[np.int64], spread: SpreadSlots = spread_slots) -> DecodeTable:
    """Build the decoder's table.

    Parameters
    ----------
    counts : int64, shape (alphabet,)
        Normalized counts.
    spread : function
        `refimpl.tans.spread.spread_slots` or a bit-exact twin.

    Raises
    ------
    InvalidArgument
        The counts do not sum to a power of two from 2**5 to 2**12.

    References
    ----------
    J. Duda, arXiv 1311.2540, section 4.

    Examples
    --------
    >>> table = decode_table(np.array([22, 0, 8, 2]))
    >>> table.symbol[1], table.bit_count[1], table.base[1]
    (np.uint8(2), np.uint8(2), np.uint16(0))
    """
    symbol, slot = spread(counts)
    number = counts[symbol] + slot  # (L,) the x in [q, 2q) of each state
    size = len(symbol)
    bit_count = int(size).bit_length() - bit_length(number)
    base = (number << bit_count) - size
    return DecodeTable(symbol.astype(np.uint8), bit_count.astype(np.uint8), base.astype(np.uint16))


def encode_table(counts: npt.NDArray[np.int64], spread: SpreadSlots = spread_slots) -> EncodeTable:
    """Build the encoder's table.

    Parameters
    ----------
    counts, spread
        As `decode_table`.

    Raises
    ------
    InvalidArgument
        The counts do not sum to a power of two from 2**5 to 2**12.

    Examples
    --------
    >>> table = encode_table(np.array([22, 0, 8, 2]))
    >>> table.last_state
    array([0, 0, 1, 8], dtype=uint16)
    """
    symbol, slot = spread(counts)
    size = len(symbol)
    first = np.cumsum(counts) - counts  # (alphabet,)
    next_state = np.empty(size, np.uint16)
    next_state[first[symbol] + slot] = np.arange(size)
    # A state below (q << most) - L gives off most - 1 bits, the others `most`: one addition decides.
    q = np.maximum(counts, 1)
    most = int(size).bit_length() - bit_length(q)
    delta = (most << 16) - ((q << most) - size)
    last_state = np.where(counts > 0, next_state[np.minimum(first, size - 1)], 0)
    return EncodeTable(
        delta.astype(np.uint32), (first - counts).astype(np.int32), next_state, last_state.astype(np.uint16)
    )


def bit_length(x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bits needed to write each positive number (1 -> 1, 4 -> 3); exact for x < 2**53.

    Examples
    --------
    >>> bit_length(np.array([1, 3, 4, 4096]))
    array([ 1,  2,  3, 13])
    """
    return np.frexp(x)[1].astype(np.int64)
