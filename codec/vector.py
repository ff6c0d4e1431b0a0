"""Four coder steps of 64 lanes, 16 at a time, in LLVM's vector instructions.

Lanes do the same thing with different numbers: vector arithmetic. Tables are looked up by the processor's gather
instruction where it is fast (`GATHERS`), elsewhere by scalar loads that take their places from memory. While the
loads of one part of 16 lanes are under way, the processor begins with the next part. LLVM translates vectors to what
there is: AVX-512, AVX2, NEON or loops.

Each function here is an operation for jitted code (a Numba intrinsic). What it computes is written above
it as plain Python for one lane; `refimpl.tans` has the same in NumPy.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

LANES = 64  # a tile
WIDTH = 16  # lanes of a part
PARTS = LANES // WIDTH
FAR = 127  # bits: behind the last eight bytes, whatever a damaged lane reads
# Processors with AMX gather twice as fast as they load one by one; on those of AMD it is the other way round.
GATHERS = bool(binding.get_host_cpu_features().get("amx-tile"))
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


class FreshLoad(ir.Instruction):  # type: ignore[misc]
    """A volatile load: LLVM would rather take numbers out of a vector it has just stored, one by one."""

    def __init__(self, parent: Any, kind: Any, address: Any) -> None:
        self.kind = kind
        super().__init__(parent, kind, "load", [address])

    def descr(self, buf: list[str]) -> None:
        """Write the instruction as text, llvmlite's protocol."""
        (address,) = self.operands
        buf.append(f"load volatile {self.kind}, {address.type} {address.get_reference()}, align 4\n")


class Addresses(ir.Instruction):  # type: ignore[misc]
    """Where an array has the elements of a vector of places; llvmlite's own knows scalars only."""

    def __init__(self, parent: Any, element: Any, array: Any, places: Any) -> None:
        self.element = element
        super().__init__(parent, ir.VectorType(array.type, places.type.count), "getelementptr", [array, places])

    def descr(self, buf: list[str]) -> None:
        """Write the instruction as text, llvmlite's protocol."""
        array, places = (f"{operand.type} {operand.get_reference()}" for operand in self.operands)
        buf.append(f"getelementptr {self.element}, {array}, {places}\n")


class Lanes:
    """Operations on vectors of 16 lanes; numbers stand for vectors that hold them in every lane."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        self.builder = builder
        self.pointers: list[Any] = [
            context.make_array(kind)(context, builder, argument).data if isinstance(kind, types.Array) else None
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]

    def vector(self, element: Any, value: int = 0, count: int = WIDTH) -> Any:
        """A constant in every lane."""
        return ir.Constant(ir.VectorType(element, count), [value] * count)

    def splat(self, scalar: Any) -> Any:
        """A run-time number in every lane."""
        one = self.builder.insert_element(self.vector(scalar.type), scalar, I32(0))
        return self.builder.shuffle_vector(one, one, self.vector(I32))

    def address(self, argument: int, offset: Any, kind: Any) -> Any:
        """Where an array argument has its element ``offset``, to be read or written as another kind."""
        return self.builder.bitcast(self.builder.gep(self.pointers[argument], [offset]), kind.as_pointer())

    def load(self, argument: int, offset: Any, element: Any = I32) -> Any:
        """Neighbouring elements of an array argument, from an element offset on."""
        return self.builder.load(self.address(argument, offset, ir.VectorType(element, WIDTH)), align=1)

    def holds(self, flag: Any) -> Any:
        """Whether a number is not 0."""
        return self.builder.icmp_unsigned("!=", flag, flag.type(0))

    def either(self, flag: Any, one: Any, other: Any) -> Any:
        """One pointer if the flag holds, else the other: in jitted code, arrays chosen would be counted."""
        return self.builder.select(self.holds(flag), one, other)

    def store(self, value: Any, argument: int, offset: Any) -> None:
        """Write a vector to neighbouring elements of an array argument."""
        self.builder.store(value, self.address(argument, offset, value.type), align=1)

    def fresh(self, argument: int, offset: int) -> Any:
        """64 bits of an array argument from an element offset on, from memory itself."""
        number = FreshLoad(self.builder.block, I64, self.address(argument, I64(offset), I64))
        self.builder._insert(number)
        return number

    def places(self, argument: int, first: int) -> Any:
        """Numbers of 32 bits from memory, to look something up: a vector to gather with, or scalars of 64 bits."""
        if GATHERS:
            return self.load(argument, I64(first))
        result = []
        for lane in range(first, first + WIDTH, 2):  # two come with one load
            pair = self.fresh(argument, lane)
            result += [self.builder.and_(pair, I64((1 << 32) - 1)), self.builder.lshr(pair, I64(32))]
        return result

    def places_of(self, value: Any, argument: int, first: int) -> Any:
        """A vector as places to look something up; scalars take the way through an array argument."""
        if GATHERS:
            return value
        self.store(value, argument, I64(first))
        return self.places(argument, first)

    def bytes_of_rows(self, argument: int, first: int, step: int) -> Any:
        """Byte ``step`` of every four from the first on, as places to look something up."""
        b = self.builder
        if GATHERS:
            fours = self.load(argument, I64(first))
            return b.and_(b.lshr(fours, self.vector(I32, 8 * step)), self.vector(I32, 255))
        offsets = [I64(first + 4 * lane + step) for lane in range(WIDTH)]
        return [b.zext(b.load(b.gep(self.pointers[argument], [place])), I64) for place in offsets]

    def look_up(self, argument: int, places: Any, kind: Any) -> Any:
        """What an array argument has at each of these elements, read as another kind."""
        if GATHERS:
            return self.gather(argument, places, kind)
        found = ir.Constant(ir.VectorType(kind, WIDTH), ir.Undefined)
        for lane, place in enumerate(places):
            value = self.builder.load(self.address(argument, place, kind), align=1)
            found = self.builder.insert_element(found, value, I32(lane))
        return found

    def gather(self, argument: int, places: Any, kind: Any) -> Any:
        """`look_up` by one instruction; the places are below 2**31."""
        array = self.pointers[argument]
        addresses = Addresses(self.builder.block, array.type.pointee, array, places)
        self.builder._insert(addresses)
        found = ir.VectorType(kind, WIDTH)
        operands = [addresses, I32(1), self.vector(I1, 1), ir.Constant(found, ir.Undefined)]
        return self.call(f"llvm.masked.gather.v{WIDTH}{kind}.v{WIDTH}p0", found, operands)

    def write_each(self, values: int, places: int, argument: int, first: int) -> None:
        """Write 64-bit numbers, each at a place of its own in an array argument; both come from memory.

        A scatter is slower: few pages at a time can be written to without looking them up.
        """
        for lane in range(first, first + WIDTH):
            value, place = (self.fresh(way, lane) for way in (values, places))
            self.builder.store(value, self.address(argument, place, I64), align=1)

    def halves(self, value: Any) -> tuple[Any, Any]:
        """(low, high) 32 bits of 64-bit numbers."""
        both = self.builder.bitcast(value, ir.VectorType(I32, 2 * WIDTH))
        every_other = [ir.Constant(ir.VectorType(I32, WIDTH), list(range(first, 2 * WIDTH, 2))) for first in (0, 1)]
        return tuple(self.builder.shuffle_vector(both, both, which) for which in every_other)

    def funnel_left(self, high: Any, low: Any, count: Any) -> Any:
        """The upper half of ``high:low << count``; like all counts here modulo the width of an element."""
        return self.funnel("llvm.fshl", high, low, count)

    def funnel_right(self, high: Any, low: Any, count: Any) -> Any:
        """The lower half of ``high:low >> count``."""
        return self.funnel("llvm.fshr", high, low, count)

    def shift_right(self, value: Any, count: Any) -> Any:
        """``value >> count``."""
        return self.funnel_right(self.vector(value.type.element), value, count)

    def rotate_right(self, value: Any, count: Any) -> Any:
        """``value`` turned right: its low bits become the highest."""
        return self.funnel("llvm.fshr", value, value, count)

    def funnel(self, name: str, high: Any, low: Any, count: Any) -> Any:
        """A funnel shift: other than a plain one, it ignores the higher bits of the count."""
        return self.call(f"{name}.v{WIDTH}{high.type.element}", high.type, [high, low, count])

    def call(self, name: str, result: Any, operands: list[Any]) -> Any:
        """One of LLVM's own functions."""
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, operands)

    def nibbles(self, value: Any) -> Any:
        """Every byte as two, its low half in front."""
        spread = ir.VectorType(I16, 4 * WIDTH)
        both = self.builder.zext(self.builder.bitcast(value, ir.VectorType(I8, 4 * WIDTH)), spread)
        spaced = self.builder.or_(both, self.builder.shl(both, self.vector(I16, 4, 4 * WIDTH)))
        return self.builder.and_(spaced, self.vector(I16, 0x0F0F, 4 * WIDTH))

    def top_bits(self, value: Any) -> Any:
        """The highest bit of every byte, as a number of 64 bits."""
        signed = self.builder.bitcast(value, ir.VectorType(I8, 4 * WIDTH))
        negative = self.builder.icmp_signed("<", signed, self.vector(I8, 0, 4 * WIDTH))
        return self.builder.bitcast(negative, I64)

    def wide(self, value: Any) -> Any:
        """The same numbers in 64 bits, unsigned."""
        return self.builder.zext(value, ir.VectorType(I64, WIDTH))

    def smaller(self, a: Any, b: Any) -> Any:
        """Lane by lane minimum, unsigned."""
        return self.builder.select(self.builder.icmp_unsigned("<", a, b), a, b)


# For each lane, with the table as codec.kernels.pack_decode_table makes it and four steps of at most 12 bits:
#     window = bytes[begin + place : begin + place + 8] as a number >> shift % 64
#     for step in range(4):
#         entry = table[state]                # bit count in bits 0-4, leader in 7, symbol in 8-15, number in 16-28
#         symbols[at:][step] = entry >> 8 & 255    # if packed its halves; in `row` unless the whole row is wanted
#         met |= (entry >> 7 & 1) << 4 * lane + step
#         count = entry & 15, but 0 at step 3 of the last group
#         state = entry >> 16 << count | window & ((1 << count) - 1);  window >>= count;  shift += count
#     ahead = min(shift >> 3, last - place);  place += ahead;  shift = min(shift - 8 * ahead, FAR)
# States have the table's size added, as the numbers in it. `met` takes a word for each part: which symbols are leaders.
# The result is not 0 if there are any.
def decode_four(
    typing: Any, data: Any, begin: Any, last: Any, table: Any, states: Any, places: Any, shifts: Any, keep: Any,
    packed: Any, symbols: Any, at: Any, row: Any, whole: Any, met: Any, met_at: Any,
) -> Any:  # fmt: skip
    """Type and code of `decode_group`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, b = Lanes(context, builder, signature, arguments), builder
        lanes.pointers[0] = b.gep(lanes.pointers[0], [arguments[1]])
        last_place, kept = lanes.splat(arguments[2]), lanes.splat(arguments[7])
        parts = range(0, LANES, WIDTH)
        window, used, word, group, leaders = (dict[int, Any]() for _ in range(5))
        for p in parts:
            eight = lanes.look_up(0, lanes.places(5, p), I64)
            window[p] = lanes.halves(lanes.shift_right(eight, lanes.wide(lanes.load(6, I64(p)))))
        for step in range(4):
            for p in parts:
                low, high = window[p]
                if step in (0, 2):  # 32 bits are enough for two steps
                    word[p] = lanes.funnel_right(high, low, used[p]) if step else low
                entry = lanes.look_up(3, lanes.places(4, p), I32)
                # The count lies in the entry's low bits. Turned right, a word has the bits read on top: they are
                # shifted in behind the number.
                word[p] = lanes.rotate_right(word[p], entry)
                lanes.store(lanes.funnel_left(b.lshr(entry, lanes.vector(I32, 16)), word[p], entry), 4, I64(p))
                count = b.and_(entry, kept) if step == 3 else entry
                used[p] = b.add(used[p], count) if step else count  # in the low six bits
                turned = lanes.rotate_right(entry, lanes.vector(I32, (8 - 8 * step) % 32))
                symbol = b.and_(turned, lanes.vector(I32, 255 << 8 * step))
                leader = b.and_(turned, lanes.vector(I32, 1 << (8 * step - 1) % 32))  # in the byte below the symbol
                group[p] = b.or_(group[p], symbol) if step else symbol
                leaders[p] = b.or_(leaders[p], leader) if step else leader
        lanes.pointers[9] = lanes.either(arguments[12], b.gep(lanes.pointers[9], [arguments[10]]), lanes.pointers[11])
        any_met = I64(0)
        for p in parts:
            place, shift = lanes.load(5, I64(p)), lanes.load(6, I64(p))
            shift = b.add(shift, b.and_(used[p], lanes.vector(I32, 63)))
            ahead = lanes.smaller(b.lshr(shift, lanes.vector(I32, 3)), b.sub(last_place, place))
            lanes.store(b.add(place, ahead), 5, I64(p))
            shift = b.sub(shift, b.shl(ahead, lanes.vector(I32, 3)))
            lanes.store(lanes.smaller(shift, lanes.vector(I32, FAR)), 6, I64(p))
            mask = lanes.top_bits(lanes.rotate_right(leaders[p], lanes.vector(I32, 24)))
            b.store(mask, b.gep(lanes.pointers[13], [b.add(arguments[14], I64(p // WIDTH))]))
            any_met = b.or_(any_met, mask)
        with b.if_else(lanes.holds(arguments[8])) as (two_each, one_each):
            with two_each:
                for p in parts:
                    lanes.store(lanes.nibbles(group[p]), 9, I64(8 * p))
            with one_each:
                for p in parts:
                    lanes.store(group[p], 9, I64(4 * p))
        return any_met

    number, small = types.int64, types.int32
    state_types = states, places, shifts
    row_types = symbols, number, row, small
    return types.uint64(data, number, small, table, *state_types, small, small, *row_types, met, number), codegen


# For each lane, with the table as codec.kernels.pack_encode_table makes it:
#     for step in (3, 2, 1, 0):
#         entry = table[symbols[step]]        # bit count delta in bits 0-16, first slot modulo 2**13 in 17-29
#         count = (state + delta) >> 13
#         slot = (first_slot + (state >> count)) % 2**13
#         count = 0 at step 3 of the last group
#         bits = bits << count | state & ((1 << count) - 1);  total += count
#         met |= (entry >> 31) << 4 * lane + step
#         state = next_state[slot]            # states here have the table's size added
# Streams grow towards their beginning; the bits of the byte begun are the highest of `held`, `used` says how many:
#     total += used;  word = held | bits << (64 - total)
#     bytes[place : place + 8] = word;  place -= total >> 3;  held = word << total - total % 8;  used = total % 8
# `met` takes a word for each part: after which symbols a literal follows. The result is not 0 if there are any.
def encode_four(
    typing: Any, symbols: Any, at: Any, row: Any, whole: Any, table: Any, next_state: Any, states: Any, keep: Any,
    places: Any, used: Any, held: Any, data: Any, met: Any, met_at: Any,
) -> Any:  # fmt: skip
    """Type and code of `encode_group`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, b = Lanes(context, builder, signature, arguments), builder
        kept = lanes.splat(arguments[7])
        lanes.pointers[0] = lanes.either(arguments[3], b.gep(lanes.pointers[0], [arguments[1]]), lanes.pointers[2])
        parts = range(0, LANES, WIDTH)
        state = {p: lanes.load(6, I64(p)) for p in parts}
        leaders = {p: lanes.vector(I32) for p in parts}
        halves: dict[int, list[Any]] = {p: [] for p in parts}
        for late, early in ((3, 2), (1, 0)):
            bits, total = ({p: lanes.vector(I32) for p in parts} for _ in range(2))
            for step in (late, early):
                for p in parts:
                    entry = lanes.look_up(4, lanes.bytes_of_rows(0, 4 * p, step), I32)
                    delta = b.and_(entry, lanes.vector(I32, (1 << 17) - 1))
                    count = b.lshr(b.add(state[p], delta), lanes.vector(I32, 13))
                    slot = b.add(b.lshr(entry, lanes.vector(I32, 17)), b.lshr(state[p], count))
                    slot = b.and_(slot, lanes.vector(I32, 8191))
                    count = b.and_(count, kept) if step == 3 else count
                    bits[p] = lanes.funnel_left(bits[p], lanes.rotate_right(state[p], count), count)
                    total[p] = b.add(total[p], count)
                    state[p] = lanes.look_up(5, lanes.places_of(slot, 6, p), I32)
                    leader = b.and_(b.lshr(entry, lanes.vector(I32, 24 - 8 * step)), lanes.vector(I32, 128 << 8 * step))
                    leaders[p] = b.or_(leaders[p], leader)
            for p in parts:
                halves[p].append((lanes.wide(bits[p]), lanes.wide(total[p])))
        any_met = I64(0)
        for p in parts:
            (late_bits, late_total), (early_bits, early_total) = halves[p]
            whole = b.or_(b.shl(late_bits, early_total), early_bits)
            total = b.add(b.add(late_total, early_total), lanes.load(9, I64(p), I64))
            whole = lanes.funnel_left(whole, lanes.vector(I64), b.sub(lanes.vector(I64), total))
            word, place = b.or_(lanes.load(10, I64(p), I64), whole), lanes.load(8, I64(p), I64)
            lanes.store(state[p], 6, I64(p))
            lanes.store(word, 10, I64(p))
            lanes.write_each(10, 8, 11, p)
            lanes.store(b.sub(place, b.lshr(total, lanes.vector(I64, 3))), 8, I64(p))
            lanes.store(b.and_(total, lanes.vector(I64, 7)), 9, I64(p))
            lanes.store(b.shl(word, b.and_(total, lanes.vector(I64, 56))), 10, I64(p))
            mask = lanes.top_bits(leaders[p])
            b.store(mask, b.gep(lanes.pointers[12], [b.add(arguments[13], I64(p // WIDTH))]))
            any_met = b.or_(any_met, mask)
        return any_met

    number, small = types.int64, types.int32
    stream_types = places, used, held, data
    row_types = symbols, number, row, small
    return types.uint64(*row_types, table, next_state, states, small, *stream_types, met, number), codegen


def load64(_typing: Any, data: Any, _offset: Any) -> Any:
    """Type and code of `read64`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.gep(
            context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]]
        )
        return builder.load(builder.bitcast(address, I64.as_pointer()), align=1)

    return types.uint64(data, types.int64), codegen


def store64(_typing: Any, data: Any, _offset: Any, _value: Any) -> Any:
    """Type and code of `write64`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.gep(
            context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]]
        )
        builder.store(arguments[2], builder.bitcast(address, I64.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.uint64), codegen


def shift_row(_typing: Any, source: Any, _bit: Any, data: Any, _byte: Any) -> Any:
    """Type and code of `copy_row`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = ir.VectorType(I64, 8)
        from_data, to_data = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2)
        )
        first = builder.lshr(arguments[1], I64(3))
        low, high = (
            builder.load(builder.bitcast(builder.gep(from_data, [place]), row.as_pointer()), align=1)
            for place in (first, builder.add(first, I64(8)))
        )
        one = builder.insert_element(ir.Constant(row, [0] * 8), builder.and_(arguments[1], I64(7)), I32(0))
        count = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, 8), [0] * 8))
        kind = ir.FunctionType(row, [row] * 3)
        name = "llvm.fshr.v8i64"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        address = builder.bitcast(builder.gep(to_data, [arguments[3]]), row.as_pointer())
        builder.store(builder.call(function, [high, low, count]), address, align=1)
        return context.get_dummy_value()

    return types.void(source, types.int64, data, types.int64), codegen


def prefetch_row(_typing: Any, data: Any, _offset: Any) -> Any:
    """Type and code of `prefetch`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        for line in (0, 64, 128, 192, 4 * LANES - 1):  # five lines, unless the row begins with one
            builder.call(function, [builder.gep(first, [I64(line)]), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(data, types.int64), codegen


def cttz64(_typing: Any, _mask: Any) -> Any:
    """Type and code of `lowest_bit`."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], I1(0))

    return types.int64(types.uint64), codegen


decode_group: Any = intrinsic(decode_four)
encode_group: Any = intrinsic(encode_four)
prefetch: Any = intrinsic(prefetch_row)  # prefetch(bytes, offset): a row of 256, if it exists
copy_row: Any = intrinsic(shift_row)  # copy_row(bytes, bit, others, offset): 64 bytes that begin at any bit of 72
lowest_bit: Any = intrinsic(cttz64)  # lowest_bit(mask): its position, 64 for 0
read64: Any = intrinsic(load64)  # read64(bytes, offset): 8 bytes at any offset as a little-endian number
write64: Any = intrinsic(store64)  # write64(bytes, offset, number): the same the other way
