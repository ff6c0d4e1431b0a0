"""Damage ends in the right kind of error, or in symbols; with NumPy as with Numba, in memory that the input earned."""

import tracemalloc
from functools import partial
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given

from codec import decode, encode
from codec.container import read_container, write_container
from codec.frame import read_frame
from codec.tensor import store_integers
from conformance import mutate
from conformance.differ import disagreement, outcome
from conformance.frames import draw_frame
from conformance.strategies import frames, mutated
from refimpl.errors import Corrupt, StreamError
from refimpl.tans.spread import table_log_of
from refimpl.tans.stream import NUMPY

REFERENCE = partial(decode, kernels=NUMPY)
KINDS = {
    "raw": {"modes": ["raw"], "packed": False},
    "constant": {"modes": ["constant"]},
    "coded": {"modes": ["coded"], "packed": False, "with_classes": False},
    "classes": {"modes": ["coded"], "packed": False, "with_classes": True},
    "packed": {"modes": ["coded"], "packed": True},
    "partial": {"modes": ["partial"], "packed": True, "with_classes": True},
}


def small_frame(kind):
    drawn = (draw_frame(Random(f"{kind} {n}"), table_logs=(5, 6), max_units=30, **KINDS[kind]).data for n in range(50))
    return min((data for data in drawn if int.from_bytes(data[8:16], "little") > 9), key=len)


@pytest.fixture(scope="module", params=KINDS)
def frame(request):
    return small_frame(request.param)


def test_numpy_and_numba_agree_on_every_mutation(frame):
    for name, data in mutate.mutations(frame, small_frame("coded")):
        assert disagreement(data, numba=decode, numpy=REFERENCE) is None, (name, data.hex())


def test_mutations_end_in_the_right_error(frame):
    endings = {
        "truncated-": "Truncated",
        "magic-": "Corrupt",
        "version-": "UnsupportedVersion",
        "reserved-": "Corrupt",
        "stream_reserved-": "Corrupt",
        "chunks_reserved-": "Corrupt",
        "frame_crc-": "Corrupt",
        "lane_count-0-sealed": "Corrupt",
        "word_count-max": "Truncated",
        "alphabet-0": "Corrupt",
        "count_size-0": "Corrupt",
        "length_width-max-sealed": "Corrupt",
        "chunk-0": "Corrupt",
        "twice": "Corrupt",
    }
    seen = set()
    for name, data in mutate.mutations(frame):
        for start in endings:
            if name.startswith(start):
                assert outcome(decode, data) == endings[start], (name, data.hex())
                seen.add(start)
    assert {"truncated-", "magic-", "version-", "reserved-", "frame_crc-", "twice"} <= seen


def test_bytes_of_another_checksum_are_refused(frame):
    for name, data in mutate.mutations(frame):
        if mutate.seal(data) != data:
            assert isinstance(outcome(decode, data), str), name


def test_mutations_are_named_distinct_and_the_same_each_time(frame):
    first, second = list(mutate.mutations(frame)), list(mutate.mutations(frame))
    assert first == second
    assert len({name for name, _ in first}) == len(first) > 500
    assert frame not in [data for _, data in first]


def test_sealed_mutations_get_further(frame):
    def refused_by_the_checksum(data):
        with pytest.raises(StreamError) as error:
            decode(data)
        return "checksum of the stored bytes" in str(error.value)

    symbols_crc = dict(mutate.mutations(frame))["symbols_crc-plus-1"]
    assert refused_by_the_checksum(symbols_crc)
    read_frame(mutate.seal(symbols_crc))


def earned(data):
    """Bytes that decoding may take: tables, some for each stored byte, and the symbols that so many bits can hold."""
    try:
        block = read_frame(data).block
    except StreamError:
        return (1 << 18) + 8 * len(data)
    stream, limit = block.stream, len(block.raw)
    if stream is not None and np.count_nonzero(stream.counts):
        limit += min(stream.symbol_count, (32 * len(stream.words) + stream.lane_count) << table_log_of(stream.counts))
    return (1 << 20) + 400 * len(data) + 8 * limit


@pytest.mark.parametrize("decoder", [decode, REFERENCE], ids=["numba", "numpy"])
@pytest.mark.parametrize("kind", ["constant", "coded", "partial"])
def test_no_mutation_takes_memory_that_it_has_not_earned(decoder, kind):
    data = small_frame(kind)
    outcome(decoder, data)  # compiled
    random = Random(5)
    edits = [*mutate.field_edits(data), *(("random", mutate.mutate(data, random)) for _ in range(300))]
    tracemalloc.start()
    try:
        for name, damaged in ((name, mutate.seal(damaged)) for name, damaged in edits):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            outcome(decoder, damaged)
            assert tracemalloc.get_traced_memory()[1] - before <= earned(damaged), (name, damaged.hex())
    finally:
        tracemalloc.stop()


@given(mutated(frames(max_units=60, table_logs=(5, 8))))
def test_drawn_damage_is_refused_or_decoded_alike(data):
    assert disagreement(data, numba=decode, numpy=REFERENCE) is None


@pytest.mark.parametrize("data", [b"", b"t", bytes(7), bytes(30), b"tANS\1\2", b"tANS" + bytes(90)])
def test_anything_can_be_mutated(data):
    random = Random(3)
    for _ in range(200):
        assert isinstance(mutate.mutate(data, random, other=b"tANS"), bytes)
    assert dict(mutate.mutations(data)).keys()
    assert mutate.seal_container(data) == data


def test_fields_cover_the_headers():
    for names, size in ((mutate.HEADER, 24), (mutate.STREAM, 20), (mutate.CHUNKS, 8)):
        spans = sorted(names.values())
        assert sum(width for _, width in spans) == size
        assert all(at + width == after for (at, width), (after, _) in pairwise(spans))


def test_parts_lie_behind_one_another(frame):
    at = None
    for begin, size in mutate.parts_of(frame).values():
        assert at in (None, begin)
        at = begin + size
    assert at == len(frame)


def test_containers_are_sealed():
    data = write_container({"a": store_integers(np.array([1, 2, 3], np.int8))}, {"k": "v"})
    assert mutate.seal_container(data) == data
    at = data.index(b"tANS") + mutate.HEADER["symbols_crc"][0]
    damaged = data[:at] + bytes(4) + data[at + 4 :]
    with pytest.raises(Corrupt, match="stored bytes"):
        read_container(damaged)
    read_container(mutate.seal_container(damaged))


def test_differences_are_told():
    data = encode(np.array([1, 2, 3], np.uint8))
    assert disagreement(data, ours=decode, mine=REFERENCE) is None
    assert disagreement(data, ours=decode, mine=lambda _: np.zeros(2, np.uint8)) == "ours: 3 symbols; mine: 2 symbols"
