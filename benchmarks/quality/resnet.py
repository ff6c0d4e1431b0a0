"""A small residual network: trained in JAX, written as ONNX with its batch normalizations folded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Values = dict[str, Array]
CLASSES = 10
EPSILON = 1e-5
MOMENTUM = 0.9  # of the gradient, and of the running mean and variance
WEIGHT_DECAY = 5e-4
BATCH, EPOCHS, PEAK_RATE, WARM_UP = 128, 12, 0.1, 0.2


@dataclass(frozen=True)
class Conv:
    """A convolution followed by batch normalization."""

    name: str
    inputs: int
    outputs: int
    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """relu(second(relu(first(x))) + shortcut(x)); without a shortcut, x itself."""

    first: Conv
    second: Conv
    shortcut: Conv | None


def block(name: str, inputs: int, outputs: int, stride: int) -> Block:
    """A residual block."""
    return Block(
        Conv(f"{name}.first", inputs, outputs, 3, stride),
        Conv(f"{name}.second", outputs, outputs, 3, 1),
        Conv(f"{name}.shortcut", inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None,
    )


STEM = Conv("stem", 1, 32, 3, 2)
BLOCKS = (block("block1", 32, 32, 1), block("block2", 32, 64, 2), block("block3", 64, 128, 2))


def convolutions() -> Iterator[Conv]:
    """All of them, in order."""
    yield STEM
    for b in BLOCKS:
        yield from (c for c in (b.first, b.second, b.shortcut) if c is not None)


def initial(seed: int) -> tuple[Values, Values]:
    """(parameters, running means and variances); weights after He et al., layout (height, width, in, out)."""
    random = np.random.default_rng(seed)
    parameters, running = {}, {}
    for c in convolutions():
        shape = (c.size, c.size, c.inputs, c.outputs)
        parameters[f"{c.name}.weight"] = random.standard_normal(shape) * np.sqrt(2 / (c.size**2 * c.inputs))
        parameters[f"{c.name}.gain"] = np.ones(c.outputs)
        parameters[f"{c.name}.bias"] = running[f"{c.name}.mean"] = np.zeros(c.outputs)
        running[f"{c.name}.variance"] = np.ones(c.outputs)
    parameters["head.weight"] = random.standard_normal((BLOCKS[-1].second.outputs, CLASSES)) * 0.05
    parameters["head.bias"] = np.zeros(CLASSES)
    return {n: a.astype(np.float32) for n, a in parameters.items()}, {
        n: a.astype(np.float32) for n, a in running.items()
    }


def train(images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], seed: int = 0) -> tuple[Values, Values]:
    """Train on images (n, height, width); the same machine gives the same network again.

    Stochastic gradient descent with Nesterov's momentum, the rate rising and falling once; images are mirrored
    and shifted by up to two pixels at random.
    """
    import jax
    import jax.numpy as jnp

    def apply(parameters: Mapping[str, Any], x: Any) -> tuple[Any, dict[str, Any]]:
        seen = {}

        def convolve(c: Conv, x: Any) -> Any:
            x = jax.lax.conv_general_dilated(
                x, parameters[f"{c.name}.weight"], (c.stride, c.stride), [(c.size // 2, c.size // 2)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            seen[f"{c.name}.mean"], seen[f"{c.name}.variance"] = mean, variance
            factor = parameters[f"{c.name}.gain"] / jnp.sqrt(variance + EPSILON)
            return (x - mean) * factor + parameters[f"{c.name}.bias"]

        x = jax.nn.relu(convolve(STEM, x))
        for b in BLOCKS:
            y = convolve(b.second, jax.nn.relu(convolve(b.first, x)))
            x = jax.nn.relu(y + (convolve(b.shortcut, x) if b.shortcut else x))
        return x.mean((1, 2)) @ parameters["head.weight"] + parameters["head.bias"], seen

    def loss(parameters: Mapping[str, Any], x: Any, wanted: Any) -> tuple[Any, dict[str, Any]]:
        logits, seen = apply(parameters, x)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], axis=1)
        return -picked.mean(), seen

    @jax.jit
    def step(parameters: Any, velocity: Any, running: Any, x: Any, wanted: Any, rate: Any) -> Any:
        gradient, seen = jax.grad(loss, has_aux=True)(parameters, x, wanted)
        gradient = {n: g + WEIGHT_DECAY * parameters[n] for n, g in gradient.items()}
        velocity = {n: MOMENTUM * v + gradient[n] for n, v in velocity.items()}
        parameters = {n: p - rate * (gradient[n] + MOMENTUM * velocity[n]) for n, p in parameters.items()}
        return parameters, velocity, {n: MOMENTUM * r + (1 - MOMENTUM) * seen[n] for n, r in running.items()}

    random = np.random.default_rng(seed)
    parameters, running = initial(seed)
    velocity = {n: np.zeros_like(p) for n, p in parameters.items()}
    steps = EPOCHS * (len(images) // BATCH)
    order: Array = np.empty(0, np.int64)
    for done in range(steps):
        if len(order) < BATCH:
            order = random.permutation(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        rate = PEAK_RATE * np.interp(done / steps, [0, WARM_UP, 1], [0, 1, 0])
        x = vary(images[chosen], random)[..., None]
        parameters, velocity, running = step(parameters, velocity, running, x, labels[chosen].astype(np.int32), rate)
    return {n: np.asarray(p) for n, p in parameters.items()}, {n: np.asarray(r) for n, r in running.items()}


def vary(images: npt.NDArray[np.float32], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Images mirrored and shifted at random."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), constant_values=images.min())
    padded = np.where(random.integers(0, 2, len(images))[:, None, None], padded[..., ::-1], padded)
    n, height, width = images.shape
    down, right = random.integers(0, 5, (2, n, 1, 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    return padded[np.arange(n)[:, None, None], down + rows, right + columns]


def to_onnx(parameters: Values, running: Values, shape: tuple[int, int]) -> onnx.ModelProto:
    """The trained network as ``image (n, 1, height, width) -> logits (n, 10)``."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []

    def constant(name: str, array: Array) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def convolve(c: Conv, x: str) -> str:
        factor = parameters[f"{c.name}.gain"] / np.sqrt(running[f"{c.name}.variance"] + EPSILON)
        weight = constant(f"{c.name}.weight", (parameters[f"{c.name}.weight"] * factor).transpose(3, 2, 0, 1))
        bias = constant(f"{c.name}.bias", parameters[f"{c.name}.bias"] - running[f"{c.name}.mean"] * factor)
        pads = [c.size // 2] * 4
        return node("Conv", [x, weight, bias], f"{c.name}.out", strides=[c.stride] * 2, pads=pads)

    x = node("Relu", [convolve(STEM, "image")], "stem.relu")
    for i, b in enumerate(BLOCKS, 1):
        y = convolve(b.second, node("Relu", [convolve(b.first, x)], f"block{i}.relu"))
        x = node("Add", [y, convolve(b.shortcut, x) if b.shortcut else x], f"block{i}.sum")
        x = node("Relu", [x], f"block{i}.out")
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "features")
    weight, bias = constant("head.weight", parameters["head.weight"].T), constant("head.bias", parameters["head.bias"])
    node("Gemm", [x, weight, bias], "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, *shape])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", CLASSES])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
