from pathlib import Path

import pytest

from benchmarks.coding.tables import replace_tables, summary_table

ROOT = Path(__file__).parents[2]
MAIN = (ROOT / "benchmarks" / "coding" / "__main__.py").read_text(encoding="utf-8")
PAGE = "# Page\n\n## Size\n\nWords.\n\n| a |\n| - |\n\n| not this |\n\n## Speed\n\n| b |\nMore.\n\n## Rest\n\nNone.\n"


def test_the_first_table_below_a_heading_is_replaced():
    page = replace_tables(PAGE, {"Size": "| 1 |\n| 2 |\n", "Speed": "| 3 |\n"})
    assert page == PAGE.replace("| a |\n| - |\n", "| 1 |\n| 2 |\n").replace("| b |\n", "| 3 |\n")


@pytest.mark.parametrize("heading", ["Rest", "Missing", "Siz"])
def test_a_heading_without_a_table_is_an_error(heading):
    with pytest.raises(ValueError, match=heading):
        replace_tables(PAGE, {heading: "| 1 |\n"})


def test_the_page_of_the_coder_has_a_table_below_each_heading():
    headings = ["Size", "Speed of encoding", "Speed of decoding", "Payload alone", "Growth", "Threads", "First call"]
    headings.append("Loops and whole calls")
    assert all(f'"{heading}": ' in MAIN for heading in headings)
    page = (ROOT / "docs" / "codec.md").read_text(encoding="utf-8")
    replaced = replace_tables(page, {heading: f"| {heading} |\n" for heading in headings})
    assert all(replaced.count(f"| {heading} |\n") == 1 for heading in headings)


def test_a_peer_that_wins_is_bold_and_one_that_is_missing_a_dash():
    rows = [{"contender": name, "stored": stored} for name, stored in
            [("tansor gpu", 1.5), ("tansor archive", 0.2), ("zstd, level 1", 3.0), ("zstd, level 3", 2.0)]]  # fmt: skip
    line = summary_table([{"source": "s", "rows": rows}], "stored").splitlines()[-1]
    assert line == "| s | +1.50 | **+0.20** | +2.00 | - | - | - |"
