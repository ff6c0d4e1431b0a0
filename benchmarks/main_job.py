"""The main job on a language model: compress with a recipe, verify, compare perplexity. Prints JSON and a table.

    python benchmarks/main_job.py MODEL.onnx --calibration TOKENS.npy --evaluation TOKENS.npy [--json FILE]

Calibration sees the first file alone; the second is looked at once, at the end.
"""

import argparse
import datetime as dt
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

import tansor


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--recipe", default="double")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compressed.onnx"
        report = tansor.compress(options.model, output, recipe=options.recipe, calibration=options.calibration)
        tansor.verify(output, options.model)
        tokens = np.load(options.evaluation)
        quality = tansor.evaluate(output, tokens, baseline=options.model)
        streaming = tansor.run(output, {"input_ids": tokens[:1].astype(np.int64)}, mode="streaming")
        resident = tansor.run(output, {"input_ids": tokens[:1].astype(np.int64)}, mode="resident")
    weights = report["weights"]
    fp16_bytes = 2 * weights["count"]
    result = {
        "model": options.model.parent.name,
        "recipe": options.recipe,
        "weights": weights["count"],
        "fp16_bytes": fp16_bytes,
        "output_bytes": report["output_bytes"],
        "file_to_fp16": report["output_bytes"] / fp16_bytes,
        "bits_per_weight": weights["bits_per_weight"],
        "entropy_bits_per_weight": weights["entropy_bits_per_weight"],
        "perplexity": quality["perplexity"],
        "baseline_perplexity": quality["baseline_perplexity"],
        "loss_percent": quality["loss_percent"],
        "predictions": quality["tokens"],
        "compress_seconds": report["seconds"],
        "streaming_equals_resident": max(float(np.abs(streaming[name] - resident[name]).max()) for name in streaming),
        "notes": report["notes"],
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("tansor", "numpy", "numba", "onnx", "onnxruntime")},
        },
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(
        f"| {result['model']} | {result['weights']:,} | {result['output_bytes']:,} | {result['file_to_fp16']:.3f} | "
        f"{result['bits_per_weight']:.3f} | {result['baseline_perplexity']:.3f} | {result['perplexity']:.3f} | "
        f"{result['loss_percent']:+.2f} % |"
    )


if __name__ == "__main__":
    main()
