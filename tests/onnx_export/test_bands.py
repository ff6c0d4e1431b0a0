"""Weights in bands: chosen where they pay, decoded alike everywhere, one tensor to whoever looks."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_export_models import arrays_of, call_model, feeds_for, net, normal, outputs_of, save, session
from safetensors.numpy import load_file, save_file
from stored_tensors import OLDEST, OPSETS, banded_tensors
from strategies import rng

from codec.tensor import BandedTensor, load
from onnx_export.calls import checksum, read_calls
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.functions import DOMAIN
from onnx_export.inspect import inspect
from onnx_export.session import load_session
from onnx_export.verify import verify
from refimpl.errors import Corrupt

WIDTHS = 2.0 ** rng(3).integers(-4, 3, 256)  # of input channels


def uneven(inputs, outputs, axis, dtype=np.float32):
    """A weight whose input channels along an axis differ in size."""
    weight = normal(inputs, outputs) * WIDTHS[:inputs, None]
    return np.ascontiguousarray(weight if axis == 0 else weight.T).astype(dtype)


def dotted(model):
    """The model with a dot for two underscores in what its nodes read and write."""
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
        node.output[:] = [name.replace("__", ".") for name in node.output]
    return model


UNEVEN = {
    "matmul": lambda: net("(float[n, 256] x) => (float[n, 192] y) { y = MatMul(x, w) }", w=uneven(256, 192, 0)),
    "gemm": lambda: net("(float[n, 256] x) => (float[n, 192] y) { y = Gemm <transB = 1> (x, w, b) }",
                        w=uneven(256, 192, 1), b=normal(192)),
    "gather": lambda: net("(int64[n] i) => (float[n, 256] y) { y = Gather(w, i) }", w=uneven(256, 300, 1)),
    "tied": lambda: net("(int64[n] i) => (float[n, 300] y) { e = Gather(w, i) \n y = MatMul(e, v) }",
                        w=uneven(256, 300, 1), v=np.ascontiguousarray(uneven(256, 300, 1).T)),
    "float16": lambda: net("(float16[n, 256] x) => (float16[n, 192] y) { y = MatMul(x, w) }",
                           w=uneven(256, 192, 0, np.float16)),
    "opset 11": lambda: net("(float[n, 256] x) => (float[n, 192] y) { y = MatMul(x, w) }", 11, w=uneven(256, 192, 0)),
    "taken names": lambda: dotted(net("""(float[n, 256] x) => (float[n, 192] y) {
        w__0 = MatMul(x, w) \n w__joined = Relu(w__0) \n y = Add(w__joined, w__bands) }""",
        w=uneven(256, 192, 0), w__bands=normal(192))),
}  # fmt: skip
INTEGERS = "(float[n, 256] x) => (float[n, 192] y) { f = DequantizeLinear(w, s) \n y = MatMul(x, f) }"


def integer_net():
    return net(INTEGERS, w=np.rint(uneven(256, 192, 0) * 4).clip(-128, 127).astype(np.int8), s=np.float32(0.1))


def banded(path):
    """Of each compressed tensor of a file: its number of bands."""
    return {t["name"]: t["bands"] for t in inspect(path)["tensors"]}


def weight_in(path, feeds):
    """The weight w as the graph decodes it."""
    model = onnx.load(path)
    model.graph.output.append(next(v for v in model.graph.value_info if v.name == "w"))
    return outputs_of(model, feeds)[-1]


@settings(max_examples=30)
@given(banded_tensors(("float32", "float16", "bfloat16")), st.sampled_from(OPSETS))
def test_bands_decode_alike_everywhere(drawn, opset):
    stored, values = drawn
    model = call_model("w", stored, max(opset, OLDEST.get(stored.dtype, 0)))
    onnx.checker.check_model(model, full_check=True)
    for decoded in (*outputs_of(model), *ReferenceEvaluator(model).run(None, {})):
        assert decoded.tobytes() == values.astype(np.float32).tobytes()


@given(banded_tensors())
def test_what_is_written_is_read(drawn):
    stored, values = drawn
    ((name, back, call),) = read_calls(call_model("layer.w", stored))
    assert (name, call.node.op_type, call.node.name) == ("layer.w", "Interleave", "layer.w.interleave")
    assert (back.axis, back.shape, back.dtype) == (stored.axis, stored.shape, stored.dtype)
    assert back.bands.tolist() == stored.bands.tolist()
    assert load(back).tobytes() == values.tobytes()
    assert call.stored_bytes == sum(len(t.raw_data) for t in call_model("layer.w", stored).graph.initializer)


@pytest.mark.parametrize("name", UNEVEN)
def test_a_model_in_bands_is_one_to_its_readers(tmp_path, name):
    source, small, plain = save(UNEVEN[name](), tmp_path / "m.onnx"), tmp_path / "s.onnx", tmp_path / "p.onnx"
    report = compress(source, small, profile="archive")
    (line,) = report["tensors"]
    assert line["bands"] > 1
    assert banded(small) == {"w": line["bands"]}
    (shown,) = inspect(small)["tensors"]
    assert {k: shown[k] for k in ("shape", "elements", "stored_bytes", "side_bytes")} == {
        k: line[k] for k in ("shape", "elements", "stored_bytes", "side_bytes")
    }
    (checked,) = verify(small, source)["tensors"]
    assert (checked["name"], checked["shape"]) == ("w", line["shape"])
    feeds = feeds_for(session(source))
    streamed = outputs_of(small, feeds)
    decompress(small, plain)
    assert all(node.domain != DOMAIN and node.op_type != "Concat" for node in onnx.load(plain).graph.node)
    assert arrays_of(onnx.load(plain)).keys() - {"v"} == arrays_of(onnx.load(source)).keys() - {"v"}
    for other in (load_session(small), load_session(small, "streaming"), session(plain)):
        for a, b in zip(streamed, other.run(None, feeds), strict=True):  # a constant's products may be summed otherwise
            assert np.allclose(a, b, rtol=1e-2 if name == "float16" else 1e-4, atol=1e-3)
    assert weight_in(small, feeds).tobytes() == arrays_of(onnx.load(plain))["w"].tobytes()


def test_bands_are_smaller_and_change_no_code(tmp_path):
    source = save(UNEVEN["gemm"](), tmp_path / "m.onnx")
    with_bands = compress(source, tmp_path / "a.onnx", profile="archive")
    without = compress(source, tmp_path / "g.onnx", profile="gpu")
    assert (with_bands["tensors"][0]["bands"], without["tensors"][0]["bands"]) == (3, 1)
    assert with_bands["weights"]["stored_bytes"] < 0.85 * without["weights"]["stored_bytes"]
    assert with_bands["tensors"][0]["histogram"] == without["tensors"][0]["histogram"]
    (_, a, _), (_, g, _) = *read_calls(onnx.load(tmp_path / "a.onnx")), *read_calls(onnx.load(tmp_path / "g.onnx"))
    assert load(a).tobytes() == load(g).tobytes()


def test_integer_kernels_and_latency_budgets_take_no_bands(tmp_path):
    source = save(UNEVEN["gemm"](), tmp_path / "m.onnx")
    feeds = {name: rng(0).standard_normal((32, 256)).astype(np.float32) for name in feeds_for(session(source))}
    given = {"profile": "archive", "calibration": feeds}
    assert compress(source, tmp_path / "b.onnx", **given)["tensors"][0]["bands"] > 1
    for i, more in enumerate(({"activations": "int8"}, {"latency_budget": 2.0, "threads": 1})):
        assert compress(source, tmp_path / f"{i}.onnx", **given, **more)["tensors"][0]["bands"] == 1


def test_alike_channels_stay_together(tmp_path):
    model = net("(float[n, 256] x) => (float[n, 192] y) { y = MatMul(x, w) }", w=normal(256, 192))
    report = compress(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx", profile="archive")
    assert report["tensors"][0]["bands"] == 1


def test_integers_take_bands_without_loss(tmp_path):
    source, small = save(integer_net(), tmp_path / "m.onnx"), tmp_path / "s.onnx"
    report = compress(source, small, recipe="lossless", profile="archive")
    assert report["tensors"][0]["bands"] > 1
    assert verify(small, source)["tensors"][0]["identical"]
    assert np.array_equal(weight_in(small, feeds_for(session(source))), arrays_of(onnx.load(source))["w"])


def test_safetensors_take_bands(tmp_path):
    source, small, plain = (tmp_path / f"{name}.safetensors" for name in "msp")
    save_file({"w": uneven(256, 192, 1), "bias": normal(192), "q": arrays_of(integer_net())["w"]}, source)
    report = compress(source, small, profile="archive")
    assert {t["name"]: t["bands"] > 1 for t in report["tensors"]} == {"w": True, "q": True}
    assert banded(small) == {t["name"]: t["bands"] for t in report["tensors"]}
    assert {t["name"]: t["identical"] for t in verify(small, source)["tensors"]} == {"w": False, "q": True}
    decompress(small, plain)
    assert verify(small, plain)["ok"]
    shown = {t["name"]: t["stored_bytes"] for t in inspect(small)["tensors"]}
    assert shown == {t["name"]: t["stored_bytes"] for t in report["tensors"]}


def test_integers_take_bands_of_any_mode_where_the_format_has_them(tmp_path):
    """Channels that are noise, zero or narrow: a container stores such bands raw, constant and coded, a graph none."""
    random = rng(4)
    codes = random.integers(-128, 128, (240, 128)).astype(np.int8)
    codes[1::3], codes[2::3] = 0, random.integers(-2, 3, (80, 128))
    source, small = tmp_path / "m.safetensors", tmp_path / "s.safetensors"
    save_file({"q": codes}, source)
    (line,) = compress(source, small, recipe="lossless", profile="archive")["tensors"]
    assert line["bands"] == 3
    assert line["mode"] == "coded, constant, raw"
    assert verify(small, source)["tensors"][0]["identical"]
    decompress(small, tmp_path / "p.safetensors")
    assert np.array_equal(load_file(tmp_path / "p.safetensors")["q"], codes)

    model = net(INTEGERS.replace("256", "240").replace("192", "128"), w=codes, s=np.float32(0.1))
    (line,) = compress(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx", recipe="lossless", profile="archive")[
        "tensors"
    ]
    assert line["mode"] == "coded"


# The recipe rate


def samples(count=2000):
    """Inputs of which some channels are much louder than others."""
    return (rng(1).standard_normal((count, 256)) * 4.0 ** rng(2).integers(0, 3, 256)).astype(np.float32)


@pytest.mark.parametrize("reader", ["MatMul(x, w)", "Gemm <transB = 1> (x, w)"])
def test_rate_gives_each_band_a_step(tmp_path, reader):
    weight = normal(256, 512) if reader.startswith("MatMul") else np.ascontiguousarray(normal(256, 512).T)
    source = save(net(f"(float[n, 256] x) => (float[n, 512] y) {{ y = {reader} }}", w=weight), tmp_path / "m.onnx")
    small, plain = tmp_path / "s.onnx", tmp_path / "g.onnx"
    report = compress(source, small, recipe="rate", target_bits=4, calibration=samples(), profile="archive")
    assert report["weights"]["bits_per_weight"] == pytest.approx(4, rel=0.01)
    ((_, stored, _),) = read_calls(onnx.load(small))
    assert isinstance(stored, BandedTensor)
    assert stored.axis == (0 if reader.startswith("MatMul") else 1)
    steps = [float(part.scale.flat[0]) for part in stored.parts]
    assert all(part.scale.size == 1 for part in stored.parts)
    assert steps == sorted(steps)
    assert steps[-1] > 4 * steps[0]
    verify(small, source)
    compress(source, plain, recipe="rate", target_bits=4, calibration=samples(), profile="gpu")
    feeds = {"x": samples(64)}
    (y,), (fine,), (coarse,) = (outputs_of(path, feeds) for path in (source, small, plain))
    assert np.square(fine - y).mean() < 0.5 * np.square(coarse - y).mean()


# Damage


@pytest.fixture
def model(tmp_path):
    source = save(UNEVEN["matmul"](), tmp_path / "m.onnx")
    compress(source, tmp_path / "s.onnx", profile="archive")
    return onnx.load(tmp_path / "s.onnx")


def interleave(model):
    return next(node for node in model.graph.node if node.op_type == "Interleave")


def set_bands(model, bands, channels=256):
    """Other bands, with a checksum that is right."""
    node = interleave(model)
    tensors = {t.name: t for t in model.graph.initializer}
    new = (np.array(bands, np.uint8), np.array([channels], np.int64))
    for name, array in zip(node.input[1:], new, strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    crc = checksum([tensors[name] for name in node.input[1:]])
    next(a for a in node.attribute if a.name == "stored_crc").i = crc


def test_every_damaged_byte_of_the_bands_is_noticed(model):
    tensor = next(t for t in model.graph.initializer if t.name == "w.bands")
    data = tensor.raw_data
    for at in range(0, len(data), 5):
        tensor.raw_data = data[:at] + bytes([data[at] ^ 17]) + data[at + 1 :]
        with pytest.raises(Corrupt, match="checksum of the bands"):
            list(read_calls(model))


@pytest.mark.parametrize("part", ["w.bands", "w.channels"])
@pytest.mark.parametrize("native", [None, False])
def test_a_damaged_byte_of_the_bands_is_noticed_when_streamed(model, part, native, tmp_path):
    load_session(save(model, tmp_path / "m.onnx"), "streaming", native=native)
    tensor = next(t for t in model.graph.initializer if t.name == part)
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 17]) + tensor.raw_data[1:]
    with pytest.raises(Corrupt, match="checksum of the bands"):
        load_session(save(model, tmp_path / "m.onnx"), "streaming", native=native)


@pytest.mark.parametrize(
    ("bands", "channels"),
    [([0] * 128, 256), ([255] * 128, 256), ([0] * 127, 256), ([0] * 128, 255), ([0] * 128, -1), ([0] * 128, 2**40)],
)
def test_bands_that_do_not_fit_are_refused(model, bands, channels):
    set_bands(model, bands, channels)
    with pytest.raises(Corrupt, match="w: "):
        list(read_calls(model))


def test_a_graph_whose_bands_are_damaged_exchanges_channels_at_most(model):
    before = outputs_of(model)[0]
    set_bands(model, rng(0).integers(0, 256, 128))
    after = outputs_of(model)[0]
    assert after.shape == before.shape
    assert not np.array_equal(after, before)


def test_other_nodes_than_were_written_are_refused(model):
    node = interleave(model)
    node.attribute[0].i, node.attribute[1].i = 1 if node.attribute[0].name == "axis" else node.attribute[0].i, 1
    with pytest.raises(Corrupt):
        list(read_calls(model))


@pytest.mark.parametrize("op", ["Relu", "Interleave"])
def test_bands_that_are_not_joined_are_refused(model, op):
    join = next(node for node in model.graph.node if node.op_type == "Concat")
    join.op_type = op
    with pytest.raises(Corrupt, match="does not read a Concat"):
        list(read_calls(model))


def test_a_join_of_something_else_is_refused(model):
    join = next(node for node in model.graph.node if node.op_type == "Concat")
    join.input[0] = "x"
    with pytest.raises(Corrupt, match="does not join calls"):
        list(read_calls(model))
