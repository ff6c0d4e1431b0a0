import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import activation_maxima, weights

from refimpl.errors import InvalidArgument
from refimpl.quantization import QuantizationSpec, Quantized, dequantize, quantize
from refimpl.scaling import FLOOR, fold_into_scale, max_scale, scale_channels, unscale_activations

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
