"""The pool of device memory (pool.c) on a driver that only counts."""

import ctypes
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_export.native import library_path

COMPILER = shutil.which("cc")
SOURCES = library_path().parent if library_path() else None
DRIVER = """
#include "gpu.h"
static Gpu gpu;
static uint64_t size[100000], held, room;
static int pieces;
uint64_t bytes_held(void) { return held; }
void set_room(uint64_t bytes) { room = bytes; }
Failure current_gpu(Gpu **found) { return *found = &gpu, (Failure)0; }
Failure enter(const Gpu *entered) { return (void)entered, (Failure)0; }
void leave(void) {}
Failure allocate(uint64_t bytes, DevicePointer *memory) {
    if (held + bytes > room) return "out of memory";
    size[pieces] = bytes;
    held += bytes;
    *memory = (uint64_t)++pieces << 40;
    return 0;
}
void release(DevicePointer memory) { held -= size[(memory >> 40) - 1]; }
"""
pytestmark = pytest.mark.skipif(COMPILER is None or SOURCES is None, reason="no C compiler")
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    (folder / "driver.c").write_text(DRIVER)
    command = [COMPILER, "-std=gnu11", "-O1", "-I", SOURCES, "-shared", "-fPIC", "-pthread", "-o", folder / "pool.so"]
    subprocess.run([*command, folder / "driver.c", SOURCES / "pool.c"], check=True)
    loaded = ctypes.CDLL(str(folder / "pool.so"))
    loaded.tansor_pool_allocate.restype, loaded.tansor_pool_allocate.argtypes = ctypes.c_uint64, [ctypes.c_size_t]
    loaded.tansor_pool_free.argtypes, loaded.set_room.argtypes = [ctypes.c_uint64], [ctypes.c_uint64]
    loaded.bytes_held.restype = ctypes.c_uint64
    return loaded


sizes = st.integers(1, 5000) | st.integers(1, 40 * MEGABYTE)


@given(st.lists(st.tuples(sizes, st.integers(0, 5)), max_size=60))
def test_pieces_never_overlap_and_all_go_back(pool, requests):
    pool.set_room(1 << 34)
    live = {}
    for size, give_back in requests:
        for address in list(live)[:give_back]:
            pool.tansor_pool_free(address)
            del live[address]
        address = pool.tansor_pool_allocate(size)
        assert address % 256 == 0
        assert all(address + size <= a or a + s <= address for a, s in live.items())
        live[address] = size
    for address in live:
        pool.tansor_pool_free(address)
    pool.tansor_pool_empty()
    assert pool.bytes_held() == 0


def test_a_run_that_repeats_takes_nothing_more(pool):
    """Two layers at once and a table at both ends, with something small in between that stays."""
    pool.set_room(1 << 34)

    def run():
        table = pool.tansor_pool_allocate(200 * MEGABYTE)
        kept = pool.tansor_pool_allocate(4096)
        pool.tansor_pool_free(table)
        before = pool.tansor_pool_allocate(8 * MEGABYTE)
        for _ in range(10):
            layer = pool.tansor_pool_allocate(8 * MEGABYTE)
            pool.tansor_pool_free(before)
            before = layer
        pool.tansor_pool_free(before)
        table = pool.tansor_pool_allocate(200 * MEGABYTE)
        pool.tansor_pool_free(table)
        pool.tansor_pool_free(kept)

    run()
    held = pool.bytes_held()
    assert held <= (200 + 32) * MEGABYTE
    for _ in range(5):
        run()
    assert pool.bytes_held() == held
    pool.tansor_pool_empty()


def test_what_is_not_used_makes_room(pool):
    pool.set_room(100 * MEGABYTE)
    pool.tansor_pool_free(pool.tansor_pool_allocate(90 * MEGABYTE))
    address = pool.tansor_pool_allocate(60 * MEGABYTE)
    assert address
    assert pool.tansor_pool_allocate(60 * MEGABYTE) == 0
    pool.tansor_pool_free(address)
    pool.tansor_pool_empty()
    assert pool.bytes_held() == 0


def test_a_piece_that_fits_where_no_chunk_does_is_given(pool):
    """A chunk of 32 MB holds two pieces of 15; behind it is room for one more piece, not for another chunk."""
    pool.set_room(50 * MEGABYTE)
    pieces = [pool.tansor_pool_allocate(15 * MEGABYTE) for _ in range(3)]
    assert all(pieces)
    assert pool.bytes_held() == 47 * MEGABYTE
    assert pool.tansor_pool_allocate(15 * MEGABYTE) == 0
    for piece in pieces:
        pool.tansor_pool_free(piece)
    pool.tansor_pool_empty()
    assert pool.bytes_held() == 0
