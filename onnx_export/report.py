"""The HTML report: one self-contained page with the figures, the plots and every tensor."""

from collections.abc import Sequence
from html import escape
from typing import Any

from onnx_export.summary import times

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24;
  --soft: #667; --line: #d8dce2; --paper: #fff; --a: #2563a8; --b: #e0952b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #333a44; --paper: #14171b; --a: #6aa5e3; --b: #f0b35c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
p, caption { color: var(--soft); text-align: left } code { font-size: .92em }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.5rem 0 }
.figures b { display: block; font-size: 1.7rem; font-weight: 600 } .figures span { color: var(--soft) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child, .text { text-align: left } th { font-weight: 600 }
.wide { overflow-x: auto } svg text { fill: var(--ink); font: 11px system-ui, sans-serif }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { color: var(--soft); font-size: .8rem; overflow: hidden; text-overflow: ellipsis }
"""
HISTOGRAMS = 24  # the largest tensors get a picture
BARS = 120


def report_html(
    report: dict[str, Any], *, verified: dict[str, Any] | None = None, rows: Sequence[dict[str, Any]] = ()
) -> str:
    """The page for a report of `onnx_export.compress.compress`.

    Parameters
    ----------
    report : dict
    verified : dict, optional
        Result of `onnx_export.verify.verify`.
    rows : sequence of dict, optional
        Comparison rows of the demo.

    Returns
    -------
    str
        HTML without references to anything outside itself.
    """
    weights = report["weights"]
    title = f"{report['input'].rsplit('/', 1)[-1]}, recipe {report['recipe']}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report['tool'])}, {report['seconds']:.1f} s, profile {report['profile']}, "
        f"{fraction_coded(report)}</p>",
        figures(report),
        comparison(rows),
        "<h2>Bits per weight</h2>",
        "<p>Bar: everything stored for the tensor. Tick: order-0 entropy of its symbols, which no coder that "
        "takes them one by one can beat.</p>",
        bits_chart(report["tensors"]),
        "<h2>What the coder sees</h2>",
        "<p>Symbols of the largest tensors by how often they occur: the steeper, the fewer bits.</p>",
        histograms(report["tensors"]),
        "<h2>Tensors</h2>",
        tensor_table(report["tensors"], verified),
        copied_table(report["skipped"], weights["copied_bytes"]),
        notes(report["notes"]),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def fraction_coded(report: dict[str, Any]) -> str:
    """How much of each tensor is coded: what was asked for, or what a latency budget chose.

    Examples
    --------
    >>> fraction_coded({"fraction": 0.5, "budget": None})
    'fraction coded 0.5'
    >>> tensors = [{"fraction": 0.25}, {"fraction": 1.0}]
    >>> fraction_coded({"fraction": 1.0, "budget": {"latency_budget": 1.1, "tensors": tensors}})
    'fraction coded 0.25 to 1, chosen for each tensor by the latency budget 1.1'
    """
    if report["budget"] is None:
        return f"fraction coded {report['fraction']:g}"
    fractions = [t["fraction"] for t in report["budget"]["tensors"]]
    span = " to ".join(f"{f:g}" for f in sorted({min(fractions), max(fractions)}))
    return f"fraction coded {span}, chosen for each tensor by the latency budget {report['budget']['latency_budget']:g}"


def figures(report: dict[str, Any]) -> str:
    """The headline numbers."""
    weights = report["weights"]
    (fp16, than_fp16), (int8, than_int8) = times(weights["ratio_vs_fp16"]), times(weights["ratio_vs_int8"])
    shown = [
        (f"{report['output_bytes']:,}", f"bytes, from {report['input_bytes']:,}"),
        (f"{weights['bits_per_weight']:.3f}", f"bits per weight, all {weights['count']:,} counted"),
        (fp16, f"{than_fp16} than fp16"),
        (int8, f"{than_int8} than INT8"),
        (f"{weights['entropy_bits_per_weight']:.3f}", "bits per weight at entropy"),
    ]
    return '<div class="figures">' + "".join(f"<div><b>{b}</b><span>{s}</span></div>" for b, s in shown) + "</div>"


def comparison(rows: Sequence[dict[str, Any]]) -> str:
    """Original and result side by side."""
    if not rows:
        return ""
    body = [
        [
            escape(r["name"]), f"{r['bytes']:,}", f"{r['bits_per_weight']:.3f}", f"{r['ratio_vs_fp16']:.2f}x",
            f"{r['ratio_vs_int8']:.2f}x", f"{r['perplexity']:.4f}", f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    heads = ["", "bytes", "bits/weight", "vs fp16", "vs INT8", "perplexity", "seconds to run"]
    return "<h2>On held-out text</h2>" + table(heads, body)


def bits_chart(tensors: Sequence[dict[str, Any]]) -> str:
    """A bar for each tensor with a tick at its entropy."""
    if not tensors:
        return "<p>Nothing was compressed.</p>"
    shown = sorted(tensors, key=lambda t: -t["elements"])[:BARS]
    top = max(max(t["bits_per_weight"], t["entropy_bits_per_weight"]) for t in shown) * 1.05
    left, width, row = 330, 700, 17
    lines = []
    for i, t in enumerate(shown):
        y = i * row
        bar, tick = width * t["bits_per_weight"] / top, width * t["entropy_bits_per_weight"] / top
        lines.append(
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(shorten(t["name"]))}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{bar:.1f}" height="11" fill="var(--a)"/>'
            f'<path d="M{left + tick:.1f} {y + 1}v15" stroke="var(--b)" stroke-width="2"/>'
            f'<text x="{left + bar + 6:.1f}" y="{y + 12}">{t["bits_per_weight"]:.2f}</text>'
        )
    height = row * len(shown) + 4
    return (
        f'<div class="wide"><svg viewBox="0 0 {left + width + 50} {height}" width="{left + width + 50}" '
        f'height="{height}" role="img" aria-label="bits per weight of each tensor">{"".join(lines)}</svg></div>'
    )


def histograms(tensors: Sequence[dict[str, Any]]) -> str:
    """Small pictures of symbol counts."""
    shown = sorted(tensors, key=lambda t: -t["elements"])[:HISTOGRAMS]
    pictures = []
    for t in shown:
        counts = t["histogram"]
        top, step = max(counts, default=1) or 1, 200 / max(len(counts), 1)
        points = "".join(f"V{60 - 58 * c / top:.1f}H{(i + 1) * step:.2f}" for i, c in enumerate(counts))
        pictures.append(
            '<figure><svg viewBox="0 0 200 60" width="100%" role="img" aria-label="histogram">'
            f'<path d="M0 60{points}V60Z" fill="var(--a)"/></svg>'
            f'<figcaption title="{escape(t["name"])}">{escape(shorten(t["name"]))}: {len(counts)} symbols, '
            f"{t['sparsity']:.0%} zeros</figcaption></figure>"
        )
    return f'<div class="small">{"".join(pictures)}</div>'


def tensor_table(tensors: Sequence[dict[str, Any]], verified: dict[str, Any] | None) -> str:
    """Every compressed tensor."""
    errors = {t["name"]: t for t in (verified or {}).get("tensors", [])}
    heads = [
        "tensor", "shape", "bytes", "side bytes", "bits/weight", "entropy", "zeros", "SQNR dB", "exponent",
        "1/s in", "statistics", "mode", "bands",
    ]  # fmt: skip
    if errors:
        heads.append("checksums")
    body = []
    for t in tensors:
        row = [
            escape(t["name"]), "x".join(map(str, t["shape"])), f"{t['stored_bytes']:,}", f"{t['side_bytes']:,}",
            f"{t['bits_per_weight']:.3f}", f"{t['entropy_bits_per_weight']:.3f}", f"{t['sparsity']:.1%}",
            "exact" if t["sqnr_db"] is None else f"{t['sqnr_db']:.1f}",
            "-" if t["exponent"] is None else f"{t['exponent']:g}", t["absorbed"] or "-",
            t["statistics"], t["mode"], f"{t['bands']}",
        ]  # fmt: skip
        body.append([*row, "right" if t["name"] in errors else "-"] if errors else row)
    return table(heads, body)


def copied_table(skipped: Sequence[dict[str, Any]], copied_bytes: int) -> str:
    """What was copied, and why, by reason."""
    if not skipped:
        return "<h2>Copied</h2><p>Nothing: every tensor is compressed.</p>"
    reasons: dict[str, list[dict[str, Any]]] = {}
    for s in skipped:
        reasons.setdefault(s["reason"], []).append(s)
    body = [
        [
            escape(reason), str(len(group)), f"{sum(s['stored_bytes'] for s in group):,}",
            f'<details><summary>show</summary>{"<br>".join(escape(s["name"]) for s in group)}</details>',
        ]
        for reason, group in reasons.items()
    ]  # fmt: skip
    return f"<h2>Copied as they were: {copied_bytes:,} bytes</h2>" + table(
        ["reason", "tensors", "bytes", "names"], body
    )


def notes(lines: Sequence[str]) -> str:
    """Remarks of the run."""
    return "" if not lines else "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; cells are HTML already."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def shorten(name: str, limit: int = 48) -> str:
    """A long name with its middle left out.

    Examples
    --------
    >>> shorten("a" * 30 + "b" * 30, 11)
    'aaaaa…bbbbb'
    """
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:half]}…{name[-half:]}"
