"""GPTQ: rounding whose errors later columns make up for.

Columns are rounded in order by `refimpl.feedback`; the only idea added here is the grid they are rounded to: one for
the tensor, one for a row, or one for each group of columns, fitted when the loop reaches the group.
Specification: docs/spec/hessian.md, "GPTQ".
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.feedback import BLOCK, Matrix, feed_back
from refimpl.numerics import check_weight
from refimpl.quantization import (
    QuantizationSpec,
    Quantized,
    dequantize,
    quantization_scale,
    quantize_with,
)

Order = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Settled:
    """A weight quantized with error feedback."""

    quantized: Quantized  # columns in the weight's own order
    reconstruction: npt.NDArray[np.float32]  # (out, in) what dequantizing gives
    error: float  # sum_i (q_i - w_i)^T H (q_i - w_i)


def activation_order(hessian: npt.NDArray[np.floating]) -> Order:
    """Columns by descending ``H[j, j]``, ties by lowest index: the loudest inputs are rounded first.

    Rounded first, a column has all others left to make up for its error.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323; the option `--act-order` of the authors' code.

    Examples
    --------
    >>> activation_order(np.diag([1.0, 3.0, 3.0]))
    array([1, 2, 0])
    """
    return np.argsort(-np.diagonal(hessian), kind="stable")


def gptq(
    weight: npt.NDArray[np.floating],
    factor: Matrix,
    spec: QuantizationSpec,
    *,
    order: Order | None = None,
    static_groups: bool = False,
    block: int = BLOCK,
) -> Settled:
    """Quantize a weight column by column, each error fed into the columns behind it.

    Grids of a tensor or a row are fitted to the original weight. The grid of a group is fitted, when its first
    column is reached, to the working copy, in which the errors of all columns before are made up for; static groups
    are fitted to the original. A group ends where the next begins: blocks are cut to whole groups, so that results
    do not depend on them. Zero dead columns before (`refimpl.pruning.zero_dead`), lest they widen a grid.

    Parameters
    ----------
    weight : float, shape (out, in)
        Rounded to float32.
    factor : float64, shape (in, in)
        `refimpl.hessian.inverse_factor` of H, or with an order that of ``H[order][:, order]``.
    spec : QuantizationSpec
    order : integer, shape (in,), optional
        Columns in the order in which they are rounded: a permutation, such as `activation_order`. With groups they
        must be static, since a stored group is a run of neighbouring columns.
    static_groups : bool
    block : int
        See `refimpl.feedback.feed_back`.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit, NaN or infinite values, an order that is no permutation, or one with groups that are
        not static.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323, algorithm 1 and section 3.3; groups: "Additional Tricks".
    Static groups and the order are options of the authors' code.

    Examples
    --------
    >>> from refimpl.hessian import inverse_factor
    >>> H, W = np.array([[4.0, 2.0], [2.0, 2.0]]), np.array([[1.5, 3.0]])
    >>> result = gptq(W, inverse_factor(H, 0.0), QuantizationSpec(bits=3))
    >>> result.quantized.codes, result.quantized.scale, round(result.error, 6)
    (array([[2, 2]], dtype=int8), array([[1.]], dtype=float32), 1.0)
    """
    W = check_weight(weight)
    scale, zero_point = quantization_scale(W, spec)
    size = spec.group_size
    if order is not None and sorted(order) != list(range(W.shape[1])):
        raise InvalidArgument(f"the order is not a permutation of {W.shape[1]} columns")
    if order is not None and size and not static_groups:
        raise InvalidArgument("groups in another order must be static")
    columns_in_order = np.arange(W.shape[1]) if order is None else np.asarray(order)
    one_column = replace(spec, granularity="channel", group_size=0)

    def round_column(j: int, columns: Matrix) -> npt.NDArray[np.float32]:
        group = columns_in_order[j] // size if size else 0
        here = slice(group, group + 1)
        if size and not static_groups and j % size == 0:
            scale[:, here], zero_point[:, here] = quantization_scale(columns[:, :size].astype(np.float32), one_column)
        column = columns[:, :1].astype(np.float32)
        return dequantize(quantize_with(column, scale[:, here], zero_point[:, here], one_column))[:, 0]

    in_order, error = feed_back(W[:, columns_in_order], factor, round_column, whole_groups(block, size))
    settled = np.empty_like(W)
    settled[:, columns_in_order] = in_order
    return Settled(quantize_with(settled, scale, zero_point, spec), settled, error)  # a multiple of the scale stays one


def whole_groups(block: int, group_size: int) -> int:
    """The block, cut to whole groups, at least one.

    Examples
    --------
    >>> whole_groups(128, 48), whole_groups(128, 256), whole_groups(128, 0)
    (96, 256, 128)
    """
    return max(block - block % group_size, group_size) if group_size else block
