import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load as library_load
from strategies import rng

from codec.container import read_container, read_header, read_safetensors, write_container
from codec.tensor import StoredTensor, load, store_integers, store_weight
from refimpl.errors import Corrupt, InvalidArgument, StreamError, Truncated, UnsupportedVersion

DTYPES = (
    np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8,
    np.uint64, np.uint32, np.uint16, np.uint8, np.bool_, ml_dtypes.bfloat16,
)  # fmt: skip
skewed = np.minimum(rng(5).geometric(0.6, (20, 30)) - 1, 7).astype(np.uint8)
TENSORS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "weight": store_weight(skewed, np.full((), 2, np.uint8), np.full((20, 1), 0.5, np.float32), "float16"),
    "codes": store_integers((skewed - 3).view(np.int8)),
}
FILE = write_container(TENSORS, {"format": "pt"})
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def rebuild(data, header):
    """The file with another header."""
    _, begin = read_header(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[begin:]


def load_all(data):
    tensors, _ = read_container(data)
    return {name: load(t) if isinstance(t, StoredTensor) else t for name, t in tensors.items()}


def test_what_is_written_is_read():
    tensors, metadata = read_container(FILE)
    assert metadata == {"format": "pt"}
    assert tensors.keys() == TENSORS.keys()
    assert np.array_equal(tensors["plain"], TENSORS["plain"])
    for name in ("weight", "codes"):
        assert tensors[name].shape == (20, 30)
        assert tensors[name].dtype == TENSORS[name].dtype
        assert np.array_equal(load(tensors[name]), load(TENSORS[name]))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), shape=shapes)
def test_plain_tensors_of_every_type_pass_through(dtype, data, shape):
    values = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))).astype(dtype)
    for view in (values, values.T):
        tensors, metadata = read_container(write_container({"t": view}, {"a": "b"}))
        assert metadata == {"a": "b"}
        assert tensors["t"].dtype == values.dtype
        assert np.array_equal(tensors["t"], view)


def test_the_library_reads_the_parts():
    parts = library_load(FILE)
    assert set(parts) == {"plain", "weight", "weight.scale", "weight.zero_point", "codes", "codes.zero_point"}
    ours, _ = read_safetensors(FILE)
    assert all(np.array_equal(parts[name], ours[name]) for name in parts)


def test_files_of_others_are_read_as_they_are():
    from safetensors.numpy import save

    tensors, metadata = read_container(save({"x": np.ones(3, np.float32)}, {"by": "others"}))
    assert tensors["x"].tolist() == [1, 1, 1]
    assert metadata == {"by": "others"}


def test_names_that_clash_are_refused():
    with pytest.raises(InvalidArgument, match=r"codes\.zero_point"):
        write_container({"codes.zero_point": np.zeros(1), "codes": TENSORS["codes"]}, {})


def test_every_truncation_is_refused():
    for size in range(0, len(FILE), 3):
        with pytest.raises(StreamError):
            load_all(FILE[:size])


def test_every_changed_header_byte_is_refused_or_still_a_file():
    _, begin = read_header(FILE)
    for at in range(begin):
        for value in (FILE[at] ^ 1, FILE[at] ^ 0x10, FILE[at] ^ 0x80, 0, 0x2D):
            try:
                load_all(FILE[:at] + bytes([value]) + FILE[at + 1 :])
            except StreamError:
                continue


@settings(max_examples=200)
@given(st.data())
def test_headers_of_any_json_are_read_or_refused(data):
    header, _ = read_header(FILE)
    index = json.loads(header["__metadata__"]["tansor"])
    odd = st.sampled_from([None, True, 0, -1, 1.5, float("inf"), float("nan"), 2**40, 2**70, "", "F32", "int8", [], {}])
    odd = (
        odd
        | st.lists(st.sampled_from([0, 1, -1, 3, 2**31, 2**70, float("inf"), "7", None]), max_size=4)
        | st.just([1] * 70)
    )
    targets = [header, *header.values(), index, index["tensors"], *index["tensors"].values()]
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(targets))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(odd)
    if isinstance(header.get("__metadata__"), dict) and "tansor" in header["__metadata__"]:
        header["__metadata__"]["tansor"] = data.draw(st.sampled_from([json.dumps(index)] * 5 + ["", "[]", "1", "{"]))
    with contextlib.suppress(StreamError):
        load_all(rebuild(FILE, header))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([2**70, 0], 0),
        ([1] * 70, 4),
        ([-1, -1], 4),
        ([2**62, 4], 0),
        ([float("inf")], 4),
        ([float("nan")], 4),
        ([2**70], 2**72),
    ],
)
def test_impossible_shapes_are_refused(shape, size):
    header = {"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with pytest.raises(StreamError):
        read_safetensors(struct.pack("<Q", len(text)) + text + bytes(16))


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8), b"\2" + bytes(7) + b"[]", b"\2" + bytes(7) + b"{]"])
def test_what_is_no_safetensors_file_is_refused(data):
    with pytest.raises(StreamError):
        read_container(data)


@pytest.mark.parametrize("old", ['"plain":', '"__metadata__":', '"dtype":"F32"', '"shape":[2,3]', '"format":"pt"'])
def test_a_key_that_occurs_twice_is_refused(old):
    header, begin = read_header(FILE)
    text = json.dumps(header, separators=(",", ":"))
    assert text.count(old) >= 1
    key = old[: old.index(":") + 1]
    repeated = text.replace(old, f"{key}{{}},{old}" if old == key else f"{old},{old}", 1).encode()
    with pytest.raises(Corrupt, match="twice"):
        read_container(struct.pack("<Q", len(repeated)) + repeated + FILE[begin:])


@pytest.mark.parametrize("old", ['"version":1', '"shape":[20,30]', '"codes":'])
def test_a_key_that_occurs_twice_in_the_index_is_refused(old):
    header, _ = read_header(FILE)
    key = old[: old.index(":") + 1]
    repeated = f"{key}{{}},{old}" if old == key else f"{old},{old}"
    index = header["__metadata__"]["tansor"]
    assert old in index
    header["__metadata__"]["tansor"] = index.replace(old, repeated, 1)
    with pytest.raises(Corrupt, match="twice"):
        read_container(rebuild(FILE, header))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_that_json_has_not_are_refused(word):
    text = f'{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":{word}}}}}'.encode()
    with pytest.raises(Corrupt, match=f"{word} is not JSON"):
        read_container(struct.pack("<Q", len(text)) + text + b"1")
    header, _ = read_header(FILE)
    header["__metadata__"]["tansor"] = header["__metadata__"]["tansor"].replace("{", f'{{"more":{word},', 1)
    with pytest.raises(Corrupt, match=f"{word} is not JSON"):
        read_container(rebuild(FILE, header))


@pytest.mark.parametrize("key", ["format", "tansor"])
@pytest.mark.parametrize("value", [1, None, True, [], {"version": 1, "tensors": {}}])
def test_metadata_are_strings(key, value):
    header, _ = read_header(FILE)
    header["__metadata__"][key] = value
    with pytest.raises(Corrupt, match="strings"):
        read_container(rebuild(FILE, header))


def test_a_header_is_utf_8():
    text = "{} ".encode("utf-16-le")
    with pytest.raises(Corrupt):
        read_container(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize("change", [{"shape": {}}, {"shape": ""}, {"shape": None}])
def test_an_index_of_another_form_is_refused(change):
    one = store_weight(np.array(3, np.uint8), np.array(1, np.uint8), np.array(1, np.float32), "float32")
    file = write_container({"w": one}, {})
    for entries in ({"w": {"dtype": "float32", "shape": [], **change}}, [["w", {"dtype": "float32", "shape": []}]]):
        header, _ = read_header(file)
        header["__metadata__"]["tansor"] = json.dumps({"tensors": entries, "version": 1})
        with pytest.raises(Corrupt, match="metadata cannot be read"):
            read_container(rebuild(file, header))


def test_a_deeply_nested_header_is_refused():
    text = b'{"a":' + b"[" * 200_000
    with pytest.raises(Corrupt):
        read_container(struct.pack("<Q", len(text)) + text)


def test_a_huge_header_is_refused_unread():
    with pytest.raises(Corrupt):
        read_container(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(Truncated):
        read_container(struct.pack("<Q", 99) + b"{}")


def test_other_versions_are_refused():
    header, _ = read_header(FILE)
    header["__metadata__"]["tansor"] = header["__metadata__"]["tansor"].replace('"version":1', '"version":2')
    with pytest.raises(UnsupportedVersion, match="2"):
        read_container(rebuild(FILE, header))


@pytest.mark.parametrize("part", ["weight", "weight.scale", "weight.zero_point", "codes", "codes.zero_point"])
def test_missing_parts_are_corrupt(part):
    header, _ = read_header(FILE)
    header["elsewhere"] = header.pop(part)
    with pytest.raises(Corrupt, match=part.split(".")[0]):
        read_container(rebuild(FILE, header))


def test_equal_tensors_give_equal_bytes_in_any_order():
    metadata = {name: name for name in "zyxwvutsrq"}
    backwards = dict(reversed(metadata.items()))
    assert write_container(TENSORS, metadata) == write_container(dict(reversed(TENSORS.items())), backwards)
    header, begin = read_header(FILE)
    assert list(header) == sorted(header)
    assert begin % 8 == 0


@pytest.mark.parametrize(
    "spans", [[(0, 4), (0, 4)], [(0, 4), (8, 12)], [(4, 8)], [(0, 4)], [(0, 8), (4, 12)], [(0, 4), (4, 8)]]
)
def test_tensors_that_overlap_or_leave_bytes_to_nobody_are_refused(spans):
    header = {
        str(i): {"dtype": "U8", "shape": [last - first], "data_offsets": [first, last]}
        for i, (first, last) in enumerate(spans)
    }
    text = json.dumps(header).encode()
    with pytest.raises(Corrupt):
        read_safetensors(struct.pack("<Q", len(text)) + text + bytes(12))


def test_a_frame_that_is_not_made_of_bytes_is_refused():
    header, _ = read_header(FILE)
    header["weight"]["dtype"] = "I8"
    with pytest.raises(Corrupt, match="dtype"):
        read_container(rebuild(FILE, header))
