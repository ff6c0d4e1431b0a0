"""A tANS coder for one lane at a time, with Python integers and bit strings: slow, short, and written
from the documentation alone. A bit string holds the earliest bit first.
"""

from fractions import Fraction


def apportion(histogram, slots):
    """Webster's method with one seat guaranteed; ties go to the lower symbol."""
    counts = [1 if h else 0 for h in histogram]
    while sum(counts) < slots:
        gains = [Fraction(int(h), 2 * q + 1) for h, q in zip(histogram, counts, strict=True)]
        counts[gains.index(max(gains))] += 1
    return counts


def spread(counts):
    """The symbol of each state."""
    slots = [(1 << 16 if q == 1 else ((2 * j + 1) << 16) // (2 * q), s) for s, q in enumerate(counts) for j in range(q)]
    return [symbol for _, symbol in sorted(slots, key=lambda slot: slot[0])]


def decode_rows(counts):
    """(symbol, bit count, base) of each state."""
    size, number, rows = sum(counts), list(counts), []
    for symbol in spread(counts):
        x = number[symbol]
        number[symbol] += 1
        width = 0
        while x << width < size:
            width += 1
        rows.append((symbol, width, (x << width) - size))
    return rows


def field(value, width):
    return "".join(str(value >> i & 1) for i in range(width))


def number(bits):
    return sum(1 << i for i, bit in enumerate(bits) if bit == "1")


def encode_lane(symbols, rows):
    """(start state, bit string)."""
    state = next(i for i, row in enumerate(rows) if row[0] == symbols[-1])
    bits = ""
    for symbol in reversed(symbols[:-1]):
        origin = next(i for i, (s, width, base) in enumerate(rows) if s == symbol and 0 <= state - base < 1 << width)
        _, width, base = rows[origin]
        bits = field(state - base, width) + bits
        state = origin
    return state, bits


def decode_lane(state, bits, rows, steps):
    symbols, at = [], 0
    for _ in range(steps - 1):
        symbol, width, base = rows[state]
        symbols.append(symbol)
        state = base + number(bits[at : at + width])
        at += width
    assert at == len(bits)
    return [*symbols, rows[state][0]]


def deal(symbols, lanes, padding):
    steps = 4 * -(-len(symbols) // (4 * lanes))
    dealt = [[padding] * steps for _ in range(lanes)]
    for i, symbol in enumerate(symbols):
        dealt[i // 4 % lanes][4 * (i // (4 * lanes)) + i % 4] = symbol
    return dealt


def encode_words(symbols, counts, lanes):
    """(words, length base, length width) of a whole stream."""
    table_log = sum(counts).bit_length() - 1
    rows = decode_rows(counts)
    coded = [encode_lane(lane, rows) for lane in deal(symbols, lanes, counts.index(max(counts)))]
    lengths = [len(bits) for _, bits in coded]
    base = min(lengths)
    width = (max(lengths) - base).bit_length()
    stream = "".join(field(state, table_log) for state, _ in coded)
    stream += "".join(field(n - base, width) for n in lengths) + "".join(bits for _, bits in coded)
    return [number(stream[i : i + 32]) for i in range(0, len(stream), 32)], base, width


def decode_words(words, symbol_count, lanes, base, width, counts):
    """All symbols of a stream."""
    table_log = sum(counts).bit_length() - 1
    rows = decode_rows(counts)
    steps = 4 * -(-symbol_count // (4 * lanes))
    stream = "".join(field(int(word), 32) for word in words)
    at = lanes * (table_log + width)
    result = [0] * (steps * lanes)
    for k in range(lanes):
        state = number(stream[k * table_log : (k + 1) * table_log])
        length = base + number(stream[lanes * table_log + k * width : lanes * table_log + (k + 1) * width])
        for t, symbol in enumerate(decode_lane(state, stream[at : at + length], rows, steps)):
            result[4 * lanes * (t // 4) + 4 * k + t % 4] = symbol
        at += length
    return result[:symbol_count]
