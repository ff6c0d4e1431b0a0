"""The fast fuzz target does what it says."""

import fuzz_kernels
from fuzz_kernels import BATCH, inputs_of, run_batch

from conformance.mutate import seal


def test_a_batch_is_always_the_same():
    first, second = list(inputs_of(1, 2)), list(inputs_of(1, 2))
    assert first == second
    assert len(first) == BATCH
    assert len(set(first)) > BATCH / 3
    assert sum(seal(data) == data for data in first) > 0.9 * BATCH


def test_batches_find_nothing_and_reach_the_kernels():
    ends = sum((run_batch(0, batch)[0] for batch in range(3)), start=fuzz_kernels.Counter())
    assert ends.total() - ends["compared"] == 3 * BATCH
    assert set(ends) <= {"Corrupt", "Truncated", "LimitExceeded", "UnsupportedVersion", "decoded", "compared"}
    assert ends["decoded"] > 100
    assert ends["compared"] > 5


def test_a_find_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz_kernels, "FOUND", tmp_path / "found")
    monkeypatch.setattr(fuzz_kernels, "BATCH", 5)

    def fails(data):
        raise ZeroDivisionError(len(data))

    monkeypatch.setattr(fuzz_kernels, "decode", fails)
    ends, finds, _ = run_batch(0, 0)
    assert ends["FIND ZeroDivisionError"] == len(finds) == 5
    stored = {path.name: path.read_bytes() for path in (tmp_path / "found").iterdir()}
    assert all("ZeroDivisionError" in find and find.split(" ")[0] in stored for find in finds)
    assert set(stored.values()) == set(inputs_of(0, 0))
