from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refimpl.errors import InvalidArgument
from refimpl.throughput import (
    FRACTION_STEPS,
    Machine,
    Stages,
    Way,
    Workload,
    break_even_decode,
    choose_ways,
    decode_seconds,
    device_bytes,
    fraction_for_bytes,
    fraction_within,
    partial_ways,
    place,
    stages,
    stored_bytes,
    total_ratio,
    unslowed_fraction,
)

sizes = st.floats(1e3, 1e12)
ratios = st.floats(1, 20)
fractions = st.floats(0, 1)
speeds = st.floats(1e6, 1e13)
times = st.floats(0, 10)
machines = st.builds(Machine, sizes, sizes, speeds, speeds, speeds)
workloads = st.builds(
    Workload, sizes, ratios, fractions, times, st.integers(1, 100), st.floats(0.5, 4), st.integers(1, 2)
)


def seconds(workload, machine):
    return stages(workload, machine).serial


def close(a, b):
    return a == pytest.approx(b, rel=1e-9, abs=1e-9)


@given(sizes, ratios, speeds)
def test_nothing_coded_is_raw_and_free_and_all_coded_is_the_full_ratio(size, ratio, speed):
    assert stored_bytes(size, ratio, 0) == size
    assert decode_seconds(size, 0, speed) == 0
    assert close(stored_bytes(size, ratio, 1), size / ratio)
    assert close(decode_seconds(size, 1, speed), size / speed)
    assert total_ratio(ratio, 0) == 1
    assert close(total_ratio(ratio, 1), ratio)


@given(sizes, ratios, fractions, fractions, speeds)
def test_coding_more_stores_less_and_takes_longer(size, ratio, a, b, speed):
    a, b = sorted((a, b))
    assert stored_bytes(size, ratio, b) <= stored_bytes(size, ratio, a) * (1 + 1e-12)
    assert total_ratio(ratio, b) >= total_ratio(ratio, a) * (1 - 1e-12)
    assert decode_seconds(size, b, speed) >= decode_seconds(size, a, speed)
    assert close(stored_bytes(size, ratio, b) * total_ratio(ratio, b), size)


@given(sizes, ratios, st.floats(0, 1.5))
def test_the_smallest_fraction_that_fits(size, ratio, share):
    fraction = fraction_for_bytes(size, ratio, share * size)
    if fraction is None:
        assert stored_bytes(size, ratio, 1) > share * size
        return
    assert stored_bytes(size, ratio, fraction) <= share * size * (1 + 1e-9) + 1e-9
    if fraction > 1e-6 and ratio > 1.001:
        assert stored_bytes(size, ratio, fraction * 0.99) > share * size


@given(workloads, machines)
def test_every_byte_is_somewhere_and_no_memory_overflows(workload, machine):
    assume(workload.buffer_bytes <= machine.device_bytes)
    places = place(workload, machine)
    assert close(places.device + places.host + places.disk, workload.stored_bytes)
    assert min(places.device, places.host, places.disk) >= 0
    assert device_bytes(workload, machine) <= machine.device_bytes * (1 + 1e-12)
    assert places.host <= machine.host_bytes
    assert not places.host or close(device_bytes(workload, machine), machine.device_bytes)
    assert not places.disk or close(places.host, machine.host_bytes)


@given(workloads, machines)
def test_all_in_device_memory_costs_decoding_alone(workload, machine):
    roomy = replace(machine, device_bytes=workload.stored_bytes + workload.buffer_bytes)
    ideal = decode_seconds(workload.raw_bytes, workload.fraction, machine.decode) + workload.compute_seconds
    assert close(seconds(workload, roomy), ideal)
    raw = replace(workload, fraction=0.0)
    plain = replace(machine, device_bytes=raw.stored_bytes + raw.buffer_bytes)
    assert close(seconds(raw, plain), raw.compute_seconds)


@given(workloads, machines, st.sampled_from(["device", "host"]))
def test_cases_meet_at_their_borders(workload, machine, border):
    """A millionth of the bytes more or less at the border of two cases changes the time by about a millionth."""
    stored, buffers = workload.stored_bytes, workload.buffer_bytes
    around = []
    for shift in (1 - 1e-6, 1 + 1e-6):
        room = stored * shift if border == "device" else stored * 0.5
        host = machine.host_bytes if border == "device" else stored * (shift - 0.5)
        around.append(replace(machine, device_bytes=buffers + room, host_bytes=host))
    cases = [place(workload, m).case for m in around]
    assert cases == (["disk", "host"] if border == "host" else [cases[0], "device"])
    assert cases[0] != "device" or buffers > 1e5 * stored  # the shift is lost in the buffers' size
    before, after = (seconds(workload, m) for m in around)
    moved = 3e-6 * stored + 1e-12 * buffers
    assert abs(before - after) <= moved * (1 / machine.link + 1 / machine.disk) + 1e-9 * after


@given(workloads, machines, st.floats(1, 3), st.sampled_from(["device_bytes", "host_bytes", "link", "disk", "decode"]))
def test_a_better_machine_is_never_slower(workload, machine, factor, part):
    assume(workload.buffer_bytes <= machine.device_bytes)
    better = replace(machine, **{part: factor * getattr(machine, part)})
    assert seconds(workload, better) <= seconds(workload, machine) * (1 + 1e-9)


@given(st.builds(Stages, times, times, times, times), st.integers(1, 1000))
def test_a_pipeline_is_between_the_slowest_stage_and_the_series(made, layers):
    slowest = max(made.disk, made.link, made.decode, made.compute)
    assert slowest * (1 - 1e-12) <= made.pipelined(layers) <= made.serial * (1 + 1e-12)
    assert close(made.pipelined(1), made.serial)
    assert made.pipelined(layers) <= slowest + made.serial / layers


@given(sizes, st.floats(1.01, 20), fractions, speeds, st.floats(0.1, 10))
def test_coded_weights_load_faster_above_the_break_even_and_slower_below(size, ratio, fraction, link, speed):
    assume(abs(speed - 1) > 1e-3 and fraction > 1e-3)
    decode = break_even_decode(link, ratio) * speed
    loading = stored_bytes(size, ratio, fraction) / link + decode_seconds(size, fraction, decode)
    assert (loading < size / link) == (speed > 1)


def test_what_does_not_shrink_never_loads_faster():
    assert break_even_decode(1e9, 1.0) == np.inf


@given(sizes, ratios, speeds, speeds, times)
def test_up_to_the_unslowed_fraction_decoding_is_hidden(layer, ratio, decode, link, compute):
    fraction = unslowed_fraction(layer, ratio, decode, link, compute)

    def is_hidden(f):
        loading = stored_bytes(layer, ratio, f) / link
        return decode_seconds(layer, f, decode) <= max(loading, compute) * (1 + 1e-9)

    assert 0 <= fraction <= 1
    assert is_hidden(fraction)
    assert fraction == 1 or not is_hidden(min(1.0, fraction * 1.01 + 1e-9))


@given(workloads, machines, st.floats(0.1, 3))
def test_the_largest_fraction_within_a_time(workload, machine, share):
    assume(workload.buffer_bytes < machine.device_bytes)
    raw = seconds(replace(workload, fraction=0.0), machine)
    assume(raw > 1e-9)
    limit = share * raw
    fraction = fraction_within(workload, machine, limit)
    grid = np.linspace(0, 1, 41)
    within = [f for f in grid if seconds(replace(workload, fraction=f), machine) <= limit * (1 - 1e-9)]
    if fraction is None:
        assert not within
        return
    assert seconds(replace(workload, fraction=fraction), machine) <= limit * (1 + 1e-6)
    assert not within or fraction >= max(within) - 1e-6


# Ways


ways = st.builds(Way, st.floats(0, 10), st.floats(1, 1000))
options = st.lists(st.lists(ways, min_size=1, max_size=4), min_size=1, max_size=4)


def totals(tensors, chosen):
    picked = [t[i] for t, i in zip(tensors, chosen, strict=True)]
    return sum(w.seconds for w in picked), sum(w.bytes for w in picked)


@given(options, st.floats(0, 40))
def test_the_choice_keeps_to_the_time_and_is_near_the_best(tensors, limit):
    chosen = choose_ways(tensors, limit)
    fastest = sum(min(w.seconds for w in t) for t in tensors)
    took, size = totals(tensors, chosen)
    if fastest > limit:
        assert took == pytest.approx(fastest)
        return
    assert took <= limit + 1e-9
    every = [totals(tensors, picks) for picks in product(*(range(len(t)) for t in tensors))]
    least = min(b for s, b in every if s <= limit)
    step = max(max(w.bytes for w in t) - min(w.bytes for w in t) for t in tensors)
    assert least - 1e-6 <= size <= least + step + 1e-6


@given(options)
def test_with_time_enough_every_tensor_is_as_small_as_it_can_be(tensors):
    _, size = totals(tensors, choose_ways(tensors, 1e9))
    assert size == pytest.approx(sum(min(w.bytes for w in t) for t in tensors))


@given(st.floats(0, 5), st.floats(0.01, 5), st.floats(10, 100), st.floats(1, 10), st.integers(2, 6), st.floats(0, 1))
def test_of_equal_tensors_at_most_one_is_coded_in_part(raw, more, size, ratio, count, share):
    tensors = [partial_ways(Way(raw, size), Way(raw + more, size / ratio))] * count
    chosen = choose_ways(tensors, count * (raw + share * more))
    assert sum(0 < i < FRACTION_STEPS for i in chosen) <= 1


@given(st.integers(0, FRACTION_STEPS))
def test_partial_ways_begin_where_they_are_told(least):
    made = partial_ways(Way(1.0, 32.0), Way(2.0, 16.0), least)
    assert len(made) == FRACTION_STEPS + 1 - least
    assert made[0] == Way(1.0, 32.0)
    assert least == FRACTION_STEPS or made[-1] == Way(2.0, 16.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: stored_bytes(-1, 2, 1), "raw_bytes is -1"),
        (lambda: stored_bytes(float("nan"), 2, 1), "raw_bytes is nan"),
        (lambda: total_ratio(0.5, 1), r"ratio is 0\.5"),
        (lambda: decode_seconds(1, 1.5, 1), r"fraction is 1\.5"),
        (lambda: Machine(1, 1, 0, 1, 1), "link is 0"),
        (lambda: Machine(-1, 1, 1, 1, 1), "device_bytes is -1"),
        (lambda: Workload(1, 2, 1, -1), "no workload"),
        (lambda: Workload(1, 2, 1, 1, layers=0), "no workload"),
        (lambda: place(Workload(100, 2, 1, 1), Machine(50, 1, 1, 1, 1)), "do not fit"),
    ],
)
def test_what_is_out_of_range_is_refused(wrong, message):
    with pytest.raises(InvalidArgument, match=message):
        wrong()
