"""Which weights to compress, and how, so that the file is smallest: whole bytes of the file are counted.

A compressed weight takes a node, inputs with their names, scales, and its share of the functions that decode, which all
weights have in common. Coding a few small weights may cost more than it saves; stored raw, a byte for each weight, they
need only the function that dequantizes.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from google.protobuf.message import Message
from onnx import helper

from codec.tensor import BandedTensor, Stored, store_weight
from onnx_export.calls import ELEMENT_TYPES, Call, write_call
from onnx_export.functions import BODIES, MIN_OPSET, closure, functions
from onnx_export.tensors import Result, Tensor, as_raw
from onnx_export.ties import Tie

MARK_BYTES = 100  # of a file: the import of the domain, and the note of what made it
Results = dict[str, Result]  # no call where a weight stays as it is


@dataclass(frozen=True)
class Form:
    """A way to keep a weight compressed."""

    stored: Stored
    call: Call
    size: int  # bytes that it adds to the file, functions left out
    functions: frozenset[str]  # that the file then needs


Choice = dict[str, Form]  # by name of the weight; those that are not there stay as they are


def keep_what_pays(results: Results, ties: Mapping[str, Tie]) -> Results:
    """The results with weights stored raw, or left as they are, where that makes the file smaller.

    Parameters
    ----------
    results : dict
        By name of the weight.
    ties : mapping
        Tied weight -> what it equals: it stays as it is if that does.
    """
    plain = {name: plain_bytes(name, line) for name, (_, _, line) in results.items()}
    for name, tie in ties.items():
        if tie.source in results:
            plain[tie.source] += plain_bytes(name, results[tie.source][2])
    forms = {name: forms_of(name, stored, call) for name, (stored, call, _) in results.items()}
    chosen = smallest(forms, plain)
    kept: Results = {}
    for name, (stored, call, line) in results.items():
        form = chosen.get(name)
        if form is None:
            kept[name] = stored, None, line
        elif form.call is call:
            kept[name] = stored, call, line
        else:
            size = form.call.stored_bytes
            raw = replace(line, mode="raw", stored_bytes=size, side_bytes=int(size - form.stored.payload_bytes))
            kept[name] = form.stored, form.call, raw
    return kept


def forms_of(name: str, stored: Stored, call: Call | None) -> list[Form]:
    """The ways to keep a weight: as it was coded, and raw if that can be better."""
    if call is None:
        return []
    coded = make_form(name, stored, call)
    if isinstance(stored, BandedTensor) or stored.scale is None or stored.frame.block.stream is None:
        return [coded]
    least = (stored.frame.block.symbol_count + 1) // 2  # bytes that symbols take raw
    if least - stored.frame.block.stored_bits // 8 > sum(map(function_bytes().__getitem__, coded.functions)):
        return [coded]  # it saves more than all functions take
    raw = as_raw(stored)
    return [coded, make_form(name, raw, write_call(name, raw))]


def make_form(name: str, stored: Stored, call: Call) -> Form:
    """A form with its size: nodes, inputs and what is declared of them."""
    result = helper.make_tensor_value_info(name, ELEMENT_TYPES[stored.dtype], stored.shape)
    size = sum(map(framed_bytes, (*call.nodes, *call.inputs, *call.values, result)))
    return Form(stored, call, size, frozenset(closure(call.functions)))


def smallest(forms: Mapping[str, Sequence[Form]], plain: Mapping[str, int]) -> Choice:
    """A form for each weight that is to be compressed, so that all of them and their functions take few bytes.

    Starts with the smallest form of each, and does without the function that costs most more than it saves, again and
    again.

    Parameters
    ----------
    forms : mapping
        Weight -> its forms.
    plain : mapping
        Weight -> bytes that it takes as it is.
    """
    banned: frozenset[str] = frozenset()
    total, chosen = cheapest(forms, plain, banned)
    while chosen:
        used = sorted(set().union(*(form.functions for form in chosen.values())))
        tries = [(cheapest(forms, plain, banned | {name}), name) for name in used]
        (size, choice), name = min(tries, key=lambda t: t[0][0])
        if size >= total:
            break
        total, chosen, banned = size, choice, banned | {name}
    return chosen


def cheapest(forms: Mapping[str, Sequence[Form]], plain: Mapping[str, int], banned: Set[str]) -> tuple[int, Choice]:
    """(bytes of all weights and functions, the smallest form of each weight) without some functions."""
    chosen: Choice = {}
    total = 0
    for name, ways in forms.items():
        usable = [form for form in ways if not form.functions & banned]
        best = min(usable, key=lambda form: form.size, default=None)
        if best is not None and best.size < plain[name]:
            chosen[name] = best
        total += chosen[name].size if name in chosen else plain[name]
    needed = {name for form in chosen.values() for name in form.functions}
    return total + sum(function_bytes()[name] for name in needed) + MARK_BYTES * bool(chosen), chosen


@cache
def function_bytes() -> Mapping[str, int]:
    """Bytes of each function in a file."""
    return {f.name: framed_bytes(f) for f in functions(BODIES, MIN_OPSET)}


def plain_bytes(name: str, line: Tensor) -> int:
    """About what a weight takes as an initializer of this name: its bytes, its name, its shape."""
    return line.original_bytes + len(name) + 16


def is_too_small(name: str, size: int) -> bool:
    """Whether a weight of so many bytes takes fewer than any call would: there is nothing to try.

    Examples
    --------
    >>> is_too_small("weight", 256), is_too_small("weight", 512)
    (True, False)
    """
    return size < least_bytes(len(name.encode()))


@cache
def least_bytes(length: int) -> int:
    """Bytes that the smallest call takes for a weight whose name has this length."""
    name = "w" * length
    one = store_weight(np.zeros((1, 1), np.uint8), np.array(0, np.uint8), np.array(1, np.float32), "float32")
    return make_form(name, one, write_call(name, one)).size


def framed_bytes(message: Message) -> int:
    """Bytes of a protobuf message inside another one: with a tag and its length.

    Examples
    --------
    >>> framed_bytes(helper.make_node("Add", ["a", "b"], ["c"]))
    16
    """
    size = int(message.ByteSize())
    return size + 1 + max(1, -(-size.bit_length() // 7))
