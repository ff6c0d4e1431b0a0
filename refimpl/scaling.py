"""Activation-aware scaling: multiply each input channel's weights by what its activations are worth.

For a linear layer Y = X W^T, channel j of the input meets column j of W. With W'[:, j] = W[:, j] s[j]
and X'[:, j] = X[:, j] / s[j] the product is the same, but a quantizer with one step for all of W'
now spends precision on columns that matter. Channels with large activations dominate the maximum, so
most other weights round to small integers: the codes get cheaper to code.
Specification: docs/spec/scaling.md.
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument

FLOOR = 2.0**-10  # smallest activation maximum, relative to the largest: a silent channel is not a dead one


def max_scale(activation_max: npt.NDArray[np.floating], exponent: float) -> npt.NDArray[np.float32]:
    """Scale of each input channel by the rule of the double-compression paper.

    ``s[j] = a[j]**exponent / sqrt(max(a**exponent) * min(a**exponent))`` with ``a[j]`` the largest
    ``|X[:, j]|``, at least 2**-10 of the largest ``a``. The normalization keeps s around 1; it changes
    no code, since a per-tensor quantization scale moves with it.

    Parameters
    ----------
    activation_max : float, shape (in,)
        Non-negative maxima over calibration tokens, in the activations' unit.
    exponent : float
        0 leaves the weights alone, 1 moves all of the activations' range into them.

    Returns
    -------
    float32, shape (in,)
        Positive. Ones if no channel was ever active.

    Raises
    ------
    InvalidArgument
        Negative or non-finite maxima, or an exponent outside [0, 2].

    References
    ----------
    "When Compression Meets Model Compression", arXiv 2502.15443, figure 3: "scales the weight using
    per-channel activation maximum value"; the exponent and the normalization are our reading.
    Computed in float64 and rounded once; ``pow`` may differ by 1 ulp between C libraries.

    Examples
    --------
    >>> max_scale(np.array([4.0, 1.0]), 0.5)
    array([1.4142135 , 0.70710677], dtype=float32)
    """
    a = np.asarray(activation_max, np.float64)
    if a.ndim != 1 or not np.isfinite(a).all() or (a < 0).any():
        raise InvalidArgument("activation maxima must be a vector of finite non-negative numbers")
    if not 0 <= exponent <= 2:
        raise InvalidArgument(f"exponent is {exponent}, allowed are 0 to 2")
    if len(a) == 0 or a.max() == 0:
        return np.ones(len(a), np.float32)
    s = np.maximum(a / a.max(), FLOOR) ** exponent  # relative to the largest: no power overflows
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


def scale_channels(weight: npt.NDArray[np.float32], channel_scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """W' = W s.

    Raises
    ------
    InvalidArgument
        A product is beyond float32.

    Parameters
    ----------
    weight : float32, shape (out, in)
    channel_scale : float32, shape (in,)

    Examples
    --------
    >>> scale_channels(np.ones((1, 2), np.float32), np.array([2, 4], np.float32))
    array([[2., 4.]], dtype=float32)
    """
    with np.errstate(over="ignore"):
        scaled = weight * channel_scale
    if not np.isfinite(scaled).all():
        raise InvalidArgument("the scaled weight is beyond float32")
    return scaled


def unscale_activations(
    activations: npt.NDArray[np.float32], channel_scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """X' = X / s, the inverse on the side of the activations.

    Examples
    --------
    >>> unscale_activations(np.ones((1, 2), np.float32), np.array([2, 4], np.float32))
    array([[0.5 , 0.25]], dtype=float32)
    """
    return activations / channel_scale


def fold_into_scale(
    quantization_scale: npt.NDArray[np.float32], channel_scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Delta / s, the inverse on the side of the weights: it costs a vector and changes no graph.

    Parameters
    ----------
    quantization_scale : float32, shape (1, 1) or (out, 1)
        Step of the quantizer that quantized W'.
    channel_scale : float32, shape (in,)

    Returns
    -------
    float32, shape (1, in) or (out, in)
        Dequantizing the codes of W' by it gives an approximation of W.

    Examples
    --------
    >>> fold_into_scale(np.array([[2]], np.float32), np.array([2, 4], np.float32))
    array([[1. , 0.5]], dtype=float32)
    """
    return quantization_scale / channel_scale
