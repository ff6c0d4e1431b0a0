import json

import numpy as np
import pytest
from onnx_export_models import NETS, net, normal, save

from onnx_export.bench import BATCHES, bench
from onnx_export.cli import main
from onnx_export.compress import compress
from refimpl.errors import InvalidArgument


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


@pytest.mark.parametrize("mode", ["streaming", "resident"])
def test_everything_is_measured(compressed, mode):
    result = bench(compressed, mode=mode, repeats=1)
    assert set(result["latency"]) == set(BATCHES)
    assert [t["name"] for t in result["tensors"]] == (["w1", "w2", "w3"] if mode == "streaming" else [])
    assert all(t["elements_per_second"] > 0 for t in result["tensors"])
    assert result["bytes"] == compressed.stat().st_size
    assert result["peak_host_bytes"] > 0
    assert "on cpu" in result["placement"]


def test_a_model_without_a_free_batch_runs_once(tmp_path):
    path = save(net("(float[2, 64] x) => (float[2, 32] y) { y = MatMul(x, w) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert list(bench(path, repeats=1)["latency"]) == [1]


def test_the_command_prints_json(compressed, capsys):
    assert main(["bench", str(compressed), "--repeats", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"
    assert main(["bench", str(compressed), "--repeats", "1"]) == 0
    assert "batch 64" in capsys.readouterr().out


def test_no_repeats_are_refused(compressed):
    with pytest.raises(InvalidArgument, match="repeats is 0"):
        bench(compressed, repeats=0)


def test_indices_are_within_any_range(tmp_path):
    path = save(net("(int64[n] i) => (float[n, 32] y) { y = Gather(w, i) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert np.isfinite(bench(path, repeats=1)["load_seconds"])
