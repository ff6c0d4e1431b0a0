"""Results as Markdown."""

from collections.abc import Sequence

from benchmarks.quality.harness import Result
from benchmarks.quality.task import Task


def task_table(task: Task, results: Sequence[Result]) -> str:
    """A heading and a row for each result, all of one scope, the original first."""
    metric = task.metric
    others = [name for name in task.baseline if name != metric.score]
    heads = [
        "method",
        "bits/weight",
        "entropy",
        "file bytes",
        metric.score,
        f"loss, {metric.unit}",
        *others,
        "compress, s",
    ]
    first = [
        "original", "", "", f"{task.model.stat().st_size:,}", format(task.baseline[metric.score], metric.format), "",
        *(f"{task.baseline[name]:.5g}" for name in others), "",
    ]  # fmt: skip
    rows = [
        [
            f"{r['method']} {r['setting']}".strip(), f"{r['bits_per_weight']:.3f}",
            "" if r["entropy_bits_per_weight"] is None else f"{r['entropy_bits_per_weight']:.3f}",
            "" if r["file_bytes"] is None else f"{r['file_bytes']:,}",
            format(r["scores"][metric.score], metric.format), f"{r['loss']:+.2f}",
            *(f"{r['scores'][name]:.5g}" for name in others), f"{r['compress_seconds']:.0f}",
        ]
        for r in results
    ]  # fmt: skip
    part = ", linear layers alone" * any(r["scope"] == "linear" for r in results)
    return f"### {task.name}{part}\n\n{task.title}.\n\n{markdown(heads, [first, *rows])}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    Examples
    --------
    >>> print(markdown(["a", "b"], [["1", "2"]]), end="")
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    lines.insert(1, "|" + "---|" * len(heads))
    return "\n".join(lines) + "\n"
