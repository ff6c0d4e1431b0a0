"""Running a method on a task, unless that has been done: what it stores, and what it loses."""

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

from benchmarks.quality.methods import Method, Priced
from benchmarks.quality.task import Task, cached, digest
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.ties import find_ties
from onnx_export.weights import MIN_ELEMENTS, find_constants

ROOT = Path(__file__).parents[2]
PACKAGES = ("refimpl", "codec", "onnx_export")  # what results depend on
Result = dict[str, Any]


def result_of(task: Task, method: Method, results: Path, *, redo: bool = False) -> Result:
    """The result of a method on a task, from its file if it is there and of the same model, data and arguments."""
    file = results / task.name / (re.sub(r"[^\w.]+", "-", method.label) + ".json")
    if redo:
        file.unlink(missing_ok=True)
    return cached(file, question(task, method), lambda: run(task, method, results / "finished"))


def question(task: Task, method: Method) -> str:
    """Equal for equal tasks and methods."""
    arguments = {name: repr(value) for name, value in sorted(method.arguments.items())}
    transform = method.transform and f"{method.transform.__module__}.{method.transform.__qualname__}"
    judged = json.dumps([task.title, dict(task.baseline), arguments, transform])
    return digest(task.model, task.calibration, judged)


def run(task: Task, method: Method, finished: Path | None = None) -> Result:
    """Compress, judge, count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compressed.onnx"
        started = time.perf_counter()
        cost = make(task, method, output, finished)
        made = time.perf_counter()
        scores = dict(task.evaluate(output))
    return {
        "task": task.name,
        "method": method.name,
        "setting": method.setting,
        # Of the original's weights: a method that adds scales or splits tensors gains nothing by it.
        "bits_per_weight": 8 * cost["stored_bytes"] / weight_count(task.model),
        **cost,
        "scores": scores,
        "baseline": dict(task.baseline),
        "loss": task.metric.loss(scores, task.baseline),
        "compress_seconds": made - started,
        "evaluate_seconds": time.perf_counter() - made,
        "sources": sources_digest(),
        "machine": machine(),
    }


def make(task: Task, method: Method, output: Path, finished: Path | None) -> Result:
    """Write the compressed model; its ``stored_bytes``, ``file_bytes`` (None for a format not written), ``notes``.

    What the recipes with error feedback have measured of a model is kept in a folder, for their other settings.
    """
    source = task.model
    if method.transform:
        changed = method.transform(read_model(task.model), task.calibration)
        if isinstance(changed, Priced):
            onnx.save(changed.model, output)
            return {"stored_bytes": changed.stored_bytes, "file_bytes": None, "notes": []}
        source = output.with_name("transformed.onnx")
        onnx.save(changed, source)
    kept = {"work": finished} if method.arguments.get("recipe") in ("rate", "aggressive") else {}
    report = compress(source, output, **{"calibration": task.calibration, **kept, **method.arguments})
    return {
        "stored_bytes": report["weights"]["stored_bytes"],
        "file_bytes": report["output_bytes"],
        "notes": report["notes"],
    }


@cache
def weight_count(model: Path) -> int:
    """Elements of a model's weights; tied tables and matrices count once, as they are stored once."""
    constants = find_constants(read_model(model))
    tied = find_ties([c for c in constants if c.array.ndim > 1 and c.array.size >= MIN_ELEMENTS])[1]
    return sum(c.array.size for c in constants if c.name not in tied)


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
