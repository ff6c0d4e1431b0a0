"""The native op library is built by whatever C compiler there is, and left out in words if there is none."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "onnx_export" / "native"
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("compiler", ["cc", "gcc", "clang", "cc -std=c17 -Wall -Wextra -Werror"])
def test_compilers_build_it(build, tmp_path, monkeypatch, compiler):
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"no {compiler} here")
    monkeypatch.setenv("CC", compiler)
    assert build.compile_library(SOURCES, tmp_path / "library.so") is None
    assert (tmp_path / "library.so").stat().st_size > 0


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_one_there_is_a_reason(build, tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    assert build.compile_library(SOURCES, tmp_path / "library.so").startswith(compiler)
    assert not (tmp_path / "library.so").exists()
