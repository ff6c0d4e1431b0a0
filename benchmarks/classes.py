"""What classes of rare symbols save: exact payload over entropy, without and with them. Prints a table.

    python benchmarks/classes.py

Frequencies are those of 2**24 symbols. The expected code length is exact (see spread.py); literals are added.
"""

import math

import numpy as np
import numpy.typing as npt
from spread import bits_per_symbol, gaussian, sparse

from refimpl.tans.classes import class_table, merge_histogram
from refimpl.tans.counts import normalize_counts
from refimpl.tans.model import make_model
from refimpl.tans.spread import spread_symbols

Floats = npt.NDArray[np.float64]


def generalized(shape: float, sigma: float, last: int = 127) -> Floats:
    """Probabilities of a rounded generalized Gaussian; shape 1 is Laplace's."""
    fine = np.linspace(-last - 0.5, last + 0.5, (2 * last + 1) * 64 + 1)
    middle = (fine[1:] + fine[:-1]) / 2
    width = sigma * math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    p = np.exp(-((np.abs(middle) / width) ** shape)).reshape(-1, 64).sum(1)
    return p / p.sum()


def pairs(p: Floats) -> Floats:
    """Probabilities of two symbols below 16 in one byte."""
    padded = np.concatenate([p, np.zeros(16 - len(p))])
    return np.outer(padded, padded).ravel()


def excess(p: Floats, table_log: int) -> tuple[float, float, float]:
    """Payload over entropy in percent without and with classes, and the share of symbols with a literal."""
    histogram = np.round(p * 2**24).astype(np.int64)
    p = histogram / histogram.sum()
    entropy = -float((p[p > 0] * np.log2(p[p > 0])).sum())
    plain = normalize_counts(histogram, table_log)
    without = bits_per_symbol(spread_symbols(plain).astype(np.int64), plain, p)
    model = make_model(histogram, table_log)
    table = class_table(model.classes)
    merged = merge_histogram(histogram, table)[: len(model.counts)] / histogram.sum()
    literal_bits = table.width[table.leader[: len(p)]]
    coded = bits_per_symbol(spread_symbols(model.counts).astype(np.int64), model.counts, merged)
    with_classes = coded + float((p * literal_bits).sum())
    return 100 * (without / entropy - 1), 100 * (with_classes / entropy - 1), float(p[literal_bits > 0].sum())


def main() -> None:
    """Print the table."""
    sources = {
        "int8 Gaussian, H = 4.37": gaussian(5, 127),
        "int8 Gaussian, H = 5.69": gaussian(12.5, 127),
        "int8 Laplace, H = 4.53": generalized(1, 6),
        "int8 Laplace, H = 5.90": generalized(1, 15.5),
        "int8 shape 0.6, H = 4.63": generalized(0.6, 8),
        "int4 pairs, H = 2 * 2.06": pairs(gaussian(0.97, 7)),
        "int4 pairs, H = 2 * 3.04": pairs(gaussian(1.97, 7)),
        "70 % zeros, H = 2.30": sparse(0.7),
        "90 % zeros, H = 0.93": sparse(0.9),
    }
    print("| source | table_log | without | with classes | symbols with a literal |\n|---|---|---|---|---|")
    for name, p in sources.items():
        for table_log in (10, 11, 12):
            without, with_classes, literals = excess(p, table_log)
            print(f"| {name} | {table_log} | {without:.3f} | {with_classes:.3f} | {100 * literals:.2f} % |")


if __name__ == "__main__":
    main()
