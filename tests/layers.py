"""Hypothesis strategies: linear layers with the second moment of their input."""

import numpy as np
from hypothesis import strategies as st
from strategies import rng, seeds

from refimpl.hessian import second_moment


def layer(seed, rows=6, inputs=24, tokens=200, kind="correlated"):
    """(weight float32 (rows, inputs), H): inputs correlated, independent, of low rank, or with dead and loud ones."""
    random = rng(seed)
    weight = random.standard_normal((rows, inputs)).astype(np.float32)
    if kind == "diagonal":
        return weight, np.diag(random.uniform(0.1, 10, inputs))
    X = random.standard_normal((tokens, inputs))
    if kind == "low rank":
        X = X[:, : max(1, inputs // 3)] @ random.standard_normal((max(1, inputs // 3), inputs))
    else:
        X = X @ (np.eye(inputs) + 0.5 * random.standard_normal((inputs, inputs)) / np.sqrt(inputs)) + 0.5
    if kind == "dead and loud":
        X = X * np.where(random.random(inputs) < 0.3, 0, np.exp(2 * random.standard_normal(inputs)))
    return weight, second_moment(X)


@st.composite
def layers(draw, kinds=("correlated", "diagonal", "low rank", "dead and loud"), max_rows=5, max_inputs=20):
    return layer(
        draw(seeds), draw(st.integers(1, max_rows)), draw(st.integers(1, max_inputs)), draw(st.integers(1, 40)),
        draw(st.sampled_from(kinds)),
    )  # fmt: skip
