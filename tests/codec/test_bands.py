"""Tensors in bands: what is split is joined, in memory and in a container, and damage is noticed."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_tensors import banded_tensors

from codec.container import read_container, read_header, stored_bytes, write_container
from codec.frame import Frame, write_frame
from codec.tensor import (
    BandedTensor,
    StoredTensor,
    join_bands,
    load,
    make_banded,
    split_bands,
    store_integers,
    store_weight,
)
from refimpl.errors import Corrupt, InvalidArgument, StreamError, Truncated
from refimpl.tans.blocks import Block
from refimpl.tans.stream import Stream

BANDS = np.array([0, 2, 1, 0, 0, 1, 2, 0, 1], np.uint8)
symbols = np.random.default_rng(0).binomial(12, 0.5, (30, 9)).astype(np.uint8)
PARTS = [
    store_weight(part, np.array(6, np.uint8), np.array(2.0**-g, np.float32), "float16")
    for g, part in enumerate(split_bands(symbols, 1, BANDS))
]
BANDED = make_banded(1, BANDS, PARTS)
FILE = write_container({"w": BANDED, "bias": np.ones(3, np.float32)}, {})


def rebuild(data, header):
    """The file with another header."""
    _, begin = read_header(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[begin:]


@given(banded_tensors(("float32", "float16", "bfloat16", "int8", "uint8")))
def test_bands_hold_the_values_of_the_whole(drawn):
    banded, values = drawn
    assert (banded.shape, banded.dtype) == (values.shape, values.dtype.name)
    assert load(banded).tobytes() == values.tobytes()
    tensors, _ = read_container(write_container({"w": banded}, {}))
    (back,) = tensors.values()
    assert isinstance(back, BandedTensor)
    assert (back.axis, back.shape, back.bands.tolist()) == (banded.axis, banded.shape, banded.bands.tolist())
    assert load(back).tobytes() == values.tobytes()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 2))
def test_what_is_split_is_joined(bands, axis):
    bands = np.array(bands, np.uint8)
    array = np.arange(6 * len(bands)).reshape(2, 3, len(bands))
    array = np.moveaxis(array, -1, axis)
    parts = split_bands(array, axis, bands)
    assert [part.shape[axis] for part in parts] == np.bincount(bands).tolist()
    assert np.array_equal(join_bands(parts, axis, bands), array)


def test_what_does_not_vary_is_the_same_for_all():
    assert [p.tolist() for p in split_bands(np.array([[7]]), 1, BANDS)] == [[[7]]] * 3
    assert [p.tolist() for p in split_bands(np.array(7), 0, BANDS)] == [7] * 3


def test_stored_bytes_are_those_of_parts_and_bands():
    assert BANDED.stored_bytes == sum(part.stored_bytes for part in PARTS) + 5
    assert BANDED.payload_bytes == sum(part.payload_bytes for part in PARTS)
    assert stored_bytes(BANDED) == sum(stored_bytes(part) for part in PARTS) + 29
    assert PARTS[0].parts == (PARTS[0],)


OTHER = StoredTensor((30, 2), "float32", PARTS[2].frame, PARTS[2].zero_point, PARTS[2].scale)


@pytest.mark.parametrize(
    ("axis", "bands", "parts"),
    [
        (1, BANDS.clip(0, 1), PARTS), (1, BANDS + 1, PARTS), (1, BANDS * 100, PARTS), (1, BANDS[:8], PARTS),
        (1, np.append(BANDS, BANDS[:1]), PARTS), (1, BANDS[:0], PARTS), (1, BANDS, PARTS[:2]), (1, BANDS, []),
        (1, BANDS, PARTS[:1] * 17), (1, np.zeros(4, np.uint8), PARTS[:1]),
        (1, BANDS, [PARTS[2], PARTS[1], PARTS[0]]), (1, BANDS, [*PARTS[:2], OTHER]),
        (0, BANDS, PARTS), (2, BANDS, PARTS), (-1, BANDS, PARTS),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(axis, bands, parts):
    with pytest.raises(Corrupt):
        make_banded(axis, bands, parts)


def test_a_damaged_part_is_noticed():
    short = StoredTensor((30, 5), "float16", PARTS[0].frame, PARTS[0].zero_point, PARTS[0].scale)
    wrong = make_banded(1, np.append(BANDS, np.uint8(0)), [short, *PARTS[1:]])
    with pytest.raises(Corrupt, match="do not fill"):
        load(wrong)


# In a container


def test_the_names_and_the_index():
    header, _ = read_header(FILE)
    assert (header["w"]["dtype"], header["w"]["shape"]) == ("U8", [29])
    assert {f"w.{g}{part}" for g in range(3) for part in ("", ".scale", ".zero_point")} < header.keys()
    assert json.loads(header["__metadata__"]["tansor"]) == {
        "tensors": {"w": {"axis": 1, "bands": 3, "dtype": "float16", "shape": [30, 9]}}, "version": 1
    }  # fmt: skip
    assert write_container({"bias": np.ones(3, np.float32), "w": BANDED}, {}) == FILE


@pytest.mark.parametrize("name", ["w.0", "w.2", "w.1.scale", "w.0.zero_point"])
def test_a_name_that_a_part_needs_is_refused(name):
    with pytest.raises(InvalidArgument, match="is needed for a part"):
        write_container({"w": BANDED, name: np.ones(2, np.uint8)}, {})


def test_an_integer_band_leaves_no_scale_to_another():
    values = np.arange(20, dtype=np.int8).reshape(2, 10)
    bands = np.arange(10, dtype=np.uint8) % 2
    parts = [store_integers(part) for part in split_bands(values, 1, bands)]
    with pytest.raises(InvalidArgument, match=r"w\.1\.scale"):
        write_container({"w": make_banded(1, bands, parts), "w.1.scale": np.ones(1, np.float32)}, {})


def with_entry(**changes):
    header, _ = read_header(FILE)
    index = json.loads(header["__metadata__"]["tansor"])
    index["tensors"]["w"].update(changes)
    header["__metadata__"]["tansor"] = json.dumps({**index, "tensors": {"w": {
        key: value for key, value in index["tensors"]["w"].items() if value is not None}}})  # fmt: skip
    return rebuild(FILE, header)


@pytest.mark.parametrize(
    "changes",
    [
        {"axis": 0}, {"axis": 2}, {"axis": -1}, {"axis": 1.0}, {"axis": None}, {"axis": True}, {"axis": "1"},
        {"bands": 2}, {"bands": 4}, {"bands": 0}, {"bands": 17}, {"bands": None}, {"bands": 10**30},
        {"shape": [30, 8]}, {"shape": [30, 10]}, {"shape": [30, 11]}, {"shape": [29, 9]}, {"shape": [30]},
        {"shape": [30, 2**62]}, {"axis": None, "bands": None},
        {"dtype": "int8"},
    ],
)  # fmt: skip
def test_a_damaged_index_is_noticed(changes):
    with pytest.raises(StreamError):
        load(read_container(with_entry(**changes))[0]["w"])


@pytest.mark.parametrize("at", range(29))
def test_every_damaged_byte_of_the_bands_is_noticed(at):
    header, begin = read_header(FILE)
    for value in range(1, 256, 7):
        damaged = bytearray(FILE)
        damaged[begin + header["w"]["data_offsets"][0] + at] ^= value
        with pytest.raises(StreamError):
            read_container(bytes(damaged))


ONLY = Stream(2**40, 1, 0, 0, np.array([32]), np.empty(0, np.uint8), np.zeros(1, np.uint32))  # one symbol, no bits


@pytest.mark.parametrize(
    "block",
    [Block("constant", 2**40, np.zeros(1, np.uint8)), Block("coded", 2**40, np.empty(0, np.uint8), ONLY)],
    ids=lambda block: block.mode,
)
def test_a_repeated_symbol_as_bands_allocates_nothing(block):
    huge = np.frombuffer(write_frame(Frame(block, 0)), np.uint8)
    header, begin = read_header(FILE)
    first, last = header["w"]["data_offsets"]
    body = FILE[begin:]
    grown = len(huge) - (last - first)
    for entry in (e for n, e in header.items() if n != "__metadata__"):
        entry["data_offsets"] = [at + grown if at > first else at for at in entry["data_offsets"]]
    header["w"]["shape"] = [len(huge)]
    index = json.loads(header["__metadata__"]["tansor"])
    index["tensors"]["w"]["shape"] = [30, 2**40]
    header["__metadata__"]["tansor"] = json.dumps(index)
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + body[:first] + huge.tobytes() + body[last:]
    with pytest.raises(Corrupt, match="constant"):
        read_container(data)


@pytest.mark.parametrize("name", ["w", "w.0", "w.1.zero_point", "w.2.scale"])
def test_a_missing_part_is_noticed(name):
    header, _ = read_header(FILE)
    header[f"other.{name}"] = header.pop(name)
    with pytest.raises(Corrupt):
        read_container(rebuild(FILE, header))


def test_every_truncation_is_noticed():
    for size in range(0, len(FILE), 7):
        with pytest.raises((Truncated, Corrupt)):
            read_container(FILE[:size])
