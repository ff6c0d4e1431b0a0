import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import deal as dealt_by_hand
from strategies import symbol_arrays

from refimpl.errors import InvalidArgument
from refimpl.tans.lanes import choose_lane_count, collect, deal, lane_length


@given(symbol_arrays(max_size=500), st.integers(1, 70), st.integers(0, 255))
def test_symbol_i_is_in_lane_and_step_of_the_formula(symbols, lanes, padding):
    table = deal(symbols, lanes, padding)
    assert table.shape == (lane_length(len(symbols), lanes), lanes)
    for i, symbol in enumerate(symbols):
        assert table[4 * (i // (4 * lanes)) + i % 4, (i // 4) % lanes] == symbol
    assert table.T.tolist() == dealt_by_hand(symbols.tolist(), lanes, padding)


@given(symbol_arrays(max_size=500), st.integers(1, 70))
def test_collecting_undoes_dealing(symbols, lanes):
    assert np.array_equal(collect(deal(symbols, lanes, 0), len(symbols)), symbols)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_lanes_have_the_smallest_multiple_of_four_that_holds_all(count, lanes):
    steps = lane_length(count, lanes)
    assert steps % 4 == 0
    assert steps * lanes >= count
    assert (steps - 4) * lanes < count or steps == 0


@given(st.integers(1, 10**9), st.floats(0, 8), st.sampled_from(["gpu", "archive"]))
def test_lanes_are_no_longer_than_the_payload_wants(count, bits_each, profile):
    coded_bits = int(count * bits_each)
    lanes = choose_lane_count(count, coded_bits, profile)
    assert 1 <= lanes <= count
    wanted = {"gpu": 1024, "archive": 16384}[profile]
    steps = next(s for s in (128 << k for k in range(64)) if s * coded_bits >= wanted * count or s >= count)
    assert lanes == -(-count // steps)


@given(st.integers(1, 10**8), st.floats(0, 8))
def test_the_archive_has_no_more_lanes_than_the_gpu(count, bits_each):
    bits = int(count * bits_each)
    assert choose_lane_count(count, bits, "archive") <= choose_lane_count(count, bits, "gpu")


def test_unknown_profiles_are_refused():
    with pytest.raises(InvalidArgument, match="profile"):
        choose_lane_count(1, 1, "cpu")


@given(st.integers(1, 10**7), st.integers(1, 8), st.sampled_from(["gpu", "archive"]))
def test_a_part_of_a_tensor_gets_as_many_lanes_as_the_whole(count, bits, profile):
    whole = choose_lane_count(count, bits * count, profile)
    part = -(-count // 4)
    assert choose_lane_count(part, bits * part, profile, tensor_count=count) in (whole, -(-part // 4))
    assert choose_lane_count(count, bits * count, profile, tensor_count=count) == whole
