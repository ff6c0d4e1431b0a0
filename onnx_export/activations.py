"""Quantizing activations to 8 bits: pairs of QuantizeLinear and DequantizeLinear in front of layers.

One scale and zero point for each value, fixed by what calibration sees of it (`refimpl.activations`). What the pair
gives is a float again, so that the model runs anywhere; a runtime that knows the pattern multiplies integers instead
(`onnx_export.integers`). Values that are not float32 are cast around the pair.
Specification: docs/spec/activations.md.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_export.absorb import STANDARD
from onnx_export.calibration import Batch, batches, last_first
from onnx_export.rewrite import free_name, names_in
from onnx_export.runtime import frugal_options, open_session, run
from onnx_export.weights import Constant
from refimpl.activations import activation_grid

LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
ALIASES = ("Transpose", "Cast", "Identity")


@dataclass(frozen=True)
class Quantizable:
    """A value that layers read, and where they do."""

    value: str
    dtype: int  # ONNX element type
    inputs: tuple[tuple[int, int], ...]  # (node, input)


def find_quantizable(model: onnx.ModelProto, constants: Sequence[Constant]) -> list[Quantizable]:
    """What MatMul, Gemm, Conv and ConvTranspose of the main graph multiply with these weights, in the graph's order."""
    dtypes = {c.name: helper.np_dtype_to_tensor_dtype(c.array.dtype) for c in constants}
    weights: dict[str, int] = dict(dtypes)  # or what shows one
    fixed = {t.name for t in model.graph.initializer} | {
        o for node in model.graph.node if node.op_type == "Constant" for o in node.output
    }
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, node in enumerate(model.graph.node):
        if node.domain not in STANDARD:
            continue
        if node.op_type in ALIASES and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
            if node.op_type == "Cast":
                weights[node.output[0]] = next(a.i for a in node.attribute if a.name == "to")
        if node.op_type in LAYERS:
            shown = [i for i, name in enumerate(node.input[:2]) if name in weights]
            if len(shown) == 1 and node.input[1 - shown[0]] not in fixed:
                other = 1 - shown[0]
                found.setdefault((node.input[other], weights[node.input[shown[0]]]), []).append((number, other))
    return [Quantizable(value, dtype, tuple(inputs)) for (value, dtype), inputs in found.items()]


def quantize_activations(
    model: onnx.ModelProto, constants: Sequence[Constant], samples: Batch, progress: Callable[[int, int], None]
) -> int:
    """Put a pair in front of all layers that read these weights, in place; return how many values got one.

    A value that was NaN or infinite on a sample is left alone.

    Raises
    ------
    ExportError
        ONNX Runtime cannot run the model.
    """
    todo = find_quantizable(model, constants)
    ranges = activation_ranges(model, {q.value for q in todo}, samples, progress)
    graph = model.graph
    nodes, taken = list(graph.node), names_in(graph)
    before: dict[int, list[onnx.NodeProto]] = {}
    done = 0
    for q in todo:
        lowest, highest = ranges[q.value]
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            continue
        scale, zero_point = activation_grid(lowest, highest)
        names = {part: free_name(f"{q.value}.{part}", taken) for part in ("scale", "zero_point", "codes", "quantized")}
        graph.initializer.append(numpy_helper.from_array(np.array(scale), names["scale"]))
        graph.initializer.append(numpy_helper.from_array(np.array(zero_point), names["zero_point"]))
        before.setdefault(q.inputs[0][0], []).extend(pair(q, names, taken))
        for number, index in q.inputs:
            nodes[number].input[index] = names["quantized"]
        done += 1
    ordered = [n for i, node in enumerate(nodes) for n in (*before.get(i, ()), node)]
    changed = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
    del graph.node[:]
    graph.node.extend(changed)
    return done


def pair(q: Quantizable, names: Mapping[str, str], taken: set[str]) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of a value, with casts around them if it is no float32."""
    grid = [names["scale"], names["zero_point"]]
    value, result, casts = q.value, names["quantized"], q.dtype != onnx.TensorProto.FLOAT
    nodes = []
    if casts:
        value, result = free_name(f"{q.value}.wide", taken), free_name(f"{q.value}.dequantized", taken)
        nodes.append(helper.make_node("Cast", [q.value], [value], name=value, to=onnx.TensorProto.FLOAT))
    nodes.append(helper.make_node("QuantizeLinear", [value, *grid], [names["codes"]], name=names["codes"]))
    nodes.append(helper.make_node("DequantizeLinear", [names["codes"], *grid], [result], name=result))
    if casts:
        nodes.append(helper.make_node("Cast", [result], [names["quantized"]], name=names["quantized"], to=q.dtype))
    return nodes


def activation_ranges(
    model: onnx.ModelProto, values: Set[str], samples: Batch, progress: Callable[[int, int], None]
) -> dict[str, tuple[float, float]]:
    """(smallest, largest) element of each value over all samples; NaN if one was."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs: list[str] = []
    ordered = last_first(model, sorted(values), str)
    for i, value in enumerate(ordered):
        wide = f"tansor_range_{i}"
        watched.graph.node.append(helper.make_node("Cast", [value], [wide], to=onnx.TensorProto.FLOAT))
        for op in ("ReduceMin", "ReduceMax"):
            outputs.append(f"{wide}_{op}")
            watched.graph.node.append(helper.make_node(op, [wide], [outputs[-1]], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(outputs[-1], onnx.TensorProto.FLOAT, []))
    session = open_session(watched, options=frugal_options())
    rows = []
    todo = list(batches(session, samples))
    for done, feeds in enumerate(todo):
        progress(done, len(todo))
        rows.append([float(v) for v in run(session, outputs, feeds)])
    progress(len(todo), len(todo))
    table = np.array(rows).reshape(len(rows), len(ordered), 2)
    return {v: (float(table[:, i, 0].min()), float(table[:, i, 1].max())) for i, v in enumerate(ordered)}
