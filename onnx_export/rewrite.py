"""Rewriting a graph: constants out, calls in. No reader notices: every value keeps its name."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import helper

from onnx_export.calls import INTERLEAVE, Call, is_call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.ties import Tie
from onnx_export.weights import Constant, all_nodes, bodies, names_read_inside

METADATA_KEY = "tansor"
RESIDENT, STREAMING, MIXED = "resident", "streaming", "mixed"  # how the weights of a model are kept
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
    """Names of all values of a graph and its bodies."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        names.update(node.output)
        for body in bodies(node):
            names |= names_in(body)
    return names


def free_name(name: str, taken: set[str]) -> str:
    """The name, with underscores behind it if it is taken; from now on it is, in place.

    Examples
    --------
    >>> taken = {"w"}
    >>> free_name("w", taken), free_name("w", taken)
    ('w_', 'w__')
    """
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def find_free_names(calls: Iterable[Call], taken: set[str]) -> None:
    """Put underscores behind names of calls that the graph or another call uses, in place.

    These are the names of their inputs and of what goes from one of their nodes to another.
    """
    for call in calls:
        own = (*(tensor.name for tensor in call.inputs), *(node.output[0] for node in call.before))
        renamed = {name: free_name(name, taken) for name in own}
        for tensor in call.inputs:
            tensor.name = renamed[tensor.name]
        for value in call.values:
            value.name = renamed[value.name]
        for node in call.nodes:
            node.input[:] = [renamed[name] for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


def replace_by_constants(
    model: onnx.ModelProto, tensors: Iterable[onnx.TensorProto], names: Collection[str] | None = None
) -> None:
    """Replace calls by initializers, in place; with the last call all traces of compression go.

    Parameters
    ----------
    model : onnx.ModelProto
    tensors : iterable of onnx.TensorProto
    names : collection of str, optional
        Of the calls; default all.
    """
    graph = model.graph
    gone = nodes_that_make(graph, names)
    values = {name_of(node) for node in gone}
    nodes = [node for node in graph.node if name_of(node) not in values]
    inputs = {name for node in gone for name in node.input} - {name for node in nodes for name in node.input}
    tensors = list(tensors)
    between = values - {tensor.name for tensor in tensors}
    declared = [value for value in graph.value_info if value.name not in between]
    del graph.node[:]
    graph.node.extend(nodes)
    remove(graph, inputs)
    graph.initializer.extend(tensors)
    del graph.value_info[:]
    graph.value_info.extend(declared)
    if any(is_call(node) for node in nodes):
        return
    for field, stay in (
        (model.functions, [f for f in model.functions if f.domain != DOMAIN]),
        (model.opset_import, [o for o in model.opset_import if o.domain != DOMAIN]),
        (model.metadata_props, [p for p in model.metadata_props if p.key != METADATA_KEY]),
    ):
        del field[:]
        field.extend(stay)


def nodes_that_make(graph: onnx.GraphProto, names: Collection[str] | None = None) -> list[onnx.NodeProto]:
    """The calls that make values of these names (default: all calls), and what joins the bands of one."""
    producers = {name_of(node): node for node in graph.node}
    found = {}
    waiting = [node for node in graph.node if is_call(node) and (names is None or name_of(node) in names)]
    while waiting:
        node = waiting.pop()
        found[name_of(node)] = node
        if node.op_type in (INTERLEAVE, "Concat"):
            waiting += [producers[name] for name in node.input if name in producers]
    return [node for node in graph.node if name_of(node) in found]


def call_for_each_reader(model: onnx.ModelProto) -> bool:
    """Give every node that reads a call's value a call of its own, in place; return whether that took any.

    A weight that is read at both ends of a model is then decoded twice instead of held in between. Values that leave
    the graph or enter a subgraph stay as they are.
    """
    graph = model.graph
    kept = {value.name for value in graph.output} | {name for node in graph.node for name in names_read_inside(node)}
    calls = {node.output[0]: node for node in graph.node if is_call(node) and node.output[0] not in kept}
    declared = {value.name: value for value in graph.value_info}
    taken, copies = names_in(graph), []
    seen: set[str] = set()
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if name in seen:
                copies.append(another_call(calls[name], node, declared, taken))
                graph.value_info.append(declared[copies[-1].output[0]])
            seen |= calls.keys() & {name}
    nodes = [*copies, *graph.node]  # of a node's inputs, ONNX Runtime runs those first that stand last
    del graph.node[:]
    graph.node.extend(nodes)
    return bool(copies)


def another_call(
    call: onnx.NodeProto, reader: onnx.NodeProto, declared: dict[str, onnx.ValueInfoProto], taken: set[str]
) -> onnx.NodeProto:
    """A copy of a call for one reader, in place of the call's value; its own value is declared alike."""
    name = call.output[0]
    new = free_name(name, taken)
    copy = onnx.NodeProto()
    copy.CopyFrom(call)
    copy.output[0], copy.name = new, f"{call.name}{new[len(name) :]}"
    declared[new] = onnx.ValueInfoProto()
    declared[new].CopyFrom(declared[name])
    declared[new].name = new
    for i, given in enumerate(reader.input):
        if given == name:
            reader.input[i] = new
    return copy


def copy_without(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of a model without the constants of these names, which are not copied on the way."""
    names = set(names)
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            copy_field(copy, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            copy_field(copy.graph, field.name, value)
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name not in names)
    remove(copy.graph, names)
    return copy


def copy_field(message: Any, name: str, value: Any) -> None:
    """Set a field of a protobuf message to a copy of a value."""
    if isinstance(value, int | float | str | bytes):
        setattr(message, name, value)
    elif isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    else:
        getattr(message, name).extend(value)


def exchange_calls(model: onnx.ModelProto, calls: Mapping[str, Call]) -> None:
    """Put other calls in the places of those of the same names, in place."""
    graph = model.graph
    gone = [node for node in graph.node if is_call(node) and name_of(node) in calls]
    stay = [node for node in graph.node if not (is_call(node) and name_of(node) in calls)]
    remove(graph, {name for node in gone for name in node.input} - {name for node in stay for name in node.input})
    find_free_names(calls.values(), names_in(graph))
    nodes = [calls[name_of(node)].node if is_call(node) and name_of(node) in calls else node for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for call in calls.values() for tensor in call.inputs)
    others = [f for f in model.functions if f.domain != DOMAIN]
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    del model.functions[:]
    model.functions.extend([*others, *functions({node.op_type for node in nodes if is_call(node)}, opset)])


def name_of(node: onnx.NodeProto) -> str:
    """The name of the value that a call makes."""
    return str(node.output[0] if node.output else node.name)


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
    entry = next((e for e in model.metadata_props if e.key == METADATA_KEY), None) or model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, value


def get_metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """What the file says of its making: nothing if that cannot be read."""
    value = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), "{}")
    try:
        return dict(json.loads(value))
    except (ValueError, TypeError, RecursionError):
        return {}


def note_plan(model: onnx.ModelProto, mode: str, resident: Sequence[str]) -> None:
    """Note how a model's weights are to be kept when it runs; only where modes mix are they named."""
    entries = {key: value for key, value in get_metadata(model).items() if key not in ("mode", "resident")}
    set_metadata(model, json.dumps({**entries, "mode": mode} | ({"resident": list(resident)} if mode == MIXED else {})))


def planned_residents(model: onnx.ModelProto, names: Sequence[str]) -> frozenset[str]:
    """Which of the weights of these names are to be resident: all, if nothing is noted that can be read."""
    noted = get_metadata(model)
    if noted.get("mode") == STREAMING:
        return frozenset()
    listed = noted.get("resident")
    if noted.get("mode") == MIXED and isinstance(listed, list):
        return frozenset(names) & {name for name in listed if isinstance(name, str)}
    return frozenset(names)


def drop_debug_metadata(model: onnx.ModelProto) -> int:
    """Drop what PyTorch's exporter notes at each node for its own debugging; return the bytes saved."""
    before = model.ByteSize()
    for node in all_nodes(model.graph):
        stay = [entry for entry in node.metadata_props if not entry.key.startswith(DEBUG_PREFIX)]
        del node.metadata_props[:]
        node.metadata_props.extend(stay)
    return int(before - model.ByteSize())
