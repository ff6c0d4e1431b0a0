"""Tied weights: equal bytes are stored once, also if one is the transpose of the other.

Exporters unfold a shared embedding into a table for Gather and a transposed copy for MatMul.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_export.weights import Constant, fingerprint


@dataclass(frozen=True)
class Tie:
    """What a tied tensor equals."""

    source: str
    transposed: bool


def find_ties(constants: Sequence[Constant]) -> tuple[list[Constant], dict[str, Tie]]:
    """(tensors to store, tied tensor -> what it equals).

    Readers of a tied tensor are added to those of the stored one, so that its statistics see all uses.
    """
    stored: dict[bytes, Constant] = {}
    ties: dict[str, Tie] = {}
    for constant in constants:
        key = fingerprint(constant.array)
        flipped = fingerprint(constant.array.T) if constant.array.ndim == 2 else key
        match = next((k for k in (key, flipped) if k in stored), None)
        if match is None:
            stored[key] = constant
            continue
        first, transposed = stored[match], match != key
        ties[constant.name] = Tie(first.name, transposed)
        moved = [replace(r, input_axis=1 - r.input_axis) if transposed else r for r in constant.readers]
        stored[match] = replace(
            first,
            readers=first.readers + tuple(r for r in moved if r.input_axis == first.input_axis),
        )
    return list(stored.values()), ties
