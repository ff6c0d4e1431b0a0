"""tansor: double compression of neural-network weights.

The verbs of the command line as functions; each is imported when it is first used.

>>> import tansor
>>> tansor.compress.__module__
'onnx_export.compress'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_export.compress import compress
    from onnx_export.decompress import decompress
    from onnx_export.evaluate import evaluate
    from onnx_export.inspect import inspect
    from onnx_export.session import load_session, run
    from onnx_export.verify import verify

HOMES = {
    "compress": "onnx_export.compress",
    "decompress": "onnx_export.decompress",
    "evaluate": "onnx_export.evaluate",
    "inspect": "onnx_export.inspect",
    "load_session": "onnx_export.session",
    "run": "onnx_export.session",
    "verify": "onnx_export.verify",
}
__all__ = ["compress", "decompress", "evaluate", "inspect", "load_session", "run", "verify"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


if __name__ == "__main__":
    import sys

    from onnx_export.cli import main

    sys.exit(main())
