"""Many small damaged frames through the jitted decoder: counts of how each ends, and whatever ends otherwise.

    python fuzz/fuzz_kernels.py --inputs 10000000 --jobs 2

A batch is one valid frame of `conformance.frames`, damaged thousands of times by NumPy, its checksum made right each
time. Batch N of a seed is always the same: ``--first N --inputs 1`` runs it again. Every 64th input is decoded by
the NumPy reference, too.
"""

import argparse
import faulthandler
import hashlib
import multiprocessing
import resource
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codec import decode  # noqa: E402
from codec.frame import read_frame  # noqa: E402
from codec.kernels import NUMBA  # noqa: E402
from conformance.differ import outcome, same  # noqa: E402
from conformance.frames import draw_frame  # noqa: E402
from conformance.mutate import HEADER_SIZE, boundaries, fields_of, parts_of, seal  # noqa: E402
from refimpl.errors import StreamError  # noqa: E402
from refimpl.tans.blocks import Block, decode_block  # noqa: E402
from refimpl.tans.lanes import lane_length  # noqa: E402
from refimpl.tans.stream import NUMPY, Kernels  # noqa: E402

BATCH = 2000
COMPARE_EVERY = 64
MAX_STEPS = 2000  # of a lane, for the reference
STEERING = ("lane_count", "length_base", "length_width", "chunk", "chunks_per_block", "coded_chunks")
SLOW = 5.0  # seconds
FOUND = ROOT / "tests" / "conformance" / "found"


def main() -> int:
    """Run batches until there were enough inputs; 1 if something was found."""
    options = parse_options()
    faulthandler.enable()
    context = multiprocessing.get_context("spawn")
    running: Any = context.Array("q", [-1] * options.jobs)
    begin = time.perf_counter()
    batches = range(options.first, options.first + -(-options.inputs // BATCH))
    ends: Counter[str] = Counter()
    finds: list[str] = []
    memory = 0
    pool = ProcessPoolExecutor(options.jobs, context, start, (running, context.Value("i", 0)))
    shown = begin
    try:
        for one_ends, one_finds, one_memory in pool.map(partial(run_batch, options.seed), batches):
            ends.update(one_ends)
            finds += one_finds
            memory = max(memory, one_memory)
            for find in one_finds:
                print("FIND", find, flush=True)
            if time.perf_counter() - shown > options.every:
                shown = time.perf_counter()
                report(ends, finds, memory, shown - begin)
    except BrokenProcessPool:
        finds.append(f"a process died in one of the batches {list(running)}")
        print("FIND", finds[-1], flush=True)
    report(ends, finds, memory, time.perf_counter() - begin)
    print("end", flush=True)
    return 1 if finds else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Decode many small damaged frames.")
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between lines")
    return parser.parse_args()


def report(ends: Counter[str], finds: list[str], memory: int, seconds: float) -> None:
    """One line of what happened so far."""
    count = ends.total() - ends["compared"]
    text = ", ".join(f"{name} {n}" for name, n in sorted(ends.items()))
    print(
        f"{seconds:.0f} s, {count} inputs, {count / seconds:.0f}/s, {memory >> 10} MiB, {len(finds)} finds: {text}",
        flush=True,
    )


def nowhere(_batch: int) -> None:
    """Note a batch nowhere."""


slot: Callable[[int], None] = nowhere


def start(running: Any, taken: Any) -> None:
    """Give a new process a place to note its batch in."""
    global slot
    faulthandler.enable()
    with taken.get_lock():
        index = taken.value
        taken.value += 1
    slot = partial(running.__setitem__, index)


def run_batch(seed: int, batch: int) -> tuple[Counter[str], list[str], int]:
    """(how inputs ended, finds, most memory of the process so far in KiB) of a batch."""
    slot(batch)
    ends: Counter[str] = Counter()
    finds = []
    for index, data in enumerate(inputs_of(seed, batch)):
        begin = time.perf_counter()
        try:
            symbols = decode(data)
        except StreamError as error:
            end = type(error).__name__
        except Exception as error:
            end = f"FIND {type(error).__name__}"
            finds.append(keep(data, f"batch {batch}, input {index}: {type(error).__name__}: {error}"))
        else:
            end = "decoded"
            checked = any(symbols.strides) or not symbols.size  # one symbol repeated may be as long as it likes
            if checked and zlib.crc32(symbols.tobytes()) != int.from_bytes(data[16:20], "little"):
                finds.append(keep(data, f"batch {batch}, input {index}: symbols of another checksum"))
        ends[end] += 1
        if (seconds := time.perf_counter() - begin) > SLOW:
            finds.append(keep(data, f"batch {batch}, input {index}: {seconds:.1f} s"))
        if index % COMPARE_EVERY == 0 and (block := comparable(data)) is not None:
            ends["compared"] += 1
            if not same(*(outcome(partial(decode_symbols, block, kernels), data) for kernels in (NUMPY, NUMBA))):
                finds.append(keep(data, f"batch {batch}, input {index}: NumPy and Numba differ"))
    return ends, finds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def decode_symbols(block: Block, kernels: Kernels, _data: bytes) -> npt.NDArray[np.uint8]:
    """The symbols of a block, their checksum unseen."""
    return decode_block(block, kernels=kernels)


def comparable(data: bytes) -> Block | None:
    """The block of a frame, if it can be read and the reference is not slow on it."""
    try:
        block = read_frame(data).block
    except StreamError:
        return None
    stream = block.stream
    short = stream is None or not stream.lane_count or lane_length(stream.symbol_count, stream.lane_count) < MAX_STEPS
    return block if short else None


def keep(data: bytes, words: str) -> str:
    """Store an input for the regression test."""
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{hashlib.sha256(data).hexdigest()[:16]}.frame"
    path.write_bytes(data)
    return f"{path.name} {words}"


def inputs_of(seed: int, batch: int) -> Iterator[bytes]:
    """The inputs of a batch: one frame, cut, widened or spliced, then its bytes edited at random."""
    random = Random(f"{seed} {batch}")  # noqa: S311
    table_logs = 5, random.choice([5, 6, 8, 8, 12])
    modes = random.choice([["coded"], ["coded"], ["partial"], ["raw", "constant", "coded"]])
    first, second = (draw_frame(random, modes=modes, table_logs=table_logs, max_units=48).data for _ in range(2))
    base = reshaped(first, second, random)
    rng = np.random.default_rng([seed, batch])
    rows = edited(base, rng)
    whole = rows.tobytes()
    for index in range(BATCH):
        data = whole[index * len(base) : (index + 1) * len(base)]
        yield data if index % 64 == 63 else seal(data)


def reshaped(first: bytes, second: bytes, random: Random) -> bytes:
    """The first frame, mostly as it is; at least as long as a header."""
    head, tail = random.choice(boundaries(first)), random.choice(boundaries(second))
    at = random.randint(HEADER_SIZE, len(first))
    shapes = [first] * 12 + [first[:head] + second[tail:], first[:at], first[:at] + bytes(4) + first[at:]]
    shape = random.choice(shapes)
    return shape if len(shape) > HEADER_SIZE else first


def places_of(base: bytes) -> list[npt.NDArray[np.int64]]:
    """Places to edit, a likely kind more often: what steers the decoder, what it decodes, all behind the version."""
    fields, parts = fields_of(base), parts_of(base)
    low_bytes = [fields[name][0] for name in ("symbol_count", *STEERING) if name in fields]
    stored = [
        np.arange(at, at + size) for at, size in (parts.get(name, (0, 0)) for name in ("words", "raw", "classes"))
    ]
    kinds = [*stored, *stored[:1] * 3, np.array(low_bytes), np.array(low_bytes), np.arange(4, len(base))]
    return [kind for kind in kinds if len(kind)]


def edited(base: bytes, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(BATCH, bytes): copies with one to three bytes changed, or two normalized counts exchanged as well."""
    rows = np.tile(np.frombuffer(base, np.uint8), (BATCH, 1))
    kinds = places_of(base)
    for chance in (1.0, 0.4, 0.2):
        row = np.flatnonzero(rng.random(BATCH) < chance)
        at = np.stack([rng.choice(kind, len(row)) for kind in kinds])[rng.integers(0, len(kinds), len(row)), every(row)]
        old = rows[row, at]
        one, any_byte = np.uint8(1), rng.integers(0, 256, len(row), np.uint8)
        flipped = old ^ (one << rng.integers(0, 8, len(row), np.uint8))
        ways = np.stack([flipped, flipped, any_byte, old + one, old - one, np.zeros_like(old), np.full_like(old, 255)])
        rows[row, at] = ways[rng.integers(0, len(ways), len(row)), every(row)]
    begin, size = parts_of(base).get("counts", (0, 0))
    if size:  # their sum stays what it is, mostly
        row = np.flatnonzero(rng.random(BATCH) < 0.3)
        at, other = begin + rng.integers(0, size, (2, len(row)))
        rows[row, at], rows[row, other] = rows[row, other], rows[row, at]
    return rows


def every(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The indices of an array."""
    return np.arange(len(array))


if __name__ == "__main__":
    sys.exit(main())
