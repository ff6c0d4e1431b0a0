"""Known methods, each by the reference's own functions, on the linear layers of a model.

Statistics come from all calibration samples in one pass of the original; every layer is then compressed by itself.
Bits are those of the codes, of scales (16 bits) and of zero points (as many as a code); entropy is that of the codes
of each layer, of order 0, with scales and zero points. Pruned weights have 8-bit codes with a scale for each row,
`joint` ones 4-bit codes; a pruned weight is priced as any other. Where all weights count, other matrices and tables
have 8 bits, rounded to nearest, a scale for each row; vectors are left as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from benchmarks.quality.layers import MIN_ELEMENTS, Array, Layer, axis_of, linear_layers
from benchmarks.quality.method import Method, Priced, Scope
from onnx_export.ties import find_ties
from onnx_export.weights import Constant, find_constants, from_matrix, to_matrix
from refimpl.gptq import gptq
from refimpl.metrics import entropy
from refimpl.pruning import (
    NOfM,
    magnitude_score,
    n_of_m_mask,
    prune,
    prune_mask,
    prune_rows_mask,
    wanda_score,
    zero_dead,
)
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantize
from refimpl.scaling import scale_channels, search_awq, smoothquant_scale
from refimpl.schedule import estimated_loss, schedule
from refimpl.sparsegpt import prune_and_quantize

SCALE_BITS = 16
SPARSITIES = (0.5, 0.6, 0.7, 0.8)
INT8, INT4_ROW = QuantizationSpec(8, granularity="channel"), QuantizationSpec(4, granularity="channel")
GROUPS = (128, 32)


def groups(bits: int, size: int) -> QuantizationSpec:
    """The usual format of so many bits: a scale and a zero point for each group."""
    return QuantizationSpec(bits, symmetric=False, granularity="group", group_size=size)


@dataclass(frozen=True)
class Stored:
    """A compressed weight and its price."""

    weight: Array  # as it comes back
    nominal: float  # bits of all
    entropy: float  # bits of all, codes at their entropy


Compress = Callable[[Layer], Stored]
OfLayers = Callable[[Sequence[Layer]], Iterator[Stored]]


def store(quantized: Quantized, weight: Array, spec: QuantizationSpec, side_bits: float = 0) -> Stored:
    """Price codes, scales and zero points, and what is stored beside them."""
    side = side_bits + quantized.scale.size * (SCALE_BITS + (0 if spec.symmetric else spec.bits))
    size = quantized.codes.size
    return Stored(weight, size * spec.bits + side, size * entropy(quantized.codes) + side)


def nearest(spec: QuantizationSpec, layer: Layer) -> Stored:
    """Round to nearest."""
    return nearest_of(layer.weight, spec)


def nearest_of(weight: Array, spec: QuantizationSpec) -> Stored:
    """The same for a weight without an input."""
    quantized = quantize(weight, spec)
    return store(quantized, dequantize(quantized, spec.group_size), spec)


def smoothquant(spec: QuantizationSpec, layer: Layer) -> Stored:
    """SmoothQuant of the weights alone, one scale for all layers that read the same input."""
    s = smoothquant_scale(layer.input.maximum, layer.siblings)
    return scaled(layer, s, spec)


def awq(spec: QuantizationSpec, layer: Layer) -> Stored:
    """AWQ, the ratio by this layer's output."""
    found = search_awq(layer.weight, layer.input.mean, layer.input.hessian, spec)
    return scaled(layer, found.channel_scale, spec)


def scaled(layer: Layer, s: Array, spec: QuantizationSpec) -> Stored:
    """Quantize W s; s is stored."""
    quantized = quantize(scale_channels(layer.weight, s), spec)
    return store(quantized, dequantize(quantized, spec.group_size) / s, spec, side_bits=SCALE_BITS * s.size)


def gptq_layer(spec: QuantizationSpec, in_order: bool, layer: Layer) -> Stored:
    """GPTQ, with static groups if columns go by activation."""
    weight, x = zero_dead(layer.weight, layer.input.hessian), layer.input
    order, factor = (x.order, x.factor_in_order) if in_order else (None, x.factor)
    result = gptq(weight, factor, spec, order=order, static_groups=in_order)
    return store(result.quantized, result.reconstruction, spec)


def magnitude(sparsity: float | NOfM, layer: Layer) -> Stored:
    """Magnitude pruning, compared within the layer, then rounding to nearest."""
    rating = magnitude_score(layer.weight)
    masked = n_of_m_mask(rating, sparsity) if isinstance(sparsity, NOfM) else prune_mask(rating, sparsity)
    return pruned(layer, masked)


def wanda(sparsity: float | NOfM, layer: Layer) -> Stored:
    """Wanda, compared within rows, then rounding to nearest."""
    rating = wanda_score(layer.weight, np.diagonal(layer.input.hessian))
    masked = n_of_m_mask(rating, sparsity) if isinstance(sparsity, NOfM) else prune_rows_mask(rating, sparsity)
    return pruned(layer, masked)


def pruned(layer: Layer, mask: npt.NDArray[np.bool_]) -> Stored:
    """Prune the 8-bit codes."""
    quantized = quantize(layer.weight, INT8)
    codes = prune(quantized.codes, mask).astype(np.int8)
    result = Quantized(codes, quantized.scale, quantized.zero_point)
    return store(result, dequantize(result), INT8)


def sparsegpt_layer(spec: QuantizationSpec, sparsity: float | NOfM, layer: Layer) -> Stored:
    """SparseGPT with joint quantization."""
    weight = zero_dead(layer.weight, layer.input.hessian)
    result = prune_and_quantize(weight, layer.input.factor, sparsity, spec)
    return store(result.quantized, result.reconstruction, spec)


def each(compress: Compress) -> OfLayers:
    """Every layer in the same way."""
    return lambda layers: map(compress, layers)


def scheduled(spec: QuantizationSpec, sparsity: float) -> OfLayers:
    """SparseGPT with a sparsity for each layer: `refimpl.schedule`."""

    def method(layers: Sequence[Layer]) -> Iterator[Stored]:
        losses = [estimated_loss(x.weight, x.input.factor) for x in layers]
        shares = schedule(losses, [x.weight.size for x in layers], sparsity)
        return (sparsegpt_layer(spec, float(share), x) for share, x in zip(shares, layers, strict=True))

    return method


def of_layers() -> dict[tuple[str, str], OfLayers]:
    """(name, setting) and methods, in the table's order."""
    formats = [(f"int{bits} g{size}", groups(bits, size)) for size in GROUPS for bits in (4, 3)]
    shares = [(str(s), s) for s in SPARSITIES]
    patterns: list[tuple[str, float | NOfM]] = [*shares, ("2:4", NOfM(2, 4)), ("4:8", NOfM(4, 8))]
    one_by_one: dict[str, Sequence[tuple[str, Compress]]] = {
        "RTN": [(label, partial(nearest, spec)) for label, spec in [("int8", INT8), *formats]],
        "SmoothQuant": [("int8", partial(smoothquant, INT8))],
        "AWQ": [(label, partial(awq, spec)) for label, spec in formats],
        "GPTQ": [(label, partial(gptq_layer, spec, False)) for label, spec in formats],
        "GPTQ act-order": [(label, partial(gptq_layer, spec, True)) for label, spec in formats],
        "magnitude": [(label, partial(magnitude, sparsity)) for label, sparsity in patterns],
        "Wanda": [(label, partial(wanda, sparsity)) for label, sparsity in patterns],
        "SparseGPT": [(label, partial(sparsegpt_layer, INT8, sparsity)) for label, sparsity in patterns],
        "SparseGPT joint": [(label, partial(sparsegpt_layer, INT4_ROW, sparsity)) for label, sparsity in patterns],
    }
    found = {(name, label): each(compress) for name, points in one_by_one.items() for label, compress in points}
    return found | {("SparseGPT joint scheduled", label): scheduled(INT4_ROW, share) for label, share in shares}


def baselines(scope: Scope) -> tuple[Method, ...]:
    """All known methods; where all weights count, without those that prune 8-bit codes: their bits are the same."""
    return tuple(
        Method(name, setting, transform=partial(compressed, method, scope), scope=scope, linear_only=True)
        for (name, setting), method in of_layers().items()
        if scope == "linear" or name not in ("magnitude", "Wanda", "SparseGPT")
    )


def compressed(method: OfLayers, scope: Scope, model: onnx.ModelProto, calibration: Path, folder: Path) -> Priced:
    """The model with its linear layers compressed by a method, and the rest as the scope wants."""
    layers = linear_layers(model, calibration, folder)
    stored = {x.name: s for x, s in zip(layers, method(layers), strict=True)}
    constants = find_constants(model)
    left = 0
    if scope == "all":
        tied = find_ties([c for c in constants if c.array.ndim > 1 and c.array.size >= MIN_ELEMENTS])[1]
        for c in constants:
            if c.name in stored or c.name in tied:
                continue
            if c.is_float and c.array.ndim == 2 and c.array.size >= MIN_ELEMENTS and c.input_axis is not None:
                stored[c.name] = nearest_of(to_matrix(c.array, axis_of(c)).astype(np.float32), INT8)
            else:
                left += 8 * c.array.nbytes
    replace(model, constants, {name: s.weight for name, s in stored.items()})
    nominal, coded = (left + sum(bits) for bits in zip(*((s.nominal, s.entropy) for s in stored.values()), strict=True))
    return Priced(model, nominal / 8, coded / 8)


def replace(model: onnx.ModelProto, constants: Sequence[Constant], matrices: dict[str, Array]) -> None:
    """Put matrices, (out, in), in the place of weights and of what is tied to them."""
    by_name = {c.name: c for c in constants}
    for name, tie in find_ties(constants)[1].items():
        if tie.source in matrices:
            source, tied = by_name[tie.source], by_name[name]
            array = from_matrix(matrices[tie.source], source.array.shape, axis_of(source))
            matrices[name] = to_matrix(array.T if tie.transposed else array, axis_of(tied))
    for tensor in model.graph.initializer:
        if tensor.name in matrices:
            c = by_name[tensor.name]
            array = from_matrix(matrices[tensor.name], c.array.shape, axis_of(c)).astype(c.array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
