"""Hypothesis strategies: weights, activations, symbols, histograms and tables worth testing with.

Small arrays are drawn number by number and shrink well; larger ones come from a drawn seed.
"""

import numpy as np
import oracle
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.pipeline import ActivationStatistics
from refimpl.quantization import QuantizationSpec
from refimpl.tans.stream import Stream

LARGEST = float(np.finfo(np.float32).max)
seeds = st.integers(0, 2**32 - 1)
table_logs = st.integers(5, 12)
byte_values = st.integers(0, 255)


def rng(seed):
    return np.random.default_rng(seed)


@st.composite
def weights(draw, largest=2.0**60, max_side=9):
    """float32 (out, in): subnormals, -0.0, zero rows, constants, ties, 1x1 and odd shapes, up to ``largest``."""
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    kind = draw(st.sampled_from(["any", "subnormal", "halves", "gaussian", "heavy tail", "constant"]))
    if kind == "any":
        weight = draw(hnp.arrays(np.float32, shape, elements=st.floats(-largest, largest, width=32)))
    elif kind == "subnormal":
        bits = draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, (1 << 23) + 2)))
        weight = bits.view(np.float32) * np.where(draw(st.booleans()), np.float32(-1), np.float32(1))
    elif kind == "halves":  # rounding ties
        weight = draw(hnp.arrays(np.int8, shape)).astype(np.float32) / 2
    elif kind == "constant":
        weight = np.full(shape, draw(st.floats(-largest, largest, width=32)), np.float32)
    else:
        weight = rng(draw(seeds)).standard_normal(shape).astype(np.float32)
        weight = weight**5 if kind == "heavy tail" else weight
    if draw(st.booleans()):
        weight[draw(st.integers(0, shape[0] - 1))] = draw(st.sampled_from([0.0, -0.0]))
    return weight


@st.composite
def activation_maxima(draw, channels):
    """float64 (channels,), non-negative: silent channels, outliers, subnormals, nothing active at all."""
    usual = st.floats(0, 1e4) | st.sampled_from([0.0, 1.0, 5e-324, 1e-40, 1e30])
    return draw(hnp.arrays(np.float64, channels, elements=usual) | st.just(np.zeros(channels)))


@st.composite
def statistics(draw, channels):
    """ActivationStatistics of so many channels: variance <= mean square <= maximum squared."""
    maximum = draw(hnp.arrays(np.float64, channels, elements=st.floats(0, 1e4) | st.just(0.0)))
    share = draw(hnp.arrays(np.float64, (2, channels), elements=st.floats(0.01, 1) | st.just(1.0)))
    return ActivationStatistics(maximum, share[0] * maximum**2, share[1] * share[0] * maximum**2)


@st.composite
def quantization_specs(draw, symmetric=None):
    granularity = draw(st.sampled_from(["tensor", "channel", "group"]))
    return QuantizationSpec(
        bits=draw(st.integers(2, 8)),
        symmetric=draw(st.booleans()) if symmetric is None else symmetric,
        granularity=granularity,
        group_size=draw(st.integers(1, 11)) if granularity == "group" else 0,
    )


@st.composite
def symbol_arrays(draw, min_size=0, max_size=3000):
    """uint8 (n,): arbitrary, one symbol, two far apart, skewed, bell-shaped, mostly one, uniform over 256."""
    kinds = ["any", "one", "two", "skewed", "gaussian", "mostly one", "uniform"]
    kind = draw(st.sampled_from(kinds))
    if kind == "any":
        return draw(hnp.arrays(np.uint8, st.integers(min_size, min(max_size, min_size + 60))))
    size = draw(st.integers(min_size, max_size))
    random = rng(draw(seeds))
    if kind == "one":
        return np.full(size, draw(st.integers(0, 255)), np.uint8)
    if kind == "two":
        return random.choice(np.array([0, 255], np.uint8), size)
    if kind == "skewed":
        return (random.geometric(draw(st.floats(0.05, 0.95)), size) - 1).clip(0, 255).astype(np.uint8)
    if kind == "gaussian":
        return (128 + draw(st.floats(0.3, 40)) * random.standard_normal(size)).round().clip(0, 255).astype(np.uint8)
    if kind == "mostly one":
        rare = random.random(size) < draw(st.sampled_from([0.001, 0.01, 0.1]))
        return np.where(rare, random.integers(0, 256, size), draw(st.integers(0, 255))).astype(np.uint8)
    return random.integers(0, 256, size, np.uint8)


@st.composite
def histograms(draw, max_alphabet=256, largest=2**39 - 1):
    """int64 (alphabet,) with at least one positive entry: sparse, dense, tied, huge and lopsided."""
    entries = st.sampled_from([0, 0, 1, 1, 2, 3, 100, largest]) | st.integers(0, largest)
    counted = hnp.arrays(np.int64, st.integers(1, min(max_alphabet, 24)), elements=entries)
    size = st.integers(1, max_alphabet)
    seeded = st.builds(lambda n, seed, tail: rng(seed).zipf(tail, n).clip(0, largest), size, seeds, st.floats(1.1, 4))
    odd = hnp.arrays(np.int64, size, elements=st.integers(-1, 40).map(lambda k: max(0, 2 * k + 1)))
    tied = st.builds(lambda h, unit: h * (unit // max(1, h.max())), odd, st.integers(81, max(81, largest)))
    close = hnp.arrays(np.int64, size, elements=st.integers(max(0, largest - 3), largest))
    return draw((counted | seeded | tied | close).filter(lambda h: h.any()))


@st.composite
def normalized_counts(draw, max_table_log=12):
    """int64 (alphabet,) that sums to 2**5 .. 2**max_table_log, drawn without the code under test."""
    slots = 1 << draw(st.integers(5, max_table_log))
    alphabet = draw(st.integers(1, 256))
    present = draw(st.integers(1, min(alphabet, slots)))
    random = rng(draw(seeds))
    cuts = np.sort(random.choice(np.arange(1, slots), present - 1, replace=False))
    if draw(st.booleans()):  # one symbol has nearly all slots
        cuts = np.arange(1, present)
    counts = np.zeros(alphabet, np.int64)
    counts[random.choice(alphabet, present, replace=False)] = np.diff(cuts, prepend=0, append=slots)
    return counts


def stored_classes(groups):
    """uint8 (bytes,) of classes given as lists of 2**width members each."""
    if not groups:
        return np.empty(0, np.uint8)
    widths = [len(members).bit_length() - 1 for members in groups]
    return np.array([len(groups), *widths, *(symbol for members in groups for symbol in members)], np.uint8)


@st.composite
def groups(draw, symbols=byte_values, max_width=8):
    """Classes as lists that a decoder must take: members may repeat and be in other classes, leaders too."""
    leaders = draw(st.lists(symbols, max_size=5, unique=True))
    random = rng(draw(seeds))
    pool = np.array(draw(st.lists(symbols, min_size=1, max_size=20)))
    widths = [draw(st.integers(1, max_width if draw(st.booleans()) else min(2, max_width))) for _ in leaders]
    return [
        [leader, *random.choice(pool, 2**width - 1).tolist()] for leader, width in zip(leaders, widths, strict=True)
    ]


@st.composite
def disjoint_groups(draw, alphabet=256):
    """Classes as an encoder makes them: each symbol in one, members apart, short ones filled up with the leader."""
    symbols = rng(draw(seeds)).permutation(alphabet).tolist()
    result = []
    for size in draw(st.lists(st.integers(2, 9) | st.integers(2, 256), max_size=4)):
        members, symbols = symbols[:size], symbols[size:]
        if len(members) > 1:
            result.append(members + members[:1] * ((1 << (len(members) - 1).bit_length()) - len(members)))
    return result


@st.composite
def hostile_classes(draw):
    """uint8 (bytes,): noise, or valid classes with bytes changed, missing or left over."""
    if draw(st.booleans()):
        return draw(hnp.arrays(np.uint8, st.integers(0, 20), elements=st.integers(0, 9) | st.integers(0, 255)))
    stored = stored_classes(draw(groups(max_width=3)))
    if len(stored) and draw(st.booleans()):
        stored[draw(st.integers(0, len(stored) - 1))] = draw(st.integers(0, 255))
    more = draw(hnp.arrays(np.uint8, st.integers(0, 2)))
    return np.concatenate([stored[: len(stored) - draw(st.sampled_from([0, 0, 0, 1, 2]))], more])


@st.composite
def models(draw, max_table_log=12):
    """(counts, groups, symbols): any table with any classes, leaders without slots too, and what it can code."""
    counts = draw(normalized_counts(max_table_log))
    present = st.sampled_from(np.flatnonzero(counts).tolist())
    drawn = draw(groups(present | st.integers(0, 255)) | st.just([]))
    codable = [s for s in range(256) if (leader := oracle.in_class(s, drawn)[0]) < len(counts) and counts[leader]]
    return (counts, drawn, np.array(codable, np.uint8)) if codable else (counts, [], np.flatnonzero(counts))


@st.composite
def coded_streams(draw, max_size=300, max_table_log=8):
    """(stream, symbols): a stream of any model, made by the scalar coder."""
    counts, drawn, codable = draw(models(max_table_log))
    symbols = rng(draw(seeds)).choice(codable, draw(st.integers(1, max_size))).astype(np.uint8)
    lanes = draw(st.integers(1, min(len(symbols), 40)) | st.integers(1, len(symbols)))
    return stream_by_hand(symbols, counts, drawn, lanes, int(codable[0])), symbols


def stream_by_hand(symbols, counts, classes, lanes, padding=None):
    """The scalar coder's stream."""
    words, base, width = oracle.encode_words(symbols.tolist(), counts.tolist(), lanes, classes, padding)
    return Stream(len(symbols), lanes, base, width, counts, stored_classes(classes), np.array(words, np.uint32))


@st.composite
def coder_inputs(draw, max_size=1000, max_table_log=12):
    """(symbols, table_log, lane_count) that fit each other."""
    symbols = draw(symbol_arrays(min_size=1, max_size=max_size))
    needed = max(5, (len(np.unique(symbols)) - 1).bit_length())
    lanes = st.integers(1, min(len(symbols), 40)) | st.integers(1, len(symbols))
    return symbols, draw(st.integers(needed, max(needed, max_table_log))), draw(lanes)
