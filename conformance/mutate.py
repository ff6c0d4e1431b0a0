"""Damaged frames: what a decoder must refuse, or decode, without ever falling over.

`mutations` damages a frame in every systematic way, one after the other; `mutate` draws damage at random. A checksum
hides what lies behind it, so both also give the damaged bytes with their frame checksum made right again (`seal`).
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

FRAME_CRC_AT = 20
HEADER_SIZE, STREAM_SIZE, CHUNKS_SIZE = 24, 20, 8
CODED, PARTIAL = 2, 3

# field -> (offset, bytes)
HEADER = {
    "magic": (0, 4), "version": (4, 1), "mode": (5, 1), "flags": (6, 1), "reserved": (7, 1), "symbol_count": (8, 8),
    "symbols_crc": (16, 4), "frame_crc": (FRAME_CRC_AT, 4),
}  # fmt: skip
STREAM = {
    "lane_count": (24, 4), "length_base": (28, 4), "word_count": (32, 4), "alphabet": (36, 2), "class_bytes": (38, 2),
    "length_width": (40, 1), "count_size": (41, 1), "stream_reserved": (42, 2),
}  # fmt: skip
CHUNKS = {"chunk": (44, 4), "chunks_per_block": (48, 1), "coded_chunks": (49, 1), "chunks_reserved": (50, 2)}
Field = tuple[int, int]


def seal(data: bytes) -> bytes:
    """The bytes with a frame checksum that is right; bytes without room for one stay as they are.

    Examples
    --------
    >>> seal(b"tANS" + bytes(20)).hex()[40:]
    '78823dae'
    """
    if len(data) < HEADER_SIZE:
        return data
    crc = zlib.crc32(data[HEADER_SIZE:], zlib.crc32(data[:FRAME_CRC_AT]))
    return data[:FRAME_CRC_AT] + struct.pack("<I", crc) + data[HEADER_SIZE:]


def seal_container(data: bytes) -> bytes:
    """A safetensors file in which every frame has the right checksum; other bytes stay as they are."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        entries = list(json.loads(data[8 : 8 + size]).values())
    except (struct.error, ValueError, AttributeError, RecursionError, OverflowError):
        return data
    for entry in entries:
        try:
            first, last = (8 + size + int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if 0 <= first <= last <= len(data) and data[first : first + 4] == b"tANS":
            data = data[:first] + seal(data[first:last]) + data[last:]
    return data


def fields_of(data: bytes) -> dict[str, Field]:
    """Offset and size of every field of a frame's headers that lies within the bytes.

    Examples
    --------
    >>> list(fields_of(bytes(30)))[-2:]
    ['symbols_crc', 'frame_crc']
    """
    mode = data[5] if len(data) > 5 else 0
    fields = HEADER | (STREAM if mode in (CODED, PARTIAL) else {}) | (CHUNKS if mode == PARTIAL else {})
    return {name: (at, size) for name, (at, size) in fields.items() if at + size <= len(data)}


def parts_of(data: bytes) -> dict[str, Field]:
    """Offset and size of what follows a frame's headers, as far as it lies within the bytes.

    Examples
    --------
    >>> from codec import encode
    >>> import numpy as np
    >>> parts_of(encode(np.tile(np.array([3, 3, 3, 4], np.uint8), 1000)))
    {'counts': (44, 5), 'classes': (49, 0), 'padding': (49, 3), 'words': (52, 408), 'raw': (460, 0)}
    """
    fields = fields_of(data)
    at = max((begin + size for begin, size in fields.values()), default=0)
    sizes = {"raw": len(data) - at}
    if "stream_reserved" in fields:
        words, alphabet, class_bytes = struct.unpack_from("<IHH", data, STREAM["word_count"][0])
        counts = alphabet * data[STREAM["count_size"][0]]
        padding = -(counts + class_bytes) % 4
        sizes = {"counts": counts, "classes": class_bytes, "padding": padding, "words": 4 * words, "raw": len(data)}
    parts = {}
    for name, size in sizes.items():
        parts[name] = at, min(size, len(data) - at)
        at += parts[name][1]
    return parts


def boundaries(data: bytes) -> list[int]:
    """Where a field or a part of a frame begins or ends.

    Examples
    --------
    >>> boundaries(bytes(30))
    [0, 4, 5, 6, 7, 8, 16, 20, 24, 30]
    """
    spans = [*fields_of(data).values(), *parts_of(data).values()]
    return sorted({0, len(data)} | {at for at, _ in spans} | {at + size for at, size in spans})


def set_field(data: bytes, field: Field, value: int) -> bytes:
    """The bytes with a little-endian field set, modulo its size.

    Examples
    --------
    >>> set_field(bytes(4), (1, 2), -1).hex()
    '00ffff00'
    """
    at, size = field
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]


def field_edits(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every header field set to 0, 1 and the largest number, and off by one."""
    for name, (at, size) in fields_of(data).items():
        value = int.from_bytes(data[at : at + size], "little")
        for how, changed in (("0", 0), ("1", 1), ("max", -1), ("less-1", value - 1), ("plus-1", value + 1)):
            yield f"{name}-{how}", set_field(data, (at, size), changed)


def truncations(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every proper prefix of the first 128 bytes, and prefixes that end at or next to the border of a part."""
    near = {place + step for place in boundaries(data) for step in (-1, 0, 1)}
    for size in sorted(near | set(range(129))):
        if 0 <= size < len(data):
            yield f"truncated-at-{size}", data[:size]


def byte_edits(data: bytes, *, limit: int = 256) -> Iterator[tuple[str, bytes]]:
    """One bit flipped, and the byte set to 0x00 and 0xff, at up to ``limit`` places spread over the bytes.

    All eight bits of bytes in the headers are flipped.
    """
    headers = max((at + size for at, size in fields_of(data).values()), default=0)
    rest = range(headers, len(data))
    step = max(1, -(-len(rest) // limit))
    for at in [*range(headers), *rest[::step]]:
        for bit in range(8) if at < headers else [at % 8]:
            yield f"byte-{at}-bit-{bit}", set_field(data, (at, 1), data[at] ^ 1 << bit)
        yield f"byte-{at}-00", set_field(data, (at, 1), 0)
        yield f"byte-{at}-ff", set_field(data, (at, 1), 255)


def splices(first: bytes, second: bytes) -> Iterator[tuple[str, bytes]]:
    """The head of one frame with the tail of another, cut at the borders of their parts."""
    for head in boundaries(first):
        for tail in boundaries(second):
            yield f"spliced-{head}-{tail}", first[:head] + second[tail:]


def additions(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes too many: behind the frame, and in front of a part."""
    for more in (b"\0", b"\xff", bytes(4)):
        for at in boundaries(data):
            yield f"{more.hex()}-at-{at}", data[:at] + more + data[at:]
    yield "twice", data + data


def mutations(frame: bytes, other: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """Damage a frame in every systematic way.

    Parameters
    ----------
    frame : bytes
    other : bytes, optional
        What to splice the frame with; default the frame itself.

    Yields
    ------
    (name, bytes)
        In an order and under names that depend on the two frames alone. Each edit comes as it is and, where that is
        something else, with the frame's checksum made right (``NAME-sealed``). Bytes equal to the frame's are left
        out.

    Examples
    --------
    >>> from codec import encode
    >>> import numpy as np
    >>> damaged = dict(mutations(encode(np.array([1, 2, 3], np.uint8))))
    >>> damaged["mode-max"][5], damaged["mode-max-sealed"][5], "truncated-at-20" in damaged
    (255, 255, True)
    """
    second = frame if other is None else other
    for edits in (truncations(frame), field_edits(frame), byte_edits(frame), additions(frame), splices(frame, second)):
        for name, data in edits:
            if data != frame:
                yield name, data
            if (sealed := seal(data)) not in (data, frame):
                yield f"{name}-sealed", sealed


def mutate(data: bytes, random: Random, *, other: bytes = b"", seal: Callable[[bytes], bytes] = seal) -> bytes:
    """One to four random edits, and mostly a right checksum.

    Parameters
    ----------
    data : bytes
        A frame, or anything.
    random : Random
    other : bytes
        What to splice with.
    seal : callable
        Makes checksums right: `seal`, or `seal_container` for safetensors files.

    Examples
    --------
    >>> mutate(b"tANS" + bytes(20), Random(1)) == mutate(b"tANS" + bytes(20), Random(1))
    True
    """
    for _ in range(random.choice([1, 1, 2, 4])):
        data = random.choice(EDITS)(data, random, other or data)
    return seal(data) if random.random() < 0.85 else data


def edit_field(data: bytes, random: Random, _other: bytes) -> bytes:
    """A header field set to something small, large, near or any."""
    fields = fields_of(data)
    if not fields:
        return data
    at, size = random.choice(list(fields.values()))
    value = int.from_bytes(data[at : at + size], "little")
    near = value + random.choice([-4, -2, -1, 1, 2, 4])
    choices = [0, 1, -1, near, near, value ^ 1 << random.randrange(8 * size), random.getrandbits(8 * size)]
    return set_field(data, (at, size), random.choice(choices))


def edit_byte(data: bytes, random: Random, _other: bytes) -> bytes:
    """Some byte set to 0x00, 0xff or anything, or one bit of it flipped."""
    if not data:
        return data
    at = random.randrange(len(data))
    return set_field(data, (at, 1), random.choice([0, 255, data[at] ^ 1 << random.randrange(8), random.randrange(256)]))


def edit_length(data: bytes, random: Random, _other: bytes) -> bytes:
    """Bytes cut off at the end, taken out or put in."""
    begin = random.choice([*boundaries(data), random.randint(0, len(data))])
    size = random.choice([1, 4, random.randint(0, len(data))])
    shorter, longer = data[:begin] + data[begin + size :], data[:begin] + bytes(size) + data[begin:]
    return random.choice([data[:begin], shorter, longer])


def edit_splice(data: bytes, random: Random, other: bytes) -> bytes:
    """The head of one frame, the tail of another."""
    return data[: random.choice(boundaries(data))] + other[random.choice(boundaries(other)) :]


EDITS = (edit_field, edit_field, edit_byte, edit_byte, edit_byte, edit_length, edit_splice)
