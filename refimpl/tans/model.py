"""The model: which symbols share a class, and how many slots each part of the table gets.

Specification: docs/spec/tans.md, "Choosing table_log and classes".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refimpl.tans.classes import LITERAL_PRICE, class_table, merge_histogram, plan_classes
from refimpl.tans.counts import (
    LOG2_FRACTION_BITS,
    MAX_TABLE_LOG,
    MIN_TABLE_LOG,
    check_table_log,
    coded_cost,
    normalize_counts,
    stored_counts,
)
from refimpl.tans.spread import table_log_of


@dataclass(frozen=True)
class Model:
    """What a stream is coded with."""

    counts: npt.NDArray[np.int64]  # (alphabet,) normalized counts of leaders and single symbols
    classes: npt.NDArray[np.uint8]  # (bytes,) see refimpl.tans.classes


def choose_model(histogram: npt.NDArray[np.int64], lane_count: int, table_log: int | None = None) -> Model:
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
        return make_model(histogram, table_log)
    needed = max(MIN_TABLE_LOG, int(np.count_nonzero(histogram) - 1).bit_length())
    models = [make_model(histogram, r) for r in range(needed, MAX_TABLE_LOG + 1)]
    return min(models, key=lambda model: model_cost(model, histogram, lane_count))


def make_model(histogram: npt.NDArray[np.int64], table_log: int) -> Model:
    """The model for a table of 2**table_log slots.

    Examples
    --------
    >>> model = make_model(np.array([100000, 1, 2, 1]), 5)
    >>> model.counts, model.classes
    (array([30,  1,  1]), array([1, 1, 1, 3], dtype=uint8))
    """
    check_table_log(table_log)
    classes = plan_classes(histogram, table_log)
    merged = merge_histogram(histogram, class_table(classes))
    counts = normalize_counts(merged[: np.flatnonzero(merged).max(initial=-1) + 1], table_log)
    return Model(counts, classes)


def model_cost(model: Model, histogram: npt.NDArray[np.int64], lane_count: int) -> int:
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
    literals = int((histogram * (width + LITERAL_PRICE * (width > 0))).sum())
    start_states = lane_count * table_log_of(model.counts)
    stored = 8 * (stored_counts(model.counts).nbytes + len(model.classes))
    whole = literals + start_states + stored
    merged = merge_histogram(histogram, table)[: len(model.counts)]
    return coded_cost(merged, model.counts) + (whole << LOG2_FRACTION_BITS)
