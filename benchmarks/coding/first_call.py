"""What a fresh process waits for: import, first calls (the jit compiles), second calls. Prints JSON."""

import json
import time


def main() -> None:
    """Time one after the other."""
    clock = [time.perf_counter()]
    import codec

    clock.append(time.perf_counter())
    import numpy as np

    symbols = np.clip(np.rint(np.random.default_rng(0).normal(128, 5, 10**6)), 0, 255).astype(np.uint8)
    result = {"import": clock[1] - clock[0]}
    for name in ("first", "second"):
        begin = time.perf_counter()
        frame = codec.encode(symbols)
        middle = time.perf_counter()
        decoded = codec.decode(frame)
        end = time.perf_counter()
        result |= {f"{name} encode": middle - begin, f"{name} decode": end - middle}
        if not np.array_equal(decoded, symbols):
            raise AssertionError("other symbols came back")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
