import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import weights

from codec.frame import Frame
from codec.kernels import NUMBA
from codec.tensor import DTYPES, fits, load, load_symbols, store_integers, store_weight
from refimpl.activations import ActivationStatistics
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded
from refimpl.pipeline import LayerSettings, quantize_layer
from refimpl.quantization import QuantizationSpec, quantize
from refimpl.tans.blocks import Block
from refimpl.tans.stream import NUMPY

INTEGER_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)


@pytest.mark.parametrize("dtype", INTEGER_RANGES)
@given(data=st.data(), shape=shapes)
def test_integers_come_back_without_loss(dtype, data, shape):
    low, high = INTEGER_RANGES[dtype]
    values = data.draw(hnp.arrays(np.int16, shape, elements=st.integers(low, high))).astype(DTYPES[dtype])
    stored = store_integers(values, fraction=data.draw(st.sampled_from([1.0, 0.5])))
    for kernels in (NUMPY, NUMBA):
        back = load(stored, kernels=kernels)
        assert back.dtype == values.dtype
        assert back.shape == values.shape
        assert np.array_equal(back.astype(np.int16), values.astype(np.int16))


@pytest.mark.parametrize("dtype", ["int16", "float32", "bool"])
def test_other_types_are_not_stored_as_integers(dtype):
    with pytest.raises(InvalidArgument, match=dtype):
        store_integers(np.zeros(3, dtype))


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
@given(weight=weights(largest=1000.0), bits=st.integers(2, 8), symmetric=st.booleans())
def test_weights_are_dequantized_in_float32_and_rounded_once_more(dtype, kind, weight, bits, symmetric):
    result = quantize(weight, QuantizationSpec(bits, symmetric, "channel"))
    symbols = (result.codes.astype(np.int16) + (128 if symmetric else 0)).astype(np.uint8)
    zero_point = result.zero_point + np.uint8(128 if symmetric else 0)
    back = load(store_weight(symbols, zero_point, result.scale, dtype))
    exact = (symbols.astype(np.float32) - zero_point.astype(np.float32)) * result.scale
    assert back.dtype == kind
    assert np.array_equal(back, exact.astype(kind))


@given(weights(largest=2.0**20, max_side=20), st.integers(2, 8))
def test_a_layer_of_the_pipeline_loads_as_its_reconstruction(weight, bits):
    layer = quantize_layer(weight, ActivationStatistics.unknown(weight.shape[1]), LayerSettings(bits=bits))
    stored = store_weight(layer.symbols, np.uint8(layer.zero_point).reshape(()), layer.folded_scale, "float32")
    assert np.array_equal(load(stored), layer.reconstruction)
    assert np.array_equal(load_symbols(stored), layer.symbols)


def test_weights_of_an_integer_type_are_refused():
    with pytest.raises(InvalidArgument, match="int8"):
        store_weight(np.zeros((2, 2), np.uint8), np.zeros((), np.uint8), np.ones(()), "int8")


def test_stored_bytes_count_scales_and_zero_points():
    symbols = np.tile(np.array([0, 1, 1, 2], np.uint8), 500).reshape(20, 100)
    stored = store_weight(symbols, np.zeros((20, 1), np.uint8), np.ones((20, 1), np.float32), "float32")
    assert stored.stored_bytes == -(-stored.frame.block.stored_bits // 8) + 20 + 80
    assert stored.payload_bytes * 8 == stored.frame.block.payload_bits


@given(shapes, shapes)
def test_fitting_is_broadcasting_to_exactly_the_shape(small, shape):
    try:
        expected = np.broadcast_shapes(small, shape) == shape
    except ValueError:
        expected = False
    assert fits(small, shape) == expected


integers = store_integers(np.array([[1, 2, 3], [4, 5, 250]], np.uint8))
weight = store_weight(np.ones((2, 3), np.uint8), np.zeros((), np.uint8), np.ones((1, 3), np.float32), "float32")


@pytest.mark.parametrize(
    ("stored", "change"),
    [
        (integers, {"shape": (7,)}),
        (integers, {"shape": ()}),
        (integers, {"shape": (-2, -3)}),
        (integers, {"shape": (-6,)}),
        (integers, {"zero_point": np.zeros(4, np.uint8)}),
        (weight, {"shape": (3, 2)}),
        (weight, {"scale": np.ones((2, 2, 3), np.float32)}),
        (weight, {"zero_point": np.zeros((3, 1), np.uint8)}),
    ],
)
def test_parts_that_do_not_fit_the_shape_are_corrupt(stored, change):
    with pytest.raises(Corrupt):
        load(dataclasses.replace(stored, **change))


def test_an_integer_zero_point_may_be_broadcast():
    stored = dataclasses.replace(integers, zero_point=np.array([1, 2, 3], np.uint8))
    assert load(stored).tolist() == [[0, 0, 0], [3, 3, 247]]


@pytest.mark.parametrize(
    ("dtype", "symbol", "zero_point"),
    [("int8", 128, 0), ("int8", 0, 129), ("uint8", 0, 1), ("int4", 8, 0), ("int4", 0, 9), ("uint4", 16, 0)],
)
def test_symbols_of_no_value_of_the_type_are_corrupt(dtype, symbol, zero_point):
    stored = store_integers(np.array([symbol], np.uint8))
    with pytest.raises(Corrupt, match=dtype):
        load(dataclasses.replace(stored, dtype=dtype, zero_point=np.array(zero_point, np.uint8)))


@pytest.mark.parametrize("template", [integers, weight], ids=["integers", "weight"])
def test_a_claim_that_no_memory_holds_exceeds_the_limit(template):
    constant = Frame(Block("constant", 2**60, np.zeros(1, np.uint8)), 0)
    parts = {"zero_point": np.zeros((), np.uint8), "scale": None if template.scale is None else np.ones((), np.float32)}
    with pytest.raises(LimitExceeded):
        load(dataclasses.replace(template, shape=(2**30, 2**30), frame=constant, **parts))


def test_a_scale_that_is_no_number_gives_values_without_a_warning():
    symbols = np.array([[0, 1, 2]], np.uint8)
    stored = store_weight(symbols, np.array(1, np.uint8), np.array([[np.nan, np.inf, 3e38]], np.float32), "float32")
    assert np.isnan(load(stored)[0, :2]).all()
    assert load(stored)[0, 2] == np.float32(3e38)
