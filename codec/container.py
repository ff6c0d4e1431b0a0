"""The container for weights without a graph: a safetensors file of frames.

Every stored tensor NAME becomes a U8 tensor ``NAME`` that holds its frame, for weights an F32 tensor
``NAME.scale``, and a U8 tensor ``NAME.zero_point``. One in bands becomes the same for each of ``NAME.0``,
``NAME.1``, .. and a U8 tensor ``NAME`` that holds a frame of the band of each channel. Tensors that are not
compressed stay as they are.
The file's metadata has one more entry, ``tansor``: canonical JSON

    {"tensors": {NAME: {"dtype": ..., "shape": [...]}, ...}, "version": 1}

with ``"axis"`` and ``"bands"``, the number of them, in the entries of tensors in bands,

so that any safetensors reader can list the file. Specification: docs/spec/container.md.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from codec.frame import decode_frame, encode, read_frame, write_frame
from codec.tensor import DTYPES, INTEGERS, MAX_BANDS, BandedTensor, Stored, StoredTensor, make_banded
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError, Truncated, UnsupportedVersion

KEY = "tansor"
VERSION = 1
# safetensors' own table lacks the narrow floats in some releases: this one is ours. A file holds tensors in its order.
SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype(np.uint64), "I64": np.dtype(np.int64), "F64": np.dtype(np.float64), "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32), "I32": np.dtype(np.int32), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16), "U16": np.dtype(np.uint16), "I16": np.dtype(np.int16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
MAX_RANK = 64  # NumPy's
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format

Tensors = Mapping[str, npt.NDArray[Any] | Stored]
Plain = dict[str, npt.NDArray[Any]]
Data = bytes | mmap


def write_container(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """Serialize tensors, compressed or not, and the metadata of the original file.

    Raises
    ------
    InvalidArgument
        Two tensors would get the same name.
    """
    return b"".join(container_pieces(tensors, metadata))


def container_pieces(
    tensors: Tensors,
    metadata: Mapping[str, str],
    keep: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda array: array,
) -> list[bytes | memoryview]:
    """What `write_container` gives, in pieces.

    Parameters
    ----------
    tensors, metadata
        As of `write_container`.
    keep : callable
        Given each array of the file as it is made, and gives it back: as a view of a file, to take no memory.
    """
    plain: Plain = {}
    described: dict[str, dict[str, object]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Stored):
            parts = parts_of(name, tensor)
            if clash := needed_names(name, tensor) & tensors.keys():
                raise InvalidArgument(f"tensor name {min(clash)!r} is needed for a part of {name!r}")
            described[name] = describe(tensor)
        else:
            parts = {name: tensor}
        plain |= {part: keep(np.asarray(array, order="C")) for part, array in parts.items()}
    entries = dict(metadata)
    if described:  # without a compressed tensor it is a plain safetensors file
        entries[KEY] = json.dumps({"tensors": described, "version": VERSION}, sort_keys=True, separators=(",", ":"))
    return safetensors_pieces(plain, entries)


def needed_names(name: str, tensor: Stored) -> set[str]:
    """Names that no other tensor of the file may have, its own left out; an integer's scale would be taken for one."""
    if isinstance(tensor, StoredTensor):
        return {f"{name}.scale", f"{name}.zero_point"}
    parts = {f"{name}.{g}": part for g, part in enumerate(tensor.parts)}
    return parts.keys() | set().union(*(needed_names(n, part) for n, part in parts.items()))


def parts_of(name: str, tensor: Stored) -> Plain:
    """The plain tensors that a compressed one becomes."""
    if isinstance(tensor, BandedTensor):
        bands: Plain = {name: np.frombuffer(encode(tensor.bands, profile="archive"), np.uint8)}
        for g, part in enumerate(tensor.parts):
            bands |= parts_of(f"{name}.{g}", part)
        return bands
    parts = {name: np.frombuffer(write_frame(tensor.frame), np.uint8), f"{name}.zero_point": tensor.zero_point}
    return parts if tensor.scale is None else {**parts, f"{name}.scale": tensor.scale}


def stored_bytes(tensor: Stored) -> int:
    """Bytes of all parts of a compressed tensor in a container."""
    return sum(part.nbytes for part in parts_of("", tensor).values())


def file_bytes(name: str, tensor: npt.NDArray[Any] | Stored) -> int:
    """About what a tensor adds to a container: its parts, their entries in the header, its own in the index.

    Examples
    --------
    >>> file_bytes("w", np.zeros(100, np.float32))
    460
    """
    parts = parts_of(name, tensor) if isinstance(tensor, Stored) else {name: tensor}
    size = 0
    for part, array in parts.items():
        entry = {"data_offsets": [array.nbytes] * 2, "dtype": "F32", "shape": list(array.shape)}
        size += array.nbytes + len(json.dumps({part: entry}, separators=(",", ":")))
    if isinstance(tensor, Stored):  # its quotes are escaped in the header
        size += len(json.dumps(json.dumps({name: describe(tensor)}, separators=(",", ":"))))
    return size


def describe(tensor: Stored) -> dict[str, object]:
    """What the index says of a compressed tensor."""
    described: dict[str, object] = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
    if isinstance(tensor, BandedTensor):
        described |= {"axis": tensor.axis, "bands": len(tensor.parts)}
    return described


def safetensors_pieces(tensors: Plain, metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A safetensors file in pieces: tensors in the library's order, the header in canonical order.

    Equal tensors give equal bytes; the library writes metadata in the order of a hash map, which differs from run to
    run.
    """
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    order = list(SAFETENSORS_DTYPES)  # of the types, then by name
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    pieces: list[bytes | memoryview] = []
    end = 0
    for name, array in sorted(tensors.items(), key=lambda item: (order.index(names[item[1].dtype]), item[0])):
        begin, end = end, end + array.nbytes
        header[name] = {"data_offsets": [begin, end], "dtype": names[array.dtype], "shape": list(array.shape)}
        if array.size:
            pieces.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *pieces]


def read_container(data: Data) -> tuple[dict[str, npt.NDArray[Any] | Stored], dict[str, str]]:
    """(tensors, metadata) of a file written by `write_container`, or of any safetensors file.

    Raises
    ------
    StreamError
        The file is truncated, damaged or of another version.
    """
    plain, metadata = read_safetensors(data)
    if KEY not in metadata:
        return dict(plain), metadata
    try:
        index = strict_json(metadata.pop(KEY))
        version, entries = index["version"], index["tensors"]
        described = {n: read_entry(e) for n, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Corrupt(f"the tansor metadata cannot be read: {error}") from None
    if type(version) is not int:
        raise Corrupt(f"the version in the tansor metadata is {version!r}, expected an integer")
    if version != VERSION:
        raise UnsupportedVersion(f"container version {version}, this program reads version {VERSION}")
    tensors: dict[str, npt.NDArray[Any] | Stored] = {}
    for name, entry in described.items():
        try:
            tensors[name] = take_tensor(plain, name, entry)
        except StreamError as error:
            raise type(error)(f"{name}: {error}") from None
    return {**plain, **tensors}, metadata


@dataclass(frozen=True)
class Entry:
    """What the index says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    axis: int | None  # along which it has bands
    bands: int | None


def read_entry(entry: Mapping[str, Any]) -> Entry:
    """An entry of the index.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is not of the form.
    """
    shape, axis, bands = entry["shape"], entry.get("axis"), entry.get("bands")
    integers = isinstance(shape, list) and all(type(d) is int and 0 <= d < 1 << 63 for d in shape)
    if not integers or len(shape) > MAX_RANK:
        raise ValueError("a shape is no list of integers from 0 to below 2**63, or of too many")
    if "axis" in entry or "bands" in entry:
        if type(axis) is not int or type(bands) is not int:
            raise ValueError("axis and bands are not both integers")
        if not (0 <= axis < len(shape) and 2 <= bands <= MAX_BANDS):
            raise ValueError(f"{bands} bands along axis {axis} of {len(shape)}")
    return Entry(str(entry["dtype"]), tuple(shape), axis, bands)


def take_tensor(plain: Plain, name: str, entry: Entry) -> Stored:
    """A compressed tensor from its parts, which are taken out of the plain ones.

    Raises
    ------
    StreamError
        A part is missing or damaged.
    """
    if entry.axis is None or entry.bands is None:
        return take_part(plain, name, entry.dtype, entry.shape)
    axis, shape = entry.axis, entry.shape
    frame = plain.pop(name, None)
    if frame is None or frame.dtype != np.uint8:
        raise Corrupt("the frame of its bands is missing or not U8")
    header = read_frame(frame.tobytes())
    if header.block.symbol_count != shape[axis]:
        raise Corrupt(f"bands of {header.block.symbol_count} channels for {shape[axis]} channels")
    bands = decode_frame(header)
    if bands.size and not any(bands.strides):  # one symbol repeated, whose count may be any
        raise Corrupt("the frame of its bands is constant")
    try:
        channels = np.bincount(bands, minlength=entry.bands).tolist()
    except MemoryError:  # it takes eight bytes a channel
        raise LimitExceeded(f"{len(bands)} channels do not fit in memory") from None
    shapes = [(*shape[:axis], count, *shape[axis + 1 :]) for count in channels[: entry.bands]]
    parts = [take_part(plain, f"{name}.{g}", entry.dtype, part) for g, part in enumerate(shapes)]
    return make_banded(axis, bands, parts)


def take_part(plain: Plain, name: str, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    """A tensor of one frame from its parts, which are taken out of the plain ones.

    Raises
    ------
    StreamError
        A part is missing or damaged.
    """
    frame, zero_point = plain.pop(name, None), plain.pop(f"{name}.zero_point", None)
    scale = plain.pop(f"{name}.scale", None)
    if frame is None or zero_point is None or dtype not in DTYPES or (scale is None) != (dtype in INTEGERS):
        raise Corrupt(f"the parts of tensor {name!r} are incomplete or of unknown dtype {dtype!r}")
    if frame.dtype != np.uint8 or zero_point.dtype != np.uint8 or (scale is not None and scale.dtype != np.float32):
        raise Corrupt(f"a part of tensor {name!r} has the wrong dtype")
    return StoredTensor(shape, dtype, read_frame(frame.tobytes()), zero_point, scale)


def read_safetensors(data: Data) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; arrays are views of the bytes.

    Raises
    ------
    Truncated
        Fewer bytes than the header announces.
    Corrupt
        No safetensors file.
    """
    header, begin = read_header(data)
    metadata = header.pop("__metadata__", {})
    tensors = {}
    spans = []
    for name, entry in header.items():
        try:
            dtype = SAFETENSORS_DTYPES[entry["dtype"]]
            shape, (first, last) = entry["shape"], entry["data_offsets"]
            numbers = [*shape, first, last]
            plain = isinstance(shape, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"tensor {name!r} has an unknown dtype, shape or offset: {error}") from None
        if not plain or len(shape) > MAX_RANK:
            raise Corrupt(f"shape or offsets of tensor {name!r} are no numbers below 2**63, or more than {MAX_RANK}")
        count = math.prod(shape)
        if first > last or last - first != count * dtype.itemsize:
            raise Corrupt(f"tensor {name!r} of shape {list(shape)} has offsets {first} to {last}")
        if begin + last > len(data):
            raise Truncated(f"tensor {name!r} ends at byte {begin + last} of {len(data)}")
        try:
            tensors[name] = np.frombuffer(data, dtype, count, begin + first).reshape(tuple(shape))
        except (ValueError, OverflowError) as error:
            raise Corrupt(f"tensor {name!r} of shape {list(shape)}: {error}") from None
        spans.append((first, last))
    check_spans(spans, len(data) - begin)
    return tensors, metadata


def check_spans(spans: list[tuple[int, int]], size: int) -> None:
    """Refuse tensors that overlap or leave bytes to nobody.

    Raises
    ------
    Corrupt
        They do.
    """
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise Corrupt(f"a tensor begins at byte {first}, the one before it ends at byte {end}")
        end = last
    if end != size:
        raise Corrupt(f"{size - end} bytes behind the last tensor")


def strict_json(text: str) -> Any:
    """JSON by the standard: keys of an object differ, and there is no NaN.

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> strict_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=distinct, parse_constant=refuse)


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ, for `json.loads`; without this the last of equal keys would win.

    Examples
    --------
    >>> json.loads('{"a": 1, "b": 2}', object_pairs_hook=distinct)
    {'a': 1, 'b': 2}
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


def read_header(data: Data) -> tuple[dict[str, Any], int]:
    """(header, offset of the first tensor byte) of a safetensors file.

    Raises
    ------
    Truncated, Corrupt
        See `read_safetensors`.
    """
    if len(data) < 8:
        raise Truncated(f"a safetensors file has at least 8 bytes, this one {len(data)}")
    (size,) = struct.unpack("<Q", data[:8])
    if size > MAX_HEADER or data[8:9] != b"{":
        raise Corrupt("not a safetensors file")
    if size > len(data) - 8:
        raise Truncated(f"a header of {size} bytes announced, {len(data) - 8} bytes are there")
    try:
        header = strict_json(data[8 : 8 + size].decode())
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the safetensors header is not JSON with distinct keys: {error}") from None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise Corrupt("the safetensors header is not a JSON object")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise Corrupt("the metadata of the safetensors header are not all strings")
    return header, 8 + size
