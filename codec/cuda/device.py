"""What the decoder asks of a device, and CuPy as one that gives it."""

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from refimpl.errors import InvalidArgument, LimitExceeded

KERNELS = Path(__file__).with_name("decode.cu")
STATIC_SHARED_BYTES = 48 << 10  # more must be allowed for each kernel
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Device(Protocol):
    """Memory and kernels of a GPU. Arrays are the device's own."""

    multiprocessors: int
    shared_bytes: int  # that a block can have

    def array(self, host: npt.NDArray[Any]) -> Any:
        """A copy on the device."""

    def empty(self, size: int, dtype: Any) -> Any:
        """Memory for so many elements, of shape (size,), aligned to 16 bytes or more.

        Raises
        ------
        LimitExceeded
            There is not so much.
        """

    def host(self, array: Any) -> npt.NDArray[Any]:
        """A copy on the host, when all that was launched is done."""

    def launch(self, kernel: str, blocks: int, threads: int, shared_bytes: int, arguments: Sequence[Any]) -> None:
        """Launch a kernel. Arguments are arrays of the device, None for null, or NumPy numbers."""


class CupyDevice:
    """The current device and stream of CuPy."""

    def __init__(self, cupy: Any, index: int) -> None:
        self.cupy = cupy
        attributes = cupy.cuda.Device(index).attributes
        self.multiprocessors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.modules: dict[tuple[str, ...], Any] = {}
        self.kernels: dict[str, Any] = {}

    def array(self, host: npt.NDArray[Any]) -> Any:
        """A copy on the device."""
        copy = self.empty(host.size, host.dtype)
        copy.set(np.ascontiguousarray(host).reshape(-1))
        return copy

    def empty(self, size: int, dtype: Any) -> Any:
        """Memory for so many elements."""
        try:
            return self.cupy.empty(size, dtype)
        except (self.cupy.cuda.memory.OutOfMemoryError, MemoryError, OverflowError, ValueError):
            raise LimitExceeded(f"{size} elements do not fit in the device's memory") from None
        except self.cupy.cuda.runtime.CUDARuntimeError as error:  # the same where CuPy's pool of memory is switched off
            if error.status != OUT_OF_MEMORY:
                raise
            raise LimitExceeded(f"{size} elements do not fit in the device's memory") from None

    def host(self, array: Any) -> npt.NDArray[Any]:
        """A copy on the host."""
        return self.cupy.asnumpy(array)

    def launch(self, kernel: str, blocks: int, threads: int, shared_bytes: int, arguments: Sequence[Any]) -> None:
        """Launch a kernel on CuPy's current stream."""
        function = self.kernels.get(kernel)
        if function is None:
            function = self.kernels[kernel] = self.module(kernel).get_function(kernel)
        if shared_bytes > STATIC_SHARED_BYTES and function.max_dynamic_shared_size_bytes < shared_bytes:
            function.max_dynamic_shared_size_bytes = shared_bytes
        null = np.uintp(0)
        function((blocks,), (threads,), tuple(null if a is None else a for a in arguments), shared_mem=shared_bytes)

    def module(self, kernel: str) -> Any:
        """The compiled text with a kernel; each type of element is compiled by itself, when it is needed first."""
        options = kernel_options(kernel)
        if options not in self.modules:
            text = KERNELS.read_text(encoding="utf-8")
            self.modules[options] = self.cupy.RawModule(code=text, options=("--std=c++17", *options))
        return self.modules[options]


def kernel_options(kernel: str) -> tuple[str, ...]:
    """Options that leave out of the text what a kernel does not need.

    Examples
    --------
    >>> kernel_options("tans_model"), kernel_options("tans_partial_float16_packed")
    (('-DTANS_ONLY_symbols',), ('-DTANS_ONLY_float16', '-DTANS_PARTIAL'))
    """
    typed = kernel.startswith(("tans_decode_", "tans_values_", "tans_partial_"))
    only = f"-DTANS_ONLY_{kernel.split('_')[2] if typed else 'symbols'}"
    return (only, "-DTANS_PARTIAL") if kernel.startswith("tans_partial_") else (only,)


def current_device() -> Device:
    """CuPy's current device.

    Raises
    ------
    InvalidArgument
        CuPy is not installed, or finds no device.
    """
    try:
        cupy = importlib.import_module("cupy")
        index = cupy.cuda.Device().id
    except ImportError:
        raise InvalidArgument("decoding on a GPU needs CuPy: pip install 'tansor[cuda]'") from None
    except Exception as error:  # CuPy's word for no driver or no device is one of CUDA's
        raise InvalidArgument(f"CuPy finds no CUDA device: {error}") from None
    return cupy_device(index)


@cache
def cupy_device(index: int) -> CupyDevice:
    """The device of this number, its kernels compiled once in a process."""
    return CupyDevice(importlib.import_module("cupy"), index)
