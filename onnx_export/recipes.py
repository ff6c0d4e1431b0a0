"""Recipes: what is done to which weights.

``lossless``  already quantized tensors are coded without changing a value; floats are copied
``double``    floats are scaled, quantized to INT8, pruned and coded; what is already quantized is coded

A table read by Gather feeds the whole network unattenuated and gets a finer scale than a layer whose error
averages out; the figures behind the targets are in docs/decisions.md.
"""

from dataclasses import dataclass, replace

from refimpl.errors import InvalidArgument
from refimpl.pipeline import LayerSettings


@dataclass(frozen=True)
class Recipe:
    """Settings by kind of weight; None leaves floats as they are."""

    name: str
    layer: LayerSettings | None  # read by MatMul, Gemm and recurrent layers
    table: LayerSettings | None  # read by Gather
    kernel: LayerSettings | None  # read by Conv and ConvTranspose


EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
RECIPES = {
    "double": Recipe(
        "double",
        layer=LayerSettings(bits=8, exponents=EXPONENTS, target_sqnr_db=21.5, sparsity=0.1),
        table=LayerSettings(bits=8, exponents=EXPONENTS, target_sqnr_db=32.0),
        kernel=LayerSettings(bits=8, granularity="channel", target_sqnr_db=30.0),
    ),
    "lossless": Recipe("lossless", layer=None, table=None, kernel=None),
}


def recipe(name: str, sparsity: float | None = None) -> Recipe:
    """A recipe by name, its layers' sparsity replaced if one is given.

    Raises
    ------
    InvalidArgument
        Unknown name, or a sparsity where nothing is pruned.

    Examples
    --------
    >>> recipe("double", sparsity=0.3).layer.sparsity
    0.3
    """
    if name not in RECIPES:
        raise InvalidArgument(f"recipe is {name!r}, allowed are {', '.join(RECIPES)}")
    chosen = RECIPES[name]
    if sparsity is None:
        return chosen
    if chosen.layer is None:
        raise InvalidArgument(f"the recipe {name} prunes nothing: --sparsity does not apply")
    if not 0 <= sparsity < 1:
        raise InvalidArgument(f"sparsity is {sparsity}, allowed are numbers from 0 to below 1")
    assert chosen.kernel is not None
    return replace(
        chosen, layer=replace(chosen.layer, sparsity=sparsity), kernel=replace(chosen.kernel, sparsity=sparsity)
    )
