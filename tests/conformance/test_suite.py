import subprocess
import sys

from conformance.suite import test_conformance as conformance_test
from conformance.vectors import load_cases

FILE = """
import pytest
from conformance.suite import pytest_generate_tests, test_conformance


@pytest.fixture(scope="session")
def backend():
    {backend}
"""


def run_suite(folder, backend, *arguments):
    (folder / "test_backend.py").write_text(FILE.format(backend=backend))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments, "test_backend.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_short_file_runs_all_cases(tmp_path):
    done = run_suite(tmp_path, "from conformance.backends import numpy_reference; return numpy_reference")
    assert done.returncode == 0, done.stdout[-3000:]
    skipped = len(load_cases(["onnx"]))
    assert f"{len(load_cases()) - skipped} passed, {skipped} skipped" in done.stdout


def test_failures_and_ids_are_shown(tmp_path):
    backend = "return type('Wrong', (), {'spread': lambda self, counts: counts})()"
    done = run_suite(tmp_path, backend, "-k", "spread/example or select/equal-3", "-rfs")
    assert done.returncode == 1
    assert "FAILED test_backend.py::test_conformance[spread/example]" in done.stdout
    assert "the backend has no step select" in done.stdout
    assert "symbol has dtype int64, expected uint8" in done.stdout


def test_commands_are_backends_too(tmp_path):
    (tmp_path / "none.py").write_text("raise SystemExit(64)")
    backend = "import sys; from conformance.command_backend import Command; return Command(f'{sys.executable} none.py')"
    done = run_suite(tmp_path, backend, "-k", "decode/coded")
    assert "passed" not in done.stdout
    assert "skipped" in done.stdout


def test_it_is_a_plain_function():
    from conformance.backends import numpy_reference

    conformance_test(numpy_reference, load_cases(["spread"])[0])
