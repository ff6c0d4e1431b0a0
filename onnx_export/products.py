"""Products with weights that are decoded at each use, on the CPU: weights stay symbols until they are multiplied.

ONNX Runtime packs the second factor of a matrix product anew in every run unless it is a constant, and a decoded weight
takes four bytes an element of memory. The native op library multiplies with symbols, a byte each: it turns a block of
them into floats in the cache just before it needs them (native/product.h). Its operators for that are in a domain that
only sessions use; no file has them.
"""

from collections import defaultdict
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from onnx_export.calls import KIND_OF, is_call
from onnx_export.native.loader import shape_of
from onnx_export.rewrite import free_name, name_of, names_in
from onnx_export.weights import names_read_inside
from refimpl.errors import Corrupt

SYMBOLS_DOMAIN = "ai.tansor.symbols"
GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
Readers = dict[str, list[onnx.NodeProto]]


@dataclass(frozen=True)
class Use:
    """A node that multiplies with a weight or looks rows of it up, perhaps behind a Transpose."""

    node: onnx.NodeProto
    view: onnx.NodeProto | None


@dataclass(frozen=True)
class Symbols:
    """What stands for a weight: its symbols, and what makes floats of them."""

    name: str
    scale: onnx.TensorProto
    zero_point: onnx.TensorProto


def multiply_symbols(model: onnx.ModelProto) -> set[str]:
    """Let matrix products and look-ups read the symbols of compressed float32 matrices, in place.

    A weight is exchanged if all that reads it is ``MatMul(X, W)``, ``Gemm(X, W, C)``, one of them behind a Transpose of
    W, or ``Gather(W, rows)``. All other values keep their names. What a Gather gives is the same to the bit; sums of
    products may come in another order.

    Parameters
    ----------
    model : onnx.ModelProto
        With calls of `ai.tansor`; only nodes outside subgraphs are looked at.

    Returns
    -------
    set of str
        Names of the weights that were exchanged.
    """
    graph = model.graph
    readers, taken = readers_in(graph), names_in(graph)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    exchanged: dict[str, list[onnx.NodeProto]] = {}  # name of what a node makes -> the nodes in its place
    weights, gone = set(), set()
    for call in graph.node:
        uses = uses_of(call.output[0], readers) if is_matrix(call, initializers) else []
        if not uses:
            continue
        name = call.output[0]
        symbols = Symbols(free_name(f"{name}.symbols", taken), *(initializers[i] for i in call.input[-2:]))
        for use in uses:
            exchanged[use.node.output[0]] = read_symbols(symbols, use, initializers, taken)
            if use.view is not None:
                exchanged[use.view.output[0]] = []
                gone.add(use.view.output[0])
        exchanged[name] = [symbols_call(call, symbols.name)]
        weights.add(name)
    nodes = [new for node in graph.node for new in exchanged.get(name_of(node), [node])]
    declared = [value for value in graph.value_info if value.name not in weights | gone]
    for field, stay in ((graph.node, nodes), (graph.value_info, declared)):
        del field[:]
        field.extend(stay)
    if weights:
        model.opset_import.append(helper.make_opsetid(SYMBOLS_DOMAIN, 1))
    return weights


# What reads a weight


def readers_in(graph: onnx.GraphProto) -> Readers:
    """The nodes that read each value; values that leave the graph or enter a subgraph have none."""
    readers = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    kept = {value.name for value in graph.output} | {name for node in graph.node for name in names_read_inside(node)}
    return {name: nodes for name, nodes in readers.items() if name not in kept}


def is_matrix(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a call that makes a float32 matrix, its inputs all constants."""
    kind = KIND_OF.get(node.op_type) if is_call(node) else None
    if kind is None or not kind.is_weight or not all(name in initializers for name in node.input):
        return False
    if not any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute):
        return False
    try:
        return len(shape_of(node, [initializers[name] for name in node.input])) == 2
    except (Corrupt, IndexError):
        return False  # the library says what is wrong


def uses_of(weight: str, readers: Readers) -> list[Use]:
    """All uses of a weight; none if one of them needs the weight itself."""
    uses = []
    for node in readers.get(weight, []):
        if is_standard(node, "Transpose"):  # of a matrix: what it does can only be this, or nothing
            permutation = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
            behind = readers.get(node.output[0], [])
            if permutation != [1, 0] or not all(multiplies(reader, node.output[0]) for reader in behind):
                return []
            uses += [Use(reader, node) for reader in behind]
        elif multiplies(node, weight) or looks_up(node, weight):
            uses.append(Use(node, None))
        else:
            return []
    return uses


def is_standard(node: onnx.NodeProto, op_type: str) -> bool:
    """Whether a node is an operator of ONNX's own domain."""
    return node.op_type == op_type and node.domain in ("", "ai.onnx")


def multiplies(node: onnx.NodeProto, weight: str) -> bool:
    """Whether a node is X W or X W^T, perhaps + C, with this weight and nothing else done."""
    if list(node.input).count(weight) != 1 or node.input[1:2] != [weight]:
        return False
    if is_standard(node, "MatMul"):
        return True
    return is_standard(node, "Gemm") and gemm_attributes(node) | {"transB": 0} == GEMM


def gemm_attributes(node: onnx.NodeProto) -> dict[str, float]:
    """All attributes of a Gemm."""
    return GEMM | {a.name: helper.get_attribute_value(a) for a in node.attribute}


def looks_up(node: onnx.NodeProto, weight: str) -> bool:
    """Whether a node takes rows of this weight."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return is_standard(node, "Gather") and node.input[0] == weight != node.input[1] and axis in (0, -2)


# Nodes in their places


def symbols_call(call: onnx.NodeProto, name: str) -> onnx.NodeProto:
    """The same call, giving symbols."""
    copy = onnx.NodeProto()
    copy.CopyFrom(call)
    copy.domain, copy.output[0] = SYMBOLS_DOMAIN, name
    return copy


def read_symbols(
    symbols: Symbols, use: Use, initializers: dict[str, onnx.TensorProto], taken: set[str]
) -> list[onnx.NodeProto]:
    """Nodes that do with symbols what a node does with the weight."""
    node = use.node
    if node.op_type == "Gather":
        return look_up(symbols, node, taken)
    is_turned = use.view is not None
    bias = None
    if node.op_type == "Gemm":
        is_turned ^= bool(gemm_attributes(node)["transB"])
        bias = next((name for name in node.input[2:] if name), None)
    multiply = helper.make_node(
        "MatMul", [node.input[0], symbols.name, symbols.scale.name, symbols.zero_point.name], list(node.output),
        name=node.name, domain=SYMBOLS_DOMAIN, transB=int(is_turned),
    )  # fmt: skip
    if bias is None:
        return [multiply]
    if bias in initializers and len(initializers[bias].dims) == 1 and initializers[bias].dims[0] > 1:
        multiply.input.append(bias)
        return [multiply]
    multiply.output[0] = free_name(f"{node.output[0]}.product", taken)
    return [multiply, helper.make_node("Add", [multiply.output[0], bias], list(node.output))]


def look_up(symbols: Symbols, gather: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """Rows of symbols, their scales and zero points where each row has its own: a difference and a product."""
    rows, y = gather.input[1], gather.output[0]
    names = {part: free_name(f"{y}.{part}", taken) for part in ("symbols", "numbers", "difference", "zero")}
    nodes = [helper.make_node("Gather", [symbols.name, rows], [names["symbols"]], name=gather.name)]
    given = []
    for tensor, part in ((symbols.scale, "scales"), (symbols.zero_point, "zeros")):
        given.append(tensor.name)
        if len(tensor.dims) == 2 and tensor.dims[0] > 1:
            given[-1] = free_name(f"{y}.{part}", taken)
            nodes.append(helper.make_node("Gather", [tensor.name, rows], given[-1:]))
    scale, zero = given
    return [
        *nodes,
        helper.make_node("Cast", [names["symbols"]], [names["numbers"]], to=TensorProto.FLOAT),
        helper.make_node("Cast", [zero], [names["zero"]], to=TensorProto.FLOAT),
        helper.make_node("Sub", [names["numbers"], names["zero"]], [names["difference"]]),
        helper.make_node("Mul", [names["difference"], scale], [y]),
    ]
