"""Damaged frames on a GPU: each ends as it does on the host, and touches no byte that is not its own.

    compute-sanitizer --tool memcheck --error-exitcode 3 python fuzz/fuzz_cuda.py --inputs 2000

Needs CuPy and a GPU. Every array is an allocation of CUDA's, so that the sanitizer sees an access beside it. Without
the sanitizer the ends alone are compared, which is a hundred times faster.
"""

import argparse
import importlib
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codec import cuda, decode, encode  # noqa: E402
from codec.cuda.device import current_device  # noqa: E402
from codec.frame import read_frame  # noqa: E402
from conformance.mutate import mutate, seal  # noqa: E402
from refimpl.errors import StreamError  # noqa: E402

End = bytes | type[StreamError]
LARGEST = 1 << 20  # symbols: a short frame may claim more and mean it


def main() -> int:
    """Damage, decode on both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # No pool: neighbours would hide what reaches beyond an array.
    importlib.import_module("cupy").cuda.set_allocator(None)
    frames = valid_frames()
    for data in frames:
        assert on_gpu(data) == on_host(data) == decode(data).tobytes(), "a frame that is right"
    ends: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.inputs):
        random = Random(seed)  # noqa: S311
        change = random.choice((mutate, disturb))
        data = change(random.choice(frames), random)
        if claims_many(data):
            continue
        expected, found = on_host(data), on_gpu(data)
        if found != expected:
            print(f"seed {seed}: {name(found)} on the GPU, {name(expected)} on the host")
            return 1
        ends[name(found)] += 1
    print(f"{sum(ends.values())} damaged frames end alike: " + ", ".join(f"{n} {e}" for e, n in ends.most_common()))
    return 0


def valid_frames() -> list[bytes]:
    """One of each kind: bytes and nibbles, with classes and without, in few lanes and many, coded in part, raw."""
    random = np.random.default_rng(0)
    wide, narrow = (np.round(s * random.standard_normal(3000)).astype(np.int8).view(np.uint8) for s in (20, 1.5))
    nibbles = np.clip(np.round(7 + 2 * random.standard_normal((1 << 18) + 1)), 0, 15).astype(np.uint8)
    few = [encode(s, lane_count=lanes) for s in (wide, narrow) for lanes in (1, 33, 700)]
    return [
        *few,
        encode(wide, fraction=0.5),
        encode(narrow, profile="archive", table_log=5),
        encode(nibbles),
        encode(nibbles[:1000]),
        encode(random.integers(0, 256, 500).astype(np.uint8)),
    ]


def disturb(data: bytes, random: Random) -> bytes:
    """A frame with a run of other bytes behind its header, and the right checksum: the kernels see it."""
    first = random.randrange(44, len(data))
    run = random.randbytes(min(1 << random.randrange(12), len(data) - first))
    return seal(data[:first] + run + data[first + len(run) :])


def claims_many(data: bytes) -> bool:
    """Whether a frame is right and has more symbols than shall be written out."""
    try:
        return read_frame(data).block.symbol_count > LARGEST
    except StreamError:
        return False


def on_host(data: bytes) -> End:
    """The symbols as bytes, or the error's type."""
    try:
        return decode(data).tobytes()
    except StreamError as error:
        return type(error)


def on_gpu(data: bytes) -> End:
    """The same of the GPU."""
    device = current_device()
    try:
        return bytes(device.host(cuda.decode(data, device=device)))
    except StreamError as error:
        return type(error)


def name(end: End) -> str:
    """How an ending is counted."""
    return "decoded" if isinstance(end, bytes) else end.__name__


if __name__ == "__main__":
    sys.exit(main())
