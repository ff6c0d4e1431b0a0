import pytest

from conformance.python_backend import as_outputs, ask_python, load_backend
from conformance.run import judge, run
from conformance.vectors import load_cases
from refimpl.errors import InvalidArgument

CASES = load_cases(["decode"])


def test_an_error_is_known_by_the_names_of_its_class_and_bases():
    class Corrupt(Exception):
        pass

    class BadFrame(Corrupt):
        pass

    class Foreign:
        def decode(self, frame):
            raise BadFrame(f"{len(frame)} bytes")

    case = next(case for case in CASES if case.error == "Corrupt" and case.step == "decode")
    assert judge(case, ask_python(Foreign(), case)).status == "passed"
    other = next(case for case in CASES if case.error == "Truncated" and case.step == "decode")
    assert "refused with BadFrame" in judge(other, ask_python(Foreign(), other)).text


def test_results_come_as_tuples_arrays_or_mappings():
    case = next(case for case in load_cases(["split_chunks"]))
    raw, coded = (stored.read() for stored in case.outputs.values())
    assert judge(case, as_outputs((raw, coded), case)).status == "passed"
    assert judge(case, as_outputs({"coded": coded, "raw": raw}, case)).status == "passed"
    assert "1 outputs, expected raw, coded" in judge(case, as_outputs(raw, case)).text
    assert "expected raw, coded" in judge(case, as_outputs((raw, coded, raw), case)).text


@pytest.mark.parametrize(
    "name", ["no_such_module", "conformance.backends:nothing", "conformance.lcg", "", ":x", "json"]
)
def test_backends_that_cannot_be_loaded_are_a_users_error(name):
    with pytest.raises(InvalidArgument, match="backend"):
        load_backend(name)


def test_a_module_is_a_backend_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_spread.py").write_text("from refimpl.tans.spread import spread_symbols as spread\n")
    (tmp_path / "my_fault.py").write_text("1 / 0\n")
    assert {r.status for r in run(load_backend("my_spread"), load_cases(["spread"]))} == {"passed"}
    with pytest.raises(InvalidArgument, match="ZeroDivisionError"):
        load_backend("my_fault")
