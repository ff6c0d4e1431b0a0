"""What compressing takes: seconds and peak memory of each recipe, each in a process of its own. Prints a table.

    python benchmarks/work.py [--model FILE --calibration FILE.npy] [--blocks N]... [--recipe NAME]... [--jobs N]
        [--json FILE]

Without a model of one's own: networks of equal blocks made here, by default 8 and 32 of them. The largest layer is
the same in both, so their difference is what follows the model and not the layer. "beside imports" is the peak less
that of a process that only imports; "of the model" is that over the model's bytes. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROWS, WIDTH, INNER = 4096, 512, 2048  # of the table and of each block
SAMPLES, TOKENS = 32, 128
RECIPES = ("lossless", "double", "rate", "aggressive")
PROGRAM = """
import json, sys
from onnx_export.compress import compress
from onnx_export.measure import resident_bytes
count = 0
if len(sys.argv) > 1:
    count = compress(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))["weights"]["count"]
print(json.dumps({"count": count, "peak_bytes": resident_bytes("/proc/self/status", "VmHWM")}))
"""


def main() -> None:
    """Run it."""
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = [(options.model.stem, options.model, options.calibration)] if options.model else []
        models += [made(folder, blocks) for blocks in options.blocks]
        idle = measured([])[1]["peak_bytes"]
        rows = [row(name, *files, recipe, options.jobs, folder, idle) for name, *files in models
                for recipe in options.recipe]  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"idle_bytes": idle, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("| model | weights | fp32 MB | recipe | seconds | peak MB | beside imports | of the model |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        name, more = f"{r['model']} | {r['weights']:,}", r["beside_imports_bytes"]
        print(f"| {name} | {r['model_bytes'] / 1e6:.0f} | {r['recipe']} | {r['seconds']:.0f} | "
              f"{r['peak_bytes'] / 1e6:.0f} | {more / 1e6:.0f} | {more / r['model_bytes']:.1f} |")  # fmt: skip


def row(name: str, model: Path, calibration: Path, recipe: str, jobs: int, folder: Path, idle: int) -> dict[str, Any]:
    """Compress once."""
    print(f"{name}: {recipe}", file=sys.stderr, flush=True)
    arguments: dict[str, Any] = {"recipe": recipe, "jobs": jobs, "force": True}
    if recipe != "lossless":
        arguments["calibration"] = str(calibration)
    seconds, found = measured([str(model), str(folder / "output.onnx"), json.dumps(arguments)])
    return {
        "model": name, "recipe": recipe, "weights": found["count"], "model_bytes": model.stat().st_size,
        "seconds": seconds, "peak_bytes": found["peak_bytes"], "beside_imports_bytes": found["peak_bytes"] - idle,
        "jobs": jobs,
    }  # fmt: skip


def measured(arguments: list[str]) -> tuple[float, dict[str, int]]:
    """(seconds, count of weights and peak of resident bytes) of a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - started, json.loads(done.stdout)


def made(folder: Path, blocks: int) -> tuple[str, Path, Path]:
    """(name, model, samples) of a network of residual blocks ``x + relu(x A) B`` behind a table."""
    random = np.random.default_rng(0)
    shapes = {"table": (ROWS, WIDTH)}
    for i in range(blocks):
        shapes |= {f"A{i}": (WIDTH, INNER), f"B{i}": (INNER, WIDTH)}
    tensors = [
        numpy_helper.from_array(random.standard_normal(s, np.float32) * np.float32(0.5 / np.sqrt(s[0])), name)
        for name, s in shapes.items()
    ]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x0"])]
    for i in range(blocks):
        nodes += [
            helper.make_node("MatMul", [f"x{i}", f"A{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
            helper.make_node("MatMul", [f"r{i}", f"B{i}"], [f"b{i}"]),
            helper.make_node("Add", [f"x{i}", f"b{i}"], [f"x{i + 1}"]),
        ]
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "t"])
    y = helper.make_tensor_value_info(f"x{blocks}", onnx.TensorProto.FLOAT, ["n", "t", WIDTH])
    graph = helper.make_graph(nodes, "blocks", [ids], [y], tensors)
    model, samples = folder / f"{blocks}-blocks.onnx", folder / "samples.npy"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), model)
    np.save(samples, random.integers(0, ROWS, (SAMPLES, TOKENS)))
    return f"{blocks} blocks", model, samples


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--blocks", type=int, action="append", metavar="N")
    parser.add_argument("--recipe", action="append", choices=RECIPES)
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.model is None) != (options.calibration is None):
        parser.error("--model and --calibration: both or neither")
    options.blocks = options.blocks or ([] if options.model else [8, 32])
    options.recipe = options.recipe or RECIPES
    return options


if __name__ == "__main__":
    main()
