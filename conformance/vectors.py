"""The golden cases and the reader of the files that hold them.

``vectors/STEP.json`` lists the cases of a step, ``vectors/STEP.bin`` holds their longer arrays; the form of
the JSON is that of ``vectors/schema.json``. An array is given in one of these ways:

===================== ============================================================
entry                 the array's elements
===================== ============================================================
``values``            a flat list of integers in C order
``hex``               their bytes, little-endian, C order
``file``, ``offset``  the same bytes in a file
``lcg``               a recipe, see `conformance.lcg`
``sha256``            not given: the hash of those bytes is
===================== ============================================================
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from conformance.lcg import Lcg, generate
from conformance.steps import STEPS
from refimpl.errors import InvalidArgument

FOLDER = Path(__file__).parent / "vectors"
VERSION = 1
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
        "float64",
    )
} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}  # fmt: skip


@dataclass(frozen=True)
class StoredArray:
    """An array as a file describes it: exactly one of the last five fields is set."""

    dtype: str  # key of DTYPES
    shape: tuple[int, ...]
    values: tuple[int, ...] | None = None
    hex: str | None = None
    file: tuple[Path, int] | None = None  # and the offset in it
    lcg: Lcg | None = None
    sha256: str | None = None

    def read(self) -> npt.NDArray[Any]:
        """The array.

        Raises
        ------
        InvalidArgument
            Only its hash is known, or the file is too short.
        """
        dtype = DTYPES[self.dtype]
        count = int(np.prod(self.shape, dtype=np.int64))
        if self.values is not None:
            return np.array(self.values, dtype).reshape(self.shape)
        if self.lcg is not None:
            return generate(self.lcg, self.shape, dtype)
        if self.hex is not None:
            data, offset = bytes.fromhex(self.hex), 0
        elif self.file is not None:
            data, offset = file_bytes(self.file[0]), self.file[1]
        else:
            raise InvalidArgument("the array is known by its hash alone")
        if len(data) - offset < count * dtype.itemsize:
            raise InvalidArgument(f"{len(data)} bytes do not hold {count} elements of {self.dtype} at {offset}")
        return np.frombuffer(data, dtype.newbyteorder("<"), count, offset).astype(dtype).reshape(self.shape)


@dataclass(frozen=True)
class Tolerance:
    """How far a result may lie from the expected one: ``|a - b| <= atol + rtol |b|``."""

    rtol: float
    atol: float
    why: str


@dataclass(frozen=True)
class Case:
    """One question to a backend and the right answer: outputs, or the name of an error."""

    step: str  # key of STEPS
    name: str  # unique in its step and stable
    flags: tuple[str, ...]
    inputs: Mapping[str, StoredArray]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, StoredArray]
    error: str | None = None
    tolerance: Tolerance | None = None  # None: bit for bit

    @property
    def id(self) -> str:
        """The case among all: ``STEP/NAME``."""
        return f"{self.step}/{self.name}"


def load_cases(steps: Sequence[str] | None = None, folder: Path = FOLDER) -> list[Case]:
    """The cases of some steps, or of all, in the order of `STEPS`.

    Raises
    ------
    InvalidArgument
        An unknown step, or a file of another version.

    Examples
    --------
    >>> case = load_cases(["spread", "select"])[0]
    >>> case.step, case.inputs["score"].read().dtype.name
    ('select', 'float32')
    """
    if unknown := set(steps or ()) - STEPS.keys():
        raise InvalidArgument(f"unknown step {min(unknown)!r}, there are {', '.join(STEPS)}")
    wanted = [step for step in STEPS if steps is None or step in steps]
    return [case for step in wanted for case in read_file(folder / f"{step}.json")]


def read_file(path: Path) -> list[Case]:
    """The cases of one file.

    Raises
    ------
    InvalidArgument
        The file is missing or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidArgument(f"{path} is missing") from None
    if content["version"] != VERSION:
        raise InvalidArgument(f"{path} has version {content['version']}, this program reads version {VERSION}")
    return [read_case(content["step"], entry, path.parent) for entry in content["cases"]]


def read_case(step: str, entry: Mapping[str, Any], folder: Path) -> Case:
    """A case from its JSON object."""
    compare = entry.get("compare", "bit-exact")
    return Case(
        step=step,
        name=entry["id"],
        flags=tuple(entry["flags"]),
        inputs={name: read_stored(array, folder) for name, array in entry["inputs"].items()},
        parameters=entry["parameters"],
        outputs={name: read_stored(array, folder) for name, array in entry.get("outputs", {}).items()},
        error=entry.get("error"),
        tolerance=None if compare == "bit-exact" else Tolerance(**compare),
    )


def read_stored(entry: Mapping[str, Any], folder: Path) -> StoredArray:
    """An array's description from its JSON object."""
    lcg = entry.get("lcg")
    return StoredArray(
        entry["dtype"],
        tuple(entry["shape"]),
        values=tuple(entry["values"]) if "values" in entry else None,
        hex=entry.get("hex"),
        file=(folder / entry["file"], entry["offset"]) if "file" in entry else None,
        lcg=None if lcg is None else Lcg(lcg["seed"], tuple(lcg.get("thresholds", ())), lcg.get("exponent")),
        sha256=entry.get("sha256"),
    )


def little_endian(array: npt.NDArray[Any]) -> bytes:
    """The array's bytes as files hold them: little-endian, C order.

    Examples
    --------
    >>> little_endian(np.array([1, 2], ">u2")).hex()
    '01000200'
    """
    return array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()


def hash_of(array: npt.NDArray[Any]) -> str:
    """SHA-256 of the array's bytes.

    Examples
    --------
    >>> hash_of(np.empty(0, np.uint8))[:8]
    'e3b0c442'
    """
    return hashlib.sha256(little_endian(array)).hexdigest()


@cache
def file_bytes(path: Path) -> bytes:
    """A file's bytes, read once."""
    return path.read_bytes()
