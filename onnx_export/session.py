"""load_session and run: a compressed model in ONNX Runtime, in one of three modes.

``resident``   weights are decoded once while loading, for a GPU on it: full speed, full memory; where activations are
               quantized too, as integers that ONNX Runtime multiplies as such
``streaming``  weights stay compressed in memory and are decoded at each use, by the native op library if it was built
``auto``       each weight as the file says, if it was compressed for a latency budget; else resident
"""

import os
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper
from zlib_ng.zlib_ng import crc32

from codec.kernels import numba_kernels
from codec.tensor import DTYPES, Stored, load
from onnx_export.calls import INTERLEAVE, Call, attribute, is_call, read_calls
from onnx_export.files import naming, read_outline, resolve
from onnx_export.functions import DOMAIN
from onnx_export.integers import add_integers, integer_weight, read_layers
from onnx_export.native.loader import decode_on_device, device_calls
from onnx_export.products import multiply_symbols
from onnx_export.references import bytes_of, load_references
from onnx_export.rewrite import (
    MIXED,
    STREAMING,
    call_for_each_reader,
    get_metadata,
    planned_residents,
    replace_by_constants,
)
from onnx_export.runtime import ELEMENT_TYPES, describe_placement, onnxruntime, open_session, placeholder, use_native
from onnx_export.runtime import run as run_session
from onnx_export.sharing import open_shared, shareable
from refimpl.errors import Corrupt, InvalidArgument

MODES = ("resident", "streaming", "auto")
NamedCall = tuple[str, Stored, Call]


def load_session(
    path: str | os.PathLike[str],
    mode: str = "resident",
    device: str = "cpu",
    *,
    native: bool | None = None,
    options: Any = None,
) -> Any:
    """Open a model, compressed or not, as an ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    path : path
        ``.onnx``.
    mode : {"resident", "streaming", "auto"}
    device : {"cpu", "cuda"}
    native : bool, optional
        See `onnx_export.runtime.open_session`: what decodes in streaming mode, and while loading to a GPU.
    options : onnxruntime.SessionOptions, optional
        For this session alone: some are set here.

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
    model = read_outline(path)
    if not any(o.domain == DOMAIN for o in model.opset_import):
        return open_session(str(path), device, options)  # ONNX Runtime reads external tensors itself
    options = onnxruntime().SessionOptions() if options is None else options
    resolve(model, path)
    with naming(path):
        if mode == "streaming":
            return open_streaming(model, path, device, options, native)
        if mode == "auto" and get_metadata(model).get("mode") in (STREAMING, MIXED):
            return open_planned(model, device, options, native=native)
        return open_resident(model, device, options, native)


def open_streaming(model: onnx.ModelProto, path: Path, device: str, options: Any, native: bool | None) -> Any:
    """Decode at each use: ONNX Runtime's default order puts a call right before the first node that reads it.

    ``model`` is that of the file, here and in `open_resident`; it may be changed.
    """
    check_bands(model)
    exchanged = prepare_streaming(model, device, options, native)
    if device != "cuda" and not exchanged:
        return open_session(str(path), device, options, native=native)
    return open_session(model, device, options, native=native)


def prepare_streaming(model: onnx.ModelProto, device: str, options: Any, native: bool | None) -> set[str]:
    """Fit a model, in place, and options to weights that are decoded at each use; names of those that stay symbols."""
    options.enable_mem_pattern = False  # plans one block for all of a run beside what the first run has taken
    if device == "cuda":
        call_for_each_reader(model)
        return set()
    return multiply_symbols(model) if use_native(native) else set()


def check_bands(model: onnx.ModelProto) -> None:
    """Check the stored bytes of bands: a function's body does not, and for these there is no kernel that would.

    Raises
    ------
    Corrupt
        A checksum is missing or wrong.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if is_call(node) and node.op_type == INTERLEAVE:
            inputs = [initializers[name] for name in node.input[1:] if name in initializers]
            crc = crc32(b"".join(bytes_of(tensor).tobytes() for tensor in inputs))
            if attribute(node, "stored_crc") != crc:
                raise Corrupt(f"{node.name}: the checksum of the bands is wrong")


def open_resident(model: onnx.ModelProto, device: str, options: Any, native: bool | None) -> Any:
    """Decode once: on the device what may stay there, all else on the processor, as constants of the model."""
    if device != "cuda" or not use_native(native):
        return open_decoded(model, device, options, native=native)
    calls = device_calls(model, shareable(model))
    shared = dict(decode_on_device(calls, bytes_of))
    replace_by_constants(model, [], shared)
    load_references(model)
    model.graph.initializer.extend(placeholder(c.name, c.shape, DTYPES[c.dtype]) for c in calls)
    tensors, arrays = decode_on_processor(list(read_calls(model)))
    replace_by_constants(model, tensors)
    return open_shared(model, device, shared, arrays, options)


def open_planned(model: onnx.ModelProto, device: str, options: Any, *, native: bool | None = None) -> Any:
    """Keep each weight as the model's plan says (`onnx_export.budget`)."""
    names = [name for name, _, _ in read_calls(model)]
    return open_decoded(model, device, options, planned_residents(model, names), native=native)


def open_decoded(
    model: onnx.ModelProto,
    device: str,
    options: Any,
    names: Container[str] | None = None,
    *,
    native: bool | None = None,
) -> Any:
    """Decode the weights of these names (default: of all) once, on the processor; others are decoded at each use."""
    layers = read_layers(model)
    calls = [call for call in read_calls(model) if names is None or call[0] in names]
    integers = {name: w for name, stored, _ in calls if (w := integer_weight(name, stored, layers)) is not None}
    tensors, arrays = decode_on_processor([call for call in calls if call[0] not in integers])
    codes = {weight.inputs[0]: weight.codes for weight in integers.values()}
    tensors += [placeholder(name, array.shape, array.dtype) for name, array in codes.items()]
    replace_by_constants(model, tensors, {name for name, _, _ in calls})
    add_integers(model, integers)
    streams = any(is_call(node) for node in model.graph.node)
    if streams:
        prepare_streaming(model, device, options, native)
    return open_session(model, device, options, arrays=arrays | codes, native=native if streams else False)


def decode_on_processor(calls: Sequence[NamedCall]) -> tuple[list[onnx.TensorProto], dict[str, npt.NDArray[Any]]]:
    """Tensors that stand for weights, and the values of those that claim to be in a file."""
    tensors, arrays = [], {}
    kernels = numba_kernels(os.cpu_count() or 1)
    for name, stored, _ in calls:
        with naming(name):
            array = load(stored, kernels=kernels)
        if array.dtype in ELEMENT_TYPES.values():
            tensors.append(placeholder(name, array.shape, array.dtype))
            arrays[name] = array
        else:  # no type of NumPy's own
            tensors.append(numpy_helper.from_array(array, name))
    return tensors, arrays


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
    mode : {"streaming", "resident", "auto"}
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
