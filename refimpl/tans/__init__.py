"""tANS, vectorized over lanes in plain NumPy.

Reading order: counts, spread, tables, bits, lanes, encoding, decoding, stream, blocks.
"""
