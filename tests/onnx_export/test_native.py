"""The native op library on the CPU, bit for bit against the reference; damaged calls are refused."""

import copy
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import NETS, call_model, feeds_for, save, session
from run_time_backend import RunTimeBackend
from stored_tensors import OLDEST, OPSETS, expected, stored_integers, stored_weights
from strategies import rng

from codec.tensor import DTYPES, FLOATS, load, store_integers, store_weight
from conformance.mutate import edit_byte, edit_length
from conformance.run import run as run_cases
from conformance.vectors import load_cases
from onnx_export.calls import KIND_OF, Call, checksum, read_call
from onnx_export.compress import compress
from onnx_export.functions import DOMAIN
from onnx_export.native import library_path
from onnx_export.runtime import describe_placement, open_session, placement
from onnx_export.session import load_session
from onnx_export.session import run as run_model
from refimpl.errors import ExportError, StreamError
from refimpl.tans.blocks import decode_block

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native op library was not built")
STREAMED = [name for name, kind in KIND_OF.items() if kind.mode in ("coded", "partial")]


def native_session(model, threads=2):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return open_session(model, options=options, native=True)


def run_natively(model, threads=2):
    opened = native_session(model, threads)
    placed = placement(opened)
    assert placed is None or any(kind.startswith(DOMAIN) for kind in placed["cpu"])
    return opened.run(None, {})[0]


def check_native(stored, opset=21, threads=2):
    value = expected(stored)
    decoded = run_natively(call_model("w", stored, max(opset, OLDEST.get(stored.dtype, 0))), threads)
    value = value.astype(decoded.dtype)
    assert decoded.shape == stored.shape
    assert np.array_equal(decoded.view(np.int32), value.view(np.int32))


def tensors_of(name):
    return stored_weights(KIND_OF[name]) if KIND_OF[name].is_weight else stored_integers(KIND_OF[name])


@pytest.mark.parametrize("name", KIND_OF)
@settings(max_examples=40)
@given(data=st.data())
def test_every_function_decodes_as_the_reference_does(name, data):
    check_native(data.draw(tensors_of(name)), data.draw(st.sampled_from(OPSETS)), data.draw(st.sampled_from([1, 2, 3])))


def large_tensors():
    """Many tiles and tasks: all kinds of blocks, types and broadcasting."""
    random = rng(5)
    symbols = np.minimum(random.geometric(0.2, (601, 500)), 60).astype(np.uint8)
    narrow = np.minimum(symbols, 15)
    rows, columns = random.random((601, 1)).astype(np.float32), random.random((1, 500)).astype(np.float32)
    zeros = random.integers(0, 60, (601, 1)).astype(np.uint8)
    for dtype in FLOATS:
        yield store_weight(symbols, np.uint8([3]), rows, dtype)
        yield store_weight(narrow, zeros, columns, dtype, profile="archive")
        yield store_weight(symbols, zeros, rows * columns, dtype, fraction=0.75)
        deep, outer, inner = narrow.reshape(1, 601, 5, 100), zeros.reshape(1, 601, 1, 1), columns.reshape(1, 1, 5, 100)
        yield store_weight(deep, outer, inner, dtype, fraction=0.25)
    signed = np.clip(random.normal(0, 9, (601, 501)).round(), -128, 127).astype(np.int8)
    for fraction in (1.0, 0.5):
        yield store_integers(signed, fraction=fraction)
        yield store_integers(np.clip(signed // 9, -8, 7).astype(DTYPES["int4"]), fraction=fraction)
        yield store_integers(np.clip(signed // 9 + 8, 0, 15).astype(DTYPES["uint4"]), fraction=fraction)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_tensors_decode_on_any_number_of_threads(threads):
    for stored in large_tensors():
        check_native(stored, threads=threads)


def huge_tensors():
    """So large that they are written past the caches, in rows that begin anywhere in a line."""
    random = rng(6)
    for shape, dtype in (((2049, 2053), "float32"), ((2049, 4099), "float16")):
        symbols = np.minimum(random.geometric(0.3, shape), 15).astype(np.uint8)
        columns = random.random((1, shape[1])).astype(np.float32)
        yield store_weight(symbols, np.uint8([3]), columns, dtype, profile="archive")


@pytest.mark.parametrize("decoder", ["portable", "avx2", "avx512"])
def test_every_instruction_set_decodes_alike(decoder):
    """One that the processor lacks falls back to what it has."""
    script = """
from test_native import check_native, huge_tensors, large_tensors
for stored in [*large_tensors(), *huge_tensors()]:
    check_native(stored)
"""
    here = Path(__file__).parent
    environment = os.environ | {"TANSOR_DECODER": decoder, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("case", load_cases(["onnx"]), ids=lambda case: case.name)
def test_the_golden_cases_pass(case):
    assert [result for result in run_cases(RunTimeBackend(native_session), [case]) if result.status != "passed"] == []


# Damage


def outcome_in_python(model):
    """The value that a call stands for, or the error that refuses it; symbols_crc is not looked at."""
    call = Call(model.graph.node[0], list(model.graph.initializer))
    try:
        stored = read_call(call)
        symbols = np.ascontiguousarray(decode_block(stored.frame.block))
        return load(replace(stored, frame=replace(stored.frame, symbols_crc=zlib.crc32(symbols))))
    except (StreamError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        return error


def damaged(model, index, random):
    """The model with an input edited and the checksum made right."""
    model = copy.deepcopy(model)
    tensor = model.graph.initializer[index]
    size = onnx.numpy_helper.to_array(tensor).itemsize
    edit = random.choice([edit_byte, edit_byte, edit_length])
    data = edit(tensor.raw_data, random, tensor.raw_data)
    tensor.raw_data = data[: len(data) // size * size]
    if len(tensor.dims) == 1:
        tensor.dims[0] = len(tensor.raw_data) // size
    elif edit is edit_length:
        return model
    seal(model)
    return model


def seal(model):
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "stored_crc":
            attribute.i = checksum(list(model.graph.initializer))


@pytest.mark.parametrize("name", STREAMED)
@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_call_is_refused_or_decodes_as_the_codec_decodes_it(name, data):
    model = call_model("w", data.draw(tensors_of(name)))
    random = data.draw(st.randoms(use_true_random=False))
    model = damaged(model, data.draw(st.integers(0, len(model.graph.initializer) - 1)), random)
    wanted = outcome_in_python(model)
    try:
        decoded = native_session(model).run(None, {})[0]
    except Exception:
        assert isinstance(wanted, Exception)
        return
    assert not isinstance(wanted, Exception), wanted
    wanted = wanted.astype(decoded.dtype)
    no_numbers = np.isnan(decoded) & np.isnan(wanted)  # of a damaged scale: their bits may differ
    assert ((decoded.view(np.int32) == wanted.view(np.int32)) | no_numbers).all()


@pytest.fixture
def small():
    symbols = np.minimum(rng(1).geometric(0.3, 5000), 40).astype(np.uint8)
    return call_model("w", store_weight(symbols, np.uint8([3]), np.float32([0.5]), "float32"))


def test_a_wrong_checksum_is_refused_at_load(small):
    data = bytearray(small.graph.initializer[0].raw_data)
    data[100] ^= 1
    small.graph.initializer[0].raw_data = bytes(data)
    with pytest.raises(ExportError, match=r"w\.decompress: Corrupt: stored_crc"):
        native_session(small)


@pytest.mark.parametrize("name", ["to", "stored_crc", "symbols_crc"])
def test_a_missing_attribute_is_refused(small, name):
    attributes = [a for a in small.graph.node[0].attribute if a.name != name]
    del small.graph.node[0].attribute[:]
    small.graph.node[0].attribute.extend(attributes)
    with pytest.raises(ExportError, match="an attribute is missing"):
        native_session(small)


def test_a_result_of_another_type_than_declared_is_refused(small):
    small.graph.value_info[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(Exception, match="declares another type"):
        native_session(small).run(None, {})


# In a session


def test_the_library_can_be_left_out(tmp_path, monkeypatch):
    compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    feeds = feeds_for(session(tmp_path / "o.onnx"))
    portable = load_session(tmp_path / "o.onnx", "streaming", native=False)
    native = load_session(tmp_path / "o.onnx", "streaming", native=True)
    # Weights are the same to the bit; ONNX Runtime multiplies by a scale of one number after the bodies' products.
    assert np.allclose(portable.run(None, feeds)[0], native.run(None, feeds)[0], rtol=1e-5, atol=1e-6)
    assert "native" not in describe_placement(portable)
    assert "decoded by the native op library on cpu" in describe_placement(native)
    monkeypatch.setenv("TANSOR_NATIVE", "0")
    assert "native" not in describe_placement(load_session(tmp_path / "o.onnx", "streaming"))
    assert np.array_equal(run_model(tmp_path / "o.onnx", feeds)["y"], portable.run(None, feeds)[0])


def test_a_library_that_was_not_built_is_a_sentence(monkeypatch):
    monkeypatch.setattr("onnx_export.runtime.library_path", lambda: None)
    with pytest.raises(ExportError, match="not built"):
        open_session(NETS["deep"](), native=True)
    open_session(NETS["deep"]())
