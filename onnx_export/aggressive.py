"""The aggressive recipe on a graph: layers pruned and quantized jointly, each as much as its estimated loss allows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from codec.kernels import histogram
from onnx_export.calibration import Batch
from onnx_export.calls import write_call
from onnx_export.moments import Moment, collect_moments
from onnx_export.parallel import on_layers
from onnx_export.progress import Progress
from onnx_export.rate import Layer, Matrix, Result, factor_of, make_layer
from onnx_export.tensors import Options, check_finite, describe, store_matrix, with_container_bytes
from onnx_export.weights import Constant
from refimpl.metrics import sqnr_db
from refimpl.quantization import QuantizationSpec
from refimpl.schedule import estimated_loss, schedule
from refimpl.sparsegpt import prune_and_quantize
from refimpl.symbols import to_symbols


def can_be_pruned(model: onnx.ModelProto, constant: Constant) -> bool:
    """Whether all inputs that a weight meets can be watched: no table, no recurrent or grouped layer."""
    layer = make_layer(model, constant)
    return bool(layer.moments) and not layer.unwatched


def prune_layers(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    samples: Batch,
    options: Options,
    folder: Path,
    tell: Progress,
) -> dict[str, Result]:
    """Prune and quantize layers.

    Parameters
    ----------
    model : onnx.ModelProto
    constants : sequence of Constant
        Those of which `can_be_pruned` says so.
    samples : mapping
        Calibration samples.
    options : Options
        Whose recipe has prune settings.
    folder : Path
        For moments.
    tell : callable

    Raises
    ------
    InvalidArgument
        NaN or infinite weights.
    ExportError
        ONNX Runtime cannot run the model.
    """
    settings = options.recipe.prune
    assert settings is not None, "a recipe with prune settings"
    layers = [make_layer(model, c) for c in constants]
    wanted = [m for layer in layers for m in layer.moments]
    moments = collect_moments(model, wanted, samples, folder, lambda i, n: tell("calibrate", i, n))

    jobs, scheduler = options.jobs, options.scheduler
    rate = partial(loss_of, moments=moments)
    losses = list(on_layers(rate, layers, jobs, scheduler, tell, "rate"))
    shares = schedule(losses, [c.array.size for c in constants], settings.sparsity)
    todo = [(layer, float(share)) for layer, share in zip(layers, shares, strict=True)]
    one = partial(prune_layer, moments=moments, options=options)
    return dict(on_layers(one, todo, jobs, scheduler, tell, "compress"))


def known_factor(layer: Layer, moments: Mapping[Moment, Path]) -> Matrix:
    """The factor of a layer; that of independent inputs if its moment was not finite."""
    factor = factor_of(layer, moments)
    return np.eye(layer.matrix().shape[1]) if factor is None else factor


def loss_of(layer: Layer, moments: Mapping[Moment, Path]) -> float:
    """Estimated loss of a layer."""
    return estimated_loss(layer.matrix(), known_factor(layer, moments))


def prune_layer(item: tuple[Layer, float], moments: Mapping[Moment, Path], options: Options) -> tuple[str, Result]:
    """(name, result) of a layer with its sparsity: pruned, quantized and coded."""
    layer, sparsity = item
    settings = options.recipe.prune
    assert settings is not None, "a recipe with prune settings"
    name, array = layer.constant.name, layer.constant.array
    by_row = layer.in_rows or array.ndim == 2
    axis = layer.axis if layer.in_rows or not by_row else 1 - layer.axis % 2  # the other one holds the rows
    spec = QuantizationSpec(bits=settings.bits, granularity="channel" if by_row else "tensor")
    matrix = layer.matrix()
    result = prune_and_quantize(matrix, known_factor(layer, moments), sparsity, spec)
    check_finite(name, array, result.reconstruction)
    symbols, zero = to_symbols(result.quantized.codes)
    stored = store_matrix(array, symbols, zero, result.quantized.scale, axis, by_row, options)
    call = write_call(name, stored)
    sqnr = sqnr_db(matrix, result.reconstruction)
    line = replace(
        with_container_bytes(describe(name, array, stored, histogram(symbols), zero), call.stored_bytes),
        recipe=options.recipe.name,
        sqnr_db=sqnr if np.isfinite(sqnr) else None,
        statistics="calibrated",
    )
    return name, (stored, call if line.stored_bytes < line.original_bytes else None, line)
