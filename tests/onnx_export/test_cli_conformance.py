import json
import shlex
import sys
from pathlib import Path

import pytest

from conformance.vectors import load_cases
from onnx_export.cli import main

WRONG = """
import numpy as np

class Constant:
    def spread(self, counts):
        return np.zeros(32, np.uint8)

wrong = Constant()
nothing = object()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with backends."""
    (tmp_path / "wrong_backend.py").write_text(WRONG)
    (tmp_path / "none.py").write_text("raise SystemExit(64)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def ends(capsys, command, status, *words):
    """Run a command line: the status and the words that it prints; errors are one line."""
    assert main(["conformance", *shlex.split(command)]) == status
    captured = capsys.readouterr()
    if status == 2:
        assert captured.out == ""
        assert captured.err.startswith("tansor: ")
        assert captured.err.count("\n") == 1
    else:
        assert captured.err == ""
    assert all(word in captured.out + captured.err for word in words), captured.out + captured.err
    return captured.out


@pytest.mark.usefixtures("here")
def test_our_own_codec_conforms(capsys):
    count = len(load_cases(["spread", "select"]))
    ends(capsys, "--steps spread,select", 0, "spread", "select", f"{count} passed, 0 failed, 0 skipped")
    ends(capsys, "--backend conformance.backends:numpy_reference --steps select", 0, "numpy_reference", "0 failed")


@pytest.mark.usefixtures("here")
def test_a_wrong_backend_is_told_what_is_wrong(capsys):
    words = ["spread/example: symbol[1] is 0, expected 2 (10 of 32 elements differ)", "0 passed"]
    ends(capsys, "--backend wrong_backend:wrong --steps spread", 1, *words)
    result = json.loads(ends(capsys, "--backend wrong_backend:wrong --json", 1))
    assert result["backend"] == "wrong_backend:wrong"
    assert result["failed"] > 0
    assert result["skipped"] == len(load_cases()) - len(load_cases(["spread"]))
    ends(capsys, "--backend wrong_backend:wrong --json r.json", 1, "failed")
    assert json.loads(Path("r.json").read_text()) == result


@pytest.mark.usefixtures("here")
def test_cases_are_listed(capsys):
    listed = ends(capsys, "--list", 0).splitlines()
    assert listed == [case.id for case in load_cases()]
    assert ends(capsys, "--list --steps spread", 0).splitlines() == [c.id for c in load_cases(["spread"])]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("--steps spread,sprad", "unknown step 'sprad'"),
        ("--steps ''", "unknown step ''"),
        ("--backend no_such_module", "no_such_module"),
        ("--backend wrong_backend:nothing", "none of the functions"),
        ("--command /no/such/program", "/no/such/program"),
        ("--command ''", "the command is empty"),
        (f"--command '{sys.executable} none.py'", "none of the steps"),
        ("--jobs 0", "jobs is 0"),
        ("--backend wrong_backend:wrong --steps select", "none of the steps"),
        ("--steps spread --json missing/r.json", "missing"),
    ],
)
def test_mistakes_are_one_line(capsys, command, word):
    ends(capsys, command, 2, word)


@pytest.mark.usefixtures("here")
def test_backend_and_command_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as left:
        main(["conformance", "--backend", "a", "--command", "b"])
    assert left.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
