"""Weights decoded by the native op library into a CUDA device's memory, without a session."""

import ctypes
import math
import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import onnx

import refimpl.errors
from codec.tensor import DTYPES, StoredTensor
from onnx_export.calls import Call
from onnx_export.files import naming
from onnx_export.native import library_path
from refimpl.errors import ExportError, LimitExceeded, StreamError

ALIGNMENT = 256
CUDA = 2  # DLPack's number of the device
FLOAT_CODE, BFLOAT_CODE, INT_CODE, UINT_CODE = 2, 4, 0, 1
MAX_RANK = 64


class Input(ctypes.Structure):
    """``Tensor`` of tansor.h."""

    _fields_ = (
        ("data", ctypes.c_char_p), ("type", ctypes.c_int), ("rank", ctypes.c_size_t),
        ("shape", ctypes.c_int64 * MAX_RANK), ("count", ctypes.c_uint64), ("bytes", ctypes.c_uint64),
    )  # fmt: skip


class DLTensor(ctypes.Structure):
    """A view of memory as DLPack describes it, with what manages it: nothing here."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device", ctypes.c_int32),
        ("rank", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip


class DeviceArray:
    """An array in a CUDA device's memory, for whoever takes DLPack; it must live as long as what is made of it."""

    def __init__(self, memory: "DeviceMemory", offset: int, shape: tuple[int, ...], dtype: str) -> None:
        kind, itemsize = DTYPES[dtype].kind, DTYPES[dtype].itemsize
        code = BFLOAT_CODE if dtype == "bfloat16" else {"f": FLOAT_CODE, "i": INT_CODE, "u": UINT_CODE}[kind]
        self.memory, self.shape = memory, (ctypes.c_int64 * max(1, len(shape)))(*shape)
        self.tensor = DLTensor(
            memory.address + offset, CUDA, memory.device, len(shape), code, 8 * itemsize, 1, self.shape
        )

    def __dlpack__(self, **_: Any) -> Any:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.memory.device


class DeviceMemory:
    """Memory of a CUDA device, given back with the object.

    Raises
    ------
    LimitExceeded
        The device has not so much.
    ExportError
        There is no device.
    """

    def __init__(self, size: int, device: int = 0) -> None:
        address = ctypes.c_uint64()
        failure = library().tansor_cuda_allocate(device, ctypes.c_uint64(size), ctypes.byref(address))
        if failure and b"memory" in failure:
            raise LimitExceeded(f"{size:,} bytes of weights do not fit in the device's memory")
        check(failure)
        self.address, self.size, self.device = address.value, size, device
        weakref.finalize(self, library().tansor_cuda_release, device, address)


def library() -> Any:
    """The library's functions for loaders."""
    loaded = ctypes.CDLL(str(library_path()))
    loaded.tansor_cuda_allocate.restype = loaded.tansor_cuda_decode.restype = ctypes.c_char_p
    loaded.tansor_cuda_release.restype = None
    return loaded


def check(failure: bytes | None) -> None:
    """Raise what the library says is wrong.

    Raises
    ------
    StreamError
        The call is damaged.
    ExportError
        Anything else.
    """
    if failure is None:
        return
    kind, _, text = failure.decode().partition(": ")
    error = getattr(refimpl.errors, kind, None) if text else None
    if error is not None and issubclass(error, StreamError):
        raise error(text)
    raise ExportError(f"CUDA: {failure.decode()}")


def decode_on_device(calls: Sequence[tuple[str, StoredTensor, Call]], device: int = 0) -> dict[str, DeviceArray]:
    """Decode calls one by one into one piece of a device's memory.

    Besides it the device holds what is stored of one call, and its tables.

    Parameters
    ----------
    calls : sequence of (name, tensor, call)
        Of floats, or of integers of eight bits. Checksums of stored bytes have been compared, as `read_calls` does.
    device : int
        Number of the CUDA device.

    Raises
    ------
    StreamError
        A call is damaged, or the weights do not fit in the device's memory. All is checked but ``symbols_crc``.
    ExportError
        No driver, no device, or no compiler of CUDA's.
    """
    sizes = [math.prod(stored.shape) * DTYPES[stored.dtype].itemsize for _, stored, _ in calls]
    offsets = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
    memory = DeviceMemory(offsets[-1], device)
    arrays = {}
    for (name, stored, call), size, offset in zip(calls, sizes, offsets, strict=False):
        with naming(name):
            decode_into(memory, offset, size, call)
        arrays[name] = DeviceArray(memory, offset, stored.shape, stored.dtype)
    return arrays


def decode_into(memory: DeviceMemory, offset: int, size: int, call: Call) -> None:
    """Decode a call to a place of so many bytes."""
    inputs = (Input * len(call.inputs))(*map(as_input, call.inputs))
    to = ctypes.c_int64(next(a.i for a in call.node.attribute if a.name == "to"))
    place = ctypes.c_uint64(memory.address + offset), ctypes.c_uint64(size)
    name, count = call.node.op_type.encode(), ctypes.c_size_t(len(inputs))
    check(library().tansor_cuda_decode(memory.device, name, to, inputs, count, *place))


def as_input(tensor: onnx.TensorProto) -> Input:
    """An initializer as the library takes it."""
    data, dims = tensor.raw_data, tuple(tensor.dims)
    shape = (ctypes.c_int64 * MAX_RANK)(*dims[:MAX_RANK])
    return Input(data, tensor.data_type, len(dims), shape, math.prod(dims), len(data))
