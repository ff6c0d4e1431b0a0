"""The aggressive recipe on a graph: layers pruned and quantized jointly, each as much as its estimated loss allows."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from onnx_export.calibration import Batch
from onnx_export.moments import Moment, input_power, load_hessian
from onnx_export.parallel import on_layers
from onnx_export.progress import Progress
from onnx_export.rate import Layer, Matrix, make_layer, result_of, watch
from onnx_export.tensors import Options, Result, keep_result, store_matrix
from onnx_export.weights import Constant
from refimpl.hessian import inverse_factor
from refimpl.pruning import zero_dead
from refimpl.quantization import QuantizationSpec
from refimpl.schedule import estimated_loss, schedule
from refimpl.sparsegpt import prune_and_quantize
from refimpl.symbols import to_symbols


def can_be_pruned(model: onnx.ModelProto, constant: Constant) -> bool:
    """Whether all inputs that a weight meets can be watched: no table, no recurrent or grouped layer."""
    layer = make_layer(model, constant)
    return bool(layer.moments) and not layer.unwatched and all(m.groups == 1 for m in layer.moments)


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
    layers, moments = watch(model, constants, samples, folder, tell)
    jobs, scheduler = options.jobs, options.scheduler
    rate = partial(loss_of, moments=moments)
    losses = list(on_layers(rate, layers, jobs, scheduler, tell, "rate"))
    shares = schedule(losses, [c.array.size for c in constants], settings.sparsity)
    todo = [(layer, float(share)) for layer, share in zip(layers, shares, strict=True)]
    one = partial(prune_layer, moments=moments, options=options)
    found = on_layers(one, todo, jobs, scheduler, tell, "compress")
    return {name: keep_result(name, result, options.scratch) for name, result in found}


def known_hessian(layer: Layer, moments: Mapping[Moment, Path]) -> Matrix:
    """The H of a layer; that of independent inputs if its moment was not finite."""
    hessian = load_hessian(moments, layer.moments, layer.unwatched)
    return np.eye(layer.matrix().shape[1]) if hessian is None else hessian


def loss_of(layer: Layer, moments: Mapping[Moment, Path]) -> float:
    """Estimated loss of a layer, in the unit of its outputs squared: only then do layers compare."""
    factor = inverse_factor(known_hessian(layer, moments))
    return input_power(moments, layer.moments) * estimated_loss(layer.matrix(), factor)


def prune_layer(item: tuple[Layer, float], moments: Mapping[Moment, Path], options: Options) -> tuple[str, Result]:
    """(name, result) of a layer with its sparsity: pruned, quantized and coded."""
    layer, sparsity = item
    settings = options.recipe.prune
    assert settings is not None, "a recipe with prune settings"
    array = layer.constant.array
    by_row = layer.in_rows or array.ndim == 2
    axis = layer.axis if layer.in_rows or not by_row else 1 - layer.axis % 2  # the other one holds the rows
    spec = QuantizationSpec(bits=settings.bits, granularity="channel" if by_row else "tensor")
    hessian = known_hessian(layer, moments)
    result = prune_and_quantize(zero_dead(layer.matrix(), hessian), inverse_factor(hessian), sparsity, spec)
    codes = result.quantized.codes.astype(np.int8)  # they are: the spec is symmetric
    symbols, zero = to_symbols(codes)
    stored = store_matrix(array, symbols, zero, result.quantized.scale, axis, by_row, options)
    return layer.constant.name, result_of(layer, codes, result.reconstruction, stored, moments, options)
