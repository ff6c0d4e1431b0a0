"""Weights decoded by the native op library into a CUDA device's memory, without a session."""

import ctypes
import math
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from zlib_ng.zlib_ng import crc32

import refimpl.errors
from codec.tensor import DTYPES
from onnx_export.calls import ELEMENT_TYPES, KIND_OF, attribute, checked_shape, is_call
from onnx_export.files import naming
from onnx_export.native import library_path
from refimpl.errors import Corrupt, ExportError, LimitExceeded, StreamError

ALIGNMENT = 256
CUDA = 2  # DLPack's number of the device
FLOAT_CODE, BFLOAT_CODE, INT_CODE, UINT_CODE = 2, 4, 0, 1
MAX_RANK = 64
FLOATS_OF_NUMPY = ("float32", "float16")
WIDTHS: dict[int, int] = {
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.INT64: 8,
}


class Input(ctypes.Structure):
    """``Tensor`` of tansor.h."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("type", ctypes.c_int), ("rank", ctypes.c_size_t),
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
            memory.address + offset, CUDA, memory.device, len(shape), code, 8 * itemsize, 1, self.shape,
            None, 0, None, ctypes.cast(library().tansor_keep, ctypes.c_void_p),
        )  # fmt: skip

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


@cache
def library() -> Any:
    """The library's functions for loaders."""
    loaded = ctypes.CDLL(str(library_path()))
    loaded.tansor_cuda_allocate.restype = loaded.tansor_cuda_decode.restype = ctypes.c_char_p
    loaded.tansor_cuda_release.restype = None
    return loaded


def allocator_options() -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider that make it take memory by the library's pool (pool.c)."""
    functions = {"alloc": "allocate", "free": "free", "empty_cache": "empty"}
    return {
        f"gpu_external_{option}": str(ctypes.cast(library()[f"tansor_pool_{name}"], ctypes.c_void_p).value)
        for option, name in functions.items()
    }


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


@dataclass(frozen=True)
class DeviceCall:
    """A call whose inputs may lie in files, and what it decodes to."""

    node: onnx.NodeProto
    inputs: list[onnx.TensorProto]
    shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """Of the value."""
        return self.node.output[0]

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def device_calls(model: onnx.ModelProto, names: Collection[str]) -> list[DeviceCall]:
    """The calls of some values that are floats of NumPy's.

    Raises
    ------
    Corrupt
        A call's inputs are missing, or do not say what its shape is.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    calls = []
    for node in model.graph.node:
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        dtype = next((name for name in FLOATS_OF_NUMPY if ELEMENT_TYPES[name] == to), None)
        if not is_call(node) or node.output[0] not in names or dtype is None:
            continue
        inputs = [initializers[name] for name in node.input if name in initializers]
        if node.op_type not in KIND_OF or len(inputs) != len(node.input):
            raise Corrupt(f"{node.output[0]}: {node.op_type} has no constant inputs or is unknown")
        calls.append(DeviceCall(node, inputs, shape_of(node, inputs), dtype))
    return calls


def shape_of(node: onnx.NodeProto, inputs: list[onnx.TensorProto]) -> tuple[int, ...]:
    """What a call says its shape is."""
    kind = KIND_OF[node.op_type]
    if kind.mode == "raw" and not kind.packed:
        return tuple(inputs[0].dims)
    with naming(node.output[0]):
        numbers = inputs[1 if kind.mode in ("raw", "constant") else 2]
        if numbers.data_type != onnx.TensorProto.INT64 or len(numbers.raw_data) % 8:
            raise Corrupt("its shape is missing")
        dims = np.frombuffer(numbers.raw_data, "<i8")
        return checked_shape((dims if kind.mode in ("raw", "constant") else dims[5:]).tolist())


def decode_on_device(
    calls: Sequence[DeviceCall], bytes_of: Callable[[onnx.TensorProto], npt.NDArray[np.uint8]], device: int = 0
) -> dict[str, DeviceArray]:
    """Decode calls one by one into one piece of a device's memory.

    Besides it the device holds what is stored of one call, and its tables.

    Parameters
    ----------
    calls : sequence of DeviceCall
    bytes_of : callable
        Gives a tensor's bytes.
    device : int
        Number of the CUDA device.

    Raises
    ------
    StreamError
        A call is damaged, or the weights do not fit in the device's memory. All is checked but ``symbols_crc``.
    ExportError
        No driver, no device, or no compiler of CUDA's.
    """
    offsets = [0, *accumulate(-(-call.size // ALIGNMENT) * ALIGNMENT for call in calls)]
    memory = DeviceMemory(offsets[-1], device)
    arrays = {}
    for call, offset in zip(calls, offsets, strict=False):
        with naming(call.name):
            decode_into(memory, offset, call, [bytes_of(tensor) for tensor in call.inputs])
        arrays[call.name] = DeviceArray(memory, offset, call.shape, call.dtype)
    return arrays


def decode_into(memory: DeviceMemory, offset: int, call: DeviceCall, data: list[npt.NDArray[np.uint8]]) -> None:
    """Decode a call to a place of its size.

    Raises
    ------
    Corrupt
        Stored bytes have another checksum or none, or the library finds damage.
    """
    if reduce(lambda crc, part: crc32(part, crc), data, 0) != attribute(call.node, "stored_crc"):
        raise Corrupt("the checksum of the stored bytes is wrong")
    inputs = (Input * len(data))(*map(as_input, call.inputs, data))
    place = ctypes.c_uint64(memory.address + offset), ctypes.c_uint64(call.size)
    name, to, count = call.node.op_type.encode(), ctypes.c_int64(attribute(call.node, "to")), ctypes.c_size_t(len(data))
    check(library().tansor_cuda_decode(memory.device, name, to, inputs, count, *place))


def as_input(tensor: onnx.TensorProto, data: npt.NDArray[np.uint8]) -> Input:
    """An initializer as the library takes it.

    Raises
    ------
    Corrupt
        It has not as many bytes as its shape says.
    """
    dims = tuple(tensor.dims)
    width = WIDTHS.get(tensor.data_type, 0)
    if len(dims) > MAX_RANK or min(dims, default=0) < 0 or math.prod(dims) * width != len(data):
        raise Corrupt(f"{len(data)} bytes are not a tensor of {list(dims)}")
    shape = (ctypes.c_int64 * MAX_RANK)(*dims)
    return Input(data.ctypes.data, tensor.data_type, len(dims), shape, math.prod(dims), len(data))
