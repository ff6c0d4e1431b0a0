"""Small frames of every kind, and ways to damage them: what nothing that decodes may trust."""

import struct
import zlib

import numpy as np
from strategies import rng, stream_by_hand

from codec.frame import FRAME_CRC_AT, HEADER, Frame, read_frame, write_frame
from refimpl.tans.blocks import Block, Chunks, decode_block, merge_chunks
from refimpl.tans.nibbles import unpack_nibbles

EMPTY = np.empty(0, np.uint8)
COUNTS = np.array([16, 8, 4, 0, 2, 0, 1, 1])
GROUPS = [[1, 3], [4, 5, 9, 33], [200, 0]]  # the last leads without a slot, and has the symbol with the most
CODABLE = np.array([1, 1, 1, 2, 2, 3, 3, 4, 5, 9, 33, 6, 7], np.uint8)


def reseal(data):
    """The bytes with a frame checksum that is right again."""
    crc = zlib.crc32(data[FRAME_CRC_AT + 4 :], zlib.crc32(data[:FRAME_CRC_AT]))
    return data[:FRAME_CRC_AT] + struct.pack("<I", crc) + data[FRAME_CRC_AT + 4 :]


def coded_frame(symbols, lanes, counts=COUNTS, groups=(), chunks=None, packed=False):
    """A frame of a stream of any model, half a byte short if packed; partial if there are chunks."""
    stream = stream_by_hand(symbols, counts, list(groups), lanes, int(symbols[0]))
    blocks = 0 if chunks is None else len(symbols) // (chunks.symbols * chunks.coded)
    raw = EMPTY if chunks is None else np.arange(blocks * chunks.symbols * (chunks.per_block - chunks.coded)) % 7
    raw = raw.astype(np.uint8)
    units = symbols if chunks is None else merge_chunks(raw, symbols, chunks)
    symbols = unpack_nibbles(units)[:-1] if packed else units
    mode = "coded" if chunks is None else "partial"
    return write_frame(Frame(Block(mode, len(symbols), raw, stream, chunks, packed), zlib.crc32(symbols.tobytes())))


def plain_frame(mode, symbols, raw, packed=False):
    return write_frame(Frame(Block(mode, len(symbols), raw, packed=packed), zlib.crc32(bytes(symbols))))


def some(count, of=CODABLE):
    return rng(count).choice(of, count).astype(np.uint8)


ALONE = np.array([0, 0, 0, 1, 1, 2, 4, 6], np.uint8)
SMALL = {
    "empty": plain_frame("raw", [], EMPTY),
    "raw": plain_frame("raw", [3, 1, 4, 15, 92], np.array([3, 1, 4, 15, 92], np.uint8)),
    "raw, packed": plain_frame("raw", [1, 2, 3], np.array([0x21, 3], np.uint8), packed=True),
    "constant": plain_frame("constant", [7] * 30, np.array([7], np.uint8)),
    "coded": coded_frame(some(50, ALONE), 3),
    "coded, one lane": coded_frame(some(20, ALONE), 1),
    "coded, one symbol": coded_frame(np.full(9, 2, np.uint8), 2, np.array([0, 0, 32])),
    "coded, wide counts": coded_frame(some(20, ALONE[:5]), 1, np.array([300, 212])),
    "coded, classes": coded_frame(some(60), 3, groups=GROUPS),
    "coded, one leader": coded_frame(some(30, np.array([4, 5, 9, 33])), 2, np.array([0, 0, 0, 0, 32]), GROUPS),
    "coded, two tiles": coded_frame(some(270), 66, groups=GROUPS),
    "coded, packed": coded_frame(some(41, ALONE), 2, packed=True),
    "coded, classes, packed": coded_frame(some(52), 5, groups=GROUPS, packed=True),
    "partial": coded_frame(some(50, ALONE), 2, chunks=Chunks(8, 2, 1)),
    "partial, classes, packed": coded_frame(some(50), 3, groups=GROUPS, chunks=Chunks(5, 4, 3), packed=True),
}


def damaged(data):
    """Every truncation, and every byte with one bit flipped, zero and 255, the frame's checksum right again."""
    for size in range(HEADER.size, len(data)):
        yield reseal(data[:size])
    for at in range(len(data)):
        for value in sorted({*(data[at] ^ 1 << bit for bit in range(8)), 0x00, 0xFF} - {data[at]}):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            yield changed if FRAME_CRC_AT <= at < FRAME_CRC_AT + 4 else reseal(changed)


def decode_whatever_it_is(data, kernels, prepare=lambda block: block):
    """Symbols of a frame, its checksum of them left out."""
    frame = read_frame(data)
    symbols = decode_block(prepare(frame.block), kernels=kernels)
    assert len(symbols) == frame.block.symbol_count
    assert symbols.dtype == np.uint8
    return symbols
