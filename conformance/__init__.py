"""Golden cases that a backend in any language is tested against, and the programs that do it.

Reading order: steps (what a backend may offer), vectors (the cases), lcg, compare, python_backend and
command_backend (two ways to ask), run, suite (the same under pytest), backends (our own two).
How to use it: docs/conformance.md.
"""
