"""What a symbol spread costs: exact expected code length over entropy, for several rules. Prints a table.

    python benchmarks/spread.py

The encoder's state is a Markov chain; its stationary distribution gives the bits per symbol without sampling.
Rules: `step` (FSE's stepping), `even` (slots at (2j+1)/2q), `late` (at (j+1)/q), `tuned` (Duda's, needs the true
probabilities and logarithms), `tansor` (even, single slots last: the one in refimpl/tans/spread.py).
"""

import math

import numpy as np
import numpy.typing as npt

from refimpl.tans.counts import list_slots, normalize_counts
from refimpl.tans.spread import spread_symbols
from refimpl.tans.tables import bit_length

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def gaussian(sigma: float, last: int) -> Floats:
    """Probabilities of a rounded Gaussian, codes -last to last."""
    edges = np.array([math.erf((k - 0.5) / sigma / math.sqrt(2)) for k in range(-last, last + 2)])
    p = np.diff(edges)
    return p / p.sum()


def sparse(zeros: float) -> Floats:
    """A Gaussian most of whose codes were pruned."""
    p = gaussian(8, 50) * (1 - zeros)
    p[50] += zeros
    return p


def spread(rule: str, counts: Integers, p: Floats) -> Integers:
    """Symbols over the table by a rule."""
    if rule == "tansor":
        return spread_symbols(counts).astype(np.int64)
    symbol, slot = list_slots(counts)
    q = counts[symbol]
    size = len(symbol)
    if rule == "step":
        result = np.empty(size, np.int64)
        result[np.arange(size) * ((size >> 1) + (size >> 3) + 3) % size] = symbol
        return result
    keys = {
        "even": (2 * slot + 1) / (2 * q),
        "late": (slot + 1) / q,
        "tuned": 1 / (p[symbol] * np.log1p(1 / (q + slot))),
    }
    return symbol[np.argsort(keys[rule], kind="stable")]


def bits_per_symbol(table: Integers, counts: Integers, p: Floats) -> float:
    """Expected bits of an endless stream of symbols drawn from p."""
    size = len(table)
    number = occurrence(table.astype(np.uint8)) + counts[table]
    bit_count = int(size).bit_length() - bit_length(number)
    first = (number << bit_count) - size
    last = first + (1 << bit_count)
    state = np.full(size, 1 / size)
    for _ in range(500):
        summed = np.concatenate([[0.0], np.cumsum(state)])
        following = p[table] * (summed[last] - summed[first])
        following /= following.sum()
        if np.abs(following - state).sum() < 1e-13:
            break
        state = following
    return float((state * bit_count).sum())


def occurrence(symbol: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How often each entry's symbol stands before it.

    Examples
    --------
    >>> occurrence(np.array([5, 7, 5, 5], np.uint8))
    array([0, 0, 1, 2])
    """
    order = np.argsort(symbol, kind="stable")
    counts = np.bincount(symbol)
    first = np.cumsum(counts) - counts  # index where each symbol's group begins
    result = np.empty(len(symbol), np.int64)
    result[order] = np.arange(len(symbol)) - first[symbol[order]]
    return result


def main() -> None:
    """Print the excess over entropy in percent."""
    rules = ("step", "even", "late", "tansor", "tuned")
    sources = {
        "int4, H = 2.06": gaussian(0.97, 7),
        "int4, H = 3.04": gaussian(1.97, 7),
        "int8, H = 4.37": gaussian(5, 40),
        "int8, H = 5.69": gaussian(12.5, 70),
        "90 % zeros, H = 0.93": sparse(0.9),
    }
    print("| source | table_log | " + " | ".join(rules) + " |\n|---|---|" + "---|" * len(rules))
    for name, p in sources.items():
        entropy = -float((p * np.log2(p)).sum())
        for table_log in (9, 10, 11, 12):
            counts = normalize_counts((p * 1e11).astype(np.int64) + 1, table_log)
            excess = [100 * (bits_per_symbol(spread(r, counts, p), counts, p) / entropy - 1) for r in rules]
            print(f"| {name} | {table_log} | " + " | ".join(f"{e:.3f}" for e in excess) + " |")


if __name__ == "__main__":
    main()
