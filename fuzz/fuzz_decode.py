"""Coverage-guided fuzzing of everything that reads stored bytes.

    python fuzz/fuzz_decode.py local/corpus fuzz/corpus -max_total_time=600

The arguments are libFuzzer's. An input is a frame if it begins with its magic, else a safetensors file. Allowed ends
are a `StreamError`, or symbols that NumPy and Numba agree on. An input that ends otherwise is written to
tests/conformance/found/ under libFuzzer's name ``crash-HASH``.
"""

import json
import struct
import sys
import zlib
from pathlib import Path
from random import Random

import atheris

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Jitted modules stay as they are: Numba cannot compile instrumented code.
with atheris.instrument_imports(include=["codec", "refimpl"], exclude=["codec.kernels", "codec.vector"]):
    import codec.container
    import codec.frame
    import codec.tensor
    import refimpl.tans.stream

from codec.kernels import NUMBA  # noqa: E402
from conformance.differ import same  # noqa: E402
from conformance.mutate import mutate, seal, seal_container  # noqa: E402
from refimpl.errors import StreamError  # noqa: E402

NUMPY = refimpl.tans.stream.NUMPY
MAGIC = b"tANS"
MAX_STEPS = 1000  # of a lane, for the reference
MAX_LOADED = 1 << 16  # symbols of a tensor
WORDS = ["0", "1", "-1", "1e999", str(1 << 64), "9" * 4300, '"U8"', '"F32"', "[]", "{}", "null", "true", "NaN", '"\\ud800"']
FOUND = ROOT / "tests" / "conformance" / "found"


def main() -> None:
    """Hand over to libFuzzer."""
    FOUND.mkdir(exist_ok=True)
    for folder in (word for word in sys.argv[1:] if not word.startswith("-")):
        Path(folder).mkdir(parents=True, exist_ok=True)
    ours = [f"-artifact_prefix={FOUND}/", "-max_len=4096", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *ours, *sys.argv[1:]], test_one_input, custom_mutator=change)
    atheris.Fuzz()


def test_one_input(data: bytes) -> None:
    """Decode, and compare what there is to compare."""
    if data[:4] == MAGIC:
        test_frame(data)
    else:
        test_container(data)


def test_frame(data: bytes) -> None:
    """Symbols with both kernels, whatever their checksum says; then `codec.decode` as it is."""
    try:
        frame = codec.frame.read_frame(data)
    except StreamError:
        return
    ends = []
    for kernels in (NUMPY, NUMBA) if is_short(frame) else (NUMBA, NUMBA):
        try:
            ends.append(refimpl.tans.blocks.decode_block(frame.block, kernels=kernels))
        except StreamError as error:
            ends.append(type(error).__name__)
    assert same(*ends), "NumPy and Numba differ"
    try:
        symbols = codec.frame.decode(data)
    except StreamError:
        return
    assert same(symbols, ends[0]), "two runs differ"
    assert not any(symbols.strides) or zlib.crc32(symbols.tobytes()) == frame.symbols_crc, "wrong checksum accepted"


def is_short(frame: codec.frame.Frame) -> bool:
    """Whether the reference is not slow on a frame: it takes a Python step for each of a lane's symbols."""
    stream = frame.block.stream
    return stream is None or stream.symbol_count <= MAX_STEPS * stream.lane_count


def test_container(data: bytes) -> None:
    """Read, and load what is small."""
    try:
        tensors, _ = codec.container.read_container(data)
    except StreamError:
        return
    for tensor in tensors.values():
        if not isinstance(tensor, codec.tensor.StoredTensor) or tensor.frame.block.symbol_count > MAX_LOADED:
            continue
        ends = []
        for kernels in (NUMPY, NUMBA) if is_short(tensor.frame) else (NUMBA, NUMBA):
            try:
                ends.append(codec.tensor.load(tensor, kernels=kernels).tobytes())
            except StreamError as error:
                ends.append(type(error).__name__)
        assert ends[0] == ends[1], "NumPy and Numba differ"


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """Change an input, field by field or as libFuzzer likes, and make its checksums right."""
    random = Random(seed)  # noqa: S311
    if data[:4] == MAGIC:
        if random.random() < 0.5:
            return mutate(data, random)[:max_size]
        return seal(MAGIC + atheris.Mutate(data[4:], max_size - 4))
    if random.random() < 0.3 or not 8 < header_end(data) <= len(data):
        return seal_container(atheris.Mutate(data, max_size))
    header, body = data[8 : header_end(data)], data[header_end(data) :]
    if random.random() < 0.5:
        begin = body.find(MAGIC)
        body = body[: max(begin, 0)] + mutate(body[max(begin, 0) :], random, seal=bytes)
    elif random.random() < 0.5:
        header = change_json(header, random)
    else:
        header = atheris.Mutate(header, max(len(header), max_size - 8 - len(body)))
    return seal_container(struct.pack("<Q", len(header)) + header + body)[:max_size]


def header_end(data: bytes) -> int:
    """Where the header of a safetensors file ends."""
    return 8 + int.from_bytes(data[:8], "little") if len(data) >= 8 else 0


def change_json(text: bytes, random: Random) -> bytes:
    """A word or a number of JSON text replaced; text within text, too."""
    try:
        words = json.dumps(json.loads(text)).replace('\\"', "\x00").replace('"', " \x01 ").replace("\x00", ' \\" ')
    except (ValueError, RecursionError):
        return text
    for mark in ":,[]{}":
        words = words.replace(mark, f" {mark} ")
    parts = words.split(" ")
    at = random.randrange(len(parts))
    parts[at] = random.choice([*WORDS, *parts, parts[at] * 2])
    return "".join(parts).replace("\x01", '"').encode("utf-8", "replace")


if __name__ == "__main__":
    main()
