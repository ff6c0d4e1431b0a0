"""Compressing one tensor, and its line in the report."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.frame import Frame
from codec.kernels import histogram
from codec.tensor import (
    DTYPES,
    FLOATS,
    INTEGERS,
    BandedTensor,
    Stored,
    StoredTensor,
    load_symbols,
    split_bands,
    store_integers,
    store_weight,
)
from onnx_export.calls import Call, write_call
from onnx_export.recipes import UNCALIBRATED_RAISE_DB, Recipe, raise_targets
from onnx_export.references import MEMORY, Scratch
from onnx_export.weights import along_axis, from_matrix, from_rows, to_matrix, to_rows
from refimpl.activations import ActivationStatistics
from refimpl.bands import Bands, code_bands
from refimpl.errors import InvalidArgument
from refimpl.metrics import entropy_of_counts, sqnr_db
from refimpl.pipeline import LayerSettings, quantize_layer
from refimpl.symbols import to_symbols
from refimpl.tans.blocks import Block
from refimpl.tans.nibbles import pack_nibbles
from refimpl.targets import MOST_LEFT

Array = npt.NDArray[Any]
NOT_CALIBRATED = "no calibration data: all input channels count as equally important, scales are finer to be safe"
TOO_COARSE = "codes of 8 bits are too coarse for it: the outputs would keep less than they should"
TOO_FEW = "its few elements may need more than 8 bits, and without calibration nothing is known of that"
TOO_SMALL = "smaller than what decodes a tensor"
WOULD_NOT_SHRINK = "coding it would not make the file smaller"
PART_BYTES = 768  # of a file for each part of a tensor beside what is stored: nodes, names, headers
NARROW_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
FEW = 1024  # elements of a weight that may stay as it is
LEAST_SAVING = 0.005  # of a tensor's bytes: what bands must save


@dataclass(frozen=True)
class Options:
    """What the caller chose, beside input and output."""

    recipe: Recipe
    exclude: tuple[str, ...] = ()
    profile: str = "gpu"
    fraction: float = 1.0
    jobs: int = 1
    work: Path | None = None  # folder for what is finished
    scheduler: str | None = None  # address of a Dask cluster
    scratch: Scratch = MEMORY  # for what is finished and what is decoded to be measured
    bands: bool = True  # in the profile archive
    raw_integers: bool = False  # whether the format has integers in mode raw or constant: containers do, graphs do not

    @property
    def in_bands(self) -> bool:
        """Whether tensors may lie in bands."""
        return self.profile == "archive" and self.bands


@dataclass(frozen=True)
class Tensor:
    """A line of the report: a tensor that was compressed."""

    name: str
    shape: tuple[int, ...]
    recipe: str  # "double" or "lossless"
    mode: str  # of its block, or of its bands' blocks
    bands: int
    elements: int
    original_bytes: int
    stored_bytes: int  # payload, side information, counts, layout, scale and zero point
    side_bytes: int  # stored_bytes without the payload
    entropy_bits_per_weight: float  # order-0, of all symbols as if they shared one table
    sparsity: float  # share of codes that are zero
    sqnr_db: float | None  # of the weights; None if nothing changed
    exponent: float | None  # of the activation-aware scale
    statistics: str  # "calibrated", "unknown" or "not used"
    histogram: tuple[int, ...]  # of the symbols
    absorbed: str | None = None  # where the inverse of the activation-aware scale went, see onnx_export.placement

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element."""
        return 8 * self.stored_bytes / self.elements


@dataclass(frozen=True)
class Skipped:
    """A line of the report: a tensor that was copied."""

    name: str
    reason: str
    elements: int
    stored_bytes: int
    inserted: bool = False  # no weight of the original


Lines = tuple[list[Tensor], list[Skipped], list[str]]  # compressed, copied, notes
Result = tuple[Stored, Call | None, Tensor]  # no call where coding would not shrink


def compress_weight(
    name: str,
    array: Array,
    settings: LayerSettings,
    statistics: ActivationStatistics | None,
    input_axis: int,
    row_axis: int | None,
    options: Options,
    row_scale: npt.NDArray[np.float32] | None = None,
) -> tuple[Stored, Tensor]:
    """Scale, quantize, prune and code a float weight in its own layout.

    Parameters
    ----------
    name : str
    array : float, any shape
    settings : LayerSettings
    statistics : ActivationStatistics, optional
        None if nothing is known about the layer's input.
    input_axis : int
        Axis of the input channels.
    row_axis : int, optional
        Axis of output channels that get a scale each.
    options : Options
    row_scale : float32, shape (out,), optional
        What its output channels were divided by, see `refimpl.pipeline.quantize_layer`.

    Raises
    ------
    InvalidArgument
        NaN, infinite or, once quantized, too large values; the message names the tensor.
    """
    by_row = row_axis is not None
    axis = input_axis if row_axis is None else row_axis  # the one whose channels have a scale each
    matrix = to_rows(array, axis) if by_row else to_matrix(array, axis)
    known = statistics or ActivationStatistics.unknown(matrix.shape[1])
    if array.ndim != 2:  # rows of the matrix lie along several axes: no vector of scales fits them
        settings = replace(settings, outliers=tuple(o for o in settings.outliers if o != "rows"))
    try:
        layer = quantize_layer(matrix, known, settings, row_scale)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from None
    check_finite(name, array, layer.reconstruction)
    if not by_row and len(layer.folded_scale) > 1:  # rows around outliers: the other one of two axes
        axis, by_row = 1 - axis % 2, True
    stored = store_matrix(array, layer.symbols, layer.zero_point, layer.folded_scale, axis, by_row, options)
    sqnr = sqnr_db(matrix.astype(np.float32), layer.reconstruction)
    line = describe(name, array, stored, histogram(layer.symbols), layer.zero_point)
    return stored, replace(
        line,
        recipe=options.recipe.name,
        sqnr_db=sqnr if np.isfinite(sqnr) else None,
        exponent=layer.exponent,
        absorbed=None if (layer.channel_scale == 1).all() else "dequantization",
        statistics=statistics_used(row_axis is not None and not settings.sparsity, statistics),
    )


def statistics_used(unneeded: bool, statistics: ActivationStatistics | None) -> str:
    """What the report says of a weight's statistics."""
    return "not used" if unneeded else "calibrated" if statistics else "unknown"


def check_finite(name: str, array: Array, reconstruction: npt.NDArray[np.float32]) -> None:
    """Refuse a weight that its own type cannot hold once it is quantized.

    Raises
    ------
    InvalidArgument
        A value rounds to infinity.
    """
    with np.errstate(over="ignore"):
        if not np.isfinite(reconstruction.astype(array.dtype)).all():
            raise InvalidArgument(f"{name}: its largest values round to infinity in {array.dtype}, --exclude it")


def store_matrix(
    array: Array,
    symbols: npt.NDArray[np.uint8],
    zero_point: int,
    scale: npt.NDArray[np.float32],
    axis: int,
    by_row: bool,
    options: Options,
    bands: Bands | None = None,
) -> Stored:
    """Code the symbols of a weight's matrix in the layout of the weight.

    Parameters
    ----------
    array : float, any shape
        The weight.
    symbols : uint8, shape (out, in)
    zero_point : int
    scale : float32
        One, one of each row or one of each column of the matrix.
    axis : int
        Axis of the weight that the scales follow: its rows if ``by_row``, else its input channels.
    bands : uint8, optional
        Band of each channel along the axis; default as few or as many as pay, see `store`.
    """
    codes = (from_rows if by_row else from_matrix)(symbols, array.shape, axis).astype(np.int16) - zero_point
    by_channel = along_axis(scale.reshape(-1), array.ndim, axis)
    dtype = next(d for d in FLOATS if FLOATS[d] == array.dtype)
    if bands is not None:
        return store_banded(codes, by_channel, dtype, axis, bands, options)
    return store(codes, by_channel, dtype, options)


def store(codes: Array, scale: Array | None, dtype: str, options: Options) -> Stored:
    """Code a tensor, with the profile archive in bands of channels along the axis where these save most.

    Parameters
    ----------
    codes : integers, any shape
        int16 codes of a weight, or integers as they are.
    scale : float32, as many axes as the codes
        None for integers.
    dtype : str
        Key of `codec.tensor.DTYPES`.
    options : Options
    """
    whole = store_part(codes, scale, dtype, options)
    alone = codes.ndim < 2 or whole.frame.block.mode == "constant" or dtype in ("int4", "uint4")
    if not options.in_bands or alone:
        return whole
    best: Stored = whole
    most = (1 - LEAST_SAVING) * whole.stored_bytes
    for axis in range(codes.ndim):
        bands = code_bands(channel_counts(codes, axis), 8 * PART_BYTES)
        if bands.any():
            banded = store_banded(codes, scale, dtype, axis, bands, options)
            size = bytes_in_file(banded) - PART_BYTES
            coded = all(part.frame.block.stream is not None for part in banded.parts)
            has_form = coded or scale is not None or options.raw_integers
            if size < most and has_form:
                best, most = banded, size
    return best


def store_banded(
    codes: Array, scale: Array | None, dtype: str, axis: int, bands: Bands, options: Options
) -> BandedTensor:
    """Code a tensor in these bands; arguments as for `store`."""
    every = split_bands(codes, axis, bands)
    scales = [None] * len(every) if scale is None else split_bands(scale, axis, bands)
    parts = [store_part(c, s, dtype, options) for c, s in zip(every, scales, strict=True)]
    return BandedTensor(axis % codes.ndim, bands, tuple(parts))


def store_part(codes: Array, scale: Array | None, dtype: str, options: Options) -> StoredTensor:
    """Code a tensor with one table; arguments as for `store`."""
    if scale is None:
        return store_integers(codes.astype(DTYPES[dtype]), profile=options.profile, fraction=options.fraction)
    symbols, zero = to_symbols(codes)
    shared = scale.size > 0 and bool((scale == scale.flat[0]).all())  # without activation-aware scaling all share one
    return store_weight(
        symbols,
        np.array(zero, np.uint8),
        scale.reshape(-1)[0].reshape(()) if shared else scale,
        dtype,
        profile=options.profile,
        fraction=options.fraction,
    )


def channel_counts(codes: Array, axis: int) -> npt.NDArray[np.int64]:
    """How often each code occurs in each channel along an axis, (channels, codes from the least or 0 to the largest).

    Examples
    --------
    >>> channel_counts(np.array([[-1, 1], [1, 1]], np.int16), 0)
    array([[1, 0, 1],
           [0, 0, 2]])
    """
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    least = int(codes.min(initial=0))
    alphabet = int(codes.max(initial=0)) - least + 1
    return np.stack([np.bincount(row.astype(np.int64) - least, minlength=alphabet) for row in rows])


def as_raw(stored: StoredTensor) -> StoredTensor:
    """The same tensor with all its symbols stored raw, a byte or half a byte each."""
    flat = load_symbols(stored).reshape(-1)
    small = bool(flat.max(initial=0) < 16)
    block = Block("raw", len(flat), pack_nibbles(flat) if small else flat, packed=small)
    return replace(stored, frame=Frame(block, stored.frame.symbols_crc))


def keep_result(name: str, result: Result, scratch: Scratch) -> Result:
    """The same result, its bytes in files."""
    stored, call, line = result
    stored = keep_stored(stored, scratch)
    return stored, None if call is None else write_call(name, stored), line


def keep_stored(stored: Stored, scratch: Scratch) -> Stored:
    """The same tensor, its bytes in files."""
    if isinstance(stored, BandedTensor):
        return replace(stored, parts=tuple(keep_part(part, scratch) for part in stored.parts))
    return keep_part(stored, scratch)


def keep_part(stored: StoredTensor, scratch: Scratch) -> StoredTensor:
    """The same tensor, its bytes in files."""
    block = stored.frame.block
    block = replace(block, raw=scratch.keep(block.raw))
    if block.stream is not None:
        block = replace(block, stream=replace(block.stream, words=scratch.keep(block.stream.words)))
    return replace(stored, frame=replace(stored.frame, block=block))


def bytes_in_file(stored: Stored) -> int:
    """About what a tensor takes of a file, names and nodes included."""
    return stored.stored_bytes + PART_BYTES * len(stored.parts)


def mode_of(stored: Stored) -> str:
    """Mode of a tensor's block, or of its bands' blocks."""
    return ", ".join(sorted({part.frame.block.mode for part in stored.parts}))


def compress_integers(name: str, array: Array, options: Options) -> tuple[Stored, Tensor]:
    """Code an already quantized tensor without loss.

    Parameters
    ----------
    name : str
    array : int8, uint8, int4 or uint4, any shape
    options : Options
    """
    stored = store(array, None, array.dtype.name, options)
    symbols, zero = to_symbols(array.astype(np.int16))
    return stored, describe(name, array, stored, histogram(symbols), zero)


def describe(name: str, array: Array, stored: Stored, counts: npt.NDArray[np.int64], zero: int) -> Tensor:
    """The report line of a tensor that is coded without loss; `compress_weight` adds what it did."""
    return Tensor(
        name=name,
        shape=array.shape,
        recipe="lossless",
        mode=mode_of(stored),
        bands=len(stored.parts),
        elements=array.size,
        original_bytes=nbytes(array),
        stored_bytes=stored.stored_bytes,
        side_bytes=int(stored.stored_bytes - stored.payload_bytes),
        entropy_bits_per_weight=entropy_of_counts(counts),
        sparsity=float(counts[zero] / array.size) if zero < len(counts) else 0.0,
        sqnr_db=None,
        exponent=None,
        statistics="not used",
        histogram=tuple(counts.tolist()),
    )


def reason_to_copy(name: str, array: Array, options: Options) -> str | None:
    """Why a tensor is copied as it is, whatever reads it; None if it is not."""
    if is_excluded(name, options):
        return "excluded by the user"
    if not array.size:
        return "no elements"
    if array.dtype.name in INTEGERS:
        return None
    if array.dtype.name not in FLOATS:
        return f"{array.dtype.name} tensors are not compressed"
    if options.recipe.keeps_floats:
        return "float weights, which the lossless recipe keeps"
    if array.ndim < 2:
        return "a vector" if array.ndim else "a number"
    return None


def is_excluded(name: str, options: Options) -> bool:
    """Whether the caller wants a tensor copied."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in options.exclude)


def uncalibrated(options: Options, sizes: Mapping[str, int]) -> Options:
    """The options for weights of these sizes of which no activation is known.

    The smallest ones stay as they are: a kernel of some hundred elements, through which all goes that comes behind
    it, may need more than 8 bits, and takes next to nothing.
    """
    recipe = raise_targets(options.recipe, UNCALIBRATED_RAISE_DB)
    if recipe.weights is None:
        return replace(options, recipe=recipe)
    left, room = [], MOST_LEFT * sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room < 0 or sizes[name] >= FEW:
            break
        left.append(name)
    return replace(options, recipe=replace(recipe, weights=replace(recipe.weights, left=frozenset(left))))


def with_container_bytes(line: Tensor, stored_bytes: int) -> Tensor:
    """The line with what its container really stores for the tensor."""
    return replace(line, stored_bytes=stored_bytes, side_bytes=line.side_bytes + stored_bytes - line.stored_bytes)


def skip(name: str, array: Array, reason: str) -> Skipped:
    """The report's line for a tensor that is copied."""
    return Skipped(name, reason, array.size, nbytes(array))


def nbytes(array: Array) -> int:
    """Bytes of a tensor in a file: elements of 2 or 4 bits lie several in a byte.

    Examples
    --------
    >>> import ml_dtypes
    >>> nbytes(np.zeros(5, ml_dtypes.int4)), nbytes(np.zeros(5, np.int8))
    (3, 5)
    """
    bits = NARROW_BITS.get(array.dtype.name)
    return array.nbytes if bits is None else -(-array.size * bits // 8)
