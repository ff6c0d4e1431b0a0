"""The rate quantizer: one uniform step for a tensor, codes whose price is their entropy, not their width.

A fine uniform grid with an entropy coder behind it loses a quarter of a bit to the best any quantizer can do, at
every rate, and needs no groups, no clipping and no second scale; error feedback makes its errors those that the
layer's output feels least. What is left to choose is the step, see `refimpl.allocation`.
Specification: docs/spec/rate.md.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refimpl.bands import Bands, code_length
from refimpl.errors import InvalidArgument
from refimpl.feedback import feed_back
from refimpl.gptq import activation_order
from refimpl.hessian import DAMPING, inverse_factor, output_error
from refimpl.numerics import check_weight
from refimpl.search import truncate_mantissa

LAST_CODE = 127
CURVE_SAMPLE = 1 << 17  # weights that a curve looks at, whole rows
CURVE_STEP = 0.25  # of log2(step): points of a curve
FINEST, COARSEST = -7.0, 3.0  # log2(step / rms) at the ends of a curve
DAMPINGS = (DAMPING, 0.1, 1.0, np.inf)  # of feedback; with the last there is none
DAMPING_SAMPLE = 1 << 16  # weights that a choice of damping looks at, whole rows
ALIKE = 1.02  # losses that differ by less say nothing
LARGEST_PRICE = 20.0  # bits of a code that no sample had
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RateCurve:
    """Bits and error of a weight for a row of steps, as rounding to nearest gives them.

    Feedback hardly changes the bits (+0.00 to 0.04 on real layers) and lowers the errors in proportion.
    """

    step: Matrix  # (points,) ascending
    bits: Matrix  # (points,) order-0 entropy of the codes, of each band's if there are some, bits per weight
    error: Matrix  # (points,) mean squared error of a weight


def rate_curve(weight: npt.NDArray[np.floating], bands: Bands | None = None) -> RateCurve:
    """The curve of a weight, from some of its rows.

    It runs from 7 octaves below the weights' rms, or from where outliers beyond the last code begin to cost more
    than a finer step saves, to 3 above, where nearly all codes are zero.

    Parameters
    ----------
    weight : float, shape (out, in)
        Columns divided by their band's relative step.
    bands : uint8, shape (in,), optional
        Band of each column, each coded with a table of its own.

    Returns
    -------
    RateCurve
        A single point of 0 bits for a weight of zeros.

    References
    ----------
    H. Gish and J. Pierce, "Asymptotically efficient quantizing", 1968: uniform steps for entropy-coded codes.

    Examples
    --------
    >>> curve = rate_curve(np.random.default_rng(0).normal(size=(64, 64)))
    >>> at = np.searchsorted(curve.step, 0.5)
    >>> noise = 12 * curve.error[at] / curve.step[at] ** 2  # 1 for errors spread evenly over a step
    >>> [round(float(x), 2) for x in (curve.step[at], curve.bits[at], noise)]
    [0.59, 2.81, 1.0]
    """
    W = check_weight(weight)
    sample = W[:: max(1, -(-W.size // CURVE_SAMPLE))].astype(np.float64)
    rms = float(np.sqrt(np.mean(np.square(W, dtype=np.float64)))) if W.size else 0.0
    if rms == 0:
        return RateCurve(np.ones(1), np.zeros(1), np.zeros(1))
    steps = rms * 2.0 ** np.arange(FINEST, COARSEST + CURVE_STEP, CURVE_STEP)
    high = np.abs(W[np.abs(W) > LAST_CODE * steps[0]]).astype(np.float64)
    bits, error = np.empty(len(steps)), np.empty(len(steps))
    for k, step in enumerate(steps):
        codes = np.rint(sample / step)
        clipped = np.maximum(high - (LAST_CODE + 0.5) * step, 0)
        error[k] = np.mean(np.square(sample - codes * step)) + np.square(clipped).sum() / W.size
        symbols = (np.clip(codes, -LAST_CODE, LAST_CODE) + LAST_CODE).astype(np.int64)
        parts = [symbols] if bands is None else [symbols[:, bands == g] for g in range(int(bands.max()) + 1)]
        bits[k] = sum(code_length(np.bincount(part.ravel())) for part in parts) / symbols.size
    first = int(np.argmin(error))
    return RateCurve(steps[first:], bits[first:], error[first:])


def quantize_rate(
    weight: npt.NDArray[np.floating], factor: Matrix | None, step: float, price: float = 0.0
) -> npt.NDArray[np.int8]:
    """Codes of a weight on a uniform grid, with error feedback.

    Parameters
    ----------
    weight : float, shape (out, in)
    factor : float64, shape (in, in), optional
        `refimpl.hessian.inverse_factor`; None rounds to nearest.
    step : float
        Positive. The decoder's weight is ``code * step``.
    price : float
        What a bit costs in units of what it is worth at high rate. Above 0 a code moves one nearer to zero where
        the bits saved outweigh the error: ``(x - c)**2 + lambda_j bits(c)`` with
        ``lambda_j = price * (ln(2) / 6) * U[j, j]**2 * mean_k U[k, k]**-2``, both in squared steps.

    Returns
    -------
    int8, shape (out, in)
        -127 to 127; what a clipped code misses is fed back like any error.

    Raises
    ------
    InvalidArgument
        A step or price out of range, shapes that do not fit, NaN.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323, algorithm 1 (the feedback); "CERWU", arXiv 2505.18758 (a rate term in
    each decision); T. Sullivan, "Efficient scalar quantization of exponential and Laplacian random variables", 1996.

    Examples
    --------
    >>> quantize_rate(np.array([[0.4, 0.4]]), None, 1.0)
    array([[0, 0]], dtype=int8)
    >>> from refimpl.hessian import inverse_factor
    >>> quantize_rate(np.array([[0.4, 0.4]]), inverse_factor(np.array([[4.0, 2.0], [2.0, 2.0]]), 0.0), 1.0)
    array([[0, 1]], dtype=int8)
    """
    W = check_weight(weight)
    if not (np.isfinite(step) and step > 0):
        raise InvalidArgument(f"step is {step}, it must be positive")
    if not (np.isfinite(price) and price >= 0):
        raise InvalidArgument(f"price is {price}, allowed are 0 and more")
    nearest = np.clip(np.rint(W / step), -LAST_CODE, LAST_CODE).astype(np.int8)
    if factor is None:
        return nearest
    bits = code_prices(nearest) if price else np.zeros(2 * LAST_CODE + 1)
    diagonal = np.diagonal(factor)
    charge = price * np.log(2) / 6 * diagonal**2 * np.mean(diagonal**-2.0) if len(diagonal) else diagonal

    def decide(j: int, columns: Matrix) -> Matrix:
        x = columns[:, 0] / step
        codes = np.clip(np.rint(x), -LAST_CODE, LAST_CODE)
        if price:
            nearer = codes - np.sign(codes)
            worth = charge[j] * (price_of(codes, bits) - price_of(nearer, bits))
            codes = np.where(np.square(x - nearer) < np.square(x - codes) + worth, nearer, codes)
        return codes * step

    settled, _ = feed_back(W, factor, decide)
    return np.rint(settled / step).astype(np.int8)


def quantize_by_activity(
    weight: npt.NDArray[np.floating],
    hessian: Matrix,
    step: float,
    price: float = 0.0,
    damping: float = DAMPING,
    *,
    scales: npt.NDArray[np.float32] | None = None,
    in_order: bool = False,
) -> npt.NDArray[np.int8]:
    """Codes as of `quantize_rate`, the columns settled in the order of their inputs' activity, most active first.

    The errors of those that count most then find the most columns to make up for them.

    Parameters
    ----------
    weight : float, shape (out, in)
    hessian : float64, shape (in, in)
        Of the inputs.
    step, price : float
        See `quantize_rate`.
    damping : float
        See `refimpl.hessian.damped`; infinite: no feedback, every weight is rounded to nearest.
    scales : float32, shape (1, in), optional
        What the columns of the weight were divided by.
    in_order : bool
        Settle the columns from the first to the last.

    Raises
    ------
    InvalidArgument
        See `quantize_rate` and `refimpl.hessian.damped`.

    Examples
    --------
    >>> H = np.array([[4.0, 2.0], [2.0, 2.0]])
    >>> [quantize_by_activity(np.array([[0.4, 0.4]]), moment, 1.0).tolist() for moment in (H, H[::-1, ::-1])]
    [[[0, 1]], [[1, 0]]]
    """
    if np.isinf(damping):
        return quantize_rate(weight, None, step, price)
    by_column = np.ones((1, len(hessian)), np.float32) if scales is None else scales
    order = np.arange(len(hessian)) if in_order else activation_order(hessian * by_column**2)
    factor = inverse_factor(hessian[np.ix_(order, order)], damping) / by_column[:, order]  # of the inputs times scales
    codes = np.empty(weight.shape, np.int8)
    codes[:, order] = quantize_rate(weight[:, order], factor, step, price)
    return codes


def losses_by_damping(
    weight: npt.NDArray[np.floating], seen: Matrix, unseen: Matrix, step: float, price: float = 0.0
) -> Matrix:
    """What feedback with each of `DAMPINGS` loses on inputs that it did not see.

    A second moment of few inputs has directions in which they happen not to vary. Feedback takes errors there for
    free, and other inputs pay. Damping makes them count; with too little known, no feedback is best.

    Parameters
    ----------
    weight : float, shape (out, in)
        Some of its rows are looked at.
    seen, unseen : float64, shape (in, in)
        Second moments of two parts of the inputs.
    step, price : float
        See `quantize_rate`.

    Returns
    -------
    float64, shape (4,)
        `refimpl.hessian.output_error` on the unseen inputs.

    References
    ----------
    M. Stone, "Cross-validatory choice and assessment of statistical predictions", 1974.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> W, X = rng.normal(size=(16, 64)), rng.normal(size=(4000, 64)) @ rng.normal(size=(64, 64))
    >>> few, many, others = (X[a:b].T @ X[a:b] / (b - a) for a, b in ((0, 8), (0, 2000), (2000, 4000)))
    >>> [least_damping(losses_by_damping(W, seen, others, 0.5)) for seen in (few, many)]
    [inf, 0.01]
    """
    rows = np.asarray(weight)[:: max(1, -(-weight.size // DAMPING_SAMPLE))]
    losses = [output_error(quantize_by_activity(rows, seen, step, price, d) * step - rows, unseen) for d in DAMPINGS]
    return np.array(losses)


def least_damping(losses: Matrix) -> float:
    """The least of `DAMPINGS` whose loss is within 2 % of the best one.

    Examples
    --------
    >>> least_damping(np.array([3.0, 1.01, 1.0, 2.0]))
    0.1
    """
    return DAMPINGS[int(np.argmax(losses <= ALIKE * losses.min()))]


def code_prices(codes: npt.NDArray[np.int8]) -> Matrix:
    """Bits of each code -127 .. 127 by how often it occurs; half a count is added, so that all have a price.

    Examples
    --------
    >>> float(code_prices(np.zeros((64, 64), np.int8))[127].round(2))
    0.04
    """
    counts = np.bincount(codes.ravel().astype(np.int64) + LAST_CODE, minlength=2 * LAST_CODE + 1) + 0.5
    return np.minimum(-np.log2(counts / counts.sum()), LARGEST_PRICE)


def price_of(codes: Matrix, bits: Matrix) -> Matrix:
    """Bits of each code."""
    return bits[codes.astype(np.int64) + LAST_CODE]


def stored_step(step: float) -> np.float32:
    """The step as it is stored: float32 with 8 significant bits, so that the order of a sum decides no code.

    Examples
    --------
    >>> stored_step(0.3)
    np.float32(0.29882812)
    """
    return truncate_mantissa(np.array([step], np.float32))[0]
