"""Weights that a session reads where they are; on a GPU: decoded there, and held once."""

import gc
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_export_models import NETS, feeds_for, outputs_of, save, session
from strategies import rng

from onnx_export.calls import checksum
from onnx_export.compress import compress
from onnx_export.measure import device_memory
from onnx_export.native import library_path
from onnx_export.native.loader import DeviceMemory
from onnx_export.rewrite import remove
from onnx_export.runtime import onnxruntime, placement
from onnx_export.session import load_session
from onnx_export.sharing import open_shared, placeholder, shareable
from refimpl.errors import Corrupt, ExportError

has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
gpu = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda, reason="this ONNX Runtime has no CUDA")]
needs_library = pytest.mark.skipif(library_path() is None, reason="the native op library was not built")


def test_arrays_are_read_where_they_are():
    model = NETS["deep"]()
    feeds = feeds_for(session(model))
    wanted = outputs_of(model, feeds)[0]
    names = shareable(model)
    arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer if t.name in names}
    assert arrays
    remove(model.graph, arrays)
    model.graph.initializer.extend(placeholder(name, a.shape, a.dtype) for name, a in arrays.items())
    opened = open_shared(model, "cpu", onnxruntime().SessionOptions(), arrays)
    assert [i.name for i in opened.get_inputs()] == list(feeds)
    assert np.allclose(opened.run(None, feeds)[0], wanted, rtol=1e-5, atol=1e-6)
    next(iter(arrays.values()))[...] = 0
    assert not np.allclose(opened.run(None, feeds)[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_tensor_that_is_not_taken_is_not_read_from_its_empty_file():
    model = NETS["deep"]()
    name = next(iter(sorted(shareable(model) & {t.name for t in model.graph.initializer})))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    shape, dtype = tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).dtype
    remove(model.graph, [name])
    model.graph.initializer.append(placeholder(name, shape, dtype))
    with pytest.raises(ExportError, match="ONNX Runtime refuses"):
        open_shared(model, "cpu", onnxruntime().SessionOptions(), {})


@needs_library
@pytest.mark.skipif(has_cuda, reason="there is CUDA")
def test_without_a_driver_there_is_a_sentence():
    with pytest.raises(ExportError, match=r"^CUDA: .*libcuda\.so\.1 is not found$"):
        DeviceMemory(100)


# On a GPU


def language_model(layers=6, width=1024, vocabulary=60_000):
    """A table that is read at both ends, and layers between."""
    order = "".join(f"m{i} = MatMul(h{i}, w{i}) h{i + 1} = Relu(m{i}) " for i in range(layers))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]> g (int64[n] i) => (float[n, v] y)
        {{ h0 = Gather(e, i) {order} y = Gemm<transB = 1>(h{layers}, e) }}"""
    )
    random = rng(0)
    shapes = {"e": (vocabulary, width), **{f"w{i}": (width, width) for i in range(layers)}}
    for name, shape in shapes.items():
        values = (random.standard_normal(shape) / 30).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model, 4 * sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    model, size = language_model()
    compress(save(model, folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx", size


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=gpu) for mode in ("resident", "streaming")])
def test_both_modes_agree_with_the_processor(compressed, mode):
    path, _ = compressed
    feeds = {"i": np.arange(5)}
    opened = load_session(path, mode, "cuda")
    assert placement(opened).keys() == {"cuda"}
    assert np.allclose(opened.run(None, feeds)[0], load_session(path).run(None, feeds)[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=gpu) for mode in ("resident", "streaming")])
def test_memory(compressed, mode):
    """Resident: weights once. Streaming: what is stored, and the table or two layers."""
    path, size = compressed
    feeds = {"i": np.arange(3)}
    load_session(path, mode, "cuda").run(None, feeds)  # starts CUDA and cuBLAS
    gc.collect()
    before = device_memory()[0]
    opened = load_session(path, mode, "cuda")
    for _ in range(3):
        opened.run(None, feeds)
    slack, layers = 120 << 20, 2 * 4 * 1024**2  # cuBLAS has memory of its own in each session
    table = 4 * 60_000 * 1024
    most = size if mode == "resident" else path.stat().st_size + table + layers
    assert device_memory()[0] - before < most + slack


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=gpu) for mode in ("resident", "streaming")])
def test_damage(compressed, tmp_path, mode):
    path, _ = compressed
    model = onnx.load(path)
    stream = next(t for t in model.graph.initializer if t.name == "e.stream")
    data = bytearray(stream.raw_data)
    data[len(data) // 2] ^= 16
    stream.raw_data = bytes(data)
    onnx.save(model, tmp_path / "checksum.onnx")
    with pytest.raises((Corrupt, ExportError), match=r"checksum of the stored|stored_crc"):
        load_session(tmp_path / "checksum.onnx", mode, "cuda")
    node = next(n for n in model.graph.node if n.output[0] == "e")
    inputs = {t.name: t for t in model.graph.initializer}
    crc = checksum([inputs[name] for name in node.input])
    next(a for a in node.attribute if a.name == "stored_crc").i = crc
    onnx.save(model, tmp_path / "lane.onnx")
    with pytest.raises((Corrupt, ExportError), match="a lane does not use exactly its bits"):
        load_session(tmp_path / "lane.onnx", mode, "cuda")


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=gpu) for mode in ("resident", "streaming")])
def test_without_the_compiler_there_is_a_sentence(compressed, tmp_path, mode):
    path, _ = compressed
    (tmp_path / "hide.c").write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <string.h>
        void *dlopen(const char *name, int flags) {
            void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
            return name && strstr(name, "libnvrtc.so") ? 0 : next(name, flags);
        }""")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "hide.so", tmp_path / "hide.c", "-ldl"], check=True)
    script = f"from onnx_export.session import load_session; load_session({str(path)!r}, {mode!r}, 'cuda')"
    environment = os.environ | {"LD_PRELOAD": str(tmp_path / "hide.so"), "TANSOR_CACHE": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "ExportError" in result.stderr.splitlines()[-1]
    assert "libnvrtc is not found: it comes with onnxruntime-gpu[cuda,cudnn]" in result.stderr.splitlines()[-1]
