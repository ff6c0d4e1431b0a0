"""Task ocr: PP-OCRv4's recognizer of text lines, judged by the characters it gets right."""

from collections.abc import Mapping, Sequence
from operator import eq
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.quality.language import DATA
from benchmarks.quality.lines import draw_lines
from benchmarks.quality.task import Folders, Metric, Task, cached, digest, module_file, percent, save_once
from onnx_export.session import load_session

MODEL = "models/ch_PP-OCRv4_rec_infer.onnx"
HEIGHT, WIDTH = 48, 640  # of the recognizer's input; shorter lines are padded
LINES, CALIBRATION_LINES = 300, 64
RUN = 20  # lines at once
BLANK = 0
Pictures = npt.NDArray[np.float32]


def prepare(folders: Folders) -> Task:
    """Draw the lines: other speeches and another seed for calibration."""
    model = module_file("rapidocr_onnxruntime", MODEL, version="1.4.4")
    folder = folders.work / "ocr"
    calibration = folder / "calibration.npy"
    save_once(calibration, lambda: pictures("sotu-calibration.txt", CALIBRATION_LINES, seed=1)[0])
    inputs, truth = pictures("sotu-evaluation.txt", LINES, seed=0)
    alphabet = characters(model)
    question = digest(model, inputs.tobytes())
    original = cached(folder / "original.json", question, lambda: read(model, inputs, alphabet))

    def judge(now: Sequence[str]) -> Mapping[str, float]:
        return {
            "characters": character_accuracy(now, truth),
            "exact": percent(map(eq, now, truth)),
            "as the original": percent(map(eq, now, original)),
        }

    return Task(
        name="ocr",
        title=f"PP-OCRv4 recognizer: characters read right in {LINES} drawn lines, spaces aside",
        model=model,
        calibration=calibration,
        metric=Metric("characters", "points", ".2f"),
        evaluate=lambda path: judge(read(path, inputs, alphabet)),
        baseline=judge(original),
    )


def pictures(text: str, count: int, seed: int) -> tuple[Pictures, list[str]]:
    """(inputs of the recognizer, what they say, without spaces)."""
    lines = list(draw_lines((DATA / text).read_text(encoding="utf-8", errors="ignore"), count, seed))
    return np.stack([to_input(picture) for picture, _ in lines]), [bare(line) for _, line in lines]


def bare(line: str) -> str:
    """A line without spaces."""
    return line.replace(" ", "")


def to_input(picture: npt.NDArray[np.uint8]) -> Pictures:
    """Scaled to the input's height, values in [-1, 1], padded with zeros on the right."""
    from PIL import Image

    width = min(WIDTH, round(picture.shape[1] * HEIGHT / picture.shape[0]))
    scaled = np.asarray(Image.fromarray(picture).resize((width, HEIGHT), Image.Resampling.BILINEAR))
    padded = np.zeros((HEIGHT, WIDTH), np.float32)
    padded[:, :width] = scaled / 127.5 - 1
    return np.broadcast_to(padded, (3, HEIGHT, WIDTH))


def characters(model: Path) -> list[str]:
    """What each output class says: the model's own list between the blank and the space."""
    metadata = {p.key: p.value for p in onnx.load(model).metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def read(model: Path, inputs: Pictures, alphabet: Sequence[str]) -> list[str]:
    """What the recognizer reads, without spaces: it drops many, and errors that restore some would count as gains."""
    session = load_session(model)
    name = session.get_inputs()[0].name
    lines = []
    for first in range(0, len(inputs), RUN):
        (scores,) = session.run(None, {name: inputs[first : first + RUN]})
        lines += [bare("".join(alphabet[c] for c in collapse(best))) for best in scores.argmax(-1)]
    return lines


def collapse(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Greedy decoding of connectionist temporal classification: repeats become one, then blanks go.

    Examples
    --------
    >>> collapse(np.array([0, 7, 7, 0, 7, 3, 3]))
    array([7, 7, 3])
    """
    starts = np.append(True, classes[1:] != classes[:-1])
    return classes[starts & (classes != BLANK)]


def character_accuracy(read: Sequence[str], truth: Sequence[str]) -> float:
    """100 less the edits, in percent of the characters."""
    edits = sum(edit_distance(a, b) for a, b in zip(read, truth, strict=True))
    return 100 * (1 - edits / sum(map(len, truth)))


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements (Levenshtein).

    Examples
    --------
    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
