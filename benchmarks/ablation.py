"""What each part of the recipe rate is worth: the bundled model at equal bits, one part left out at a time.

    python benchmarks/ablation.py [--bits B]... [--model MODEL --calibration FILE.npy --tokens FILE.npy] [--json FILE]

Without a model: opt-1m-byte, 128 windows to calibrate, 100 windows of other years to score.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from onnx_export import rate, recipes
from onnx_export.compress import compress
from onnx_export.evaluate import evaluate

DATA = Path(__file__).parents[1] / "onnx_export" / "data"
WINDOW = 256
Variant = Callable[[], AbstractContextManager[Any]]


def windows(name: str, count: int) -> np.ndarray:
    """Windows of bytes of a bundled text."""
    text = np.frombuffer((DATA / name).read_bytes(), np.uint8)[: count * WINDOW]
    return text.reshape(count, WINDOW).astype(np.int64)


def without_feedback() -> AbstractContextManager[Any]:
    """Every weight rounds to nearest."""
    return patch.object(rate, "factor_of", lambda *_: None)


def without_allocation() -> AbstractContextManager[Any]:
    """Every weight gets about the same bits: the same error relative to its variance."""
    measured = rate.demand

    def alike(trial: rate.Trial, *arguments: Any) -> Any:
        wants = measured(trial, *arguments)
        return replace(wants, gain=wants.weights / wants.curve.error[-1])

    return patch.multiple(rate, demand=alike, FAR=np.inf)


def priced(price: float) -> Variant:
    """A bit has a price in each rounding decision."""
    chosen = recipes.RECIPES["rate"]
    assert chosen.rate is not None
    changed = replace(chosen, rate=replace(chosen.rate, price=price))
    return lambda: patch.dict(recipes.RECIPES, {"rate": changed})


VARIANTS: dict[str, Variant] = {
    "rate": nullcontext,
    "no feedback": without_feedback,
    "no allocation": without_allocation,
    "price 0.25": priced(0.25),
    "price 0.5": priced(0.5),
    "price 1": priced(1.0),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=float, action="append")
    parser.add_argument("--model", type=Path, default=DATA / "opt-1m-byte.onnx")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    calibration = np.load(options.calibration) if options.calibration else windows("sotu-calibration.txt", 128)
    tokens = np.load(options.tokens) if options.tokens else windows("sotu-evaluation.txt", 100)
    before = evaluate(options.model, tokens)["perplexity"]
    rows = []
    print(f"| variant | bits/weight | perplexity, {before:.4f} before | loss, % |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        for bits in options.bits or (3.5, 4.5):
            for name, variant in VARIANTS.items():
                with variant():
                    report = compress(
                        options.model, small, recipe="rate", target_bits=bits, calibration=calibration, force=True
                    )
                after = evaluate(small, tokens)["perplexity"]
                rows.append({"variant": name, "bits": report["weights"]["bits_per_weight"], "perplexity": after})
                loss = 100 * (after / before - 1)
                print(f"| {name} | {rows[-1]['bits']:.3f} | {after:.4f} | {loss:+.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"before": before, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
