"""A model file without the bytes of its large tensors, and a file again from a model without them.

Read, large tensors become references (`onnx_export.references`) to where their bytes lie in the file; written,
the bytes come from where the references point. Only the fields around them are parsed; nothing large is copied.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from onnx_export import references
from onnx_export.references import bytes_of, is_reference, set_reference

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
MAX_SHIFT = 70  # bits: a number takes ten bytes at most, seven bits each
RAW_DATA = 9  # field of TensorProto
# Fields that lead to tensors, and the messages that they hold.
Kind = dict[int, "Kind"]
TENSOR: Kind = {}
GRAPH: Kind = {5: TENSOR}
ATTRIBUTE: Kind = {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH}
GRAPH[1] = {5: ATTRIBUTE}
MODEL: Kind = {7: GRAPH}

Data = bytes | mmap.mmap
Piece = bytes | memoryview
Part = Callable[[Data, int, int], Any]  # of a part of the data, from its beginning to its end


def outline(path: Path) -> onnx.ModelProto:
    """The model of a file, its large tensors references.

    Raises
    ------
    OSError
        The file cannot be read.
    DecodeError, IndexError
        It is no model; `onnx_export.files.read_model` says what is wrong.
    """
    with path.open("rb") as file:
        small = path.stat().st_size < references.LARGE
        data: Data = file.read() if small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    place = path.resolve()

    def is_large(_: Data, begin: int, end: int) -> bool:
        return end - begin >= references.LARGE

    def by_reference(data: Data, begin: int, end: int) -> list[Piece]:
        return outline_tensor(data, begin, end, place)

    model = onnx.ModelProto()
    model.ParseFromString(b"".join(rewritten(data, 0, len(data), MODEL, is_large, by_reference)))
    return model


def whole(model: onnx.ModelProto) -> list[Piece]:
    """The bytes of a model in pieces; what its references point to is part of them.

    Raises
    ------
    Corrupt
        A file does not hold a reference's bytes any more.
    """

    def may_refer(data: Data, begin: int, end: int) -> bool:
        return data.find(b"location", begin, end) >= 0

    data = model.SerializeToString(deterministic=True)
    return rewritten(data, 0, len(data), MODEL, may_refer, whole_tensor)


def rewritten(data: Data, begin: int, end: int, kind: Kind, wanted: Part, tensor: Part) -> list[Piece]:
    """The pieces of a message in which tensors are replaced.

    Parameters
    ----------
    data : bytes or mmap
    begin, end : int
        Where the message lies.
    kind : dict
        What message it is.
    wanted : callable
        Whether to look into a message inside it.
    tensor : callable
        Gives the pieces that replace a tensor.
    """
    if kind is TENSOR:
        pieces: list[Piece] = tensor(data, begin, end)
        return pieces
    pieces, done = [], begin
    for field, start, content, stop in fields(data, begin, end):
        if field in kind and wanted(data, content, stop):
            inner = rewritten(data, content, stop, kind[field], wanted, tensor)
            pieces += [data[done:start], header(field, sum(map(len, inner))), *inner]
            done = stop
    return [*pieces, data[done:end]]


def outline_tensor(data: Data, begin: int, end: int, path: Path) -> list[Piece]:
    """A TensorProto whose bytes are those at the same place of a file."""
    parts: list[Piece] = []
    place = None
    for field, start, content, stop in fields(data, begin, end):
        if field == RAW_DATA and stop - content >= references.LARGE:
            place = content, stop - content
        else:
            parts.append(data[start:stop])
    if place is not None:
        reference = onnx.TensorProto()
        set_reference(reference, path, *place)
        parts.append(reference.SerializeToString())
    return parts


def whole_tensor(data: Data, begin: int, end: int) -> list[Piece]:
    """A TensorProto with its bytes."""
    tensor = onnx.TensorProto.FromString(data[begin:end])
    if not is_reference(tensor):
        return [data[begin:end]]
    content = bytes_of(tensor)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    rest = tensor.SerializeToString(deterministic=True)
    at = next((start for field, start, _, _ in fields(rest, 0, len(rest)) if field > RAW_DATA), len(rest))
    return [rest[:at], header(RAW_DATA, len(content)), content.data, rest[at:]]


def fields(data: Data, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
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


def varint(data: Data, at: int) -> tuple[int, int]:
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


def header(field: int, size: int) -> bytes:
    """What stands before a message that is a field of another one."""
    length = b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | LENGTH]) + length + bytes([size])
