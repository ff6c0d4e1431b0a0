"""benchmarks/work.py, and what it is there to see: memory that follows the largest layer and not the model."""

import json
import sys

import pytest

from benchmarks import work


@pytest.fixture
def peak(tmp_path, monkeypatch):
    """Peak of anonymous bytes of compressing so many blocks."""
    monkeypatch.setattr(work, "SAMPLES", 4)
    monkeypatch.setattr(work, "TOKENS", 32)
    # What is freed goes back at once, so that the peak is of what is in use.
    for name, value in {"MALLOC_MMAP_THRESHOLD_": "65536", "TANSOR_THREADS": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)

    def measure(blocks, recipe):
        _, model, samples = work.made(tmp_path, blocks)
        options = {"recipe": recipe, "jobs": 1, "force": True}
        if recipe != "lossless":
            options["calibration"] = str(samples)
        found = work.measured(work.ROOT, [str(model), str(tmp_path / "o.onnx"), json.dumps(options)])
        return found["anonymous_bytes"], model.stat().st_size

    return measure


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's tables")
@pytest.mark.parametrize(("recipe", "few", "many"), [("lossless", 2, 34), ("double", 2, 18)])
def test_more_blocks_take_no_more_memory(peak, recipe, few, many):
    little, small = peak(few, recipe)
    much, large = peak(many, recipe)
    assert much - little < 0.4 * (large - small)
