"""Running a method on a task, unless that has been done: what it stores, and what it loses."""

import glob
import json
import platform
import re
import tempfile
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from benchmarks.quality.layers import MIN_ELEMENTS, is_linear
from benchmarks.quality.method import Method, Priced, Scope
from benchmarks.quality.task import Task, cached, digest
from onnx_export.compress import compress
from onnx_export.files import read_model, write_model
from onnx_export.ties import find_ties
from onnx_export.weights import find_constants

ROOT = Path(__file__).parents[2]
PACKAGES = ("refimpl", "codec", "onnx_export")  # what results depend on
Result = dict[str, Any]


def result_of(task: Task, method: Method, results: Path, *, redo: bool = False, jobs: int | None = None) -> Result:
    """The result of a method on a task, from its file if it is there and of the same model, data and arguments."""
    file = result_file(task.name, method, results)
    if redo:
        file.unlink(missing_ok=True)
    return cached(file, question(task, method), lambda: run(task, method, results / "finished", jobs))


def result_is_there(task: Task, method: Method, results: Path) -> bool:
    """Whether the result of a method on a task has been made."""
    file = result_file(task.name, method, results)
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["question"] == question(task, method)


def result_file(task: str, method: Method, results: Path) -> Path:
    """Where the result of a method on a task is kept."""
    return results / task / (re.sub(r"[^\w.]+", "-", method.label) + ".json")


def question(task: Task, method: Method) -> str:
    """Equal for equal tasks and methods."""
    arguments = {name: repr(value) for name, value in sorted(method.arguments.items())}
    judged = json.dumps([task.title, dict(task.baseline), arguments, method.label])
    return digest(task.model, task.calibration, judged)


def run(task: Task, method: Method, finished: Path | None = None, jobs: int | None = None) -> Result:
    """Compress, judge, count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compressed.onnx"
        started = time.perf_counter()
        cost = make(task, method, output, finished or Path(folder), jobs)
        made = time.perf_counter()
        scores = dict(task.evaluate(output))
    stored, entropy = cost.pop("stored_bytes"), cost.pop("entropy_bytes")
    weights = weight_count(task.model, method.scope)
    return {
        "task": task.name,
        "method": method.name,
        "setting": method.setting,
        "scope": method.scope,
        # Of the original's weights: a method that adds scales or splits tensors gains nothing by it.
        "bits_per_weight": 8 * stored / weights,
        "entropy_bits_per_weight": None if entropy is None else 8 * entropy / weights,
        "stored_bytes": stored,
        **cost,
        "scores": scores,
        "baseline": dict(task.baseline),
        "loss": task.metric.loss(scores, task.baseline),
        "compress_seconds": made - started,
        "evaluate_seconds": time.perf_counter() - made,
        "sources": sources_digest(),
        "machine": machine(),
    }


def make(task: Task, method: Method, output: Path, finished: Path, jobs: int | None = None) -> Result:
    """Write the compressed model; what it costs.

    ``stored_bytes`` and ``entropy_bytes`` are of the weights in scope, ``file_bytes`` is None for a format not written.
    What methods have measured of a model is kept in a folder, for their other settings.
    """
    source = task.model
    if method.transform:
        measured = finished / digest(task.model, task.calibration)
        changed = method.transform(read_model(task.model), task.calibration, measured)
        if isinstance(changed, Priced):
            write_model(changed.model, output)
            prices = {"stored_bytes": changed.stored_bytes, "entropy_bytes": changed.entropy_bytes}
            return {**prices, "file_bytes": None, "notes": []}
        source = output.with_name("transformed.onnx")
        write_model(changed, source)
    arguments: dict[str, Any] = {"calibration": task.calibration, "jobs": jobs, **method.arguments}
    if arguments.get("recipe") in ("rate", "aggressive"):
        arguments["work"] = finished / sources_digest()
        arguments["work"].mkdir(parents=True, exist_ok=True)
    if method.scope == "linear":
        arguments |= linear_alone(read_model(source), arguments.get("target_bits"))
    report = compress(source, output, **arguments)
    tensors, weights = report["tensors"], report["weights"]
    stored, entropy = weights["stored_bytes"], weights["entropy_bits_per_weight"] * weights["count"] / 8
    if method.scope == "linear":
        stored = sum(t["stored_bytes"] for t in tensors)
        entropy = sum(t["entropy_bits_per_weight"] * t["elements"] for t in tensors) / 8
    return {
        "stored_bytes": stored,
        "entropy_bytes": entropy,
        "file_bytes": report["output_bytes"],
        "notes": report["notes"],
    }


def linear_alone(model: onnx.ModelProto, bits: float | None) -> Result:
    """Arguments of compress that leave all but linear layers as they are, whose target is so many bits a weight."""
    rest = [c for c in find_constants(model) if not is_linear(c)]
    arguments: Result = {"exclude": tuple(glob.escape(c.name) for c in rest)}
    if bits is not None:  # of compress it counts all weights
        linear = sum(c.array.size for c in find_constants(model) if is_linear(c))
        copied = 8 * sum(c.array.nbytes for c in rest)
        arguments["target_bits"] = (bits * linear + copied) / (linear + sum(c.array.size for c in rest))
    return arguments


@cache
def weight_count(model: Path, scope: Scope) -> int:
    """Elements of a model's weights; tied tables and matrices count once, as they are stored once."""
    constants = find_constants(read_model(model))
    tied = find_ties([c for c in constants if c.array.ndim > 1 and c.array.size >= MIN_ELEMENTS])[1]
    return sum(c.array.size for c in constants if c.name not in tied and (scope == "all" or is_linear(c)))


@cache
def sources_digest() -> str:
    """Of tansor's own sources: results of different ones do not belong into one table."""
    return digest(*sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


def machine() -> dict[str, str]:
    """What ran it."""
    packages = ("tansor", "numpy", "numba", "onnx", "onnxruntime")
    return {
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
