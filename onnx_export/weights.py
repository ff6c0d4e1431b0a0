"""Finding a model's weights: which constants they are, who reads them, and in which orientation.

A weight is a constant of the main graph, an initializer or a Constant node (`onnx_export.hoist` brings those of bodies
there). What its readers do with it says how the canonical (out, in) matrix lies in it and which tensor is its input X:

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

Nodes that only move values are looked through: Identity, Cast, Transpose, Unsqueeze, Squeeze, Slice, Split and Concat,
as exporters of recurrent layers put them there. Readers inside If, Loop and Scan bodies count too, also of what a Loop
carries from one iteration to the next as it is.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from codec.tensor import FLOATS
from onnx_export.references import to_array

WEIGHT_TYPES = tuple(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name in ("DOUBLE", "BFLOAT16", "INT16", "UINT16", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
    or name in ("FLOAT", "FLOAT16", "FLOAT4E2M1")
    or name.startswith("FLOAT8")
)
SUM_READERS = ("DequantizeLinear", "QLinearConv", "QGemm")  # of int32 constants: biases of integer products
# What constants that are no weights of a product are to their readers, by operator and number of the input.
ROLES = {
    **{(op, 2): "bias" for op in ("Conv", "ConvTranspose", "Gemm")},
    **{(op, 3): "bias" for op in ("LSTM", "GRU", "RNN")},
    **{(op, 5): "initial state" for op in ("LSTM", "GRU", "RNN")},
    ("LSTM", 6): "initial state",
    ("LSTM", 7): "peephole weights",
    **{(op, 1): "scale" for op in ("QuantizeLinear", "DequantizeLinear")},
    **{(op, 2): "zero point" for op in ("QuantizeLinear", "DequantizeLinear")},
    **{(f"{kind}Normalization", 1): "scale" for kind in ("Batch", "Group", "Instance", "Layer", "RMS")},
    **{(f"{kind}Normalization", 2): "bias" for kind in ("Batch", "Group", "Instance", "Layer")},
    ("BatchNormalization", 3): "mean",
    ("BatchNormalization", 4): "variance",
    ("PRelu", 1): "slope",
}
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
    other_readers: tuple[
        str, ...
    ]  # op types that are not understood, or what a constant is to others that are no product

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

    Raises
    ------
    Corrupt
        A tensor's bytes do not fit its type and shape.
    """
    uses = readers_by_name(model.graph)
    found = []
    for name, tensor, in_node in constant_tensors(model.graph):
        understood, others = uses.get(name, ((), ()))
        is_sum = tensor.data_type == onnx.TensorProto.INT32 and any(op in SUM_READERS for op in others)
        if tensor.data_type not in WEIGHT_TYPES and not is_sum:
            continue
        found.append(Constant(name, to_array(name, tensor), in_node, tuple(understood), tuple(others)))
    return found


def find_inside(model: onnx.ModelProto) -> list[tuple[str, Array]]:
    """(name, values) of the float and quantized constants that lie in If, Loop and Scan bodies: they are copied."""
    found = []
    for node in all_nodes(model.graph):
        for body in bodies(node):
            found += [
                (name, to_array(name, tensor))
                for name, tensor, _ in constant_tensors(body)
                if tensor.data_type in WEIGHT_TYPES
            ]
    return found


def constant_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto, bool]]:
    """(name, tensor, in a Constant node) of each constant tensor of a graph, those of its bodies left out."""
    for tensor in graph.initializer:
        yield tensor.name, tensor, False
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                    yield node.output[0], attribute.t, True


def readers_by_name(graph: onnx.GraphProto) -> dict[str, tuple[list[Reader], list[str]]]:
    """For each constant that something reads: (readers that are understood, what it is to the others)."""
    uses: dict[str, tuple[list[Reader], list[str]]] = {}
    views: Views = {name: (View(name, tuple(range(len(t.dims)))),) for name, t, _ in constant_tensors(graph)}
    collect_readers(graph, views, {}, uses, inside=False)
    for output in graph.output:
        for view in views.get(output.name, ()):
            uses.setdefault(view.constant, ([], []))[1].append("the model's caller")
    return uses


@dataclass(frozen=True)
class View:
    """What a value shows of a constant."""

    constant: str
    axes: tuple[int | None, ...]  # axis of the constant behind each axis of the value; None: an added one of length 1
    whole: bool = True  # False if it may be a part of the constant, or more than it


Views = dict[str, tuple[View, ...]]  # by name of the value


def collect_readers(
    graph: onnx.GraphProto,
    views: Views,
    integers: dict[str, list[int]],
    uses: dict[str, tuple[list[Reader], list[str]]],
    *,
    inside: bool,
) -> None:
    """Add the readers of a graph and its bodies to ``uses``, what its values show to ``views``, in place.

    ``integers`` are the constants that say axes. Names of a body are known in that body alone.
    """
    integers |= {
        name: axes for name, tensor, _ in constant_tensors(graph) if (axes := small_integers(tensor)) is not None
    }
    for node in graph.node:
        shown = [views.get(name, ()) for name in node.input]
        carried = carried_inputs(node)
        for body in bodies(node):
            inner = {body.input[i].name: shown[i] for i in carried if shown[i]}
            inner = views | inner
            collect_readers(body, inner, dict(integers), uses, inside=True)
            for k, output in enumerate(body.output):
                for view in inner.get(output.name, ()):
                    if k + 1 not in carried:
                        uses.setdefault(view.constant, ([], []))[1].append(node.op_type)
        views.update({node.output[i - 2]: shown[i] for i in carried if shown[i] and i - 2 < len(node.output)})
        through = look_through(node, shown, integers)
        if through is not None:
            views.update(dict.fromkeys(node.output, through))
        for index, here in enumerate(shown):
            if index in carried or (through is not None and (index == 0 or node.op_type == "Concat")):
                continue
            for view in here:
                understood, others = uses.setdefault(view.constant, ([], []))
                reader = through_view(understand(node, index, len(view.axes), inside), view)
                if reader is None:
                    others.append(use_of(node, index))
                else:
                    understood.append(reader)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            yield from (attribute.graphs if attribute.graphs else [attribute.g])


def carried_inputs(node: onnx.NodeProto) -> set[int]:
    """Inputs of a Loop that every iteration hands to the next as they are; input i of its body, output i - 1."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
        return set()
    (body,) = bodies(node)
    same = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}

    def origin(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    count = min(len(node.input), len(body.input), len(body.output) + 1)
    return {i for i in range(2, count) if origin(body.output[i - 1].name) == body.input[i].name}


def look_through(
    node: onnx.NodeProto, shown: list[tuple[View, ...]], integers: Mapping[str, list[int]]
) -> tuple[View, ...] | None:
    """What the outputs of a node show of the constants behind its inputs; None if it does not merely move values."""
    if node.domain not in ("", "ai.onnx") or not any(shown):
        return None
    if node.op_type == "Concat":
        return tuple(dict.fromkeys(replace(view, whole=False) for views in shown for view in views))
    if not shown[0]:
        return None
    moved = [moved_view(node, view, integers) for view in shown[0]]
    return None if None in moved else tuple(view for view in moved if view is not None)


def moved_view(node: onnx.NodeProto, view: View, integers: Mapping[str, list[int]]) -> View | None:
    """What a node's output shows of a constant whose view is its first input; None if that is not known."""
    op, axes = node.op_type, view.axes
    if op in ("Identity", "Cast"):
        return view
    if op in ("Slice", "Split"):
        return replace(view, whole=False)
    if op == "Transpose":
        perm = attribute_of(node, "perm")
        return replace(view, axes=axes[::-1] if perm is None else tuple(axes[p] for p in perm))
    if op not in ("Squeeze", "Unsqueeze"):
        return None
    given = attribute_of(node, "axes") or integers.get(node.input[1] if len(node.input) > 1 else "")
    if given is None:
        return None
    if op == "Squeeze":
        gone = {axis % len(axes) for axis in given}
        return replace(view, axes=tuple(a for i, a in enumerate(axes) if i not in gone))
    rank, old = len(axes) + len(given), iter(axes)
    added = {axis % rank for axis in given}
    return replace(view, axes=tuple(None if i in added else next(old) for i in range(rank)))


def through_view(reader: Reader | None, view: View) -> Reader | None:
    """A reader of a view as one of the constant itself; None if an axis it names is not the constant's."""
    if reader is None:
        return None
    input_axis = view.axes[reader.input_axis]
    row_axis = None if reader.row_axis is None else view.axes[reader.row_axis]
    if input_axis is None or (row_axis is None) != (reader.row_axis is None):
        return None
    activation = reader.activation if view.whole else None  # channels of a part are not those of the whole
    return replace(reader, input_axis=input_axis, row_axis=row_axis, activation=activation)


def small_integers(tensor: onnx.TensorProto) -> list[int] | None:
    """The values of a short int64 tensor, None if it is something else."""
    if tensor.data_type != onnx.TensorProto.INT64 or len(tensor.dims) > 1 or max(tensor.dims, default=1) > 16:
        return None
    try:
        return [int(i) for i in numpy_helper.to_array(tensor).reshape(-1)]
    except (ValueError, KeyError, TypeError):  # damaged: whoever reads it will say so
        return None


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and all its bodies."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def names_read_inside(node: onnx.NodeProto) -> Iterator[str]:
    """Whatever the graphs inside a node read, and those inside them."""
    for body in bodies(node):
        for inner in all_nodes(body):
            yield from inner.input


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


def use_of(node: onnx.NodeProto, index: int) -> str:
    """What input ``index`` is to a node that is no product of it: the node's operator where that is not known.

    Examples
    --------
    >>> use_of(onnx.NodeProto(op_type="Add"), 1), use_of(onnx.NodeProto(op_type="LSTM"), 3)
    ('Add', 'the bias of LSTM')
    """
    role = ROLES.get((node.op_type, index)) if node.domain in ("", "ai.onnx") else None
    return node.op_type if role is None else f"the {role} of {node.op_type}"


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
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
