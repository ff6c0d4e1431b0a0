"""Four coder steps of 64 lanes at once, in LLVM's vector instructions.

Lanes do the same thing with different numbers: vector arithmetic, and a *gather* for each table look-up.
Vectors of 64 lanes are several registers wide, so the steps of their parts interleave and hide the
latency of the gathers. LLVM translates vectors to what the processor has: AVX-512, AVX2, NEON or loops.

Each function here is an operation for jitted code (a Numba intrinsic). What it computes is written above
it as plain Python for one lane; `refimpl.tans` has the same in NumPy.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 64
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


class VectorAddress(ir.Instruction):  # type: ignore[misc]
    """``&base[index]`` for a vector of indices: llvmlite's own ``gep`` takes scalars only."""

    def __init__(self, parent: Any, element: Any, base: Any, index: Any) -> None:
        self.element = element
        address = ir.VectorType(element.as_pointer(), index.type.count)
        super().__init__(parent, address, "getelementptr", [base, index])

    def descr(self, buf: list[str]) -> None:
        """Write the instruction as text, llvmlite's protocol."""
        base, index = (f"{operand.type} {operand.get_reference()}" for operand in self.operands)
        buf.append(f"getelementptr {self.element}, {base}, {index}\n")


class Lanes:
    """Vector operations on a builder; numbers stand for vectors that hold them in every lane."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        self.builder = builder
        self.arguments = arguments
        self.pointers = [
            context.make_array(kind)(context, builder, argument).data if isinstance(kind, types.Array) else None
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]

    def vector(self, element: Any, value: int = 0, count: int = LANES) -> Any:
        """A constant in every lane."""
        return ir.Constant(ir.VectorType(element, count), [value] * count)

    def splat(self, scalar: Any) -> Any:
        """A run-time number in every lane."""
        one = self.builder.insert_element(self.vector(scalar.type), scalar, I32(0))
        return self.builder.shuffle_vector(one, one, self.vector(I32))

    def load(self, argument: int, element: Any, offset: Any = None) -> Any:
        """64 neighbouring elements of an array argument, from an element offset on."""
        address = self.pointers[argument]
        address = address if offset is None else self.builder.gep(address, [offset])
        return self.builder.load(self.builder.bitcast(address, ir.VectorType(element, LANES).as_pointer()), align=1)

    def store(self, value: Any, argument: int, offset: Any = None) -> None:
        """Write a vector to neighbouring elements of an array argument."""
        address = self.pointers[argument]
        address = address if offset is None else self.builder.gep(address, [offset])
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=1)

    def gather(self, argument: int, element: Any, index: Any, result: Any = None, align: int = 4) -> Any:
        """``array[index]`` lane by lane; ``element`` is the unit of the index, ``result`` what is read there."""
        address = VectorAddress(self.builder.block, element, self.pointers[argument], index)
        self.builder._insert(address)
        kind = ir.VectorType(result or element, LANES)
        every = self.vector(I1, 1)
        signature = ir.FunctionType(kind, [address.type, I32, every.type, kind])
        name = f"llvm.masked.gather.v{LANES}{result or element}.v{LANES}p0"
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, signature, name)
        # Zeros for lanes that are not read: an undefined vector would make each gather wait for the last one.
        return self.builder.call(function, [address, I32(align), every, ir.Constant(kind, [0] * LANES)])

    def funnel_left(self, high: Any, low: Any, count: Any) -> Any:
        """The upper half of ``high:low << count``, the count modulo the width of an element."""
        return self.funnel("llvm.fshl", high, low, count)

    def rotate_right(self, value: Any, count: Any) -> Any:
        """``value`` turned right by the count modulo its width: its low bits become the highest."""
        return self.funnel("llvm.fshr", value, value, count)

    def shift_right(self, value: Any, count: Any) -> Any:
        """``value >> count``, the count modulo the width of an element."""
        return self.funnel("llvm.fshr", self.vector(value.type.element), value, count)

    def funnel(self, name: str, high: Any, low: Any, count: Any) -> Any:
        """A funnel shift: other than a plain one, it ignores the higher bits of the count."""
        name = f"{name}.v{LANES}{high.type.element}"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, ir.FunctionType(high.type, [high.type] * 3), name
        )
        return self.builder.call(function, [high, low, count])

    def wide(self, value: Any) -> Any:
        """The same numbers in 64 bits, unsigned."""
        return self.builder.zext(value, ir.VectorType(I64, LANES))

    def narrow(self, value: Any) -> Any:
        """The low 32 bits."""
        return self.builder.trunc(value, ir.VectorType(I32, LANES))

    def smaller(self, a: Any, b: Any) -> Any:
        """Lane by lane minimum, unsigned."""
        return self.builder.select(self.builder.icmp_unsigned("<", a, b), a, b)

    def lanes_with(self, condition: Any) -> Any:
        """A 64-bit mask of the lanes in which a vector of bits is set."""
        return self.builder.bitcast(condition, I64)


# For each lane, with the table as codec.kernels.pack_decode_table makes it and four steps of at most 12 bits:
#     byte = min(position >> 3, last_byte)
#     window = bytes[byte : byte + 8] as a number >> (position - 8 * byte) % 64
#     for step in range(4):
#         entry = table[state]                # bit count in bits 0-4, leader in 7, symbol in 8-15, base in 16-31
#         symbols[step] = entry >> 8 & 255
#         count = entry & 15, but 0 at step 3 of the last group
#         state = (entry >> 16) + (window & ((1 << count) - 1));  window >>= count;  position += count
# The result is the mask of lanes that met a leader.
def decode_four(
    typing: Any, data: Any, last_byte: Any, table: Any, states: Any, positions: Any, keep: Any, symbols: Any, at: Any
) -> Any:
    """Type and code of `decode_group`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, b = Lanes(context, builder, signature, arguments), builder
        position, state = lanes.load(4, I64), lanes.load(3, I32)
        byte = lanes.smaller(b.lshr(position, lanes.vector(I64, 3)), lanes.splat(arguments[1]))
        shift = b.sub(position, b.shl(byte, lanes.vector(I64, 3)))
        window = lanes.shift_right(lanes.gather(0, I8, byte, I64, align=1), shift)
        word, used, leaders, group = None, None, None, None
        for step in range(4):
            if step in (0, 2):  # 32 bits are enough for two steps
                if used is not None:
                    window = lanes.shift_right(window, lanes.wide(used))
                word = lanes.narrow(window)
            entry = lanes.gather(2, I32, state)
            # Shifts take the count from an entry's low bits; turned to the top, the bits read are shifted in again.
            word = lanes.rotate_right(word, entry)
            bits = lanes.funnel_left(lanes.vector(I32), word, entry)
            state = b.add(b.lshr(entry, lanes.vector(I32, 16)), bits)
            count = b.and_(entry, lanes.splat(arguments[5])) if step == 3 else entry
            used = count if used is None else b.add(used, count)  # in the low six bits
            leaders = entry if leaders is None else b.or_(leaders, entry)
            placed = b.lshr(entry, lanes.vector(I32, 8)) if step == 0 else b.shl(entry, lanes.vector(I32, 8 * step - 8))
            placed = b.and_(placed, lanes.vector(I32, 255 << 8 * step))
            group = placed if group is None else b.or_(group, placed)
        lanes.store(state, 3)
        lanes.store(b.add(position, lanes.wide(b.and_(used, lanes.vector(I32, 63)))), 4)
        if signature.args[6].dtype == types.uint16:
            # Packed: every byte becomes two, its low half in front.
            both = b.zext(b.bitcast(group, ir.VectorType(I8, 4 * LANES)), ir.VectorType(I16, 4 * LANES))
            spaced = b.or_(both, b.shl(both, lanes.vector(I16, 4, 4 * LANES)))
            group = b.and_(spaced, lanes.vector(I16, 0x0F0F, 4 * LANES))
        lanes.store(group, 6, arguments[7])
        led = b.and_(leaders, lanes.vector(I32, 128))
        return lanes.lanes_with(b.icmp_unsigned("!=", led, lanes.vector(I32)))

    return types.uint64(data, types.int64, table, states, positions, types.int32, symbols, types.int64), codegen


# For each lane, with the table as codec.kernels.pack_encode_table makes it:
#     for step in (3, 2, 1, 0):
#         entry = table[symbols[step]]        # bit count delta in bits 0-16, first slot modulo 2**13 in 17-29
#         count = (state + delta) >> 13
#         slot = (first_slot + (state >> count)) % 2**13
#         count = 0 at step 3 of the last group
#         bits = bits << count | state & ((1 << count) - 1)
#         state = next_state[slot]            # states here have the table's size added
# `groups` gets the bits (0-47), their number (48-55) and whether a literal follows (56, bit 31 of an entry).
def encode_four(
    typing: Any, symbols: Any, at: Any, table: Any, next_state: Any, states: Any, keep: Any, groups: Any, out: Any
) -> Any:
    """Type and code of `encode_group`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, b = Lanes(context, builder, signature, arguments), builder
        address = b.gep(lanes.pointers[0], [arguments[1]])
        four = b.load(b.bitcast(address, ir.VectorType(I32, LANES).as_pointer()), align=1)
        state = lanes.load(4, I32)  # the size is already in it: size <= state < 2 * size
        literal, halves = None, []
        for late, early in ((3, 2), (1, 0)):
            bits, used = lanes.vector(I32), lanes.vector(I32)
            for step in (late, early):
                symbol = b.and_(b.lshr(four, lanes.vector(I32, 8 * step)), lanes.vector(I32, 255))
                entry = lanes.gather(2, I32, symbol)
                delta = b.and_(entry, lanes.vector(I32, (1 << 17) - 1))
                count = b.lshr(b.add(state, delta), lanes.vector(I32, 13))
                slot = b.add(b.lshr(entry, lanes.vector(I32, 17)), b.lshr(state, count))
                slot = b.and_(slot, lanes.vector(I32, 8191))
                kept = b.and_(count, lanes.splat(arguments[5])) if step == 3 else count
                bits = lanes.funnel_left(bits, lanes.rotate_right(state, kept), kept)
                used = b.add(used, kept)
                state = lanes.gather(3, I32, slot)
                literal = entry if literal is None else b.or_(literal, entry)
            halves.append((lanes.wide(bits), lanes.wide(used)))
        (late_bits, late_used), (early_bits, early_used) = halves
        whole = b.or_(b.shl(late_bits, early_used), early_bits)
        count = b.shl(b.add(late_used, early_used), lanes.vector(I64, 48))
        flag = b.shl(lanes.wide(b.lshr(literal, lanes.vector(I32, 31))), lanes.vector(I64, 56))
        lanes.store(state, 4)
        lanes.store(b.or_(b.or_(whole, count), flag), 6, arguments[7])
        return context.get_dummy_value()

    signature = types.void(symbols, types.int64, table, next_state, states, types.int32, groups, types.int64)
    return signature, codegen


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


def prefetch_row(_typing: Any, data: Any, _offset: Any) -> Any:
    """Type and code of `prefetch`."""
    lines = 4 * LANES * data.dtype.bitwidth // 512

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        first = builder.bitcast(builder.gep(first, [arguments[1]]), I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        for line in range(lines):
            builder.call(function, [builder.gep(first, [I64(64 * line)]), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(data, types.int64), codegen


def cttz64(_typing: Any, _mask: Any) -> Any:
    """Type and code of `lowest_bit`."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], I1(1))

    return types.int64(types.uint64), codegen


decode_group: Any = intrinsic(decode_four)
encode_group: Any = intrinsic(encode_four)
prefetch: Any = intrinsic(prefetch_row)  # prefetch(array, offset): a row of 256 elements, if it exists
lowest_bit: Any = intrinsic(cttz64)  # lowest_bit(mask): its position; the mask is not 0
read64: Any = intrinsic(load64)  # read64(bytes, offset): 8 bytes at any offset as a little-endian number
write64: Any = intrinsic(store64)  # write64(bytes, offset, number): the same the other way
