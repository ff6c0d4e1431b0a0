"""Frames for decoders: valid ones of every kind, and those that must be refused, fault by fault.

Places of fields come from the structs and the writer of `codec.frame`. Where a fault lies behind the
frame's checksum, the checksum is made right again, so that the check in question is reached.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from drafts import BINOMIAL, BYTES, HALVES, NIBBLES, RARE, SPARSE, Array, Drawn, symbols

from codec.frame import CHUNKS, FRAME_CRC_AT, HEADER, STREAM, Frame, encode, read_frame, write_frame
from refimpl.tans.blocks import MODES, Block, Chunks, split_chunks
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.stream import NUMPY, Stream, encode_stream

HEADER_FIELDS = ("magic", "version", "mode", "flags", "reserved", "symbol_count", "symbols_crc", "frame_crc")
EXAMPLE = np.array([0, 0, 2, 0, 0, 3, 0, 0, 2, 0, 0, 2, 0, 0, 2, 0, 0, 2, 0], np.uint8)  # of docs/spec/tans.md
SKEWED = symbols(HALVES, 400).array()
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Fault:
    """Bytes that no decoder may take."""

    name: str
    flag: str
    error: str
    data: bytes


def framed(block: Block, content: Array) -> bytes:
    """A block as a frame with the right checksums."""
    return write_frame(Frame(block, zlib.crc32(content.tobytes())))


def coded(content: Array, **options: Any) -> bytes:
    """A frame of one stream, also where another mode were smaller."""
    return framed(Block("coded", len(content), NOTHING, encode_stream(content, **options)), content)


def partial(content: Array, chunks: Chunks, *, packed: bool = False, **options: Any) -> bytes:
    """A frame of raw and coded chunks."""
    raw, rest = split_chunks(pack_nibbles(content) if packed else content, chunks)
    return framed(Block("partial", len(content), raw, encode_stream(rest, **options), chunks, packed), content)


def packed(content: Array, **options: Any) -> bytes:
    """A frame of one stream of bytes, each of them two symbols."""
    stream = encode_stream(pack_nibbles(content), **options)
    return framed(Block("coded", len(content), NOTHING, stream, packed=True), content)


# name -> (frame, its symbols)
FRAMES: dict[str, tuple[bytes, Array]] = {
    name: (data, content)
    for name, content, data in (
        ("empty", NOTHING, framed(Block("raw", 0, NOTHING), NOTHING)),
        ("raw", EXAMPLE[:8], framed(Block("raw", 8, EXAMPLE[:8]), EXAMPLE[:8])),
        ("constant", np.full(1000, 7, np.uint8), framed(Block("constant", 1000, np.full(1, 7, np.uint8)),
                                                        np.full(1000, 7, np.uint8))),
        ("coded", EXAMPLE, coded(EXAMPLE, table_log=5, lane_count=2)),
        ("one-symbol", EXAMPLE[:1].repeat(9), coded(EXAMPLE[:1].repeat(9), lane_count=2)),
        ("partial", EXAMPLE, partial(EXAMPLE, Chunks(4, 2, 1), table_log=5, lane_count=3)),
        ("packed-raw", EXAMPLE, framed(Block("raw", 19, pack_nibbles(EXAMPLE), packed=True), EXAMPLE)),
        ("packed", EXAMPLE, packed(EXAMPLE, table_log=5, lane_count=2)),
        ("packed-partial", EXAMPLE, partial(EXAMPLE, Chunks(2, 2, 1), packed=True, table_log=5, lane_count=2)),
    )
}  # fmt: skip


def more_frames() -> Iterator[tuple[str, str, bytes, Array | Drawn]]:
    """(name, flag, frame, symbols) of valid frames that are not short."""
    for name, drawn in (("binomial", symbols(BINOMIAL, 3000)), ("halves", symbols(HALVES, 3000)),
                        ("nibbles-long", symbols(NIBBLES, 3000)), ("bytes", symbols(BYTES, 700)),
                        ("rare", symbols(RARE, 4000)), ("sparse", symbols(SPARSE, 4000))):  # fmt: skip
        content = drawn.array()
        shown = content if len(drawn.lcg.thresholds) > 16 else drawn
        yield name, "valid", encode(content, kernels=NUMPY), shown
        yield f"{name}-archive", "valid", encode(content, profile="archive", kernels=NUMPY), shown
        yield f"{name}-partial", "partial", encode(content, fraction=0.75, kernels=NUMPY), shown
    for table_log in range(5, 13):
        yield f"table-log-{table_log}", "valid", coded(SKEWED, table_log=table_log, lane_count=5), SKEWED
    for lanes in (1, 2, 3, 99, 100, 101, 399, 400):
        yield f"lanes-{lanes}", "valid", coded(SKEWED, table_log=6, lane_count=lanes), SKEWED
    for count in (1, 2, 3, 4, 5, 8, 9, 31, 32, 33):
        yield f"symbols-{count}", "valid", coded(SKEWED[-count:], lane_count=1), SKEWED[-count:]
    for chunks in (Chunks(1, 2, 1), Chunks(5, 4, 3), Chunks(7, 16, 1), Chunks(400, 255, 254), Chunks(200, 2, 1)):
        if chunks.fits(len(SKEWED)):
            name = f"chunks-{chunks.symbols}-{chunks.per_block}-{chunks.coded}"
            yield name, "partial", partial(SKEWED, chunks, lane_count=2), SKEWED
    yield from unusual_frames()


def unusual_frames() -> Iterator[tuple[str, str, bytes, Array]]:
    """Frames that are valid although the reference writes none like them."""
    few = EXAMPLE[:1].repeat(50)
    yield "raw-of-one-symbol", "unusual", framed(Block("raw", 50, few), few), few
    yield "raw-that-would-shrink", "unusual", framed(Block("raw", 400, SKEWED), SKEWED), SKEWED
    yield "constant-of-nothing", "unusual", framed(Block("constant", 0, few[:1]), NOTHING), NOTHING
    yield "constant-once", "unusual", framed(Block("constant", 1, few[:1]), few[:1]), few[:1]
    stream = encode_stream(EXAMPLE, table_log=5, lane_count=2)
    padded = replace(stream, counts=np.concatenate([stream.counts, np.zeros(4, np.int64)]))
    yield "counts-with-zeros-behind", "unusual", framed(Block("coded", 19, NOTHING, padded), EXAMPLE), EXAMPLE
    wide = wide_counts(FRAMES["coded"][0])
    yield "counts-wider-than-needed", "unusual", wide, EXAMPLE
    for count in (399, 400):
        nibbles = SKEWED[:count]
        yield f"packed-{count}", "packed", packed(nibbles, lane_count=3), nibbles
        yield f"packed-partial-{count}", "packed", partial(nibbles, Chunks(7, 4, 3), packed=True), nibbles
    yield "partial-packed-of-one-byte", "packed", *repeated_byte()
    yield "leader-with-all-slots", "unusual", *all_literals()
    many = np.zeros(2000, np.uint8)  # the bound on symbols is not for streams that read no bits
    yield "one-symbol-above-the-bound", "unusual", framed(bare_stream(len(many), [32], 1), many), many
    # A lane of padding alone: the decoder drops it, whatever it holds.
    yield "lanes-of-padding", "unusual", coded(EXAMPLE, table_log=5, lane_count=19), EXAMPLE


def bare_stream(
    count: int,
    counts: list[int],
    words: int,
    *,
    length_base: int = 0,
    classes: bytes = b"",
    chunks: Chunks | None = None,
) -> Block:
    """A block of one lane, all of whose words are zero."""
    array = np.array(counts, np.int64), np.frombuffer(classes, np.uint8), np.zeros(words, np.uint32)
    mode = "coded" if chunks is None else "partial"
    return Block(mode, count, NOTHING, Stream(count, 1, length_base, 0, *array), chunks)


def repeated_byte() -> tuple[bytes, Array]:
    """A packed partial block whose stream repeats one byte, which only a coded one may not."""
    content = np.array([1, 2, 1, 2, 3, 0, 3, 0], np.uint8)
    stream = encode_stream(np.full(2, 3, np.uint8), table_log=5, lane_count=1)
    block = Block("partial", 8, pack_nibbles(content[:4]), stream, Chunks(2, 2, 1), packed=True)
    return framed(block, content), content


def all_literals() -> tuple[bytes, Array]:
    """Six symbols and two of padding that are told apart by literals of eight bits alone."""
    literals = np.array([10, 20, 30, 40, 50, 60, 70, 80], np.uint8)
    content = literals[:6]  # member i is symbol i
    bits = int.from_bytes(literals.tobytes(), "big") << 5  # behind five bits of start state, the first literal last
    words = np.frombuffer(bits.to_bytes(12, "little"), "<u4")
    classes = np.concatenate([[1, 8], np.arange(256)]).astype(np.uint8)
    stream = Stream(6, 1, 64, 0, np.array([32], np.int64), classes, words)
    return framed(Block("coded", 6, NOTHING, stream), content), content


def stream_field(data: bytes, value: int) -> int:
    """Index of the only field of the stream header with that value."""
    fields = STREAM.unpack_from(data, HEADER.size)
    assert fields.count(value) == 1, f"{value} in {fields}"
    return fields.index(value)


def sealed(data: bytes) -> bytes:
    """The bytes with a frame checksum that is right again."""
    crc = zlib.crc32(data[FRAME_CRC_AT + 4 :], zlib.crc32(data[:FRAME_CRC_AT]))
    return data[:FRAME_CRC_AT] + struct.pack("<I", crc) + data[FRAME_CRC_AT + 4 :]


def poke(data: bytes, fields: struct.Struct, at: int, index: int, value: Any) -> bytes:
    """The frame with one field of a struct set."""
    values = list(fields.unpack_from(data, at))
    values[index] = value
    return sealed(data[:at] + fields.pack(*values) + data[at + fields.size :])


def poke_header(data: bytes, field: str, value: Any) -> bytes:
    """The frame with one field of its header set."""
    assert len(HEADER.unpack(bytes(HEADER.size))) == len(HEADER_FIELDS)
    return poke(data, HEADER, 0, HEADER_FIELDS.index(field), value)


def counts_of(data: bytes) -> tuple[int, bytes]:
    """(place, bytes) of a frame's stored counts, one byte each."""
    stream = read_frame(data).block.stream
    assert stream is not None
    stored = stream.counts.astype(np.uint8).tobytes()
    return data.index(stored, HEADER.size + STREAM.size), stored


def wide_counts(data: bytes) -> bytes:
    """The frame with counts of two bytes instead of one; their number must be a multiple of four."""
    at, stored = counts_of(data)
    assert len(stored) % 4 == 0
    wide = np.frombuffer(stored, np.uint8).astype("<u2").tobytes()
    longer = data[:at] + wide + data[at + len(stored) :]
    return poke(longer, STREAM, HEADER.size, count_size_index(), 2)


def count_size_index() -> int:
    """Index of the stream header's count_size: it alone differs between counts below and above 255."""
    data = FRAMES["coded"][0]
    counts = read_stream(data).counts
    frames = [with_stream(data, counts=changed) for changed in (counts, counts + 256)]
    wide, narrow = (STREAM.unpack_from(frame, HEADER.size) for frame in frames)
    (index,) = [i for i, (a, b) in enumerate(zip(wide, narrow, strict=True)) if a != b]
    return index


def edited(data: bytes, edit: Callable[[Block, Stream], Block]) -> bytes:
    """The frame of a changed block; the symbols' checksum stays."""
    frame = read_frame(data)
    assert frame.block.stream is not None
    return write_frame(Frame(edit(frame.block, frame.block.stream), frame.symbols_crc))


def with_stream(data: bytes, **changes: Any) -> bytes:
    """The frame with fields of its stream set."""
    return edited(data, lambda block, stream: replace(block, stream=replace(stream, **changes)))


def faults() -> Iterator[Fault]:
    """Everything that a decoder must refuse."""
    yield from truncations()
    yield from header_faults()
    yield from checksum_faults()
    yield from stream_header_faults()
    yield from stream_faults()
    yield from class_faults()
    yield from partial_faults()
    yield from sharp_faults()


def truncations() -> Iterator[Fault]:
    """Every proper prefix of short frames; with a right checksum they are as short."""
    for kind in ("raw", "constant", "coded", "partial"):
        data = FRAMES[kind][0]
        for size in range(len(data)):
            name = f"truncated-at-{size}" if kind == "coded" else f"{kind}-truncated-at-{size}"
            yield Fault(name, "truncated", "Truncated", data[:size])
    data = FRAMES["coded"][0]
    for size in (HEADER.size, HEADER.size + STREAM.size, len(data) - 1):
        yield Fault(f"truncated-and-sealed-at-{size}", "truncated", "Truncated", sealed(data[:size]))


def header_faults() -> Iterator[Fault]:
    """What can be wrong in the first bytes of any frame, in the order of the checks."""
    for kind in ("raw", "coded", "partial"):
        data = FRAMES[kind][0]
        yield Fault(f"{kind}-other-magic", "bad-magic", "Corrupt", poke_header(data, "magic", b"tANs"))
        yield Fault(f"{kind}-no-magic", "bad-magic", "Corrupt", poke_header(data, "magic", bytes(4)))
        for version in (0, 2, 255):
            changed = poke_header(data, "version", version)
            yield Fault(f"{kind}-version-{version}", "bad-version", "UnsupportedVersion", changed)
        # Of two faults the one that is checked first counts.
        changed = poke_header(changed, "magic", b"none")
        yield Fault(f"{kind}-no-magic-and-no-version", "bad-magic", "Corrupt", changed)
        for mode in (len(MODES), 255):
            changed = poke_header(data, "mode", mode)
            yield Fault(f"{kind}-mode-{mode}", "bad-mode", "Corrupt", changed)
        changed = poke_header(changed, "version", 2)
        yield Fault(f"{kind}-no-version-and-no-mode", "bad-version", "UnsupportedVersion", changed)
        for bit in (1, 2, 7):  # bit 0 says packed
            changed = poke_header(data, "flags", 1 << bit)
            yield Fault(f"{kind}-reserved-flag-{bit}", "reserved-bits", "Corrupt", changed)
        for bit in (0, 7):
            changed = poke_header(data, "reserved", 1 << bit)
            yield Fault(f"{kind}-reserved-bit-{bit}", "reserved-bits", "Corrupt", changed)
        for more in (b"\0", b"tANS", bytes(64)):
            yield Fault(f"{kind}-and-{len(more)}-bytes", "left-over", "Corrupt", sealed(data + more))
    raw, constant = FRAMES["raw"][0], FRAMES["constant"][0]
    yield Fault("constant-packed", "bad-mode", "Corrupt", poke_header(constant, "flags", 1))
    yield Fault("raw-packed-with-twice-the-bytes", "left-over", "Corrupt", poke_header(raw, "flags", 1))
    for count in (9, 2**16, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1):
        yield Fault(f"raw-of-{count}", "hostile-count", "Truncated", poke_header(raw, "symbol_count", count))
    yield Fault("raw-of-7", "hostile-count", "Corrupt", poke_header(raw, "symbol_count", 7))
    for count in (2**63, 2**64 - 1):
        yield Fault(f"constant-of-{count}", "hostile-count", "LimitExceeded",
                    poke_header(constant, "symbol_count", count))  # fmt: skip


def checksum_faults() -> Iterator[Fault]:
    """Single bits that only a checksum notices, and checksums that are wrong themselves."""
    for kind in ("raw", "coded", "partial"):
        data, content = FRAMES[kind]
        for at in range(FRAME_CRC_AT, len(data)):
            in_sizes = FRAME_CRC_AT + 4 <= at < HEADER.size + STREAM.size + CHUNKS.size and kind != "raw"
            if not in_sizes:  # fields that announce sizes are checked before the checksum
                changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
                yield Fault(f"{kind}-flipped-at-{at}", "bad-crc", "Corrupt", changed)
        wrong = poke_header(data, "symbols_crc", zlib.crc32(content.tobytes()) ^ 1)
        yield Fault(f"{kind}-symbols-crc", "bad-symbols-crc", "Corrupt", wrong)
    data, content = FRAMES["constant"]
    yield Fault("constant-other-symbol", "bad-crc", "Corrupt", data[:-1] + bytes([content[0] ^ 1]))


def stream_header_faults() -> Iterator[Fault]:
    """Fields of the stream header that announce sizes."""
    data = coded(EXAMPLE, table_log=5, lane_count=2)
    size_index = count_size_index()
    words = len(read_stream(data).words)
    many = coded(SKEWED, table_log=9, lane_count=3)
    word_index = stream_field(many, len(read_stream(many).words))
    alphabet_index = stream_field(many, len(read_stream(many).counts))

    def set_field(index: int, value: int) -> bytes:
        return poke(data, STREAM, HEADER.size, index, value)

    for size in (0, 3, 4, 255):
        yield Fault(f"count-size-{size}", "bad-counts", "Corrupt", set_field(size_index, size))
    for alphabet in (0, 257, 65535):
        yield Fault(f"alphabet-{alphabet}", "bad-counts", "Corrupt", set_field(alphabet_index, alphabet))
    yield Fault("alphabet-behind-the-end", "truncated", "Truncated", set_field(alphabet_index, 256))
    for more in (1, 2**20, 2**31):
        yield Fault(f"{more}-more-words", "hostile-count", "Truncated", set_field(word_index, words + more))
    yield Fault("most-words", "hostile-count", "Truncated", set_field(word_index, 2**32 - 1))
    yield Fault("a-word-less", "left-over", "Corrupt", set_field(word_index, words - 1))
    last = len(STREAM.unpack(bytes(STREAM.size))) - 1
    for bit in (0, 15):
        yield Fault(f"stream-reserved-bit-{bit}", "reserved-bits", "Corrupt", set_field(last, 1 << bit))
    three = coded(np.minimum(EXAMPLE, 2), table_log=5, lane_count=2)
    at, stored = counts_of(three)
    assert len(stored) == 3
    changed = three[: at + 3] + b"\1" + three[at + 4 :]
    yield Fault("padding-behind-counts", "reserved-bits", "Corrupt", sealed(changed))


def read_stream(data: bytes) -> Stream:
    """The stream of a frame."""
    stream = read_frame(data).block.stream
    assert stream is not None
    return stream


def stream_faults() -> Iterator[Fault]:
    """Streams that contradict themselves; all checksums of bytes are right."""
    data = FRAMES["coded"][0]
    stream = read_stream(data)
    for name, counts in (
        ("sum-31", [21, 0, 8, 2]), ("sum-33", [23, 0, 8, 2]), ("sum-16", [8, 0, 6, 2]), ("all-zero", [0, 0, 0, 0]),
        ("sum-8192", [4096, 0, 2048, 2048]), ("sum-48", [32, 0, 8, 8]),
    ):  # fmt: skip
        changed = with_stream(data, counts=np.array(counts, np.int64))
        yield Fault(f"counts-{name}", "bad-counts", "Corrupt", changed)
    for lanes in (0, 20, 2**16, 2**32 - 1):
        yield Fault(f"lanes-{lanes}-of-19", "bad-lanes", "Corrupt", with_stream(data, lane_count=lanes))
    yield Fault("lanes-19-of-19", "bad-lanes", "Truncated", with_stream(data, lane_count=19))
    for width in (32, 33, 255):
        yield Fault(f"length-width-{width}", "lane-length", "Corrupt", with_stream(data, length_width=width))
    yield Fault("length-width-31", "lane-length", "Truncated", with_stream(data, length_width=31))
    for base in (27, 2**31, 2**32 - 1):
        yield Fault(f"length-base-{base}", "lane-length", "Truncated", with_stream(data, length_base=base))
    yield Fault("last-lane-ends-behind-the-words", "lane-length", "Truncated", with_stream(data, length_base=26))
    for base in (0, 9, 11, 20):
        yield Fault(f"length-base-{base}", "lane-length", "Corrupt", with_stream(data, length_base=base))
    yield Fault("a-word-too-many", "left-over", "Corrupt",
                with_stream(data, words=np.append(stream.words, np.uint32(0))))  # fmt: skip
    yield Fault("no-words", "truncated", "Truncated", with_stream(data, words=stream.words[:0]))
    yield Fault("bit-behind-the-last-lane", "reserved-bits", "Corrupt",
                with_stream(data, words=stream.words | np.array([0, 1 << 31], np.uint32)))  # fmt: skip
    for bit in (0, 4, 5, 12, 20, 32):
        mask = np.array([1 << bit & 0xFFFFFFFF, 1 << bit >> 32], np.uint32)
        yield Fault(f"bit-{bit}-flipped", "damaged-stream", "Corrupt", with_stream(data, words=stream.words ^ mask))
    lengths = with_stream(data, words=stream.words ^ np.array([3 << 10, 0], np.uint32))
    yield Fault("lengths-exchanged", "damaged-stream", "Corrupt", lengths)
    for count in (10_000, 2**32, 2**40, 2**63 - 1, 2**64 - 1):
        yield Fault(f"coded-of-{count}", "hostile-count", "LimitExceeded", poke_header(data, "symbol_count", count))
    for count in (0, 1):
        yield Fault(f"coded-of-{count}", "hostile-count", "Corrupt", poke_header(data, "symbol_count", count))
    yield Fault("coded-of-18", "bad-symbols-crc", "Corrupt", poke_header(data, "symbol_count", 18))
    one = FRAMES["one-symbol"][0]
    yield Fault("one-symbol-with-bits", "lane-length", "Corrupt", with_stream(one, length_base=1))
    repeated = np.full(20, 3, np.uint8)
    yield Fault("packed-stream-of-one-byte", "hostile-count", "Corrupt", packed(repeated, lane_count=1))
    yield Fault("one-symbol-on-too-many-lanes", "bad-lanes", "Corrupt", with_stream(one, lane_count=10))


def class_faults() -> Iterator[Fault]:
    """Classes of rare symbols that cannot be."""
    data = FRAMES["coded"][0]
    for name, classes in (
        ("width-0", [0, 2]), ("width-9", [9, 0, 1]), ("width-255", [255, 0]), ("end-early", [1, 0]),
        ("width-alone", [1]), ("second-ends-early", [1, 0, 1, 2, 2, 3]), ("one-leader-twice", [1, 2, 3, 1, 2, 4]),
    ):  # fmt: skip
        changed = with_stream(data, classes=np.array(classes, np.uint8))
        yield Fault(f"classes-{name}", "bad-classes", "Corrupt", changed)
    literals = np.array([1, 0, 2], np.uint8)  # every 0 is now followed by a bit that nobody wrote
    yield Fault("classes-of-other-symbols", "lane-length", "Corrupt", with_stream(data, classes=literals))


def partial_faults() -> Iterator[Fault]:
    """Chunks that cannot be."""
    data = FRAMES["partial"][0]
    frame = read_frame(data)
    assert frame.block.chunks is not None
    for name, changes in (
        ("chunk-0", {"symbols": 0}), ("chunk-of-10", {"symbols": 10}), ("largest-chunk", {"symbols": 2**32 - 1}),
        ("no-coded-chunk", {"coded": 0}), ("no-raw-chunk", {"coded": 2}), ("more-coded-than-chunks", {"coded": 255}),
        ("one-chunk", {"per_block": 1}), ("no-chunks", {"per_block": 0}), ("five-chunks", {"per_block": 5}),
    ):  # fmt: skip
        chunks = replace(frame.block.chunks, **changes)
        changed = write_frame(replace(frame, block=replace(frame.block, chunks=chunks)))
        yield Fault(f"partial-{name}", "bad-chunks", "Corrupt", changed)
    at = HEADER.size + STREAM.size
    last = len(CHUNKS.unpack(bytes(CHUNKS.size))) - 1
    for bit in (0, 15):
        changed = poke(data, CHUNKS, at, last, 1 << bit)
        yield Fault(f"partial-reserved-chunk-bit-{bit}", "reserved-bits", "Corrupt", changed)
    raw = frame.block.raw
    for name, content, error in (("less", raw[:-1], "Truncated"), ("more", np.append(raw, raw[:1]), "Corrupt")):
        changed = write_frame(replace(frame, block=replace(frame.block, raw=content)))
        yield Fault(f"partial-a-raw-symbol-{name}", "bad-chunks", error, changed)
    for count in (2**40, 2**63, 2**64 - 1):
        yield Fault(f"partial-of-{count}", "hostile-count", "Truncated", poke_header(data, "symbol_count", count))
    yield Fault("partial-of-7", "bad-chunks", "Corrupt", poke_header(data, "symbol_count", 7))


def sharp_faults() -> Iterator[Fault]:
    """Streams that only one check of their own tells from valid ones: no checksum of symbols helps."""
    nine = np.zeros(9, np.uint8)
    for name, classes in (("count-0", b"\0"), ("a-member-too-many", b"\1\1\5\6\7"),
                          ("unused-leader-twice", b"\2\1\1\5\6\5\7")):  # fmt: skip
        data = framed(bare_stream(9, [32], 1, classes=classes), nine)
        yield Fault(f"classes-{name}", "bad-classes", "Corrupt", data)
    # (27 + 5 bits in a word, 1 lane) << 5 is 1056
    for count, error in ((1056, "Corrupt"), (1057, "LimitExceeded")):
        data = framed(bare_stream(count, [16, 16], 1, length_base=27), NOTHING)
        yield Fault(f"coded-{count}-in-one-word", "hostile-count", error, data)
    data = framed(bare_stream(10_000, [16, 16], 1, length_base=28), NOTHING)
    yield Fault("length-base-and-count", "truncated", "Truncated", data)
    data = framed(bare_stream(9, [32], 1, chunks=Chunks(2, 2, 2)), nine)
    yield Fault("partial-all-coded-without-raw", "bad-chunks", "Corrupt", data)
    stream = read_stream(FRAMES["coded"][0])
    longer = replace(stream, words=stream.words | np.array([1 << 11, 0], np.uint32))  # the last lane's length
    data = framed(Block("coded", 19, NOTHING, longer), EXAMPLE)
    yield Fault("last-lane-one-bit-longer", "lane-length", "Corrupt", data)
    data = write_frame(Frame(Block("raw", 0, NOTHING), 1))
    yield Fault("empty-symbols-crc", "bad-symbols-crc", "Corrupt", data)
