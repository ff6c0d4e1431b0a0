import onnx
from onnx_export_models import CONDITIONAL, MATMUL, as_constant_nodes, net, normal

from onnx_export.rewrite import copy_without, drop_debug_metadata, names_in, remove, set_metadata


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
