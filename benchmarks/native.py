"""The native op library in sessions of ONNX Runtime: decoding speed, and models that decode at each use.

    python benchmarks/native.py [--device cuda] [--model COMPRESSED.onnx] [--json FILE]
    python benchmarks/native.py --whole-model COMPRESSED.onnx [--json FILE]
    python benchmarks/native.py --products [--json FILE]

On the CPU with one thread, times are those of the thread that decodes: what else the machine does hardly counts. All
other times are wall-clock times. Medians of several runs; what is compared takes turns. The second form measures
nothing but a language model on the CPU, streaming against resident: both run the same weights. The third measures
single products on one thread: ONNX Runtime's with a constant weight, which it packs while loading, and with one that
it is given in each run, as decoded weights are; and the library's with symbols. All weights lie in the caches.
"""

import argparse
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from machine import hardware
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from codec.tensor import load, store_weight
from onnx_export.calls import read_calls, write_call
from onnx_export.files import read_model
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.measure import Setup, call_model, run_of, seconds_of
from onnx_export.products import SYMBOLS_DOMAIN, multiply_symbols
from onnx_export.runtime import open_session
from onnx_export.session import load_session

SIZE = 4096
SOURCES = {"int8": (6.0, 128, 255), "int4": (1.3, 8, 15)}  # standard deviation, zero point, largest symbol
LAYERS, WIDTH, BATCHES = 4, 2048, (1, 8, 64)
LENGTHS = (1, 16)  # tokens of a sequence
PRODUCTS, PRODUCT_ROWS = ((512, 512), (512, 2048), (2048, 512), (512, 8192)), (1, 8, 64, 1024)
MEMORY_SCRIPT = """
import sys
from functools import partial
from onnx_export.measure import Setup, feeds_for, resident_bytes
from onnx_export.session import load_session
now = partial(resident_bytes, "/proc/self/status")
before = now("VmRSS")
session = load_session(sys.argv[1], sys.argv[2])
loaded = now("VmRSS")
feeds = feeds_for(session, Setup())
open("/proc/self/clear_refs", "w").write("5")
for _ in range(3):
    session.run(None, feeds)
print(loaded - before, now("VmHWM") - before)
"""


def main():
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", type=Path, help="a compressed model to measure the memory of")
    parser.add_argument("--whole-model", type=Path, help="a compressed language model to measure the latency of")
    parser.add_argument("--products", action="store_true", help="measure single products on the CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ort.set_default_logger_severity(3)
    if options.products:
        write({"environment": environment("cpu"), "products": products()}, options.json)
        return
    if options.whole_model:
        result = {"environment": environment("cpu"), "whole model": whole_model(options.whole_model)}
        write(result, options.json)
        return
    result = {"environment": environment(options.device), "decoding": decoding(options.device)}
    result["layers"] = layers(options.device)
    result["memory"] = memory(options.model) if options.model and sys.platform == "linux" else []
    write(result, options.json)


def write(result, path):
    """Print tables, and JSON to a file if asked for."""
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def environment(device):
    """Machine and versions in a line."""
    return (
        f"{hardware(device)}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"ONNX Runtime {ort.__version__}, {time.strftime('%Y-%m-%d')}"
    )


# Decoding one tensor


def decoding(device):
    """Billions of elements a second of one tensor of 4096 x 4096 elements."""
    rows = []
    for source in SOURCES:
        for profile in ("gpu", "archive"):
            for dtype in ("float32", "float16"):
                stored = tensor(source, profile, dtype)
                row = {"source": source, "profile": profile, "to": dtype}
                model = call_model("w", stored.shape, dtype, write_call("w", stored))
                if device == "cuda":
                    row["cuda"] = speed(model, device, None, dtype)
                else:
                    row |= {f"{n} threads": speed(model, device, n, dtype) for n in (1, 2)}
                    row["DequantizeLinear, 1 thread"] = speed(dequantize_model(dtype), device, 1, dtype)
                rows.append(row)
                if (source, dtype) == ("int4", "float32") or device == "cuda":
                    row["bodies"] = speed(model, device, 1, dtype, native=False, repeats=1)
    return rows


def tensor(source, profile="gpu", dtype="float32", size=SIZE, seed=0):
    """A stored weight of so many rows and columns."""
    deviation, zero, largest = SOURCES[source]
    random = np.random.default_rng(seed)
    symbols = np.clip((random.standard_normal((size, size)) * deviation).round() + zero, 0, largest).astype(np.uint8)
    scale = (random.random((size, 1)) / size).astype(np.float32)
    return store_weight(symbols, np.array([zero], np.uint8), scale, dtype, profile=profile)


def dequantize_model(dtype):
    """What a plain quantized model does for the same weight; an input keeps it from being folded."""
    code = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    info = helper.make_tensor_value_info
    arrays = {"q": np.zeros((SIZE, SIZE), np.uint8), "s": np.ones(SIZE, dtype), "z": np.zeros(SIZE, np.uint8)}
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0)
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    given = [info("q", TensorProto.UINT8, [SIZE, SIZE])]
    graph = helper.make_graph([node], "dequantize", given, [info("w", code, [SIZE, SIZE])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def speed(model, device, threads, dtype, native=True, repeats=9):
    """Billions of elements a second, the result left where it is."""
    session = open_with(model, device, threads, native)
    binding = session.io_binding()
    out = ort.OrtValue.ortvalue_from_shape_and_type([SIZE, SIZE], np.dtype(dtype).type, device)
    binding.bind_ortvalue_output("w", out)
    seconds = seconds_of({"": run_of(session, binding)}, Setup(device, threads=threads, repeats=repeats))
    return SIZE**2 / seconds[""] / 1e9


def open_with(model, device, threads, native=True):
    """A session as streaming opens it."""
    return open_session(model, device, Setup(device, threads=threads).options(), native=native)


# A model


def layers(device):
    """Milliseconds of a run of matrix products, by batch: plain weights, and decoded at each use."""
    dtype = "float16" if device == "cuda" else "float32"
    stored = [tensor("int4", "gpu", dtype, WIDTH, seed) for seed in range(LAYERS)]
    models = {"plain": plain_model(stored, dtype), "streaming": streaming_model(stored, dtype)}
    if device == "cpu":
        multiply_symbols(models["streaming"])
    sessions = {name: open_with(model, device, 1) for name, model in models.items()}
    setup = Setup(device, threads=1, repeats=15)
    rows = []
    for batch in BATCHES:
        feeds = {"x0": np.random.default_rng(0).standard_normal((batch, WIDTH)).astype(dtype)}
        times = milliseconds({name: partial(s.run, None, feeds) for name, s in sessions.items()}, setup)
        rows.append({"batch": batch} | times | {"ratio": times["streaming"] / times["plain"]})
    return rows


def milliseconds(tasks, setup):
    """Of each task."""
    return {name: 1e3 * seconds for name, seconds in seconds_of(tasks, setup).items()}


def chain(nodes, tensors, dtype, info=(), bodies=(), imports=()):
    """A model of matrix products behind the given nodes."""
    code = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    products = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(LAYERS)]
    ends = [helper.make_tensor_value_info(name, code, ["batch", WIDTH]) for name in ("x0", f"x{LAYERS}")]
    graph = helper.make_graph([*nodes, *products], "layers", ends[:1], ends[1:], tensors, value_info=info)
    opsets = [helper.make_opsetid("", 21), *imports]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=bodies)


def plain_model(stored, dtype):
    """Decoded weights as initializers."""
    return chain([], [numpy_helper.from_array(load(s), f"w{i}") for i, s in enumerate(stored)], dtype)


def streaming_model(stored, dtype):
    """Weights as calls."""
    calls = [write_call(f"w{i}", s) for i, s in enumerate(stored)]
    code = next(a.i for a in calls[0].node.attribute if a.name == "to")
    info = [helper.make_tensor_value_info(f"w{i}", code, s.shape) for i, s in enumerate(stored)]
    bodies = functions({c.node.op_type for c in calls}, 21)
    imports = [helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return chain([c.node for c in calls], [t for c in calls for t in c.inputs], dtype, info, bodies, imports)


# A product


def products():
    """Billions of operations a second of one product, by its sizes, how W lies and the rows of X."""
    table = []
    for (depth, columns), turned, rows in itertools.product(PRODUCTS, (False, True), PRODUCT_ROWS):
        tasks = {name: product(name, rows, depth, columns, turned) for name in ("constant", "given", "symbols")}
        taken = seconds_of(tasks, Setup("cpu", threads=1, repeats=9))
        speeds = {name: 2e-9 * rows * depth * columns / seconds for name, seconds in taken.items()}
        lies = "columns, depth" if turned else "depth, columns"
        table.append({"depth": depth, "columns": columns, "W lies as": lies, "rows of X": rows} | speeds)
    return table


def product(name, rows, depth, columns, turned):
    """A run of one product; W is a constant, an input, or an input of symbols."""
    random = np.random.default_rng(0)
    shape = (columns, depth) if turned else (depth, columns)
    symbols, scale, zero = random.integers(0, 256, shape, np.uint8), np.float32([0.01]), np.uint8([128])
    arrays = {"x": random.standard_normal((rows, depth)).astype(np.float32)}
    given = {"s": scale, "z": zero, "w": symbols if name == "symbols" else (symbols - np.float32(128)) * scale}
    node = helper.make_node("MatMul", ["x", "w", "s", "z"], ["y"], domain=SYMBOLS_DOMAIN, transB=int(turned))
    if name != "symbols":
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(turned))
    if name != "constant":
        arrays["w"] = given.pop("w")
    code = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    ends = [helper.make_tensor_value_info(n, code[a.dtype], a.shape) for n, a in arrays.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
    tensors = [numpy_helper.from_array(a, n) for n, a in given.items() if n in node.input]
    graph = helper.make_graph([node], "product", ends, [y], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(SYMBOLS_DOMAIN, 1)]
    session = open_with(helper.make_model(graph, opset_imports=opsets, ir_version=10), "cpu", 1)
    binding = session.io_binding()
    for n, a in arrays.items():
        binding.bind_ortvalue_input(n, ort.OrtValue.ortvalue_from_numpy(a))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(np.zeros((rows, columns), np.float32)))
    return run_of(session, binding)


# A whole model


def whole_model(path):
    """Milliseconds of a run of a language model, decoded while loading and at each use."""
    rows = []
    for threads in (1, 2):
        sessions = {mode: load_with(path, mode, threads) for mode in ("resident", "streaming")}
        (tokens,) = sessions["resident"].get_inputs()
        for length in LENGTHS:
            for batch in BATCHES:
                feeds = {tokens.name: np.random.default_rng(0).integers(0, 256, (batch, length))}
                tasks = {mode: partial(session.run, None, feeds) for mode, session in sessions.items()}
                times = milliseconds(tasks, Setup("cpu", batch, threads, 15 if batch * length < 512 else 5))
                row = {"threads": threads, "batch": batch, "tokens each": length}
                rows.append(row | times | {"ratio": times["streaming"] / times["resident"]})
    return rows


def load_with(path, mode, threads):
    """`load_session` with so many threads, which it leaves to ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return load_session(path, mode, options=options)


# Memory


def memory(path):
    """Bytes over those of the interpreter and its modules, each mode in a process of its own, on the CPU."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "memory.py"
        script.write_text(MEMORY_SCRIPT)
        calls = list(read_calls(read_model(path)))
        decoded = 4 * sum(int(np.prod(stored.shape)) for _, stored, _ in calls)
        for mode in ("streaming", "resident"):
            command = [sys.executable, str(script), str(path), mode]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            rows.append({"mode": mode, "loaded": int(out[0]), "peak of runs": int(out[1]), "file": path.stat().st_size,
                         "weights as float32": decoded})  # fmt: skip
    return rows


def show(result):
    """Tables, then the machine."""
    console = Console(width=160)
    for title in ("decoding", "layers", "products", "memory", "whole model"):
        rows = result.get(title)
        if not rows:
            continue
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*(cell(row.get(key)) for key in columns))
        console.print(table)
    console.print(result["environment"])


def cell(value):
    """A number or text as it is printed."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
