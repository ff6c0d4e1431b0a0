"""Large arrays from a few numbers: a 64-bit linear congruential generator, in integers alone.

::

    x = seed
    for each element, in C order:
        x = (6364136223846793005 * x + 1442695040888963407) mod 2**64
        r = x >> 48                                                    0 to 65535
        symbols:  the element is the number of thresholds that are not above r
        floats:   the element is (r - 32768) * 2**exponent, exact in float32

Any language repeats it; no library's generator is involved.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407


@dataclass(frozen=True)
class Lcg:
    """An array by its recipe: thresholds make integers, an exponent makes floats."""

    seed: int  # 0 to 2**64 - 1
    thresholds: tuple[int, ...] = ()  # ascending, 0 to 65535; at most 255
    exponent: int | None = None


def draw(seed: int, count: int) -> npt.NDArray[np.int64]:
    """The first ``count`` values of r.

    Returns
    -------
    int64, shape (count,)
        0 to 65535.

    Examples
    --------
    >>> draw(1, 3)
    array([27735, 33384, 42490])
    """
    # x after i steps is a**i seed + (1 + a + ... + a**(i-1)) c; uint64 arithmetic wraps as it should.
    powers = np.cumprod(np.full(count, MULTIPLIER, np.uint64), dtype=np.uint64)
    sums = np.cumsum(np.concatenate([np.ones(min(count, 1), np.uint64), powers[:-1]]), dtype=np.uint64)
    states = powers * np.uint64(seed) + sums * np.uint64(INCREMENT)
    return (states >> np.uint64(48)).astype(np.int64)


def generate(recipe: Lcg, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array of a recipe.

    Examples
    --------
    >>> generate(Lcg(1, thresholds=(30000, 40000)), (3,), np.uint8)
    array([0, 1, 2], dtype=uint8)
    >>> generate(Lcg(1, exponent=-10), (3,), np.float32)
    array([-4.915039 ,  0.6015625,  9.494141 ], dtype=float32)
    """
    r = draw(recipe.seed, int(np.prod(shape, dtype=np.int64)))
    if recipe.exponent is None:
        return np.searchsorted(np.array(recipe.thresholds, np.int64), r, side="right").astype(dtype).reshape(shape)
    return np.ldexp((r - 32768).astype(np.float64), recipe.exponent).astype(dtype).reshape(shape)
