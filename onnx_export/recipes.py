"""Recipes: what is done to which weights.

``lossless``  already quantized tensors are coded without changing a value; floats are copied
``double``    floats are scaled, quantized to INT8, pruned and coded; what is already quantized is coded

How fine a weight must be depends on who reads it. A table's error enters the network unattenuated; a
convolution's output channels are normalized one by one, so that each needs a scale of its own, chosen by
the weights alone. The targets
were chosen on calibration text, see docs/decisions.md.
"""

from dataclasses import dataclass, replace

from refimpl.errors import InvalidArgument
from refimpl.pipeline import LayerSettings


@dataclass(frozen=True)
class WeightSettings:
    """Settings by the operator that reads a weight."""

    layer: LayerSettings  # MatMul, Gemm, recurrent layers
    table: LayerSettings  # Gather
    kernel: LayerSettings  # Conv, ConvTranspose


@dataclass(frozen=True)
class Recipe:
    """A name and what it does to float weights; None leaves them as they are."""

    name: str
    weights: WeightSettings | None


UNCALIBRATED_RAISE_DB = 6.0  # one bit more where nothing is known of the activations
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
DOUBLE = WeightSettings(
    layer=LayerSettings(exponents=EXPONENTS, target_sqnr_db=22.0, sparsity=0.1),
    table=LayerSettings(exponents=EXPONENTS, target_sqnr_db=32.0),
    kernel=LayerSettings(granularity="channel", target_sqnr_db=36.0),
)
RECIPES = {"double": Recipe("double", DOUBLE), "lossless": Recipe("lossless", None)}


def recipe(name: str, sparsity: float | None = None) -> Recipe:
    """A recipe by name; a sparsity replaces that of its layers and kernels, tables are never pruned.

    Raises
    ------
    InvalidArgument
        Unknown name, or a sparsity out of range or where nothing is pruned.

    Examples
    --------
    >>> recipe("double", sparsity=0.3).weights.layer.sparsity
    0.3
    """
    if name not in RECIPES:
        raise InvalidArgument(f"recipe is {name!r}, allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[name]
    if sparsity is None:
        return chosen
    if chosen.weights is None:
        raise InvalidArgument(f"the recipe {name} prunes nothing: --sparsity does not apply")
    if not 0 <= sparsity < 1:
        raise InvalidArgument(f"sparsity is {sparsity}, allowed are numbers from 0 to below 1")
    weights = replace(
        chosen.weights,
        layer=replace(chosen.weights.layer, sparsity=sparsity),
        kernel=replace(chosen.weights.kernel, sparsity=sparsity),
    )
    return replace(chosen, weights=weights)


def raise_targets(chosen: Recipe, decibels: float) -> Recipe:
    """A recipe with every target raised.

    Examples
    --------
    >>> raise_targets(recipe("double"), 3.0).weights.layer.target_sqnr_db
    25.0
    """

    def finer(layer: LayerSettings) -> LayerSettings:
        if layer.target_sqnr_db is None:
            return layer
        return replace(layer, target_sqnr_db=layer.target_sqnr_db + decibels)

    weights = chosen.weights
    if weights is None:
        return chosen
    return replace(chosen, weights=WeightSettings(finer(weights.layer), finer(weights.table), finer(weights.kernel)))
