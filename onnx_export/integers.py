"""Weights as integers, where ONNX Runtime then multiplies integers.

A compressed weight is a float to the graph. While loading a model whose activations are quantized, a weight that
MatMul, Gemm or Conv multiplies with one of them becomes its int8 codes and a DequantizeLinear instead: ONNX Runtime
fuses that with the activation's pair into MatMulIntegerToFloat or QGemm, or into QLinearConv where the result is
quantized too, and the weight stays a byte an element in memory. Gemm's C, and a vector that is added to a product of
matrices, become int32 for it, in steps of both scales' product. What does not fit stays a float: scales of input
channels, tensors in bands, other operators, other types than float32.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from codec.tensor import Stored, StoredTensor, load_symbols
from onnx_export.absorb import infer_shapes
from onnx_export.calls import is_call
from onnx_export.references import to_array
from onnx_export.rewrite import free_name, names_in
from onnx_export.weights import attribute_of, names_read_inside

Array = npt.NDArray[Any]
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as codes, and the node that turns them into what the graph knows."""

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]  # () or (out,)
    axis: int  # of the output channels
    inputs: tuple[str, str, str]  # names of codes, scale and zero point

    def node(self, name: str) -> onnx.NodeProto:
        """DequantizeLinear that makes the value of this name."""
        return helper.make_node("DequantizeLinear", self.inputs, [name], name=f"{name}.dequantize", axis=self.axis)

    def parameters(self) -> list[onnx.TensorProto]:
        """Initializers of the scale and zero point."""
        _, scale, zero_point = self.inputs
        zeros = np.zeros(self.scale.shape, np.int8)
        return [numpy_helper.from_array(self.scale, scale), numpy_helper.from_array(zeros, zero_point)]


@dataclass(frozen=True)
class Layers:
    """What the choice needs to know of a graph."""

    readers: dict[str, list[tuple[onnx.NodeProto, int]]]  # of each value, in the main graph
    quantized: dict[str, str]  # value that a DequantizeLinear of uint8 makes -> its scale
    uses: Counter[str]
    taken: set[str]  # names, but for what calls alone read: that goes with them


def read_layers(model: onnx.ModelProto) -> Layers:
    """The layers of a graph."""
    graph = model.graph
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, i))
    codes = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    quantized = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in codes}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(name for node in graph.node for name in names_read_inside(node))
    uses.update(o.name for o in graph.output)
    calls_own = {name for name, found in readers.items() if all(is_call(node) for node, _ in found)}
    return Layers(readers, quantized, uses, names_in(graph) - calls_own)


def integer_weight(name: str, stored: Stored, layers: Layers) -> IntegerWeight | None:
    """The weight as integers, None if no integer kernel could take it.

    Raises
    ------
    StreamError
        The frame cannot be decoded.
    """
    readers = layers.readers.get(name, [])
    rank = len(stored.shape)
    if (
        not isinstance(stored, StoredTensor)
        or stored.scale is None
        or stored.dtype != "float32"
        or rank < 2
        or not readers
    ):
        return None
    if layers.uses[name] != len(readers) or stored.zero_point.size != 1:
        return None
    axes = set()
    for node, i in readers:
        if i != 1 or node.input[0] not in layers.quantized or (node.op_type == "Conv") != (rank > 2):
            return None
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            return None
        axes.add(0 if node.op_type == "Conv" or attribute_of(node, "transB") else 1)
    if len(axes) != 1:
        return None
    (axis,) = axes
    vector = tuple(n if i == axis else 1 for i, n in enumerate(stored.shape))
    wide = stored.scale.reshape((1,) * (rank - stored.scale.ndim) + stored.scale.shape)
    if wide.size > 1 and wide.shape != vector:
        return None
    codes = load_symbols(stored).astype(np.int16) - np.int16(stored.zero_point.item())
    if codes.size and not -128 <= int(codes.min()) <= int(codes.max()) <= 127:
        return None
    scale = wide.reshape(-1) if wide.size > 1 else wide.reshape(())
    stored_as, step, zero_point = (free_name(f"{name}.{p}", layers.taken) for p in ("codes", "scale", "zero_point"))
    return IntegerWeight(codes.astype(np.int8), scale, axis, (stored_as, step, zero_point))


def add_integers(model: onnx.ModelProto, weights: Mapping[str, IntegerWeight]) -> None:
    """Let DequantizeLinear make weights of their codes, in place; initializers of the codes are the caller's."""
    for name, weight in weights.items():
        model.graph.initializer.extend(weight.parameters())
        model.graph.node.insert(0, weight.node(name))
    if weights:
        integer_biases(model, weights)


def integer_biases(model: onnx.ModelProto, weights: Mapping[str, IntegerWeight]) -> None:
    """Make vectors int32 that are added to products with these weights, in place, where a kernel wants that."""
    graph = model.graph
    layers, shapes, taken = read_layers(model), infer_shapes(model), names_in(graph)
    arrays = {t.name: t for t in graph.initializer}
    for node in list(graph.node):
        weight = weights.get(node.input[1]) if len(node.input) > 1 and node.op_type in ("MatMul", "Gemm") else None
        if weight is None:
            continue
        taker, index = node, 2
        if node.op_type == "MatMul":  # ONNX Runtime joins a matrix product and an Add to a Gemm
            after = layers.readers.get(node.output[0], [])
            if len(shapes.get(node.output[0]) or ()) != 2 or len(after) != 1 or after[0][0].op_type != "Add":
                continue
            taker, index = after[0][0], 1 - after[0][1]
        elif len(node.input) < 3 or any(attribute_of(node, a) not in (None, 1.0) for a in ("alpha", "beta")):
            continue
        bias, activation = arrays.get(taker.input[index]), arrays.get(layers.quantized.get(node.input[0], ""))
        if bias is None or activation is None or bias.data_type != onnx.TensorProto.FLOAT:
            continue
        values = to_array(bias.name, bias).reshape(-1)
        if values.size != weight.codes.shape[weight.axis]:
            continue
        step = (to_array(activation.name, activation) * weight.scale).astype(np.float32)
        codes = np.rint(values.astype(np.float64) / step)
        if not (np.isfinite(codes).all() and (np.abs(codes) <= INT32.max).all()):
            continue
        name = free_name(f"{bias.name}.int32", taken)
        zeros = np.zeros(step.shape, np.int32)
        for part, array in (("codes", codes.astype(np.int32)), ("scale", step), ("zero_point", zeros)):
            graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
        inputs = [f"{name}.codes", f"{name}.scale", f"{name}.zero_point"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
        taker.input[index] = name
