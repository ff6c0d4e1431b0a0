"""Write fuzz/corpus: small frames and containers that a fuzzer begins with. The bytes are always the same.

Run again when the encoder writes other bytes: ``python fuzz/write_corpus.py``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codec.container import write_container  # noqa: E402
from codec.frame import encode  # noqa: E402
from codec.tensor import make_banded, split_bands, store_integers, store_weight  # noqa: E402
from conformance.frames import draw_frame  # noqa: E402
from refimpl.tans.stream import NUMPY  # noqa: E402

CORPUS = ROOT / "fuzz" / "corpus"


def main() -> int:
    """Replace the folder's files."""
    CORPUS.mkdir(exist_ok=True)
    for path in CORPUS.iterdir():
        path.unlink()
    for name, data in seeds():
        (CORPUS / name).write_bytes(data)
    return 0


def seeds() -> Iterator[tuple[str, bytes]]:
    """(file name, bytes) of every seed."""
    yield from unusual_frames()
    yield from usual_frames()
    yield from containers()


def unusual_frames() -> Iterator[tuple[str, bytes]]:
    """Valid frames that our encoder would not write."""
    for mode in ("raw", "constant"):
        yield f"{mode}.frame", draw_frame(Random(mode), modes=[mode], packed=False, max_units=20).data  # noqa: S311
    yield "raw-packed.frame", draw_frame(Random("raw"), modes=["raw"], packed=True, max_units=20).data  # noqa: S311
    for mode in ("coded", "partial"):
        for packed in (False, True):
            for with_classes in (False, True):
                for table_log in (5, 8):
                    name = f"{mode}{'-packed' * packed}{'-classes' * with_classes}-{table_log}"
                    frames = small_frames(name, mode, packed, with_classes, table_log)
                    yield f"{name}.frame", min(frames, key=len)


def small_frames(name: str, mode: str, packed: bool, with_classes: bool, table_log: int) -> Iterator[bytes]:
    """Some frames of a kind."""
    for number in range(20):
        random, logs = Random(f"{name} {number}"), (table_log, table_log)  # noqa: S311
        frame = draw_frame(
            random, modes=[mode], packed=packed, with_classes=with_classes, table_logs=logs, max_units=80
        )
        if len(frame.symbols) > 24:
            yield frame.data


def usual_frames() -> Iterator[tuple[str, bytes]]:
    """Frames of our encoder."""
    two = np.resize(np.array([0, 0, 0, 1], np.uint8), 400)
    yield "encoded-empty.frame", encode(two[:0], kernels=NUMPY)
    yield "encoded-constant.frame", encode(two[:1].repeat(99), kernels=NUMPY)
    yield "encoded.frame", encode(two, kernels=NUMPY)
    yield "encoded-lanes.frame", encode(two, lane_count=70, kernels=NUMPY)
    yield "encoded-partial.frame", encode(np.resize(two, 2000), fraction=0.5, kernels=NUMPY)


def containers() -> Iterator[tuple[str, bytes]]:
    """Containers of tensors of several kinds."""
    values = np.resize(np.array([-1, 0, 0, 1], np.int8), (8, 25))
    integers = store_integers(values, kernels=NUMPY)
    symbols = np.resize(np.array([7, 8, 8, 8, 9], np.uint8), (4, 50))
    scale, zero_point = np.ones((4, 1), np.float32), np.full((4, 1), 8, np.uint8)
    weight = store_weight(symbols, zero_point, scale, "float16", kernels=NUMPY)
    yield "integers.container", write_container({"a": integers}, {})
    yield "weight.container", write_container({"w": weight}, {"format": "pt"})
    yield "mixed.container", write_container({"w": weight, "a": integers, "bias": np.zeros(3, np.float32)}, {})
    bands = np.array([0, 2, 1, 0], np.uint8)
    parts = [store_integers(part, kernels=NUMPY) for part in split_bands(values[:, :4], 1, bands)]
    yield "bands.container", write_container({"b": make_banded(1, bands, parts)}, {})
    yield "plain.container", write_container({"bias": np.zeros((2, 0, 3), np.float64)}, {"k": "v"})


if __name__ == "__main__":
    sys.exit(main())
