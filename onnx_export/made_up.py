"""Inputs that are made up, for a model of whose real ones nothing is known.

Noise for numbers, random rows for what a table is looked up by. Real inputs may be kept better or worse: what such
inputs say is a warning where it is bad, and no promise where it is good.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_export.runtime import ELEMENT_TYPES, run
from onnx_export.weights import constant_tensors
from refimpl.errors import ExportError

COUNT = 4  # batches
BATCH = 4
LENGTH = 64  # of free dimensions other than the first
OTHERS = (1, LENGTH)  # what integers may be that no table is looked up by: masks, lengths; by 0 a model may divide
MOVES = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice")


def make_up(model: onnx.ModelProto, session: Any) -> list[dict[str, npt.NDArray[Any]]]:
    """A few batches that a model takes.

    Parameters
    ----------
    model : onnx.ModelProto
    session : InferenceSession
        Of the model.

    Raises
    ------
    ExportError
        An input is neither numbers nor flags, or the model runs on nothing that was tried.
    """
    rows = {i.name: count for i in session.get_inputs() if (count := table_rows(model, i.name)) is not None}
    error = ExportError("the model has no inputs")
    for other in OTHERS:
        feeds = [one_batch(session, rows, other, seed) for seed in range(COUNT)]
        try:
            run(session, None, feeds[0])
        except ExportError as refused:
            error = refused
        else:
            return feeds
    raise error


def one_batch(session: Any, rows: Mapping[str, int], other: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Noise, rows of tables, and one number for all other integers.

    Raises
    ------
    ExportError
        An input of another kind.
    """
    random, feeds = np.random.default_rng(seed), {}
    inputs = session.get_inputs()
    sizes = {i.shape[0]: BATCH for i in inputs if i.shape and isinstance(i.shape[0], str)}
    for given in inputs:
        dtype = ELEMENT_TYPES.get(given.type)
        if dtype is None:
            raise ExportError(f"input {given.name} is {given.type}")
        free = [BATCH if axis == 0 else LENGTH for axis in range(len(given.shape))]
        shape = [d if isinstance(d, int) else sizes.get(d, n) for d, n in zip(given.shape, free, strict=True)]
        values: npt.NDArray[Any]
        if dtype.kind == "f":
            values = random.standard_normal(shape)
        elif given.name in rows:
            values = random.integers(0, rows[given.name], shape)
        else:
            values = np.full(shape, min(other, 1) if dtype.kind == "b" else other)
        feeds[given.name] = values.astype(dtype)
    return feeds


def table_rows(model: onnx.ModelProto, name: str) -> int | None:
    """Rows of the smallest table that an input looks up, None if there is none."""
    shapes = {constant: tuple(tensor.dims) for constant, tensor, _ in constant_tensors(model.graph)}
    reached, found = {name}, []
    for node in model.graph.node:
        if node.op_type in MOVES and node.input[0] in reached:
            reached.update(node.output)
        if node.op_type == "Gather" and node.input[1] in reached and len(shapes.get(node.input[0], ())) > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            found.append(shapes[node.input[0]][axis])
    return min(found, default=None)
