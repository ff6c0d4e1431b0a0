import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import rng, seeds

from refimpl.errors import InvalidArgument
from refimpl.hessian import inverse_factor, output_error, second_moment
from refimpl.rate import (
    DAMPINGS,
    LAST_CODE,
    code_prices,
    least_damping,
    losses_by_damping,
    quantize_by_activity,
    quantize_rate,
    rate_curve,
    stored_step,
)


def layer(seed, rows=24, inputs=40, tokens=200):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs, inputs)) * np.exp(rng.normal(size=inputs))
    return rng.normal(size=(rows, inputs)), second_moment(rng.normal(size=(tokens, inputs)) @ mixing)


@given(st.integers(0, 1000), st.floats(0.1, 2.0))
def test_feedback_lowers_the_error_of_the_output(seed, step):
    W, H = layer(seed)
    plain = quantize_rate(W, None, step) * step - W
    fed = quantize_rate(W, inverse_factor(H), step) * step - W
    assert output_error(fed, H) < output_error(plain, H)


@given(st.integers(0, 1000))
def test_without_a_factor_codes_are_the_nearest(seed):
    W, _ = layer(seed)
    codes = quantize_rate(W, None, 0.25)
    assert np.abs(codes * 0.25 - W).max() <= 0.125 + 1e-6


@given(st.integers(0, 1000), st.floats(0.2, 1.5))
def test_a_price_brings_codes_nearer_to_zero_and_costs_error(seed, step):
    W, H = layer(seed, rows=64)
    U = inverse_factor(H)
    free, priced = quantize_rate(W, U, step), quantize_rate(W, U, step, price=2.0)
    assert np.abs(priced).mean() < np.abs(free).mean()
    assert output_error(priced * step - W, H) > output_error(free * step - W, H)


def test_codes_clip_and_feedback_makes_up_for_what_is_missing():
    W, H = layer(3)
    W[:, 0] = 1000.0
    codes = quantize_rate(W, inverse_factor(H), 1.0)
    assert codes.max() == LAST_CODE
    assert codes.min() >= -LAST_CODE
    assert output_error(codes - W, H) < output_error(np.clip(np.rint(W), -LAST_CODE, LAST_CODE) - W, H)


@pytest.mark.parametrize(("step", "price"), [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (1.0, -1.0), (1.0, np.inf)])
def test_numbers_out_of_range_are_refused(step, price):
    with pytest.raises(InvalidArgument):
        quantize_rate(np.ones((2, 2)), None, step, price)


@given(st.integers(0, 100))
def test_a_curve_gives_fewer_bits_and_more_error_for_coarser_steps(seed):
    curve = rate_curve(np.random.default_rng(seed).laplace(size=(128, 64)))
    assert (np.diff(curve.step) > 0).all()
    assert (np.diff(curve.bits) < 0.02).all()  # a sample's entropy is not quite monotone
    assert (np.diff(curve.error) > -1e-12).all()
    assert curve.bits[-1] < 0.5


def test_a_curve_has_the_quarter_bit_of_a_fine_uniform_quantizer():
    curve = rate_curve(np.random.default_rng(0).normal(size=(512, 256)))
    gap = curve.bits + 0.5 * np.log2(curve.error)  # to the Gaussian's R(D) = -log2(D) / 2
    between = (curve.bits > 3.2) & (curve.bits < 5)  # below, bins whose middle is not their mean cost more
    assert np.abs(gap[between] - 0.5 * np.log2(2 * np.pi * np.e / 12)).max() < 0.02


def test_a_curve_begins_where_an_outlier_lets_it():
    W = np.random.default_rng(0).normal(size=(64, 64))
    W[0, 0] = 300.0
    curve = rate_curve(W)
    missed = np.maximum(300.0 - (LAST_CODE + 0.5) * curve.step, 0) ** 2 / W.size
    assert (curve.error >= missed).all()
    assert 100 < 300.0 / curve.step[0] < 256


def test_a_weight_of_zeros_has_a_curve_of_one_point():
    curve = rate_curve(np.zeros((4, 4)))
    assert curve.bits.tolist() == [0]
    assert curve.error.tolist() == [0]


@given(st.floats(1e-30, 1e30))
def test_a_stored_step_has_eight_significant_bits(step):
    stored = stored_step(step)
    assert stored.view(np.uint32) & np.uint32(0xFFFF) == 0
    assert 0.99 * step < stored <= step * (1 + 1e-7)


def test_rare_codes_have_higher_prices():
    codes = np.array([[0] * 90 + [1] * 9 + [5]], np.int8)
    bits = code_prices(codes)
    assert bits[LAST_CODE] < bits[LAST_CODE + 1] < bits[LAST_CODE + 5] < bits[0]


@settings(max_examples=20)
@given(seeds, st.sampled_from(DAMPINGS))
def test_by_activity_is_the_rate_quantizer_of_permuted_columns(seed, damping):
    random = rng(seed)
    X, W = random.normal(size=(40, 12)) * random.uniform(0.1, 3, 12), random.normal(size=(5, 12))
    H = second_moment(X)
    order = np.argsort(-np.diagonal(H), kind="stable")
    codes = quantize_by_activity(W, H, 0.5, damping=damping)
    factor = None if np.isinf(damping) else inverse_factor(H[np.ix_(order, order)], damping)
    assert np.array_equal(codes[:, order], quantize_rate(W[:, order], factor, 0.5))
    assert np.array_equal(
        quantize_by_activity(W, H, 0.5, damping=damping, in_order=True),
        quantize_rate(W, None if np.isinf(damping) else inverse_factor(H, damping), 0.5),
    )


@settings(max_examples=20)
@given(seeds, st.integers(2, 60))
def test_the_damping_chosen_is_best_on_the_unseen_half(seed, tokens):
    random = rng(seed)
    mix, W = random.normal(size=(24, 24)), random.normal(size=(8, 24))
    seen, unseen = (second_moment(random.normal(size=(tokens, 24)) @ mix) for _ in range(2))
    losses = losses_by_damping(W, seen, unseen, 0.5)
    at = DAMPINGS.index(least_damping(losses))
    for damping, loss in zip(DAMPINGS, losses, strict=True):
        codes = quantize_by_activity(W, seen, 0.5, damping=damping)
        assert np.isclose(loss, output_error(codes * 0.5 - W, unseen))
    assert losses[at] <= 1.02 * losses.min()
    assert (losses[:at] > 1.02 * losses.min()).all()


def test_many_samples_want_little_damping_and_few_want_none_of_the_feedback():
    random = rng(0)
    mix, W = random.normal(size=(64, 64)), random.normal(size=(32, 64))
    many, others = (second_moment(random.normal(size=(5000, 64)) @ mix) for _ in range(2))
    few = second_moment(random.normal(size=(3, 64)) @ mix)
    assert least_damping(losses_by_damping(W, many, others, 0.5)) == DAMPINGS[0]
    assert least_damping(losses_by_damping(W, few, others, 0.5)) >= 1
