"""Tables in Markdown, and a page whose tables are replaced by new ones."""

import re
from collections.abc import Iterable
from typing import Any

COMPARED = {"stored": min, "encode": max, "decode": max}  # columns of all contenders, and what is best
SHOWN = {  # names in the tables of a page, and how the contenders' names begin
    "gpu": "tansor gpu",
    "archive": "tansor archive",
    "zstd": "zstd",
    "zlib": "zlib",
    "pcodec": "pcodec",
    "constriction": "constriction",
}
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
Row = dict[str, Any]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plain_table(rows: list[Row]) -> str:
    """Rows of names and numbers as they are."""
    lines = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return markdown(rows[0], lines)


def best_row(rows: list[Row], column: str) -> Row:
    """The row that is best in a column."""
    return COMPARED[column]((row for row in rows if row.get(column) is not None), key=lambda row: row[column])


def figure(column: str, value: float | None) -> str:
    """A table's cell: excess with its sign, speed without."""
    if value is None:
        return "-"
    return f"{value:+.3f} %" if column in ("payload", "stored") else f"{value:.3f}"


def source_table(result: Row) -> str:
    """All contenders on one source, the best in bold."""
    rows = result["rows"]
    columns = list(rows[0])[1:]
    best = {column: best_row(rows, column) for column in COMPARED}
    lines = [
        [row["contender"]]
        + [f"**{figure(c, row[c])}**" if c in best and row is best[c] else figure(c, row.get(c)) for c in columns]
        for row in rows
    ]
    lines += [[package, "not installed", *["-"] * (len(columns) - 1)] for package in result["missing"]]
    title = f"### {result['source']}\n\n{result['symbols']:,} symbols, entropy {result['entropy']:.4f} bits\n\n"
    return title + markdown(["", *columns], lines)


def shown_rows(result: Row) -> dict[str, Row]:
    """A row for each name shown: of several levels and forms the smallest."""
    rows = {name: [r for r in result["rows"] if r["contender"].startswith(prefix)] for name, prefix in SHOWN.items()}
    return {name: min(found, key=lambda row: row["stored"]) for name, found in rows.items() if found}


def summary_table(results: list[Row], column: str) -> str:
    """A line for each source: bytes stored over entropy in percent, or speed; the best in bold."""
    lines = []
    for result in results:
        rows = shown_rows(result)
        best = best_row(list(rows.values()), column)
        cells = [f"{row[column]:{'+' if column == 'stored' else ''}.2f}" for row in rows.values()]
        bold = [f"**{cell}**" if row is best else cell for cell, row in zip(cells, rows.values(), strict=True)]
        lines.append([result["source"], *(dict(zip(rows, bold, strict=True)).get(name, "-") for name in SHOWN)])
    return markdown(["stored over entropy, %" if column == "stored" else f"{column}, Gsym/s", *SHOWN], lines)


def payload_table(results: list[Row]) -> str:
    """A line for each source: payload over entropy in percent, of those that tell it apart."""
    names = ("gpu", "archive", "constriction")
    lines = []
    for result in results:
        rows = shown_rows(result)
        lines.append([result["source"], *(f"{rows[n]['payload']:+.3f}" if n in rows else "-" for n in names)])
    return markdown(["payload over entropy, %", *names], lines)


def growth_table(rows: list[Row]) -> str:
    """Time in ms, ns a symbol, memory in MB and bytes a symbol, for both directions."""
    units = ("ms", "ns/symbol", "memory, MB", "bytes/symbol")
    lines = []
    for row in rows:
        line = [row["profile"], f"{row['symbols']:,}"]
        if "note" in row:
            lines.append([*line, row["note"], *["-"] * 7])
            continue
        for direction in ("encode", "decode"):
            measured, count = row[direction], row["symbols"]
            seconds, extra = measured["seconds"], measured["extra_bytes"]
            line += [f"{1e3 * seconds:.2f}", f"{1e9 * seconds / count:.2f}"]
            line += ["-", "-"] if extra is None else [f"{extra / 1e6:.1f}", f"{extra / count:.2f}"]
        lines.append(line)
    return markdown(["profile", "symbols", *[f"{d}, {u}" for d in ("encode", "decode") for u in units]], lines)


def replace_tables(page: str, sections: dict[str, str]) -> str:
    """A page with the first table below each heading replaced.

    Raises
    ------
    ValueError
        A heading is missing, or no table stands below it before the next.
    """
    for heading, table in sections.items():
        begin = re.search(rf"^#+ {re.escape(heading)}$", page, re.MULTILINE)
        if begin is None:
            raise ValueError(f"the page has no heading {heading!r}")
        following = re.compile("^#", re.MULTILINE).search(page, begin.end())
        old = TABLE.search(page, begin.end(), following.start() if following else len(page))
        if old is None:
            raise ValueError(f"there is no table below {heading!r}")
        page = page[: old.start()] + table + page[old.end() :]
    return page
