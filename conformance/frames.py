"""Valid frames that no writer of ours would make, and the symbols they must decode to.

A writer is free in much: any normalized counts, classes and lanes will do, any symbol may pad a lane, a lane
may end in any state of its last symbol, fields may be wider than needed. Here all of it is left to a
`random.Random`: an ordinary one, or Hypothesis's own (`conformance.strategies.frames`).

The coder is written from docs/spec/ alone, with Python's integers and one symbol at a time: it shares no line with
the code that it tests.
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MODES = ("raw", "constant", "coded", "partial")
TABLE_LOGS = (5, 12)
MAX_CLASS_BYTES = (1 << 16) - 1

Bits = tuple[int, int]  # (value, width), the lowest bit first


class ValidFrame(NamedTuple):
    """A frame and its symbols."""

    data: bytes
    symbols: npt.NDArray[np.uint8]


class Route(NamedTuple):
    """One way to code a symbol: a symbol of the table, and a literal behind it."""

    leader: int
    literal: int
    width: int  # bits of the literal, 0 for no class


class Coded(NamedTuple):
    """A stream and its model."""

    lane_count: int
    length_base: int
    length_width: int
    counts: list[int]
    classes: bytes
    words: bytes


class Table(NamedTuple):
    """The decoder's table and its inverse."""

    rows: list[tuple[int, int, int]]  # of each state: symbol, bit count, base
    states: dict[int, list[int]]  # of each symbol: its states by ascending base


def draw_frame(
    random: Random,
    *,
    modes: Sequence[str] = MODES,
    packed: bool | None = None,
    table_logs: tuple[int, int] = TABLE_LOGS,
    with_classes: bool | None = None,
    max_units: int = 300,
    max_lanes: int | None = None,
) -> ValidFrame:
    """A valid frame of any kind.

    Parameters
    ----------
    random : Random
    modes : sequence of {"raw", "constant", "coded", "partial"}
    packed : bool, optional
        Whether two symbols share a byte; default any, a constant frame never is.
    table_logs : (int, int)
        Smallest and largest.
    with_classes : bool, optional
        Whether there are classes of rare symbols; default any.
    max_units : int
        Symbols, or bytes of packed symbols, at most; at least 2.
    max_lanes : int, optional

    Examples
    --------
    >>> from codec import decode
    >>> frame = draw_frame(Random(0), modes=["coded", "partial"], max_lanes=5)
    >>> bool((decode(frame.data) == frame.symbols).all())
    True
    """
    mode = random.choice(modes)
    pack = mode != "constant" and (random.random() < 0.3 if packed is None else packed)
    if mode == "constant":
        symbols = np.full(random.randint(0, max_units), random.randrange(256), np.uint8)
        symbol = symbols[0] if len(symbols) else random.randrange(256)
        return ValidFrame(frame_bytes(mode, bytes([symbol]), symbols), symbols)
    if mode == "raw":
        units = draw_units(random, range(256), random.randint(0, max_units))
        symbols = symbols_of(random, units, packed=pack)
        return ValidFrame(frame_bytes(mode, bytes(units), symbols, packed=pack), symbols)
    chunks, raw_at = None, np.zeros(random.randint(1, max_units), bool)
    if mode == "partial":
        chunks = draw_chunks(random, max_units)
        raw_at = raw_units(random.randint(chunks[0] * chunks[1], max_units), chunks)
    counts, classes = draw_model(random, table_logs, with_classes=with_classes, repeats=not (pack and mode == "coded"))
    stream, coded = draw_stream(random, counts, classes, int((~raw_at).sum()), max_lanes=max_lanes)
    raw = draw_units(random, range(256), int(raw_at.sum()))
    merged = np.empty(len(raw_at), np.uint8)
    merged[raw_at], merged[~raw_at] = raw, coded
    symbols = symbols_of(random, merged.tolist(), packed=pack)
    body = stream_bytes(random, stream, chunks) + bytes(raw)
    return ValidFrame(frame_bytes(mode, body, symbols, packed=pack), symbols)


def draw_model(
    random: Random, table_logs: tuple[int, int] = TABLE_LOGS, *, with_classes: bool | None = None, repeats: bool = True
) -> tuple[list[int], bytes]:
    """(normalized counts, classes) that have nothing to do with each other.

    Parameters
    ----------
    random : Random
    table_logs : (int, int)
    with_classes : bool, optional
    repeats : bool
        Allow models that code a single symbol in no bits; a packed block must not have one.
    """
    table_log = random.randint(*table_logs)
    counts = draw_counts(random, table_log)
    classes = b"" if with_classes is False else draw_classes(random, counts, least=1 if with_classes else 0)
    if not repeats and sum(count > 0 for count in counts) == 1:
        counts = draw_counts(random, table_log, least_present=2)
    return counts, classes


def draw_counts(random: Random, table_log: int, *, least_present: int = 1, max_alphabet: int = 256) -> list[int]:
    """Normalized counts of any kind, with zeros in front, between and behind.

    Examples
    --------
    >>> counts = draw_counts(Random(1), 5)
    >>> sum(counts), len(counts) <= 256
    (32, True)
    """
    slots = 1 << table_log
    alphabet = random.randint(least_present, max_alphabet)
    present = random.randint(least_present, min(alphabet, slots, random.choice([4, 16, 256])))
    some = random.sample(range(1, slots), present - 1)
    cuts = sorted(some) if random.random() < 0.8 else list(range(1, present))  # the latter: one slot for all but one
    shares = [end - begin for begin, end in zip([0, *cuts], [*cuts, slots], strict=True)]
    random.shuffle(shares)
    counts = [0] * alphabet
    for symbol, share in zip(random.sample(range(alphabet), present), shares, strict=True):
        counts[symbol] = share
    return counts


def draw_classes(random: Random, counts: Sequence[int] = (), *, least: int = 0, max_classes: int = 255) -> bytes:
    """Valid stored classes, or none: members that never occur, that repeat, that lead other classes.

    Leaders are mostly symbols with slots, where counts are given.

    Examples
    --------
    >>> stored = draw_classes(Random(2), least=1)
    >>> len(stored) == 1 + stored[0] + sum(1 << width for width in stored[1 : 1 + stored[0]])
    True
    """
    present = [symbol for symbol, count in enumerate(counts) if count] or list(range(256))
    count = random.randint(least, min(max_classes, max(least, random.choice([0, 1, 1, 2, 5, 255]))))
    leaders = random.sample(range(256), count)
    if count <= len(present) and random.random() < 0.8:
        leaders = random.sample(present, count)
    largest = random.choice([1, 2, 4, 8])
    widths = [random.randint(1, largest) for _ in leaders]
    while 1 + len(widths) + sum(1 << width for width in widths) > MAX_CLASS_BYTES:
        widths[widths.index(max(widths))] -= 1
    members = b""
    for leader, width in zip(leaders, widths, strict=True):
        others = random.choice([range(256), present, leaders, [leader]])
        members += bytes([leader, *draw_units(random, others, (1 << width) - 1)])
    return bytes([len(leaders), *widths]) + members if leaders else b""


def draw_chunks(random: Random, max_units: int) -> tuple[int, int, int]:
    """(units per chunk, chunks per block, coded chunks) of which a block has at most ``max_units`` units.

    Examples
    --------
    >>> size, per_block, coded = draw_chunks(Random(3), 300)
    >>> size * per_block <= 300, 1 <= coded < per_block
    (True, True)
    """
    per_block = random.randint(2, min(255, max_units, random.choice([2, 4, 16, 255])))
    return random.randint(1, max_units // per_block), per_block, random.randint(1, per_block - 1)


def draw_units(random: Random, allowed: Sequence[int], count: int) -> list[int]:
    """So many numbers of those allowed, evenly or mostly few of them.

    Examples
    --------
    >>> units = draw_units(Random(0), [3, 9], 4)
    >>> len(units), set(units) <= {3, 9}
    (4, True)
    """
    few = random.sample(allowed, min(len(allowed), random.choice([1, 2, 4, 256]))) if allowed else []
    # Longer runs come from a generator of their own: Hypothesis would shrink them number by number.
    source = random if count <= 16 else Random(random.getrandbits(32))  # noqa: S311
    return [source.choice(few if source.random() < 0.95 else allowed) for _ in range(count)]


def symbols_of(random: Random, units: Sequence[int], *, packed: bool) -> npt.NDArray[np.uint8]:
    """The symbols of raw or decoded bytes; of packed ones an odd number may be meant."""
    if not packed:
        return np.array(units, np.uint8)
    symbols = np.array([half for unit in units for half in (unit & 15, unit >> 4)], np.uint8)
    return symbols[: max(0, len(symbols) - random.randint(0, 1))]


def raw_units(count: int, chunks: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Which units of a partial frame are stored raw.

    Examples
    --------
    >>> raw_units(10, (2, 2, 1)).astype(int).tolist()
    [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    """
    size, per_block, coded = chunks
    index = np.arange(count)
    whole = count // (size * per_block) * size * per_block
    return (index < whole) & (index // size % per_block < per_block - coded)


def routes_of(counts: Sequence[int], classes: bytes) -> dict[int, list[Route]]:
    """How each symbol can be coded; symbols that cannot are left out.

    Examples
    --------
    >>> routes_of([31, 1], bytes([1, 1, 1, 0]))[0]
    [Route(leader=0, literal=0, width=0), Route(leader=1, literal=1, width=1)]
    """
    widths = classes[1 : 1 + classes[0]] if classes else b""
    at = 1 + len(widths)
    groups: dict[int, tuple[int, bytes]] = {}
    for width in widths:
        groups[classes[at]] = width, classes[at : at + (1 << width)]
        at += 1 << width
    routes: dict[int, list[Route]] = {}
    for leader, count in enumerate(counts):
        if count:
            width, members = groups.get(leader, (0, bytes([leader])))
            for literal, member in enumerate(members):
                routes.setdefault(member, []).append(Route(leader, literal, width))
    return routes


@lru_cache(maxsize=256)
def table_of(counts: tuple[int, ...]) -> Table:
    """Decoder's table of normalized counts.

    Examples
    --------
    >>> table_of((22, 0, 8, 2)).rows[1]
    (2, 2, 0)
    """
    size, number = sum(counts), list(counts)
    keys = [(1 << 16 if q == 1 else ((2 * j + 1) << 16) // (2 * q), s) for s, q in enumerate(counts) for j in range(q)]
    rows: list[tuple[int, int, int]] = []
    states: dict[int, list[int]] = {}
    for state, (_, symbol) in enumerate(sorted(keys, key=lambda key: key[0])):
        x = number[symbol]
        number[symbol] += 1
        width = size.bit_length() - x.bit_length()
        rows.append((symbol, width, (x << width) - size))
        states.setdefault(symbol, []).append(state)
    for symbol, of_symbol in states.items():
        states[symbol] = sorted(of_symbol, key=lambda state: rows[state][2])
    return Table(rows, states)


def encode_lane(random: Random, routes: Sequence[Route], table: Table) -> tuple[int, list[Bits]]:
    """(start state, fields) of a lane that ends in any state of its last symbol."""
    state = random.choice(table.states[routes[-1].leader])
    fields = []
    for route in reversed(routes[:-1]):
        states = table.states[route.leader]
        origin = states[bisect_right(states, state, key=lambda s: table.rows[s][2]) - 1]
        _, width, base = table.rows[origin]
        fields.append((state - base, width))
        state = origin
    return state, fields[::-1] + [(route.literal, route.width) for route in reversed(routes)]


def deal(random: Random, units: Sequence[int], routes: dict[int, list[Route]], lanes: int) -> list[list[Route]]:
    """Routes of each lane; what fills up the last lanes is any symbol."""
    steps = 4 * -(-len(units) // (4 * lanes))
    every = [route for ways in routes.values() for route in ways]
    dealt = [[random.choice(every)] * steps for _ in range(lanes)]
    for i, unit in enumerate(units):
        dealt[i // 4 % lanes][4 * (i // (4 * lanes)) + i % 4] = random.choice(routes[unit])
    return dealt


def draw_stream(
    random: Random, counts: list[int], classes: bytes, unit_count: int, *, max_lanes: int | None = None
) -> tuple[Coded, list[int]]:
    """(stream, its units) of a model, on any lanes, coded in any of the possible ways."""
    routes = routes_of(counts, classes)
    units = draw_units(random, sorted(routes), unit_count)
    most = min(unit_count, max_lanes or unit_count)
    lanes = random.randint(1, random.choice([most, min(most, 8)]))
    random = Random(random.getrandbits(32))  # noqa: S311
    table = table_of(tuple(counts))
    coded = [encode_lane(random, lane, table) for lane in deal(random, units, routes, lanes)]
    lengths = [sum(width for _, width in fields) for _, fields in coded]
    base = random.choice([min(lengths), min(lengths), random.randint(0, min(lengths))])
    needed = (max(lengths) - base).bit_length()
    width = random.choice([needed, needed, min(needed + 1, 31), random.randint(needed, 31)])
    table_log = sum(counts).bit_length() - 1
    words = word_bytes(
        [(state, table_log) for state, _ in coded]
        + [(length - base, width) for length in lengths]
        + [field for _, fields in coded for field in fields]
    )
    return Coded(lanes, base, width, counts, classes, words), units


def stream_bytes(random: Random, stream: Coded, chunks: tuple[int, int, int] | None = None) -> bytes:
    """A stream and the headers in front of it as they stand in a frame, fields perhaps wider than needed."""
    counts = [*stream.counts, *[0] * random.choice([0, 0, 0, random.randint(0, 256 - len(stream.counts))])]
    size = 2 if max(counts) > 255 or random.random() < 0.2 else 1
    model = struct.pack(f"<{len(counts)}{'BH'[size - 1]}", *counts) + stream.classes
    numbers = stream.lane_count, stream.length_base, len(stream.words) // 4, len(counts), len(stream.classes)
    header = struct.pack("<IIIHHBBH", *numbers, stream.length_width, size, 0)
    header += b"" if chunks is None else struct.pack("<IBBH", *chunks, 0)
    return header + model + bytes(-len(model) % 4) + stream.words


def word_bytes(fields: Iterable[Bits]) -> bytes:
    """Bit fields one behind the other, and zero bits up to a whole word.

    Examples
    --------
    >>> word_bytes([(1, 1), (0, 2), (5, 3)]).hex()
    '29000000'
    """
    text = "".join(f"{value:0{width}b}"[::-1] for value, width in fields if width)
    text += "0" * (-len(text) % 32)
    return bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))


def frame_bytes(mode: str, body: bytes, symbols: npt.NDArray[np.uint8], *, packed: bool = False) -> bytes:
    """A frame with both checksums right.

    Examples
    --------
    >>> frame_bytes("constant", bytes([7]), np.full(3, 7, np.uint8))[24:].hex()
    '07'
    """
    head = b"tANS" + struct.pack(
        "<BBBBQI", 1, MODES.index(mode), packed, 0, len(symbols), zlib.crc32(symbols.tobytes())
    )
    return head + struct.pack("<I", zlib.crc32(head + body)) + body
