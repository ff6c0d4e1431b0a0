"""Choosing the free numbers of a layer: quantization scale and scaling exponent.

The objective is stated once, for every layer of every model: among the exponents offered, each with
the coarsest scale whose expected output error stays within the target, take the one that stores the
fewest bits, codes at their entropy and scales counted. Layers that share one input may have to share
one exponent. Specification: docs/spec/pipeline.md, "Search".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from refimpl.activations import ActivationStatistics, rounding_noise
from refimpl.errors import InvalidArgument
from refimpl.metrics import entropy
from refimpl.numerics import divide_and_round
from refimpl.scaling import max_scale, scale_channels

SAMPLE_WEIGHTS = 1 << 18  # a search looks at whole rows of at most so many weights
ROUNDS = 6
CAP = 0.95  # quantile of the channels' contributions to the signal at which they are cut
SLACK = 10**0.1  # the target is reached to 1 dB
SCALE_BITS = 32  # of one stored scale
Outliers = Literal["columns", "rows"]
Floors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Aim:
    """What a search may do, and what it is to reach."""

    exponents: tuple[float, ...]
    target_sqnr_db: float
    last_code: int  # largest code
    outliers: tuple[Outliers, ...] = ()  # what may get coarser scales of its own around large weights
    absorbed: bool = False  # the inverse of the channel scale is stored elsewhere
    activation_bits: int | None = None  # of the layer's input, if that is quantized too


@dataclass(frozen=True)
class Searched:
    """A layer to search."""

    weight: npt.NDArray[np.float32]  # (out, in)
    kept: npt.NDArray[np.bool_] | None = None  # (out, in) False where pruned
    row_scale: npt.NDArray[np.float32] | None = None  # (out,) what rows were divided by: s of the layer behind


@dataclass(frozen=True)
class Sample:
    """What a search knows of a layer before it tries an exponent."""

    weight: npt.NDArray[np.float32]  # (rows, in) some of the rows, pruned weights 0
    stride: int  # of these rows
    loudness: npt.NDArray[np.float64] | float  # (rows, 1) what their squared errors count
    allowed: float  # squared error of their output
    largest: npt.NDArray[np.float32]  # (in,) max_i |W[i, j]|, of all rows


@dataclass(frozen=True)
class Choice:
    """What a search found for a layer."""

    exponent: float
    scale: npt.NDArray[np.float32]  # (1, 1), (1, in) or (out, 1), of W'
    reached: bool  # the target
    error: float  # expected squared error of the sample's output, over what the target allows
    bits: float  # of all codes, at their entropy, and of the scales


def coarsest_scale(
    scaled: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float64],
    allowed: float,
    finest: float,
    last_code: int,
    floors: Floors | None = None,
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
    gain : float64, shape (in,) or (rows, in)
    allowed : float
        Largest squared error.
    finest : float
        Lower bound of the result, ``max|W'| / last_code``: codes never clip.
    last_code : int
        Largest code.
    floors : float32, shape (1, in) or (rows, 1), optional
        Scales that columns or rows have at least. The smallest one that is not 0 is then the lower bound.

    Examples
    --------
    >>> weight = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)
    >>> scale = coarsest_scale(weight, np.ones(100), 0.333, 1 / 127, 127)
    >>> float(scale), round(squared_error(weight, np.ones(100), scale, 127), 3)
    (0.06298828125, 0.333)
    """

    def error_at(step: np.float32) -> float:
        scale = step if floors is None else np.maximum(step, floors)
        return squared_error(scaled, gain, scale, last_code)

    scale, coarsest = float(finest), 2.0 * last_code * finest  # where all codes are zero
    if floors is not None:
        finest = max(float(floors[floors > 0].min(initial=np.float32(finest))), 2.0**-126)
    error = error_at(np.float32(scale))
    for _ in range(ROUNDS):
        factor = max(allowed / error, 0.0) ** 0.5 if error > 0 else 2.0
        scale = min(max(finest, scale * factor), coarsest)
        if scale == finest:
            break
        error = error_at(np.float32(scale))
    result = truncate_scalar(scale)
    while result > finest and error_at(result) > SLACK * allowed:
        result = truncate_scalar(0.75 * float(result))  # weights on a grid: their error jumps
    return np.maximum(result, np.float32(finest))


def choose_exponent(layer: Searched, statistics: ActivationStatistics, aim: Aim) -> Choice:
    """The exponent and scale that reach the target with the fewest bits; ties go to the first exponent.

    The signal is what varies from token to token, ``sum_j c_j`` with ``c_j = var(X[:, j]) sum_i W[i, j]**2``:
    a constant part of the output is a bias, however large, and carries nothing. Each ``c_j`` is capped at
    the 95th percentile of all, lest one channel (a position, an outlier) drown what the others say.
    The noise counts whole, by the mean square; what pruning costs comes on top and is the caller's choice.
    Rows that were divided by a scale count with their size before it, signal and noise.
    If no exponent reaches the target, the most exact one is taken.

    Parameters
    ----------
    layer : Searched
    statistics : ActivationStatistics
    aim : Aim

    Examples
    --------
    >>> weight = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(10, 100)
    >>> a = np.where(np.arange(100) < 50, 1.0, 8.0)  # half of the channels are active eight times as much
    >>> found = choose_exponent(Searched(weight), ActivationStatistics(a, a**2, a**2), Aim((0.0, 0.5, 1.0), 30.0, 127))
    >>> found.exponent, found.scale
    (0.0, array([[0.06298828]], dtype=float32))
    >>> free = Aim((0.0, 0.5, 1.0), 30.0, 127, absorbed=True)  # a scale for each channel of such a small layer costs
    >>> found = choose_exponent(Searched(weight), ActivationStatistics(a, a**2, a**2), free)
    >>> found.exponent, found.scale
    (1.0, array([[0.125]], dtype=float32))
    """
    return choose_shared_exponent([layer], statistics, aim)[0]


def choose_shared_exponent(layers: Sequence[Searched], statistics: ActivationStatistics, aim: Aim) -> list[Choice]:
    """One exponent for all layers that read the same input, each with a scale of its own.

    The exponent at which the fewest layers miss the target; of those, the one with the fewest bits in sum, or
    with the smallest sum of errors over what is allowed if a layer misses it.

    Raises
    ------
    InvalidArgument
        No exponents.
    """
    samples = [take_sample(layer, statistics, aim) for layer in layers]
    best: tuple[tuple[int, float], list[Choice]] | None = None
    for exponent in aim.exponents:
        choices = [try_exponent(*pair, statistics, exponent, aim) for pair in zip(layers, samples, strict=True)]
        missed = sum(not c.reached for c in choices)
        rank = (missed, sum(c.error if missed else c.bits for c in choices))
        if best is None or rank < best[0]:
            best = (rank, choices)
    if best is None:
        raise InvalidArgument("exponents are empty, at least one is needed")
    return best[1]


def take_sample(layer: Searched, statistics: ActivationStatistics, aim: Aim) -> Sample:
    """Some rows of a layer, and what the target allows for them; see `choose_exponent`."""
    stride = max(1, -(-layer.weight.size // SAMPLE_WEIGHTS))
    rows = layer.weight[::stride]
    loudness = 1.0 if layer.row_scale is None else np.square(layer.row_scale[::stride, None], dtype=np.float64)
    contribution = np.asarray(statistics.variance, np.float64) * (np.square(rows, dtype=np.float64) * loudness).sum(0)
    power = float(np.minimum(contribution, np.quantile(contribution, CAP) if len(contribution) else 0).sum())
    if layer.kept is not None:
        rows = np.where(layer.kept[::stride], rows, np.float32(0))
    largest = np.abs(layer.weight).max(axis=0, initial=0)
    return Sample(rows, stride, loudness, power * 10.0 ** (-aim.target_sqnr_db / 10), largest)


def try_exponent(
    layer: Searched, sample: Sample, statistics: ActivationStatistics, exponent: float, aim: Aim
) -> Choice:
    """The best scale for one exponent.

    One scale for all of W', with two exceptions. Where its largest weight, not the target, decides how fine that is,
    columns, or rows, whose largest weight the target's scale cannot reach may have a coarser one each
    (``aim.outliers``). Where rows were divided by a scale, each may have the step divided by it: the codes are then
    those of the weight as it was. Rows have scales only where no scales of columns are stored beside them.
    """
    weight, last = layer.weight, aim.last_code
    stride, loudness, allowed = sample.stride, sample.loudness, sample.allowed
    channel_scale = max_scale(statistics.maximum, exponent)
    rows_are_free = aim.absorbed or bool((channel_scale == 1).all())
    scaled = scale_channels(sample.weight, channel_scale)
    gain = np.asarray(statistics.mean_square, np.float64) / np.square(channel_scale, dtype=np.float64) * loudness
    noise = 0.0
    if aim.activation_bits is not None:
        seen = rounding_noise(statistics.maximum / channel_scale, aim.activation_bits)
        noise = seen * float((np.square(scaled, dtype=np.float64) * loudness).sum())
    columns = scale_channels(sample.largest, channel_scale)
    finest = max(float(columns.max(initial=0)) / last, 2.0**-126)

    @cache
    def rows() -> Floors:
        """The largest weight of each row, (out, 1): they are all looked through only where rows have scales."""
        return np.abs(scale_channels(weight, channel_scale)).max(axis=1, keepdims=True, initial=0)

    def choice(floors: Floors | None = None, relative: Floors | None = None) -> Choice:
        """With scales ``max(step, floors)``, or ``step * relative``."""
        fine = finest
        if relative is not None:
            fine = max(float((rows() / relative).max(initial=0)) / last, 2.0**-126)
        by_row = floors is not None and floors.shape[1] == 1
        step = coarsest_scale(
            scaled if relative is None else scaled / relative[::stride],
            gain if relative is None else gain * np.square(relative[::stride], dtype=np.float64),
            max(allowed - noise, 0.0), fine, last, floors[::stride] if floors is not None and by_row else floors,
        )  # fmt: skip
        stored = np.full((1, 1), step) if floors is None else np.maximum(step, floors)
        if relative is not None:
            stored = step * relative
        scale = stored[::stride] if len(stored) > 1 else stored
        codes = np.clip(divide_and_round(scaled, scale), -last, last).astype(np.int8)
        error = squared_error(scaled, gain, scale, last) + noise
        vector = not rows_are_free or not bool((stored == stored.flat[:1]).all())
        numbers = max(stored.size, 1 if rows_are_free else weight.shape[1]) if vector else 1
        bits = weight.size * entropy(codes) + SCALE_BITS * numbers
        return Choice(exponent, stored, error <= SLACK * allowed, error / allowed if allowed else error, bits)

    tried = [choice()]
    if not weight.size:
        return tried[0]
    if layer.row_scale is not None and rows_are_free:
        tried.append(choice(relative=np.float32(1) / layer.row_scale[:, None]))
    if aim.outliers and tried[0].scale[0, 0] <= np.float32(finest):
        if "columns" in aim.outliers:
            tried.append(choice(columns[None, :] / np.float32(last)))
        if "rows" in aim.outliers and rows_are_free:
            tried.append(choice(rows() / np.float32(last)))
    return min(tried, key=lambda c: (not c.reached, c.bits if c.reached else c.error))


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
    scale: np.float32 | npt.NDArray[np.float32],
    last_code: int,
) -> float:
    """Expected squared error of the output when W' is rounded to multiples of the scale, or of its rows' or columns'.

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
