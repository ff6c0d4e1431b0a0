"""What classes of rare symbols save: exact payload over entropy, without and with them. Prints a table.

    python benchmarks/classes.py

Frequencies are those of 2**24 symbols. The expected code length is exact (see spread.py); literals are added.
"""

import math

import numpy as np
import numpy.typing as npt
from spread import bits_per_symbol, gaussian, sparse

from refimpl.tans.classes import LITERAL_PRICE, class_table, merge_histogram
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


def excess(p: Floats, table_log: int) -> list[float]:
    """Percents: payload over entropy without classes; for each profile that with them, and symbols with a literal."""
    histogram = np.round(p * 2**24).astype(np.int64)
    p = histogram / histogram.sum()
    entropy = -float((p[p > 0] * np.log2(p[p > 0])).sum())
    plain = normalize_counts(histogram, table_log)
    shares = [bits_per_symbol(spread_symbols(plain).astype(np.int64), plain, p) / entropy - 1]
    for price in LITERAL_PRICE.values():
        model = make_model(histogram, table_log, price)
        table = class_table(model.classes)
        merged = merge_histogram(histogram, table)[: len(model.counts)] / histogram.sum()
        width = table.width[table.leader[: len(p)]]
        coded = bits_per_symbol(spread_symbols(model.counts).astype(np.int64), model.counts, merged)
        shares += [(coded + float((p * width).sum())) / entropy - 1, float(p[width > 0].sum())]
    return [100 * share for share in shares]


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
    columns = [f"{profile}{column}" for profile in LITERAL_PRICE for column in ("", ": symbols with a literal")]
    print(f"| source | table_log | without | {' | '.join(columns)} |\n|---|---|---|---|---|---|---|")
    for name, p in sources.items():
        for table_log in (10, 11, 12):
            figures = excess(p, table_log)
            cells = [f"{x:.2f} %" if i in (2, 4) else f"{x:.3f}" for i, x in enumerate(figures)]
            print(f"| {name} | {table_log} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
