import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from onnx_export_models import CONDITIONAL, NETS, feeds_for, net, normal, outputs_of, save, session

from onnx_export.cli import main
from onnx_export.runtime import ELEMENT_TYPES, LARGE, apart, open_session, placeholder, run
from refimpl.errors import ExportError, InvalidArgument

BOTH = r"tansor\[cpu\].*tansor\[gpu\]"


def test_a_missing_onnxruntime_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=BOTH):
        open_session(NETS["deep"]())


def test_a_half_removed_onnxruntime_is_the_same_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(ExportError, match=BOTH):
        open_session(NETS["deep"]())


def test_ctrl_c_while_onnxruntime_is_imported_is_no_missing_package(tmp_path, monkeypatch, capsys):
    """Its extension module, and its own try, make an ImportError of the interrupt."""
    (tmp_path / "onnxruntime.py").write_text("""if True:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interrupt:
                raise ImportError("initialization failed") from interrupt
        except Exception as error:
            failure = error
        raise failure""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(KeyboardInterrupt):
        open_session(NETS["deep"]())
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.ones((3, 64), np.float32))
    assert main(["run", str(source), "--input", f"x={tmp_path / 'x.npy'}", "-o", str(tmp_path / "y.npz")]) == 130
    assert capsys.readouterr().err == "tansor: interrupted; nothing was written\n"


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
    monkeypatch.setattr("onnx_export.files.PROTOBUF_LIMIT", 1000)
    opened = open_session(model)
    assert np.array_equal(opened.run(None, feeds_for(opened))[0], expected)


WIDE = "(float[n, 128] x) => (float[n, 256] y) { a = MatMul(x, w) y = Add(a, b) }"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_large_weights_are_given_as_arrays(dtype):
    kind = {"float32": "float", "float16": "float16"}[np.dtype(dtype).name]
    model = net(WIDE.replace("float", kind), w=normal(128, 256, dtype=dtype), b=normal(256, dtype=dtype))
    before = model.SerializeToString(deterministic=True)
    light, arrays = apart(model)
    assert list(arrays) == ["w"]
    assert arrays["w"].nbytes >= LARGE
    assert light.ByteSize() < LARGE
    assert np.array_equal(open_session(model).run(None, {"x": np.ones((2, 128), dtype)})[0],
                          session(model).run(None, {"x": np.ones((2, 128), dtype)})[0])  # fmt: skip
    assert model.SerializeToString(deterministic=True) == before


def test_weights_in_bodies_and_those_a_run_may_replace():
    weights = {"w": normal(256, 128), "v": normal(256, 128, seed=1)}
    model = net(CONDITIONAL.replace("64", "256").replace("32", "128"), **weights)
    opened = open_session(model)
    for c in (True, False):
        feeds = {"c": np.array(c), "x": normal(3, 256, seed=2)}
        assert np.array_equal(opened.run(None, feeds)[0], session(model).run(None, feeds)[0])
    model = net(WIDE.replace(" x)", " x, float[128, 256] w)"), w=normal(128, 256), b=normal(256))
    assert apart(model)[1] == {}
    x = normal(3, 128)
    opened = open_session(model)
    assert np.allclose(opened.run(None, {"x": x, "w": np.zeros((128, 256), np.float32)})[0], normal(256), atol=1e-6)
    assert np.array_equal(opened.run(None, {"x": x})[0], session(model).run(None, {"x": x})[0])


def test_values_of_placeholders_are_given():
    w, x = normal(128, 256), normal(3, 128)
    expected = session(net(WIDE, w=w, b=normal(256))).run(None, {"x": x})[0]
    model = net(WIDE, b=normal(256))
    model.graph.initializer.append(placeholder("w", w.shape, w.dtype))
    assert np.array_equal(open_session(model, arrays={"w": w}).run(None, {"x": x})[0], expected)


def test_threads_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("TANSOR_THREADS", "2")
    assert open_session(NETS["deep"]()).get_session_options().intra_op_num_threads == 2
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("TANSOR_THREADS", wrong)
        with pytest.raises(InvalidArgument, match="TANSOR_THREADS"):
            open_session(NETS["deep"]())


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
