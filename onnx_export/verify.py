"""verify: check every checksum, decode everything, and measure the error against the original."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.container import read_container
from codec.tensor import Stored, load
from onnx_export.calls import read_calls
from onnx_export.files import kind_of, map_bytes, naming, read_model
from onnx_export.hoist import hoist_weights
from onnx_export.progress import Progress, silent
from onnx_export.references import to_array
from onnx_export.rewrite import get_metadata
from onnx_export.weights import constant_tensors
from refimpl.errors import ExportError, InvalidArgument
from refimpl.metrics import sqnr_db

Array = npt.NDArray[Any]
Originals = Mapping[str, Callable[[], Array]]  # name -> what reads the tensor
FITS = 8  # rounds of fitting factors along several axes


def verify(
    source: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check a compressed file.

    Parameters
    ----------
    source : path
        Compressed ``.onnx`` or ``.safetensors``.
    against : path, optional
        The model it was made from.
    progress : callable, optional
        Told (what, done, of how many).

    Returns
    -------
    dict
        ``path``, ``ok`` and ``tensors``: name, shape, elements; against an original also
        ``identical``, ``sqnr_db`` (null if identical), ``max_error`` and, if the tensor is stored times channel
        scales that other constants have absorbed, ``scaled``: the axes of these. Such a tensor is compared to the
        original times the factors that fit it best.

    Raises
    ------
    StreamError
        Something is damaged; the message names the tensor.
    InvalidArgument
        Nothing in the file is compressed.
    ExportError
        The original lacks a tensor or has it in another shape.
    """
    source = Path(source)
    tell = progress or silent
    with naming(source):
        stored, facts = stored_tensors(source)
    if not stored:
        raise InvalidArgument(f"{source} holds nothing that tansor compressed")
    with naming(against):
        originals = None if against is None else plain_tensors(Path(against))
        scaled = {} if against is None else scaled_axes(facts)
    lines = []
    for done, (name, tensor) in enumerate(stored.items()):
        with naming(source), naming(name):
            decoded = load(tensor)
        line: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "elements": decoded.size}
        if originals is not None:
            with naming(against):
                line |= compare(name, decoded, originals, scaled.get(name, ()))
        lines.append(line)
        tell("verify", done + 1, len(stored))
    return {"path": str(source), "ok": True, "tensors": lines}


def compare(name: str, decoded: Array, originals: Originals, axes: Sequence[int] = ()) -> dict[str, Any]:
    """Error of a decoded tensor against its original, times factors along the axes that have absorbed scales."""
    original = originals[name]() if name in originals else None
    if original is None or original.shape != decoded.shape:
        raise ExportError(f"the original has no tensor {name} of shape {list(decoded.shape)}")
    with np.errstate(invalid="ignore"):  # a signalling NaN is one like others
        wide, approximation = original.astype(np.float64), decoded.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ExportError(f"the original's {name} holds NaN or infinite values")
    identical = decoded.dtype == original.dtype and np.array_equal(wide, approximation)
    wide = fitted(wide, approximation, axes)
    sqnr = sqnr_db(wide, approximation)
    return {
        "identical": identical,
        "sqnr_db": sqnr if np.isfinite(sqnr) else None,
        "max_error": float(np.abs(wide - approximation).max(initial=0)),
        **({"scaled": list(axes)} if axes else {}),
    }


def fitted(original: Array, approximation: Array, axes: Sequence[int]) -> Array:
    """The original times factors along some axes, by least squares, one axis after the other.

    Examples
    --------
    >>> a = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> np.round(fitted(a, a * [2.0, 5.0], [1]), 9)
    array([[ 2., 10.],
           [ 6., 20.]])
    """
    for _ in range(FITS if len(axes) > 1 else 1):
        for axis in axes:
            others = tuple(i for i in range(original.ndim) if i != axis % original.ndim)
            products = (original * approximation).sum(axis=others, keepdims=True)
            squares = np.square(original).sum(axis=others, keepdims=True)
            original = original * np.divide(products, squares, out=np.ones_like(squares), where=squares > 0)
    return original


def scaled_axes(facts: Mapping[str, Any]) -> dict[str, list[int]]:
    """Axes along which tensors of a model are stored times absorbed scales, by the model's own account."""
    try:
        return {str(name): [int(a) for a in axes] for name, axes in facts.get("scaled", {}).items()}
    except (ValueError, TypeError, AttributeError):  # information: not worth refusing the file for
        return {}


def stored_tensors(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """(the compressed tensors of a file, by name; what a model says of its making)."""
    if kind_of(path) == ".onnx":
        model = read_model(path)
        return {name: stored for name, stored, _ in read_calls(model)}, get_metadata(model)
    return {n: t for n, t in read_container(map_bytes(path))[0].items() if isinstance(t, Stored)}, {}


def plain_tensors(path: Path) -> Originals:
    """What reads the plain tensors of a file, by name."""
    if kind_of(path) == ".onnx":
        model = read_model(path)
        hoist_weights(model)  # as compress did
        return {name: partial(to_array, name, t) for name, t, _ in constant_tensors(model.graph)}
    tensors = read_container(map_bytes(path))[0]
    return {n: partial(np.asarray, t) for n, t in tensors.items() if not isinstance(t, Stored)}
