"""Calibration: what the inputs of the weights look like on real data.

Reductions are added to the graph, so that a whole activation never leaves ONNX Runtime: two vectors do.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_export.runtime import ELEMENT_TYPES, apart, frugal_options, open_session, run
from onnx_export.weights import Reader
from refimpl.activations import ActivationStatistics
from refimpl.errors import CalibrationError

Batch = Mapping[str, npt.NDArray[Any]]  # by input name
Samples = str | os.PathLike[str] | npt.NDArray[Any] | Batch  # a file, the only input, or inputs by name
Item = TypeVar("Item")
BATCH = 4  # samples in a run, where the model leaves the batch size open; less if there were no two runs

ENOUGH = 8  # different samples, or batches of a fixed size, of which some can be held back
HELD_BACK = 32  # samples at most


@dataclass(frozen=True)
class Input:
    """An input of a model."""

    name: str
    shape: tuple[int | str | None, ...]
    type: str


@dataclass(frozen=True)
class Inputs:
    """What samples must fit: the inputs of a session, without its weights."""

    inputs: tuple[Input, ...]

    def get_inputs(self) -> tuple[Input, ...]:
        """As of a session."""
        return self.inputs


def inputs_of(session: Any) -> Inputs:
    """The inputs of a session, which may then go."""
    return Inputs(tuple(Input(i.name, tuple(i.shape), i.type) for i in session.get_inputs()))


def read_samples(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """Read a ``.npy`` (one input) or ``.npz`` (inputs by name) file of samples.

    Raises
    ------
    CalibrationError
        It cannot be read, or holds no plain arrays.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            samples = loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged archive raises whatever zipfile or numpy meets
        raise CalibrationError(f"{path}: not a readable .npy or .npz file ({type(error).__name__})") from None
    if isinstance(samples, dict) and not samples:
        raise CalibrationError(f"{path}: the archive holds no arrays")
    return samples


def check_samples(session: Any, samples: npt.NDArray[Any] | Batch) -> dict[str, npt.NDArray[Any]]:
    """Samples by input name, in the dtypes the model wants.

    Parameters
    ----------
    session : InferenceSession
        Of the model to calibrate.
    samples : array or mapping
        The first axis counts samples. An input may have one axis more than the model wants: each entry then is that
        input in a run of its own, as a recurrent state needs it, whose first axis counts layers. A single array is for
        a model with a single input.

    Raises
    ------
    CalibrationError
        A name, shape or dtype does not fit; the message says what the model wants.
    """
    inputs = session.get_inputs()
    wanted = ", ".join(f"{i.name} {i.shape}" for i in inputs)
    if isinstance(samples, np.ndarray):
        if len(inputs) != 1:
            raise CalibrationError(f"the model has inputs {wanted}: give an .npz with these names")
        samples = {inputs[0].name: samples}
    if set(samples) != {i.name for i in inputs}:
        raise CalibrationError(f"calibration data for {', '.join(sorted(samples))}, the model wants {wanted}")
    checked = {}
    for given in inputs:
        array = samples[given.name]
        counted = [] if is_stacked(array, given) else given.shape[:1]  # axes of the model that count samples
        if array.ndim < len(given.shape) or not fits(array.shape[1:], given.shape[len(counted) :]):
            raise CalibrationError(f"{given.name}: data of shape {list(array.shape)}, the model wants {given.shape}")
        if array.ndim and not len(array):
            raise CalibrationError(f"{given.name}: no samples")
        dtype = ELEMENT_TYPES.get(given.type)
        if dtype is None or array.dtype.kind not in ("iub" if dtype.kind in "iub" else "f"):
            raise CalibrationError(f"{given.name}: data of dtype {array.dtype}, the model wants {given.type}")
        with np.errstate(over="ignore"):
            checked[given.name] = array.astype(dtype)
        if dtype.kind == "f" and not np.isfinite(checked[given.name]).all():
            raise CalibrationError(f"{given.name}: the data hold NaN or infinite values")
    counts = {name: len(array) for name, array in checked.items() if array.ndim}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise CalibrationError(
            f"the inputs have different numbers of samples: {listed}. The first axis counts them; an input "
            "whose own first axis does not, such as a state, takes one more axis in front"
        )
    return checked


def is_stacked(array: npt.NDArray[Any], given: Any) -> bool:
    """Whether samples have one axis more than their input: each entry is the whole input of a run."""
    return array.ndim == len(given.shape) + 1


def fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """Whether a shape is what a model wants; only positive integers are wishes."""
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or want <= 0 or have == want for have, want in zip(shape, wanted, strict=True)
    )


@dataclass(frozen=True)
class Split:
    """Calibration samples in two parts."""

    every: Batch
    fitted: Batch  # what is fitted to the model's inputs looks at these
    judged: Batch  # outputs are compared on these: samples that were held back, or the same if there were too few
    held_back: int  # number of them
    count: int  # of all

    @property
    def words(self) -> str:
        """What the outputs are compared on."""
        if self.held_back:
            return f"{self.held_back} of {self.count} calibration samples, held back from the rest"
        return f"the calibration samples (all were used: {self.count} are too few to hold some back)"


def hold_back(session: Any, samples: Batch) -> Split:
    """Hold back a quarter of the samples, `HELD_BACK` at most, evenly spread; whole batches if their size is fixed.

    Samples that are equal stay together. Of fewer than `ENOUGH` different ones none is held back.

    Parameters
    ----------
    session : InferenceSession
    samples : mapping
        Made by `check_samples`.
    """
    count = sample_count(samples)
    fixed = [i.shape[0] for i in session.get_inputs() if i.shape and isinstance(i.shape[0], int) and i.shape[0] > 0]
    stacked = any(is_stacked(samples[i.name], i) for i in session.get_inputs())
    size = 1 if stacked else max(fixed, default=1)
    units = [range(k, k + size) for k in range(0, count - size + 1, size)]
    digests = [digest_of(samples, unit) for unit in units]
    different = list(dict.fromkeys(digests))
    if len(different) < ENOUGH:
        return Split(samples, samples, samples, 0, count)
    number = min(len(different) // 4, max(HELD_BACK // size, 2))
    chosen = {different[(2 * k + 1) * len(different) // (2 * number)] for k in range(number)}

    def part(held: bool) -> dict[str, npt.NDArray[Any]]:
        rows = [k for unit, digest in zip(units, digests, strict=True) if (digest in chosen) == held for k in unit]
        return {name: array[rows] if array.ndim else array for name, array in samples.items()}

    judged = part(held=True)
    return Split(samples, part(held=False), judged, sample_count(judged), count)


def digest_of(samples: Batch, rows: Iterable[int]) -> bytes:
    """A digest of some samples."""
    digest = hashlib.sha256()
    for array in samples.values():
        if array.ndim:
            digest.update(np.ascontiguousarray(array[list(rows)]).tobytes())
    return digest.digest()


def batches(session: Any, samples: Batch) -> Iterable[dict[str, npt.NDArray[Any]]]:
    """Cut samples into the batches that the model accepts; an incomplete last one is left out if it is fixed.

    Raises
    ------
    CalibrationError
        Fewer samples than the model's fixed batch size.
    """
    count = sample_count(samples)
    stacked = {i.name for i in session.get_inputs() if is_stacked(samples[i.name], i)}
    if stacked:  # one sample a run
        for k in range(count):
            yield {n: a[k, ...] if n in stacked else a[k : k + 1] if a.ndim else a for n, a in samples.items()}
        return
    fixed = [i.shape[0] for i in session.get_inputs() if i.shape and isinstance(i.shape[0], int) and i.shape[0] > 0]
    size = max(fixed, default=min(BATCH, max(1, count // 2)))
    if fixed and count < size:
        raise CalibrationError(f"{count} samples, the model's batch size is {size}")
    for first in range(0, count - size + 1 if fixed else count, size):
        yield {name: array[first : first + size] if array.ndim else array for name, array in samples.items()}


def sample_count(samples: Batch) -> int:
    """Length of the first axes; an input that is a single number is the same for all samples."""
    return next((len(array) for array in samples.values() if array.ndim), 1)


def collect_statistics(
    model: onnx.ModelProto,
    activations: Mapping[tuple[str, int], int],
    samples: Batch,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, int], ActivationStatistics]:
    """Run a model on samples and reduce the watched activations.

    Parameters
    ----------
    model : onnx.ModelProto
    activations : mapping
        (name, channel axis) of each tensor to watch -> number of channels.
    samples : mapping
        Made by `check_samples`.
    progress : callable
        Told (batches done, batches).

    Returns
    -------
    dict
        Statistics of every tensor that exists and never became NaN or infinite.

    Raises
    ------
    ExportError
        ONNX Runtime is missing or cannot run the model.
    """
    if not activations:
        return {}
    watched, arrays = apart(model)
    names: dict[tuple[str, int], tuple[str, str, str]] = {}
    for key in last_first(model, activations, lambda key: key[0]):
        names[key] = add_reductions(watched, len(names), *key, activations[key])
    session = open_session(watched, options=frugal_options(), arrays=arrays)
    outputs = [name for triple in names.values() for name in triple]
    maximum: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
    means: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
    squares: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
    seen = 0
    todo = list(batches(session, samples))
    for done, feeds in enumerate(todo):
        progress(done, len(todo))
        size = sample_count(feeds)
        seen += size
        results = dict(zip(outputs, run(session, outputs, feeds), strict=True))
        for key, (top, mean, square) in names.items():
            maximum[key] = np.maximum(maximum.get(key, 0), results[top].astype(np.float64))
            means[key] = means.get(key, 0) + size * results[mean].astype(np.float64)
            squares[key] = squares.get(key, 0) + size * results[square].astype(np.float64)
    progress(len(todo), len(todo))
    return {
        key: ActivationStatistics(
            maximum[key], squares[key] / seen, np.maximum(squares[key] / seen - (means[key] / seen) ** 2, 0)
        )
        for key in names
        if np.isfinite(maximum[key]).all() and np.isfinite(squares[key]).all()
    }


def last_first(model: onnx.ModelProto, items: Iterable[Item], value_of: Callable[[Item], str]) -> list[Item]:
    """Items by where in a graph the value of each is made, the last one first.

    ONNX Runtime comes first to those of equal nodes that stand last. Reductions in this order are done as soon as they
    can be, and a value that is watched is not held until the end of a run.
    """
    place = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    return sorted(items, key=lambda item: place.get(value_of(item), -1), reverse=True)


def add_reductions(model: onnx.ModelProto, index: int, name: str, axis: int, channels: int) -> tuple[str, str, str]:
    """Add outputs for max |X|, mean X and mean X**2 over all axes but the channel axis; return their names."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    prefix = f"tansor_watch_{index}"
    # (rows, channels), (n, channels, positions) or (channels, positions)
    shape, axes = {-1: ([-1, channels], [0]), 1: ([0, channels, -1], [0, 2]), -2: ([channels, -1], [1])}[axis]
    graph = model.graph
    graph.initializer.append(helper.make_tensor(f"{prefix}_shape", onnx.TensorProto.INT64, [len(shape)], shape))
    graph.initializer.append(helper.make_tensor(f"{prefix}_axes", onnx.TensorProto.INT64, [len(axes)], axes))
    extra: dict[str, Any] = {"keepdims": 0} | ({} if opset >= 18 else {"axes": axes})
    also = [f"{prefix}_axes"] if opset >= 18 else []
    top, mean, square = f"{prefix}_max", f"{prefix}_mean", f"{prefix}_square"
    graph.node.extend(
        [
            helper.make_node("Cast", [name], [f"{prefix}_f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{prefix}_f", f"{prefix}_shape"], [f"{prefix}_x"]),
            helper.make_node("Abs", [f"{prefix}_x"], [f"{prefix}_abs"]),
            helper.make_node("ReduceMax", [f"{prefix}_abs", *also], [top], **extra),
            helper.make_node("ReduceMean", [f"{prefix}_x", *also], [mean], **extra),
            helper.make_node("Mul", [f"{prefix}_x", f"{prefix}_x"], [f"{prefix}_xx"]),
            helper.make_node("ReduceMean", [f"{prefix}_xx", *also], [square], **extra),
        ]
    )
    for output in (top, mean, square):
        graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [channels]))
    return top, mean, square


def combine(
    readers: Iterable[Reader], found: Mapping[tuple[str, int], ActivationStatistics]
) -> ActivationStatistics | None:
    """Statistics of a weight that several inputs meet: the largest of each; None if none is known."""
    watched = [(r.activation, r.activation_axis) for r in readers if r.activation is not None]
    known = [found[key] for key in watched if key in found]
    if not known:
        return None
    return ActivationStatistics(
        np.maximum.reduce([k.maximum for k in known]),
        np.maximum.reduce([k.mean_square for k in known]),
        np.maximum.reduce([k.variance for k in known]),
    )
