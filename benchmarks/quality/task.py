"""What a task is: a model, samples to calibrate on, and scores that are not computed on those samples."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

Scores = Mapping[str, float]


class Missing(Exception):
    """A task needs something that is not here; the message says what and how to get it."""


@dataclass(frozen=True)
class Folders:
    """Where tasks read and write."""

    work: Path  # made by the tasks, and kept
    shared: Path | None  # models and data that are not part of the repository


@dataclass(frozen=True)
class Metric:
    """The score that tables and curves show."""

    score: str  # its key among the scores
    unit: str  # of the loss: "%" of the baseline's value, or "points" of a percentage
    format: str = ".4f"

    def loss(self, scores: Scores, baseline: Scores) -> float:
        """How much worse than the original, positive if worse.

        Examples
        --------
        >>> round(Metric("perplexity", "%").loss({"perplexity": 50.5}, {"perplexity": 50.0}), 9)
        1.0
        >>> round(Metric("top-1", "points").loss({"top-1": 90.0}, {"top-1": 92.5}), 9)
        2.5
        """
        now, before = scores[self.score], baseline[self.score]
        return 100 * (now / before - 1) if self.unit == "%" else before - now


@dataclass(frozen=True)
class Task:
    """A model and how to judge a compressed copy of it."""

    name: str
    title: str  # for headings: model, data, size of the test
    model: Path
    calibration: Path  # .npy or .npz
    metric: Metric
    evaluate: Callable[[Path], Scores]
    baseline: Scores  # of the model itself
    linear: bool = False  # whether its layers are linear: the known methods and the scope ``linear`` are for these


def module_file(package: str, path: str, *, version: str) -> Path:
    """A file that an installed package holds.

    Raises
    ------
    Missing
        The package is not installed, or holds no such file.
    """
    found = importlib.util.find_spec(package)
    name = f"{package.replace('_', '-')}=={version}"
    if found is None or found.origin is None:
        raise Missing(f"needs the Python package {name}: pip install --no-deps {name}")
    file = Path(found.origin).parent / path
    if not file.is_file():
        raise Missing(f"{package} holds no {path}: install {name}")
    return file


def cached(path: Path, question: str, compute: Callable[[], Any]) -> Any:
    """An answer from a JSON file, computed and written if it is not there or to another question."""
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["question"] == question:
            return known["answer"]
    answer = compute()
    write_json(path, {"question": question, "answer": answer})
    return answer


def percent(hits: Iterable[bool]) -> float:
    """Share of hits.

    Examples
    --------
    >>> percent([True, False, True, True])
    75.0
    """
    return 100 * float(np.mean(list(hits)))


def save_once(path: Path, array: Callable[[], npt.NDArray[Any]]) -> None:
    """Save an array unless that has been done; whoever reads the file meanwhile sees all of it or none."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{uuid4().hex}.part.npy")
    np.save(part, array())
    part.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON; an interrupted run leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{uuid4().hex}.part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def digest(*parts: Path | bytes | str) -> str:
    """SHA-256 of files and data, shortened."""
    sums = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        sums.update(hashlib.sha256(data).digest())
    return sums.hexdigest()[:16]
