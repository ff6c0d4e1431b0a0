import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import field, number

from refimpl.tans.bits import append_bits, pack_fields, read_fields, unpack_fields, write_fields

fields = st.lists(
    st.integers(0, 31).flatmap(lambda w: st.tuples(st.integers(0, (1 << w) - 1), st.just(w))), max_size=50
)


def columns(pairs):
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(fields)
def test_what_is_written_is_read(pairs):
    values, widths = columns(pairs)
    words = write_fields(values, widths)
    assert len(words) == -(-int(widths.sum()) // 32)
    assert np.array_equal(read_fields(words, np.cumsum(widths) - widths, widths), values)


@given(fields)
def test_words_are_the_bit_string_low_bits_first(pairs):
    bits = "".join(field(value, width) for value, width in pairs)
    assert write_fields(*columns(pairs)).tolist() == [number(bits[i : i + 32]) for i in range(0, len(bits), 32)]


@given(fields)
def test_bytes_are_little_endian(pairs):
    values, widths = columns(pairs)
    data = write_fields(values, widths).astype("<u4").tobytes()
    whole = sum(int(v) << int(p) for v, p in zip(values, np.cumsum(widths) - widths, strict=True))
    assert int.from_bytes(data, "little") == whole


def test_fields_of_32_bits_can_be_written():
    assert write_fields(np.array([1, 2**32 - 1]), np.array([3, 32])).tolist() == [2**32 - 7, 7]


@given(st.integers(0, 5))
def test_fields_without_bits_leave_no_trace(count):
    assert len(write_fields(np.zeros(count, np.int64), np.zeros(count, np.int64))) == 0
    assert write_fields(np.array([0, 5, 0]), np.array([0, 3, 0])).tolist() == [5]


def test_two_dimensions_are_written_in_c_order():
    assert write_fields(np.array([[1, 2], [3, 0]]), np.array([[4, 4], [4, 4]])).tolist() == [0x0321]


def test_room_is_left_where_asked():
    assert write_fields(np.array([5]), np.array([3]), word_count=3).tolist() == [5, 0, 0]


@given(
    hnp.arrays(np.uint32, st.integers(0, 5)), hnp.arrays(np.int64, 6, elements=st.integers(0, 400)), st.integers(0, 31)
)
def test_bits_outside_the_words_read_as_zero(words, positions, width):
    bits = "".join(field(int(w), 32) for w in words) + "0" * 500
    assert read_fields(words, positions, width).tolist() == [number(bits[p : p + width]) for p in positions.tolist()]


def test_reading_far_outside_is_zero():
    words = np.full(2, 0xFFFFFFFF, np.uint32)
    assert read_fields(words, np.array([64, 10**6, 2**62]), 31).tolist() == [0, 0, 0]
    assert read_fields(words, np.array([63]), 31).tolist() == [1]


@given(hnp.arrays(np.uint32, 3))
def test_zero_bits_read_as_zero(words):
    assert not read_fields(words, np.arange(96), 0).any()


@given(hnp.arrays(bool, st.integers(0, 100)), hnp.arrays(bool, st.integers(0, 100)))
def test_appended_bits_follow_without_a_gap(head, tail):
    def words(bits):
        padded = np.concatenate([bits, np.zeros(-len(bits) % 32, bool)])
        return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)

    joined = append_bits(words(head), len(head), words(tail), len(tail))
    assert np.array_equal(joined, words(np.concatenate([head, tail])))


@given(st.integers(0, 31), st.integers(0, 70), st.data())
def test_fields_of_one_width_are_fields(width, first_bit, data):
    values = np.array(data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=70)), np.int64)
    words = pack_fields(values, width)
    assert words.tolist() == write_fields(values, np.full(len(values), width)).tolist()
    behind = append_bits(np.zeros(-(-first_bit // 32), np.uint32), first_bit, words, width * len(values))
    assert unpack_fields(behind, first_bit, width, len(values)).tolist() == values.tolist()
