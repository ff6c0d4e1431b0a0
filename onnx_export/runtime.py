"""ONNX Runtime, if it is installed: a missing one is a sentence, not a traceback."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_export.files import first_line, is_small, one_line
from onnx_export.functions import DOMAIN
from onnx_export.native import library_path
from onnx_export.native.loader import allocator_options
from onnx_export.references import LARGE, Scratch, localized, tensors_in
from onnx_export.rewrite import copy_without
from refimpl.errors import ExportError, InvalidArgument

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32), "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16), "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32), "tensor(int16)": np.dtype(np.int16), "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8), "tensor(uint16)": np.dtype(np.uint16), "tensor(bool)": np.dtype(np.bool_),
}  # fmt: skip
ARRAY_TYPES = {onnx.helper.np_dtype_to_tensor_dtype(dtype): dtype for dtype in ELEMENT_TYPES.values()}
NOWHERE = "decoded"  # the file that a placeholder names
FOLDER_OF_TENSORS = "session.model_external_initializers_file_folder_path"


def onnxruntime() -> Any:
    """The onnxruntime module.

    Raises
    ------
    ExportError
        It is not installed; the message names the extras that bring it.
    """
    try:
        import onnxruntime as ort

        ort.InferenceSession  # noqa: B018 (a half-removed installation leaves an empty namespace)
    except (ImportError, AttributeError) as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from None
        raise ExportError(
            "this needs ONNX Runtime: install tansor[cpu], or tansor[gpu] for CUDA (one of them, they clash)"
        ) from None
    ort.set_default_logger_severity(4)
    return ort


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an error comes from: initializing a module in C turns it into an ImportError.

    Examples
    --------
    >>> try:
    ...     raise ImportError("initialization failed") from KeyboardInterrupt()
    ... except ImportError as error:
    ...     was_interrupted(error), was_interrupted(error.__cause__.__cause__)
    (True, False)
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def open_session(
    model: onnx.ModelProto | str,
    device: str = "cpu",
    options: Any = None,
    *,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    native: bool | None = None,
) -> Any:
    """An InferenceSession on one device, without silent fallback.

    A model in memory is not written out: ONNX Runtime maps what it refers to, and gets other weights as arrays, which
    live as long as the session.

    Parameters
    ----------
    model : onnx.ModelProto or str
        A model in memory, or the path of a file.
    device : {"cpu", "cuda"}
    options : onnxruntime.SessionOptions, optional
        For this session alone.
    arrays : mapping, optional
        Values of constants of which the model only has a `placeholder`.
    native : bool, optional
        Whether calls of `ai.tansor` run the native op library instead of the function bodies. Default: if it was
        built, and the environment variable ``TANSOR_NATIVE`` is not 0.

    The environment variable ``TANSOR_THREADS`` says how many threads ONNX Runtime takes; default one per core.

    Raises
    ------
    InvalidArgument
        Unknown device, or ``TANSOR_THREADS`` is no positive number.
    ExportError
        ONNX Runtime is missing, refuses the model, or has no such device; or there is no library and it was asked for.
    """
    if device not in PROVIDERS:
        raise InvalidArgument(f"device is {device!r}, allowed are {', '.join(PROVIDERS)}")
    threads = threads_asked()
    ort = onnxruntime()
    if PROVIDERS[device] not in ort.get_available_providers():
        raise ExportError("this ONNX Runtime has no CUDA: install tansor[gpu] instead of tansor[cpu]")
    if device == "cuda":
        with contextlib.suppress(Exception):  # it prints what it could not load; the check below decides
            ort.preload_dlls()
    options = ort.SessionOptions() if options is None else options
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cuda":
        options.enable_mem_pattern = False  # plans one block for all of a run beside what the first run has taken
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `placement`
    given = dict(arrays or {})
    if not isinstance(model, str):
        model, inside = apart(model)
        given = {**inside, **given}
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in given.values()]
    options.add_external_initializers(list(given), values)
    # ONNX Runtime's Python package would start again on another provider.
    providers = [(PROVIDERS[device], provider_options(device))]
    arguments = {"sess_options": options, "providers": providers, "enable_fallback": 0}
    try:
        if use_native(native):
            options.register_custom_ops_library(str(library_path()))
        if isinstance(model, str):
            session = ort.InferenceSession(model, **arguments)
        else:
            session = open_light(ort, model, options, arguments)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime refuses the model: {first_line(error)}") from None
    if session.get_providers()[0] != PROVIDERS[device]:
        raise ExportError("CUDA was asked for, but ONNX Runtime could only start the CPU")
    session.disable_fallback()
    session.tansor_weights = values  # ONNX Runtime reads them as long as it runs
    return session


def frugal_options() -> Any:
    """Options for a session beside other work: weights are read where they are, not packed, and idle threads sleep."""
    options = onnxruntime().SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def apart(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """(a copy of a model with placeholders instead of the large weights that it holds, their values).

    References and weights that a run may replace stay, and those of types that NumPy does not have.
    """
    replaceable = {value.name for value in model.graph.input}
    arrays = {
        tensor.name: np.frombuffer(tensor.raw_data, ARRAY_TYPES[tensor.data_type]).reshape(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type in ARRAY_TYPES and tensor.name not in replaceable and len(tensor.raw_data) >= LARGE
    }
    light = copy_without(model, arrays)
    light.graph.initializer.extend(placeholder(name, a.shape, a.dtype) for name, a in arrays.items())
    return light, arrays


def placeholder(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> onnx.TensorProto:
    """A tensor that claims to be in a file."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    tensor.external_data.add(key="location", value=NOWHERE)
    return tensor


def threads_asked() -> int | None:
    """The number in ``TANSOR_THREADS``, None without it.

    Raises
    ------
    InvalidArgument
        It is not a positive number.
    """
    text = os.environ.get("TANSOR_THREADS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InvalidArgument(f"TANSOR_THREADS is {text!r}, allowed are 1 and more")
    return int(text)


def provider_options(device: str) -> dict[str, str]:
    """What makes ONNX Runtime hold no more of a device's memory than it needs.

    Its own arena takes pieces twice as large each time, and splits those that are free for what is small.
    """
    if device != "cuda":
        return {}
    pool = allocator_options() if use_native(None) and sys.platform == "linux" else {}
    return {"arena_extend_strategy": "kSameAsRequested", **pool}


def use_native(native: bool | None) -> bool:
    """Whether to register the native op library.

    Raises
    ------
    ExportError
        It was asked for and was not built.
    """
    if native and library_path() is None:
        raise ExportError("the native op library was not built: install tansor where there is a C compiler")
    if native is None:
        return library_path() is not None and os.environ.get("TANSOR_NATIVE") != "0"
    return native


def placement(session: Any) -> dict[str, Counter[str]] | None:
    """How many nodes of each kind ONNX Runtime has placed where.

    Returns
    -------
    dict or None
        Device -> kind of node, with its domain unless that is ONNX's own -> number. None if this version of ONNX
        Runtime does not tell.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # an older version, or one that does not record
        return None
    devices = {provider: device for device, provider in PROVIDERS.items()}
    placed: dict[str, Counter[str]] = {}
    for part in parts:
        counter = placed.setdefault(devices.get(part.ep_name, part.ep_name), Counter())
        counter.update(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in part.get_nodes())
    return placed


def describe_placement(session: Any) -> str:
    """One line: what runs on which device, and what decodes the weights."""
    placed = placement(session)
    if placed is None:
        return "this ONNX Runtime does not tell what runs where"
    words = [f"{sum(kinds.values())} nodes on {device}" for device, kinds in sorted(placed.items())]
    native = [device for device, kinds in placed.items() if any(kind.startswith(DOMAIN) for kind in kinds)]
    if native:
        words.append(f"weights decoded by the native op library on {' and '.join(sorted(native))}")
    return ", ".join(words) or "no nodes left to run"


def open_light(ort: Any, model: onnx.ModelProto, options: Any, arguments: dict[str, Any]) -> Any:
    """Open a model in memory, which is changed; if no protobuf can hold it, its tensors go through temporary files."""
    with TemporaryDirectory() as temporary:
        if not is_small(model):
            for tensor in tensors_in(model.graph):
                Scratch(Path(temporary)).keep_tensor(tensor)
        if (folder := localized(model)) is not None:
            options.add_session_config_entry(FOLDER_OF_TENSORS, folder)
        return ort.InferenceSession(model.SerializeToString(), **arguments)


def run(session: Any, outputs: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    """Run a session.

    Raises
    ------
    ExportError
        ONNX Runtime cannot run the model on these inputs.
    """
    try:
        result: list[Any] = session.run(outputs, dict(feeds))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime cannot run the model: {one_line(error)}") from None
    return result
