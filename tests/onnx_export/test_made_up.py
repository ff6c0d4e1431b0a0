import numpy as np
import pytest
from onnx import TensorProto
from onnx_export_models import NETS, OPT, net, normal, save, session
from strategies import rng

from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.made_up import BATCH, COUNT, LENGTH, make_up, table_rows
from refimpl.errors import ExportError


@pytest.mark.parametrize("name", sorted(n for n in NETS if n not in ("opset 9", "conv", "grouped")))
def test_models_run_on_what_is_made_up(name):
    model = NETS[name]()
    opened = session(model)
    batches = make_up(model, opened)
    assert len(batches) == COUNT
    for batch in batches:
        opened.run(None, batch)


def test_rows_are_looked_up_within_the_smallest_table():
    graph = """(int64[n] i) => (float[n, 32] y) {
        c = Cast <to = 6> (i) a = Gather(w, c) b = Gather(v, i) y = Add(a, b) }"""
    model = net(graph, w=normal(64, 32), v=normal(50, 32))
    assert table_rows(model, "i") == 50
    values = np.concatenate([feeds["i"] for feeds in make_up(model, session(model))])
    assert 0 <= values.min() < 10 < 40 < values.max() < 50


def test_free_dimensions_of_one_name_are_alike():
    graph = "(float[b, 16] x, float[2, b, 16] h) => (float[2, b, 16] y) { y = Add(x, h) }"
    (first, *_) = make_up(model := net(graph), session(model))
    assert first["x"].shape == (BATCH, 16)
    assert first["h"].shape == (2, BATCH, 16)


def test_other_integers_are_what_the_model_runs_with():
    """Parts that have to make up the whole sequence."""
    model = net("(float[n, s] x, int64[1] length) => (float[n, m] y) { y = Split <axis = 1> (x, length) }")
    assert make_up(model, session(model))[0]["length"].tolist() == [LENGTH]


def test_a_model_that_nothing_fits_says_so():
    model = net("(float[n, 3] x) => (float[n, 4] y) { y = MatMul(x, w) }", w=normal(5, 4))
    with pytest.raises(Exception, match=r"."):
        session(model)  # ONNX Runtime sees it at once; with a free dimension only in a run:
    model = net("(float[n, s] x) => (float[n, 4] y) { y = MatMul(x, w) }", w=normal(5, 4))
    with pytest.raises(ExportError, match="cannot run"):
        make_up(model, session(model))


def test_words_cannot_be_made_up():
    model = net("(string[n] x) => (string[n] y) { y = Identity(x) }")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.STRING
    with pytest.raises(ExportError, match="input x"):
        make_up(model, session(model))


def test_without_calibration_outputs_are_checked_on_made_up_inputs(tmp_path):
    notes = " ".join(compress(OPT, tmp_path / "o.onnx")["notes"])
    assert "dB on made-up inputs" in notes
    # Small differences of large numbers: no 8 bits are fine enough.
    graph = "(float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w) b = MatMul(x, c) y = Sub(a, b) }"
    w = normal(64, 64)
    near = (w * (1 + 1e-3 * rng(3).standard_normal((64, 64)))).astype(np.float32)
    source = save(net(graph, w=w, c=near), tmp_path / "m.onnx")
    notes = " ".join(compress(source, tmp_path / "s.onnx")["notes"])
    assert "made-up inputs" in notes
    assert "WARNING: that is below 24 dB" in notes


def test_outputs_that_cannot_be_checked_are_a_warning(tmp_path):
    model = net("(float[n, s] x) => (float[n, 40] y) { y = MatMul(x, w) }", w=normal(40, 40))
    notes = " ".join(compress(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx")["notes"])
    assert "WARNING: the outputs were not checked" in notes
    assert "--calibration" in notes


def test_nothing_is_made_up_where_no_value_changes(tmp_path):
    report = compress(OPT, tmp_path / "o.onnx", recipe="lossless")
    assert not any("made-up" in note for note in report["notes"])
    assert read_model(tmp_path / "o.onnx").graph.output
