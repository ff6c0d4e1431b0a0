"""All cases as tests, for pytest: one test for each case, its id in brackets.

A test file of a backend needs a fixture and two names::

    from conformance.suite import pytest_generate_tests, test_conformance  # noqa: F401

    @pytest.fixture(scope="session")
    def backend():
        return my_backend

The fixture gives a module, an object, or a `conformance.command_backend.Command`.
"""

from typing import Any

from conformance.command_backend import Command, ask_command
from conformance.python_backend import ask_python
from conformance.run import judge
from conformance.vectors import Case, load_cases


def pytest_generate_tests(metafunc: Any) -> None:
    """Give `test_conformance` every case."""
    if "conformance_case" in metafunc.fixturenames:
        cases = load_cases()
        metafunc.parametrize("conformance_case", cases, ids=[case.id for case in cases])


def test_conformance(backend: Any, conformance_case: Case) -> None:
    """The backend answers this case rightly, or lacks its step."""
    import pytest

    ask = ask_command if isinstance(backend, Command) else ask_python
    result = judge(conformance_case, ask(backend, conformance_case))
    if result.status == "skipped":
        pytest.skip(f"the backend has no step {conformance_case.step}")
    assert result.status == "passed", result.text
