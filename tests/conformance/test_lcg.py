import numpy as np
import pytest

from conformance.lcg import INCREMENT, MULTIPLIER, Lcg, draw, generate


def draw_plainly(seed, count):
    """As the module's docstring says it, a number at a time."""
    x, result = seed, []
    for _ in range(count):
        x = (MULTIPLIER * x + INCREMENT) % 2**64
        result.append(x >> 48)
    return result


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**64 - 1])
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_the_fast_way_is_the_plain_one(seed, count):
    assert draw(seed, count).tolist() == draw_plainly(seed, count)


def test_thresholds_count_and_exponents_scale():
    r = draw_plainly(7, 600)
    thresholds = (100, 30000, 30000, 65535)
    symbols = generate(Lcg(7, thresholds), (20, 30), np.uint8)
    assert symbols.tolist() == np.array([sum(t <= v for t in thresholds) for v in r]).reshape(20, 30).tolist()
    floats = generate(Lcg(7, exponent=-3), (600,), np.float32)
    assert floats.dtype == np.float32
    assert floats.tolist() == [(v - 32768) / 8 for v in r]


def test_the_values_are_spread_out():
    r = draw(3, 100_000)
    assert abs(r.mean() - 32767.5) < 200
    assert abs(np.corrcoef(r[:-1], r[1:])[0, 1]) < 0.02
