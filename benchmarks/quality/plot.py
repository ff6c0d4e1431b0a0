"""Lines over two linear axes as SVG, readable on light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.quality.curves import COLOURS, HEIGHT, LEFT, LEGEND, STYLE, TOP, WIDTH

TICKS = 6


@dataclass(frozen=True)
class Line:
    """A name and its points; a single point is drawn larger."""

    name: str
    points: tuple[tuple[float, float], ...]


def plot(x_title: str, y_title: str, lines: Sequence[Line]) -> str:
    """The picture."""
    xs = ticks([x for line in lines for x, _ in line.points])
    ys = ticks([y for line in lines for _, y in line.points])

    def at(x: float, y: float) -> tuple[float, float]:
        right = LEFT + WIDTH * (x - xs[0]) / (xs[-1] - xs[0])
        return right, TOP + HEIGHT * (1 - (y - ys[0]) / (ys[-1] - ys[0]))

    below = TOP + HEIGHT
    parts = []
    for x in xs:
        place = at(x, ys[0])[0]
        parts.append(f'<path class="grid" d="M{place:.1f} {TOP}v{HEIGHT}"/>')
        parts.append(f'<text class="soft" x="{place:.1f}" y="{below + 18}" text-anchor="middle">{x:g}</text>')
    for y in ys:
        place = at(xs[0], y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}h{WIDTH}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{y:g}</text>')
    middle = TOP + HEIGHT // 2
    parts.append(f'<text x="{LEFT + WIDTH // 2}" y="{below + 40}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    for i, line in enumerate(lines):
        colour, row = COLOURS[i % len(COLOURS)], TOP + 10 + 20 * i
        places = [at(x, y) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<g class="series" stroke="{colour}" fill="none"><path d="M{path}"/>')
        radius = 6 if len(places) == 1 else 4
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" stroke="none"/>' for x, y in places]
        right = LEFT + WIDTH + 16
        parts.append(
            f'<path d="M{right} {row}h18"/></g><text x="{right + 24}" y="{row + 4}">{escape(line.name)}</text>'
        )
    width, height = LEFT + WIDTH + LEGEND, below + 56
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(y_title)} against {escape(x_title)}</title><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around all values.

    Examples
    --------
    >>> ticks([0.1, 0.9])
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks([2.0])
    [2.0, 3.0]
    """
    low, high = min(values), max(values)
    rough = (high - low) / (TICKS - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(i * step, 10) for i in range(first, last + 1)]
