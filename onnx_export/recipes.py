"""Recipes: what is done to which weights.

``lossless``  already quantized tensors are coded without changing a value; floats are copied
``double``    floats are scaled, quantized to INT8, pruned and coded; what is already quantized is coded
``aggressive``  layers are pruned and quantized jointly with error feedback, most where the estimated loss is least;
              other floats as in ``double``; what is already quantized is coded
``rate``      floats get a uniform step each, so that the last bit buys as much in every tensor, and error
              feedback; what is already quantized is coded

How fine a weight must be depends on who reads it. A table's error enters the network unattenuated; a
convolution's output channels are normalized one by one, so that each needs a scale of its own, chosen by
the weights alone. The targets
were chosen on calibration text, see docs/decisions.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from refimpl.errors import InvalidArgument
from refimpl.pipeline import LayerSettings


@dataclass(frozen=True)
class WeightSettings:
    """Settings by the operator that reads a weight."""

    layer: LayerSettings  # MatMul, Gemm, recurrent layers
    table: LayerSettings  # Gather
    kernel: LayerSettings  # Conv, ConvTranspose
    shares: Mapping[str, float] = field(default_factory=dict)  # sparsity of layers that have one of their own
    raises: Mapping[str, float] = field(default_factory=dict)  # dB by which a weight's target is raised
    left: frozenset[str] = frozenset()  # weights that stay as they are

    def layer_of(self, name: str) -> LayerSettings:
        """Those of one matrix product."""
        own = replace(self.layer, sparsity=self.shares.get(name, self.layer.sparsity))
        return finer(own, self.raises.get(name, 0.0))

    def table_of(self, name: str) -> LayerSettings:
        """Those of one table."""
        return finer(self.table, self.raises.get(name, 0.0))

    def kernel_of(self, name: str) -> LayerSettings:
        """Those of one convolution."""
        return finer(self.kernel, self.raises.get(name, 0.0))


@dataclass(frozen=True)
class RateSettings:
    """What ends the rate recipe's search: bits if they are given, else the loss allowed, else the outputs' error."""

    target_bits: float | None = None  # per weight, every stored byte of every weight counted
    max_loss_percent: float | None = None  # of perplexity
    output_sqnr_db: float = 24.0
    price: float = 0.0  # of a bit in each rounding decision, see refimpl.rate


@dataclass(frozen=True)
class PruneSettings:
    """What the aggressive recipe does to layers."""

    sparsity: float = 0.7  # mean over all weights of layers
    bits: int = 4


@dataclass(frozen=True)
class Recipe:
    """A name and what it does to float weights; without any settings they are left as they are."""

    name: str
    weights: WeightSettings | None
    prune_budget: Literal["layer", "global"] = "layer"  # what the sparsity of layers is a share of
    rate: RateSettings | None = None
    prune: PruneSettings | None = None

    @property
    def quantizes_activations(self) -> bool:
        """Whether the layers' inputs are quantized too."""
        return self.weights is not None and self.weights.layer.activation_bits is not None

    @property
    def keeps_floats(self) -> bool:
        """Whether it changes no float."""
        return self.weights is None and self.rate is None


UNCALIBRATED_RAISE_DB = 6.0  # one bit more where nothing is known of the activations
MOST_BITS = 32  # where much is copied as float32, a target may be nearly that
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
DOUBLE = WeightSettings(
    layer=LayerSettings(exponents=EXPONENTS, target_sqnr_db=22.0, sparsity=0.1, outliers=("columns", "rows")),
    table=LayerSettings(exponents=EXPONENTS, target_sqnr_db=32.0, outliers=("columns", "rows")),
    kernel=LayerSettings(granularity="channel", target_sqnr_db=36.0),
)
ACTIVATIONS = {"int8": 8}  # name -> bits
BUDGETS: dict[str, Literal["layer", "global"]] = {"layer": "layer", "global": "global"}
RECIPES = {
    "aggressive": Recipe("aggressive", DOUBLE, prune=PruneSettings()),
    "double": Recipe("double", DOUBLE),
    "lossless": Recipe("lossless", None),
    "rate": Recipe("rate", None, rate=RateSettings()),
}


def recipe(
    name: str,
    sparsity: float | None = None,
    target_bits: float | None = None,
    max_loss_percent: float | None = None,
    activations: str | None = None,
    prune_budget: str | None = None,
) -> Recipe:
    """A recipe by name; a sparsity replaces that of its layers, tables and kernels are never pruned.

    Raises
    ------
    InvalidArgument
        Unknown name, a number out of range, or one that the recipe has no use for.

    Examples
    --------
    >>> recipe("double", sparsity=0.3).weights.layer.sparsity
    0.3
    """
    if name not in RECIPES:
        raise InvalidArgument(f"recipe is {name!r}, allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[name]
    if target_bits is not None or max_loss_percent is not None:
        chosen = replace(chosen, rate=rate_settings(chosen, target_bits, max_loss_percent))
    if activations is not None:
        chosen = with_activations(chosen, activations)
    if prune_budget is not None:
        if prune_budget not in BUDGETS:
            raise InvalidArgument(f"prune_budget is {prune_budget!r}, allowed are {', '.join(BUDGETS)}")
        if chosen.weights is None or chosen.prune is not None:
            raise InvalidArgument(f"the recipe {name} has no budget to share out: --prune-budget is for double")
        chosen = replace(chosen, prune_budget=BUDGETS[prune_budget])
    if sparsity is None:
        return chosen
    if chosen.weights is None:
        raise InvalidArgument(f"the recipe {name} prunes nothing: --sparsity does not apply")
    if not 0 <= sparsity < 1:
        raise InvalidArgument(f"sparsity is {sparsity}, allowed are numbers from 0 to below 1")
    if chosen.prune is not None:
        return replace(chosen, prune=replace(chosen.prune, sparsity=sparsity))
    weights = replace(chosen.weights, layer=replace(chosen.weights.layer, sparsity=sparsity))
    return replace(chosen, weights=weights)


def with_activations(chosen: Recipe, activations: str) -> Recipe:
    """A recipe that quantizes activations too.

    Integer products take scales of output channels out of their sums, not scales of input channels.
    """
    if activations not in ACTIVATIONS:
        raise InvalidArgument(f"activations is {activations!r}, allowed are {', '.join(ACTIVATIONS)}")
    if chosen.weights is None or chosen.prune is not None:
        raise InvalidArgument(f"the recipe {chosen.name} leaves activations alone: --activations is for double")
    layer = replace(chosen.weights.layer, activation_bits=ACTIVATIONS[activations], outliers=("rows",))
    return replace(chosen, weights=replace(chosen.weights, layer=layer))


def rate_settings(chosen: Recipe, target_bits: float | None, max_loss_percent: float | None) -> RateSettings:
    """The rate settings of a recipe with the caller's end of the search."""
    if chosen.rate is None:
        raise InvalidArgument(f"the recipe {chosen.name} has no target: --target-bits and --max-loss are for rate")
    if target_bits is not None and max_loss_percent is not None:
        raise InvalidArgument("--target-bits and --max-loss are two ways to say one thing: give one of them")
    if target_bits is not None and not 0 < target_bits <= MOST_BITS:
        raise InvalidArgument(f"target_bits is {target_bits}, allowed are numbers above 0 up to {MOST_BITS}")
    if max_loss_percent is not None and not 0 < max_loss_percent < float("inf"):
        raise InvalidArgument(f"max_loss is {max_loss_percent}, it must be positive")
    return replace(chosen.rate, target_bits=target_bits, max_loss_percent=max_loss_percent)


def raise_targets(chosen: Recipe, decibels: float) -> Recipe:
    """A recipe with every target raised.

    Examples
    --------
    >>> raise_targets(recipe("double"), 3.0).weights.layer.target_sqnr_db
    25.0
    """
    weights = chosen.weights
    if weights is None:
        return chosen
    layer, table, kernel = (finer(part, decibels) for part in (weights.layer, weights.table, weights.kernel))
    return replace(chosen, weights=replace(weights, layer=layer, table=table, kernel=kernel))


def finer(settings: LayerSettings, decibels: float) -> LayerSettings:
    """Settings whose target, if there is one, is raised."""
    if settings.target_sqnr_db is None:
        return settings
    return replace(settings, target_sqnr_db=settings.target_sqnr_db + decibels)
