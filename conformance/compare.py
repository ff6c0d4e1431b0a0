"""What a backend answered against what is right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.vectors import DTYPES, Case, StoredArray, Tolerance, hash_of


@dataclass(frozen=True)
class Answer:
    """What came back from a backend: outputs, a refusal, no such step, or none of these (a crash)."""

    outputs: Mapping[str, Any] | None = None  # arrays, raw bytes, or Python numbers and lists
    error: tuple[str, ...] = ()  # names of the error; for Python its class and all bases
    text: str = ""  # the error's message, or what happened
    missing: bool = False


def fault(case: Case, answer: Answer) -> str | None:
    """What is wrong with an answer; None if nothing is.

    Examples
    --------
    >>> case = Case("decode", "x", (), {}, {}, {}, error="Corrupt")
    >>> fault(case, Answer(error=("Truncated", "StreamError"), text="2 bytes"))
    'refused with Truncated (2 bytes), expected Corrupt'
    >>> fault(case, Answer(error=("ChecksumError", "Corrupt")))
    """
    if case.error is not None:
        if case.error in answer.error:
            return None
        return f"{describe(answer)}, expected {case.error}"
    if answer.outputs is None:
        return f"{describe(answer)}, expected {', '.join(case.outputs)}"
    if case.outputs.keys() != answer.outputs.keys():
        return f"outputs are {', '.join(sorted(answer.outputs))}, expected {', '.join(sorted(case.outputs))}"
    for name, expected in case.outputs.items():
        if text := difference(name, answer.outputs[name], expected, case.tolerance):
            return text
    return None


def describe(answer: Answer) -> str:
    """An answer in a few words."""
    if answer.error:
        return f"refused with {answer.error[0]}" + (f" ({answer.text})" if answer.text else "")
    return answer.text if answer.outputs is None else "not refused"


def difference(name: str, value: Any, expected: StoredArray, tolerance: Tolerance | None) -> str | None:
    """How an output differs from the expected one; None if it does not.

    Examples
    --------
    >>> expected = StoredArray("uint8", (3,), values=(1, 2, 3))
    >>> difference("codes", np.array([1, 2, 4], np.uint8), expected, None)
    'codes[2] is 4, expected 3 (1 of 3 elements differ)'
    >>> difference("codes", b"123", StoredArray("uint8", (4,), values=(1, 2, 3, 4)), None)
    'codes has shape (3,), expected (4,)'
    """
    try:
        array = as_array(value, expected)
    except (ValueError, TypeError, OverflowError) as error:
        return f"{name} is no {expected.dtype} array: {error}"
    if array.dtype != DTYPES[expected.dtype]:
        return f"{name} has dtype {array.dtype}, expected {expected.dtype}"
    if array.shape != expected.shape:
        return f"{name} has shape {array.shape}, expected {expected.shape}"
    if expected.sha256 is not None:
        found = hash_of(array)
        return None if found == expected.sha256 else f"{name} has SHA-256 {found}, expected {expected.sha256}"
    right = expected.read()
    wrong = np.argwhere(~equal(array, right, tolerance))
    if not len(wrong):
        return None
    at = tuple(int(i) for i in wrong[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    return f"{place} is {array[at]}, expected {right[at]} ({len(wrong)} of {array.size} elements differ)"


def as_array(value: Any, expected: StoredArray) -> npt.NDArray[Any]:
    """An output as an array; raw bytes and Python numbers take the expected dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError
        They cannot.

    Examples
    --------
    >>> as_array(5, StoredArray("int64", (), values=(5,)))
    array(5)
    """
    dtype = DTYPES[expected.dtype]
    if isinstance(value, bytes | bytearray | memoryview):
        array = np.frombuffer(value, dtype.newbyteorder("<")).astype(dtype)
        return array.reshape(expected.shape) if array.size == np.prod(expected.shape, dtype=np.int64) else array
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.asarray(value, dtype)


def equal(array: npt.NDArray[Any], right: npt.NDArray[Any], tolerance: Tolerance | None) -> npt.NDArray[np.bool_]:
    """Where two arrays of one shape and dtype agree: bit for bit, or within a tolerance."""
    if tolerance is None:
        bits = np.dtype(f"u{array.itemsize}")
        same: npt.NDArray[np.bool_] = np.ascontiguousarray(array).view(bits) == np.ascontiguousarray(right).view(bits)
        return same.reshape(right.shape)
    a, b = array.astype(np.float64), right.astype(np.float64)
    return np.asarray(np.abs(a - b) <= tolerance.atol + tolerance.rtol * np.abs(b))
