import copy

import pytest
from onnx_export_models import MATMUL, NETS, net, normal, save

from onnx_export.compress import compress
from onnx_export.inspect import inspect
from onnx_export.tables import MAX_ROWS, compress_table, inspect_table, verify_table
from onnx_export.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    save(NETS["deep"](), folder / "m.onnx")
    return compress(folder / "m.onnx", folder / "o.onnx", exclude=["w3"]), folder / "o.onnx"


def test_the_table_of_compress_names_tensors_reasons_and_totals(made, capsys):
    report, _ = made
    compress_table(report)
    out = capsys.readouterr().out
    assert all(t["name"] in out and f"{t['bits_per_weight']:.3f}" in out for t in report["tensors"])
    assert "1 tensors copied (8,192 bytes)\n  1 of them, 8,192 bytes: excluded by the user\n" in out
    assert all(f"\n{note}" in out if note.startswith("WARNING") else f"note: {note}" in out for note in report["notes"])
    assert f"{report['weights']['ratio_vs_fp16']:.2f}x smaller than fp16" in out


def test_a_long_table_is_cut_and_says_so(made, capsys):
    report = copy.deepcopy(made[0])
    report["tensors"] = report["tensors"][:1] * (MAX_ROWS + 7)
    compress_table(report)
    out = capsys.readouterr().out
    assert "... and 7 more: --json or --report lists all" in out
    assert out.count("64x96") == MAX_ROWS


@pytest.mark.parametrize("name", ["[bold]w[/bold]", "layer." * 15 + "w", "größe/權重", ":smile: w"])
def test_names_are_printed_as_they_are(tmp_path, capsys, name):
    model = net(MATMUL, w=normal(64, 32))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = name
    report = compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    compress_table(report)
    inspect_table(inspect(tmp_path / "o.onnx"))
    verify_table(verify(tmp_path / "o.onnx", tmp_path / "m.onnx"))
    out = capsys.readouterr().out
    assert out.replace("\n", "").count(name) == 3
    assert "\x1b" not in out


def test_what_is_identical_is_said_so(tmp_path, capsys):
    source = save(NETS["zeros"](), tmp_path / "m.onnx")
    compress(source, tmp_path / "o.onnx")
    verify_table(verify(tmp_path / "o.onnx", source))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("w ")]
    assert line.split() == ["w", "64x32", "yes", "-", "0"]
