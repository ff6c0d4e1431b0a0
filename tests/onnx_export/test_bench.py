import json

import numpy as np
import pytest
from onnx_export_models import NETS, net, normal, save

from onnx_export.bench import BATCHES, bench, print_bench
from onnx_export.cli import main
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.native import library_path
from onnx_export.rewrite import note_plan
from refimpl.errors import InvalidArgument


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


@pytest.fixture(scope="module")
def mixed(compressed):
    """The result for a file that keeps one of three weights resident."""
    model = read_model(compressed)
    note_plan(model, "mixed", ["w2"])
    return bench(save(model, compressed.with_name("mixed.onnx")), mode="auto", repeats=1, threads=1)


def cases_at(result, batch):
    return {c["case"]: c for c in result["cases"] if c["batch"] == batch}


def test_everything_is_measured(mixed):
    assert set(mixed["latency"]) == set(BATCHES)
    assert [t["name"] for t in mixed["tensors"]] == ["w1", "w2", "w3"]
    assert all(t["elements_per_second"] > 0 for t in mixed["tensors"])
    assert all(t["fraction"] == 1 for t in mixed["tensors"])
    assert mixed["peak_host_bytes"] > 0
    assert "on cpu" in mixed["placement"]
    assert mixed["bandwidths"]["memory"] > 0
    assert mixed["bandwidths"]["link"] is None


@pytest.mark.parametrize("batch", BATCHES)
def test_predictions_stand_beside_what_was_measured(mixed, batch):
    cases = cases_at(mixed, batch)
    profile = next(p for p in mixed["profiles"] if p["batch"] == batch)
    assert set(cases) == {"resident", "streaming", "auto", "plain, from disk", "compressed, from disk"}
    assert cases["resident"]["seconds"] == profile["plain_seconds"] <= cases["auto"]["seconds"]
    assert cases["auto"]["seconds"] <= cases["streaming"]["seconds"]
    assert mixed["latency"][batch] == cases["auto"]["measured_seconds"] > 0
    assert cases["streaming"]["measured_bytes"] is not None
    assert cases["compressed, from disk"]["measured_seconds"] is None


def test_memory_is_what_is_stored_or_resident_and_two_buffers(mixed):
    cases = cases_at(mixed, 1)
    ready = {t["name"]: 4 * t["elements"] for t in mixed["tensors"]}
    stored = {t["name"]: t["stored_bytes"] for t in mixed["tensors"]}
    assert cases["resident"]["bytes"] == sum(ready.values())
    used = {name: size if library_path() is None else size // 4 for name, size in ready.items()}  # else symbols stay
    assert cases["auto"]["bytes"] == stored["w1"] + ready["w2"] + stored["w3"] + used["w1"] + used["w3"]
    assert cases["streaming"]["bytes"] == sum(stored.values()) + used["w1"] + used["w2"]


def test_from_disk_all_is_read_in_each_run(mixed):
    cases, disk = cases_at(mixed, 1), mixed["bandwidths"]["disk"]
    ready = sum(4 * t["elements"] for t in mixed["tensors"])
    stored = sum(t["stored_bytes"] for t in mixed["tensors"])
    assert cases["plain, from disk"]["seconds"] - cases["resident"]["seconds"] == pytest.approx(ready / disk)
    added = cases["compressed, from disk"]["seconds"] - cases["streaming"]["seconds"]
    assert added == pytest.approx(stored / disk, rel=1e-3)


def test_the_table_names_cases_and_bandwidths(mixed, capsys):
    print_bench(mixed)
    out = capsys.readouterr().out
    assert "compressed, from disk" in out
    assert "GB/s: memory" in out
    assert "3 tensors" in out


def test_the_command_prints_json(compressed, capsys):
    assert main(["bench", str(compressed), "--repeats", "1", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["threads"], result["mode"], result["planned"]) == (1, "streaming", "resident")
    assert set(cases_at(result, 1)) == {"resident", "streaming", "plain, from disk", "compressed, from disk"}
    assert result["latency"]["1"] == cases_at(result, 1)["streaming"]["measured_seconds"]


def test_a_plain_model_has_latencies_alone(compressed, capsys):
    assert main(["bench", str(compressed.with_name("m.onnx")), "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["latency"]) == {str(b) for b in BATCHES}
    assert (result["planned"], result["tensors"], result["cases"]) == (None, [], [])
    print_bench(result)
    assert "batch 64" in capsys.readouterr().out


def test_a_model_without_a_free_batch_runs_once(tmp_path):
    path = save(net("(float[2, 64] x) => (float[2, 32] y) { y = MatMul(x, w) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert list(bench(path, repeats=1)["latency"]) == [1]


def test_no_repeats_or_seconds_are_refused(compressed):
    with pytest.raises(InvalidArgument, match="repeats is 0"):
        bench(compressed, repeats=0)
    with pytest.raises(InvalidArgument, match="seconds is 0"):
        bench(compressed, seconds=0)


def test_samples_of_the_inputs_are_run(tmp_path, capsys):
    path = save(net("(float[n, m] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=normal(63, 32)), tmp_path / "m.onnx")
    assert main(["bench", str(path), "--repeats", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--calibration" in error
    np.savez(tmp_path / "s.npz", x=np.ones((3, 63), np.float32))
    options = ["--repeats", "1", "--calibration", str(tmp_path / "s.npz"), "--json"]
    assert main(["bench", str(path), *options]) == 0
    assert set(json.loads(capsys.readouterr().out)["latency"]) == {str(b) for b in BATCHES}
    np.save(tmp_path / "s.npy", np.ones((3, 62), np.float32))
    assert main(["bench", str(path), "--calibration", str(tmp_path / "s.npy")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_batches_that_take_too_long_are_left_out(compressed, capsys):
    told = []
    result = bench(compressed, seconds=1e-6, threads=1, progress=lambda *what: told.append(what))
    assert list(result["latency"]) == [1]
    assert result["left_out"] == [8, 64]
    assert {what for what, _, _ in told} == {"load", "memory", "batches", "measure"}
    print_bench(result)
    assert "left out: batch 8 and 64, which take too long for --seconds" in capsys.readouterr().out


def test_a_batch_that_the_model_refuses_is_left_out(tmp_path):
    """A first dimension that is free and has one right size."""
    path = save(
        net("(float[n, 4] x) => (float[1, 4] y) { y = Reshape(x, s) }", s=np.array([1, 4])), tmp_path / "m.onnx"
    )
    result = bench(path, repeats=1)
    assert (list(result["latency"]), result["left_out"]) == ([1], [8, 64])


def test_indices_are_within_any_range(tmp_path):
    path = save(net("(int64[n] i) => (float[n, 32] y) { y = Gather(w, i) }", w=normal(64, 32)), tmp_path / "m.onnx")
    assert bench(path, repeats=1)["load_seconds"] > 0
