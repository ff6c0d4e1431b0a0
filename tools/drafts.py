"""Cases before they are written: inputs and parameters, or an input that must be refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy.typing as npt

from conformance.lcg import Lcg, generate

Array = npt.NDArray[Any]

VALID, EDGE, TIES, REFUSED = ("valid",), ("edge",), ("ties",), ("invalid-argument",)
ULP = {"rtol": 1.2e-7, "atol": 0.0, "why": "pow may differ by one unit in the last place"}


@dataclass(frozen=True)
class Drawn:
    """An array that is stored as its recipe."""

    lcg: Lcg
    shape: tuple[int, ...]
    dtype: str

    def array(self) -> Array:
        """The array."""
        return generate(self.lcg, self.shape, self.dtype)


@dataclass(frozen=True)
class Draft:
    """One case; the reference gives its outputs."""

    step: str
    name: str
    flags: tuple[str, ...]
    inputs: Mapping[str, Array | Drawn]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    outputs: Mapping[str, Array | Drawn] | None = None  # what the reference must give, if it is known beforehand
    compare: Any = "bit-exact"
    hashed: bool = False  # store the outputs' hashes


# Ascending thresholds over 0 .. 65535 are a distribution.
BINOMIAL = tuple(sum(comb(16, k) for k in range(i + 1)) for i in range(16))  # 17 symbols, bell-shaped
HALVES = tuple(65536 - (65536 >> i) for i in range(1, 16))  # 16 symbols, each half as likely as the one before
NIBBLES = tuple(4096 * i for i in range(1, 16))  # 16 symbols, all alike
BYTES = tuple(256 * i for i in range(1, 256))  # 256 symbols, all alike
SPARSE = tuple(range(62000, 65300, 200))  # one symbol for nearly everything and 17 rare ones: they share slots
RARE = (50000, 60000, *range(65000, 65520, 8))  # three frequent symbols and 65 rare ones


def symbols(thresholds: tuple[int, ...], count: int, seed: int = 1) -> Drawn:
    """Symbols of a distribution."""
    return Drawn(Lcg(seed, thresholds), (count,), "uint8")


def weights(rows: int, columns: int, exponent: int = -15, seed: int = 1) -> Drawn:
    """float32 weights, uniform in [-2**(15+exponent), 2**(15+exponent))."""
    return Drawn(Lcg(seed, exponent=exponent), (rows, columns), "float32")
