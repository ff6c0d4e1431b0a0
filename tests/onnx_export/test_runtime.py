import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from onnx_export_models import NETS, feeds_for, net, outputs_of, save, session

from onnx_export.cli import main
from onnx_export.runtime import ELEMENT_TYPES, open_session, run
from refimpl.errors import ExportError

BOTH = r"tansor\[cpu\].*tansor\[gpu\]"


def test_a_missing_onnxruntime_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=BOTH):
        open_session(NETS["deep"]())


def test_a_half_removed_onnxruntime_is_the_same_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(ExportError, match=BOTH):
        open_session(NETS["deep"]())


@pytest.mark.parametrize(
    "command",
    [
        ["run", "m.onnx", "--input", "x=x.npy", "-o", "y.npz"],
        ["evaluate", "m.onnx", "--tokens", "t.npy"],
        ["compress", "m.onnx", "-o", "o.onnx", "--calibration", "x.npy"],
        ["demo"],
    ],
)
def test_the_command_line_says_it_too(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    save(NETS["deep"](), tmp_path / "m.onnx")
    np.save("x.npy", np.ones((3, 64), np.float32))
    np.save("t.npy", np.ones((3, 64), np.int64))
    before = sorted(tmp_path.iterdir())
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "tansor[cpu]" in error
    assert "tansor[gpu]" in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_rest_works_without_onnxruntime(tmp_path):
    save(NETS["deep"](), tmp_path / "m.onnx")
    script = """if True:
        import sys
        sys.modules["onnxruntime"] = None
        from onnx_export.cli import main
        for arguments in (["compress", "m.onnx", "-o", "o.onnx"], ["inspect", "o.onnx"],
                          ["verify", "o.onnx", "--against", "m.onnx"], ["decompress", "o.onnx", "-o", "b.onnx"]):
            assert main(arguments) == 0, arguments"""
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_cuda_is_not_replaced_in_silence():
    with pytest.raises(ExportError, match=r"tansor\[gpu\]"):
        open_session(NETS["deep"](), "cuda")


def test_a_model_above_the_limit_goes_through_a_file(monkeypatch):
    model = NETS["deep"]()
    expected = outputs_of(model)[0]
    monkeypatch.setattr("onnx_export.runtime.PROTOBUF_LIMIT", 1000)
    opened = open_session(model)
    assert np.array_equal(opened.run(None, feeds_for(opened))[0], expected)


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n, d in ELEMENT_TYPES.items() if n != "tensor(bool)"])
def test_element_types_are_those_of_onnx_runtime(name, dtype):
    kind = name.removeprefix("tensor(").removesuffix(")")
    model = net(f"({kind}[n] x) => ({kind}[n] y) {{ y = Identity(x) }}")
    opened = session(model)
    assert opened.get_inputs()[0].type == name
    values = np.arange(3).astype(dtype)
    assert run(opened, None, {"x": values})[0].dtype == dtype


def test_an_error_while_running_is_one_line():
    opened = session(NETS["deep"]())
    with pytest.raises(ExportError, match="cannot run") as error:
        run(opened, None, {"x": np.zeros((3, 5), np.float32)})
    assert "\n" not in str(error.value)
