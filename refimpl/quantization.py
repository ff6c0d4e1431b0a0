"""Uniform quantization: 2 to 8 bits, symmetric or asymmetric, per tensor, channel or group.

One scale covers the whole tensor, one output channel (row), or ``group_size`` neighbouring inputs of a row.
Specification: docs/spec/quantization.md.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.numerics import check_weight, divide_and_round, round_half_even

SMALLEST_SCALE = np.float32(2.0**-126)  # smallest normal float32: dividing by it is still exact enough
LARGEST_SPAN = np.float32(2.0**128 - 2.0**107)  # a scale times its last code, both rounded up, stays finite
T = TypeVar("T", bound=np.generic)
Codes = npt.NDArray[np.int8] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class QuantizationSpec:
    """How to quantize a weight of shape (out, in).

    Raises
    ------
    InvalidArgument
        A field is out of range.
    """

    bits: int = 8  # 2 to 8
    symmetric: bool = True
    granularity: Literal["tensor", "channel", "group"] = "tensor"
    group_size: int = 0  # inputs per scale, for "group" only

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InvalidArgument(f"bits is {self.bits}, allowed are 2 to 8")
        if self.granularity not in ("tensor", "channel", "group"):
            raise InvalidArgument(f"granularity is {self.granularity!r}, allowed are tensor, channel, group")
        if (self.group_size > 0) != (self.granularity == "group") or self.group_size < 0:
            raise InvalidArgument(f"group_size is {self.group_size} for granularity {self.granularity!r}")

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code. The symmetric range leaves out -2**(bits-1): its negative has no code."""
        half = 1 << (self.bits - 1)
        return (1 - half, half - 1) if self.symmetric else (0, 2 * half - 1)


@dataclass(frozen=True)
class Quantized:
    """Codes and what turns them back into weights: ``(code - zero_point) * scale``."""

    codes: Codes  # (out, in) int8 if symmetric, else uint8
    scale: npt.NDArray[np.float32]  # (1, 1), (out, 1) or (out, groups)
    zero_point: npt.NDArray[np.uint8]  # shape of scale, zeros if symmetric


def quantize(weight: npt.NDArray[np.floating], spec: QuantizationSpec) -> Quantized:
    """Quantize a weight to the range that its values span.

    Symmetric: ``scale = max|w| / (2**(bits-1) - 1)``, ``code = round(w / scale)``.
    Asymmetric: the range is widened to hold 0, ``scale = (max - min) / (2**bits - 1)``,
    ``zero_point = round(-min / scale)``, ``code = round(w / scale) + zero_point``, clipped.

    Parameters
    ----------
    weight : float, shape (out, in)
        Computed in float32.
    spec : QuantizationSpec

    Raises
    ------
    InvalidArgument
        Not two-dimensional, or NaN or infinite values.

    References
    ----------
    Jacob et al., arXiv 1712.05877, section 2.1; the ranges are those of ONNX QuantizeLinear.

    Examples
    --------
    >>> result = quantize(np.array([[0.5, -1.0, 0.25]], np.float32), QuantizationSpec(bits=3))
    >>> result.codes, result.scale
    (array([[ 2, -3,  1]], dtype=int8), array([[0.33333334]], dtype=float32))
    """
    values = check_weight(weight)
    scale, zero_point = quantization_scale(values, spec)
    return quantize_with(values, scale, zero_point, spec)


def quantization_scale(
    weight: npt.NDArray[np.float32], spec: QuantizationSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """(scale, zero_point) for a weight, see `quantize`; 1 and 0 where all weights are zero.

    Examples
    --------
    >>> scale, zero_point = quantization_scale(np.array([[-1, 3]], np.float32), QuantizationSpec(2, symmetric=False))
    >>> scale, zero_point
    (array([[1.3333334]], dtype=float32), array([[1]], dtype=uint8))
    """
    if weight.ndim != 2:
        raise InvalidArgument(f"weight has {weight.ndim} dimensions, quantization takes (out, in)")
    low, high = value_range(weight, spec)
    first, last = spec.code_range
    with np.errstate(over="ignore"):
        span = np.maximum(-low, high) if spec.symmetric else high - low
    steps = np.float32(last if spec.symmetric else last - first)
    span = np.minimum(span, LARGEST_SPAN)
    scale = np.where(span > 0, np.maximum(span / steps, SMALLEST_SCALE), np.float32(1)).astype(np.float32)
    if spec.symmetric:
        return scale, np.zeros(scale.shape, np.uint8)
    return scale, np.clip(round_half_even(-low / scale), first, last).astype(np.uint8)


def value_range(
    weight: npt.NDArray[np.float32], spec: QuantizationSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Smallest and largest weight under each scale, the range widened to hold 0.

    Examples
    --------
    >>> low, high = value_range(np.array([[1, 2], [-3, 4]], np.float32), QuantizationSpec(granularity="channel"))
    >>> low.tolist(), high.tolist()
    ([[0.0], [-3.0]], [[2.0], [4.0]])
    """
    if spec.granularity == "group":
        starts = np.arange(0, max(weight.shape[1], 1), spec.group_size)
        padded = weight if weight.shape[1] else np.zeros((len(weight), 1), np.float32)
        low, high = np.minimum.reduceat(padded, starts, axis=1), np.maximum.reduceat(padded, starts, axis=1)
    else:
        axis = 1 if spec.granularity == "channel" else None
        low = weight.min(axis=axis, keepdims=True, initial=0)
        high = weight.max(axis=axis, keepdims=True, initial=0)
    zero = np.float32(0)
    return np.minimum(low, zero), np.maximum(high, zero)


def quantize_with(
    weight: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.uint8],
    spec: QuantizationSpec,
) -> Quantized:
    """Quantize by a given scale; what falls outside the codes' range is clipped.

    Examples
    --------
    >>> step, zero = np.array([[0.5]], np.float32), np.array([[0]], np.uint8)
    >>> quantize_with(np.array([[0.6, 9.0]], np.float32), step, zero, QuantizationSpec(bits=4)).codes
    array([[1, 7]], dtype=int8)
    """
    inputs = weight.shape[1]
    steps = divide_and_round(weight, expand_groups(scale, inputs, spec.group_size))
    codes = np.clip(steps + expand_groups(zero_point, inputs, spec.group_size), *spec.code_range)
    return Quantized(codes.astype(np.int8 if spec.symmetric else np.uint8), scale, zero_point)


def dequantize(quantized: Quantized, group_size: int = 0) -> npt.NDArray[np.float32]:
    """``(code - zero_point) * scale`` in float32: one subtraction, exact, and one rounded product.

    Parameters
    ----------
    quantized : Quantized
    group_size : int
        Inputs per scale where scales are per group.

    Returns
    -------
    float32, shape of the codes

    Examples
    --------
    >>> dequantize(Quantized(np.array([[2, -3]], np.int8), np.array([[0.5]], np.float32), np.zeros((1, 1), np.uint8)))
    array([[ 1. , -1.5]], dtype=float32)
    """
    inputs = quantized.codes.shape[-1]
    zero_point = expand_groups(quantized.zero_point, inputs, group_size).astype(np.float32)
    return (quantized.codes.astype(np.float32) - zero_point) * expand_groups(quantized.scale, inputs, group_size)


def expand_groups(per_group: npt.NDArray[T], inputs: int, group_size: int) -> npt.NDArray[T]:
    """Repeat each column ``group_size`` times and cut to ``inputs`` columns; unchanged without groups.

    Examples
    --------
    >>> expand_groups(np.array([[1, 2]]), inputs=3, group_size=2)
    array([[1, 1, 2]])
    """
    return np.repeat(per_group, group_size, axis=1)[:, :inputs] if group_size else per_group
