"""What is kept of compiled kernels (cache.c): given back as it was written, or not at all."""

import ctypes
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_export.native import library_path

COMPILER = shutil.which("cc")
SOURCES = library_path().parent if library_path() else None
pytestmark = pytest.mark.skipif(COMPILER is None or SOURCES is None, reason="no C compiler")
NAME = b"kernels.cubin"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    library = tmp_path_factory.mktemp("library") / "cache.so"
    command = [COMPILER, "-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", "-o", library]
    subprocess.run([*command, SOURCES / "cache.c", SOURCES / "crc32.c"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.read_cached.restype = ctypes.c_void_p
    loaded.read_cached.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)]
    loaded.write_cached.restype = None
    loaded.write_cached.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    loaded.free = ctypes.CDLL(None).free
    loaded.free.argtypes = [ctypes.c_void_p]
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that is not there yet."""
    folder = tmp_path_factory.mktemp("user") / "below" / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANSOR_CACHE", str(folder))
        yield folder


def read(cache):
    size = ctypes.c_size_t()
    address = cache.read_cached(NAME, ctypes.byref(size))
    if not address:
        return None
    data = ctypes.string_at(address, size.value)
    cache.free(address)
    return data


@given(st.binary(min_size=1, max_size=200))
def test_what_is_written_is_read(cache, folder, data):
    cache.write_cached(NAME, data, len(data))
    assert read(cache) == data
    assert [file.name for file in folder.iterdir()] == [NAME.decode()]
    assert folder.stat().st_mode & 0o077 == 0


@given(data=st.data(), kept=st.binary(min_size=1, max_size=200))
def test_a_damaged_file_is_none(cache, folder, data, kept):
    cache.write_cached(NAME, kept, len(kept))
    file = folder / NAME.decode()
    stored = file.read_bytes()
    at = data.draw(st.integers(0, len(stored) - 1))
    file.write_bytes(stored[:at] + bytes([stored[at] ^ 1 << data.draw(st.integers(0, 7))]) + stored[at + 1 :])
    assert read(cache) is None
    file.write_bytes(stored[:at])
    assert read(cache) is None


def test_no_folder_keeps_nothing(cache, monkeypatch):
    monkeypatch.setenv("TANSOR_CACHE", "")
    cache.write_cached(NAME, b"kernels", 7)
    assert read(cache) is None
