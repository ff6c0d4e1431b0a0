"""The rate recipe on a graph: measure what each weight's error costs at the outputs, then spend bits where they pay.

1. second moments of the layers' inputs, on calibration samples (`onnx_export.moments`);
2. every weight is quantized once, at about three bits, with error feedback, and the model run with this
   weight alone replaced: its gain (`onnx_export.sensitivity`);
3. steps for all weights at once, from their curves and gains (`refimpl.allocation`);
4. all weights quantized with these steps and coded; what that took and what it cost corrects the plan.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from codec.kernels import histogram
from codec.tensor import BandedTensor, Stored, load
from onnx_export.calibration import Batch
from onnx_export.calls import write_call
from onnx_export.moments import Moment, collect_moments, load_hessian, moments_of, save_whole
from onnx_export.parallel import on_layers
from onnx_export.progress import Progress
from onnx_export.references import Scratch
from onnx_export.sensitivity import Probe
from onnx_export.tensors import (
    LEAST_SAVING,
    PART_BYTES,
    Options,
    Result,
    Tensor,
    bytes_in_file,
    check_finite,
    describe,
    keep_result,
    store_matrix,
    with_container_bytes,
)
from onnx_export.ties import Tie
from onnx_export.weights import Constant, from_matrix, from_rows, to_matrix, to_rows
from refimpl.allocation import (
    Demand,
    Share,
    allocate_bits,
    allocate_error,
    bend,
    choose_by_bits,
    choose_by_error,
)
from refimpl.bands import SteppedBands, stepped_bands
from refimpl.errors import InvalidArgument
from refimpl.hessian import DAMPING, inverse_factor, output_error
from refimpl.metrics import sqnr_db
from refimpl.numerics import check_weight
from refimpl.rate import (
    RateCurve,
    least_damping,
    losses_by_damping,
    quantize_by_activity,
    quantize_rate,
    rate_curve,
    stored_step,
)
from refimpl.search import truncate_mantissa
from refimpl.symbols import to_symbols

TRIAL_BITS = 3.0  # coarse enough to be seen at the outputs, fine enough for errors to add up
FAINTEST = 2.0**-5  # smallest gain over the typical one: samples may just not have shown what a weight is for
REACHES = (32.0, 8.0)  # typical sizes: a weight beyond is an outlier where codes are coarse, where they are fine
SMALLEST_ROW = 2.0**-100  # rms of a row that gets a scale: what is smaller rounds to zero
TRIES = 6  # of a plan
LOSS_TRIES = 12  # where a loss, which is far less predictable than bits, is to be met
NEAR = 0.02  # of log2(step): not worth quantizing a weight again
FAR = 0.75  # of log2(step): a gain is not trusted farther from where it was measured
CLOSE_BITS = 0.005  # of the target: near enough
CLOSE_LOSS = 0.93  # of the loss allowed: worth no further try
FINE = 0.25  # of the loss allowed: what all weights together may cost at their finest
CLOSE_AIM = 0.05  # of log2(planned error): a try so near to another one says nothing new
Array = npt.NDArray[Any]
AXES: tuple[Literal["rows"], Literal["columns"]] = ("rows", "columns")
Matrix = npt.NDArray[np.float64]
Judge = Callable[[Mapping[str, Array]], float]  # weights -> their loss, as a share of the loss allowed


@dataclass(frozen=True)
class Layer:
    """A weight as a matrix whose rows meet the input, and what is known of that input."""

    constant: Constant
    moments: tuple[Moment, ...]
    unwatched: int  # uses of which nothing is known
    scaled: Literal["", "rows", "columns"] = ""  # what has a scale each; else all share the step
    reach: float = REACHES[0]  # typical sizes: with more than that a row or column gets its scale
    bands: SteppedBands | None = None  # of the columns: these share a step, and a table
    damping: float = DAMPING  # of feedback; infinite: none

    @property
    def key(self) -> str:
        """A file name of its own."""
        parts = [hashlib.sha256(self.constant.name.encode()).hexdigest()[:16]]
        if self.bands is not None:
            shape = hashlib.sha256(self.bands.of_column.tobytes() + self.bands.steps.tobytes())
            parts.append(shape.hexdigest()[:8])
        if self.scaled:
            parts.append(self.scaled if self.reach == REACHES[0] else f"{self.scaled}-{self.reach:g}")
        if np.isinf(self.damping):
            parts.append("nearest")
        return "-".join(parts)

    @property
    def in_rows(self) -> bool:
        """Whether it is a kernel, whose output channels make the rows."""
        return self.constant.row_axis is not None

    @property
    def axis(self) -> int:
        """Axis of the weight that makes the rows of a kernel, or the columns of any other matrix."""
        axis = self.constant.input_axis if self.constant.row_axis is None else self.constant.row_axis
        assert axis is not None, "tensors without input channels are skipped"
        return axis

    def matrix(self) -> npt.NDArray[np.float32]:
        """The weight, (out, in)."""
        fold = to_rows if self.in_rows else to_matrix
        return check_weight(fold(self.constant.array, self.axis))

    def scales(self) -> npt.NDArray[np.float32]:
        """(out, 1) or (1, in) or (1, 1): what the weight is divided by before it is quantized.

        Columns in bands have their band's relative step. Rows of a kernel are brought to one rms. Rows or columns of
        another matrix have 1, unless their largest weight is an outlier that fine codes could not reach.
        """
        if self.bands is not None:
            return self.bands.of_columns
        if not self.scaled:
            return np.ones((1, 1), np.float32)
        weight = self.matrix()
        axis = 1 if self.scaled == "rows" else 0
        if self.in_rows:
            size = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=axis, keepdims=True)).astype(np.float32)
        else:
            largest = np.abs(weight).max(axis=axis, keepdims=True)
            size = np.maximum(largest / (self.reach * typical_size(weight)), 1).astype(np.float32)
        return np.where(size > SMALLEST_ROW, truncate_mantissa(size), np.float32(1))

    def values(self, codes: npt.NDArray[np.int8], step: np.float32) -> Array:
        """What a decoder sees of these codes, in the weight's own layout and type."""
        unfold = from_rows if self.in_rows else from_matrix
        rows = codes.astype(np.float32) * (step * self.scales())
        return unfold(rows.astype(self.constant.array.dtype), self.constant.array.shape, self.axis)


@dataclass(frozen=True)
class Trial:
    """A weight quantized once, to learn what its bits buy."""

    layer: Layer
    curve: RateCurve
    point: int  # of the curve
    stored_bits: int
    file_bits: int  # names and nodes included

    @property
    def step(self) -> np.float32:
        """Its step."""
        return stored_step(float(self.curve.step[self.point]))


@dataclass(frozen=True)
class Plan:
    """The weights, what each wants, and how to quantize them."""

    layers: tuple[Layer, ...]
    demands: tuple[Demand, ...]  # by what was measured so far
    points: tuple[tuple[tuple[float, float], ...], ...]  # of each weight: (step, error at the outputs) as measured
    moments: Mapping[Moment, Path]
    probes: Sequence[Probe]
    folder: Path
    options: Options
    tell: Progress


def compress_by_rate(
    model: onnx.ModelProto,
    constants: Sequence[Constant],
    ties: Mapping[str, Tie],
    samples: Batch,
    feeds: tuple[Iterable[Batch], Iterable[Batch]],
    bits: float | None,
    judge: Judge | None,
    options: Options,
    folder: Path,
    tell: Progress,
) -> tuple[dict[str, Result], float | None, float]:
    """Compress the float weights of a graph.

    Parameters
    ----------
    model : onnx.ModelProto
    constants : sequence of Constant
        Float weights whose input channels are known.
    ties : mapping
        Tied weight -> what it equals.
    samples : mapping
        Calibration samples.
    feeds : (iterable of mapping, iterable of mapping)
        Batches on which outputs are compared: of samples that were held back, and of the calibration samples.
    bits : float, optional
        Bits that all these weights together may take. Without it the loss decides.
    judge : callable, optional
        Loss of the weights as a share of the loss allowed; default by the error at the outputs.
    options : Options
        Whose recipe has rate settings.
    folder : Path
        For moments, codes and gains. What is there already is not computed again.
    tell : callable

    Returns
    -------
    results : dict
        By name of the weight; without those that no code of 8 bits is fine enough for.
    error : float or None
        Noise over signal at the outputs; None if nothing can be compared.
    loss : float
        As a share of the loss allowed; 0 with ``bits``.

    Raises
    ------
    InvalidArgument
        NaN or infinite weights, or fewer bits than the weights take with all codes zero.
    ExportError
        ONNX Runtime cannot run the model.
    """
    settings = options.recipe.rate
    assert settings is not None, "a recipe with rate settings"
    layers, moments = watch(model, constants, samples, folder, tell)
    jobs, scheduler = options.jobs, options.scheduler
    damp = partial(with_damping, moments=moments, folder=folder, options=options)
    attempts = [v for layer in on_layers(damp, layers, jobs, scheduler, tell, "damp") for v in variants(layer)]
    trials = list(
        on_layers(
            partial(attempt, moments=moments, folder=folder, options=options), attempts, jobs, scheduler, tell, "try"
        )
    )
    judged, seen = feeds
    probe = Probe(model, constants, ties, judged, options.scratch)
    probes = (probe, probe.on(seen))
    pairs = []
    for i, trial in enumerate(trials):
        pairs.append((trial, demand(trial, probes, folder)))
        tell("probe", i + 1, len(trials))
    allowed = 10.0 ** (-settings.output_sqnr_db / 10)
    plan = make_plan(choose_variants(pairs, bits, allowed), moments, probes, folder, options, tell)
    loss = 0.0
    if bits is not None:
        results = meet_bits(plan, bits)
    else:
        judge = judge or outputs_judge(probes, allowed)
        results, loss, plan = meet_loss(plan, allowed, judge)
        if loss > 1 and (rest := without_worst(plan, allowed)) is not None:
            coded, less, _ = meet_loss(rest, allowed, judge)
            if less < loss:
                results, loss = coded, less
    with options.scratch.another() as scratch:
        return results, probe.error(decoded(results, scratch)), loss


def watch(
    model: onnx.ModelProto, constants: Sequence[Constant], samples: Batch, folder: Path, tell: Progress
) -> tuple[list[Layer], dict[Moment, Path]]:
    """(layers of the weights, moments of all their inputs)."""
    layers = [make_layer(model, c) for c in constants]
    wanted = [m for layer in layers for m in layer.moments]
    return layers, collect_moments(model, wanted, samples, folder, lambda i, n: tell("calibrate", i, n))


def make_layer(model: onnx.ModelProto, constant: Constant) -> Layer:
    """A weight and where its inputs can be watched."""
    moments, unwatched = moments_of(model, constant)
    return Layer(constant, tuple(moments), unwatched)


def variants(layer: Layer) -> list[Layer]:
    """The ways to quantize a layer that are tried: the outputs say which one stands.

    A kernel's output channels are often normalized one by one and may want a scale each. A few outliers, as language
    models have them, would clip or make all steps coarse: coarser rows or columns around them may cost less. With 8
    bits, codes that reach 32 typical sizes have steps of a quarter of one, which many bits want finer. Feedback that
    wants damping knows little of the inputs, and none may be better.
    """
    found = [layer]
    if layer.in_rows:
        found.append(replace(layer, scaled="rows"))
    else:
        weight = layer.matrix()
        largest = np.abs(weight).max() if layer.constant.array.ndim == 2 else 0.0
        for reach in REACHES:
            if largest > reach * typical_size(weight):
                found += [replace(layer, scaled=axis, reach=reach) for axis in AXES]
    if DAMPING < layer.damping < np.inf:
        found += [replace(v, damping=np.inf) for v in found]
    return found


def typical_size(weight: npt.NDArray[np.float32]) -> float:
    """Size of most weights: the standard deviation of a normal distribution with their median, or the rms.

    Examples
    --------
    >>> round(typical_size(np.array([[-1, 1, 2, -2, 1000]], np.float32)), 2)
    2.97
    """
    median = 1.4826 * float(np.median(np.abs(weight)))
    return median or float(np.sqrt(np.mean(np.square(weight, dtype=np.float64))))


def with_damping(layer: Layer, moments: Mapping[Moment, Path], folder: Path, options: Options) -> Layer:
    """A layer with the damping that one half of its inputs asks for once the other has set the codes.

    Groups of a convolution share it. Inputs of a single batch have no other half: there is no feedback then.
    """
    seen, unseen = (load_hessian(moments, layer.moments, layer.unwatched, half) for half in (0, 1))
    if seen is None or unseen is None:
        return layer
    path = folder / f"{layer.key}-damping.npy"  # before it is known
    if not path.exists():
        save_whole(path, np.array(damping_of(layer, seen, unseen, options)))
    return replace(layer, damping=float(np.load(path)))


def damping_of(layer: Layer, seen: Matrix, unseen: Matrix, options: Options) -> float:
    """The damping of a layer whose inputs have these second moments, (in, in) or (groups, in, in)."""
    settings = options.recipe.rate
    assert settings is not None, "a recipe with rate settings"
    weight, curve = layer.matrix(), curve_of(layer)
    step = float(stored_step(float(curve.step[trial_point(curve)])))
    if seen.ndim == 2:
        return least_damping(losses_by_damping(weight, seen, unseen, step, settings.price))
    groups = zip(np.split(weight, len(seen)), seen, unseen, strict=True)
    return least_damping(np.sum([losses_by_damping(*group, step, settings.price) for group in groups], axis=0))


def curve_of(layer: Layer) -> RateCurve:
    """The curve of a layer."""
    try:
        return rate_curve(layer.matrix() / layer.scales(), None if layer.bands is None else layer.bands.of_column)
    except InvalidArgument as error:
        raise InvalidArgument(f"{layer.constant.name}: {error}") from None


def trial_point(curve: RateCurve) -> int:
    """The point of a curve at about `TRIAL_BITS`."""
    return int(np.argmin(np.abs(curve.bits - TRIAL_BITS)))


def attempt(layer: Layer, moments: Mapping[Moment, Path], folder: Path, options: Options) -> Trial:
    """Quantize a layer at about `TRIAL_BITS`, with the profile archive also in bands: what takes fewer bits stands."""
    plain, _ = attempt_once(layer, moments, folder, options)
    return plain if (banded := attempt_bands(layer, plain, moments, folder, options)) is None else banded


def attempt_once(
    layer: Layer, moments: Mapping[Moment, Path], folder: Path, options: Options
) -> tuple[Trial, npt.NDArray[np.int8]]:
    """(trial, codes) of a layer as it is."""
    curve = curve_of(layer)
    point = trial_point(curve)
    step = stored_step(float(curve.step[point]))
    codes = quantize(layer, step, moments, folder, options)
    stored = store(layer, codes, step, options)
    size = write_call(layer.constant.name, stored).stored_bytes
    return Trial(layer, curve, point, 8 * size, 8 * bytes_in_file(stored)), codes


def attempt_bands(
    layer: Layer, plain: Trial, moments: Mapping[Moment, Path], folder: Path, options: Options
) -> Trial | None:
    """The layer in bands, if these take fewer bits for the same error of its output: a bit halves the error twice."""
    hessian = load_hessian(moments, layer.moments, layer.unwatched)
    if not options.in_bands or layer.scaled or layer.in_rows or hessian is None:
        return None
    weight = layer.matrix()
    trusted = hessian if layer.damping < 1 else np.diag(np.diagonal(hessian))  # with little feedback: activity alone
    bands = stepped_bands(inverse_factor(trusted), len(weight), 8 * PART_BYTES)
    if len(bands.steps) == 1:
        return None
    banded = replace(layer, bands=bands)
    trial, codes = attempt_once(banded, moments, folder, options)

    def loss(layer: Layer, step: np.float32, codes: npt.NDArray[np.int8]) -> float:
        return output_error(codes * (step * layer.scales()) - weight, hessian)

    before = loss(layer, plain.step, np.load(codes_file(layer, plain.step, folder)))
    after = loss(banded, trial.step, codes)
    more = np.log2(after / before) / 2 if before > 0 and after > 0 else 0.0
    saves = trial.file_bits + weight.size * more < (1 - LEAST_SAVING) * plain.file_bits
    return trial if saves else None


def quantize(
    layer: Layer, step: np.float32, moments: Mapping[Moment, Path], folder: Path, options: Options
) -> npt.NDArray[np.int8]:
    """Codes of a layer, kept in the folder.

    Columns with one step are settled by activity. Steps of bands see to that themselves.
    """
    path = codes_file(layer, step, folder)
    if path.exists():
        return np.load(path)
    settings = options.recipe.rate
    assert settings is not None, "a recipe with rate settings"
    hessian = load_hessian(moments, layer.moments, layer.unwatched)
    weight, scales = layer.matrix() / layer.scales(), layer.scales()
    one = partial(quantize_by_activity, step=float(step), price=settings.price, damping=layer.damping)
    if hessian is None:
        codes = quantize_rate(weight, None, float(step), settings.price)
    elif hessian.ndim == 3:  # each group of rows reads channels of its own
        codes = np.concatenate([one(*group) for group in zip(np.split(weight, len(hessian)), hessian, strict=True)])
    elif scales.shape[1] > 1:
        codes = one(weight, hessian, scales=scales, in_order=layer.bands is not None)
    else:
        codes = one(weight, hessian)
    save_whole(path, codes)
    return codes


def codes_file(layer: Layer, step: np.float32, folder: Path) -> Path:
    """Where the codes of a layer with a step are kept."""
    return folder / f"{layer.key}-{float(step).hex()}.npy"


def measure(layer: Layer, step: np.float32, values: Array, probes: Sequence[Probe], folder: Path) -> float:
    """Error at the outputs with a layer's values replaced by these, the worst of some inputs; kept in the folder."""
    path = folder / f"{layer.key}-{float(step).hex()}-error.npy"
    if path.exists():
        return float(np.load(path))
    error = max(probe.error({layer.constant.name: values}) or 0.0 for probe in probes)
    save_whole(path, np.array(error))
    return error


def demand(trial: Trial, probes: Sequence[Probe], folder: Path) -> Demand:
    """What a weight wants: its curve, and its gain as the probe measures it."""
    layer, curve, point = trial.layer, trial.curve, trial.point
    weights = layer.constant.array.size
    codes = np.load(codes_file(layer, trial.step, folder))
    error = measure(layer, trial.step, layer.values(codes, trial.step), probes, folder)
    gain = error / curve.error[point] if curve.error[point] > 0 else 0.0
    return Demand(curve, weights, gain, trial.stored_bits - float(weights * curve.bits[point]))


def choose_variants(
    pairs: Sequence[tuple[Trial, Demand]], bits: float | None, error: float
) -> list[tuple[Trial, Demand]]:
    """Of the variants of each weight, the cheapest one for that many bits, or else for that error at the outputs."""
    tried: dict[str, list[tuple[Trial, Demand]]] = {}
    for trial, wants in pairs:
        tried.setdefault(trial.layer.constant.name, []).append((trial, wants))
    tensors = [[wants for _, wants in variants] for variants in tried.values()]
    picks = choose_by_error(tensors, error) if bits is None else choose_by_bits(tensors, bits)
    return [variants[pick] for variants, pick in zip(tried.values(), picks, strict=True)]


def make_plan(
    chosen: Sequence[tuple[Trial, Demand]],
    moments: Mapping[Moment, Path],
    probes: Sequence[Probe],
    folder: Path,
    options: Options,
    tell: Progress,
) -> Plan:
    """The plan that the trials give."""
    demands = raise_faint([wants for _, wants in chosen])
    points = tuple(
        ((float(t.step), float(d.gain * d.curve.error[t.point])),) for (t, _), d in zip(chosen, demands, strict=True)
    )
    return Plan(tuple(t.layer for t, _ in chosen), demands, points, moments, probes, folder, options, tell)


def raise_faint(demands: Sequence[Demand]) -> tuple[Demand, ...]:
    """Demands with no gain far below the typical one, per weight and relative to the weight's own variance."""
    relative = np.array([d.gain * d.curve.error[-1] / d.weights for d in demands])
    sizes = np.array([d.weights for d in demands], np.float64)
    heard = relative > 0
    if not heard.any():
        return tuple(demands)
    typical = np.exp(np.average(np.log(relative[heard]), weights=sizes[heard]))
    least = FAINTEST * typical
    return tuple(
        replace(d, gain=least * d.weights / d.curve.error[-1]) if r < least and d.curve.error[-1] > 0 else d
        for d, r in zip(demands, relative, strict=True)
    )


def meet_bits(plan: Plan, bits: float) -> dict[str, Result]:
    """Spend a number of bits, overheads included."""
    results: dict[str, Result] = {}
    for _ in range(TRIES):
        results, plan, settled = carry_out(plan, allocate_bits(plan.demands, bits), results)
        if settled and abs(stored_bits(results) / bits - 1) < CLOSE_BITS:
            break
    if (took := stored_bits(results)) > (1 + 10 * CLOSE_BITS) * bits:
        raise InvalidArgument(f"the weights take {took / 8:,.0f} bytes at the coarsest, more than the target allows")
    return results


def meet_loss(plan: Plan, allowed: float, judge: Judge) -> tuple[dict[str, Result], float, Plan]:
    """(results, loss as a share of the allowed, corrected plan): spend as few bits as a loss allows.

    The loss grows about in proportion to the planned error; each try corrects the plan by what was measured.
    """
    results: dict[str, Result] = {}
    best: tuple[tuple[bool, float], dict[str, Result], float] | None = None
    aim, seen = allowed, {}
    for _ in range(LOSS_TRIES):
        results, plan, settled = carry_out(plan, allocate_error(plan.demands, aim), results)
        with plan.options.scratch.another() as scratch:
            loss = judge(decoded(results, scratch))
        rank = (loss > 1, loss if loss > 1 else float(stored_bits(results)))
        if best is None or rank < best[0]:
            best = (rank, results, loss)
        if settled:
            if CLOSE_LOSS <= loss <= 1:
                break
            seen[aim] = loss
            aim = next_aim(seen)
            if min(seen.values()) <= 1 and any(abs(np.log2(aim / tried)) < CLOSE_AIM for tried in seen):
                break
    assert best is not None, "at least one try"
    return best[1], best[2], plan


def without_worst(plan: Plan, allowed: float) -> Plan | None:
    """A plan without the few weights that cost the outputs most at their finest, so that all others can cost little.

    Codes of 8 bits may be too coarse for a weight: one behind which logarithms or differences are taken. None where no
    weight is too coarse, or such weights are more than half of all.
    """
    finest = [d.gain * float(d.curve.error.min()) for d in plan.demands]
    order = sorted(range(len(finest)), key=lambda i: -finest[i])
    worst = 0
    while sum(finest[i] for i in order[worst:]) > allowed * FINE:
        worst += 1
    sizes = [layer.constant.array.size for layer in plan.layers]
    if not worst or 2 * sum(sizes[i] for i in order[:worst]) > sum(sizes):
        return None
    kept = sorted(order[worst:])
    return replace(
        plan,
        layers=tuple(plan.layers[i] for i in kept),
        demands=tuple(plan.demands[i] for i in kept),
        points=tuple(plan.points[i] for i in kept),
    )


def outputs_judge(probes: Sequence[Probe], allowed: float) -> Judge:
    """A judge of weights by the outputs: the worst of some inputs counts, each with a standard error.

    Errors may come from few of the samples: samples that set codes have their say, too, where they are worse.
    """

    def judge(weights: Mapping[str, Array]) -> float:
        return max(probe.bound(weights) for probe in probes) / allowed

    return judge


def next_aim(seen: Mapping[float, float]) -> float:
    """The error to plan for next, from (planned error, measured loss as a share of the allowed) so far.

    Between tries on both sides the loss is taken as a power of the error, else as proportional to it.

    Examples
    --------
    >>> round(next_aim({1.0: 2.0}), 3), round(next_aim({1.0: 2.0, 0.25: 0.5}), 3)
    (0.483, 0.483)
    """
    goal = (1 + CLOSE_LOSS) / 2
    over = min((a for a in seen if seen[a] > 1), default=None)
    under = max((a for a in seen if seen[a] <= 1), default=None)
    if over is not None and under is not None and under < over and seen[under] > 0:
        power = np.log(seen[over] / seen[under]) / np.log(over / under)
        return float(under * (goal / seen[under]) ** (1 / max(power, 0.25)))
    last, loss = list(seen.items())[-1]
    return float(last * np.clip(goal / max(loss, 1e-3), 1 / 16, 16))


def carry_out(
    plan: Plan, shares: Sequence[Share], results: Mapping[str, Result]
) -> tuple[dict[str, Result], Plan, bool]:
    """(results with these shares, the plan corrected by them, whether the errors are as planned).

    What has about its step already is kept. The overheads are corrected by what coding took. A weight whose step is far
    from all at which it was measured is measured again.
    """
    todo = [
        (layer, stored_step(share.step))
        for layer, share in zip(plan.layers, shares, strict=True)
        if not near(results.get(layer.constant.name), layer, share.step)
    ]
    one = partial(finish, moments=plan.moments, folder=plan.folder, options=plan.options)
    found = on_layers(one, todo, plan.options.jobs, plan.options.scheduler, plan.tell, "compress")
    updated = dict(results) | {name: keep_result(name, result, plan.options.scratch) for name, result in found}
    demands, points = list(plan.demands), list(plan.points)
    for i, (layer, share) in enumerate(zip(plan.layers, shares, strict=True)):
        stored, _, line = updated[layer.constant.name]
        step = step_of(updated[layer.constant.name], layer)
        demands[i] = replace(demands[i], overhead=overhead(demands[i], line, step))
        if all(abs(np.log2(share.step / measured)) > FAR for measured, _ in points[i]):
            error = measure(layer, step, load(stored), plan.probes, plan.folder)
            points[i] = (*points[i], (float(step), max(error, share.error / 16)))  # not all luck is trusted
            demands[i] = bend(demands[i], points[i])
    corrected = replace(plan, demands=tuple(demands), points=tuple(points))
    return updated, corrected, corrected.points == plan.points


def overhead(wants: Demand, line: Tensor, step: np.float32) -> float:
    """Bits that a weight took beyond those of its curve."""
    x = np.log2(wants.curve.step)
    return 8 * line.stored_bytes - wants.weights * float(np.interp(np.log2(step), x, wants.curve.bits))


def near(result: Result | None, layer: Layer, step: float) -> bool:
    """Whether a layer has been quantized with about this step."""
    if result is None:
        return False
    return bool(abs(np.log2(step_of(result, layer) / step)) <= NEAR)


def step_of(result: Result, layer: Layer) -> np.float32:
    """The step that a layer was quantized with."""
    stored = result[0]
    part = stored.parts[stored.bands[0]] if isinstance(stored, BandedTensor) else stored  # that of the first weight
    assert part.scale is not None, "weights have scales"
    return np.float32(part.scale.flat[0] / layer.scales().flat[0])


def finish(
    item: tuple[Layer, np.float32], moments: Mapping[Moment, Path], folder: Path, options: Options
) -> tuple[str, Result]:
    """(name, result) of a layer with its step: quantized and coded."""
    layer, step = item
    codes = quantize(layer, step, moments, folder, options)
    reconstruction = codes.astype(np.float32) * (step * layer.scales())
    stored = store(layer, codes, step, options)
    return layer.constant.name, result_of(layer, codes, reconstruction, stored, moments, options)


def result_of(
    layer: Layer,
    codes: npt.NDArray[np.int8],
    reconstruction: npt.NDArray[np.float32],
    stored: Stored,
    moments: Mapping[Moment, Path],
    options: Options,
) -> Result:
    """A coded layer as a call, if coding shrinks it, and its line in the report."""
    name, array = layer.constant.name, layer.constant.array
    check_finite(name, array, reconstruction)
    call = write_call(name, stored)
    symbols, zero = to_symbols(codes)
    sqnr = sqnr_db(layer.matrix(), reconstruction)
    line = replace(
        with_container_bytes(describe(name, array, stored, histogram(symbols), zero), call.stored_bytes),
        recipe=options.recipe.name,
        sqnr_db=sqnr if np.isfinite(sqnr) else None,
        statistics="calibrated" if any(m in moments for m in layer.moments) else "unknown",
    )
    return stored, call if line.stored_bytes < line.original_bytes else None, line


def store(layer: Layer, codes: npt.NDArray[np.int8], step: np.float32, options: Options) -> Stored:
    """Code the codes of a layer."""
    symbols, zero = to_symbols(codes)
    axis, by_row = layer.axis, layer.in_rows
    if layer.scaled == "rows" and not by_row:
        axis, by_row = 1 - axis % 2, True  # the other one of two
    bands = None if layer.bands is None else layer.bands.of_column
    return store_matrix(layer.constant.array, symbols, zero, step * layer.scales(), axis, by_row, options, bands)


def stored_bits(results: Mapping[str, Result]) -> int:
    """Bits of all results."""
    return 8 * sum(line.stored_bytes for _, _, line in results.values())


def decoded(results: Mapping[str, Result], scratch: Scratch) -> dict[str, Array]:
    """The weights that a decoder sees."""
    return {name: scratch.keep(load(stored)) for name, (stored, _, _) in results.items()}
