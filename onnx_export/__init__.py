"""From model to smaller model and back: calibration, graph rewriting, sessions, command line.

Reading order: weights (finding them), calibration, tensors (compressing one), functions (the ONNX bodies),
calls and rewrite (the graph), then the verbs: compress, decompress, inspect, verify, session, evaluate.
"""
