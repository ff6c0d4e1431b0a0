"""What several tables for one tensor would save: code length with the rows or columns sorted into groups.

    python benchmarks/contexts.py COMPRESSED.onnx

Each row (or column) takes the table, of 2, 4 or 8, that codes it in the fewest bits; the tables are fitted in
turn. The cost of tables (one byte a symbol, 100 bits each) and of the choices is counted. Prints percent of
the order-0 code length, summed over all coded matrices.
"""

import argparse

import numpy as np
import numpy.typing as npt
import onnx

from codec.tensor import load_symbols
from onnx_export.calls import read_calls

Floats = npt.NDArray[np.float64]


def code_length(histogram: Floats) -> float:
    """Bits of so many symbols at their entropy."""
    used = histogram[histogram > 0]
    return float((used * np.log2(used.sum() / used)).sum())


def grouped_length(histograms: Floats, groups: int) -> float:
    """Bits of all rows when each takes the best of several tables, tables and choices included."""
    spread = (histograms * np.abs(np.arange(256) - np.average(np.arange(256), weights=histograms.sum(0)))).sum(1)
    chosen = np.argsort(np.argsort(spread)) * groups // len(histograms)
    for _ in range(10):
        totals = np.stack([histograms[chosen == g].sum(0) for g in range(groups)]) + 1e-3
        chosen = (-histograms @ np.log2(totals / totals.sum(1, keepdims=True)).T).argmin(1)
    totals = np.stack([histograms[chosen == g].sum(0) for g in range(groups)])
    tables = sum(8 * np.count_nonzero(h) + 100 for h in totals if h.any())
    return sum(code_length(h) for h in totals if h.any()) + tables + len(histograms) * np.log2(groups)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    sums: dict[tuple[str, int], float] = {}
    plain = 0.0
    for _, stored, _ in read_calls(onnx.load(parser.parse_args().model)):
        symbols = load_symbols(stored)
        if symbols.ndim < 2 or symbols.size < 1 << 16:
            continue
        matrix = symbols.reshape(symbols.shape[0], -1)
        plain += code_length(np.bincount(matrix.reshape(-1), minlength=256).astype(np.float64))
        for name, lines in (("rows", matrix), ("columns", matrix.T)):
            histograms = np.stack([np.bincount(line, minlength=256) for line in lines]).astype(np.float64)
            for groups in (2, 4, 8):
                sums[name, groups] = sums.get((name, groups), 0) + grouped_length(histograms, groups)
    print("| grouped | 2 tables | 4 tables | 8 tables |\n|---|---|---|---|")
    for name in ("rows", "columns"):
        print(f"| {name} | " + " | ".join(f"{100 * (sums[name, g] / plain - 1):+.2f} %" for g in (2, 4, 8)) + " |")


if __name__ == "__main__":
    main()
