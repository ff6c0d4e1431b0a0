"""A tANS coder for one lane at a time, with Python integers and bit strings: slow, short, and written
from the documentation alone. A bit string holds the earliest bit first, a class its leader first.
"""

import math
from fractions import Fraction
from itertools import accumulate, zip_longest

from conformance.frames import table_of


def apportion(histogram, slots):
    """Webster's method with one seat guaranteed; ties go to the lower symbol."""
    counts = [1 if h else 0 for h in histogram]
    while sum(counts) < slots:
        gains = [Fraction(int(h), 2 * q + 1) for h, q in zip(histogram, counts, strict=True)]
        counts[gains.index(max(gains))] += 1
    return counts


def spread(counts):
    """The symbol of each state."""
    return [symbol for symbol, _, _ in decode_rows(counts)]


def decode_rows(counts):
    """(symbol, bit count, base) of each state."""
    return table_of(tuple(counts)).rows


def field(value, width):
    return "".join(str(value >> i & 1) for i in range(width))


def number(bits):
    return sum(1 << i for i, bit in enumerate(bits) if bit == "1")


def read_classes(stored):
    """The members of each class, from [count][widths][members]."""
    classes, at = [], 1 + stored[0] if stored else 0
    for width in stored[1:at]:
        classes.append(stored[at : at + 2**width])
        at += 2**width
    return classes


def in_class(symbol, classes):
    """(leader, literal, its width): of several classes with the symbol the last, of several places the first."""
    for members in reversed(classes):
        if symbol in members:
            return members[0], members.index(symbol), len(members).bit_length() - 1
    return symbol, 0, 0


def merged(histogram, classes):
    """How often each symbol is coded if symbols of a class are coded as their leader."""
    result = [0] * len(histogram)
    for symbol, h in enumerate(histogram):
        if h:
            result[in_class(symbol, classes)[0]] += h
    return result


def part_price(occurrences, width, total, table_log, literal_price=1 << 16):
    """Of a class of 2**width symbols, or a symbol on its own, in 2**-16 bits."""
    size = 1 << table_log
    slots = max(1, math.floor(Fraction(occurrences * size, total) + Fraction(1, 2)))
    code = occurrences * ((table_log << 16) - math.floor(65536 * math.log2(slots)))
    room = slots * (total * round(65536 * math.log2(math.e)) // size)
    literals = occurrences * ((width << 16) + literal_price) + (8 * (1 + 2**width) << 16)
    return code + room + (literals if width else 0)


def plan_price(histogram, classes, table_log, literal_price=1 << 16):
    """Of classes and of all symbols in none."""
    parts = [({*members}, len(members).bit_length() - 1) for members in classes]
    parts += [({s}, 0) for s, h in enumerate(histogram) if h and not any(s in members for members in classes)]
    total = sum(histogram)
    sums = [(sum(histogram[s] for s in part), width) for part, width in parts]
    return sum(part_price(h, width, total, table_log, literal_price) for h, width in sums)


def cheapest_price(histogram, table_log, literal_price=1 << 16):
    """Of all ways to cut the line of symbols, rarest first, into parts of 2**width; the last may be short."""
    line, total = sorted(h for h in histogram if h), sum(histogram)

    def cheapest(rest):
        if not rest:
            return 0
        widths = [width for width in range(9) if width == 0 or 2 ** (width - 1) < len(rest)]
        prices = [part_price(sum(rest[: 2**width]), width, total, table_log, literal_price) for width in widths]
        return min(price + cheapest(rest[2**width :]) for price, width in zip(prices, widths, strict=True))

    return cheapest(line)


def plan(histogram, table_log, literal_price=1 << 16):
    """The classes of the cheapest cut: dynamic programming over every part, of equal sums the first."""
    line, total = sorted((s for s, h in enumerate(histogram) if h), key=lambda s: histogram[s]), sum(histogram)
    sums = [0, *accumulate(histogram[s] for s in line)]
    best, parts = [0] + [math.inf] * len(line), [None] * (len(line) + 1)
    for b in range(len(line)):
        for width in range(min(8, (len(line) - b - 1).bit_length()) + 1):
            e = min(b + 2**width, len(line))
            price = best[b] + part_price(sums[e] - sums[b], width, total, table_log, literal_price)
            if price < best[e]:
                best[e], parts[e] = price, (b, width)
    classes, e = [], len(line)
    while e:
        b, width = parts[e]
        if width:
            classes.insert(0, line[b:e] + line[b : b + 1] * (2**width - (e - b)))
        e = b
    return classes


def pack(symbols):
    """Two symbols below 16 a byte, the first in the low half."""
    return [low + 16 * high for low, high in zip_longest(symbols[::2], symbols[1::2], fillvalue=0)]


def unpack(packed):
    return [half for byte in packed for half in (byte % 16, byte // 16)]


def encode_lane(symbols, rows, classes=()):
    """(start state, bit string)."""
    coded = [in_class(symbol, classes) for symbol in symbols]
    state = next(i for i, row in enumerate(rows) if row[0] == coded[-1][0])
    bits = ""
    for leader, _, _ in reversed(coded[:-1]):
        origin = next(i for i, (s, width, base) in enumerate(rows) if s == leader and 0 <= state - base < 1 << width)
        _, width, base = rows[origin]
        bits = field(state - base, width) + bits
        state = origin
    return state, bits + "".join(field(literal, width) for _, literal, width in reversed(coded))


def decode_lane(state, bits, rows, steps, classes=()):
    led = {members[0]: members for members in classes}
    symbols, at, end = [], 0, len(bits)
    for step in range(steps):
        leader, width, base = rows[state]
        members = led.get(leader, [leader])
        literal = len(members).bit_length() - 1
        symbols.append(members[number(bits[end - literal : end])])
        end -= literal
        if step < steps - 1:
            state = base + number(bits[at : at + width])
            at += width
    assert at == end
    return symbols


def deal(symbols, lanes, padding):
    steps = 4 * -(-len(symbols) // (4 * lanes))
    dealt = [[padding] * steps for _ in range(lanes)]
    for i, symbol in enumerate(symbols):
        dealt[i // 4 % lanes][4 * (i // (4 * lanes)) + i % 4] = symbol
    return dealt


def encode_words(symbols, counts, lanes, classes=(), padding=None):
    """(words, length base, length width) of a whole stream."""
    table_log = sum(counts).bit_length() - 1
    rows = decode_rows(counts)
    padding = counts.index(max(counts)) if padding is None else padding
    coded = [encode_lane(lane, rows, classes) for lane in deal(symbols, lanes, padding)]
    lengths = [len(bits) for _, bits in coded]
    base = min(lengths)
    width = (max(lengths) - base).bit_length()
    stream = "".join(field(state, table_log) for state, _ in coded)
    stream += "".join(field(n - base, width) for n in lengths) + "".join(bits for _, bits in coded)
    return [number(stream[i : i + 32]) for i in range(0, len(stream), 32)], base, width


def decode_words(words, symbol_count, lanes, base, width, counts, classes=()):
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
        for t, symbol in enumerate(decode_lane(state, stream[at : at + length], rows, steps, classes)):
            result[4 * lanes * (t // 4) + 4 * k + t % 4] = symbol
        at += length
    return result[:symbol_count]
