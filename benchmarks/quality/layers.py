"""The linear layers of a model and what calibration saw of their inputs: what the known methods work on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_export.calibration import Batch, batches, check_samples, read_samples
from onnx_export.runtime import apart, open_session, run
from onnx_export.weights import Constant, find_constants, to_matrix
from refimpl.gptq import activation_order
from refimpl.hessian import Matrix, inverse_factor

MIN_ELEMENTS = 1024  # of a weight that is compared
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """What calibration saw of the input of a linear layer."""

    hessian: Matrix  # (in, in) second moment
    maximum: npt.NDArray[np.float64]  # (in,) of |X|
    mean: npt.NDArray[np.float64]  # (in,) of |X|

    @cached_property
    def factor(self) -> Matrix:
        """See `inverse_factor`."""
        return inverse_factor(self.hessian)

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """See `activation_order`."""
        return activation_order(self.hessian)

    @cached_property
    def factor_in_order(self) -> Matrix:
        """Of the columns in order."""
        return inverse_factor(self.hessian[np.ix_(self.order, self.order)])


@dataclass(frozen=True)
class Layer:
    """The weight of a linear layer."""

    name: str
    weight: Array  # (out, in)
    input: Input
    siblings: Array  # the weights of all layers that read the same input, stacked


def is_linear(constant: Constant) -> bool:
    """Whether a constant is the weight of linear layers and of nothing else: no table, tied or not."""
    array = constant.array
    return bool(
        constant.is_float and array.ndim == 2 and array.size >= MIN_ELEMENTS and constant.input_axis is not None
        and constant.readers and not constant.other_readers
        and {r.op_type for r in constant.readers} <= {"MatMul", "Gemm"}
        and all(r.activation is not None and r.activation_axis == -1 for r in constant.readers)
    )  # fmt: skip


def linear_layers(model: onnx.ModelProto, calibration: Path, folder: Path) -> list[Layer]:
    """The linear layers of a model; statistics of their inputs are kept in a folder."""
    constants = [c for c in find_constants(model) if is_linear(c)]
    widths = {input_of(c): c.array.shape[axis_of(c)] for c in constants}
    inputs = kept(folder / "inputs.npz", lambda: calibrate(model, read_samples(calibration), widths))
    weights = {c.name: to_matrix(c.array, axis_of(c)).astype(np.float32) for c in constants}
    siblings = {x: np.concatenate([weights[c.name] for c in constants if input_of(c) == x]) for x in widths}
    return [Layer(c.name, weights[c.name], inputs[input_of(c)], siblings[input_of(c)]) for c in constants]


def input_of(constant: Constant) -> str:
    """Name of the activation that a linear layer reads, of the first if it is used several times."""
    activation = constant.readers[0].activation
    assert activation is not None, "linear layers read activations"
    return activation


def axis_of(constant: Constant) -> int:
    """Its input axis."""
    assert constant.input_axis is not None, "weights without input channels are no linear layers"
    return constant.input_axis


def calibrate(model: onnx.ModelProto, samples: npt.NDArray[Any] | Batch, widths: Mapping[str, int]) -> dict[str, Input]:
    """Second moment, maximum and mean of each watched activation, (.., in), computed inside the graph."""
    watched, arrays = apart(model)
    outputs = [name for i, (x, width) in enumerate(widths.items()) for name in watch(watched, f"watch/{i}", x, width)]
    session = open_session(watched, arrays=arrays)
    inputs = [Input(np.zeros((n, n)), np.zeros(n), np.zeros(n)) for n in widths.values()]
    tokens = np.zeros(len(inputs))
    for feeds in batches(session, check_samples(session, samples)):
        found = [value.astype(np.float64) for value in run(session, outputs, feeds)]
        for i, x in enumerate(inputs):
            moment, total, largest, count = found[4 * i : 4 * i + 4]
            x.hessian[:] += moment
            x.mean[:] += total
            x.maximum[:] = np.maximum(x.maximum, largest)
            tokens[i] += count / len(total)
    for x, count in zip(inputs, tokens, strict=True):
        x.hessian[:] /= count
        x.mean[:] /= count
    return dict(zip(widths, inputs, strict=True))


def watch(model: onnx.ModelProto, prefix: str, activation: str, width: int) -> list[str]:
    """Add outputs for X^T X, the sum and the maximum of |X|, and the size of X; return their names."""
    graph = model.graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    shape, axes, x, size = (f"{prefix}/{name}" for name in ("shape", "axes", "x", "abs"))
    outputs = [f"{prefix}/{name}" for name in ("moment", "total", "largest", "count")]
    graph.initializer.append(helper.make_tensor(shape, onnx.TensorProto.INT64, [2], [-1, width]))
    graph.initializer.append(helper.make_tensor(axes, onnx.TensorProto.INT64, [1], [0]))
    by_input = opset >= 18  # where ReduceMax takes its axes
    graph.node.extend(
        [
            helper.make_node("Reshape", [activation, shape], [x]),
            helper.make_node("Transpose", [x], [f"{x}/T"], perm=[1, 0]),
            helper.make_node("MatMul", [f"{x}/T", x], outputs[:1]),
            helper.make_node("Abs", [x], [size]),
            helper.make_node("ReduceSum", [size, axes], outputs[1:2], keepdims=0),
            helper.make_node("ReduceMax", [size, *[axes] * by_input], outputs[2:3], keepdims=0,
                             **({} if by_input else {"axes": [0]})),
            helper.make_node("Size", [x], outputs[3:]),
        ]
    )  # fmt: skip
    graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs[:3])
    graph.output.append(helper.make_tensor_value_info(outputs[3], onnx.TensorProto.INT64, []))
    return outputs


def kept(path: Path, compute: Callable[[], dict[str, Input]]) -> dict[str, Input]:
    """Statistics from a file, computed and written if it is not there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.{uuid4().hex}.npz")
        np.savez(part, **{f"{x}/{name}": value for x, i in compute().items() for name, value in statistics(i).items()})
        part.replace(path)
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            x, name = key.rsplit("/", 1)
            found.setdefault(x, {})[name] = file[key].astype(np.float64)
    return {x: Input(**values) for x, values in found.items()}


def statistics(x: Input) -> dict[str, Array]:
    """What is written of an input, in float32."""
    return {field.name: getattr(x, field.name).astype(np.float32) for field in fields(x)}
