"""The report as data: what `--json` prints and the HTML report shows. Keys are listed in docs/guide.md."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnx_export.files import file_bytes
from onnx_export.tensors import Options, Skipped, Tensor

SCHEMA_VERSION = 1


def summarize(
    source: Path,
    output: Path,
    options: Options,
    tensors: Sequence[Tensor],
    skipped: Sequence[Skipped],
    notes: Sequence[str],
    seconds: float,
    budget: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The report of one compression.

    ``weights`` counts every float or quantized tensor of the model, copied ones included. A note says if the output is
    larger than the input.
    """
    before, after = file_bytes(source), file_bytes(output)
    growth = [f"WARNING: the output is {after - before:,} bytes larger than the input"] if after > before else []
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"tansor {version('tansor')}",
        "input": str(source),
        "output": str(output),
        "recipe": options.recipe.name,
        "profile": options.profile,
        "fraction": options.fraction,
        "input_bytes": before,
        "output_bytes": after,
        "seconds": seconds,
        "weights": totals(tensors, skipped),
        "tensors": [tensor_line(t) for t in tensors],
        "skipped": [
            {"name": s.name, "reason": s.reason, "elements": s.elements, "stored_bytes": s.stored_bytes}
            for s in skipped
        ],
        "notes": [*notes, *growth],
        "budget": budget,
    }


def totals(tensors: Sequence[Tensor], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Sums over all weights; copied ones count with the bytes they have, inserted ones with their bytes alone."""
    original = [s for s in skipped if not s.inserted]
    count = sum(t.elements for t in tensors) + sum(s.elements for s in original)
    copied = sum(s.stored_bytes for s in skipped)
    stored = sum(t.stored_bytes for t in tensors) + copied
    entropy_bits = sum(t.entropy_bits_per_weight * t.elements for t in tensors) + 8 * copied
    return {
        "count": count,
        "float_bytes": 4 * count,
        "original_bytes": sum(t.original_bytes for t in tensors) + sum(s.stored_bytes for s in original),
        "stored_bytes": stored,
        "side_bytes": sum(t.side_bytes for t in tensors),
        "copied_bytes": copied,
        "bits_per_weight": 8 * stored / count if count else 0.0,
        "entropy_bits_per_weight": entropy_bits / count if count else 0.0,
        "ratio_vs_int8": count / stored if stored else 1.0,
        "ratio_vs_fp16": 2 * count / stored if stored else 1.0,
    }


def tensor_line(tensor: Tensor) -> dict[str, Any]:
    """One compressed tensor as a JSON object."""
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "recipe": tensor.recipe,
        "mode": tensor.mode,
        "bands": tensor.bands,
        "elements": tensor.elements,
        "original_bytes": tensor.original_bytes,
        "stored_bytes": tensor.stored_bytes,
        "side_bytes": tensor.side_bytes,
        "bits_per_weight": tensor.bits_per_weight,
        "entropy_bits_per_weight": tensor.entropy_bits_per_weight,
        "sparsity": tensor.sparsity,
        "sqnr_db": tensor.sqnr_db,
        "exponent": tensor.exponent,
        "absorbed": tensor.absorbed,
        "statistics": tensor.statistics,
        "histogram": list(tensor.histogram),
    }


def times(ratio: float) -> tuple[str, str]:
    """How a size compares with one that is so many times as large.

    Examples
    --------
    >>> times(3.157), times(0.5)
    (('3.16x', 'smaller'), ('2.00x', 'larger'))
    """
    return (f"{ratio:.2f}x", "smaller") if ratio >= 1 else (f"{1 / ratio:.2f}x", "larger")
