"""Run a backend on cases and say how it did."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from conformance.command_backend import Command, ask_command
from conformance.compare import Answer, fault
from conformance.python_backend import ask_python
from conformance.vectors import Case
from refimpl.errors import InvalidArgument

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """How a backend did on one case."""

    id: str  # STEP/NAME
    status: Status
    text: str = ""  # what is wrong


def run(backend: Any, cases: Sequence[Case], *, jobs: int = 1) -> list[Result]:
    """Run a backend on cases.

    Parameters
    ----------
    backend : module, object or Command
        See `conformance.steps` and `conformance.command_backend`.
    cases : sequence of Case
    jobs : int
        Programs that run at the same time; Python backends are called one after the other.

    Returns
    -------
    list of Result
        In the order of the cases.

    Raises
    ------
    InvalidArgument
        Fewer than one job, or a command that cannot be started.

    Examples
    --------
    >>> from conformance.backends import numba
    >>> from conformance.vectors import load_cases
    >>> {result.status for result in run(numba, load_cases(["spread"]))}
    {'passed'}
    """
    if jobs < 1:
        raise InvalidArgument(f"jobs is {jobs}, at least one is needed")
    if not isinstance(backend, Command):
        return [judge(case, ask_python(backend, case)) for case in cases]
    # The first case of each step tells whether the program has it.
    firsts = {case.step: case for case in reversed(cases)}
    with ThreadPoolExecutor(jobs) as pool:
        answers = dict(zip(firsts, pool.map(lambda case: ask_command(backend, case), firsts.values()), strict=True))

        def ask(case: Case) -> Answer:
            first = answers[case.step]
            return first if first.missing or case is firsts[case.step] else ask_command(backend, case)

        return [judge(case, answer) for case, answer in zip(cases, pool.map(ask, cases), strict=True)]


def judge(case: Case, answer: Answer) -> Result:
    """A case's result from the backend's answer.

    Examples
    --------
    >>> judge(Case("decode", "bad-crc", (), {}, {}, {}, error="Corrupt"), Answer(missing=True)).status
    'skipped'
    """
    if answer.missing:
        return Result(case.id, "skipped")
    text = fault(case, answer)
    return Result(case.id, "passed") if text is None else Result(case.id, "failed", text)


def summary(name: str, results: Iterable[Result]) -> dict[str, Any]:
    """All results as data: counts for each step and in all, then case by case.

    Examples
    --------
    >>> summary("mine", [Result("decode/a", "passed"), Result("decode/b", "failed", "not refused")])["steps"]
    {'decode': {'passed': 1, 'failed': 1, 'skipped': 0}}
    """
    steps: dict[str, dict[str, int]] = {}
    total = {"passed": 0, "failed": 0, "skipped": 0}
    cases = []
    for result in results:
        counts = steps.setdefault(result.id.partition("/")[0], {"passed": 0, "failed": 0, "skipped": 0})
        for count in (counts, total):
            count[result.status] += 1
        cases.append({"id": result.id, "status": result.status, "text": result.text})
    return {"backend": name, **total, "steps": steps, "cases": cases}
