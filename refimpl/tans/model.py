"""The model: which symbols share a class, and how many slots each part of the table gets.

Specification: docs/spec/tans.md, "Choosing table_log and classes".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument
from refimpl.tans.classes import LITERAL_PRICE, UNIT, class_table, cut, line_up, merge_histogram
from refimpl.tans.counts import (
    LOG2_FRACTION_BITS,
    MAX_TABLE_LOG,
    MIN_TABLE_LOG,
    check_histogram,
    check_table_log,
    coded_cost,
    normalize_counts,
    stored_counts,
)
from refimpl.tans.spread import table_log_of

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Model:
    """What a stream is coded with."""

    counts: npt.NDArray[np.int64]  # (alphabet,) normalized counts of leaders and single symbols
    classes: npt.NDArray[np.uint8]  # (bytes,) see refimpl.tans.classes


class CheapestModel(Protocol):
    """Signature of `cheapest_model`."""

    def __call__(
        self, histogram: npt.NDArray[np.int64], lane_count: int, table_logs: range, literal_price: int
    ) -> Model: ...


def cheapest_model(histogram: npt.NDArray[np.int64], lane_count: int, table_logs: range, literal_price: int) -> Model:
    """The model of the lowest cost for one of these tables, see `choose_model`; each of them holds all symbols."""
    bounds = dict(zip(table_logs, cost_bounds(histogram, lane_count, table_logs, literal_price).tolist(), strict=True))
    line = line_up(histogram)
    models: dict[int, Model] = {}
    costs: dict[int, int] = {}
    for r in sorted(table_logs, key=bounds.__getitem__):
        if costs and bounds[r] > min(costs.values()):
            break
        models[r] = model_of(histogram, r, cut(line, r, literal_price))
        costs[r] = model_cost(models[r], histogram, lane_count, literal_price)
    return models[min(models, key=lambda r: (costs[r], r))]


def choose_model(
    histogram: npt.NDArray[np.int64],
    lane_count: int,
    table_log: int | None = None,
    literal_price: int = LITERAL_PRICE["gpu"],
    cheapest: CheapestModel = cheapest_model,
) -> Model:
    """The model that stores these symbols in the fewest bits.

    A larger table expresses the probabilities better but makes each lane's start state longer. The
    choice minimizes `model_cost`; ties go to the smaller table.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
        Its sum is below 2**39.
    lane_count : int
    table_log : int, optional
        5 to 12; set instead of chosen.
    literal_price : int
        See `refimpl.tans.classes.plan_classes`.
    cheapest : function
        `cheapest_model` or a bit-exact twin.

    Raises
    ------
    InvalidArgument
        No symbol, too many symbols for the table, or an argument out of range.

    Examples
    --------
    >>> choose_model(np.array([500, 300, 200]), lane_count=1).counts
    array([16, 10,  6])
    """
    if table_log is not None:
        return make_model(histogram, table_log, literal_price)
    check_histogram(histogram)
    present = int(np.count_nonzero(histogram))
    if not present:
        raise InvalidArgument("no symbol occurs")
    allowed = range(max(MIN_TABLE_LOG, (present - 1).bit_length()), MAX_TABLE_LOG + 1)
    return cheapest(histogram, lane_count, allowed, literal_price)


def make_model(histogram: npt.NDArray[np.int64], table_log: int, literal_price: int = LITERAL_PRICE["gpu"]) -> Model:
    """The model for a table of 2**table_log slots.

    Examples
    --------
    >>> model = make_model(np.array([100000, 1, 2, 1]), 5)
    >>> model.counts, model.classes
    (array([30,  1,  1]), array([1, 1, 1, 3], dtype=uint8))
    """
    check_table_log(table_log)
    check_histogram(histogram)
    return model_of(histogram, table_log, cut(line_up(histogram), table_log, literal_price))


def model_of(histogram: npt.NDArray[np.int64], table_log: int, classes: npt.NDArray[np.uint8]) -> Model:
    """The model with these classes."""
    merged = merge_histogram(histogram, class_table(classes))
    counts = normalize_counts(merged[: np.flatnonzero(merged).max(initial=-1) + 1], table_log)
    return Model(counts, classes)


def model_cost(
    model: Model,
    histogram: npt.NDArray[np.int64],
    lane_count: int,
    literal_price: int = LITERAL_PRICE["gpu"],
) -> int:
    """Bits of payload, start states, stored counts and classes, and price of literals, in units of 2**-16 bits.

    A literal costs a bit more than its own, as in `refimpl.tans.classes.plan_classes`.

    Examples
    --------
    >>> h = np.array([100000, 1, 2, 1])
    >>> model_cost(make_model(h, 12), h, lane_count=1) // 2**16
    215
    """
    table = class_table(model.classes)
    width = table.width[table.leader[: len(histogram)]].astype(np.int64)
    literals = int((histogram * np.where(width > 0, (width << LOG2_FRACTION_BITS) + literal_price, 0)).sum())
    start_states = lane_count * table_log_of(model.counts)
    stored = 8 * (stored_counts(model.counts).nbytes + len(model.classes))
    merged = merge_histogram(histogram, table)[: len(model.counts)]
    return coded_cost(merged, model.counts) + literals + (start_states + stored << LOG2_FRACTION_BITS)


def cost_bounds(
    histogram: npt.NDArray[np.int64], lane_count: int, table_logs: Sequence[int], literal_price: int
) -> npt.NDArray[np.float64]:
    """What `model_cost` does not go below, for each table_log, in 2**-16 bits.

    C of N occurrences that have q of L slots cost ``C log2(L / q)`` bits, and all q sum to L. So they may as well be
    said to cost ``C log2(L / q) + (q - x) N log2(e) / L`` with ``x = C L / N``: C log2(N / C), which sums to the
    entropy, and besides

        waste(q)  =  (N / L) (x log2(x / q) + (q - x) log2(e))

    It is least where q is x rounded up or down, but q is at least 1, and at most 255 if counts are stored as bytes.
    A symbol wastes that much, or it is in a class: its literals cost no less than what the class has less entropy
    than its members, so there the literal price and 8 bits in the list of members come on top. Counts are stored up
    to the last symbol that is not in a class, or beyond.

    Parameters
    ----------
    histogram : int64, shape (alphabet,)
        Sums to at least 1.
    """
    symbols = np.flatnonzero(histogram)
    h = histogram[symbols].astype(np.float64)
    slots = 1 << np.array(table_logs)[:, None]
    slot = h.sum() / slots  # occurrences that one stands for, (table_logs, 1)
    x = h / slot
    member = h * (literal_price / UNIT) + 8
    wastes = []
    for most, size in ((255, 1), (slots, 2)):
        q = np.clip(np.floor([x, x + 1]), 1, most)
        alone = slot * (x * np.log2(x / q) + (q - x) * LOG2_E).min(axis=0)
        least = np.minimum(alone, member)
        extra = member - least
        all_behind = extra.sum(axis=1, keepdims=True) - extra.cumsum(axis=1)  # are in classes
        wastes.append(least.sum(axis=1) + (8 * size * (symbols + 1) + all_behind).min(axis=1))
    entropy = (h * np.log2(h.sum() / h)).sum()
    rounding = 1  # bit, more than that of these sums
    return (entropy + np.minimum(*wastes) + lane_count * np.array(table_logs) - rounding) * UNIT
