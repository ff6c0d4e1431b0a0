"""The canonical math of double compression in plain NumPy: arrays in, arrays out.

Reading order: numerics, scaling, quantization, pruning, pipeline, metrics; then `refimpl.tans`.
"""
