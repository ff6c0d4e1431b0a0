"""Making rows of the tables in several processes: results end up in files, where the tables read them in order."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context

from threadpoolctl import threadpool_limits

from benchmarks.quality.harness import result_is_there, result_of
from benchmarks.quality.method import Method
from benchmarks.quality.methods import METHODS
from benchmarks.quality.task import Folders, Task
from benchmarks.quality.tasks import TASKS
from refimpl.errors import TansorError

Row = tuple[str, str]  # task, label of the method


def make_rows(
    tasks: Sequence[Task],
    methods: Sequence[Method],
    folders: Folders,
    jobs: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[Row, str]:
    """Make the results that are not there yet, ``jobs`` at a time, each by a process of its own with so many threads.

    Of the rows that begin by measuring the same things, one goes ahead on all cores and leaves its measurements in the
    work folder. Longer rows begin before shorter ones.

    Returns
    -------
    dict
        Row -> why the method cannot compress the model.
    """
    todo = [(task, m) for task in tasks for m in methods if applies(m, task)]
    todo = [(task, m) for task, m in todo if not result_is_there(task, m, folders.work / "results")]
    failed: dict[Row, str] = {}
    ahead: dict[tuple[str, str], Method] = {}
    for task, method in todo:
        if shared := shares_measurements(method):
            ahead.setdefault((task.name, shared), method)
    for (name, _), method in ahead.items():
        say(f"{name}: {method.label}, ahead of others")
        if error := make_row(name, method.label, folders, None):
            failed[name, method.label] = error
    done = {(name, method.label) for (name, _), method in ahead.items()}
    todo = [(task, m) for task, m in todo if (task.name, m.label) not in done]
    todo.sort(key=lambda row: (row[1].transform is not None, -row[0].model.stat().st_size))
    with ProcessPoolExecutor(jobs, get_context("spawn"), limit_threads, (threads,)) as pool:
        futures = {
            pool.submit(make_row, task.name, m.label, folders, threads): (task.name, m.label) for task, m in todo
        }
        started = time.perf_counter()
        for count, future in enumerate(as_completed(futures), 1):
            row, error = futures[future], future.result()
            if error:
                failed[row] = error
            seconds = time.perf_counter() - started
            say(f"{count} of {len(futures)} rows after {seconds:.0f} s: {row[0]}, {row[1]}{' failed' * bool(error)}")
    return failed


def applies(method: Method, task: Task) -> bool:
    """Whether a method is for a task."""
    return task.linear or not (method.linear_only or method.scope == "linear")


def shares_measurements(method: Method) -> str | None:
    """What other methods that measure the same of a model have in common, None if a method measures nothing to keep."""
    if method.transform is not None:
        return "layers' inputs"
    return "moments" if method.arguments.get("recipe") in ("rate", "aggressive") else None


def make_row(task: str, label: str, folders: Folders, threads: int | None) -> str | None:
    """Make a result; why there is none if the method cannot compress the model."""
    method = next(m for m in METHODS if m.label == label)
    try:
        result_of(prepared(task, folders), method, folders.work / "results", jobs=threads)
    except TansorError as error:
        return str(error)
    return None


@cache
def prepared(task: str, folders: Folders) -> Task:
    """A task, prepared once in a process."""
    return TASKS[task](folders)


def limit_threads(threads: int) -> None:
    """Threads of this process from now on: of ONNX Runtime and of BLAS."""
    os.environ["TANSOR_THREADS"] = str(threads)
    threadpool_limits(threads)
