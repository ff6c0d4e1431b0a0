"""Stored tensors as function calls: written into a graph and read back, side by side.

Each weight is one call of an `ai.tansor` function whose inputs are initializers named after it; one in bands is a
call for each band, a Concat and a call of ``Interleave``.
Specification: docs/spec/onnx.md.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from zlib_ng.zlib_ng import crc32

from codec.frame import Frame
from codec.tensor import FLOATS, INTEGERS, BandedTensor, Stored, StoredTensor, make_banded
from onnx_export.functions import DOMAIN, decompress_name
from onnx_export.references import bytes_of, size_of, to_array, to_tensor
from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.blocks import Block, Chunks
from refimpl.tans.classes import NO_CLASSES
from refimpl.tans.counts import stored_counts
from refimpl.tans.nibbles import pack_nibbles, unpack_nibbles
from refimpl.tans.stream import Stream

ELEMENT_TYPES = {
    "float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16,
    "int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8,
    "int4": onnx.TensorProto.INT4, "uint4": onnx.TensorProto.UINT4,
}  # fmt: skip
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """What a function decodes; integers that coding does not shrink are left as they are."""

    mode: str
    is_weight: bool
    classes: bool = False
    packed: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        if self.mode in ("raw", "constant"):
            return self.mode.capitalize() + "Packed" * self.packed + "Linear"
        name = decompress_name(self.classes, self.packed, self.mode == "partial")
        return name + ("Linear" if self.is_weight else "Integer")


KINDS = [
    Kind(mode, is_weight, classes, packed)
    for mode, is_weight, classes, packed in product(("coded", "partial"), (True, False), (False, True), (False, True))
] + [Kind("raw", True), Kind("raw", True, packed=True), Kind("constant", True)]
KIND_OF = {kind.name: kind for kind in KINDS}
INTERLEAVE = "Interleave"


def is_call(node: onnx.NodeProto) -> bool:
    """Whether a node decodes a tensor, or puts the bands of one together."""
    return bool(node.domain == DOMAIN)


@dataclass(frozen=True)
class Call:
    """A node and the initializers it reads; for a tensor in bands also the nodes before it and what these read.

    Of what goes from one node to another the types are declared: native operators know theirs from nothing else.
    """

    node: onnx.NodeProto
    inputs: list[onnx.TensorProto]
    before: tuple[onnx.NodeProto, ...] = ()
    values: tuple[onnx.ValueInfoProto, ...] = ()

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """All nodes, in order."""
        return (*self.before, self.node)

    @property
    def functions(self) -> set[str]:
        """Names of the functions that it calls."""
        return {node.op_type for node in self.nodes if is_call(node)}

    @property
    def stored_bytes(self) -> int:
        """Bytes of all inputs: everything stored for this tensor but its name."""
        return sum(size_of(tensor) for tensor in self.inputs)


def write_call(name: str, stored: Stored) -> Call:
    """The call that produces a stored tensor.

    Parameters
    ----------
    name : str
        Name of the value; the inputs are called ``<name>.<part>``, the bands ``<name>.0``, ``<name>.1``, ..
    stored : StoredTensor or BandedTensor

    Raises
    ------
    InvalidArgument
        Integers in a raw or constant block, also of a band: no function gives them. They stay initializers.
    """
    if isinstance(stored, BandedTensor):
        return write_banded(name, stored)
    block = stored.frame.block
    if stored.scale is None and block.stream is None:
        raise InvalidArgument(f"{name}: there is no function for integers in mode {block.mode}")
    parts: Arrays = {}
    if block.stream is not None:
        stream = block.stream
        counts = stored_counts(stream.counts)
        fields = [
            stream.symbol_count, int(stream.counts.sum()).bit_length() - 1, stream.lane_count,
            stream.length_base, stream.length_width,
        ]  # fmt: skip
        parts |= {
            "stream": stream.words.astype("<u4", copy=False).view(np.uint16),
            "counts": counts,
            "layout": np.array([*fields, *stored.shape], np.int64),
        }
        if len(stream.classes):
            parts["classes"] = stream.classes
        if block.chunks is not None:
            chunks = [block.chunks.symbols, block.chunks.per_block, block.chunks.coded]
            parts |= {"raw": block.raw, "chunks": np.array(chunks, np.int64)}
    elif block.packed:
        parts |= {"units": block.raw, "shape": np.array(stored.shape, np.int64)}
    elif block.mode == "raw":
        parts["symbols"] = block.raw.reshape(stored.shape)
    else:
        parts |= {"symbol": block.raw, "shape": np.array(stored.shape, np.int64)}
    if stored.scale is not None:
        parts["scale"] = stored.scale
    parts["zero_point"] = stored.zero_point
    inputs = [to_tensor(np.ascontiguousarray(array), f"{name}.{part}") for part, array in parts.items()]
    has_classes = block.stream is not None and len(block.stream.classes) > 0
    node = helper.make_node(
        Kind(block.mode, stored.scale is not None, has_classes, block.packed).name,
        [tensor.name for tensor in inputs],
        [name],
        name=f"{name}.decompress",
        domain=DOMAIN,
        to=ELEMENT_TYPES[stored.dtype],
        stored_crc=checksum(inputs),
        symbols_crc=stored.frame.symbols_crc,
    )
    return Call(node, inputs)


def write_banded(name: str, stored: BandedTensor) -> Call:
    """The nodes that produce a tensor in bands."""
    calls = [write_call(f"{name}.{g}", part) for g, part in enumerate(stored.parts)]
    parts: Arrays = {"bands": pack_nibbles(stored.bands), "channels": np.array([len(stored.bands)], np.int64)}
    inputs = [numpy_helper.from_array(array, f"{name}.{part}") for part, array in parts.items()]
    bands = [call.node.output[0] for call in calls]
    joined = helper.make_node("Concat", bands, [f"{name}.joined"], name=f"{name}.join", axis=stored.axis)
    node = helper.make_node(
        INTERLEAVE,
        [joined.output[0], *(tensor.name for tensor in inputs)],
        [name],
        name=f"{name}.interleave",
        domain=DOMAIN,
        axis=stored.axis,
        stored_crc=checksum(inputs),
    )
    values = [
        helper.make_tensor_value_info(band, ELEMENT_TYPES[part.dtype], part.shape)
        for band, part in zip(bands, stored.parts, strict=True)
    ]
    every = [tensor for call in calls for tensor in call.inputs] + inputs
    return Call(node, every, (*(call.node for call in calls), joined), tuple(values))


def read_calls(model: onnx.ModelProto) -> Iterator[tuple[str, Stored, Call]]:
    """(name, tensor, call) of each compressed tensor of a model; nothing is decoded yet.

    Raises
    ------
    Corrupt
        A call's inputs are missing, of the wrong kind, or have a wrong checksum.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node if node.output}
    nodes = [node for node in model.graph.node if is_call(node)]
    joins = {id(node): join_of(node, producers) for node in nodes if node.op_type == INTERLEAVE}
    bands = {name for join in joins.values() for name in join.input}
    for node in nodes:
        name = node.output[0] if node.output else node.name
        if name in bands:
            continue
        try:
            join = joins.get(id(node))
            if join is None:
                call = find_inputs(node, initializers)
                yield name, read_call(call), call
            else:
                calls = [find_inputs(producers[band], initializers) for band in join.input]
                call = find_inputs(node, initializers)
                every, before = [t for c in [*calls, call] for t in c.inputs], (*(c.node for c in calls), join)
                call = Call(node, every, before, tuple(v for v in model.graph.value_info if v.name in join.input))
                yield name, read_banded(calls, call), call
        except Corrupt as error:
            raise Corrupt(f"{name}: {error}") from None
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise Corrupt(f"{name}: the call cannot be read ({error})") from None


def join_of(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The Concat of calls that a call of ``Interleave`` reads.

    Raises
    ------
    Corrupt
        It reads something else.
    """
    join = producers.get(node.input[0]) if node.input else None
    if join is None or join.op_type != "Concat" or join.domain not in ("", "ai.onnx"):
        raise Corrupt(f"{node.name}: {INTERLEAVE} does not read a Concat")
    calls = [producers.get(name) for name in join.input]
    if any(call is None or not is_call(call) or call.op_type == INTERLEAVE for call in calls):
        raise Corrupt(f"{node.name}: its Concat does not join calls of {DOMAIN}")
    return join


def find_inputs(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> Call:
    """A node with the initializers that it reads.

    Raises
    ------
    Corrupt
        It is unknown, or reads anything else.
    """
    names = node.input[1:] if node.op_type == INTERLEAVE else node.input
    inputs = [initializers[name] for name in names if name in initializers]
    if node.op_type not in {*KIND_OF, INTERLEAVE} or len(inputs) != len(names):
        raise Corrupt(f"{node.op_type} has no constant inputs or is unknown")
    return Call(node, inputs)


def read_banded(calls: Sequence[Call], call: Call) -> BandedTensor:
    """Undo `write_banded`.

    Parameters
    ----------
    calls : sequence of Call
        One for each band.
    call : Call
        All nodes, and all inputs; those of ``Interleave`` come last.

    Raises
    ------
    Corrupt
        The parts do not fit one another, or a checksum is wrong.
    """
    inputs = call.inputs[len(call.inputs) - (len(call.node.input) - 1) :]
    if checksum(inputs) != attribute(call.node, "stored_crc"):
        raise Corrupt("the checksum of the bands is wrong")
    bands, channels = (to_array(tensor.name, tensor) for tensor in inputs)
    (count,) = vector(channels, np.int64).tolist()
    axis = attribute(call.node, "axis")
    if [a.i for a in call.before[-1].attribute if a.name == "axis"] != [axis]:
        raise Corrupt(f"the bands are joined along another axis than {axis}")
    every = unpack_nibbles(vector(bands, np.uint8))
    if not (len(every) - 1 <= count <= len(every) and not every[count:].any()):
        raise Corrupt(f"{len(bands)} bytes of bands for {count} channels")
    return make_banded(axis, every[:count], [read_call(part) for part in calls])


def read_call(call: Call) -> StoredTensor:
    """Undo `write_call` for a tensor of one call.

    Raises
    ------
    Corrupt
        The inputs do not fit the function, or their checksum is wrong.
    """
    stored_crc, symbols_crc, to = (attribute(call.node, name) for name in ("stored_crc", "symbols_crc", "to"))
    if checksum(call.inputs) != stored_crc:
        raise Corrupt("the checksum of the stored bytes is wrong")
    kind = KIND_OF[call.node.op_type]
    dtypes = FLOATS if kind.is_weight else INTEGERS
    dtype = next((d for d in dtypes if ELEMENT_TYPES[d] == to), None)
    if dtype is None:
        raise Corrupt(f"element type {to} is not for {call.node.op_type}")
    arrays = [to_array(tensor.name, tensor) for tensor in call.inputs]
    zero_point = expect(arrays.pop(), np.uint8)
    scale = expect(arrays.pop(), np.float32) if kind.is_weight else None
    block, shape = read_block(kind, arrays)
    return StoredTensor(shape, dtype, Frame(block, symbols_crc), zero_point, scale)


def attribute(node: onnx.NodeProto, name: str) -> int:
    """An integer attribute of a call.

    Raises
    ------
    Corrupt
        It is missing.
    """
    found = next((a for a in node.attribute if a.name == name and a.type == onnx.AttributeProto.INT), None)
    if found is None:
        raise Corrupt(f"{node.op_type} has no integer attribute {name}")
    return int(found.i)


def read_block(kind: Kind, arrays: list[npt.NDArray[Any]]) -> tuple[Block, tuple[int, ...]]:
    """(block, shape) from the inputs of a call, scale and zero point left out."""
    if kind.mode == "raw" and not kind.packed:
        (symbols,) = arrays
        return Block("raw", symbols.size, expect(symbols, np.uint8).reshape(-1)), symbols.shape
    if kind.mode in ("raw", "constant"):
        stored, dims = arrays
        shape = checked_shape(vector(dims, np.int64).tolist())
        return Block(kind.mode, math.prod(shape), vector(stored, np.uint8), packed=kind.packed), shape
    halves, counts, layout, *rest = arrays
    symbol_count, table_log, lane_count, length_base, length_width, *dims = vector(layout, np.int64).tolist()
    shape = checked_shape(dims)
    words = np.ascontiguousarray(vector(halves, np.uint16)).view("<u4").astype(np.uint32, copy=False)
    if int(vector(counts, np.uint8, np.uint16).sum()) != 1 << min(max(table_log, 0), 63):
        raise Corrupt("the normalized counts do not sum to the table size")
    if len(rest) != kind.classes + 2 * (kind.mode == "partial"):
        raise Corrupt(f"{len(arrays)} stored arrays for {kind.name}")
    classes = vector(rest.pop(0), np.uint8) if kind.classes else NO_CLASSES
    if kind.classes and not len(classes):
        raise Corrupt(f"no classes for {kind.name}")
    stream = Stream(symbol_count, lane_count, length_base, length_width, counts.astype(np.int64), classes, words)
    raw, chunks = np.empty(0, np.uint8), None
    if kind.mode == "partial":
        raw = vector(rest[0], np.uint8)
        chunk, per_block, coded = (int(c) for c in vector(rest[1], np.int64))
        if not (1 <= chunk < 1 << 32 and 1 <= coded < per_block < 256):
            raise Corrupt(f"{coded} of {per_block} chunks of {chunk} symbols are coded")
        chunks = Chunks(chunk, per_block, coded)
    return Block(kind.mode, math.prod(shape), raw, stream, chunks, kind.packed), shape


def checked_shape(dims: list[int]) -> tuple[int, ...]:
    """The dimensions, if none is negative.

    Raises
    ------
    Corrupt
        One is.
    """
    if min(dims, default=1) < 0:
        raise Corrupt(f"shape {dims}")
    return tuple(dims)


def vector(array: npt.NDArray[Any], *dtypes: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array, if it is a vector of one of the dtypes.

    Raises
    ------
    Corrupt
        It is not.
    """
    if array.ndim != 1 or array.dtype not in dtypes:
        raise Corrupt(f"an input is {array.dtype}{list(array.shape)}, expected a vector of {np.dtype(dtypes[0])}")
    return array


def expect(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array, if it has the dtype.

    Raises
    ------
    Corrupt
        It has another.
    """
    if array.dtype != dtype:
        raise Corrupt(f"an input has dtype {array.dtype}, expected {np.dtype(dtype)}")
    return array


def checksum(inputs: list[onnx.TensorProto]) -> int:
    """CRC-32 over the bytes of all inputs, in order."""
    crc = 0
    for tensor in inputs:
        crc = crc32(bytes_of(tensor).data, crc)
    return crc
