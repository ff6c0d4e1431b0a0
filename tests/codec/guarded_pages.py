"""Run the jitted kernels on memory next to pages that nobody may touch: one step outside ends the process.

Started by test_safety.py, with Numba's bounds check on.
"""

import ctypes
import mmap
import sys
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from frames import CODABLE, COUNTS, GROUPS, SMALL, damaged, decode_whatever_it_is
from strategies import rng, stored_classes

from codec import kernels as module
from codec import vector
from codec.kernels import NUMBA, numba_kernels
from refimpl.errors import StreamError
from refimpl.tans.classes import ClassTable, class_table
from refimpl.tans.stream import NUMPY
from refimpl.tans.tables import decode_table, encode_table

PAGE = mmap.PAGESIZE
PROT_NONE = 0
libc = ctypes.CDLL(None, use_errno=True)


def guarded_empty(shape, dtype, side):
    """An array with a forbidden page on both sides; it touches the one at its end or at its start."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    pages = max(1, -(-size // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    for at in (0, (pages + 1) * PAGE):
        if libc.mprotect(ctypes.c_void_p(whole.ctypes.data + at), ctypes.c_size_t(PAGE), PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    begin = PAGE if side == "start" else (pages + 1) * PAGE - size
    return whole[begin : begin + size].view(dtype).reshape(shape)


def guarded(array, side):
    copy = guarded_empty(array.shape, array.dtype, side)
    copy[...] = array
    return copy


class GuardedNumpy:
    """NumPy for codec.kernels, whose buffers are all guarded."""

    def __init__(self, side):
        self.side = side

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype):
        return guarded_empty(shape, dtype, self.side)

    zeros = empty  # as mapped memory is


def guard(side):
    """What codec.kernels allocates and the tables it packs lie next to forbidden pages."""
    pack_decode, pack_encode = module.pack_decode_table, module.pack_encode_table
    return patch.multiple(
        module,
        np=GuardedNumpy(side),
        aligned_bytes=lambda size: guarded_empty(size, np.uint8, side),
        pack_decode_table=lambda *tables: guarded(pack_decode(*tables), side),
        pack_encode_table=lambda *tables: tuple(guarded(part, side) for part in pack_encode(*tables)),
        THREAD_SYMBOLS=0,
        CHUNK_BITS=1,
    )


def guarded_classes(classes, side):
    names = ("leader", "index", "width", "first", "member")
    return ClassTable(*(module.read_only(guarded(getattr(classes, name), side)) for name in names))


def round_trips(side):
    """Encode and decode for lane counts around the tile, sizes around whole groups."""
    counts, classes = COUNTS, guarded_classes(class_table(stored_classes(GROUPS)), side)
    encoder, decoder = encode_table(counts), decode_table(counts)
    for lanes in (1, 2, 5, 63, 64, 65, 127, 128, 129, 200):
        for size in (lanes, 4 * lanes - 3, 4 * lanes, 4 * lanes + 1, 8 * lanes + 255, 17 * lanes + 3):
            symbols = guarded(rng(size).choice(CODABLE, max(lanes, size)).astype(np.uint8), side)
            theirs = NUMPY.encode_lanes(symbols, lanes, 1, encoder, classes)
            assert NUMBA.histogram(symbols).tolist() == NUMPY.histogram(symbols).tolist()
            for kernels in (NUMBA, numba_kernels(2)):
                with guard(side):
                    ours = kernels.encode_lanes(symbols, lanes, 1, encoder, classes)
                    packed_sizes = kernels.pack_fields(theirs[1], 31)
                    sizes = kernels.unpack_fields(guarded(packed_sizes, side), 0, 31, lanes)
                    joined = kernels.append_bits(theirs[2], int(theirs[1].sum()), theirs[2], int(theirs[1].sum()))
                assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
                assert np.array_equal(sizes, theirs[1])
                assert np.array_equal(joined, NUMPY.append_bits(*2 * (theirs[2], int(theirs[1].sum()))))
                start, lengths, payload = (guarded(part, side) for part in theirs)
                for packed in (False, True):
                    fields = payload, 0, start, lengths, decoder, classes, len(symbols), packed
                    with guard(side):
                        decoded = kernels.decode_lanes(*fields)
                    assert np.array_equal(decoded, NUMPY.decode_lanes(*fields))


def hostile_frames(side):
    """Damaged streams from words next to forbidden pages."""

    def at_the_edge(block):
        stream = block.stream
        return block if stream is None else replace(block, stream=replace(stream, words=guarded(stream.words, side)))

    for data in SMALL.values():
        decode_whatever_it_is(data, NUMBA)
        for bad in islice(damaged(data), 0, None, 1 if side == "end" else 5):
            try:
                with guard(side):
                    decode_whatever_it_is(bad, NUMBA, at_the_edge)
            except StreamError:
                pass


def warm_up():
    """Compile what is used, while codec.kernels still has NumPy itself."""
    counts, classes = np.array([16, 16]), class_table(stored_classes([[1, 2]]))
    symbols = np.tile(np.array([0, 1], np.uint8), 200)
    start, lengths, payload = NUMBA.encode_lanes(symbols, 3, 0, encode_table(counts), classes)
    NUMBA.append_bits(payload, 32 * len(payload), payload, 32 * len(payload))
    NUMBA.unpack_fields(NUMBA.pack_fields(lengths, 31), 0, 31, 3)
    for packed in (False, True):
        NUMBA.decode_lanes(payload, 0, start, lengths, decode_table(counts), classes, len(symbols), packed)


def touch(side):
    """Step outside on purpose."""
    inside = guarded(np.ones(10, np.uint8), side)
    outside = inside.ctypes.data + (10 if side == "end" else -1)
    return SimpleNamespace(value=ctypes.c_uint8.from_address(outside).value)


if __name__ == "__main__":
    if sys.argv[1:2] == ["touch"]:
        touch(sys.argv[2])
    else:
        if sys.argv[1:] == ["other look-ups"]:
            vector.GATHERS = not vector.GATHERS
        warm_up()
        for side in ("end", "start"):
            round_trips(side)
            hostile_frames(side)
    print("unharmed")
