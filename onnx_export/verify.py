"""verify: check every checksum, decode everything, and measure the error against the original."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.container import read_container
from codec.tensor import Stored, load
from onnx_export.calls import read_calls
from onnx_export.files import kind_of, naming, read_bytes, read_model
from onnx_export.progress import Progress, silent
from onnx_export.weights import constant_tensors, to_array
from refimpl.errors import ExportError, InvalidArgument
from refimpl.metrics import sqnr_db

Array = npt.NDArray[Any]


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
        ``identical``, ``sqnr_db`` (null if identical) and ``max_error``.

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
        stored = stored_tensors(source)
    if not stored:
        raise InvalidArgument(f"{source} holds nothing that tansor compressed")
    with naming(against):
        originals = None if against is None else plain_tensors(Path(against))
    lines = []
    for done, (name, tensor) in enumerate(stored.items()):
        with naming(source), naming(name):
            decoded = load(tensor)
        line: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "elements": decoded.size}
        if originals is not None:
            line |= compare(name, decoded, originals)
        lines.append(line)
        tell("verify", done + 1, len(stored))
    return {"path": str(source), "ok": True, "tensors": lines}


def compare(name: str, decoded: Array, originals: dict[str, Array]) -> dict[str, Any]:
    """Error of a decoded tensor against its original."""
    original = originals.get(name)
    if original is None or original.shape != decoded.shape:
        raise ExportError(f"the original has no tensor {name} of shape {list(decoded.shape)}")
    with np.errstate(invalid="ignore"):  # a signalling NaN is one like others
        wide, approximation = original.astype(np.float64), decoded.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ExportError(f"the original's {name} holds NaN or infinite values")
    identical = decoded.dtype == original.dtype and np.array_equal(wide, approximation)
    sqnr = sqnr_db(wide, approximation)
    return {
        "identical": identical,
        "sqnr_db": sqnr if np.isfinite(sqnr) else None,
        "max_error": float(np.abs(wide - approximation).max(initial=0)),
    }


def stored_tensors(path: Path) -> dict[str, Stored]:
    """The compressed tensors of a file, by name."""
    if kind_of(path) == ".onnx":
        return {name: stored for name, stored, _ in read_calls(read_model(path))}
    return {n: t for n, t in read_container(read_bytes(path))[0].items() if isinstance(t, Stored)}


def plain_tensors(path: Path) -> dict[str, Array]:
    """The plain tensors of a file, by name."""
    if kind_of(path) == ".onnx":
        return {name: to_array(name, t) for name, t, _ in constant_tensors(read_model(path).graph)}
    return {n: t for n, t in read_container(read_bytes(path))[0].items() if not isinstance(t, Stored)}
