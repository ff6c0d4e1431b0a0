"""Hypothesis strategies for testing compression code: weights, symbols, tables, frames, damaged frames.

Everything legal can be drawn; arguments only narrow it. Small arrays are drawn number by number and shrink well;
larger ones come from a drawn seed. Needs the extra ``testing``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance import frames as f
from conformance.frames import ValidFrame
from conformance.mutate import mutate
from refimpl.activations import ActivationStatistics
from refimpl.quantization import QuantizationSpec
from refimpl.tans.model import Model
from refimpl.tans.stream import Stream

LARGEST_COUNT = (1 << 39) - 1
Array = npt.NDArray[Any]
Weights = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Symbols = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


class ValidStream(NamedTuple):
    """A stream and its symbols."""

    stream: Stream
    symbols: Symbols


seeds = st.integers(0, (1 << 32) - 1)
table_logs = st.integers(*f.TABLE_LOGS)


@st.composite
def weights(
    draw: st.DrawFn,
    *,
    shape: tuple[int, int] | None = None,
    max_side: int = 9,
    largest: float = float(np.finfo(np.float32).max),
) -> Weights:
    """float32 (out, in), finite: any numbers, subnormals, ties, bell-shaped, heavy-tailed, constant, rows of zeros.

    Parameters
    ----------
    draw : DrawFn
        Hypothesis's.
    shape : (int, int), optional
        Default any up to ``max_side`` by ``max_side``.
    max_side : int
    largest : float
        No weight is larger in magnitude.
    """
    if shape is None:
        shape = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    limit = np.float32(largest)
    kind = draw(st.sampled_from(["any", "subnormal", "halves", "gaussian", "heavy tail", "constant"]))
    if kind == "any":
        weight = draw(hnp.arrays(np.float32, shape, elements=st.floats(-float(limit), float(limit), width=32)))
    elif kind == "subnormal":
        bits = draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, (1 << 23) + 2)))
        weight = bits.view(np.float32) * np.float32(draw(st.sampled_from([1, -1])))
    elif kind == "halves":  # rounding ties
        weight = draw(hnp.arrays(np.int8, shape)).astype(np.float32) / 2
    elif kind == "constant":
        weight = np.full(shape, draw(st.floats(-float(limit), float(limit), width=32)), np.float32)
    else:
        weight = np.random.default_rng(draw(seeds)).standard_normal(shape).astype(np.float32)
        weight = weight**5 if kind == "heavy tail" else weight
    weight = np.clip(weight, -limit, limit)
    if draw(st.booleans()):
        weight[draw(st.integers(0, shape[0] - 1))] = draw(st.sampled_from([0.0, -0.0]))
    return weight


def activation_maxima(channels: int, *, largest: float = 1e30) -> st.SearchStrategy[Numbers]:
    """float64 (channels,), non-negative: silent channels, outliers, subnormals, nothing active at all."""
    special = st.sampled_from([x for x in (0.0, 1.0, 5e-324, 1e-40, largest) if x <= largest])
    usual = st.floats(0, min(1e4, largest)) | special
    return hnp.arrays(np.float64, channels, elements=usual) | st.builds(np.zeros, st.just(channels))


@st.composite
def activation_statistics(draw: st.DrawFn, channels: int, *, largest: float = 1e4) -> ActivationStatistics:
    """Statistics of so many channels: variance <= mean square <= maximum squared."""
    maximum = draw(activation_maxima(channels, largest=largest))
    share = draw(hnp.arrays(np.float64, (2, channels), elements=st.floats(0, 1) | st.just(1.0)))
    return ActivationStatistics(maximum, share[0] * maximum**2, share[1] * (share[0] * maximum**2))


@st.composite
def quantization_specs(
    draw: st.DrawFn,
    *,
    bits: tuple[int, int] = (2, 8),
    symmetric: bool | None = None,
    granularities: Sequence[str] = ("tensor", "channel", "group"),
    max_group_size: int = 11,
) -> QuantizationSpec:
    """Every specification of so many bits; groups may be longer than a row and need not divide it."""
    granularity: Any = draw(st.sampled_from(list(granularities)))
    return QuantizationSpec(
        bits=draw(st.integers(*bits)),
        symmetric=draw(st.booleans()) if symmetric is None else symmetric,
        granularity=granularity,
        group_size=draw(st.integers(1, max_group_size)) if granularity == "group" else 0,
    )


@st.composite
def symbols(draw: st.DrawFn, *, min_size: int = 0, max_size: int = 3000, alphabet: int = 256) -> Symbols:
    """uint8 (n,) below ``alphabet``: any, one symbol, two far apart, skewed, bell-shaped, mostly one, uniform."""
    last = alphabet - 1
    kind = draw(st.sampled_from(["any", "one", "two", "skewed", "gaussian", "mostly one", "uniform"]))
    if kind == "any":
        sizes = st.integers(min_size, min(max_size, min_size + 60))
        return draw(hnp.arrays(np.uint8, sizes, elements=st.integers(0, last)))
    size = draw(st.integers(min_size, max_size))
    one = draw(st.integers(0, last))
    random = np.random.default_rng(draw(seeds))
    if kind == "one":
        return np.full(size, one, np.uint8)
    if kind == "two":
        return random.choice(np.array([0, last], np.uint8), size)
    if kind == "skewed":
        return (random.geometric(draw(st.floats(0.05, 0.95)), size) - 1).clip(0, last).astype(np.uint8)
    if kind == "gaussian":
        bell = alphabet / 2 + draw(st.floats(0.3, 40)) * random.standard_normal(size)
        return bell.round().clip(0, last).astype(np.uint8)
    if kind == "mostly one":
        rare = random.random(size) < draw(st.sampled_from([0.001, 0.01, 0.1]))
        return np.where(rare, random.integers(0, alphabet, size), one).astype(np.uint8)
    return random.integers(0, alphabet, size).astype(np.uint8)


@st.composite
def histograms(draw: st.DrawFn, *, max_alphabet: int = 256, largest_sum: int = LARGEST_COUNT) -> Counts:
    """int64 (alphabet,) with a positive entry: sparse, dense, tied and lopsided, zeros anywhere."""
    largest = largest_sum // max_alphabet
    entries = st.sampled_from([0, 0, 1, 1, 2, 3, min(100, largest), largest]) | st.integers(0, largest)
    if draw(st.booleans()):
        counted = draw(hnp.arrays(np.int64, st.integers(1, min(max_alphabet, 24)), elements=entries))
    else:
        random = np.random.default_rng(draw(seeds))
        counted = random.zipf(draw(st.floats(1.1, 4)), draw(st.integers(1, max_alphabet))).clip(0, largest)
    counted = counted.astype(np.int64)
    symbol = draw(st.integers(0, len(counted) - 1))
    rest = int(counted.sum() - counted[symbol])
    if not rest or draw(st.booleans()):
        counted[symbol] = draw(st.integers(1, largest_sum - rest))
    return counted


@st.composite
def normalized_counts(
    draw: st.DrawFn, *, table_logs: tuple[int, int] = f.TABLE_LOGS, max_alphabet: int = 256, least_present: int = 1
) -> Counts:
    """int64 (alphabet,) that sums to 2**table_log: any shares, related to no histogram."""
    random = draw(st.randoms(use_true_random=False))
    table_log = draw(st.integers(*table_logs))
    return np.array(f.draw_counts(random, table_log, least_present=least_present, max_alphabet=max_alphabet), np.int64)


@st.composite
def classes(
    draw: st.DrawFn, *, counts: Counts | None = None, max_classes: int = 255, allow_none: bool = True
) -> Symbols:
    """uint8 (bytes,), stored classes that every decoder must take.

    Members may be any symbols: such as never occur, repeat, have slots of their own or lead other classes. Of at most
    65535 bytes, what a frame can hold.

    Parameters
    ----------
    draw : DrawFn
        Hypothesis's.
    counts : int64, shape (alphabet,), optional
        Lead mostly with symbols that have slots in these normalized counts.
    max_classes : int
    allow_none : bool
        Also draw no classes: no bytes.
    """
    random = draw(st.randoms(use_true_random=False))
    slots = () if counts is None else counts.tolist()
    drawn = f.draw_classes(random, slots, max_classes=max_classes, least=0 if allow_none else 1)
    return np.frombuffer(drawn, np.uint8)


@st.composite
def models(
    draw: st.DrawFn,
    *,
    table_logs: tuple[int, int] = f.TABLE_LOGS,
    max_alphabet: int = 256,
    with_classes: bool | None = None,
) -> Model:
    """Normalized counts and classes that fit together in no way but being valid."""
    counts = draw(normalized_counts(table_logs=table_logs, max_alphabet=max_alphabet))
    stored = draw(classes(counts=counts, allow_none=not with_classes)) if with_classes is not False else None
    return Model(counts, np.empty(0, np.uint8) if stored is None else stored)


@st.composite
def coder_inputs(
    draw: st.DrawFn, *, max_size: int = 1000, max_lanes: int | None = None, max_table_log: int = f.TABLE_LOGS[1]
) -> tuple[Symbols, int, int]:
    """(symbols, table_log, lane_count) that an encoder must take together; a larger table where it has to be."""
    content = draw(symbols(min_size=1, max_size=max_size))
    needed = max(f.TABLE_LOGS[0], (len(np.unique(content)) - 1).bit_length())
    most = min(len(content), max_lanes or len(content))
    lanes = st.integers(1, min(most, 40)) | st.integers(1, most)
    return content, draw(st.integers(needed, max(needed, max_table_log))), draw(lanes)


@st.composite
def frames(
    draw: st.DrawFn,
    *,
    modes: Sequence[str] = f.MODES,
    packed: bool | None = None,
    table_logs: tuple[int, int] = f.TABLE_LOGS,
    with_classes: bool | None = None,
    max_units: int = 300,
    max_lanes: int | None = None,
) -> ValidFrame:
    """Valid frames that no sensible encoder writes, each with the symbols that it must decode to.

    Drawn are the mode, packing, lanes, normalized counts unrelated to the data, classes, the way a symbol is coded
    where there are several, padding, the state that a lane ends in, spare widths of fields, counts of two bytes,
    counts of symbols behind the last one, chunks of any size, and raw frames that coding would shrink. See
    `conformance.frames.draw_frame`, also for the arguments.
    """
    return f.draw_frame(
        draw(st.randoms(use_true_random=False)),
        modes=modes,
        packed=packed,
        table_logs=table_logs,
        with_classes=with_classes,
        max_units=max_units,
        max_lanes=max_lanes,
    )


@st.composite
def streams(
    draw: st.DrawFn,
    *,
    table_logs: tuple[int, int] = f.TABLE_LOGS,
    with_classes: bool | None = None,
    max_units: int = 300,
    max_lanes: int | None = None,
) -> ValidStream:
    """Valid streams, each with the symbols that it must decode to; what is drawn, see `frames`.

    A stream of any model, of one that codes a single symbol in no bits, too: a packed block must not hold that.
    """
    random = draw(st.randoms(use_true_random=False))
    counts, stored = f.draw_model(random, table_logs, with_classes=with_classes)
    coded, units = f.draw_stream(random, counts, stored, random.randint(1, max_units), max_lanes=max_lanes)
    words = np.frombuffer(coded.words, "<u4").astype(np.uint32)
    model = np.array(counts, np.int64), np.frombuffer(stored, np.uint8)
    stream = Stream(len(units), coded.lane_count, coded.length_base, coded.length_width, *model, words)
    return ValidStream(stream, np.array(units, np.uint8))


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[ValidFrame] | None = None) -> bytes:
    """Damaged frames: one to four edits of fields, bytes, lengths, splices of two; mostly with a right checksum.

    Parameters
    ----------
    draw : DrawFn
        Hypothesis's.
    source : strategy of ValidFrame
        Default `frames`.
    """
    source = frames() if source is None else source
    first, second = draw(source), draw(source)
    return mutate(first.data, draw(st.randoms(use_true_random=False)), other=second.data)
