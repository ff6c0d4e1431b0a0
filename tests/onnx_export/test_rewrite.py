import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_export_models import CONDITIONAL, MATMUL, NETS, as_constant_nodes, net, normal, outputs_of, save

from codec.tensor import load, store_weight
from onnx_export.calls import read_calls, write_call
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.functions import DOMAIN
from onnx_export.rewrite import (
    copy_without,
    drop_debug_metadata,
    exchange_calls,
    get_metadata,
    names_in,
    note_plan,
    remove,
    replace_by_constants,
    set_metadata,
)


def note(node, key, value="v"):
    entry = node.metadata_props.add()
    entry.key, entry.value = key, value


def test_constants_are_removed_wherever_they_are():
    for model in (
        net(MATMUL, w=normal(64, 32)),
        as_constant_nodes(net(MATMUL, w=normal(64, 32))),
        net(MATMUL.replace(" x)", " x, float[64, 32] w)"), w=normal(64, 32)),
    ):
        remove(model.graph, ["w"])
        assert not model.graph.initializer
        assert [i.name for i in model.graph.input] == ["x"]
        assert [n.op_type for n in model.graph.node] == ["MatMul"]


def test_a_copy_without_nothing_is_a_copy():
    for model in (
        net(MATMUL, w=normal(64, 32)),
        as_constant_nodes(net(MATMUL, w=normal(64, 32))),
        net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32)),
    ):
        set_metadata(model, "kept")
        model.producer_name, model.graph.doc_string = "someone", "a graph"
        before = model.SerializeToString(deterministic=True)
        assert copy_without(model, ()).SerializeToString(deterministic=True) == before
        assert not copy_without(model, {"w", "v"}).graph.initializer
        assert model.SerializeToString(deterministic=True) == before


def test_other_nodes_of_that_output_stay():
    model = net("(float[n] x) => (float[n] w) { w = Tanh(x) }")
    remove(model.graph, ["w", "x"])
    assert len(model.graph.node) == 1


def test_names_of_bodies_are_names_too():
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    assert names_in(model.graph) == {"c", "x", "w", "v", "y", "a", "b"}


def test_only_the_exporters_debugging_notes_are_dropped():
    model = net(MATMUL, w=normal(64, 32))
    note(model.graph.node[0], "pkg.torch.onnx.stack_trace", "File ...")
    note(model.graph.node[0], "pkg.torchvision", "kept")
    note(model.graph.node[0], "mine")
    before = len(model.SerializeToString())
    assert drop_debug_metadata(model) == before - len(model.SerializeToString()) > 0
    assert [e.key for e in model.graph.node[0].metadata_props] == ["pkg.torchvision", "mine"]
    assert drop_debug_metadata(model) == 0


def test_debugging_notes_inside_bodies_are_dropped():
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    plain = model.SerializeToString()
    note(model.graph.node[0].attribute[1].g.node[0], "pkg.torch.onnx.stack_trace", "File ...")
    assert drop_debug_metadata(model) > 0
    assert model.SerializeToString() == plain


def test_metadata_are_added_to_the_others():
    model = onnx.ModelProto()
    note(model, "author")
    set_metadata(model, "{}")
    assert [(e.key, e.value) for e in model.metadata_props] == [("author", "v"), ("tansor", "{}")]


def test_metadata_are_replaced_and_read():
    model = onnx.ModelProto()
    assert get_metadata(model) == {}
    set_metadata(model, '{"recipe": "rate"}')
    note_plan(model, "mixed", ["a"])
    assert get_metadata(model) == {"recipe": "rate", "mode": "mixed", "resident": ["a"]}
    note_plan(model, "streaming", [])
    assert get_metadata(model) == {"recipe": "rate", "mode": "streaming"}
    assert len(model.metadata_props) == 1


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A compressed model of three calls."""
    folder = tmp_path_factory.mktemp("deep")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


def test_some_calls_become_constants_and_the_others_stay(deep):
    model = read_model(deep)
    expected = outputs_of(model)[0]
    stored = {name: tensor for name, tensor, _ in read_calls(model)}
    for names, left in ((["w2"], {"w1", "w3"}), (["w1", "w3"], set())):
        replace_by_constants(model, [numpy_helper.from_array(load(stored[name]), name) for name in names], names)
        onnx.checker.check_model(model)
        assert {name for name, _, _ in read_calls(model)} == left
        assert np.allclose(outputs_of(model)[0], expected, rtol=1e-5, atol=1e-6)
        domains = {o.domain for o in model.opset_import} | {f.domain for f in model.functions}
        assert (DOMAIN in domains) == bool(left) == bool(model.metadata_props)
    assert {t.name for t in model.graph.initializer} == {"w1", "w2", "w3"}


def test_an_input_that_two_calls_share_stays_for_the_other(deep):
    model = read_model(deep)
    calls = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
    shared = calls["w1"].input[-1]
    calls["w2"].input[-1] = shared
    replace_by_constants(model, [numpy_helper.from_array(np.zeros((64, 96), np.float32), "w1")], ["w1"])
    assert shared in {t.name for t in model.graph.initializer}


def test_calls_are_exchanged_for_others_of_the_same_names(deep):
    model = read_model(deep)
    order = [node.output[0] for node in model.graph.node]
    before = {name: tensor for name, tensor, _ in read_calls(model)}
    other = store_weight(np.full((96, 64), 3, np.uint8), np.uint8([1]), np.float32([0.5]), "float32")
    exchange_calls(model, {"w2": write_call("w2", other)})
    onnx.checker.check_model(model)
    after = {name: tensor for name, tensor, _ in read_calls(model)}
    assert [node.output[0] for node in model.graph.node] == order
    assert (load(after["w2"]) == 1).all()
    assert all(np.array_equal(load(after[name]), load(before[name])) for name in ("w1", "w3"))
    assert "ConstantLinear" in {f.name for f in model.functions}
    inputs = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= inputs
    outputs_of(model)
