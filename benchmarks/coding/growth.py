"""Time and memory of one call in a process of its own.

    python benchmarks/coding/growth.py {encode,decode} PROFILE COUNT FRAME

Memory is the peak of the resident set (Linux: VmHWM, reset before the call) above what was resident before,
minus the result. `resource.getrusage` does not do: a child process starts with its parent's peak.
"""

import argparse
import contextlib
import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sources import Symbols, at_entropy, gaussian

from codec import decode, encode
from onnx_export.measure import resident_bytes

BLOCK = 1 << 20  # symbols that are repeated


def repeated(count: int) -> tuple[Symbols, Symbols]:
    """(block, symbols): Gaussian codes of 4.4 bits, repeated; an order-0 coder cannot gain from that."""
    block = at_entropy(gaussian, 4.4, 127, BLOCK, 0)
    symbols = np.empty(count, np.uint8)
    for first in range(0, count, BLOCK):
        symbols[first : first + BLOCK] = block[: count - first]
    return block, symbols


def resident() -> dict[str, int]:
    """Bytes in memory, now (VmRSS) and at most (VmHWM)."""
    return {name: resident_bytes("/proc/self/status", name) for name in ("VmRSS", "VmHWM")}


def reset_peak() -> dict[str, int]:
    """Give freed memory back to the system, make what is resident the peak, and return both."""
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return {}
    return resident()


def measure(call: Callable[[], Any], count: int) -> tuple[Any, dict[str, Any]]:
    """(result, seconds and bytes): memory of the first call, time of the best of several."""
    before = reset_peak()
    seconds = []
    extra = peak = None
    for number in range(max(3, min(20, 10**7 // count))):
        result = None  # not two at a time
        begin = time.thread_time()
        result = call()
        seconds.append(time.thread_time() - begin)
        if number == 0 and before:
            peak = resident()["VmHWM"]
            size = len(result) if isinstance(result, bytes) else result.nbytes
            extra = peak - before["VmRSS"] - size
    return result, {"seconds": min(seconds), "extra_bytes": extra, "peak_bytes": peak}


def main() -> None:
    """Run one direction and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=["encode", "decode"])
    parser.add_argument("profile")
    parser.add_argument("count", type=int)
    parser.add_argument("frame", type=Path)
    options = parser.parse_args()
    warm = at_entropy(gaussian, 4.4, 127, 10_000, 0)
    decode(encode(warm, profile=options.profile))
    if options.direction == "encode":
        _, symbols = repeated(options.count)
        frame, measured = measure(lambda: encode(symbols, profile=options.profile), options.count)
        options.frame.write_bytes(frame)
    else:
        frame = options.frame.read_bytes()
        decoded, measured = measure(lambda: decode(frame), options.count)
        block = repeated(min(options.count, BLOCK))[0]
        if not all(
            np.array_equal(decoded[first : first + BLOCK], block[: options.count - first])
            for first in range(0, options.count, BLOCK)
        ):
            sys.exit("other symbols came back")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
