import contextlib
import dataclasses
from fractions import Fraction

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import coded_streams, coder_inputs, rng, symbol_arrays

from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError
from refimpl.tans import blocks
from refimpl.tans.blocks import (
    Block,
    Chunks,
    choose_chunks,
    decode_block,
    encode_block,
    merge_chunks,
    split_chunks,
    stored_counts,
)
from refimpl.tans.classes import class_table
from refimpl.tans.stream import decode_stream, encode_stream, only_symbol

chunkings = st.integers(2, 6).flatmap(
    lambda c: st.builds(Chunks, st.integers(1, 40), st.just(c), st.integers(1, c - 1))
)
EMPTY = np.empty(0, np.uint8)
skewed = np.minimum(rng(2).geometric(0.4, 4000) - 1, 40).astype(np.uint8)
nibbles = np.minimum(rng(3).geometric(0.8, 4000) - 1, 15).astype(np.uint8)


@given(symbol_arrays(max_size=4000), st.sampled_from(["gpu", "archive"]), st.floats(0, 1, exclude_min=True))
def test_blocks_decode_to_their_symbols_and_never_grow(symbols, profile, fraction):
    block = encode_block(symbols, profile=profile, fraction=fraction)
    assert block.symbol_count == len(symbols)
    assert block.stored_bits <= 8 * len(symbols)
    assert np.array_equal(decode_block(block), symbols)


@given(coder_inputs(), st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]))
def test_blocks_with_set_parameters_decode_too(inputs, fraction):
    symbols, _, lanes = inputs
    block = encode_block(symbols, fraction=fraction, table_log=9, lane_count=max(1, lanes // 16))
    assert np.array_equal(decode_block(block), symbols)


@pytest.fixture
def pack_early(monkeypatch):
    """Few symbols are packed already."""
    monkeypatch.setattr(blocks, "PACK_SYMBOLS", 8)


def assert_packed_blocks_decode(symbols, **options):
    block = encode_block(symbols, **options)
    assert block.symbol_count == len(symbols)
    assert block.stored_bits <= 8 * -(-len(symbols) // 2)
    assert np.array_equal(decode_block(block), symbols)
    return block


@pytest.mark.usefixtures("pack_early")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbol_arrays(min_size=1, max_size=3000), st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(8, 12))
def test_packed_blocks_decode_to_their_symbols_and_never_grow(symbols, fraction, table_log):
    symbols &= 15
    block = assert_packed_blocks_decode(symbols, fraction=fraction, table_log=table_log, lane_count=1)
    assert block.packed == (block.mode == "raw" or (block.mode != "constant" and len(symbols) >= 8))


@pytest.mark.usefixtures("pack_early")
@pytest.mark.parametrize("count", [3998, 3999])
@pytest.mark.parametrize(("fraction", "mode"), [(1.0, "coded"), (0.5, "partial")])
def test_packed_blocks_code_bytes(count, fraction, mode):
    block = assert_packed_blocks_decode(nibbles[:count], fraction=fraction)
    units = -(-count // 2)
    assert (block.mode, block.packed, block.unit_count) == (mode, True, units)
    assert block.stream.symbol_count + len(block.raw) == units
    raw, coded = (nibbles[:0], np.array(oracle.pack(nibbles[:count].tolist()), np.uint8))
    if block.chunks is not None:
        raw, coded = split_chunks(coded, block.chunks)
    assert np.array_equal(block.raw, raw)
    assert np.array_equal(decode_stream(block.stream), coded)


def test_few_nibbles_are_coded_one_by_one_and_many_two_by_two():
    block = encode_block(nibbles)
    assert (block.mode, block.packed, block.unit_count) == ("coded", False, 4000)
    many = np.resize(nibbles, blocks.PACK_SYMBOLS)
    block = assert_packed_blocks_decode(many)
    assert (block.mode, block.packed, block.unit_count) == ("coded", True, blocks.PACK_SYMBOLS // 2)
    assert not encode_block(many[:-1]).packed


@pytest.mark.usefixtures("pack_early")
def test_one_symbol_above_15_leaves_all_unpacked():
    assert encode_block(nibbles).packed
    assert not encode_block(np.append(nibbles, np.uint8(16))).packed


@pytest.mark.usefixtures("pack_early")
@pytest.mark.parametrize("count", [8, 9, 1000, 1001])
def test_one_byte_repeated_is_not_packed_in_a_stream(count):
    symbols = np.resize(np.array([3, 5], np.uint8), count)
    block = assert_packed_blocks_decode(symbols, table_log=5)
    assert block.mode == "raw" or not block.packed or count % 2


@given(hnp.arrays(np.uint8, st.integers(1, 60), elements=st.integers(0, 15)))
def test_raw_nibbles_take_half_a_byte(symbols):
    block = encode_block(symbols)
    if block.mode == "raw":
        assert block.packed
        assert block.raw.tolist() == oracle.pack(symbols.tolist())
        assert block.stored_bits == 8 * -(-len(symbols) // 2)
    assert np.array_equal(decode_block(block), symbols)


@settings(max_examples=30)
@given(coded_streams(), st.integers(0, 1), chunkings, st.booleans())
def test_blocks_of_any_stream_decode(coded_stream, odd, chunks, packed):
    # streams of random models; a whole number of blocks of chunks, and what is left
    stream, symbols = coded_stream
    per_block = chunks.symbols * chunks.coded
    whole = len(symbols) // per_block
    if packed and only_symbol(stream.counts, class_table(stream.classes)) is not None:
        return
    raw = rng(len(symbols)).integers(0, 256, whole * chunks.symbols * (chunks.per_block - chunks.coded), np.uint8)
    for mode, kept, units in [
        ("coded", raw[:0], symbols),
        ("partial", raw, merge_chunks(raw, symbols, chunks) if chunks_fit(chunks, len(raw), len(symbols)) else None),
    ]:
        if units is not None:
            count = 2 * len(units) - odd if packed else len(units)
            block = Block(mode, count, kept, stream, chunks if mode == "partial" else None, packed)
            expected = oracle.unpack(units.tolist())[:count] if packed else units.tolist()
            assert decode_block(block).tolist() == expected


def chunks_fit(chunks, raw_count, coded_count):
    total = raw_count + coded_count
    return chunks.fits(total) and chunks.raw_count(total) == raw_count


def test_noise_is_stored_raw():
    noise = rng(4).integers(0, 256, 5000, np.uint8)
    block = encode_block(noise)
    assert (block.mode, block.stored_bits, block.side_bits) == ("raw", 40_000, 0)


@given(st.integers(0, 255), st.integers(1, 10_000))
def test_one_symbol_is_stored_once(symbol, count):
    block = encode_block(np.full(count, symbol, np.uint8))
    assert (block.mode, block.raw.tolist(), block.stored_bits) == ("constant", [symbol], 8)
    assert decode_block(block).tolist() == [symbol] * count


def test_nothing_is_stored_raw():
    block = encode_block(EMPTY)
    assert (block.mode, block.symbol_count, block.stored_bits) == ("raw", 0, 0)
    assert decode_block(block).shape == (0,)


def test_few_symbols_are_cheaper_raw():
    assert encode_block(np.array([1, 2], np.uint8)).mode == "raw"


def test_shapes_are_flattened():
    assert np.array_equal(
        decode_block(encode_block(skewed.reshape(50, 80)[:, ::2])), skewed.reshape(50, 80)[:, ::2].ravel()
    )


def test_bits_are_accounted_for():
    block = encode_block(skewed, fraction=0.5)
    stream = block.stream
    assert block.mode == "partial"
    assert block.side_bits == stream.side_bits + 8 * (stored_counts(stream.counts).nbytes + len(stream.classes))
    assert block.payload_bits == 8 * len(block.raw) + 32 * len(stream.words) - stream.side_bits
    assert block.stored_bits == block.payload_bits + block.side_bits


def test_less_coding_takes_more_room():
    sizes = [encode_block(skewed, fraction=f).stored_bits for f in (1.0, 0.75, 0.5, 0.25)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


@given(st.floats(0, 1, exclude_min=True), st.integers(0, 10**7))
def test_chunks_realize_the_fraction_or_the_whole_is_coded(fraction, count):
    chunks = choose_chunks(fraction, count)
    if chunks is None:
        assert fraction > 0.95 or count < 64 * 16
        return
    assert 1 <= chunks.coded < chunks.per_block <= 16
    assert 64 <= chunks.symbols <= 4096
    assert chunks.blocks(count) >= 1
    assert chunks.blocks(count) >= 8 or chunks.symbols == 64
    assert abs(Fraction(chunks.coded, chunks.per_block) - Fraction(fraction)) <= Fraction(1, 16)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.0001, np.nan, np.inf])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(InvalidArgument, match="fraction"):
        encode_block(skewed, fraction=fraction)


@given(symbol_arrays(max_size=1000), chunkings)
def test_split_symbols_merge_again(symbols, chunks):
    raw, coded = split_chunks(symbols, chunks)
    assert len(raw) == chunks.raw_count(len(symbols))
    assert np.array_equal(merge_chunks(raw, coded, chunks), symbols)


@given(st.integers(0, 600), chunkings)
def test_the_last_chunks_of_each_block_and_the_rest_are_coded(count, chunks):
    raw, coded = split_chunks(np.arange(count), chunks)
    whole = count // (chunks.symbols * chunks.per_block) * chunks.symbols * chunks.per_block
    is_raw = [
        i < whole and i // chunks.symbols % chunks.per_block < chunks.per_block - chunks.coded for i in range(count)
    ]
    assert raw.tolist() == [i for i in range(count) if is_raw[i]]
    assert coded.tolist() == [i for i in range(count) if not is_raw[i]]


@given(symbol_arrays(min_size=1, max_size=600), chunkings)
def test_partial_blocks_of_any_chunks_decode(symbols, chunks):
    raw, coded = split_chunks(symbols, chunks)
    if chunks.blocks(len(symbols)):
        block = Block("partial", len(symbols), raw, encode_stream(coded), chunks)
        assert np.array_equal(decode_block(block), symbols)


@pytest.mark.parametrize(("counts", "dtype"), [([255, 1], np.uint8), ([256, 0], np.uint16), ([4095, 1], np.uint16)])
def test_counts_are_stored_as_narrow_as_they_fit(counts, dtype):
    stored = stored_counts(np.array(counts))
    assert stored.dtype == dtype
    assert stored.tolist() == counts


partial = encode_block(skewed, fraction=0.5)
coded = encode_block(skewed)
one = Block("coded", 9, EMPTY, encode_stream(np.full(9, 2, np.uint8)))


@pytest.mark.parametrize(
    "block",
    [
        Block("zip", 1, EMPTY),
        Block("raw", 1, EMPTY),
        Block("raw", 0, np.zeros(1, np.uint8)),
        Block("constant", 5, EMPTY),
        Block("constant", 5, np.zeros(2, np.uint8)),
        Block("constant", -1, np.zeros(1, np.uint8)),
        Block("coded", 5, EMPTY),
        dataclasses.replace(coded, symbol_count=coded.symbol_count + 1),
        dataclasses.replace(coded, raw=np.zeros(1, np.uint8)),
        dataclasses.replace(coded, mode="partial"),
        dataclasses.replace(partial, mode="coded"),
        dataclasses.replace(partial, chunks=None),
        dataclasses.replace(partial, stream=None),
        dataclasses.replace(partial, raw=partial.raw[:-1]),
        dataclasses.replace(partial, symbol_count=partial.symbol_count + 1),
        dataclasses.replace(partial, symbol_count=-5),
        dataclasses.replace(partial, chunks=Chunks(0, 2, 1)),
        dataclasses.replace(partial, chunks=Chunks(64, 0, 0)),
        dataclasses.replace(partial, chunks=Chunks(64, 2, 0)),
        dataclasses.replace(partial, chunks=Chunks(64, 2, 3)),
        dataclasses.replace(partial, chunks=Chunks(-64, 2, 1)),
        dataclasses.replace(coded, mode="partial", chunks=Chunks(10**6, 2, 1)),  # not one whole block
        Block("constant", 5, np.zeros(1, np.uint8), packed=True),
        Block("raw", 2, np.zeros(2, np.uint8), packed=True),
        Block("raw", 3, np.zeros(1, np.uint8), packed=True),
        Block("raw", -1, np.zeros(1, np.uint8), packed=True),
        dataclasses.replace(coded, packed=True),
        dataclasses.replace(partial, packed=True),
        dataclasses.replace(one, packed=True, symbol_count=18),
    ],
)
def test_blocks_that_contradict_themselves_are_corrupt(block):
    with pytest.raises(Corrupt):
        decode_block(block)


def test_a_constant_may_be_claimed_without_memory_up_to_what_an_array_holds():
    one = np.array([7], np.uint8)
    assert decode_block(Block("constant", 2**62, one))[2**61] == 7
    with pytest.raises(LimitExceeded):
        decode_block(Block("constant", 2**64, one))


@given(st.sampled_from(["raw", "constant", "coded", "partial"]), st.integers(-2, 5000), st.integers(0, 3),
       st.booleans(), st.none() | st.builds(Chunks, *[st.integers(-2, 70)] * 3), st.booleans())  # fmt: skip
def test_any_block_decodes_to_its_count_or_is_refused(mode, count, raw, has_stream, chunks, packed):
    block = Block(mode, count, np.zeros(raw, np.uint8), coded.stream if has_stream else None, chunks, packed)
    with contextlib.suppress(StreamError):
        assert len(decode_block(block)) == count
