"""What compressing takes: seconds and peak memory of each recipe, each in a process of its own. Prints a table.

    python benchmarks/work.py [--model FILE --calibration FILE.npy] [--blocks N]... [--recipe NAME]... [--jobs N]
        [--against FOLDER] [--json FILE]

Without a model of one's own: networks of equal blocks made here, by default 8 and 32 of them. The largest layer is
the same in both, so their difference is what follows the model and not the layer.

"anonymous" is the peak of memory that has no file behind it, less that of a process that only imports: what the system
cannot take back without swapping. It is sampled from outside every few milliseconds. "resident" is the kernel's own
peak (VmHWM), less the same: it counts pages of mapped files too while they are in memory, as all of a model's are that
fits there, and which the system drops when it needs the room. FOLDER holds the sources of another version, measured
beside this one, run by run. Linux only.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_export.measure import resident_bytes

ROOT = Path(__file__).resolve().parents[1]
ROWS, WIDTH, INNER = 4096, 256, 1024  # of the table and of each block
SAMPLES, TOKENS = 32, 128
RECIPES = ("lossless", "double", "rate", "aggressive")
INTERVAL = 0.004  # seconds between samples
PROGRAM = """
import json, sys
from onnx_export.compress import compress
count = 0
if len(sys.argv) > 1:
    count = compress(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))["weights"]["count"]
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(json.dumps({"count": count, "resident_bytes": 1024 * peak}))
"""


def main() -> None:
    """Run it."""
    options = parse()
    versions = {"this": ROOT} | ({"against": options.against} if options.against else {})
    suffixes = ["", ", against"][: len(versions)]
    columns = [f"{what}{suffix}" for what in ("seconds", "CPU s", "anonymous MB", "resident MB") for suffix in suffixes]
    print(f"| model | weights | fp32 MB | recipe | {' | '.join(columns)} |")
    print("|---" * (4 + len(columns)) + "|")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = [(options.model.stem, options.model, options.calibration)] if options.model else []
        models += [made(folder, blocks) for blocks in options.blocks]
        idle = {version: measured(sources, []) for version, sources in versions.items()}
        for recipe in options.recipe:
            for name, *files in models:
                rows.append(row(name, *files, recipe, options.jobs, folder, versions, idle))
                print_row(rows[-1], list(versions))
    if options.json:
        options.json.write_text(json.dumps({"idle": idle, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def print_row(row: dict[str, Any], versions: list[str]) -> None:
    """A line of the table."""
    units = {"seconds": 1, "cpu_seconds": 1, "anonymous_bytes": 1e6, "resident_bytes": 1e6}
    cells = [f"{row[version][key] / unit:.0f}" for key, unit in units.items() for version in versions]
    named = f"{row['model']} | {row['weights']:,} | {row['model_bytes'] / 1e6:.0f} | {row['recipe']}"
    print(f"| {named} | {' | '.join(cells)} |", flush=True)


def row(
    name: str,
    model: Path,
    calibration: Path,
    recipe: str,
    jobs: int,
    folder: Path,
    versions: dict[str, Path],
    idle: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Compress once with each version."""
    print(f"{name}: {recipe}", file=sys.stderr, flush=True)
    arguments: dict[str, Any] = {"recipe": recipe, "jobs": jobs, "force": True}
    if recipe != "lossless":
        arguments["calibration"] = str(calibration)
    result: dict[str, Any] = {"model": name, "recipe": recipe, "model_bytes": model.stat().st_size, "jobs": jobs}
    for version, sources in versions.items():
        found = measured(sources, [str(model), str(folder / "output.onnx"), json.dumps(arguments)])
        result["weights"] = found.pop("count")
        result[version] = {
            key: value - (idle[version][key] if key.endswith("bytes") else 0) for key, value in found.items()
        }
    return result


def measured(sources: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds, count of weights and peaks of memory of a process of its own."""
    started, before, anonymous = time.perf_counter(), cpu_seconds(), 0
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(sources)},
        stdout=subprocess.PIPE,
    )
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):  # it has ended meanwhile
            anonymous = max(anonymous, resident_bytes(f"/proc/{process.pid}/status", "RssAnon"))
        time.sleep(INTERVAL)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - before}
    return {**seconds, "anonymous_bytes": anonymous, **json.loads(output)}


def cpu_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.model is None) != (options.calibration is None):
        parser.error("--model and --calibration: both or neither")
    options.blocks = options.blocks or ([] if options.model else [8, 32])
    options.recipe = options.recipe or RECIPES
    return options


if __name__ == "__main__":
    main()
