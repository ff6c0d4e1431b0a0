"""Choosing the free numbers of a layer: quantization scale and scaling exponent.

The objective is stated once, for every layer of every model: among the exponents offered, each with
the coarsest scale whose expected output error stays within the target, take the one whose codes have
the lowest entropy. Specification: docs/spec/pipeline.md, "Search".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from refimpl.metrics import entropy
from refimpl.numerics import divide_and_round
from refimpl.scaling import max_scale, scale_channels

SAMPLE_WEIGHTS = 1 << 18  # a search looks at whole rows of at most so many weights
ROUNDS = 6
CAP = 0.95  # quantile of the channels' contributions to the signal at which they are cut
SLACK = 10**0.1  # the target is reached to 1 dB


def coarsest_scale(
    scaled: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float64],
    allowed: float,
    finest: float,
    last_code: int,
) -> np.float32:
    """The coarsest per-tensor scale that keeps the output error within the target.

    Rounding errors of different weights are nearly independent, so the expected squared error of the
    output is ``sum_ij gain[j] (W' - Q(W'))[i, j]**2`` with ``gain[j]`` the mean square of X'[:, j].
    It grows about with the square of the scale: each round corrects the scale by the root of what is
    missing. The result keeps 8 significant bits, so that the order of a sum decides no code.

    Parameters
    ----------
    scaled : float32, shape (rows, in)
        W' of all rows or of a sample, pruned weights 0.
    gain : float64, shape (in,)
    allowed : float
        Largest squared error.
    finest : float
        Lower bound of the result, ``max|W'| / last_code``: codes never clip.
    last_code : int
        Largest code.

    Examples
    --------
    >>> weight = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)
    >>> scale = coarsest_scale(weight, np.ones(100), 0.333, 1 / 127, 127)
    >>> float(scale), round(squared_error(weight, np.ones(100), scale, 127), 3)
    (0.06298828125, 0.333)
    """
    scale, coarsest = float(finest), 2.0 * last_code * finest  # where all codes are zero
    error = squared_error(scaled, gain, np.float32(scale), last_code)
    for _ in range(ROUNDS):
        factor = max(allowed / error, 0.0) ** 0.5 if error > 0 else 2.0
        scale = min(max(finest, scale * factor), coarsest)
        if scale == finest:
            break
        error = squared_error(scaled, gain, np.float32(scale), last_code)
    result = truncate_scalar(scale)
    while result > finest and squared_error(scaled, gain, result, last_code) > SLACK * allowed:
        result = truncate_scalar(0.75 * float(result))  # weights on a grid: their error jumps
    return np.maximum(result, np.float32(finest))


def choose_exponent(
    weight: npt.NDArray[np.float32],
    activation_max: npt.NDArray[np.floating],
    activation_mean_square: npt.NDArray[np.floating],
    activation_variance: npt.NDArray[np.floating],
    kept: npt.NDArray[np.bool_] | None,
    exponents: Sequence[float],
    target_sqnr_db: float,
    last_code: int,
) -> tuple[float, np.float32]:
    """(exponent, scale) with the cheapest codes that reach the target; ties go to the first exponent.

    The signal is what varies from token to token, ``sum_j c_j`` with ``c_j = var(X[:, j]) sum_i W[i, j]**2``:
    a constant part of the output is a bias, however large, and carries nothing. Each ``c_j`` is capped at
    the 95th percentile of all, lest one channel (a position, an outlier) drown what the others say.
    The noise counts whole, by the mean square; what pruning costs comes on top and is the caller's choice.
    If no exponent reaches the target, the most exact one is taken.

    Parameters
    ----------
    weight : float32, shape (out, in)
    activation_max, activation_mean_square, activation_variance : float, shape (in,)
    kept : bool, shape (out, in), optional
    exponents : sequence of float
    target_sqnr_db : float
    last_code : int

    Examples
    --------
    >>> weight = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)
    >>> a = np.where(np.arange(100) < 50, 1.0, 8.0)  # half of the channels are active eight times as much
    >>> choose_exponent(weight, a, a**2, a**2, None, (0.0, 0.5, 1.0), 30.0, 127)
    (1.0, np.float32(0.125))
    """
    stride = max(1, -(-weight.size // SAMPLE_WEIGHTS))
    sample = weight[::stride]
    contribution = np.asarray(activation_variance, np.float64) * np.square(sample, dtype=np.float64).sum(axis=0)
    power = float(np.minimum(contribution, np.quantile(contribution, CAP) if len(contribution) else 0).sum())
    allowed = power * 10.0 ** (-target_sqnr_db / 10)
    if kept is not None:
        sample = np.where(kept[::stride], sample, np.float32(0))
    best: tuple[tuple[int, float], float, np.float32] | None = None
    for exponent in exponents:
        channel_scale = max_scale(activation_max, exponent)
        largest = float((np.abs(weight).max(axis=0, initial=0) * channel_scale).max(initial=0))
        finest = max(largest / last_code, 2.0**-126)
        gain = np.asarray(activation_mean_square, np.float64) / np.square(channel_scale, dtype=np.float64)
        scaled = scale_channels(sample, channel_scale)
        scale = coarsest_scale(scaled, gain, allowed, finest, last_code)
        codes = np.clip(divide_and_round(scaled, scale), -last_code, last_code).astype(np.int8)
        bits = entropy(codes)
        error = squared_error(scaled, gain, scale, last_code)
        rank = (0, bits) if error <= SLACK * allowed else (1, error)  # where none reaches it, the best one
        if best is None or rank < best[0]:
            best = (rank, exponent, scale)
    assert best is not None, "at least one exponent"
    return best[1], best[2]


def row_scales(weight: npt.NDArray[np.float32], target_sqnr_db: float) -> npt.NDArray[np.float32]:
    """The scale of each row that leaves every row's weights the same signal to noise.

    Rounding to multiples of a scale d adds an error of d**2 / 12, so ``d = rms(row) sqrt(12 / 10**(dB/10))``,
    with 8 significant bits. For layers whose outputs are normalized one by one, as convolutions' are by batch
    normalization: there a small row matters as much as a large one.

    Parameters
    ----------
    weight : float32, shape (out, in)
    target_sqnr_db : float

    Returns
    -------
    float32, shape (out, 1)
        0 for a row of zeros.

    References
    ----------
    W. Bennett, "Spectra of quantized signals", 1948: the d**2 / 12.

    Examples
    --------
    >>> row_scales(np.array([[1, -1], [8, 8]], np.float32), 20.0)
    array([[0.34570312],
           [2.765625  ]], dtype=float32)
    """
    total = np.square(weight, dtype=np.float64).sum(axis=1, keepdims=True)
    rms = np.sqrt(total / max(weight.shape[1], 1))
    scale = rms * (12.0 / 10.0 ** (target_sqnr_db / 10)) ** 0.5
    return truncate_mantissa(scale.astype(np.float32))


def squared_error(
    scaled: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float64],
    scale: np.float32,
    last_code: int,
) -> float:
    """Expected squared error of the output when W' is rounded to multiples of the scale.

    Examples
    --------
    >>> squared_error(np.array([[1.0, 2.25]], np.float32), np.array([1.0, 4.0]), np.float32(1), 127)
    0.25
    """
    rounded = np.clip(divide_and_round(scaled, scale), -last_code, last_code) * scale
    return float((gain * np.square(scaled - rounded, dtype=np.float64)).sum())


def truncate_scalar(x: float) -> np.float32:
    """`truncate_mantissa` of one number.

    Examples
    --------
    >>> truncate_scalar(257.0)
    np.float32(256.0)
    """
    return truncate_mantissa(np.array([x], np.float32))[0]


def truncate_mantissa(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Keep the first 8 significant bits of each number.

    Examples
    --------
    >>> truncate_mantissa(np.array([257, 3], np.float32))
    array([256.,   3.], dtype=float32)
    """
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
