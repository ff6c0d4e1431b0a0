"""Latency budgets, predicted and measured: a table and JSON.

    python benchmarks/budget.py [MODEL.onnx] [--device cuda] [--batch 1 8] [--threads N] [--json FILE]

MODEL is compressed already, or it is compressed with the recipe double first; without one the bundled model is taken.
What the tensors and the model take is measured once for a batch; for each budget the model is then written anew, read
back and run in mode auto, all budgets in turns. Medians. On the CPU with one thread, times are those of the thread.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import onnx
import onnxruntime as ort
from machine import hardware

from onnx_export.budget import apply_plan, fraction_of, make_plan, measure, open_kept
from onnx_export.calls import read_calls
from onnx_export.compress import compress
from onnx_export.files import read_model, write_model
from onnx_export.functions import DOMAIN
from onnx_export.measure import Setup, bound_run, seconds_of
from onnx_export.tables import make_console, make_table

BUDGETS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0)


def main():
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, as_file(files("onnx_export") / "data") as data:
        source = options.model or data / "opt-1m-byte.onnx"
        if all(o.domain != DOMAIN for o in read_model(source).opset_import):
            small = Path(folder) / "small.onnx"
            compress(source, small, calibration=options.calibration)
        else:
            small = source
        setups = [Setup(options.device, batch, options.threads, options.repeats) for batch in options.batch]
        rows = [row for setup in setups for row in measured(small, setup, Path(folder))]
    result = {"model": str(source), "environment": environment(options), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def environment(options):
    """Machine and versions in a line."""
    return (
        f"{hardware(options.device)}, Python {platform.python_version()}, ONNX Runtime {ort.__version__}, "
        f"threads {options.threads or 'as ONNX Runtime chooses'}, {time.strftime('%Y-%m-%d')}"
    )


def measured(path, setup, folder):
    """A row for each budget: how the weights are kept, what was predicted and what came."""
    model = read_model(path)
    profile = measure(model, setup)
    rows, tasks = [], {"plain": bound_run(open_kept(model, "resident", setup), setup)}
    for budget in BUDGETS:
        plan = make_plan(profile, budget)
        fitted = onnx.ModelProto()
        fitted.CopyFrom(model)
        apply_plan(fitted, plan, "gpu")
        output = folder / f"{setup.batch}-{budget}.onnx"
        write_model(fitted, output)
        fitted = read_model(output)
        tasks[str(budget)] = bound_run(open_kept(fitted, "auto", setup), setup)
        fractions = {name: fraction_of(stored.frame.block) for name, stored, _ in read_calls(fitted)}
        streamed = [f for name, f in fractions.items() if name not in plan.resident]
        rows.append({
            "batch": setup.batch, "budget": budget, "mode": plan.mode, "resident": len(plan.resident),
            "raw": sum(f == 0 for f in streamed), "partial": sum(0 < f < 1 for f in streamed),
            "coded": sum(f == 1 for f in streamed), "file_bytes": output.stat().st_size,
            "memory_bytes": plan.memory_bytes, "plain_bytes": plan.plain_bytes,
            "predicted": plan.predicted_seconds, "predicted_ratio": plan.predicted_seconds / plan.plain_seconds,
        })  # fmt: skip
    seconds = seconds_of(tasks, setup)
    for row in rows:
        row["measured"] = seconds[str(row["budget"])]
        row["measured_ratio"] = row["measured"] / seconds["plain"]
        row["error"] = row["predicted"] / row["measured"] - 1
        row["ratio_error"] = row["predicted_ratio"] / row["measured_ratio"] - 1
    return rows


def show(result):
    """The table, then the machine."""
    table = make_table(
        "batch", "budget", "mode", "resident", "raw", "partial", "coded", "file MB", "memory MB", "plain MB",
        "predicted ms", "measured ms", "error", "predicted ratio", "measured ratio", "error",
    )  # fmt: skip
    for r in result["rows"]:
        table.add_row(
            str(r["batch"]), f"{r['budget']:g}", r["mode"],
            *(str(r[key]) for key in ("resident", "raw", "partial", "coded")),
            *(f"{r[key] / 1e6:.2f}" for key in ("file_bytes", "memory_bytes", "plain_bytes")),
            f"{1e3 * r['predicted']:.2f}", f"{1e3 * r['measured']:.2f}", f"{r['error']:+.1%}",
            f"{r['predicted_ratio']:.3f}", f"{r['measured_ratio']:.3f}", f"{r['ratio_error']:+.1%}",
        )  # fmt: skip
    console = make_console()
    console.print(table)
    worst = max(abs(r["error"]) for r in result["rows"])
    console.print(f"largest error {worst:.1%}; {result['model']}; {result['environment']}")


if __name__ == "__main__":
    main()
