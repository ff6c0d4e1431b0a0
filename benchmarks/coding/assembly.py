"""What LLVM makes of the inner loops: instructions of the block that codes four steps of 64 lanes. Prints a table.

python benchmarks/coding/assembly.py
"""

import re
from collections import Counter

import numpy as np
from tables import Row, plain_table

import codec
from codec import kernels, vector

LABEL = re.compile(r"^(\.?\w+):")
SPILL = re.compile(r"\(%r[sb]p\)")


def blocks(text: str) -> list[list[str]]:
    """Instructions between labels."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if LABEL.match(line):
            found.append([])
        elif line.startswith("\t") and not line.startswith("\t."):
            found[-1].append(line.strip())
    return found


def describe(name: str, text: str) -> Row:
    """Counts of the block with most vector rotations, which the inner loops alone have."""
    block = max(blocks(text), key=lambda lines: sum("vpror" in line for line in lines))
    kinds = Counter(line.split()[0] for line in block)
    return {
        "loop": name,
        "instructions": len(block),
        "gathers": sum(count for kind, count in kinds.items() if kind.startswith("vpgather")),
        "inserts of loaded numbers": kinds["vpinsrd"] + kinds["vmovd"],
        "vector registers": len(set(re.findall(r"%[xyz]mm(\d+)", " ".join(block)))),
        "with the stack": sum(bool(SPILL.search(line)) for line in block),
        "frequent": ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(8)),
    }


def main() -> None:
    """Compile both ways to look something up and print what became of them."""
    rows = []
    for vector.GATHERS in (True, False):
        for name in ("encode_range", "decode_range"):
            function = getattr(kernels, name)
            setattr(kernels, name, type(function)(function.py_func, targetoptions=function.targetoptions))
        codec.decode(codec.encode(np.tile(np.arange(9, dtype=np.uint8), 1000)))
        for name in ("encode_range", "decode_range"):
            (text,) = getattr(kernels, name).inspect_asm().values()
            rows.append(describe(f"{name}, {'gathers' if vector.GATHERS else 'loads'}", text))
    print(plain_table(rows))


if __name__ == "__main__":
    main()
