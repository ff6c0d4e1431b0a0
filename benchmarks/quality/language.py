"""Tasks opt-29m and opt-1m-byte: language models, judged by their perplexity on later speeches."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.quality.task import Folders, Metric, Missing, Task, cached, digest, save_once
from onnx_export.demo import CALIBRATION_WINDOWS, EVALUATION_WINDOWS, byte_windows
from onnx_export.evaluate import evaluate

DATA = Path(__file__).parents[2] / "onnx_export" / "data"
Tokens = npt.NDArray[np.integer]


def prepare_words(folders: Folders) -> Task:
    """The model of 29.7 million parameters."""
    model = shared_file(folders, "models/opt-29m/model.onnx")
    calibration = shared_file(folders, "data/sotu-calibration.opt-29m.npy")
    return task("opt-29m", "opt-29m", model, calibration, evaluation_words(folders), folders)


def evaluation_words(folders: Folders) -> Tokens:
    """What judges it."""
    return np.asarray(np.load(shared_file(folders, "data/sotu-evaluation.opt-29m.npy")))


def shared_file(folders: Folders, path: str) -> Path:
    """A file of the model or its tokens.

    Raises
    ------
    Missing
        It is not there.
    """
    if folders.shared is None:
        raise Missing("needs --shared DIR with models/opt-29m/model.onnx and data/sotu-*.opt-29m.npy")
    file = folders.shared / path
    if not file.is_file():
        raise Missing(f"needs {file}")
    return file


def prepare_bytes(folders: Folders) -> Task:
    """The bundled model, on the windows of `tansor demo`."""
    calibration = folders.work / "opt-1m-byte" / "calibration.npy"
    save_once(calibration, lambda: byte_windows(DATA / "sotu-calibration.txt", CALIBRATION_WINDOWS))
    windows = evaluation_bytes(folders)
    return task("opt-1m-byte", "opt-1m-byte, bundled", DATA / "opt-1m-byte.onnx", calibration, windows, folders)


def evaluation_bytes(_folders: Folders) -> Tokens:
    """What judges it."""
    return byte_windows(DATA / "sotu-evaluation.txt", EVALUATION_WINDOWS)


def task(name: str, title: str, model: Path, calibration: Path, windows: Tokens, folders: Folders) -> Task:
    """A language model and its evaluation windows."""

    def perplexity(path: Path) -> Mapping[str, float]:
        return {"perplexity": evaluate(path, windows)["perplexity"]}

    count, length = windows.shape
    return Task(
        name=name,
        title=f"{title}: perplexity, {count} windows of {length} tokens",
        model=model,
        calibration=calibration,
        metric=Metric("perplexity", "%"),
        evaluate=perplexity,
        baseline=cached(
            folders.work / name / "baseline.json", digest(model, windows.tobytes()), lambda: perplexity(model)
        ),
        linear=True,
    )
