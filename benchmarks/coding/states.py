"""Two states of the code beside each other: whole calls take turns in one process. Prints a table of medians.

    python benchmarks/coding/states.py OTHER [--model COMPRESSED.onnx] [--only NAME] [--symbols N] [--rounds N]

OTHER is a checkout of tansor; both must write the same bytes. With ``loads`` in its place, this state is compared with
itself: tables looked up by scalar loads against the gathers of processors on which those are fast (`codec.vector`).
"""

import argparse
import importlib
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

from loops import take_turns
from sources import list_sources
from tables import Row, plain_table

HERE = Path(__file__).resolve().parents[2]


def load(folder: Path, gathers: bool | None = None) -> ModuleType:
    """The codec of a checkout, beside those loaded before."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("codec", "refimpl")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        codec = importlib.import_module("codec")
        if gathers is not None:  # before anything is compiled
            vars(importlib.import_module("codec.vector"))["GATHERS"] = gathers
    finally:
        sys.path.pop(0)
    if Path(codec.__file__ or "").parents[1] != folder:
        raise ValueError(f"{folder} holds no codec")
    return codec


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other")
    parser.add_argument("--model", type=Path, help="an ONNX model compressed by tansor: its codes are one more source")
    parser.add_argument("--only", default="", metavar="NAME", help="only sources with this in their name")
    parser.add_argument("--symbols", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.other == "loads":
        states = {"loads": load(HERE, gathers=False), "gathers": load(HERE, gathers=True)}
    else:
        states = {"other": load(Path(options.other).resolve()), "this": load(HERE)}
    rows: list[Row] = []
    for source in list_sources(options.symbols, options.model):
        if options.only not in source.name:
            continue
        for profile in ("gpu", "archive"):
            frames = [[codec.encode(part, profile=profile) for part in source.parts] for codec in states.values()]
            if frames[0] != frames[1]:
                raise AssertionError(f"{source.name}, {profile}: other bytes")
            runs = [
                lambda c=codec, p=profile, s=source: [c.encode(part, profile=p) for part in s.parts]
                for codec in states.values()
            ]
            runs += [lambda c=codec, f=frames[0]: [c.decode(frame) for frame in f] for codec in states.values()]
            seconds = map(median, take_turns(runs, options.rounds))
            names = [f"{direction}: {name}" for direction in ("encode", "decode") for name in states]
            speeds = {name: source.count / s / 1e9 for name, s in zip(names, seconds, strict=True)}
            rows.append({"Gsym/s": source.name, "profile": profile} | speeds)
    print(plain_table(rows))


if __name__ == "__main__":
    main()
