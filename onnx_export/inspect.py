"""inspect: what a compressed file holds, from its headers alone."""

import os
from pathlib import Path
from typing import Any

import onnx

from codec.container import read_container, stored_bytes
from codec.tensor import Stored
from onnx_export.calls import read_calls
from onnx_export.files import file_bytes, kind_of, map_bytes, naming, read_model
from onnx_export.rewrite import get_metadata
from onnx_export.tensors import mode_of


def inspect(source: str | os.PathLike[str]) -> dict[str, Any]:
    """List the compressed tensors of a file; nothing is decoded.

    Parameters
    ----------
    source : path
        ``.onnx`` or ``.safetensors``.

    Returns
    -------
    dict
        ``path``, ``bytes``, ``compressed`` (whether there is anything tansor made), ``made_by`` and
        ``tensors``: name, shape, dtype, mode, bands, table_log (the largest of the bands'), lane_count, elements,
        stored_bytes, side_bytes, bits_per_weight.

    Raises
    ------
    StreamError
        A header is damaged.
    ExportError
        Not a model.
    """
    source = Path(source)
    tensors: list[dict[str, Any]] = []
    made_by: dict[str, str] = {}
    with naming(source):
        if kind_of(source) == ".onnx":
            model = read_model(source)
            for name, stored, call in read_calls(model):
                tensors.append(header_line(name, stored, call.stored_bytes))
            made_by = read_metadata(model)
        else:
            for name, tensor in read_container(map_bytes(source))[0].items():
                if isinstance(tensor, Stored):
                    tensors.append(header_line(name, tensor, stored_bytes(tensor)))
    return {
        "path": str(source),
        "bytes": file_bytes(source),
        "compressed": bool(tensors),
        "made_by": made_by,
        "tensors": tensors,
    }


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """What the file says of its making, as text."""
    return {str(k): str(v) for k, v in get_metadata(model).items()}


def header_line(name: str, stored: Stored, size: int) -> dict[str, Any]:
    """One tensor's headers as a JSON object."""
    streams = [part.frame.block.stream for part in stored.parts if part.frame.block.stream is not None]
    elements = sum(part.frame.block.symbol_count for part in stored.parts)
    return {
        "name": name,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "mode": mode_of(stored),
        "bands": len(stored.parts),
        "elements": elements,
        "table_log": max((int(stream.counts.sum()).bit_length() - 1 for stream in streams), default=None),
        "lane_count": sum(stream.lane_count for stream in streams) if streams else None,
        "stored_bytes": size,
        "side_bytes": int(size - stored.payload_bytes),
        "bits_per_weight": 8 * size / max(elements, 1),
    }
