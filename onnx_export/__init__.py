"""From model to smaller model and back: calibration, graph rewriting, sessions, command line.

Reading order: weights (finding them), calibration, tensors (compressing one), functions (the ONNX bodies),
calls and rewrite (the graph), then the verbs: compress, decompress, inspect, verify, session, evaluate.

The verbs are imported when they are first used: `import onnx_export` alone is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_export.compress import compress
    from onnx_export.decompress import decompress
    from onnx_export.inspect import inspect
    from onnx_export.session import load_session
    from onnx_export.verify import verify

__all__ = ["compress", "decompress", "inspect", "load_session", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"onnx_export.{'session' if name == 'load_session' else name}")
    return getattr(module, name)
