"""The frame: one block as bytes, written and read side by side.

All numbers are little-endian; what is reserved is written as zero and refused otherwise.

==== ==== =====================================================================
at   size field
==== ==== =====================================================================
0    4    magic ``tANS``
4    1    version, 1
5    1    mode: 0 raw, 1 constant, 2 coded, 3 partial
6    1    flags: bit 0 packed, others reserved
7    1    reserved
8    8    symbol_count
16   4    CRC-32 of the symbols
20   4    CRC-32 of the frame without these four bytes
24        *coded, partial:* lane_count u32, length_base u32, word_count u32,
          alphabet u16, bytes of the classes u16,
          length_width u8, bytes per normalized count u8 (1 or 2), reserved u16
44        *partial:* symbols per chunk u32, chunks per block u8, coded chunks u8, reserved u16
..        *coded, partial:* normalized counts, classes, zero bytes up to a multiple of four, words
..        raw symbols
==== ==== =====================================================================

Specification: docs/spec/frame.md.
"""

import struct
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng.zlib_ng import crc32

from codec.kernels import NUMBA, numba_kernels
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, Truncated, UnsupportedVersion
from refimpl.tans.blocks import MODES, Block, Chunks, decode_block, encode_block
from refimpl.tans.classes import class_table
from refimpl.tans.counts import stored_counts
from refimpl.tans.spread import table_log_of
from refimpl.tans.stream import Kernels, Stream

MAGIC = b"tANS"
VERSION = 1
HEADER = struct.Struct("<4sBBBBQII")
STREAM = struct.Struct("<IIIHHBBH")
CHUNKS = struct.Struct("<IBBH")
FRAME_CRC_AT = 20
PACKED = 1  # flag


@dataclass(frozen=True)
class Frame:
    """A block and the checksum of its symbols."""

    block: Block
    symbols_crc: int


def encode(
    symbols: npt.NDArray[np.uint8],
    *,
    profile: str = "gpu",
    fraction: float = 1.0,
    table_log: int | None = None,
    lane_count: int | None = None,
    jobs: int = 1,
    kernels: Kernels | None = None,
) -> bytes:
    """Compress symbols into a self-contained frame.

    Parameters
    ----------
    symbols : uint8, any shape
    profile, fraction, table_log, lane_count
        See `refimpl.tans.blocks.encode_block`.
    jobs : int
        Threads; the bytes do not depend on it.
    kernels : Kernels, optional
        Other loops than Numba's on so many threads, such as the bit-exact NumPy reference.

    Examples
    --------
    >>> symbols = np.tile(np.array([3, 3, 3, 4], np.uint8), 1000)
    >>> frame = encode(symbols)
    >>> len(frame), bool((decode(frame) == symbols).all())
    (460, True)
    """
    return write_frame(
        make_frame(
            symbols,
            profile=profile,
            fraction=fraction,
            table_log=table_log,
            lane_count=lane_count,
            kernels=kernels or numba_kernels(jobs),
        )
    )


def decode(
    data: bytes, *, jobs: int = 1, max_symbols: int | None = None, kernels: Kernels | None = None
) -> npt.NDArray[np.uint8]:
    """Decompress a frame made by `encode`, checking both checksums.

    Parameters
    ----------
    data : bytes
    jobs : int
        Threads.
    max_symbols : int, optional
        More than these are refused before anything is decoded or allocated: a few bytes may claim billions.
    kernels : Kernels, optional
        Other loops than Numba's on so many threads.

    Returns
    -------
    uint8, shape (symbol_count,)

    Raises
    ------
    StreamError
        The bytes are truncated, damaged or of another version, or hold more than ``max_symbols``.

    Examples
    --------
    >>> decode(encode(np.array([1, 2, 3], np.uint8)))
    array([1, 2, 3], dtype=uint8)
    """
    frame = read_frame(data)
    if max_symbols is not None and frame.block.symbol_count > max_symbols:
        raise LimitExceeded(f"a frame of {frame.block.symbol_count} symbols, allowed are {max_symbols}")
    return decode_frame(frame, kernels=kernels or numba_kernels(jobs))


def compile_ahead() -> Thread:
    """Start to compile what `encode` and `decode` take, beside other work: whoever calls them meanwhile waits for it.

    Examples
    --------
    >>> compile_ahead().join()
    """
    symbols = (np.arange(1 << 12) % 50).astype(np.uint8)
    thread = Thread(target=lambda: decode(encode(symbols)))
    thread.start()
    return thread


def make_frame(
    symbols: npt.NDArray[np.uint8],
    *,
    profile: str = "gpu",
    fraction: float = 1.0,
    table_log: int | None = None,
    lane_count: int | None = None,
    kernels: Kernels = NUMBA,
) -> Frame:
    """Encode symbols into a block and remember their checksum.

    Raises
    ------
    InvalidArgument
        The symbols are not uint8, or a parameter is out of range.
    """
    if symbols.dtype != np.uint8:
        raise InvalidArgument(f"symbols are {symbols.dtype}, the coder takes uint8")
    block = encode_block(
        symbols, profile=profile, fraction=fraction, table_log=table_log, lane_count=lane_count, kernels=kernels
    )
    return Frame(block, crc32(np.ascontiguousarray(symbols).data))


def decode_frame(frame: Frame, *, kernels: Kernels = NUMBA) -> npt.NDArray[np.uint8]:
    """Decode a frame's block and check its symbols.

    Raises
    ------
    StreamError
        The block contradicts itself, or the symbols' checksum is wrong.
    """
    try:
        symbols = decode_block(frame.block, kernels=kernels)
    except MemoryError:
        raise LimitExceeded(f"{frame.block.symbol_count} symbols do not fit in memory") from None
    # One symbol as often as claimed: reading them all is the price of a lie.
    repeated = symbols.size > 0 and symbols.strides == (0,)
    if not repeated and crc32(np.ascontiguousarray(symbols).data) != frame.symbols_crc:
        raise Corrupt("the checksum of the decoded symbols is wrong")
    return symbols


def write_frame(frame: Frame) -> bytes:
    """Serialize a frame."""
    block = frame.block
    parts: list[Any] = []
    if block.stream is not None:
        stream, counts = block.stream, stored_counts(block.stream.counts)
        parts.append(
            STREAM.pack(
                stream.lane_count,
                stream.length_base,
                len(stream.words),
                len(counts),
                len(stream.classes),
                stream.length_width,
                counts.itemsize,
                0,
            )
        )
        if block.chunks is not None:
            parts.append(CHUNKS.pack(block.chunks.symbols, block.chunks.per_block, block.chunks.coded, 0))
        model = counts.astype(counts.dtype.newbyteorder("<")).tobytes() + stream.classes.tobytes()
        parts.append(model + bytes(-len(model) % 4))
        parts.append(np.ascontiguousarray(stream.words, "<u4").data)
    parts.append(np.ascontiguousarray(block.raw).data)
    flags = PACKED if block.packed else 0
    fields = (MAGIC, VERSION, MODES.index(block.mode), flags, 0, block.symbol_count, frame.symbols_crc)
    crc = crc32(HEADER.pack(*fields, 0)[:FRAME_CRC_AT])
    for part in parts:
        crc = crc32(part, crc)
    return b"".join([HEADER.pack(*fields, crc), *parts])


def read_frame(data: bytes) -> Frame:
    """Parse a frame; headers and the frame's checksum are checked, symbols are not decoded yet.

    Raises
    ------
    Truncated
        Fewer bytes than the header announces.
    Corrupt
        No frame, a wrong checksum, a reserved field in use, or bytes left over.
    UnsupportedVersion
        A frame of another version.
    """
    reader = Reader(data)
    magic, version, mode, flags, reserved, symbol_count, symbols_crc, crc = reader.unpack(HEADER)
    if magic != MAGIC:
        raise Corrupt(f"a frame begins with {MAGIC!r}, these bytes with {magic!r}")
    if version != VERSION:
        raise UnsupportedVersion(f"frame version {version}, this program reads version {VERSION}")
    if mode >= len(MODES) or flags & ~PACKED or reserved or (flags and MODES[mode] == "constant"):
        raise Corrupt(f"frame mode {mode}, flags {flags:#x}, reserved byte {reserved}")
    stream = chunks = None
    units = (symbol_count + 1) // 2 if flags & PACKED else symbol_count
    raw_count = {"raw": units, "constant": 1}.get(MODES[mode], 0)
    if MODES[mode] in ("coded", "partial"):
        fields = reader.unpack(STREAM)
        lane_count, length_base, word_count, alphabet, class_bytes, length_width, itemsize, reserved = fields
        if itemsize not in (1, 2) or not 1 <= alphabet <= 256 or reserved:
            raise Corrupt(f"{alphabet} normalized counts of {itemsize} bytes, reserved field {reserved}")
        coded_count = units
        if MODES[mode] == "partial":
            chunk, per_block, coded, reserved = reader.unpack(CHUNKS)
            chunks = Chunks(chunk, per_block, coded)
            if reserved or not chunks.fits(units):
                raise Corrupt(f"{coded} of {per_block} chunks of {chunk} symbols are coded, of {units} in all")
            raw_count = chunks.raw_count(units)
            coded_count -= raw_count
        counts = reader.array(f"<u{itemsize}", alphabet).astype(np.int64)
        classes = reader.array("<u1", class_bytes)
        if reader.array("<u1", -(alphabet * itemsize + class_bytes) % 4).any():
            raise Corrupt("padding in front of the words is not zero")
        words = reader.array("<u4", word_count)
        stream = Stream(coded_count, lane_count, length_base, length_width, counts, classes, words)
    raw = reader.array("<u1", raw_count)
    if reader.at != len(data):
        raise Corrupt(f"{len(data) - reader.at} bytes behind the frame")
    if crc32(memoryview(data)[FRAME_CRC_AT + 4 :], crc32(data[:FRAME_CRC_AT])) != crc:
        raise Corrupt("the checksum of the stored bytes is wrong")
    if stream is not None:
        check_model(stream)
    return Frame(Block(MODES[mode], symbol_count, raw, stream, chunks, bool(flags & PACKED)), symbols_crc)


def check_model(stream: Stream) -> None:
    """Refuse counts and classes that no table has.

    Raises
    ------
    Corrupt
        The counts do not sum to a power of two from 2**5 to 2**12, or the classes contradict themselves.
    """
    try:
        table_log_of(stream.counts)
    except InvalidArgument as error:
        raise Corrupt(str(error)) from None
    class_table(stream.classes)


class Reader:
    """Takes fields from bytes, never beyond their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        if size > len(self.data) - self.at:
            raise Truncated(f"{size} bytes announced at byte {self.at}, {len(self.data) - self.at} are there")
        self.at += size

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        """The next fields."""
        self.skip(fields.size)
        return fields.unpack_from(self.data, self.at - fields.size)

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """The next ``count`` numbers, a view of the bytes."""
        begin, size = self.at, count * np.dtype(dtype).itemsize
        self.skip(size)
        return np.frombuffer(self.data, dtype, count, begin) if count else np.empty(0, dtype)
