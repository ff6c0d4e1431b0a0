"""Builds the native op library with the machine's C compiler (``CC``, else ``cc``) when tansor is installed.

Without a compiler, or if it fails, the wheel has no library: tansor says so and runs the portable function bodies.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("onnx_export", "native")
NAME = "tansor_ops.so"
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-shared", "-pthread"]


class NativeLibrary(BuildHookInterface):  # type: ignore[type-arg]
    """Compile onnx_export/native/*.c and put the library into the wheel, or beside its sources if editable."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, then say where the library goes."""
        self.folder = Path(tempfile.mkdtemp())
        sources = Path(self.root, NATIVE)
        library = self.folder / NAME
        built = compile_library(sources, library)
        if built is not None:
            self.app.display_warning(f"tansor: no native op library, portable function bodies run instead: {built}")
        if version == "editable":
            (sources / NAME).unlink(missing_ok=True)
            if built is None:
                shutil.copy(library, sources / NAME)
        elif built is None:
            build_data["force_include"][str(library)] = str(NATIVE / NAME)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what is in the wheel now."""
        shutil.rmtree(self.folder, ignore_errors=True)


def compile_library(sources: Path, library: Path) -> str | None:
    """Compile all sources; return what went wrong, None for success."""
    if sys.platform == "win32":
        return "it is built on Linux and macOS only"
    files = sorted(path.name for path in sources.glob("*.c"))
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *files, "-o", str(library), "-ldl"]
    try:
        result = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if result.returncode:
        return f"{command[0]} failed: {' '.join(result.stderr.split()[:60]) or f'status {result.returncode}'}"
    return None
