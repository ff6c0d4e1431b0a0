"""decompress: back to a plain model, every call replaced by the tensor it stands for."""

import os
from pathlib import Path

import onnx
from onnx import numpy_helper

from codec.container import container_pieces, read_container
from codec.tensor import Stored, load
from onnx_export.calls import read_calls
from onnx_export.files import (
    check_distinct,
    check_output,
    folder_beside,
    kind_of,
    map_bytes,
    naming,
    read_model,
    write_model,
    write_pieces,
    write_whole,
)
from onnx_export.integers import add_integers, integer_weight, read_layers
from onnx_export.progress import Progress, silent
from onnx_export.references import MEMORY, Scratch
from onnx_export.rewrite import replace_by_constants
from refimpl.errors import InvalidArgument


def decompress(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a plain model from a compressed one; a plain one is copied.

    Parameters
    ----------
    source, output : path
        ``.onnx`` or ``.safetensors``, both of the same kind.
    force : bool
        Replace an existing output.
    progress : callable, optional
        Told (what, done, of how many).

    Raises
    ------
    StreamError
        The file is damaged; nothing is written.
    TansorError
        Not a compressed model, or the output cannot be written.
    """
    source, output = Path(source), Path(output)
    if kind_of(source) != kind_of(output):
        raise InvalidArgument(f"{source} and {output} must both be .onnx or both .safetensors")
    check_output(output, force=force)
    check_distinct(source, output)
    tell = progress or silent
    with naming(source), folder_beside(output) as folder:
        scratch = Scratch(folder)
        if kind_of(source) == ".onnx":
            model = decompress_model(read_model(source), tell, scratch)
            write_model(model, output, force=force)
        else:
            tensors, metadata = read_container(map_bytes(source))
            plain = {n: scratch.keep(load(t)) if isinstance(t, Stored) else t for n, t in tensors.items()}
            pieces = container_pieces(plain, metadata)
            write_whole(output, lambda part: write_pieces(pieces, part), force=force)


def decompress_model(model: onnx.ModelProto, tell: Progress = silent, scratch: Scratch = MEMORY) -> onnx.ModelProto:
    """Replace every call of a model by the tensor it stands for, in place.

    What a model multiplies with quantized activations is left as integers, see `onnx_export.integers`: between two
    quantized activations ONNX Runtime would quantize a float anew.

    Raises
    ------
    StreamError
        A call is damaged.
    """
    count = sum(1 for _ in read_calls(model))
    layers, integers = read_layers(model), {}
    tensors = []
    for done, (name, stored, _) in enumerate(read_calls(model)):
        with naming(name):
            weight = integer_weight(name, stored, layers)
            if weight is None:
                tensors.append(scratch.keep_tensor(numpy_helper.from_array(load(stored), name)))
            else:
                integers[name] = weight
                tensors.append(numpy_helper.from_array(weight.codes, weight.inputs[0]))
        tell("decompress", done + 1, count)
    replace_by_constants(model, tensors)
    add_integers(model, integers)
    return model
