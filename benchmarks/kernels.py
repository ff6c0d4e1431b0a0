"""Speed of the jitted loops alone and of whole calls, in symbols a second of CPU time on one thread. Prints a table.

    python benchmarks/kernels.py [--symbols N]

The loops: no frame, checksums, tables or side information, and memory that has been touched before. Whole calls:
`codec.encode` and `codec.decode`. CPU time of the thread, so that other work on the machine counts less.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import codec
from codec import kernels
from refimpl.tans.classes import class_table
from refimpl.tans.lanes import lane_length
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.stream import encode_stream, lane_sides
from refimpl.tans.tables import decode_table, encode_table

ROUNDS = 7


def best(run: Callable[[], object]) -> float:
    """Least seconds of CPU time of several runs."""
    seconds = []
    for _ in range(ROUNDS + 1):  # the first one compiles
        begin = time.thread_time()
        run()
        seconds.append(time.thread_time() - begin)
    return min(seconds[1:])


def measure(units: npt.NDArray[np.uint8], profile: str, packed: bool) -> tuple[int, float, float]:
    """(table_log, encode, decode) of a stream, in seconds."""
    stream = encode_stream(units, profile=profile, kernels=kernels.NUMBA)
    classes = class_table(stream.classes)
    states, lengths, table_log = lane_sides(stream, classes)
    lanes, steps = stream.lane_count, lane_length(len(units), stream.lane_count)
    ends = stream.lane_count * (table_log + stream.length_width) + np.cumsum(lengths)
    data = kernels.read_only(stream.words).view(np.uint8)
    entries = kernels.pack_decode_table(decode_table(stream.counts), classes)
    symbols = np.zeros(steps * lanes * (2 if packed else 1), np.uint8)
    decode = best(
        lambda: kernels.decode_range(
            data, lanes, 0, lanes, ends - lengths, ends, states, entries, classes.width, classes.first, classes.member,
            packed, symbols,
        )
    )  # fmt: skip
    coded, next_state, first_states = kernels.pack_encode_table(encode_table(stream.counts), classes)
    widths, padding = classes.width[classes.leader], int(np.argmax(stream.counts))
    new_states, new_lengths = np.empty(lanes, np.uint16), np.empty(lanes, np.int64)
    buffer = np.zeros(2 * len(units) + 64, np.uint8)
    source = kernels.read_only(units)
    encode = best(
        lambda: kernels.encode_range(
            source, lanes, 0, lanes, steps, padding, coded, next_state, first_states, widths, classes.index,
            new_states, new_lengths, buffer,
        )
    )  # fmt: skip
    return table_log, encode, decode


def whole(symbols: npt.NDArray[np.uint8], profile: str) -> tuple[float, float]:
    """(encode, decode) of a frame, in seconds."""
    frame = codec.encode(symbols, profile=profile)
    return best(lambda: codec.encode(symbols, profile=profile)), best(lambda: codec.decode(frame))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=1 << 24)
    count = parser.parse_args().symbols
    random = np.random.default_rng(0)
    columns = ("encode: loop", "whole call", "decode: loop", "whole call")
    print(f"| Gsym/s | profile | table_log | {' | '.join(columns)} |\n|---|---|---|---|---|---|---|")
    for name, sigma, packed in (
        ("int8, sigma 5", 5.0, False), ("int8, sigma 12.5", 12.5, False),
        ("int4, sigma 0.97, packed", 0.97, True), ("int4, sigma 1.97, packed", 1.97, True),
    ):  # fmt: skip
        codes = np.round(random.standard_normal(count) * sigma)
        symbols = (codes.clip(-7, 7) + 7 if packed else codes.clip(-128, 127) + 128).astype(np.uint8)
        for profile in ("gpu", "archive"):
            table_log, encode, decode = measure(pack_nibbles(symbols) if packed else symbols, profile, packed)
            encoded, decoded = whole(symbols, profile)
            speeds = " | ".join(f"{count / seconds / 1e9:.2f}" for seconds in (encode, encoded, decode, decoded))
            print(f"| {name} | {profile} | {table_log} | {speeds} |", flush=True)


if __name__ == "__main__":
    main()
