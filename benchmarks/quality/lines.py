"""Pictures of lines of text: words of speeches, in fonts and sizes drawn by a seeded generator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.task import Missing

FONTS = Path("/usr/share/fonts/truetype")
FACES = (
    "dejavu/DejaVuSans.ttf", "dejavu/DejaVuSerif.ttf", "dejavu/DejaVuSansMono.ttf", "dejavu/DejaVuSans-Bold.ttf",
    "liberation/LiberationSans-Regular.ttf", "liberation/LiberationSerif-Regular.ttf",
    "liberation/LiberationSerif-Italic.ttf", "liberation/LiberationMono-Regular.ttf",
)  # fmt: skip
SIZES = (14, 34)  # pixels; the recognizer's pictures are 48 high
CHARACTERS = (12, 38)
NOISE = 14.0  # largest standard deviation, of 255


def draw_lines(text: str, count: int, seed: int) -> Iterator[tuple[npt.NDArray[np.uint8], str]]:
    """(grey picture, its text) of lines that begin at random words of a text.

    Raises
    ------
    Missing
        Pillow or a font is not installed.
    """
    try:
        from PIL import ImageFont
    except ImportError:
        raise Missing("needs the Python package pillow: pip install pillow") from None
    for face in FACES:
        if not (FONTS / face).is_file():
            raise Missing(f"needs {FONTS / face}: the Debian packages fonts-dejavu-core and fonts-liberation")
    random = np.random.default_rng(seed)
    words = [word for word in text.split() if word.isascii()]
    for _ in range(count):
        line = take_line(words, int(random.integers(len(words))), int(random.integers(*CHARACTERS)))
        face = FACES[int(random.integers(len(FACES)))]
        font = ImageFont.truetype(str(FONTS / face), int(random.integers(*SIZES)))
        yield draw(line, font, random), line


def take_line(words: list[str], first: int, length: int) -> str:
    """Words from ``first`` on, round the end, at least one and no more than fit.

    Examples
    --------
    >>> take_line(["we", "the", "people"], 1, 12)
    'the people'
    """
    line = words[first]
    while len(longer := f"{line} {words[(first := first + 1) % len(words)]}") <= length:
        line = longer
    return line


def draw(line: str, font: Any, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Dark text on a light ground, with a margin and some noise."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(line)
    margin = 2 + random.integers(0, 5, 2)
    size = (int(right - left + 2 * margin[0]), int(bottom - top + 2 * margin[1]))
    ground, ink = int(random.integers(180, 256)), int(random.integers(0, 100))
    picture = Image.new("L", size, ground)
    ImageDraw.Draw(picture).text((int(margin[0] - left), int(margin[1] - top)), line, ink, font)
    noise = random.standard_normal((size[1], size[0])) * random.uniform(0, NOISE)
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
