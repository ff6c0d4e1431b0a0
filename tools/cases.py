"""The cases of every step but ``decode``'s invalid frames and ``onnx``."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from drafts import (
    BINOMIAL,
    BYTES,
    EDGE,
    HALVES,
    NIBBLES,
    RARE,
    REFUSED,
    SPARSE,
    TIES,
    ULP,
    VALID,
    Array,
    Draft,
    Drawn,
    symbols,
    weights,
)
from handmade_containers import faulty_containers, handmade_containers
from handmade_frames import handmade_faults, handmade_frames
from invalid_frames import EXAMPLE, FRAMES, Fault, faults, more_frames
from method_cases import method_cases, method_details

from codec.container import write_container
from codec.frame import encode
from codec.tensor import BandedTensor, make_banded, split_bands, store_integers, store_weight
from conformance.backends import numpy_reference
from conformance.lcg import Lcg
from refimpl.activations import activation_grid
from refimpl.tans.blocks import Chunks
from refimpl.tans.stream import NUMPY

KINDS = (  # of quantization: symmetric, granularity, group size
    (True, "tensor", 0), (False, "tensor", 0), (False, "channel", 0), (True, "channel", 0), (True, "group", 3),
    (False, "group", 3),
)  # fmt: skip


def all_cases() -> Iterator[Draft]:
    """Everything, step by step."""
    yield from scaling()
    yield from absorbing()
    yield from activations()
    yield from quantizing()
    yield from pruning()
    yield from logarithms()
    yield from modelling()
    yield from tables()
    yield from chunks()
    yield from encoding()
    yield from decoding()
    yield from containers()
    yield from method_cases()
    yield from handmade()  # last: the arrays of all others stay where they are in the files


def handmade() -> Iterator[Draft]:
    """Frames and containers that are put together by hand."""
    for name, flag, data, content in handmade_frames():
        yield decoded(name, flag, data, content)
    for fault in handmade_faults():
        yield refused(fault)
    for name, data in handmade_containers():
        yield Draft("read_container", name, VALID, {"data": np.frombuffer(data, np.uint8)})
    for name, flag, error, data in faulty_containers():
        yield Draft("read_container", name, (flag,), {"data": np.frombuffer(data, np.uint8)}, error=error)
    yield from choices()
    yield from arithmetic()
    yield from method_details()


def choices() -> Iterator[Draft]:
    """Choices of the writer at their borders."""
    usual = {"profile": "gpu", "fraction": 1.0, "table_log": None, "lane_count": None}
    # A stream of as many bits as the raw symbols: raw. And lanes that could be longer than the stream is.
    as_long = {"symbols": symbols(HALVES, 28, seed=1)}
    yield Draft("encode", "halves-28-as-long-as-raw", EDGE, as_long, usual)
    few = {"symbols": symbols(SPARSE, 4000, seed=1)}
    yield Draft("encode", "sparse-fraction-0.125", ("partial",), few, {**usual, "fraction": 0.125}, hashed=True)


def arithmetic() -> Iterator[Draft]:
    """Numbers that tell float32 from more, and one order of operations from another."""
    inputs: dict[str, Any]
    # In float32 each product, and each quotient, lies half-way between two float16; exactly it lies beside.
    for inverse, values, factors in (
        (False, (1.9638671875, 1.6318359375, 1.4990234375), ("0x1.bf3452p+0", "0x1.12ebap+0", "0x1.580eacp+0")),
        (True, (1.4462890625, 1.5498046875, 1.69921875), ("0x1.ef1e02p+0", "0x1.c8ded2p+0", "0x1.7a9d52p+0")),
    ):
        inputs = {
            "array": np.array(values, np.float16),
            "channel_scale": float32(*map(float.fromhex, factors)),
        }
        name = f"float16-by-float32-{'divided' if inverse else 'scaled'}"
        yield Draft("absorb", name, TIES, inputs, {"inverse": inverse})
    for low, high in ((-0.3, 2.1), (-0.7, 1.9)):  # quotients at ties in float32, and next to them
        ties = (np.arange(24, dtype=np.float32) + np.float32(0.5)) * activation_grid(low, high)[0]
        near = np.stack([np.nextafter(ties, np.float32(-9)), ties, np.nextafter(ties, np.float32(9))])
        parameters = {"lowest": low, "highest": high}
        yield Draft("quantize_activations", f"quotients-at-ties-to-{high:g}", TIES, {"activations": near}, parameters)
    inputs = {"activation_scale": np.array(0.0123, np.float32), "activation_zero_point": np.array(101, np.uint8)}
    x = np.arange(24, dtype=np.uint8).reshape(4, 6) * 11
    w = np.arange(-18, 18, dtype=np.int8).reshape(6, 6) * 7
    scale = float32(0.013, 0.021, 0.34, 7.1, 0.0057, 1.3).reshape(6, 1)
    inputs |= {"activation_codes": x, "weight_codes": w, "weight_scale": scale}
    yield Draft("integer_linear", "product-of-scales-first", VALID, inputs)
    # Sums of 4000 products above 2**26: float32 holds every eighth number there.
    inputs |= {
        "activation_codes": Drawn(Lcg(27, (*[0] * 230, *[32768] * 25)), (16, 4000), "uint8"),
        "weight_codes": Drawn(Lcg(28, (0,) * 127), (1, 4000), "int8"),
        "weight_scale": np.full((1, 1), 1.0, np.float32),
    }
    yield Draft("integer_linear", "sums-beyond-26-bits", EDGE, inputs)


def float32(*values: float) -> Array:
    """A vector of float32."""
    return np.array(values, np.float32)


def scaling() -> Iterator[Draft]:
    """Channel scales."""
    drawn = (Drawn(Lcg(3, exponent=-10), (12,), "float64").array()) ** 2
    for name, maxima, exponent, flags in (
        ("two-channels", np.array([4.0, 1.0]), 0.5, VALID),
        ("silent-channel", np.array([8.0, 0.0]), 1.0, EDGE),
        ("all-silent", np.zeros(3), 1.0, EDGE),
        ("no-channels", np.empty(0), 1.0, EDGE),
        ("exponent-0", drawn, 0.0, EDGE),
        ("exponent-2", drawn, 2.0, EDGE),
        ("drawn", drawn, 0.375, VALID),
        ("huge", np.array([1e300, 1e297, 1e290]), 1.5, EDGE),
        ("subnormal", np.array([5e-324, 2.5e-320]), 1.0, EDGE),
    ):
        yield Draft("max_scale", name, flags, {"activation_max": maxima}, {"exponent": exponent}, compare=ULP)
    for name, maxima, exponent in (
        ("negative", np.array([1.0, -1.0]), 0.5), ("nan", np.array([1.0, np.nan]), 0.5),
        ("infinite", np.array([np.inf]), 0.5), ("matrix", np.ones((2, 2)), 0.5),
        ("exponent-below-0", np.ones(2), -0.5), ("exponent-above-2", np.ones(2), 2.5),
    ):  # fmt: skip
        yield Draft("max_scale", name, REFUSED, {"activation_max": maxima}, {"exponent": exponent}, "InvalidArgument")


def absorbing() -> Iterator[Draft]:
    """Constants that take over channel scales."""
    s = float32(0.5, 3.0, 0.7, 1.0)
    weight = weights(3, 4, seed=12)
    samples: tuple[tuple[str, Any, Array], ...] = (
        ("vector", float32(1.0, -2.5, 0.1, 0.0), s),
        ("columns", weight, s),
        ("rows", weights(4, 3, seed=13), s.reshape(4, 1)),
        ("matrix-of-scales", weight, np.tile(s, (3, 1))),
        ("float16", float32(1.0, -2.5, 0.1, 3.0).astype(np.float16), s),
        ("nothing", np.empty((0, 4), np.float32), s),
    )
    for name, array, scale in samples:
        flags = EDGE if name == "nothing" else VALID
        for inverse in (False, True):
            inputs = {"array": array, "channel_scale": scale}
            yield Draft("absorb", f"{name}-{'divided' if inverse else 'scaled'}", flags, inputs, {"inverse": inverse})
    subnormal = np.array([1, 5, 0, 3], np.uint32).view(np.float32)
    inputs = {"array": subnormal, "channel_scale": float32(2.0, 3.0, 1.0, 0.25)}
    yield Draft("absorb", "subnormal", EDGE, inputs, {"inverse": True})
    for name, array, scale in (
        ("beyond-float16", np.full(2, 6e4, np.float16), float32(1, 2)),
        ("beyond-float32", float32(3e38, 1), float32(2, 1)),
        ("broadened", float32(1), s), ("other-channels", float32(1, 2, 3), s),
    ):  # fmt: skip
        yield Draft("absorb", name, REFUSED, {"array": array, "channel_scale": scale}, {"inverse": False},
                    "InvalidArgument")  # fmt: skip


def activations() -> Iterator[Draft]:
    """Activations to codes, and products of codes."""
    drawn = weights(5, 8, seed=21)
    for name, x, lowest, highest, flags in (
        ("drawn", drawn, -1.0, 1.0, VALID), ("one-sided", drawn, 0.0, 0.75, VALID),
        ("all-negative", drawn, -0.5, -0.25, VALID),
        ("halves", float32(*[k / 2 for k in range(-6, 7)]), -128, 127, TIES),
        ("clipped", float32(-9, 9, 0.3), -0.1, 2.45, VALID), ("no-range", float32(0, 1, -1), 0.0, 0.0, EDGE),
        ("subnormal", float32(0, 1e-45), 0.0, 1e-45, EDGE), ("huge", float32(3e38, -3e38, 0), -3e38, 3e38, EDGE),
        ("nothing", np.empty((0, 3), np.float32), -1.0, 1.0, EDGE),
    ):  # fmt: skip
        parameters = {"lowest": float(lowest), "highest": float(highest)}
        yield Draft("quantize_activations", name, flags, {"activations": x}, parameters)
    yield Draft("quantize_activations", "reversed", REFUSED, {"activations": float32(0)},
                {"lowest": 1.0, "highest": 0.5}, "InvalidArgument")  # fmt: skip
    x = symbols(BYTES, 60, seed=22).array().reshape(5, 12)
    w = (symbols(BYTES, 48, seed=23).array().astype(np.int16).clip(1, 255) - 128).astype(np.int8).reshape(4, 12)
    inputs: dict[str, Any]
    grid = {"activation_scale": np.array(0.03125, np.float32), "activation_zero_point": np.array(101, np.uint8)}
    largest = np.full((1, 1001), 255, np.uint8), np.full((1, 1001), 127, np.int8)
    for name, codes, weight, scale, flags in (
        ("one-scale", x, w, np.full((1, 1), 0.013, np.float32), VALID),
        ("scale-of-rows", x, w, float32(0.01, 0.02, 0.3, 7).reshape(4, 1), VALID),
        ("sum-beyond-24-bits", *largest, np.full((1, 1), 1.0, np.float32), EDGE),
        ("no-inputs", x[:, :0], w[:, :0], np.full((1, 1), 1.0, np.float32), EDGE),
    ):
        inputs = {"activation_codes": codes, **grid, "weight_codes": weight, "weight_scale": scale}
        yield Draft("integer_linear", name, flags, inputs)
    for name, weight, scale in (
        ("other-inputs", w[:, :5], np.ones((1, 1), np.float32)), ("scale-of-inputs", w, np.ones((1, 12), np.float32)),
    ):  # fmt: skip
        inputs = {"activation_codes": x, **grid, "weight_codes": weight, "weight_scale": scale}
        yield Draft("integer_linear", name, REFUSED, inputs, error="InvalidArgument")


def quantizing() -> Iterator[Draft]:
    """Weights to codes and back."""
    halves = np.arange(-14, 14, dtype=np.float32).reshape(4, 7) / 2
    largest = float(np.finfo(np.float32).max)
    weight: Any
    samples: list[tuple[str, Any, tuple[str, ...]]] = [
        ("drawn", weights(6, 10), VALID),
        ("halves", halves, TIES),
        ("zeros", np.zeros((2, 3), np.float32), EDGE),
        ("negative-zeros", -np.zeros((2, 3), np.float32), EDGE),
        ("one", float32(-0.3).reshape(1, 1), EDGE),
        ("positive", np.abs(halves) + 1, VALID),
        ("negative", -np.abs(halves) - 1, VALID),
        ("subnormal", np.array([[1, 5], [0, 3]], np.uint32).view(np.float32), EDGE),
        ("largest", np.array([[largest, -largest, 1.0]], np.float32), EDGE),
        ("no-inputs", np.empty((3, 0), np.float32), EDGE),
        ("no-outputs", np.empty((0, 3), np.float32), EDGE),
        ("float64", halves.astype(np.float64) / 3, VALID),
        ("float16", halves.astype(np.float16), VALID),
    ]
    samples += [(f"{bits}-bits", weights(3, 7, seed=bits), VALID) for bits in (2, 3, 5, 8)]
    for name, weight, flags in samples:
        bits = int(name[0]) if name.endswith("-bits") else 4
        every = name in ("drawn", "halves")
        for symmetric, granularity, group in KINDS if every else KINDS[::2]:
            parameters: dict[str, Any] = {
                "bits": bits,
                "symmetric": symmetric,
                "granularity": granularity,
                "group_size": group,
            }
            case = f"{name}-{'symmetric' if symmetric else 'asymmetric'}-{granularity}"
            yield Draft("quantize", case, flags, {"weight": weight}, parameters)
            array = weight.array() if isinstance(weight, Drawn) else weight
            codes, scale, zero_point = numpy_reference.quantize(array, **parameters)
            inputs = {"codes": codes, "scale": scale, "zero_point": zero_point}
            if every or name in ("subnormal", "largest", "no-inputs", "8-bits"):
                yield Draft("dequantize", case, flags, inputs, {"group_size": group})
    large = {"bits": 4, "symmetric": False, "granularity": "group", "group_size": 128}
    yield Draft("quantize", "large", VALID, {"weight": weights(256, 300, -17, seed=9)}, large, hashed=True)
    usual = {"bits": 4, "symmetric": True, "granularity": "tensor", "group_size": 0}
    for name, weight, changes in (
        ("nan", float32(1, np.nan).reshape(1, 2), {}), ("infinite", float32(1, np.inf).reshape(1, 2), {}),
        ("beyond-float32", np.array([[1e39]]), {}), ("vector", halves[0], {}), ("bits-1", halves, {"bits": 1}),
        ("bits-9", halves, {"bits": 9}), ("granularity-row", halves, {"granularity": "row"}),
        ("group-of-0", halves, {"granularity": "group"}), ("group-for-tensor", halves, {"group_size": 3}),
        ("group-of-minus-1", halves, {"granularity": "group", "group_size": -1}),
    ):  # fmt: skip
        yield Draft("quantize", name, REFUSED, {"weight": weight}, {**usual, **changes}, "InvalidArgument")


def pruning() -> Iterator[Draft]:
    """Which codes become zero."""
    weight = weights(5, 8, -12, seed=4).array()
    ties = np.array([[1, -1, 2, 1], [0, -0.0, 1, -2], [2, 1, -1, 0]], np.float32)
    loud = np.array([0.0, 1.0, 4.0, 1.0, 0.5, 2.0, 1.0, 3.0])
    for name, values, maxima in (("drawn", weight, loud), ("ties", ties, np.array([1.0, 1.0, 0.5, 1.0]))):
        codes = np.clip(np.rint(values * 4), -7, 7).astype(np.int8)
        zero = np.zeros((1, 1), np.uint8)
        shifted = (codes + 7).astype(np.uint8), np.full((1, 1), 7, np.uint8)
        for sparsity in (0.0, 0.29, 0.5, 1.0):
            flags = TIES if name == "ties" else VALID
            inputs = {"weight": values, "codes": codes, "zero_point": zero}
            magnitude = {"score": "magnitude", "sparsity": sparsity}
            linf = {"score": "linf", "sparsity": sparsity}
            yield Draft("prune", f"{name}-magnitude-{sparsity:g}", flags, inputs, magnitude)
            inputs = {**inputs, "codes": shifted[0], "zero_point": shifted[1], "activation_max": maxima}
            yield Draft("prune", f"{name}-linf-{sparsity:g}", flags, inputs, linf)
    hundred = np.arange(100, dtype=np.float32).reshape(10, 10)  # floor(100 * 0.29) is 29, in float64 it is 28
    inputs = {"weight": hundred, "codes": (hundred / 2).astype(np.int8), "zero_point": np.zeros((1, 1), np.uint8)}
    yield Draft("prune", "decimal-sparsity", EDGE, inputs, {"score": "magnitude", "sparsity": 0.29})
    inputs = {"weight": ties, "codes": ties.astype(np.int8), "zero_point": np.zeros((1, 1), np.uint8)}
    for name, sparsity in (("below-0", -0.1), ("above-1", 1.1)):
        yield Draft("prune", f"sparsity-{name}", REFUSED, inputs, {"score": "magnitude", "sparsity": sparsity},
                    "InvalidArgument")  # fmt: skip
    yield Draft("prune", "other-channels", REFUSED, {**inputs, "activation_max": np.ones(3)},
                {"score": "linf", "sparsity": 0.5}, "InvalidArgument")  # fmt: skip
    scores = (
        ("distinct", float32(3, 1, 4, 1.5, 9, 2.6)), ("ties", float32(2, 1, 1, 1, 2, 1)), ("equal", float32(*[1] * 7)),
        ("zeros-of-both-signs", float32(0, -0.0, 0, -0.0, 1)), ("infinite", float32(np.inf, 1, np.inf, -np.inf)),
    )  # fmt: skip
    for name, score in scores:
        for k in range(len(score) + 1):
            flags = VALID if name == "distinct" else TIES
            yield Draft("select", f"{name}-{k}", flags, {"score": score}, {"k": k})
    yield Draft("select", "matrix", TIES, {"score": np.abs(ties)}, {"k": 5})
    yield Draft("select", "nothing", EDGE, {"score": np.empty((0, 3), np.float32)}, {"k": 0})
    large = Drawn(Lcg(5, exponent=-8), (300, 500), "float32")
    yield Draft("select", "large", TIES, {"score": large}, {"k": 75_001}, hashed=True)
    for name, score, k in (("k-below-0", scores[0][1], -1), ("k-above-size", scores[0][1], 7),
                           ("nan", float32(1, np.nan), 1)):  # fmt: skip
        yield Draft("select", name, REFUSED, {"score": score}, {"k": k}, "InvalidArgument")


def logarithms() -> Iterator[Draft]:
    """The integer logarithm."""
    powers = [1 << n for n in range(32)]
    for name, numbers in (
        ("example", [1, 2, 3, 22, 4096]), ("1-to-64", list(range(1, 65))), ("powers", powers),
        ("below-powers", [p - 1 for p in powers[1:]]), ("above-powers", [p + 1 for p in powers]),
        ("largest", [2**32 - 1]),
    ):  # fmt: skip
        yield Draft("log2_fixed", name, VALID, {"x": np.array(numbers, np.int64)})
    drawn = Drawn(Lcg(6, tuple(range(0, 65536, 300))), (2000,), "int64")
    yield Draft("log2_fixed", "drawn", VALID, {"x": drawn}, hashed=True)
    for x in (0, -1):
        yield Draft(
            "log2_fixed",
            f"of-{x}".replace("--", "-minus-"),
            REFUSED,
            {"x": np.array([x], np.int64)},
            error="InvalidArgument",
        )


def histograms() -> dict[str, tuple[Array, tuple[str, ...]]]:
    """Occurrences to normalize."""
    drawn = {
        name: np.bincount(symbols(thresholds, 5000, seed).array()).astype(np.int64)
        for seed, (name, thresholds) in enumerate(
            (
                ("halves", HALVES),
                ("binomial", BINOMIAL),
                ("nibbles", NIBBLES),
                ("bytes", BYTES),
                ("rare", RARE),
                ("sparse", SPARSE),
            )
        )
    }
    edges: dict[str, list[int]] = {
        "one-symbol": [0, 0, 9], "two-equal": [7, 7], "far-apart": [1, *[0] * 254, 1], "thirds": [1, 1, 1],
        "dominant": [10**6, 1, 1, 1], "largest": [2**38, 2**37, 1], "zeros-behind": [3, 1, 0, 0],
        "rising": list(range(1, 33)), "all-256-once": [1] * 256,
    }  # fmt: skip
    result: dict[str, tuple[Array, tuple[str, ...]]] = {"example": (np.array([13, 0, 5, 1], np.int64), VALID)}
    result |= {name: (h, VALID) for name, h in drawn.items()}
    return result | {name: (np.array(h, np.int64), EDGE) for name, h in edges.items()}


def modelling() -> Iterator[Draft]:
    """Normalized counts, table_log and classes."""
    for name, (histogram, flags) in histograms().items():
        inputs = {"histogram": histogram}
        for table_log in (5, 8, 11):
            if np.count_nonzero(histogram) <= 1 << table_log:
                hashed = len(histogram) > 100
                parameters = {"table_log": table_log}
                yield Draft("normalize_counts", f"{name}-{table_log}", flags, inputs, parameters, hashed=hashed)
        for lanes in (1, 300):
            free = {"lane_count": lanes, "table_log": None}
            yield Draft("choose_model", f"{name}-{lanes}-lanes", flags, inputs, free)
        if np.count_nonzero(histogram) <= 1 << 5:
            given = {"lane_count": 1, "table_log": 5}
            yield Draft("choose_model", f"{name}-table-log-5", flags, inputs, given)
    example = np.array([13, 0, 5, 1], np.int64)
    for name, histogram, table_log in (
        ("nothing-occurs", np.zeros(4, np.int64), 5), ("empty", np.empty(0, np.int64), 5),
        ("33-symbols-in-32-slots", np.ones(33, np.int64), 5), ("negative", np.array([5, -1], np.int64), 5),
        ("too-large", np.array([2**39, 1], np.int64), 5), ("table-log-4", example, 4), ("table-log-13", example, 13),
    ):  # fmt: skip
        yield Draft("normalize_counts", name, REFUSED, {"histogram": histogram}, {"table_log": table_log},
                    "InvalidArgument")  # fmt: skip


def tables() -> Iterator[Draft]:
    """Spread and state tables of counts."""
    tried: dict[str, list[int]] = {
        "example": [22, 0, 8, 2], "single-slot": [15, 1, 16], "equal": [8, 8, 8, 8], "one-symbol": [0, 0, 32],
        "all-but-one": [31, 1], "zeros-behind": [16, 16, 0, 0], "32-of-1": [1] * 32, "zero-in-front": [0, 30, 2],
    }  # fmt: skip
    counts = {name: np.array(q, np.int64) for name, q in tried.items()}
    for name, (histogram, _) in histograms().items():
        for table_log in (8, 12):
            if name in ("halves", "binomial", "bytes", "rare") and len(histogram) <= 1 << table_log:
                counts[f"{name}-{table_log}"] = numpy_reference.normalize_counts(histogram, table_log)
    for name, q in counts.items():
        flags = VALID if "-" not in name or name[-1].isdigit() else EDGE
        for step in ("spread", "decode_table", "encode_table"):
            yield Draft(step, name, flags, {"counts": q}, hashed=q.sum() > 1024)
    for name, values in (
        ("sum-31", [21, 0, 8, 2]), ("sum-16", [8, 0, 6, 2]), ("sum-8192", [8192]), ("sum-48", [32, 16]), ("none", []),
        ("negative", [33, -1]), ("257-symbols", [1] * 255 + [0, 1]), ("sum-0", [0, 0]),
        ("sum-wraps", [2**62, 2**62, 2**62, 2**62, 32]),
    ):  # fmt: skip
        for step in ("spread", "decode_table", "encode_table"):
            yield Draft(step, name, REFUSED, {"counts": np.array(values, np.int64)}, error="InvalidArgument")


def chunks() -> Iterator[Draft]:
    """Partial coding: what is coded and what stays raw."""
    for name, count, cut in (
        ("example", 19, Chunks(4, 2, 1)), ("no-tail", 16, Chunks(4, 2, 1)), ("single-symbols", 7, Chunks(1, 2, 1)),
        ("mostly-coded", 100, Chunks(5, 4, 3)), ("one-block", 16, Chunks(1, 16, 15)),
        ("long-tail", 31, Chunks(8, 2, 1)), ("mostly-raw", 101, Chunks(3, 16, 1)),
    ):  # fmt: skip
        content = np.arange(count, dtype=np.uint8)
        parameters = {"chunk": cut.symbols, "chunks_per_block": cut.per_block, "coded_chunks": cut.coded}
        yield Draft("split_chunks", name, ("partial",), {"symbols": content}, parameters)
        raw, coded = numpy_reference.split_chunks(content, **parameters)
        inputs = {"raw": raw, "coded": coded}
        yield Draft("merge_chunks", name, ("partial",), inputs, parameters, outputs={"symbols": content})


def encoding() -> Iterator[Draft]:
    """Symbols to frames: the writer's choices, byte for byte."""
    usual = {"profile": "gpu", "fraction": 1.0, "table_log": None, "lane_count": None}

    def draft(name: str, flag: str, content: Array | Drawn, hashed: bool = False, **changes: Any) -> Draft:
        return Draft("encode", name, (flag,), {"symbols": content}, {**usual, **changes}, hashed=hashed)

    for name, (_, content) in FRAMES.items():
        if "packed" not in name and len(content) < 100:
            yield draft(name, "valid", content)
    yield draft("constant", "valid", np.full(1000, 7, np.uint8))
    yield draft("example", "valid", EXAMPLE, table_log=5, lane_count=2)
    yield draft("no-symbols", "edge", EXAMPLE[:0])
    yield draft("1-symbol", "edge", EXAMPLE[:1])
    yield draft("far-apart", "edge", np.array([0, 255], np.uint8))
    for name, thresholds in (("halves", HALVES), ("binomial", BINOMIAL), ("nibbles", NIBBLES), ("bytes", BYTES),
                             ("rare", RARE), ("sparse", SPARSE)):  # fmt: skip
        for count in (100, 5000):
            yield draft(f"{name}-{count}", "valid", symbols(thresholds, count, seed=count), count > 100)
        drawn = symbols(thresholds, 5000, seed=11)
        yield draft(f"{name}-archive", "valid", drawn, True, profile="archive")
        for fraction in (0.5, 0.75, 0.3, 0.001, 0.99) if name == "halves" else (0.75,):
            yield draft(f"{name}-fraction-{fraction:g}", "partial", drawn, True, fraction=fraction)
    short = symbols(HALVES, 300, seed=2)
    for table_log in range(5, 13):
        yield draft(f"table-log-{table_log}", "valid", short, table_log=table_log)
    for lanes in (1, 2, 3, 74, 75, 76, 300):
        yield draft(f"lanes-{lanes}", "valid", short, lane_count=lanes)
    for count in range(2, 10):
        yield draft(f"{count}-symbols", "edge", np.arange(count, dtype=np.uint8) % 2, lane_count=1, table_log=5)
    for name, thresholds in (("halves", HALVES), ("sparse", SPARSE), ("rare", RARE)):
        drawn = symbols(thresholds, 300_000, seed=12)
        yield draft(f"{name}-large", "large", drawn, True)
        yield draft(f"{name}-large-partial", "large", drawn, True, fraction=0.75, profile="archive")
    for name, changes in (
        ("fraction-0", {"fraction": 0.0}), ("fraction-above-1", {"fraction": 1.5}), ("table-log-4", {"table_log": 4}),
        ("table-log-13", {"table_log": 13}), ("lane-count-0", {"lane_count": 0}),
        ("lane-count-above-symbols", {"lane_count": 301}), ("unknown-profile", {"profile": "fastest"}),
    ):  # fmt: skip
        yield Draft("encode", name, REFUSED, {"symbols": short}, {**usual, **changes}, "InvalidArgument")


def decoding() -> Iterator[Draft]:
    """Frames to symbols, and what is no frame."""
    for name, (data, content) in FRAMES.items():
        yield decoded(name, "valid", data, content)
    for name, flag, data, drawn in more_frames():
        yield decoded(name, flag, data, drawn)
    large = symbols(HALVES, 40_000, seed=13)
    data = numpy_reference.encode(large.array(), "archive", 1.0, table_log=None, lane_count=None)
    yield Draft("decode", "large", ("large",), {"frame": np.frombuffer(data, np.uint8)}, outputs={"symbols": large})
    for fault in faults():
        yield refused(fault)


def refused(fault: Fault) -> Draft:
    """A frame that must be refused."""
    return Draft("decode", fault.name, (fault.flag,), {"frame": np.frombuffer(fault.data, np.uint8)}, error=fault.error)


def decoded(name: str, flag: str, data: bytes, content: Array | Drawn) -> Draft:
    """A valid frame and its symbols."""
    return Draft("decode", name, (flag,), {"frame": np.frombuffer(data, np.uint8)}, outputs={"symbols": content})


def containers() -> Iterator[Draft]:
    """Safetensors files of frames, whole and damaged."""
    content = symbols(HALVES, 1200, seed=14).array().reshape(20, 60)
    scale = weights(1, 60, -12, seed=15).array()
    zero = np.array(3, np.uint8)
    bias = float32(1.5, -0.25)
    integers = np.minimum(content, 7).astype(np.int8) - np.int8(3)
    small = store_weight(content[:2, :3], zero, scale[:, :3], "float16", kernels=NUMPY)
    files: dict[str, Any] = {
        "plain": {"bias": bias, "ids": np.arange(5, dtype=np.int64), "none": np.empty((0, 4), np.float16)},
        "small": {"layer": small, "bias": bias},
        **{
            dtype: {"layer": store_weight(content, zero, scale, dtype, kernels=NUMPY)}
            for dtype in ("float32", "float16", "bfloat16")
        },
        "scale-for-each-row": {"layer": store_weight(content, zero, np.ldexp(scale[:, :20].T, 2), "float32",
                                                     kernels=NUMPY)},
        "int8": {"layer": store_integers(integers, kernels=NUMPY)},
        "uint8": {"layer": store_integers(content, fraction=0.5, kernels=NUMPY)},
        "int4": {"layer": store_integers(integers.astype("int4"), kernels=NUMPY)},
        "constant": {"layer": store_weight(content * 0, zero, scale, "float32", kernels=NUMPY)},
        "bands": {"layer": in_bands(content, 1, scale), "bias": bias},
        "bands-int8": {"layer": in_bands(integers, 0)},
    }  # fmt: skip
    for name, tensors in files.items():
        data = write_container(tensors, {"format": "pt"})
        yield Draft("read_container", name, VALID, {"data": np.frombuffer(data, np.uint8)})
    data = write_container(files["small"], {})
    yield Draft("read_container", "entries-in-another-order", VALID,
                {"data": np.frombuffer(with_header(data, reordered), np.uint8)})  # fmt: skip
    yield from damaged_containers(data, write_container({"layer": store_integers(content[:4], kernels=NUMPY)}, {}))
    yield from damaged_bands(write_container({"layer": in_bands(content[:2, :6], 1, scale[:, :6])}, {}))


def in_bands(values: Array, axis: int, scale: Array | None = None) -> BandedTensor:
    """A tensor whose channels lie in three bands by turns: a weight with this scale, or integers."""
    bands = (np.arange(values.shape[axis]) * 2 % 5 % 3).astype(np.uint8)
    every = split_bands(values, axis, bands)
    if scale is None:
        return make_banded(axis, bands, [store_integers(part, kernels=NUMPY) for part in every])
    scales = split_bands(scale, axis, bands)
    zeros = [np.array(3 - g, np.uint8) for g in range(3)]
    parts = [
        store_weight(part, zero, by, "float32", kernels=NUMPY)
        for part, zero, by in zip(every, zeros, scales, strict=True)
    ]
    return make_banded(axis, bands, parts)


def damaged_bands(data: bytes) -> Iterator[Draft]:
    """A fault for each line of the page's table of checks that is about bands; the bands are 0 2 1 1 0 0."""
    header, body = split_container(data)
    frame_at = len(data) - len(body) + header["layer"]["data_offsets"][0]

    def entry(**changes: Any) -> bytes:
        return with_index(data, lambda i: i["tensors"]["layer"].update(changes))

    def without(name: str) -> bytes:
        return with_header(data, lambda h: h.update({f"other.{name}": h.pop(name)}))

    def reframed(bands: list[int]) -> bytes:
        """Other bands of as many bytes, in a frame that is right."""
        first, last = header["layer"]["data_offsets"]
        frame = encode(np.array(bands, np.uint8), kernels=NUMPY)
        assert len(frame) == last - first, "the bands' frame keeps its size"
        return data[:frame_at] + frame + data[frame_at + len(frame) :]

    wrong = [
        ("bands-without-axis", "bad-index", with_index(data, lambda i: i["tensors"]["layer"].pop("axis"))),
        ("bands-without-number", "bad-index", with_index(data, lambda i: i["tensors"]["layer"].pop("bands"))),
        ("bands-of-a-real-axis", "bad-index", entry(axis=1.0)),
        ("bands-behind-the-last-axis", "bad-index", entry(axis=2)),
        ("bands-along-another-axis", "bad-index", entry(axis=0)),
        ("one-band", "bad-index", entry(bands=1)),
        ("17-bands", "bad-index", entry(bands=17)),
        ("too-few-bands", "bad-index", entry(bands=2)),
        ("too-many-bands", "missing-part", entry(bands=4)),
        ("bands-of-more-channels", "bad-index", entry(shape=[2, 7])),
        ("bands-of-other-sizes", "bad-index", reframed([0, 2, 1, 1, 0, 1])),
        ("a-band-that-is-not-there", "bad-index", reframed([0, 2, 1, 1, 0, 3])),
        ("no-bands", "missing-part", without("layer")),
        ("a-band-missing", "missing-part", without("layer.1")),
        ("a-band-without-scale", "missing-part", without("layer.2.scale")),
        ("bands-crc", "bad-crc", data[:frame_at] + bytes([*data[frame_at : frame_at + 24], 1]) + data[frame_at + 25 :]),
    ]  # fmt: skip
    for name, flag, damaged in wrong:
        yield Draft("read_container", name, (flag,), {"data": np.frombuffer(damaged, np.uint8)}, error="Corrupt")


def reordered(header: dict[str, Any]) -> None:
    """Turn the order of the entries round."""
    entries = list(header.items())
    header.clear()
    header.update(reversed(entries))


def split_container(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, tensor bytes)."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_container(text: bytes, body: bytes) -> bytes:
    """A file of a header's text and tensor bytes."""
    return struct.pack("<Q", len(text)) + text + body


def with_header(data: bytes, edit: Any) -> bytes:
    """The file with its header edited in place."""
    header, body = split_container(data)
    edit(header)
    return join_container(json.dumps(header, separators=(",", ":")).encode(), body)


def with_index(data: bytes, edit: Any) -> bytes:
    """The file with the index in its metadata edited in place."""

    def change(header: dict[str, Any]) -> None:
        index = json.loads(header["__metadata__"]["tansor"])
        edit(index)
        header["__metadata__"]["tansor"] = json.dumps(index)

    return with_header(data, change)


def damaged_containers(weight: bytes, integer: bytes) -> Iterator[Draft]:
    """A fault for each line of the page's table of checks."""
    header, body = split_container(weight)
    text = json.dumps(header).encode()
    frame_at = len(weight) - len(body) + header["layer"]["data_offsets"][0]

    def poked(at: int, value: int) -> bytes:
        return weight[:at] + bytes([value]) + weight[at + 1 :]

    def put(name: str, key: str, value: Any) -> bytes:
        return with_header(weight, lambda h: h[name].update({key: value}))

    def indexed(edit: Any, data: bytes = weight) -> bytes:
        return with_index(data, edit)

    def without(name: str, data: bytes = weight) -> bytes:
        # The bytes of the last tensor can go with it, those of others stay with another name.
        return with_header(data, lambda h: h.update({f"other.{name}": h.pop(name)}))

    def twice(key: str) -> bytes:
        """The header with a key's entry repeated."""
        entry = f"{json.dumps(key)}: {json.dumps(header[key])}"
        return join_container(text.replace(entry.encode(), f"{entry}, {entry}".encode()), body)

    index_text = with_header(weight, lambda h: h["__metadata__"].update(tansor="{"))
    index = header["__metadata__"]["tansor"]
    repeated = with_header(weight, lambda h: h["__metadata__"].update(tansor=f'{index[:-1]},"version":1}}'))
    wrong = [
        ("empty", "truncated", "Truncated", b""), ("7-bytes", "truncated", "Truncated", weight[:7]),
        ("header-too-large", "bad-header", "Corrupt", struct.pack("<Q", 100_000_001) + weight[8:]),
        ("header-hostile", "hostile-count", "Corrupt", struct.pack("<Q", 2**64 - 1) + weight[8:]),
        ("no-brace", "bad-header", "Corrupt", join_container(b" " + text, body)),
        ("header-ends-early", "truncated", "Truncated", weight[: 8 + len(text) // 2]),
        ("no-json", "bad-header", "Corrupt", join_container(text[:-1] + b" ", body)),
        ("key-twice", "bad-header", "Corrupt", twice("bias")),
        ("metadata-twice", "bad-header", "Corrupt", twice("__metadata__")),
        ("metadata-is-a-list", "bad-header", "Corrupt", with_header(weight, lambda h: h.update(__metadata__=[]))),
        ("unknown-dtype", "bad-header", "Corrupt", put("bias", "dtype", "F128")),
        ("negative-dimension", "bad-header", "Corrupt", put("bias", "shape", [-2])),
        ("other-shape", "bad-header", "Corrupt", put("bias", "shape", [3])),
        ("huge-shape", "hostile-count", "Corrupt", put("bias", "shape", [2**40, 2**40])),
        ("offsets-exchanged", "bad-header", "Corrupt", put("bias", "data_offsets", [8, 0])),
        ("tensor-ends-early", "truncated", "Truncated", weight[:-1]),
        ("index-no-json", "bad-index", "Corrupt", index_text),
        ("index-key-twice", "bad-index", "Corrupt", repeated),
        ("index-of-nothing", "bad-index", "Corrupt", indexed(lambda i: i.clear())),
        ("index-without-tensors", "bad-index", "Corrupt", indexed(lambda i: i.pop("tensors"))),
        ("index-version-2", "bad-version", "UnsupportedVersion", indexed(lambda i: i.update(version=2))),
        ("index-version-text", "bad-index", "Corrupt", indexed(lambda i: i.update(version="1"))),
        ("index-negative-dimension", "bad-index", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(shape=[-2, -3]))),
        ("index-real-dimension", "bad-index", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(shape=[2.0, 3]))),
        ("index-other-shape", "bad-index", "Corrupt", indexed(lambda i: i["tensors"]["layer"].update(shape=[2, 4]))),
        ("index-hostile-shape", "hostile-count", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(shape=[2**40, 2**40]))),
        ("index-unknown-dtype", "bad-index", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(dtype="float8"))),
        ("index-of-another-tensor", "bad-index", "Corrupt",
         indexed(lambda i: i["tensors"].update(bias={"dtype": "float32", "shape": [2]}))),
        ("no-frame", "missing-part", "Corrupt", without("layer")),
        ("no-zero-point", "missing-part", "Corrupt", without("layer.zero_point")),
        ("no-scale", "missing-part", "Corrupt", without("layer.scale")),
        ("integer-with-scale", "missing-part", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(dtype="int8"))),
        ("weight-of-integers", "missing-part", "Corrupt",
         indexed(lambda i: i["tensors"]["layer"].update(dtype="float32"), integer)),
        ("frame-of-int8", "bad-header", "Corrupt", put("layer", "dtype", "I8")),
        ("zero-point-of-int8", "bad-header", "Corrupt", put("layer.zero_point", "dtype", "I8")),
        ("scale-of-int32", "bad-header", "Corrupt", put("layer.scale", "dtype", "I32")),
        ("scale-does-not-broadcast", "bad-header", "Corrupt", put("layer.scale", "shape", [3, 1])),
        ("scale-of-more-dimensions", "bad-header", "Corrupt", put("layer.scale", "shape", [1, 1, 3])),
        ("frame-magic", "bad-magic", "Corrupt", poked(frame_at, 0)),
        ("frame-version", "bad-version", "UnsupportedVersion", poked(frame_at + 4, 2)),
        ("frame-crc", "bad-crc", "Corrupt", poked(frame_at + header["layer"]["shape"][0] - 1, 1)),
        ("bytes-behind", "left-over", "Corrupt", weight + b"\0"),
        ("tensors-overlap", "bad-header", "Corrupt",
         put("layer.zero_point", "data_offsets", [0, 1])),
    ]  # fmt: skip
    for name, flag, error, data in wrong:
        yield Draft("read_container", name, (flag,), {"data": np.frombuffer(data, np.uint8)}, error=error)
