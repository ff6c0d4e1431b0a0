"""A linear probe: logistic regression on embeddings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PENALTY = 1e-4  # times the squared weights, beside the mean loss
STEPS = 25
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """Says yes where x weights + bias is positive."""

    weights: Array
    bias: float

    def __call__(self, x: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """The answers."""
        return x @ self.weights + self.bias > 0


def fit(x: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> Probe:
    """Logistic regression by Newton's method.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit(x, np.array([False, False, True, True]))(x)
    array([False, False,  True,  True])
    """
    inputs = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    penalty = np.append(np.full(x.shape[1], 2 * PENALTY), 1e-9)  # none for the bias but what keeps it finite
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (probability - labels) / len(x) + penalty * weights
        curvature = (inputs.T * (probability * (1 - probability))) @ inputs / len(x) + np.diag(penalty)
        weights -= np.linalg.solve(curvature, gradient)
    return Probe(weights[:-1], float(weights[-1]))
