"""The kernels of codec/cuda/decode.cu compiled for the CPU: a device for tests without a GPU."""

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path

import numpy as np

from codec.cuda.device import KERNELS
from refimpl.errors import LimitExceeded

FOLDER = Path(__file__).parent
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", f'-DKERNELS_TEXT="{KERNELS}"']
MEMORY = 1 << 28  # bytes that an array can have
libc = ctypes.CDLL(None, use_errno=True)


def build(folder):
    """The library with the kernels."""
    library = Path(folder) / "kernels.so"
    subprocess.run([COMPILER, *FLAGS, "-o", library, FOLDER / "emulator.cpp"], check=True)
    return ctypes.CDLL(str(library))


class EmulatedDevice:
    """Runs one block after the other, and one thread at a time from barrier to barrier.

    Every array ends at a page that nobody may touch, or less than 16 bytes before it where the decoder writes it.
    """

    def __init__(self, library, multiprocessors=3, shared_bytes=64 << 10):
        self.library = library
        self.multiprocessors = multiprocessors
        self.shared_bytes = shared_bytes

    def array(self, host):
        copy = before_guard(host.size, host.dtype, host.itemsize)
        copy[...] = host.reshape(-1)
        return copy

    def empty(self, size, dtype):
        if size * np.dtype(dtype).itemsize > MEMORY:
            raise LimitExceeded(f"{size} elements")
        array = before_guard(size, np.dtype(dtype), 16)
        array.view(np.uint8)[...] = 0xA5  # what nobody writes should show
        return array

    def host(self, array):
        return array.copy()

    def launch(self, kernel, blocks, threads, shared_bytes, arguments):
        threads = 256 if kernel == "tans_model" else threads  # so many are enough, and a barrier costs each of them
        values = [as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        assert self.library.launch(kernel.encode(), blocks, threads, shared_bytes, pointers) == 0, kernel


def as_c(argument):
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    return {4: ctypes.c_uint32, 8: ctypes.c_uint64}[argument.itemsize](int(argument))


def before_guard(size, dtype, alignment):
    """Memory that ends at a forbidden page, or less than ``alignment`` bytes before it."""
    length, page = size * dtype.itemsize, mmap.PAGESIZE
    pages = -(-length // page)
    memory = np.frombuffer(mmap.mmap(-1, (pages + 1) * page), np.uint8)
    if libc.mprotect(ctypes.c_void_p(memory.ctypes.data + pages * page), ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    begin = (pages * page - length) // alignment * alignment
    return memory[begin : begin + length].view(dtype)
