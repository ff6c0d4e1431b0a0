"""Hypothesis strategies: those of conformance.strategies, and what only tests of this repository want.

Small arrays are drawn number by number and shrink well; larger ones come from a drawn seed.
"""

import numpy as np
import oracle
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance import strategies as public
from conformance.strategies import (  # noqa: F401
    activation_maxima,
    coder_inputs,
    normalized_counts,
    quantization_specs,
    seeds,
    table_logs,
)
from conformance.strategies import symbols as symbol_arrays  # noqa: F401
from refimpl.activations import ActivationStatistics
from refimpl.tans.stream import Stream

LARGEST = float(np.finfo(np.float32).max)
byte_values = st.integers(0, 255)


def rng(seed):
    return np.random.default_rng(seed)


def weights(largest=2.0**60, **sizes):
    """float32 (out, in) whose products do not overflow."""
    return public.weights(largest=largest, **sizes)


@st.composite
def statistics(draw, channels):
    """ActivationStatistics of so many channels: variance <= mean square <= maximum squared."""
    maximum = draw(hnp.arrays(np.float64, channels, elements=st.floats(0, 1e4) | st.just(0.0)))
    share = draw(hnp.arrays(np.float64, (2, channels), elements=st.floats(0.01, 1) | st.just(1.0)))
    return ActivationStatistics(maximum, share[0] * maximum**2, share[1] * share[0] * maximum**2)


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
    counts = draw(normalized_counts(table_logs=(5, max_table_log)))
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
