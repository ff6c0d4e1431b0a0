"""The loops that touch every symbol, jitted: bit for bit those of refimpl.tans.

Lanes are independent. A *tile* of 64 neighbouring lanes is coded side by side (`codec.vector`), group of four
steps by group; the last tile of a range overlaps the one before it, a tile of fewer lanes is filled up
with copies. Ranges of lanes run in threads. Literals are rare: the vector code says which lanes met one, they
are looked after every few groups.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from codec.choice import cheapest_model, normalize_counts
from codec.spread import spread_slots
from codec.vector import LANES, PARTS, copy_row, decode_group, encode_group, lowest_bit, prefetch, read64, write64
from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.classes import ClassTable
from refimpl.tans.lanes import GROUP, lane_length
from refimpl.tans.stream import Kernels
from refimpl.tans.tables import DecodeTable, EncodeTable

LITERAL_FLAG = np.uint32(1 << 31)
LEADER_FLAG = np.uint32(1 << 7)
CHUNK_BITS = 1 << 31  # room for so many bits at a time, nearly always more than are used
ROW = GROUP * LANES  # symbols of a tile that lie side by side
BLOCK = 16  # groups between looking after literals, while they are near
MAX_TILE_BITS_LOG = 33  # then 32 bits are enough to number its bytes
AHEAD = 4  # groups between fetching memory and using it
THREAD_SYMBOLS = 1 << 18  # fewer symbols are not worth a thread


def histogram(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Twin of `refimpl.tans.counts.histogram`.

    Examples
    --------
    >>> histogram(np.array([2, 0, 2], np.uint8))
    array([1, 0, 2])
    """
    counts = np.zeros(256, np.int64)
    count_symbols(read_only(symbols.reshape(-1)), np.zeros((4, (1 << 16) + 64), np.uint32), counts)
    return counts[: int(np.flatnonzero(counts)[-1]) + 1 if symbols.size else 0]


def encode_lanes(
    symbols: npt.NDArray[np.uint8], lane_count: int, padding: int, table: EncodeTable, classes: ClassTable,
    *, jobs: int = 1,
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:  # fmt: skip
    """Twin of `refimpl.tans.encoding.encode_lanes`: same arguments, same words."""
    symbols = read_only(symbols)
    steps = lane_length(len(symbols), lane_count)
    entries, next_state, first_states = pack_encode_table(table, classes)
    widths = classes.width[classes.leader]
    step_bits = (int(table.bit_count_delta.max()) >> 16) + 1 + int(widths.max())  # of a symbol and its literal, at most
    start_states = np.empty(lane_count, np.uint16)
    bit_lengths = np.empty(lane_count, np.int64)

    def encode(first: int, last: int) -> npt.NDArray[np.uint32]:
        count = last - first
        buffer = np.empty(count * steps * step_bits // 32 + 20, np.uint32)
        used = encode_range(
            symbols, lane_count, first, last, steps, padding, entries, next_state, first_states, widths, classes.index,
            start_states, bit_lengths, buffer.view(np.uint8),
        )  # fmt: skip
        return buffer[: (used + 31) // 32]  # what lies behind was never touched and takes no memory

    room = CHUNK_BITS // (steps * step_bits)
    ranges = lane_ranges(lane_count, min(-(-lane_count // jobs), room))
    parts = run(encode, ranges, jobs if len(symbols) > THREAD_SYMBOLS else 1)
    lengths = [int(bit_lengths[first:last].sum()) for first, last in ranges]
    return start_states, bit_lengths, join_bits(parts, lengths)


def decode_lanes(
    words: npt.NDArray[np.uint32], first_bit: int, start_states: npt.NDArray[np.uint16],
    bit_lengths: npt.NDArray[np.int64], table: DecodeTable, classes: ClassTable, symbol_count: int,
    packed: bool = False, *, jobs: int = 1,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Twin of `refimpl.tans.decoding.decode_lanes`: same arguments, same symbols, same errors."""
    lane_count = len(start_states)
    steps = lane_length(symbol_count, lane_count)
    data = read_only(at_least_eight(words)).view(np.uint8)
    ends = first_bit + np.cumsum(bit_lengths)
    starts = ends - bit_lengths
    symbols = aligned_bytes(steps * lane_count * (2 if packed else 1))
    entries = pack_decode_table(table, classes)

    def decode(first: int, last: int) -> int:
        return decode_range(
            data, lane_count, first, last, starts, ends, start_states, entries,
            classes.width, classes.first, classes.member, packed, symbols,
        )  # fmt: skip

    ranges = lane_ranges(lane_count, -(-lane_count // jobs))
    bad = [lane for lane in run(decode, ranges, jobs if symbol_count > THREAD_SYMBOLS else 1) if lane >= 0]
    if bad:
        raise Corrupt(f"lane {min(bad)} does not use exactly its bits")
    return symbols[: symbol_count * (2 if packed else 1)]


def numba_kernels(jobs: int = 1) -> Kernels:
    """The jitted kernels on so many threads; the bytes do not depend on it.

    Raises
    ------
    InvalidArgument
        Fewer than one.

    Examples
    --------
    >>> numba_kernels(2).histogram(np.array([0, 1, 1], np.uint8))
    array([1, 2])
    """
    if jobs < 1:
        raise InvalidArgument(f"jobs is {jobs}, at least one is needed")
    return Kernels(
        histogram, normalize_counts, cheapest_model, spread_slots, partial(encode_lanes, jobs=jobs),
        partial(decode_lanes, jobs=jobs), append_bits, pack_fields, unpack_fields, pack_nibbles,
    )  # fmt: skip


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous view that nobody writes to: Numba compiles once for both kinds of arrays."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """Memory that begins with a cache line: rows of a tile then share no line with the next tile's.

    Examples
    --------
    >>> aligned_bytes(100).ctypes.data % 64
    0
    """
    memory = np.empty(size + 63, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size]


def lane_ranges(lane_count: int, each: int) -> list[tuple[int, int]]:
    """Ranges of at least ``each`` lanes, in whole tiles.

    Examples
    --------
    >>> lane_ranges(200, 100)
    [(0, 128), (128, 200)]
    """
    size = max(1, -(-each // LANES)) * LANES
    return [(first, min(first + size, lane_count)) for first in range(0, lane_count, size)]


def run(task: Callable[[int, int], Any], ranges: list[tuple[int, int]], jobs: int) -> list[Any]:
    """Results of a task on every range of lanes, in order."""
    if jobs == 1 or len(ranges) == 1:
        return [task(first, last) for first, last in ranges]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda lanes: task(*lanes), ranges))


def append_bits(
    head: npt.NDArray[np.uint32], head_bits: int, tail: npt.NDArray[np.uint32], tail_bits: int
) -> npt.NDArray[np.uint32]:
    """Twin of `refimpl.tans.bits.append_bits`.

    Examples
    --------
    >>> append_bits(np.array([5], np.uint32), 3, np.array([3], np.uint32), 2)
    array([29], dtype=uint32)
    """
    return join_bits([head, tail], [head_bits, tail_bits])


def join_bits(parts: list[npt.NDArray[np.uint32]], lengths: list[int]) -> npt.NDArray[np.uint32]:
    """Bit runs put behind one another; the bits behind a run's end are zero.

    Examples
    --------
    >>> join_bits([np.array([5], np.uint32), np.array([3], np.uint32)], [3, 2])
    array([29], dtype=uint32)
    """
    if len(parts) == 1:
        return parts[0]
    count = (sum(lengths) + 31) // 32
    words = np.empty(count + 2, np.uint32)  # room behind a part's last bits
    words[-4:] = 0
    at = 0
    for part, length in zip(parts, lengths, strict=True):
        if len(part):
            copy_bits(read_only(part.view(np.uint8)), words.view(np.uint8), at)
        at += length
    return words[:count]


def pack_fields(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint32]:
    """Twin of `refimpl.tans.bits.pack_fields`.

    Examples
    --------
    >>> pack_fields(np.array([1, 2, 3]), 2)
    array([57], dtype=uint32)
    """
    count = (len(values) * width + 31) // 32
    words = np.empty(count + 2, np.uint32)  # room behind the last field
    words[-4:] = 0
    write_equal(values, width, words.view(np.uint8))
    return words[:count]


def unpack_fields(words: npt.NDArray[np.uint32], first_bit: int, width: int, count: int) -> npt.NDArray[np.int64]:
    """Twin of `refimpl.tans.bits.unpack_fields`.

    Examples
    --------
    >>> unpack_fields(np.array([57], np.uint32), 0, 2, 3)
    array([1, 2, 3])
    """
    values = np.empty(count, np.int64)
    read_equal(read_only(at_least_eight(words)).view(np.uint8), first_bit, width, values)
    return values


def at_least_eight(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Words of eight bytes or more, which one load takes."""
    return words if len(words) >= 2 else np.concatenate([words, np.zeros(2, np.uint32)])


def pack_nibbles(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Twin of `refimpl.tans.nibbles.pack_nibbles`.

    Examples
    --------
    >>> pack_nibbles(np.array([1, 2, 15], np.uint8))
    array([33, 15], dtype=uint8)
    """
    packed = np.empty((len(symbols) + 1) // 2, np.uint8)
    pack_pairs(read_only(symbols), packed)
    return packed


NUMBA = numba_kernels()


def pack_decode_table(table: DecodeTable, classes: ClassTable) -> npt.NDArray[np.uint32]:
    """One word per state, at the table's size plus the state.

    Bit count in bits 0-4, whether the symbol leads a class in 7, symbol in 8-15; above it what becomes the size plus
    the next state when the bits are put behind it. A shift takes its count from the lowest bits of a register.
    """
    size = len(table.symbol)
    of_symbol = np.arange(256, dtype=np.uint32) << np.uint32(8) | np.where(classes.width > 0, LEADER_FLAG, np.uint32(0))
    entries = np.zeros(2 * size, np.uint32)
    upper = entries[size:]
    np.add(table.base, np.uint32(size), out=upper)
    upper >>= table.bit_count
    upper <<= np.uint32(16)
    upper |= of_symbol[table.symbol]
    upper |= table.bit_count
    return entries


def pack_encode_table(
    table: EncodeTable, classes: ClassTable
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """One word per symbol, and the next states; states have the table's size added.

    A symbol's word is that of its leader: in bits 0-16 what added to a state makes the bit count its bits from 13 on,
    in 17-29 the first slot modulo 2**13, in 31 whether a literal follows. The third array has the state from which
    a symbol's lowest state is reached: the largest count of bits, all of them zero.
    """
    size = len(table.next_state)
    largest = (table.bit_count_delta.astype(np.int64) + size - 1) >> 16
    threshold = size + (largest << 16) - table.bit_count_delta  # from this state on, a step gives off `largest` bits
    first_slot = table.first_slot.astype(np.int64) & 8191
    entries, first_states = np.zeros(256, np.uint32), np.zeros(256, np.uint32)
    entries[: len(largest)] = np.maximum(0, (largest << 13) - threshold) | first_slot << 17
    first_states[: len(largest)] = threshold
    flags = np.where(classes.width[classes.leader] > 0, LITERAL_FLAG, np.uint32(0))
    next_state = table.next_state.astype(np.uint32) + np.uint32(size)
    return entries[classes.leader] | flags, next_state, first_states[classes.leader]


@njit(nogil=True)
def count_symbols(symbols: Any, tables: Any, counts: Any) -> Any:
    """Add how often each of 256 symbols occurs; the tables of pairs are zero before and after."""
    # Two at a time, in four tables: equal neighbours would wait for each other's store, and so would those whose
    # addresses have the same low 12 bits.
    whole = len(symbols) & ~7
    pair, one = np.uint64(0xFFFF), np.uint32(1)
    for begin in range(0, whole, 1 << 35):  # a counter of 32 bits overflows after so many
        for i in range(begin, min(begin + (1 << 35), whole), 8):
            eight = read64(symbols, i)
            tables[0, eight & pair] += one
            tables[1, eight >> np.uint64(16) & pair] += one
            tables[2, eight >> np.uint64(32) & pair] += one
            tables[3, eight >> np.uint64(48)] += one
        for second in range(256):
            total = np.int64(0)
            for first in range(256):
                found = np.int64(0)
                for k in range(4):
                    found += np.int64(tables[k, 256 * second + first])
                    tables[k, 256 * second + first] = 0
                counts[first] += found
                total += found
            counts[second] += total
    for i in range(whole, len(symbols)):
        counts[symbols[i]] += 1


@njit(nogil=True)
def decode_range(
    data: Any, lane_count: Any, first_lane: Any, last_lane: Any, starts: Any, ends: Any, start_states: Any, table: Any,
    width: Any, first_member: Any, member: Any, packed: Any, symbols: Any,
) -> Any:  # fmt: skip
    """Decode lanes [first_lane, last_lane); return -1 or the first that does not use exactly its bits."""
    each = 2 if packed else 1  # symbols that a step yields
    groups = len(symbols) // (each * GROUP * lane_count)
    size = len(table) // 2
    last_byte = len(data) - 8
    state, place, shift = np.empty(LANES, np.int32), np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    end = np.empty(LANES, np.int64)
    met = np.empty(BLOCK * PARTS, np.uint64)  # a bit for each leader
    words = np.empty(BLOCK * PARTS + 1, np.uint32)  # those with any
    leaders = np.empty(BLOCK * ROW + 1, np.uint32)  # where they are
    row = np.empty(2 * ROW, np.uint8)
    bad = -1
    begin = first_lane
    while begin < last_lane:
        tile = max(first_lane, min(begin, last_lane - LANES))
        count = min(LANES, last_lane - tile)
        while count > 1 and (ends[tile + count - 1] - starts[tile]) >> MAX_TILE_BITS_LOG:
            tile, count = begin, min(count // 2, last_lane - begin)
        first = min(starts[tile] >> 3, last_byte)
        last = np.int32(min(last_byte - first, (1 << 31) - 1))  # where a window may begin, from there
        for k in range(LANES):
            lane = tile + min(k, count - 1)
            state[k] = np.int32(size) | np.int32(start_states[lane]) & np.int32(size - 1)
            place[k] = min((starts[lane] >> 3) - first, last)
            shift[k] = starts[lane] - 8 * (first + place[k])
            end[k] = ends[lane]
        bits = (ends[tile + count - 1] - starts[tile]) // groups  # of a group
        for block in range(0, groups, BLOCK):
            following = min(block + BLOCK, groups)
            any_met = np.uint64(0)
            for g in range(block, following):
                keep = np.int32(15 if g < groups - 1 else 0)  # the last symbol is in the state alone
                at = each * GROUP * (g * lane_count + tile)
                # A row is a long way from the one before: fetch it early, or each store waits for memory.
                ahead = each * GROUP * lane_ahead(g + AHEAD, groups, lane_count, tile)
                prefetch(symbols, ahead)
                if packed:
                    prefetch(symbols, ahead + ROW)
                prefetch(data, ends[tile + count - 1] + g * bits >> 3)  # the next tile's
                any_met |= decode_group(
                    data, first, last, table, state, place, shift, keep, np.int32(packed),
                    symbols, at, row, np.int32(count == LANES), met, (g - block) * PARTS,
                )  # fmt: skip
                if count < LANES:
                    for i in range(each * GROUP * count):
                        symbols[at + i] = row[i]
            if any_met:
                found = list_bits(met, (following - block) * PARTS, words, leaders)
                for i in range(found):
                    g, unit = block + leaders[i] // ROW, leaders[i] % ROW
                    k = unit // GROUP
                    if k < count:
                        at = each * (GROUP * (g * lane_count + tile) + unit)
                        end[k] = read_literal(
                            data, last_byte, symbols, at, packed, end[k], width, first_member, member
                        )  # fmt: skip
        for k in range(count):
            if 8 * (first + place[k]) + shift[k] != end[k] and bad < 0:
                bad = tile + k
        begin = tile + count
    return bad


@njit(nogil=True)
def lane_ahead(g: Any, groups: Any, lane_count: Any, tile: Any) -> Any:
    """Where group g of a tile begins, in lanes; behind its last group or before its first come the next tile's."""
    if 0 <= g < groups:
        return g * lane_count + tile
    return (g - groups if g > 0 else g + groups) * lane_count + tile + LANES


@njit(nogil=True)
def list_bits(masks: Any, count: Any, words: Any, places: Any) -> Any:
    """Write where bits of so many words are set; return how many. One more place may be written, and one more word."""
    # How many there are cannot be foreseen: no branches, but for words with more than two.
    some = 0
    for i in range(count):
        words[some] = i
        some += masks[i] != 0
    found = 0
    one = np.uint64(1)
    for k in range(some):
        word = np.int64(words[k])
        mask = masks[word]
        for _ in range(2):
            places[found] = 64 * word + lowest_bit(mask)
            found += mask != 0
            mask &= mask - one
        while mask:
            places[found] = 64 * word + lowest_bit(mask)
            found += 1
            mask &= mask - one
    return found


@njit(nogil=True)
def read_literal(
    data: Any, last_byte: Any, symbols: Any, at: Any, packed: Any, end: Any, width: Any, first_member: Any, member: Any
) -> Any:
    """Replace a leader by the member meant; return where the lane's next literal ends."""
    leader = np.int64(symbols[at]) | (np.int64(symbols[at + 1]) << 4 if packed else 0)
    bits = np.int64(width[leader])
    end -= bits
    first = max(np.int64(0), end)
    byte = min(first >> 3, last_byte)
    literal = np.int64(read64(data, byte) >> np.uint64(first - 8 * byte)) & ((1 << bits) - 1)
    found = member[first_member[leader] + literal]
    if packed:
        symbols[at], symbols[at + 1] = found & 15, found >> 4
    else:
        symbols[at] = found
    return end


@njit(nogil=True)
def encode_range(
    symbols: Any, lane_count: Any, first_lane: Any, last_lane: Any, steps: Any, padding: Any, table: Any,
    next_state: Any, first_states: Any, width: Any, index: Any, start_states: Any, bit_lengths: Any, data: Any,
) -> Any:  # fmt: skip
    """Code lanes [first_lane, last_lane) into ``data``; return the number of bits."""
    n = len(symbols)
    groups = steps // GROUP
    size = np.int32(len(next_state))
    # Streams of a tile's lanes, one behind another, each of which grows towards its beginning. Behind those of
    # fewer lanes than a tile has is one more for all copies. An odd number of cache lines: ends share no place.
    lines = (6 * groups + 79) // 64 | 1
    slots = min(LANES, last_lane - first_lane + 1)
    streams = np.empty(64 * lines * slots + 128, np.uint8)
    state, place, used = np.empty(LANES, np.int32), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    held = np.empty(LANES, np.uint64)
    row = np.empty(ROW, np.uint8)
    met = np.empty(BLOCK * PARTS, np.uint64)  # a bit for each symbol that a literal follows
    words = np.empty(BLOCK * PARTS + 1, np.uint32)  # those with any
    leaders = np.empty(BLOCK * ROW + 1, np.uint32)  # where they are
    literals, found = np.empty(slots * steps, np.uint8), np.empty(LANES, np.int64)  # of each lane, and where they end
    at = np.int64(0)  # bits written
    for tile in range(first_lane, last_lane, LANES):
        count = min(LANES, last_lane - tile)
        for k in range(LANES):
            place[k] = 64 * lines * (min(k, slots - 1) + 1) - 8
            used[k] = held[k] = 0
            found[k] = k * steps
        for block in range((groups - 1) // BLOCK * BLOCK, -1, -BLOCK):
            following = min(block + BLOCK, groups)
            any_met = np.uint64(0)
            for g in range(following - 1, block - 1, -1):
                begin = GROUP * (g * lane_count + tile)
                prefetch(symbols, GROUP * lane_ahead(g - AHEAD, groups, lane_count, tile))
                whole = count == LANES and begin + ROW <= n
                if not whole:
                    for i in range(ROW):
                        row[i] = symbols[begin + i] if i < GROUP * count and begin + i < n else padding
                keep = np.int32(15)
                if g == groups - 1:  # begin so that the last symbol is coded by its lowest state, in no bits
                    keep = np.int32(0)
                    for k in range(LANES):
                        i = GROUP * k + GROUP - 1
                        state[k] = first_states[symbols[begin + i] if whole else row[i]]
                any_met |= encode_group(
                    symbols, begin, row, np.int32(whole), table, next_state, state, keep, place, used, held, streams,
                    met, (g - block) * PARTS,
                )  # fmt: skip
            if any_met:  # the decoder reads literals from the end: those of the last symbols come first
                for i in range(list_bits(met, (following - block) * PARTS, words, leaders) - 1, -1, -1):
                    unit = leaders[i] % ROW
                    k = unit // GROUP
                    if k < count:
                        begin = GROUP * ((block + leaders[i] // ROW) * lane_count + tile) + unit
                        literals[found[k]] = symbols[begin] if begin < n else padding
                        found[k] += 1
        for k in range(count):
            start_states[tile + k] = state[k] - size
            begin = 8 * (place[k] + 8) - used[k]
            following = move_bits(streams, begin, 512 * lines * (k + 1) - begin, data, at)
            carry = np.uint64(data[following >> 3]) & np.uint64((1 << (following & 7)) - 1)
            for i in range(k * steps, found[k]):
                symbol = literals[i]
                carry, following = append(data, following, carry, np.uint64(index[symbol]), np.int64(width[symbol]))
            bit_lengths[tile + k] = following - at
            at = following
    write64(data, at >> 3, np.uint64(data[at >> 3]) & np.uint64((1 << (at & 7)) - 1))  # nothing behind the last bits
    return at


@njit(nogil=True)
def append(data: Any, at: Any, carry: Any, value: Any, count: Any) -> Any:
    """Write a field of up to 56 bits at bit ``at``; return the bits of the byte begun, and the new position."""
    whole = carry | value << np.uint64(at & 7)
    write64(data, at >> 3, whole)
    following = at + count
    return whole >> np.uint64(8 * ((following >> 3) - (at >> 3))), following


@njit(nogil=True)
def move_bits(source: Any, begin: Any, count: Any, data: Any, at: Any) -> Any:
    """Put ``count`` bits behind the first ``at`` and return where they end.

    Up to 64 bytes behind them are overwritten, 72 bytes behind the source's are read, and seven bits before them.
    """
    byte, used = at >> 3, at & 7
    before = (1 << used) - 1
    kept = np.int64(data[byte]) & before
    for done in range(0, used + count, 512):
        copy_row(source, begin - used + done, data, byte + (done >> 3))
    data[byte] = kept | np.int64(data[byte]) & ~before
    return at + count


@njit(nogil=True)
def write_equal(values: Any, width: Any, data: Any) -> Any:
    """Fields of one width behind one another."""
    at = 0
    carry = np.uint64(0)
    for i in range(len(values)):
        carry, at = append(data, at, carry, np.uint64(values[i]), width)
    write64(data, at >> 3, carry)


@njit(nogil=True)
def read_equal(data: Any, at: Any, width: Any, values: Any) -> Any:
    """Read fields of one width from bit ``at`` on."""
    for i in range(len(values)):
        byte = min(at >> 3, len(data) - 8)
        values[i] = np.int64(read64(data, byte) >> np.uint64(at - 8 * byte)) & ((1 << width) - 1)
        at += width


@njit(nogil=True)
def copy_bits(part: Any, data: Any, at: Any) -> Any:
    """Put whole bytes at bit ``at``; what is in front of it in its byte stays, the byte behind is begun."""
    byte, used, size = at >> 3, at & 7, len(part)
    data[byte] = np.int64(data[byte]) & ((1 << used) - 1) | np.int64(part[0]) << used
    i = 1
    while i + 71 <= size:
        copy_row(part, 8 * i - used, data, byte + i)
        i += 64
    while i <= size:
        two = np.int64(part[i - 1]) | (np.int64(part[i]) << 8 if i < size else 0)
        data[byte + i] = two >> (8 - used)
        i += 1


@njit(nogil=True)
def pack_pairs(symbols: Any, packed: Any) -> Any:
    """Two symbols below 16 to a byte."""
    for i in range(len(symbols) // 2):
        packed[i] = symbols[2 * i] | symbols[2 * i + 1] << 4
    if len(symbols) % 2:
        packed[-1] = symbols[-1]
