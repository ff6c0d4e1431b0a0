"""Rounding and dtype rules: the only place where a real number becomes an integer.

Round half to even. Scales are float32 and codes come from dividing by the stored scale, in float32,
never from multiplying by its reciprocal: either would change codes.
Specification: docs/spec/numerics.md.
"""

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument


def round_half_even(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Nearest integer, ties to the even one; dtype of the input.

    Examples
    --------
    >>> round_half_even(np.array([0.5, 1.5, -2.5]))
    array([ 0.,  2., -2.])
    """
    return np.rint(x)


def divide_and_round(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32] | np.float32
) -> npt.NDArray[np.float32]:
    """``round_half_even(weight / scale)`` in float32.

    Examples
    --------
    >>> divide_and_round(np.array([1.0, 2.6], np.float32), np.array([2.0], np.float32))
    array([0., 1.], dtype=float32)
    """
    return np.rint(np.divide(weight, scale, dtype=np.float32))


def check_weight(weight: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The weight in float32.

    Raises
    ------
    InvalidArgument
        NaN or infinity in it.

    Examples
    --------
    >>> check_weight(np.array([1, 2], np.float16)).dtype
    dtype('float32')
    """
    with np.errstate(over="ignore"):
        result = np.asarray(weight).astype(np.float32)
    if not np.isfinite(result).all():
        raise InvalidArgument("the weight holds NaN or infinite values")
    return result
