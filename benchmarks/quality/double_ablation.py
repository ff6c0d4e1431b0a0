"""Ablations of double compression on a language model: what each of its settings buys and costs.

    python -m benchmarks.quality.double_ablation --work DIR [--shared DIR] [--model NAME] [--windows N]
        [--part NAME]... [--json FILE] [--svg-dir DIR]

`--model` is opt-1m-byte (bundled) or opt-29m (in `--shared`). Every point is kept in the work folder: a run that was
interrupted goes on where it stopped. Nothing is chosen by these numbers: they are of the evaluation text.

Parts: exponent (of the channel scale, at the finest INT8 scale and at the recipe's target), granularity (INT8 by tensor
or by output channel), prune (share of pruned weights, in each layer or by one threshold), chunks (share of a tensor
that is coded against size and decoding speed), recipe (the whole recipe at several targets), activations (INT8
activations with and without scaling). In the first three, layers alone are quantized and counted, each channel scale
stored beside its codes; in the last two, everything is.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.quality.harness import machine, sources_digest
from benchmarks.quality.language import evaluation_bytes, evaluation_words, prepare_bytes, prepare_words
from benchmarks.quality.plot import Line, plot
from benchmarks.quality.tables import markdown
from benchmarks.quality.task import Folders, Task, cached, digest, write_json
from codec.frame import decode_frame, make_frame
from codec.tensor import load
from onnx_export.activations import quantize_activations
from onnx_export.calibration import Batch, collect_statistics, combine
from onnx_export.compress_onnx import (
    compress_constants,
    is_layer,
    is_table,
    open_with_samples,
    prepare,
    reason_to_skip,
    with_shares,
)
from onnx_export.evaluate import score
from onnx_export.files import read_model
from onnx_export.placement import Placement, place_scales, with_new_arrays
from onnx_export.probe import REQUANTIZING, with_arrays, with_weights
from onnx_export.progress import silent
from onnx_export.recipes import DOUBLE, EXPONENTS, Recipe, WeightSettings, raise_targets, with_activations
from onnx_export.runtime import onnxruntime, open_session
from onnx_export.tensors import Options, compress_weight, nbytes
from onnx_export.ties import find_ties
from onnx_export.weights import Constant, find_constants
from refimpl.activations import ActivationStatistics
from refimpl.pipeline import LayerSettings

MODELS: Mapping[str, tuple[Callable[[Folders], Task], Callable[[Folders], npt.NDArray[np.integer]]]] = {
    "opt-1m-byte": (prepare_bytes, evaluation_bytes),
    "opt-29m": (prepare_words, evaluation_words),
}  # tasks, and all windows of the texts that judge
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
OFFSETS = (-4.0, -2.0, 0.0, 2.0)  # dB around the recipe's targets
FIXED = LayerSettings(exponents=(0.75,), target_sqnr_db=DOUBLE.layer.target_sqnr_db)
SPEED_RUNS = 5
Point = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A model, what calibration saw of it, and the text that judges."""

    task: Task
    tokens: npt.NDArray[np.int64]  # windows that are scored
    folder: Path

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The original."""
        return prepare(read_model(self.task.model), self.task.model)

    @cached_property
    def samples(self) -> Batch:
        """Calibration samples."""
        return open_with_samples(self.model, self.task.calibration)[1].every

    @cached_property
    def constants(self) -> tuple[list[Constant], Mapping[str, Any]]:
        """(weights that the recipe compresses, ties)."""
        options = Options(Recipe("double", DOUBLE))
        return find_ties([c for c in find_constants(self.model) if not reason_to_skip(c, options)])

    @cached_property
    def layers(self) -> list[Constant]:
        """Matrix products' weights."""
        return [c for c in self.constants[0] if is_layer(c)]

    @cached_property
    def statistics(self) -> Mapping[tuple[str, int], ActivationStatistics]:
        """Of all inputs."""
        readers = [(r, c.array.shape[r.input_axis]) for c in self.constants[0] for r in c.readers]
        watched = {(r.activation, r.activation_axis): size for r, size in readers if r.activation is not None}
        return collect_statistics(self.model, watched, self.samples, lambda _i, _n: None)

    def perplexity(self, model: onnx.ModelProto) -> float:
        """Of a changed model."""
        options = onnxruntime().SessionOptions()
        options.add_session_config_entry("optimization.disable_specified_optimizers", REQUANTIZING)
        return float(np.exp(score(open_session(model, options=options), self.tokens, lambda _i, _n: None)[0]))

    def baseline(self) -> float:
        """Of the original."""
        return float(
            cached(self.folder / "baseline.json", self.question("original"), lambda: self.perplexity(self.model))
        )

    def question(self, what: str) -> str:
        """Equal for equal models, data, windows and settings."""
        return digest(self.task.model, self.task.calibration, self.tokens.tobytes(), what)

    def point(self, name: str, settings: str, compute: Callable[[], Point]) -> Point:
        """A result, from its file if it is there."""
        say(f"{self.task.name}: {name}")

        def measured() -> Point:
            return {**compute(), "sources": sources_digest(), "machine": machine()}

        found: Point = cached(self.folder / f"{name}.json", self.question(settings), measured)
        return found


def layers_point(bench: Bench, settings: LayerSettings, budget: str = "layer") -> Point:
    """Bits of the layers, and the perplexity with them alone quantized."""
    weights = WeightSettings(settings, DOUBLE.table, DOUBLE.kernel)
    if budget == "global":
        weights = with_shares(weights, bench.layers, bench.statistics)
    options = Options(Recipe("double", weights))
    arrays, stored, entropy, zeros = {}, 0, 0.0, 0.0
    for c in bench.layers:
        assert c.input_axis is not None, "layers have input channels"
        own, known = weights.layer_of(c.name), combine(c.readers, bench.statistics)
        axis, row = c.input_axis, None
        if own.granularity == "channel":
            row = 1 - axis % 2
            known = None
        tensor, line = compress_weight(c.name, c.array, own, known, axis, row, options)
        arrays[c.name] = load(tensor)
        stored += line.stored_bytes
        entropy += line.entropy_bits_per_weight * line.elements
        zeros += line.sparsity * line.elements
    count = sum(c.array.size for c in bench.layers)
    return {
        "bits_per_weight": 8 * stored / count,
        "entropy_bits_per_weight": entropy / count,
        "zeros": zeros / count,
        "perplexity": bench.perplexity(with_arrays(bench.model, arrays, {})),
    }


def model_point(bench: Bench, weights: WeightSettings) -> Point:
    """The whole recipe without its probe of the outputs: placed scales, all weights, activations if asked for."""
    constants, ties = bench.constants
    model = onnx.ModelProto()
    model.CopyFrom(bench.model)
    tied = {tie.source for tie in ties.values()} | ties.keys()
    placement: Placement = place_scales(model, constants, tied, frozenset(), bench.statistics, weights)
    if weights.layer.activation_bits is not None:
        layers = [c for c in constants if not is_table(c)]
        quantize_activations(model, layers, bench.samples, lambda _i, _n: None)
    options = Options(Recipe("double", weights))
    scaled = with_new_arrays(model, constants)
    results = compress_constants(scaled, bench.statistics, options, silent, placement)
    stored = {name: tensor for name, (tensor, call, _) in results.items() if call is not None}
    done = sum(line.stored_bytes for _, call, line in results.values() if call is not None)
    copied = [c.array for c in find_constants(bench.model) if c.name not in stored and c.name not in ties]
    every = [c.array for c in find_constants(bench.model) if c.name not in ties]
    added = sum(s.stored_bytes for s in placement.added)
    count = sum(a.size for a in every)
    total = done + sum(map(nbytes, copied)) + added
    places: dict[str, int] = {}
    for _, _, line in results.values():
        places[line.absorbed or "none"] = places.get(line.absorbed or "none", 0) + 1
    return {
        "bits_per_weight": 8 * total / count,
        "ratio_vs_int8": count / total,
        "places": places,
        "perplexity": bench.perplexity(with_weights(model, stored, ties)),
    }


def exponent(bench: Bench) -> Iterator[Point]:
    """Scale exponents at fixed settings."""
    for label, target in (("finest", None), ("target", DOUBLE.layer.target_sqnr_db)):
        for e in EXPONENTS:
            settings = LayerSettings(exponents=(e,), target_sqnr_db=target)
            name = f"exponent-{label}-{e:g}"
            found = bench.point(name, repr(settings), lambda s=settings: layers_point(bench, s))
            yield {"scale": label, "exponent": e, **found}


def granularity(bench: Bench) -> Iterator[Point]:
    """INT8 by tensor and by output channel."""
    for kind in ("tensor", "channel"):
        settings = LayerSettings(granularity=kind)
        found = bench.point(f"granularity-{kind}", repr(settings), lambda s=settings: layers_point(bench, s))
        yield {"granularity": kind, **found}


def prune(bench: Bench) -> Iterator[Point]:
    """Shares of pruned weights."""
    for budget in ("layer", "global"):
        for share in SHARES:
            settings = replace(FIXED, sparsity=share)
            name = f"prune-{budget}-{share:g}"
            found = bench.point(name, repr((settings, budget)), lambda s=settings, b=budget: layers_point(bench, s, b))
            yield {"budget": budget, "share": share, **found}


def chunks(bench: Bench) -> Iterator[Point]:
    """Shares of a tensor that are coded: what is stored, and how fast it decodes."""
    for fraction in FRACTIONS:
        yield {
            "fraction": fraction,
            **bench.point(f"chunks-{fraction:g}", repr((FIXED, fraction)), lambda f=fraction: speed(bench, f)),
        }


def speed(bench: Bench, fraction: float) -> Point:
    """Of the largest layer, on one thread; the clock is the thread's own."""
    layer = max(bench.layers, key=lambda c: c.array.size)
    assert layer.input_axis is not None, "layers have input channels"
    options = Options(Recipe("double", DOUBLE))
    known = combine(layer.readers, bench.statistics)
    tensor, _ = compress_weight(layer.name, layer.array, FIXED, known, layer.input_axis, None, options)
    symbols = np.tile(decode_frame(tensor.frame), 8)
    frame = make_frame(symbols, profile="gpu", fraction=fraction)
    times = []
    for _ in range(SPEED_RUNS):
        started = time.thread_time()
        decode_frame(frame)
        times.append(time.thread_time() - started)
    return {"ratio": 8 * symbols.size / frame.block.stored_bits, "symbols_per_second": symbols.size / min(times)}


def recipe(bench: Bench) -> Iterator[Point]:
    """The recipe at targets around its own, without the probe that would move them back."""
    for offset in OFFSETS:
        weights = raise_targets(Recipe("double", DOUBLE), offset).weights
        assert weights is not None, "double has settings"
        name = f"recipe-{offset:+g}"
        yield {"offset": offset, **bench.point(name, repr(weights), lambda w=weights: model_point(bench, w))}


def activations(bench: Bench) -> Iterator[Point]:
    """INT8 activations, and the same weights without; exponents searched, and none."""
    unscaled = replace(DOUBLE, layer=replace(DOUBLE.layer, exponents=(0.0,)))
    for scaling, weights in (("none", unscaled), ("searched", DOUBLE)):
        for bits in (None, 8):
            chosen = weights
            if bits is not None:
                chosen = with_activations(Recipe("double", weights), "int8").weights or weights
            name = f"activations-{bits or 'float'}-{scaling}"
            found = bench.point(name, repr(chosen), lambda w=chosen: model_point(bench, w))
            yield {"activations": "int8" if bits else "float", "scaling": scaling, **found}


PARTS: Mapping[str, Callable[[Bench], Iterator[Point]]] = {
    "exponent": exponent,
    "granularity": granularity,
    "prune": prune,
    "chunks": chunks,
    "recipe": recipe,
    "activations": activations,
}


def table(points: Sequence[Point], baseline: float) -> str:
    """Points as a Markdown table."""
    hidden = ("sources", "machine")
    rows = []
    for point in points:
        row = {key: value for key, value in point.items() if key not in hidden}
        if "perplexity" in row:
            row["loss, %"] = 100 * (row["perplexity"] / baseline - 1)
        rows.append({key: cell(key, value) for key, value in row.items()})
    return markdown([key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])


def cell(key: str, value: Any) -> str:
    """A value as text.

    Examples
    --------
    >>> cell("zeros", 0.25), cell("places", {"linear": 2}), cell("loss, %", 0.5)
    ('25.0 %', 'linear 2', '+0.50')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items()))
    if not isinstance(value, float):
        return str(value)
    forms = {"zeros": ".1%", "loss, %": "+.2f", "exponent": "g", "share": "g", "fraction": "g", "offset": "+g"}
    forms |= {"symbols_per_second": ".3g", "perplexity": ".4f"}
    return format(value, forms.get(key, ".3f")).replace("%", " %")


def drawings(found: Mapping[str, Sequence[Point]], baseline: float) -> Iterator[tuple[str, str]]:
    """(name, SVG) of the parts that are curves."""

    def loss(p: Point) -> float:
        return float(100 * (p["perplexity"] / baseline - 1))

    def lines(
        points: Sequence[Point], key: str, x: Callable[[Point], float], y: Callable[[Point], float]
    ) -> list[Line]:
        return [
            Line(str(n), tuple((x(p), y(p)) for p in points if p[key] == n))
            for n in dict.fromkeys(p[key] for p in points)
        ]

    bits: Callable[[Point], float] = lambda p: float(p["bits_per_weight"])  # noqa: E731
    if points := found.get("exponent"):
        yield (
            "exponent-bits",
            plot("exponent", "bits per weight of layers", lines(points, "scale", lambda p: p["exponent"], bits)),
        )
        yield (
            "exponent-loss",
            plot("exponent", "loss of perplexity, %", lines(points, "scale", lambda p: p["exponent"], loss)),
        )
    if points := found.get("prune"):
        yield (
            "prune-loss",
            plot("bits per weight of layers", "loss of perplexity, %", lines(points, "budget", bits, loss)),
        )
    if points := found.get("chunks"):
        speed_line = Line("fraction", tuple((float(p["ratio"]), p["symbols_per_second"] / 1e9) for p in points))
        yield "chunks", plot("ratio over INT8", "decoded, 10^9 symbols/s", [speed_line])
    if points := found.get("recipe"):
        recipe_line = Line("double", tuple((float(p["ratio_vs_int8"]), loss(p)) for p in points))
        paper = Line("the paper's claim", ((2.2, 1.0),))
        yield "recipe", plot("ratio over INT8, all weights", "loss of perplexity, %", [recipe_line, paper])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.double_ablation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--model", default="opt-1m-byte", choices=list(MODELS))
    parser.add_argument("--windows", type=int, help="of the evaluation text, spread over it (default: all)")
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg-dir", type=Path)
    options = parser.parse_args()
    folders = Folders(options.work.resolve(), options.shared and options.shared.resolve())
    prepared, windows = MODELS[options.model]
    task, tokens = prepared(folders), windows(folders)
    count = min(options.windows or len(tokens), len(tokens))
    chosen = tokens[np.linspace(0, len(tokens) - 1, count).round().astype(int)]
    bench = Bench(task, chosen.astype(np.int64), folders.work / f"double-{options.model}-{count}")
    baseline = bench.baseline()
    found = {name: list(PARTS[name](bench)) for name in options.part or PARTS}
    print(f"{options.model}, {count} windows of {chosen.shape[1]} tokens: perplexity {baseline:.4f}\n")
    for name, points in found.items():
        print(f"{name}\n\n{table(points, baseline)}")
    if options.json:
        date = dt.datetime.now(dt.UTC).date().isoformat()
        write_json(
            options.json, {"date": date, "model": options.model, "windows": count, "baseline": baseline, **found}
        )
    if options.svg_dir:
        options.svg_dir.mkdir(parents=True, exist_ok=True)
        for name, picture in drawings(found, baseline):
            (options.svg_dir / f"double-{name}.svg").write_text(picture, encoding="utf-8")


def say(line: str) -> None:
    """To standard error: standard output is for the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
