"""Frames put together lane by lane: what no writer of ours makes, and faults that nothing but one check notices.

The lanes come from `conformance.frames`, which knows any way to code a symbol; here each way is given. Where a fault
is a number that does not fit 8, 16 or 32 bits, what is left of it in so many bits would be right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import numpy as np
from drafts import Array
from invalid_frames import (
    EXAMPLE,
    FRAMES,
    NOTHING,
    Fault,
    bare_stream,
    framed,
    partial,
    poke_header,
    read_stream,
)

from conformance.frames import Route, encode_lane, table_of, word_bytes
from refimpl.tans.blocks import Block, Chunks, merge_chunks
from refimpl.tans.nibbles import unpack_nibbles
from refimpl.tans.stream import Stream, decode_stream, encode_stream

HALF = [16, 16]  # counts: each step reads one bit, whatever the state
TWO = [Route(0, 0, 0), Route(1, 0, 0), Route(1, 0, 0), Route(0, 0, 0)]  # of those counts, without classes


def lanes_stream(
    counts: Sequence[int],
    routes: Sequence[Route],
    classes: bytes = b"",
    *,
    lanes: int = 1,
    length_width: int = 0,
) -> Stream:
    """The stream of symbols that are coded in these ways, padded with the first of them.

    Parameters
    ----------
    length_width : int
        At least; the lanes' lengths may need more.
    """
    steps = 4 * -(-len(routes) // (4 * lanes))
    dealt = [[routes[0]] * steps for _ in range(lanes)]
    for i, route in enumerate(routes):
        dealt[i // 4 % lanes][4 * (i // (4 * lanes)) + i % 4] = route
    coded = [encode_lane(Random(1), lane, table_of(tuple(counts))) for lane in dealt]  # noqa: S311
    lengths = [sum(width for _, width in fields) for _, fields in coded]
    base = min(lengths)
    width = max(length_width, (max(lengths) - base).bit_length())
    words = word_bytes(
        [(state, sum(counts).bit_length() - 1) for state, _ in coded]
        + [(length - base, width) for length in lengths]
        + [field for _, fields in coded for field in fields]
    )
    arrays = np.array(counts, np.int64), np.frombuffer(classes, np.uint8), np.frombuffer(words, "<u4")
    return Stream(len(routes), lanes, base, width, *arrays)


def class_bytes(*classes: Sequence[int]) -> bytes:
    """Classes as they are stored."""
    return bytes([len(classes), *((len(c) - 1).bit_length() for c in classes), *(m for c in classes for m in c)])


def handmade_frames() -> Iterator[tuple[str, str, bytes, Array]]:
    """(name, flag, frame, symbols) of valid frames."""
    for name, stream, content in streams():
        frame = framed(Block("coded", len(content), NOTHING, stream), np.array(content, np.uint8))
        yield name, "unusual", frame, np.array(content, np.uint8)
    many = np.zeros(2000, np.uint8)  # more than the bound on symbols of streams that read bits
    beside = bare_stream(len(many), [32], 1, classes=class_bytes([1, 2]))
    yield "only-symbol-beside-classes", "unusual", framed(beside, many), many
    five = np.array([1, 2, 3, 4, 5], np.uint8)
    units = np.array([0x21, 0x43, 0xA5], np.uint8)
    yield "packed-raw-with-a-last-half", "packed", framed(Block("raw", 5, units, packed=True), five), five
    stream = encode_stream(units, table_log=5, lane_count=1)
    yield "packed-with-a-last-half", "packed", framed(Block("coded", 5, NOTHING, stream, packed=True), five), five
    yield from partial_frames()


def streams() -> Iterator[tuple[str, Stream, list[int]]]:
    """(name, stream, symbols)."""
    leaders = class_bytes([1, 2], [2, 3])
    routes = [Route(1, 1, 1), Route(2, 1, 1), Route(1, 0, 1), Route(2, 0, 1), Route(1, 1, 1)]
    yield "member-that-leads-another-class", lanes_stream([0, 16, 16], routes, leaders), [2, 3, 1, 2, 2]
    routes = [Route(1, 1, 2), Route(0, 0, 0), Route(1, 2, 2), Route(1, 3, 2), Route(1, 0, 2)]
    yield "members-that-repeat", lanes_stream(HALF, routes, class_bytes([1, 5, 5, 1])), [5, 0, 5, 1, 1]
    routes = [Route(0, 1, 1), Route(1, 1, 1), Route(0, 0, 1), Route(1, 1, 1)]
    yield "symbol-in-two-classes", lanes_stream(HALF, routes, class_bytes([0, 7], [1, 7])), [7, 7, 0, 7]
    yield "leader-without-slots", lanes_stream([16, 0, 16], [Route(2, 0, 0), *TWO[::3]], class_bytes([1, 5])), [2, 0, 0]
    yield "leader-behind-the-alphabet", lanes_stream(HALF, TWO, class_bytes([9, 5])), [0, 1, 1, 0]
    for count in (128, 255):
        classes = class_bytes(*([i, i + 1] for i in range(count)))
        routes = [Route(0, 1, 1), Route(1, 1, 1), Route(1, 0, 1), Route(0, 0, 1)]
        yield f"{count}-classes", lanes_stream(HALF, routes, classes), [1, 2, 1, 0]
    for width in (9, 20, 31):
        uneven = [TWO[0]] * 4 + TWO  # with the counts 24 and 8 lanes of different lengths
        stream = lanes_stream([24, 8], uneven, lanes=2, length_width=width)
        yield f"length-width-{width}-of-lengths", stream, [0, 0, 0, 0, 0, 1, 1, 0]


def partial_frames() -> Iterator[tuple[str, str, bytes, Array]]:
    """Valid frames of raw and coded chunks."""
    content = np.tile(EXAMPLE, 14)[:256]
    for size, per_block, of_these, lanes in ((1, 17, 16, 1), (1, 255, 1, 1), (1, 255, 254, 2), (8, 2, 1, 20)):
        chunks = Chunks(size, per_block, of_these)
        name = f"chunks-{chunks.symbols}-{chunks.per_block}-{chunks.coded}-on-{lanes}-lanes"
        yield name, "partial", partial(content, chunks, table_log=5, lane_count=lanes), content
    few = partial(EXAMPLE, Chunks(4, 2, 1), table_log=5, lane_count=9)  # 11 symbols coded
    yield "partial-on-more-lanes-than-quarters", "partial", few, EXAMPLE
    routes = [Route(0x10, 1, 1), Route(0x32, 0, 0), Route(0x10, 0, 1), Route(0x10, 1, 1)]
    counts = [16 * (symbol in (0x10, 0x32)) for symbol in range(0x33)]
    stream = lanes_stream(counts, routes, class_bytes([0x10, 0x54]))
    content = unpack_nibbles(decode_stream(stream))
    yield "packed-classes", "packed", framed(Block("coded", 8, NOTHING, stream, packed=True), content), content
    raw = np.array([0x76, 0x98], np.uint8)
    content = unpack_nibbles(merge_chunks(raw, decode_stream(stream), Chunks(2, 2, 1)))
    block = Block("partial", 12, raw, stream, Chunks(2, 2, 1), packed=True)
    yield "packed-partial-classes", "packed", framed(block, content), content


def handmade_faults() -> Iterator[Fault]:
    """What decoders must refuse."""
    for kind in ("packed-raw", "packed", "packed-partial"):
        wrong = poke_header(FRAMES[kind][0], "symbols_crc", 1)
        yield Fault(f"{kind}-symbols-crc", "bad-symbols-crc", "Corrupt", wrong)
    yield from length_faults()
    yield from count_faults()
    # Of a block of 2**32 symbols there is none; in 32 bits its size is 0, and all symbols would be the tail.
    stream = read_stream(FRAMES["coded"][0])
    huge = framed(Block("partial", 19, NOTHING, stream, Chunks(1 << 31, 2, 1)), EXAMPLE)
    yield Fault("partial-block-of-4294967296", "bad-chunks", "Corrupt", huge)
    yield Fault("partial-chunk-of-2147483648", "hostile-count", "Truncated",
                poke_header(huge, "symbol_count", 1 << 34))  # fmt: skip


def length_faults() -> Iterator[Fault]:
    """Lanes that use other bits than theirs, and lengths that need more than 16, 27 or 32 bits."""
    content = decode_stream(halves(8, 2, 3, 0, [0]))  # all bits zero; each lane takes three
    stream = halves(8, 2, 2, 2, [2 << 12])  # lengths 2 and 4
    yield Fault("lanes-of-2-and-4-bits-that-use-3", "lane-length", "Corrupt",
                framed(Block("coded", 8, NOTHING, stream), content))  # fmt: skip
    content = decode_stream(halves(4, 2, 3, 0, [0]))
    stream = halves(4, 2, 3, 1, [1 << 11])  # lengths 3 and 4
    yield Fault("lane-of-padding-one-bit-longer", "lane-length", "Corrupt",
                framed(Block("coded", 4, NOTHING, stream), content))  # fmt: skip
    content = decode_stream(lanes_stream(HALF, TWO))
    for width, bit in ((20, 16), (31, 27), (31, 30)):
        stream = lanes_stream(HALF, TWO, length_width=width)
        number = int.from_bytes(stream.words.tobytes(), "little") | 1 << 5 + bit  # behind the start state
        stream = replace(stream, words=np.frombuffer(number.to_bytes(stream.words.nbytes, "little"), "<u4"))
        yield Fault(f"length-with-bit-{bit}-of-{width}", "lane-length", "Truncated",
                    framed(Block("coded", 4, NOTHING, stream), content))  # fmt: skip
    most = (1 << 31) - 1
    words = word_list([(0, 5)] * 3 + [(length, 31) for length in (most, most, 2 + 9)] + [(0, 9)])
    stream = halves(12, 3, 0, 31, words)
    yield Fault("lengths-whose-sum-is-4294967305", "lane-length", "Truncated",
                framed(Block("coded", 12, NOTHING, stream), NOTHING))  # fmt: skip
    # 2 * (5 + base) is 2**32, more than the word holds; that 10000 symbols are too many is checked later.
    stream = halves(10_000, 2, (1 << 31) - 5, 0, [0])
    yield Fault("least-length-of-4294967296", "lane-length", "Truncated",
                framed(Block("coded", 10_000, NOTHING, stream), NOTHING))  # fmt: skip


def halves(count: int, lanes: int, length_base: int, length_width: int, words: Sequence[int]) -> Stream:
    """A stream of two symbols that read a bit each."""
    arrays = np.array(HALF, np.int64), np.empty(0, np.uint8), np.array(words, np.uint32)
    return Stream(count, lanes, length_base, length_width, *arrays)


def word_list(fields: Sequence[tuple[int, int]]) -> list[int]:
    """Bit fields as words."""
    return np.frombuffer(word_bytes(fields), "<u4").tolist()


def count_faults() -> Iterator[Fault]:
    """Counts of another sum, in front of no words: whoever takes the counts finds too few bits."""
    for total, counts in ((16, [8, 8]), (8192, [4096, 4096]), (65568, [65535, 33])):
        stream = Stream(4, 1, 0, 0, np.array(counts, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint32))
        yield Fault(f"counts-sum-{total}-and-no-words", "bad-counts", "Corrupt",
                    framed(Block("coded", 4, NOTHING, stream), NOTHING))  # fmt: skip
