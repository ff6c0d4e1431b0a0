"""Coverage-guided fuzzing of everything that reads stored bytes.

    python fuzz/fuzz_decode.py local/corpus fuzz/corpus -max_total_time=600

The arguments are libFuzzer's. An input is a frame if it begins with its magic, else a safetensors file. Allowed ends
are a `StreamError`, or symbols that NumPy and Numba agree on. An input that ends otherwise is written to
tests/conformance/found/ under libFuzzer's name ``crash-HASH``.
"""

import re
import struct
import sys
from pathlib import Path
from random import Random

import atheris

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Jitted modules stay as they are: Numba cannot compile instrumented code.
with atheris.instrument_imports(include=["codec", "refimpl"], exclude=["codec.kernels", "codec.vector"]):
    from fuzz_checks import check_container, check_frame, warm_up

from conformance.mutate import mutate, seal, seal_container  # noqa: E402

MAGIC = b"tANS"
WORDS = [b"-1", b"1e999", b"%d" % (1 << 64), b"9" * 4300, b'"U8"', b"[]", b"{}", b"null", b"true", b"NaN", b'"\\ud800"']
FOUND = ROOT / "tests" / "conformance" / "found"


def main() -> None:
    """Hand over to libFuzzer."""
    FOUND.mkdir(exist_ok=True)
    warm_up()
    for folder in (word for word in sys.argv[1:] if not word.startswith("-")):
        Path(folder).mkdir(parents=True, exist_ok=True)
    ours = [f"-artifact_prefix={FOUND}/", "-max_len=4096", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *ours, *sys.argv[1:]], check, custom_mutator=change)
    atheris.Fuzz()


def check(data: bytes) -> None:
    """Decode a frame or read a container, and compare what there is to compare."""
    (check_frame if data[:4] == MAGIC else check_container)(data)


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
    """JSON text, and JSON within it, with a number or a word replaced by another one, rarely by anything."""
    parts = re.split(rb"(\d+|[A-Za-z_.]\w*)", text)  # every other part is a number or a word
    if len(parts) < 3:
        return text
    at = random.randrange(1, len(parts), 2)
    numbers, words = ([part for part in parts[1::2] if part.isdigit() == digits] for digits in (True, False))
    if random.random() < 0.2:
        at = random.randrange(len(parts))
        parts[at] = random.choice([*WORDS, *parts])
    elif parts[at].isdigit() and len(parts[at]) < 20:
        parts[at] = random.choice(
            [*numbers, b"%d" % (int(parts[at]) + 1), b"%d" % max(0, int(parts[at]) - 1), b"0", b"1"]
        )
    else:
        parts[at] = random.choice(words or WORDS)
    return b"".join(parts)


if __name__ == "__main__":
    main()
