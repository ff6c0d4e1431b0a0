import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import rng, seeds, weights

from refimpl.activations import ActivationStatistics, rounding_noise
from refimpl.errors import InvalidArgument
from refimpl.metrics import entropy
from refimpl.scaling import max_scale, scale_channels
from refimpl.search import (
    SCALE_BITS,
    Aim,
    Searched,
    choose_exponent,
    choose_shared_exponent,
    coarsest_scale,
    row_scales,
    squared_error,
    truncate_mantissa,
    truncate_scalar,
)

f32 = np.float32


def allowed_error(scaled, gain, target_db):
    return (gain * scaled.astype(np.float64) ** 2).sum() * 10 ** (-target_db / 10)


def finest_scale(scaled, last_code=127):
    return float(np.abs(scaled).max()) / last_code


@given(seeds, st.floats(8, 32), st.floats(0.0, 1.5))
def test_the_target_is_reached_within_1_db(seed, target, spread):
    random = rng(seed)
    scaled = random.standard_normal((48, 40)).astype(f32)
    gain = np.exp(spread * random.standard_normal(40))
    finest, allowed = finest_scale(scaled), allowed_error(scaled, gain, target)
    scale = coarsest_scale(scaled, gain, allowed, finest, 127)
    assume(scale > finest * 1.01)
    assert 10 * np.log10(squared_error(scaled, gain, scale, 127) / allowed) == pytest.approx(0, abs=1)


@given(seeds, st.floats(60, 200))
def test_an_unreachable_target_takes_the_finest_scale(seed, target):
    scaled = rng(seed).standard_normal((20, 20)).astype(f32)
    finest = finest_scale(scaled, 7)
    assert coarsest_scale(scaled, np.ones(20), allowed_error(scaled, 1, target), finest, 7) == f32(finest)


@given(seeds, st.floats(5, 50), st.integers(1, 127))
def test_the_scale_is_never_finer_than_asked(seed, target, last_code):
    scaled = rng(seed).standard_normal((20, 20)).astype(f32)
    finest = finest_scale(scaled, last_code)
    scale = coarsest_scale(scaled, np.ones(20), allowed_error(scaled, 1, target), finest, last_code)
    assert scale >= f32(finest)


GRIDS = {
    "ternary": lambda random: random.integers(-1, 2, (40, 40)),
    "int4": lambda random: random.integers(-7, 8, (40, 40)) * 0.01,
    "int8": lambda random: random.integers(-127, 128, (40, 40)) * 0.003,
    "constant": lambda random: np.full((40, 40), random.random()),
    "one outlier": lambda random: np.where(np.arange(1600) == 5, 1000, random.random(1600) * 0.01).reshape(40, 40),
    "tiny beside large": lambda random: np.where(random.random((40, 40)) < 0.5, 3, 2.0**-126),
}


@pytest.mark.parametrize("grid", GRIDS)
@given(seeds, st.floats(4, 40), st.sampled_from([1, 7, 127]))
def test_weights_on_a_grid_never_fall_behind_the_target(grid, seed, target, last_code):
    scaled = GRIDS[grid](rng(seed)).astype(f32)
    finest, allowed = finest_scale(scaled, last_code), allowed_error(scaled, 1, target)
    scale = coarsest_scale(scaled, np.ones(40), allowed, finest, last_code)
    assert scale == f32(finest) or squared_error(scaled, np.ones(40), scale, last_code) <= 10**0.11 * allowed


@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_truncation_keeps_8_bits_and_never_grows(x):
    y = truncate_scalar(x)
    assert y <= x < y * (1 + 2.0**-7)
    mantissa, _ = np.frexp(np.float64(y))
    assert mantissa * 256 == int(mantissa * 256)
    assert truncate_mantissa(np.array([x, 0, x], f32)).tolist() == [y, 0, y]


@given(weights(), st.floats(5, 40))
def test_row_scales_depend_on_the_root_mean_square_of_their_row_alone(weight, target):
    scales = row_scales(weight, target)
    assert scales.shape == (len(weight), 1)
    for row, scale in zip(weight, scales[:, 0], strict=True):
        rms = np.sqrt(np.mean(row.astype(np.float64) ** 2))
        exact = rms * (12 / 10 ** (target / 10)) ** 0.5
        assert exact / (1 + 2.0**-7) * (1 - 1e-6) <= scale + 2.0**-126
        assert scale <= exact * (1 + 1e-6) + 2.0**-126
        assert row.any() or scale == 0


def capped_power(weight, variance):
    """The signal: every channel's share, at most the 95th percentile of all."""
    contribution = sorted((variance * (weight.astype(np.float64) ** 2).sum(axis=0)).tolist())
    at = 0.95 * (len(contribution) - 1)
    below, above = contribution[int(at)], contribution[min(int(at) + 1, len(contribution) - 1)]
    cap = below + (at - int(at)) * (above - below)
    return sum(min(c, cap) for c in contribution)


@given(seeds, st.lists(st.floats(0, 2), min_size=1, max_size=4), st.floats(10, 50), st.sampled_from([None, 0.3]),
       st.sampled_from([7, 127]), st.booleans())  # fmt: skip
def test_the_cheapest_exponent_that_reaches_the_target_wins_else_the_most_exact(
    seed, exponents, target, sparsity, last_code, absorbed
):
    random = rng(seed)
    weight = random.standard_normal((24, 16)).astype(f32)
    maximum = np.exp(random.standard_normal(16))
    mean_square, variance = maximum**2 / 9, maximum**2 / 10
    kept = None if sparsity is None else random.random((24, 16)) > sparsity
    budget = capped_power(weight, variance) * 10 ** (-target / 10)

    def scale_and_rank(exponent):
        s = max_scale(maximum, exponent)
        scaled, gain = scale_channels(weight, s), mean_square / s.astype(np.float64) ** 2
        finest = finest_scale(scaled, last_code)
        scaled = scaled if kept is None else np.where(kept, scaled, f32(0))  # pruned: no error, no signal lost
        scale = coarsest_scale(scaled, gain, budget, finest, last_code)
        codes = np.rint(scaled / scale)
        assert np.abs(codes).max() <= last_code
        error = (gain * (scaled.astype(np.float64) - codes * np.float64(scale)) ** 2).sum()
        scales = 1 if absorbed or (s == 1).all() else 16
        bits = weight.size * entropy(codes) + SCALE_BITS * scales
        return scale, (0, bits) if error <= 10**0.1 * budget else (1, error)

    statistics = ActivationStatistics(maximum, mean_square, variance)
    aim = Aim(tuple(exponents), target, last_code, absorbed=absorbed)
    found = choose_exponent(Searched(weight, kept), statistics, aim)
    scales, ranks = zip(*map(scale_and_rank, exponents), strict=True)
    best = min(ranks)
    assert found.exponent in exponents
    chosen = ranks[exponents.index(found.exponent)]
    assert chosen[0] == best[0] == (not found.reached)
    assert chosen[1] == pytest.approx(best[1], rel=1e-6)
    assert found.scale == scales[exponents.index(found.exponent)]


def alike(channels):
    return ActivationStatistics.unknown(channels)


@given(seeds, st.floats(0.1, 0.4), st.floats(15, 25))
def test_the_error_of_pruning_comes_on_top_of_the_target(seed, sparsity, target):
    weight, ones = rng(seed).standard_normal((48, 40)).astype(f32), np.ones(40)
    kept = np.abs(weight) > np.quantile(np.abs(weight), sparsity)
    scale = choose_exponent(Searched(weight, kept), alike(40), Aim((0.0,), target, 127)).scale[0, 0]
    assume(scale > finest_scale(weight) * 1.01)
    budget = capped_power(weight, ones) * 10 ** (-target / 10)
    rounding = squared_error(np.where(kept, weight, f32(0)), ones, scale, 127)
    assert 10 * np.log10(rounding / budget) == pytest.approx(0, abs=1.07)


def test_of_equally_cheap_exponents_the_first_wins():
    weight = rng(1).standard_normal((24, 16)).astype(f32)  # no exponent changes anything
    assert choose_exponent(Searched(weight), alike(16), Aim((0.5, 0.0, 1.0), 20.0, 127)).exponent == 0.5


def test_large_weights_are_searched_by_a_sample_of_rows():
    random = rng(9)
    weight = random.standard_normal((700, 600)).astype(f32)
    maximum = np.exp(random.standard_normal(600))
    statistics = ActivationStatistics(maximum, maximum**2, maximum**2 / 2)
    found = choose_exponent(Searched(weight), statistics, Aim((0.0, 1.0), 20.0, 127))
    s = max_scale(maximum, found.exponent)
    error = squared_error(scale_channels(weight, s), maximum**2 / s.astype(float) ** 2, found.scale, 127)
    assert 10 * np.log10(capped_power(weight, maximum**2 / 2) / error) == pytest.approx(20, abs=0.5)


def test_one_loud_channel_does_not_buy_coarse_scales():
    weight = rng(2).standard_normal((40, 40)).astype(f32)
    usual, loud = np.ones(40), np.where(np.arange(40) == 3, 1e4, 1.0)
    aim = Aim((0.0,), 20.0, 127)
    scales = [
        choose_exponent(Searched(weight), ActivationStatistics(usual, usual, v), aim).scale.item()
        for v in (usual, loud)
    ]
    assert scales[1] == pytest.approx(scales[0], rel=0.1)


@given(seeds, st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=5, unique=True))
def test_a_shared_exponent_is_the_one_with_the_fewest_bits_in_sum(seed, exponents):
    random = rng(seed)
    layers = [Searched(random.standard_normal((rows, 16)).astype(f32)) for rows in (8, 24, 40)]
    maximum = np.exp(random.standard_normal(16))
    statistics = ActivationStatistics(maximum, maximum**2 / 9, maximum**2 / 10)
    found = choose_shared_exponent(layers, statistics, Aim(tuple(exponents), 20.0, 127, absorbed=True))
    (shared,) = {choice.exponent for choice in found}
    alone = [choose_shared_exponent(layers, statistics, Aim((e,), 20.0, 127, absorbed=True)) for e in exponents]
    costs = [sum(c.bits for c in choices) for choices in alone]
    assert found == alone[int(np.argmin(costs))]
    assert shared == exponents[int(np.argmin(costs))]


def test_no_exponent_is_refused():
    with pytest.raises(InvalidArgument):
        choose_exponent(Searched(np.ones((2, 2), f32)), alike(2), Aim((), 20.0, 127))


def test_a_weight_beyond_float32_is_refused_also_outside_the_sample():
    weight, maximum = np.ones((600, 512), f32), np.ones(512)
    weight[1, 0], maximum[0] = 3e38, 8.0
    with pytest.raises(InvalidArgument, match="beyond float32"):
        choose_exponent(Searched(weight), ActivationStatistics(maximum, maximum, maximum), Aim((1.0,), 20.0, 127))


def with_outlier(seed, rows=60, columns=48, size=400.0):
    weight = rng(seed).standard_normal((rows, columns)).astype(f32)
    weight[rows // 2, columns // 3] = size
    return weight


def decoded(weight, scale, last=127):
    return np.clip(np.rint(weight / scale), -last, last) * scale


@given(seeds, st.floats(8, 14), st.sampled_from(["columns", "rows"]))
def test_an_outlier_gets_a_scale_of_its_own_where_it_would_make_all_codes_coarse(seed, target, place):
    weight, ones = with_outlier(seed), np.ones(48)
    plain = choose_exponent(Searched(weight), alike(48), Aim((0.0,), target, 127))
    apart = choose_exponent(Searched(weight), alike(48), Aim((0.0,), target, 127, outliers=(place,)))
    assert not plain.reached
    assert apart.reached
    assert apart.scale.shape == ((1, 48) if place == "columns" else (60, 1))
    usual = np.unique(apart.scale)
    assert len(usual) == 2  # the outlier's and that of all others
    assert usual[1] == pytest.approx(400 / 127)
    error = ((weight - decoded(weight, apart.scale)) ** 2).sum() / (capped_power(weight, ones) * 10 ** (-target / 10))
    assert error == pytest.approx(apart.error, rel=1e-3)
    assert decoded(weight, apart.scale)[30, 16] == pytest.approx(400)


@given(seeds, st.floats(5, 20))
def test_without_outliers_nothing_gets_a_scale_of_its_own(seed, target):
    weight = rng(seed).standard_normal((60, 48)).astype(f32)
    aims = [Aim((0.0, 0.5), target, 127, outliers=o) for o in ((), ("columns", "rows"))]
    assert choose_exponent(Searched(weight), alike(48), aims[0]) == choose_exponent(
        Searched(weight), alike(48), aims[1]
    )


@given(seeds)
def test_rows_have_no_scale_beside_one_of_columns(seed):
    weight, maximum = with_outlier(seed), np.exp(0.2 * rng(seed).standard_normal(48))
    statistics = ActivationStatistics(maximum, maximum**2 / 9, maximum**2 / 10)
    aim = Aim((1.0,), 10.0, 127, outliers=("rows",))
    assert choose_exponent(Searched(weight), statistics, aim).scale.shape == (1, 1)
    absorbed = Aim((1.0,), 10.0, 127, outliers=("rows",), absorbed=True)
    assert choose_exponent(Searched(weight), statistics, absorbed).scale.shape == (60, 1)


@given(seeds, st.floats(12, 25), st.sampled_from([0.1, 1.0]))
def test_divided_rows_keep_their_error_in_the_output_as_it_was(seed, target, spread):
    random = rng(seed)
    weight = random.standard_normal((60, 48)).astype(f32)
    s = np.exp(spread * random.standard_normal(60)).astype(f32)
    aim = Aim((0.0,), target, 127)
    before = choose_exponent(Searched(weight), alike(48), aim)
    divided = weight / s[:, None]
    after = choose_exponent(Searched(divided, row_scale=s), alike(48), aim)
    assert after.bits <= before.bits + SCALE_BITS * 60 + 48 * 60 * 0.05  # at worst the codes as they were
    noise = (((divided - decoded(divided, after.scale)) * s[:, None]) ** 2).sum()
    budget = capped_power(weight, np.ones(48)) * 10 ** (-target / 10)
    assert 10 * np.log10(noise / budget) < 1.01
    assert after.error == pytest.approx(noise / budget, rel=1e-3)


@given(seeds, st.sampled_from([4, 8]))
def test_the_noise_of_quantized_activations_counts(seed, bits):
    random = rng(seed)
    weight, maximum = random.standard_normal((40, 32)).astype(f32), np.exp(random.standard_normal(32))
    statistics = ActivationStatistics(maximum, maximum**2 / 9, maximum**2 / 10)
    alone = choose_exponent(Searched(weight), statistics, Aim((0.0,), 20.0, 127))
    both = choose_exponent(Searched(weight), statistics, Aim((0.0,), 20.0, 127, activation_bits=bits))
    noise = rounding_noise(maximum, bits) * np.square(weight, dtype=np.float64).sum()
    budget = capped_power(weight, maximum**2 / 10) / 100
    rounding = squared_error(weight, maximum**2 / 9, both.scale, 127)
    assert both.error == pytest.approx((rounding + noise) / budget)
    assert both.scale <= 1.1 * alone.scale  # up to the accuracy of the search, 1 dB


@given(seeds, st.floats(0.0078125, 2, width=32), st.integers(1, 127))
def test_the_error_is_that_of_clipped_rounding(seed, scale, last_code):
    random = rng(seed)
    scaled, gain = random.standard_normal((5, 6)).astype(f32), random.random(6)
    expected = 0.0
    for i, j in np.ndindex(5, 6):
        code = min(max(round(float(scaled[i, j] / f32(scale))), -last_code), last_code)
        expected += gain[j] * (float(scaled[i, j]) - code * float(scale)) ** 2
    assert squared_error(scaled, gain, f32(scale), last_code) == pytest.approx(expected, rel=1e-4, abs=1e-9)
