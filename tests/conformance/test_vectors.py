import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from conformance.backends import numpy_reference
from conformance.steps import STEPS
from conformance.vectors import DTYPES, FOLDER, StoredArray, load_cases, read_file
from onnx_export.calls import KINDS
from refimpl.errors import InvalidArgument

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((FOLDER / "schema.json").read_text())
CASES = load_cases()
every_step = pytest.mark.parametrize("step", STEPS)


def cases_of(step):
    return [case for case in CASES if case.step == step]


def write_vectors(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "write_vectors.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_files_are_what_the_writer_writes():
    done = write_vectors("--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_check_names_what_would_change(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)  # what a tolerance covers differs between machines
    for step in (case.step for case in CASES if case.tolerance is None and case.step != "onnx"):
        (tmp_path / f"{step}.bin").unlink(missing_ok=True)
    written = write_vectors("--folder", tmp_path)
    assert written.returncode == 0, written.stderr
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.name != "schema.json":
            assert (tmp_path / path.relative_to(FOLDER)).read_bytes() == path.read_bytes()
    (tmp_path / "decode.json").write_text("{}")
    (tmp_path / "onnx" / "stale.pb").write_bytes(b"")
    (tmp_path / "spread.json").unlink()
    done = write_vectors("--check", "--folder", tmp_path)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["decode.json", "onnx/stale.pb", "spread.json"]
    assert (tmp_path / "decode.json").read_text() == "{}"


def test_what_a_tolerance_covers_stays_as_it_was_written(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    case = next(c for c in cases_of("inverse_factor") if c.name == "drawn")
    name, offset = case.outputs["factor"].file[0].name, case.outputs["factor"].file[1]
    data = bytearray((tmp_path / name).read_bytes())
    data[offset] ^= 1  # the last bit of the first number
    (tmp_path / name).write_bytes(data)
    assert write_vectors("--check", "--folder", tmp_path).returncode == 0
    data[offset + 6] ^= 1  # a bit that counts
    (tmp_path / name).write_bytes(data)
    assert write_vectors("--check", "--folder", tmp_path).stderr.startswith(f"{name} would change")


@pytest.mark.parametrize(
    "step", ["feed_back", "gptq", "sparsegpt", "sparsegpt_quantize", "quantize_rate", "search_awq"]
)
def test_no_code_of_a_case_with_a_tolerance_lies_next_to_a_tie(step):
    for case in cases_of(step):
        if case.tolerance is None:
            continue
        inputs = {name: stored.read() for name, stored in case.inputs.items()}
        moved = "hessian" if step == "search_awq" else "factor"
        signs = np.where(np.arange(inputs[moved].size) % 3 == 0, 1, -1).reshape(inputs[moved].shape)
        inputs[moved] = inputs[moved] * (1 + 1e-10 * signs)
        answer = getattr(numpy_reference, step)(**inputs, **case.parameters)
        outputs = answer if isinstance(answer, tuple) else (answer,)
        for (name, stored), value in zip(case.outputs.items(), outputs, strict=True):
            if np.asarray(value).dtype.kind in "biu" or name == "ratio":
                assert np.array_equal(value, stored.read()), (case.id, name)


def test_the_folder_is_small_and_holds_nothing_else():
    files = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file()}
    used = {p.relative_to(FOLDER).as_posix() for c in CASES for a in (*c.inputs.values(), *c.outputs.values())
            for p in (a.file or ())[:1]}  # fmt: skip
    assert files == {"schema.json", *(f"{step}.json" for step in STEPS), *used}
    assert sum((FOLDER / name).stat().st_size for name in files) < 870_000


@every_step
def test_files_have_the_form_of_the_schema(step):
    content = json.loads((FOLDER / f"{step}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content, SCHEMA, jsonschema.Draft202012Validator)
    assert content["step"] == step
    assert content["notes"].keys() == {flag for case in content["cases"] for flag in case["flags"]}


@pytest.mark.parametrize(
    "change",
    [
        {"error": "Broken"}, {"error": "Corrupt", "outputs": {"a": {"dtype": "uint8", "shape": [0], "hex": ""}}},
        {"inputs": {"../x": {"dtype": "uint8", "shape": [0], "hex": ""}}}, {"flags": []}, {"id": "a b"},
        {"inputs": {"x": {"dtype": "uint8", "shape": [0]}}}, {"compare": "bit-exact"},
        {"inputs": {"x": {"dtype": "u1", "shape": [0], "hex": ""}}},
        {"inputs": {"x": {"dtype": "uint8", "shape": [0], "hex": "", "values": []}}}, {"more": 1},
    ],
)  # fmt: skip
def test_the_schema_refuses(change):
    case = {"id": "a", "flags": ["valid"], "inputs": {"x": {"dtype": "uint8", "shape": [1], "hex": "00"}}}
    case |= {"parameters": {}, "error": "Corrupt"}
    content = {"$schema": "schema.json", "version": 1, "step": "decode", "notes": {}, "cases": [case]}
    jsonschema.validate(content, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"cases": [case | change]}, SCHEMA)


def test_ids_are_unique_and_good_names_of_files():
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+/[A-Za-z0-9.-]+", i) for i in ids)


@every_step
def test_cases_have_the_interface_of_their_step(step):
    interface = STEPS[step]
    assert (ROOT / "docs" / "spec" / f"{interface.page}.md").is_file()
    for case in cases_of(step):
        assert case.inputs.keys() <= set(interface.inputs) or step == "onnx"
        assert case.parameters.keys() == set(interface.parameters)
        if interface.outputs and case.error is None:
            assert tuple(case.outputs) == interface.outputs
        assert (case.error is None) == bool(case.outputs)


@every_step
def test_every_array_can_be_read(step):
    for case in cases_of(step):
        for stored in (*case.inputs.values(), *case.outputs.values()):
            if stored.sha256 is None:
                array = stored.read()
                assert (array.dtype, array.shape) == (DTYPES[stored.dtype], stored.shape)
                assert array.dtype.isnative
    assert all(stored.sha256 is None for case in cases_of(step) for stored in case.inputs.values())


def test_every_kind_of_error_and_refusal_is_there():
    decode = cases_of("decode")
    assert {case.error for case in decode} == {None, "Truncated", "Corrupt", "UnsupportedVersion", "LimitExceeded"}
    flags = {flag for case in decode for flag in case.flags}
    assert flags >= {
        "truncated", "bad-magic", "bad-version", "bad-mode", "reserved-bits", "left-over", "hostile-count", "bad-crc",
        "bad-symbols-crc", "bad-counts", "bad-classes", "bad-lanes", "lane-length", "bad-chunks", "damaged-stream",
        "unusual", "partial", "packed",
    }  # fmt: skip
    assert "decode/truncated-at-17" in {case.id for case in decode}


def test_every_function_for_weights_has_a_case():
    models = [onnx.load_from_string(case.inputs["model"].read().tobytes()) for case in cases_of("onnx")]
    called = {node.op_type for model in models for node in model.graph.node}
    assert called >= {kind.name for kind in KINDS if kind.is_weight}
    assert len(called & {kind.name for kind in KINDS if not kind.is_weight}) >= 2  # they differ in their last lines


def test_onnx_cases_are_folders_as_onnx_lays_them_out():
    for case in cases_of("onnx"):
        folder = FOLDER / "onnx" / case.name
        model = onnx.load(folder / "model.onnx")
        onnx.checker.check_model(model)
        assert [i.name for i in model.graph.input] == [name for name in case.inputs if name != "model"]
        values = [*(case.inputs[i.name] for i in model.graph.input), *case.outputs.values()]
        data = folder / "test_data_set_0"
        files = [*(data / f"input_{i}.pb" for i in range(len(model.graph.input))), data / "output_0.pb"]
        assert sorted(data.iterdir()) == sorted(files)
        for file, stored in zip(files, values, strict=True):
            array = onnx.numpy_helper.to_array(onnx.load_tensor(file))
            assert array.tobytes() == stored.read().tobytes()
            assert array.shape == stored.shape


def test_unknown_steps_other_versions_and_short_files_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="unknown step 'decoder'"):
        load_cases(["decode", "decoder"])
    with pytest.raises(InvalidArgument, match="missing"):
        load_cases(["decode"], tmp_path)
    (tmp_path / "decode.json").write_text('{"version": 2}')
    with pytest.raises(InvalidArgument, match="version 2"):
        read_file(tmp_path / "decode.json")
    (tmp_path / "decode.bin").write_bytes(b"123")
    with pytest.raises(InvalidArgument, match="do not hold"):
        StoredArray("uint8", (3,), file=(tmp_path / "decode.bin", 1)).read()
    with pytest.raises(InvalidArgument, match="do not hold"):
        StoredArray("uint16", (2,), hex="000102").read()
    with pytest.raises(InvalidArgument, match="hash"):
        StoredArray("uint8", (3,), sha256="00").read()


def test_steps_come_in_one_order():
    assert [case.step for case in load_cases(["decode", "spread"])] == ["spread"] * len(cases_of("spread")) + [
        "decode"
    ] * len(cases_of("decode"))
    assert load_cases([]) == []
    assert np.array_equal(StoredArray("int64", (2, 2), values=(1, 2, 3, 4)).read(), [[1, 2], [3, 4]])


def test_reading_cases_imports_no_graphs_and_no_test_library():
    program = "import sys, conformance.suite, conformance.backends, conformance.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"onnx", "onnxruntime", "onnx_export", "pytest", "hypothesis", "rich"} & set(done.stdout.split())
