"""The native op library on CUDA: placement, equality, damage, CUDA graphs. By hand: python -m pytest -m gpu."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import call_model
from run_time_backend import RunTimeBackend
from stored_tensors import expected, stored_integers, stored_weights
from strategies import rng

from codec.tensor import FLOATS, load, store_weight
from conformance.run import run as run_cases
from conformance.vectors import load_cases
from onnx_export.calls import KIND_OF, checksum
from onnx_export.functions import DOMAIN
from onnx_export.native import library_path
from onnx_export.runtime import open_session, placement
from refimpl.errors import ExportError

has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda, reason="this ONNX Runtime has no CUDA")]


def cuda_session(model, native=True):
    opened = open_session(model, "cuda", native=native)
    if native:
        assert any(kind.startswith(DOMAIN) for kind in placement(opened)["cuda"])
    return opened


def check(stored, native=True):
    decoded = cuda_session(call_model("w", stored), native).run(None, {})[0]
    value = expected(stored).astype(decoded.dtype)
    assert decoded.shape == stored.shape
    assert np.array_equal(decoded.view(np.int32), value.view(np.int32))


@pytest.mark.parametrize("name", KIND_OF)
@settings(max_examples=25)
@given(data=st.data())
def test_every_function_decodes_as_the_reference_does(name, data):
    kind = KIND_OF[name]
    stored = data.draw(stored_weights(kind) if kind.is_weight else stored_integers(kind, narrow=False))
    check(stored)


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_the_bodies_stay_on_the_device_and_decode_alike(dtype):
    symbols = np.minimum(rng(0).geometric(0.3, (200, 300)), 40).astype(np.uint8)
    stored = store_weight(symbols, np.full((200, 1), 3, np.uint8), rng(1).random((1, 300)).astype(np.float32), dtype)
    assert placement(cuda_session(call_model("w", stored), native=False)).keys() == {"cuda"}
    check(stored, native=False)


@pytest.mark.parametrize("case", load_cases(["onnx"]), ids=lambda case: case.name)
def test_the_golden_cases_pass(case):
    assert [result for result in run_cases(RunTimeBackend(cuda_session), [case]) if result.status != "passed"] == []


def plain(model):
    """The decoded value itself as the output."""
    del model.graph.node[1:]
    model.graph.output[0].CopyFrom(model.graph.value_info[0])
    del model.graph.value_info[:]
    return model


def test_a_run_is_captured_in_a_cuda_graph_and_replayed():
    symbols = np.minimum(rng(2).geometric(0.2, (512, 768)), 50).astype(np.uint8)
    stored = store_weight(symbols, np.uint8([3]), rng(3).random((512, 1)).astype(np.float32), "float16")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    providers = [("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
    opened = ort.InferenceSession(plain(call_model("w", stored)).SerializeToString(), options, providers=providers)
    out = ort.OrtValue.ortvalue_from_shape_and_type(stored.shape, np.float16, "cuda")
    binding = opened.io_binding()
    binding.bind_ortvalue_output("w", out)
    for _ in range(3):
        out.update_inplace(np.zeros(stored.shape, np.float16))
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()
        assert np.array_equal(out.numpy(), load(stored))


def test_damage_is_refused_at_load():
    symbols = np.minimum(rng(1).geometric(0.3, 5000), 40).astype(np.uint8)
    model = call_model("w", store_weight(symbols, np.uint8([3]), np.float32([0.5]), "float32"))
    data = bytearray(model.graph.initializer[0].raw_data)
    data[len(data) // 2] ^= 16
    model.graph.initializer[0].raw_data = bytes(data)
    with pytest.raises(ExportError, match="stored_crc"):
        cuda_session(model)
    next(a for a in model.graph.node[0].attribute if a.name == "stored_crc").i = checksum(list(model.graph.initializer))
    with pytest.raises(ExportError, match="Corrupt"):
        cuda_session(model)
