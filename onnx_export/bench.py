"""bench: load time, latency, memory and decoding speed of a model in ONNX Runtime."""

import ctypes
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_export.calls import ELEMENT_TYPES as CODES
from onnx_export.calls import Call, read_calls
from onnx_export.files import file_bytes, read_model
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.runtime import ELEMENT_TYPES, describe_placement, onnxruntime, open_session
from onnx_export.runtime import run as run_session
from onnx_export.session import load_session
from onnx_export.tables import make_console, make_table
from refimpl.errors import ExportError, InvalidArgument

BATCHES = (1, 8, 64)
LENGTH = 64  # of free dimensions other than the first


def bench(
    source: str | os.PathLike[str], *, device: str = "cpu", mode: str = "streaming", repeats: int = 5
) -> dict[str, Any]:
    """Measure a model.

    Parameters
    ----------
    source : path
        ``.onnx``, compressed or not.
    device : {"cpu", "cuda"}
    mode : {"streaming", "resident"}
    repeats : int
        Runs of which the median counts, after one that does not.

    Returns
    -------
    dict
        ``path``, ``bytes``, ``device``, ``mode``, ``placement`` (what runs where), ``load_seconds``, ``latency``
        (seconds by batch), ``peak_host_bytes``, ``device_bytes``, ``tensors`` (name, elements, stored_bytes,
        decode_seconds, elements_per_second) and ``environment``.

    Raises
    ------
    InvalidArgument
        No repeats.
    TansorError
        See `onnx_export.session.load_session`.
    """
    if repeats < 1:
        raise InvalidArgument(f"repeats is {repeats}, at least one is needed")
    source = Path(source)
    before = device_bytes() if device == "cuda" else None
    begin = time.perf_counter()
    session = load_session(source, mode, device)
    load_seconds = time.perf_counter() - begin
    latency = {batch: median_seconds(partial(run_batch, session, batch), repeats) for batch in batches_of(session)}
    after = device_bytes() if device == "cuda" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "path": str(source), "bytes": file_bytes(source), "device": device, "mode": mode,
        "placement": describe_placement(session), "load_seconds": load_seconds, "latency": latency,
        "peak_host_bytes": peak, "device_bytes": None if before is None or after is None else after - before,
        "tensors": [decode_speed(call, device, repeats) for call in calls_of(source)] if mode == "streaming" else [],
        "environment": environment(),
    }  # fmt: skip


def environment() -> dict[str, str]:
    """Machine and versions."""
    packages = {name: version(name) for name in ("tansor", "numpy", "onnx")}
    return {
        "machine": platform.machine(), "cores": str(os.cpu_count()), "python": platform.python_version(),
        "onnxruntime": onnxruntime().__version__, **packages, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def median_seconds(task: Callable[[], Any], repeats: int) -> float:
    """Of so many calls, the first one left out."""
    task()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        task()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# Whole models


def batches_of(session: Any) -> tuple[int, ...]:
    """The batch sizes to run: only one if no input has a free first dimension."""
    free = any(i.shape and not isinstance(i.shape[0], int) for i in session.get_inputs())
    return BATCHES if free else BATCHES[:1]


def feeds_for(session: Any, batch: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs that any model takes: noise for numbers, zeros for what may be an index.

    Raises
    ------
    ExportError
        An input of another kind.
    """
    random, feeds = np.random.default_rng(0), {}
    for given in session.get_inputs():
        dtype = ELEMENT_TYPES.get(given.type)
        if dtype is None:
            raise ExportError(f"input {given.name} is {given.type}: nothing to measure with")
        shape = [d if isinstance(d, int) else LENGTH if axis else batch for axis, d in enumerate(given.shape)]
        noise = random.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        feeds[given.name] = noise.astype(dtype)
    return feeds


def run_batch(session: Any, batch: int) -> None:
    """One run."""
    run_session(session, None, feeds_for(session, batch))


def device_bytes() -> int | None:
    """Memory in use on the current CUDA device, by whomever; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuInit(0)
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or driver.cuCtxPushCurrent_v2(context):
        return None
    failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return None if failed else total.value - free.value


# Tensor by tensor


def calls_of(source: Path) -> list[tuple[str, tuple[int, ...], str, Call]]:
    """Name, shape, dtype and call of each compressed tensor."""
    return [(name, stored.shape, stored.dtype, call) for name, stored, call in read_calls(read_model(source))]


def decode_speed(call: tuple[str, tuple[int, ...], str, Call], device: str, repeats: int) -> dict[str, Any]:
    """Time a call in a session of its own, its result left on the device."""
    name, shape, dtype, node = call
    session = open_session(call_model(name, shape, dtype, node), device)
    binding = session.io_binding()
    binding.bind_output(name, device)

    def decode() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    seconds = median_seconds(decode, repeats)
    elements = int(np.prod(shape))
    return {
        "name": name, "elements": elements, "stored_bytes": node.stored_bytes, "decode_seconds": seconds,
        "elements_per_second": elements / seconds,
    }  # fmt: skip


def call_model(name: str, shape: tuple[int, ...], dtype: str, call: Call) -> onnx.ModelProto:
    """A model that decodes one tensor."""
    output = helper.make_tensor_value_info(name, CODES[dtype], shape)
    graph = helper.make_graph(call.nodes, "decode", [], [output], call.inputs, value_info=call.values)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = functions(call.functions, 21)
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=bodies)


def print_bench(result: dict[str, Any]) -> None:
    """The largest tensors, totals last."""
    console, table = make_console(), make_table("tensor", "elements", "decode ms", "G elements/s")
    tensors = result["tensors"]
    for t in sorted(tensors, key=lambda t: -t["elements"])[:10]:
        speed = t["elements_per_second"] / 1e9
        table.add_row(t["name"], f"{t['elements']:,}", f"{1e3 * t['decode_seconds']:.3f}", f"{speed:.2f}")
    if tensors:
        console.print(table)
        elements, seconds = (sum(t[key] for t in tensors) for key in ("elements", "decode_seconds"))
        console.print(f"{len(tensors)} tensors: {elements:,} elements in {1e3 * seconds:.1f} ms, one by one")
    for batch, seconds in result["latency"].items():
        console.print(f"batch {batch}: {1e3 * seconds:.2f} ms")
    memory = f"at most {result['peak_host_bytes'] / 1e6:,.0f} MB of host memory"
    if result["device_bytes"] is not None:
        memory += f", {result['device_bytes'] / 1e6:,.0f} MB of device memory"
    console.print(f"{result['bytes']:,} bytes, loaded in {result['load_seconds']:.2f} s, {memory}")
    console.print(f"{result['device']}, {result['mode']}: {result['placement']}")
