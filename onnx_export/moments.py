"""Second moments of what meets the weights: X^T X over calibration tokens, for error feedback.

Computed inside ONNX Runtime and reduced there, batch by batch; a convolution's X are its patches, which a
convolution with unit kernels lays out. A grouped convolution has a moment for each of its groups. As many are collected
in a run of the samples as fit a budget of memory that follows the largest of them, and each is then put on disk: what
is held at once does not follow the model.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onnx_export.calibration import Batch, batches, last_first
from onnx_export.runtime import apart, frugal_options, open_session, run
from onnx_export.weights import Constant

BUDGET = 1 << 26  # bytes of moments that are always held at once
LARGEST = 4  # or so many of the largest: about what quantizing its layer takes, with two jobs
ENTRY = 24  # bytes of an entry: the sums, what a batch adds to one, and ONNX Runtime's room for that
WIDEST = 1 << 14  # inputs of a layer; beyond, a moment is larger than any weight it could help


@dataclass(frozen=True)
class Moment:
    """Where a weight's input can be watched."""

    activation: str
    axis: int  # of its channels: -1, -2, or 1 for a convolution
    width: int  # inputs that meet a row of the weight
    patches: tuple[tuple[str, Any], ...] = ()  # attributes of the convolution that reads them
    groups: int = 1  # of that convolution: each of them reads channels of its own

    @property
    def key(self) -> str:
        """A name that is the same for the same moment."""
        return f"{self.activation} {self.axis} {self.width} {self.patches} {self.groups}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of X^T X: (width, width), with groups (groups, width, width)."""
        return (self.width, self.width) if self.groups == 1 else (self.groups, self.width, self.width)

    @property
    def size(self) -> int:
        """Entries of X^T X."""
        return self.groups * self.width**2

    @property
    def digest(self) -> str:
        """Its key as part of a file name: other moments in a folder never stand for it."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]


def moments_of(model: onnx.ModelProto, constant: Constant) -> tuple[list[Moment], int]:
    """(what can be watched of a weight's inputs, uses that can not)."""
    found = []
    for reader in constant.readers:
        if reader.activation is None or constant.input_axis is None:
            continue
        if reader.row_axis is None:
            found.append(Moment(reader.activation, reader.activation_axis, constant.array.shape[constant.input_axis]))
    if constant.row_axis == 0 and constant.array.ndim >= 3:
        width = int(np.prod(constant.array.shape[1:]))
        for node in model.graph.node:
            if node.op_type == "Conv" and node.input[1] == constant.name:
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                groups = int(attributes.pop("group", 1))
                attributes["kernel_shape"] = list(constant.array.shape[2:])
                settings = tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items()))
                found.append(Moment(node.input[0], 1, width, settings, groups))
    found = [m for m in found if m.width <= WIDEST]
    return found, len(constant.readers) - len(found)


def collect_moments(
    model: onnx.ModelProto, wanted: Iterable[Moment], samples: Batch, folder: Path, tell: Callable[[int, int], None]
) -> dict[Moment, Path]:
    """Run a model on samples and leave ``X^T X / tokens`` of every moment in a folder, in two halves.

    The first half is of the batches 0, 2, 4 and so on, the second of the others: what one teaches, the other judges.

    Parameters
    ----------
    model : onnx.ModelProto
    wanted : iterable of Moment
    samples : mapping
        Made by `onnx_export.calibration.check_samples`.
    folder : Path
        Gets a ``.npy`` file, float32 (2, `Moment.shape`), for each moment; one that is there already is kept. The
        sum of the halves is ``X^T X / tokens``.
    tell : callable
        Told (batches done, batches).

    Returns
    -------
    dict
        Moment -> its file. A moment that became NaN or infinite is left out.

    Raises
    ------
    ExportError
        ONNX Runtime is missing or cannot run the model.
    """
    names = {m: folder / f"moment-{m.digest}.npy" for m in sorted(set(wanted), key=lambda m: m.key)}
    # By depth: a run goes no deeper than the last of its group.
    todo = last_first(model, [m for m in names if not names[m].exists()], lambda moment: moment.activation)
    groups = list(within_budget(todo))
    for index, group in enumerate(groups):
        sums = run_group(model, group, samples, lambda i, n, g=index: tell(g * n + i, len(groups) * n))  # type: ignore[misc]
        for moment, value in sums:
            save_whole(names[moment], value)
    return {m: path for m, path in names.items() if np.isfinite(np.load(path, mmap_mode="r")[..., 0, :]).all()}


def within_budget(moments: Sequence[Moment]) -> Iterator[list[Moment]]:
    """Cut a row of moments where they would exceed the budget."""
    group: list[Moment] = []
    size = 0
    budget = max(BUDGET, LARGEST * ENTRY * max((m.size for m in moments), default=0))
    for moment in moments:
        if group and size + ENTRY * moment.size > budget:
            yield group
            group, size = [], 0
        group.append(moment)
        size += ENTRY * moment.size
    if group:
        yield group


def run_group(
    model: onnx.ModelProto, group: Sequence[Moment], samples: Batch, tell: Callable[[int, int], None]
) -> Iterator[tuple[Moment, npt.NDArray[np.float32]]]:
    """The moments of a group, from one run of the samples, each given away and forgotten."""
    watched, arrays = apart(model)
    del watched.graph.output[:]
    outputs = [add_moment(watched, i, m) for i, m in enumerate(group)]
    session = open_session(watched, options=frugal_options(), arrays=arrays)
    sums = [np.zeros((2, *m.shape)) for m in group]
    tokens = np.zeros(len(group))
    todo = list(batches(session, samples))
    results: list[Any] = []
    for done, feeds in enumerate(todo):
        tell(done, len(todo))
        results = run(session, [name for pair in outputs for name in pair], feeds)
        for k in range(len(group)):
            sums[k][done % 2] += results[2 * k]
            tokens[k] += results[2 * k + 1].reshape(-1)[0]
        results.clear()
    tell(len(todo), len(todo))
    for moment, count in zip(group, tokens, strict=True):
        total = sums.pop(0)
        total /= max(count, 1)
        yield moment, total.astype(np.float32)


def add_moment(model: onnx.ModelProto, index: int, moment: Moment) -> tuple[str, str]:
    """Add outputs for X^T X and the number of tokens; return their names."""
    graph, prefix = model.graph, f"tansor_moment_{index}"

    def constant(name: str, values: npt.NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(values, f"{prefix}_{name}"))
        return f"{prefix}_{name}"

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, inputs, [f"{prefix}_{name}"], **attributes))
        return f"{prefix}_{name}"

    x = node("Cast", [moment.activation], "f", to=onnx.TensorProto.FLOAT)
    if moment.patches:
        settings = dict(moment.patches)
        taps = int(np.prod(settings["kernel_shape"]))
        channels = moment.groups * moment.width // taps
        unit = np.tile(np.eye(taps, dtype=np.float32), (channels, 1)).reshape(-1, 1, *settings["kernel_shape"])
        x = node("Conv", [x, constant("unit", unit)], "patches", group=channels, **settings)
    if moment.axis == 1:  # (n, width, positions), with groups (n, groups, width, positions)
        rank = len(moment.shape) + 1
        x = node("Reshape", [x, constant("split", np.array([0, *moment.shape[:-1], -1]))], "split_x")
        x = node("Transpose", [x], "apart", perm=[*range(1, rank - 1), 0, rank - 1])
        # All samples in one product: a product of each would be as large as H, once for every sample.
        x = node("Reshape", [x, constant("shape", np.array([*moment.shape[:-1], -1]))], "x")
        rows = node("Transpose", [x], "rows", perm=[*range(rank - 3), rank - 2, rank - 3])
        total = node("MatMul", [x, rows], "total")
    else:
        shape = [-1, moment.width] if moment.axis == -1 else [moment.width, -1]
        x = node("Reshape", [x, constant("shape", np.array(shape))], "x")
        other = node("Transpose", [x], "other", perm=[1, 0])
        total = node("MatMul", [other, x] if moment.axis == -1 else [x, other], "total")
    size = node("Size", [x], "size")
    tokens = node("Div", [size, constant("width", np.array(moment.groups * moment.width))], "tokens")
    graph.output.append(helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, moment.shape))
    graph.output.append(helper.make_tensor_value_info(tokens, onnx.TensorProto.INT64, []))
    return total, tokens


def load_hessian(
    moments: Mapping[Moment, Path], wanted: Sequence[Moment], unwatched: int, half: int | None = None
) -> npt.NDArray[np.float64] | None:
    """The H of a weight that several uses meet: each counts alike, one that cannot be watched as the identity.

    ``half`` chooses one of the halves; default both.

    Returns
    -------
    float64, shape (width, width) or (groups, width, width)
        Each use's diagonal has the mean 1, over all groups. None if no use is known.
    """
    known = [moments[m] for m in wanted if m in moments]
    if not known:
        return None
    lost = unwatched + len(wanted) - len(known)
    total = lost * np.eye(wanted[0].width)
    for path in known:
        halves = np.load(path)
        total = total + normalized(halves.sum(axis=0, dtype=np.float64) if half is None else halves[half])
    return total


def input_power(moments: Mapping[Moment, Path], wanted: Sequence[Moment]) -> float:
    """Mean square of what meets a weight, over its known uses, which `load_hessian` divides out; 1 if none is known."""
    known = [mean_diagonal(np.load(moments[m]).sum(axis=0, dtype=np.float64)) for m in wanted if m in moments]
    return float(np.mean(known)) if known else 1.0


def mean_diagonal(moment: npt.NDArray[np.floating]) -> float:
    """Mean of the diagonal, of all groups."""
    return float(np.mean(np.diagonal(moment, axis1=-2, axis2=-1), dtype=np.float64))


def normalized(moment: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """A moment whose diagonal has the mean 1."""
    mean = mean_diagonal(moment)
    return moment.astype(np.float64) / mean if mean > 0 else np.broadcast_to(np.eye(moment.shape[-1]), moment.shape)


def save_whole(path: Path, array: npt.NDArray[Any]) -> None:
    """Save under a temporary name of its own, and rename when it is whole: several processes may share the folder."""
    part = path.with_name(f"{path.stem}.{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            np.save(file, array)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
