"""Blocks on a device: checked and uploaded once, decoded as often as wanted.

What needs no bits of the stream is checked on the host, in the order of docs/spec/tans.md; the rest by the
kernels, which report it in one word.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from codec.cuda.broadcasting import as_run
from codec.cuda.device import Device
from codec.cuda.launch import MAX_WARPS, SCAN_LANES, SCAN_THREADS, TILE, Geometry, decode_geometry
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, Truncated
from refimpl.tans.blocks import MODES, Block, Chunks
from refimpl.tans.classes import class_table
from refimpl.tans.counts import stored_counts
from refimpl.tans.lanes import lane_length
from refimpl.tans.spread import table_log_of
from refimpl.tans.stream import MAX_LENGTH_WIDTH, Stream, decode_stream, only_symbol

MODEL_WORDS = 4352
MAX_LANE_SYMBOLS = 1 << 30
MAX_ELEMENTS = 1 << 48  # more than any device holds; sums of sizes stay below 64 bits
MAX_PLACED = 1 << 31  # elements of mode partial that one launch decodes
RAW_WARPS = 16  # of a block, besides those that decode
VALUE_THREADS = 256
VALUE_BLOCKS = 8  # for each multiprocessor
SYMBOLS = "symbols"  # the kernel type that writes symbols as they are
ELEMENTS = {
    SYMBOLS: np.dtype(np.uint8), "int8": np.dtype(np.int8), "uint8": np.dtype(np.uint8), "int4": np.dtype(np.int8),
    "uint4": np.dtype(np.uint8), "float32": np.dtype(np.float32), "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
TRUNCATED, WORDS, MODEL, LANE, RANGE = 1, 2, 4, 8, 16  # bits of the status


@dataclass(frozen=True)
class DeviceStream:
    """A stream on a device, its table built and its lanes found. Arrays are the device's."""

    symbol_count: int
    lane_count: int
    table_log: int
    words: Any  # uint32 (words,)
    classes: Any  # uint8 (bytes,), None for no classes
    model: Any  # uint32 (MODEL_WORDS,)
    positions: Any  # uint64 (lane_count + 1,) first bit of each lane
    geometry: Geometry


@dataclass(frozen=True)
class DeviceBlock:
    """A block on a device. Mode constant includes streams with an only symbol."""

    mode: str
    symbol_count: int
    packed: bool
    raw: Any  # uint8 (units,), None in mode coded
    stream: DeviceStream | None
    chunks: Chunks | None


@dataclass(frozen=True)
class Broadcast:
    """Numbers that elements share, see `codec.cuda.broadcasting`."""

    data: Any  # (count,) on the device
    inner: int
    count: int


def upload_block(block: Block, device: Device) -> DeviceBlock:
    """Check a block and bring it to a device.

    Raises
    ------
    StreamError
        It contradicts itself, or is larger than the device can hold.
    """
    units = coded_count = block.unit_count
    chunks = block.chunks if block.mode == "partial" else None
    if block.mode not in MODES or (block.mode == "constant" and block.packed):
        raise Corrupt(f"block mode is {block.mode!r}, allowed are {', '.join(MODES)}, packed ones not constant")
    expected = {"raw": units, "constant": 1}.get(block.mode, 0)
    if block.mode == "partial":
        if chunks is None or not chunks.fits(units):
            raise Corrupt(f"{units} symbols cannot be cut into {chunks}")
        expected = chunks.raw_count(units)
        coded_count -= expected
    if len(block.raw) != expected:
        raise Corrupt(f"{len(block.raw)} raw symbols in a {block.mode} block, expected {expected}")
    if block.symbol_count < 0:
        raise Corrupt(f"{block.symbol_count} symbols")
    if block.symbol_count > MAX_ELEMENTS:
        raise LimitExceeded(f"{block.symbol_count} symbols do not fit in the device's memory")
    stream, raw, mode = None, block.raw, block.mode
    if mode in ("coded", "partial"):
        if block.stream is None or block.stream.symbol_count != coded_count:
            raise Corrupt(f"the stream does not hold the {coded_count} symbols of its block")
        symbol = repeated_symbol(block.stream, packed=block.packed and mode == "coded")
        if symbol is None or mode == "partial":
            stream = upload_stream(block.stream, device)
        else:
            mode, raw = "constant", symbol
    return DeviceBlock(mode, block.symbol_count, block.packed, device.array(raw) if len(raw) else None, stream, chunks)


def repeated_symbol(stream: Stream, *, packed: bool) -> npt.NDArray[np.uint8] | None:
    """uint8 (1,), the only symbol of a stream that has one, all of the stream checked; else None."""
    try:
        table_log_of(stream.counts)
    except InvalidArgument as error:
        raise Corrupt(str(error)) from None
    if only_symbol(stream.counts, class_table(stream.classes)) is None:
        return None
    return decode_stream(stream, packed=packed)[:1]


def check_stream(stream: Stream) -> int:
    """Refuse what needs no bits to be refused; return table_log.

    Raises
    ------
    Corrupt, Truncated, LimitExceeded
        See `refimpl.tans.stream.lane_sides`.
    """
    try:
        table_log = table_log_of(stream.counts)
    except InvalidArgument as error:
        raise Corrupt(str(error)) from None
    classes = class_table(stream.classes)
    lanes, width, available = stream.lane_count, stream.length_width, 32 * len(stream.words)
    if not 1 <= lanes <= stream.symbol_count:
        raise Corrupt(f"{lanes} lanes for {stream.symbol_count} symbols")
    if not 0 <= width <= MAX_LENGTH_WIDTH or stream.length_base < 0:
        raise Corrupt(f"lane lengths of {width} bits above {stream.length_base}")
    if (least := lanes * (table_log + width + stream.length_base)) > available:
        raise Truncated(f"{lanes} lanes need at least {least} bits, the words hold {available}")
    if only_symbol(stream.counts, classes) is None and stream.symbol_count > (available + lanes) << table_log:
        raise LimitExceeded(f"{stream.symbol_count} symbols cannot come from {available} bits")
    if lane_length(stream.symbol_count, lanes) > MAX_LANE_SYMBOLS:
        raise LimitExceeded(f"{stream.symbol_count} symbols on {lanes} lanes")
    return table_log


def upload_stream(stream: Stream, device: Device) -> DeviceStream:
    """Check a stream, bring it to a device, build its table and find its lanes.

    Raises
    ------
    StreamError
        It contradicts itself.
    """
    table_log = check_stream(stream)
    lanes, width, base = stream.lane_count, stream.length_width, stream.length_base
    words, counts = device.array(stream.words.astype(np.uint32, copy=False)), stored_counts(stream.counts)
    classes = device.array(stream.classes) if len(stream.classes) else None
    model, status = device.empty(MODEL_WORDS, np.uint32), device.array(np.zeros(1, np.uint32))
    device.launch(
        "tans_model", 1, SCAN_THREADS, 0,
        (device.array(counts), np.uint32(counts.itemsize), np.uint32(len(counts)), np.uint32(table_log), classes,
         np.uint32(len(stream.classes)), model, status),
    )  # fmt: skip
    scan_blocks = -(-lanes // SCAN_LANES)
    block_bits, positions = device.empty(scan_blocks, np.uint64), device.empty(lanes + 1, np.uint64)
    numbers = (np.uint64(len(stream.words)), *(np.uint32(n) for n in (lanes, table_log, base, width)))
    device.launch("tans_lane_bits", scan_blocks, SCAN_THREADS, 0, (words, *numbers, block_bits))
    device.launch("tans_positions", scan_blocks, SCAN_THREADS, 0, (words, *numbers, block_bits, positions, status))
    check_status(status, device)
    payload = len(stream.words) - lanes * (table_log + width) / 32
    most = base + (1 << width) - 1  # words of 32 lanes are bits of one
    geometry = decode_geometry(
        lanes, table_log, most, payload * TILE / lanes, device.multiprocessors, device.shared_bytes
    )
    return DeviceStream(stream.symbol_count, lanes, table_log, words, classes, model, positions, geometry)


def check_status(status: Any, device: Device) -> None:
    """Raise what the kernels have found."""
    found = int(device.host(status)[0])
    if found & TRUNCATED:
        raise Truncated("the lanes need more bits than the words hold")
    if found & WORDS:
        raise Corrupt("more words than the lanes need, or bits behind the last lane")
    if found & MODEL:
        raise Corrupt("no table has these counts and classes")
    if found & LANE:
        raise Corrupt("a lane does not use exactly its bits")
    if found & RANGE:
        raise Corrupt("symbols stand for values that the dtype does not have")


def upload_broadcast(small: npt.NDArray[Any], shape: tuple[int, ...], device: Device) -> Broadcast:
    """A scale or zero point on a device."""
    data, inner, count = as_run(small, shape)
    return Broadcast(device.array(data), inner, count)


def decode_block(
    block: DeviceBlock, device: Device, dtype: str = SYMBOLS, scale: Broadcast | None = None,
    zero_point: Broadcast | None = None,
) -> Any:  # fmt: skip
    """Decode a block, and in the same pass turn symbols into elements.

    Parameters
    ----------
    block : DeviceBlock
    dtype : key of ELEMENTS
        ``symbols``, or what a stored tensor's dtype is called.
    scale : Broadcast of float32, optional
        Of weights.
    zero_point : Broadcast of uint8, optional
        Of weights and integers.

    Returns
    -------
    device array, shape (symbol_count,)
        int4 and uint4 in one byte each.

    Raises
    ------
    Corrupt
        A lane does not use exactly its bits, or a symbol stands for an integer that the dtype does not have.
    LimitExceeded
        Too large for the device.
    """
    out = device.empty(block.symbol_count, ELEMENTS[dtype])
    if block.symbol_count == 0:
        return out
    status = device.array(np.zeros(1, np.uint32))
    launch_block(block, device, dtype, scale, zero_point, out, status)
    check_status(status, device)
    return out


def launch_block(
    block: DeviceBlock, device: Device, dtype: str, scale: Broadcast | None, zero_point: Broadcast | None, out: Any,
    status: Any,
) -> None:  # fmt: skip
    """Launch the kernels that decode a block of at least one symbol into ``out``; do not wait."""
    sink = (out, np.uint64(block.symbol_count), *broadcast_arguments(scale), *broadcast_arguments(zero_point), status)
    packed = "_packed" * block.packed
    if block.mode == "coded" and block.stream is not None:
        launch_decode(block.stream, device, f"tans_decode_{dtype}{packed}", sink)
        return
    coded = None
    cut = Chunks(0, 0, 0) if block.chunks is None else block.chunks
    if block.stream is not None and is_placed(block):
        raw = (block.raw, *(np.uint32(n) for n in (cut.symbols, cut.per_block, cut.coded)))
        launch_decode(block.stream, device, f"tans_partial_{dtype}{packed}", (*raw, *sink), more_warps=RAW_WARPS)
        return
    if block.stream is not None:
        count = block.stream.symbol_count
        coded = device.empty(count, np.uint8)
        nothing = broadcast_arguments(None)
        units = (coded, np.uint64(count), *nothing, *nothing, status)
        launch_decode(block.stream, device, "tans_decode_symbols", units)
    threads_needed = -(-block.symbol_count // (8 if block.packed else 4))
    blocks = min(VALUE_BLOCKS * device.multiprocessors, -(-threads_needed // VALUE_THREADS))
    numbers = (cut.symbols, cut.per_block, cut.coded, block.packed, block.mode == "constant")
    device.launch(
        f"tans_values_{dtype}", blocks, VALUE_THREADS, 0, (block.raw, coded, *(np.uint32(n) for n in numbers), *sink)
    )


def is_placed(block: DeviceBlock) -> bool:
    """Whether one launch does mode partial: no four units lie in two chunks, and 32 bits count elements."""
    return block.chunks is not None and block.chunks.symbols % 4 == 0 and block.symbol_count < MAX_PLACED


def launch_decode(
    stream: DeviceStream, device: Device, kernel: str, sink: tuple[Any, ...], more_warps: int = 0
) -> None:
    """Launch a decode kernel on a stream; with more warps, and on all multiprocessors, where the lanes leave room."""
    geometry = stream.geometry
    blocks, warps, tiles = geometry.blocks, geometry.warps, -(-stream.lane_count // TILE)
    if more_warps and blocks * warps >= tiles:
        blocks, warps = device.multiprocessors, min(MAX_WARPS, -(-tiles // device.multiprocessors) + more_warps)
    device.launch(
        kernel, blocks, TILE * warps, geometry.shared_bytes,
        (stream.words, np.uint64(stream.words.size), np.uint32(stream.lane_count), np.uint32(stream.table_log),
         stream.model, stream.classes, stream.positions, np.uint32(geometry.stage_words), *sink),
    )  # fmt: skip


def broadcast_arguments(broadcast: Broadcast | None) -> tuple[Any, np.uint32, np.uint32]:
    """Three arguments of a kernel."""
    if broadcast is None:
        return None, np.uint32(1), np.uint32(1)
    return broadcast.data, np.uint32(broadcast.inner), np.uint32(broadcast.count)
