import pytest

from onnx_export.recipes import RECIPES, raise_targets, recipe
from refimpl.errors import InvalidArgument


def test_recipes_are_known_by_name():
    assert {name: recipe(name) for name in RECIPES} == RECIPES
    assert all(chosen.name == name for name, chosen in RECIPES.items())
    assert recipe("lossless").weights is None
    with pytest.raises(InvalidArgument, match="recipe is 'x', allowed are aggressive, double, lossless, rate"):
        recipe("x")


@pytest.mark.parametrize("sparsity", [0, 0.25, 0.999])
def test_a_sparsity_is_for_layers_not_for_tables_and_kernels(sparsity):
    weights, before = recipe("double", sparsity).weights, RECIPES["double"].weights
    assert weights.layer.sparsity == sparsity
    assert (weights.table, weights.kernel) == (before.table, before.kernel)
    assert weights.layer.target_sqnr_db == before.layer.target_sqnr_db


@pytest.mark.parametrize("sparsity", [-1e-9, 1, 1.5, float("nan"), float("inf")])
def test_other_sparsities_are_refused(sparsity):
    with pytest.raises(InvalidArgument, match="sparsity is"):
        recipe("double", sparsity)


def test_what_prunes_nothing_takes_no_sparsity():
    with pytest.raises(InvalidArgument, match="lossless prunes nothing"):
        recipe("lossless", 0.0)


def test_targets_are_raised_together():
    before, after = RECIPES["double"].weights, raise_targets(RECIPES["double"], 1.5).weights
    for part in ("layer", "table", "kernel"):
        assert getattr(after, part).target_sqnr_db == getattr(before, part).target_sqnr_db + 1.5
    assert raise_targets(RECIPES["lossless"], 1.5) == RECIPES["lossless"]


def test_only_rate_has_a_target():
    assert recipe("rate", target_bits=3).rate.target_bits == 3
    assert recipe("rate", max_loss_percent=1).rate.max_loss_percent == 1
    for name in ("double", "aggressive", "lossless"):
        with pytest.raises(InvalidArgument, match="for rate"):
            recipe(name, target_bits=3)


def test_a_sparsity_is_that_of_the_layers():
    assert recipe("aggressive", sparsity=0.8).prune.sparsity == 0.8
    with pytest.raises(InvalidArgument, match="prunes nothing"):
        recipe("rate", sparsity=0.5)


def test_a_budget_is_of_double_alone():
    assert recipe("double", prune_budget="global").prune_budget == "global"
    assert recipe("double").prune_budget == recipe("double", prune_budget="layer").prune_budget == "layer"
    for name in ("rate", "aggressive", "lossless"):
        with pytest.raises(InvalidArgument, match="for double"):
            recipe(name, prune_budget="global")
    with pytest.raises(InvalidArgument, match="prune_budget is 'row'"):
        recipe("double", prune_budget="row")


def test_activations_are_quantized_by_double_alone():
    chosen = recipe("double", activations="int8")
    assert chosen.quantizes_activations
    assert chosen.weights.layer.activation_bits == 8
    assert not recipe("double").quantizes_activations
    assert raise_targets(chosen, 3.0).quantizes_activations
    for name in ("rate", "aggressive", "lossless"):
        with pytest.raises(InvalidArgument, match="for double"):
            recipe(name, activations="int8")
