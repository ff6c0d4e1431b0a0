"""Safetensors files put together tensor by tensor: tensors in bands, and faults that are the only one of their file."""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from drafts import Array
from invalid_frames import framed

from codec.container import SAFETENSORS_DTYPES
from codec.tensor import FLOATS
from refimpl.tans.blocks import Block

Tensors = dict[str, tuple[str, list[int], bytes]]  # dtype, shape, elements
NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
ODD = [1, 0, 2, 0, 1]  # bands of five channels


def file_of(tensors: Tensors, metadata: Mapping[str, Any] | None = None, gap: int = 0) -> bytes:
    """A file; `gap` bytes lie between its tensors, or so many belong to two of them."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, elements) in tensors.items():
        at = len(body) + gap if body else 0
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(elements)]}
        body = body[:at].ljust(at, b"\0") + elements
    return join_text(json.dumps(header, separators=(",", ":")), body)


def join_text(header: str, body: bytes) -> bytes:
    """A file of a header's text and tensor bytes."""
    return struct.pack("<Q", len(header)) + header.encode() + body


def indexed(tensors: Tensors, entries: Mapping[str, Any]) -> bytes:
    """A file of compressed tensors."""
    return file_of(tensors, {"tansor": json.dumps({"tensors": entries, "version": 1})})


def plain(array: Array) -> tuple[str, list[int], bytes]:
    """A tensor as it is."""
    return NAMES[array.dtype], list(array.shape), array.tobytes()


def parts(name: str, symbols: Array, dtype: str, zero_point: int = 0, scale: float = 1.0) -> Tensors:
    """The tensors of a compressed one: a raw frame, a zero point and, for a weight, a scale."""
    frame = framed(Block("raw", symbols.size, symbols.reshape(-1)), symbols)
    tensors = {name: plain(np.frombuffer(frame, np.uint8))}
    tensors[f"{name}.zero_point"] = plain(np.array(zero_point, np.uint8))
    if dtype in FLOATS:
        tensors[f"{name}.scale"] = plain(np.array(scale, np.float32))
    return tensors


def banded(
    bands: Sequence[int], axis: int, rest: Sequence[int], dtype: str, changes: Mapping[str, Any] | None = None
) -> bytes:
    """A file of one tensor in bands, whose other dimensions are given; an entry of the index may be changed."""
    channels = np.array(bands, np.uint8)
    shape = [*rest[:axis], len(bands), *rest[axis:]]
    number = max(bands) + 1
    tensors: Tensors = {"layer": parts("layer", channels, dtype)["layer"]}
    for g in range(number):
        size = int((channels == g).sum())
        zero_point = 2 + g % 3
        symbols = (np.arange(math.prod(rest) * size) * 5 + g).astype(np.uint8) % 8 + zero_point * (dtype[0] == "u")
        tensors |= parts(f"layer.{g}", symbols.astype(np.uint8), dtype, zero_point, 1.1 / (g + 1))
    entry = {"axis": axis, "bands": number, "dtype": dtype, "shape": shape, **(changes or {})}
    return indexed(tensors, {"layer": entry})


def handmade_containers() -> Iterator[tuple[str, bytes]]:
    """(name, file) of files that can be read."""
    yield "bands-9-of-rank-3", banded([3, 8, 0, 1, 2, 4, 7, 5, 6, 0, 8], 1, [2, 3], "float32")
    yield "bands-16", banded([*range(15, -1, -1), 15], 0, [2], "int8")
    for dtype in ("float16", "bfloat16", "uint8", "int4", "uint4"):
        yield f"bands-odd-{dtype}", banded(ODD, 1, [2], dtype)
    some = np.arange(6, dtype=np.uint8)
    weight = {"dtype": "float32", "shape": [2, 3]}
    yield "uint4", indexed(parts("layer", some, "uint4"), {"layer": {"dtype": "uint4", "shape": [2, 3]}})
    yield "scalar", indexed(parts("layer", some[5:], "float32"), {"layer": {"dtype": "float32", "shape": []}})
    yield "no-elements", indexed(parts("layer", some[:0], "float32"), {"layer": {"dtype": "float32", "shape": [0, 3]}})
    far = np.array([0, 127, 128, 129, 200, 255], np.uint8)
    for zero_point in (0, 255):
        tensors = parts("layer", far, "float32", zero_point)
        yield f"far-from-zero-point-{zero_point}", indexed(tensors, {"layer": weight})
    # What would be bands of a tensor in bands are tensors of their own beside one that has none, or has fewer.
    tensors = parts("layer", some, "float32") | parts("layer.1", some[::-1].copy(), "float32")
    tensors["layer.0"] = tensors["layer.2.scale"] = plain(some)
    yield "numbered-tensors", indexed(tensors, {"layer": weight, "layer.1": weight})
    bits = np.array([1, 0x80, 0x3C, 0x7E, 0x7B, 0x08], np.uint8)
    tensors = {n: (n, [3], np.resize(bits, 3 * d.itemsize).tobytes()) for n, d in sorted(SAFETENSORS_DTYPES.items())}
    yield "plain-of-every-dtype", file_of(tensors | {"BOOL": plain(np.array([True, False]))})
    yield "64-dimensions", file_of({"bias": ("F32", [1] * 64, b"abcd")})


def faulty_containers() -> Iterator[tuple[str, str, str, bytes]]:
    """(name, flag, error, file) of files with one fault each."""
    yield "one-band-alone", "bad-index", "Corrupt", banded([0] * 5, 1, [2], "float32")
    yield "17-bands-each-there", "bad-index", "Corrupt", banded(range(17), 1, [2], "int8")
    yield "axis-from-the-end", "bad-index", "Corrupt", banded(ODD, 1, [2], "float32", changes={"axis": -1})
    yield "axis-true", "bad-index", "Corrupt", banded(ODD, 1, [2], "float32", changes={"axis": True})
    yield "a-band-without-channels", "bad-index", "Corrupt", banded([0, 2, 0], 1, [2], "float32")
    tensors = parts("layer", np.arange(6, dtype=np.uint8), "float32")
    entry: dict[str, Any] = {"dtype": "float32", "shape": [2, 3]}
    for key, value in (("axis", 1), ("bands", 2)):
        yield f"{key}-without-bands", "bad-index", "Corrupt", indexed(tensors, {"layer": {**entry, key: value}})
    one = parts("layer", np.zeros(1, np.uint8), "float32")  # of no dimensions, which is what is made of {} and ""
    shapes: dict[str, Any] = {"an-object": {}, "a-text": ""}
    for name, shape in shapes.items():
        yield f"index-shape-is-{name}", "bad-index", "Corrupt", indexed(one, {"layer": {**entry, "shape": shape}})
    pairs = json.dumps({"tensors": [["layer", entry]], "version": 1})
    yield "index-tensors-is-a-list", "bad-index", "Corrupt", file_of(tensors, {"tansor": pairs})
    for name, word in (("nan", "NaN"), ("infinity", "-Infinity")):
        index = f'{{"tensors":{json.dumps({"layer": entry})},"version":1,"more":{word}}}'
        yield f"index-{name}", "bad-index", "Corrupt", file_of(tensors, {"tansor": index})
    bias = {"a": plain(np.zeros(2, np.float32)), "b": plain(np.ones(2, np.float32))}
    nan = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":NaN}}'
    yield "header-nan", "bad-header", "Corrupt", join_text(nan, bytes(4))
    wide = "{} ".encode("utf-16-le")
    yield "header-in-utf-16", "bad-header", "Corrupt", struct.pack("<Q", len(wide)) + wide
    texts: dict[str, Any] = {"number": 1, "null": None, "object": {}}
    for name, value in texts.items():
        yield f"metadata-{name}", "bad-header", "Corrupt", file_of(bias, {"format": value})
    yield "index-is-an-object", "bad-header", "Corrupt", file_of(tensors, {"tansor": {"tensors": {}, "version": 1}})
    yield "gap-between-tensors", "bad-header", "Corrupt", file_of(bias, gap=4)
    yield "tensors-share-bytes", "bad-header", "Corrupt", file_of(bias, gap=-4)
    yield "65-dimensions", "bad-header", "Corrupt", file_of({"bias": ("F32", [1] * 65, b"abcd")})
