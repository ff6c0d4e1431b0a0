"""The ablation's points mean what they say."""

import numpy as np
import pytest

from benchmarks.quality.double_ablation import Bench, cell, drawings, layers_point, speed, table
from benchmarks.quality.language import DATA
from benchmarks.quality.plot import Line, plot, ticks
from benchmarks.quality.task import Metric, Task
from onnx_export.demo import byte_windows
from refimpl.pipeline import LayerSettings


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    calibration = folder / "calibration.npy"
    np.save(calibration, byte_windows(DATA / "sotu-calibration.txt", 4))
    metric = Metric("perplexity", "%")
    task = Task("bytes", "bytes", DATA / "opt-1m-byte.onnx", calibration, metric, lambda _path: {}, {})
    return Bench(task, byte_windows(DATA / "sotu-evaluation.txt", 2).astype(np.int64), folder)


def test_fine_layers_keep_the_perplexity_and_coarse_ones_do_not(bench):
    fine = layers_point(bench, LayerSettings())
    coarse = layers_point(bench, LayerSettings(target_sqnr_db=6.0))
    assert fine["perplexity"] == pytest.approx(bench.baseline(), rel=0.02)
    assert coarse["perplexity"] > 1.2 * bench.baseline()
    assert 8.2 > fine["bits_per_weight"] > fine["entropy_bits_per_weight"] > coarse["entropy_bits_per_weight"]


@pytest.mark.parametrize("budget", ["layer", "global"])
def test_pruned_shares_are_those_asked_for(bench, budget):
    assert layers_point(bench, LayerSettings(sparsity=0.4), budget)["zeros"] == pytest.approx(0.4, abs=0.02)


def test_what_is_coded_in_part_is_larger(bench):
    ratios = [speed(bench, fraction)["ratio"] for fraction in (0.5, 1.0)]
    assert 1 < ratios[0] < ratios[1]


def test_points_are_kept(bench):
    made = [bench.point("p", "settings", lambda n=n: {"n": n}) for n in (1, 2)]
    assert [p["n"] for p in made] == [1, 1]
    assert bench.point("p", "others", lambda: {"n": 3})["n"] == 3


def test_tables_and_pictures_show_all_points():
    points = [{"budget": "layer", "share": s, "bits_per_weight": 4.0 - s, "perplexity": 50.0 + s} for s in (0.0, 0.5)]
    text = table(points, 50.0)
    assert "| layer | 0.5 | 3.500 | 50.5000 | +1.00 |" in text
    ((name, picture),) = drawings({"prune": points}, 50.0)
    assert name == "prune-loss"
    assert picture.count("<circle") == 2
    assert cell("places", {"linear": 1}) == "linear 1"
    assert plot("x", "y", [Line("<a>", ((1.0, 2.0),))]).count("&lt;a&gt;") == 1
    assert ticks([0.0, 0.0]) == [0.0, 1.0]
