"""demo: the main job on a bundled real model, from compression to held-out perplexity.

The model is an OPT of 1.06 million parameters over raw bytes, trained on public-domain text. It is
calibrated on State of the Union addresses of 1990 to 2007 and evaluated on those of 2008 to 2017.
"""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_export.compress import compress
from onnx_export.evaluate import evaluate
from onnx_export.files import check_output, write_whole
from onnx_export.progress import Progress
from onnx_export.report import report_html
from onnx_export.runtime import onnxruntime
from onnx_export.summary import SCHEMA_VERSION
from onnx_export.verify import verify

WINDOW = 256  # bytes: the model's context
CALIBRATION_WINDOWS = 128
EVALUATION_WINDOWS = 400


def demo(folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Compress the bundled model, verify it and compare it with the original.

    Parameters
    ----------
    folder : Path
        Where ``opt-1m-byte.tansor.onnx`` and ``report.html`` are written, replacing earlier ones.
    progress : callable, optional
        Told (what, done, of how many).

    Returns
    -------
    dict
        ``rows`` (one each for the original at fp32, fp16 and INT8 size and for the result), ``loss_percent``,
        ``compress_seconds`` and the whole ``compress`` report.

    Raises
    ------
    ExportError
        ONNX Runtime is missing, or the folder cannot be written.
    """
    onnxruntime()
    output, report = folder / "opt-1m-byte.tansor.onnx", folder / "report.html"
    for path in (output, report):
        check_output(path, force=True)
    with as_file(files("onnx_export") / "data") as data:
        original = data / "opt-1m-byte.onnx"
        calibration = byte_windows(data / "sotu-calibration.txt", CALIBRATION_WINDOWS)
        compressed = compress(original, output, calibration=calibration, force=True, progress=progress)
        verified = verify(output, original, progress=progress)
        windows = byte_windows(data / "sotu-evaluation.txt", EVALUATION_WINDOWS)
        quality = evaluate(output, windows, baseline=original, progress=progress)
    weights = compressed["weights"]
    count = weights["count"]
    rows = [
        {
            "name": "original, fp32",
            "bytes": compressed["input_bytes"],
            "bits_per_weight": 32.0,
            "ratio_vs_fp16": 0.5,
            "ratio_vs_int8": 0.25,
            "perplexity": quality["baseline_perplexity"],
            "seconds": quality["baseline_seconds"],
        },
        {
            "name": "tansor, double",
            "bytes": compressed["output_bytes"],
            "bits_per_weight": weights["bits_per_weight"],
            "ratio_vs_fp16": weights["ratio_vs_fp16"],
            "ratio_vs_int8": weights["ratio_vs_int8"],
            "perplexity": quality["perplexity"],
            "seconds": quality["seconds"],
        },
    ]
    result = {
        "schema_version": SCHEMA_VERSION,
        "output": str(output),
        "report": str(report),
        "parameters": count,
        "rows": rows,
        "tokens": quality["tokens"],
        "loss_percent": quality["loss_percent"],
        "compress_seconds": compressed["seconds"],
        "compress": compressed,
    }
    page = report_html(compressed, verified=verified, rows=rows)
    write_whole(report, lambda part: part.write_text(page, encoding="utf-8"), force=True)
    return result


def byte_windows(path: Path, count: int) -> npt.NDArray[np.uint8]:
    """The first windows of a text as bytes, shape (count, 256)."""
    text = np.frombuffer(path.read_bytes(), np.uint8)
    return text[: count * WINDOW].reshape(count, WINDOW)
