"""The documentation is true: its examples run, its links and the sources' citations lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "docs" / "spec"
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
SOURCES = sorted(
    path for package in ("refimpl", "codec", "conformance", "onnx_export") for path in ROOT.glob(f"{package}/**/*.py")
)
FENCE = re.compile(r"^ *```(\w*)")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)")
CITATION = re.compile(r"Specification:\s+(docs/spec/[\w/.-]+?\.md)(?:,\s+\"([^\"]+)\")?")


def name(path):
    return path.relative_to(ROOT).as_posix()


def split_fences(text):
    """(prose, examples): the lines outside fenced blocks and inside Python ones, all else blank.

    Both keep the line numbers of the text.
    """
    prose, examples, language = [], [], None
    for line in text.split("\n"):
        fence = FENCE.match(line)
        if fence:
            language = fence[1] if language is None else None
        prose.append("" if fence or language is not None else line)
        examples.append("" if fence or language != "python" else line)
    return "\n".join(prose), "\n".join(examples)


def examples_of(page):
    """All doctest examples of a page as one test: they share a namespace."""
    examples = split_fences(page.read_text(encoding="utf-8"))[1]
    return doctest.DocTestParser().get_doctest(examples, {"__name__": "__main__"}, name(page), str(page), 0)


def anchors(page):
    """The anchors that a page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", split_fences(page.read_text(encoding="utf-8"))[0], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_run(page):
    test = examples_of(page)
    reports = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=reports.append)
    assert not results.failed, "".join(reports)
    assert results.attempted == len(test.examples)


@pytest.mark.parametrize("page", sorted(SPEC.glob("*.md")), ids=name)
def test_every_page_of_the_specification_has_examples_that_show_something(page):
    assert any(example.want for example in examples_of(page).examples)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(split_fences(page.read_text(encoding="utf-8"))[0]):
        if re.match(r"[a-z]+:", target):  # another site
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_citations_name_files_and_headings(source):
    for cited, heading in CITATION.findall(source.read_text(encoding="utf-8")):
        page = ROOT / cited
        assert page.is_file(), cited
        headings = re.findall(r"^#+ +(.+?) *$", split_fences(page.read_text(encoding="utf-8"))[0], re.MULTILINE)
        assert not heading or heading in headings, f"{cited} has no heading {heading!r}"


def test_citations_are_found():
    cited = [m for source in SOURCES for m in CITATION.findall(source.read_text(encoding="utf-8"))]
    mentioned = sum(source.read_text(encoding="utf-8").count("Specification:") for source in SOURCES)
    assert len(cited) == mentioned > 0
