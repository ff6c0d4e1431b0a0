"""load_session and run: a compressed model in ONNX Runtime, in one of two modes.

``resident``   weights are decoded once while loading: full speed, full memory; where activations are quantized too, as
               integers that ONNX Runtime multiplies as such
``streaming``  weights stay compressed in memory and are decoded at each use, by the native op library if it was built
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from codec.tensor import load
from onnx_export.calls import read_calls
from onnx_export.files import naming, read_model
from onnx_export.functions import DOMAIN
from onnx_export.integers import add_integers, integer_weight, read_layers
from onnx_export.rewrite import replace_by_constants
from onnx_export.runtime import ELEMENT_TYPES, describe_placement, onnxruntime, open_session
from onnx_export.runtime import run as run_session
from refimpl.errors import InvalidArgument

MODES = ("resident", "streaming")


def load_session(
    path: str | os.PathLike[str], mode: str = "resident", device: str = "cpu", *, native: bool | None = None
) -> Any:
    """Open a model, compressed or not, as an ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    path : path
        ``.onnx``.
    mode : {"resident", "streaming"}
    device : {"cpu", "cuda"}
    native : bool, optional
        See `onnx_export.runtime.open_session`; for streaming.

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
    if all(o.domain != DOMAIN for o in model.opset_import):
        return open_session(str(path), device)  # ONNX Runtime reads external tensors itself
    if mode == "streaming":
        return open_streaming(path, device, native)
    with naming(path):
        return open_resident(read_model(path), device)


def open_streaming(path: Path, device: str, native: bool | None) -> Any:
    """Decode at each use: ONNX Runtime's default order puts a call right before the first node that reads it."""
    options = onnxruntime().SessionOptions()
    options.enable_mem_pattern = False  # plans one block for all of a run beside what the first run has taken
    return open_session(str(path), device, options, native=native)


def open_resident(model: onnx.ModelProto, device: str) -> Any:
    """Decode once, and give ONNX Runtime the arrays themselves: the model says that they are in another file."""
    ort = onnxruntime()
    tensors, names, values = [], [], []
    layers, integers = read_layers(model), {}
    for name, stored, _ in list(read_calls(model)):
        with naming(name):
            weight = integer_weight(name, stored, layers)
            array = load(stored) if weight is None else weight.codes
        if weight is not None:
            integers[name] = weight
            name += ".codes"
        if array.dtype in ELEMENT_TYPES.values():
            tensors.append(placeholder(name, array))
            names.append(name)
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
        else:  # no type of NumPy's own
            tensors.append(numpy_helper.from_array(array, name))
    replace_by_constants(model, tensors)
    add_integers(model, integers)
    options = ort.SessionOptions()
    options.add_external_initializers(names, values)
    session = open_session(model, device, options, native=False)
    session.tansor_weights = values  # ONNX Runtime reads them as long as it runs
    return session


def placeholder(name: str, array: npt.NDArray[np.generic]) -> onnx.TensorProto:
    """A tensor that claims to be in a file."""
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.external_data.add(key="location", value="decoded")
    return tensor


def run(
    path: str | os.PathLike[str],
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    mode: str = "streaming",
    device: str = "cpu",
    native: bool | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Run a model once.

    Parameters
    ----------
    path : path
        ``.onnx``, compressed or not.
    inputs : mapping
        Input name -> array; converted to the dtype that the model wants within its kind.
    mode : {"streaming", "resident"}
        For a single run the default loads faster. Without the native op library it is what any ONNX Runtime does
        with the file, to the bit.
    native : bool, optional
        See `load_session`.
    tell : callable, optional
        Told in a line what runs on which device.

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
    session = load_session(path, mode, device, native=native)
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
    results = dict(zip(outputs, run_session(session, outputs, feeds), strict=True))
    if tell is not None:
        tell(describe_placement(session))
    return results
