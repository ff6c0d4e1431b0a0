import shlex
import sys

import pytest

from conformance.command_backend import Command, ask_command, signal_name
from conformance.run import judge, run
from conformance.vectors import load_cases
from refimpl.errors import InvalidArgument

# A backend that knows nothing of tansor's kit: it follows the protocol with the standard library and NumPy.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from codec import decode, encode
from refimpl.errors import TansorError

step, case, out = sys.argv[-3], Path(sys.argv[-2]), Path(sys.argv[-1])
described = json.loads((case / "case.json").read_text())

def read(name):
    stored = described["inputs"][name]
    return np.fromfile(case / f"{name}.bin", stored["dtype"]).reshape(stored["shape"])

if step not in ("decode", "encode", "log2_fixed", "spread"):
    sys.exit(64)
try:
    if step == "decode":
        result = {"symbols": decode((case / "frame.bin").read_bytes())}
    elif step == "encode":
        result = {"frame": np.frombuffer(encode(read("symbols"), **described["parameters"]), np.uint8)}
    elif step == "spread":
        from refimpl.tans.spread import spread_symbols
        result = {"symbol": spread_symbols(read("counts"))}
    else:
        from refimpl.tans.counts import log2_fixed
        result = {"logarithm": np.array([log2_fixed(int(x)) for x in read("x")], np.int64)}
except TansorError as error:
    (out / "error").write_text(type(error).__name__ + "\\n")
    sys.exit(3)
for name, array in result.items():
    (out / f"{name}.bin").write_bytes(array.tobytes())
"""


def some(cases, count):
    """A few cases of each step, spread over all of them."""
    by_step = {}
    for case in cases:
        by_step.setdefault(case.step, []).append(case)
    return [case for of_step in by_step.values() for case in of_step[:: max(1, len(of_step) // count)]]


@pytest.fixture
def command(tmp_path):
    """Makes a command of the text of a Python program."""

    def make(text, *arguments, **options):
        path = tmp_path / "my backend.py"
        path.write_text(text)
        return Command(shlex.join([sys.executable, str(path), *arguments]), **options)

    return make


def test_a_program_passes_what_it_has_and_lacks_the_rest(command):
    cases = some(load_cases(["decode", "encode", "log2_fixed", "spread", "select", "prune"]), 6)
    results = run(command(PROGRAM, "--an", "argument"), cases, jobs=2)
    assert [r.id for r in results] == [case.id for case in cases]
    assert [r for r in results if r.status == "failed"] == []
    skipped = {r.id.split("/")[0] for r in results if r.status == "skipped"}
    assert skipped == {"select", "prune"}
    assert {case.error for case in cases} >= {None, "Truncated", "Corrupt", "InvalidArgument"}


def test_a_step_that_is_missing_is_asked_for_once(command, tmp_path):
    log = tmp_path / "log"
    text = f"import sys\nopen({str(log)!r}, 'a').write(sys.argv[1] + ' ')\nsys.exit(64)"
    results = run(command(text), some(load_cases(["select", "spread"]), 5), jobs=3)
    assert {r.status for r in results} == {"skipped"}
    assert sorted(log.read_text().split()) == ["select", "spread"]


CASE = next(case for case in load_cases(["decode"]) if case.name == "coded")
REFUSED = next(case for case in load_cases(["decode"]) if case.name == "truncated-at-17")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import sys\nprint('first')\nsys.exit('no device found')", "exit status 1: no device found"),
        ("import sys\nsys.exit(7)", "exit status 7"),
        ("import sys\nsys.exit(3)", "exit status 3 without the file 'error'"),
        ("pass", "outputs are , expected symbols"),
        ("import sys\nopen(sys.argv[3] + '/symbols.bin', 'wb').write(b'123')", "symbols has shape (3,)"),
        ("import sys\nopen(sys.argv[3] + '/symbols.bin', 'wb').write(bytes(19))", "symbols[2] is 0, expected 2"),
        ("import sys\nopen(sys.argv[3] + '/error', 'w').write('Corrupt')\nsys.exit(3)", "refused with Corrupt"),
    ],
)
def test_what_a_program_does_wrong_is_said(command, text, words):
    result = judge(CASE, ask_command(command(text), CASE))
    assert result.status == "failed"
    assert words in result.text


def test_a_crash_is_no_refusal(command):
    for text in ("import os\nos.abort()", "raise ValueError('Truncated')"):
        assert judge(REFUSED, ask_command(command(text), REFUSED)).status == "failed"
    text = "import sys\nopen(sys.argv[3] + '/error', 'w').write('Truncated')\nsys.exit(3)"
    assert judge(REFUSED, ask_command(command(text), REFUSED)).status == "passed"


def test_a_program_that_hangs_is_stopped(command):
    answer = ask_command(command("import time\ntime.sleep(60)", timeout=0.5), CASE)
    assert judge(CASE, answer).text == "no answer in 0.5 seconds, expected symbols"


@pytest.mark.parametrize("line", ["", "  ", "/no/such/program", "/", "'open quote"])
def test_a_program_that_cannot_be_started_is_a_users_error(line):
    with pytest.raises(InvalidArgument):
        run(Command(line), [CASE])


def test_signals_without_a_name():
    assert signal_name(11) == "SIGSEGV"
    assert signal_name(999) == "signal 999"
