import math

import numpy as np
import oracle
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import disjoint_groups, groups, histograms, hostile_classes, rng, stored_classes, table_logs

from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.classes import LITERAL_PRICE, NO_CLASSES, class_table, merge_histogram, part_prices, plan_classes
from refimpl.tans.counts import log2_table


def as_groups(stored):
    return oracle.read_classes(stored.tolist())


@given(groups() | disjoint_groups())
def test_a_leader_and_its_literal_are_the_symbol(drawn):
    table = class_table(stored_classes(drawn))
    symbols = np.arange(256)
    assert (table.index < 1 << table.width[table.leader].astype(int)).all()
    assert np.array_equal(table.member[table.first[table.leader] + table.index], symbols)


@given(groups() | disjoint_groups())
def test_symbols_have_the_leader_and_literal_of_the_definition(drawn):
    table = class_table(stored_classes(drawn))
    widths = table.width[table.leader]
    found = zip(table.leader.tolist(), table.index.tolist(), widths.tolist(), strict=True)
    assert list(found) == [oracle.in_class(symbol, drawn) for symbol in range(256)]


@given(groups())
def test_a_leader_followed_by_any_literal_is_a_member(drawn):
    table = class_table(stored_classes(drawn))
    led = {members[0]: members for members in drawn}
    for symbol in range(256):
        begin, width = int(table.first[symbol]), int(table.width[symbol])
        assert table.member[begin : begin + (1 << width)].tolist() == led.get(symbol, [symbol])


def test_no_classes_leave_every_symbol_on_its_own():
    table = class_table(NO_CLASSES)
    assert table.leader.tolist() == table.first.tolist() == table.member.tolist() == list(range(256))
    assert not table.index.any()
    assert not table.width.any()


def test_tables_are_of_the_types_promised():
    for stored in (NO_CLASSES, stored_classes([[3, 4], [5, 6, 7, 5]])):
        table = class_table(stored)
        bytes_ = (table.leader, table.index, table.width, table.member)
        assert all(part.dtype == np.uint8 for part in bytes_)
        assert table.first.dtype == np.int64
        assert len(table.member) == 256 + max(0, len(stored) - 1 - int(stored[:1].sum()))


@pytest.mark.parametrize(
    "stored",
    [
        [0],
        [0, 0],
        [1],
        [1, 0],
        [1, 0, 7],  # a width of 0 and its one member
        [1, 1],
        [1, 1, 7],
        [1, 1, 7, 8, 9],
        [1, 9, *range(256), *range(256)],
        [1, 255, 7],
        [1, 64, 7, 8],
        [2, 1, 7, 8],
        [2, 1, 1, 7, 8],
        [2, 1, 1, 7, 8, 7, 9],  # leads both
        [2, 1, 2, 7, 8, 7, 9, 9, 9],
        [255],
        [255] * 256,
    ],
)
def test_impossible_classes_are_corrupt(stored):
    with pytest.raises(Corrupt):
        class_table(np.array(stored, np.uint8))


@settings(max_examples=200)
@given(hostile_classes())
def test_any_bytes_are_classes_or_corrupt(stored):
    count = int(stored[0]) if len(stored) else 0
    widths = stored[1 : 1 + count].tolist()
    drawn = as_groups(stored) if all(1 <= w <= 8 for w in widths) else []
    valid = (
        len(widths) == count
        and all(1 <= w <= 8 for w in widths)
        and len(stored) == (1 + count + sum(1 << w for w in widths) if len(stored) else 0)
        and (count > 0 or len(stored) == 0)
        and len({members[0] for members in drawn}) == count
    )
    try:
        table = class_table(stored)
    except Corrupt:
        assert not valid
    else:
        assert valid
        assert np.array_equal(table.member[table.first[table.leader] + table.index], np.arange(256))


def test_255_classes_are_as_many_as_there_can_be():
    drawn = [[leader, (leader + 1) % 256] for leader in range(255)]
    table = class_table(stored_classes(drawn))
    assert (table.width[:255] == 1).all()
    assert np.array_equal(table.member[table.first[table.leader] + table.index], np.arange(256))


literal_prices = st.sampled_from(list(LITERAL_PRICE.values()))
few = histograms(max_alphabet=10, largest=2000) | histograms(max_alphabet=10, largest=2**35)


@settings(max_examples=150)
@given(few, table_logs, literal_prices)
@example(np.array([2**39 - 1]), 12, 1 << 16)
@example(np.array([2**39 - 2, 1]), 12, 1 << 12)
@example(np.array([2**38 - 1, 2**38]), 5, 1 << 16)
@example(np.array([2**30, 1, 1, 1, 2, 2, 3, 9]), 12, 1 << 12)
def test_planned_classes_cost_as_much_as_the_cheapest_of_all(counted, table_log, literal_price):
    classes = as_groups(plan_classes(counted, table_log, literal_price))
    price = oracle.plan_price(counted.tolist(), classes, table_log, literal_price)
    assert price == oracle.cheapest_price(counted.tolist(), table_log, literal_price)


@settings(max_examples=25)
@given(st.integers(11, 13), st.integers(0, 2**32 - 1), st.sampled_from([5, 8, 12]))
def test_planned_classes_of_more_rare_symbols_are_the_cheapest_too(alphabet, seed, table_log):
    random = rng(seed)
    counted = random.geometric(0.1, alphabet)
    counted[random.integers(alphabet)] = 10 ** int(random.integers(3, 9))
    classes = as_groups(plan_classes(counted, table_log))
    price = oracle.plan_price(counted.tolist(), classes, table_log)
    assert price == oracle.cheapest_price(counted.tolist(), table_log)


@given(histograms(largest=2**30), table_logs)
def test_plans_are_valid_disjoint_and_of_symbols_that_occur(counted, table_log):
    stored = plan_classes(counted, table_log)
    class_table(stored)  # valid
    assert stored.dtype == np.uint8
    seen = set()
    for members in as_groups(stored):
        apart = set(members)
        assert len(apart) > len(members) // 2  # no wider than needed
        assert members == members[: len(apart)] + members[:1] * (len(members) - len(apart))
        assert not apart & seen
        assert all(counted[s] > 0 for s in apart)
        seen |= apart


@given(histograms(largest=2**30), table_logs)
def test_classes_hold_neighbours_in_the_order_of_frequency(counted, table_log):
    line = sorted((int(h), s) for s, h in enumerate(counted) if h)
    place = {s: i for i, (_, s) in enumerate(line)}
    begins = []
    for members in as_groups(plan_classes(counted, table_log)):
        places = [place[s] for s in dict.fromkeys(members)]
        assert places == list(range(places[0], places[0] + len(places)))
        begins.append(places[0])
    assert begins == sorted(begins)


@given(histograms(largest=2**30), table_logs)
def test_a_plan_never_costs_more_than_no_classes(counted, table_log):
    counted_list = counted.tolist()
    classes = as_groups(plan_classes(counted, table_log))
    assert oracle.plan_price(counted_list, classes, table_log) <= oracle.plan_price(counted_list, [], table_log)


@given(st.integers(0, 255), st.integers(1, 2**39 - 1), table_logs)
def test_one_symbol_is_in_no_class(symbol, count, table_log):
    counted = np.zeros(symbol + 1, np.int64)
    counted[symbol] = count
    assert len(plan_classes(counted, table_log)) == 0


@pytest.mark.parametrize("counted", [[], [0], [0, 0, 0]])
def test_nothing_is_in_no_class(counted):
    assert len(plan_classes(np.array(counted, np.int64), 8)) == 0


def test_rare_symbols_fill_large_classes():
    counted = np.ones(256, np.int64)
    counted[77] = 2**38  # slots are what costs
    assert max(len(members) for members in as_groups(plan_classes(counted, 5))) >= 128


@pytest.mark.parametrize("counted", [[2**39], [2**38, 2**38], [2**39 - 1, 1], [2**31] * 256])
def test_too_many_symbols_are_refused(counted):
    with pytest.raises(InvalidArgument, match="2\\*\\*39"):
        plan_classes(np.array(counted, np.int64), 8)


@given(st.lists(st.integers(1, 2**39 - 1), min_size=1, max_size=5), table_logs, literal_prices)
def test_prices_are_those_of_the_definition(parts, table_log, price):
    total = max(parts)
    prices = part_prices(np.array(parts)[:, None], np.arange(9), total, table_log, price)
    assert prices.tolist() == [[oracle.part_price(c, w, total, table_log, price) for w in range(9)] for c in parts]


def test_logarithms_of_all_slots_are_truncated_and_exact():
    assert log2_table()[1:].tolist() == [math.floor(65536 * math.log2(q)) for q in range(1, 4097)]


@settings(max_examples=300)
@given(histograms(largest=2**30) | histograms(largest=10**4), table_logs, literal_prices)
def test_plans_are_those_of_all_parts_tried(counted, table_log, price):
    found = plan_classes(counted, table_log, price)
    assert as_groups(found) == oracle.plan(counted.tolist(), table_log, price)


@given(histograms(largest=10**6), disjoint_groups())
def test_merged_histograms_count_leaders(counted, drawn):
    assume(all(s < len(counted) for members in drawn for s in members))
    found = merge_histogram(counted, class_table(stored_classes(drawn)))
    assert found.dtype == np.int64
    assert found.tolist() == oracle.merged(counted.tolist(), drawn)


@given(histograms(largest=10**6), table_logs)
def test_merging_planned_classes_keeps_the_sum(counted, table_log):
    stored = plan_classes(counted, table_log)
    found = merge_histogram(counted, class_table(stored))
    assert found.tolist() == oracle.merged(counted.tolist(), as_groups(stored))
    assert found.sum() == counted.sum()
