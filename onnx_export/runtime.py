"""ONNX Runtime, if it is installed: a missing one is a sentence, not a traceback."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_export.files import PROTOBUF_LIMIT, first_line
from refimpl.errors import ExportError, InvalidArgument

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32), "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16), "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32), "tensor(int16)": np.dtype(np.int16), "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8), "tensor(uint16)": np.dtype(np.uint16), "tensor(bool)": np.dtype(np.bool_),
}  # fmt: skip


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
    except (ImportError, AttributeError):
        raise ExportError(
            "this needs ONNX Runtime: install tansor[cpu], or tansor[gpu] for CUDA (one of them, they clash)"
        ) from None
    ort.set_default_logger_severity(4)
    return ort


def open_session(model: onnx.ModelProto | str, device: str = "cpu", options: Any = None) -> Any:
    """An InferenceSession on one device, without silent fallback.

    Parameters
    ----------
    model : onnx.ModelProto or str
        A model in memory, or the path of a file.
    device : {"cpu", "cuda"}
    options : onnxruntime.SessionOptions, optional

    Raises
    ------
    InvalidArgument
        Unknown device.
    ExportError
        ONNX Runtime is missing, refuses the model, or has no such device.
    """
    if device not in PROVIDERS:
        raise InvalidArgument(f"device is {device!r}, allowed are {', '.join(PROVIDERS)}")
    ort = onnxruntime()
    if PROVIDERS[device] not in ort.get_available_providers():
        raise ExportError("this ONNX Runtime has no CUDA: install tansor[gpu] instead of tansor[cpu]")
    if device == "cuda":
        with contextlib.suppress(Exception):  # it prints what it could not load; the check below decides
            ort.preload_dlls()
    try:
        if isinstance(model, str):
            session = ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
        elif model.ByteSize() < PROTOBUF_LIMIT:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDERS[device]])
        else:
            session = open_large(ort, model, options, PROVIDERS[device])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime refuses the model: {first_line(error)}") from None
    if session.get_providers()[0] != PROVIDERS[device]:
        raise ExportError("CUDA was asked for, but ONNX Runtime could only start the CPU")
    return session


def open_large(ort: Any, model: onnx.ModelProto, options: Any, provider: str) -> Any:
    """Open a model that no single protobuf can hold, through a temporary file."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path), save_as_external_data=True, location="model.data")
        return ort.InferenceSession(str(path), options, providers=[provider])


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
        raise ExportError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None
    return result
