import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import activation_maxima, weights

from refimpl.errors import InvalidArgument
from refimpl.pruning import linf_score, magnitude_score, prune, prune_mask
from refimpl.quantization import QuantizationSpec, dequantize, quantize
from refimpl.scaling import max_scale
from refimpl.select import prune_count


@given(weights())
def test_magnitude_is_the_linf_score_of_equal_activations(weight):
    assert np.array_equal(magnitude_score(weight), linf_score(weight, np.ones(weight.shape[1])))


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-9, 9, width=32)), hnp.arrays(np.float32, (5, 3),
       elements=st.floats(-9, 9, width=32)))  # fmt: skip
def test_linf_score_is_the_largest_contribution_to_an_output(weight, x):
    contribution = np.abs(weight[None].astype(np.float64) * x[:, None]).max(axis=0)
    assert np.allclose(linf_score(weight, np.abs(x).max(axis=0)), contribution, rtol=1e-6)


@given(weights(largest=1.0), st.data())
def test_scaling_leaves_the_linf_score_alone(weight, data):
    a = data.draw(activation_maxima(weight.shape[1]).map(lambda a: np.minimum(a, 1e4)))
    s = max_scale(a, data.draw(st.floats(0, 2))).astype(np.float64)
    assert np.allclose(linf_score(weight * s, a / s), linf_score(weight, a), rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize("shapes", [((2, 3), (2,)), ((3,), (3,)), ((2, 3), (1, 3))])
def test_maxima_of_other_shapes_are_refused(shapes):
    with pytest.raises(InvalidArgument, match="does not fit"):
        linf_score(np.ones(shapes[0]), np.ones(shapes[1]))


@given(weights(), st.floats(0, 1))
def test_the_mask_has_exactly_its_share_and_nothing_kept_scores_less(weight, sparsity):
    score = magnitude_score(weight)
    mask = prune_mask(score, sparsity)
    assert np.count_nonzero(mask) == prune_count(weight.size, sparsity)
    assert score[mask].max(initial=-1) <= score[~mask].min(initial=np.inf)


@given(hnp.arrays(np.int8, (3, 4)), hnp.arrays(bool, (3, 4)))
def test_pruned_codes_are_zero_and_the_others_stay(codes, mask):
    pruned = prune(codes, mask)
    assert pruned.dtype == codes.dtype
    assert not pruned[mask].any()
    assert np.array_equal(pruned[~mask], codes[~mask])


@given(weights(), st.integers(2, 8), st.data())
def test_pruned_asymmetric_codes_dequantize_to_zero(weight, bits, data):
    mask = data.draw(hnp.arrays(bool, weight.shape))
    spec = QuantizationSpec(bits=bits, symmetric=False, granularity="channel")
    result = quantize(weight, spec)
    codes = prune(result.codes, mask, result.zero_point)
    back = dequantize(type(result)(codes, result.scale, result.zero_point))
    assert codes.dtype == np.uint8
    assert not back[mask].any()
    assert np.array_equal(back[~mask], dequantize(result)[~mask])
