"""compress: a model in, a smaller model out, and a report of what was done to every tensor."""

import fnmatch
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter

from codec.container import KEY, read_container, write_container
from codec.frame import write_frame
from codec.tensor import FLOATS, INTEGERS, StoredTensor
from onnx_export.calibration import batches, check_samples, collect_statistics, combine, read_samples
from onnx_export.calls import OPS, Call, write_call
from onnx_export.files import check_output, first_line, kind_of, read_bytes, read_model, write_model, write_whole
from onnx_export.functions import DOMAIN, MIN_OPSET
from onnx_export.probe import (
    LARGEST_RAISE_DB,
    OUTPUT_SQNR_DB,
    ROUNDS,
    TOLERANCE_DB,
    model_outputs,
    output_sqnr,
    raise_targets,
    with_weights,
)
from onnx_export.recipes import recipe as recipe_by_name
from onnx_export.rewrite import drop_debug_metadata, replace_by_calls, set_metadata
from onnx_export.runtime import open_session
from onnx_export.summary import summarize
from onnx_export.tensors import (
    Options,
    Skipped,
    Tensor,
    compress_integers,
    compress_weight,
    skip,
    with_container_bytes,
)
from onnx_export.ties import Tie, find_ties
from onnx_export.weights import MIN_ELEMENTS, Constant, along_axis, find_constants, to_rows
from refimpl.errors import ExportError, InvalidArgument
from refimpl.pipeline import ActivationStatistics

Array = npt.NDArray[Any]
Samples = str | os.PathLike[str] | Array | Mapping[str, Array]
Progress = Callable[[str, int, int], None]  # what, done, of how many
Lines = tuple[list[Tensor], list[Skipped], list[str]]  # compressed, copied, notes
TABLE_NAMES = ("embed", "wte", "wpe")  # without a graph, only a name tells a table from a layer
WOULD_NOT_SHRINK = "coding would not shrink it"


def compress(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipe: str = "double",
    calibration: Samples | None = None,
    sparsity: float | None = None,
    exclude: Sequence[str] = (),
    profile: str = "gpu",
    fraction: float = 1.0,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compress a model file.

    Parameters
    ----------
    source, output : path
        ``.onnx`` or ``.safetensors``, both of the same kind.
    recipe : {"double", "lossless"}
    calibration : path, array or mapping, optional
        Samples of the model's inputs: ``.npy``, ``.npz`` or arrays; the first axis counts samples.
    sparsity : float, optional
        Share of each layer to prune instead of the recipe's.
    exclude : sequence of str
        Glob patterns of tensors to copy as they are.
    profile : {"gpu", "archive"}
        Short lanes for parallel decoding or long ones for size.
    fraction : float
        Share of each tensor to code; the rest is stored raw and decodes faster.
    jobs : int, optional
        Threads; default one per core.
    force : bool
        Replace an existing output.
    progress : callable, optional
        Told (what, done, of how many).

    Returns
    -------
    dict
        The report; its keys are listed in docs/guide.md.

    Raises
    ------
    TansorError
        See `refimpl.errors`. The output is then as it was before.
    """
    started = time.perf_counter()
    source, output = Path(source), Path(output)
    options = check_options(source, output, recipe, sparsity, exclude, profile, fraction, jobs)
    check_output(output, force=force)
    if output.exists() and source.exists() and output.samefile(source):
        raise InvalidArgument("input and output are the same file")
    tell = progress or (lambda *_: None)
    if kind_of(source) == ".onnx":
        lines = compress_onnx(source, output, options, calibration, tell, force=force)
    else:
        if calibration is not None:
            raise InvalidArgument("calibration data need a graph to run: a .safetensors file has none")
        lines = compress_safetensors(source, output, options, tell, force=force)
    return summarize(source, output, options, *lines, time.perf_counter() - started)


def check_options(
    source: Path,
    output: Path,
    recipe: str,
    sparsity: float | None,
    exclude: Sequence[str],
    profile: str,
    fraction: float,
    jobs: int | None,
) -> Options:
    """The options, if all of them are allowed.

    Raises
    ------
    InvalidArgument
        One is not.
    """
    if kind_of(source) != kind_of(output):
        raise InvalidArgument(f"{source} and {output} must both be .onnx or both .safetensors")
    if profile not in ("gpu", "archive"):
        raise InvalidArgument(f"profile is {profile!r}, allowed are gpu, archive")
    if not 0 < fraction <= 1:
        raise InvalidArgument(f"fraction is {fraction}, allowed are numbers above 0 up to 1")
    if jobs is not None and jobs < 1:
        raise InvalidArgument(f"jobs is {jobs}, allowed are 1 and more")
    return Options(recipe_by_name(recipe, sparsity), tuple(exclude), profile, fraction, jobs or os.cpu_count() or 1)


def compress_onnx(
    source: Path, output: Path, options: Options, calibration: Samples | None, tell: Progress, *, force: bool
) -> Lines:
    """Compress an ONNX file."""
    model = prepare(read_model(source), source)
    constants = find_constants(model)
    reasons = {c.name: reason_to_skip(c, options) for c in constants}
    skipped = [skip(c.name, c.array, reason) for c in constants if (reason := reasons[c.name])]
    unique, ties = find_ties([c for c in constants if not reasons[c.name]])
    floats = [c for c in unique if c.is_float]
    notes: list[str] = []
    if calibration is None:
        results = compress_constants(unique, {}, options, tell)
        if floats:
            notes.append("no calibration data: all input channels count as equally important")
    else:
        results = calibrated(model, unique, ties, calibration, options, notes, tell)
    calls = {name: call for name, (_, call, _) in results.items() if call is not None}
    lines = [line for _, call, line in results.values() if call is not None]
    if dropped := drop_debug_metadata(model):
        notes.append(f"{dropped:,} bytes of the PyTorch exporter's debugging notes were left out")
    kept = {name: tie for name, tie in ties.items() if tie.source in calls}
    done = calls.keys() | kept.keys() | {s.name for s in skipped}
    skipped += [skip(c.name, c.array, WOULD_NOT_SHRINK) for c in constants if c.name not in done]
    notes += [f"{name} is stored once, as {tie.source}" for name, tie in kept.items()]
    replace_by_calls(model, constants, calls, kept)
    set_metadata(model, json.dumps({"recipe": options.recipe.name, "tool": f"tansor {version('tansor')}"}))
    check_model(model)
    tell("write", 0, 1)
    write_model(model, output, force=force)
    tell("write", 1, 1)
    return lines, skipped, notes


Results = dict[str, tuple[StoredTensor, Call | None, Tensor]]  # no call where coding would not shrink


def compress_constants(
    constants: Sequence[Constant],
    statistics: Mapping[tuple[str, int], ActivationStatistics],
    options: Options,
    tell: Progress,
) -> Results:
    """Compress tensors of a graph, several at a time."""

    def one(constant: Constant) -> tuple[str, tuple[StoredTensor, Call | None, Tensor]]:
        stored, line = compress_constant(constant, combine(constant.readers, statistics), options)
        if (stored.frame.block.mode, stored.scale is not None) not in OPS:
            return constant.name, (stored, None, line)
        call = write_call(constant.name, stored)
        line = with_container_bytes(line, call.stored_bytes)
        return constant.name, (stored, call if line.stored_bytes < line.original_bytes else None, line)

    return dict(in_parallel(one, constants, options.jobs, tell))


def calibrated(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    ties: Mapping[str, Tie],
    calibration: Samples,
    options: Options,
    notes: list[str],
    tell: Progress,
) -> Results:
    """Compress with calibration data, and again with finer targets where the model's outputs ask for it."""
    samples = read_samples(Path(calibration)) if isinstance(calibration, str | os.PathLike) else calibration
    session = open_session(model)
    checked = check_samples(session, samples)
    feeds = next(iter(batches(session, checked)))
    floats = [c for c in constants if c.is_float]
    watched = {
        (r.activation, r.activation_axis): c.array.shape[r.input_axis]
        for c in floats
        for r in c.readers
        if r.activation is not None
    }
    statistics = collect_statistics(model, watched, checked, lambda done, count: tell("calibrate", done, count))
    results = compress_constants(constants, statistics, options, tell)
    weights = options.recipe.weights
    if weights is None or not floats:
        return results
    before = model_outputs(model, feeds)
    raised = 0.0
    for _ in range(ROUNDS):
        stored = {name: tensor for name, (tensor, call, _) in results.items() if call is not None}
        kept = {name: tie for name, tie in ties.items() if tie.source in stored}
        sqnr = output_sqnr(before, model_outputs(with_weights(model, stored, kept), feeds))
        if sqnr is None or sqnr >= OUTPUT_SQNR_DB - TOLERANCE_DB or raised >= LARGEST_RAISE_DB:
            break
        raised = min(raised + OUTPUT_SQNR_DB - sqnr, LARGEST_RAISE_DB)
        finer = replace(options.recipe, weights=raise_targets(weights, raised))
        results = compress_constants(constants, statistics, replace(options, recipe=finer), tell)
    if sqnr is not None and np.isfinite(sqnr):
        notes.append(
            f"the outputs keep {sqnr:.1f} dB on calibration samples"
            + (f", layers' targets raised by {raised:.1f} dB for it" if raised else "")
        )
    return results


def compress_safetensors(source: Path, output: Path, options: Options, tell: Progress, *, force: bool) -> Lines:
    """Compress a safetensors file: no graph, so nothing is known of the activations."""
    tensors, metadata = read_container(read_bytes(source))
    if any(isinstance(t, StoredTensor) for t in tensors.values()):
        raise InvalidArgument(f"{source} is compressed already; `tansor decompress` undoes it")
    arrays = {name: t for name, t in tensors.items() if not isinstance(t, StoredTensor)}
    reasons = {name: reason_to_copy(name, array, options) for name, array in arrays.items()}
    skipped = [skip(name, arrays[name], reason) for name, reason in reasons.items() if reason]

    def one(name: str) -> tuple[str, StoredTensor, Tensor]:
        array = arrays[name]
        if array.dtype.name in INTEGERS:
            stored, line = compress_integers(name, array, options)
        else:
            stored, line = compress_named(name, array, options)
        size = len(write_frame(stored.frame)) + stored.zero_point.nbytes
        return name, stored, with_container_bytes(line, size + (0 if stored.scale is None else stored.scale.nbytes))

    lines: list[Tensor] = []
    result: dict[str, Array | StoredTensor] = dict(arrays)
    names = [name for name, reason in reasons.items() if not reason]
    for name, stored, line in in_parallel(one, names, options.jobs, tell):
        if line.stored_bytes < line.original_bytes:
            result[name] = stored
            lines.append(line)
        else:
            skipped.append(skip(name, arrays[name], WOULD_NOT_SHRINK))
    data = write_container(result, {k: v for k, v in metadata.items() if k != KEY})
    tell("write", 0, 1)
    write_whole(output, lambda part: part.write_bytes(data), force=force)
    tell("write", 1, 1)
    return lines, skipped, []


def prepare(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """Bring a model to the oldest opset and IR version that functions need.

    Raises
    ------
    InvalidArgument
        It is compressed already.
    ExportError
        Its opset is too old and cannot be converted.
    """
    if any(o.domain == DOMAIN for o in model.opset_import):
        raise InvalidArgument(f"{source} is compressed already; `tansor decompress` undoes it")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, 13)
        except Exception as error:  # the converter raises whatever its C++ side throws
            raise ExportError(f"{source}: opset {opset} cannot be converted ({first_line(error)})") from None
    model.ir_version = max(model.ir_version, 8)  # 8 brought functions
    return model


def reason_to_skip(constant: Constant, options: Options) -> str | None:
    """Why a constant of a graph is copied as it is, None if it is not."""
    if reason := reason_to_copy(constant.name, constant.array, options):
        return reason
    if not constant.is_float:
        return None
    if constant.other_readers:
        return f"read by {', '.join(sorted(set(constant.other_readers)))}, where its role is not known"
    if not constant.readers:
        return "nothing reads it"
    if constant.input_axis is None:
        return "its readers disagree on its input channels"
    return None


def reason_to_copy(name: str, array: Array, options: Options) -> str | None:
    """Why a tensor is copied as it is, whatever reads it; None if it is not."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.exclude):
        return "excluded by the user"
    if array.size < MIN_ELEMENTS:
        return f"fewer than {MIN_ELEMENTS} elements"
    if array.dtype.name in INTEGERS:
        return None
    if array.dtype.name not in FLOATS:
        return f"{array.dtype.name} tensors are not compressed"
    if options.recipe.weights is None:
        return "float weights, which the lossless recipe keeps"
    if array.ndim < 2:
        return "a vector"
    return None


def compress_constant(
    constant: Constant, statistics: ActivationStatistics | None, options: Options
) -> tuple[StoredTensor, Tensor]:
    """Compress one tensor of a graph."""
    if not constant.is_float:
        return compress_integers(constant.name, constant.array, options)
    name, array = constant.name, constant.array
    settings, input_axis, row_axis = options.recipe.weights, constant.input_axis, constant.row_axis
    assert settings is not None, "the lossless recipe skips floats"
    assert input_axis is not None, "tensors without input channels are skipped"
    if row_axis is not None:
        if statistics is not None:
            statistics = for_rows(statistics, array.shape, input_axis, row_axis)
        return compress_weight(name, array, settings.kernel, statistics, input_axis, row_axis, options)
    is_table = any(r.op_type == "Gather" for r in constant.readers)
    return compress_weight(
        name, array, settings.table if is_table else settings.layer, statistics, input_axis, None, options
    )


def for_rows(
    statistics: ActivationStatistics, shape: tuple[int, ...], input_axis: int, row_axis: int
) -> ActivationStatistics:
    """Statistics of input channels, repeated for every weight of a row that meets the channel."""

    def spread(vector: Array) -> Array:
        return to_rows(np.broadcast_to(along_axis(vector, len(shape), input_axis), shape), row_axis)[0]

    return ActivationStatistics(spread(statistics.maximum), spread(statistics.mean_square), spread(statistics.variance))


def compress_named(name: str, array: Array, options: Options) -> tuple[StoredTensor, Tensor]:
    """Compress a weight that nothing but its name and rank is known of."""
    settings = options.recipe.weights
    assert settings is not None, "the lossless recipe skips floats"
    if array.ndim > 2:
        return compress_weight(name, array, settings.kernel, None, 1, 0, options)
    is_table = any(part in name for part in TABLE_NAMES)
    return compress_weight(name, array, settings.table if is_table else settings.layer, None, 1, None, options)


def in_parallel(one: Callable[[Any], Any], items: Sequence[Any], jobs: int, tell: Progress) -> Iterator[Any]:
    """Results of ``one`` for each item, in order, computed by ``jobs`` threads."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done, result in enumerate(pool.map(one, items)):
                tell("compress", done + 1, len(items))
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_model(model: onnx.ModelProto) -> None:
    """Let onnx's checker see the result; it cannot take models above 2 GB in memory."""
    if model.ByteSize() >= 1 << 31:
        return
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the compressed model is invalid: {first_line(error)}") from None
