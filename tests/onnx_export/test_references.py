"""Tensors by reference: the same values, bytes and sessions, wherever the bytes lie."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_export_models import OPT, feeds_for, net, normal, outputs_of, save, session
from strategies import rng

from onnx_export import references
from onnx_export.compress import compress
from onnx_export.files import file_bytes, read_model, write_model
from onnx_export.references import MEMORY, Scratch, is_reference, place_of, to_array, to_tensor
from onnx_export.runtime import open_session
from refimpl.errors import Corrupt, ExportError

DTYPES = ["float32", "float16", "float64", "int8", "uint8", "int64", "bool", ml_dtypes.bfloat16, ml_dtypes.int4]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "LARGE", 1)
    (tmp_path / "scratch").mkdir()
    return Scratch(tmp_path / "scratch")


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.lists(st.integers(1, 5), max_size=3), shift=st.integers(0, 9))
def test_values_are_the_same_wherever_their_bytes_lie(tmp_path_factory, dtype, shape, shift):
    array = rng(0).integers(0, 2, shape).astype(dtype)
    tensor = numpy_helper.from_array(array, "t")
    data = tensor.raw_data
    path = tmp_path_factory.mktemp("files") / "f"
    path.write_bytes(bytes(shift) + data + b"more")
    references.set_reference(tensor, path, shift, len(data))
    found = to_array("t", tensor)
    assert found.dtype == array.dtype
    assert found.flags.aligned
    assert np.array_equal(found, array)
    assert references.inline(tensor) == numpy_helper.from_array(array, "t")


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_arrays_are_files_and_their_tensors_references(scratch, dtype):
    array = rng(0).integers(0, 2, (6, 4)).astype(dtype).T
    kept = scratch.keep(array)
    assert np.array_equal(kept, array)
    tensor = to_tensor(kept[1:], "t")
    assert is_reference(tensor) == (dtype != ml_dtypes.int4)
    assert np.array_equal(to_array("t", tensor), array[1:])
    assert scratch.keep(kept) is kept
    assert MEMORY.keep(array) is array


def test_parts_of_a_kept_array_that_are_no_run_of_bytes_are_held(scratch):
    kept = scratch.keep(np.arange(24, dtype=np.float32).reshape(4, 6))
    for part in (kept.T, kept[:, 1:], kept[::2]):
        tensor = to_tensor(np.ascontiguousarray(part), "t")
        assert not is_reference(tensor)
        assert np.array_equal(to_array("t", tensor), part)


def test_a_small_array_lets_go_of_what_it_was_a_part_of(tmp_path):
    whole = np.arange(1 << 20)
    assert Scratch(tmp_path).keep(whole[:3]).base is None


def test_scratch_files_go_with_their_scratch(scratch):
    with scratch.another() as inner:
        kept = inner.keep(np.arange(9))
        assert len(list(scratch.folder.rglob("*"))) == 2
    assert list(scratch.folder.iterdir()) == []
    assert kept.sum() == 36  # mapped as long as it is used


def test_a_full_disk_is_one_clear_error(scratch, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(ExportError, match="No space left on device"):
        scratch.keep(np.arange(9))


def test_bytes_that_do_not_fit_are_corrupt(scratch):
    tensor = to_tensor(scratch.keep(np.arange(9)), "t")
    tensor.dims[0] = 10
    with pytest.raises(Corrupt, match="t: the tensor cannot be read"):
        to_array("t", tensor)


def test_aligning_moves_only_what_is_not_aligned(scratch, tmp_path):
    data = bytes(4096)
    (tmp_path / "f").write_bytes(data)
    tensors = [TensorProto(name=f"t{i}", dims=[8], data_type=TensorProto.FLOAT) for i in (0, 1, 2, 4)]
    for offset, tensor in zip((0, 1, 2, 4), tensors, strict=True):
        references.set_reference(tensor, tmp_path / "f", offset, 32)
    tensors.append(TensorProto(name="unknown", dims=[8], data_type=99))
    references.set_reference(tensors[-1], tmp_path / "f", 1, 8)
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    scratch.align(model)
    moved = [place_of(t)[0] != str(tmp_path / "f") for t in model.graph.initializer]
    assert moved == [False, True, True, False, False]


def test_sessions_read_references_of_several_folders(scratch, tmp_path):
    model = net("(float[n, 64] x) => (float[n, 32] y) { a = MatMul(x, w) y = MatMul(a, v) }",
                w=normal(64, 48), v=normal(48, 32))  # fmt: skip
    read = read_model(save(model, tmp_path / "m.onnx"))
    read.graph.initializer[1].CopyFrom(scratch.keep_tensor(numpy_helper.from_array(normal(48, 32), "v")))
    assert len({place_of(t)[0] for t in read.graph.initializer}) == 2
    feeds = feeds_for(session(model))
    assert np.array_equal(open_session(read).run(None, feeds)[0], outputs_of(model, feeds)[0])


@pytest.mark.parametrize("recipe", ["lossless", "double"])
def test_a_second_file_changes_nothing(tmp_path, recipe):
    (tmp_path / "m.onnx").write_bytes(OPT.read_bytes())
    onnx.save(onnx.load(OPT), tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for name in ("m", "e"):
        compress(tmp_path / f"{name}.onnx", tmp_path / f"{name}-small.onnx", recipe=recipe, exclude=["*fc1*"])
    assert (tmp_path / "m-small.onnx").read_bytes() == (tmp_path / "e-small.onnx").read_bytes()


@pytest.mark.usefixtures("scratch")
def test_models_above_the_limit_keep_their_tensors_beside_them(tmp_path, monkeypatch):
    model = net("(float[n, 64] x) => (float[n, 32] y) { a = MatMul(x, w) y = Add(a, b) }",
                w=normal(64, 32), b=normal(32))  # fmt: skip
    read = read_model(save(model, tmp_path / "m.onnx"))
    monkeypatch.setattr("onnx_export.files.PROTOBUF_LIMIT", 1000)
    write_model(read, tmp_path / "o.onnx")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "o.onnx"
    onnx.save(model, other, save_as_external_data=True, location="o.onnx.data", size_threshold=4096)
    assert (tmp_path / "o.onnx.data").read_bytes() == normal(64, 32).tobytes()
    assert (tmp_path / "o.onnx").read_bytes() == other.read_bytes()
    assert file_bytes(tmp_path / "o.onnx") == (tmp_path / "o.onnx").stat().st_size + 64 * 32 * 4
    assert onnx.load(tmp_path / "o.onnx").graph.initializer[0].raw_data == normal(64, 32).tobytes()
