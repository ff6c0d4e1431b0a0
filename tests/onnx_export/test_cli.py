import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_export_models import MATMUL, NETS, OPT, net, normal, outputs_of, save
from safetensors.numpy import save as save_tensors
from strategies import rng

from onnx_export.cli import ended_by_signals, main
from onnx_export.compress import compress

COMMANDS = ("demo", "compress", "decompress", "inspect", "verify", "run", "evaluate", "conformance")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with good and bad files."""
    folder = tmp_path_factory.mktemp("whole")
    weight = normal(64, 32)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        weight[3, 3] = value
        save(net(MATMUL, w=weight), folder / f"{name}.onnx")
    model = save(NETS["deep"](), folder / "m.onnx").read_bytes()
    compress(folder / "m.onnx", folder / "o.onnx")
    compressed = bytearray((folder / "o.onnx").read_bytes())
    (folder / "cut.onnx").write_bytes(model[:9000])
    compressed[3000] ^= 4
    (folder / "bad.onnx").write_bytes(compressed)
    (folder / "opt.onnx").symlink_to(OPT)
    (folder / "folder.onnx").mkdir()
    for name, content in (("text", b"some text\n" * 9), ("empty", b""), ("zip", b"PK\3\4....")):
        for suffix in ("onnx", "safetensors", "npy", "npz"):
            (folder / f"{name}.{suffix}").write_bytes(content)
    tensors = save_tensors({"w": normal(64, 64), "b": normal(64)})
    (folder / "m.safetensors").write_bytes(tensors)
    (folder / "cut.safetensors").write_bytes(tensors[:-9])
    np.save(folder / "x.npy", rng(0).standard_normal((5, 64)).astype(np.float32))
    np.save(folder / "narrow.npy", np.ones((5, 7), np.float32))
    np.save(folder / "tokens.npy", rng(0).integers(32, 123, (3, 40)))
    np.save(folder / "large.npy", np.full((2, 9), 9999))
    np.savez(folder / "a.npz", x=np.ones(3))
    return folder


@pytest.fixture
def here(whole, tmp_path, monkeypatch):
    """Its copy, in which commands run."""
    shutil.copytree(whole, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ends(capsys, command, status, *words):
    """Run a command line: the status, and for an error one line on standard error that has the words."""
    assert main(command.split()) == status
    captured = capsys.readouterr()
    if status:
        assert captured.out == ""
        assert captured.err.startswith("tansor: ")
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
    else:
        assert captured.err == ""
    text = captured.out + captured.err
    assert all(word in text for word in words), text
    return captured.out


def tansor(command, **options):
    line = [sys.executable, "-m", "tansor", *command.split()]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


# What works.


def test_compress_prints_a_table_and_writes_what_it_is_asked_for(here, capsys):
    before = snapshot(here)
    command = "compress m.onnx -o new.onnx --calibration x.npy --report r.html --json r.json"
    out = ends(capsys, command, 0, "w1", "64x96", "new.onnx", "smaller than fp16")
    report = json.loads(Path("r.json").read_text())
    assert f"{report['input_bytes']:,} -> {report['output_bytes']:,} bytes" in out
    assert report["output_bytes"] == Path("new.onnx").stat().st_size
    assert report["tensors"][0]["statistics"] == "calibrated"
    page = Path("r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert f"{report['output_bytes']:,}" in page
    assert snapshot(here).keys() - before.keys() == {Path("new.onnx"), Path("r.html"), Path("r.json")}


@pytest.mark.usefixtures("here")
def test_compress_prints_json_alone(capsys):
    report = json.loads(ends(capsys, "compress m.onnx -o new.onnx --json", 0))
    assert report.keys() >= {"input_bytes", "output_bytes", "seconds", "weights", "tensors", "skipped"}
    assert report["weights"].keys() >= {
        "count", "float_bytes", "stored_bytes", "side_bytes", "bits_per_weight", "entropy_bits_per_weight",
        "ratio_vs_int8", "ratio_vs_fp16",
    }  # fmt: skip
    keys = {"name", "shape", "recipe", "bits_per_weight", "entropy_bits_per_weight", "sparsity", "sqnr_db"}
    assert all(t.keys() >= keys for t in report["tensors"])
    assert report["input_bytes"] == Path("m.onnx").stat().st_size


@pytest.mark.usefixtures("here")
def test_options_reach_the_library(capsys):
    plain = json.loads(ends(capsys, "compress m.onnx -o a.onnx --json", 0))
    options = "--sparsity 0.5 --exclude w1 --exclude w3 --profile archive --fraction 0.5 --jobs 1"
    given = json.loads(ends(capsys, f"compress m.onnx -o b.onnx --json {options}", 0))
    assert (plain["profile"], plain["fraction"], plain["recipe"]) == ("gpu", 1.0, "double")
    assert (given["profile"], given["fraction"]) == ("archive", 0.5)
    assert {s["name"] for s in given["skipped"]} == {"w1", "w3"}
    assert given["tensors"][0]["sparsity"] >= 0.5 > plain["tensors"][1]["sparsity"]
    text = "(float[n, 384] x) => (float[n, 384] y) { y = MatMul(x, w) }"
    save(net(text, w=normal(384, 384)), Path("large.onnx"))
    large = json.loads(ends(capsys, "compress large.onnx -o d.onnx --json --fraction 0.5", 0))
    assert large["tensors"][0]["mode"] == "partial"
    lossless = json.loads(ends(capsys, "compress m.onnx -o c.onnx --recipe lossless --json", 0))
    assert (lossless["recipe"], lossless["tensors"]) == ("lossless", [])


@pytest.mark.usefixtures("here")
def test_inspect_lists_and_says_it_in_json(capsys):
    ends(capsys, "inspect o.onnx", 0, "w1", "64x96", "coded", "3 compressed tensors", "recipe double")
    result = json.loads(ends(capsys, "inspect o.onnx --json", 0))
    assert [t["name"] for t in result["tensors"]] == ["w1", "w2", "w3"]
    ends(capsys, "inspect m.onnx", 0, "0 compressed tensors")


@pytest.mark.usefixtures("here")
def test_verify_says_what_was_checked(capsys):
    ends(capsys, "verify o.onnx", 0, "3 tensors", "all checksums right")
    ends(capsys, "verify o.onnx --against m.onnx", 0, "w1", "no", "SQNR")
    result = json.loads(ends(capsys, "verify o.onnx --against m.onnx --json", 0))
    assert result["ok"]
    assert all(15 < t["sqnr_db"] < 60 for t in result["tensors"])


def test_decompress_and_run(here, capsys):
    assert ends(capsys, "decompress o.onnx -o back.onnx", 0) == ""
    for model in ("back.onnx", "o.onnx"):
        for mode in ("resident", "streaming"):
            assert main(f"run {model} --input x=x.npy -o y.npz --mode {mode} --force".split()) == 0
            said = capsys.readouterr()
            assert said.out == ""
            assert re.fullmatch(r"tansor: .*nodes? on cpu.*\n", said.err)
            with np.load("y.npz") as outputs:
                assert list(outputs) == ["y"]
                expected = outputs_of(here / model, {"x": np.load("x.npy")})[0]
                assert np.allclose(outputs["y"], expected, rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(onnx.load("back.onnx"))


@pytest.mark.usefixtures("here")
def test_evaluate_prints_a_perplexity(capsys):
    ends(capsys, "evaluate opt.onnx --tokens tokens.npy", 0, "perplexity", "117 predictions")
    result = json.loads(ends(capsys, "evaluate opt.onnx --tokens tokens.npy --baseline opt.onnx --json", 0))
    assert result.keys() >= {"perplexity", "baseline_perplexity", "tokens"}
    assert result["loss_percent"] == 0
    assert result["tokens"] == 117
    ends(capsys, "evaluate opt.onnx --tokens tokens.npy --baseline opt.onnx --json e.json", 0, "baseline")
    assert json.loads(Path("e.json").read_text())["perplexity"] == result["perplexity"]


@pytest.mark.usefixtures("here")
def test_safetensors_go_in_and_out(capsys):
    ends(capsys, "compress m.safetensors -o o.safetensors", 0, "64x64")
    ends(capsys, "inspect o.safetensors", 0, "1 compressed tensors")
    ends(capsys, "verify o.safetensors --against m.safetensors", 0, "w")
    ends(capsys, "decompress o.safetensors -o b.safetensors", 0)


# What fails: one line, the status, and nothing changed.

NO_MODEL = "not an ONNX model"
FAILURES = [
    ("compress none.onnx -o new.onnx", 2, "none.onnx: No such file"),
    ("compress folder.onnx -o new.onnx", 2, "folder.onnx: Is a directory"),
    ("compress text.onnx -o new.onnx", 2, f"text.onnx: {NO_MODEL}"),
    ("compress empty.onnx -o new.onnx", 2, f"empty.onnx: {NO_MODEL}"),
    ("compress zip.onnx -o new.onnx", 2, f"zip.onnx: {NO_MODEL}"),
    ("compress cut.onnx -o new.onnx", 3, "cut.onnx: truncated"),
    ("compress cut.safetensors -o new.safetensors", 3, "cut.safetensors: "),
    ("compress text.safetensors -o new.safetensors", 3, "text.safetensors: not a safetensors file"),
    ("compress empty.safetensors -o new.safetensors", 3, "empty.safetensors: "),
    ("compress m.onnx -o new.bin", 2, "new.bin: the file name must end in .onnx or .safetensors"),
    ("compress x.npy -o new.onnx", 2, "x.npy: the file name must end in .onnx or .safetensors"),
    ("compress m.onnx -o new.safetensors", 2, "must both be"),
    ("compress m.onnx -o o.onnx", 2, "o.onnx exists; --force replaces it"),
    ("compress m.onnx -o m.onnx --force", 2, "same file"),
    ("compress m.onnx -o m.onnx", 2, "m.onnx"),
    ("compress m.onnx -o folder.onnx --force", 2, "folder.onnx is a folder"),
    ("compress m.onnx -o none/new.onnx", 2, "folder none does not exist"),
    ("compress m.onnx -o new.onnx --report x.npy", 2, "x.npy exists"),
    ("compress m.onnx -o new.onnx --json x.npy", 2, "x.npy exists"),
    ("compress m.onnx -o new.onnx --json none/r.json", 2, "folder none does not exist"),
    ("compress m.onnx -o new.onnx --json new.onnx", 2, "same file"),
    ("compress m.onnx -o new.onnx --report r --json r", 2, "same file"),
    ("compress m.onnx -o new.onnx --report m.onnx --force", 2, "same file"),
    ("compress m.onnx -o new.onnx --recipe lossless --calibration x.npy", 2, "calibration data do not apply"),
    ("inspect o.onnx --json o.onnx", 2, "o.onnx"),
    ("verify o.onnx --json m.onnx", 2, "m.onnx exists"),
    ("evaluate opt.onnx --tokens tokens.npy --json tokens.npy", 2, "tokens.npy"),
    ("compress nan.onnx -o new.onnx", 2, "w: "),
    ("compress inf.onnx -o new.onnx", 2, "w: "),
    ("compress o.onnx -o new.onnx", 2, "o.onnx is compressed already"),
    ("compress m.onnx -o new.onnx --fraction 0", 2, "fraction is 0.0"),
    ("compress m.onnx -o new.onnx --fraction nan", 2, "fraction is nan"),
    ("compress m.onnx -o new.onnx --sparsity 1", 2, "sparsity is 1.0"),
    ("compress m.onnx -o new.onnx --activations int8", 2, "--calibration"),
    ("compress m.onnx -o new.onnx --recipe rate --activations int8", 2, "for double"),
    ("compress m.onnx -o new.onnx --recipe lossless --prune-budget global", 2, "for double"),
    ("compress m.onnx -o new.onnx --sparsity -0.5", 2, "sparsity is -0.5"),
    ("compress m.onnx -o new.onnx --jobs 0", 2, "jobs is 0"),
    ("compress m.onnx -o new.onnx --recipe lossless --sparsity 0.5", 2, "--sparsity"),
    ("compress m.onnx -o new.onnx --calibration none.npy", 2, "none.npy: No such file"),
    ("compress m.onnx -o new.onnx --calibration zip.npz", 2, "zip.npz: not a readable"),
    ("compress m.onnx -o new.onnx --calibration m.onnx", 2, "m.onnx: not a readable"),
    ("compress m.onnx -o new.onnx --calibration tokens.npy", 2, "the model wants ['n', 64]"),
    ("compress m.onnx -o new.onnx --calibration narrow.npy", 2, "the model wants ['n', 64]"),
    ("compress m.onnx -o new.onnx --calibration a.npz", 2, "the model wants ['n', 64]"),
    ("compress m.safetensors -o new.safetensors --calibration x.npy", 2, "graph"),
    ("verify bad.onnx", 3, "bad.onnx: w1: "),
    ("decompress bad.onnx -o new.onnx", 3, "bad.onnx: w1: "),
    ("inspect bad.onnx", 3, "bad.onnx: w1: "),
    ("run bad.onnx --input x=x.npy -o y.npz --mode resident", 3, "bad.onnx: w1: "),
    ("verify m.onnx", 2, "m.onnx holds nothing"),
    ("verify o.onnx --against none.onnx", 2, "none.onnx: No such file"),
    ("verify o.onnx --against opt.onnx", 2, "no tensor w1"),
    ("decompress o.onnx -o o.onnx --force", 2, "same file"),
    ("decompress o.onnx -o m.onnx", 2, "m.onnx exists"),
    ("decompress o.onnx -o new.safetensors", 2, "must both be"),
    ("run o.onnx -o y.npz", 2, "inputs given: none; the model wants: x"),
    ("run o.onnx --input z=x.npy -o y.npz", 2, "inputs given: z; the model wants: x"),
    ("run o.onnx --input x.npy -o y.npz", 2, "NAME=FILE.npy"),
    ("run o.onnx --input x= -o y.npz", 2, "NAME=FILE.npy"),
    ("run o.onnx --input x=none.npy -o y.npz", 2, "none.npy: No such file or directory"),
    ("run o.onnx --input x=m.onnx -o y.npz", 2, "m.onnx: not a readable .npy file"),
    ("run o.onnx --input x=zip.npz -o y.npz", 2, "zip.npz: not a readable .npy file"),
    ("run o.onnx --input x=empty.npy -o y.npz", 2, "empty.npy: not a readable .npy file"),
    ("run o.onnx --input x=a.npz -o y.npz", 2, "a.npz: not a .npy file"),
    ("run o.onnx --input x=narrow.npy -o y.npz", 2, "ONNX Runtime cannot run the model"),
    ("run o.onnx --input x=tokens.npy -o y.npz", 2, "int64, the model wants tensor(float)"),
    ("run o.onnx --input x=x.npy -o y.npy", 2, "y.npy: the output must end in .npz"),
    ("run o.onnx --input x=x.npy -o a.npz", 2, "a.npz exists"),
    ("run text.onnx --input x=x.npy -o y.npz", 2, f"text.onnx: {NO_MODEL}"),
    ("evaluate m.onnx --tokens tokens.npy", 2, "(batch, sequence, vocabulary)"),
    ("evaluate opt.onnx --tokens x.npy", 2, "integers"),
    ("evaluate opt.onnx --tokens none.npy", 2, "none.npy"),
    ("evaluate opt.onnx --tokens zip.npy", 2, "zip.npy"),
    ("evaluate opt.onnx --tokens large.npy", 2, "ONNX Runtime cannot run the model"),
    ("evaluate opt.onnx --tokens tokens.npy --json none/e.json", 2, "folder none does not exist"),
    ("demo --output none", 2, "folder none does not exist"),
    ("inspect text.onnx", 2, f"text.onnx: {NO_MODEL}"),
    ("inspect x.npy", 2, "x.npy: the file name must end in"),
]


@pytest.mark.parametrize(("command", "status", "words"), FAILURES)
def test_failures_are_one_line_and_change_nothing(here, capsys, command, status, words):
    before = snapshot(here)
    ends(capsys, command, status, words)
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "command",
    [
        "compress m.onnx",
        "compress m.onnx -o n.onnx --recipe triple",
        "compress m.onnx -o n.onnx --profile tpu",
        "compress m.onnx -o n.onnx --jobs many",
        "compress m.onnx -o n.onnx --fraction half",
        "run m.onnx -o y.npz --device tpu",
        "evaluate m.onnx",
        "shrink m.onnx",
        "--nonsense",
    ],
)
def test_wrong_usage_ends_with_2_and_says_how(capsys, command):
    with pytest.raises(SystemExit) as left:
        main(command.split())
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "usage: tansor" in error
    assert "error: " in error


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.usefixtures("here")
def test_a_closed_standard_output_is_no_error(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["inspect", "o.onnx"]) == 0


@pytest.mark.usefixtures("here")
def test_why_tensors_were_copied_is_said(capsys):
    ends(capsys, "compress m.onnx -o l.onnx --recipe lossless", 0, "float weights, which the lossless recipe keeps",
         "WARNING: nothing was compressed")  # fmt: skip


def test_shapes_that_do_not_fit_are_named(here, capsys):
    np.save(here / "wide.npy", np.zeros((2, 65), np.float32))
    ends(capsys, "run m.onnx --input x=wide.npy -o y.npz", 2, "Got: 65 Expected: 64")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_and_version(capsys, command):
    with pytest.raises(SystemExit) as left:
        main(["--help"] if command is None else [command, "--help"])
    assert left.value.code == 0
    assert "usage: tansor" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("tansor 0.")


@pytest.mark.parametrize("force", ["", "--force"])
def test_a_full_disk_is_one_line_and_leaves_no_trace(here, capsys, monkeypatch, force):
    def fill(pieces, path):
        path.write_bytes(bytes(next(iter(pieces)))[:50])
        raise OSError(28, "No space left on device")

    before = snapshot(here)
    monkeypatch.setattr("onnx_export.files.write_pieces", fill)
    output = "o.onnx" if force else "new.onnx"
    ends(capsys, f"compress m.onnx -o {output} {force}", 2, f"{output}: No space left on device")
    ends(capsys, "decompress o.onnx -o b.onnx", 2, "b.onnx: No space left on device")
    assert snapshot(here) == before


@pytest.mark.parametrize("where", ["onnx_export.compress_onnx.compress_constant", "onnx_export.files.write_pieces"])
def test_an_interrupt_ends_with_130_and_leaves_no_trace(here, capsys, monkeypatch, where):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = snapshot(here)
    monkeypatch.setattr(where, interrupt)
    ends(capsys, "compress m.onnx -o new.onnx", 130, "interrupted; nothing was written")
    ends(capsys, "compress m.onnx -o o.onnx --force", 130, "interrupted")
    assert snapshot(here) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_program_leave_no_trace_either(here, capsys, monkeypatch, name):
    number = getattr(signal, name)

    def end(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

    before, outside = snapshot(here), signal.signal(number, signal.SIG_DFL)  # a test run may ignore it
    try:
        monkeypatch.setattr("onnx_export.compress_onnx.compress_constant", end)
        ends(capsys, "compress m.onnx -o new.onnx", 128 + number, "interrupted; nothing was written")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, outside)
    assert snapshot(here) == before


def test_a_signal_that_is_ignored_stays_so():
    outside = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, outside)


def test_too_little_memory_is_one_line(here, capsys, monkeypatch):
    def exhaust(*_):
        raise MemoryError

    before = snapshot(here)
    monkeypatch.setattr("onnx_export.compress_onnx.find_constants", exhaust)
    ends(capsys, "compress m.onnx -o new.onnx", 2, "not enough memory")
    assert snapshot(here) == before


def test_names_of_tensors_cannot_forge_lines(here, capsys):
    model = net(MATMUL, w=normal(64, 32))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "w\nforged\x1b[31m: line"
    weight = normal(64, 32)
    weight[0, 0] = np.nan
    model.graph.initializer[0].raw_data = weight.tobytes()
    save(model, here / "odd.onnx")
    ends(capsys, "compress odd.onnx -o new.onnx", 2, "forged")


# As a process of its own.


def test_nothing_heavy_is_imported_for_the_help():
    script = "import sys; from onnx_export.cli import make_parser; make_parser(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnx", "numba", "onnxruntime", "rich", "safetensors", "ml_dtypes", "importlib.metadata"}
    assert not heavy & set(result.stdout.split())


def test_the_installed_command_prints_its_help():
    result = subprocess.run(
        [Path(sys.executable).with_name("tansor"), "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in result.stdout for command in COMMANDS)
    assert result.stderr == ""


def test_a_pipe_gets_no_progress_and_no_colours(here):
    result = tansor("compress m.onnx -o new.onnx --json", cwd=here)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["output"] == "new.onnx"
    assert (here / "new.onnx").read_bytes() == (here / "o.onnx").read_bytes()
    result = tansor("inspect o.onnx", cwd=here, env={**os.environ, "COLUMNS": "30"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:4]] == [
        ["w1", "64x96"], ["w2", "96x64"], ["w3", "64x32"]
    ]  # fmt: skip


def test_errors_of_a_process_have_no_traceback(here):
    for command, status in (("inspect text.onnx", 2), ("verify bad.onnx", 3)):
        result = tansor(command, cwd=here)
        assert (result.returncode, result.stdout) == (status, "")
        assert result.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(here):
    command = f"{sys.executable} -m tansor inspect o.onnx --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=here, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_standard_output_is_one_line(here):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "tansor", "inspect", "o.onnx", "--json"]
        result = subprocess.run(command, cwd=here, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "tansor: output: No space left on device\n")
