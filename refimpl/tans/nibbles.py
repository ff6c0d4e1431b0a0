"""Nibbles: two symbols below 16 in one byte, the first in the low half.

A step of the decoder then yields two symbols, and a byte has the entropy of both.
Specification: docs/spec/tans.md, "Packed symbols".
"""

import numpy as np
import numpy.typing as npt


def pack_nibbles(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put two symbols into each byte; the last high half of an odd number of symbols is zero.

    Parameters
    ----------
    symbols : uint8, shape (n,)
        Below 16.

    Returns
    -------
    uint8, shape (ceil(n / 2),)

    Examples
    --------
    >>> pack_nibbles(np.array([1, 2, 15], np.uint8))
    array([33, 15], dtype=uint8)
    """
    packed = symbols[::2].copy()
    packed[: len(symbols) // 2] |= symbols[1::2] << 4
    return packed


def unpack_nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo `pack_nibbles`: (n,) to (2 n,).

    Examples
    --------
    >>> unpack_nibbles(np.array([33, 15], np.uint8))
    array([ 1,  2, 15,  0], dtype=uint8)
    """
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
