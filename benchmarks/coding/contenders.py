"""Who codes: tansor in both profiles and its peers, each as runs that can be timed.

Every peer gets the same symbols in the form it likes best, prepared before the clock starts: packed nibbles
for `nibbles`, int32 and a finished model for constriction, which is told the exact histogram.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from sources import Source, Symbols

from codec import decode, encode
from codec.frame import read_frame
from codec.kernels import NUMBA
from refimpl.tans.blocks import decode_block

PROFILES = ("gpu", "archive")
PACKAGES = ("zstandard", "constriction", "pcodec")
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Trial:
    """One contender on one source."""

    name: str
    expected: Sequence[Any]  # what every run called decode returns
    stored_bits: int
    runs: dict[str, Callable[[], list[Any]]] = field(repr=False)  # column -> what is timed
    payload_bits: int | None = None  # without side information, where a contender tells them apart

    def check(self) -> None:
        """Every decode gives the symbols back."""
        for column, run in self.runs.items():
            if "decode" in column:
                for got, expected in zip(run(), self.expected, strict=True):
                    symbols = np.frombuffer(got, expected.dtype) if isinstance(got, bytes) else got
                    if not np.array_equal(symbols, expected):
                        raise AssertionError(f"{self.name}, {column}: other symbols came back")


def coding(parts: list[Symbols], profile: str, count: int) -> tuple[list[bytes], dict[str, Callable[[], list[Any]]]]:
    """(frames, runs) of the codec with that many threads."""
    frames = [encode(part, profile=profile, jobs=count) for part in parts]
    return frames, {
        "encode": lambda: [encode(part, profile=profile, jobs=count) for part in parts],
        "decode": lambda: [decode(frame, jobs=count) for frame in frames],
    }


def tansor(source: Source, profile: str) -> Trial:
    """The codec of this repository: whole frames, and their blocks decoded without header and checksums."""
    frames, runs = coding(source.parts, profile, 1)
    blocks = [read_frame(frame).block for frame in frames]
    runs["decode unchecked"] = lambda: [decode_block(block, kernels=NUMBA) for block in blocks]
    runs |= {f"{column}, {CORES} threads": run for column, run in coding(source.parts, profile, CORES)[1].items()}
    return Trial(
        name=f"tansor {profile}",
        expected=source.parts,
        stored_bits=8 * sum(map(len, frames)),
        payload_bits=sum(block.payload_bits for block in blocks),
        runs=runs,
    )


def scaling(source: Source, profile: str) -> list[Trial]:
    """The codec with more and more threads."""
    trials = []
    for count in sorted({1 << i for i in range(CORES.bit_length())} | {CORES}):
        frames, runs = coding(source.parts, profile, count)
        trials.append(Trial(f"{profile}, {count} threads", source.parts, 8 * sum(map(len, frames)), runs))
    return trials


def peer(name: str, data: list[Any], encode: Callable[[Any], bytes], decode: Callable[[bytes, int], Any]) -> Trial:
    """A codec that makes bytes."""
    codes = [encode(part) for part in data]
    runs: dict[str, Callable[[], list[Any]]] = {
        "encode": lambda: [encode(part) for part in data],
        "decode": lambda: [decode(code, len(part)) for code, part in zip(codes, data, strict=True)],
    }
    return Trial(name, data, 8 * sum(map(len, codes)), runs)


def zlib_level(name: str, level: int, data: list[Symbols]) -> Trial:
    """Deflate of the standard library."""
    return peer(
        f"{name}, level {level}",
        data,
        lambda part: zlib.compress(part, level),
        lambda code, size: zlib.decompress(code, bufsize=size),
    )


def zstandard_level(name: str, level: int, data: list[Symbols]) -> Trial:
    """Zstandard, contexts made once."""
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    return peer(
        f"{name}, level {level}", data, compressor.compress, lambda code, _: bytes(decompressor.decompress(code))
    )


def pcodec(source: Source) -> Trial:
    """Pcodec on 8-bit numbers at its default level, told not to look for multiples or differences."""
    from pcodec import ChunkConfig, DeltaSpec, ModeSpec
    from pcodec.standalone import simple_compress, simple_decompress

    config = ChunkConfig(mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op(), enable_8_bit=True)
    return peer(
        "pcodec u8", source.parts, lambda part: simple_compress(part, config), lambda code, _: simple_decompress(code)
    )


def constriction(source: Source) -> Trial:
    """ANS with a 32-bit state; what it stores counts four bytes a symbol value for the histogram."""
    from constriction import stream

    data = [part.astype(np.int32) for part in source.parts]
    models = [
        stream.model.Categorical(np.bincount(part) / len(part), perfect=False)  # zero probabilities are raised by it
        for part in source.parts
    ]

    def forth() -> list[Any]:
        coders = []
        for part, model in zip(data, models, strict=True):
            coder = stream.stack.AnsCoder()
            coder.encode_reverse(part, model)
            coders.append(coder.get_compressed())
        return coders

    words = forth()
    payload = sum(32 * len(part) for part in words)

    def back() -> list[Any]:
        jobs = zip(words, models, data, strict=True)
        return [stream.stack.AnsCoder(part).decode(model, len(expected)) for part, model, expected in jobs]

    histograms = sum(32 * (int(part.max()) + 1) for part in source.parts)
    return Trial("constriction ANS", data, payload + histograms, {"encode": forth, "decode": back}, payload)


def nibbles(part: Symbols) -> Symbols:
    """Two symbols below 16 in a byte."""
    even = np.resize(part, len(part) + len(part) % 2)
    return even[::2] | even[1::2] << np.uint8(4)


def enter(source: Source) -> tuple[list[Trial], list[str]]:
    """(trials, names of missing packages) for a source; every round trip has been checked."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    forms = {"": source.parts}
    if all(part.max() < 16 for part in source.parts):
        forms[" nibbles"] = [nibbles(part) for part in source.parts]
    trials = [tansor(source, profile) for profile in PROFILES]
    for form, data in forms.items():
        trials += [zlib_level(f"zlib{form}", level, data) for level in (1, 6)]
        if "zstandard" not in missing:
            trials += [zstandard_level(f"zstd{form}", level, data) for level in (1, 3)]
    if "constriction" not in missing:
        trials.append(constriction(source))
    if "pcodec" not in missing:
        trials.append(pcodec(source))
    for trial in trials:
        trial.check()
    return trials, missing
