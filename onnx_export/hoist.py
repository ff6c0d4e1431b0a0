"""Hoisting: weights inside If, Loop and Scan bodies become initializers of the main graph, which bodies see as well.

There they are compressed like all others, and a Loop does not decode them again in every iteration. What a model
computes does not change. Names are unique in the result: bodies beside each other may use the same one for different
weights.
"""

import math
from collections import Counter

import onnx

from onnx_export.paying import is_too_small
from onnx_export.rewrite import remove
from onnx_export.tensors import NARROW_BITS
from onnx_export.weights import WEIGHT_TYPES, all_nodes, bodies, constant_tensors

NOT_HOISTED = "what an If, Loop or Scan body takes or returns by its name"


def hoist_weights(model: onnx.ModelProto) -> None:
    """Move the weights of bodies into the main graph, in place; a name that is taken gets underscores.

    Tensors that are smaller than what would decode them and those that a body takes or returns stay where they are.
    The order and the names follow from the model alone.
    """
    taken = Counter(defined_names(model.graph))
    for node in model.graph.node:
        for body in bodies(node):
            model.graph.initializer.extend(hoist_out_of(body, taken))


def hoist_out_of(body: onnx.GraphProto, taken: Counter[str]) -> list[onnx.TensorProto]:
    """Take the weights of a body and of those inside it out of them, in place; return them under their new names."""
    hoisted = [tensor for node in body.node for inner in bodies(node) for tensor in hoist_out_of(inner, taken)]
    found = weights_of_body(body)
    for name, tensor in found:
        while taken[tensor.name] > (tensor.name == name):
            tensor.name += "_"
        if tensor.name != name:
            taken[name] -= 1
            taken[tensor.name] += 1
            rename_reads(body, name, tensor.name)
    take_out(body, {name for name, _ in found})
    return hoisted + [tensor for _, tensor in found]


def weights_of_body(body: onnx.GraphProto) -> list[tuple[str, onnx.TensorProto]]:
    """(name, tensor) of what can be moved out of a body; the tensors are copies."""
    kept = {value.name for value in (*body.input, *body.output)}
    found = []
    for name, tensor, _ in constant_tensors(body):
        if tensor.data_type in WEIGHT_TYPES and name not in kept and not is_too_small(name, tensor_bytes(tensor)):
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = name
            found.append((name, copy))
    return found


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements, wherever they lie."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return -(-math.prod(tensor.dims) * NARROW_BITS.get(dtype.name, 8 * dtype.itemsize) // 8)


def defined_names(graph: onnx.GraphProto) -> list[str]:
    """Names of all values that a graph and its bodies define, repeated where several define them."""
    found = list({value.name for value in (*graph.input, *graph.initializer)})
    for node in graph.node:
        found += node.output
        for body in bodies(node):
            found += defined_names(body)
    return found


def rename_reads(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all nodes of a body, and of bodies inside it, read a value by another name, in place."""
    for node in all_nodes(graph):
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def take_out(body: onnx.GraphProto, names: set[str]) -> None:
    """Drop constants and what is declared of them from a body, in place."""
    if not names:
        return
    remove(body, names)
    declared = [v for v in body.value_info if v.name not in names]
    del body.value_info[:]
    body.value_info.extend(declared)
