"""What bands of channels save: a model compressed with the profile archive, with them and without. Prints a table.

    python benchmarks/bands.py MODEL.onnx --calibration TOKENS.npy --evaluation TOKENS.npy [--recipe double]
        [--target-bits 3.4 ...] [--work FOLDER]

`--windows` and `--held-out` take rows of the files: windows that do not calibrate can stand for the evaluation.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import tansor
from onnx_export.measure import Setup, seconds_of


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--recipe", choices=["double", "rate"], default="double")
    parser.add_argument("--target-bits", type=float, nargs="+", default=[None])
    parser.add_argument("--windows", type=rows, default=slice(None), help="of the calibration file, FIRST:LAST")
    parser.add_argument("--held-out", type=rows, default=slice(None), help="of the evaluation file, FIRST:LAST")
    parser.add_argument("--work", type=Path, help="folder for what is finished, rate only")
    options = parser.parse_args()
    print("| target | bands | tensors in bands | stored bytes | bits/weight | file bytes | loss | seconds to run |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for target in options.target_bits:
        for row in compared(options, target):
            print("| " + " | ".join(row) + " |", flush=True)


def compared(options: argparse.Namespace, target: float | None) -> Iterator[list[str]]:
    """A row of the table without bands, and one with them."""
    arguments: dict[str, Any] = {"recipe": options.recipe, "profile": "archive"}
    if options.recipe == "rate":
        arguments |= {"target_bits": target, "work": options.work}
    calibration = np.load(options.calibration)[options.windows].astype(np.int64)
    tokens = np.load(options.evaluation)[options.held_out].astype(np.int64)
    for most in (1, 8):
        with tempfile.TemporaryDirectory() as folder, mock.patch("refimpl.bands.MOST_BANDS", most):
            output = Path(folder) / "compressed.onnx"
            report = tansor.compress(options.model, output, calibration=calibration, **arguments)
            quality = tansor.evaluate(output, tokens, baseline=options.model)
            seconds = seconds_to_run(output, tokens[:1])
        weights, bands = report["weights"], [t["bands"] for t in report["tensors"]]
        taken = sum(number > 1 for number in bands)
        yield [
            f"{target or ''}", "none" if most == 1 else f"up to {max(bands)}", f"{taken} of {len(bands)}",
            f"{weights['stored_bytes']:,}", f"{weights['bits_per_weight']:.3f}", f"{report['output_bytes']:,}",
            f"{quality['loss_percent']:+.2f} %", f"{seconds:.2f}",
        ]  # fmt: skip


def seconds_to_run(path: Path, tokens: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Median of streaming runs of one window."""
    session = tansor.load_session(path, "streaming")
    name = session.get_inputs()[0].name
    return seconds_of({"": lambda: session.run(None, {name: tokens})}, Setup())[""]


def rows(text: str) -> slice:
    """FIRST:LAST, each of which may be missing."""
    first, _, last = text.partition(":")
    return slice(int(first) if first else None, int(last) if last else None)


if __name__ == "__main__":
    main()
