"""Curves as SVG: loss against stored bits per weight, one line for each method, readable on light and dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.quality.harness import Result
from benchmarks.quality.task import Task

MOST_BITS = 12.0  # the uncompressed original would squeeze all others into a corner
FLOOR = 0.01  # losses at or below lie on the axis: the scale is logarithmic
LEFT, TOP, WIDTH, HEIGHT = 64, 44, 560, 340
LEGEND = 170
COLOURS = ("#2563a8", "#c2410c", "#0f8a5f", "#8b3fb0", "#b08900", "#c02668", "#5b6b7b", "#0e8fa3")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b1f24}.soft{fill:#667}.grid{stroke:#d8dce2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.soft{fill:#9aa3ad}.grid{stroke:#333a44}"
    ".series{filter:brightness(1.5)}}.series path{stroke-width:2}"
)


@dataclass(frozen=True)
class Axes:
    """Where bits and losses lie in the picture."""

    low: int  # bits
    high: int
    top: float  # the largest loss

    def x(self, bits: float) -> float:
        """Linear."""
        return LEFT + WIDTH * (bits - self.low) / (self.high - self.low)

    def y(self, loss: float) -> float:
        """Logarithmic."""
        return TOP + HEIGHT * (1 - math.log(max(loss, FLOOR) / FLOOR) / math.log(self.top / FLOOR))


def curve(task: Task, results: Sequence[Result]) -> str:
    """The picture of one task."""
    shown = [r for r in results if r["bits_per_weight"] <= MOST_BITS and math.isfinite(r["loss"])]
    bits = [r["bits_per_weight"] for r in shown] or [1.0, 8.0]
    top = 1.25 * max([1.0, *(r["loss"] for r in shown)])
    axes = Axes(math.floor(min(bits)), math.floor(max(bits)) + 1, top)
    parts = [f'<text x="{LEFT}" y="20">{escape(task.title)}</text>', *grid(axes, task)]
    for index, name in enumerate(dict.fromkeys(r["method"] for r in shown)):
        parts += series(axes, index, name, [r for r in shown if r["method"] == name])
    width, height = LEFT + WIDTH + LEGEND, TOP + HEIGHT + 56
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(task.name)}</title><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def grid(axes: Axes, task: Task) -> Iterator[str]:
    """Lines, ticks and what the axes show."""
    below, middle = TOP + HEIGHT, TOP + HEIGHT // 2
    for bit in range(axes.low, axes.high + 1):
        x = f"{axes.x(bit):.1f}"
        yield f'<path class="grid" d="M{x} {TOP}v{HEIGHT}"/>'
        yield f'<text class="soft" x="{x}" y="{below + 18}" text-anchor="middle">{bit}</text>'
    for tick in loss_ticks(axes.top):
        y, label = axes.y(tick), f"{'≤ ' * (tick == FLOOR)}{tick:g}"
        yield f'<path class="grid" d="M{LEFT} {y:.1f}h{WIDTH}"/>'
        yield f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    bits, loss = "stored bits per weight, everything counted", f"loss of {task.metric.score}, {task.metric.unit}"
    yield f'<text x="{LEFT + WIDTH // 2}" y="{below + 40}" text-anchor="middle">{bits}</text>'
    yield f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(loss)}</text>'


def series(axes: Axes, index: int, name: str, results: Sequence[Result]) -> Iterator[str]:
    """The line of one method, its points and its name in the legend."""
    colour, dashes = COLOURS[index % len(COLOURS)], "none" if index < len(COLOURS) else "5 4"
    points = sorted((r["bits_per_weight"], r["loss"], r["setting"]) for r in results)
    line = "L".join(f"{axes.x(bits):.1f} {axes.y(loss):.1f}" for bits, loss, _ in points)
    right, row = LEFT + WIDTH + 16, TOP + 10 + 20 * index
    yield f'<g class="series" stroke="{colour}" stroke-dasharray="{dashes}" fill="none"><path d="M{line}"/>'
    for bits, loss, setting in points:
        title = escape(f"{name} {setting}".strip())
        place = f'cx="{axes.x(bits):.1f}" cy="{axes.y(loss):.1f}"'
        yield f'<circle {place} r="4" fill="{colour}" stroke="none"><title>{title}</title></circle>'
    yield f'<path d="M{right} {row}h18"/></g><text x="{right + 24}" y="{row + 4}">{escape(name)}</text>'


def loss_ticks(top: float) -> list[float]:
    """Round losses on a logarithmic axis.

    Examples
    --------
    >>> loss_ticks(2.5)
    [0.01, 0.03, 0.1, 0.3, 1.0]
    """
    decades = range(round(math.log10(FLOOR)), math.ceil(math.log10(top)))
    return [tick for d in decades for tick in (float(f"1e{d}"), float(f"3e{d}")) if tick <= top]
