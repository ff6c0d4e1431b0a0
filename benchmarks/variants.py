"""One model with its weights stored in several ways, and a decoder of OPT's shape to try them on.

A skeleton is a model whose weights are names that nothing defines yet. Each variant defines them: as plain arrays,
as INT8 with DequantizeLinear, as MatMulNBits of eight or four bits, or as calls of `ai.tansor`.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from codec.tensor import StoredTensor, store_weight
from onnx_export.calls import write_call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from refimpl.metrics import entropy_of_counts

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 32  # weights that share a scale in MatMulNBits
ZERO = {8: 128, 4: 8}  # the code of MatMulNBits that stands for zero, by bits
CODES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


# A decoder


@dataclass(frozen=True)
class Shape:
    """Of a decoder: by default that of OPT-1.3B."""

    layers: int = 24
    width: int = 2048
    heads: int = 32
    inner: int = 8192
    vocabulary: int = 50272
    positions: int = 2048

    @property
    def weights(self) -> dict[str, tuple[int, int]]:
        """Shapes by name; layers as (inputs, outputs), tables by row."""
        d, f = self.width, self.inner
        shapes = {"tokens": (self.vocabulary, d), "positions": (self.positions, d)}
        for i in range(self.layers):
            shapes |= {f"{i}.{name}": (d, d) for name in "qkvo"} | {f"{i}.up": (d, f), f"{i}.down": (f, d)}
        return shapes


def draw(name: str, shape: tuple[int, int], layers: int, seed: int) -> Array:
    """float16 weights: Gaussian, with rows and columns of spreads of their own."""
    random = np.random.default_rng(seed)
    spread = 0.02 / (np.sqrt(2 * layers) if name.endswith((".o", ".down")) else 1)
    values = random.standard_normal(shape, np.float32)
    values *= np.exp(0.25 * random.standard_normal((shape[0], 1), np.float32)) * np.float32(spread)
    values *= np.exp(0.25 * random.standard_normal((1, shape[1]), np.float32))
    return values.astype(np.float16)


def draw_all(shape: Shape, threads: int) -> dict[str, Array]:
    """All weights of a decoder."""
    with ThreadPoolExecutor(threads) as pool:
        names = shape.weights
        drawn = pool.map(lambda item: draw(item[1], names[item[1]], shape.layers, item[0]), enumerate(names))
        return dict(zip(names, drawn, strict=True))


def decoder(shape: Shape) -> onnx.ModelProto:
    """The skeleton: a pre-norm decoder in float16 without Shape nodes, so that all of it can run on a GPU.

    Inputs are ``input_ids`` (batch, tokens), ``position_ids`` (tokens,) and ``mask`` (tokens, tokens), which is added
    to attention scores. The output ``logits`` (batch, vocabulary) is that of the last token.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    d, heads = shape.width, shape.heads

    def constant(name: str, array: Array) -> str:
        tensors.append(numpy_helper.from_array(array, name))
        return name

    def add(kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}{len(nodes)}", **attributes))
        return out

    ones, zeros = np.ones(d, np.float16), np.zeros(d, np.float16)
    gain, bias = constant("gain", ones), constant("bias", zeros)
    wide = constant("wide_bias", np.zeros(shape.inner, np.float16))
    split, join = constant("split", np.array([0, 0, heads, d // heads])), constant("join", np.array([0, 0, d]))
    scale, last = constant("scale", np.array((d // heads) ** -0.5, np.float16)), constant("last", np.array(-1))

    def norm(x: str) -> str:
        return add("LayerNormalization", x, gain, bias, axis=-1)

    def layer(x: str, name: str, by: str = bias) -> str:
        return add("Add", add("MatMul", x, name), by)

    def head(x: str, perm: list[int]) -> str:
        return add("Transpose", add("Reshape", x, split), perm=perm)

    x = add("Add", add("Gather", "tokens", "input_ids"), add("Gather", "positions", "position_ids"))
    for i in range(shape.layers):
        n = norm(x)
        q = head(add("Mul", layer(n, f"{i}.q"), scale), [0, 2, 1, 3])
        k, v = head(layer(n, f"{i}.k"), [0, 2, 3, 1]), head(layer(n, f"{i}.v"), [0, 2, 1, 3])
        p = add("Softmax", add("Add", add("MatMul", q, k), "mask"), axis=-1)
        o = add("Reshape", add("Transpose", add("MatMul", p, v), perm=[0, 2, 1, 3]), join)
        x = add("Add", x, layer(o, f"{i}.o"))
        up = add("Relu", layer(norm(x), f"{i}.up", wide))
        x = add("Add", x, layer(up, f"{i}.down"))
    add("Gemm", add("Gather", norm(x), last, axis=1), "tokens", out="logits", transB=1)
    info = helper.make_tensor_value_info
    inputs = [
        info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        info("position_ids", TensorProto.INT64, ["tokens"]),
        info("mask", TensorProto.FLOAT16, ["tokens", "tokens"]),
    ]
    outputs = [info("logits", TensorProto.FLOAT16, ["batch", shape.vocabulary])]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# Quantization for the variant `ai.tansor`


def symbols_of(weight: Array, step: float) -> tuple[Array, int, float]:
    """(symbols, zero point, step): multiples of one step, which is so many standard deviations, within eight bits."""
    width = float(weight.std(dtype=np.float32)) * step
    codes = np.rint(weight.astype(np.float32) / np.float32(width)).clip(-127, 127).astype(np.int16)
    lowest = int(codes.min())
    return (codes - lowest).astype(np.uint8), -lowest, width


def store(weight: Array, step: float, fraction: float = 1.0) -> StoredTensor:
    """A weight as multiples of one step."""
    symbols, zero_point, width = symbols_of(weight, step)
    return store_weight(
        symbols, np.array([zero_point], np.uint8), np.array([width], np.float32), weight.dtype.name, fraction=fraction
    )


def entropy(symbols: Array) -> float:
    """Bits a symbol, order 0."""
    return entropy_of_counts(np.bincount(symbols.reshape(-1)))


# Variants


def with_weights(
    skeleton: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]
) -> onnx.ModelProto:
    """The skeleton with nodes before its own, and tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    own = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])
    model.graph.initializer.extend(tensors)
    return model


def plain(skeleton: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Weights as they are."""
    return with_weights(skeleton, [], [numpy_helper.from_array(array, name) for name, array in weights.items()])


def tansor(skeleton: onnx.ModelProto, stored: Mapping[str, StoredTensor]) -> onnx.ModelProto:
    """Weights as calls."""
    calls = {name: write_call(name, tensor) for name, tensor in stored.items()}
    model = with_weights(skeleton, [c.node for c in calls.values()], [t for c in calls.values() for t in c.inputs])
    info = [helper.make_tensor_value_info(name, CODES[s.dtype], s.shape) for name, s in stored.items()]
    model.graph.value_info.extend(info)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    model.functions.extend(functions({c.node.op_type for c in calls.values()}, opset))
    model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    return model


Job = Callable[[], dict[str, Array]]  # makes tensors
Product = Callable[[onnx.NodeProto], tuple[onnx.NodeProto, Job] | None]


def int8(skeleton: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Weights in eight bits, a scale for each output channel; of tables, rows are gathered before they are scaled."""
    return quantized(skeleton, weights, lambda _node: None)


def nbits(skeleton: onnx.ModelProto, weights: Mapping[str, Array], bits: int) -> onnx.ModelProto:
    """As `int8`, but matrix products are MatMulNBits of four or eight bits, a scale for each 32 weights."""

    def product(node: onnx.NodeProto) -> tuple[onnx.NodeProto, Job] | None:
        by_row = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        if (node.op_type != "MatMul" and not by_row) or len(node.input) > 2 or node.input[1] not in weights:
            return None
        name = node.input[1]
        rows = weights[name] if by_row else weights[name].T
        made = helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}.blocks", f"{name}.scales"], list(node.output), name=node.name,
            domain="com.microsoft", K=rows.shape[1], N=rows.shape[0], bits=bits, block_size=BLOCK,
        )  # fmt: skip
        return made, lambda: dict(zip(made.input[1:], blockwise(rows, bits), strict=True))

    model = quantized(skeleton, weights, product)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def blockwise(rows: Array, bits: int) -> tuple[Array, Array]:
    """(codes (N, K / 32, 4 * bits), scales (N * K / 32,)) as MatMulNBits takes them."""
    zero = ZERO[bits]
    blocks = rows.astype(np.float32).reshape(len(rows), -1, BLOCK)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scale = (peak / -zero).astype(rows.dtype).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.nan_to_num(np.rint(blocks / scale)).clip(-zero, zero - 1).astype(np.int16) + zero
    codes = codes.astype(np.uint8)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4 if bits == 4 else codes
    return packed, scale.astype(rows.dtype).reshape(-1)


def by_channel(name: str, weight: Array, axis: int) -> dict[str, Array]:
    """Codes of eight bits, and a scale for each index along an axis."""
    wide = weight.astype(np.float32)
    scale = (np.abs(wide).max(1 - axis, keepdims=True) / 127).astype(weight.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.nan_to_num(np.rint(wide / scale.astype(np.float32))).clip(-127, 127).astype(np.int8)
    return {f"{name}.codes": codes, f"{name}.scale": scale.reshape(-1)}


def gathered(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Gather of a table's rows that are scaled afterwards."""
    (name, ids), (out,) = node.input, node.output
    return [
        helper.make_node("Gather", [f"{name}.codes", ids], [f"{out}.codes"]),
        helper.make_node("Gather", [f"{name}.scale", ids], [f"{out}.row_scale"]),
        helper.make_node("Unsqueeze", [f"{out}.row_scale", "last_axis"], [f"{out}.scale"]),
        helper.make_node("CastLike", [f"{out}.codes", f"{out}.scale"], [f"{out}.values"]),
        helper.make_node("Mul", [f"{out}.values", f"{out}.scale"], [out]),
    ]


def quantized(skeleton: onnx.ModelProto, weights: Mapping[str, Array], product: Product) -> onnx.ModelProto:
    """A variant whose nodes that read a weight are rewritten one by one."""
    jobs: dict[str, Job] = {"last_axis": lambda: {"last_axis": np.array([-1])}}
    before: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    tables = {n.input[0] for n in skeleton.graph.node if n.op_type == "Gather"} & weights.keys()
    for node in skeleton.graph.node:
        name = next((given for given in node.input if given in weights), None)
        if name is None:
            nodes.append(node)
            continue
        other, axis = product(node), int(name not in tables)
        if other is not None:
            nodes.append(other[0])
            jobs[f"{name}.blocks"] = other[1]
            continue
        jobs[name] = lambda n=name, a=axis: by_channel(n, weights[n], a)
        if node.op_type == "Gather":
            nodes += gathered(node)
        else:
            inputs = [f"{name}.codes", f"{name}.scale"]
            before[name] = helper.make_node("DequantizeLinear", inputs, [name], axis=axis)
            nodes.append(node)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [item for arrays in pool.map(lambda job: job(), jobs.values()) for item in arrays.items()]
    bare = onnx.ModelProto()
    bare.CopyFrom(skeleton)
    del bare.graph.node[:]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in made]
    return with_weights(bare, [*before.values(), *nodes], tensors)


def at_fraction(stored: StoredTensor, symbols: Array, fraction: float) -> StoredTensor:
    """The same weight with another part of it coded."""
    again = store_weight(symbols, stored.zero_point, stored.scale, stored.dtype, fraction=fraction)
    return replace(stored, frame=again.frame)
