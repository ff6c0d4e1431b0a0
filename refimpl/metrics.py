"""Entropy of codes and error of weights.

Specification: docs/spec/numerics.md, "Metrics".
"""

import numpy as np
import numpy.typing as npt


def entropy(symbols: npt.NDArray[np.integer]) -> float:
    """Order-0 entropy in bits per symbol, ``-sum p log2 p``; 0 for no symbols.

    Examples
    --------
    >>> entropy(np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    2.0
    """
    return entropy_of_counts(np.unique(symbols, return_counts=True)[1])


def entropy_of_counts(counts: npt.NDArray[np.integer]) -> float:
    """Order-0 entropy in bits per symbol of symbols that occur so often.

    References
    ----------
    C. Shannon, "A Mathematical Theory of Communication", 1948, section 6.

    Examples
    --------
    >>> entropy_of_counts(np.array([1, 0, 1]))
    1.0
    """
    present = counts[counts > 0].astype(np.float64)
    if len(present) == 0:
        return 0.0
    total = present.sum()
    bits = np.log2(total) - (present * np.log2(present)).sum() / total
    return float(np.clip(bits, 0, np.log2(len(present))))  # exact at both ends, where rounding would show


def mean_squared_error(original: npt.NDArray[np.floating], approximation: npt.NDArray[np.floating]) -> float:
    """Mean of the squared differences, summed in float64.

    Examples
    --------
    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    """
    difference = np.asarray(original, np.float64) - approximation
    return float(np.mean(difference**2)) if difference.size else 0.0


def sqnr_db(
    original: npt.NDArray[np.floating],
    approximation: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating] | float = 1.0,
) -> float:
    """Signal to quantization noise in dB, ``10 log10(sum g w^2 / sum g (w - w')^2)``.

    Parameters
    ----------
    original, approximation : float, same shape
    weight : float, broadcastable
        The g: 1 for the error of the weights; the mean squared activation of each input channel
        for the error of the layer's output with independent rounding errors.

    Returns
    -------
    float
        ``inf`` without error.

    Examples
    --------
    >>> sqnr_db(np.array([10.0, 0.0]), np.array([9.0, 0.0]))
    20.0
    """
    signal = np.asarray(original, np.float64)
    noise = float((weight * (signal - approximation) ** 2).sum())
    power = float((weight * signal**2).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(power / noise)) if power > 0 else float("-inf")
