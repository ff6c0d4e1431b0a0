"""Probing: what compression does to the outputs of the whole model.

A layer's target says how much its own output may move. How much that moves the model's outputs differs from
model to model: the probe measures it, on calibration samples, and the targets follow.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from codec.tensor import Stored, load
from onnx_export.calibration import batches, sample_count
from onnx_export.references import MEMORY, Scratch, to_tensor
from onnx_export.rewrite import copy_without
from onnx_export.runtime import frugal_options, open_session, run
from onnx_export.ties import Tie
from refimpl.metrics import sqnr_db

Arrays = Mapping[str, npt.NDArray[Any]]
OUTPUT_SQNR_DB = 24.0  # what the outputs should keep
TOLERANCE_DB = 0.5
STEP_DB = 6.0  # one bit: the most that targets are raised at once
TRIES = 3  # of compressing everything again
WORTHWHILE = 0.5  # dB at the outputs that a dB of finer targets must bring
PROBE_SAMPLES = 40  # that outputs are compared on, if there are more
# Between quantized activations ONNX Runtime would quantize constant float weights anew, coarser than they are.
REQUANTIZING = "WeightBiasQuantization"
PROBE_BYTES = 1 << 26  # of outputs; no further batch is run beyond


def probe_batches(session: Any, samples: Arrays) -> list[dict[str, npt.NDArray[Any]]]:
    """All batches, or some that are spread over the samples."""
    every = list(batches(session, samples))
    count = min(len(every), -(-PROBE_SAMPLES // sample_count(every[0])))
    return [every[(2 * k + 1) * len(every) // (2 * count)] for k in range(count)]


def model_outputs(model: onnx.ModelProto, feeds: Iterable[Arrays]) -> list[npt.NDArray[np.floating]]:
    """The float outputs of a model, each as one vector over the batches.

    Batches are left out once the outputs exceed `PROBE_BYTES`, the same ones for the same model.
    """
    options = frugal_options()
    options.add_session_config_entry("optimization.disable_specified_optimizers", REQUANTIZING)
    session = open_session(model, options=options)
    results: list[list[npt.NDArray[np.floating]]] = []
    size = 0
    for batch in feeds:
        outputs = [o for o in run(session, None, batch) if isinstance(o, np.ndarray) and o.dtype.kind == "f"]
        results.append([o.reshape(-1) for o in outputs])
        size += sum(o.nbytes for o in outputs)
        if size > PROBE_BYTES:
            break
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def output_sqnr(before: Iterable[npt.NDArray[np.floating]], after: Iterable[npt.NDArray[np.floating]]) -> float | None:
    """The lowest signal to noise of any output, in dB; the signal is what varies around the output's mean.

    Returns
    -------
    float or None
        None if there is no output to compare: all are constant or not finite.

    Examples
    --------
    >>> output_sqnr([np.array([1.0, 3.0])], [np.array([1.1, 3.1])])
    20.0
    """
    values = []
    for a, b in zip(before, after, strict=True):
        finite = np.isfinite(a) & np.isfinite(b)
        if a.shape != b.shape or not finite.any() or np.ptp(a[finite]) == 0:
            continue
        mean = a[finite].mean(dtype=np.float64)
        values.append(sqnr_db(a[finite] - mean, b[finite] - mean))
    return round(min(values), 6) if values else None


def with_weights(
    model: onnx.ModelProto, stored: Mapping[str, Stored], ties: Mapping[str, Tie], scratch: Scratch = MEMORY
) -> onnx.ModelProto:
    """A copy of a model with decoded weights in place of the originals."""
    return with_arrays(model, {name: scratch.keep(load(tensor)) for name, tensor in stored.items()}, ties, scratch)


def with_arrays(
    model: onnx.ModelProto, arrays: Arrays, ties: Mapping[str, Tie], scratch: Scratch = MEMORY
) -> onnx.ModelProto:
    """A copy of a model with these weights, and what is tied to them, in place of the originals."""
    every = with_ties(arrays, ties)
    copy = copy_without(model, every)
    copy.graph.initializer.extend(
        to_tensor(scratch.keep(np.ascontiguousarray(array)), name) for name, array in every.items()
    )
    return copy


def with_ties(arrays: Arrays, ties: Mapping[str, Tie]) -> dict[str, npt.NDArray[Any]]:
    """Weights, and those that are tied to one of them."""
    tied = {n: arrays[t.source].T if t.transposed else arrays[t.source] for n, t in ties.items() if t.source in arrays}
    return {**arrays, **tied}
