import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_export_models import NETS, OPT, arrays_of, feeds_for, net, normal, outputs_of, save, session

from codec.tensor import load
from onnx_export.calls import read_calls
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.functions import DOMAIN
from onnx_export.session import load_session
from refimpl.errors import ExportError, InvalidArgument


@pytest.mark.parametrize("case", NETS)
def test_a_decompressed_model_is_plain_and_has_the_dequantized_weights(tmp_path, case):
    source, output, back = save(NETS[case](), tmp_path / "m.onnx"), tmp_path / "o.onnx", tmp_path / "b.onnx"
    compress(source, output)
    told = []
    decompress(output, back, progress=lambda *step: told.append(step))
    model, weights = onnx.load(back), {name: load(stored) for name, stored, _ in read_calls(onnx.load(output))}
    onnx.checker.check_model(model, full_check=True)
    assert b"tansor" not in back.read_bytes()
    assert DOMAIN.encode() not in back.read_bytes()
    assert not model.functions
    arrays, before = arrays_of(model), arrays_of(onnx.load(source))
    assert all(arrays[name].tobytes() == weight.tobytes() for name, weight in weights.items())
    assert all(arrays[name].dtype == before[name].dtype for name in weights)
    assert arrays.keys() <= before.keys()
    assert all(arrays[name].tobytes() == before[name].tobytes() for name in arrays.keys() - weights.keys())
    assert told[-1] == ("decompress", len(weights), len(weights))
    feeds = feeds_for(session(source))
    for a, b in zip(outputs_of(back, feeds), load_session(output).run(None, feeds), strict=True):
        assert np.array_equal(a, b)


def test_the_graph_is_otherwise_as_it_was(tmp_path):
    compress(OPT, tmp_path / "o.onnx")
    decompress(tmp_path / "o.onnx", tmp_path / "b.onnx")
    before, after = onnx.load(OPT), onnx.load(tmp_path / "b.onnx")

    def described(model):
        return [(n.op_type, list(n.input), list(n.output), list(n.attribute)) for n in model.graph.node]

    views = [n for n in after.graph.node if n.name.endswith(".tied")]
    assert described(before) == described(after)[len(views) :]
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert list(before.opset_import) == list(after.opset_import)
    assert len(after.SerializeToString()) < len(before.SerializeToString())


def test_a_round_trip_without_loss_gives_the_same_tensors(tmp_path):
    model = net("(float[n, 64] x) => (float[n, 1024] y) { f = DequantizeLinear(w, s) y = MatMul(x, f) }",
                w=(normal(64, 1024) ** 3 * 1e5).clip(-128, 127).astype(np.int8), s=np.float32(0.1))  # fmt: skip
    source = save(model, tmp_path / "m.onnx")
    assert len(compress(source, tmp_path / "o.onnx", recipe="lossless")["tensors"]) == 1
    decompress(tmp_path / "o.onnx", tmp_path / "b.onnx")
    before, after = arrays_of(model), arrays_of(onnx.load(tmp_path / "b.onnx"))
    assert before.keys() == after.keys()
    assert all(before[n].tobytes() == after[n].tobytes() and before[n].dtype == after[n].dtype for n in before)
    # It can be compressed again, to the same file.
    compress(tmp_path / "b.onnx", tmp_path / "p.onnx", recipe="lossless")
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in onnx.load(tmp_path / "p.onnx").graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in onnx.load(tmp_path / "o.onnx").graph.initializer
    }


def test_a_plain_model_passes_or_is_refused_in_words(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    try:
        decompress(source, tmp_path / "b.onnx")
    except InvalidArgument:
        assert not (tmp_path / "b.onnx").exists()
    else:
        assert np.array_equal(outputs_of(source)[0], outputs_of(tmp_path / "b.onnx")[0])


def test_outputs_are_kept_unless_forced(tmp_path):
    source, output, back = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx", tmp_path / "b.onnx"
    compress(source, output)
    back.write_bytes(b"mine")
    with pytest.raises(InvalidArgument, match="--force"):
        decompress(output, back)
    assert back.read_bytes() == b"mine"
    decompress(output, back, force=True)
    onnx.checker.check_model(onnx.load(back))
    with pytest.raises(InvalidArgument, match=r"\.safetensors"):
        decompress(output, tmp_path / "b.safetensors")
    with pytest.raises(ExportError, match=r"missing\.onnx"):
        decompress(tmp_path / "missing.onnx", tmp_path / "c.onnx")
    with pytest.raises(ExportError, match="does not exist"):
        decompress(output, tmp_path / "nowhere" / "c.onnx")


def test_the_input_is_not_overwritten_by_what_it_holds(tmp_path):
    compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    before = (tmp_path / "o.onnx").read_bytes()
    with pytest.raises(InvalidArgument):
        decompress(tmp_path / "o.onnx", tmp_path / "o.onnx")
    with pytest.raises(InvalidArgument, match="same file"):
        decompress(tmp_path / "o.onnx", tmp_path / "o.onnx", force=True)
    assert (tmp_path / "o.onnx").read_bytes() == before
