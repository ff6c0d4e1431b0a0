"""Where the inverse of each channel scale goes: decided for all weights that read one value, and done.

A weight W (out, in) that is multiplied by s along its input channels wants its input X divided by s. There are three
places for that, and the report says which one a weight got:

``LayerNorm``, ``linear``  absorbed into the constants that make X (`onnx_export.absorb`)
``activations``            a Mul in front of the layers
``dequantization``         a scale for each input channel beside the codes

Only the last leaves each weight an exponent of its own; all others need one s for all weights that read X. What
stores the fewest bits, codes at their entropy, is taken. Where the activations are quantized too they have to be
divided themselves: the last is no choice then.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onnx_export.absorb import STANDARD, Graph, Sink, find_sink, read_graph
from onnx_export.recipes import WeightSettings
from onnx_export.references import MEMORY, Scratch, to_tensor
from onnx_export.rewrite import free_name, names_in
from onnx_export.tensors import Skipped, skip
from onnx_export.weights import Constant, along_axis, find_constants, to_matrix
from refimpl.activations import ActivationStatistics
from refimpl.errors import InvalidArgument
from refimpl.numerics import check_weight
from refimpl.pipeline import LayerSettings, undivided
from refimpl.pruning import linf_score, prune_mask
from refimpl.scaling import absorb, max_scale
from refimpl.search import SCALE_BITS, Choice, Searched, choose_exponent, choose_shared_exponent

Array = npt.NDArray[Any]
Statistics = Mapping[tuple[str, int], ActivationStatistics]
NODE_BITS = 8 * 128  # about what a Mul and its names take
MARGIN = 0.01  # of the layers' bits: what absorption by a linear layer has to save
READERS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Site:
    """Weights that read one value along its last axis, and nothing else."""

    value: str
    weights: tuple[Constant, ...]


@dataclass(frozen=True)
class Placed:
    """What was done for one weight: it is stored times s, and what it reads is divided by s."""

    where: str  # "LayerNorm", "linear" or "activations"
    exponent: float
    channel_scale: npt.NDArray[np.float32]  # (in,) s


@dataclass(frozen=True)
class Placement:
    """All that was done."""

    placed: Mapping[str, Placed] = field(default_factory=dict)  # by weight
    row_scales: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # weight -> (out,) what divides it
    added: tuple[Skipped, ...] = ()  # vectors that the graph has more than before
    scaled: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # weight -> axes along which it has factors


@dataclass(frozen=True)
class Known:
    """What is known of the weights of a model."""

    constants: Mapping[str, Constant]  # that will be compressed
    statistics: Statistics  # (value, axis) -> what calibration saw
    settings: WeightSettings


def place_scales(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    tied: Set[str],
    frozen: Set[str],
    statistics: Statistics,
    settings: WeightSettings,
    scratch: Scratch = MEMORY,
) -> Placement:
    """Scale weights and divide what they read, in place, wherever that stores less than scales beside the codes.

    Parameters
    ----------
    model : onnx.ModelProto
        Constants are changed, and nodes and vectors added.
    constants : sequence of Constant
        Float weights that will be compressed.
    tied : set of str
        Those that other tensors are equal to; they are left alone.
    frozen : set of str
        Constants that must stay as they are.
    statistics : mapping
        (value, axis) -> what calibration saw.
    settings : WeightSettings
    scratch : Scratch
        Where scaled weights are put.
    """
    graph = read_graph(model, frozen | tied)
    known = Known({c.name: c for c in constants}, statistics, settings)
    changed: dict[str, Array] = {}
    placed: dict[str, Placed] = {}
    row_scales: dict[str, npt.NDArray[np.float32]] = {}
    scaled: dict[str, tuple[int, ...]] = {}
    added: list[Skipped] = []
    for site in find_sites(model, constants, tied, graph):
        found, sink = choose_place(site, graph, known, placed.keys())
        if found is None:
            continue
        try:
            edits = scaled_constants(model, site, found, sink, known, changed)
        except InvalidArgument:  # beyond the dtype of a constant
            continue
        changed |= {name: scratch.keep(array) for name, array in edits.items()}
        if found.where == "activations":
            added.append(divide_in_front(model, site, found))
        placed |= {c.name: found for c in site.weights}
        scaled |= {c.name: (*scaled.get(c.name, ()), axis_of(c)) for c in site.weights}
        if sink is not None and sink.weight is not None:
            index = sink.edits[sink.weight]
            row_scales[sink.weight] = found.channel_scale[index.reshape(-1)]
            axis = edits[sink.weight].ndim - index.ndim + int(np.argmax(index.shape))
            scaled[sink.weight] = (*scaled.get(sink.weight, ()), axis)
    set_constants(model, changed)
    return Placement(placed, row_scales, tuple(added), scaled)


def find_sites(model: onnx.ModelProto, constants: Iterable[Constant], tied: Set[str], graph: Graph) -> list[Site]:
    """Groups of weights by the value that they read, in the order of the graph.

    Each weight must be read by one node, and be free to change.
    """
    groups: dict[str, list[Constant]] = {}
    for c in constants:
        if len(c.readers) != 1 or c.other_readers or c.name in tied or c.name not in graph.constants:
            continue
        (reader,) = c.readers
        if reader.op_type in READERS and reader.activation and reader.activation_axis == -1:
            groups.setdefault(reader.activation, []).append(c)
    order = {name: i for i, node in reversed(list(enumerate(model.graph.node))) for name in node.input}
    return sorted((Site(value, tuple(weights)) for value, weights in groups.items()), key=lambda s: order[s.value])


def choose_place(site: Site, graph: Graph, known: Known, placed: Set[str]) -> tuple[Placed | None, Sink | None]:
    """(where the inverse goes and what s is, the constants it goes into); None for dequantization or no scale."""
    settings, statistics = known.settings.layer, known.statistics.get((site.value, -1))
    if statistics is None or settings.target_sqnr_db is None or not all(c.array.any() for c in site.weights):
        return None, None
    layers = [searched(c.array, axis_of(c), statistics, known.settings.layer_of(c.name)) for c in site.weights]
    shared = choose_shared_exponent(layers, statistics, settings.aim(absorbed=True))
    exponent = shared[0].exponent
    s = max_scale(statistics.maximum, exponent)
    if (s == 1).all():
        return None, None
    sink = find_sink(graph, site.value, len(s), len(site.weights))
    costs: list[tuple[tuple[int, float], str]] = []
    if sink is not None:
        more = 0.0
        if sink.weight is not None:
            more = extra_bits(sink, s, known, placed)
            if settings.activation_bits is None:
                more += MARGIN * sum(c.bits for c in shared)
        costs.append((rank(shared, more), sink.kind))
    costs.append((rank(shared, SCALE_BITS * len(s) + NODE_BITS), "activations"))
    if settings.activation_bits is None:
        apart = [choose_exponent(layer, statistics, settings.aim()) for layer in layers]
        costs.append((rank(apart, 0.0), "dequantization"))
    _, where = min(costs, key=lambda c: c[0])
    if where == "dequantization":
        return None, None
    return Placed(where, exponent, s), sink if where != "activations" else None


def searched(
    array: Array,
    input_axis: int,
    statistics: ActivationStatistics,
    settings: LayerSettings,
    row_scale: npt.NDArray[np.float32] | None = None,
) -> Searched:
    """A weight as the search takes it: the matrix, and what pruning keeps."""
    W = check_weight(to_matrix(array, input_axis))
    if not settings.sparsity:
        return Searched(W, None, row_scale)
    mask = prune_mask(linf_score(undivided(W, row_scale), statistics.maximum), settings.sparsity)
    return Searched(W, ~mask, row_scale)


def rank(choices: Sequence[Choice], more: float) -> tuple[int, float]:
    """Layers that miss the target first, then bits."""
    return sum(not c.reached for c in choices), sum(c.bits for c in choices) + more


def extra_bits(sink: Sink, s: npt.NDArray[np.float32], known: Known, placed: Set[str]) -> float:
    """Bits that a linear layer takes more once its output channels are divided by s."""
    constant = known.constants.get(sink.weight or "")
    if constant is None or len(constant.readers) != 1 or constant.array.ndim != 2:
        return 0.0
    (reader,) = constant.readers
    axis, settings = axis_of(constant), known.settings.layer_of(constant.name)
    found = known.statistics.get((reader.activation or "", reader.activation_axis))
    statistics = found or ActivationStatistics.unknown(constant.array.shape[axis])
    index = sink.edits[constant.name]
    aim = settings.aim(absorbed=constant.name in placed)

    def bits(array: Array, row_scale: npt.NDArray[np.float32] | None) -> float:
        return choose_exponent(searched(array, axis, statistics, settings, row_scale), statistics, aim).bits

    divided = absorb(constant.array, s[index], inverse=True)
    return bits(divided, s[index.reshape(-1)]) - bits(constant.array, None)


def scaled_constants(
    model: onnx.ModelProto,
    site: Site,
    found: Placed,
    sink: Sink | None,
    known: Known,
    changed: Mapping[str, Array],
) -> dict[str, Array]:
    """The new values of all constants that one site changes.

    Raises
    ------
    InvalidArgument
        One is not finite in its dtype.
    """
    s = found.channel_scale
    edits = {}
    for c in site.weights:
        along = along_axis(s, c.array.ndim, axis_of(c))
        edits[c.name] = absorb(changed.get(c.name, c.array), along, inverse=False)
    if sink is None:
        return edits
    arrays = {name: c.array for name, c in known.constants.items()} | dict(changed)
    if sink.edits.keys() - arrays.keys():
        arrays |= {c.name: c.array for c in find_constants(model) if c.name not in arrays}
    return edits | {name: absorb(arrays[name], s[index], inverse=True) for name, index in sink.edits.items()}


def axis_of(constant: Constant) -> int:
    """Axis of the input channels, counted from the front."""
    assert constant.input_axis is not None, "tensors without input channels are skipped"
    return constant.input_axis % constant.array.ndim


def divide_in_front(model: onnx.ModelProto, site: Site, found: Placed) -> Skipped:
    """Put a Mul by 1 / s in front of the layers of a site, in place; the line of its vector."""
    graph = model.graph
    taken = names_in(graph)
    name, value = free_name(f"{site.value}.inverse_scale", taken), free_name(f"{site.value}.scaled", taken)
    ones = np.ones(len(found.channel_scale), site.weights[0].array.dtype)
    inverse = absorb(ones, found.channel_scale, inverse=True)
    graph.initializer.append(numpy_helper.from_array(inverse, name))
    nodes = layers_of(graph, site)
    for node, i in nodes:
        node.input[i] = value
    first = next(i for i, node in enumerate(graph.node) if any(node is n for n, _ in nodes))
    graph.node.insert(first, helper.make_node("Mul", [site.value, name], [value], name=value))
    return replace(skip(name, inverse, "a channel scale on activations"), inserted=True)


def layers_of(graph: onnx.GraphProto, site: Site) -> list[tuple[onnx.NodeProto, int]]:
    """(node, index of the input that is the site's value) of the layers of a site."""
    names = {c.name for c in site.weights}
    found = []
    for node in graph.node:
        if node.domain in STANDARD and node.op_type in ("Transpose", "Cast", "Identity") and node.input[0] in names:
            names.add(node.output[0])
        elif node.op_type in READERS and len(names.intersection(node.input[:2])) == 1:
            found += [(node, i) for i, name in enumerate(node.input[:2]) if name == site.value]
    return found


def set_constants(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> None:
    """Give constants new values, in place."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(to_tensor(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in arrays:
            for attribute in node.attribute:
                if attribute.name == "value":
                    attribute.t.CopyFrom(to_tensor(np.ascontiguousarray(arrays[node.output[0]]), ""))


def with_new_arrays(model: onnx.ModelProto, constants: Sequence[Constant]) -> list[Constant]:
    """The constants with the values that the model has now."""
    arrays = {c.name: c.array for c in find_constants(model)}
    return [replace(c, array=arrays[c.name]) for c in constants]
