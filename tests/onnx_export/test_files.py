import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_export_models import CONDITIONAL, NETS, net, normal, save

from onnx_export.files import (
    check_distinct,
    check_output,
    file_bytes,
    first_line,
    kind_of,
    map_bytes,
    naming,
    read_model,
    submessages,
    write_model,
    write_whole,
)
from refimpl.errors import Corrupt, ExportError, InvalidArgument, StreamError, Truncated


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name", ["m", "m.pt", "m.onnx.gz", ".onnx", "m.ONNX", "onnx"])
def test_other_endings_are_refused(name):
    with pytest.raises(InvalidArgument, match=r"\.onnx or \.safetensors"):
        kind_of(Path(name))


def test_what_is_written_is_read(tmp_path):
    model = NETS["if"]()
    write_model(model, tmp_path / "m.onnx")
    assert read_model(tmp_path / "m.onnx") == model
    assert names(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4", b"\x93NUMPY", b"\x08", bytes(100), b"\x08\x0a"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"m\.onnx: not an ONNX model"):
        read_model(tmp_path / "m.onnx")


def test_what_cannot_be_opened_is_refused_in_the_systems_words(tmp_path):
    for path, words in ((tmp_path, "directory"), (tmp_path / "none.onnx", "No such file")):
        with pytest.raises(ExportError, match=words):
            map_bytes(path)


def test_a_truncated_model_is_told_from_another_file(tmp_path):
    content = NETS["deep"]().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(Truncated, match=r"m\.onnx"):
        read_model(tmp_path / "m.onnx")


def test_a_name_anywhere_that_is_not_text_is_corrupt(tmp_path):
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    model.metadata_props.add().key = "kee"
    model.graph.node[0].doc_string = "doc"
    content = model.SerializeToString()
    for name in (b"then_branch", b"MatMul", b"kee", b"doc", b"net"):
        assert name in content
        (tmp_path / "m.onnx").write_bytes(content.replace(name, b"\xfe" + name[1:]))
        with pytest.raises(Corrupt, match=r"m\.onnx.*UTF-8"):
            read_model(tmp_path / "m.onnx")


def test_messages_are_walked_to_the_last():
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    kinds = [type(m).__name__ for m in submessages(model)]
    assert kinds.count("GraphProto") == 3
    assert kinds.count("NodeProto") == 3
    assert kinds.count("TensorProto") == 2


def test_sizes_include_external_tensors_wherever_they_are(tmp_path):
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    plain = save(model, tmp_path / "p.onnx")
    assert file_bytes(plain) == plain.stat().st_size
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert names(tmp_path) == ["m.onnx", "p.onnx", "v", "w"]
    assert file_bytes(tmp_path / "m.onnx") == sum((tmp_path / n).stat().st_size for n in ("m.onnx", "v", "w"))


def test_external_tensors_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8192))
    (tmp_path / "inside").mkdir()
    model = NETS["opset 21"]()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for location in ("../secret", str(tmp_path / "secret"), "missing", "", "long" * 1000):
        del tensor.external_data[:]
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        save(model, tmp_path / "inside" / "m.onnx")
        with pytest.raises(ExportError, match="external"):
            read_model(tmp_path / "inside" / "m.onnx")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("bug")])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_write_leaves_what_was_there(tmp_path, error, exists):
    path = tmp_path / "o.onnx"
    if exists:
        path.write_bytes(b"mine")

    def write(part):
        part.write_bytes(b"half")
        raise error

    with pytest.raises(ExportError if isinstance(error, OSError) else type(error)) as raised:
        write_whole(path, write, force=True)
    assert not isinstance(error, OSError) or str(raised.value) == f"{path}: No space left on device"
    assert names(tmp_path) == (["o.onnx"] if exists else [])
    assert not exists or path.read_bytes() == b"mine"


def test_a_reader_sees_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "o.onnx"
    path.write_bytes(b"old")

    def write(part):
        part.write_bytes(b"new")
        assert part.name == path.name
        assert part.parent.parent == path.parent
        assert path.read_bytes() == b"old"

    write_whole(path, write, force=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["o.onnx"]


def test_a_link_is_replaced_not_followed_or_followed_whole(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "o.onnx").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "o.onnx", lambda part: part.write_bytes(b"new"), force=True)
    assert (tmp_path / "o.onnx").read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() in (b"old", b"new")


def test_outputs_that_cannot_be_are_refused_early(tmp_path, monkeypatch):
    (tmp_path / "there").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="is a folder"):
        check_output(tmp_path, force=True)
    with pytest.raises(InvalidArgument, match="exists; --force replaces it"):
        check_output(tmp_path / "there", force=False)
    with pytest.raises(ExportError, match="does not exist"):
        check_output(tmp_path / "none" / "o.onnx", force=False)
    with pytest.raises(ExportError, match="does not exist"):
        check_output(tmp_path / "there" / "o.onnx", force=False)
    check_output(tmp_path / "there", force=True)
    check_output(tmp_path / "new", force=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ExportError, match="cannot be written"):
        check_output(tmp_path / "new", force=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="cannot be written"):
        check_output(tmp_path / "o.onnx", force=False)


def test_a_folder_that_turns_unwritable_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ExportError, match=r"o\.onnx: Permission denied"):
        write_whole(tmp_path / "o.onnx", lambda part: part.write_bytes(b""), force=False)


def test_two_paths_of_one_file_are_the_same(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    check_distinct(tmp_path / "a", tmp_path / "c")
    for other in ("a", "b", "../" + tmp_path.name + "/a"):
        with pytest.raises(InvalidArgument, match="same file"):
            check_distinct(tmp_path / "a", tmp_path / other)


def test_of_many_paths_no_two_may_be_the_same_file(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    check_distinct()
    check_distinct(tmp_path / "a", tmp_path / "b", tmp_path / "new")
    for twice in (["a", "b", "link"], ["new", "b", "new"], ["new", "../" + tmp_path.name + "/new"]):
        with pytest.raises(InvalidArgument, match="same file"):
            check_distinct(*(tmp_path / name for name in twice))


def test_names_are_put_before_stream_errors_once():
    with pytest.raises(Truncated, match=r"^file: tensor: why$"), naming("file"), naming("file"), naming("tensor"):
        raise Truncated("why")
    with pytest.raises(Truncated, match=r"^file: why$"), naming("file"):
        raise Truncated("file: why")
    with pytest.raises(Corrupt, match=r"^t: the checksum$"), naming("t"):
        raise Corrupt("the checksum")
    with pytest.raises(InvalidArgument, match=r"^why$"), naming("t"):
        raise InvalidArgument("why")
    assert issubclass(Truncated, StreamError)


def test_only_the_first_line_of_an_error_is_said():
    assert first_line(ValueError("  one\ntwo\n")) == "one"
    assert first_line(ValueError()) == ""


def test_a_model_without_nodes_is_no_model(tmp_path):
    graph = helper.make_graph([], "empty", [], [], [onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")])
    with pytest.raises(ExportError, match="not an ONNX model"):
        read_model(save(helper.make_model(graph), tmp_path / "m.onnx"))
