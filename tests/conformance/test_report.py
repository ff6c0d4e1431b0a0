from conformance.report import MAX_FAILURES, print_summary
from conformance.run import Result, summary


def test_the_summary_counts_and_the_report_shows(capsys):
    failures = [Result(f"decode/{i}", "failed", f"frame[{i}] [bold]") for i in range(MAX_FAILURES + 5)]
    results = [Result("spread/a", "passed"), *failures, Result("encode/a", "skipped")]
    result = summary("mine", results)
    assert (result["passed"], result["failed"], result["skipped"]) == (1, MAX_FAILURES + 5, 1)
    assert list(result["steps"]) == ["spread", "decode", "encode"]
    assert result["cases"][1] == {"id": "decode/0", "status": "failed", "text": "frame[0] [bold]"}
    print_summary(result)
    shown = capsys.readouterr().out
    assert "decode/0: frame[0] [bold]" in shown
    assert "and 5 more" in shown
    assert f"mine: 1 passed, {MAX_FAILURES + 5} failed, 1 skipped" in shown
