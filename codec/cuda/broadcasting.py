"""Scales and zero points for the kernels: element i of the result has number ``(i // inner) % count``."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.tensor import fits
from refimpl.errors import InvalidArgument


def as_run(small: npt.NDArray[Any], shape: tuple[int, ...]) -> tuple[npt.NDArray[Any], int, int]:
    """An array that broadcasts to a shape as (data, inner, count).

    The axes along which it varies must be neighbours; where they are not, it is repeated along those between.

    Returns
    -------
    data : shape (count,)
    inner : int
        Elements in a row that share a number.
    count : int

    Raises
    ------
    InvalidArgument
        It does not broadcast to the shape.

    Examples
    --------
    >>> rows, columns = np.array([[1], [2]]), np.array([5, 6, 7])
    >>> as_run(rows, (2, 3)), as_run(columns, (2, 3)), as_run(np.array(4), (2, 3))
    ((array([1, 2]), 3, 2), (array([5, 6, 7]), 1, 3), (array([4]), 1, 1))
    """
    if not fits(small.shape, shape):
        raise InvalidArgument(f"shape {list(small.shape)} does not broadcast to {list(shape)}")
    small = small.reshape((1,) * (len(shape) - small.ndim) + small.shape)
    varying = [axis for axis, size in enumerate(small.shape) if size > 1]
    if not varying:
        return small.reshape(-1), 1, 1
    first, behind = varying[0], varying[-1] + 1
    run = np.broadcast_to(small, small.shape[:first] + shape[first:behind] + small.shape[behind:]).reshape(-1)
    return np.ascontiguousarray(run), math.prod(shape[behind:]), len(run)
