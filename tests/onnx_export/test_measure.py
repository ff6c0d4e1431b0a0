import time

import numpy as np
import pytest
from onnx_export_models import NETS, net, normal

from onnx_export import measure
from onnx_export.measure import Setup, bandwidths, bound_run, feeds_for, fitting, host_memory, seconds_of, turn
from onnx_export.runtime import open_session
from refimpl.errors import CalibrationError, ExportError, InvalidArgument


class Clock:
    """Time that passes only when a task says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def task(self, *seconds):
        """Takes so long the first times, then always as long as the last time."""
        left = list(seconds)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_a_short_task_runs_in_a_row_and_its_first_run_does_not_count():
    clock = Clock()
    assert turn(clock.task(9e-3, 4e-3), clock) == pytest.approx([4e-3] * 3)


def test_a_long_task_runs_once():
    clock = Clock()
    assert turn(clock.task(1.0), clock) == [1.0]


def test_a_clock_that_cannot_tell_gives_no_zero():
    clock = Clock()
    moves = clock.task(1.0)
    times = turn(lambda: clock.now or moves(), clock)
    assert min(times) > 0


def test_tasks_take_turns_and_medians_count(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(Setup, "clock", clock)
    order = []
    slow, fast = clock.task(50.0, 1.0, 7.0, 1.0), clock.task(2.0)
    tasks = {"a": lambda: (order.append("a"), slow()), "b": lambda: (order.append("b"), fast())}
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0)
    assert seconds_of(tasks, Setup(repeats=3)) == {"a": 1.0, "b": 2.0}
    assert order == ["a", "b"] * 4  # the first round warms up


@pytest.mark.parametrize(("most", "runs"), [(2.5, 2), (5.5, 3), (100.0, 5)])
def test_a_bound_ends_measuring_but_never_before_a_round(monkeypatch, most, runs):
    clock = Clock()
    monkeypatch.setattr(Setup, "clock", clock)
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0)
    count = []
    task = clock.task(2.0)
    seconds_of({"a": lambda: (count.append(1), task())}, Setup(repeats=4, most=most))
    assert len(count) == runs


def test_one_thread_on_the_cpu_is_timed_alone():
    assert Setup(threads=1).clock is time.thread_time
    assert Setup(threads=2).clock is time.perf_counter
    assert Setup("cuda", threads=1).clock is time.perf_counter
    assert Setup(threads=2).options().intra_op_num_threads == 2


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}, {"repeats": -1}])
def test_setups_of_nothing_are_refused(wrong):
    with pytest.raises(InvalidArgument, match="at least one is needed"):
        Setup(**wrong)


def test_feeds_have_the_batch_and_a_length():
    session = open_session(net("(int64[n, t] i, float16[n, 3] f) => (float16[n, 3] y) { y = Add(f, f) }"))
    feeds = feeds_for(session, Setup(batch=5))
    assert (feeds["i"].shape, feeds["i"].dtype, feeds["f"].shape, feeds["f"].dtype) == (
        (5, 64), np.int64, (5, 3), np.float16,
    )  # fmt: skip


def test_a_dimension_that_has_the_name_of_the_batch_counts_samples():
    session = open_session(net("(float[b, t] x, float[2, b, 3] h) => (float[2, b, 3] y) { y = Add(h, h) }"))
    assert [f.shape for f in feeds_for(session, Setup(batch=5)).values()] == [(5, 64), (2, 5, 3)]


def test_samples_make_batches_of_any_size():
    session = open_session(net("(float[b, 3] x, float k, float[4, 3] f) => (float[b, 3] y) { y = Mul(x, k) }"))
    samples = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "k": np.float32(7), "f": np.zeros((2, 3), np.float32)}
    feeds = feeds_for(session, Setup(batch=5, samples=samples))
    assert feeds["x"].tolist() == [[0, 1, 2], [3, 4, 5]] * 2 + [[0, 1, 2]]
    assert (feeds["k"], feeds["f"].shape) == (7, (4, 3))
    with pytest.raises(CalibrationError, match="the model wants"):
        feeds_for(session, Setup(samples=samples | {"x": np.zeros((2, 4), np.float32)}))


def test_an_input_of_a_whole_run_has_no_batch():
    session = open_session(net("(float[b, 3] x, float[2, 3] h) => (float[2, 3] y) { y = Add(h, h) }"))
    samples = {"x": np.ones((4, 3), np.float32), "h": np.ones((4, 2, 3), np.float32)}
    feeds = feeds_for(session, Setup(batch=8, samples=samples))
    assert [f.shape for f in feeds.values()] == [(1, 3), (2, 3)]


def test_a_length_that_the_model_takes_is_found():
    for length in (64, 512, 16):
        session = open_session(net("(float[n, m] x) => (float[n, 8] y) { y = MatMul(x, w) }", w=normal(length, 8)))
        assert fitting(session, Setup()).length == length
    session = open_session(net("(float[n, m] x) => (float[n, 8] y) { y = MatMul(x, w) }", w=normal(63, 8)))
    with pytest.raises(ExportError, match=r"made up for x \['n', 'm'\]: give samples of them with --calibration"):
        fitting(session, Setup())
    fitting(session, Setup(samples=np.ones((2, 63), np.float32)))


def test_what_cannot_be_fed_or_run_is_refused():
    with pytest.raises(ExportError, match=r"input s is tensor\(string\)"):
        feeds_for(open_session(net("(string[n] s) => (string[n] y) { y = Identity(s) }")), Setup())
    session = open_session(net("(float[n, m] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=normal(63, 32)))
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the model"):
        bound_run(session, Setup())()


def test_bandwidths_are_of_this_machine(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(1 << 20))
    found = bandwidths(path, Setup(repeats=1), size=1 << 20)
    assert found["memory"] > 1e6
    assert found["link"] is None
    assert found["disk"] is None or found["disk"] > 0


def test_memory_in_use_grows_with_an_array():
    before = host_memory()
    if before is None:
        pytest.skip("this system does not tell")
    array = np.ones(1 << 23)
    after = host_memory()
    assert after[0] - before[0] > array.nbytes / 2
    assert after[1] > 0


def test_a_bound_run_runs():
    bound_run(open_session(NETS["deep"]()), Setup(batch=3))()
