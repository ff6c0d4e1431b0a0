"""Finding a model's weights: which constants they are, who reads them, and in which orientation.

A weight is a constant of the main graph, an initializer or a Constant node. What its readers do with it
says how the canonical (out, in) matrix lies in it and which tensor is its input X:

=================== ====================== ==============================
reader              input channels         X, channel axis
=================== ====================== ==============================
MatMul, second      axis -2                first input, last axis
MatMul, first       axis -1                not watched
Gemm                by transA, transB      the other input
Conv, ConvTranspose axis 1, axis 0         first input, axis 1; rows by output channel
Gather              last axis              none
LSTM, GRU, RNN      last axis              none
=================== ====================== ==============================

A Transpose, Cast or Identity in between is looked through. Readers inside If and Loop bodies count too.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from codec.tensor import FLOATS
from refimpl.errors import Corrupt

MIN_ELEMENTS = 1024  # below, headers and names eat what coding saves
WEIGHT_TYPES = tuple(
    onnx.TensorProto.DataType.Value(name)
    for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4")
)
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reader:
    """One use of a weight."""

    op_type: str
    input_axis: int  # axis of the weight that holds input channels
    activation: str | None  # name of X, None if there is none that can be watched
    activation_axis: int  # its channel axis
    row_axis: int | None = None  # axis of the weight that holds output channels, where these are quantized apart


@dataclass(frozen=True)
class Constant:
    """A constant tensor of the main graph."""

    name: str
    array: Array
    in_node: bool  # in a Constant node, not an initializer
    readers: tuple[Reader, ...]
    other_readers: tuple[str, ...]  # op types that are not understood

    @property
    def is_float(self) -> bool:
        """Whether it holds weights in a float type that can be quantized."""
        return self.array.dtype.name in FLOATS

    @property
    def row_axis(self) -> int | None:
        """Axis of output channels that are quantized apart, None without one."""
        return next((r.row_axis for r in self.readers if r.row_axis is not None), None)

    @property
    def input_axis(self) -> int | None:
        """Axis of input channels, if all readers agree on it."""
        axes = {r.input_axis for r in self.readers}
        return axes.pop() if len(axes) == 1 else None


def find_constants(model: onnx.ModelProto) -> list[Constant]:
    """All float and quantized constants of the main graph, in the file's order.

    Parameters
    ----------
    model : onnx.ModelProto
        With its external tensors loaded.

    Raises
    ------
    Corrupt
        A tensor's bytes do not fit its type and shape.
    """
    uses = readers_by_name(model.graph)
    found = []
    for name, tensor, in_node in constant_tensors(model.graph):
        if tensor.data_type not in WEIGHT_TYPES:
            continue
        understood, others = uses.get(name, ((), ()))
        found.append(Constant(name, to_array(name, tensor), in_node, tuple(understood), tuple(others)))
    return found


def find_inside(model: onnx.ModelProto) -> list[tuple[str, Array]]:
    """(name, values) of the float and quantized constants inside If, Loop and Scan bodies: they are copied."""
    found = []
    for node, _ in all_nodes(model.graph):
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found += [
                    (name, to_array(name, tensor))
                    for name, tensor, _ in constant_tensors(graph)
                    if tensor.data_type in WEIGHT_TYPES
                ]
    return found


def to_array(name: str, tensor: onnx.TensorProto) -> Array:
    """A tensor's values.

    Raises
    ------
    Corrupt
        Its bytes do not fit its type and shape.
    """
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{name}: the tensor cannot be read ({error})") from None


def constant_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto, bool]]:
    """(name, tensor, in a Constant node) of each constant tensor of the main graph."""
    for tensor in graph.initializer:
        yield tensor.name, tensor, False
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                    yield node.output[0], attribute.t, True


def readers_by_name(graph: onnx.GraphProto) -> dict[str, tuple[list[Reader], list[str]]]:
    """For each value that something reads: (readers that are understood, op types of the others)."""
    ranks = {name: len(tensor.dims) for name, tensor, _ in constant_tensors(graph)}
    uses: dict[str, tuple[list[Reader], list[str]]] = {}
    aliases: dict[str, tuple[str, list[int] | None]] = {}  # value -> (constant it shows, permutation)
    for node, inside in all_nodes(graph):
        for index, name in enumerate(node.input):
            constant, permutation = aliases.get(name, (name, None))
            if constant not in ranks:
                continue
            rank = ranks[constant]
            if node.op_type in ("Transpose", "Cast", "Identity") and not inside and index == 0:
                aliases[node.output[0]] = (constant, then_permute(permutation, node, rank))
                continue
            reader = understand(node, index, rank, inside)
            understood, others = uses.setdefault(constant, ([], []))
            if reader is None:
                others.append(node.op_type)
            elif permutation is None:
                understood.append(reader)
            else:
                row_axis = None if reader.row_axis is None else permutation[reader.row_axis]
                understood.append(replace(reader, input_axis=permutation[reader.input_axis], row_axis=row_axis))
    for output in graph.output:
        constant, _ = aliases.get(output.name, (output.name, None))
        if constant in ranks:
            uses.setdefault(constant, ([], []))[1].append("the model's caller")
    return uses


def all_nodes(graph: onnx.GraphProto, inside: bool = False) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """(node, inside a subgraph) for the graph and all its subgraphs."""
    for node in graph.node:
        yield node, inside
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from all_nodes(subgraph, True)


def then_permute(permutation: list[int] | None, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Axis of the constant behind each axis of the node's output."""
    if node.op_type != "Transpose":
        return permutation
    given = attribute_of(node, "perm")
    perm = list(given) if given is not None else list(range(rank))[::-1]
    return [permutation[p] for p in perm] if permutation is not None else perm


def understand(node: onnx.NodeProto, index: int, rank: int, inside: bool) -> Reader | None:
    """What a node does with input ``index``, a constant of that rank; None if that is not known."""
    op = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return None

    def other(i: int) -> str | None:
        return None if inside else node.input[i]

    if op == "MatMul" and rank >= 2:
        return Reader(op, rank - 2, other(0), -1) if index == 1 else Reader(op, rank - 1, None, -2)
    if op == "Gemm" and rank == 2 and index < 2:
        transposed = bool(attribute_of(node, "transB" if index else "transA"))
        other_transposed = bool(attribute_of(node, "transA" if index else "transB"))
        if index == 1:
            return Reader(op, 1 if transposed else 0, other(0), -2 if other_transposed else -1)
        return Reader(op, 0 if transposed else 1, other(1), -1 if other_transposed else -2)
    if op in ("Conv", "ConvTranspose") and index == 1 and rank >= 3:
        if (attribute_of(node, "group") or 1) != 1:
            return Reader(op, 1, None, 1, row_axis=0)
        return Reader(op, 1, other(0), 1, row_axis=0) if op == "Conv" else Reader(op, 0, other(0), 1, row_axis=1)
    if op == "Gather" and index == 0 and rank >= 2 and not attribute_of(node, "axis"):
        return Reader(op, rank - 1, None, -1)
    if op in ("LSTM", "GRU", "RNN") and index in (1, 2) and rank == 3:
        return Reader(op, 2, None, -1)
    return None


def attribute_of(node: onnx.NodeProto, name: str) -> Any:
    """Value of a node's attribute, None without it."""
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return None


def to_rows(array: Array, row_axis: int) -> Array:
    """A weight as (out, everything else): each output channel is a row.

    Examples
    --------
    >>> to_rows(np.arange(6).reshape(1, 3, 2), row_axis=1)
    array([[0, 1],
           [2, 3],
           [4, 5]])
    """
    return np.moveaxis(array, row_axis, 0).reshape(array.shape[row_axis], -1)


def from_rows(rows: Array, shape: tuple[int, ...], row_axis: int) -> Array:
    """Undo `to_rows`.

    Examples
    --------
    >>> from_rows(to_rows(np.arange(6).reshape(1, 3, 2), 1), (1, 3, 2), 1).shape
    (1, 3, 2)
    """
    moved = (shape[row_axis], *np.delete(shape, row_axis))
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, row_axis))


def to_matrix(array: Array, input_axis: int) -> Array:
    """A weight as (out, in): everything but the input axis makes the rows.

    Examples
    --------
    >>> to_matrix(np.arange(6).reshape(3, 2), input_axis=0)
    array([[0, 2, 4],
           [1, 3, 5]])
    """
    moved = np.moveaxis(array, input_axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def from_matrix(matrix: Array, shape: tuple[int, ...], input_axis: int) -> Array:
    """Undo `to_matrix`.

    Examples
    --------
    >>> from_matrix(to_matrix(np.arange(6).reshape(3, 2), 0), (3, 2), 0)
    array([[0, 1],
           [2, 3],
           [4, 5]])
    """
    moved = (*np.delete(shape, input_axis), shape[input_axis])
    return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), -1, input_axis))


def along_axis(vector: Array, rank: int, axis: int) -> Array:
    """A vector shaped to broadcast along one axis of a tensor.

    Examples
    --------
    >>> along_axis(np.arange(3), rank=4, axis=1).shape
    (1, 3, 1, 1)
    """
    return vector.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def fingerprint(array: Array) -> bytes:
    """Equal for equal shape, dtype and bytes: how tied weights are found.

    Examples
    --------
    >>> fingerprint(np.zeros(2)) == fingerprint(np.zeros(2)), fingerprint(np.zeros(2)) == fingerprint(np.zeros(3))
    (True, False)
    """
    label = f"{array.dtype.name}{array.shape}".encode()
    return hashlib.sha256(label + np.ascontiguousarray(array).tobytes()).digest()
