import json

import numpy as np
import pytest
from onnx_export_models import NETS, net, normal, save

from onnx_export.bench import BATCHES, bench
from onnx_export.cli import main
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.rewrite import note_plan
from refimpl.errors import InvalidArgument


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


@pytest.mark.parametrize("mode", ["streaming", "resident", "auto"])
def test_everything_is_measured(compressed, mode):
    result = bench(compressed, mode=mode, repeats=1, threads=1)
    assert set(result["latency"]) == set(BATCHES)
    assert result["planned"] == "resident"
    assert [t["name"] for t in result["tensors"]] == ["w1", "w2", "w3"]
    assert all(t["elements_per_second"] > 0 for t in result["tensors"])
    assert result["bytes"] == compressed.stat().st_size
    assert result["peak_host_bytes"] > 0
    assert "on cpu" in result["placement"]


def test_cases_are_predicted_beside_the_measured_ones(compressed):
    result = bench(compressed, repeats=1, threads=1)
    for batch, profile in zip(BATCHES, result["profiles"], strict=True):
        cases = {c["case"]: c for c in result["cases"] if c["batch"] == batch}
        assert set(cases) == {"resident", "streaming", "plain, from disk", "compressed, from disk"}
        assert cases["resident"]["seconds"] == profile["plain_seconds"]
        assert cases["resident"]["bytes"] == sum(4 * t["elements"] for t in result["tensors"])
        assert result["latency"][batch] == cases["streaming"]["measured_seconds"] > 0
        assert cases["streaming"]["measured_bytes"] >= 0
        for kept in ("resident", "streaming"):
            disk = cases[f"{'plain' if kept == 'resident' else 'compressed'}, from disk"]
            assert disk["seconds"] > cases[kept]["seconds"]
            assert disk["measured_seconds"] is None
        # From disk, everything is read in each run.
        added = cases["compressed, from disk"]["seconds"] - cases["streaming"]["seconds"]
        stored = sum(t["stored_bytes"] for t in result["tensors"])
        assert added == pytest.approx(stored / result["bandwidths"]["disk"], rel=0.01)


def test_a_mixed_plan_is_a_case_of_its_own(compressed, tmp_path):
    model = read_model(compressed)
    note_plan(model, "mixed", ["w2"])
    result = bench(save(model, tmp_path / "mixed.onnx"), mode="auto", repeats=1, threads=1)
    assert result["planned"] == "auto"
    assert {"resident", "streaming", "auto"} < {c["case"] for c in result["cases"]}
    sizes = {t["name"]: (4 * t["elements"], t["stored_bytes"]) for t in result["tensors"]}
    held = sizes["w1"][1] + sizes["w2"][0] + sizes["w3"][1]
    assert {c["bytes"] - held for c in result["cases"] if c["case"] == "auto"} == {sizes["w1"][0] + sizes["w3"][0]}


def test_a_plain_model_has_latencies_alone(compressed):
    result = bench(compressed.with_name("m.onnx"), repeats=1)
    assert set(result["latency"]) == set(BATCHES)
    assert (result["planned"], result["tensors"], result["cases"]) == (None, [], [])


def test_a_model_without_a_free_batch_runs_once(tmp_path):
    path = save(net("(float[2, 64] x) => (float[2, 32] y) { y = MatMul(x, w) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert list(bench(path, repeats=1)["latency"]) == [1]


def test_the_command_prints_json(compressed, capsys):
    assert main(["bench", str(compressed), "--repeats", "1", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threads"] == 1
    assert main(["bench", str(compressed), "--repeats", "1"]) == 0
    assert "compressed, from disk" in capsys.readouterr().out
    assert main(["bench", str(compressed.with_name("m.onnx")), "--repeats", "1"]) == 0
    assert "batch 64" in capsys.readouterr().out


def test_no_repeats_are_refused(compressed):
    with pytest.raises(InvalidArgument, match="repeats is 0"):
        bench(compressed, repeats=0)


def test_indices_are_within_any_range(tmp_path):
    path = save(net("(int64[n] i) => (float[n, 32] y) { y = Gather(w, i) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert np.isfinite(bench(path, repeats=1)["load_seconds"])
