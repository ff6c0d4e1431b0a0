"""Rewriting a graph: constants out, calls in. No reader notices: every value keeps its name."""

from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

from onnx_export.calls import INTERLEAVE, Call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.ties import Tie
from onnx_export.weights import Constant

METADATA_KEY = "tansor"
DEBUG_PREFIX = "pkg.torch."  # stack traces and trace nodes, kilobytes a node


def replace_by_calls(
    model: onnx.ModelProto, constants: Iterable[Constant], calls: Mapping[str, Call], ties: Mapping[str, Tie]
) -> None:
    """Replace constants by calls and tied constants by a view of what they equal, in place.

    Parameters
    ----------
    model : onnx.ModelProto
    constants : iterable of Constant
        At least those that are replaced.
    calls : mapping
        Name of the constant -> its call.
    ties : mapping
        Name of the constant -> its tie to a constant in ``calls``.
    """
    graph = model.graph
    gone = calls.keys() | ties.keys()
    remove(graph, gone)
    find_free_names(calls.values(), names_in(graph) | gone)
    views = [
        helper.make_node("Transpose" if tie.transposed else "Identity", [tie.source], [name], name=f"{name}.tied")
        for name, tie in ties.items()
    ]
    nodes = [*(node for call in calls.values() for node in call.nodes), *views, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for call in calls.values() for tensor in call.inputs)
    declared = {value.name for value in (*graph.value_info, *graph.output)}
    graph.value_info.extend(
        helper.make_tensor_value_info(c.name, helper.np_dtype_to_tensor_dtype(c.array.dtype), c.array.shape)
        for c in constants
        if c.name in gone and c.name not in declared
    )
    graph.value_info.extend(value for call in calls.values() for value in call.values)
    if calls:
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        model.functions.extend(functions(set().union(*(call.functions for call in calls.values())), opset))
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Names of all values of a graph and its subgraphs."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                names |= names_in(subgraph)
    return names


def find_free_names(calls: Iterable[Call], taken: set[str]) -> None:
    """Put underscores behind names of calls that the graph or another call uses, in place.

    These are the names of their inputs and of what goes from one of their nodes to another.
    """
    for call in calls:
        renamed = {}
        for name in (*(tensor.name for tensor in call.inputs), *(node.output[0] for node in call.before)):
            free = name
            while free in taken:
                free += "_"
            taken.add(free)
            renamed[name] = free
        for tensor in call.inputs:
            tensor.name = renamed[tensor.name]
        for value in call.values:
            value.name = renamed[value.name]
        for node in call.nodes:
            node.input[:] = [renamed[name] for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


def replace_by_constants(model: onnx.ModelProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Replace every call by an initializer of the same name and drop all traces of compression, in place."""
    graph = model.graph
    inputs = {name for node in graph.node if node.domain == DOMAIN for name in node.input}
    joined = {node.input[0] for node in graph.node if node.domain == DOMAIN and node.op_type == INTERLEAVE}
    tensors = list(tensors)
    between = {n for node in graph.node if node.domain == DOMAIN for n in node.output} - {t.name for t in tensors}
    nodes = [node for node in graph.node if node.domain != DOMAIN and not joined.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)
    remove(graph, inputs)
    graph.initializer.extend(tensors)
    for field, stay in (
        (graph.value_info, [v for v in graph.value_info if v.name not in between]),
        (model.functions, [f for f in model.functions if f.domain != DOMAIN]),
        (model.opset_import, [o for o in model.opset_import if o.domain != DOMAIN]),
        (model.metadata_props, [p for p in model.metadata_props if p.key != METADATA_KEY]),
    ):
        del field[:]
        field.extend(stay)


def remove(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Drop constants of these names: initializers, their graph inputs and Constant nodes."""
    names = set(names)
    keep_initializers = [t for t in graph.initializer if t.name not in names]
    keep_inputs = [i for i in graph.input if i.name not in names]
    keep_nodes = [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in names)]
    del graph.initializer[:]
    graph.initializer.extend(keep_initializers)
    del graph.input[:]
    graph.input.extend(keep_inputs)
    del graph.node[:]
    graph.node.extend(keep_nodes)


def set_metadata(model: onnx.ModelProto, value: str) -> None:
    """Say in the file what made it."""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, value


def drop_debug_metadata(model: onnx.ModelProto) -> int:
    """Drop what PyTorch's exporter notes at each node for its own debugging; return the bytes saved."""
    before = model.ByteSize()
    for node in model.graph.node:
        stay = [entry for entry in node.metadata_props if not entry.key.startswith(DEBUG_PREFIX)]
        del node.metadata_props[:]
        node.metadata_props.extend(stay)
    return int(before - model.ByteSize())
