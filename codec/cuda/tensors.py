"""Frames and stored tensors to device arrays."""

import math
from typing import Any

import numpy as np
from zlib_ng.zlib_ng import crc32

from codec.cuda.blocks import SYMBOLS, DeviceBlock, decode_block, upload_block, upload_broadcast
from codec.cuda.device import Device, current_device
from codec.frame import Frame, read_frame
from codec.tensor import StoredTensor, fits
from refimpl.errors import Corrupt


def decode(data: bytes, *, check: bool = True, device: Device | None = None) -> Any:
    """Decompress a frame on a GPU: twin of `codec.decode`.

    Parameters
    ----------
    data : bytes
    check : bool
        Whether to compare the checksum of the symbols, for which they are copied to the host. All else is checked
        anyway.
    device : Device, optional
        Other than CuPy's current one.

    Returns
    -------
    device array of uint8, shape (symbol_count,)

    Raises
    ------
    StreamError
        The bytes are truncated, damaged or of another version, or the symbols do not fit in the device's memory.
    InvalidArgument
        There is no CuPy, or no GPU.

    Examples
    --------
    >>> from codec import encode
    >>> from codec.cuda import decode
    >>> decode(encode(np.array([1, 2, 3], np.uint8)))  # doctest: +SKIP
    array([1, 2, 3], dtype=uint8)
    """
    return decode_frame(read_frame(data), check=check, device=device)


def decode_frame(frame: Frame, *, check: bool = True, device: Device | None = None) -> Any:
    """Decode a frame that has been read: twin of `codec.frame.decode_frame`. Arguments as for `decode`.

    Raises
    ------
    StreamError
        The block contradicts itself, or the symbols' checksum is wrong.
    """
    device = device or current_device()
    block = upload_block(frame.block, device)
    symbols = decode_block(block, device)
    if check:
        check_symbols(block, symbols, frame.symbols_crc, device)
    return symbols


def load(stored: StoredTensor, *, check: bool = True, device: Device | None = None) -> Any:
    """Decode and, for weights, dequantize in the same pass: twin of `codec.tensor.load`.

    Parameters
    ----------
    stored : StoredTensor
    check : bool
        Whether to compare the checksum of the symbols; they are then decoded a second time, and copied to the host.
    device : Device, optional
        Other than CuPy's current one.

    Returns
    -------
    device array of the stored shape
        Of the stored dtype; integers of four bits are int8 or uint8.

    Raises
    ------
    StreamError
        The frame cannot be decoded or does not fit the shape, or a symbol stands for an integer that the dtype does
        not have.

    Examples
    --------
    >>> from codec.cuda import load
    >>> from codec.tensor import store_integers
    >>> load(store_integers(np.array([[-1, 0], [7, 1]], np.int8)))  # doctest: +SKIP
    array([[-1,  0],
           [ 7,  1]], dtype=int8)
    """
    device = device or current_device()
    frame, shape = stored.frame, stored.shape
    if math.prod(shape) != frame.block.symbol_count or min(shape, default=0) < 0:
        raise Corrupt(f"{frame.block.symbol_count} symbols do not fill shape {list(shape)}")
    for part in (stored.zero_point, stored.scale):
        if part is not None and not fits(part.shape, shape):
            raise Corrupt(f"a scale or zero point of shape {list(part.shape)} does not fit {list(shape)}")
    block = upload_block(frame.block, device)
    if block.symbol_count == 0:
        values = decode_block(block, device, stored.dtype)
    else:
        scale = None if stored.scale is None else upload_broadcast(stored.scale, shape, device)
        zero_point = upload_broadcast(stored.zero_point, shape, device)
        values = decode_block(block, device, stored.dtype, scale, zero_point)
    if check:
        check_symbols(block, decode_block(block, device, SYMBOLS), frame.symbols_crc, device)
    return values.reshape(shape)


def check_symbols(block: DeviceBlock, symbols: Any, symbols_crc: int, device: Device) -> None:
    """Compare the checksum of decoded symbols.

    Raises
    ------
    Corrupt
        It is wrong. One symbol that is repeated is not checked: its frame's checksum covers it.
    """
    repeated = block.mode == "constant" and block.symbol_count > 0
    if not repeated and crc32(np.ascontiguousarray(device.host(symbols)).data) != symbols_crc:
        raise Corrupt("the checksum of the decoded symbols is wrong")
