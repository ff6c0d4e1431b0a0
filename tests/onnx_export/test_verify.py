import contextlib
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import MATMUL, NETS, arrays_of, integers, net, normal, save
from safetensors.numpy import save as save_tensors

from codec.tensor import load
from onnx_export.calls import read_calls
from onnx_export.compress import compress
from onnx_export.decompress import decompress, decompress_model
from onnx_export.functions import DOMAIN
from onnx_export.inspect import inspect
from onnx_export.session import load_session
from onnx_export.verify import verify
from refimpl.errors import Corrupt, ExportError, InvalidArgument, StreamError, TansorError

TEXT = """(float[n, 128] x) => (float[n, 128] y) { a = MatMul(x, layer__w) f = DequantizeLinear(codes, s, z)
    b = MatMul(a, f) c = MatMul(b, blank) d = MatMul(c, halves) e = Gemm(d, t) y = Tanh(e) }""".replace("__", "_")
TENSORS = {
    "layer_w": normal(128, 128), "codes": integers(128, 128, width=4.0), "s": np.float32(0.1), "z": np.int8(0),
    "blank": np.zeros((128, 128), np.float32), "halves": normal(128, 128, seed=2), "t": normal(128, 128, seed=3),
}  # fmt: skip
NAMES = {"layer_w", "codes", "blank", "halves", "t"}


@pytest.fixture(scope="module", params=[1.0, 0.5], ids=["coded", "partial"])
def compressed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    source = save(net(TEXT, **TENSORS), folder / "m.onnx")
    report = compress(source, folder / "o.onnx", fraction=request.param)
    assert {t["name"] for t in report["tensors"]} == NAMES
    return folder / "o.onnx"


def verbs(path):
    return (
        lambda: verify(path),
        lambda: decompress(path, path.with_name("back.onnx"), force=True),
        lambda: load_session(path, "resident"),
    )


def test_an_undamaged_file_is_verified(compressed):
    told = []
    result = verify(compressed, progress=lambda *step: told.append(step))
    assert result["ok"]
    assert result["path"] == str(compressed)
    shown = {t["name"]: (t["shape"], t["elements"]) for t in result["tensors"]}
    assert shown == {name: ([128, 128], 128 * 128) for name in NAMES}
    assert all(t.keys() == {"name", "shape", "elements"} for t in result["tensors"])
    assert told == [("verify", i + 1, 5) for i in range(5)]


def test_against_the_original_the_errors_are_measured(compressed):
    result = verify(compressed, compressed.with_name("m.onnx"))
    before = arrays_of(onnx.load(compressed.with_name("m.onnx")))
    decoded = {name: load(stored) for name, stored, _ in read_calls(onnx.load(compressed))}
    for t in result["tensors"]:
        error = before[t["name"]].astype(np.float64) - decoded[t["name"]].astype(np.float64)
        assert t["max_error"] == np.abs(error).max()
        assert t["identical"] == (t["name"] in ("codes", "blank"))
        if t["identical"]:
            assert t["sqnr_db"] is None
        else:
            signal = np.square(before[t["name"]].astype(np.float64)).sum()
            assert abs(t["sqnr_db"] - 10 * np.log10(signal / np.square(error).sum())) < 1e-6


def test_another_original_is_refused(compressed, tmp_path):
    for tensors in ({**TENSORS, "t": normal(64, 32)}, {n: a for n, a in TENSORS.items() if n != "t"}):
        other = save(net(TEXT, **tensors), tmp_path / "other.onnx")
        with pytest.raises(ExportError, match="tensor t of shape"):
            verify(compressed, other)


@pytest.mark.parametrize("change", [lambda w: w.astype(np.float64), lambda w: w * 0, lambda w: w * 1e30])
def test_any_original_of_the_shape_gives_numbers(compressed, tmp_path, change):
    decoded = {name: load(stored) for name, stored, _ in read_calls(onnx.load(compressed))}
    other = save(net(TEXT, **{**TENSORS, "t": change(decoded["t"])}), tmp_path / "other.onnx")
    result = verify(compressed, other)
    json.dumps(result, allow_nan=False)
    assert not next(t for t in result["tensors"] if t["name"] == "t")["identical"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_original_that_is_not_finite_is_refused(compressed, tmp_path, value):
    weight = TENSORS["t"].copy()
    weight[0, 0] = value
    with pytest.raises(ExportError, match="original's t holds NaN"):
        verify(compressed, save(net(TEXT, **{**TENSORS, "t": weight}), tmp_path / "other.onnx"))


def test_a_damaged_original_is_named(compressed, tmp_path):
    model = net(TEXT, **TENSORS)
    model.graph.initializer[0].raw_data = b"short"
    with pytest.raises(StreamError, match=r"other\.onnx: layer_w: "):
        verify(compressed, save(model, tmp_path / "other.onnx"))


def test_an_original_in_the_other_kind_of_file_will_do(compressed, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(save_tensors({n: np.asarray(a) for n, a in TENSORS.items()}))
    assert verify(compressed, tmp_path / "m.safetensors")["ok"]


def test_what_is_not_compressed_is_refused(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    with pytest.raises(InvalidArgument, match=r"m\.onnx holds nothing"):
        verify(source)


def damage(path, folder, change):
    model = onnx.load(path)
    change(model)
    return save(model, folder / "bad.onnx")


def test_every_flipped_bit_of_a_stored_part_is_noticed_by_name(compressed, tmp_path):
    model = onnx.load(compressed)
    owner = {i: n.output[0] for n in model.graph.node if n.domain == DOMAIN for i in n.input}
    parts = [i for i, t in enumerate(model.graph.initializer) if t.name in owner]
    assert len(parts) >= 5 * 4 - 1
    for index in parts:
        tensor = model.graph.initializer[index]
        before = tensor.raw_data
        for at in sorted({0, len(before) - 1, *np.linspace(0, len(before) - 1, 12).astype(int).tolist()}):
            changed = bytearray(before)
            changed[at] ^= 1 << (at % 8)
            tensor.raw_data = bytes(changed)
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            with pytest.raises(StreamError, match=rf"^{owner[tensor.name]}: "):
                decompress_model(copy)
        bad = save(model, tmp_path / "bad.onnx")
        for verb in verbs(bad):
            with pytest.raises(StreamError, match=rf"bad\.onnx: {owner[tensor.name]}: "):
                verb()
        tensor.raw_data = before
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("attribute", ["stored_crc", "symbols_crc", "to"])
def test_changed_attributes_are_noticed_by_name(compressed, tmp_path, attribute):
    for index, node in enumerate(onnx.load(compressed).graph.node):
        if node.domain != DOMAIN or (node.op_type == "ConstantLinear" and attribute == "symbols_crc"):
            continue
        which = next(i for i, a in enumerate(node.attribute) if a.name == attribute)

        def flip(model, index=index, which=which):
            model.graph.node[index].attribute[which].i ^= 4

        def drop(model, index=index, which=which):
            del model.graph.node[index].attribute[which]

        for change in (flip, drop):
            bad = damage(compressed, tmp_path, change)
            for verb in verbs(bad):
                with pytest.raises(StreamError, match=rf"bad\.onnx: {node.output[0]}: "):
                    verb()


@settings(max_examples=100)
@given(data=st.data())
def test_any_flipped_bit_of_the_file_is_a_tansor_error_or_harmless(compressed, tmp_path_factory, data):
    content = bytearray(compressed.read_bytes())
    ends = st.integers(0, 400) | st.integers(len(content) - 9000, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(ends | st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(content)
    for verb in (lambda: verify(path), lambda: inspect(path), lambda: load_session(path, "resident")):
        with contextlib.suppress(TansorError):
            verb()


def test_truncated_files_are_stream_errors_by_name(compressed, tmp_path):
    content, path = compressed.read_bytes(), tmp_path / "cut.onnx"
    for size in np.linspace(3, len(content) - 1, 80).astype(int):
        path.write_bytes(content[:size])
        for verb in (*verbs(path), lambda: inspect(path)):
            with pytest.raises((StreamError, ExportError), match=r"cut\.onnx"):
                verb()
    assert [p.name for p in tmp_path.iterdir()] == ["cut.onnx"]


def test_names_that_are_not_text_are_corrupt(compressed, tmp_path):
    content = compressed.read_bytes()
    bad = tmp_path / "bad.onnx"
    for name in (b"halves", b"Integer", b"stored_crc"):
        bad.write_bytes(content.replace(name, b"\xff" + name[1:]))
        for verb in (*verbs(bad), lambda: inspect(bad)):
            with pytest.raises(Corrupt, match=r"bad\.onnx"):
                verb()


@pytest.mark.parametrize("name", ["t", "a", "the", "checksum"])
def test_short_names_are_named_too(tmp_path, name):
    model = net(MATMUL.replace("(x, w)", f"(x, {name})"), **{name: normal(64, 32)})
    compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")

    def flip(model):
        model.graph.initializer[0].raw_data = b"\xff" + model.graph.initializer[0].raw_data[1:]

    with pytest.raises(StreamError, match=rf"bad\.onnx: {name}: "):
        verify(damage(tmp_path / "o.onnx", tmp_path, flip))
