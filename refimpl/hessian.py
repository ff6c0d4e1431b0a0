"""The second moment of a layer's input, and what it says about errors of the weights.

For ``Y = X W^T`` an error ``E = Q - W`` of the weights moves the output by ``X E^T``; the mean of its square over
tokens is ``sum_i E[i] H E[i]^T`` with ``H = X^T X / tokens``. H is half the Hessian of that loss, hence its name
in the literature; it is normalized by tokens, so that neither damping nor losses depend on how samples are cut.
Specification: docs/spec/hessian.md.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from refimpl.errors import InvalidArgument

DAMPING = 0.01  # of the mean of the diagonal; SparseGPT's and GPTQ's default
MOST_DAMPING = 1.0
Matrix = npt.NDArray[np.float64]


def second_moment(activations: npt.NDArray[np.floating]) -> Matrix:
    """``H = X^T X / tokens`` in float64.

    Parameters
    ----------
    activations : float, shape (tokens, in)

    Returns
    -------
    float64, shape (in, in)

    Examples
    --------
    >>> second_moment(np.array([[1.0, 2.0], [1.0, 0.0]]))
    array([[1., 1.],
           [1., 2.]])
    """
    X = np.asarray(activations, np.float64)
    return X.T @ X / max(len(X), 1)


def output_error(difference: npt.NDArray[np.floating], hessian: npt.NDArray[np.floating]) -> float:
    """Mean square that an error of the weights adds to the layer's outputs, summed over outputs.

    Parameters
    ----------
    difference : float, shape (out, in)
        E = Q - W.
    hessian : float, shape (in, in)

    Returns
    -------
    float
        ``sum_i E[i] H E[i]^T``, the outputs' unit squared.

    Examples
    --------
    >>> X, E = np.array([[1.0, 2.0], [1.0, 0.0]]), np.array([[0.5, -0.5]])
    >>> output_error(E, second_moment(X)), float(np.mean((X @ E.T) ** 2))
    (0.25, 0.25)
    """
    E = np.asarray(difference, np.float64)
    return float(np.einsum("ij,ij->", E @ np.asarray(hessian, np.float64), E))


def damped(hessian: npt.NDArray[np.floating], damping: float = DAMPING) -> Matrix:
    """H with ``damping`` times the mean of its diagonal added to the diagonal.

    A dead column, whose input was never active, gets the mean alone: what its weights are does not matter,
    and nothing is fed into them.

    Parameters
    ----------
    hessian : float, shape (in, in)
        Symmetric, positive semi-definite.
    damping : float
        0 or more.

    Raises
    ------
    InvalidArgument
        Not square, not finite, a negative diagonal, or a negative damping.

    References
    ----------
    Frantar and Alistarh, "SparseGPT", arXiv 2301.00774; Frantar et al., "GPTQ", arXiv 2210.17323, section 3.3.

    Examples
    --------
    >>> damped(np.array([[2.0, 0.0], [0.0, 0.0]]), 0.1)
    array([[2.1, 0. ],
           [0. , 1. ]])
    """
    H = np.array(hessian, np.float64)
    if H.ndim != 2 or H.shape[0] != H.shape[1]:
        raise InvalidArgument(f"the Hessian has shape {H.shape}, it must be square")
    diagonal = np.diagonal(H)
    if not np.isfinite(H).all() or (diagonal < 0).any():
        raise InvalidArgument("the Hessian must be finite, with nothing negative on its diagonal")
    if not damping >= 0:
        raise InvalidArgument(f"damping is {damping}, allowed are 0 and more")
    mean = float(diagonal.mean()) if len(H) and diagonal.any() else 1.0
    dead = diagonal == 0
    H[dead], H[:, dead] = 0, 0
    H[np.diag_indices_from(H)] += np.where(dead, mean, damping * mean)
    return H


def inverse_factor(hessian: npt.NDArray[np.floating], damping: float = DAMPING) -> Matrix:
    """The upper factor U of the inverse, ``H^-1 = U^T U``, of the damped H.

    ``U[j, j]**2`` is the error's weight once all columns before j are settled:
    ``U[j, j]**-2`` is what a unit error in column j costs when the columns behind it make up for it as well as
    they can, and ``-U[j, j:] / U[j, j]`` is how they do. If H is numerically singular, the damping is raised tenfold
    until it is not.

    Parameters
    ----------
    hessian : float, shape (in, in)
    damping : float

    Returns
    -------
    float64, shape (in, in)
        Upper triangular, positive diagonal.

    Raises
    ------
    InvalidArgument
        See `damped`; or no damping up to 1 makes H positive definite.

    References
    ----------
    Frantar et al., "GPTQ", arXiv 2210.17323, section 3.3, step 3.

    Examples
    --------
    >>> H = np.array([[4.0, 2.0], [2.0, 2.0]])
    >>> U = inverse_factor(H, 0.0)
    >>> U
    array([[ 0.70710678, -0.70710678],
           [ 0.        ,  0.70710678]])
    >>> np.allclose(U.T @ U @ H, np.eye(2))
    True
    """
    amount = damping
    while True:
        try:
            lower = scipy.linalg.cholesky(damped(hessian, amount), lower=True)
            inverse = scipy.linalg.cho_solve((lower, True), np.eye(len(lower)))
            factor: Matrix = scipy.linalg.cholesky(inverse, lower=False)
            return factor
        except scipy.linalg.LinAlgError:
            amount = max(10 * amount, DAMPING)
            if amount > MOST_DAMPING:
                raise InvalidArgument("the Hessian is not positive semi-definite") from None
