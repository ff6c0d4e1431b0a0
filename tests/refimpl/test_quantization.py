import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import LARGEST, quantization_specs, weights

from refimpl.errors import InvalidArgument
from refimpl.quantization import (
    QuantizationSpec,
    dequantize,
    expand_groups,
    quantization_scale,
    quantize,
    quantize_with,
    value_range,
)

SPECS = [
    QuantizationSpec(bits, symmetric, granularity, 5 if granularity == "group" else 0)
    for bits in range(2, 9)
    for symmetric in (True, False)
    for granularity in ("tensor", "channel", "group")
]
f32 = np.float32


def blocks(weight, spec):
    """The parts of the weight that share a scale, with the scale's index."""
    rows, inputs = weight.shape
    if spec.granularity == "tensor":
        return {(0, 0): np.s_[:, :]}
    size = spec.group_size or inputs
    return {(i, g): np.s_[i : i + 1, g * size : (g + 1) * size] for i in range(rows) for g in range(-(-inputs // size))}


@pytest.mark.parametrize("spec", SPECS)
def test_each_block_is_quantized_by_the_formula(spec):
    weight = np.random.default_rng(1).standard_normal((7, 13)).astype(f32)  # groups of 5, 5 and 3
    result = quantize(weight, spec)
    parts = blocks(weight, spec)
    assert result.scale.shape == tuple(np.max(list(parts), axis=0) + 1)
    for index, part in parts.items():
        values = weight[part]
        low, high = min(f32(0), values.min()), max(f32(0), values.max())
        if spec.symmetric:
            scale, zero = max(-low, high) / f32(2 ** (spec.bits - 1) - 1), 0
        else:
            scale = (high - low) / f32(2**spec.bits - 1)
            zero = int(np.rint(-low / scale))
        assert result.scale[index] == scale
        assert result.zero_point[index] == zero
        codes = [min(max(round(float(w / scale)) + zero, spec.code_range[0]), spec.code_range[1]) for w in values.flat]
        assert result.codes[part].reshape(-1).tolist() == codes


@given(weights(largest=2.0**126), quantization_specs())
def test_codes_scales_and_zero_points_stay_in_their_range(weight, spec):
    result = quantize(weight, spec)
    first, last = spec.code_range
    assert first <= result.codes.min()
    assert result.codes.max() <= last
    assert result.codes.dtype == (np.int8 if spec.symmetric else np.uint8)
    assert result.scale.dtype == f32
    assert np.isfinite(result.scale).all()
    assert (result.scale >= 2.0**-126).all()
    assert result.zero_point.shape == result.scale.shape
    assert result.zero_point.max() <= max(last, 0)
    if spec.symmetric:
        assert not result.zero_point.any()


@given(weights(largest=2.0**126), quantization_specs())
def test_weights_come_back_to_half_a_step(weight, spec):
    result = quantize(weight, spec)
    scale = expand_groups(result.scale, weight.shape[1], spec.group_size).astype(np.float64)
    low, high = value_range(weight, spec)
    span = expand_groups(high - low, weight.shape[1], spec.group_size)
    error = np.abs(weight.astype(np.float64) - dequantize(result, spec.group_size))
    # the range, the scale, the quotient and the product are each rounded to float32
    assert (error <= scale / 2 + 2 * np.spacing(span).astype(np.float64)).all()


@given(weights(largest=LARGEST), quantization_specs(symmetric=True))
@example(np.array([[LARGEST, -LARGEST, 1]], f32), QuantizationSpec(6))
@example(np.array([[LARGEST, -LARGEST, 1]], f32), QuantizationSpec(8))
def test_the_largest_floats_survive_symmetric_quantization(weight, spec):
    result = quantize(weight, spec)
    back = dequantize(result, spec.group_size).astype(np.float64)
    scale = expand_groups(result.scale, weight.shape[1], spec.group_size).astype(np.float64)
    assert np.isfinite(back).all()
    assert (np.abs(weight - back) <= scale * 0.5001).all()


@given(weights(largest=LARGEST), quantization_specs(symmetric=False))
def test_any_finite_weight_has_asymmetric_codes(weight, spec):
    result = quantize(weight, spec)
    assert np.isfinite(result.scale).all()
    assert (result.scale > 0).all()


@given(weights(), quantization_specs())
def test_zero_is_kept_exactly(weight, spec):
    weight[0, 0] = 0
    weight[-1, -1] = -0.0
    back = dequantize(quantize(weight, spec), spec.group_size)
    assert back[0, 0] == back[-1, -1] == 0
    assert not back[weight == 0].any()


@given(weights(), quantization_specs(symmetric=True))
def test_symmetric_quantization_is_odd(weight, spec):
    there, back = quantize(weight, spec), quantize(-weight, spec)
    assert np.array_equal(there.codes, -back.codes)
    assert np.array_equal(there.scale, back.scale)


@given(weights(), quantization_specs())
def test_codes_keep_the_order_of_the_weights(weight, spec):
    result = quantize(weight, spec)
    for part in blocks(weight, spec).values():
        order = np.argsort(weight[part], axis=None)
        assert (np.diff(result.codes[part].reshape(-1)[order].astype(int)) >= 0).all()


@given(weights(largest=2.0**100), quantization_specs(), st.integers(-20, 20))
def test_a_power_of_two_moves_the_scale_only(weight, spec, power):
    weight = np.where(np.abs(weight) < 2.0**-60, f32(0), weight)  # away from the smallest scale
    there, back = quantize(weight, spec), quantize(weight * f32(2.0**power), spec)
    assert np.array_equal(there.codes, back.codes)
    assert np.array_equal(there.zero_point, back.zero_point)


@given(quantization_specs(), st.sampled_from([0.0, -0.0]))
def test_all_zero_weights_have_scale_one_and_no_zero_point(spec, zero):
    result = quantize(np.full((2, 3), zero, f32), spec)
    assert (result.scale == 1).all()
    assert not result.zero_point.any()
    assert not result.codes.any()


@given(quantization_specs())
def test_subnormal_weights_do_not_divide_by_a_subnormal_scale(spec):
    result = quantize(np.array([[1e-45, -1e-40, 0]], f32), spec)
    assert (result.scale[result.scale < 1] == f32(2.0**-126)).all()
    assert not dequantize(result, spec.group_size).any()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@given(spec=quantization_specs())
def test_empty_weights_quantize_to_nothing(shape, spec):
    result = quantize(np.zeros(shape, f32), spec)
    assert result.codes.shape == shape
    assert dequantize(result, spec.group_size).shape == shape


@given(weights(), quantization_specs())
def test_other_float_types_are_computed_in_float32(weight, spec):
    as_float64 = quantize(weight.astype(np.float64), spec)
    assert np.array_equal(as_float64.codes, quantize(weight, spec).codes)


@given(weights(), quantization_specs())
def test_quantize_is_its_two_steps(weight, spec):
    result = quantize(weight, spec)
    again = quantize_with(weight, *quantization_scale(weight, spec), spec)
    assert np.array_equal(result.codes, again.codes)


@given(weights(largest=2.0**20), st.floats(2.0**-10, 2.0**10, width=32), st.integers(2, 8))
def test_a_given_scale_clips_what_is_out_of_range(weight, step, bits):
    spec = QuantizationSpec(bits=bits)
    codes = quantize_with(weight, np.full((1, 1), step, f32), np.zeros((1, 1), np.uint8), spec).codes
    expected = np.clip(np.rint(weight / f32(step)), *spec.code_range)
    assert np.array_equal(codes, expected)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_expanded_groups_repeat_each_column(inputs, size, rows):
    per_group = np.arange(rows * -(-inputs // size)).reshape(rows, -1)
    expanded = expand_groups(per_group, inputs, size)
    assert expanded.shape == (rows, inputs)
    assert all(expanded[i, j] == per_group[i, j // size] for i in range(rows) for j in range(inputs))


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 1},
        {"bits": 9},
        {"granularity": "row"},
        {"granularity": "group"},
        {"group_size": 4},
        {"granularity": "group", "group_size": -1},
    ],
)
def test_impossible_specs_are_refused(fields):
    with pytest.raises(InvalidArgument):
        QuantizationSpec(**fields)


@pytest.mark.parametrize("bits", range(2, 9))
def test_code_ranges(bits):
    assert QuantizationSpec(bits).code_range == (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    assert QuantizationSpec(bits, symmetric=False).code_range == (0, 2**bits - 1)


@pytest.mark.parametrize("weight", [np.ones(3), np.ones((1, 2, 3)), np.array([[np.nan]]), np.array([[np.inf]])])
def test_weights_of_other_ranks_or_not_finite_are_refused(weight):
    with pytest.raises(InvalidArgument):
        quantize(weight, QuantizationSpec())
