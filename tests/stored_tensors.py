"""Stored tensors of every kind to call functions with, drawn whether or not a writer would choose them."""

import math
import zlib

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from strategies import coder_inputs, rng, seeds

from codec.frame import Frame
from codec.tensor import FLOATS, StoredTensor, make_banded, split_bands, store_integers, store_weight
from refimpl.tans.blocks import Block, Chunks, decode_block, split_chunks
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.stream import NUMPY, encode_stream

OPSETS = (11, 12, 13, 18, 21, 26)
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
OLDEST = {"bfloat16": 13, "int4": 21, "uint4": 21}  # opset in which Cast learnt the type


def spread_out(symbols, classes):
    """The same symbols with a few far ones at a thousandth each: what classes are for."""
    rare = (np.arange(6000) * 7919 % 211).astype(np.uint8)
    mixed = np.resize(symbols, 6000)
    return np.where(np.arange(6000) % 97 == 0, rare, mixed).astype(np.uint8) if classes else symbols


@st.composite
def blocks(draw, kind, alphabet=256, max_size=600):
    """A block of the kind, whether or not that is the shortest one."""
    if kind.packed:
        alphabet = min(alphabet, 16)
    if kind.mode == "constant":
        return Block(
            "constant", draw(st.integers(1, max_size)), np.array([draw(st.integers(0, alphabet - 1))], np.uint8)
        )
    symbols, table_log, lane_count = draw(coder_inputs(max_size=max_size))
    symbols = (spread_out(symbols, kind.classes) % np.uint16(alphabet)).astype(np.uint8)
    if kind.packed and len(symbols) > 1:
        symbols[:2] = 1, 2  # a packed stream may not be one byte repeated
    units = pack_nibbles(symbols) if kind.packed else symbols
    if kind.mode == "raw":
        return Block("raw", len(symbols), units, packed=kind.packed)
    table_log = None if kind.classes else max(table_log, (len(np.unique(units)) - 1).bit_length())
    kept, chunks, coded = np.empty(0, np.uint8), None, units
    if kind.mode == "partial":
        per_block = draw(st.integers(2, 5))
        units = np.resize(units, max(len(units), per_block))
        if not kind.packed:
            symbols = units
        chunk = draw(st.integers(1, len(units) // per_block))
        chunks = Chunks(chunk, per_block, draw(st.integers(1, per_block - 1)))
        kept, coded = split_chunks(units, chunks)
    stream = encode_stream(coded, table_log=table_log, lane_count=min(lane_count, len(coded)))
    if kind.packed and kind.mode == "coded":
        assume(np.count_nonzero(stream.counts) > 1)
    count = 2 * len(units) if kind.packed else len(units)
    return Block(kind.mode, count, kept, stream, chunks, kind.packed)


def shapes(size):
    """Shapes of so many elements: rank 1 to 4."""

    def cut(dims):
        return (*dims, size // math.prod(dims)) if size % math.prod(dims) == 0 else (1, size, *(1 for _ in dims))

    return st.lists(st.sampled_from([1, 2, 3, 4, 5]), max_size=3).map(cut).flatmap(st.permutations).map(tuple)


@st.composite
def stored_weights(draw, kind):
    """A weight: scale and zero point are one number, or vary along some axes."""
    block = draw(blocks(kind))
    shape = draw(shapes(block.symbol_count))
    symbols_crc = zlib.crc32(np.ascontiguousarray(decode_block(block)).data)
    random = rng(draw(seeds))

    def broadcastable():
        return tuple(n if draw(st.booleans()) else 1 for n in shape)

    scale = np.ldexp(random.random(broadcastable()) + 0.5, draw(st.integers(-20, 6))).astype(np.float32)
    zero_point = random.integers(0, 256, draw(st.just((1,)) | st.builds(broadcastable)), np.uint8)
    return StoredTensor(shape, draw(st.sampled_from(sorted(FLOATS))), Frame(block, symbols_crc), zero_point, scale)


@st.composite
def stored_integers(draw, kind, narrow=True):
    """An integer tensor whose symbols begin at its smallest value; `narrow` ones have four bits."""
    dtype = draw(st.sampled_from([name for name in sorted(RANGES) if narrow or name in ("int8", "uint8")]))
    low, high = RANGES[dtype]
    block = draw(blocks(kind, alphabet=high - low + 1))
    symbols = decode_block(block)
    zero = min(-low, 0 if low == 0 else draw(st.integers(max(0, int(symbols.max()) - high), -low)))
    frame = Frame(block, zlib.crc32(np.ascontiguousarray(symbols).data))
    return StoredTensor(draw(shapes(len(symbols))), dtype, frame, np.array([zero], np.uint8), None)


def expected(stored):
    """The value in wide numbers, by the NumPy reference and the formulas of docs/spec/container.md."""
    symbols = decode_block(stored.frame.block, kernels=NUMPY).reshape(stored.shape)
    if stored.scale is None:
        return symbols.astype(np.int32) - stored.zero_point
    exact = (symbols.astype(np.float32) - stored.zero_point.astype(np.float32)) * stored.scale
    return exact.astype(FLOATS[stored.dtype]).astype(np.float32)


@st.composite
def channel_bands(draw, channels, most=5):
    """uint8 (channels,): the band of each channel, every band with at least one."""
    count = draw(st.integers(2, min(most, channels)))
    bands = draw(st.permutations([*range(count), *(draw(st.integers(0, count - 1)) for _ in range(channels - count))]))
    return np.array(bands, np.uint8)


@st.composite
def banded_tensors(draw, dtypes=("bfloat16", "float16", "float32")):
    """(tensor in bands, the values that it holds)."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple).filter(lambda s: max(s) > 1))
    axis = draw(st.sampled_from([k for k, n in enumerate(shape) if n > 1]))
    dtype, random = draw(st.sampled_from(dtypes)), rng(draw(seeds))
    bands = draw(channel_bands(shape[axis]))
    symbols = random.binomial(12, 0.5, shape).astype(np.uint8)
    zero = np.array(6, np.uint8)
    if dtype not in FLOATS:
        values = symbols.astype(np.int8) - np.int8(6) if dtype == "int8" else symbols
        parts = [store_integers(part, kernels=NUMPY) for part in split_bands(values, axis, bands)]
        return make_banded(axis, bands, parts), values
    scale = np.ldexp(random.random(tuple(n if draw(st.booleans()) else 1 for n in shape)) + 0.5, -3).astype(np.float32)
    every = zip(split_bands(symbols, axis, bands), split_bands(scale, axis, bands), strict=True)
    parts = [store_weight(part, zero, by, dtype, kernels=NUMPY) for part, by in every]
    banded = make_banded(axis, bands, parts)
    return banded, ((symbols.astype(np.float32) - zero) * scale).astype(FLOATS[dtype])
