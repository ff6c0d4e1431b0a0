import json

import numpy as np
import onnx
import pytest
from onnx_export_models import OPT, outputs_of, session

from onnx_export.cli import main
from onnx_export.demo import byte_windows


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_demo_tells_the_truth_about_its_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("onnx_export.demo.EVALUATION_WINDOWS", 40)
    monkeypatch.setattr("onnx_export.demo.CALIBRATION_WINDOWS", 24)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    output = tmp_path / "opt-1m-byte.tansor.onnx"
    assert sorted(p.name for p in tmp_path.iterdir()) == [output.name, "report.html"]
    original, compressed = result["rows"]
    assert result["tokens"] == 40 * 255
    assert 0 < result["loss_percent"] < 10
    assert 2 < original["perplexity"] < compressed["perplexity"] < 6
    assert original["bytes"] == OPT.stat().st_size
    assert compressed["bytes"] == output.stat().st_size < original["bytes"] / 5
    assert compressed["bits_per_weight"] < 8
    assert compressed["ratio_vs_fp16"] == pytest.approx(16 / compressed["bits_per_weight"])
    assert compressed["ratio_vs_int8"] == pytest.approx(8 / compressed["bits_per_weight"])
    assert result["parameters"] == result["compress"]["weights"]["count"] > 1e6
    assert compressed["bits_per_weight"] == result["compress"]["weights"]["bits_per_weight"]
    onnx.checker.check_model(onnx.load(output), full_check=True)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{compressed['perplexity']:.4f}" in page
    assert f"{compressed['bytes']:,}" in page
    # It runs anywhere.
    tokens = byte_windows(OPT.with_name("sotu-evaluation.txt"), 1)[:, :32].astype(np.int64)
    logits = outputs_of(output, {session(output).get_inputs()[0].name: tokens})[0]
    assert (logits.argmax(axis=-1)[:, :-1] == tokens[:, 1:]).mean() > 0.3


def test_windows_are_cut_from_the_beginning():
    windows = byte_windows(OPT.with_name("sotu-calibration.txt"), 3)
    assert windows.shape == (3, 256)
    assert windows.tobytes() == OPT.with_name("sotu-calibration.txt").read_bytes()[:768]
