"""The decoder on a GPU: frames and stored tensors to device arrays, without a session of ONNX Runtime.

Reading order: decode.cu (the kernels, and the interface to call them from any language), launch, broadcasting,
device, blocks, tensors. Needs CuPy, the extra `cuda`. Design and measurements: docs/gpu.md.
"""

from codec.cuda.tensors import decode, decode_frame, load

__all__ = ["decode", "decode_frame", "load"]
