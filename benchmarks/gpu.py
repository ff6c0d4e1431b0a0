"""What the GPU side does: speed of decoding, and whole models stored in several ways. Prints tables; JSON with --json.

    pip install '.[gpu,cuda]' nvidia-nvcomp-cu13
    python benchmarks/gpu.py [--json FILE] [--model COMPRESSED.onnx]... [--skip decode|decoder]... [--layers 24]

*Decoding* is benchmarks/gpu_decode.py. *Whole models* are a decoder of OPT-1.3B's shape, with random weights, and any
compressed model that is given; their plain twins are floats, INT8 and MatMulNBits. Each way is opened and run in a
process of its own, with its file dropped from the page cache, and opened in another one, with the file in it. All of
them take ONNX Runtime's device memory alike (`onnx_export.runtime.provider_options`). Times are taken in one process,
in which all ways take turns: how fast the processor launches kernels differs between processes.

``load``    seconds from the file to a session, when CUDA and cuBLAS have started already (a product in a small session)
``memory``  bytes of the device over what was in use before loading, asked for every millisecond: most while loading,
            when loaded, most in runs of one token, batches 1, 8 and 64
``step``    milliseconds of a run that takes one token for each sequence of the batch, without a cache of earlier ones;
            inputs and outputs stay on the device. Median.
``prompt``  the same for --tokens tokens
``error``   of the outputs: root mean square of the difference from the plain floats' over that of theirs; how often
            both have their largest value in the same place
"""

import argparse
import ctypes
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # variants.py beside this file

import numpy as np
import onnx
import variants
from onnx import TensorProto, helper, numpy_helper

from codec.tensor import load, load_symbols
from onnx_export.calls import read_calls
from onnx_export.files import read_model, write_model
from onnx_export.measure import device_memory
from onnx_export.rewrite import replace_by_constants
from onnx_export.runtime import onnxruntime, open_session, placement
from onnx_export.session import load_session

BATCHES = (1, 8, 64)
FRACTIONS = (1.0, 0.5, 0.25)
STEPS = {"tokens": 0.27, "positions": 0.27}  # standard deviations; other weights: LAYER_STEP
LAYER_STEP = 0.5
Row = dict[str, Any]


# The files


def make_decoder(folder: Path, layers: int) -> Row:
    """Write all variants of the decoder; return what is known of its weights."""
    threads = os.cpu_count() or 1
    shape = variants.Shape(layers=layers)
    begin = time.perf_counter()
    weights, skeleton = variants.draw_all(shape, threads), variants.decoder(shape)
    made = {"draw": time.perf_counter() - begin}

    def every(task: Callable[[str], Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(threads) as pool:
            return dict(zip(weights, pool.map(task, weights), strict=True))

    def write(name: str, make: Callable[[], onnx.ModelProto]) -> None:
        begin = time.perf_counter()
        write_model(make(), folder / f"{name}.onnx")
        made[name] = time.perf_counter() - begin

    write("float16", lambda: variants.plain(skeleton, weights))
    write("int8", lambda: variants.int8(skeleton, weights))
    for bits in variants.ZERO:
        write(f"nbits {bits}", lambda b=bits: variants.nbits(skeleton, weights, b))
    for fraction in FRACTIONS:

        def compress(f: float = fraction) -> onnx.ModelProto:
            stored = every(lambda n: variants.store(weights[n], STEPS.get(n, LAYER_STEP), f))
            return variants.tansor(skeleton, stored)

        write(f"tansor {fraction:g}", compress)
    count = sum(array.size for array in weights.values())
    symbols = every(lambda n: variants.symbols_of(weights[n], STEPS.get(n, LAYER_STEP))[0])
    bits = sum(every(lambda n: variants.entropy(symbols[n]) * symbols[n].size).values()) / count
    return {"model": f"decoder, {layers} layers", "weights": count, "entropy": bits, "seconds": made}


def make_twins(source: Path, folder: Path) -> Row:
    """Write all variants of a compressed model; its plain floats are what it decodes to."""
    model = read_model(source)
    stored = {name: tensor for name, tensor, _ in read_calls(model)}
    weights = {name: load(tensor) for name, tensor in stored.items()}
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    replace_by_constants(skeleton, [])
    write_model(variants.plain(skeleton, weights), folder / "float32.onnx")
    write_model(variants.int8(skeleton, weights), folder / "int8.onnx")
    for bits in variants.ZERO:
        write_model(variants.nbits(skeleton, weights, bits), folder / f"nbits {bits}.onnx")
    for fraction in FRACTIONS:
        cut = {n: variants.at_fraction(t, load_symbols(t), fraction) for n, t in stored.items()}
        write_model(variants.tansor(skeleton, cut), folder / f"tansor {fraction:g}.onnx")
    count = sum(array.size for array in weights.values())
    bits = sum(variants.entropy(load_symbols(t)) * np.prod(t.shape) for t in stored.values()) / count
    return {"model": source.stem, "weights": count, "entropy": float(bits)}


def in_page_cache(path: Path) -> float:
    """Share of a file's pages that are in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        pages = -(-len(memory) // mmap.PAGESIZE)
        state = (ctypes.c_ubyte * pages)()
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(memory)), state)
        del address
        return float((np.frombuffer(state, np.uint8) & 1).mean())


def drop_from_page_cache(path: Path) -> None:
    """Write a file to the disk, and forget it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# A process of its own


def bytes_in_use() -> int:
    """Of the device, by whomever; 0 without a driver."""
    memory = device_memory()
    return 0 if memory is None else memory[0]


class Peak(threading.Thread):
    """The most device memory in use, asked for every millisecond until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.running = 0, True
        self.start()

    def run(self) -> None:
        """Ask."""
        while self.running:
            self.most = max(self.most, bytes_in_use())
            time.sleep(1e-3)

    def stop(self) -> int:
        """The most of all answers."""
        self.running = False
        self.join()
        return max(self.most, bytes_in_use())


def start_cuda() -> Any:
    """A session with one matrix product, run once."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [64, 64]) for name in ("x", "y")]
    ones = numpy_helper.from_array(np.ones((64, 64), np.float16), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", info[:1], info[1:], [ones])
    session = open_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "cuda")
    session.run(None, {"x": np.ones((64, 64), np.float16)})
    return session


def feeds_for(session: Any, batch: int, tokens: int) -> dict[str, Any]:
    """Inputs of a language model."""
    random, feeds = np.random.default_rng(batch + tokens), {}
    for given in session.get_inputs():
        if given.name == "position_ids":
            feeds[given.name] = np.arange(tokens)
        elif given.name == "mask":
            feeds[given.name] = np.triu(np.full((tokens, tokens), -1e4, np.float16), 1)
        else:
            feeds[given.name] = random.integers(0, 5000, (batch, tokens))
    return feeds


def task_for(session: Any, feeds: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], list[Any]]]:
    """A run whose inputs and outputs stay on the device, and what brings the outputs to the host."""
    ort, binding = onnxruntime(), session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run, lambda: binding.copy_outputs_to_cpu()


def work(path: str, mode: str, tokens: int, outputs: str, only_load: bool) -> Row:
    """Open a model, and run it unless only loading is asked for."""
    begin = time.perf_counter()
    small = start_cuda()
    started, before = time.perf_counter() - begin, bytes_in_use()
    peak = Peak()
    begin = time.perf_counter()
    session = load_session(path, mode, "cuda")
    row: Row = {"start_seconds": started, "load_seconds": time.perf_counter() - begin}
    row["load_bytes"] = peak.stop() - before
    row["loaded_bytes"] = bytes_in_use() - before
    if only_load:
        return row
    placed = placement(session)
    row["placement"] = {device: dict(kinds) for device, kinds in placed.items()} if placed else None
    step = {batch: task_for(session, feeds_for(session, batch, 1)) for batch in BATCHES}
    peak = Peak()
    for run, _ in step.values():
        run()
        run()
    row["run_bytes"] = peak.stop() - before
    run, prompt_outputs = task_for(session, feeds_for(session, 8, tokens))
    run()
    np.savez(outputs, prompt_outputs()[0], step[8][1]()[0])
    del small
    return row


def take_turns(ways: list[tuple[str, str]], tokens: int, repeats: int) -> list[Row]:
    """Median seconds of runs of several (path, mode), one after the other, again and again."""
    sessions = [load_session(path, mode, "cuda") for path, mode in ways]
    rows: list[Row] = [{"step": {}, "prompt": {}} for _ in ways]
    for kind, length, times in (("step", 1, repeats), ("prompt", tokens, max(5, repeats // 4))):
        for batch in BATCHES:
            runs = [task_for(session, feeds_for(session, batch, length))[0] for session in sessions]
            taken = np.array([[seconds(run) for run in runs] for _ in range(times + 2)])[2:]
            for row, median in zip(rows, np.median(taken, 0), strict=True):
                row[kind][batch] = float(median)
    return rows


def seconds(run: Callable[[], None]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


# All processes


def compile_kernels(folder: Path) -> float:
    """Seconds to compile the kernels that the decoder needs, once for all: that is in none of the loads measured."""
    shape = variants.Shape(1, 256, 4, 512, 512, 64)
    weights, skeleton = variants.draw_all(shape, 1), variants.decoder(shape)
    begin = time.perf_counter()
    for fraction in (1.0, 0.5):
        stored = {name: variants.store(weight, LAYER_STEP, fraction) for name, weight in weights.items()}
        write_model(variants.tansor(skeleton, stored), folder / f"{fraction}.onnx")
        path = str(folder / f"{fraction}.onnx")
        process("work", {"path": path, "mode": "streaming", "tokens": 8, "outputs": "", "only_load": True})
    return time.perf_counter() - begin


def measure(folder: Path, about: Row, options: argparse.Namespace) -> Row:
    """All variants of a model."""
    plain = next(path for path in folder.iterdir() if path.name in ("float16.onnx", "float32.onnx"))
    ways = [(plain.stem, plain, "resident"), ("int8", folder / "int8.onnx", "resident")]
    ways += [(f"MatMulNBits, {b} bits", folder / f"nbits {b}.onnx", "resident") for b in variants.ZERO]
    ways += [("tansor, resident", folder / "tansor 1.onnx", "resident")]
    ways += [(f"tansor, streaming, f = {f:g}", folder / f"tansor {f:g}.onnx", "streaming") for f in FRACTIONS]
    rows, wanted = [], None
    for name, path, mode in ways:
        outputs = folder / "outputs.npz"
        files = [path, *([data] if (data := path.with_name(f"{path.name}.data")).exists() else [])]
        for file in files:
            drop_from_page_cache(file)
        cached = max(in_page_cache(file) for file in files)
        row = {"name": name, "bytes": file_bytes_of(path), "cached": cached}
        try:
            task = {"path": str(path), "mode": mode, "tokens": options.tokens, "outputs": str(outputs)}
            row |= process("work", task | {"only_load": False})
            again = process("work", task | {"only_load": True})
            with np.load(outputs) as arrays:
                got = [array.astype(np.float32) for array in arrays.values()]
            wanted = got if wanted is None else wanted
            row |= {"load_again_seconds": again["load_seconds"], **difference(got, wanted)}
        except subprocess.CalledProcessError as error:
            row["failed"] = (error.stderr or "").strip().splitlines()[-1:]
        rows.append(row)
        print(f"{about['model']}: {name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    good = [(row, str(path), mode) for row, (_, path, mode) in zip(rows, ways, strict=True) if "failed" not in row]
    turns = {"ways": [way[1:] for way in good], "tokens": options.tokens, "repeats": options.repeats}
    for (row, _, _), times in zip(good, process("take_turns", turns), strict=True):
        row |= times
    return about | {"rows": rows}


def file_bytes_of(path: Path) -> int:
    """Size of a model and of its tensors beside it."""
    return path.stat().st_size + sum(p.stat().st_size for p in path.parent.glob(f"{path.name}.data"))


def process(name: str, arguments: Row) -> Any:
    """`work` or `take_turns` in a process of its own."""
    command = [sys.executable, __file__, "--work", json.dumps([name, arguments])]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def difference(got: list[Any], wanted: list[Any]) -> Row:
    """How far outputs are from those of the plain floats."""
    scale = np.sqrt(np.mean([np.mean(w**2) for w in wanted]))
    error = np.sqrt(np.mean([np.mean((g - w) ** 2) for g, w in zip(got, wanted, strict=True)]))
    same = np.mean([np.mean(g.argmax(-1) == w.argmax(-1)) for g, w in zip(got, wanted, strict=True)])
    finite = all(bool(np.isfinite(g).all()) for g in got)
    return {"error": float(error / scale), "same_largest": float(same), "finite": finite}


def decoding(options: argparse.Namespace) -> Row:
    """What benchmarks/gpu_decode.py measures; it prints its own tables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decode.json"
        script = str(Path(__file__).with_name("gpu_decode.py"))
        subprocess.run([sys.executable, script, "--json", str(path), *options.decode.split()], check=True)
        return json.loads(path.read_text())  # type: ignore[no-any-return]


def environment() -> dict[str, str]:
    """Card, machine and versions."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "-"

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    packages = {name: installed(name) for name in ("numpy", "onnx", "cupy-cuda13x", "nvidia-nvcomp-cu13")}
    return {
        "card and driver": card, "cores": str(os.cpu_count()), "Python": platform.python_version(),
        "ONNX Runtime": onnxruntime().__version__, **packages, "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


# Tables


def print_models(models: list[Row], tokens: int) -> None:
    """Two tables a model."""
    for model in models:
        print(f"\n{model['model']}: {model['weights']:,} weights, entropy {model['entropy']:.3f} bits\n")
        print(
            "| | file MB | load s | again s | MB loading | MB loaded | MB in runs | of INT8 | error | same | nodes on |"
        )
        print("|---" * 11 + "|")
        peak = {row["name"]: row.get("run_bytes") for row in model["rows"]}
        for row in model["rows"]:
            if "failed" in row:
                print(f"| {row['name']} | failed: {row['failed']} |")
                continue
            cells = [row["name"], f"{row['bytes'] / 1e6:,.0f}", f"{row['load_seconds']:.2f}"]
            cells += [f"{row['load_again_seconds']:.2f}"]
            cells += [f"{row[key] / 1e6:,.0f}" for key in ("load_bytes", "loaded_bytes", "run_bytes")]
            cells += [f"{row['run_bytes'] / peak['int8']:.2f}" if peak.get("int8") else ""]
            cells += [f"{row['error']:.5f}", f"{row['same_largest']:.3f}", describe(row["placement"])]
            print("| " + " | ".join(cells) + " |")
        titles = [f"{kind}, batch {batch}" for kind in ("step", f"{tokens} tokens") for batch in BATCHES]
        print("\n| milliseconds | " + " | ".join(titles) + " |\n" + "|---" * 7 + "|")
        for row in model["rows"]:
            if "failed" not in row:
                times = [row[kind][str(batch)] for kind in ("step", "prompt") for batch in BATCHES]
                print(f"| {row['name']} | " + " | ".join(f"{1e3 * t:.3f}" for t in times) + " |")


def describe(placed: dict[str, dict[str, int]] | None) -> str:
    """How many nodes ran where."""
    if placed is None:
        return "unknown"
    return ", ".join(f"{device}: {sum(kinds.values())}" for device, kinds in sorted(placed.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a compressed language model")
    parser.add_argument("--skip", action="append", default=[], choices=["decode", "decoder"])
    parser.add_argument("--layers", type=int, default=24, help="of the decoder")
    parser.add_argument("--tokens", type=int, default=64, help="of a prompt")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--decode", default="", help="arguments for gpu_decode.py")
    parser.add_argument("--folder", type=Path, help="where the files go instead of a temporary folder")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, arguments = json.loads(options.work)
        print(json.dumps({"work": work, "take_turns": take_turns}[name](**arguments)))
        return
    result: Row = {"environment": environment(), "models": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        makers = [lambda d, p=p: make_twins(p, d) for p in options.model]
        if "decoder" not in options.skip:
            makers.append(lambda d: make_decoder(d, options.layers))
        (folder / "kernels").mkdir()
        result["compile_seconds"] = compile_kernels(folder / "kernels")
        for i, make in enumerate(makers):
            (folder / str(i)).mkdir()
            result["models"].append(measure(folder / str(i), make(folder / str(i)), options))
            for file in (folder / str(i)).iterdir():
                file.unlink()
    if "decode" not in options.skip:
        result["decoding"] = decoding(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print_models(result["models"], options.tokens)
    print("\n" + ", ".join(f"{name} {value}" for name, value in result["environment"].items()))


if __name__ == "__main__":
    main()
