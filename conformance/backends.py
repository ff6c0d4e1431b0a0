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
from refimpl import pruning, quantization, scaling
from refimpl.errors import InvalidArgument
from refimpl.quantization import QuantizationSpec, Quantized
from refimpl.select import select_lowest
from refimpl.tans import blocks, counts, tables
from refimpl.tans.blocks import Chunks
from refimpl.tans.model import choose_model
from refimpl.tans.spread import spread_symbols
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

    def log2_fixed(self, x: Array) -> Array:
        """Logarithms in units of 2**-16."""
        return np.array([counts.log2_fixed(int(value)) for value in x], np.int64)

    def normalize_counts(self, histogram: Array, table_log: int) -> Array:
        """Normalized counts."""
        return counts.normalize_counts(histogram, table_log)

    def choose_model(self, histogram: Array, lane_count: int, table_log: int | None) -> Any:
        """(normalized counts, classes)."""
        model = choose_model(histogram, lane_count, table_log)
        return model.counts, model.classes

    def spread(self, counts: Array) -> Array:
        """The symbol of each state."""
        return spread_symbols(counts)

    def decode_table(self, counts: Array) -> Any:
        """(symbol, bit_count, base) of each state."""
        table = tables.decode_table(counts)
        return table.symbol, table.bit_count, table.base

    def encode_table(self, counts: Array) -> Any:
        """(bit_count_delta, first_slot, next_state, last_state); 0 for symbols without slots."""
        table = tables.encode_table(counts)
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
