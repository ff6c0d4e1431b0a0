import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import rng, seeds, statistics, weights

from refimpl.activations import ActivationStatistics
from refimpl.errors import InvalidArgument
from refimpl.metrics import entropy, sqnr_db
from refimpl.pipeline import LayerSettings, compress_layer, quantize_layer
from refimpl.pruning import linf_score, prune_mask
from refimpl.quantization import QuantizationSpec, quantization_scale
from refimpl.scaling import max_scale
from refimpl.select import prune_count
from refimpl.tans.blocks import decode_block

f32 = np.float32
layer_settings = st.builds(
    LayerSettings,
    bits=st.integers(2, 8),
    granularity=st.sampled_from(["tensor", "channel"]),
    exponents=st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple),
    target_sqnr_db=st.none() | st.floats(3, 40),
    sparsity=st.floats(0, 1) | st.just(0.0),
)


@given(weights(largest=2.0**40).flatmap(lambda w: st.tuples(st.just(w), statistics(w.shape[1]))), layer_settings)
def test_every_intermediate_follows_from_the_one_before(drawn, settings):
    weight, seen = drawn
    layer = quantize_layer(weight, seen, settings)
    last = 2 ** (settings.bits - 1) - 1
    by_row = settings.granularity == "channel"
    assert layer.exponent in ((0.0,) if by_row else settings.exponents)
    assert np.array_equal(layer.channel_scale, max_scale(seen.maximum, layer.exponent))
    assert np.array_equal(layer.scaled, weight * layer.channel_scale)
    assert layer.scale.shape == (len(weight) if by_row else 1, 1)
    assert np.array_equal(layer.codes, np.clip(np.rint(layer.scaled / layer.scale), -last, last))
    assert np.array_equal(layer.mask, prune_mask(linf_score(weight, seen.maximum), settings.sparsity))
    assert np.count_nonzero(layer.mask) == prune_count(weight.size, settings.sparsity)
    assert np.array_equal(layer.pruned, np.where(layer.mask, 0, layer.codes))
    assert np.array_equal(layer.symbols.astype(int), layer.pruned.astype(int) + layer.zero_point)
    assert layer.zero_point == max(0, -int(layer.pruned.min()))
    assert np.array_equal(layer.folded_scale, layer.scale if by_row else layer.scale / layer.channel_scale)
    decoded = (layer.symbols.astype(f32) - f32(layer.zero_point)) * layer.folded_scale
    assert np.array_equal(layer.reconstruction, decoded)
    assert [a.dtype for a in (layer.codes, layer.mask, layer.pruned, layer.symbols, layer.reconstruction)] == [
        np.int8, bool, np.int8, np.uint8, f32,
    ]  # fmt: skip


@given(weights(), st.integers(2, 8))
def test_without_a_target_the_scale_is_the_finest(weight, bits):
    layer = quantize_layer(weight, ActivationStatistics.unknown(weight.shape[1]), LayerSettings(bits=bits))
    scale, _ = quantization_scale(weight, QuantizationSpec(bits))
    assert np.array_equal(layer.scale, scale)
    assert np.array_equal(layer.channel_scale, np.ones(weight.shape[1]))


@given(seeds, st.floats(8, 28), st.sampled_from([(0.0,), (0.5,), (0.0, 0.25, 0.5)]))
def test_the_target_sqnr_of_the_output_is_reached_within_1_db(seed, target, exponents):
    random = rng(seed)
    weight = random.standard_normal((60, 48)).astype(f32)
    x = (random.standard_normal((100, 48)) + 0.3) * np.exp(0.5 * random.standard_normal(48))
    seen = ActivationStatistics(np.abs(x).max(axis=0), (x**2).mean(axis=0), x.var(axis=0))
    layer = quantize_layer(weight, seen, LayerSettings(exponents=exponents, target_sqnr_db=target))
    if np.abs(layer.codes).max() < 127:  # else int8 is the limit
        contribution = seen.variance * (weight.astype(np.float64) ** 2).sum(axis=0)
        signal = np.minimum(contribution, np.quantile(contribution, 0.95)).sum()
        noise = (seen.mean_square * (weight.astype(np.float64) - layer.reconstruction) ** 2).sum()
        # 1 dB and what the scale loses by its 8 significant bits
        assert 10 * np.log10(signal / noise) == pytest.approx(target, abs=1.07)


@given(seeds, st.floats(12, 28))
def test_by_channel_every_row_reaches_the_target_whatever_its_size(seed, target):
    weight = rng(seed).standard_normal((10, 500)).astype(f32) * f32(10) ** np.arange(-5, 5, dtype=f32)[:, None]
    settings = LayerSettings(granularity="channel", target_sqnr_db=target)
    layer = quantize_layer(weight, ActivationStatistics.unknown(500), settings)
    for row, approximation in zip(weight, layer.reconstruction, strict=True):
        assert sqnr_db(row, approximation) == pytest.approx(target, abs=1)


@given(seeds)
def test_a_higher_target_costs_more_bits(seed):
    weight = rng(seed).standard_normal((40, 48)).astype(f32)
    seen = ActivationStatistics.unknown(48)
    bits = [entropy(quantize_layer(weight, seen, LayerSettings(target_sqnr_db=t)).symbols) for t in (10, 15, 20, 25)]
    assert bits == sorted(bits)
    assert bits[-1] - bits[0] == pytest.approx(15 / 6.02, abs=0.4)  # a bit for 6 dB


@given(weights(largest=2.0**20, max_side=30), layer_settings, st.floats(0.1, 1))
def test_compressed_layers_decode_to_their_symbols(weight, settings, fraction):
    layer, block = compress_layer(weight, ActivationStatistics.unknown(weight.shape[1]), settings, fraction=fraction)
    assert np.array_equal(decode_block(block).reshape(weight.shape), layer.symbols)


@given(weights(), layer_settings)
def test_dead_inputs_still_give_finite_weights(weight, settings):
    silent = ActivationStatistics(*[np.zeros(weight.shape[1])] * 3)
    assert np.isfinite(quantize_layer(weight, silent, settings).reconstruction).all()


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("target", [None, 20.0])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4, 0)])
def test_weights_without_anything_to_code(shape, target, granularity):
    settings = LayerSettings(target_sqnr_db=target, granularity=granularity)
    layer = quantize_layer(np.zeros(shape), ActivationStatistics.unknown(shape[1]), settings)
    assert layer.reconstruction.shape == shape
    assert not layer.reconstruction.any()
    assert layer.zero_point == 0


@pytest.mark.parametrize(
    ("weight", "channels"),
    [(np.ones((2, 3)), 2), (np.ones(3), 3), (np.ones((2, 2, 2)), 2), (np.full((1, 1), np.nan), 1)],
)
def test_shapes_that_do_not_fit_and_nan_are_refused(weight, channels):
    with pytest.raises(InvalidArgument):
        quantize_layer(weight, ActivationStatistics.unknown(channels), LayerSettings())


@pytest.mark.parametrize(
    "settings", [LayerSettings(bits=9), LayerSettings(sparsity=1.5), LayerSettings(exponents=(3,))]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidArgument):
        quantize_layer(np.ones((2, 2)), ActivationStatistics.unknown(2), settings)


def test_settings_without_an_exponent_are_refused():
    with pytest.raises(InvalidArgument, match="exponent"):
        LayerSettings(exponents=())
