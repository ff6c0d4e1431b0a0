"""tansor: double compression of neural-network weights.

>>> import tansor
>>> sorted(tansor.__all__)
['compress', 'decompress', 'inspect', 'load_session', 'verify']
"""

from onnx_export import compress, decompress, inspect, load_session, verify

__all__ = ["compress", "decompress", "inspect", "load_session", "verify"]

if __name__ == "__main__":
    import sys

    from onnx_export.cli import main

    sys.exit(main())
