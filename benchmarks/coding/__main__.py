"""The coder against its peers, on the same symbols, in one run. Prints tables; JSON with --json.

    pip install '.[cpu,bench]'
    python benchmarks/coding [--model COMPRESSED.onnx] [--json FILE] [--symbols N] [--rounds N] [--largest N]

Excess: bytes over the empirical order-0 entropy of the very symbols, in percent. `stored` counts every byte that
decoding needs; `payload` leaves out side information and tables, and can be below the entropy because start
states carry the first symbol of each lane. Speed: billions of symbols a second on
one thread, by its CPU time, the best of several rounds in which all contenders take turns; bytes in and array out,
checksums included. `decode unchecked` is tansor's decoder without header and checksums. Bold: the best of a column that
all contenders have. Every round trip is checked. Linux: the memory table needs /proc.

Files: sources (what is coded), contenders (who codes), growth and first_call (run in processes of their own).
"""

import argparse
import datetime as dt
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contenders import CORES, PACKAGES, PROFILES, Trial, enter, has_threads, scaling
from sources import Source, at_entropy, gaussian, list_sources

HERE = Path(__file__).parent
COMPARED = {"stored": min, "encode": max, "decode": max}  # columns of all contenders, and what is best
Row = dict[str, Any]


def race(trials: list[Trial], rounds: int) -> list[dict[str, float]]:
    """Best seconds of every run; contenders take turns, so that a slow moment hits all alike.

    CPU time, so that other work on the machine counts less; with several threads what the clock says.
    """
    best: list[dict[str, float]] = [dict.fromkeys(trial.runs, math.inf) for trial in trials]
    for _ in range(rounds):
        for trial, seconds in zip(trials, best, strict=True):
            for column, run in trial.runs.items():
                clock = time.perf_counter if "threads" in trial.name + column else time.thread_time
                begin = clock()
                run()
                seconds[column] = min(seconds[column], clock() - begin)
    return best


def compare(source: Source, rounds: int) -> Row:
    """All contenders on a source: excess in percent, speed in Gsym/s."""
    trials, missing = enter(source)
    rows: list[Row] = []
    for trial, seconds in zip(trials, race(trials, rounds), strict=True):
        bits = {"payload": trial.payload_bits, "stored": trial.stored_bits}
        excess = {name: 100 * (b / source.entropy_bits - 1) if b else None for name, b in bits.items()}
        rows.append({"contender": trial.name, **excess, **{c: source.count / s / 1e9 for c, s in seconds.items()}})
    entropy = source.entropy_bits / source.count
    return {"source": source.name, "symbols": source.count, "entropy": entropy, "rows": rows, "missing": missing}


def best_row(rows: list[Row], column: str) -> Row:
    """The row that is best in a column."""
    return COMPARED[column]((row for row in rows if row.get(column) is not None), key=lambda row: row[column])


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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


def leaders_table(results: list[Row]) -> str:
    """Who is best at what on each source; tansor's best beside it where that is another."""
    lines = []
    for result in results:
        line = [result["source"]]
        ours = [row for row in result["rows"] if row["contender"].startswith("tansor")]
        for column in COMPARED:
            leader, own = best_row(result["rows"], column), best_row(ours, column)
            other = "" if leader is own else f" ({own['contender']} {figure(column, own[column])})"
            line.append(f"{leader['contender']} {figure(column, leader[column])}{other}")
        lines.append(line)
    return markdown(["best", *COMPARED], lines)


def summary_table(results: list[Row]) -> str:
    """A line for each source: bytes stored over entropy, and speed, of some contenders; zstd at its smallest."""
    shown = {
        "gpu": "tansor gpu",
        "archive": "tansor archive",
        "zstd": "zstd",
        "pcodec": "pcodec",
        "constriction": "constr",
    }
    lines = []
    for result in results:
        chosen = {
            name: min(found, key=lambda row: row["stored"])
            for name, prefix in shown.items()
            if (found := [row for row in result["rows"] if row["contender"].startswith(prefix)])
        }
        line = [result["source"]]
        line += [f"{chosen[n]['stored']:+.2f}" if n in chosen else "-" for n in shown]
        line += [f"{chosen[n]['encode']:.2f}" if n in chosen else "-" for n in ("archive", "zstd")]
        line += [f"{chosen[n]['decode']:.2f}" if n in chosen else "-" for n in ("gpu", "archive", "zstd", "pcodec")]
        lines.append(line)
    head = [f"{n}, %" for n in shown] + ["encode: archive", "zstd", "decode: gpu", "archive", "zstd", "pcodec"]
    return markdown(["stored over entropy", *head], lines)


def child(script: str, *arguments: str, **environment: str) -> Row:
    """JSON that a script of this folder prints, or a note why there is none."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"note": f"ended with {done.returncode}"}


def available_memory() -> float:
    """Bytes that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf


def measure_growth(profile: str, largest: int) -> list[Row]:
    """Encode and decode 10**4, 10**5, ... symbols, as far as memory reaches."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for exponent in range(4, int(math.log10(largest) + 1e-9) + 1):
            row: Row = {"profile": profile, "symbols": 10**exponent}
            rows.append(row)
            peaks = [rows[-2][d]["peak_bytes"] or 0 for d in ("encode", "decode")] if len(rows) > 1 else [0]
            if 10 * max(peaks) > available_memory():
                row["note"] = "not enough memory"
                break
            for direction in ("encode", "decode"):
                row[direction] = child("growth.py", direction, profile, str(10**exponent), str(Path(folder) / "frame"))
                if "note" in row[direction]:
                    return [*rows[:-1], row | row[direction]]
    return rows


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


def measure_scaling(count: int, rounds: int) -> list[Row]:
    """Speed with more and more threads; nothing if the codec takes no number of threads."""
    if not has_threads():
        return []
    source = Source("int8 Gaussian, H = 4.4", [at_entropy(gaussian, 4.4, 127, count, 1)])
    trials = [trial for profile in PROFILES for trial in scaling(source, profile)]
    for trial in trials:
        trial.check()
    return [
        {"": trial.name, **{column: count / s / 1e9 for column, s in seconds.items()}}
        for trial, seconds in zip(trials, race(trials, rounds), strict=True)
    ]


def measure_first_calls() -> list[Row]:
    """Two processes one after the other, beginning with an empty compiler cache."""
    with tempfile.TemporaryDirectory() as folder:
        return [{"process": name} | child("first_call.py", NUMBA_CACHE_DIR=folder) for name in ("first", "second")]


def plain_table(rows: list[Row]) -> str:
    """Rows of names and numbers as they are."""
    lines = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return markdown(rows[0], lines)


def describe_machine() -> Row:
    """Processor, cores, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = {"python": platform.python_version()}
    for name in ("tansor", "numpy", "numba", *PACKAGES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"processor": processor, "architecture": platform.machine(), "cores": CORES, "versions": versions}


def main() -> None:
    """Measure everything; print each table as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an ONNX model compressed by tansor: its codes are one more source")
    parser.add_argument("--symbols", type=int, default=1 << 24, help="symbols of each drawn source")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=10**9, help="last row of the growth table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine, date = describe_machine(), dt.datetime.now(dt.UTC).date().isoformat()
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['processor']} ({machine['architecture']}), {CORES} cores; {versions}; {date}\n", flush=True)
    sources = []
    for source in list_sources(options.symbols, options.model):
        sources.append(compare(source, options.rounds))
        print(source_table(sources[-1]), flush=True)
    print(f"### Summary\n\n{summary_table(sources)}", flush=True)
    print(f"### Best of each column\n\n{leaders_table(sources)}", flush=True)
    growth = []
    print("### Growth\n\nOne thread; memory is the peak above input and output.\n", flush=True)
    for profile in PROFILES:
        growth += measure_growth(profile, options.largest)
    print(growth_table(growth), flush=True)
    threads = measure_scaling(options.symbols, options.rounds)
    print("### Threads\n\nGsym/s on int8 Gaussian codes, H = 4.4\n", flush=True)
    print(plain_table(threads) if threads else "The codec takes no number of threads.\n", flush=True)
    first_calls = measure_first_calls()
    print("### First call\n\nSeconds on a million symbols; the second process finds what the first one cached.\n")
    print(plain_table(first_calls))
    if options.json:
        result = {"machine": machine, "date": date, "rounds": options.rounds, "sources": sources}
        result |= {"growth": growth, "threads": threads, "first_calls": first_calls}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
