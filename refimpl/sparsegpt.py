"""SparseGPT: pruning, alone or together with quantization, whose errors later columns make up for.

The loop is that of `refimpl.feedback`. What is added here is the choice of what to prune: in each block of columns
the weights whose loss costs the output least, ``w**2 / U[j, j]**2``, exactly as many as asked for.
Specification: docs/spec/pruning.md, "With error feedback".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.feedback import BLOCK, Matrix, feed_back
from refimpl.gptq import whole_groups
from refimpl.numerics import check_weight
from refimpl.pruning import NOfM, n_of_m_mask
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantization_scale, quantize_with
from refimpl.select import prune_count, select_lowest

Mask = npt.NDArray[np.bool_]
Scale = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sparse:
    """A weight pruned with error feedback."""

    mask: Mask  # (out, in) True where pruned
    reconstruction: npt.NDArray[np.float32]  # (out, in) 0 where pruned
    error: float  # sum_i (q_i - w_i)^T H (q_i - w_i)


@dataclass(frozen=True)
class SparseQuantized:
    """A weight pruned and quantized with error feedback."""

    mask: Mask  # (out, in) True where pruned; kept weights may round to 0 too
    quantized: Quantized  # pruned codes are the zero point's
    reconstruction: npt.NDArray[np.float32]  # (out, in) what dequantizing gives
    error: float  # sum_i (q_i - w_i)^T H (q_i - w_i)


def saliency(weight: npt.NDArray[np.floating], diagonal: npt.NDArray[np.floating]) -> Matrix:
    """``S[i, j] = W[i, j]**2 / U[j, j]**2``: what pruning a weight adds to the output's error at the least.

    "At the least": after the columns behind it have made up for it as well as they can, those before being settled.
    ``U[j, j]**2`` is an entry of the inverse of H without the columns before; the inverse of all of H gives another
    score.

    Parameters
    ----------
    weight : float, shape (out, in)
    diagonal : float, shape (in,)
        Of the inverse factor U, `refimpl.hessian.inverse_factor`.

    References
    ----------
    Hassibi et al., "Optimal Brain Surgeon", 1993, equation 5; Frantar and Alistarh, "SparseGPT", arXiv 2301.00774,
    section 3.2.

    Examples
    --------
    >>> saliency(np.array([[2.0, 1.0]]), np.array([1.0, 0.25]))
    array([[ 4., 16.]])
    """
    return np.square(np.asarray(weight, np.float64) / diagonal)


def sparsegpt(
    weight: npt.NDArray[np.floating], factor: Matrix, sparsity: float | NOfM, *, block: int = BLOCK
) -> Sparse:
    """Prune a weight; what is kept changes so that the output changes least.

    Parameters
    ----------
    weight : float, shape (out, in)
        Rounded to float32.
    factor : float64, shape (in, in)
        `refimpl.hessian.inverse_factor`.
    sparsity : float or NOfM
        The share to prune: ``floor(out * in * sparsity)`` weights. The mask is chosen block by block, over all rows
        of the block's columns, from the weights as they are when the block is reached; a block that ends at column
        c brings the count to ``floor(out * c * sparsity)``. Or a pattern: chosen in each row, group by group.
    block : int
        Columns in a block. Blocks of a pattern are cut to whole groups.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit, NaN or infinite values, a sparsity outside [0, 1], columns that are not whole groups.

    References
    ----------
    Frantar and Alistarh, "SparseGPT", arXiv 2301.00774, algorithm 1 and sections 3.2 and 3.3.

    Examples
    --------
    >>> from refimpl.hessian import inverse_factor
    >>> H, W = np.array([[4.0, 2.0], [2.0, 2.0]]), np.array([[0.5, 2.0]])
    >>> result = sparsegpt(W, inverse_factor(H, 0.0), 0.5)
    >>> result.reconstruction, round(result.error, 6)
    (array([[0. , 2.5]], dtype=float32), 0.5)
    """
    mask, settled, error = settle(check_weight(weight), factor, sparsity, lambda _, column: column, block)
    return Sparse(mask, settled, error)


def prune_and_quantize(
    weight: npt.NDArray[np.floating],
    factor: Matrix,
    sparsity: float | NOfM,
    spec: QuantizationSpec,
    *,
    scale: Scale | None = None,
    block: int = BLOCK,
) -> SparseQuantized:
    """Prune and quantize a weight in one pass: each column's error of both kinds is fed into the columns behind it.

    Grids are fitted once, to the weight as it is given, before anything is pruned: zero dead columns before
    (`refimpl.pruning.zero_dead`), lest they widen them. Zero is a code, so what is pruned stays zero. Symmetric and
    per tensor or channel, codes are int8 with one scale or one for each row.

    Parameters
    ----------
    weight, factor, sparsity, block
        See `sparsegpt`.
    spec : QuantizationSpec
    scale : float32, shape (1, 1), (out, 1) or (out, groups), optional
        Instead of the one that the weight's range asks for; symmetric only. What is beyond the codes is clipped.

    Raises
    ------
    InvalidArgument
        See `sparsegpt`; or a scale with an asymmetric spec.

    References
    ----------
    Frantar and Alistarh, "SparseGPT", arXiv 2301.00774, section 3.5, "Joint Sparsification & Quantization".

    Examples
    --------
    >>> from refimpl.hessian import inverse_factor
    >>> H, W = np.array([[4.0, 2.0], [2.0, 2.0]]), np.array([[0.5, 2.0]])
    >>> result = prune_and_quantize(W, inverse_factor(H, 0.0), 0.5, QuantizationSpec(bits=3))
    >>> result.quantized.codes, result.quantized.scale
    (array([[0, 3]], dtype=int8), array([[0.6666667]], dtype=float32))
    """
    W = check_weight(weight)
    if scale is not None and not spec.symmetric:
        raise InvalidArgument("a scale is given, its codes must be symmetric")
    fitted, zero_point = quantization_scale(W, spec)
    grid = fitted if scale is None else np.broadcast_to(scale, fitted.shape)
    one_column = replace(spec, granularity="channel", group_size=0)

    def round_column(j: int, column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        group = slice(j // spec.group_size, j // spec.group_size + 1) if spec.group_size else slice(None)
        return dequantize(quantize_with(column, grid[:, group], zero_point[:, group], one_column))

    mask, settled, error = settle(W, factor, sparsity, round_column, block)
    return SparseQuantized(mask, quantize_with(settled, grid, zero_point, spec), settled, error)


def settle(
    weight: npt.NDArray[np.float32],
    factor: Matrix,
    sparsity: float | NOfM,
    round_column: Callable[[int, npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    block: int,
) -> tuple[Mask, npt.NDArray[np.float32], float]:
    """(mask, settled weight, error): prune each block, round what is kept, column by column.

    ``round_column`` gets the index of a column and its values, (out, 1).
    """
    mask = np.zeros(weight.shape, np.bool_)
    diagonal = np.diagonal(factor)
    if isinstance(sparsity, NOfM):
        block = whole_groups(block, sparsity.m)

    def decide(j: int, columns: Matrix) -> npt.NDArray[np.floating]:
        if isinstance(sparsity, NOfM):
            if j % sparsity.m == 0:
                group = slice(j, j + sparsity.m)
                mask[:, group] = n_of_m_mask(saliency(columns[:, : sparsity.m], diagonal[group]), sparsity)
        elif j % block == 0:
            last = j + columns.shape[1]
            k = prune_count(len(weight) * last, sparsity) - prune_count(len(weight) * j, sparsity)
            mask[:, j:last] = select_lowest(saliency(columns, diagonal[j:last]), k)
        return np.where(mask[:, j], 0, round_column(j, columns[:, :1].astype(np.float32))[:, 0])

    settled, error = feed_back(weight, factor, decide, block)
    return mask, settled.astype(np.float32), error
