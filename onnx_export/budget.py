"""Speed-adaptive compression: what of a compressed model to code, and how to keep it, so that it runs within a time.

A tensor is kept in one of three ways. *Coded* it is smallest and is decoded at each use. *Raw* it takes a byte a weight
(half of one for small symbols) and is only dequantized at each use; partial coding lies between. *Resident* it is
decoded once while loading: full memory, no time at all. The time of a run is

    plain + sum over tensors that are not resident (streaming + f decoding)

``plain``      a run with all weights decoded; measured in place
``streaming``  what a weight costs that is made at each use, coded as little as can be: dequantizing it, and products
               with it that are others than those with constants. It is negative where symbols, of a byte each, come
               from memory faster than floats. Measured in place for all tensors together, shared out by what each takes
               to decode alone
``decoding``   the further time when all of it is coded; measured in place too, and shared out by how much longer each
               takes to decode alone

Of all choices within the time, `refimpl.throughput.choose_ways` finds the one with the least memory.
Specification: docs/spec/throughput.md, "In a model".
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from codec.frame import make_frame
from codec.tensor import DTYPES, BandedTensor, StoredTensor, load, load_symbols
from onnx_export.calls import Call, read_calls, write_call
from onnx_export.files import check_distinct, check_output, naming, read_model, write_model
from onnx_export.measure import Setup, bound_run, decoding, fitting, seconds_of
from onnx_export.progress import Progress, silent
from onnx_export.rewrite import MIXED, RESIDENT, STREAMING, exchange_calls, note_plan, replace_by_constants
from onnx_export.runtime import open_session
from onnx_export.session import open_decoded, open_planned, prepare_streaming
from onnx_export.tensors import as_raw
from refimpl.errors import InvalidArgument
from refimpl.tans.blocks import Block
from refimpl.throughput import FRACTION_STEPS, Way, choose_ways, partial_ways

BUFFERS = 2  # decoded tensors in memory at a time


@dataclass(frozen=True)
class Costs:
    """What a tensor takes, by how it is kept."""

    name: str
    function: str  # that decodes it when all of it is coded
    elements: int
    ready_bytes: int  # decoded
    least: int  # sixteenths that are coded at the least: 0 for weights, 1 for integers, 16 if there is no choice
    least_bytes: int
    coded_bytes: int
    least_seconds: float  # to decode, alone
    coded_seconds: float
    stays_symbols: bool = False  # when it streams: what reads it takes symbols

    @property
    def buffer_bytes(self) -> int:
        """Bytes that it takes when it streams, while it is used."""
        return self.elements if self.stays_symbols else self.ready_bytes


@dataclass(frozen=True)
class Profile:
    """What was measured of a model on a machine."""

    setup: Setup
    plain_seconds: float  # of a run, all tensors resident
    least_seconds: float  # of a run, all tensors streaming with their least fractions
    coded_seconds: float  # of a run, all tensors streaming, wholly coded
    tensors: tuple[Costs, ...]

    def streaming_seconds(self, costs: Costs) -> float:
        """What a tensor adds to a run when it streams with its least fraction."""
        alone = sum(c.least_seconds for c in self.tensors)
        return (self.least_seconds - self.plain_seconds) * costs.least_seconds / alone

    def seconds(self, costs: Costs, fraction: float) -> float:
        """What a tensor adds to a run when it streams."""
        least = costs.least / FRACTION_STEPS
        share = (fraction - least) / (1 - least) if least < 1 else 0.0
        return self.streaming_seconds(costs) + share * self.decoding_seconds(costs)

    def decoding_seconds(self, costs: Costs) -> float:
        """What a tensor that streams adds to a run when all of it is coded."""
        alone = sum(more_seconds(c) for c in self.tensors)
        return max(self.coded_seconds - self.least_seconds, 0.0) * more_seconds(costs) / alone if alone > 0 else 0.0

    def predict(self, fractions: Mapping[str, float | None]) -> float:
        """Seconds of a run with these fractions coded; None is resident."""
        added = [self.seconds(c, f) for c in self.tensors if (f := fractions[c.name]) is not None]
        return self.plain_seconds + sum(added)


def more_seconds(costs: Costs) -> float:
    """How much longer a tensor takes to decode alone when all of it is coded."""
    return max(costs.coded_seconds - costs.least_seconds, 0.0)


@dataclass(frozen=True)
class Plan:
    """How each tensor is kept, and what that is expected to take."""

    budget: float
    fractions: Mapping[str, float]  # that are coded in the file
    resident: frozenset[str]
    plain_seconds: float
    predicted_seconds: float
    plain_bytes: int  # of memory, all tensors resident
    memory_bytes: int  # of memory: what is stored or resident, and two decoded tensors

    @property
    def mode(self) -> str:
        """``resident``, ``streaming`` or ``mixed``."""
        if len(self.resident) == len(self.fractions):
            return RESIDENT
        return MIXED if self.resident else STREAMING


# Measuring


Ends = tuple[int, StoredTensor, StoredTensor]  # least sixteenths that are coded, and the tensor with those and with all


def measure(
    model: onnx.ModelProto,
    setup: Setup,
    profile: str = "gpu",
    tell: Progress = silent,
    known: tuple[Costs, ...] | None = None,
) -> Profile:
    """Measure what the tensors of a compressed model take on this machine.

    Parameters
    ----------
    model : onnx.ModelProto
        Compressed; not changed.
    setup : Setup
    profile : {"gpu", "archive"}
        With which tensors are coded.
    tell : callable
    known : tuple of Costs, optional
        Of these tensors, measured before at another batch.

    Raises
    ------
    InvalidArgument
        Nothing in it is compressed.
    StreamError
        A tensor is damaged.
    ExportError
        ONNX Runtime refuses the model, or cannot run it.
    """
    calls = [(name, stored) for name, stored, _ in whole_calls(model)]
    if not calls:
        raise InvalidArgument("nothing in the model is compressed: there is no speed to choose")
    ends = {}
    for name, stored in calls:
        with naming(name):
            ends[name] = range_of(stored, profile)
    opened = open_session(with_constants(model), setup.device, setup.options())
    setup = fitting(opened, setup)
    plain = bound_run(opened, setup)
    runs = {"plain": plain}
    low, high = ({name: both[k] for name, (_, *both) in ends.items()} for k in (0, 1))
    for way, tensors in (("least", low), ("coded", high)):
        streaming, options = with_tensors(model, tensors), setup.options()
        symbols = prepare_streaming(streaming, setup.device, options, None)
        runs[way] = bound_run(open_session(streaming, setup.device, options), setup)
    costs = known or decoding_costs(ends, symbols, setup, tell)
    taken = seconds_of(runs, setup)
    tell("measure", 1, 1)
    return Profile(setup, taken["plain"], taken["least"], taken["coded"], costs)


def decoding_costs(
    ends: Mapping[str, Ends], symbols: Collection[str], setup: Setup, tell: Progress
) -> tuple[Costs, ...]:
    """What tensors take to decode alone, some of them to symbols; one of each kind and shape is measured."""
    seconds: dict[tuple[Any, ...], tuple[float, float]] = {}
    costs = []
    for i, (name, both) in enumerate(ends.items()):
        stays = name in symbols
        kind = (stays, *kind_of(*both))
        if kind not in seconds:
            seconds[kind] = decode_seconds(both, stays, setup)
        costs.append(replace(costs_of(name, both, seconds[kind]), stays_symbols=stays))
        tell("measure", i, len(ends) + 1)
    return tuple(costs)


def range_of(stored: StoredTensor, profile: str) -> Ends:
    """A tensor coded as little as can be, and as much.

    Integers have no raw form: at least a sixteenth of them is coded.
    """
    coded = stored if stored.frame.block.mode == "coded" else with_fraction(stored, 1.0, profile)
    if coded.frame.block.mode != "coded":  # constant, or coding does not shrink it
        return FRACTION_STEPS, stored, stored
    if stored.scale is not None:
        return 0, with_fraction(stored, 0.0, profile), coded
    least = with_fraction(stored, 1 / FRACTION_STEPS, profile)
    if least.frame.block.mode != "partial":  # too small to be cut
        return FRACTION_STEPS, coded, coded
    return 1, least, coded


def with_fraction(stored: StoredTensor, fraction: float, profile: str) -> StoredTensor:
    """The same tensor with another fraction of it coded; 0 stores its symbols raw."""
    if fraction == 0:
        return as_raw(stored)
    return replace(stored, frame=make_frame(load_symbols(stored), profile=profile, fraction=fraction))


def kind_of(least: int, low: StoredTensor, coded: StoredTensor) -> tuple[Any, ...]:
    """What decides how long a tensor takes to decode, the values of its symbols left out."""
    blocks = [(s.frame.block.mode, s.frame.block.packed) for s in (low, coded)]
    classes = coded.frame.block.stream is not None and len(coded.frame.block.stream.classes) > 0
    return least, *blocks, classes, coded.dtype, coded.shape, None if coded.scale is None else coded.scale.shape


def decode_seconds(ends: Ends, stays_symbols: bool, setup: Setup) -> tuple[float, float]:
    """Seconds to decode a tensor alone: coded as little as can be, and as much."""
    tasks = {
        str(i): decoding("w", s.shape, s.dtype, write_call("w", s), setup, symbols=stays_symbols)
        for i, s in enumerate(ends[1:])
    }
    taken = seconds_of(tasks, setup)
    return taken["0"], taken["1"]


def costs_of(name: str, ends: Ends, seconds: tuple[float, float]) -> Costs:
    """The costs of a tensor."""
    least, low, coded = ends
    elements = coded.frame.block.symbol_count
    ready = (elements + 1) // 2 if coded.dtype in ("int4", "uint4") else elements * DTYPES[coded.dtype].itemsize
    smallest, largest = write_call(name, coded), write_call(name, low)
    sizes = largest.stored_bytes, smallest.stored_bytes
    return Costs(name, smallest.node.op_type, elements, ready, least, *sizes, *seconds)


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a compressed model with all tensors decoded."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    replace_by_constants(copy, [numpy_helper.from_array(load(s), name) for name, s, _ in read_calls(model)])
    return copy


def with_tensors(model: onnx.ModelProto, tensors: Mapping[str, StoredTensor]) -> onnx.ModelProto:
    """A copy of a compressed model with these tensors in place of those of the same names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    exchange_calls(copy, {name: write_call(name, stored) for name, stored in tensors.items()})
    return copy


def fraction_of(block: Block) -> float:
    """The fraction of a block that is coded.

    Examples
    --------
    >>> import numpy as np
    >>> fraction_of(Block("raw", 4, np.zeros(4, np.uint8)))
    0.0
    """
    if block.mode == "partial":
        return 1 - len(block.raw) / block.unit_count
    return float(block.mode == "coded")


# Planning


def make_plan(profile: Profile, budget: float) -> Plan:
    """Keep each tensor so that a run is expected to take at most ``budget`` times that of the plain model.

    Parameters
    ----------
    profile : Profile
    budget : float
        1 or more.

    Raises
    ------
    InvalidArgument
        A budget below 1.

    Examples
    --------
    >>> costs = (Costs(name, "DecompressLinear", 1000, 4000, 0, 1000, 600, 1e-3, 2e-3) for name in "abcdefgh")
    >>> profile = Profile(Setup(), plain_seconds=50e-3, least_seconds=54e-3, coded_seconds=62e-3, tensors=tuple(costs))
    >>> plan = make_plan(profile, 1.1)  # half a millisecond for each to stream, another one to be coded
    >>> plan.mode, plan.fractions["a"], plan.fractions["h"], round(1e3 * plan.predicted_seconds, 1)
    ('streaming', 1.0, 0.0, 55.0)
    >>> plan = make_plan(profile, 1.06)
    >>> plan.mode, sorted(plan.resident), round(1e3 * plan.predicted_seconds, 1)
    ('mixed', ['g', 'h'], 53.0)
    >>> plan.plain_bytes, plan.memory_bytes  # six raw, two resident, two buffers
    (32000, 22000)
    """
    if not 1 <= budget < float("inf"):
        raise InvalidArgument(f"the latency budget is {budget}, allowed are numbers from 1")
    tensors = [ways_of(c, profile) for c in profile.tensors]
    chosen = choose_ways(tensors, (budget - 1) * profile.plain_seconds)
    picked = {c.name: i for c, i in zip(profile.tensors, chosen, strict=True)}
    plan = plan_of(profile, budget, picked)
    everything = plan_of(profile, budget, dict.fromkeys(picked, 0))
    return plan if plan.memory_bytes < everything.memory_bytes else everything


def ways_of(costs: Costs, profile: Profile) -> list[Way]:
    """Resident, then streaming with each fraction."""
    low = Way(profile.streaming_seconds(costs), float(costs.least_bytes))
    coded = Way(profile.seconds(costs, 1.0), float(costs.coded_bytes))
    return [Way(0.0, float(costs.ready_bytes)), *partial_ways(low, coded, costs.least)]


def plan_of(profile: Profile, budget: float, picked: Mapping[str, int]) -> Plan:
    """The plan that follows from the index of each tensor's way; resident tensors are coded in the file."""
    resident = frozenset(name for name, way in picked.items() if way == 0)
    fractions = {
        c.name: 1.0 if c.name in resident else (c.least + picked[c.name] - 1) / FRACTION_STEPS for c in profile.tensors
    }
    streamed = [c for c in profile.tensors if c.name not in resident]
    held = sum(ways_of(c, profile)[picked[c.name]].bytes for c in profile.tensors)
    buffers = sum(sorted(c.buffer_bytes for c in streamed)[-BUFFERS:])
    return Plan(
        budget,
        fractions,
        resident,
        profile.plain_seconds,
        profile.predict({name: None if name in resident else f for name, f in fractions.items()}),
        sum(c.ready_bytes for c in profile.tensors),
        round(held) + buffers,
    )


# Files


def open_kept(model: onnx.ModelProto, mode: str, setup: Setup) -> Any:
    """A session of a compressed model that keeps its weights as a mode says: resident, streaming or auto."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    options = setup.options()
    if mode == STREAMING:
        prepare_streaming(copy, setup.device, options, None)
        return open_session(copy, setup.device, options)
    return (open_decoded if mode == RESIDENT else open_planned)(copy, setup.device, options)


def fit_budget(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    budget: float,
    *,
    setup: Setup | None = None,
    profile: str = "gpu",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a compressed model anew so that it runs within a time on this machine.

    Parameters
    ----------
    source, output : path
        ``.onnx``; the source is compressed already, by whichever recipe. No value changes.
    budget : float
        Latency over that of the plain model, 1 or more.
    setup : Setup, optional
        Device, batch and threads that count; default a batch of 1 on the CPU.
    profile : {"gpu", "archive"}
        With which tensors are coded.
    force : bool
        Replace an existing output.
    progress : callable, optional

    Returns
    -------
    dict
        See `describe_plan`.

    Raises
    ------
    TansorError
        See `measure` and `make_plan`. The output is then as it was before.
    """
    source, output, setup = Path(source), Path(output), setup or Setup()
    check_output(output, force=force)
    check_distinct(source, output)
    with naming(source):
        model = read_model(source)
        measured = measure(model, setup, profile, progress or silent)
        plan = make_plan(measured, budget)
        apply_plan(model, plan, profile)
    write_model(model, output, force=force)
    return describe_plan(plan, setup, model)


def whole_calls(model: onnx.ModelProto) -> Iterator[tuple[str, StoredTensor, Call]]:
    """(name, tensor, call) of each compressed tensor.

    Raises
    ------
    InvalidArgument
        One lies in bands: such files are for the least size.
    """
    for name, stored, call in read_calls(model):
        if isinstance(stored, BandedTensor):
            raise InvalidArgument(f"{name} lies in bands, whose speed is not for choice: use the profile gpu")
        yield name, stored, call


def apply_plan(model: onnx.ModelProto, plan: Plan, profile: str) -> None:
    """Code the fractions of a plan, in place, and note in the model how to keep its tensors."""
    calls = {}
    for name, stored, _ in whole_calls(model):
        fraction = plan.fractions[name]
        if fraction != fraction_of(stored.frame.block) and range_of(stored, profile)[0] < FRACTION_STEPS:
            calls[name] = write_call(name, with_fraction(stored, fraction, profile))
    exchange_calls(model, calls)
    note_plan(model, plan.mode, sorted(plan.resident))


def describe_plan(plan: Plan, setup: Setup, model: onnx.ModelProto) -> dict[str, Any]:
    """A plan, and what became of a model by it, as JSON: the report's ``budget``. Keys are listed in docs/guide.md."""
    return {
        "latency_budget": plan.budget,
        "mode": plan.mode,
        "device": setup.device,
        "batch": setup.batch,
        "threads": setup.threads,
        "plain_seconds": plan.plain_seconds,
        "predicted_seconds": plan.predicted_seconds,
        "plain_bytes": plan.plain_bytes,
        "memory_bytes": plan.memory_bytes,
        "tensors": [
            {
                "name": name,
                "mode": stored.frame.block.mode,
                "fraction": fraction_of(stored.frame.block),
                "resident": name in plan.resident,
                "stored_bytes": call.stored_bytes,
                "side_bytes": int(call.stored_bytes - stored.payload_bytes),
            }
            for name, stored, call in whole_calls(model)
        ],
    }


def plan_note(report: dict[str, Any]) -> str:
    """A plan in a line."""
    streams = [t for t in report["tensors"] if not t["resident"]]
    kept = f"{len(streams)} of {len(report['tensors'])} weights stream" if streams else "no weight may stream"
    return (
        f"latency budget {report['latency_budget']:g} on {report['device']}, batch {report['batch']}: mode "
        f"{report['mode']}, {kept}; {1e3 * report['predicted_seconds']:.3g} ms predicted, "
        f"{1e3 * report['plain_seconds']:.3g} ms with plain weights; {report['memory_bytes'] / 1e6:,.3g} MB of memory "
        f"for weights, {report['plain_bytes'] / 1e6:,.3g} MB plain; run it with mode auto"
    )
