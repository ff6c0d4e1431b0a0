"""Products with weights that are decoded at each use, as ONNX Runtime computes them fastest on the CPU.

ONNX Runtime packs the second factor of a matrix product anew in every run unless it is a constant. For few rows that
takes a good part of the product's time. The first factor is read as it is: so W X^T is computed instead of X W^T, and
turned.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_export.calls import is_call
from onnx_export.rewrite import names_in

ROWS = (2, 128)  # of X: for one row nothing is packed, for many turning the result takes longer than packing
SHAPE_SLICES = 15  # opset from which Shape takes a start and an end
DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


def turn_products(model: onnx.ModelProto) -> int:
    """Compute ``Gemm(X, W, C, transB=1)`` with a compressed float32 W as ``(W X^T)^T + C`` for few rows, in place.

    The number of rows is looked at in each run. Values keep their names; sums may differ in their last bits.

    Parameters
    ----------
    model : onnx.ModelProto
        With calls of `ai.tansor`; only nodes outside subgraphs are looked at.

    Returns
    -------
    int
        How many products were rewritten.
    """
    graph = model.graph
    weights = {node.output[0] for node in graph.node if is_call(node) and decodes_to_float(node)}
    turned = [node for node in graph.node if is_turnable(node, weights)]
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < SHAPE_SLICES or not turned:
        return 0
    prefix = "turned"
    while any(name.startswith(prefix) for name in names_in(graph)):
        prefix += "_"
    limits = [f"{prefix}.least", f"{prefix}.most"]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += either_way(node, f"{prefix}.{node.output[0]}", limits) if node in turned else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.array([limit], np.int64), name) for limit, name in zip(ROWS, limits, strict=True)
    )
    return len(turned)


def decodes_to_float(call: onnx.NodeProto) -> bool:
    """Whether the result of a call is float32."""
    return any(a.name == "to" and a.i == TensorProto.FLOAT for a in call.attribute)


def is_turnable(node: onnx.NodeProto, weights: set[str]) -> bool:
    """Whether a node is X W^T + C, with nothing else done, and one of these weights."""
    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx") or node.input[1] not in weights:
        return False
    given = DEFAULTS | {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return given == DEFAULTS | {"transB": 1}


def either_way(gemm: onnx.NodeProto, prefix: str, limits: list[str]) -> list[onnx.NodeProto]:
    """Nodes that count the rows and take one way or the other."""
    make = helper.make_node
    x, weight, *bias = (name for name in gemm.input if name)
    least, most = limits
    few = [
        make("Shape", [x], [f"{prefix}.rows"], end=1),
        make("Less", [f"{prefix}.rows", least], [f"{prefix}.one"]),
        make("Greater", [f"{prefix}.rows", most], [f"{prefix}.many"]),
        make("Or", [f"{prefix}.one", f"{prefix}.many"], [f"{prefix}.plain"]),
    ]
    plain = onnx.NodeProto()
    plain.CopyFrom(gemm)
    plain.output[0] = f"{prefix}.product"
    turned = [
        make("Transpose", [x], [f"{prefix}.x"], perm=[1, 0]),
        make("MatMul", [weight, f"{prefix}.x"], [f"{prefix}.columns"]),
        make("Transpose", [f"{prefix}.columns"], [f"{prefix}.sums"], perm=[1, 0]),
    ]
    if bias:
        turned.append(make("Add", [f"{prefix}.sums", *bias], [f"{prefix}.biased"]))
    ways = {"then_branch": graph_of([plain]), "else_branch": graph_of(turned)}
    return [*few, make("If", [f"{prefix}.plain"], list(gemm.output), name=gemm.name, **ways)]


def graph_of(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    """A branch whose result is that of its last node."""
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(nodes, nodes[-1].op_type, [], [result])
