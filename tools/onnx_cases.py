"""The ONNX functions as cases in the layout of onnx's own backend tests.

``onnx/NAME/model.onnx`` is one call whose inputs are the graph's; ``test_data_set_0`` holds them and the
output as TensorProtos. The model brings the functions' bodies, so any runtime runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from drafts import BINOMIAL, BYTES, HALVES, NIBBLES, SPARSE, Array, symbols, weights
from invalid_frames import coded, framed, packed, partial
from onnx import helper, numpy_helper

from codec.frame import read_frame
from codec.tensor import Stored, StoredTensor, load, make_banded, split_bands, store_integers, store_weight
from conformance.vectors import DTYPES
from onnx_export.calls import ELEMENT_TYPES, write_call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from refimpl.tans.blocks import Block, Chunks
from refimpl.tans.nibbles import unpack_nibbles
from refimpl.tans.stream import NUMPY

OUTPUT = "value"


@dataclass(frozen=True)
class OnnxCase:
    """One folder."""

    name: str
    model: bytes
    inputs: dict[str, bytes]  # TensorProtos by the names of the graph's inputs
    output: bytes
    arrays: dict[str, Array]  # what they hold
    expected: Array


def onnx_cases() -> Iterator[OnnxCase]:
    """A case for each function, with several shapes, types and opsets."""
    for name, stored, opset in stored_tensors():
        yield onnx_case(name, stored, opset)


def stored_tensors() -> Iterator[tuple[str, Stored, int]]:
    """(name, tensor, opset)."""
    content = symbols(HALVES, 600, seed=21).array().reshape(20, 30)
    scale = np.abs(weights(1, 30, -12, seed=22).array()) + np.float32(2.0**-12)
    zero = np.array(2, np.uint8)
    one = np.array([0.125], np.float32)

    def weight(data: bytes, shape: tuple[int, ...], by: Array = one, dtype: str = "float32") -> StoredTensor:
        return StoredTensor(shape, dtype, read_frame(data), zero, by)

    flat = content.reshape(-1)
    few = np.minimum(flat, 2)
    rare = symbols(SPARSE, 1000, seed=23).array()
    pairs = unpack_nibbles(rare)
    cut = Chunks(16, 4, 3)
    yield "coded", weight(coded(flat, lane_count=4, table_log=12), (20, 30), scale), 21
    yield "classes-float16", weight(coded(rare, lane_count=8, table_log=5), (1000,), one, "float16"), 21
    yield "packed-bfloat16", weight(packed(few, lane_count=300), (20, 30), scale, "bfloat16"), 21
    yield "classes-packed", weight(packed(pairs, lane_count=4, table_log=5), (40, 50), one, "float16"), 21
    yield "partial-one-lane-opset-11", weight(partial(flat, cut, lane_count=1), (5, 4, 30), scale), 11
    yield "partial-packed", weight(partial(few, cut, packed=True, lane_count=4), (20, 30), scale), 21
    yield "partial-classes", weight(partial(rare, cut, lane_count=4, table_log=5), (20, 50)), 21
    yield (
        "partial-classes-packed",
        weight(partial(pairs, cut, packed=True, lane_count=4, table_log=5), (40, 50), one, "float16"),
        21,
    )
    uniform = symbols(BYTES, 600, seed=24).array().reshape(20, 30)
    yield "raw", weight(framed(Block("raw", 600, uniform.reshape(-1)), uniform), (20, 30), scale), 21
    nibbles = symbols(NIBBLES, 600, seed=25).array().reshape(20, 30)
    yield "raw-packed", store_weight(nibbles, zero, scale, "float32", kernels=NUMPY), 21
    yield "constant", store_weight(content * 0, zero, scale, "float32", kernels=NUMPY), 21
    signed = symbols(BINOMIAL[:12], 1200, seed=26).array().astype(np.int8).reshape(3, 20, 20) - np.int8(8)
    yield "integer-int8", store_integers(signed, kernels=NUMPY), 21
    bands = (np.arange(30) * 2 % 5 % 3).astype(np.uint8)
    every = zip(split_bands(content, 1, bands), split_bands(scale, 1, bands), strict=True)
    parts = [store_weight(part, zero, by, "float16", kernels=NUMPY) for part, by in every]
    yield "bands-float16", make_banded(1, bands, parts), 21
    yield "partial-integer-uint8", store_integers(few.reshape(20, 30) * 9, fraction=0.5, kernels=NUMPY), 21
    bands = np.array([3, 8, 0, 1, 2, 4, 7, 5, 6, 0, 8], np.uint8)
    nine = enumerate(split_bands(flat[:66].reshape(2, 11, 3), 1, bands))
    parts = [store_weight(part, zero, one * (g + 1), "float32", kernels=NUMPY) for g, part in nine]
    yield "bands-9-of-rank-3", make_banded(1, bands, parts), 21


def onnx_case(name: str, stored: Stored, opset: int) -> OnnxCase:
    """The call of a stored tensor, or the nodes of one in bands, as a model of its own."""
    call = write_call(OUTPUT, stored)
    named = []
    for tensor in call.inputs:
        tensor.name = tensor.name.removeprefix(f"{OUTPUT}.")
        named.append(tensor)
    for node in call.nodes:
        node.input[:] = [name.removeprefix(f"{OUTPUT}.") for name in node.input]
    for node in call.before:
        node.output[:] = [name.removeprefix(f"{OUTPUT}.") for name in node.output]
    for value in call.values:
        value.name = value.name.removeprefix(f"{OUTPUT}.")
    graph = helper.make_graph(
        call.nodes,
        name,
        [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in named],
        [helper.make_tensor_value_info(OUTPUT, ELEMENT_TYPES[stored.dtype], list(stored.shape))],
        value_info=call.values,
    )
    model = helper.make_model(
        graph, functions=functions(call.functions, opset), ir_version=8 if opset < 21 else 10,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
    )  # fmt: skip
    expected = values_of(stored)
    output = numpy_helper.from_array(expected, OUTPUT)
    return OnnxCase(
        name,
        serialized(model),
        {t.name: serialized(t) for t in named},
        serialized(output),
        {t.name: numpy_helper.to_array(t) for t in named},
        expected,
    )


def values_of(stored: Stored) -> Array:
    """What the call gives."""
    values = load(stored, kernels=NUMPY)
    assert values.dtype.name in DTYPES, values.dtype
    return values


def serialized(message: Any) -> bytes:
    """A protobuf's bytes, always the same."""
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def raw_offset(data: bytes) -> int:
    """Where the elements of a serialized TensorProto begin: they are its last field."""
    raw = onnx.TensorProto.FromString(data).raw_data
    assert data.endswith(raw)
    return len(data) - len(raw)
