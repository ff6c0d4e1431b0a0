"""Activation-aware scaling: multiply each input channel's weights by what its activations are worth.

For a linear layer Y = X W^T, channel j of the input meets column j of W. With W'[:, j] = W[:, j] s[j]
and X'[:, j] = X[:, j] / s[j] the product is the same, but a quantizer with one step for all of W'
now spends precision on columns that matter. Channels with large activations dominate the maximum, so
most other weights round to small integers: the codes get cheaper to code.
Specification: docs/spec/scaling.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.hessian import output_error
from refimpl.numerics import check_weight
from refimpl.quantization import QuantizationSpec, dequantize, quantize

FLOOR = 2.0**-10  # smallest activation maximum, relative to the largest: a silent channel is not a dead one
SMOOTHQUANT_FLOOR = 1e-5  # smallest maximum of a column, and smallest scale
AWQ_FLOOR = 1e-4  # smallest scale before it is normalized
AWQ_RATIOS = tuple(k / 20 for k in range(20))


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
    a = check_activations(activation_max)
    if not 0 <= exponent <= 2:
        raise InvalidArgument(f"exponent is {exponent}, allowed are 0 to 2")
    if len(a) == 0 or a.max() == 0:
        return np.ones(len(a), np.float32)
    s = np.maximum(a / a.max(), FLOOR) ** exponent  # relative to the largest: no power overflows
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


def smoothquant_scale(
    activation_max: npt.NDArray[np.floating], weight: npt.NDArray[np.floating], alpha: float = 0.5
) -> npt.NDArray[np.float32]:
    """Scale of each input channel by SmoothQuant's rule.

    ``s[j] = max(a[j]**alpha / w[j]**(1 - alpha), 1e-5)`` with ``a[j]`` the largest ``|X[:, j]|`` and
    ``w[j] = max(max_i |W[i, j]|, 1e-5)``: alpha of the range of the activations goes into the weights.

    Parameters
    ----------
    activation_max : float, shape (in,)
    weight : float, shape (out, in)
        Of all layers that read the same input, stacked: they share one scale.
    alpha : float
        0 to 1; the paper's default is 0.5.

    Returns
    -------
    float32, shape (in,)
        Computed in float64, rounded once.

    Raises
    ------
    InvalidArgument
        Negative or non-finite maxima, shapes that do not fit, or alpha outside [0, 1].

    References
    ----------
    Xiao et al., "SmoothQuant", arXiv 2211.10438, equation 4; the two floors are those of the authors' code.

    Examples
    --------
    >>> smoothquant_scale(np.array([4.0, 1.0]), np.array([[0.25, -1.0], [0.1, 0.5]]))
    array([4., 1.], dtype=float32)
    """
    a, W = check_activations(activation_max), check_weight(weight)
    if W.ndim != 2 or a.shape != W.shape[1:]:
        raise InvalidArgument(f"weight {W.shape} does not fit activation maxima {a.shape}")
    if not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha is {alpha}, allowed are 0 to 1")
    w = np.maximum(np.abs(W).max(axis=0, initial=0).astype(np.float64), SMOOTHQUANT_FLOOR)
    return np.maximum(a**alpha / w ** (1 - alpha), SMOOTHQUANT_FLOOR).astype(np.float32)


def awq_scale(activation_mean: npt.NDArray[np.floating], ratio: float) -> npt.NDArray[np.float32]:
    """Scale of each input channel by AWQ's rule, for one ratio.

    ``s[j] = max(a[j]**ratio, 1e-4)``, then divided by ``sqrt(max(s) min(s))``.

    Parameters
    ----------
    activation_mean : float, shape (in,)
        Mean of ``|X[:, j]|``.
    ratio : float
        0 to 1.

    Returns
    -------
    float32, shape (in,)
        Computed in float64, rounded once.

    Raises
    ------
    InvalidArgument
        Negative or non-finite means, or a ratio outside [0, 1].

    References
    ----------
    Lin et al., "AWQ", arXiv 2306.00978, equation 5; floor and normalization are those of the authors' code.

    Examples
    --------
    >>> awq_scale(np.array([16.0, 1.0]), 0.5)
    array([2. , 0.5], dtype=float32)
    """
    a = check_activations(activation_mean)
    if not 0 <= ratio <= 1:
        raise InvalidArgument(f"ratio is {ratio}, allowed are 0 to 1")
    if len(a) == 0:
        return np.ones(0, np.float32)
    s = np.maximum(a**ratio, AWQ_FLOOR)
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


@dataclass(frozen=True)
class ScaledLayer:
    """What the search of AWQ found."""

    ratio: float
    channel_scale: npt.NDArray[np.float32]  # (in,) s
    reconstruction: npt.NDArray[np.float32]  # (out, in) Q(W s) / s
    error: float  # of the layer's output, see `refimpl.hessian.output_error`


def search_awq(
    weight: npt.NDArray[np.floating],
    activation_mean: npt.NDArray[np.floating],
    hessian: npt.NDArray[np.floating],
    spec: QuantizationSpec,
    ratios: Sequence[float] = AWQ_RATIOS,
) -> ScaledLayer:
    """The ratio whose scale leaves the layer's output the smallest mean square error, the first among equals.

    The error is that of this layer alone, ``sum_i E[i] H E[i]^T`` with ``E = Q(W s) / s - W``. (The authors take the
    output of the whole attention block for query, key and value.) Ratio 0 does not scale: with it among the ratios
    the result is never worse than rounding to nearest.

    Parameters
    ----------
    weight : float, shape (out, in)
    activation_mean : float, shape (in,)
    hessian : float, shape (in, in)
        `refimpl.hessian.second_moment`, not damped.
    spec : QuantizationSpec
    ratios : sequence of float
        Not empty; by default 0, 0.05, ..., 0.95.

    Raises
    ------
    InvalidArgument
        See `awq_scale` and `refimpl.quantization.quantize`; or no ratios.

    References
    ----------
    Lin et al., "AWQ", arXiv 2306.00978, section 3.2.

    Examples
    --------
    >>> X = np.array([[8.0, 0.5], [-8.0, 0.5]])
    >>> found = search_awq(np.array([[0.3, 1.0]]), np.abs(X).mean(axis=0), X.T @ X / 2, QuantizationSpec(bits=3))
    >>> found.ratio, found.reconstruction
    (0.45, array([[0.3      , 1.0446608]], dtype=float32))
    """
    W = check_weight(weight)
    found: ScaledLayer | None = None
    for ratio in ratios:
        s = awq_scale(activation_mean, ratio)
        back = dequantize(quantize(scale_channels(W, s), spec), spec.group_size) / s
        error = output_error(back.astype(np.float64) - W, hessian)
        if found is None or error < found.error:
            found = ScaledLayer(ratio, s, back, error)
    if found is None:
        raise InvalidArgument("ratios are empty, at least one is needed")
    return found


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


def absorb(array: npt.NDArray[Any], channel_scale: npt.NDArray[np.float32], *, inverse: bool) -> npt.NDArray[Any]:
    """``array * s`` or ``array / s``: a constant of the graph that takes over a channel scale or its inverse.

    A layer's weight takes s along its input channels. What makes the layer's input takes 1 / s along the channels
    of that input: scale and bias of a normalization, or rows and bias of the linear layer in front. Each is one
    float32 operation, rounded once to the array's dtype: in real numbers the layer's output does not change, in
    floating point it changes by what these roundings do.

    Parameters
    ----------
    array : float, any shape
    channel_scale : float32, broadcastable to the array
    inverse : bool
        Divide instead of multiply.

    Returns
    -------
    Of the array's shape and dtype.

    Raises
    ------
    InvalidArgument
        A result is not finite in the array's dtype, or a scale broadens the array.

    References
    ----------
    Xiao et al., "SmoothQuant", arXiv 2211.10438, section 4, "Applying SmoothQuant to Transformer blocks", absorbs into
    normalizations; Lin et al., "AWQ", arXiv 2306.00978, into linear layers too.

    Examples
    --------
    >>> s = np.array([2, 4], np.float32)
    >>> absorb(np.array([1.0, 1.0], np.float16), s, inverse=True)
    array([0.5 , 0.25], dtype=float16)
    >>> absorb(np.array([[1.0, 1.0]], np.float32), s, inverse=False)
    array([[2., 4.]], dtype=float32)
    """
    shape = channel_scale.shape
    if len(shape) > array.ndim or any(n not in (1, d) for n, d in zip(shape[::-1], array.shape[::-1], strict=False)):
        raise InvalidArgument(f"a scale of shape {shape} does not fit an array of shape {array.shape}")
    with np.errstate(over="ignore", under="ignore"):
        wide = array.astype(np.float32)
        result = (wide / channel_scale if inverse else wide * channel_scale).astype(array.dtype)
    if not np.isfinite(result.astype(np.float32)).all():
        raise InvalidArgument(f"with its scale the array is beyond {array.dtype}")
    return result


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


def check_activations(statistic: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """A statistic of each input channel's ``|X[:, j]|``, in float64.

    Raises
    ------
    InvalidArgument
        Not a vector, or negative or non-finite numbers.

    Examples
    --------
    >>> check_activations(np.array([1, 2], np.float32))
    array([1., 2.])
    """
    a = np.asarray(statistic, np.float64)
    if a.ndim != 1 or not np.isfinite(a).all() or (a < 0).any():
        raise InvalidArgument("activation maxima or means must be a vector of finite non-negative numbers")
    return a
