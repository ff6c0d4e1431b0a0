"""What an error of one weight does to the model's outputs, measured one weight at a time."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
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
        output_bytes: int = PROBE_BYTES,
    ) -> None:
        light = overridable(model, {c.name: c.array for c in constants}, ties, scratch)
        self.session = open_session(light, options=frugal_options())
        self.ties, self.output_bytes = ties, output_bytes
        self.feeds, self.before = self.remember(feeds)

    def on(self, feeds: Iterable[Batch]) -> "Probe":
        """The same session and other inputs."""
        other = copy(self)
        other.feeds, other.before = self.remember(feeds)
        return other

    def remember(self, feeds: Iterable[Batch]) -> tuple[list[Batch], list[list[tuple[Array, float]]]]:
        """(batches, outputs with no weight replaced and the `power` of each), up to so many bytes of them."""
        kept: list[Batch] = []
        before: list[list[tuple[Array, float]]] = []
        size = 0
        for batch in feeds:
            outputs = self.outputs(batch, {})
            kept.append(batch)
            before.append([(o, power(o)) for o in outputs])
            size += sum(o.nbytes for o in outputs)
            if size > self.output_bytes:
                break
        return kept, before

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
        found = [ratio for ratio, _ in self.ratios(weights)]
        return max(found) if found else None

    def bound(self, weights: Mapping[str, Array]) -> float:
        """The same and a standard error of it: what other inputs will hardly exceed; 0 if nothing can be compared."""
        return max((ratio + deviation for ratio, deviation in self.ratios(weights)), default=0.0)

    def ratios(self, weights: Mapping[str, Array]) -> list[tuple[float, float]]:
        """(noise over signal, its standard error) of each output."""
        parts: dict[int, list[tuple[float, float]]] = {}  # (noise, signal) of batches
        for batch, before in zip(self.feeds, self.before, strict=True):
            for k, ((a, signal), b) in enumerate(zip(before, self.outputs(batch, weights), strict=True)):
                if a.shape != b.shape:
                    continue
                with np.errstate(invalid="ignore"):  # infinite less infinite is left out below
                    difference = np.subtract(a, b, dtype=np.float64)
                if not np.isfinite(difference).all():
                    finite = np.isfinite(a) & np.isfinite(b)
                    signal, difference = power(a[finite]), difference[finite]
                if difference.size:
                    parts.setdefault(k, []).append((float(np.vdot(difference, difference)), signal))
        found = (ratio_of_sums(*np.array(pairs).T) for pairs in parts.values())
        return [pair for pair in found if pair is not None]


def power(output: Array) -> float:
    """Sum of the squares of what varies around the mean; not a number if an element is not finite.

    Examples
    --------
    >>> power(np.array([1.0, 3.0])), power(np.array([]))
    (2.0, 0.0)
    """
    with np.errstate(invalid="ignore"):
        return output.size * float(np.var(output, dtype=np.float64)) if output.size else 0.0


def ratio_of_sums(noise: npt.NDArray[np.float64], signal: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """(ratio of two sums, its standard error by how the terms scatter); None if the signal is zero.

    References
    ----------
    W. Cochran, "Sampling techniques", 1977, section 2.11.

    Examples
    --------
    >>> ratio_of_sums(np.array([1.0, 3.0]), np.array([10.0, 10.0]))
    (0.2, 0.1)
    """
    total = float(signal.sum())
    if not total > 0:
        return None
    ratio, count = float(noise.sum()) / total, len(noise)
    scatter = float(np.square(noise - ratio * signal).sum()) * count / max(count - 1, 1)
    return ratio, float(np.sqrt(scatter)) / total


def overridable(
    model: onnx.ModelProto, arrays: Mapping[str, Array], ties: Mapping[str, Tie], scratch: Scratch = MEMORY
) -> onnx.ModelProto:
    """A copy of a model in which these constants are inputs with default values."""
    values = with_ties(arrays, ties)
    made = copy_without(model, values)
    casts = []
    for name, array in values.items():
        given = wide_name(name, array)
        tensor = to_tensor(scratch.keep(np.ascontiguousarray(wide(array))), given)
        made.graph.initializer.append(tensor)
        made.graph.input.append(helper.make_tensor_value_info(given, tensor.data_type, array.shape))
        if given != name:
            casts.append(helper.make_node("Cast", [given], [name], to=helper.np_dtype_to_tensor_dtype(array.dtype)))
    nodes = [*casts, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def wide(array: Array) -> Array:
    """The array in a type that ONNX Runtime takes from NumPy: bfloat16 becomes float32."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def wide_name(name: str, array: Array) -> str:
    """Name of the input that gives the array."""
    return f"{name}.float" if array.dtype == ml_dtypes.bfloat16 else name
