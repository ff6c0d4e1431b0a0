"""Speed of decoding on a GPU: kernels alone, beside a copy and nvCOMP's ANS. Prints tables; JSON with --json.

    pip install '.[cpu,cuda]' nvidia-nvcomp-cu13
    python benchmarks/gpu_decode.py [--json FILE] [--symbols N] [--times N]

Seconds are medians of several replays of a CUDA graph that decodes again and again, from and to buffers that take
turns, so that no cache holds them. Tables and positions of lanes are there already; `prepare` is what bringing
a frame from the host and building them takes. The larger tensor is the smaller one several times over: the coder has no
memory that could profit. nvCOMP is timed through its Python interface, the allocation of its results included.
Tsym/s: 10**12 symbols a second; a symbol of a tensor decoded to int8 is a byte.
"""

import argparse
import importlib
import json
import platform
import sys
import time
import zlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from codec.cuda.blocks import ELEMENTS, SYMBOLS, Broadcast, DeviceBlock, launch_block, upload_block, upload_broadcast
from codec.cuda.device import Device, current_device
from codec.frame import make_frame
from codec.kernels import numba_kernels
from refimpl.metrics import entropy_of_counts

REPLAYS, ROTATED_BYTES, LEAST_LAUNCHES = 15, 1 << 29, 8
COLUMNS = 4096
PEER_SOURCES = ("int8, sigma 1.97", "int8, sigma 5")  # those that nvCOMP is given too
SOURCES = {  # name: (standard deviation of codes, largest code)
    "int8, sigma 1.97": (1.97, 127),
    "int8, sigma 5": (5.0, 127),
    "int8, sigma 5, cut at 3 sigma": (5.0, 15),
    "int8, sigma 12.5": (12.5, 127),
    "int4 packed, sigma 0.97": (0.97, 7),
    "int4 packed, sigma 1.97": (1.97, 7),
}
Row = dict[str, Any]


def draw(name: str, count: int) -> npt.NDArray[np.uint8]:
    """Symbols of rounded Gaussian codes."""
    sigma, largest = SOURCES[name]
    codes = np.round(np.random.default_rng(7).standard_normal(count) * sigma).clip(-largest, largest)
    return (codes + largest).astype(np.uint8)


def seconds(launch: Callable[[int], None], sets: int) -> float:
    """Median seconds of a launch; ``launch(i)`` uses the i-th of so many sets of buffers."""
    launches = sets * max(1, -(-LEAST_LAUNCHES // sets))
    for i in range(sets):
        launch(i)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for i in range(launches):
            launch(i % sets)
        graph = stream.end_capture()
        graph.launch(stream)
        taken = []
        for _ in range(REPLAYS):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3 / launches)
    return float(np.median(taken))


def decode_seconds(
    blocks: list[DeviceBlock], device: Device, dtype: str, scale: Broadcast | None = None,
    zero_point: Broadcast | None = None, crc: int | None = None,
) -> float:  # fmt: skip
    """Seconds to decode a block to a type; copies of the block take turns."""
    outs = [device.empty(block.symbol_count, ELEMENTS[dtype]) for block in blocks]
    status = device.array(np.zeros(1, np.uint32))

    def launch(i: int) -> None:
        launch_block(blocks[i], device, dtype, scale, zero_point, outs[i], status)

    result = seconds(launch, len(blocks))
    assert int(device.host(status)[0]) == 0
    assert crc is None or zlib.crc32(device.host(outs[0]).data) == crc
    return result


def measure(name: str, base: npt.NDArray[np.uint8], times: int, device: Device) -> Row:
    """All types of one source at one size."""
    symbols = np.tile(base, times)
    count = len(symbols)
    frame = make_frame(symbols, kernels=numba_kernels(8))
    stream = frame.block.stream
    assert stream is not None
    sets = max(2, ROTATED_BYTES // count)
    begin = time.perf_counter()
    upload_block(frame.block, device)
    cupy.cuda.Device().synchronize()
    prepare = time.perf_counter() - begin
    blocks = [upload_block(frame.block, device) for _ in range(sets)]
    shape = (count // COLUMNS, COLUMNS)
    zero_point = upload_broadcast(np.array(SOURCES[name][1], np.uint8), shape, device)
    by_row = upload_broadcast(np.full((count // COLUMNS, 1), 0.5, np.float32), shape, device)
    by_column = upload_broadcast(np.full((1, COLUMNS), 0.5, np.float32), shape, device)
    taken = {
        "symbols": decode_seconds(blocks, device, SYMBOLS, crc=frame.symbols_crc),
        "int8": decode_seconds(blocks, device, "int8", None, zero_point),
        "float16": decode_seconds(blocks, device, "float16", by_row, zero_point),
        "float16, columns": decode_seconds(blocks, device, "float16", by_column, zero_point),
        "float32": decode_seconds(blocks, device, "float32", by_row, zero_point),
    }
    return {
        "source": name, "symbols": count, "entropy": entropy_of_counts(np.bincount(base)),
        "bits": frame.block.stored_bits / count,
        "lane_symbols": stream.symbol_count / stream.lane_count, "class_bytes": len(stream.classes),
        "prepare_seconds": prepare, "seconds": taken,
    }  # fmt: skip


def copy_seconds(count: int) -> float:
    """Seconds to copy so many bytes within the device."""
    sets = max(2, ROTATED_BYTES // count)
    buffers = [cupy.zeros(count, np.uint8) for _ in range(sets + 1)]

    def launch(i: int) -> None:
        pointers = buffers[i + 1].data.ptr, buffers[i].data.ptr
        cupy.cuda.runtime.memcpyAsync(*pointers, count, 3, cupy.cuda.get_current_stream().ptr)

    return seconds(launch, sets)


def nvcomp_rows(symbols: npt.NDArray[np.uint8], chunks: tuple[int, ...] = (1 << 16, 1 << 18, 1 << 20)) -> list[Row]:
    """NvCOMP's ANS on the same symbols, for several sizes of a chunk."""
    try:
        nvcomp: Any = importlib.import_module("nvidia.nvcomp")
    except ImportError as error:
        print(f"nvCOMP is left out: {error}", file=sys.stderr)
        return []
    rows = []
    source = cupy.asarray(symbols)
    for chunk in chunks:
        codec = nvcomp.Codec(algorithm="ANS", uncomp_chunk_size=chunk)
        packed = codec.encode(nvcomp.as_array(source))
        result = cupy.asarray(codec.decode(packed))
        assert bool((result.view(np.uint8).reshape(-1) == source).all())
        taken = []
        for _ in range(REPLAYS):
            cupy.cuda.Device().synchronize()
            begin = time.perf_counter()
            codec.decode(packed)
            cupy.cuda.Device().synchronize()
            taken.append(time.perf_counter() - begin)
        bits = 8 * packed.buffer_size / len(symbols)
        rows.append({"chunk": chunk, "symbols": len(symbols), "bits": bits, "seconds": float(np.median(taken))})
    return rows


def installed(package: str) -> str:
    """Version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def print_tables(result: dict[str, Any]) -> None:
    """Everything measured."""
    kinds = list(result["decode"][0]["seconds"])
    print("Tsym/s by type of the result\n")
    print("| source | symbols | entropy | stored | lane | " + " | ".join(kinds) + " | symbols, us | prepare, ms |")
    print("|---" * (len(kinds) + 7) + "|")
    for row in result["decode"]:
        speeds = [f"{row['symbols'] / s / 1e12:.3f}" for s in row["seconds"].values()]
        cells = [row["source"], f"{row['symbols']:,}", f"{row['entropy']:.3f}", f"{row['bits']:.3f}"]
        cells += [f"{row['lane_symbols']:.0f}", *speeds, f"{row['seconds']['symbols'] * 1e6:.1f}"]
        print("| " + " | ".join([*cells, f"{row['prepare_seconds'] * 1e3:.2f}"]) + " |")
    print("\n| copied on the device | bytes | us | TB/s, read and written |\n|---|---|---|---|")
    for row in result["copy"]:
        print(f"| | {row['bytes']:,} | {row['seconds'] * 1e6:.1f} | {2 * row['bytes'] / row['seconds'] / 1e12:.2f} |")
    print("\n| nvCOMP ANS | symbols | chunk | stored | ms | Tsym/s |\n|---|---|---|---|---|---|")
    for row in result["nvcomp"]:
        cells = [row["source"], f"{row['symbols']:,}", f"{row['chunk'] >> 10} KiB", f"{row['bits']:.3f}"]
        cells += [f"{row['seconds'] * 1e3:.3f}", f"{row['symbols'] / row['seconds'] / 1e12:.3f}"]
        print("| " + " | ".join(cells) + " |")
    print("\n" + ", ".join(f"{name} {value}" for name, value in result["environment"].items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--symbols", type=int, default=1 << 24)
    parser.add_argument("--times", type=int, default=16, help="how often the larger tensor holds the smaller one")
    arguments = parser.parse_args()
    device = current_device()
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    result: dict[str, Any] = {"decode": [], "copy": [], "nvcomp": []}
    for times in (1, arguments.times):
        for name in SOURCES:
            base = draw(name, arguments.symbols)
            result["decode"].append(measure(name, base, times, device))
            if name in PEER_SOURCES:
                result["nvcomp"] += [{"source": name, **row} for row in nvcomp_rows(np.tile(base, times))]
            cupy.get_default_memory_pool().free_all_blocks()
        count = arguments.symbols * times
        result["copy"].append({"bytes": count, "seconds": copy_seconds(count)})
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    result["environment"] = {
        "card": properties["name"].decode(), "CUDA driver": driver, "CUDA runtime": runtime,
        "CuPy": cupy.__version__, "nvCOMP": installed("nvidia-nvcomp-cu13"), "Python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print_tables(result)


if __name__ == "__main__":
    main()
