import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import histograms, rng, table_logs

from refimpl.errors import InvalidArgument
from refimpl.tans.classes import LITERAL_PRICE, class_table, plan_classes
from refimpl.tans.counts import coded_cost, normalize_counts, stored_counts
from refimpl.tans.model import Model, choose_model, cost_bounds, make_model, model_cost


def needed_log(counted):
    return max(5, int(np.count_nonzero(counted) - 1).bit_length())


def same(a, b):
    return a.counts.tolist() == b.counts.tolist() and a.classes.tolist() == b.classes.tolist()


counted_symbols = histograms(largest=2**30)


@given(counted_symbols, table_logs)
def test_a_model_has_slots_for_leaders_and_single_symbols_only(counted, table_log):
    table_log = max(table_log, needed_log(counted))
    model = make_model(counted, table_log)
    classes = oracle.read_classes(model.classes.tolist())
    merged = oracle.merged(counted.tolist(), classes)
    assert model.classes.tolist() == plan_classes(counted, table_log).tolist()
    assert model.counts.sum() == 1 << table_log
    assert model.counts.dtype == np.int64
    assert model.counts[-1] > 0
    assert (model.counts > 0).tolist() == [h > 0 for h in merged[: len(model.counts)]]
    assert not any(merged[len(model.counts) :])


@given(histograms(max_alphabet=32, largest=10**6), st.integers(5, 7))
def test_slots_are_apportioned_to_what_leaders_occur(counted, table_log):
    model = make_model(counted, table_log)
    merged = oracle.merged(counted.tolist(), oracle.read_classes(model.classes.tolist()))
    assert model.counts.tolist() == oracle.apportion(merged[: len(model.counts)], 1 << table_log)


@given(counted_symbols, table_logs)
def test_without_classes_a_model_is_normalized_counts(counted, table_log):
    table_log = max(table_log, needed_log(counted))
    model = make_model(counted, table_log)
    if not len(model.classes):
        trimmed = counted[: np.flatnonzero(counted)[-1] + 1]
        assert model.counts.tolist() == normalize_counts(trimmed, table_log).tolist()


@given(counted_symbols, table_logs, st.integers(1, 10**6), st.integers(0, 1 << 16))
def test_the_cost_counts_every_stored_bit(counted, table_log, lanes, price):
    table_log = max(table_log, needed_log(counted))
    model = make_model(counted, table_log)
    classes = oracle.read_classes(model.classes.tolist())
    counted_list = counted.tolist()
    merged = oracle.merged(counted_list, classes)[: len(model.counts)]
    widths = [oracle.in_class(s, classes)[2] for s in range(len(counted_list))]
    literals = sum(h * ((w << 16) + price) for h, w in zip(counted_list, widths, strict=True) if w)
    stored = 8 * (len(model.counts) * (1 if max(model.counts) < 256 else 2) + len(model.classes))
    ideal = coded_cost(np.array(merged), model.counts)
    assert model_cost(model, counted, lanes, price) == ideal + literals + (lanes * table_log + stored << 16)


def test_the_cost_of_classes_by_hand():
    # 30 of symbol 0 and one of each of four that share half the table
    model = Model(np.array([16, 0, 16]), np.array([1, 2, 2, 1, 3, 4], np.uint8))
    counted = np.array([30, 1, 1, 1, 1])
    assert class_table(model.classes).leader.tolist()[:5] == [0, 2, 2, 2, 2]
    assert model_cost(model, counted, lane_count=2) == (34 + 4 * 3 + 2 * 5 + 8 * (3 + 6)) << 16


@settings(max_examples=200)
@given(
    histograms(largest=2**30) | histograms(max_alphabet=64, largest=10**6),
    st.integers(1, 10**5),
    st.sampled_from(list(LITERAL_PRICE.values())),
)
def test_the_chosen_model_is_the_cheapest_of_all_and_smallest_of_equals(counted, lanes, price):
    allowed = range(needed_log(counted), 13)
    models = {r: make_model(counted, r, price) for r in allowed}
    costs = {r: model_cost(models[r], counted, lanes, price) for r in allowed}
    bounds = cost_bounds(counted, lanes, allowed, price)
    assert all(bound <= cost for bound, cost in zip(bounds, costs.values(), strict=True))
    assert same(choose_model(counted, lanes, None, price), models[min(allowed, key=lambda r: (costs[r], r))])


@given(counted_symbols, table_logs, st.integers(1, 1000))
def test_a_set_table_is_taken(counted, table_log, lanes):
    table_log = max(table_log, needed_log(counted))
    assert same(choose_model(counted, lanes, table_log), make_model(counted, table_log))


def test_256_equal_symbols_need_a_table_of_256_slots():
    model = choose_model(np.ones(256, np.int64), 1000)
    assert model.counts.tolist() == [1] * 256
    assert len(model.classes) == 0


def test_classes_let_a_small_table_hold_256_symbols():
    counted = np.ones(256, np.int64)
    counted[0] = 10**6
    model = make_model(counted, 5)
    assert model.counts.sum() == 32
    assert len(model.classes) > 256


def test_classes_pay_where_rare_symbols_are_many():
    counted = np.bincount(rng(3).geometric(0.9, 200_000).clip(0, 255), minlength=256) + 1
    with_classes = choose_model(counted, 8)
    without = [Model(normalize_counts(counted, r), with_classes.classes[:0]) for r in range(8, 13)]
    assert len(with_classes.classes)
    assert model_cost(with_classes, counted, 8) < min(model_cost(model, counted, 8) for model in without)


def test_leaders_behind_the_last_count_are_trimmed_away():
    counted = np.array([10**6] + [0] * 200 + [1, 1, 1, 1])
    model = make_model(counted, 5)
    assert len(model.classes)
    assert len(model.counts) <= len(counted)
    assert stored_counts(model.counts).dtype == np.uint8


@pytest.mark.parametrize("table_log", [-1, 0, 4, 13, 100])
def test_other_tables_are_refused(table_log):
    for make in (make_model, lambda h, r: choose_model(h, 1, r)):
        with pytest.raises(InvalidArgument, match="table_log"):
            make(np.array([3, 2]), table_log)


@pytest.mark.parametrize("counted", [[], [0], [0, 0], [2**39], [2**38, 2**38]])
def test_what_no_table_can_hold_is_refused(counted):
    for table_log in (None, 5, 12):
        with pytest.raises(InvalidArgument):
            choose_model(np.array(counted, np.int64), 1, table_log)


def test_more_symbols_than_slots_are_refused_where_no_class_pays():
    with pytest.raises(InvalidArgument, match="slots"):
        make_model(np.full(33, 10**6), 5)
