import json

import numpy as np
import onnx
import pytest
from onnx_export_models import CONDITIONAL, MATMUL, NETS, feeds_for, net, normal, outputs_of, save, session
from strategies import rng

from onnx_export import session as session_module
from onnx_export.compress import compress
from onnx_export.rewrite import set_metadata
from onnx_export.session import load_session, run
from refimpl.errors import ExportError, InvalidArgument


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_outputs_come_by_name_and_modes_agree(compressed, mode):
    feeds = feeds_for(session(compressed))
    result = run(compressed, feeds, mode=mode)
    assert result.keys() == {"y"}
    assert np.allclose(result["y"], outputs_of(compressed, feeds)[0], rtol=1e-5, atol=1e-6)
    assert np.array_equal(result["y"], load_session(str(compressed), mode).run(None, feeds)[0])


def test_without_the_library_outputs_are_those_of_any_onnx_runtime(compressed):
    feeds = feeds_for(session(compressed))
    assert np.array_equal(run(compressed, feeds, native=False)["y"], outputs_of(compressed, feeds)[0])


def test_what_runs_where_is_told(compressed):
    told = []
    run(compressed, feeds_for(session(compressed)), tell=told.append)
    assert len(told) == 1
    assert "nodes on cpu" in told[0]


def test_a_plain_model_runs_in_both_modes(compressed):
    plain = compressed.with_name("m.onnx")
    feeds = feeds_for(session(plain))
    for mode in ("resident", "streaming"):
        assert np.array_equal(run(plain, feeds, mode=mode)["y"], outputs_of(plain, feeds)[0])


def test_external_tensors_are_found(tmp_path):
    onnx.save(NETS["deep"](), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    feeds = feeds_for(session(tmp_path / "m.onnx"))
    assert np.array_equal(run(tmp_path / "m.onnx", feeds)["y"], outputs_of(NETS["deep"](), feeds)[0])


x = rng(0).standard_normal((3, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "inputs given: none; the model wants: x"),
        ({"z": x}, "inputs given: z; the model wants: x"),
        ({"x": x, "z": x}, "inputs given: x, z; the model wants: x"),
        ({"x": x.astype(np.int64)}, r"input x has dtype int64, the model wants tensor\(float\)"),
        ({"x": x > 0}, "dtype bool"),
        ({"x": x.astype(np.complex64)}, "dtype complex64"),
        ({"x": x.astype("S3")}, r"dtype \|S3"),
        ({"x": x[:, :5]}, "ONNX Runtime cannot run"),
        ({"x": x[0]}, "ONNX Runtime cannot run"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(compressed, feeds, message):
    with pytest.raises((InvalidArgument, ExportError), match=message) as error:
        run(compressed, feeds)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_inputs_are_converted_within_their_kind(compressed, dtype):
    given = x.astype(dtype)
    assert np.array_equal(run(compressed, {"x": given})["y"], run(compressed, {"x": given.astype(np.float32)})["y"])


def test_a_model_of_several_inputs_takes_them_by_name(tmp_path):
    source = save(net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32, seed=2)), tmp_path / "m.onnx")
    compress(source, tmp_path / "o.onnx")
    yes, no = (run(tmp_path / "o.onnx", {"c": np.array(c), "x": x})["y"] for c in (True, False))
    assert not np.allclose(yes, no)


@pytest.mark.parametrize("noted", [None, "resident", ["mixed"]])
def test_auto_without_a_plan_to_stream_takes_the_way_of_resident(compressed, monkeypatch, tmp_path, noted):
    model = onnx.load(compressed)
    if noted is not None:
        set_metadata(model, json.dumps({"mode": noted}))
    onnx.save(model, tmp_path / "m.onnx")
    monkeypatch.setattr(session_module, "open_resident", lambda *_: "resident")
    assert load_session(tmp_path / "m.onnx", "auto") == "resident"


def test_unknown_modes_and_devices_are_refused(compressed):
    with pytest.raises(InvalidArgument, match="mode is 'fast', allowed are resident, streaming"):
        load_session(compressed, "fast")
    with pytest.raises(InvalidArgument, match="device is 'tpu', allowed are cpu, cuda"):
        load_session(compressed, device="tpu")


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ExportError, match=r"text\.onnx: not an ONNX model"):
        load_session(tmp_path / "text.onnx")
    with pytest.raises(ExportError, match=r"missing\.onnx"):
        load_session(tmp_path / "missing.onnx")


def test_a_model_that_onnx_runtime_refuses_is_one_line(tmp_path):
    source = save(net(MATMUL.replace("MatMul", "NoSuchOperator"), w=normal(64, 32)), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="ONNX Runtime refuses") as error:
        load_session(source)
    assert "\n" not in str(error.value)
