"""Do decoders agree? Each gives symbols or refuses; what else happens is a find."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.errors import StreamError

Decoder = Callable[[bytes], npt.NDArray[Any]]


def outcome(decoder: Decoder, data: bytes) -> npt.NDArray[Any] | str:
    """What a decoder makes of the bytes: an array, or the name of the `StreamError` that it raised.

    Examples
    --------
    >>> from codec import decode
    >>> outcome(decode, b"tANS")
    'Truncated'
    """
    try:
        return decoder(data)
    except StreamError as error:
        return type(error).__name__


def same(first: npt.NDArray[Any] | str, second: npt.NDArray[Any] | str) -> bool:
    """Whether two outcomes are equal. One symbol repeated as a view is compared without writing it out.

    Examples
    --------
    >>> same(np.broadcast_to(np.uint8(7), 1 << 62), np.broadcast_to(np.uint8(7), 1 << 62)), same("Corrupt", "Truncated")
    (True, False)
    """
    if isinstance(first, str) or isinstance(second, str):
        return isinstance(first, str) and isinstance(second, str) and first == second
    if first.shape == second.shape and not any(first.strides) and not any(second.strides):
        first, second = first[:1], second[:1]
    return np.array_equal(first, second)


def disagreement(data: bytes, **decoders: Decoder) -> str | None:
    """None if all decoders come to one outcome, else words about each.

    Examples
    --------
    >>> from codec import decode
    >>> disagreement(b"", ours=decode, mine=lambda data: np.frombuffer(data, np.uint8))
    'ours: Truncated; mine: 0 symbols'
    """
    outcomes = {name: outcome(decoder, data) for name, decoder in decoders.items()}
    first = next(iter(outcomes.values()))
    if all(same(first, other) for other in outcomes.values()):
        return None
    return "; ".join(f"{name}: {o if isinstance(o, str) else f'{o.size} symbols'}" for name, o in outcomes.items())
