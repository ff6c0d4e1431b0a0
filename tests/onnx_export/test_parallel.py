import threading
import time

import pytest

from onnx_export.parallel import in_parallel
from onnx_export.progress import progress_bar, silent


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_results_come_in_order_with_progress(jobs):
    told = []
    results = list(in_parallel(lambda i: i * i, range(9), jobs, lambda *step: told.append(step)))
    assert results == [i * i for i in range(9)]
    assert told == [("compress", i + 1, 9) for i in range(9)]
    assert list(in_parallel(str, [], jobs, silent)) == []


def test_jobs_run_side_by_side():
    barrier = threading.Barrier(3, timeout=60)
    assert sorted(in_parallel(lambda _: barrier.wait(), range(3), 3, silent)) == [0, 1, 2]


def test_a_failure_cancels_what_has_not_begun():
    begun = []

    def one(i):
        begun.append(i)
        if i == 2:
            raise KeyboardInterrupt
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        list(in_parallel(one, range(1000), 1, silent))
    assert len(begun) < 1000


def test_in_a_pipe_progress_is_silent(capsys):
    with progress_bar() as tell:
        tell("compress", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_on_standard_error(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar() as tell:
        for done in range(3):
            tell("compress", done, 2)
        tell("write", 1, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
