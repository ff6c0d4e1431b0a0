"""The jitted loops alone beside whole calls, in symbols a second of CPU time on one thread.

    python benchmarks/coding/loops.py [--symbols N]

The loops: no frame, checksums, tables or side information, and memory that has been touched before. Whole calls:
`codec.encode` and `codec.decode`. All take turns, so that a slow moment of the machine hits all alike.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from tables import plain_table

import codec
from codec import kernels
from refimpl.tans.classes import class_table
from refimpl.tans.lanes import lane_length
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.stream import encode_stream, lane_sides
from refimpl.tans.tables import decode_table, encode_table

Run = Callable[[], object]


def take_turns(runs: list[Run], rounds: int) -> list[list[float]]:
    """Seconds of CPU time of each in every round; the first round compiles and does not count."""
    seconds: list[list[float]] = []
    for _ in range(rounds + 1):
        seconds.append([])
        for run in runs:
            begin = time.thread_time()
            run()
            seconds[-1].append(time.thread_time() - begin)
    return [list(column) for column in zip(*seconds[1:], strict=True)]


def best(runs: list[Run], rounds: int) -> list[float]:
    """Least seconds of CPU time of each."""
    return [min(column) for column in take_turns(runs, rounds)]


def loops(units: npt.NDArray[np.uint8], profile: str, packed: bool) -> tuple[int, Run, Run]:
    """(table_log, encode, decode): the loops over a stream."""
    stream = encode_stream(units, profile=profile, kernels=kernels.NUMBA)
    classes = class_table(stream.classes)
    states, lengths, table_log = lane_sides(stream, classes)
    lanes, steps = stream.lane_count, lane_length(len(units), stream.lane_count)
    ends = stream.lane_count * (table_log + stream.length_width) + np.cumsum(lengths)
    data = kernels.read_only(stream.words).view(np.uint8)
    entries = kernels.pack_decode_table(decode_table(stream.counts), classes)
    symbols = kernels.aligned_bytes(steps * lanes * (2 if packed else 1))
    symbols[:] = 0

    def decode() -> object:
        return kernels.decode_range(
            data, lanes, 0, lanes, ends - lengths, ends, states, entries, classes.width, classes.first, classes.member,
            packed, symbols,
        )  # fmt: skip

    coded, next_state, first_states = kernels.pack_encode_table(encode_table(stream.counts), classes)
    widths, padding = classes.width[classes.leader], int(np.argmax(stream.counts))
    new_states, new_lengths = np.empty(lanes, np.uint16), np.empty(lanes, np.int64)
    buffer = np.zeros(2 * len(units) + 64, np.uint8)
    source = kernels.read_only(units)

    def encode() -> object:
        return kernels.encode_range(
            source, lanes, 0, lanes, steps, padding, coded, next_state, first_states, widths, classes.index,
            new_states, new_lengths, buffer,
        )  # fmt: skip

    return table_log, encode, decode


def draw(count: int) -> Iterator[tuple[str, npt.NDArray[np.uint8], bool]]:
    """(name, symbols, whether they are packed) of each source."""
    random = np.random.default_rng(0)
    for name, sigma, packed in (
        ("int8, sigma 5", 5.0, False), ("int8, sigma 12.5", 12.5, False),
        ("int4, sigma 0.97, packed", 0.97, True), ("int4, sigma 1.97, packed", 1.97, True),
    ):  # fmt: skip
        codes = np.round(random.standard_normal(count) * sigma)
        yield name, (codes.clip(-7, 7) + 7 if packed else codes.clip(-128, 127) + 128).astype(np.uint8), packed


def measure_loops(count: int, rounds: int) -> Iterator[dict[str, object]]:
    """A row for each source and profile."""
    for name, symbols, packed in draw(count):
        for profile in ("gpu", "archive"):
            yield {"Gsym/s": name, "profile": profile, **speeds(symbols, profile, packed, rounds)}


def speeds(symbols: npt.NDArray[np.uint8], profile: str, packed: bool, rounds: int) -> dict[str, object]:
    """Table size and speeds of the loops and of whole calls."""
    table_log, encode, decode = loops(pack_nibbles(symbols) if packed else symbols, profile, packed)
    frame = codec.encode(symbols, profile=profile)
    runs: dict[str, Run] = {
        "encode: loop": encode,
        "encode: call": lambda: codec.encode(symbols, profile=profile),
        "decode: loop": decode,
        "decode: call": lambda: codec.decode(frame),
    }
    seconds = best(list(runs.values()), rounds)
    return {"table_log": table_log} | {name: len(symbols) / s / 1e9 for name, s in zip(runs, seconds, strict=True)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(plain_table(list(measure_loops(options.symbols, options.rounds))))


if __name__ == "__main__":
    main()
