"""Absorbing a channel scale: dividing a value's channels in the graph by changing the constants that make it.

A layer whose weight was multiplied by s along its input channels wants its input X divided by s. X is followed
back to where that costs nothing:

=================================== ======================================================================
what makes the value                what is divided by s
=================================== ======================================================================
LayerNormalization, RMSNormalization scale and bias
Mul by a constant for each channel  the constant: how exporters write the end of a normalization
MatMul or Gemm by a constant        its columns, or rows, of output channels, and Gemm's C
=================================== ======================================================================

On the way lie operators through which a positive factor of a channel passes: Relu, LeakyRelu, Abs, Neg, Identity, a
constant Add or Sub (divided too), a product with something else, reshapes and transposes whose shapes are known, and
MatMul by what does not mix channels, as attention does with its values. Every value on the way must be read by the
next alone, every constant by its node alone; outputs of the graph and what subgraphs read are left alone.

The channel of each element is carried along as an array of indices: what broadcasts against a value's last axes.
Specification: docs/spec/scaling.md, "Absorption".
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_export.references import to_array
from onnx_export.weights import all_nodes, attribute_of, bodies, constant_tensors

Channels = npt.NDArray[np.intp]  # channel of each element, broadcastable to the last axes of a value
Dims = tuple[int | None, ...]
STANDARD = ("", "ai.onnx")
NORMALIZATIONS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
TRANSPARENT = ("Relu", "LeakyRelu", "Abs", "Neg", "Identity")
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
SMALL = 1024  # elements of a constant that shape inference may need


@dataclass(frozen=True)
class Sink:
    """Where the inverse of a scale goes: constants, and which channel divides each of their elements."""

    kind: str  # "LayerNorm" or "linear"
    edits: Mapping[str, Channels]  # constant -> channels, broadcastable to it
    weight: str | None = None  # of the linear layer


@dataclass(frozen=True)
class Graph:
    """What the way back needs to know of a graph."""

    producers: Mapping[str, onnx.NodeProto]  # of the main graph
    uses: Counter[str]  # by nodes, subgraphs and the model's caller
    constants: Mapping[str, tuple[int, ...]]  # shapes of those float constants that may be changed
    zeros: Set[str]  # constants of zeros: dividing them changes nothing
    shapes: Mapping[str, Dims]


def read_graph(model: onnx.ModelProto, frozen: Set[str]) -> Graph:
    """A graph, ready to be followed back.

    Parameters
    ----------
    model : onnx.ModelProto
    frozen : set of str
        Constants that must stay as they are. Those that a caller may override are frozen too.
    """
    graph = model.graph
    nodes = list(all_nodes(graph))
    uses = Counter(name for node in nodes for name in node.input if name)
    uses.update(output.name for output in graph.output)
    for node in nodes:  # a body's result may be a value of the main graph
        uses.update(output.name for body in bodies(node) for output in body.output)
    frozen = frozen | {value.name for value in graph.input}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    constants = {n: t for n, t, _ in constant_tensors(graph) if t.data_type in floats and n not in frozen}
    zeros = {n for n, t in constants.items() if prod(t.dims) <= 1 << 20 and not to_array(n, t).any()}
    return Graph(
        {output: node for node in graph.node for output in node.output if output and node.op_type != "Constant"},
        uses,
        {name: tuple(tensor.dims) for name, tensor in constants.items()},
        zeros,
        infer_shapes(model),
    )


def infer_shapes(model: onnx.ModelProto) -> dict[str, Dims]:
    """Shapes of the main graph's values as far as they are known; large constants stay out of the inference."""
    light = onnx.ModelProto()
    light.CopyFrom(without_large_values(model))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # it raises what its C++ side throws; without it reshapes stop the way back
        inferred = light
    graph = inferred.graph
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return shapes


def without_large_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large initializers as inputs: their shapes are all that inference wants of them."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    declared = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def find_sink(graph: Graph, value: str, channels: int, readers: int) -> Sink | None:
    """Where 1 / s can go so that a value is divided by s along its last axis, None if nowhere.

    Parameters
    ----------
    graph : Graph
    value : str
        The layers' input X.
    channels : int
        Its last dimension.
    readers : int
        How many inputs of nodes want it divided: it must have no other reader.
    """
    return follow(graph, value, np.arange(channels), readers, {})


def follow(graph: Graph, value: str, index: Channels, readers: int, edits: dict[str, Channels]) -> Sink | None:
    """One step back: the node that makes a value, and what it would have to change."""
    node = graph.producers.get(value)
    if node is None or graph.uses[value] != readers or node.output[0] != value or node.domain not in STANDARD:
        return None
    op, inputs = node.op_type, list(node.input)

    def back(i: int, onward: Channels, more: Mapping[str, Channels] | None = None) -> Sink | None:
        return follow(graph, inputs[i], onward, 1, {**edits, **(more or {})})

    def change(i: int, onward: Channels) -> dict[str, Channels] | None:
        """The edit of a constant input, None if it cannot be made."""
        name = inputs[i]
        shape = graph.constants.get(name)
        if shape is None or name in edits or not covers(shape, onward):
            return None
        if graph.uses[name] != 1:
            return {} if name in graph.zeros else None
        return {name: onward}

    if op in NORMALIZATIONS:
        changes = [change(i, index) for i in range(1, len(inputs)) if inputs[i]]
        return None if len(inputs) < 2 else sink("LayerNorm", edits, changes)
    if op == "Gemm":
        transposed = bool(attribute_of(node, "transB"))
        columns = index.reshape(-1)
        if index.size != index.shape[-1]:
            return None
        changes = [change(1, columns[:, None] if transposed else columns[None, :])]
        if len(inputs) > 2 and inputs[2]:
            changes.append(change(2, columns))
        return sink("linear", edits, changes, inputs[1])
    if op == "MatMul":
        return through_product(graph, inputs, index, edits)
    if op in ("Mul", "Add", "Sub"):
        for i in (0, 1):
            edit = change(i, index)
            if edit is not None and op == "Mul":
                return sink("LayerNorm", edits, [edit])
            if edit is not None:
                return back(1 - i, index, edit)
        if op == "Mul":
            found = (back(i, index) for i in (0, 1) if inputs[i] != inputs[1 - i])
            return next((s for s in found if s is not None), None)
        return None
    if op in TRANSPARENT or op in ("Div", "PRelu"):
        return back(0, index)
    if op == "Transpose":
        return through_transpose(graph, node, inputs[0], index, edits)
    if op in RESHAPES:
        moved = through_reshape(index, graph.shapes.get(inputs[0]), graph.shapes.get(value))
        return None if moved is None else back(0, moved)
    return None


def sink(
    kind: str, edits: Mapping[str, Channels], changes: list[dict[str, Channels] | None], weight: str | None = None
) -> Sink | None:
    """The end of the way back, if all its changes can be made."""
    merged = dict(edits)
    for change in changes:
        if change is None:
            return None
        merged |= change
    return Sink(kind, merged, weight)


def covers(shape: tuple[int, ...], index: Channels) -> bool:
    """Whether a constant has an element of its own for every channel.

    Examples
    --------
    >>> covers((4,), np.arange(4)), covers((), np.arange(4)), covers((3, 4), np.arange(3)[:, None])
    (True, False, True)
    """
    try:
        return np.broadcast_shapes(shape, index.shape) == shape
    except ValueError:
        return False


def through_product(graph: Graph, inputs: list[str], index: Channels, edits: dict[str, Channels]) -> Sink | None:
    """MatMul: a factor of output columns belongs to the right side, one of rows to the left."""
    along_columns = index.ndim < 2 or index.shape[-2] == 1
    along_rows = index.ndim >= 2 and index.shape[-1] == 1
    name = inputs[1] if along_columns else inputs[0]
    if not (along_columns or along_rows) or inputs[0] == inputs[1]:
        return None
    shape = graph.constants.get(name)
    if shape is None:
        matrix = len(graph.shapes.get(name) or ()) >= 2  # a vector has neither rows nor columns
        return follow(graph, name, index, 1, edits) if matrix else None
    if len(shape) < 2 or name in edits or graph.uses[name] != 1 or not covers(shape, index):
        return None
    return Sink("linear", {**edits, name: index}, name)


def through_transpose(
    graph: Graph, node: onnx.NodeProto, name: str, index: Channels, edits: dict[str, Channels]
) -> Sink | None:
    """Transpose: the axes of the channels move with it."""
    shape = graph.shapes.get(name)
    permutation: Any = attribute_of(node, "perm")
    if permutation is None:
        if shape is None:
            return None
        permutation = list(range(len(shape)))[::-1]
    if index.ndim > len(permutation):
        return None
    full = index.reshape((1,) * (len(permutation) - index.ndim) + index.shape)
    return follow(graph, name, stripped(np.transpose(full, np.argsort(permutation))), 1, edits)


def through_reshape(index: Channels, before: Dims | None, after: Dims | None) -> Channels | None:
    """The channels of a reshape's input: its last axes and those of the output must be the same run of elements.

    Examples
    --------
    >>> through_reshape(np.arange(6), before=(None, 2, 3), after=(None, 6)).shape
    (2, 3)
    >>> through_reshape(np.arange(6), before=(None, 2), after=(None, 6)) is None
    True
    """
    index = stripped(index)
    if before is None or after is None or len(after) < index.ndim or after[len(after) - index.ndim :] != index.shape:
        return None
    for axes in range(1, len(before) + 1):
        last = before[len(before) - axes :]
        if any(d is None for d in last):
            return None
        if prod(d or 0 for d in last) == index.size:
            return index.reshape([d or 0 for d in last])
    return None


def stripped(index: Channels) -> Channels:
    """The channels without leading axes of length 1.

    Examples
    --------
    >>> stripped(np.arange(3).reshape(1, 1, 3)).shape
    (3,)
    """
    first = next((i for i, d in enumerate(index.shape) if d != 1), index.ndim - 1)
    return index.reshape(index.shape[first:])
