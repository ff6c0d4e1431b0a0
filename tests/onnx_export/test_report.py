from html.parser import HTMLParser

import pytest
from onnx_export_models import MATMUL, NETS, net, normal, save

from onnx_export.compress import compress
from onnx_export.report import report_html, shorten
from onnx_export.verify import verify

VOID = {"meta", "br", "rect", "path"}


class Page(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text, self.links = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, _attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    source = save(NETS["deep"](), folder / "m.onnx")
    return compress(source, folder / "o.onnx", exclude=["w3"]), verify(folder / "o.onnx", source)


def test_the_page_shows_every_tensor_and_the_totals(made):
    report, verified = made
    row = {"name": "a <b>", "bytes": 1234567, "bits_per_weight": 4.0, "ratio_vs_fp16": 4.0, "ratio_vs_int8": 2.0,
           "perplexity": 3.25, "seconds": 0.5}  # fmt: skip
    page = Page(report_html(report, verified=verified, rows=[row]))
    text = " ".join(page.text)
    assert page.open == []
    assert all(f"{t['stored_bytes']:,}" in text and f"{t['bits_per_weight']:.3f}" in text for t in report["tensors"])
    assert all(s["reason"] in text and s["name"] in text for s in report["skipped"])
    assert all(note in text for note in report["notes"])
    assert f"{report['output_bytes']:,}" in text
    assert "1,234,567" in text
    assert "a <b>" in text
    assert page.tags.count("svg") == 1 + len(report["tensors"])


def test_the_page_needs_nothing_from_outside(made):
    html = report_html(made[0])
    page = Page(html)
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_names_are_shown_as_they_are(tmp_path):
    evil = '<script>alert("x")</script>&amp;\'w'
    model = net(MATMUL, w=normal(64, 32))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = evil
    report = compress(save(model, tmp_path / "<i>.onnx"), tmp_path / "o.onnx")
    html = report_html(report)
    page = Page(html)
    assert page.open == []
    assert not {"script", "i"} & set(page.tags)
    assert evil in page.text


@pytest.mark.parametrize("case", ["none", "all copied"])
def test_a_report_of_nothing_is_a_page_too(tmp_path, case):
    text = "(float[n, 64] x) => (float[n, 64] y) { y = Tanh(x) }" if case == "none" else MATMUL
    tensors = {} if case == "none" else {"w": normal(64, 32)}
    report = compress(save(net(text, **tensors), tmp_path / "m.onnx"), tmp_path / "o.onnx", exclude=["*"])
    page = Page(report_html(report))
    assert page.open == []
    assert "Nothing was compressed." in " ".join(page.text)


def test_long_names_keep_both_ends():
    assert shorten("short") == "short"
    assert len(shorten("x" * 1000)) <= 48
    assert shorten("begin" + "x" * 1000 + "end").startswith("begin")
    assert shorten("begin" + "x" * 1000 + "end").endswith("end")
