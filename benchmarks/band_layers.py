"""What bands, and the order in which columns are settled, save on single layers: bits for the same error of the output.

    python benchmarks/band_layers.py MODEL.onnx --calibration TOKENS.npy --weights GLOB ... [--work FOLDER]

For each weight (at most 512 of its rows) and each variant of the recipe `rate`: order-0 bits of the codes, further
tables and bands counted, at the output error that one step, in the order of the columns, has at 3 and at 2 bits a
weight. The error is that of the second moments, `(q - w) H (q - w)^T`. Prints percent of those bits.
"""

import argparse
import fnmatch
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from onnx_export.calibration import check_samples
from onnx_export.moments import collect_moments, load_hessian, moments_of
from onnx_export.rate import make_layer
from onnx_export.runtime import open_session
from onnx_export.tensors import PART_BYTES, channel_counts
from onnx_export.ties import find_ties
from onnx_export.weights import find_constants
from refimpl.bands import Bands, SteppedBands, code_bands, code_length, stepped_bands
from refimpl.gptq import activation_order
from refimpl.hessian import inverse_factor, output_error
from refimpl.rate import quantize_rate

TARGETS = (3.0, 2.0)
ROWS = 512  # of a weight
STEPS = 2.0 ** np.arange(-1.5, 1.6, 0.6)  # over the rms of the weight divided by the bands' steps
VARIANTS = ("one step", "by activity", "tables", "steps, one table", "bands", "bands, by activity")
Matrix = npt.NDArray[np.float64]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--work", type=Path, help="folder that keeps second moments")
    options = parser.parse_args()
    model = onnx.load(options.model)
    constants, _ = find_ties([c for c in find_constants(model) if c.is_float and c.array.ndim == 2 and c.readers])
    chosen = [c for c in constants if any(fnmatch.fnmatchcase(c.name, glob) for glob in options.weights)]
    samples = check_samples(open_session(model), np.load(options.calibration).astype(np.int64))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [m for c in chosen for m in moments_of(model, c)[0]]
        moments = collect_moments(model, wanted, samples, folder, lambda _i, _n: None)
        print("| weight | bits | bands | " + " | ".join(VARIANTS[1:]) + " |\n|" + "---|" * (2 + len(VARIANTS)))
        for constant in chosen:
            layer = make_layer(model, constant)
            hessian = load_hessian(moments, layer.moments, layer.unwatched)
            if hessian is not None:
                compare(constant.name, layer.matrix(), hessian)


def compare(name: str, weight: npt.NDArray[np.float32], hessian: Matrix) -> None:
    """Print the rows of one weight."""
    natural, active = np.arange(weight.shape[1]), activation_order(hessian)
    bands, active_bands = bands_in(hessian, natural, len(weight)), bands_in(hessian, active, len(weight))
    rows = weight[:: -(-len(weight) // ROWS)].astype(np.float64)
    share = len(rows) / len(weight)  # what is stored once counts for as much less
    one, steps, active_steps = np.ones((1, rows.shape[1])), bands.of_columns * 1.0, active_bands.of_columns * 1.0
    runs = {
        "one step": curve(rows, hessian, one, natural, None, share),
        "by activity": curve(rows, hessian, one, active, None, share),
        "tables": curve(rows, hessian, one, natural, "codes", share),
        "steps, one table": curve(rows, hessian, steps, natural, None, share),
        "bands": curve(rows, hessian, steps, natural, bands.of_column, share),
        "bands, by activity": curve(rows, hessian, active_steps, active, active_bands.of_column, share),
    }
    errors, bits = runs["one step"].T
    for target in TARGETS:
        error = np.interp(-target, -bits, errors)
        each = [f"{100 * (np.interp(error, runs[v][:, 0], runs[v][:, 1]) / target - 1):+.2f} %" for v in VARIANTS[1:]]
        print(f"| {name} | {target:g} | {len(bands.steps)} | " + " | ".join(each) + " |", flush=True)


def bands_in(hessian: Matrix, order: npt.NDArray[np.intp], rows: int) -> SteppedBands:
    """Bands of the columns when they are settled in an order."""
    bands = stepped_bands(inverse_factor(hessian[np.ix_(order, order)]), rows, 8 * PART_BYTES)
    of_column = np.empty_like(bands.of_column)
    of_column[order] = bands.of_column
    return SteppedBands(of_column, bands.steps)


def curve(
    rows: Matrix,
    hessian: Matrix,
    steps: Matrix,
    order: npt.NDArray[np.intp],
    bands: Bands | str | None,
    share: float,
) -> Matrix:
    """(log2 of the output error, bits per weight) for a row of steps."""
    factor = inverse_factor(hessian[np.ix_(order, order)]) / steps[:, order]
    scaled = rows / steps
    points = []
    for step in np.sqrt(np.mean(scaled**2)) * STEPS:
        codes = np.empty(rows.shape, np.int8)
        codes[:, order] = quantize_rate(scaled[:, order], factor, float(step))
        error = output_error(codes * step * steps - rows, hessian)
        counts = channel_counts(codes, 1)
        of_column = code_bands(counts, 8 * PART_BYTES * share) if isinstance(bands, str) else bands
        points.append((np.log2(error), stored_bits(counts, of_column, share) / rows.size))
    return np.array(points)


def stored_bits(counts: npt.NDArray[np.int64], bands: Bands | None, share: float) -> float:
    """Bits of codes with a table for each band, that of the whole counted once."""
    if bands is None:
        bands = np.zeros(len(counts), np.uint8)
    number = int(bands.max()) + 1
    lengths = sum(code_length(counts[bands == g].sum(0)) for g in range(number))
    return lengths + share * (8 * PART_BYTES * (number - 1) + (4 * len(bands) if number > 1 else 0))


if __name__ == "__main__":
    main()
