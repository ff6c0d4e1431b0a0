"""The tANS codec jitted by Numba, and the byte formats around it.

Reading order: kernels (twins of refimpl.tans), frame, tensor, container.
"""

from codec.frame import decode, encode

__all__ = ["encode", "decode"]
