"""evaluate: perplexity of a causal language model.

Each window of tokens predicts its own next tokens; windows do not overlap; the result is
``exp(mean negative log-likelihood)`` over all predictions, summed in float64.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_export.files import read_array
from onnx_export.progress import Progress, silent
from onnx_export.runtime import ELEMENT_TYPES
from onnx_export.runtime import run as run_session
from onnx_export.session import load_session
from refimpl.errors import ExportError, InvalidArgument

BATCH_TOKENS = 2048  # tokens in a run: logits are large
LARGEST_NLL = 700.0  # its exponential is a number yet


def evaluate(
    source: str | os.PathLike[str],
    tokens: str | os.PathLike[str] | npt.NDArray[np.integer],
    *,
    baseline: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    mode: str = "resident",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Perplexity of a model, and of the original beside it.

    Parameters
    ----------
    source : path
        ``.onnx``, compressed or not, whose first output of rank 3 holds logits.
    tokens : path or integer array, shape (windows, length)
    baseline : path, optional
        The original model.
    device, mode
        See `onnx_export.session.load_session`.
    progress : callable, optional
        Told (what, done, of how many).

    Returns
    -------
    dict
        ``perplexity``, ``bits_per_token``, ``seconds``, ``tokens`` (predictions made); with a baseline also
        ``baseline_perplexity``, ``baseline_seconds`` and ``loss_percent``.

    Raises
    ------
    InvalidArgument
        The tokens are not a table of integers, or the model is not a causal language model.
    ExportError
        The model's outputs are not finite.
    TansorError
        See `onnx_export.session.load_session`.
    """
    windows = read_tokens(tokens)
    tell = progress or silent
    nll, seconds = score(load_session(source, mode, device), windows, lambda i, n: tell("evaluate", i, n))
    result: dict[str, Any] = {
        "perplexity": float(np.exp(nll)),
        "bits_per_token": float(nll / np.log(2)),
        "seconds": seconds,
        "tokens": windows.shape[0] * (windows.shape[1] - 1),
    }
    if baseline is not None:
        session = load_session(baseline, mode, device)
        before, seconds = score(session, windows, lambda i, n: tell("evaluate baseline", i, n))
        result |= {
            "baseline_perplexity": float(np.exp(before)),
            "baseline_seconds": seconds,
            "loss_percent": float(100 * np.expm1(nll - before)),
        }
    return result


def read_tokens(tokens: str | os.PathLike[str] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Windows of tokens as int64, shape (windows, length)."""
    loaded = tokens if isinstance(tokens, np.ndarray) else read_array(Path(tokens))
    if loaded.ndim != 2 or loaded.dtype.kind not in "iu":
        raise InvalidArgument("tokens must be a two-dimensional array of integers, (windows, length)")
    if loaded.shape[0] < 1 or loaded.shape[1] < 2:
        raise InvalidArgument(f"tokens of shape {list(loaded.shape)} leave nothing to predict")
    return loaded.astype(np.int64)


def unseen_windows(windows: npt.NDArray[np.int64], fitted: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """The windows that do not begin as a calibration sample does, up to the shorter one's length.

    Raises
    ------
    InvalidArgument
        None is left.

    Examples
    --------
    >>> unseen_windows(np.array([[1, 2, 3], [4, 5, 6]]), {"input_ids": np.array([[1, 2], [1, 5]])})
    array([[4, 5, 6]])
    """
    seen = [a for a in fitted.values() if a.ndim == 2 and a.dtype.kind in "iu" and a.shape[1] > 1]
    left = windows
    for samples in seen:
        length = min(samples.shape[1], windows.shape[1])
        known = {row.tobytes() for row in samples[:, :length].astype(np.int64)}
        left = left[[row.tobytes() not in known for row in left[:, :length]]]
    if not len(left):
        raise InvalidArgument("--tokens hold nothing but calibration samples: a loss is judged on others")
    return left


def score(session: Any, windows: npt.NDArray[np.int64], tell: Callable[[int, int], None]) -> tuple[float, float]:
    """(mean negative log-likelihood in nats, seconds spent in ONNX Runtime)."""
    logits_name = next((o.name for o in session.get_outputs() if len(o.shape or ()) == 3), None)
    if logits_name is None:
        raise InvalidArgument("the model has no output of shape (batch, sequence, vocabulary)")
    batch = max(1, BATCH_TOKENS // windows.shape[1])
    total, seconds = 0.0, 0.0
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        started = time.perf_counter()
        (logits,) = run_session(session, [logits_name], feeds_for(session, part))
        seconds += time.perf_counter() - started
        if part.max(initial=0) >= logits.shape[-1] or part.min(initial=0) < 0:
            raise InvalidArgument(f"tokens go up to {part.max()}, the vocabulary has {logits.shape[-1]}")
        total += negative_log_likelihood(logits[:, :-1], part[:, 1:])
        tell(min(first + batch, len(windows)), len(windows))
    mean = total / (windows.shape[0] * (windows.shape[1] - 1))
    if not mean < LARGEST_NLL:
        raise ExportError(f"the mean negative log-likelihood is {mean:g}: the outputs leave no perplexity")
    return mean, seconds


def negative_log_likelihood(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.int64]) -> float:
    """Sum of -log softmax(logits)[target], in nats.

    Examples
    --------
    >>> round(negative_log_likelihood(np.zeros((1, 1, 4)), np.array([[2]])), 6)
    1.386294
    """
    shifted = logits.astype(np.float32)
    with np.errstate(invalid="ignore"):  # infinite less infinite: `score` refuses the sum
        shifted -= shifted.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(shifted).sum(axis=-1)) - picked).sum(dtype=np.float64))


def feeds_for(session: Any, tokens: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a language model: tokens, and the usual companions derived from them."""
    feeds: dict[str, npt.NDArray[Any]] = {}
    inputs = session.get_inputs()
    for given in inputs:
        dtype = ELEMENT_TYPES.get(given.type)
        if given.name == "attention_mask":
            values = np.ones_like(tokens)
        elif given.name == "position_ids":
            values = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        elif given.name == "token_type_ids":
            values = np.zeros_like(tokens)
        elif given.name == "input_ids" or len(inputs) == 1:
            values = tokens
        else:
            raise InvalidArgument(f"the model wants input {given.name}, which tokens alone do not give")
        if dtype is None or dtype.kind not in "iu":
            raise InvalidArgument(f"input {given.name} is {given.type}, tokens are integers")
        feeds[given.name] = values.astype(dtype)
    return feeds
