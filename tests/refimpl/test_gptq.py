from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import layer, layers
from strategies import quantization_specs

from refimpl.errors import InvalidArgument
from refimpl.gptq import activation_order, gptq
from refimpl.hessian import damped, inverse_factor, output_error
from refimpl.quantization import QuantizationSpec, dequantize, quantization_scale, quantize, quantize_with

SPECS = [
    QuantizationSpec(bits, symmetric, granularity, 6 if granularity == "group" else 0)
    for bits in (2, 3, 4, 8)
    for symmetric in (True, False)
    for granularity in ("tensor", "channel", "group")
]
f32 = np.float32


def by_elimination(W, H, spec, static_groups=False):
    """GPTQ as the paper derives it: after each column the inverse Hessian loses it, all rows by one formula."""
    W = W.astype(np.float64)
    inverse, inputs = np.linalg.inv(damped(H)), W.shape[1]
    column = replace(spec, granularity="channel", group_size=0)
    scale, zero_point = quantization_scale(W.astype(f32), spec)
    size, back = spec.group_size or inputs, np.empty_like(W)
    for j in range(inputs):
        group = slice(j // size, j // size + 1)
        if spec.group_size and not static_groups and j % size == 0:
            scale[:, group], zero_point[:, group] = quantization_scale(W[:, j : j + size].astype(f32), column)
        codes = quantize_with(W[:, j : j + 1].astype(f32), scale[:, group], zero_point[:, group], column)
        back[:, j] = dequantize(codes)[:, 0]
        error = (W[:, j] - back[:, j]) / inverse[j, j]
        W[:, j + 1 :] -= np.outer(error, inverse[j, j + 1 :])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return back, scale


def mostly_equal(a, b):
    """A sum in another order may turn one rounding, and then all that follow it in its row."""
    return np.mean(np.isclose(a, b, rtol=1e-4, atol=1e-5).all(axis=1)) >= 0.9


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("static_groups", [False, True])
def test_it_does_what_the_derivation_does(spec, static_groups):
    W, H = layer(5, rows=20)
    result = gptq(W, inverse_factor(H), spec, static_groups=static_groups)
    back, scale = by_elimination(W, H, spec, static_groups)
    assert mostly_equal(result.reconstruction, back)
    assert result.quantized.scale.shape == scale.shape
    assert spec.granularity == "tensor" or mostly_equal(result.quantized.scale, scale)


@given(layers(), quantization_specs(), st.booleans())
def test_codes_scales_and_reconstruction_belong_together(drawn, spec, static_groups):
    W, H = drawn
    result = gptq(W, inverse_factor(H), spec, static_groups=static_groups)
    first, last = spec.code_range
    codes = result.quantized.codes
    assert codes.dtype == (np.int8 if spec.symmetric else np.uint8)
    assert first <= codes.min()
    assert codes.max() <= last
    assert np.array_equal(result.reconstruction, dequantize(result.quantized, spec.group_size))


@given(layers(), quantization_specs(), st.booleans())
def test_the_error_is_that_of_the_output(drawn, spec, static_groups):
    W, H = drawn
    result = gptq(W, inverse_factor(H), spec, static_groups=static_groups)
    expected = output_error(result.reconstruction.astype(np.float64) - W, damped(H))
    assert result.error == pytest.approx(expected, rel=1e-6, abs=1e-10 * output_error(W, damped(H)))


@given(layers(kinds=("diagonal",)), quantization_specs(), st.booleans())
def test_without_correlation_it_rounds_to_nearest(drawn, spec, static_groups):
    W, H = drawn
    result, expected = gptq(W, inverse_factor(H), spec, static_groups=static_groups), quantize(W, spec)
    assert np.array_equal(result.quantized.codes, expected.codes)
    assert np.array_equal(result.quantized.scale, expected.scale)
    assert np.array_equal(result.quantized.zero_point, expected.zero_point)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.bits < 8])
def test_on_average_the_error_is_smaller_than_that_of_rounding_to_nearest(spec):
    """Not always: a column's rounding can be luckier than what makes up for others."""
    ours = theirs = 0.0
    for seed in range(20):
        W, H = layer(seed)
        ours += gptq(W, inverse_factor(H), spec).error
        theirs += output_error(dequantize(quantize(W, spec), spec.group_size).astype(np.float64) - W, damped(H))
    assert ours < 0.9 * theirs


@pytest.mark.parametrize("spec", SPECS)
def test_blocks_do_not_matter_not_even_inside_groups(spec):
    W, H = layer(6, rows=20)
    U = inverse_factor(H)
    whole = gptq(W, U, spec)
    for block in (1, 4, 7, 12):
        assert mostly_equal(gptq(W, U, spec, block=block).reconstruction, whole.reconstruction)


def test_a_group_is_fitted_when_it_is_reached_a_static_one_before():
    W, H = layer(7)
    spec = QuantizationSpec(3, symmetric=False, granularity="group", group_size=8)
    original = quantization_scale(W, spec)[0]
    refitted, static = (gptq(W, inverse_factor(H), spec, static_groups=s).quantized.scale for s in (False, True))
    assert np.array_equal(static, original)
    assert np.array_equal(refitted[:, 0], original[:, 0])
    assert not np.isclose(refitted[:, 1:], original[:, 1:]).any()


def test_the_activation_order_is_descending_and_stable():
    assert activation_order(np.diag([1.0, 5.0, 5.0, 0.0, 9.0])).tolist() == [4, 1, 2, 0, 3]


@given(layers(), quantization_specs(), st.randoms(use_true_random=False))
def test_an_order_is_undone_at_the_end(drawn, spec, random):
    W, H = drawn
    order = np.array(random.sample(range(W.shape[1]), W.shape[1]))
    U = inverse_factor(H[np.ix_(order, order)])
    result = gptq(W, U, spec, order=order, static_groups=True)
    assert np.array_equal(result.quantized.scale, quantize(W, spec).scale)
    assert np.array_equal(result.reconstruction, dequantize(result.quantized, spec.group_size))
    expected = output_error(result.reconstruction.astype(np.float64) - W, damped(H))
    assert result.error == pytest.approx(expected, rel=1e-6, abs=1e-10 * output_error(W, damped(H)))
    if spec.granularity != "group":  # the scales do not tell columns apart: the same as a permuted weight
        permuted = gptq(W[:, order], U, spec)
        assert np.array_equal(result.quantized.codes[:, order], permuted.quantized.codes)
        assert result.error == permuted.error


def test_the_natural_order_is_no_order():
    W, H = layer(8)
    spec = QuantizationSpec(4, granularity="group", group_size=5)
    plain = gptq(W, inverse_factor(H), spec, static_groups=True)
    ordered = gptq(W, inverse_factor(H), spec, order=np.arange(24), static_groups=True)
    assert np.array_equal(plain.quantized.codes, ordered.quantized.codes)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3]])
def test_orders_that_are_no_permutations_are_refused(order):
    with pytest.raises(InvalidArgument, match="permutation"):
        gptq(np.ones((2, 3)), np.eye(3), QuantizationSpec(), order=np.array(order))


def test_groups_in_another_order_must_be_static():
    with pytest.raises(InvalidArgument, match="static"):
        gptq(np.ones((1, 2)), np.eye(2), QuantizationSpec(4, granularity="group", group_size=1), order=np.array([1, 0]))


def test_nan_is_refused():
    with pytest.raises(InvalidArgument, match="NaN"):
        gptq(np.array([[np.nan]]), np.eye(1), QuantizationSpec())
