"""Our own implementations as backends: `numpy_reference` is refimpl, `numba` is codec.

Both share the steps that have one implementation; only the loops of the coder differ.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from codec import frame as frame_format
from codec.container import read_container
from codec.kernels import NUMBA
from codec.tensor import INTEGERS, Stored, load
from refimpl import activations as act
from refimpl import hessian, pruning, quantization, rate, scaling, schedule, sparsegpt, targets
from refimpl.allocation import Demand, allocate_bits, allocate_error
from refimpl.errors import InvalidArgument
from refimpl.feedback import feed_back
from refimpl.gptq import gptq
from refimpl.hessian import inverse_factor
from refimpl.pruning import NOfM
from refimpl.quantization import QuantizationSpec, Quantized
from refimpl.rate import RateCurve
from refimpl.select import select_lowest
from refimpl.tans import blocks, counts, tables
from refimpl.tans.blocks import Chunks
from refimpl.tans.model import choose_model
from refimpl.tans.stream import NUMPY, Kernels

Array = npt.NDArray[Any]


class Reference:
    """Every step but ``onnx``, with the coder's loops by ``kernels``. Inputs and outputs: docs/conformance.md."""

    def __init__(self, name: str, kernels: Kernels) -> None:
        self.__name__ = name
        self.kernels = kernels

    def max_scale(self, activation_max: Array, exponent: float) -> Array:
        """Channel scales."""
        return scaling.max_scale(activation_max, exponent)

    def absorb(self, array: Array, channel_scale: Array, inverse: bool) -> Array:
        """A constant that takes over a channel scale or its inverse."""
        return scaling.absorb(array, channel_scale, inverse=inverse)

    def quantize_activations(self, activations: Array, lowest: float, highest: float) -> Any:
        """(codes, scale, zero_point)."""
        scale, zero_point = act.activation_grid(lowest, highest)
        codes = act.quantize_activations(activations, scale, zero_point)
        return codes, np.array(scale), np.array(zero_point)

    def integer_linear(
        self, activation_codes: Array, activation_scale: Array, activation_zero_point: Array, weight_codes: Array,
        weight_scale: Array,
    ) -> Array:  # fmt: skip
        """The product of integers."""
        scale, zero_point = np.float32(activation_scale.item()), np.uint8(activation_zero_point.item())
        return act.integer_linear(activation_codes, scale, zero_point, weight_codes, weight_scale)

    def quantize(self, weight: Array, bits: int, symmetric: bool, granularity: Any, group_size: int) -> Any:
        """(codes, scale, zero_point)."""
        result = quantization.quantize(weight, QuantizationSpec(bits, symmetric, granularity, group_size))
        return result.codes, result.scale, result.zero_point

    def dequantize(self, codes: Array, scale: Array, zero_point: Array, group_size: int) -> Array:
        """Weights of codes."""
        return quantization.dequantize(Quantized(codes, scale, zero_point), group_size)

    def prune(
        self, weight: Array, codes: Array, zero_point: Array, score: str, sparsity: float,
        activation_max: Array | None = None,
    ) -> Any:  # fmt: skip
        """(mask, pruned codes)."""
        if activation_max is None:
            if score != "magnitude":
                raise InvalidArgument(f"score {score!r} needs activation maxima")
            scores = pruning.magnitude_score(weight)
        else:
            scores = pruning.linf_score(weight, activation_max)
        mask = pruning.prune_mask(scores, sparsity)
        return mask, pruning.prune(codes, mask, zero_point)

    def select(self, score: Array, k: int) -> Array:
        """The mask of the k lowest scores."""
        return select_lowest(score, k)

    def smoothquant_scale(self, activation_max: Array, weight: Array, alpha: float) -> Array:
        """Channel scales."""
        return scaling.smoothquant_scale(activation_max, weight, alpha)

    def awq_scale(self, activation_mean: Array, ratio: float) -> Array:
        """Channel scales."""
        return scaling.awq_scale(activation_mean, ratio)

    def search_awq(self, weight: Array, activation_mean: Array, hessian: Array, **spec: Any) -> Any:
        """(ratio, channel scales, weight that comes back, error of the output)."""
        found = scaling.search_awq(weight, activation_mean, hessian, QuantizationSpec(**spec))
        return np.float64(found.ratio), found.channel_scale, found.reconstruction, np.float64(found.error)

    def wanda(self, weight: Array, mean_square: Array, sparsity: float | None, pattern: str | None) -> Any:
        """(score, mask)."""
        score = pruning.wanda_score(weight, mean_square)
        share = share_of(sparsity, pattern)
        if isinstance(share, NOfM):
            return score, pruning.n_of_m_mask(score, share)
        return score, pruning.prune_rows_mask(score, share)

    def second_moment(self, activations: Array) -> Array:
        """The second moment."""
        return hessian.second_moment(activations)

    def inverse_factor(self, hessian: Array, damping: float) -> Array:
        """The upper factor of the inverse."""
        return inverse_factor(hessian, damping)

    def feed_back(self, weight: Array, factor: Array, step: float, block: int) -> Any:
        """(weights rounded to multiples of the step, error)."""
        settled, error = feed_back(weight, factor, lambda _, columns: np.rint(columns[:, 0] / step) * step, block)
        return settled, np.float64(error)

    def gptq(
        self, weight: Array, factor: Array, static_groups: bool, block: int, order: Array | None = None, **spec: Any
    ) -> Any:
        """(codes, scale, zero_point, error)."""
        grid = QuantizationSpec(**spec)
        result = gptq(weight, factor, grid, order=order, static_groups=static_groups, block=block)
        codes = result.quantized
        return codes.codes, codes.scale, codes.zero_point, np.float64(result.error)

    def sparsegpt(self, weight: Array, factor: Array, sparsity: float | None, pattern: str | None, block: int) -> Any:
        """(mask, pruned weight, error)."""
        result = sparsegpt.sparsegpt(weight, factor, share_of(sparsity, pattern), block=block)
        return result.mask, result.reconstruction, np.float64(result.error)

    def sparsegpt_quantize(
        self, weight: Array, factor: Array, sparsity: float | None, pattern: str | None, block: int, **spec: Any
    ) -> Any:
        """(mask, codes, scale, zero_point, error)."""
        share = share_of(sparsity, pattern)
        result = sparsegpt.prune_and_quantize(weight, factor, share, QuantizationSpec(**spec), block=block)
        codes = result.quantized
        return result.mask, codes.codes, codes.scale, codes.zero_point, np.float64(result.error)

    def estimated_loss(self, weight: Array, factor: Array) -> Array:
        """Mean saliency."""
        return np.array(schedule.estimated_loss(weight, factor))

    def schedule(self, losses: Array, sizes: Array, sparsity: float) -> Array:
        """The sparsity of each layer."""
        return schedule.schedule(losses.tolist(), sizes.tolist(), sparsity)

    def target_raises(self, errors: Array, sizes: Array, allowed: float, most: float) -> Array:
        """How many dB each weight's target is raised."""
        return targets.target_raises(errors.tolist(), sizes.tolist(), allowed, most)

    def too_coarse(self, errors: Array, sizes: Array, costs: Array, allowed: float, most: float) -> Array:
        """Which weights stay as they are."""
        return targets.too_coarse(errors.tolist(), sizes.tolist(), costs.tolist(), allowed, most)

    def rate_curve(self, weight: Array) -> Any:
        """(steps, bits, mean squared errors)."""
        curve = rate.rate_curve(weight)
        return curve.step, curve.bits, curve.error

    def quantize_rate(self, weight: Array, step: float, price: float, factor: Array | None = None) -> Array:
        """Codes."""
        return rate.quantize_rate(weight, factor, step, price)

    def allocate(
        self, curve_step: Array, curve_bits: Array, curve_error: Array, weights: Array, gain: Array, overhead: Array,
        target_bits: float | None, target_error: float | None,
    ) -> Any:  # fmt: skip
        """(step, bits, error) of each tensor."""
        curves = map(RateCurve, curve_step, curve_bits, curve_error)
        demands = [Demand(*d) for d in zip(curves, weights.tolist(), gain.tolist(), overhead.tolist(), strict=True)]
        if target_error is None:
            shares = allocate_bits(demands, 0.0 if target_bits is None else target_bits)
        else:
            shares = allocate_error(demands, target_error)
        return tuple(np.array([getattr(s, name) for s in shares]) for name in ("step", "bits", "error"))

    def log2_fixed(self, x: Array) -> Array:
        """Logarithms in units of 2**-16."""
        return np.array([counts.log2_fixed(int(value)) for value in x], np.int64)

    def normalize_counts(self, histogram: Array, table_log: int) -> Array:
        """Normalized counts."""
        return self.kernels.normalize_counts(histogram, table_log)

    def choose_model(self, histogram: Array, lane_count: int, table_log: int | None) -> Any:
        """(normalized counts, classes)."""
        model = choose_model(histogram, lane_count, table_log, cheapest=self.kernels.cheapest_model)
        return model.counts, model.classes

    def spread(self, counts: Array) -> Array:
        """The symbol of each state."""
        return self.kernels.spread_slots(counts)[0].astype(np.uint8)

    def decode_table(self, counts: Array) -> Any:
        """(symbol, bit_count, base) of each state."""
        table = tables.decode_table(counts, self.kernels.spread_slots)
        return table.symbol, table.bit_count, table.base

    def encode_table(self, counts: Array) -> Any:
        """(bit_count_delta, first_slot, next_state, last_state); 0 for symbols without slots."""
        table = tables.encode_table(counts, self.kernels.spread_slots)
        used = counts > 0
        per_symbol = [np.where(used, a, a.dtype.type(0)) for a in (table.bit_count_delta, table.first_slot)]
        return *per_symbol, table.next_state, np.where(used, table.last_state, np.uint16(0))

    def split_chunks(self, symbols: Array, chunk: int, chunks_per_block: int, coded_chunks: int) -> Any:
        """(raw, coded) symbols."""
        return blocks.split_chunks(symbols, Chunks(chunk, chunks_per_block, coded_chunks))

    def merge_chunks(self, raw: Array, coded: Array, chunk: int, chunks_per_block: int, coded_chunks: int) -> Array:
        """Symbols in the order of the tensor."""
        return blocks.merge_chunks(raw, coded, Chunks(chunk, chunks_per_block, coded_chunks))

    def encode(self, symbols: Array, profile: str, fraction: float, **sizes: Any) -> bytes:
        """A frame."""
        return frame_format.encode(symbols, profile=profile, fraction=fraction, kernels=self.kernels, **sizes)

    def decode(self, frame: Array) -> Array:
        """Symbols of a frame."""
        return frame_format.decode(frame.tobytes(), kernels=self.kernels)

    def read_container(self, data: Array) -> dict[str, Array]:
        """Every tensor's values; 4-bit integers in one byte each."""
        tensors, _ = read_container(data.tobytes())
        return {name: values_of(tensor, self.kernels) for name, tensor in tensors.items()}


def share_of(sparsity: float | None, pattern: str | None) -> float | NOfM:
    """What to prune: a share, or by the pattern ``n:m`` of m neighbours all but n."""
    return NOfM(*map(int, pattern.split(":"))) if pattern else float(sparsity or 0)


def values_of(tensor: Array | Stored, kernels: Kernels) -> Array:
    """A container's tensor as a plain array."""
    if not isinstance(tensor, Stored):
        return tensor
    values = load(tensor, kernels=kernels)
    if tensor.dtype not in INTEGERS:
        return values
    return values.astype(np.uint8 if tensor.dtype.startswith("u") else np.int8)


numpy_reference = Reference("numpy_reference", NUMPY)
numba = Reference("numba", NUMBA)
