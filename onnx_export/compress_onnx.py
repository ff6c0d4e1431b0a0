"""Compressing an ONNX model: find its weights, calibrate, compress, probe the outputs, rewrite the graph."""

import fnmatch
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter

from codec.frame import compile_ahead
from codec.tensor import Stored
from onnx_export.activations import quantize_activations
from onnx_export.aggressive import can_be_pruned, prune_layers
from onnx_export.calibration import (
    Batch,
    Inputs,
    Samples,
    Split,
    check_samples,
    collect_statistics,
    combine,
    hold_back,
    inputs_of,
    read_samples,
)
from onnx_export.calls import write_call
from onnx_export.evaluate import score, unseen_windows
from onnx_export.files import first_line, naming, read_model, write_model
from onnx_export.functions import DOMAIN, MIN_OPSET
from onnx_export.hoist import NOT_HOISTED, hoist_weights
from onnx_export.made_up import make_up
from onnx_export.parallel import in_parallel
from onnx_export.paying import Results, is_too_small, keep_what_pays
from onnx_export.placement import Placement, place_scales, with_new_arrays
from onnx_export.probe import (
    OUTPUT_SQNR_DB,
    TOLERANCE_DB,
    model_outputs,
    output_sqnr,
    probe_batches,
    with_arrays,
    with_weights,
)
from onnx_export.progress import Progress
from onnx_export.rate import Judge, compress_by_rate
from onnx_export.recipes import RECIPES, RateSettings, WeightSettings
from onnx_export.references import Scratch, is_reference, tensors_in
from onnx_export.rewrite import drop_debug_metadata, replace_by_calls, set_metadata
from onnx_export.runtime import frugal_options, onnxruntime, open_session
from onnx_export.targets import Coded, Try, meet_target, with_raises
from onnx_export.tensors import (
    NOT_CALIBRATED,
    TOO_COARSE,
    TOO_FEW,
    TOO_SMALL,
    WOULD_NOT_SHRINK,
    Array,
    Lines,
    Options,
    Result,
    Skipped,
    Tensor,
    compress_integers,
    compress_weight,
    is_excluded,
    keep_result,
    mode_of,
    nbytes,
    reason_to_copy,
    skip,
    uncalibrated,
    with_container_bytes,
)
from onnx_export.ties import Tie, find_ties
from onnx_export.weights import Constant, along_axis, find_constants, find_inside, fingerprint, to_matrix, to_rows
from refimpl.activations import ActivationStatistics
from refimpl.errors import ExportError, InvalidArgument
from refimpl.pruning import global_shares, linf_score

RUINOUS = 0.1  # noise over signal at the outputs
NOT_COMPARED = "the outputs were not checked: on the samples they are constant or not finite"


def compress_onnx(
    source: Path,
    output: Path,
    options: Options,
    calibration: Samples | None,
    tokens: npt.NDArray[np.int64] | None,
    tell: Progress,
    *,
    force: bool,
) -> Lines:
    """Compress an ONNX file."""
    with naming(source):
        model = prepare(read_model(source), source)
        options.scratch.align(model)
        hoist_weights(model)
        constants = find_constants(model)
    reasons = {c.name: reason_to_skip(c, options) for c in constants}
    skipped = [skip(c.name, c.array, reason) for c in constants if (reason := reasons[c.name])]
    skipped += [skip(name, array, reason_inside(name, array, options)) for name, array in find_inside(model)]
    unique, ties = find_ties([c for c in constants if not reasons[c.name]])
    floats = [c for c in unique if c.is_float]
    notes = [f"--exclude {p} matches no tensor" for p in options.exclude if not fnmatch.filter(reasons, p)]
    if calibration is None and floats and (options.recipe.rate is not None or options.recipe.prune is not None):
        raise InvalidArgument(f"the recipe {options.recipe.name} measures the layers' inputs: it needs --calibration")
    placement = Placement()
    if options.recipe.rate is not None and calibration is not None and floats:
        results = rated(model, unique, ties, calibration, skipped, tokens, options, notes, tell)
    elif calibration is None:
        if floats:
            options = uncalibrated(options, sizes_of(floats))
            notes.append(NOT_CALIBRATED)
            if options.recipe.prune_budget == "global" and (weights := options.recipe.weights) is not None:
                shared = with_shares(weights, floats, {})
                options = replace(options, recipe=replace(options.recipe, weights=shared))
        results = compress_constants(unique, {}, options, tell)
        if floats:
            left = left_by(options)
            skipped += [skip(c.name, c.array, TOO_FEW) for c in floats if c.name in left]
            notes += made_up_notes(model, results, ties, options.scratch)
    else:
        results, placement = calibrated(model, unique, ties, calibration, skipped, options, notes, tell)
    met = bytes_of_weights(results)
    results = keep_what_pays(results, ties)
    aimed = options.recipe.rate is not None and options.recipe.rate.target_bits is not None
    if aimed and bytes_of_weights(results) > 1.01 * met:
        notes.append(
            "weights take more bits than --target-bits gives them: the file is smaller without functions that decode"
        )
    calls = {name: call for name, (_, call, _) in results.items() if call is not None}
    lines = [line for _, call, line in results.values() if call is not None]
    if not calls:
        notes.append(
            "WARNING: nothing was compressed, the output holds what the input did; see why tensors were copied"
        )
    if options.recipe.weights is not None and asked_to_prune(options) and not any(map(is_layer, floats)):
        notes.append("no matrix product has weights to prune: tables and convolutions are never pruned")
    if dropped := drop_debug_metadata(model):
        notes.append(f"{dropped:,} bytes of the PyTorch exporter's debugging notes were left out")
    kept = {name: tie for name, tie in ties.items() if tie.source in calls}
    done = calls.keys() | kept.keys() | {s.name for s in skipped}
    skipped += [skip(c.name, c.array, WOULD_NOT_SHRINK) for c in constants if c.name not in done]
    notes += [f"{name} is stored once, as {tie.source}" for name, tie in kept.items()]
    replace_by_calls(model, constants, calls, kept)
    facts: dict[str, Any] = {"recipe": options.recipe.name, "tool": f"tansor {version('tansor')}"}
    if scaled := {name: axes for name, axes in placement.scaled.items() if name in calls}:
        facts["scaled"] = scaled
    if calls:
        set_metadata(model, json.dumps(facts))
    check_model(model)
    tell("write", 0, 1)
    write_model(model, output, force=force)
    tell("write", 1, 1)
    return lines, skipped, notes


def bytes_of_weights(results: Results) -> int:
    """Bytes that weights take, compressed or as they are."""
    return sum(line.original_bytes if call is None else line.stored_bytes for _, call, line in results.values())


def compress_constants(
    constants: Sequence[Constant],
    statistics: Mapping[tuple[str, int], ActivationStatistics],
    options: Options,
    tell: Progress,
    placement: Placement | None = None,
) -> Results:
    """Compress tensors of a graph, several at a time."""

    def one(constant: Constant) -> tuple[str, Result]:
        known = combine(constant.readers, statistics)
        stored, line = compress_constant(constant, known, options, placement or Placement())
        if not constant.is_float and mode_of(stored) in ("raw", "constant"):
            return constant.name, (stored, None, line)
        call = write_call(constant.name, stored)
        return constant.name, (stored, call, with_container_bytes(line, call.stored_bytes))

    left = left_by(options)
    done = in_parallel(one, constants, options.jobs, tell)
    results = {name: keep_result(name, result, options.scratch) for name, result in done}
    return {n: (stored, None if n in left else call, line) for n, (stored, call, line) in results.items()}


def left_by(options: Options) -> frozenset[str]:
    """Weights that the recipe leaves as they are."""
    return frozenset() if options.recipe.weights is None else options.recipe.weights.left


def sizes_of(constants: Sequence[Constant]) -> dict[str, int]:
    """Elements of each."""
    return {c.name: c.array.size for c in constants}


def open_with_samples(model: onnx.ModelProto, calibration: Samples) -> tuple[Inputs, Split]:
    """(inputs of a model that ONNX Runtime can open, calibration samples that fit them, some held back)."""
    samples = read_samples(Path(calibration)) if isinstance(calibration, str | os.PathLike) else calibration
    options = frugal_options()
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing is run
    session = open_session(model, options=options)
    inputs = inputs_of(session)
    return inputs, hold_back(inputs, check_samples(session, samples))


def made_up_notes(model: onnx.ModelProto, results: Results, ties: Mapping[str, Tie], scratch: Scratch) -> list[str]:
    """What the report says of outputs on inputs that are made up."""
    how = "give --calibration samples of real inputs, or compare outputs on your own"
    try:
        feeds = make_up(model, open_session(model, options=frugal_options()))
        before = model_outputs(model, feeds)
        after = outputs_with(model, results, ties, feeds, scratch)
    except ExportError as error:
        return [f"WARNING: the outputs were not checked, no input could be made up ({error}); {how}"]
    sqnr = output_sqnr(before, after)
    if sqnr is None:
        return [f"WARNING: the outputs were not checked, on made-up inputs they are constant or not finite; {how}"]
    notes = [f"the outputs keep {sqnr:.1f} dB on made-up inputs (noise, random rows of tables); real ones may differ"]
    if sqnr < OUTPUT_SQNR_DB - TOLERANCE_DB:
        notes.append(f"WARNING: that is below {OUTPUT_SQNR_DB:.0f} dB; {how}")
    return notes


def outputs_with(
    model: onnx.ModelProto, results: Coded, ties: Mapping[str, Tie], feeds: Sequence[Batch], scratch: Scratch
) -> list[npt.NDArray[np.floating]]:
    """The outputs of a model with the weights that a decoder will see."""
    stored = {name: tensor for name, (tensor, call, _) in results.items() if call is not None}
    kept = {name: tie for name, tie in ties.items() if tie.source in stored}
    with scratch.another() as decoded:
        return model_outputs(with_weights(model, stored, kept, decoded), feeds)


def calibrated(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    ties: Mapping[str, Tie],
    calibration: Samples,
    skipped: list[Skipped],
    options: Options,
    notes: list[str],
    tell: Progress,
) -> tuple[Results, Placement]:
    """Compress with calibration data, and again with finer targets where the model's outputs ask for it.

    Outputs are judged on samples that were held back. Where what is done without calibration keeps them better, in no
    more bytes or because they stay below the aim, it stands. Channel scales are placed first, for the recipe's own
    targets: the model changes, its outputs do not.
    """
    inputs, split = open_with_samples(model, calibration)
    compile_ahead()  # ONNX Runtime has something to do first
    checked = split.fitted
    floats = [c for c in constants if c.is_float]
    watched = {
        (r.activation, r.activation_axis): c.array.shape[r.input_axis]
        for c in floats
        for r in c.readers
        if r.activation is not None
    }
    statistics = collect_statistics(model, watched, checked, lambda done, count: tell("calibrate", done, count))
    layers: Results = {}
    if options.recipe.prune is not None:
        prunable = [c for c in floats if can_be_pruned(model, c)]
        with work_folder(options, model, ties, split) as folder:
            layers = prune_layers(model, prunable, checked, options, folder, tell)
    feeds = probe_batches(inputs, split.judged)
    before = model_outputs(model, feeds) if floats else []
    placement = Placement()
    weights = options.recipe.weights
    if weights is not None and options.recipe.prune is None:
        if options.recipe.prune_budget == "global":
            weights = with_shares(weights, floats, statistics)
            options = replace(options, recipe=replace(options.recipe, weights=weights))
        tied = {tie.source for tie in ties.values()} | ties.keys()
        frozen = {c.name for c in find_constants(model) if is_excluded(c.name, options)}
        placement = place_scales(model, floats, tied, frozen, statistics, weights, options.scratch)
        skipped += placement.added
        constants = with_new_arrays(model, constants)
    if options.recipe.quantizes_activations:
        layers_only = [c for c in floats if not is_table(c)]  # a head that is tied to its table cannot be scaled
        # What exceeds a range is clipped: those of all samples count.
        count = quantize_activations(model, layers_only, split.every, lambda done, count: tell("ranges", done, count))
        notes.append(f"{count} values that layers read are quantized to 8 bits")
    rest = compress_constants([c for c in constants if c.name not in layers], statistics, options, tell, placement)
    results = keep_what_pays({c.name: (layers | rest)[c.name] for c in constants}, ties)
    if options.recipe.weights is None or not floats:
        return results, placement

    def measure(results: Coded) -> float | None:
        return output_sqnr(before, outputs_with(model, results, ties, feeds, options.scratch))

    first = measure(results)
    if first is None:
        notes.append(NOT_COMPARED)
        return results, placement

    def compress_with(options: Options) -> Results:
        return keep_what_pays(compress_constants(constants, statistics, options, tell, placement), ties)

    def tries() -> Iterator[Try]:
        yield Try(results, first, "")
        if layers:  # they have a share to be pruned and no target
            return
        seen, told = probe_batches(inputs, checked), partial(tell, "probe")
        free = options.recipe.prune_budget == "layer" and not asked_to_prune(options)
        finer = with_raises(model, constants, ties, seen, results, options, free, told)
        yield from meet_target(compress_with, measure, finer)
        if not options.recipe.quantizes_activations:
            blind = uncalibrated(options, sizes_of(floats))
            plain = keep_what_pays(compress_constants(constants, {}, blind, tell, placement), ties)
            how = ", with scales as without calibration, which serve it better"
            yield Try(plain, measure(plain) or 0.0, how, left_by(blind))

    best = min(tries(), key=Try.rank)
    skipped += [skip(c.name, c.array, TOO_COARSE) for c in constants if c.name in best.left]
    if np.isfinite(best.sqnr):
        notes.append(f"the outputs keep {best.sqnr:.1f} dB on {split.words}{best.how}")
    if not best.reached:
        notes.append(f"WARNING: that is below {OUTPUT_SQNR_DB:.0f} dB; check the result, --exclude sensitive tensors")
    return dict(best.results), placement


def rated(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    ties: Mapping[str, Tie],
    calibration: Samples,
    skipped: list[Skipped],
    tokens: npt.NDArray[np.int64] | None,
    options: Options,
    notes: list[str],
    tell: Progress,
) -> Results:
    """Compress by the rate recipe; what is already quantized is coded as it is."""
    settings = options.recipe.rate
    assert settings is not None, "a recipe with rate settings"
    inputs, split = open_with_samples(model, calibration)
    floats = [c for c in constants if c.is_float]
    results = compress_constants([c for c in constants if not c.is_float], {}, options, tell)
    bits = None
    if settings.target_bits is not None:
        count = sum(c.array.size for c in constants) + sum(s.elements for s in skipped)
        fixed = sum(s.stored_bytes for s in skipped) + sum(line.stored_bytes for _, _, line in results.values())
        bits = settings.target_bits * count - 8 * fixed
        if bits <= 0:
            raise InvalidArgument(f"what is copied takes {8 * fixed / count:.2f} bits per weight: raise --target-bits")
    judge = None
    if tokens is not None and settings.max_loss_percent is not None:
        given, tokens = len(tokens), unseen_windows(tokens, split.fitted)
        if len(tokens) < given:
            notes.append(f"{given - len(tokens)} of {given} windows of --tokens calibrate: they do not judge")
        judge = perplexity_judge(model, ties, tokens, settings.max_loss_percent, options.scratch)
    judged, seen = probe_batches(inputs, split.judged), probe_batches(inputs, split.fitted)
    with work_folder(options, model, ties, split) as folder:
        rate, error, loss = compress_by_rate(
            model, floats, ties, split.fitted, (judged, seen), bits, judge, options, folder, tell
        )
    if error:
        notes.append(f"the outputs keep {-10 * np.log10(error):.1f} dB on {split.words}")
        if bits is not None and error > RUINOUS:
            share = f"{100 * error**0.5:.0f} % of what they vary"
            notes.append(f"WARNING: that is an error of {share}; check the result, or give more bits")
    elif error is None:
        notes.append(NOT_COMPARED)
    if judge is not None and tokens is not None and settings.max_loss_percent is not None:
        notes.append(
            f"perplexity rises by {loss * settings.max_loss_percent:.2f} % on {len(tokens)} windows of --tokens"
        )
    if loss > 1 and judge is None:
        least = settings.output_sqnr_db - 10 * np.log10(loss)
        notes.append(
            f"WARNING: {settings.output_sqnr_db:.0f} dB are aimed at and not reached: {least:.1f} dB on the worse of "
            "samples that calibrate and that do not, less a standard error; check the result"
        )
    elif loss > 1:
        notes.append(f"WARNING: that is more than {settings.max_loss_percent:g} %; check the result")
    if nearest := [line.name for _, _, line in rate.values() if line.statistics == "unknown"]:
        notes.append(f"rounded to nearest, since what they read is not watched: {', '.join(nearest)}")
    skipped += [skip(c.name, c.array, TOO_COARSE) for c in floats if c.name not in rate]
    return {c.name: (results | rate)[c.name] for c in constants if c.name in results or c.name in rate}


@contextmanager
def work_folder(options: Options, model: onnx.ModelProto, ties: Mapping[str, Tie], split: Split) -> Iterator[Path]:
    """A folder for what is finished: a temporary one, or one of the caller's for this model and these samples.

    Runs with other targets, tensors left out or recipes share what they measure alike.
    """
    if options.work is None:
        with tempfile.TemporaryDirectory(dir=options.scratch.folder) as temporary:
            yield Path(temporary)
        return
    price = (options.recipe.rate or RateSettings()).price
    digest = hashlib.sha256(f"{version('tansor')} {price} {sorted(ties.items())}".encode())
    for constant in find_constants(model):
        digest.update(constant.name.encode() + fingerprint(constant.array))
    for part in (split.fitted, split.judged):
        for name, array in sorted(part.items()):
            digest.update(name.encode() + fingerprint(array))
    folder = options.work / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def perplexity_judge(
    model: onnx.ModelProto, ties: Mapping[str, Tie], tokens: npt.NDArray[np.int64], percent: float, scratch: Scratch
) -> Judge:
    """A judge of weights: the loss of perplexity over the loss allowed."""
    before, _ = score(open_session(model, options=frugal_options()), tokens, lambda _i, _n: None)

    def judge(weights: Mapping[str, Array]) -> float:
        with scratch.another() as apart:
            session = open_session(with_arrays(model, weights, ties, apart), options=frugal_options())
            after, _ = score(session, tokens, lambda _i, _n: None)
        return float(100 * np.expm1(after - before) / percent)

    return judge


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
    if is_too_small(constant.name, nbytes(constant.array)):
        return TOO_SMALL
    if not constant.is_float:
        return None
    if constant.other_readers:
        others = sorted(set(constant.other_readers))
        if all(" of " in other for other in others):
            return f"read as {' and '.join(others)}"
        return f"read by {', '.join(others)}, where its role is not known"
    if not constant.readers:
        return "nothing reads it"
    if constant.input_axis is None:
        return "its readers disagree on its input channels"
    return None


def reason_inside(name: str, array: Array, options: Options) -> str:
    """Why a constant of a body, which `onnx_export.hoist` has left there, is copied as it is."""
    small = TOO_SMALL if is_too_small(name, nbytes(array)) else NOT_HOISTED
    return reason_to_copy(name, array, options) or small


def compress_constant(
    constant: Constant, statistics: ActivationStatistics | None, options: Options, placement: Placement
) -> tuple[Stored, Tensor]:
    """Compress one tensor of a graph; one whose scale was placed elsewhere is scaled already, and so is its input."""
    if not constant.is_float:
        return compress_integers(constant.name, constant.array, options)
    name, array = constant.name, constant.array
    settings, input_axis, row_axis = options.recipe.weights, constant.input_axis, constant.row_axis
    assert settings is not None, "the lossless recipe skips floats"
    assert input_axis is not None, "tensors without input channels are skipped"
    if row_axis is not None:
        if statistics is not None:
            statistics = for_rows(statistics, array.shape, input_axis, row_axis)
        return compress_weight(name, array, settings.kernel_of(name), statistics, input_axis, row_axis, options)
    layer = settings.table_of(name) if is_table(constant) else settings.layer_of(name)
    row_scale = placement.row_scales.get(name)
    placed = placement.placed.get(name)
    if layer.activation_bits is not None and placed is None:  # what it reads could not be divided
        layer = replace(layer, exponents=(0.0,))
    if placed is None or statistics is None:
        return compress_weight(name, array, layer, statistics, input_axis, None, options, row_scale)
    layer, known = replace(layer, exponents=(0.0,)), statistics.divided_by(placed.channel_scale)
    stored, line = compress_weight(name, array, layer, known, input_axis, None, options, row_scale)
    return stored, replace(line, exponent=placed.exponent, absorbed=placed.where)


def with_shares(
    weights: WeightSettings, floats: Sequence[Constant], statistics: Mapping[tuple[str, int], ActivationStatistics]
) -> WeightSettings:
    """The settings with a sparsity for each layer, of one threshold for all of them."""
    layers = [c for c in floats if is_layer(c)]
    scores = []
    for c in layers:
        assert c.input_axis is not None, "tensors without input channels are skipped"
        W = to_matrix(c.array, c.input_axis)
        known = combine(c.readers, statistics) or ActivationStatistics.unknown(W.shape[1])
        scores.append(linf_score(W, known.maximum))
    shares = global_shares(scores, weights.layer.sparsity)
    return replace(weights, shares={c.name: share for c, share in zip(layers, shares, strict=True)})


def asked_to_prune(options: Options) -> bool:
    """Whether the caller's sparsity is more than the recipe's own."""
    weights, usual = options.recipe.weights, RECIPES[options.recipe.name].weights
    return weights is not None and usual is not None and weights.layer.sparsity > usual.layer.sparsity


def is_layer(constant: Constant) -> bool:
    """Whether a weight is a matrix product's alone."""
    return constant.row_axis is None and not is_table(constant)


def is_table(constant: Constant) -> bool:
    """Whether rows of a weight are looked up."""
    return any(r.op_type == "Gather" for r in constant.readers)


def for_rows(
    statistics: ActivationStatistics, shape: tuple[int, ...], input_axis: int, row_axis: int
) -> ActivationStatistics:
    """Statistics of input channels, repeated for every weight of a row that meets the channel."""

    def spread(vector: Array) -> Array:
        return to_rows(np.broadcast_to(along_axis(vector, len(shape), input_axis), shape), row_axis)[0]

    return ActivationStatistics(spread(statistics.maximum), spread(statistics.mean_square), spread(statistics.variance))


def check_model(model: onnx.ModelProto) -> None:
    """Let onnx's checker see the result, without the bytes that the model refers to."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in tensors_in(light.graph):
        if is_reference(tensor):
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the compressed model is invalid: {first_line(error)}") from None
