"""What must hold of any bytes: refused with a `StreamError`, or decoded alike by NumPy and Numba."""

import contextlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.container import read_container
from codec.frame import Frame, decode, encode, read_frame
from codec.kernels import NUMBA
from codec.tensor import Stored, load
from refimpl.errors import StreamError
from refimpl.tans.blocks import decode_block
from refimpl.tans.stream import NUMPY, Kernels

MAX_STEPS = 1000  # of a lane: the reference takes a step in Python for each
MAX_LOADED = 1 << 16  # symbols of a tensor


def warm_up() -> None:
    """Have everything compiled."""
    for alphabet, count in ((200, 1000), (5, 1 << 19)):
        decode(encode(np.arange(count, dtype=np.uint8) % alphabet))


def check_frame(data: bytes) -> None:
    """Decode with both kernels whatever the symbols' checksum says, then as users do.

    Raises
    ------
    AssertionError
        The kernels differ, or symbols of another checksum were accepted.
    """
    try:
        frame = read_frame(data)
    except StreamError:
        return
    if not is_repeated(frame):  # the claimed number of symbols is not written out
        check_alike(lambda kernels: decode_block(frame.block, kernels=kernels), frame)
    try:
        symbols = decode(data)
    except StreamError:
        return
    assert is_repeated(frame) or zlib.crc32(symbols.tobytes()) == frame.symbols_crc, "a wrong checksum was accepted"


def check_container(data: bytes) -> None:
    """Read a container and load those of its tensors that are small.

    Raises
    ------
    AssertionError
        The kernels differ.
    """
    try:
        tensors, _ = read_container(data)
    except StreamError:
        return
    for tensor in tensors.values():
        if not isinstance(tensor, Stored):
            continue
        if sum(part.frame.block.symbol_count for part in tensor.parts) <= MAX_LOADED:
            for part in tensor.parts:
                check_alike(partial(load_with, part), part.frame)
            if len(tensor.parts) > 1:
                load_whole(tensor)


def load_whole(tensor: Stored) -> None:
    """Put the bands of a tensor together, if all of them can be decoded."""
    with contextlib.suppress(StreamError):
        load(tensor)


def load_with(tensor: Stored, kernels: Kernels) -> npt.NDArray[Any]:
    """The values of a tensor."""
    return load(tensor, kernels=kernels)


def check_alike(task: Callable[[Kernels], npt.NDArray[Any]], frame: Frame) -> None:
    """Run a task with each of the kernels, without the reference where it is slow.

    Raises
    ------
    AssertionError
        They end differently.
    """
    stream = frame.block.stream
    short = stream is None or stream.symbol_count <= MAX_STEPS * stream.lane_count
    ends = []
    for kernels in (NUMPY, NUMBA) if short else (NUMBA,):
        try:
            ends.append(task(kernels).tobytes())
        except StreamError as error:
            ends.append(type(error).__name__.encode())
    assert len(set(ends)) == 1, "NumPy and Numba differ"


def is_repeated(frame: Frame) -> bool:
    """Whether a frame may say that one symbol occurs any number of times."""
    block = frame.block
    only_symbol = block.stream is not None and int(np.count_nonzero(block.stream.counts)) == 1
    return block.mode == "constant" or (block.mode == "coded" and only_symbol)
