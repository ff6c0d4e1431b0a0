"""bench: load time, latency and memory of a model in ONNX Runtime, how fast it decodes, and what the formulas predict.

Keys of the result are listed in docs/speed.md.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from codec.tensor import BandedTensor, load, store_integers
from onnx_export.budget import BUFFERS, Profile, fraction_of, measure, open_kept, whole_calls
from onnx_export.calibration import Samples, check_samples, is_stacked, read_samples
from onnx_export.calls import read_calls
from onnx_export.files import file_bytes, read_model
from onnx_export.measure import (
    Setup,
    bandwidths,
    bound_run,
    device_memory,
    environment,
    fitting,
    host_memory,
    identity_run,
    is_fixed,
    seconds_of,
)
from onnx_export.progress import Progress, silent
from onnx_export.rewrite import planned_residents
from onnx_export.runtime import describe_placement, onnxruntime
from onnx_export.session import load_session
from onnx_export.tables import make_console, make_table
from refimpl.errors import ExportError, InvalidArgument
from refimpl.throughput import Machine, Workload, device_bytes, stages

BATCHES = (1, 8, 64)
SECONDS = 10.0  # of measuring
RUNS = 10  # of each batch, about


def bench(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    mode: str = "streaming",
    repeats: int = 5,
    threads: int | None = None,
    seconds: float = SECONDS,
    calibration: Samples | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model.

    Parameters
    ----------
    source : path
        ``.onnx``, compressed or not.
    device : {"cpu", "cuda"}
    mode : {"streaming", "resident", "auto"}
    repeats : int
        Rounds of which the median counts.
    threads : int, optional
        Of the sessions that run on the CPU; default ONNX Runtime's. With one, times are those of that thread.
    seconds : float
        Of measuring, beside loading: each thing gets its share and runs once at the least. Batches of which a few runs
        would take too much of it are left out.
    calibration : path, array or mapping, optional
        Samples of the inputs, as for `onnx_export.compress.compress`; default made-up ones.
    progress : callable, optional
        Told (what is measured, done, of how many).

    Returns
    -------
    dict
        ``path``, ``bytes``, ``device``, ``mode``, ``threads``, ``placement`` (what runs where), ``load_seconds``,
        ``latency`` (seconds by batch), ``peak_host_bytes``, ``device_bytes``, ``environment``, ``bandwidths`` (bytes a
        second) and, of a compressed model, ``planned`` (what mode auto does), ``tensors`` (what each takes to decode),
        ``profiles`` (what was measured of the model at each batch) and ``cases`` (predicted latency and memory, beside
        the measured ones where the mode exists).
        ``left_out`` lists the batches for which the seconds did not suffice.

    Raises
    ------
    InvalidArgument
        No repeats, or no seconds.
    CalibrationError
        The samples do not fit.
    TansorError
        See `onnx_export.session.load_session`.
    """
    if not seconds > 0:
        raise InvalidArgument(f"seconds is {seconds}, allowed are numbers above 0")
    tell, source = progress or silent, Path(source)
    samples = read_samples(Path(calibration)) if isinstance(calibration, str | os.PathLike) else calibration
    setup = Setup(device, threads=threads, repeats=repeats, samples=samples)
    before = device_memory() if device == "cuda" else None
    tell("load", 0, 1)
    begin = time.perf_counter()
    session = load_session(source, mode, device)
    load_seconds = time.perf_counter() - begin
    tell("load", 1, 1)
    setup = fitting(session, setup)
    batches = batches_of(session, setup)
    within = batches_within(session, setup, batches, seconds)
    after = device_memory() if device == "cuda" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    placement = describe_placement(session)
    del session
    model = read_model(source)
    calls = [(stored, call) for _, stored, call in read_calls(model)]
    predicted = bool(calls) and not any(isinstance(stored, BandedTensor) for stored, _ in calls)
    kinds = {(call.node.op_type, stored.dtype, stored.shape) for stored, call in calls}
    things = len(within) * (1 + 4 * predicted) + 2 * len(kinds) * predicted  # each about as often as the others
    setups = [replace(setup, batch=batch, most=seconds / things) for batch in within]
    speeds = bandwidths(source, setups[0])
    latency, predictions = {}, {}
    if predicted:
        predictions = predict(source, model, setups, speeds, tell)
        cases = [c for c in predictions["cases"] if c["measured_seconds"] is not None]
        ran = mode if mode in {c["case"] for c in cases} else predictions["planned"]
        latency = {c["batch"]: c["measured_seconds"] for c in cases if c["case"] == ran}
    else:
        session = load_session(source, mode, device, options=setup.options())
        latency = {s.batch: seconds_of({"": bound_run(session, s)}, s)[""] for s in setups}
    return {
        "path": str(source), "bytes": file_bytes(source), "device": device, "mode": mode, "threads": threads,
        "placement": placement, "load_seconds": load_seconds, "latency": latency,
        "peak_host_bytes": peak, "device_bytes": None if before is None or after is None else after[0] - before[0],
        "environment": environment(), "bandwidths": speeds, "left_out": [b for b in batches if b not in within],
        "planned": None, "tensors": [], "profiles": [], "cases": [],
        **predictions,
    }  # fmt: skip


def batches_of(session: Any, setup: Setup) -> tuple[int, ...]:
    """The batch sizes to run: one if no input has a free first dimension, or a sample is the input of a whole run."""
    free = any(given.shape and not is_fixed(given.shape[0]) for given in session.get_inputs())
    if setup.samples is not None:
        samples = check_samples(session, setup.samples)
        free = free and not any(is_stacked(samples[given.name], given) for given in session.get_inputs())
    return BATCHES if free else BATCHES[:1]


def batches_within(session: Any, setup: Setup, batches: Sequence[int], seconds: float) -> list[int]:
    """Run the batches once, the first one whatever happens, up to one that does not run or would take too long."""
    within: list[int] = []
    taken = 0.0
    for batch in batches:
        if within and RUNS * taken * batch / within[-1] > seconds / len(batches):
            break
        begin = time.perf_counter()
        try:
            bound_run(session, replace(setup, batch=batch))()
        except ExportError:  # its first dimension does not count samples
            if not within:
                raise
            break
        taken = time.perf_counter() - begin
        within.append(batch)
    return within


def predict(
    source: Path, model: onnx.ModelProto, setups: list[Setup], speeds: dict[str, float | None], tell: Progress
) -> dict[str, Any]:
    """What the formulas say of a compressed model: ``tensors``, ``profiles`` and ``cases``."""
    fractions = {name: fraction_of(stored.frame.block) for name, stored, _ in whole_calls(model)}
    sizes = {name: call.stored_bytes for name, _, call in whole_calls(model)}
    resident = planned_residents(model, list(fractions))
    modes = ["resident", "streaming", *(["auto"] if 0 < len(resident) < len(fractions) else [])]
    memory = {}
    for i, mode in enumerate(modes):
        tell("memory", i, len(modes))
        memory[mode] = memory_apart(source, mode, setups[0])
    tell("memory", len(modes), len(modes))
    profiles: list[Profile] = []
    cases: list[dict[str, Any]] = []
    for i, setup in enumerate(setups):
        tell("batches", i, len(setups))
        # How long tensors take to decode alone does not depend on the batch.
        profiles.append(measure(model, setup, tell=tell, known=profiles[0].tensors if profiles else None))
        profile = profiles[-1]
        tasks = {mode: bound_run(open_kept(model, mode, setup), setup) for mode in modes}
        seconds = seconds_of(tasks, setup)
        kept = {"resident": frozenset(fractions), "streaming": frozenset[str](), "auto": resident}
        for mode in modes:
            chosen = {name: None if name in kept[mode] else f for name, f in fractions.items()}
            held = sum(c.ready_bytes if c.name in kept[mode] else sizes[c.name] for c in profile.tensors)
            buffers = sum(sorted(c.buffer_bytes for c in profile.tensors if c.name not in kept[mode])[-BUFFERS:])
            cases.append({
                "batch": setup.batch, "case": mode, "seconds": profile.predict(chosen),
                "measured_seconds": seconds[mode], "bytes": held + buffers, "measured_bytes": memory[mode],
            })  # fmt: skip
        cases += loading_cases(profile, fractions, sum(sizes.values()), speeds)
    tell("batches", len(setups), len(setups))
    return {
        "planned": "auto" if len(modes) > 2 else "resident" if resident else "streaming",
        "tensors": [
            {
                "name": c.name, "function": c.function, "elements": c.elements, "stored_bytes": sizes[c.name],
                "fraction": fractions[c.name], "least_fraction": c.least / 16, "least_seconds": c.least_seconds,
                "decode_seconds": c.coded_seconds, "elements_per_second": c.elements / c.coded_seconds,
            }
            for c in profiles[0].tensors
        ],
        "profiles": [
            {"batch": p.setup.batch, "plain_seconds": p.plain_seconds, "least_seconds": p.least_seconds,
             "coded_seconds": p.coded_seconds}
            for p in profiles
        ],
        "cases": cases,
    }  # fmt: skip


def loading_cases(
    profile: Profile, fractions: dict[str, float], stored: int, speeds: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Nothing but buffers in device memory: all weights come from the host or from disk in each run, in series."""
    tensors = profile.tensors
    raw, ready = sum(c.elements for c in tensors), sum(c.ready_bytes for c in tensors)
    used = sum(c.buffer_bytes for c in tensors)
    coded = sum(f * c.elements for c in tensors if (f := fractions[c.name]))
    streaming = profile.predict(dict.fromkeys(fractions, 0.0))
    decode = max(profile.predict(dict(fractions)) - streaming, 1e-12)
    work = Workload(
        raw_bytes=raw,
        ratio=max(1.0, coded / max(stored - (raw - coded), 1.0)) if coded else 1.0,
        fraction=coded / raw,
        compute_seconds=streaming,
        layers=max(1, used // max(c.buffer_bytes for c in tensors)),
        width=used / raw,
        buffers=BUFFERS,
    )
    plain = Workload(ready, 1.0, 0.0, profile.plain_seconds, max(1, ready // max(c.ready_bytes for c in tensors)),
                     buffers=BUFFERS)  # fmt: skip
    farther = {"host": (math.inf, speeds["link"]), "disk": (0.0, speeds["disk"])}
    cases = []
    for place, (host_bytes, speed) in farther.items():
        if speed is None:
            continue
        for name, kept in (("plain", plain), ("compressed", work)):
            machine = Machine(kept.buffer_bytes, host_bytes, speeds["link"] or math.inf, speeds["disk"] or math.inf,
                              max(coded, 1.0) / decode)  # fmt: skip
            cases.append({
                "batch": profile.setup.batch, "case": f"{name}, from {place}", "seconds": stages(kept, machine).serial,
                "measured_seconds": None, "bytes": device_bytes(kept, machine), "measured_bytes": None,
            })  # fmt: skip
    return cases


# Memory


def memory_apart(source: Path, mode: str, setup: Setup) -> int | None:
    """Bytes of device memory that a session and a run of it take, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory_here, source, mode, setup).result()


def memory_here(source: Path, mode: str, setup: Setup) -> int | None:
    """The same in this process: what any session takes, and the compiled codec, do not count."""
    look = device_memory if setup.device == "cuda" else host_memory
    identity_run(onnxruntime().OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), setup.device, 0), setup)()
    if mode != "streaming":  # which needs none of it
        load(store_integers(np.tile(np.arange(4, dtype=np.uint8), 999)))
    before = look()
    run = bound_run(load_session(source, mode, setup.device), setup)
    run()
    run()
    after = look()
    return None if before is None or after is None else after[0] - before[0]


# The table


def print_bench(result: dict[str, Any]) -> None:
    """The largest tensors, predictions, totals last."""
    console = make_console()
    tensors = result["tensors"]
    if tensors:
        table = make_table("tensor", "elements", "decode ms", "G elements/s", "as little as can be, ms")
        for t in sorted(tensors, key=lambda t: -t["elements"])[:10]:
            speed = t["elements_per_second"] / 1e9
            table.add_row(
                t["name"], f"{t['elements']:,}", f"{1e3 * t['decode_seconds']:.3f}", f"{speed:.2f}",
                f"{1e3 * t['least_seconds']:.3f}",
            )  # fmt: skip
        console.print(table)
        elements, seconds = (sum(t[key] for t in tensors) for key in ("elements", "decode_seconds"))
        console.print(f"{len(tensors)} tensors: {elements:,} elements in {1e3 * seconds:.1f} ms, one by one")
        console.print(cases_table(result["cases"]))
    else:
        for batch, seconds in result["latency"].items():
            console.print(f"batch {batch}: {1e3 * seconds:.2f} ms")
    speeds = [f"{name} {speed / 1e9:.2f}" for name, speed in result["bandwidths"].items() if speed is not None]
    console.print(f"GB/s: {', '.join(speeds)}")
    memory = f"at most {result['peak_host_bytes'] / 1e6:,.0f} MB of host memory"
    if result["device_bytes"] is not None:
        memory += f", {result['device_bytes'] / 1e6:,.0f} MB of device memory"
    console.print(f"{result['bytes']:,} bytes, loaded in {result['load_seconds']:.2f} s, {memory}")
    if result["left_out"]:
        batches = " and ".join(map(str, result["left_out"]))
        console.print(f"left out: batch {batches}, which take too long for --seconds or which the model refuses")
    console.print(f"{result['device']}, {result['mode']}: {result['placement']}")


def cases_table(cases: list[dict[str, Any]]) -> Any:
    """Predicted beside measured."""
    table = make_table("weights are", "batch", "ms predicted", "measured", "MB of weights predicted", "MB measured")
    for c in cases:
        table.add_row(
            c["case"], str(c["batch"]), f"{1e3 * c['seconds']:.2f}", scaled(c["measured_seconds"], 1e3),
            f"{c['bytes'] / 1e6:,.1f}", scaled(c["measured_bytes"], 1e-6),
        )  # fmt: skip
    return table


def scaled(value: float | None, factor: float) -> str:
    """A number in another unit, or a dash where there is none.

    Examples
    --------
    >>> scaled(0.0123, 1e3), scaled(None, 1e3)
    ('12.30', '-')
    """
    return "-" if value is None else f"{value * factor:,.2f}"
