"""Bit fields in 32-bit words, least significant bit first.

Bit p of a stream is bit p % 32 of word p // 32; a field's low bit comes first. As bytes the
words are little-endian, so bit p is also bit p % 8 of byte p // 8.
Specification: docs/spec/tans.md, "Bits".
"""

import numpy as np
import numpy.typing as npt


def write_fields(
    values: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], word_count: int | None = None
) -> npt.NDArray[np.uint32]:
    """Write bit fields one behind the other.

    Parameters
    ----------
    values : int64, any shape
        ``values[i] < 2**widths[i]``; taken in C order.
    widths : int64, same shape
        Bits of each field, 0 to 32.
    word_count : int, optional
        Length of the result; default just enough words.

    Returns
    -------
    uint32, shape (words,)
        Bits behind the last field are zero.

    Examples
    --------
    >>> write_fields(np.array([1, 0, 5]), np.array([1, 2, 3]))
    array([41], dtype=uint32)
    """
    used = widths.ravel() > 0
    values, widths = values.ravel()[used], widths.ravel()[used]
    ends = np.cumsum(widths)
    total = int(ends[-1]) if len(ends) else 0
    words = np.zeros((total + 31) // 32 + 1 if word_count is None else word_count + 1, np.uint64)
    position = ends - widths
    shifted = values.astype(np.uint64) << (position & 31).astype(np.uint64)  # up to 63 bits
    word = position >> 5
    if total:
        first = np.flatnonzero(np.diff(word, prepend=-1))  # the first field of each word
        begun = np.bitwise_or.reduceat(shifted, first)
        words[word[first]] = begun & np.uint64(0xFFFFFFFF)
        words[word[first] + 1] |= begun >> np.uint64(32)
    return words[:-1].astype(np.uint32)


def read_fields(
    words: npt.NDArray[np.uint32], positions: npt.NDArray[np.int64], widths: npt.NDArray[np.int64] | int
) -> npt.NDArray[np.int64]:
    """Read one bit field at each position; bits outside the words read as zero.

    Parameters
    ----------
    words : uint32, shape (words,)
    positions : int64, any shape
        First bit of each field.
    widths : int or int64, broadcastable
        Bits of each field, 0 to 31.

    Returns
    -------
    int64, shape of positions

    Examples
    --------
    >>> read_fields(np.array([41], np.uint32), np.array([0, 1, 3]), np.array([1, 2, 3]))
    array([1, 0, 5])
    """
    padded = np.concatenate([words, np.zeros(2, np.uint32)]).astype(np.uint64)
    word = np.clip(positions >> 5, 0, len(words))
    window = padded[word] | padded[word + 1] << np.uint64(32)
    shifted = (window >> (positions & 31).astype(np.uint64)).astype(np.uint32).astype(np.int64)
    return shifted & ((1 << np.asarray(widths, np.int64)) - 1)


def pack_fields(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint32]:
    """`write_fields` of one width, 0 to 31.

    Examples
    --------
    >>> pack_fields(np.array([1, 2, 3]), 2)
    array([57], dtype=uint32)
    """
    return write_fields(values, np.full(values.shape, width))


def unpack_fields(words: npt.NDArray[np.uint32], first_bit: int, width: int, count: int) -> npt.NDArray[np.int64]:
    """`read_fields` of one width behind one another; they lie within the words.

    Examples
    --------
    >>> unpack_fields(np.array([57], np.uint32), 0, 2, 3)
    array([1, 2, 3])
    """
    return read_fields(words, first_bit + width * np.arange(count), width)


def append_bits(
    head: npt.NDArray[np.uint32], head_bits: int, tail: npt.NDArray[np.uint32], tail_bits: int
) -> npt.NDArray[np.uint32]:
    """Put ``tail_bits`` bits behind ``head_bits`` bits.

    Examples
    --------
    >>> append_bits(np.array([5], np.uint32), 3, np.array([3], np.uint32), 2)
    array([29], dtype=uint32)
    """
    words = np.zeros((head_bits + tail_bits + 31) // 32 + 1, np.uint32)
    words[: len(head)] = head
    shift = head_bits % 32
    first = head_bits // 32
    words[first : first + len(tail)] |= tail << np.uint32(shift)
    if shift:
        words[first + 1 : first + 1 + len(tail)] |= tail[: len(words) - first - 1] >> np.uint32(32 - shift)
    return words[:-1]
