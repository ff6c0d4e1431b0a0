"""A stored tensor: one frame and what turns its symbols back into values, or several in bands of channels.

Integers: ``value = symbol - zero_point``. Weights: ``value = (symbol - zero_point) * scale`` in
float32, rounded once more to the tensor's own dtype. Specification: docs/spec/container.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from codec.frame import Frame, decode_frame, make_frame
from codec.kernels import NUMBA
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError
from refimpl.symbols import to_symbols
from refimpl.tans.stream import Kernels

FLOATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
INTEGERS: dict[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
}
DTYPES = FLOATS | INTEGERS
MAX_BANDS = 16  # what four bits tell apart


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it is stored."""

    shape: tuple[int, ...]
    dtype: str  # key of DTYPES
    frame: Frame
    zero_point: npt.NDArray[np.uint8]  # broadcastable to shape
    scale: npt.NDArray[np.float32] | None  # broadcastable to shape; None for integers

    @property
    def stored_bytes(self) -> int:
        """Bytes of payload, side information, counts, scale and zero point."""
        scale_bytes = 0 if self.scale is None else self.scale.nbytes
        return -(-self.frame.block.stored_bits // 8) + scale_bytes + self.zero_point.nbytes

    @property
    def payload_bytes(self) -> float:
        """Bytes that carry symbols."""
        return self.frame.block.payload_bits / 8

    @property
    def parts(self) -> "tuple[StoredTensor, ...]":
        """Itself, as the only part."""
        return (self,)


@dataclass(frozen=True)
class BandedTensor:
    """A tensor whose channels, slices along one axis, lie in bands: each band is a stored tensor of its own.

    The channels of a band keep their order.
    """

    axis: int
    bands: npt.NDArray[np.uint8]  # band of each channel, (channels,)
    parts: tuple[StoredTensor, ...]  # alike but for the number of channels

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole tensor's."""
        shape = self.parts[0].shape
        return (*shape[: self.axis], len(self.bands), *shape[self.axis + 1 :])

    @property
    def dtype(self) -> str:
        """Key of DTYPES."""
        return self.parts[0].dtype

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts and of the bands, two channels in a byte."""
        return sum(part.stored_bytes for part in self.parts) + -(-len(self.bands) // 2)

    @property
    def payload_bytes(self) -> float:
        """Bytes that carry symbols."""
        return sum(part.payload_bytes for part in self.parts)


Stored = StoredTensor | BandedTensor


def make_banded(axis: int, bands: npt.NDArray[np.uint8], parts: Sequence[StoredTensor]) -> BandedTensor:
    """A banded tensor from what is stored of it.

    Raises
    ------
    Corrupt
        The parts do not fit one another or the bands.
    """
    if not 2 <= len(parts) <= MAX_BANDS:
        raise Corrupt(f"{len(parts)} bands, allowed are 2 to {MAX_BANDS}")
    shapes = [list(part.shape) for part in parts]
    others = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    if not 0 <= axis < min(map(len, shapes)) or len(others) > 1 or len({part.dtype for part in parts}) > 1:
        raise Corrupt(f"bands of shapes {shapes} do not fit along axis {axis}")
    counts = np.bincount(bands, minlength=len(parts)).tolist()
    if counts != [shape[axis] for shape in shapes] or not all(counts):
        raise Corrupt(f"{counts} channels in bands that hold {[shape[axis] for shape in shapes]}")
    return BandedTensor(axis, bands, tuple(parts))


def split_bands(array: npt.NDArray[Any], axis: int, bands: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    """The channels of each band, along an axis; an array that does not vary along it is the same for all.

    Examples
    --------
    >>> split_bands(np.array([[1, 2, 3]]), 1, np.array([1, 0, 1], np.uint8))
    [array([[2]]), array([[1, 3]])]
    """
    count = int(bands.max(initial=0)) + 1
    if array.ndim == 0 or array.shape[axis] != len(bands):
        return [array] * count
    return [np.compress(bands == g, array, axis) for g in range(count)]


def join_bands(parts: Sequence[npt.NDArray[Any]], axis: int, bands: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Undo `split_bands`.

    Examples
    --------
    >>> join_bands([np.array([[2]]), np.array([[1, 3]])], 1, np.array([1, 0, 1], np.uint8))
    array([[1, 2, 3]])
    """
    place = np.argsort(np.argsort(bands, kind="stable"), kind="stable")
    return np.take(np.concatenate(parts, axis), place, axis)


def store_integers(
    values: npt.NDArray[Any], *, profile: str = "gpu", fraction: float = 1.0, kernels: Kernels = NUMBA
) -> StoredTensor:
    """Code 8-bit or 4-bit integers without loss.

    Raises
    ------
    InvalidArgument
        Another dtype.

    Examples
    --------
    >>> values = np.tile(np.array([-1, 0, 0, 1], np.int8), 500)
    >>> stored = store_integers(values)
    >>> stored.frame.block.mode, stored.stored_bytes, bool((load(stored) == values).all())
    ('coded', 380, True)
    """
    if values.dtype.name not in INTEGERS:
        raise InvalidArgument(f"dtype is {values.dtype.name}, lossless coding takes {', '.join(INTEGERS)}")
    wide = np.uint8 if values.dtype.name.startswith("u") else np.int8
    symbols, zero_point = to_symbols(values.astype(wide))
    frame = make_frame(symbols, profile=profile, fraction=fraction, kernels=kernels)
    return StoredTensor(values.shape, values.dtype.name, frame, np.array(zero_point, np.uint8), None)


def store_weight(
    symbols: npt.NDArray[np.uint8],
    zero_point: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    dtype: str,
    *,
    profile: str = "gpu",
    fraction: float = 1.0,
    kernels: Kernels = NUMBA,
) -> StoredTensor:
    """Code the symbols of a quantized weight.

    Parameters
    ----------
    symbols : uint8, the weight's shape
    zero_point : uint8, broadcastable
    scale : float32, broadcastable
    dtype : {"float32", "float16", "bfloat16"}
        What the weight decodes to.
    """
    if dtype not in FLOATS:
        raise InvalidArgument(f"dtype is {dtype}, weights are {', '.join(FLOATS)}")
    frame = make_frame(symbols, profile=profile, fraction=fraction, kernels=kernels)
    return StoredTensor(symbols.shape, dtype, frame, zero_point, scale.astype(np.float32))


def load(stored: Stored, *, kernels: Kernels = NUMBA) -> npt.NDArray[Any]:
    """Decode and, for weights, dequantize; put bands together.

    Returns
    -------
    array of the stored shape and dtype

    Raises
    ------
    StreamError
        The frame cannot be decoded or does not fit the shape.
    """
    try:
        if isinstance(stored, BandedTensor):
            return join_bands([load(part, kernels=kernels) for part in stored.parts], stored.axis, stored.bands)
        return decode_values(stored, load_symbols(stored, kernels=kernels))
    except StreamError:
        raise
    except (MemoryError, ValueError):  # NumPy's words for more bytes than there are, or than there can be
        raise LimitExceeded(f"{math.prod(stored.shape)} elements do not fit in memory") from None


def decode_values(stored: StoredTensor, symbols: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Values of decoded symbols, see the formulas above.

    Raises
    ------
    Corrupt
        A symbol stands for an integer that the dtype does not have.
    """
    if stored.scale is None:
        info = ml_dtypes.iinfo(DTYPES[stored.dtype])  # type: ignore[no-untyped-call]
        values = symbols.astype(np.int16) - stored.zero_point
        if values.size and not info.min <= int(values.min()) <= int(values.max()) <= info.max:
            raise Corrupt(f"symbols stand for values outside {stored.dtype}")
        return values.astype(np.int8 if info.min else np.uint8).astype(DTYPES[stored.dtype])
    codes = symbols.astype(np.float32) - stored.zero_point.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # whatever the scales are, the result is defined
        return (codes * stored.scale).astype(DTYPES[stored.dtype])


def load_symbols(stored: StoredTensor, *, kernels: Kernels = NUMBA) -> npt.NDArray[np.uint8]:
    """Decode only: uint8 symbols of the stored shape.

    Raises
    ------
    StreamError
        The frame cannot be decoded or does not fit the shape.
    """
    if math.prod(stored.shape) != stored.frame.block.symbol_count:
        raise Corrupt(f"{stored.frame.block.symbol_count} symbols do not fill shape {list(stored.shape)}")
    for part in (stored.zero_point, stored.scale):
        if part is not None and not fits(part.shape, stored.shape):
            raise Corrupt(f"a scale or zero point of shape {list(part.shape)} does not fit {list(stored.shape)}")
    symbols = decode_frame(stored.frame, kernels=kernels)
    try:
        return symbols.reshape(stored.shape)
    except (ValueError, OverflowError) as error:
        raise Corrupt(f"no array has the shape {list(stored.shape)}: {error}") from None


def fits(small: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array of shape ``small`` broadcasts to exactly ``shape``.

    Examples
    --------
    >>> fits((1, 3), (2, 3)), fits((2, 2, 3), (2, 3)), fits((), (2, 3))
    (True, False, True)
    """
    return len(small) <= len(shape) and all(s in (1, n) for s, n in zip(reversed(small), reversed(shape), strict=False))
