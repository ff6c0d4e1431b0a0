"""What is compressed makes the smallest file: the greedy choice against all choices, and sizes against files."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_export_models import call_model
from strategies import rng

from codec.tensor import load, store_weight
from onnx_export import paying
from onnx_export.calls import write_call
from onnx_export.functions import BODIES, closure, functions
from onnx_export.paying import Form, cheapest, forms_of, framed_bytes, function_bytes, make_form, smallest
from onnx_export.tensors import as_raw

KINDS = ("DecompressLinear", "DecompressClassesLinear", "DecompressPackedLinear", "RawLinear", "RawPackedLinear")


def form(size, kind):
    return Form(None, None, size, frozenset(closure([kind])))


forms = st.lists(
    st.tuples(st.integers(200, 9000), st.lists(st.tuples(st.integers(50, 8000), st.sampled_from(KINDS)), max_size=2)),
    max_size=4,
).map(lambda ways: ({str(i): [form(*w) for w in few] for i, (_, few) in enumerate(ways)},
                    {str(i): size for i, (size, _) in enumerate(ways)}))  # fmt: skip


def total(choice, plain):
    needed = set().union(*(f.functions for f in choice.values()))
    fixed = paying.MARK_BYTES * bool(choice) + sum(function_bytes()[n] for n in needed)
    return fixed + sum(choice[n].size if n in choice else size for n, size in plain.items())


@given(forms)
def test_no_file_is_larger_than_with_all_or_nothing(drawn):
    ways, plain = drawn
    found = total(smallest(ways, plain), plain)
    assert found <= total({}, plain)
    assert found <= total({n: min(w, key=lambda f: f.size) for n, w in ways.items() if w}, plain)
    without = [cheapest(ways, plain, {name})[0] for name in BODIES]
    assert found <= min([*without, cheapest(ways, plain, set())[0]])


@given(forms)
def test_it_is_seldom_far_from_the_best_of_all_choices(drawn):
    ways, plain = drawn
    names = list(ways)
    every = [
        total({n: f for n, f in zip(names, pick, strict=True) if f is not None}, plain)
        for pick in product(*([None, *ways[n]] for n in names))
    ]
    assert min(every, default=0) <= total(smallest(ways, plain), plain) <= 1.05 * min(every, default=0)


@pytest.mark.parametrize("largest", [3, 200])
def test_sizes_are_those_in_a_file(largest):
    symbols = np.minimum(rng(0).geometric(0.3, (40, 50)), largest).astype(np.uint8)
    stored = store_weight(symbols, np.array(1, np.uint8), np.array(0.5, np.float32), "float32")
    coded, raw = forms_of("layers.0.weight", stored, write_call("layers.0.weight", stored))
    assert np.array_equal(load(raw.stored), load(coded.stored))
    assert raw.call.node.op_type == ("RawPackedLinear" if largest < 16 else "RawLinear")
    for one in (coded, raw):
        with_call = call_model("layers.0.weight", one.stored)
        bare = type(with_call).FromString(with_call.SerializeToString())
        del bare.functions[:], bare.graph.node[:-1], bare.graph.initializer[:], bare.graph.value_info[:]
        needed = functions(one.call.functions, 21)
        assert {f.name for f in needed} == one.functions
        grown = with_call.ByteSize() - bare.ByteSize() - sum(map(framed_bytes, needed))
        assert abs(grown - one.size) <= 8  # lengths of what is around it


def test_a_weight_that_pays_for_all_functions_has_one_form():
    symbols = np.zeros((400, 500), np.uint8)
    symbols[0, 0] = 1
    stored = store_weight(symbols, np.array(0, np.uint8), np.array(1, np.float32), "float32")
    assert len(forms_of("w", stored, write_call("w", stored))) == 1
    assert forms_of("w", stored, None) == []


def test_raw_forms_keep_the_checksum():
    symbols = rng(1).integers(0, 16, 999).astype(np.uint8)
    stored = store_weight(symbols, np.array(0, np.uint8), np.array(1, np.float32), "float32")
    raw = as_raw(stored)
    assert raw.frame.symbols_crc == stored.frame.symbols_crc
    assert make_form("w", raw, write_call("w", raw)).size < 999
