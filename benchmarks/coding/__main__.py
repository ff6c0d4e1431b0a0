"""The coder against its peers, on the same symbols, in one run. Prints tables; JSON with --json.

    pip install '.[cpu,bench]'
    python benchmarks/coding [--model COMPRESSED.onnx] [--page docs/codec.md] [--json FILE]
                             [--symbols N] [--rounds N] [--largest N]

With --page the tables of that page are replaced, each below its heading.

Excess: bytes over the empirical order-0 entropy of the very symbols, in percent. `stored` counts every byte that
decoding needs; `payload` leaves out side information and tables, and can be below the entropy because start
states carry the first symbol of each lane. Speed: billions of symbols a second on
one thread, by its CPU time, the best of several rounds in which all contenders take turns; bytes in and array out,
checksums included. `decode unchecked` is tansor's decoder without header and checksums. Bold: the best of a column that
all contenders have. Every round trip is checked. Linux: the memory table needs /proc.

Files: sources (what is coded), contenders (who codes), loops (without what is around them), tables; growth and
first_call run in processes of their own. states compares two states of the code and is not part of this run.
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
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from contenders import CORES, PACKAGES, PROFILES, Trial, enter, scaling
from loops import measure_loops
from sources import Source, at_entropy, gaussian, list_sources
from tables import Row, growth_table, payload_table, plain_table, replace_tables, source_table, summary_table

from onnx_export.demo import CALIBRATION_WINDOWS, byte_windows
from onnx_export.measure import host_memory

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "onnx_export" / "data"


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


def child(script: str, *arguments: str, **environment: str) -> Row:
    """JSON that a script of this folder prints, or a note why there is none."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"note": f"ended with {done.returncode}"}


def available_memory() -> float:
    """Bytes that can be had without swapping."""
    memory = host_memory()
    return math.inf if memory is None else memory[1]


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


def measure_scaling(count: int, rounds: int) -> list[Row]:
    """Speed with more and more threads."""
    source = Source("int8 Gaussian, H = 4.4", [at_entropy(gaussian, 4.4, 127, count, 1)])
    trials = [trial for profile in PROFILES for trial in scaling(source, profile)]
    for trial in trials:
        trial.check()
    return [
        {"": trial.name, **{column: count / s / 1e9 for column, s in seconds.items()}}
        for trial, seconds in zip(trials, race(trials, rounds), strict=True)
    ]


def measure_first_calls() -> list[Row]:
    """Two processes one after the other, beginning with an empty compiler cache; then two that compress a model."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            {"process": name}
            | child("first_call.py", NUMBA_CACHE_DIR=folder)
            | {"tansor compress": cold_compress(Path(folder))}
            for name in ("first", "second")
        ]


def cold_compress(folder: Path) -> float:
    """Seconds of a whole process that compresses the bundled model, calibrated as by ``tansor demo``."""
    samples = folder / "samples.npy"
    np.save(samples, byte_windows(DEMO / "sotu-calibration.txt", CALIBRATION_WINDOWS))
    command = [
        sys.executable,
        "-m",
        "tansor",
        "compress",
        str(DEMO / "opt-1m-byte.onnx"),
        "--force",
        "--calibration",
        str(samples),
    ]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "-o", str(folder / "small.onnx")], cwd=HERE.parents[1], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - begin


def describe_machine() -> Row:
    """Processor, cores, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
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
    parser.add_argument("--page", type=Path, help="a page in Markdown whose tables are replaced")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine, date = describe_machine(), dt.datetime.now(dt.UTC).date().isoformat()
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['processor']} ({machine['architecture']}), {CORES} cores; {versions}; {date}\n", flush=True)
    sources = []
    for source in list_sources(options.symbols, options.model):
        sources.append(compare(source, options.rounds))
        print(source_table(sources[-1]), flush=True)
    sections = {
        "Size": summary_table(sources, "stored"),
        "Speed of encoding": summary_table(sources, "encode"),
        "Speed of decoding": summary_table(sources, "decode"),
        "Payload alone": payload_table(sources),
    }
    growth = [row for profile in PROFILES for row in measure_growth(profile, options.largest)]
    threads = measure_scaling(options.symbols, options.rounds)
    first_calls = measure_first_calls()
    loops = list(measure_loops(options.symbols, options.rounds))
    sections |= {"Growth": growth_table(growth), "Threads": plain_table(threads)}
    sections |= {"First call": plain_table(first_calls), "Loops and whole calls": plain_table(loops)}
    for heading, table in sections.items():
        print(f"## {heading}\n\n{table}", flush=True)
    if options.page:
        page = replace_tables(options.page.read_text(encoding="utf-8"), sections)
        options.page.write_text(page, encoding="utf-8")
    if options.json:
        result = {"machine": machine, "date": date, "rounds": options.rounds, "sources": sources}
        result |= {"growth": growth, "threads": threads, "first_calls": first_calls, "loops": loops}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
