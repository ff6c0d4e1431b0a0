"""Codes as symbols: the coder's alphabet begins at the smallest code.

Specification: docs/spec/quantization.md, "Symbols".
"""

import numpy as np
import numpy.typing as npt


def to_symbols(codes: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint8], int]:
    """Shift codes so that they start at 0; unsigned codes stay as they are.

    Parameters
    ----------
    codes : int8 or uint8, any shape

    Returns
    -------
    symbols : uint8, shape of codes
        ``codes + zero``.
    zero : int
        The symbol of code 0: 0 to 128.

    Examples
    --------
    >>> to_symbols(np.array([-2, 0, 5], np.int8))
    (array([0, 2, 7], dtype=uint8), 2)
    """
    zero = max(0, -int(codes.min(initial=0)))
    return (codes.astype(np.int16) + zero).astype(np.uint8), zero


def from_symbols(
    symbols: npt.NDArray[np.uint8], zero: npt.NDArray[np.uint8] | int, dtype: npt.DTypeLike
) -> npt.NDArray[np.integer]:
    """Undo `to_symbols`.

    Examples
    --------
    >>> from_symbols(np.array([0, 2, 7], np.uint8), 2, np.int8)
    array([-2,  0,  5], dtype=int8)
    """
    return (symbols.astype(np.int16) - zero).astype(dtype)
