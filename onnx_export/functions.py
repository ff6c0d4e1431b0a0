"""The `ai.tansor` functions: tANS decoding and dequantization in standard ONNX operators.

Written in ONNX's own text form, so that what is read here is what the file holds. Only operators
and signatures that are the same from opset 11 on are used, and none that the CUDA provider
lacks: no bit operators (a shift is a Div, a mask a Mod), no 8-bit arithmetic.

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

import onnx
import onnx.parser

DOMAIN = "ai.tansor"
DOMAIN_VERSION = 1
MIN_OPSET = 11

# What both Steps and Resolve need: a function sees no other one's names.
CONSTANTS = """\
    i0 = Constant <value = int64 {0}> ()
    i1 = Constant <value = int64 {1}> ()
    i4 = Constant <value = int64 {4}> ()
    i16 = Constant <value = int64 {16}> ()
    i65536 = Constant <value = int64 {65536}> ()
    i2_32 = Constant <value = int64 {4294967296}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    flat = Constant <value = int64[1] {-1}> ()
    column_shape = Constant <value = int64[2] {-1, 1}> ()
"""

# Fields of `width` bits at bit `position` of the stream: three halves make a window of 48 bits.
READ_FIELDS = """
    {name}_half = Div({position}, i16)
    {name}_shift = Mod({position}, i16)
    {name}_w0 = Gather(halves64, {name}_half)
    {name}_half1 = Add({name}_half, i1)
    {name}_w1 = Gather(halves64, {name}_half1)
    {name}_half2 = Add({name}_half1, i1)
    {name}_w2 = Gather(halves64, {name}_half2)
    {name}_w1_up = Mul({name}_w1, i65536)
    {name}_w2_up = Mul({name}_w2, i2_32)
    {name}_w01 = Add({name}_w0, {name}_w1_up)
    {name}_window = Add({name}_w01, {name}_w2_up)
    {name}_divisor = Gather(powers, {name}_shift)
    {name}_shifted = Div({name}_window, {name}_divisor)
    {name}_modulus = Gather(powers, {width})
    {name} = Mod({name}_shifted, {name}_modulus)
"""

# One decoding step. A window of 31 bits begins at every half: at most 15 are shifted out,
# 16 are left and 12 are needed.
STEP = """
        symbol{t} = Gather(table_symbol, state{t})
        width{t} = Gather(table_bit_count, state{t})
        base{t} = Gather(table_base, state{t})
        half{t} = Div(position{t}, i16)
        shift{t} = Mod(position{t}, i16)
        window{t} = Gather(windows, half{t})
        divisor{t} = Gather(powers32, shift{t})
        shifted{t} = Div(window{t}, divisor{t})
        modulus{t} = Gather(powers32, width{t})
        bits{t} = Mod(shifted{t}, modulus{t})
        state{u} = Add(base{t}, bits{t})
        position{u} = Add(position{t}, width{t})
        column{t} = Reshape(symbol{t}, column_shape)
"""

STEPS = (
    """
Steps (stream, counts, layout) => (stepped, ends_at) {
    # Constants.
"""
    + CONSTANTS
    + """    i2 = Constant <value = int64 {2}> ()
    row_shape = Constant <value = int64[2] {1, -1}> ()
    yes = Constant <value = bool {1}> ()
    exponents = Constant <value = int64[13] {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> ()
    powers = Constant <value = int64[32] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304, 8388608, 16777216,
        33554432, 67108864, 134217728, 268435456, 536870912, 1073741824, 2147483648}> ()
    powers32 = Constant <value = int32[16] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768}> ()
    p32768 = Constant <value = int32 {32768}> ()
    p65536 = Constant <value = int32 {65536}> ()
    zeros = Constant <value = int32[4] {0, 0, 0, 0}> ()

    # Layout.
    index0 = Constant <value = int64 {0}> ()
    index1 = Constant <value = int64 {1}> ()
    index2 = Constant <value = int64 {2}> ()
    index3 = Constant <value = int64 {3}> ()
    index4 = Constant <value = int64 {4}> ()
    symbol_count = Gather(layout, index0)
    table_log = Gather(layout, index1)
    lane_count = Gather(layout, index2)
    length_base = Gather(layout, index3)
    length_width = Gather(layout, index4)

    # Symbol spread: slots listed symbol by symbol, sorted by key.
    q = Cast <to = 7> (counts)
    size = Gather(powers, table_log)
    size_less_one = Sub(size, i1)
    slot = Range(i0, size, i1)
    ends = CumSum(q, i0)
    firsts = Sub(ends, q)
    slot_column = Reshape(slot, column_shape)
    ends_row = Reshape(ends, row_shape)
    is_below = Less(slot_column, ends_row)
    below = Cast <to = 1> (is_below)
    slot_symbol = ArgMax <axis = 1, keepdims = 0> (below)
    slot_first = Gather(firsts, slot_symbol)
    slot_number = Sub(slot, slot_first)
    slot_q = Gather(q, slot_symbol)
    twice = Mul(slot_number, i2)
    odd = Add(twice, i1)
    odd_up = Mul(odd, i65536)
    twice_q = Mul(slot_q, i2)
    even_key = Div(odd_up, twice_q)
    single = Equal(slot_q, i1)
    key = Where(single, i65536, even_key)
    key_up = Mul(key, size)
    unique_key = Add(key_up, slot)
    size_vector = Reshape(size, flat)
    sorted_key, sorted_index = TopK <axis = 0, largest = 0, sorted = 1> (unique_key, size_vector)
    slot_order = Mod(sorted_key, size)

    # State table.
    state_symbol = Gather(slot_symbol, slot_order)
    state_q = Gather(slot_q, slot_order)
    state_slot = Gather(slot_number, slot_order)
    number = Add(state_q, state_slot)
    number_column = Reshape(number, column_shape)
    doublings = Gather(powers, exponents)
    doublings_row = Reshape(doublings, row_shape)
    doubled = Mul(number_column, doublings_row)
    is_reached = Less(size_less_one, doubled)
    reached = Cast <to = 1> (is_reached)
    table_bit_count = ArgMax <axis = 1, keepdims = 0> (reached)
    factor = Gather(powers, table_bit_count)
    number_up = Mul(number, factor)
    base64 = Sub(number_up, size)
    table_base = Cast <to = 6> (base64)
    table_symbol = Cast <to = 2> (state_symbol)

    # Windows.
    halves = Cast <to = 6> (stream)
    padded = Concat <axis = 0> (halves, zeros)
    halves64 = Cast <to = 7> (padded)
    low = Slice(padded, v0, flat)
    high = Slice(padded, v1, far)
    high_part = Mod(high, p32768)
    high_up = Mul(high_part, p65536)
    windows = Add(low, high_up)

    # Start states and lane lengths.
    lane = Range(i0, lane_count, i1)
    start_at = Mul(lane, table_log)
"""
    + READ_FIELDS.format(name="start", position="start_at", width="table_log")
    + """
    states_end = Mul(lane_count, table_log)
    length_offset = Mul(lane, length_width)
    length_at = Add(states_end, length_offset)
"""
    + READ_FIELDS.format(name="length_more", position="length_at", width="length_width")
    + """
    lengths = Add(length_base, length_more)
    lane_ends = CumSum(lengths, i0)
    lane_firsts = Sub(lane_ends, lengths)
    lengths_size = Mul(lane_count, length_width)
    side_end = Add(states_end, lengths_size)
    start_position = Add(side_end, lane_firsts)
    start_state = Cast <to = 6> (start)

    # Four steps at a time: lanes write neighbouring groups of four symbols.
    lanes_by_four = Mul(lane_count, i4)
    symbols_up = Add(symbol_count, lanes_by_four)
    symbols_over = Sub(symbols_up, i1)
    groups = Div(symbols_over, lanes_by_four)
    end_state, end_position, rows = Loop(groups, yes, start_state, start_position) <body = decode_four (
        int64 group, bool go, int32[lanes] state0, int64[lanes] position0
    ) => (bool go_on, int32[lanes] state4, int64[lanes] position4, uint8[symbols] row) {
        go_on = Identity(go)
"""
    + "".join(STEP.format(t=t, u=t + 1) for t in range(4))
    + """
        square = Concat <axis = 1> (column0, column1, column2, column3)
        row = Reshape(square, flat)
    }>
    stepped = Reshape(rows, flat)
    ends_at = Add(side_end, lane_ends)
}"""
)

# Literals lie at the end of each lane, the first of them last. A symbol's literal ends where the widths of all
# literals of its lane up to its own, taken from the lane's end, lead.
RESOLVE = (
    """
Resolve (stepped, ends_at, stream, layout, classes) => (resolved) {
"""
    + CONSTANTS
    + """    powers = Constant <value = int64[16] {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
        8192, 16384, 32768}> ()
    zeros = Constant <value = int64[4] {0, 0, 0, 0}> ()
    i256 = Constant <value = int64 {256}> ()
    axis2 = Constant <value = int64 {2}> ()
    v3 = Constant <value = int64[1] {3}> ()
    four = Constant <value = int64[1] {4}> ()
    axis_vector2 = Constant <value = int64[1] {2}> ()

    index2 = Constant <value = int64 {2}> ()
    lane_count = Gather(layout, index2)
    halves = Cast <to = 7> (stream)
    halves64 = Concat <axis = 0> (halves, zeros)
    classes64 = Cast <to = 7> (classes)
    class_count = Slice(classes64, v0, v1)
    widths_end = Add(class_count, v1)
    class_widths = Slice(classes64, v1, widths_end)
    members = Slice(classes, widths_end, far)
    members64 = Cast <to = 7> (members)
    sizes = Gather(powers, class_widths)
    size_ends = CumSum(sizes, i0)
    class_firsts = Sub(size_ends, sizes)
    leaders = Gather(members64, class_firsts)
    leaders_column = Reshape(leaders, column_shape)
    every_symbol = Range(i0, i256, i1)
    zeros256 = Mul(every_symbol, i0)
    width_of = ScatterND(zeros256, leaders_column, class_widths)
    first_of = ScatterND(zeros256, leaders_column, class_firsts)

    symbol_at = Cast <to = 6> (stepped)
    width_of32 = Cast <to = 6> (width_of)
    width_at = Gather(width_of32, symbol_at)
    lane_count_vector = Reshape(lane_count, flat)
    by_lane_shape = Concat <axis = 0> (flat, lane_count_vector, four)
    by_lane = Reshape(width_at, by_lane_shape)
    in_group = CumSum(by_lane, axis2)
    of_group = Slice(in_group, v3, far, axis_vector2)
    before_group = CumSum <exclusive = 1> (of_group, i0)
    taken = Add(in_group, before_group)
    taken_flat = Reshape(taken, flat)

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
"""
    + READ_FIELDS.format(name="literal", position="literal_at", width="literal_width")
    + """
    first_met = Gather(first_of, leader_met)
    member_at = Add(first_met, literal)
    member_met = Gather(members, member_at)
    met_column = Reshape(met_at, column_shape)
    resolved = ScatterND(stepped, met_column, member_met)
}"""
)

# The last m of every c chunks are coded; raw and coded chunks are put side by side again.
MERGE = """
Merge (coded, raw, chunks) => (units) {
    v0 = Constant <value = int64[1] {0}> ()
    far = Constant <value = int64[1] {4611686018427387904}> ()
    flat = Constant <value = int64[1] {-1}> ()
    index0 = Constant <value = int64 {0}> ()
    index1 = Constant <value = int64 {1}> ()
    index2 = Constant <value = int64 {2}> ()
    chunk_symbols = Gather(chunks, index0)
    chunks_per_block = Gather(chunks, index1)
    coded_chunks = Gather(chunks, index2)
    raw_chunks = Sub(chunks_per_block, coded_chunks)
    raw_of_block = Mul(raw_chunks, chunk_symbols)
    coded_of_block = Mul(coded_chunks, chunk_symbols)
    raw_width = Reshape(raw_of_block, flat)
    coded_width = Reshape(coded_of_block, flat)
    raw_shape = Concat <axis = 0> (flat, raw_width)
    coded_shape = Concat <axis = 0> (flat, coded_width)
    raw_rows = Reshape(raw, raw_shape)
    raw_rows_shape = Shape(raw_rows)
    blocks = Gather(raw_rows_shape, index0)
    in_blocks = Mul(blocks, coded_of_block)
    in_blocks_vector = Reshape(in_blocks, flat)
    head = Slice(coded, v0, in_blocks_vector)
    tail = Slice(coded, in_blocks_vector, far)
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
    count = ReduceProd <keepdims = 0> (shape)
    count_vector = Reshape(count, flat)
    whole = Slice(halves_flat, v0, count_vector)
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


def decompress_body(classes: bool, packed: bool, partial: bool) -> str:
    """The function that turns stored arrays into symbols, put together from the parts above."""
    inputs = ", ".join(decompress_inputs(classes, partial))
    lines = [
        f"{decompress_name(classes, packed, partial)} ({inputs}) => (symbols) {{",
        "v0 = Constant <value = int64[1] {0}> ()",
        "v1 = Constant <value = int64[1] {1}> ()",
        "v5 = Constant <value = int64[1] {5}> ()",
        "far = Constant <value = int64[1] {4611686018427387904}> ()",
        f"stepped, ends_at = {DOMAIN}.Steps(stream, counts, layout)",
        f"resolved = {DOMAIN}.Resolve(stepped, ends_at, stream, layout, classes)" if classes else "",
        "symbol_count = Slice(layout, v0, v1)",
        f"coded = Slice({'resolved' if classes else 'stepped'}, v0, symbol_count)",
        f"units = {DOMAIN}.Merge(coded, raw, chunks)" if partial else "",
        "shape = Slice(layout, v5, far)",
        f"symbols = {f'{DOMAIN}.Unpack' if packed else 'Reshape'}({'units' if partial else 'coded'}, shape)",
    ]
    return "\n    ".join(line for line in lines if line) + "\n}"


def decompress_name(classes: bool, packed: bool, partial: bool) -> str:
    """Name of the function for a kind of block.

    Examples
    --------
    >>> decompress_name(True, False, True)
    'DecompressClassesPartial'
    """
    return "Decompress" + "Classes" * classes + "Packed" * packed + "Partial" * partial


def decompress_inputs(classes: bool, partial: bool) -> list[str]:
    """Inputs of that function."""
    return ["stream", "counts", "layout"] + ["classes"] * classes + ["raw", "chunks"] * partial


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


def linear_body(name: str, inputs: list[str]) -> str:
    """A weight: symbols, then their values in floating point."""
    return f"""
{name}Linear <to, stored_crc, symbols_crc> ({", ".join(inputs)}, scale, zero_point) => (weight) {{
    symbols = {DOMAIN}.{name}({", ".join(inputs)})
    weight = {DOMAIN}.Dequantize <to: int = @to> (symbols, scale, zero_point)
}}"""


def integer_body(name: str, inputs: list[str]) -> str:
    """Integers: symbols, then their values."""
    return f"""
{name}Integer <to, stored_crc, symbols_crc> ({", ".join(inputs)}, zero_point) => (value) {{
    symbols = {DOMAIN}.{name}({", ".join(inputs)})
    value = {DOMAIN}.Integer <to: int = @to> (symbols, zero_point)
}}"""


def all_bodies() -> dict[str, str]:
    """Text of every function by its name; callees come before their callers."""
    bodies = {
        "Steps": STEPS,
        "Resolve": RESOLVE,
        "Merge": MERGE,
        "Unpack": UNPACK,
        "Dequantize": DEQUANTIZE,
        "Integer": INTEGER,
    }
    for classes, packed, partial in product((False, True), repeat=3):
        name, inputs = decompress_name(classes, packed, partial), decompress_inputs(classes, partial)
        bodies[name] = decompress_body(classes, packed, partial)
        bodies[name + "Linear"] = linear_body(name, inputs)
        bodies[name + "Integer"] = integer_body(name, inputs)
    return bodies | {
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
    ['Steps', 'Dequantize', 'Decompress', 'DecompressLinear']
    """
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += re.findall(rf"{re.escape(DOMAIN)}\.(\w+)", BODIES[name])
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {DOMAIN_VERSION}]> '
    return [parse(header + text) for name, text in BODIES.items() if name in wanted]


def parse(text: str) -> onnx.FunctionProto:
    """Parse a function from ONNX text; lines that begin with # are comments."""
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    return onnx.parser.parse_function("\n".join(lines))
