"""The three loops that touch every symbol, jitted: bit for bit those of refimpl.tans.

Lanes are independent, so a processor overlaps their table look-ups by itself if it meets many
lanes in a row: the inner loop runs over a tile of lanes, the outer one over groups of four steps.
Four steps read at most 48 bits, which one unaligned 64-bit load provides.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from refimpl.errors import Corrupt
from refimpl.tans.lanes import lane_length
from refimpl.tans.stream import Kernels
from refimpl.tans.tables import DecodeTable, EncodeTable

TILE = 64  # lanes in the inner loop: their states, windows and output rows stay in the L1 cache


def histogram(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Twin of `refimpl.tans.counts.histogram`.

    Examples
    --------
    >>> histogram(np.array([2, 0, 2], np.uint8))
    array([1, 0, 2])
    """
    counts: npt.NDArray[np.int64] = count_symbols(np.ascontiguousarray(symbols).reshape(-1))
    return counts[: int(np.flatnonzero(counts)[-1]) + 1 if len(symbols) else 0]


def encode_lanes(
    symbols: npt.NDArray[np.uint8], lane_count: int, padding: int, table: EncodeTable
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Twin of `refimpl.tans.encoding.encode_lanes`: same arguments, same words."""
    steps = lane_length(len(symbols), lane_count)
    start_states = np.empty(lane_count, np.uint16)
    bit_lengths = np.empty(lane_count, np.int64)
    chunks = []
    pending = np.zeros(2, np.uint64)  # bits of the last, unfinished word, and how many
    most = steps * (len(table.next_state).bit_length() - 1)  # bits of the longest possible lane
    lanes_at_once = max(TILE, min(lane_count, (1 << 25) // max(most, 1)) // TILE * TILE)
    for first in range(0, lane_count, lanes_at_once):
        last = min(first + lanes_at_once, lane_count)
        words = np.empty((last - first) * most // 32 + 2, np.uint32)
        used = encode_tile_range(
            symbols, lane_count, first, last, steps, padding,
            table.bit_count_delta, table.first_slot, table.next_state, table.last_state,
            start_states, bit_lengths, pending, words,
        )  # fmt: skip
        chunks.append(words[:used].copy())
    if pending[1]:
        chunks.append(pending[:1].astype(np.uint32))
    return start_states, bit_lengths, np.concatenate(chunks)


def decode_lanes(
    words: npt.NDArray[np.uint32],
    first_bit: int,
    start_states: npt.NDArray[np.uint16],
    bit_lengths: npt.NDArray[np.int64],
    table: DecodeTable,
    symbol_count: int,
) -> npt.NDArray[np.uint8]:
    """Twin of `refimpl.tans.decoding.decode_lanes`: same arguments, same symbols, same errors."""
    lane_count = len(start_states)
    steps = lane_length(symbol_count, lane_count)
    padded = np.zeros(len(words) + 2, np.uint32)  # room for one load behind the last word
    padded[: len(words)] = words
    symbols = np.empty(steps * lane_count, np.uint8)
    position = first_bit + np.cumsum(bit_lengths) - bit_lengths
    bad = decode_rows(
        padded.view(np.uint8), 4 * len(words), position, bit_lengths, start_states, pack_table(table), symbols
    )
    if bad >= 0:
        raise Corrupt(f"lane {bad} does not use exactly its bits")
    return symbols[:symbol_count]


NUMBA = Kernels(histogram, encode_lanes, decode_lanes)


def pack_table(table: DecodeTable) -> npt.NDArray[np.uint32]:
    """One 32-bit word per state: bit count in bits 0-7, symbol in 8-15, base in 16-31.

    A shift takes its count from the lowest bits of a register, so the bit count lies there.
    """
    packed = table.bit_count | table.symbol.astype(np.uint32) << np.uint32(8)
    return packed | table.base.astype(np.uint32) << np.uint32(16)


def load64(_context: Any, data: Any, _offset: Any) -> Any:
    """Type and code of ``read64(data, offset)``: 8 bytes at any byte offset as a little-endian number."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.int64), codegen


read64: Any = intrinsic(load64)


@njit(nogil=True)
def count_symbols(symbols: Any) -> Any:
    """How often each of 256 symbols occurs."""
    # Four tables: equal neighbours would wait for each other's store.
    tables = np.zeros((4, 256), np.int64)
    whole = len(symbols) // 4 * 4
    for i in range(0, whole, 4):
        tables[0, symbols[i]] += 1
        tables[1, symbols[i + 1]] += 1
        tables[2, symbols[i + 2]] += 1
        tables[3, symbols[i + 3]] += 1
    for i in range(whole, len(symbols)):
        tables[0, symbols[i]] += 1
    return tables[0] + tables[1] + tables[2] + tables[3]


@njit(nogil=True)
def decode_rows(
    data: Any, byte_count: Any, position: Any, bit_lengths: Any, start_states: Any, table: Any, symbols: Any
) -> Any:
    """Fill symbols (groups of 4 * lanes); return -1 or the first lane that does not use exactly its bits."""
    lanes = len(start_states)
    groups = len(symbols) // (4 * lanes)
    one, three, eight, sixteen = np.uint64(1), np.uint64(3), np.uint64(8), np.uint64(16)
    low6 = np.uint64(63)  # bit counts are below 16; this mask costs nothing, a shift has it built in
    mask = np.uint64(len(table) - 1)
    state = np.empty(TILE, np.uint64)  # below the table size by construction
    at = np.empty(TILE, np.uint64)
    limit = np.uint64(byte_count)
    for first in range(0, lanes, TILE):
        count = min(TILE, lanes - first)
        for k in range(count):
            state[k] = np.uint64(start_states[first + k]) & mask
            at[k] = position[first + k]
        for g in range(groups - 1):
            out = np.uint64(4 * (g * lanes + first))
            for k in range(count):
                p = at[k]
                window = read64(data, np.int64(min(p >> three, limit))) >> (p & np.uint64(7))
                e = np.uint64(table[state[k]])
                symbols[out] = np.uint8(e >> eight)
                b = e & low6
                p += b
                s = (e >> sixteen) + (window & ((one << b) - one))
                window >>= b
                e = np.uint64(table[s])
                symbols[out + one] = np.uint8(e >> eight)
                b = e & low6
                p += b
                s = (e >> sixteen) + (window & ((one << b) - one))
                window >>= b
                e = np.uint64(table[s])
                symbols[out + np.uint64(2)] = np.uint8(e >> eight)
                b = e & low6
                p += b
                s = (e >> sixteen) + (window & ((one << b) - one))
                window >>= b
                e = np.uint64(table[s])
                symbols[out + three] = np.uint8(e >> eight)
                b = e & low6
                state[k] = (e >> sixteen) + (window & ((one << b) - one))
                at[k] = p + b
                out += np.uint64(4)
        for k in range(count):  # the last group: its fourth symbol reads no bits
            p = at[k]
            window = read64(data, np.int64(min(p >> three, limit))) >> (p & np.uint64(7))
            s = state[k]
            for j in range(4):
                e = np.uint64(table[s])
                symbols[4 * ((groups - 1) * lanes + first + k) + j] = np.uint8(e >> eight)
                if j < 3:
                    b = e & low6
                    p += b
                    s = (e >> sixteen) + (window & ((one << b) - one))
                    window >>= b
            if np.int64(p) != position[first + k] + bit_lengths[first + k]:
                return first + k
    return -1


@njit(nogil=True)
def encode_tile_range(
    symbols: Any, lane_count: Any, first_lane: Any, last_lane: Any, steps: Any, padding: Any,
    bit_count_delta: Any, first_slot: Any, next_state: Any, last_state: Any,
    start_states: Any, bit_lengths: Any, pending: Any, words: Any,
) -> Any:  # fmt: skip
    """Code lanes [first_lane, last_lane) and append their bits to ``pending`` + ``words``; return words used."""
    size = np.uint64(len(next_state))
    one, s16, s32 = np.uint64(1), np.uint64(16), np.uint64(32)
    capacity = steps * 12 // 32 + 2  # words of the longest lane
    scratch = np.empty((TILE, capacity), np.uint32)  # each lane's words, filled from the end
    state = np.empty(TILE, np.uint64)
    top = np.empty(TILE, np.int64)  # free word in scratch
    held = np.empty(TILE, np.uint64)  # bits not yet in scratch, the earliest to be read lowest
    held_count = np.empty(TILE, np.uint64)
    groups = steps // 4
    acc, acc_count = pending[0], pending[1]
    used = 0
    four = np.empty(4, np.uint8)
    n = len(symbols)
    for first in range(first_lane, last_lane, TILE):
        count = min(TILE, last_lane - first)
        for g in range(groups - 1, -1, -1):
            for k in range(count):
                start = 4 * (g * lane_count + first + k)
                if start + 4 <= n:
                    a, b, c, d = symbols[start], symbols[start + 1], symbols[start + 2], symbols[start + 3]
                else:
                    for j in range(4):
                        four[j] = symbols[start + j] if start + j < n else np.uint8(padding)
                    a, b, c, d = four[0], four[1], four[2], four[3]
                if g == groups - 1:
                    s = np.uint64(last_state[d])
                    h, m, t = np.uint64(0), np.uint64(0), np.int64(capacity - 1)
                else:
                    s, h, m, t = state[k], held[k], held_count[k], top[k]
                    w = (s + np.uint64(bit_count_delta[d])) >> s16 & np.uint64(15)
                    h = h << w | s & ((one << w) - one)
                    m += w
                    s = np.uint64(next_state[np.int64(first_slot[d]) + np.int64((size + s) >> w)])
                w = (s + np.uint64(bit_count_delta[c])) >> s16 & np.uint64(15)
                h = h << w | s & ((one << w) - one)
                m += w
                s = np.uint64(next_state[np.int64(first_slot[c]) + np.int64((size + s) >> w)])
                # A word is stored each time and kept only if it is full: no branch.
                full = m >> np.uint64(5)  # 0 or 1
                scratch[k, t] = np.uint32(h >> (m - s32 & np.uint64(63)))
                t -= np.int64(full)
                m -= full << np.uint64(5)
                w = (s + np.uint64(bit_count_delta[b])) >> s16 & np.uint64(15)
                h = h << w | s & ((one << w) - one)
                m += w
                s = np.uint64(next_state[np.int64(first_slot[b]) + np.int64((size + s) >> w)])
                w = (s + np.uint64(bit_count_delta[a])) >> s16 & np.uint64(15)
                h = h << w | s & ((one << w) - one)
                m += w
                s = np.uint64(next_state[np.int64(first_slot[a]) + np.int64((size + s) >> w)])
                full = m >> np.uint64(5)
                scratch[k, t] = np.uint32(h >> (m - s32 & np.uint64(63)))
                t -= np.int64(full)
                m -= full << np.uint64(5)
                state[k], held[k], held_count[k], top[k] = s, h, m, t
        for k in range(count):
            start_states[first + k] = state[k]
            m = held_count[k]
            bit_lengths[first + k] = np.int64(m) + 32 * (capacity - 1 - top[k])
            acc |= (held[k] & ((one << m) - one)) << acc_count
            acc_count += m
            if acc_count >= s32:
                words[used] = np.uint32(acc)
                used += 1
                acc >>= s32
                acc_count -= s32
            for kept in range(top[k] + 1, capacity):
                acc |= np.uint64(scratch[k, kept]) << acc_count
                words[used] = np.uint32(acc)
                used += 1
                acc >>= s32
    pending[0], pending[1] = acc, acc_count
    return used
