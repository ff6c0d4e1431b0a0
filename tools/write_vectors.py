"""Write the golden cases of conformance/vectors/ again; nothing else writes them.

``python tools/write_vectors.py`` writes, ``--check`` compares and exits with 1 if a file would change. The
reference computes every output; where the right answer is known beforehand, the two must agree. Running it
twice gives the same bytes, also on another machine: what a case's tolerance covers stays as it was written.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cases import all_cases
from drafts import Array, Draft, Drawn
from onnx_cases import OnnxCase, onnx_cases, raw_offset

from conformance.backends import numpy_reference
from conformance.compare import Answer, difference
from conformance.python_backend import as_outputs, ask_python
from conformance.steps import STEPS
from conformance.vectors import DTYPES, VERSION, Case, StoredArray, Tolerance, hash_of, little_endian, read_file
from refimpl.errors import InvalidArgument

FOLDER = Path(__file__).resolve().parents[1] / "conformance" / "vectors"  # of the sources, not of an installed copy
INLINE_VALUES, INLINE_BYTES = 24, 64  # longer arrays go to the binary file
NOTES = {
    "valid": "what the reference writes, or any input that is right",
    "edge": "right, at the border of what is allowed",
    "ties": "equal candidates: the rule for ties decides",
    "large": "many elements; made by the generator or compared by hash",
    "partial": "some chunks raw, the others coded",
    "packed": "two symbols in one byte",
    "unusual": "a frame that the reference would not write, but that decoders must take",
    "invalid-argument": "a caller's mistake",
    "truncated": "the bytes end before what their fields announce",
    "bad-magic": "other first bytes",
    "bad-version": "a version that is not known",
    "bad-mode": "a mode that does not exist, or not with these flags",
    "reserved-bits": "a reserved field or unused bit is not zero",
    "left-over": "more bytes or words than announced",
    "hostile-count": "a number far above what the bytes can hold; nothing may be allocated for it",
    "bad-crc": "the checksum of the stored bytes is wrong",
    "bad-symbols-crc": "all stored bytes are as announced, the decoded symbols are wrong",
    "damaged-stream": "start states, lengths or bits of lanes are wrong; the checksum of the bytes is right",
    "bad-counts": "normalized counts that no table has",
    "bad-classes": "classes of rare symbols that contradict themselves",
    "bad-lanes": "a number of lanes that does not fit",
    "lane-length": "a lane that does not use exactly its bits",
    "bad-chunks": "chunks that cannot be cut",
    "bad-header": "a container's header that contradicts itself or its bytes",
    "bad-index": "a container's index that cannot be read or does not fit",
    "missing-part": "a tensor whose parts are incomplete or too many",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the golden cases of conformance/vectors/ again.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="another folder than conformance/vectors")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    files = make_files(written(folder))
    old = present(folder)
    stale = old.keys() - files.keys() - {"schema.json"}  # the schema is written by hand
    changed = {name for name, data in files.items() if old.get(name) != data}
    if options.check:
        for name in sorted(stale | changed):
            print(f"{name} would change: run tools/write_vectors.py", file=sys.stderr)
        return 1 if stale | changed else 0
    for name in stale:
        (folder / name).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):  # deepest first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in changed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[name])
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes; {len(changed)} written, {len(stale)} removed")
    return 0


def present(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(folder: Path) -> dict[str, Case]:
    """The cases with tolerances that are in a folder, by id."""
    files = [path for step in STEPS if (path := folder / f"{step}.json").is_file()]
    cases = [case for path in files if json.loads(path.read_text()).get("cases") for case in read_file(path)]
    return {case.id: case for case in cases if case.tolerance is not None}


def make_files(old: Mapping[str, Case]) -> dict[str, bytes]:
    """All files by name.

    Raises
    ------
    SystemExit
        The reference does not give what it must.
    """
    entries: dict[str, list[dict[str, Any]]] = {step: [] for step in STEPS}
    arrays = {step: bytearray() for step in STEPS}
    wrong = []
    for draft in all_cases():
        try:
            entries[draft.step].append(entry_of(draft, arrays, old.get(f"{draft.step}/{draft.name}")))
        except ValueError as error:
            wrong.append(f"{draft.step}/{draft.name}: {error}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    files: dict[str, bytes] = {}
    for case in onnx_cases():
        folder = f"onnx/{case.name}"
        files |= onnx_files(folder, case)
        entries["onnx"].append(onnx_entry(folder, case))
    for step, cases in entries.items():
        names = [case["id"] for case in cases]
        assert len(set(names)) == len(names), f"{step}: {max(names, key=names.count)} twice"
        files[f"{step}.json"] = step_text(step, cases).encode()
        if arrays[step]:
            files[f"{step}.bin"] = bytes(arrays[step])
    return files


def step_text(step: str, cases: Sequence[Mapping[str, Any]]) -> str:
    """A step's JSON, one case on a line."""
    flags = {flag for case in cases for flag in case["flags"]}
    notes = {flag: note for flag, note in NOTES.items() if flag in flags}
    assert len(notes) == len(flags), flags - NOTES.keys()
    head = {"$schema": "schema.json", "version": VERSION, "step": step, "notes": notes}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    return json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n{lines}\n]}}\n'


def entry_of(draft: Draft, arrays: Mapping[str, bytearray], old: Case | None) -> dict[str, Any]:
    """A case as JSON; longer arrays are appended to the step's binary file, once.

    Raises
    ------
    ValueError
        The reference does not give what it must.
    """
    answer = ask(draft)
    entry: dict[str, Any] = {
        "id": draft.name,
        "flags": list(draft.flags),
        "inputs": {name: stored(array, draft.step, arrays) for name, array in draft.inputs.items()},
        "parameters": dict(draft.parameters),
    }
    if draft.error is not None:
        if not answer.error or answer.error[0] != draft.error:
            raise ValueError(f"the reference gives {answer.error[:1] or 'outputs'}, expected {draft.error}")
        return entry | {"error": draft.error}
    if answer.outputs is None:
        raise ValueError(f"the reference refuses: {answer.error[:1]} {answer.text}")
    given = {name: as_array(value) for name, value in answer.outputs.items()}
    for name, array in (draft.outputs or {}).items():
        right = array.array() if isinstance(array, Drawn) else array
        if text := difference(name, given[name], known_array(right), None):
            raise ValueError(text)
    known: Mapping[str, Array | Drawn] = draft.outputs or unchanged(draft, given, old)
    outputs = {
        name: hashed(array) if draft.hashed else stored(known.get(name, array), draft.step, arrays)
        for name, array in given.items()
    }
    return entry | {"outputs": outputs, "compare": draft.compare}


def unchanged(draft: Draft, given: Mapping[str, Array], old: Case | None) -> dict[str, Array]:
    """The outputs as they were written, if the draft's tolerance covers what has become of them."""
    if old is None or old.outputs.keys() != given.keys() or draft.compare == "bit-exact":
        return {}
    tolerance = Tolerance(**draft.compare)
    try:
        if any(difference(name, given[name], stored, tolerance) for name, stored in old.outputs.items()):
            return {}
        return {name: stored.read() for name, stored in old.outputs.items()}
    except (OSError, InvalidArgument):  # the file that held them is gone or short
        return {}


def ask(draft: Draft) -> Answer:
    """What the reference makes of a draft."""
    inputs = {n: a.array() if isinstance(a, Drawn) else a for n, a in draft.inputs.items()}
    case = Case(draft.step, draft.name, (), {n: known_array(a) for n, a in inputs.items()}, draft.parameters, {})
    if STEPS[draft.step].outputs:
        return ask_python(numpy_reference, case)
    answer = ask_python(numpy_reference, case)
    return answer if answer.outputs is None else as_outputs(answer.outputs, case)


def as_array(value: Any) -> Array:
    """An output as an array of a dtype that files can hold."""
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    array = np.asarray(value)
    assert array.dtype.name in DTYPES, array.dtype
    return array


def known_array(array: Array) -> StoredArray:
    """An array in memory as a file would describe it."""
    return StoredArray(array.dtype.name, array.shape, hex=little_endian(array).hex())


def stored(array: Array | Drawn, step: str, arrays: Mapping[str, bytearray]) -> dict[str, Any]:
    """An array as JSON, in whichever form is shortest to read."""
    if isinstance(array, Drawn):
        recipe = {"seed": array.lcg.seed}
        by = (
            {"thresholds": list(array.lcg.thresholds)}
            if array.lcg.exponent is None
            else {"exponent": array.lcg.exponent}
        )
        return {"dtype": array.dtype, "shape": list(array.shape), "lcg": recipe | by}
    described: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    data = little_endian(array)
    if array.dtype.kind in "biu" and array.dtype != np.uint8 and array.size <= INLINE_VALUES:
        return described | {"values": [int(value) for value in array.reshape(-1)]}
    if len(data) <= INLINE_BYTES:
        return described | {"hex": data.hex()}
    for home, blob in arrays.items():
        if (at := blob.find(data)) >= 0:
            return described | {"file": f"{home}.bin", "offset": at}
    arrays[step].extend(data)
    return described | {"file": f"{step}.bin", "offset": len(arrays[step]) - len(data)}


def hashed(array: Array) -> dict[str, Any]:
    """An array's hash as JSON."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": hash_of(array)}


def onnx_files(folder: str, case: OnnxCase) -> dict[str, bytes]:
    """The files of an ONNX case."""
    data = f"{folder}/test_data_set_0"
    inputs = {f"{data}/input_{i}.pb": tensor for i, tensor in enumerate(case.inputs.values())}
    return {f"{folder}/model.onnx": case.model, **inputs, f"{data}/output_0.pb": case.output}


def onnx_entry(folder: str, case: OnnxCase) -> dict[str, Any]:
    """An ONNX case as JSON: its arrays are the last bytes of the protobufs."""

    def inside(array: Array, file: str, data: bytes) -> dict[str, Any]:
        described = {"dtype": array.dtype.name, "shape": list(array.shape)}
        return described | {"file": f"{folder}/{file}", "offset": raw_offset(data)}

    model = {"dtype": "uint8", "shape": [len(case.model)], "file": f"{folder}/model.onnx", "offset": 0}
    inputs = {
        name: inside(case.arrays[name], f"test_data_set_0/input_{i}.pb", data)
        for i, (name, data) in enumerate(case.inputs.items())
    }
    output = inside(case.expected, "test_data_set_0/output_0.pb", case.output)
    return {
        "id": case.name, "flags": ["valid"], "inputs": {"model": model, **inputs}, "parameters": {},
        "outputs": {"value": output}, "compare": "bit-exact",
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
