"""The layer pipeline: scale -> quantize -> prune -> code, every intermediate result returned.

``W (out, in)`` and what calibration saw of the layer's input go in; codes, masks, symbols, coded bits
and the weight that a decoder will see come out. Specification: docs/spec/pipeline.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from refimpl.activations import ActivationStatistics
from refimpl.errors import InvalidArgument
from refimpl.numerics import check_weight
from refimpl.pruning import linf_score, prune, prune_mask
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantization_scale, quantize_with
from refimpl.scaling import fold_into_scale, max_scale, scale_channels
from refimpl.search import Aim, Outliers, Searched, choose_exponent, row_scales
from refimpl.symbols import to_symbols
from refimpl.tans.blocks import Block, encode_block
from refimpl.tans.stream import NUMPY, Kernels


@dataclass(frozen=True)
class LayerSettings:
    """What the pipeline may do to a layer.

    Without ``target_sqnr_db`` the first exponent is used and the scale is the finest one,
    ``max|W'| / last code``. With it, `refimpl.search` picks both. Granularity "channel" gives each output
    channel its own scale instead of scaling input channels: one of the two, so that a vector undoes it.
    Where outliers keep a scale for the whole tensor from the target, what ``outliers`` names may get coarser
    scales of its own.
    """

    bits: int = 8
    granularity: Literal["tensor", "channel"] = "tensor"
    exponents: tuple[float, ...] = (0.0,)
    target_sqnr_db: float | None = None
    sparsity: float = 0.0
    outliers: tuple[Outliers, ...] = ()
    activation_bits: int | None = None  # the layer's input is quantized to so many bits

    def __post_init__(self) -> None:
        if not self.exponents:
            raise InvalidArgument("exponents are empty, at least one is needed")

    def aim(self, *, absorbed: bool = False) -> Aim:
        """What the search is to reach; a target is set."""
        assert self.target_sqnr_db is not None, "only layers with a target are searched"
        last_code = QuantizationSpec(bits=self.bits).code_range[1]
        return Aim(self.exponents, self.target_sqnr_db, last_code, self.outliers, absorbed, self.activation_bits)


@dataclass(frozen=True)
class QuantizedLayer:
    """All intermediate results of scale, quantize and prune."""

    exponent: float
    channel_scale: npt.NDArray[np.float32]  # (in,) s
    scaled: npt.NDArray[np.float32]  # (out, in) W' = W s
    scale: npt.NDArray[np.float32]  # (1, 1), (1, in) or (out, 1) step of the quantizer of W'
    codes: npt.NDArray[np.int8]  # (out, in) before pruning
    mask: npt.NDArray[np.bool_]  # (out, in) True where pruned
    pruned: npt.NDArray[np.int8]  # (out, in)
    symbols: npt.NDArray[np.uint8]  # (out, in)
    zero_point: int  # symbol of code 0
    folded_scale: npt.NDArray[np.float32]  # (1, in) scale / s, or (out, 1)
    reconstruction: npt.NDArray[np.float32]  # (out, in) (symbols - zero_point) * folded_scale


def quantize_layer(
    weight: npt.NDArray[np.floating],
    statistics: ActivationStatistics,
    settings: LayerSettings,
    row_scale: npt.NDArray[np.float32] | None = None,
) -> QuantizedLayer:
    """Scale, quantize and prune one layer.

    Parameters
    ----------
    weight : float, shape (out, in)
    statistics : ActivationStatistics
        Of the layer's input.
    settings : LayerSettings
    row_scale : float32, shape (out,), optional
        What the rows were divided by before, for the scale of the layer behind: pruning and search count each row
        with its size before that.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit, NaN or infinite values, settings out of range.

    References
    ----------
    "When Compression Meets Model Compression", arXiv 2502.15443, figures 2 and 3.

    Examples
    --------
    >>> layer = quantize_layer(
    ...     np.array([[0.5, -1.0], [0.1, 0.25]]), ActivationStatistics(np.array([4.0, 1.0]), np.ones(2), np.ones(2)),
    ...     LayerSettings(bits=4, exponents=(0.5,), sparsity=0.25))
    >>> layer.codes.tolist(), layer.pruned.tolist(), layer.zero_point
    ([[7, -7], [1, 2]], [[7, -7], [1, 0]], 7)
    """
    W = check_weight(weight)
    if W.ndim != 2 or statistics.maximum.shape != W.shape[1:] or statistics.mean_square.shape != W.shape[1:]:
        raise InvalidArgument(f"weight {W.shape} does not fit statistics of {statistics.maximum.shape} channels")
    spec = QuantizationSpec(bits=settings.bits, granularity=settings.granularity)
    by_row = settings.granularity == "channel"
    exponent = 0.0 if by_row else settings.exponents[0]
    if row_scale is not None and (row_scale.shape != W.shape[:1] or not (row_scale > 0).all()):
        raise InvalidArgument(f"a scale of rows has to be {len(W)} positive numbers")
    mask = prune_mask(linf_score(undivided(W, row_scale), statistics.maximum), settings.sparsity)
    found = None
    if settings.target_sqnr_db is not None and W.any() and not by_row:
        layer = Searched(W, ~mask if settings.sparsity else None, row_scale)
        found = choose_exponent(layer, statistics, settings.aim())
        exponent = found.exponent
    channel_scale = max_scale(statistics.maximum, exponent)
    scaled = scale_channels(W, channel_scale)
    scale, _ = quantization_scale(scaled, spec)
    if found is not None:
        scale = found.scale
    elif by_row and settings.target_sqnr_db is not None:
        scale = np.maximum(scale, row_scales(scaled, settings.target_sqnr_db))
    codes = quantize_with(scaled, scale, np.zeros((1, 1), np.uint8), spec).codes
    pruned = prune(codes, mask)
    symbols, zero_point = to_symbols(pruned)
    folded_scale = scale if by_row or len(scale) > 1 else fold_into_scale(scale, channel_scale)
    reconstruction = dequantize(Quantized(pruned.astype(np.int8), folded_scale, np.zeros((1, 1), np.uint8)))
    return QuantizedLayer(
        exponent, channel_scale, scaled, scale, codes.astype(np.int8), mask, pruned.astype(np.int8),
        symbols, zero_point, folded_scale, reconstruction,
    )  # fmt: skip


def undivided(weight: npt.NDArray[np.float32], row_scale: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """The weight as it was before its rows were divided.

    Examples
    --------
    >>> undivided(np.array([[1, 2]], np.float32), np.array([4], np.float32))
    array([[4., 8.]], dtype=float32)
    """
    return weight if row_scale is None else scale_channels(weight.T, row_scale).T


def compress_layer(
    weight: npt.NDArray[np.floating],
    statistics: ActivationStatistics,
    settings: LayerSettings,
    *,
    profile: str = "gpu",
    fraction: float = 1.0,
    kernels: Kernels = NUMPY,
) -> tuple[QuantizedLayer, Block]:
    """All four steps: `quantize_layer`, then `refimpl.tans.blocks.encode_block`.

    Examples
    --------
    >>> weight = np.linspace(-1, 1, 4096).reshape(64, 64) ** 3
    >>> layer, block = compress_layer(weight, ActivationStatistics.unknown(64), LayerSettings(target_sqnr_db=25))
    >>> block.mode, block.stored_bits < 4 * weight.size
    ('coded', True)
    """
    layer = quantize_layer(weight, statistics, settings)
    return layer, encode_block(layer.symbols, profile=profile, fraction=fraction, kernels=kernels)
