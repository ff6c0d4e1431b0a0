"""What an error of one weight does to the model's outputs, measured one weight at a time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_export.calibration import Batch
from onnx_export.probe import PROBE_BYTES, with_ties
from onnx_export.references import MEMORY, Scratch, to_tensor
from onnx_export.rewrite import copy_without
from onnx_export.runtime import frugal_options, open_session, run
from onnx_export.ties import Tie
from onnx_export.weights import Constant

Array = npt.NDArray[Any]


class Probe:
    """A session of a model whose weights can be replaced at a run, and the outputs with none replaced."""

    def __init__(
        self,
        model: onnx.ModelProto,
        constants: Sequence[Constant],
        ties: Mapping[str, Tie],
        feeds: Iterable[Batch],
        scratch: Scratch = MEMORY,
    ) -> None:
        light = overridable(model, {c.name: c.array for c in constants}, ties, scratch)
        self.session = open_session(light, options=frugal_options())
        self.ties = ties
        self.feeds: list[Batch] = []
        self.before: list[list[Array]] = []
        size = 0
        for batch in feeds:
            outputs = self.outputs(batch, {})
            self.feeds.append(batch)
            self.before.append(outputs)
            size += sum(o.nbytes for o in outputs)
            if size > PROBE_BYTES:
                break

    def outputs(self, batch: Batch, weights: Mapping[str, Array]) -> list[Array]:
        """The float outputs of a batch."""
        replaced = {
            wide_name(name, array): np.ascontiguousarray(wide(array))
            for name, array in with_ties(weights, self.ties).items()
        }
        outputs = run(self.session, None, {**batch, **replaced})
        return [o for o in outputs if isinstance(o, np.ndarray) and o.dtype.kind == "f"]

    def error(self, weights: Mapping[str, Array]) -> float | None:
        """Noise over signal of the worst output when these weights are replaced; None if nothing can be compared.

        The signal is what varies around the output's mean.
        """
        noise: dict[int, float] = {}
        signal: dict[int, float] = {}
        for batch, before in zip(self.feeds, self.before, strict=True):
            for k, (a, b) in enumerate(zip(before, self.outputs(batch, weights), strict=True)):
                if a.shape != b.shape:
                    continue
                with np.errstate(invalid="ignore"):  # infinite less infinite is left out below
                    difference = np.subtract(a, b, dtype=np.float64)
                kept = a
                if not np.isfinite(difference).all():
                    finite = np.isfinite(a) & np.isfinite(b)
                    kept, difference = a[finite], difference[finite]
                if not kept.size:
                    continue
                noise[k] = noise.get(k, 0.0) + float(np.vdot(difference, difference))
                signal[k] = signal.get(k, 0.0) + kept.size * float(np.var(kept, dtype=np.float64))
        ratios = [noise[k] / signal[k] for k in noise if signal[k] > 0]
        return max(ratios) if ratios else None


def overridable(
    model: onnx.ModelProto, arrays: Mapping[str, Array], ties: Mapping[str, Tie], scratch: Scratch = MEMORY
) -> onnx.ModelProto:
    """A copy of a model in which these constants are inputs with default values."""
    values = with_ties(arrays, ties)
    copy = copy_without(model, values)
    casts = []
    for name, array in values.items():
        given = wide_name(name, array)
        tensor = to_tensor(scratch.keep(np.ascontiguousarray(wide(array))), given)
        copy.graph.initializer.append(tensor)
        copy.graph.input.append(helper.make_tensor_value_info(given, tensor.data_type, array.shape))
        if given != name:
            casts.append(helper.make_node("Cast", [given], [name], to=helper.np_dtype_to_tensor_dtype(array.dtype)))
    nodes = [*casts, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def wide(array: Array) -> Array:
    """The array in a type that ONNX Runtime takes from NumPy: bfloat16 becomes float32."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def wide_name(name: str, array: Array) -> str:
    """Name of the input that gives the array."""
    return f"{name}.float" if array.dtype == ml_dtypes.bfloat16 else name
