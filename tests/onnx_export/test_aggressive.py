import numpy as np
import pytest
from onnx_export_models import NETS, OPT, feeds_for, outputs_of, save, session
from strategies import rng

from onnx_export.aggressive import can_be_pruned
from onnx_export.compress import compress
from onnx_export.verify import verify
from onnx_export.weights import find_constants
from refimpl.errors import InvalidArgument

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


def test_the_whole_model(tmp_path):
    report = compress(OPT, tmp_path / "small.onnx", recipe="aggressive", calibration=TOKENS)
    assert report["weights"]["bits_per_weight"] < 3
    assert any("calibration samples" in note and "outputs keep" in note for note in report["notes"])
    assert any("WARNING" in note and "24 dB" in note for note in report["notes"])
    verify(tmp_path / "small.onnx", OPT)


@pytest.mark.parametrize(
    ("given", "says"), [({}, "--calibration"), ({"calibration": TOKENS, "sparsity": 1.5}, "sparsity")]
)
def test_what_does_not_fit_is_refused(tmp_path, given, says):
    with pytest.raises(InvalidArgument, match=says):
        compress(OPT, tmp_path / "small.onnx", recipe="aggressive", **given)
    assert not list(tmp_path.iterdir())
