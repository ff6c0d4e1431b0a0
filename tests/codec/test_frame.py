import struct
import tracemalloc
import zlib
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
from frames import SMALL, reseal
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import coder_inputs, rng, symbol_arrays

from codec import decode, encode
from codec import kernels as kernels_module
from codec.frame import Frame, decode_frame, make_frame, read_frame, write_frame
from codec.kernels import NUMBA, numba_kernels
from refimpl.errors import Corrupt, LimitExceeded, StreamError, Truncated, UnsupportedVersion
from refimpl.tans import blocks
from refimpl.tans.blocks import Block, Chunks, decode_block, split_chunks
from refimpl.tans.stream import NUMPY, encode_stream

KERNELS = (NUMPY, NUMBA)
skewed = np.minimum(rng(7).geometric(0.8, 400) - 1, 5).astype(np.uint8)


def partial_frame(symbols, chunks):
    raw, coded = split_chunks(symbols, chunks)
    block = Block("partial", len(symbols), raw, encode_stream(coded, lane_count=2), chunks)
    return write_frame(Frame(block, zlib.crc32(symbols)))


def poke(data, at, kind, value):
    changed = bytearray(data)
    struct.pack_into("<" + kind, changed, at, value)
    return reseal(bytes(changed))


FRAMES = {
    "empty": encode(np.empty(0, np.uint8)),
    "raw": encode(np.array([3, 1, 4, 1, 5, 92, 6, 5], np.uint8)),
    "raw, packed": encode(np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], np.uint8)),
    "constant": encode(np.full(1000, 7, np.uint8)),
    "coded": encode(skewed, lane_count=3),
    "coded, wide counts": encode(skewed, lane_count=1, table_log=12),
    "coded, one lane": encode(skewed[:150], lane_count=1, table_log=5),
    "coded, one symbol": write_frame(Frame(Block("coded", 9, skewed[:0], encode_stream(np.full(9, 2, np.uint8))),
                                           zlib.crc32(bytes([2] * 9)))),
    "partial": partial_frame(skewed[:100], Chunks(8, 2, 1)),
    "partial, mostly coded": partial_frame(skewed[:100], Chunks(5, 4, 3)),
    "partial by encode": encode(skewed | 16, fraction=0.75),
    "coded, classes": SMALL["coded, classes"],
    "coded, one leader": SMALL["coded, one leader"],
    "coded, packed": SMALL["coded, packed"],
    "coded, classes, packed": SMALL["coded, classes, packed"],
    "partial, classes, packed": SMALL["partial, classes, packed"],
}  # fmt: skip
MODES = {"raw": 0, "constant": 1, "coded": 2, "partial": 3}
damaged = pytest.mark.parametrize("name", FRAMES)


@contextmanager
def at_most(size):
    """Fails if the Python and NumPy allocations inside ever take more bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@cache
def compiled():
    """Compiling takes memory, too."""
    for data in FRAMES.values():
        decode(data)


def assert_refused_cheaply(data, error=StreamError):
    compiled()
    for kernels in KERNELS:
        with at_most(64 << 20), pytest.raises(error):
            decode(data, kernels=kernels)


@damaged
def test_frames_are_of_the_mode_they_are_named_after(name):
    frame = read_frame(FRAMES[name])
    assert frame.block.mode == ("raw" if name == "empty" else name.split(",")[0].split()[0])
    assert FRAMES[name][:6] == b"tANS\x01" + bytes([MODES[frame.block.mode]])


@given(symbol_arrays(max_size=5000), st.sampled_from(["gpu", "archive"]), st.sampled_from([1.0, 0.9, 0.5, 0.1]))
def test_symbols_come_back(symbols, profile, fraction):
    data = encode(symbols, profile=profile, fraction=fraction)
    decoded = decode(data)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, symbols)


@given(coder_inputs(), st.sampled_from([1.0, 0.5]))
def test_both_kernels_write_the_same_bytes_and_read_each_other(inputs, fraction):
    symbols, _, lanes = inputs
    options = {"fraction": fraction, "table_log": 9, "lane_count": max(1, lanes // 16)}
    data = encode(symbols, **options)
    assert data == encode(symbols, kernels=NUMPY, **options)
    for kernels in KERNELS:
        assert np.array_equal(decode(data, kernels=kernels), symbols)


@given(symbol_arrays(max_size=3000), st.sampled_from([1.0, 0.5]))
def test_reading_and_writing_gives_the_same_bytes(symbols, fraction):
    data = encode(symbols, fraction=fraction)
    assert write_frame(read_frame(data)) == data


@given(symbol_arrays(max_size=3000), st.sampled_from([1.0, 0.5]))
def test_a_frame_is_its_stored_bits_and_headers(symbols, fraction):
    frame = make_frame(symbols, fraction=fraction)
    block = frame.block
    header = 24 + (20 if block.stream else 0) + (8 if block.chunks else 0)
    padding = 8 * len(write_frame(frame)) - 8 * header - block.stored_bits
    assert 0 <= padding <= 24
    assert padding % 8 == 0


def test_shapes_are_flattened_and_strides_are_followed():
    symbols = rng(1).integers(0, 4, (20, 30), np.uint8)
    for view in (symbols, symbols.T, symbols[::2, ::3]):
        assert np.array_equal(decode(encode(view)), view.ravel())


def test_decoding_a_constant_takes_no_memory():
    data = poke(FRAMES["constant"], 8, "Q", 2**50)
    with at_most(1 << 20):
        decoded = decode(data)
        assert decoded.shape == (2**50,)
        assert decoded[2**49] == 7


@damaged
def test_every_truncation_is_refused(name):
    data = FRAMES[name]
    for size in range(len(data)):
        for kernels in KERNELS:
            with pytest.raises(StreamError):
                decode(data[:size], kernels=kernels)


@damaged
def test_truncations_are_called_truncated_where_bytes_are_missing(name):
    data = FRAMES[name]
    for size in range(len(data)):
        with pytest.raises(Truncated):
            read_frame(data[:size])


@damaged
@pytest.mark.parametrize("more", [b"\0", b"tANS", bytes(100)])
def test_bytes_left_over_are_refused(name, more):
    with pytest.raises(Corrupt, match="behind the frame"):
        read_frame(FRAMES[name] + more)
    with pytest.raises(StreamError):
        decode(reseal(FRAMES[name] + more))


@damaged
def test_every_changed_byte_is_refused_or_changes_nothing(name):
    data = FRAMES[name]
    symbols = decode(data).tolist()
    for at in range(len(data)):
        for value in {*(data[at] ^ 1 << bit for bit in range(8)), 0x00, 0xFF}:
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                decoded = decode(changed)
            except StreamError:
                assert changed != data
            else:
                assert decoded.tolist() == symbols


@damaged
@settings(max_examples=100)
@given(data=st.data())
def test_forged_checksums_still_end_in_symbols_or_a_stream_error(name, data):
    forged = bytearray(FRAMES[name])
    edits = st.tuples(st.integers(0, len(forged) - 1), st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    for at, value in data.draw(st.lists(edits, min_size=1, max_size=6)):
        forged[at] = value
    try:
        decoded = decode(reseal(bytes(forged)))
    except StreamError:
        return
    assert len(decoded) == struct.unpack_from("<Q", forged, 8)[0]


@given(st.binary(max_size=200))
def test_noise_is_no_frame(noise):
    with pytest.raises(StreamError):
        decode(noise)
    with pytest.raises(StreamError):
        decode(FRAMES["coded"][:6] + noise)


@pytest.mark.parametrize(
    "name", ["raw", "raw, packed", "coded", "coded, one symbol", "coded, classes, packed", "partial", "constant"]
)
@pytest.mark.parametrize("count", [2**20, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_absurd_symbol_counts_cost_nothing(name, count):
    data = poke(FRAMES[name], 8, "Q", count)
    if name in ("constant", "coded, one symbol") and count < 2**63:  # a claim, kept as one
        with at_most(1 << 20):
            assert len(decode(data)) == count
    else:
        assert_refused_cheaply(data)


def test_more_symbols_than_an_array_holds_exceed_the_limit():
    assert_refused_cheaply(poke(FRAMES["constant"], 8, "Q", 2**63), LimitExceeded)


@pytest.mark.parametrize("name", ["coded", "coded, wide counts", "coded, one symbol", "coded, classes", "partial"])
@pytest.mark.parametrize(
    ("at", "kind", "value"),
    [
        (24, "I", 0),  # lanes
        (24, "I", 2**32 - 1),
        (24, "I", 99),
        (28, "I", 2**32 - 1),  # length base
        (28, "I", 2**31),
        (28, "I", 10_000),
        (32, "I", 0),  # words
        (32, "I", 2**32 - 1),
        (32, "I", 1000),
        (36, "H", 0),  # alphabet
        (36, "H", 257),
        (36, "H", 65_535),
        (38, "H", 1),  # bytes of the classes
        (38, "H", 40),
        (38, "H", 65_535),
        (40, "B", 32),  # length width
        (40, "B", 255),
        (41, "B", 0),  # bytes per count
        (41, "B", 3),
        (41, "B", 4),
        (42, "H", 1),  # reserved
        (42, "H", 65_535),
    ],
)
def test_absurd_stream_headers_are_refused(name, at, kind, value):
    assert_refused_cheaply(poke(FRAMES[name], at, kind, value))


@pytest.mark.parametrize("value", [0, 1, 255])
def test_counts_of_another_sum_are_refused(value):
    name = "coded, one lane"
    first_count = FRAMES[name][44]
    assert value != first_count
    assert_refused_cheaply(poke(FRAMES[name], 44, "B", value), Corrupt)


def test_counts_that_sum_to_another_table_are_refused():
    data = FRAMES["coded, one lane"]
    counts = data[44 : 44 + data[36]]
    assert sum(counts) == 32
    assert_refused_cheaply(poke(data, 44, "B", counts[0] + 32))
    assert_refused_cheaply(poke(data, 44, "B", counts[0] + 96))


def test_classes_are_checked_before_anything_is_decoded():
    data = FRAMES["coded, classes"]
    stream = read_frame(data).block.stream
    at = 44 + len(stream.counts)
    assert data[at : at + 4] == bytes([3, 1, 2, 1])
    for offset, value in [(0, 0), (0, 2), (0, 4), (0, 255), (1, 0), (1, 2), (2, 1), (2, 9), (2, 255), (3, 0), (6, 1)]:
        with pytest.raises(Corrupt):
            read_frame(poke(data, at + offset, "B", value))


def test_members_may_be_anything():
    data = FRAMES["coded, classes"]
    at = 44 + len(read_frame(data).block.stream.counts) + 5
    assert data[at] == 3
    assert_refused_cheaply(poke(data, at, "B", 77), Corrupt)  # by the checksum of the symbols
    symbols = decode(data)
    right = zlib.crc32(np.where(symbols == 3, np.uint8(77), symbols))
    changed = poke(poke(data, at, "B", 77), 16, "I", right)
    for kernels in KERNELS:
        assert decode(changed, kernels=kernels).tolist() == [77 if s == 3 else s for s in symbols.tolist()]


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 2**32 - 1])
@pytest.mark.parametrize("count", [None, 2**40, 2**64 - 1])
def test_absurd_chunk_sizes_are_refused(value, count):
    data = FRAMES["partial"] if count is None else poke(FRAMES["partial"], 8, "Q", count)
    assert_refused_cheaply(poke(data, 44, "I", value))


@pytest.mark.parametrize(("per_block", "coded"), [(0, 0), (0, 1), (1, 1), (2, 0), (2, 2), (2, 3), (255, 1), (255, 254)])
def test_impossible_chunks_are_refused(per_block, coded):
    assert_refused_cheaply(poke(poke(FRAMES["partial"], 48, "B", per_block), 49, "B", coded))


def test_a_partial_frame_without_a_whole_block_claims_no_memory():
    # one symbol fills the table and no raw chunk limits the count
    one = partial_frame(np.full(40, 2, np.uint8), Chunks(8, 2, 1))
    raw = 8 * 2
    hostile = poke(poke(one[:-raw], 8, "Q", 2**40), 44, "I", 2**32 - 1)
    assert_refused_cheaply(poke(hostile, 48, "H", 254 << 8 | 255))


@damaged
@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_refused_by_name(name, version):
    with pytest.raises(UnsupportedVersion, match=str(version)):
        read_frame(poke(FRAMES[name], 4, "B", version))


@damaged
@pytest.mark.parametrize(
    ("at", "kind", "value"), [(0, "B", 0), (5, "B", 4), (5, "B", 255), (6, "B", 2), (6, "B", 255), (7, "B", 1)]
)
def test_magic_mode_flags_and_reserved_fields_are_checked(name, at, kind, value):
    with pytest.raises(Corrupt):
        read_frame(poke(FRAMES[name], at, kind, value))


def test_a_constant_cannot_be_packed():
    with pytest.raises(Corrupt, match="flags"):
        read_frame(poke(FRAMES["constant"], 6, "B", 1))


@pytest.mark.parametrize("name", ["raw, packed", "coded, packed", "coded, classes, packed", "partial, classes, packed"])
def test_packed_frames_say_so_and_are_something_else_without(name):
    data = FRAMES[name]
    assert data[6] == 1
    assert read_frame(data).block.packed
    assert_refused_cheaply(poke(data, 6, "B", 0))


@pytest.mark.parametrize("name", ["raw", "coded", "partial"])
def test_other_frames_cannot_be_called_packed(name):
    assert FRAMES[name][6] == 0
    assert_refused_cheaply(poke(FRAMES[name], 6, "B", 1))


@pytest.mark.parametrize("name", ["raw, packed", "coded, packed", "partial, classes, packed"])
def test_the_second_half_of_the_last_byte_belongs_to_the_count(name):
    # an odd count is one symbol less than the even one: its checksum decides
    data = FRAMES[name]
    count = struct.unpack_from("<Q", data, 8)[0]
    assert count % 2
    symbols = decode(data)
    for kernels in KERNELS:
        with pytest.raises(Corrupt, match="decoded symbols"):
            decode(poke(data, 8, "Q", count + 1), kernels=kernels)
        frame = read_frame(poke(data, 8, "Q", count + 1))
        assert np.array_equal(decode_block(frame.block, kernels=kernels)[:-1], symbols)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_bytes_and_symbols_do_not_depend_on_jobs(jobs, monkeypatch):
    monkeypatch.setattr(kernels_module, "THREAD_SYMBOLS", 0)
    monkeypatch.setattr(blocks, "PACK_SYMBOLS", 8)
    for symbols in (rng(1).geometric(0.2, 20_000).clip(0, 255).astype(np.uint8), np.resize(skewed, 20_001)):
        for fraction in (1.0, 0.5):
            options = {"fraction": fraction, "lane_count": 150}
            data = encode(symbols, jobs=jobs, **options)
            assert data == encode(symbols, kernels=NUMPY, **options)
            assert np.array_equal(decode(data, jobs=jobs), symbols)


@settings(max_examples=30)
@given(symbol_arrays(min_size=1, max_size=3000), st.sampled_from([1.0, 0.5]))
def test_packed_symbols_come_back_from_both_kernels(symbols, fraction):
    symbols &= 15
    with patch.object(blocks, "PACK_SYMBOLS", 8):
        data = encode(symbols, fraction=fraction)
        assert data == encode(symbols, fraction=fraction, kernels=NUMPY)
    for kernels in (*KERNELS, numba_kernels(2)):
        assert np.array_equal(decode(data, kernels=kernels), symbols)
    assert write_frame(read_frame(data)) == data


def test_reserved_chunk_field_and_padding_are_checked():
    with pytest.raises(Corrupt):
        read_frame(poke(FRAMES["partial"], 50, "H", 1))
    data = encode(np.minimum(skewed, 2), lane_count=1)
    assert data[36:40] == b"\3\0\0\0"  # three counts and no classes are padded
    with pytest.raises(Corrupt, match="padding"):
        read_frame(poke(data, 44 + 3 * data[41], "B", 1))


def test_padding_behind_classes_is_checked():
    data = FRAMES["coded, one leader"]
    stream = read_frame(data).block.stream
    model_bytes = len(stream.counts) + len(stream.classes)
    assert len(stream.classes)
    assert model_bytes % 4 == 1
    for at in range(44 + model_bytes, 44 + model_bytes + 3):
        with pytest.raises(Corrupt, match="padding"):
            read_frame(poke(data, at, "B", 1))


@pytest.mark.parametrize("name", ["empty", "raw", "coded", "coded, classes, packed", "partial"])
def test_a_wrong_symbol_checksum_is_refused(name):
    right = struct.unpack_from("<I", FRAMES[name], 16)[0]
    for kernels in KERNELS:
        with pytest.raises(Corrupt, match="decoded symbols"):
            decode(poke(FRAMES[name], 16, "I", right ^ 1), kernels=kernels)


@damaged
def test_frames_say_the_checksum_of_their_symbols(name):
    frame = read_frame(FRAMES[name])
    assert frame.symbols_crc == zlib.crc32(decode_frame(frame).tobytes())


@pytest.mark.parametrize("name", SMALL)
def test_more_symbols_than_the_caller_allows_are_refused(name):
    count = len(decode(SMALL[name]))
    assert len(decode(SMALL[name], max_symbols=count)) == count
    if count:
        with pytest.raises(LimitExceeded, match=f"{count} symbols, allowed are {count - 1}"):
            decode(SMALL[name], max_symbols=count - 1)


def test_a_small_frame_that_claims_billions_of_symbols_can_be_refused():
    frame = bytearray(encode(np.full(1000, 7, np.uint8)))
    frame[8:16] = (10**12).to_bytes(8, "little")
    with pytest.raises(LimitExceeded):
        decode(reseal(frame), max_symbols=10**9)
