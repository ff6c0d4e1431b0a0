"""What is coded: codes drawn from named distributions at a given entropy, and the codes of a compressed model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from codec.tensor import load_symbols
from onnx_export.calls import read_calls
from refimpl.metrics import entropy_of_counts
from refimpl.symbols import to_symbols

Symbols = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SAMPLE = 1 << 20  # numbers that the scale is chosen on
SHAPE = 0.6  # of the generalized Gaussian: density proportional to exp(-|x| ** SHAPE)


@dataclass(frozen=True)
class Source:
    """Symbols to code, part by part: most sources are one, a model's tensors are many."""

    name: str
    parts: list[Symbols]

    @property
    def count(self) -> int:
        """Symbols of all parts."""
        return sum(len(part) for part in self.parts)

    @property
    def entropy_bits(self) -> float:
        """Empirical order-0 entropy of all parts, each with its own histogram."""
        return sum(len(part) * entropy(part) for part in self.parts)


def entropy(values: npt.NDArray[np.integer]) -> float:
    """Empirical order-0 entropy in bits per value."""
    counts = np.unique(values, return_counts=True)[1] if values.dtype != np.uint8 else np.bincount(values)
    return entropy_of_counts(counts)


def gaussian(rng: np.random.Generator, count: int) -> Floats:
    """Standard normal numbers."""
    return rng.standard_normal(count, np.float32)


def laplace(rng: np.random.Generator, count: int) -> Floats:
    """Exponential numbers with a random sign."""
    return rng.standard_exponential(count, np.float32) * sign(rng, count)


def generalized(rng: np.random.Generator, count: int) -> Floats:
    """A power of gamma numbers with a random sign: heavier tails than Laplace's."""
    return rng.standard_gamma(1 / SHAPE, count, np.float32) ** np.float32(1 / SHAPE) * sign(rng, count)


def sign(rng: np.random.Generator, count: int) -> Floats:
    """-1 or 1."""
    return np.float32(2) * rng.integers(0, 2, count, np.int8) - np.float32(1)


def quantize(numbers: Floats, scale: float, largest: int) -> npt.NDArray[np.int8]:
    """Rounded and clipped codes."""
    return np.clip(np.rint(numbers * np.float32(scale)), -largest, largest).astype(np.int8)


def choose_scale(numbers: Floats, target: float, largest: int) -> float:
    """The smallest scale whose codes have the target entropy, by bisection."""
    sample = numbers[:SAMPLE]
    high = 0.01
    while entropy(quantize(sample, high, largest)) < target:
        high *= 1.2
    low = high / 1.2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(quantize(sample, middle, largest)) < target else (low, middle)
    return high


def at_entropy(
    draw: Callable[[np.random.Generator, int], Floats], target: float, largest: int, count: int, seed: int
) -> Symbols:
    """Symbols of a distribution at an entropy."""
    numbers = draw(np.random.default_rng(seed), count)
    return to_symbols(quantize(numbers, choose_scale(numbers, target, largest), largest))[0]


def sparse(zeros: float, count: int, seed: int) -> Symbols:
    """Symbols of which a share is the code 0, the others Gaussian with sigma 8."""
    rng = np.random.default_rng(seed)
    codes = quantize(gaussian(rng, count), 8, 127)
    zero_already = 1 - np.count_nonzero(codes) / count
    codes[rng.random(count, np.float32) < (zeros - zero_already) / (1 - zero_already)] = 0
    return to_symbols(codes)[0]


def model_codes(path: Path) -> list[Symbols]:
    """Symbols of every coded tensor of a compressed ONNX model, of each of its bands if it has some."""
    tensors = [part for _, stored, _ in read_calls(onnx.load(path)) for part in stored.parts]
    return [load_symbols(t).reshape(-1) for t in tensors if t.frame.block.mode in ("coded", "partial")]


def list_sources(count: int, model: Path | None) -> Iterator[Source]:
    """All sources, one in memory at a time."""
    seed = 0
    for name, draw in (("Gaussian", gaussian), ("Laplace", laplace), (f"generalized Gaussian {SHAPE}", generalized)):
        for target in (2.0, 3.0, 4.4, 5.7):
            seed += 1
            yield Source(f"int8 {name}, H = {target}", [at_entropy(draw, target, 127, count, seed)])
    for target in (2.0, 3.0):
        seed += 1
        yield Source(f"int4 Gaussian, H = {target}", [at_entropy(gaussian, target, 7, count, seed)])
    for zeros in (0.7, 0.9):
        seed += 1
        yield Source(f"int8, {zeros:.0%} zeros", [sparse(zeros, count, seed)])
    if model:
        parts = model_codes(model)
        yield Source("model, its codes in one stream", [np.concatenate(parts)])
        yield Source(f"model, {len(parts)} tensors one by one", parts)
