import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx_export_models import integers, net, normal, outputs_of, save
from strategies import rng

from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.ties import Tie, find_ties
from onnx_export.weights import Constant, Reader

LANGUAGE_MODEL = "(int64[n] i) => (float[n, 96] y) { e = Gather(w, i) h = Tanh(e) y = MatMul(h, v) }"


def constant(name, array, *readers):
    return Constant(name, array, False, readers, ())


def test_equal_and_transposed_tensors_are_ties():
    array = normal(40, 30)
    constants = [constant("a", array), constant("b", array.copy()), constant("c", array.T), constant("d", -array)]
    stored, ties = find_ties(constants)
    assert [c.name for c in stored] == ["a", "d"]
    assert ties == {"b": Tie("a", False), "c": Tie("a", True)}


def test_a_symmetric_matrix_is_tied_as_it_is():
    array = normal(30, 30) + normal(30, 30).T
    assert find_ties([constant("a", array), constant("b", array.T)])[1] == {"b": Tie("a", False)}


def test_what_differs_in_type_or_rank_is_no_tie():
    array = integers(6, 6)
    different = [array, array.view(np.uint8), array.astype(np.float32), array.reshape(36), array.reshape(1, 6, 6)]
    stored, ties = find_ties([constant(str(i), a) for i, a in enumerate(different)])
    assert len(stored) == 5
    assert ties == {}


def test_tensors_of_higher_rank_are_tied_only_as_they_are():
    array = normal(4, 5, 6)
    assert find_ties([constant("a", array), constant("b", array), constant("c", array.T)])[1] == {"b": Tie("a", False)}


def test_the_stored_tensor_has_the_readers_of_its_ties():
    array = normal(40, 30)
    first, second, third = Reader("Gather", 1, None, -1), Reader("MatMul", 0, "x", -1), Reader("MatMul", 0, "z", -1)
    (stored,), _ = find_ties([constant("a", array, first), constant("b", array.T, second), constant("c", array, third)])
    assert stored.readers == (first, Reader("MatMul", 1, "x", -1))  # c reads along the other axis
    assert stored.input_axis == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_ties_are_stored_once_and_change_nothing(tmp_path, dtype, transposed):
    table = normal(96, 96, dtype=dtype)
    text = LANGUAGE_MODEL.replace("Gather(w, i)", "Gather(f, i)").replace("MatMul(h, v)", "MatMul(h, g)")
    text = text.replace("{ e", "{ f = Cast <to = 1> (w) g = Cast <to = 1> (v) e")
    untied = net(text, w=table, v=table.T if transposed else table)
    source, output, plain = save(untied, tmp_path / "m.onnx"), tmp_path / "o.onnx", tmp_path / "p.onnx"
    report = compress(source, output)
    assert [t["name"] for t in report["tensors"]] == ["w"]
    assert "v is stored once, as w" in report["notes"]
    assert [s["name"] for s in report["skipped"]] == []
    model = onnx.load(output)
    assert [n.op_type for n in model.graph.node if n.name == "v.tied"] == ["Transpose" if transposed else "Identity"]
    # The same weights, each for itself; a product may be summed in another order where its weight is no constant.
    decompress(output, plain)
    weight = next(onnx.numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer if t.name == "w")
    alone = net(text, w=weight, v=weight.T if transposed else weight)
    tokens = {"i": rng(2).integers(0, 96, 20)}
    for path in (output, plain):
        assert np.allclose(outputs_of(path, tokens)[0], outputs_of(alone, tokens)[0], rtol=1e-5, atol=1e-7)


def test_a_tie_to_what_does_not_shrink_is_copied_too(tmp_path):
    noise = rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    text = """(float[n, 64] x) => (float[n, 64] y) { a = DequantizeLinear(w, s, z) b = DequantizeLinear(v, s, z)
        c = MatMul(x, a) y = MatMul(c, b) }"""
    source = save(net(text, w=noise, v=noise, s=np.float32(0.1), z=np.int8(0)), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", recipe="lossless")
    assert report["tensors"] == []
    assert {s["name"] for s in report["skipped"]} == {"w", "v", "s", "z"}
    assert np.array_equal(outputs_of(tmp_path / "o.onnx")[0], outputs_of(source)[0])


def test_the_bytes_of_a_tie_are_saved(tmp_path):
    table = normal(96, 96)
    tied = compress(save(net(LANGUAGE_MODEL, w=table, v=table.T), tmp_path / "a.onnx"), tmp_path / "b.onnx")
    apart = compress(save(net(LANGUAGE_MODEL, w=table, v=-table.T), tmp_path / "c.onnx"), tmp_path / "d.onnx")
    saved = apart["weights"]["stored_bytes"] - tied["weights"]["stored_bytes"]
    assert saved > 0.3 * apart["weights"]["stored_bytes"]
    assert apart["output_bytes"] - tied["output_bytes"] >= saved
