import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import integers, normal
from safetensors.numpy import save
from strategies import rng

from codec.container import read_container, read_header
from codec.tensor import StoredTensor, load
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.inspect import inspect
from onnx_export.verify import verify
from refimpl.errors import CalibrationError, InvalidArgument, StreamError, TansorError

# name -> (tensor, whether the double recipe compresses it)
ZOO = {
    "float32": (normal(64, 48), True),
    "float16": (normal(64, 48, dtype=np.float16), True),
    "bfloat16": (normal(64, 48, dtype=ml_dtypes.bfloat16), True),
    "kernel": (normal(32, 16, 3, 3), True),
    "embed_tokens.weight": (normal(64, 48, seed=4), True),
    "int8": (integers(64, 48, width=3.0), True),
    "uint8": (integers(64, 48, low=0, high=255, width=3.0), True),
    "noise": (rng(0).integers(-128, 128, (64, 64)).astype(np.int8), False),
    "float64": (normal(64, 48, dtype=np.float64), False),
    "int64": (np.arange(3072).reshape(64, 48), False),
    "int32": (np.arange(3072, dtype=np.int32), False),
    "bool": (np.eye(64, dtype=np.bool_), False),
    "long vector": (normal(3000), False),
    "bias": (normal(48), False),
    "scalar": (np.float32(0.25).reshape(()), False),
    "int8 scalar": (np.array(3, np.int8), False),
    "empty": (np.empty((0, 48), np.float32), False),
    "empty int8": (np.empty(0, np.int8), False),
    "fortran": (np.asfortranarray(normal(64, 48, seed=5)), True),
}
COMPRESSED = {name for name, (_, compressed) in ZOO.items() if compressed}
METADATA = {"format": "pt", "note": "kept, ünïcode and all"}


def write(path, tensors=None, metadata=METADATA):
    tensors = {name: array for name, (array, _) in ZOO.items()} if tensors is None else tensors
    path.write_bytes(save({n: np.ascontiguousarray(a).reshape(a.shape) for n, a in tensors.items()}, metadata))
    return path


def read(path):
    return read_container(path.read_bytes())


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("profile", ["gpu", "archive"])
def test_every_tensor_comes_back_with_its_type_and_shape(tmp_path, fraction, profile):
    source, output, back = write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", tmp_path / "b.safetensors"
    report = compress(source, output, fraction=fraction, profile=profile)
    assert {t["name"] for t in report["tensors"]} == COMPRESSED
    assert {s["name"] for s in report["skipped"]} == ZOO.keys() - COMPRESSED
    decompress(output, back)
    plain, metadata = read(back)
    assert metadata == METADATA
    assert plain.keys() == ZOO.keys()
    for name, (array, _) in ZOO.items():
        assert plain[name].dtype == array.dtype
        assert plain[name].shape == array.shape
        if name in COMPRESSED and array.dtype.kind in "fV":
            error = np.square(plain[name].astype(np.float64) - array.astype(np.float64)).sum()
            assert 0 < error < 0.02 * np.square(array.astype(np.float64)).sum()
        else:
            assert plain[name].tobytes() == array.tobytes()


def test_the_report_counts_every_byte(tmp_path):
    source, output = write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors"
    report = compress(source, output)
    assert report["input_bytes"] == source.stat().st_size
    assert report["output_bytes"] == output.stat().st_size
    header, begin = read_header(output.read_bytes())
    header.pop("__metadata__")
    sizes = {name: last - first for name, (first, last) in ((n, e["data_offsets"]) for n, e in header.items())}
    assert sum(sizes.values()) == output.stat().st_size - begin
    for t in report["tensors"]:
        parts = (t["name"], f"{t['name']}.scale", f"{t['name']}.zero_point")
        assert t["stored_bytes"] == sum(sizes.pop(part, 0) for part in parts)
        assert t["original_bytes"] == ZOO[t["name"]][0].nbytes
    assert {s["name"]: s["stored_bytes"] for s in report["skipped"]} == sizes
    json.dumps(report, allow_nan=False)


def test_the_lossless_recipe_is_exact(tmp_path):
    source, output, back = write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", tmp_path / "b.safetensors"
    report = compress(source, output, recipe="lossless")
    assert {t["name"] for t in report["tensors"]} == {"int8", "uint8"}
    assert output.stat().st_size < source.stat().st_size
    decompress(output, back)
    assert all(same(read(back)[0][name], array) for name, (array, _) in ZOO.items())
    result = verify(output, source)
    assert all(t["identical"] and t["sqnr_db"] is None and t["max_error"] == 0 for t in result["tensors"])


def test_what_is_decompressed_is_what_verify_saw(tmp_path):
    source, output, back = write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", tmp_path / "b.safetensors"
    compress(source, output)
    decompress(output, back)
    stored = {n: load(t) for n, t in read(output)[0].items() if isinstance(t, StoredTensor)}
    assert stored.keys() == COMPRESSED
    assert all(same(read(back)[0][name], array) for name, array in stored.items())
    for t in verify(output, source)["tensors"]:
        original = ZOO[t["name"]][0].astype(np.float64)
        difference = np.abs(original - stored[t["name"]].astype(np.float64)).max()
        assert t["max_error"] == difference
        assert t["identical"] == (difference == 0)


def test_inspect_lists_the_compressed_tensors(tmp_path):
    output = tmp_path / "o.safetensors"
    report = compress(write(tmp_path / "m.safetensors"), output)
    result = inspect(output)
    assert result["compressed"]
    assert result["bytes"] == output.stat().st_size
    listed = {t["name"]: (t["shape"], t["stored_bytes"], t["side_bytes"], t["mode"]) for t in result["tensors"]}
    assert listed == {t["name"]: (t["shape"], t["stored_bytes"], t["side_bytes"], t["mode"]) for t in report["tensors"]}
    assert {t["name"]: t["dtype"] for t in result["tensors"]}.items() >= {
        "bfloat16": "bfloat16",
        "int8": "int8",
    }.items()
    assert not inspect(tmp_path / "m.safetensors")["compressed"]


def test_results_do_not_depend_on_threads_or_the_day(tmp_path):
    source = write(tmp_path / "m.safetensors")
    for i, jobs in enumerate((1, 2, 7)):
        compress(source, tmp_path / f"{i}.safetensors", jobs=jobs)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(3)}) == 1


def test_excluded_tensors_are_copied(tmp_path):
    report = compress(write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", exclude=["*float*", "kernel"])
    assert {t["name"] for t in report["tensors"]} == {"int8", "uint8", "embed_tokens.weight", "fortran"}


def test_files_without_tensors_or_metadata_pass_through(tmp_path):
    source = write(tmp_path / "m.safetensors", {}, None)
    assert compress(source, tmp_path / "o.safetensors")["weights"]["count"] == 0
    decompress(tmp_path / "o.safetensors", tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors") == ({}, {})


def test_names_of_parts_that_are_taken_are_an_error_that_tells_which(tmp_path):
    source = write(tmp_path / "m.safetensors", {"w": normal(64, 48), "w.scale": normal(48)})
    with contextlib.suppress(InvalidArgument):
        compress(source, tmp_path / "o.safetensors")
        decompress(tmp_path / "o.safetensors", tmp_path / "b.safetensors")
        assert same(read(tmp_path / "b.safetensors")[0]["w.scale"], normal(48))
    compress(source, tmp_path / "p.safetensors", exclude=["w"])


def test_calibration_wants_a_graph(tmp_path):
    with pytest.raises((InvalidArgument, CalibrationError), match="graph"):
        compress(write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", calibration=np.zeros((1, 1)))


def test_integer_activations_need_a_graph(tmp_path):
    with pytest.raises(InvalidArgument, match="int8 needs a graph to run"):
        compress(write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", activations="int8")
    assert not (tmp_path / "o.safetensors").exists()


def test_what_is_compressed_already_is_refused(tmp_path):
    compress(write(tmp_path / "m.safetensors"), tmp_path / "o.safetensors")
    with pytest.raises(InvalidArgument, match="compressed already"):
        compress(tmp_path / "o.safetensors", tmp_path / "p.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    weight = normal(64, 48)
    weight[1, 1] = value
    with pytest.raises(InvalidArgument, match=r"\blayer\.w: "):
        compress(write(tmp_path / "m.safetensors", {"layer.w": weight}), tmp_path / "o.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    small = {n: ZOO[n][0] for n in ("float16", "kernel", "int8", "int64", "bias")}
    compress(write(folder / "m.safetensors", small), folder / "o.safetensors")
    return (folder / "o.safetensors").read_bytes()


def verbs(path):
    verify(path)
    inspect(path)
    decompress(path, path.with_name("back.safetensors"), force=True)


def test_truncated_files_are_refused_by_name(tmp_path, compressed):
    path = tmp_path / "t.safetensors"
    for size in np.linspace(0, len(compressed) - 1, 60).astype(int):
        path.write_bytes(compressed[:size])
        for verb in (verify, inspect, lambda p: decompress(p, tmp_path / "b.safetensors"), compress_again):
            with pytest.raises(StreamError, match=r"t\.safetensors"):
                verb(path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def compress_again(path):
    compress(path, path.with_name("again.safetensors"))


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_are_refused_or_harmless(tmp_path_factory, compressed, data):
    _, begin = read_header(compressed)
    at = data.draw(st.integers(0, begin) | st.integers(0, len(compressed) - 1))
    changed = bytearray(compressed)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(changed)
    with contextlib.suppress(TansorError):
        verbs(path)


def test_damaged_bytes_of_a_frame_are_noticed_by_tensor(tmp_path, compressed):
    # Scales and zero points have no checksum in this container: docs/spec/container.md.
    header, begin = read_header(compressed)
    path = tmp_path / "d.safetensors"
    for name in ("float16", "kernel", "int8"):
        first, last = header[name]["data_offsets"]
        for at in np.unique(np.linspace(begin + first, begin + last - 1, 40).astype(int)):
            changed = bytearray(compressed)
            changed[at] ^= 0x10
            path.write_bytes(changed)
            with pytest.raises(StreamError, match=f"{path.name}: {name}: "):
                verify(path)


def test_a_header_of_another_version_is_refused(tmp_path, compressed):
    header, begin = read_header(compressed)
    header["__metadata__"]["tansor"] = header["__metadata__"]["tansor"].replace('"version":1', '"version":9')
    text = json.dumps(header).encode()
    (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + compressed[begin:])
    with pytest.raises(StreamError, match=r"v\.safetensors.*version 9"):
        verify(tmp_path / "v.safetensors")
