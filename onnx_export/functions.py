"""The `ai.tansor` functions: tANS decoding and dequantization in standard ONNX operators.

Written in ONNX's own text form, so that what is read here is what the file holds, there with shorter names
of intermediate values. Only operators and signatures that are the same from opset 11 on are used, and none
that the CUDA provider lacks: no bit operators (a shift is a Div, a mask a Mod), no 8-bit arithmetic.

============================ =========================================================
input                        meaning (docs/spec/onnx.md)
============================ =========================================================
stream  uint16 [n]           the stream's words as little-endian halves
counts  uint8|uint16 [a]     normalized counts
layout  int64 [5 + rank]     symbols of the stream, table_log, lane_count, length_base,
                             length_width, then the shape of the result
classes uint8 [b]            classes of rare symbols
raw     uint8 [m]            partial: the chunks that are not coded
chunks  int64 [3]            partial: symbols per chunk, chunks per block, coded chunks
bands   uint8 [(n + 1) / 2]  band of each channel, two in a byte
channels int64 [1]           number of channels n
scale   float32 [..]         broadcastable to the shape
zero_point uint8 [..]        broadcastable to the shape
============================ =========================================================

A tensor in bands: one call for each band, a Concat of them, and a call of ``Interleave`` that puts the channels back.

Attributes: ``to`` is the element type of the result; ``stored_crc`` and ``symbols_crc`` are the CRC-32
of the stored inputs (their bytes in order) and of the decoded symbols. The bodies do not check
them, ``tansor verify`` does.
"""

import re
from collections.abc import Iterable
from itertools import product
from string import ascii_lowercase

import onnx
import onnx.parser

DOMAIN = "ai.tansor"
DOMAIN_VERSION = 1
MIN_OPSET = 11

# Fields of `width` bits at bit `position` of the stream: three halves make a window of 48 bits.
FIELDS = """
Fields (halves, position, width) => (field) {
    i1 = Constant <value = int64 {1}> ()
    i16 = Constant <value = int64 {16}> ()
    i65536 = Constant <value = int64 {65536}> ()
    powers = Constant <value = int64[32] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304, 8388608, 16777216,
        33554432, 67108864, 134217728, 268435456, 536870912, 1073741824, 2147483648}> ()
    half = Div(position, i16)
    half1 = Add(half, i1)
    half2 = Add(half1, i1)
    low = Gather(halves, half)
    middle = Gather(halves, half1)
    high = Gather(halves, half2)
    high_up = Mul(high, i65536)
    upper = Add(high_up, middle)
    upper_up = Mul(upper, i65536)
    window = Add(upper_up, low)
    shift = Mod(position, i16)
    divisor = Gather(powers, shift)
    shifted = Div(window, divisor)
    modulus = Gather(powers, width)
    field = Mod(shifted, modulus)
}"""

# One decoding step of all lanes. A window of 31 bits begins at every half: at most 15 are shifted out,
# 16 are left and 12 are needed.
STEP = """
Step (symbols, widths, bases, windows, state, position) => (column, next_state, next_position) {
    i16 = Constant <value = int64 {16}> ()
    powers = Constant <value = int32[16] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768}> ()
    column_shape = Constant <value = int64[2] {-1, 1}> ()
    symbol = Gather(symbols, state)
    width = Gather(widths, state)
    base = Gather(bases, state)
    half = Div(position, i16)
    shift = Mod(position, i16)
    window = Gather(windows, half)
    divisor = Gather(powers, shift)
    shifted = Div(window, divisor)
    modulus = Gather(powers, width)
    bits = Mod(shifted, modulus)
    next_state = Add(base, bits)
    next_position = Add(position, width)
    column = Reshape(symbol, column_shape)
}"""

STEPS = """
Steps (stream, counts, layout) => (stepped, ends_at, halves) {
    # Constants.
    i0 = Constant <value = int64 {0}> ()
    i1 = Constant <value = int64 {1}> ()
    i2 = Constant <value = int64 {2}> ()
    i3 = Constant <value = int64 {3}> ()
    i4 = Constant <value = int64 {4}> ()
    i32768 = Constant <value = int64 {32768}> ()
    i65536 = Constant <value = int64 {65536}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    flat = Constant <value = int64[1] {-1}> ()
    column_shape = Constant <value = int64[2] {-1, 1}> ()
    yes = Constant <value = bool {1}> ()
    powers = Constant <value = int64[13] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}> ()
    p32768 = Constant <value = int32 {32768}> ()
    p65536 = Constant <value = int32 {65536}> ()
    zeros = Constant <value = int32[4] {0, 0, 0, 0}> ()

    # Layout.
    symbol_count = Gather(layout, i0)
    table_log = Gather(layout, i1)
    lane_count = Gather(layout, i2)
    length_base = Gather(layout, i3)
    length_width = Gather(layout, i4)

    # Symbol spread: slots listed symbol by symbol, sorted by key.
    q = Cast <to = 7> (counts)
    size = Gather(powers, table_log)
    slot = Range(i0, size, i1)
    ends = CumSum(q, i0)
    firsts = Sub(ends, q)
    slot_column = Reshape(slot, column_shape)
    is_below = Less(slot_column, ends)
    below = Cast <to = 1> (is_below)
    slot_symbol = ArgMax <axis = 1, keepdims = 0> (below)
    slot_first = Gather(firsts, slot_symbol)
    slot_number = Sub(slot, slot_first)
    slot_q = Gather(q, slot_symbol)
    number_up = Mul(slot_number, i65536)
    odd = Add(number_up, i32768)
    even_key = Div(odd, slot_q)
    single = Equal(slot_q, i1)
    key = Where(single, i65536, even_key)
    key_up = Mul(key, size)
    unique_key = Add(key_up, slot)
    size_vector = Reshape(size, flat)
    sorted_key, slot_order = TopK <axis = 0, largest = 0, sorted = 1> (unique_key, size_vector)

    # State table.
    slot_state = Add(slot_q, slot_number)
    number = Gather(slot_state, slot_order)
    number_column = Reshape(number, column_shape)
    doubled = Mul(number_column, powers)
    is_short = Less(doubled, size)
    short = Cast <to = 1> (is_short)
    widths = ArgMin <axis = 1, keepdims = 0> (short)
    factor = Gather(powers, widths)
    whole = Mul(number, factor)
    base = Sub(whole, size)
    bases = Cast <to = 6> (base)
    symbol = Gather(slot_symbol, slot_order)
    symbols = Cast <to = 2> (symbol)

    # Windows.
    unpadded = Cast <to = 6> (stream)
    padded = Concat <axis = 0> (unpadded, zeros)
    halves = Cast <to = 7> (padded)
    low = Slice(padded, v0, flat)
    high = Slice(padded, v1, far)
    high_part = Mod(high, p32768)
    high_up = Mul(high_part, p65536)
    windows = Add(low, high_up)

    # Start states and lane lengths.
    lane = Range(i0, lane_count, i1)
    start_at = Mul(lane, table_log)
    start = ai.tansor.Fields(halves, start_at, table_log)
    start_state = Cast <to = 6> (start)
    states_end = Mul(lane_count, table_log)
    length_offset = Mul(lane, length_width)
    length_at = Add(states_end, length_offset)
    length_more = ai.tansor.Fields(halves, length_at, length_width)
    lengths = Add(length_base, length_more)
    lane_firsts = CumSum <exclusive = 1> (lengths, i0)
    lengths_size = Mul(lane_count, length_width)
    side_end = Add(states_end, lengths_size)
    start_position = Add(side_end, lane_firsts)
    ends_at = Add(start_position, lengths)

    # Four steps at a time: lanes write neighbouring groups of four symbols.
    lanes_by_four = Mul(lane_count, i4)
    symbols_up = Add(symbol_count, lanes_by_four)
    symbols_over = Sub(symbols_up, i1)
    groups = Div(symbols_over, lanes_by_four)
    end_state, end_position, rows = Loop(groups, yes, start_state, start_position) <body = decode_four (
        int64 group, bool go, int32[K] state0, int64[K] position0
    ) => (bool go_on, int32[K] state4, int64[K] position4, uint8[M] row) {
        go_on = Identity(go)
        column0, state1, position1 = ai.tansor.Step(symbols, widths, bases, windows, state0, position0)
        column1, state2, position2 = ai.tansor.Step(symbols, widths, bases, windows, state1, position1)
        column2, state3, position3 = ai.tansor.Step(symbols, widths, bases, windows, state2, position2)
        column3, state4, position4 = ai.tansor.Step(symbols, widths, bases, windows, state3, position3)
        square = Concat <axis = 1> (column0, column1, column2, column3)
        row = Reshape(square, flat)
    }>
    stepped = Reshape(rows, flat)
}"""

# Literals lie at the end of each lane, the first of them last. A symbol's literal ends where the widths of all
# literals of its lane up to its own, taken from the lane's end, lead.
RESOLVE = """
Resolve (stepped, ends_at, halves, layout, classes) => (resolved) {
    i0 = Constant <value = int64 {0}> ()
    i2 = Constant <value = int64 {2}> ()
    i4 = Constant <value = int64 {4}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v2 = Constant <value = int64[1] {2}> ()
    v3 = Constant <value = int64[1] {3}> ()
    v4 = Constant <value = int64[1] {4}> ()
    v256 = Constant <value = int64[1] {256}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    flat = Constant <value = int64[1] {-1}> ()
    column_shape = Constant <value = int64[2] {-1, 1}> ()
    powers = Constant <value = int64[16] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768}> ()

    # Width and first member of the class that each symbol leads.
    classes64 = Cast <to = 7> (classes)
    class_count = Slice(classes64, v0, v1)
    widths_end = Add(class_count, v1)
    class_widths = Slice(classes64, v1, widths_end)
    members = Slice(classes, widths_end, far)
    members64 = Cast <to = 7> (members)
    sizes = Gather(powers, class_widths)
    class_firsts = CumSum <exclusive = 1> (sizes, i0)
    leaders = Gather(members64, class_firsts)
    leaders_column = Reshape(leaders, column_shape)
    zeros = Expand(i0, v256)
    width_of = ScatterND(zeros, leaders_column, class_widths)
    first_of = ScatterND(zeros, leaders_column, class_firsts)

    # Bits that the literals of each lane take up to and with each symbol's.
    symbol_at = Cast <to = 6> (stepped)
    width_of32 = Cast <to = 6> (width_of)
    width_at = Gather(width_of32, symbol_at)
    lane_count = Slice(layout, v2, v3)
    by_lane_shape = Concat <axis = 0> (flat, lane_count, v4)
    by_lane = Reshape(width_at, by_lane_shape)
    in_group = CumSum(by_lane, i2)
    of_group = Slice(in_group, v3, far, v2)
    before_group = CumSum <exclusive = 1> (of_group, i0)
    taken = Add(in_group, before_group)
    taken_flat = Reshape(taken, flat)

    # The literals.
    met = NonZero(width_at)
    met_at = Reshape(met, flat)
    met_group = Div(met_at, i4)
    met_lane = Mod(met_group, lane_count)
    met_end = Gather(ends_at, met_lane)
    met_taken = Gather(taken_flat, met_at)
    met_taken64 = Cast <to = 7> (met_taken)
    literal_at = Sub(met_end, met_taken64)
    leader_met = Gather(symbol_at, met_at)
    literal_width = Gather(width_of, leader_met)
    literal = ai.tansor.Fields(halves, literal_at, literal_width)
    first_met = Gather(first_of, leader_met)
    member_at = Add(first_met, literal)
    member_met = Gather(members, member_at)
    met_column = Reshape(met_at, column_shape)
    resolved = ScatterND(stepped, met_column, member_met)
}"""

# What the last lanes have decoded behind the last symbol goes; behind five numbers the layout holds the shape.
TRIM = """
Trim (padded, layout) => (units, shape) {
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v5 = Constant <value = int64[1] {5}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    symbol_count = Slice(layout, v0, v1)
    units = Slice(padded, v0, symbol_count)
    shape = Slice(layout, v5, far)
}"""

# The last m of every c chunks are coded; raw and coded chunks are put side by side again.
MERGE = """
Merge (coded, raw, chunks) => (units) {
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v2 = Constant <value = int64[1] {2}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    flat = Constant <value = int64[1] {-1}> ()
    chunk_symbols = Slice(chunks, v0, v1)
    chunks_per_block = Slice(chunks, v1, v2)
    coded_chunks = Slice(chunks, v2, far)
    raw_chunks = Sub(chunks_per_block, coded_chunks)
    raw_of_block = Mul(raw_chunks, chunk_symbols)
    coded_of_block = Mul(coded_chunks, chunk_symbols)
    raw_shape = Concat <axis = 0> (flat, raw_of_block)
    coded_shape = Concat <axis = 0> (flat, coded_of_block)
    raw_rows = Reshape(raw, raw_shape)
    raw_rows_shape = Shape(raw_rows)
    blocks = Slice(raw_rows_shape, v0, v1)
    in_blocks = Mul(blocks, coded_of_block)
    head = Slice(coded, v0, in_blocks)
    tail = Slice(coded, in_blocks, far)
    coded_rows = Reshape(head, coded_shape)
    whole_rows = Concat <axis = 1> (raw_rows, coded_rows)
    whole = Reshape(whole_rows, flat)
    units = Concat <axis = 0> (whole, tail)
}"""

# Every byte holds two symbols, the first in its low half; the last half may be left over.
UNPACK = """
Unpack (units, shape) => (symbols) {
    sixteen = Constant <value = int32 {16}> ()
    v0 = Constant <value = int64[1] {0}> ()
    flat = Constant <value = int64[1] {-1}> ()
    column_shape = Constant <value = int64[2] {-1, 1}> ()
    bytes = Cast <to = 6> (units)
    low = Mod(bytes, sixteen)
    high = Div(bytes, sixteen)
    low_column = Reshape(low, column_shape)
    high_column = Reshape(high, column_shape)
    pairs = Concat <axis = 1> (low_column, high_column)
    halves = Cast <to = 2> (pairs)
    halves_flat = Reshape(halves, flat)
    count = ReduceProd(shape)
    whole = Slice(halves_flat, v0, count)
    symbols = Reshape(whole, shape)
}"""

# Channels lie sorted by band, each band in its own order: a channel's place is where its number comes in that row.
INTERLEAVE = """
Interleave <axis, stored_crc> (joined, bands, channels) => (whole) {
    i0 = Constant <value = int64 {0}> ()
    i1 = Constant <value = int64 {1}> ()
    symbols = ai.tansor.Unpack(bands, channels)
    band = Cast <to = 7> (symbols)
    count = ReduceProd <keepdims = 0> (channels)
    channel = Range(i0, count, i1)
    band_up = Mul(band, count)
    key = Add(band_up, channel)
    sorted_key, order = TopK <axis = 0, largest = 0, sorted = 1> (key, channels)
    sorted_channel, place = TopK <axis = 0, largest = 0, sorted = 1> (order, channels)
    whole = Gather <axis: int = @axis> (joined, place)
}"""


def decompress_name(classes: bool, packed: bool, partial: bool) -> str:
    """Name of the function for a kind of block.

    Examples
    --------
    >>> decompress_name(True, False, True)
    'DecompressClassesPartial'
    """
    return "Decompress" + "Classes" * classes + "Packed" * packed + "Partial" * partial


# A product rounded once in float32, then rounded to the weight's own type.
DEQUANTIZE = """
Dequantize <to> (symbols, scale, zero_point) => (weight) {
    symbols_f = Cast <to = 1> (symbols)
    zero_point_f = Cast <to = 1> (zero_point)
    codes = Sub(symbols_f, zero_point_f)
    weight_f = Mul(codes, scale)
    weight = Cast <to: int = @to> (weight_f)
}"""

RAW_LINEAR = """
RawLinear <to, stored_crc, symbols_crc> (symbols, scale, zero_point) => (weight) {
    weight = ai.tansor.Dequantize <to: int = @to> (symbols, scale, zero_point)
}"""

RAW_PACKED_LINEAR = """
RawPackedLinear <to, stored_crc, symbols_crc> (units, shape, scale, zero_point) => (weight) {
    symbols = ai.tansor.Unpack(units, shape)
    weight = ai.tansor.Dequantize <to: int = @to> (symbols, scale, zero_point)
}"""

CONSTANT_LINEAR = """
ConstantLinear <to, stored_crc, symbols_crc> (symbol, shape, scale, zero_point) => (weight) {
    symbols = Expand(symbol, shape)
    weight = ai.tansor.Dequantize <to: int = @to> (symbols, scale, zero_point)
}"""

# Integers without loss: the value is the symbol less its zero point.
INTEGER = """
Integer <to> (symbols, zero_point) => (value) {
    symbols_i = Cast <to = 6> (symbols)
    zero_point_i = Cast <to = 6> (zero_point)
    value_i = Sub(symbols_i, zero_point_i)
    value = Cast <to: int = @to> (value_i)
}"""


def coded_body(classes: bool, packed: bool, partial: bool, result: str) -> str:
    """The function that turns stored arrays into a weight or into integers, put together from the parts above."""
    inputs = ["stream", "counts", "layout"] + ["classes"] * classes + ["raw", "chunks"] * partial
    offsets = ["scale"] * (result == "Linear") + ["zero_point"]
    last = "Dequantize" if result == "Linear" else "Integer"
    lines = [
        f"{decompress_name(classes, packed, partial)}{result} <to, stored_crc, symbols_crc> "
        f"({', '.join(inputs + offsets)}) => (value) {{",
        "stepped, ends_at, halves = ai.tansor.Steps(stream, counts, layout)",
        "resolved = ai.tansor.Resolve(stepped, ends_at, halves, layout, classes)" if classes else "",
        f"coded, shape = ai.tansor.Trim({'resolved' if classes else 'stepped'}, layout)",
        "units = ai.tansor.Merge(coded, raw, chunks)" if partial else "",
        f"symbols = {'ai.tansor.Unpack' if packed else 'Reshape'}({'units' if partial else 'coded'}, shape)",
        f"value = ai.tansor.{last} <to: int = @to> (symbols, {', '.join(offsets)})",
    ]
    return "\n    ".join(line for line in lines if line) + "\n}"


def all_bodies() -> dict[str, str]:
    """Text of every function by its name; callees come before their callers."""
    coded = {
        decompress_name(classes, packed, partial) + result: coded_body(classes, packed, partial, result)
        for classes, packed, partial in product((False, True), repeat=3)
        for result in ("Linear", "Integer")
    }
    return {
        "Fields": FIELDS,
        "Step": STEP,
        "Steps": STEPS,
        "Resolve": RESOLVE,
        "Trim": TRIM,
        "Merge": MERGE,
        "Unpack": UNPACK,
        "Dequantize": DEQUANTIZE,
        "Integer": INTEGER,
        **coded,
        "RawLinear": RAW_LINEAR,
        "RawPackedLinear": RAW_PACKED_LINEAR,
        "ConstantLinear": CONSTANT_LINEAR,
        "Interleave": INTERLEAVE,
    }


BODIES = all_bodies()


def functions(names: Iterable[str], opset: int) -> list[onnx.FunctionProto]:
    """The named functions and those that they call.

    Parameters
    ----------
    names : iterable of str
        Keys of `BODIES`.
    opset : int
        Opset of the model, 11 to 26; the bodies mean the same in all of them.

    Examples
    --------
    >>> [f.name for f in functions(["DecompressLinear"], 21)]
    ['Fields', 'Step', 'Steps', 'Trim', 'Dequantize', 'DecompressLinear']
    """
    wanted = closure(names)
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {DOMAIN_VERSION}]> '
    return [with_short_names(parse(header + text)) for name, text in BODIES.items() if name in wanted]


def closure(names: Iterable[str]) -> set[str]:
    """The named functions and those that they call, by name.

    Examples
    --------
    >>> sorted(closure(["RawPackedLinear"]))
    ['Dequantize', 'RawPackedLinear', 'Unpack']
    """
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += re.findall(rf"{re.escape(DOMAIN)}\.(\w+)", BODIES[name])
    return wanted


def parse(text: str) -> onnx.FunctionProto:
    """Parse a function from ONNX text; lines that begin with # are comments."""
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    return onnx.parser.parse_function("\n".join(lines))


def with_short_names(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """The function, changed in place, its intermediate values renamed a, b, ..: names are most of what a file holds.

    Inputs and outputs keep their names. Fields that are there and empty go, too.
    """
    kept = {*function.input, *function.output}
    letters = (name for size in (1, 2) for name in map("".join, product(ascii_lowercase, repeat=size)))
    short = {name: name for name in ("", *kept)}

    def rename(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [renamed(name) for name in names]
            if not node.domain:
                node.ClearField("domain")
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    attribute.t.ClearField("name")
                for value in (*attribute.g.input, *attribute.g.output):
                    value.name = renamed(value.name)
                rename(attribute.g.node)

    def renamed(name: str) -> str:
        if name not in short:
            short[name] = next(letter for letter in letters if letter not in kept)
        return short[name]

    rename(function.node)
    return function
