"""Results as tables on standard output."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from onnx_export.summary import times

MAX_ROWS = 200


def compress_table(report: dict[str, Any]) -> None:
    """What compress did to each tensor, totals last."""
    table = make_table(
        "tensor", "shape", "elements", "bits/weight", "entropy", "zeros", "SQNR dB", "1/s in", "bands", "how"
    )
    for t in report["tensors"][:MAX_ROWS]:
        table.add_row(
            t["name"], shape_text(t["shape"]), f"{t['elements']:,}", f"{t['bits_per_weight']:.3f}",
            f"{t['entropy_bits_per_weight']:.3f}", f"{t['sparsity']:.1%}", number(t["sqnr_db"], ".1f"),
            t["absorbed"] or "-", f"{t['bands']}", f"{t['recipe']}, {t['mode']}",
        )  # fmt: skip
    console = make_console()
    console.print(table)
    if len(report["tensors"]) > MAX_ROWS:
        console.print(f"... and {len(report['tensors']) - MAX_ROWS} more: --json or --report lists all")
    weights = report["weights"]
    console.print(f"{len(report['skipped'])} tensors copied ({weights['copied_bytes']:,} bytes)")
    for reason, count, size in reasons_to_copy(report["skipped"]):
        console.print(f"  {count} of them, {size:,} bytes: {reason}")
    for note in report["notes"]:
        console.print(note if note.startswith("WARNING") else f"note: {note}")
    console.print(
        f"{report['output']}: {report['input_bytes']:,} -> {report['output_bytes']:,} bytes in "
        f"{report['seconds']:.1f} s; {weights['bits_per_weight']:.3f} bits per weight over all "
        f"{weights['count']:,} weights, {' '.join(times(weights['ratio_vs_fp16']))} than fp16, "
        f"{' '.join(times(weights['ratio_vs_int8']))} than INT8"
    )


def reasons_to_copy(skipped: Iterable[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(reason, tensors, bytes) of what was copied, the most bytes first.

    Examples
    --------
    >>> reasons_to_copy([{"reason": "a vector", "stored_bytes": 8}, {"reason": "a vector", "stored_bytes": 4}])
    [('a vector', 2, 12)]
    """
    sizes: dict[str, list[int]] = {}
    for tensor in skipped:
        sizes.setdefault(tensor["reason"], []).append(tensor["stored_bytes"])
    return sorted(((r, len(s), sum(s)) for r, s in sizes.items()), key=lambda line: -line[2])


def inspect_table(result: dict[str, Any]) -> None:
    """The compressed tensors of a file."""
    table = make_table("tensor", "shape", "dtype", "mode", "bands", "table_log", "lanes", "bytes", "bits/weight")
    for t in result["tensors"]:
        table.add_row(
            t["name"], shape_text(t["shape"]), t["dtype"], t["mode"], f"{t['bands']}", number(t["table_log"], "d"),
            number(t["lane_count"], ",d"), f"{t['stored_bytes']:,}", f"{t['bits_per_weight']:.3f}",
        )  # fmt: skip
    console = make_console()
    if result["tensors"]:
        console.print(table)
    made_by = result["made_by"].get("tool", "")
    console.print(
        f"{result['path']}: {result['bytes']:,} bytes, {len(result['tensors'])} compressed tensors"
        + (f", made by {made_by}, recipe {result['made_by'].get('recipe', '?')}" if made_by else "")
    )


def verify_table(result: dict[str, Any]) -> None:
    """What was checked, tensor by tensor where an original was given."""
    console = make_console()
    if result["tensors"] and "identical" in result["tensors"][0]:
        table = make_table("tensor", "shape", "identical", "SQNR dB", "max error")
        for t in result["tensors"]:
            table.add_row(
                t["name"], shape_text(t["shape"]), "yes" if t["identical"] else "no",
                number(t["sqnr_db"], ".1f"), f"{t['max_error']:.3g}",
            )  # fmt: skip
        console.print(table)
    elements = sum(t["elements"] for t in result["tensors"])
    console.print(f"{result['path']}: {len(result['tensors'])} tensors, {elements:,} elements, all checksums right")


def evaluate_table(result: dict[str, Any]) -> None:
    """Perplexity, and the original's beside it."""
    console = make_console()
    console.print(f"perplexity {result['perplexity']:.4f} over {result['tokens']:,} predictions")
    if "baseline_perplexity" in result:
        console.print(f"baseline   {result['baseline_perplexity']:.4f}, loss {result['loss_percent']:+.3f} %")


def demo_table(result: dict[str, Any]) -> None:
    """The demo's comparison."""
    table = make_table("", "bytes", "bits/weight", "vs fp16", "vs INT8", "perplexity", "seconds to run")
    for row in result["rows"]:
        table.add_row(
            row["name"], f"{row['bytes']:,}", f"{row['bits_per_weight']:.3f}", f"{row['ratio_vs_fp16']:.2f}x",
            f"{row['ratio_vs_int8']:.2f}x", f"{row['perplexity']:.4f}", f"{row['seconds']:.2f}",
        )  # fmt: skip
    console = make_console()
    console.print(table)
    console.print(
        f"perplexity per byte on held-out text, {result['tokens']:,} predictions; "
        f"loss {result['loss_percent']:+.2f} %; compressed in {result['compress_seconds']:.1f} s, all checksums right"
    )
    console.print(f"wrote {result['output']} and {result['report']}")


def make_table(*columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True, overflow="fold")
    return table


def make_console() -> Console:
    """A console that never cuts a line in a pipe."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    return (
        console
        if console.is_terminal
        else Console(highlight=False, soft_wrap=True, markup=False, emoji=False, width=200)
    )


def shape_text(shape: list[int]) -> str:
    """A shape as 512x2048.

    Examples
    --------
    >>> shape_text([512, 2048])
    '512x2048'
    """
    return "x".join(map(str, shape)) or "scalar"


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none.

    Examples
    --------
    >>> number(None, ".1f"), number(1.25, ".1f")
    ('-', '1.2')
    """
    return "-" if value is None else format(value, form)
