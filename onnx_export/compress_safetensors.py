"""Compressing a safetensors file: there is no graph, so nothing is known of the activations."""

from dataclasses import replace
from pathlib import Path

from codec.container import KEY, container_pieces, file_bytes, read_container, stored_bytes
from codec.tensor import INTEGERS, Stored
from onnx_export.files import map_bytes, naming, write_pieces, write_whole
from onnx_export.parallel import in_parallel
from onnx_export.progress import Progress
from onnx_export.tensors import (
    NOT_CALIBRATED,
    WOULD_NOT_SHRINK,
    Array,
    Lines,
    Options,
    Tensor,
    compress_integers,
    compress_weight,
    keep_stored,
    reason_to_copy,
    skip,
    uncalibrated,
    with_container_bytes,
)
from refimpl.errors import InvalidArgument

TABLE_NAMES = ("embed", "wte", "wpe")  # without a graph, only a name tells a table from a layer


def compress_safetensors(source: Path, output: Path, options: Options, tell: Progress, *, force: bool) -> Lines:
    """Compress a safetensors file."""
    options = replace(options, raw_integers=True)
    with naming(source):
        tensors, metadata = read_container(map_bytes(source))
    if any(isinstance(t, Stored) for t in tensors.values()):
        raise InvalidArgument(f"{source} is compressed already; `tansor decompress` undoes it")
    arrays = {name: t for name, t in tensors.items() if not isinstance(t, Stored)}
    reasons = {name: reason_to_copy(name, array, options) for name, array in arrays.items()}
    skipped = [skip(name, arrays[name], reason) for name, reason in reasons.items() if reason]

    def one(name: str) -> tuple[str, Stored, Tensor]:
        array = arrays[name]
        if array.dtype.name in INTEGERS:
            stored, line = compress_integers(name, array, options)
        else:
            stored, line = compress_named(name, array, options)
        return name, stored, with_container_bytes(line, stored_bytes(stored))

    options, notes = (options, []) if options.recipe.weights is None else (uncalibrated(options, {}), [NOT_CALIBRATED])
    lines: list[Tensor] = []
    result: dict[str, Array | Stored] = dict(arrays)
    names = [name for name, reason in reasons.items() if not reason]
    for name, stored, line in in_parallel(one, names, options.jobs, tell):
        if file_bytes(name, stored) < file_bytes(name, arrays[name]):
            result[name] = keep_stored(stored, options.scratch)
            lines.append(line)
        else:
            skipped.append(skip(name, arrays[name], WOULD_NOT_SHRINK))
    pieces = container_pieces(result, {k: v for k, v in metadata.items() if k != KEY}, options.scratch.keep)
    tell("write", 0, 1)
    write_whole(output, lambda part: write_pieces(pieces, part), force=force)
    tell("write", 1, 1)
    return lines, skipped, notes


def compress_named(name: str, array: Array, options: Options) -> tuple[Stored, Tensor]:
    """Compress a weight that nothing but its name and rank is known of."""
    settings = options.recipe.weights
    assert settings is not None, "the lossless recipe skips floats"
    if array.ndim > 2:
        return compress_weight(name, array, settings.kernel, None, 1, 0, options)
    is_table = any(part in name for part in TABLE_NAMES)
    return compress_weight(name, array, settings.table if is_table else settings.layer, None, 1, None, options)
