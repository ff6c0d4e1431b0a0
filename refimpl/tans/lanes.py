"""Lanes: how symbols are dealt to independent coders.

Symbol i belongs to lane (i // 4) mod K at step 4 (i // 4K) + i mod 4. At any moment K neighbouring
lanes write neighbouring groups of four symbols: a GPU stores them in whole cache lines, a CPU in
vectors, an ONNX graph in one concatenation, and nothing is ever transposed.
Specification: docs/spec/tans.md, "Lanes".
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

GROUP = 4  # neighbouring symbols that stay in one lane
PAYLOAD_BITS = {"gpu": 1024, "archive": 16384}  # of a lane, at least


def lane_length(symbol_count: int, lane_count: int) -> int:
    """Symbols per lane, padding included: a multiple of four.

    Examples
    --------
    >>> lane_length(100, 8), lane_length(97, 8), lane_length(0, 8)
    (16, 16, 0)
    """
    return GROUP * -(-symbol_count // (GROUP * lane_count))


def choose_lane_count(symbol_count: int, coded_bits: int, profile: str, tensor_count: int | None = None) -> int:
    """How many lanes a writer should deal the symbols to.

    A lane pays for its start state and length, some 20 bits; many lanes decode in parallel.
    The lane length is the smallest power of two whose payload reaches 1024 bits (``gpu``: about
    1.5 % side information) or 16384 bits (``archive``: about 0.1 %). Of a tensor that is coded in part, the part gets
    as many lanes as all of it would: they are shorter, and decode in so much less time.

    Parameters
    ----------
    symbol_count : int
    coded_bits : int
        Estimated payload of all symbols, in bits.
    profile : {"gpu", "archive"}
    tensor_count : int, optional
        Symbols of the tensor that these are a part of.

    Returns
    -------
    int
        From 1 to one lane for each group of four symbols.

    Raises
    ------
    InvalidArgument
        Unknown profile.

    Examples
    --------
    >>> choose_lane_count(1 << 20, 4 << 20, "gpu"), choose_lane_count(1 << 20, 4 << 20, "archive")
    (4096, 256)
    >>> choose_lane_count(1 << 18, 1 << 20, "gpu", tensor_count=1 << 20)
    4096
    """
    check_profile(profile)
    steps = 128
    while steps * coded_bits < PAYLOAD_BITS[profile] * symbol_count and steps < symbol_count:
        steps *= 2
    wanted = -(-max(symbol_count, tensor_count or 0) // steps)
    return max(1, min(wanted, -(-symbol_count // GROUP)))


def check_profile(profile: str) -> None:
    """Raise `InvalidArgument` unless the profile is known."""
    if profile not in PAYLOAD_BITS:
        raise InvalidArgument(f"profile is {profile!r}, allowed are {', '.join(PAYLOAD_BITS)}")


def deal(symbols: npt.NDArray[np.uint8], lane_count: int, padding: int) -> npt.NDArray[np.uint8]:
    """Deal symbols to lanes.

    Parameters
    ----------
    symbols : uint8, shape (n,)
    lane_count : int
    padding : int
        Symbol that fills up the last lanes.

    Returns
    -------
    uint8, shape (steps, lane_count)
        Row t holds what every lane codes at step t.

    Examples
    --------
    >>> deal(np.arange(12, dtype=np.uint8), 2, padding=0).T
    array([[ 0,  1,  2,  3,  8,  9, 10, 11],
           [ 4,  5,  6,  7,  0,  0,  0,  0]], dtype=uint8)
    """
    steps = lane_length(len(symbols), lane_count)
    padded = np.full(steps * lane_count, padding, np.uint8)
    padded[: len(symbols)] = symbols
    return padded.reshape(-1, lane_count, GROUP).transpose(0, 2, 1).reshape(steps, lane_count)


def collect(lanes: npt.NDArray[np.uint8], symbol_count: int) -> npt.NDArray[np.uint8]:
    """Undo `deal`: (steps, lane_count) back to the first ``symbol_count`` symbols.

    Examples
    --------
    >>> collect(deal(np.arange(10, dtype=np.uint8), 2, padding=0), 10)
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], dtype=uint8)
    """
    steps, lane_count = lanes.shape
    return lanes.reshape(steps // GROUP, GROUP, lane_count).transpose(0, 2, 1).reshape(-1)[:symbol_count]
