import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import rng, seeds

from refimpl.activations import (
    ActivationStatistics,
    activation_grid,
    integer_linear,
    quantize_activations,
    rounding_noise,
)
from refimpl.errors import InvalidArgument

f32 = np.float32
ends = st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2).map(lambda two: sorted(x + 0.0 for x in two))


@given(ends)
def test_the_grid_holds_zero_and_the_whole_range(ends):
    scale, zero_point = activation_grid(*ends)
    low, high = min(ends[0], 0), max(ends[1], 0)
    assert scale.dtype == f32
    assert zero_point.dtype == np.uint8
    assert scale > 0
    first, last = (0 - int(zero_point)) * float(scale), (255 - int(zero_point)) * float(scale)
    assert first <= low + 0.51 * scale
    assert last >= high - 0.51 * scale
    assert quantize_activations(np.zeros(1, f32), scale, zero_point)[0] == zero_point


@given(ends, seeds)
def test_what_calibration_saw_comes_back_within_half_a_step(ends, seed):
    scale, zero_point = activation_grid(*ends)
    x = rng(seed).uniform(*ends, 50).astype(f32)
    codes = quantize_activations(x, scale, zero_point)
    back = (codes.astype(np.float64) - float(zero_point)) * float(scale)
    assert (np.abs(back - x) <= 1.01 * float(scale) * (0.5 + 0.5 * ((codes == 0) | (codes == 255)))).all()


@pytest.mark.parametrize("ends", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0)])
def test_what_is_no_range_is_refused(ends):
    with pytest.raises(InvalidArgument):
        activation_grid(*ends)


def test_edges():
    assert activation_grid(0.0, 0.0) == (1, 0)
    assert activation_grid(-2.55, -1.0) == (f32(2.55) / f32(255), 255)
    tiny = np.finfo(f32).tiny
    assert activation_grid(0.0, 1e-45)[0] == tiny
    largest = float(np.finfo(f32).max)
    scale, zero_point = activation_grid(-largest, largest)
    assert np.isfinite(scale)
    assert 127 <= zero_point <= 255


@given(seeds, st.booleans())
def test_the_integer_product_is_that_of_dequantized_codes(seed, by_row):
    random = rng(seed)
    x, w = random.integers(0, 256, (5, 12), np.uint8), random.integers(-127, 128, (4, 12)).astype(np.int8)
    scale, zero_point = f32(random.uniform(0.01, 1)), np.uint8(random.integers(0, 256))
    steps = random.uniform(0.01, 1, (4 if by_row else 1, 1)).astype(f32)
    exact = ((x.astype(int) - int(zero_point)) * float(scale)) @ (w.astype(int) * steps.astype(float)).T
    assert np.allclose(integer_linear(x, scale, zero_point, w, steps), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "w", "scale"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), np.ones((1, 1))),
        (np.ones((2, 3)), np.ones((4, 3)), np.ones((1, 3))),
        (np.ones(3), np.ones((4, 3)), np.ones((1, 1))),
        (np.ones((1, 70_000)), np.ones((1, 70_000)), np.ones((1, 1))),
    ],
)
def test_products_that_do_not_exist_are_refused(x, w, scale):
    with pytest.raises(InvalidArgument):
        integer_linear(x.astype(np.uint8), f32(1), np.uint8(0), w.astype(np.int8), scale.astype(f32))


@given(seeds, st.integers(2, 8))
def test_the_noise_is_that_of_rounding(seed, bits):
    x = rng(seed).uniform(-1, 1, 20_000)
    step = 2 / (2**bits - 1)
    measured = np.mean((np.rint(x / step) * step - x) ** 2)
    assert rounding_noise(np.array([1.0, 0.5]), bits) == pytest.approx(measured, rel=0.1)


@given(seeds)
def test_statistics_of_divided_activations(seed):
    random = rng(seed)
    x, s = random.standard_normal((30, 4)), np.exp(random.standard_normal(4)).astype(f32)

    def seen(x):
        return ActivationStatistics(np.abs(x).max(axis=0), (x**2).mean(axis=0), x.var(axis=0))

    divided, direct = seen(x).divided_by(s), seen(x / s)
    for a, b in ((divided.maximum, direct.maximum), (divided.mean_square, direct.mean_square),
                 (divided.variance, direct.variance)):  # fmt: skip
        assert np.allclose(a, b)
