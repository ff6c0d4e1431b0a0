"""Targets of weights by what their errors cost at the model's outputs: measured once, met in a few tries."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from codec.tensor import load
from onnx_export.calibration import Batch
from onnx_export.probe import OUTPUT_SQNR_DB, STEP_DB, TOLERANCE_DB, TRIES, WORTHWHILE
from onnx_export.recipes import raise_targets
from onnx_export.sensitivity import Probe
from onnx_export.tensors import Options, Result
from onnx_export.ties import Tie
from onnx_export.weights import Constant
from refimpl.targets import target_raises, too_coarse

SEEN_BYTES = 1 << 20  # of outputs, by which what a weight's error costs is known well enough
BIT_DB = 20 * np.log10(2)  # what a bit brings where codes are fine
Coded = Mapping[str, Result]


@dataclass(frozen=True)
class Try:
    """All weights compressed once."""

    results: Coded
    sqnr: float  # of the outputs, dB
    how: str  # for the report
    left: frozenset[str] = frozenset()  # weights that stay as they are

    @property
    def reached(self) -> bool:
        """Whether the outputs keep what they should."""
        return self.sqnr >= OUTPUT_SQNR_DB - TOLERANCE_DB

    @property
    def bits(self) -> float:
        """Stored for an element."""
        lines = [
            (line, line.original_bytes if call is None else line.stored_bytes)
            for _, call, line in self.results.values()
        ]
        return 8 * sum(size for _, size in lines) / max(sum(line.elements for line, _ in lines), 1)

    def rank(self) -> tuple[bool, float]:
        """What reaches the aim before what does not; then bits, or dB less what its bits should bring."""
        return (False, self.bits) if self.reached else (True, WORTHWHILE * BIT_DB * self.bits - self.sqnr)


def with_raises(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    ties: Mapping[str, Tie],
    feeds: Iterable[Batch],
    results: Coded,
    options: Options,
    prune_less: bool,
    tell: Callable[[int, int], None],
) -> Options:
    """Options with targets that let every element of the weights add as much error at the outputs as any other.

    Weights whose codes are too coarse for that, and few enough, are left as they are.

    Parameters
    ----------
    model : onnx.ModelProto
    constants : sequence of Constant
        Its weights.
    ties : mapping
        Tied weight -> what it equals.
    feeds : iterable of mapping
        Inputs on which outputs are compared.
    results : mapping
        The weights compressed by the recipe's own targets.
    options : Options
        Whose recipe has settings of weights.
    prune_less : bool
        Whether a layer's share to be pruned falls as its target rises, so that both kinds of error fall alike.
    tell : callable
        Told (weights measured, weights).
    """
    weights = options.recipe.weights
    assert weights is not None, "a recipe that quantizes"
    coded = [c for c in constants if c.is_float and results[c.name][1] is not None]
    probe = Probe(model, coded, ties, feeds, options.scratch, SEEN_BYTES)
    errors = []
    for i, c in enumerate(coded):
        errors.append(probe.error({c.name: load(results[c.name][0])}) or 0.0)
        tell(i + 1, len(coded))
    allowed, sizes = 10 ** (-OUTPUT_SQNR_DB / 10), [c.array.size for c in coded]
    lines = [results[c.name][2] for c in coded]
    left = too_coarse(errors, sizes, [8 * max(t.original_bytes - t.stored_bytes, 1) for t in lines], allowed)
    rest = np.flatnonzero(~left).tolist()
    raises = target_raises([errors[i] for i in rest], [sizes[i] for i in rest], allowed)
    named = {coded[i].name: float(r) for i, r in zip(rest, np.round(raises, 2), strict=True)}
    if prune_less:  # what the p smallest weights are worth grows about as p**3
        weights = replace(weights, shares={n: weights.layer.sparsity * 10 ** (-r / 30) for n, r in named.items()})
    weights = replace(weights, raises=named, left=frozenset(c.name for c in coded) - named.keys())
    return replace(options, recipe=replace(options.recipe, weights=weights))


def meet_target(
    make: Callable[[Options], Coded], measure: Callable[[Coded], float | None], options: Options
) -> Iterator[Try]:
    """Compress with all targets raised, or lowered, until the outputs keep what they should and hardly more."""
    weights = options.recipe.weights
    assert weights is not None, "a recipe that quantizes"
    raised, own = 0.0, weights.raises.values()
    for _ in range(1 + TRIES):
        results = make(replace(options, recipe=raise_targets(options.recipe, raised)))
        sqnr = measure(results) or 0.0
        ends = [f"{end(own, default=0.0) + raised:+.1f}" for end in (min, max)]
        yield Try(results, sqnr, f", with targets of weights moved by {' to '.join(ends)} dB", weights.left)
        if abs(sqnr - OUTPUT_SQNR_DB) <= TOLERANCE_DB:
            return
        raised += float(np.clip(OUTPUT_SQNR_DB - sqnr, -STEP_DB, STEP_DB))
