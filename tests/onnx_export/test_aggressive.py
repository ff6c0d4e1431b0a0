from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx_export_models import NETS, OPT, feeds_for, outputs_of, save, session
from strategies import rng

from onnx_export.aggressive import can_be_pruned, loss_of
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.moments import Moment
from onnx_export.rate import Layer
from onnx_export.verify import verify
from onnx_export.weights import find_constants, to_matrix
from refimpl.errors import InvalidArgument
from refimpl.hessian import inverse_factor, second_moment
from refimpl.schedule import estimated_loss

TOKENS = rng(0).integers(32, 127, (8, 64)).astype(np.int64)
LAYERS = ("gemm", "conv", "transposed", "float16", "constant nodes", "graph input", "deep", "opset 11", "opset 26")


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_pruned_by_the_share_that_was_asked_for(tmp_path, name):
    model = NETS[name]()
    source, small = save(model, tmp_path / "m.onnx"), tmp_path / "small.onnx"
    feeds = feeds_for(session(model), size=40)
    report = compress(source, small, recipe="aggressive", sparsity=0.5, calibration=feeds)
    lines = [t for t in report["tensors"] if t["recipe"] == "aggressive"]
    assert lines
    zeros = sum(t["sparsity"] * t["elements"] for t in lines) / sum(t["elements"] for t in lines)
    assert 0.499 <= zeros < 0.6  # kept weights may round to 0 too
    assert all(len(t["histogram"]) <= 16 for t in lines)
    verify(small, source)
    outputs_of(small, feeds)


@pytest.mark.parametrize("name", ["grouped", "depthwise", "gather", "lstm", "left"])
def test_what_has_no_input_to_watch_is_not_pruned(name):
    model = NETS[name]()
    assert not any(can_be_pruned(model, c) for c in find_constants(model) if c.array.size >= 1024)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_the_estimated_loss_is_in_the_unit_of_the_outputs(tmp_path, size):
    constant = next(c for c in find_constants(NETS["gemm"]()) if c.array.ndim == 2 and c.input_axis is not None)
    layer = Layer(constant, (), 0)
    width = layer.matrix().shape[1]
    moment = Moment("x", -1, width)
    hessian = second_moment(size * rng(1).normal(size=(3 * width, width)))
    np.save(tmp_path / "moment.npy", hessian.astype(np.float32))
    loss = loss_of(replace(layer, moments=(moment,)), {moment: tmp_path / "moment.npy"})
    assert loss == pytest.approx(estimated_loss(layer.matrix(), inverse_factor(hessian)), rel=1e-4)


def test_columns_that_no_sample_reaches_are_zeroed(tmp_path):
    """They widen no grid, and count first among what is pruned."""
    model = NETS["gemm"]()
    feeds = feeds_for(session(model), size=40)
    feeds = {name: np.where(np.arange(x.shape[-1]) == 3, np.float32(0), x) for name, x in feeds.items()}
    source, small, plain = save(model, tmp_path / "m.onnx"), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    compress(source, small, recipe="aggressive", sparsity=0.5, calibration=feeds)
    decompress(small, plain)
    before, after = (
        next(c for c in find_constants(onnx.load(path)) if c.array.ndim == 2 and c.input_axis is not None)
        for path in (source, plain)
    )
    columns = to_matrix(after.array, after.input_axis)
    assert to_matrix(before.array, before.input_axis)[:, 3].all()
    assert not columns[:, 3].any()
    assert columns[:, 4].any()


def test_the_whole_model(tmp_path):
    report = compress(OPT, tmp_path / "small.onnx", recipe="aggressive", calibration=TOKENS)
    assert report["weights"]["bits_per_weight"] < 3
    assert any("dB on calibration samples" in note for note in report["notes"])
    assert any("WARNING" in note and "24 dB" in note for note in report["notes"])
    verify(tmp_path / "small.onnx", OPT)


@pytest.mark.parametrize(
    ("given", "says"), [({}, "--calibration"), ({"calibration": TOKENS, "sparsity": 1.5}, "sparsity")]
)
def test_what_does_not_fit_is_refused(tmp_path, given, says):
    with pytest.raises(InvalidArgument, match=says):
        compress(OPT, tmp_path / "small.onnx", recipe="aggressive", **given)
    assert not list(tmp_path.iterdir())
