"""The methods that are compared: each entry a point, entries of one name a curve."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx


@dataclass(frozen=True)
class Priced:
    """A plain model with the weights of a format that this package does not write, and what it would store."""

    model: onnx.ModelProto
    stored_bytes: int  # of all weights: codes, scales, zero points, and what is left as it was


Transform = Callable[[onnx.ModelProto, Path], onnx.ModelProto | Priced]


@dataclass(frozen=True)
class Method:
    """What is done to a model: first ``transform``, if there is one, then ``tansor.compress``.

    Calibration samples are passed to both; ``"calibration": None`` among the arguments leaves compress without.
    A transform alone: the arguments `AS_IT_IS`, which code nothing and count what is stored. What a transform
    returns as `Priced` is judged as it is, at that price.
    """

    name: str  # of the curve
    setting: str = ""  # where on it
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of compress, beside the files
    transform: Transform | None = None  # (model, file of calibration samples) -> model or Priced

    @property
    def label(self) -> str:
        """Name and setting."""
        return f"{self.name} {self.setting}".strip()


LOSSLESS: Mapping[str, Any] = {"recipe": "lossless", "calibration": None}
AS_IT_IS: Mapping[str, Any] = {**LOSSLESS, "exclude": ("*",)}

METHODS = (
    Method("lossless", arguments=LOSSLESS),
    Method("double"),
    Method("double", "pruned 0.3", {"sparsity": 0.3}),
    Method("double", "pruned 0.5", {"sparsity": 0.5}),
    Method("double uncalibrated", arguments={"calibration": None}),
    *(
        Method("rate", f"{bits} bits", {"recipe": "rate", "target_bits": bits})
        for bits in (2.0, 2.4, 2.7, 3.0, 3.4, 4.0)
    ),
    Method("rate", arguments={"recipe": "rate"}),
    *(Method("aggressive", f"pruned {s}", {"recipe": "aggressive", "sparsity": s}) for s in (0.5, 0.6, 0.7, 0.8)),
)
