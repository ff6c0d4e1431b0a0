"""Activations: what calibration saw of a layer's input, and quantizing that input to 8 bits.

Weights and activations as integers (W8A8): the product then needs integers alone, and one scale behind it.
Specification: docs/spec/activations.md.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.numerics import divide_and_round, round_half_even
from refimpl.quantization import LARGEST_SPAN, SMALLEST_SCALE

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActivationStatistics:
    """What calibration saw of a layer's input X (tokens, in)."""

    maximum: Vector  # (in,) max_t |X[t, j]|
    mean_square: Vector  # (in,) mean_t X[t, j]**2
    variance: Vector  # (in,) mean square less the square of the mean

    @staticmethod
    def unknown(inputs: int) -> "ActivationStatistics":
        """All channels alike: for weights that nothing is known about."""
        return ActivationStatistics(np.ones(inputs), np.ones(inputs), np.ones(inputs))

    def divided_by(self, channel_scale: npt.NDArray[np.float32]) -> "ActivationStatistics":
        """Those of X / s.

        Examples
        --------
        >>> seen = ActivationStatistics(np.array([4.0]), np.array([8.0]), np.array([2.0]))
        >>> seen.divided_by(np.array([2], np.float32))
        ActivationStatistics(maximum=array([2.]), mean_square=array([2.]), variance=array([0.5]))
        """
        s = channel_scale.astype(np.float64)
        return ActivationStatistics(self.maximum / s, self.mean_square / s**2, self.variance / s**2)


def rounding_noise(maximum: npt.NDArray[np.floating], bits: int) -> float:
    """Mean square error of rounding X to a grid of ``2**bits`` values over ``-max .. max``: ``step**2 / 12``.

    Examples
    --------
    >>> rounding_noise(np.array([1.5, 0.1]), 2)
    0.08333333333333333
    """
    step = 2.0 * float(np.max(maximum, initial=0)) / (2**bits - 1)
    return step * step / 12


def activation_grid(lowest: float, highest: float) -> tuple[np.float32, np.uint8]:
    """(scale, zero point) of uint8 codes for activations between two numbers, as ONNX QuantizeLinear takes them.

    The range is widened to hold 0, which then has a code of its own. In float32:
    ``scale = (highest - lowest) / 255``, at least 2**-126, and ``zero_point = round(-lowest / scale)``.
    A range of nothing but 0 has scale 1.

    Parameters
    ----------
    lowest, highest : float
        Smallest and largest activation that calibration saw.

    Raises
    ------
    InvalidArgument
        Not finite, or the lowest above the highest.

    References
    ----------
    Jacob et al., arXiv 1712.05877, section 2.1; for the W8A8 setting of "When Compression Meets Model Compression",
    arXiv 2502.15443 (one scale per tensor, and ranges that are those seen, are our reading).

    Examples
    --------
    >>> activation_grid(-1.0, 1.55)
    (np.float32(0.01), np.uint8(100))
    """
    low, high = np.minimum(np.float32(lowest), np.float32(0)), np.maximum(np.float32(highest), np.float32(0))
    if not (np.isfinite(lowest) and np.isfinite(highest) and lowest <= highest):
        raise InvalidArgument(f"activations from {lowest} to {highest} have no grid")
    with np.errstate(over="ignore"):
        span = np.minimum(high - low, LARGEST_SPAN)
    if span == 0:
        return np.float32(1), np.uint8(0)
    scale = np.maximum(span / np.float32(255), SMALLEST_SCALE)
    return scale, np.uint8(np.clip(round_half_even(np.array(-low / scale)), 0, 255))


def quantize_activations(
    activations: npt.NDArray[np.floating], scale: np.float32, zero_point: np.uint8
) -> npt.NDArray[np.uint8]:
    """``clip(round(x / scale) + zero_point, 0, 255)``, divided and rounded in float32: what QuantizeLinear does.

    Examples
    --------
    >>> quantize_activations(np.array([-1.0, 0.004, 9.0], np.float32), np.float32(0.01), np.uint8(100))
    array([  0, 100, 255], dtype=uint8)
    """
    steps = divide_and_round(np.asarray(activations, np.float32), scale)
    return np.clip(steps + np.float32(zero_point), 0, 255).astype(np.uint8)


def integer_linear(
    activation_codes: npt.NDArray[np.uint8],
    activation_scale: np.float32,
    activation_zero_point: np.uint8,
    weight_codes: npt.NDArray[np.int8],
    weight_scale: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """``Y = X W^T`` in integers: int32 sums of products of codes, then one product with both scales.

    Parameters
    ----------
    activation_codes : uint8, shape (tokens, in)
    activation_scale, activation_zero_point : float32, uint8
        See `activation_grid`.
    weight_codes : int8, shape (out, in)
    weight_scale : float32, shape (1, 1) or (out, 1)
        A scale of input channels cannot be taken out of the sum: it has to be absorbed.

    Returns
    -------
    float32, shape (tokens, out)
        ``float32(sum) * (activation_scale * weight_scale)``, both products in float32.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit, or so many inputs that a sum may leave int32.

    Examples
    --------
    >>> integer_linear(np.array([[101, 98]], np.uint8), np.float32(0.5), np.uint8(100),
    ...                np.array([[3, 1]], np.int8), np.array([[0.25]], np.float32))
    array([[0.125]], dtype=float32)
    """
    if activation_codes.ndim != 2 or weight_codes.ndim != 2 or activation_codes.shape[1] != weight_codes.shape[1]:
        raise InvalidArgument(f"codes of shapes {activation_codes.shape} and {weight_codes.shape} have no product")
    if weight_scale.shape not in ((1, 1), (len(weight_codes), 1)):
        raise InvalidArgument(f"weight scale has shape {weight_scale.shape}, allowed are (1, 1) and (out, 1)")
    if weight_codes.shape[1] > (2**31 - 1) // (255 * 128):
        raise InvalidArgument(f"{weight_codes.shape[1]} inputs: a sum may leave int32")
    left = activation_codes.astype(np.int32) - np.int32(activation_zero_point)
    sums = left @ weight_codes.astype(np.int32).T
    return sums.astype(np.float32) * (activation_scale * weight_scale).reshape(1, -1)
