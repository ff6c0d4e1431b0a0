"""Task fashion: a small convolutional network that the benchmark trains itself, on pictures of clothes."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.quality.resnet import to_onnx, train
from benchmarks.quality.task import Folders, Metric, Missing, Task, cached, digest, percent, save_once
from onnx_export.session import load_session

DATA = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_IMAGES = 256
SEED = 0
RUN = 500  # images at once
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def prepare(folders: Folders) -> Task:
    """Train the network unless that has been done."""
    if not DATA.is_dir():
        raise Missing(f"needs Fashion-MNIST in {DATA}: the Debian package dataset-fashion-mnist")
    folder = folders.work / "fashion"
    model, calibration = folder / "resnet.onnx", folder / "calibration.npy"
    if not model.is_file():
        make_model(model)
    save_once(calibration, lambda: read("train")[0][:CALIBRATION_IMAGES, None])
    images, truth = read("t10k")
    before = np.array(cached(folder / "answers.json", digest(model), lambda: classify(model, images).tolist()))

    def judge(now: Labels) -> Mapping[str, float]:
        return {"top-1": percent(now == truth), "as the original": percent(now == before)}

    return Task(
        name="fashion",
        title="A residual network of our own, Fashion-MNIST: 10,000 test images classified right",
        model=model,
        calibration=calibration,
        metric=Metric("top-1", "points", ".2f"),
        evaluate=lambda path: judge(classify(path, images)),
        baseline=judge(before),
    )


def make_model(path: Path) -> None:
    """Train and write the network."""
    try:
        import jax  # noqa: F401
    except ImportError:
        raise Missing("needs the Python package jax to train the network: pip install jax") from None
    images, labels = read("train")
    model = to_onnx(*train(images, labels, SEED), images.shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def read(part: str) -> tuple[Images, Labels]:
    """(images in [-1, 1], labels) of "train" or "t10k"."""
    images = read_idx(DATA / f"{part}-images-idx3-ubyte.gz")
    return images.astype(np.float32) / 127.5 - 1, read_idx(DATA / f"{part}-labels-idx1-ubyte.gz")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array in the IDX format: two zeros, the type, the rank, big-endian lengths, bytes."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def classify(path: Path, images: Images) -> Labels:
    """The likeliest class of each image."""
    session = load_session(path)
    runs = (images[first : first + RUN, None] for first in range(0, len(images), RUN))
    return np.concatenate([session.run(None, {"image": run})[0].argmax(1).astype(np.uint8) for run in runs])
