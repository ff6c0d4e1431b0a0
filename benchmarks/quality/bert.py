"""A BERT encoder as an ONNX graph, from its safetensors: token ids in, one embedding of length 1 a text out."""

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class Graph:
    """Nodes and constants that are being collected."""

    def __init__(self, weights: Mapping[str, Array]):
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: Array) -> str:
        """A constant, added once."""
        self.tensors.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; its name."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the file."""
        return self.constant(name, self.weights[name])

    def linear(self, x: str, name: str) -> str:
        """Apply x W.T + b; the file holds W as (out, in), MatMul wants (in, out)."""
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.add("Add", self.add("MatMul", x, weight), self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """Layer normalization."""
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", x, scale, bias, epsilon=epsilon)


def encoder(weights: Mapping[str, Array], config: Mapping[str, Any]) -> onnx.ModelProto:
    """The model ``input_ids, attention_mask (n, length) -> embedding (n, hidden)``, mean-pooled.

    Parameters
    ----------
    weights : mapping
        By their names in the safetensors file.
    config : mapping
        ``hidden_size``, ``num_attention_heads``, ``num_hidden_layers``, ``layer_norm_eps``.
    """
    g = Graph(weights)
    hidden, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    length = g.add("Shape", "input_ids", start=1, end=2)
    table = "embeddings.position_embeddings.weight"
    places = g.add("Slice", g.constant("position_ids", np.arange(len(weights[table]))), g.integers(0), length)
    positions = g.add("Gather", g.weight(table), places)
    words = g.add("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids")
    first_type = g.constant("embeddings.token_type", weights["embeddings.token_type_embeddings.weight"][0])
    x = g.add("Add", g.add("Add", words, positions), first_type)
    x = g.norm(x, "embeddings.LayerNorm", epsilon)
    mask = g.add("Cast", "attention_mask", to=FLOAT)  # (n, length)
    absent = g.add("Sub", g.constant("one_float", np.array(1, np.float32)), mask)
    penalty = g.add("Mul", absent, g.constant("minus_infinity", np.array(-1e9, np.float32)))
    penalty = g.add("Unsqueeze", penalty, g.integers(1, 2))
    root = g.constant("root", np.array(np.sqrt(hidden // heads), np.float32))
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"

        def split(name: str, order: list[int], layer: str = layer, x: str = x) -> str:
            """Heads apart: (n, length, hidden) to (n, heads, length, width), or its last two axes swapped."""
            y = g.linear(x, f"{layer}.attention.self.{name}")
            return g.add("Transpose", g.add("Reshape", y, g.integers(0, 0, heads, hidden // heads)), perm=order)

        query, key, value = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
        scores = g.add("Add", g.add("Div", g.add("MatMul", query, key), root), penalty)
        mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), value)
        mixed = g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]), g.integers(0, 0, hidden))
        mixed = g.linear(mixed, f"{layer}.attention.output.dense")
        x = g.norm(g.add("Add", x, mixed), f"{layer}.attention.output.LayerNorm", epsilon)
        wide = g.add("Gelu", g.linear(x, f"{layer}.intermediate.dense"))
        narrow = g.linear(wide, f"{layer}.output.dense")
        x = g.norm(g.add("Add", x, narrow), f"{layer}.output.LayerNorm", epsilon)
    present = g.add("Unsqueeze", mask, g.integers(2))
    total = g.add("ReduceSum", g.add("Mul", x, present), g.integers(1), keepdims=0)  # a mean up to its length
    g.nodes.append(helper.make_node("LpNormalization", [total], ["embedding"], axis=-1, p=2))
    graph = helper.make_graph(
        g.nodes,
        "bert",
        [helper.make_tensor_value_info(name, INT64, ["n", "length"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("embedding", FLOAT, ["n", hidden])],
        list(g.tensors.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def encode_numpy(
    weights: Mapping[str, Array], config: Mapping[str, Any], ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The same for one text without padding, in float64: what the graph is checked against.

    Parameters
    ----------
    weights, config : mapping
        As for `encoder`.
    ids : int64, shape (length,)
    """
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    heads, width = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    embeddings = [w[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
    x = norm(embeddings[0][ids] + embeddings[1][: len(ids)] + embeddings[2][0], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{name}").reshape(len(ids), heads, width).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(width))
        mixed = (scores / scores.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(x.shape)
        x = norm(x + linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        x = norm(x + linear(gelu(wide), f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def gelu(x: Array) -> Array:
    """The product of x and the normal distribution function of x."""
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2
