"""Tensors by reference: their bytes stay in files, which are mapped where they are used.

A model in memory is its graph. A large tensor of it is ONNX's external data with an absolute path, a *reference*: in
the model's own file, in one beside it, or in a scratch file for what was made on the way. An array of such bytes is a
view of the file and takes no memory that the system could not take back; as a tensor again it is a reference again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from refimpl.errors import Corrupt, ExportError

LARGE = 1 << 16  # bytes from which a tensor is a reference
PACKED = ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")  # several elements in a byte of a file
Array = npt.NDArray[Any]


def is_reference(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes lie in a file whose absolute path it knows."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return external and any(e.key == "location" and Path(e.value).is_absolute() for e in tensor.external_data)


def set_reference(tensor: onnx.TensorProto, path: str | Path, offset: int, length: int) -> None:
    """Let a tensor's bytes be those of a file, in place."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", str(path)), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def place_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """(path, offset, length) of a reference."""
    entries = {e.key: e.value for e in tensor.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


def size_of(tensor: onnx.TensorProto) -> int:
    """Number of a tensor's bytes."""
    return place_of(tensor)[2] if is_reference(tensor) else len(tensor.raw_data)


def bytes_of(tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
    """A tensor's bytes, those of a reference as a view of its file.

    Raises
    ------
    Corrupt
        The file does not hold them, or not any more.
    """
    if not is_reference(tensor):
        return np.frombuffer(tensor.raw_data, np.uint8)
    path, offset, length = place_of(tensor)
    try:
        return mapped(path, offset, length)
    except (OSError, ValueError) as error:
        raise Corrupt(f"{tensor.name}: its file cannot be read: {error}") from None


def mapped(path: str | Path, offset: int, length: int) -> npt.NDArray[np.uint8]:
    """Bytes of a file, read when they are used."""
    if not length:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r", offset, (length,)))


def to_array(name: str, tensor: onnx.TensorProto) -> Array:
    """A tensor's values; of a reference a view of its file, or a copy if that is not aligned to its type.

    Raises
    ------
    Corrupt
        Its bytes do not fit its type and shape.
    """
    try:
        if not is_reference(tensor):
            return numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.name in PACKED:
            return numpy_helper.to_array(inline(tensor))
        return np.require(bytes_of(tensor).view(dtype).reshape(tuple(tensor.dims)), requirements="A")
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{name}: the tensor cannot be read ({error})") from None


def to_tensor(array: Array, name: str) -> onnx.TensorProto:
    """An array as a tensor: a reference, if it is a view of a file."""
    place = place_in_file(array)
    if place is None:
        return numpy_helper.from_array(array, name)
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    set_reference(tensor, *place)
    return tensor


def place_in_file(array: Array) -> tuple[str, int, int] | None:
    """(path, offset, length) of an array that is a large piece of a file, None if it is something else."""
    root: Any = array
    while isinstance(root, np.ndarray) and isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.mode != "r" or root.filename is None:
        return None
    if array.nbytes < LARGE or not array.flags.c_contiguous or array.dtype.name in PACKED:
        return None
    return str(root.filename), root.offset + array.ctypes.data - root.ctypes.data, array.nbytes


def inline(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A copy of a tensor that holds its bytes itself."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    if is_reference(tensor):
        copy.raw_data = bytes_of(tensor).tobytes()
        copy.ClearField("data_location")
        del copy.external_data[:]
    return copy


def load_references(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a model hold all its bytes itself, in place."""
    for tensor in tensors_in(model.graph):
        if is_reference(tensor):
            tensor.CopyFrom(inline(tensor))
    return model


def tensors_in(graph: onnx.GraphProto, *, attributes: bool = True) -> Iterator[onnx.TensorProto]:
    """The initializers, and tensor attributes, of a graph and its bodies."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attributes and attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors if attributes else ()
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from tensors_in(body, attributes=attributes)


def model_bytes(model: onnx.ModelProto) -> int:
    """About the bytes of a model that holds all its tensors itself."""
    return int(model.ByteSize()) + sum(size_of(t) for t in tensors_in(model.graph) if is_reference(t))


@dataclass(frozen=True)
class Scratch:
    """Where large arrays are put that nothing works on for a while: files of a folder. Without one, memory."""

    folder: Path | None = None

    def keep(self, array: Array) -> Array:
        """The same array, as a view of a file of its own.

        Examples
        --------
        >>> a = np.arange(LARGE)
        >>> with Scratch(Path()).another() as scratch:
        ...     kept = scratch.keep(a)
        ...     bool((kept == a).all()), is_reference(to_tensor(kept, "a")), scratch.keep(a[:2])
        (True, True, array([0, 1]))
        """
        if self.folder is None or array.dtype.name in PACKED or place_in_file(array) is not None:
            return array
        if array.nbytes < LARGE:
            return array.copy()  # a view would hold all that it is a view of
        path = self.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return mapped(path, 0, array.nbytes).view(array.dtype).reshape(array.shape)

    def keep_tensor(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The same tensor, its bytes in a file if they are many; changed in place."""
        if self.folder is not None and len(tensor.raw_data) >= LARGE:
            set_reference(tensor, self.write(bytes_of(tensor)), 0, size_of(tensor))
        return tensor

    def align(self, model: onnx.ModelProto) -> None:
        """Copy references whose places are not aligned to their types to files of their own, in place."""
        for tensor in tensors_in(model.graph):
            if self.folder is None or not is_reference(tensor):
                continue
            _, offset, length = place_of(tensor)
            known = tensor.data_type in helper.get_all_tensor_dtypes()
            if known and offset % helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize:
                set_reference(tensor, self.write(bytes_of(tensor)), 0, length)

    def write(self, data: npt.NDArray[np.uint8]) -> Path:
        """A new file of these bytes.

        Raises
        ------
        ExportError
            It cannot be written.
        """
        assert self.folder is not None, "a scratch with a folder"
        path = self.folder.resolve() / uuid4().hex
        try:
            with path.open("xb") as file:
                file.write(data.data)
        except OSError as error:
            raise ExportError(f"{path}: {error.strerror or error}") from None
        return path

    @contextmanager
    def another(self) -> "Iterator[Scratch]":
        """A scratch that is gone with its files afterwards."""
        if self.folder is None:
            yield self
            return
        with TemporaryDirectory(dir=self.folder) as folder:
            yield Scratch(Path(folder))


MEMORY = Scratch()


def localized(model: onnx.ModelProto) -> str | None:
    """Let references be relative to one folder that all of them are in, in place; that folder, None without any."""
    tensors = [t for t in tensors_in(model.graph) if is_reference(t)]
    if not tensors:
        return None
    folder = os.path.commonpath([Path(place_of(t)[0]).parent for t in tensors])
    for tensor in tensors:
        path, offset, length = place_of(tensor)
        set_reference(tensor, os.path.relpath(path, folder), offset, length)
    return folder
