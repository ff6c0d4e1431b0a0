"""The cases of methods that look at the layer's inputs: error feedback, rate and allocation, scores and scales.

Whatever is divided and rounded is drawn in integers: a factor U is drawn itself, any upper triangular matrix with a
positive diagonal being one, so that no library of linear algebra decides a code. Two implementations may differ in
the order of sums; each case has its quotients away from ties by more than that (`tests/conformance`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from drafts import EDGE, REFUSED, TIES, ULP, VALID, Array, Draft, Drawn, weights

from conformance.lcg import Lcg
from refimpl.rate import rate_curve

SUMS = {"rtol": 1e-9, "atol": 1e-12, "why": "sums in another order; codes and masks are integers and equal"}
SOLVED = {"rtol": 1e-7, "atol": 1e-10, "why": "factors by another library"}
FORMATS: dict[str, dict[str, Any]] = {
    "row": {"bits": 4, "symmetric": True, "granularity": "channel", "group_size": 0},
    "tensor": {"bits": 3, "symmetric": True, "granularity": "tensor", "group_size": 0},
    "groups": {"bits": 3, "symmetric": False, "granularity": "group", "group_size": 8},
}


def method_cases() -> Iterator[Draft]:
    """Everything, step by step."""
    yield from scales()
    yield from wanda()
    yield from moments()
    yield from feedback()
    yield from schedules()
    yield from raises()
    yield from leavings()
    yield from rates()
    yield from allocation()


def drawn(*shape: int, exponent: int, seed: int) -> Array:
    """float64, uniform in [-2**(15+exponent), 2**(15+exponent))."""
    return Drawn(Lcg(seed, exponent=exponent), shape, "float64").array()


def rounded(values: Array) -> Array:
    """To multiples of 2**-16: powers and logarithms differ by less between libraries."""
    return np.asarray(np.rint(values * 65536) / 65536)


def factor(n: int, seed: int = 1) -> Array:
    """An upper triangular matrix with a diagonal between 0.5 and 2 whose other entries fall off."""
    near = drawn(n, n, exponent=-15, seed=seed)
    fall = 2.0 ** -np.minimum(np.abs(np.subtract.outer(np.arange(n), np.arange(n))), 40)
    return np.triu(near * fall, 1) + np.diag(1.25 + 0.75 * drawn(n, exponent=-15, seed=seed + 100))


def activations(tokens: int, n: int, seed: int = 1) -> Array:
    """Correlated inputs, exact in float32: each channel holds some of the one before."""
    x = drawn(tokens, n, exponent=-12, seed=seed)
    return (x + 0.5 * np.roll(x, 1, axis=1)) * 2.0 ** (np.arange(n) % 4)


def scales() -> Iterator[Draft]:
    """SmoothQuant and AWQ."""
    X, W = activations(40, 12), weights(6, 12, seed=3).array()
    largest, mean = np.abs(X).max(axis=0), np.abs(X).mean(axis=0)
    silent = largest * (np.arange(12) != 5)
    for alpha in (0.0, 0.5, 0.75, 1.0):
        inputs = {"activation_max": largest, "weight": W}
        yield Draft("smoothquant_scale", f"alpha-{alpha:g}", VALID, inputs, {"alpha": alpha}, compare=ULP)
        inputs = {"activation_max": silent, "weight": W * (np.arange(12) != 7)}
        yield Draft("smoothquant_scale", f"silent-{alpha:g}", EDGE, inputs, {"alpha": alpha}, compare=ULP)
    for name, change, alpha in (
        ("negative", {"activation_max": -largest}, 0.5), ("other-channels", {"activation_max": largest[1:]}, 0.5),
        ("alpha-above-1", {}, 1.5),
    ):  # fmt: skip
        inputs = {"activation_max": largest, "weight": W, **change}
        yield Draft("smoothquant_scale", name, REFUSED, inputs, {"alpha": alpha}, "InvalidArgument")
    for ratio in (0.0, 0.35, 1.0):
        yield Draft("awq_scale", f"ratio-{ratio:g}", VALID, {"activation_mean": mean}, {"ratio": ratio}, compare=ULP)
        inputs = {"activation_mean": mean * (np.arange(12) != 5)}
        yield Draft("awq_scale", f"silent-{ratio:g}", EDGE, inputs, {"ratio": ratio}, compare=ULP)
    yield Draft("awq_scale", "ratio-above-1", REFUSED, {"activation_mean": mean}, {"ratio": 1.1}, "InvalidArgument")
    yield Draft("awq_scale", "nan", REFUSED, {"activation_mean": mean * np.nan}, {"ratio": 0.5}, "InvalidArgument")
    compare = {"rtol": 1e-6, "atol": 1e-9, "why": "pow, and sums in another order; the ratio is equal"}
    for seed, (name, spec) in enumerate(FORMATS.items()):
        X = activations(64, 16, seed=seed)
        inputs = {"weight": weights(5, 16, seed=seed + 10), "hessian": X.T @ X / 64}
        inputs |= {"activation_mean": np.abs(X).mean(axis=0)}
        yield Draft("search_awq", name, VALID, inputs, spec, compare=compare)


def wanda() -> Iterator[Draft]:
    """Scores by the inputs' size, compared within rows."""
    W, ms = weights(5, 8, -12, seed=4).array(), (activations(30, 8) ** 2).mean(axis=0)
    ties = np.array([[1, -1, 2, 1], [0, -0.0, 1, -2], [2, 1, -1, 0]], np.float32)
    for name, weight, square, flags in (("drawn", W, ms, VALID), ("ties", ties, np.array([1.0, 1, 0.25, 1]), TIES)):
        inputs = {"weight": weight, "mean_square": square}
        for sparsity in (0.0, 0.3, 0.5, 1.0):
            yield Draft("wanda", f"{name}-{sparsity:g}", flags, inputs, {"sparsity": sparsity, "pattern": None})
        for pattern in ("2:4", "1:2", "0:2", "4:4"):
            case = f"{name}-{pattern}".replace(":", "-of-")
            yield Draft("wanda", case, flags, inputs, {"sparsity": None, "pattern": pattern})
    inputs = {"weight": W, "mean_square": ms}
    yield Draft("wanda", "other-groups", REFUSED, inputs, {"sparsity": None, "pattern": "2:3"}, "InvalidArgument")
    yield Draft("wanda", "sparsity-above-1", REFUSED, inputs, {"sparsity": 1.5, "pattern": None}, "InvalidArgument")
    inputs = {"weight": W, "mean_square": ms[1:]}
    yield Draft("wanda", "other-channels", REFUSED, inputs, {"sparsity": 0.5, "pattern": None}, "InvalidArgument")


def moments() -> Iterator[Draft]:
    """Second moments and the factors of their inverses."""
    X = activations(50, 9)
    X[:, 4] = 0
    for name, x, flags in (("drawn", X, VALID), ("one-token", X[:1], EDGE), ("no-tokens", X[:0], EDGE)):
        yield Draft("second_moment", name, flags, {"activations": x}, compare=SUMS)
    H = np.array([[4.0, 2.0], [2.0, 2.0]])
    full = activations(64, 8, seed=2)
    good = full.T @ full / 64
    dead = good * np.outer(np.arange(8) != 3, np.arange(8) != 3)
    for name, h, damping, flags in (
        ("example", H, 0.0, VALID), ("example-damped", H, 0.01, VALID), ("drawn", good, 0.01, VALID),
        ("dead-column", dead, 0.01, EDGE), ("zeros", np.zeros((3, 3)), 0.01, EDGE), ("one", H[:1, :1], 0.01, EDGE),
        ("rank-one", np.full((4, 4), 2.0), 0.01, EDGE), ("damping-raised", np.full((4, 4), 2.0), 0.0, EDGE),
        ("identity", np.eye(5), 0.01, VALID),
    ):  # fmt: skip
        yield Draft("inverse_factor", name, flags, {"hessian": h}, {"damping": damping}, compare=SOLVED)
    for name, h, damping in (
        ("not-square", np.ones((2, 3)), 0.01), ("nan", H * np.nan, 0.01), ("negative-diagonal", -H, 0.01),
        ("negative-damping", H, -0.5), ("indefinite", np.array([[1.0, 9.0], [9.0, 1.0]]), 0.01),
    ):  # fmt: skip
        yield Draft("inverse_factor", name, REFUSED, {"hessian": h}, {"damping": damping}, "InvalidArgument")


def feedback() -> Iterator[Draft]:
    """Columns settled one by one, rounded or pruned or both."""
    example = {"weight": np.array([[0.4, 0.4]]), "factor": np.array([[1.0, -1.0], [0.0, 1.0]])}
    W, U = weights(6, 24, -13, seed=5).array(), factor(24)
    samples: list[tuple[str, dict[str, Array], int, tuple[str, ...]]] = [
        ("drawn", {"weight": W, "factor": U}, 128, VALID),
        ("blocks", {"weight": W, "factor": U}, 12, VALID),
        ("independent", {"weight": W, "factor": np.eye(24)}, 128, EDGE),
    ]
    yield Draft("feed_back", "example", VALID, example, {"step": 1.0, "block": 128}, compare=SUMS)
    for name, inputs, block, flags in samples:
        yield Draft("feed_back", name, flags, inputs, {"step": 0.5, "block": block}, compare=SUMS)
        for grid, spec in FORMATS.items():
            for static in (False, True) if grid == "groups" else (False,):
                parameters = {**spec, "static_groups": static, "block": block}
                yield Draft("gptq", f"{name}-{grid}{'-static' * static}", flags, inputs, parameters, compare=SUMS)
        for case, share in shares():
            share["block"] = block
            yield Draft("sparsegpt", f"{name}-{case}", flags, inputs, share, compare=SUMS)
            spec = FORMATS["groups" if case == "2-of-4" else "row"]
            yield Draft("sparsegpt_quantize", f"{name}-{case}", flags, inputs, {**share, **spec}, compare=SUMS)
        if name != "blocks":
            yield Draft("estimated_loss", name, flags, inputs, compare=SUMS)
    order = np.argsort(drawn(24, exponent=-15, seed=9), kind="stable").astype(np.int64)
    for name, spec in FORMATS.items():
        parameters = {**spec, "static_groups": name == "groups", "block": 128}
        inputs = {"weight": W, "factor": U, "order": order}
        yield Draft("gptq", f"order-{name}", VALID, inputs, parameters, compare=SUMS)
    row = {**FORMATS["row"], "static_groups": False, "block": 128}
    for name, change, parameters in (
        ("other-factor", {"factor": U[1:, 1:]}, row),
        ("no-permutation", {"order": order * 0}, row),
        ("moving-groups-in-order", {"order": order}, {**row, **FORMATS["groups"]}),
        ("nan", {"weight": W * np.float32(np.nan)}, row),
    ):
        inputs = {"weight": W, "factor": U, **change}
        yield Draft("gptq", name, REFUSED, inputs, parameters, "InvalidArgument")
    inputs = {"weight": W, "factor": U}
    for name, share in (
        ("sparsity-above-1", {"sparsity": 1.5, "pattern": None, "block": 128}),
        ("other-groups", {"sparsity": None, "pattern": "2:5", "block": 128}),
    ):
        yield Draft("sparsegpt", name, REFUSED, inputs, share, "InvalidArgument")
        yield Draft("sparsegpt_quantize", name, REFUSED, inputs, {**share, **FORMATS["row"]}, "InvalidArgument")


def shares() -> Iterator[tuple[str, dict[str, Any]]]:
    """What to prune."""
    for sparsity in (0.0, 0.5, 0.75, 1.0):
        yield f"{sparsity:g}", {"sparsity": sparsity, "pattern": None}
    yield "2-of-4", {"sparsity": None, "pattern": "2:4"}


def raises() -> Iterator[Draft]:
    """Targets by what errors cost."""
    errors, sizes = np.array([0.125, 0.01, 0.0, 0.003, 0.01]), np.array([100, 4096, 64, 16384, 8192], np.int64)
    inputs: dict[str, Array | Drawn] = {"errors": errors, "sizes": sizes}
    for name, allowed, most in (
        ("halved", 0.0625, 20.0),
        ("some-bounded", 0.005, 12.0),
        ("none-may-change", 0.01, 0.0),
    ):
        yield Draft("target_raises", name, VALID, inputs, {"allowed": allowed, "most": most}, compare=SUMS)
    for name, allowed in (("more-than-can-be", 1e6), ("less-than-can-be", 1e-9)):
        yield Draft("target_raises", name, EDGE, inputs, {"allowed": allowed, "most": 12.0}, compare=SUMS)
    nothing = {"errors": np.zeros(2), "sizes": np.array([1, 2], np.int64)}
    yield Draft("target_raises", "nothing-seen", EDGE, nothing, {"allowed": 0.01, "most": 12.0}, compare=SUMS)
    bad = {"errors": np.array([-1.0]), "sizes": np.array([1], np.int64)}
    yield Draft("target_raises", "negative-error", REFUSED, bad, {"allowed": 0.01, "most": 12.0}, "InvalidArgument")
    for name, allowed, most in (("nothing-allowed", 0.0, 12.0), ("negative-most", 0.01, -1.0)):
        yield Draft("target_raises", name, REFUSED, inputs, {"allowed": allowed, "most": most}, "InvalidArgument")


def leavings() -> Iterator[Draft]:
    """Weights that stay as they are."""
    errors, sizes = np.array([0.5, 0.4, 0.02, 0.0, 0.1]), np.array([10, 40, 30, 20, 8192], np.int64)
    costs = 26.0 * sizes
    inputs: dict[str, Array | Drawn] = {"errors": errors, "sizes": sizes, "costs": costs}
    for name, allowed, most in (("some-worth-it", 0.0625, 12.0), ("out-of-reach", 0.005, 12.0), ("none", 4.0, 12.0)):
        yield Draft("too_coarse", name, VALID, inputs, {"allowed": allowed, "most": most})
    dear = inputs | {"costs": np.full(5, 1e9)}
    yield Draft("too_coarse", "too-dear", VALID, dear, {"allowed": 0.125, "most": 12.0})
    many = inputs | {"sizes": np.full(5, 8192, np.int64)}
    yield Draft("too_coarse", "too-many-elements", EDGE, many, {"allowed": 0.005, "most": 12.0})
    free = inputs | {"costs": np.zeros(5)}
    yield Draft("too_coarse", "no-cost", REFUSED, free, {"allowed": 0.01, "most": 12.0}, "InvalidArgument")


def schedules() -> Iterator[Draft]:
    """Sparsities of layers."""
    many = rounded(2.0 ** drawn(20, exponent=-13, seed=11)), (1 + np.arange(20) % 5) * 1000
    for name, losses, sizes, sparsity, flags in (
        ("example", np.array([1.0, 100.0, 90.0]), np.array([1, 1, 2]), 0.7, VALID),
        ("drawn", *many, 0.6, VALID), ("clipped", *many, 0.9, EDGE), ("nothing", *many, 0.0, EDGE),
        ("zero-loss", np.array([0.0, 1.0, 4.0]), np.array([5, 5, 5]), 0.5, EDGE),
        ("equal", np.ones(4), np.ones(4, np.int64), 0.5, TIES), ("one", np.ones(1), np.ones(1, np.int64), 0.3, EDGE),
    ):  # fmt: skip
        inputs = {"losses": losses, "sizes": sizes.astype(np.int64)}
        yield Draft("schedule", name, flags, inputs, {"sparsity": sparsity}, compare=SUMS)
    for name, losses, sparsity in (("negative", np.array([-1.0, 1.0]), 0.5), ("nan", np.array([np.nan, 1.0]), 0.5),
                                   ("most", np.ones(2), 0.96)):  # fmt: skip
        inputs = {"losses": losses, "sizes": np.ones(2, np.int64)}
        yield Draft("schedule", name, REFUSED, inputs, {"sparsity": sparsity}, "InvalidArgument")


def rates() -> Iterator[Draft]:
    """Codes whose price is their entropy, and curves."""
    W, U = weights(8, 32, -13, seed=7).array(), factor(32, seed=3)
    outlier = W.copy()
    outlier[2, 5] = 300
    for name, weight, flags in (("drawn", W, VALID), ("zeros", 0 * W, EDGE), ("outlier", outlier, EDGE)):
        yield Draft("rate_curve", name, flags, {"weight": weight}, compare=SUMS)
    for name, weight, step, flags in (
        ("fine", W, 0.0625, VALID),
        ("coarse", W, 1.5, VALID),
        ("clipped", outlier, 0.5, EDGE),
        ("zero", 0 * W, 1.0, EDGE),
    ):
        parameters = {"step": step, "price": 0.0}
        yield Draft("quantize_rate", f"{name}-nearest", flags, {"weight": weight}, parameters)
        inputs = {"weight": weight, "factor": U}
        yield Draft("quantize_rate", name, flags, inputs, parameters, compare=SUMS)
        yield Draft("quantize_rate", f"{name}-priced", flags, inputs, {"step": step, "price": 1.0}, compare=SUMS)
    halves = (np.arange(-6, 6) / 2).reshape(2, 6).astype(np.float32)
    yield Draft("quantize_rate", "halves-nearest", TIES, {"weight": halves}, {"step": 1.0, "price": 0.0})
    for name, parameters in (("step-0", {"step": 0.0, "price": 0.0}), ("price-below-0", {"step": 1.0, "price": -1.0})):
        yield Draft("quantize_rate", name, REFUSED, {"weight": W}, parameters, "InvalidArgument")


def method_details() -> Iterator[Draft]:
    """What the cases above leave open."""
    inputs: dict[str, Array | Drawn] = {"weight": weights(8, 32, -13, seed=8), "factor": factor(32, seed=3)}
    # Of these codes some differ if nothing, a quarter or a whole count is added instead of half of one.
    yield Draft("quantize_rate", "half-a-count", VALID, inputs, {"step": 0.5, "price": 1.0}, compare=SUMS)
    demands = {**three_demands(), "gain": np.array([1.0, 16.0, 1e-5])}  # the last one is not raised to 1/32 of the mean
    for parameters in ({"target_bits": 3e4, "target_error": None}, {"target_bits": None, "target_error": 0.01}):
        name = f"faint-gain-{'bits' if parameters['target_error'] is None else 'error'}"
        yield Draft("allocate", name, EDGE, demands, parameters, compare=SUMS)


def three_demands() -> dict[str, Array]:
    """Curves, weights, gains and overheads of three tensors."""
    points = np.arange(-7, 3.25, 0.25)
    curve_step = np.stack([rounded(2.0**points) * size for size in (1.0, 0.5, 2.0)])
    one = rate_curve(weights(64, 64, -14, seed=8).array())
    bits = np.interp(points, np.log2(one.step / one.step[-1]) + 3, one.bits)
    curve_bits = np.stack([bits, bits * 1.125, bits * 0.875])
    curve_error = curve_step**2 / 12
    return {
        "curve_step": curve_step, "curve_bits": rounded(curve_bits), "curve_error": curve_error,
        "weights": np.array([4096, 1024, 16384], np.int64), "gain": np.array([1.0, 16.0, 0.25]),
        "overhead": np.array([512.0, 512.0, 0.0]),
    }  # fmt: skip


def allocation() -> Iterator[Draft]:
    """Steps for several tensors at once."""
    inputs = three_demands()
    for target in (3e4, 6e4, 1.2e5):
        yield Draft("allocate", f"bits-{target:g}", VALID, inputs, {"target_bits": target, "target_error": None},
                    compare=SUMS)  # fmt: skip
    for target in (0.001, 0.1):
        yield Draft("allocate", f"error-{target:g}", VALID, inputs, {"target_bits": None, "target_error": target},
                    compare=SUMS)  # fmt: skip
    yield Draft("allocate", "more-than-all-take", EDGE, inputs, {"target_bits": 1e9, "target_error": None},
                compare=SUMS)  # fmt: skip
    yield Draft("allocate", "fewer-than-any-step", EDGE, inputs, {"target_bits": 1.0, "target_error": None},
                compare=SUMS)  # fmt: skip
    for name, parameters in (("no-bits", {"target_bits": 0.0, "target_error": None}),
                             ("no-error", {"target_bits": None, "target_error": 0.0})):  # fmt: skip
        yield Draft("allocate", name, REFUSED, inputs, parameters, "InvalidArgument")
