"""load_session and run: a compressed model in ONNX Runtime, in one of two modes.

``resident``   weights are decoded once while loading: full speed, full memory
``streaming``  weights stay compressed in memory and are decoded by the graph at each use
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnx_export.decompress import decompress_model
from onnx_export.files import naming, read_model
from onnx_export.functions import DOMAIN
from onnx_export.runtime import ELEMENT_TYPES, open_session
from onnx_export.runtime import run as run_session
from refimpl.errors import InvalidArgument

MODES = ("resident", "streaming")


def load_session(path: str | os.PathLike[str], mode: str = "resident", device: str = "cpu") -> Any:
    """Open a model, compressed or not, as an ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    path : path
        ``.onnx``.
    mode : {"resident", "streaming"}
    device : {"cpu", "cuda"}

    Raises
    ------
    StreamError
        A compressed weight is damaged (resident mode checks all of them).
    InvalidArgument
        Unknown mode or device.
    ExportError
        Not a model, or ONNX Runtime is missing, refuses it or lacks the device.
    """
    if mode not in MODES:
        raise InvalidArgument(f"mode is {mode!r}, allowed are {', '.join(MODES)}")
    path = Path(path)
    model = read_model(path, external_data=False)
    if mode == "streaming" or all(o.domain != DOMAIN for o in model.opset_import):
        return open_session(str(path), device)  # ONNX Runtime reads external tensors itself
    with naming(path):
        model = decompress_model(read_model(path))
    return open_session(model, device)


def run(
    path: str | os.PathLike[str],
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    mode: str = "streaming",
    device: str = "cpu",
) -> dict[str, npt.NDArray[Any]]:
    """Run a model once.

    Parameters
    ----------
    path : path
        ``.onnx``, compressed or not.
    inputs : mapping
        Input name -> array; converted to the dtype that the model wants within its kind.
    mode : {"streaming", "resident"}
        For a single run the default is what any ONNX Runtime does with the file, to the bit.

    Returns
    -------
    dict
        Output name -> array.

    Raises
    ------
    InvalidArgument
        An input is missing, unknown, or of the wrong kind or shape.
    TansorError
        See `load_session`.
    """
    session = load_session(path, mode, device)
    wanted = {i.name: i for i in session.get_inputs()}
    if inputs.keys() != wanted.keys():
        given = ", ".join(sorted(inputs)) or "none"
        raise InvalidArgument(f"inputs given: {given}; the model wants: {', '.join(wanted) or 'none'}")
    feeds = {}
    for name, array in inputs.items():
        dtype = ELEMENT_TYPES.get(wanted[name].type)
        if dtype is None or array.dtype.kind not in ("iub" if dtype.kind in "iub" else "f"):
            raise InvalidArgument(f"input {name} has dtype {array.dtype}, the model wants {wanted[name].type}")
        feeds[name] = array.astype(dtype)
    outputs = [o.name for o in session.get_outputs()]
    return dict(zip(outputs, run_session(session, outputs, feeds), strict=True))
