"""What a method is: what is done to a model, and to which of its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

Scope = Literal["all", "linear"]


@dataclass(frozen=True)
class Priced:
    """A plain model with the weights of a format that this package does not write, and what it would store."""

    model: onnx.ModelProto
    stored_bytes: float  # of the weights in scope: codes, scales, zero points, and what is left as it was
    entropy_bytes: float | None = None  # the same with codes at their entropy


Transform = Callable[[onnx.ModelProto, Path, Path], onnx.ModelProto | Priced]


@dataclass(frozen=True)
class Method:
    """What is done to a model: first ``transform``, if there is one, then ``tansor.compress``.

    Calibration samples are passed to both; ``"calibration": None`` among the arguments leaves compress without.
    A transform alone: the arguments `AS_IT_IS`, which code nothing and count what is stored. What a transform
    returns as `Priced` is judged as it is, at that price.

    In the scope ``linear`` the weights of linear layers alone are compressed and counted, a target of bits is theirs,
    and all others are left as they are. Methods of that scope, and those that know linear layers alone, are for tasks
    with such layers.
    """

    name: str  # of the curve
    setting: str = ""  # where on it
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of compress, beside the files
    transform: Transform | None = None  # (model, calibration samples, folder for what it measures) -> model or Priced
    scope: Scope = "all"
    linear_only: bool = False  # whether it knows linear layers alone

    @property
    def label(self) -> str:
        """Name, setting and scope."""
        return f"{self.name} {self.setting}{' of linear layers' * (self.scope == 'linear')}".replace("  ", " ").strip()


LOSSLESS: Mapping[str, Any] = {"recipe": "lossless", "calibration": None}
AS_IT_IS: Mapping[str, Any] = {**LOSSLESS, "exclude": ("*",)}
