"""The native op library: kernels in C and CUDA for the functions of `ai.tansor`.

ONNX Runtime prefers an operator that is registered under a function's name, so a session that has the library
runs these kernels, and one without runs the functions' bodies. Sources and reading order: tansor.h. Built by
hatch_build.py when tansor is installed. Design and measurements: docs/native.md.
"""

from pathlib import Path

LIBRARY = Path(__file__).with_name("tansor_ops.so")


def library_path() -> Path | None:
    """The library, for ``SessionOptions.register_custom_ops_library``; None if there was no compiler to build it."""
    return LIBRARY if LIBRARY.is_file() else None
