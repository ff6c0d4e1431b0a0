"""A summary on the terminal."""

from typing import Any

MAX_FAILURES = 20


def print_summary(result: dict[str, Any]) -> None:
    """Print a table of steps, what failed, and the totals of `conformance.run.summary`."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table("step", *(f"{status}" for status in ("passed", "failed", "skipped")))
    for column in table.columns[1:]:
        column.justify = "right"
    for step, counts in result["steps"].items():
        table.add_row(step, *map(str, counts.values()))
    console.print(table)
    failures = [case for case in result["cases"] if case["status"] == "failed"]
    for case in failures[:MAX_FAILURES]:
        console.print(f"{case['id']}: {case['text']}")
    if len(failures) > MAX_FAILURES:
        console.print(f"... and {len(failures) - MAX_FAILURES} more: --json lists all")
    console.print(
        f"{result['backend']}: {result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped"
    )
