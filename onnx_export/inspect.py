"""inspect: what a compressed file holds, from its headers alone."""

import os
from pathlib import Path
from typing import Any

import onnx

from codec.container import read_container, stored_bytes
from codec.tensor import StoredTensor
from onnx_export.calls import read_calls
from onnx_export.files import file_bytes, kind_of, naming, read_bytes, read_model
from onnx_export.rewrite import get_metadata


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
        ``tensors``: name, shape, dtype, mode, table_log, lane_count, elements, stored_bytes,
        side_bytes, bits_per_weight.

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
            for name, tensor in read_container(read_bytes(source))[0].items():
                if isinstance(tensor, StoredTensor):
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


def header_line(name: str, stored: StoredTensor, size: int) -> dict[str, Any]:
    """One tensor's headers as a JSON object."""
    block = stored.frame.block
    stream = block.stream
    return {
        "name": name,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "mode": block.mode,
        "elements": block.symbol_count,
        "table_log": None if stream is None else int(stream.counts.sum()).bit_length() - 1,
        "lane_count": None if stream is None else stream.lane_count,
        "stored_bytes": size,
        "side_bytes": int(size - stored.payload_bytes),
        "bits_per_weight": 8 * size / max(block.symbol_count, 1),
    }
