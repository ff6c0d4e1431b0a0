"""A model without the bytes of its large tensors: they stay in the file, where ONNX Runtime or a loader reads them.

A file in which tensors are inline is read as one whose large tensors are external: in the same file, at the offset
where their bytes begin. Only the fields around them are parsed; nothing large is copied.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from onnx_export.files import read_bytes
from refimpl.errors import Corrupt

LARGE = 1 << 16  # bytes
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
MAX_SHIFT = 70  # bits: a number takes ten bytes at most, seven bits each
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto, TensorProto


def outline(path: Path) -> onnx.ModelProto:
    """The model of a file, large initializers of its main graph external.

    Raises
    ------
    ExportError
        The file cannot be read.
    Corrupt
        It is no model; `onnx_export.files.read_model` says what is wrong.
    """
    if path.stat().st_size < LARGE:
        data: bytes | mmap.mmap = read_bytes(path)
    else:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = onnx.ModelProto()
    try:
        parts, begin = [], 0
        for field, start, content, end in fields(data, 0, len(data)):
            if field == GRAPH:
                parts += [data[begin:start], embedded(GRAPH, outline_graph(data, content, end, path.name))]
                begin = end
        model.ParseFromString(b"".join([*parts, data[begin:]]))
    except (DecodeError, IndexError) as error:
        raise Corrupt(f"{path}: damaged ONNX model ({error})") from None
    return model


def outline_graph(data: bytes | mmap.mmap, begin: int, end: int, name: str) -> bytes:
    """A GraphProto whose large initializers are external."""
    parts = []
    for field, start, content, stop in fields(data, begin, end):
        if field == INITIALIZER and stop - content >= LARGE:
            parts.append(embedded(INITIALIZER, outline_tensor(data, content, stop, name)))
        else:
            parts.append(data[start:stop])
    return b"".join(parts)


def outline_tensor(data: bytes | mmap.mmap, begin: int, end: int, name: str) -> bytes:
    """A TensorProto whose bytes are those at the same place of a file."""
    parts, place = [], None
    for field, start, content, stop in fields(data, begin, end):
        if field == RAW_DATA and stop - content >= LARGE:
            place = content, stop - content
        else:
            parts.append(data[start:stop])
    if place is None:
        return b"".join(parts)
    reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", name), ("offset", str(place[0])), ("length", str(place[1]))):
        reference.external_data.add(key=key, value=value)
    return b"".join([*parts, reference.SerializeToString()])


def fields(data: bytes | mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, where it begins, where its content begins, where it ends) of each field of a message.

    Raises
    ------
    IndexError
        It does not end where it should, or is of a kind that ONNX has not.
    """
    at = begin
    while at < end:
        start = at
        tag, at = varint(data, at)
        if tag & 7 == VARINT:
            content, (_, at) = at, varint(data, at)
        elif tag & 7 == LENGTH:
            length, content = varint(data, at)
            at = content + length
        elif tag & 7 in (FIXED64, FIXED32):
            content, at = at, at + (8 if tag & 7 == FIXED64 else 4)
        else:
            raise IndexError(f"wire type {tag & 7}")
        if at > end:
            raise IndexError("a field is cut off")
        yield tag >> 3, start, content, at


def varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """A number, and where it ends.

    Raises
    ------
    IndexError
        It does not end, or not within ten bytes.

    Examples
    --------
    >>> varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if shift == MAX_SHIFT:
            raise IndexError("a number of more than ten bytes")
    return value | data[at] << shift, at + 1


def embedded(field: int, content: bytes) -> bytes:
    """A message as a field of another one."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | LENGTH]) + length + bytes([size]) + content


class TensorFiles:
    """The bytes of a model's tensors, external ones as views of their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, npt.NDArray[np.uint8]] = {}

    def __call__(self, tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
        """Bytes of a tensor.

        Raises
        ------
        Corrupt
            The file does not hold them.
        """
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.frombuffer(tensor.raw_data, np.uint8)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            name, offset = entries["location"], int(entries.get("offset", 0))
            if name not in self.files:
                path = self.folder / name
                if not path.resolve().is_relative_to(self.folder.resolve()):
                    raise ValueError("it lies outside the model's folder")
                self.files[name] = np.memmap(path, np.uint8, "r")
            whole = self.files[name]
            length = int(entries["length"]) if "length" in entries else len(whole) - offset
            if offset < 0 or length < 0 or offset + length > len(whole):
                raise ValueError("it is too short")
        except (OSError, KeyError, ValueError) as error:
            raise Corrupt(f"{tensor.name}: its file cannot be read: {error}") from None
        return whole[offset : offset + length]
