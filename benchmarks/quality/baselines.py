"""Known methods on opt-29m, each by the reference's own functions: bits of a weight against perplexity.

    python -m benchmarks.quality.baselines --shared DIR --json FILE [--work DIR] [--method NAME]... [--linear-only]

Statistics come from all calibration windows in one pass of the original; every layer is then compressed by itself.
`linear` leaves all but the weights of linear layers as they are; `all` has the tied embedding and the positions in
8 bits as well, rounded to nearest, a scale for each row. Bits are those of the codes, of scales (16 bits) and of
zero points (as many as a code); entropy is that of the codes of each layer, of order 0, with scales and zero points.
Pruned weights have 8-bit codes with a scale for each row, `joint` ones 4-bit codes. Statistics and finished rows are
kept in the work folder: an interrupted run goes on where it stopped.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.quality.tables import markdown
from benchmarks.quality.task import cached, digest, write_json
from onnx_export.evaluate import read_tokens, score
from onnx_export.files import read_model
from onnx_export.runtime import onnxruntime, open_session
from onnx_export.runtime import run as run_session
from onnx_export.weights import Constant, find_constants, from_matrix, to_matrix
from refimpl.gptq import activation_order, gptq
from refimpl.hessian import Matrix, inverse_factor
from refimpl.metrics import entropy
from refimpl.pruning import (
    NOfM,
    magnitude_score,
    n_of_m_mask,
    prune,
    prune_mask,
    prune_rows_mask,
    wanda_score,
    zero_dead,
)
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantize
from refimpl.scaling import scale_channels, search_awq, smoothquant_scale
from refimpl.schedule import estimated_loss, schedule
from refimpl.sparsegpt import prune_and_quantize

PARTS = ("calibration", "evaluation")
SCALE_BITS = 16
BATCH = 4  # windows
SPARSITIES = (0.5, 0.6, 0.7, 0.8)
INT8, INT4_ROW = QuantizationSpec(8, granularity="channel"), QuantizationSpec(4, granularity="channel")
INT4, INT3 = (QuantizationSpec(bits, symmetric=False, granularity="group", group_size=128) for bits in (4, 3))
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """What calibration saw of the input of a linear layer."""

    hessian: Matrix  # (in, in) second moment
    maximum: npt.NDArray[np.float64]  # (in,) of |X|
    mean: npt.NDArray[np.float64]  # (in,) of |X|

    @cached_property
    def factor(self) -> Matrix:
        """See `inverse_factor`."""
        return inverse_factor(self.hessian)

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """See `activation_order`."""
        return activation_order(self.hessian)

    @cached_property
    def factor_in_order(self) -> Matrix:
        """Of the columns in order."""
        return inverse_factor(self.hessian[np.ix_(self.order, self.order)])


@dataclass(frozen=True)
class Layer:
    """The weight of a linear layer."""

    name: str
    weight: Array  # (out, in)
    input: Input
    siblings: Array  # the weights of all layers that read the same input, stacked


@dataclass(frozen=True)
class Stored:
    """A compressed weight and its price."""

    weight: Array  # as it comes back
    nominal: float  # bits of all
    entropy: float  # bits of all, codes at their entropy


Result = dict[str, float]
Compress = Callable[[Layer], Stored]
Method = Callable[[Sequence[Layer]], Iterator[Stored]]


def store(quantized: Quantized, weight: Array, spec: QuantizationSpec, side_bits: float = 0) -> Stored:
    """Price codes, scales and zero points, and what is stored beside them."""
    side = side_bits + quantized.scale.size * (SCALE_BITS + (0 if spec.symmetric else spec.bits))
    size = quantized.codes.size
    return Stored(weight, size * spec.bits + side, size * entropy(quantized.codes) + side)


def nearest(spec: QuantizationSpec, layer: Layer) -> Stored:
    """Round to nearest."""
    return nearest_of(layer.weight, spec)


def nearest_of(weight: Array, spec: QuantizationSpec) -> Stored:
    """The same for a weight without an input."""
    quantized = quantize(weight, spec)
    return store(quantized, dequantize(quantized, spec.group_size), spec)


def smoothquant(spec: QuantizationSpec, layer: Layer) -> Stored:
    """SmoothQuant of the weights alone, one scale for all layers that read the same input."""
    s = smoothquant_scale(layer.input.maximum, layer.siblings)
    return scaled(layer, s, spec)


def awq(spec: QuantizationSpec, layer: Layer) -> Stored:
    """AWQ, the ratio by this layer's output."""
    found = search_awq(layer.weight, layer.input.mean, layer.input.hessian, spec)
    return scaled(layer, found.channel_scale, spec)


def scaled(layer: Layer, s: Array, spec: QuantizationSpec) -> Stored:
    """Quantize W s; s is stored."""
    quantized = quantize(scale_channels(layer.weight, s), spec)
    return store(quantized, dequantize(quantized, spec.group_size) / s, spec, side_bits=SCALE_BITS * s.size)


def gptq_layer(spec: QuantizationSpec, in_order: bool, layer: Layer) -> Stored:
    """GPTQ, with static groups if columns go by activation."""
    weight, x = zero_dead(layer.weight, layer.input.hessian), layer.input
    order, factor = (x.order, x.factor_in_order) if in_order else (None, x.factor)
    result = gptq(weight, factor, spec, order=order, static_groups=in_order)
    return store(result.quantized, result.reconstruction, spec)


def magnitude(sparsity: float | NOfM, layer: Layer) -> Stored:
    """Magnitude pruning, compared within the layer, then rounding to nearest."""
    rating = magnitude_score(layer.weight)
    masked = n_of_m_mask(rating, sparsity) if isinstance(sparsity, NOfM) else prune_mask(rating, sparsity)
    return pruned(layer, masked)


def wanda(sparsity: float | NOfM, layer: Layer) -> Stored:
    """Wanda, compared within rows, then rounding to nearest."""
    rating = wanda_score(layer.weight, np.diagonal(layer.input.hessian))
    masked = n_of_m_mask(rating, sparsity) if isinstance(sparsity, NOfM) else prune_rows_mask(rating, sparsity)
    return pruned(layer, masked)


def pruned(layer: Layer, mask: npt.NDArray[np.bool_]) -> Stored:
    """Prune the 8-bit codes."""
    quantized = quantize(layer.weight, INT8)
    codes = prune(quantized.codes, mask).astype(np.int8)
    result = Quantized(codes, quantized.scale, quantized.zero_point)
    return store(result, dequantize(result), INT8)


def sparsegpt_layer(spec: QuantizationSpec, sparsity: float | NOfM, layer: Layer) -> Stored:
    """SparseGPT with joint quantization."""
    weight = zero_dead(layer.weight, layer.input.hessian)
    result = prune_and_quantize(weight, layer.input.factor, sparsity, spec)
    return store(result.quantized, result.reconstruction, spec)


def each(compress: Compress) -> Method:
    """Every layer in the same way."""
    return lambda layers: map(compress, layers)


def scheduled(spec: QuantizationSpec, sparsity: float) -> Method:
    """SparseGPT with a sparsity for each layer: `refimpl.schedule`."""

    def method(layers: Sequence[Layer]) -> Iterator[Stored]:
        losses = [estimated_loss(x.weight, x.input.factor) for x in layers]
        shares = schedule(losses, [x.weight.size for x in layers], sparsity)
        return (sparsegpt_layer(spec, float(share), x) for share, x in zip(shares, layers, strict=True))

    return method


def methods() -> dict[str, Method]:
    """Names and methods, in the table's order."""
    found: dict[str, Method] = {
        "RTN int8": each(partial(nearest, INT8)),
        "RTN int4 g128": each(partial(nearest, INT4)),
        "RTN int3 g128": each(partial(nearest, INT3)),
        "SmoothQuant W8": each(partial(smoothquant, INT8)),
        "AWQ int4 g128": each(partial(awq, INT4)),
        "AWQ int3 g128": each(partial(awq, INT3)),
        "GPTQ int4 g128": each(partial(gptq_layer, INT4, False)),
        "GPTQ int4 g128 act-order": each(partial(gptq_layer, INT4, True)),
        "GPTQ int3 g128": each(partial(gptq_layer, INT3, False)),
        "GPTQ int3 g128 act-order": each(partial(gptq_layer, INT3, True)),
    }
    patterns: list[tuple[str, float | NOfM]] = [*((str(s), s) for s in SPARSITIES), ("2:4", NOfM(2, 4))]
    for label, sparsity in patterns:
        found[f"SparseGPT {label}"] = each(partial(sparsegpt_layer, INT8, sparsity))
    for label, sparsity in patterns:
        found[f"SparseGPT joint {label}"] = each(partial(sparsegpt_layer, INT4_ROW, sparsity))
        if isinstance(sparsity, float):
            found[f"SparseGPT joint {label} scheduled"] = scheduled(INT4_ROW, sparsity)
    for name, compress in (("Wanda", wanda), ("magnitude", magnitude)):
        for label, sparsity in patterns:
            found[f"{name} {label}"] = each(partial(compress, sparsity))
    return found


def calibrate(model: onnx.ModelProto, windows: npt.NDArray[np.int64], widths: dict[str, int]) -> dict[str, Input]:
    """Second moment, maximum and mean of each watched activation, (.., in), computed inside the graph."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    outputs: list[str] = []
    for i, (name, width) in enumerate(widths.items()):
        x = f"watch/{i}"
        graph.initializer.append(helper.make_tensor(f"{x}/shape", onnx.TensorProto.INT64, [2], [-1, width]))
        graph.node.extend(
            [
                helper.make_node("Reshape", [name, f"{x}/shape"], [x]),
                helper.make_node("Transpose", [x], [f"{x}/T"], perm=[1, 0]),
                helper.make_node("MatMul", [f"{x}/T", x], [f"{x}/moment"]),
                helper.make_node("Abs", [x], [f"{x}/size"]),
                helper.make_node("ReduceMean", [f"{x}/size", "watch/tokens"], [f"{x}/mean"], keepdims=0),
                helper.make_node("ReduceMax", [f"{x}/size", "watch/tokens"], [f"{x}/largest"], keepdims=0),
            ]
        )
        outputs += [f"{x}/moment", f"{x}/mean", f"{x}/largest"]
    graph.initializer.append(helper.make_tensor("watch/tokens", onnx.TensorProto.INT64, [1], [0]))
    graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    session = open_session(watched, options=quiet_threads())
    inputs = {name: Input(np.zeros((n, n)), np.zeros(n), np.zeros(n)) for name, n in widths.items()}
    for first in range(0, len(windows), BATCH):
        say(f"calibrate: {first} of {len(windows)} windows")
        part = windows[first : first + BATCH]
        found = run_session(session, outputs, {session.get_inputs()[0].name: part})
        for i, x in enumerate(inputs.values()):
            moment, mean, largest = (value.astype(np.float64) for value in found[3 * i : 3 * i + 3])
            x.hessian[:] += moment / windows.size
            x.mean[:] += mean * (part.size / windows.size)
            x.maximum[:] = np.maximum(x.maximum, largest)
    return inputs


def kept(path: Path, compute: Callable[[], dict[str, Input]]) -> dict[str, Input]:
    """Statistics from a file, computed and written if it is not there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **{f"{x}/{name}": value for x, i in compute().items() for name, value in statistics(i).items()})
        part.replace(path)
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            x, name = key.rsplit("/", 1)
            found.setdefault(x, {})[name] = file[key].astype(np.float64)
    return {x: Input(**values) for x, values in found.items()}


def statistics(x: Input) -> dict[str, Array]:
    """What is written of an input, in float32."""
    return {field.name: getattr(x, field.name).astype(np.float32) for field in fields(x)}


def quiet_threads() -> Any:
    """Threads that sleep while they wait: the machine may have other work."""
    options = onnxruntime().SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def linear_layers(constants: Sequence[Constant], inputs: dict[str, Input]) -> list[Layer]:
    """The layers that the methods compress."""
    weights = {c.name: to_matrix(c.array, axis_of(c)) for c in constants}
    siblings = {x: np.concatenate([weights[c.name] for c in constants if c.readers[0].activation == x]) for x in inputs}
    return [
        Layer(c.name, weights[c.name], inputs[x], siblings[x])
        for c in constants
        if (x := c.readers[0].activation) is not None
    ]


def axis_of(constant: Constant) -> int:
    """Its input axis."""
    assert constant.input_axis is not None
    return constant.input_axis


def perplexity(model: onnx.ModelProto, changed: dict[str, Array], tokens: npt.NDArray[np.int64]) -> float:
    """Of the model with other weights, given by name in their own layout."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return float(np.exp(score(open_session(copy, options=quiet_threads()), tokens, lambda *_: None)[0]))


def say(line: str) -> None:
    """To standard error: standard output is for the table."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Subject:
    """The model, its weights and its text."""

    model: onnx.ModelProto
    constants: dict[str, Constant]  # all two-dimensional weights
    layers: Sequence[Layer]
    evaluation: npt.NDArray[np.int64]

    def measure(self, stored: dict[str, Stored]) -> Result:
        """Bits of the stored weights, and the perplexity with them."""
        changed = {
            name: from_matrix(s.weight, self.constants[name].array.shape, axis_of(self.constants[name]))
            for name, s in stored.items()
        }
        count = sum(s.weight.size for s in stored.values())
        return {
            "bits": sum(s.nominal for s in stored.values()) / max(count, 1),
            "entropy": sum(s.entropy for s in stored.values()) / max(count, 1),
            "perplexity": perplexity(self.model, changed, self.evaluation),
        }

    def run(self, method: Method, rest: bool) -> Result:
        """Measure a method, with or without the rest of the weights in 8 bits."""
        stored = {x.name: s for x, s in zip(self.layers, method(self.layers), strict=True)}
        if rest:
            others = {name: to_matrix(c.array, axis_of(c)) for name, c in self.constants.items() if name not in stored}
            stored |= {name: nearest_of(weight, INT8) for name, weight in others.items()}
        return self.measure(stored)


def read_subject(model_path: Path, calibration: Path, evaluation: Path, statistics_path: Path) -> Subject:
    """Read and calibrate."""
    model = read_model(model_path)
    constants = {c.name: c for c in find_constants(model) if c.array.ndim == 2}
    linear = [c for c in constants.values() if all(r.op_type in ("MatMul", "Gemm") for r in c.readers)]
    widths = {x: c.array.shape[axis_of(c)] for c in linear if (x := c.readers[0].activation) is not None}
    inputs = kept(statistics_path, lambda: calibrate(model, read_tokens(calibration), widths))
    return Subject(model, constants, linear_layers(linear, inputs), read_tokens(evaluation))


def table(original: float, columns: dict[str, dict[str, Result]]) -> str:
    """Markdown, a row for each method."""
    heads = ["method"]
    for column in columns:
        heads += [f"{column}: bits", "entropy", "perplexity", "loss, %"]
    rows = [["original", *["", "", f"{original:.3f}", ""] * len(columns)]]
    for name in next(iter(columns.values())):
        cells = [name]
        for results in columns.values():
            r = results[name]
            loss = 100 * (r["perplexity"] / original - 1)
            cells += [f"{r['bits']:.3f}", f"{r['entropy']:.3f}", f"{r['perplexity']:.3f}", f"{loss:+.2f}"]
        rows.append(cells)
    return markdown(heads, rows)


def main() -> None:
    """Run it."""
    options = parse()
    model = options.shared / "models" / "opt-29m" / "model.onnx"
    texts = [options.shared / "data" / f"sotu-{part}.opt-29m.npy" for part in PARTS]
    question = digest(model, *texts)
    statistics_path = options.work / f"inputs-{digest(model, texts[0])}.npz"
    subject = lru_cache(lambda: read_subject(model, *texts, statistics_path))  # not needed if all is done

    def result(column: str, name: str, method: Method) -> Result:
        say(f"{column}: {name}")
        path = options.work / column / (re.sub(r"[^\w.]+", "-", name) + ".json")
        return cached(path, question, lambda: subject().run(method, column == "all"))

    original = cached(options.work / "original.json", question, lambda: subject().measure({}))["perplexity"]
    chosen = {name: method for name, method in methods().items() if name in (options.method or methods())}
    columns = {
        column: {name: result(column, name, method) for name, method in chosen.items()}
        for column in (["linear"] if options.linear_only else ["linear", "all"])
    }
    write_json(options.json, {"original": original, **columns})
    print(table(original, columns))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, required=True, help="holds models/opt-29m and data")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="of finished rows; by default beside the JSON file")
    parser.add_argument("--method", action="append", choices=list(methods()), metavar="NAME", help="a row's name")
    parser.add_argument("--linear-only", action="store_true", help="leave out the columns of all weights")
    options = parser.parse_args()
    options.work = options.work or options.json.with_suffix(".rows")
    return options


if __name__ == "__main__":
    main()
