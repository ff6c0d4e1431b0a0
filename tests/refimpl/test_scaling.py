import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layers import layer
from strategies import activation_maxima, weights

from refimpl.errors import InvalidArgument
from refimpl.hessian import output_error
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantize
from refimpl.scaling import (
    FLOOR,
    absorb,
    awq_scale,
    fold_into_scale,
    max_scale,
    scale_channels,
    search_awq,
    smoothquant_scale,
    unscale_activations,
)

exponents = st.floats(0, 2)
maxima = st.integers(1, 8).flatmap(activation_maxima)


@given(maxima)
def test_exponent_zero_is_ones(a):
    assert max_scale(a, 0.0).tolist() == [1.0] * len(a)


@given(maxima, exponents)
def test_scales_are_finite_positive_and_balanced_around_one(a, exponent):
    s = max_scale(a, exponent).astype(np.float64)
    assert s.shape == a.shape
    assert (s > 0).all()
    assert s.max() * s.min() == pytest.approx(1, rel=1e-6)


@given(maxima, exponents)
def test_louder_channels_never_have_a_smaller_scale(a, exponent):
    order = np.argsort(a, kind="stable")
    assert (np.diff(max_scale(a, exponent)[order]) >= 0).all()


@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(1, 1000)), exponents)
def test_scales_have_the_ratios_of_the_powers(a, exponent):
    s = max_scale(a, exponent).astype(np.float64)
    assert np.allclose(s / s[0], (a / a[0]) ** exponent, rtol=1e-6)


@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(1, 1000)), exponents, st.integers(-900, 900))
def test_the_unit_of_the_activations_does_not_matter(a, exponent, power):
    assert np.allclose(max_scale(a, exponent), max_scale(a * 2.0**power, exponent), rtol=1e-6)


@given(maxima, exponents)
def test_silent_channels_count_as_the_floor(a, exponent):
    floored = np.maximum(a, a.max() * FLOOR)
    assert np.allclose(max_scale(a, exponent), max_scale(floored, exponent), rtol=1e-6)
    if a.max() > 1e-300:
        assert max_scale(np.append(a, 0), 1.0)[-1] == pytest.approx(2.0**-5, rel=1e-6)  # sqrt of the floor


def test_no_channel_and_no_activity():
    assert max_scale(np.empty(0), 1.0).shape == (0,)
    assert max_scale(np.zeros(3), 1.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("a", [[-1.0], [np.nan], [np.inf], [[1.0]]])
def test_impossible_maxima_are_refused(a):
    with pytest.raises(InvalidArgument):
        max_scale(np.array(a), 0.5)


@pytest.mark.parametrize("exponent", [-0.1, 2.1, np.nan])
def test_exponents_out_of_range_are_refused(exponent):
    with pytest.raises(InvalidArgument, match="exponent"):
        max_scale(np.ones(2), exponent)


@given(st.data(), st.integers(1, 8), exponents)
def test_scaling_both_sides_keeps_the_product(data, inputs, exponent):
    numbers = st.floats(-8, 8, width=32)
    weight = data.draw(hnp.arrays(np.float32, (3, inputs), elements=numbers))
    x = data.draw(hnp.arrays(np.float32, (4, inputs), elements=numbers))
    s = max_scale(data.draw(activation_maxima(inputs)), exponent)
    double = (unscale_activations(x.astype(np.float64), s.astype(np.float64)), scale_channels(weight, s.astype(float)))
    assert np.allclose(double[0] @ double[1].T, x.astype(float) @ weight.astype(float).T, rtol=1e-12, atol=1e-10)
    single = (unscale_activations(x, s).astype(float), scale_channels(weight, s).astype(float))
    assert np.allclose(single[0] @ single[1].T, x.astype(float) @ weight.astype(float).T, rtol=1e-5, atol=1e-4)


@given(weights(largest=2.0**20), st.data())
def test_folding_the_inverse_into_the_scale_equals_dequantizing_and_dividing(weight, data):
    s = max_scale(data.draw(activation_maxima(weight.shape[1])), data.draw(exponents))
    granularity = data.draw(st.sampled_from(["tensor", "channel"]))
    quantized = quantize(scale_channels(weight, s), QuantizationSpec(bits=5, granularity=granularity))
    folded = fold_into_scale(quantized.scale, s)
    assert folded.dtype == np.float32
    at_once = dequantize(Quantized(quantized.codes, folded, np.zeros((1, 1), np.uint8))).astype(np.float64)
    apart = unscale_activations(dequantize(quantized), s).astype(np.float64)
    # two float32 roundings on either side; below the normal numbers they are absolute
    assert np.allclose(at_once, apart, rtol=2.0**-22, atol=2.0**-120)


@given(st.integers(1, 6), st.data(), st.floats(0, 1))
def test_smoothquant_splits_the_ranges_by_alpha(inputs, data, alpha):
    a = data.draw(hnp.arrays(np.float64, inputs, elements=st.floats(0.01, 1000)))
    weight = data.draw(hnp.arrays(np.float32, (3, inputs), elements=st.floats(0.0625, 1024, width=32)))
    s = smoothquant_scale(a, weight, alpha).astype(np.float64)
    w = weight.max(axis=0)
    assert np.allclose(w * s, a**alpha * w**alpha, rtol=1e-6)  # what the quantizer of the weights sees
    assert np.allclose(a / s, (a * w) ** (1 - alpha), rtol=1e-6)  # and that of the activations


def test_smoothquants_floors():
    s = smoothquant_scale(np.array([0.0, 4.0, 4.0]), np.array([[1.0, 0.0, -1e-9]]), 0.5)
    assert np.allclose(s, [1e-5, 2 / np.sqrt(1e-5), 2 / np.sqrt(1e-5)], rtol=1e-6)


def test_layers_that_share_an_input_share_smoothquants_scale():
    one, other = np.array([[1.0, -8.0]]), np.array([[-2.0, 4.0]])
    together = smoothquant_scale(np.ones(2), np.vstack([one, other]))
    assert together.tolist() == smoothquant_scale(np.ones(2), np.array([[2.0, 8.0]])).tolist()


@given(maxima, st.floats(0, 1))
def test_awqs_scales_are_finite_positive_and_balanced_around_one(a, ratio):
    s = awq_scale(a, ratio).astype(np.float64)
    assert s.shape == a.shape
    assert (s > 0).all()
    assert s.max() * s.min() == pytest.approx(1, rel=1e-6)


@given(maxima)
def test_awqs_ratio_zero_is_ones(a):
    assert awq_scale(a, 0.0).tolist() == [1.0] * len(a)


def test_awq_without_channels():
    assert awq_scale(np.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize("bits", [3, 4])
@given(seed=st.integers(0, 1000), group=st.sampled_from([0, 8]))
def test_awq_is_never_worse_than_rounding_to_nearest(bits, seed, group):
    W, H = layer(seed, kind="dead and loud")
    spec = QuantizationSpec(bits, symmetric=False, granularity="group" if group else "channel", group_size=group)
    found = search_awq(W, np.sqrt(np.diagonal(H)), H, spec)
    nearest = dequantize(quantize(W, spec), group)
    assert found.error == pytest.approx(output_error(found.reconstruction.astype(np.float64) - W, H), rel=1e-9)
    assert found.error <= output_error(nearest.astype(np.float64) - W, H)


def test_awq_takes_the_best_ratio_and_the_first_of_equals():
    W, H = layer(3, kind="dead and loud")
    spec, mean = QuantizationSpec(3, granularity="channel"), np.sqrt(np.diagonal(H))
    errors = {r: search_awq(W, mean, H, spec, (r,)).error for r in (0.0, 0.5, 0.9)}
    found = search_awq(W, mean, H, spec, tuple(errors))
    assert found.ratio == min(errors, key=errors.get)
    assert search_awq(np.zeros((1, 2)), np.ones(2), np.eye(2), spec).ratio == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: smoothquant_scale(np.ones(3), np.ones((1, 2))),
        lambda: smoothquant_scale(np.ones(2), np.ones((1, 2)), 1.1),
        lambda: smoothquant_scale(np.array([-1.0]), np.ones((1, 1))),
        lambda: awq_scale(np.ones(2), -0.1),
        lambda: awq_scale(np.array([np.nan]), 0.5),
        lambda: search_awq(np.ones((1, 1)), np.ones(1), np.eye(1), QuantizationSpec(), ()),
    ],
)
def test_impossible_arguments_of_scales_are_refused(call):
    with pytest.raises(InvalidArgument):
        call()


@given(
    st.sampled_from([np.float16, np.float32]),
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    hnp.arrays(np.float32, st.sampled_from([(4,), (1, 4), (3, 1), (1,), ()]), elements=st.floats(0.0625, 16, width=32)),
)
def test_absorbing_is_one_float32_operation_rounded_once(dtype, array, s):
    array = array.astype(dtype)
    scaled, divided = absorb(array, s, inverse=False), absorb(array, s, inverse=True)
    assert scaled.dtype == divided.dtype == dtype
    assert np.array_equal(scaled, (array.astype(np.float32) * s).astype(dtype))
    assert np.array_equal(divided, (array.astype(np.float32) / s).astype(dtype))


@given(weights(largest=2.0**20, max_side=6), st.data())
def test_a_scale_and_its_absorbed_inverse_cancel(weight, data):
    s = max_scale(data.draw(activation_maxima(weight.shape[1])), data.draw(exponents))
    x = np.random.default_rng(0).standard_normal((5, weight.shape[1])).astype(np.float32)
    product = absorb(x, s, inverse=True) @ absorb(weight, s, inverse=False).T
    size = np.abs(x) @ np.abs(weight).T
    assert (np.abs(product - x @ weight.T) <= 1e-5 * size + 1e-30).all()


def test_scales_that_broaden_or_overflow_are_refused():
    with pytest.raises(InvalidArgument):
        absorb(np.ones(3, np.float32), np.ones((2, 3), np.float32), inverse=False)
    with pytest.raises(InvalidArgument):
        absorb(np.ones(3, np.float32), np.ones(4, np.float32), inverse=False)
    with pytest.raises(InvalidArgument, match="float16"):
        absorb(np.full(2, 60_000, np.float16), np.full(2, 2, np.float32), inverse=False)
