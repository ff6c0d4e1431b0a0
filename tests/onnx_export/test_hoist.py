from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_export_models import CONDITIONAL, LOOPED, as_constant_nodes, net, normal, session

from onnx_export.hoist import hoist_weights
from onnx_export.weights import find_inside


def with_constants_inside(**branches):
    """A conditional whose branches hold their own weight, all of one name: branch -> values."""
    text = CONDITIONAL.replace("MatMul(x, v)", "MatMul(x, w)")
    model = net(text)
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.append(numpy_helper.from_array(branches[attribute.name], "w"))
    return model


def outputs(model):
    x = normal(3, 64, seed=9)
    return [session(model).run(None, {"c": np.array(c), "x": x})[0] for c in (True, False)]


@pytest.mark.parametrize("in_node", [False, True])
def test_weights_of_one_name_in_two_branches_stay_two(in_node):
    first, second = normal(64, 32, seed=1), normal(64, 32, seed=2)
    model = with_constants_inside(then_branch=first, else_branch=second)
    if in_node:
        for attribute in model.graph.node[0].attribute:
            as_constant_nodes(SimpleNamespace(graph=attribute.g))
    before = outputs(model)
    hoist_weights(model)
    onnx.checker.check_model(model, full_check=True)
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert set(found) == {"w", "w_"}
    assert {a.tobytes() for a in found.values()} == {first.tobytes(), second.tobytes()}
    assert find_inside(model) == []
    assert [a.tobytes() for a in outputs(model)] == [a.tobytes() for a in before]


def test_weights_of_nested_bodies_are_hoisted_all_the_way():
    inner = "z = If(c) <then_branch = p () => (float[n, 32] q) { q = MatMul(x, w) }, else_branch = r () => (float[n, 32] s) { s = MatMul(x, v) }>"  # noqa: E501
    model = net(CONDITIONAL.replace("a = MatMul(x, w)", f"{inner} a = Identity(z)"), v=normal(64, 32, seed=5))
    nested = model.graph.node[0].attribute[0].g.node[0].attribute[0].g
    nested.initializer.append(numpy_helper.from_array(normal(64, 32), "w"))
    before = outputs(model)
    hoist_weights(model)
    assert [t.name for t in model.graph.initializer] == ["v", "w"]
    assert [a.tobytes() for a in outputs(model)] == [a.tobytes() for a in before]


def test_a_name_that_is_taken_elsewhere_is_not_taken_again():
    model = with_constants_inside(then_branch=normal(64, 32), else_branch=normal(64, 32, seed=1))
    model.graph.initializer.append(numpy_helper.from_array(normal(2, 2), "w_"))
    hoist_weights(model)
    assert [t.name for t in model.graph.initializer] == ["w_", "w__", "w"]


def test_small_tensors_and_what_a_body_returns_stay():
    model = net(CONDITIONAL.replace("MatMul(x, v)", "Add(k, small)").replace("n,", "64,"), w=normal(64, 32))
    body = model.graph.node[0].attribute[1].g
    body.initializer.append(numpy_helper.from_array(normal(1, 32), "small"))
    body.initializer.append(numpy_helper.from_array(normal(64, 32), "k"))
    returned = model.graph.node[0].attribute[0].g
    del returned.node[:]
    returned.initializer.append(numpy_helper.from_array(normal(64, 32, seed=4), "a"))
    hoist_weights(model)
    assert {t.name for t in model.graph.initializer} == {"w", "k"}
    assert {name for name, _ in find_inside(model)} == {"small", "a"}


def test_a_model_without_bodies_is_left_alone():
    model = net(LOOPED, w=normal(64, 64))
    before = model.SerializeToString()
    hoist_weights(model)
    assert model.SerializeToString() == before
