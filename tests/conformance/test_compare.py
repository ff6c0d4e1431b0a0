import ml_dtypes
import numpy as np
import pytest

from conformance.compare import Answer, difference, fault
from conformance.vectors import Case, StoredArray, Tolerance, hash_of

right = np.arange(6, dtype=np.int16).reshape(2, 3)
STORED = StoredArray("int16", (2, 3), values=tuple(range(6)))


def case(**changes):
    return Case(
        **({"step": "spread", "name": "x", "flags": (), "inputs": {}, "parameters": {}, "outputs": {}} | changes)
    )


@pytest.mark.parametrize("value", [right, right.tolist(), right.astype("<i2").tobytes(), np.asfortranarray(right)])
def test_right_arrays_in_any_form_pass(value):
    assert difference("a", value, STORED, None) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (right + 1, "a[0, 0] is 1, expected 0 (6 of 6 elements differ)"),
        (right.astype(np.int32), "a has dtype int32, expected int16"),
        (right.astype(">i2"), "a has dtype >i2, expected int16"),
        (right.T, "a has shape (3, 2), expected (2, 3)"),
        (right.tobytes()[:-2], "a has shape (5,), expected (2, 3)"),
        (right.tobytes()[:-1], "a is no int16 array"),
        ([[99999, 1, 2], [3, 4, 5]], "a is no int16 array"),
        ("text", "a is no int16 array"),
        (None, "a is no int16 array"),
        ({"a": 1}, "a is no int16 array"),
    ],
)
def test_wrong_arrays_are_told_apart(value, words):
    assert words in difference("a", value, STORED, None)


def test_bits_are_compared_not_values():
    zero = StoredArray("float32", (1,), hex="00000000")
    assert difference("a", np.zeros(1, np.float32), zero, None) is None
    assert "a[0] is -0.0, expected 0.0" in difference("a", -np.zeros(1, np.float32), zero, None)
    nan = StoredArray("float32", (1,), hex="0000c07f")
    assert difference("a", np.full(1, np.nan, np.float32), nan, None) is None
    brain = StoredArray("bfloat16", (1,), hex="c03f")
    assert difference("a", np.array([1.5], ml_dtypes.bfloat16), brain, None) is None
    assert difference("a", bytes.fromhex("c03f"), brain, None) is None


def test_a_tolerance_is_a_tolerance():
    one = StoredArray("float32", (1,), hex="0000803f")
    near = Tolerance(1e-6, 0.0, "pow")
    assert difference("a", np.array([1 + 5e-7], np.float32), one, near) is None
    assert difference("a", np.array([1 + 5e-7], np.float32), one, None) is not None
    assert difference("a", np.array([1.1], np.float32), one, near) is not None
    assert difference("a", np.array([np.nan], np.float32), one, near) is not None


def test_scalars_and_hashes():
    scalar = StoredArray("int64", (), values=(5,))
    assert difference("a", 5, scalar, None) is None
    assert difference("a", np.int64(5), scalar, None) is None
    assert difference("a", 6, scalar, None) == "a is 6, expected 5 (1 of 1 elements differ)"
    hashed = StoredArray("int16", (2, 3), sha256=hash_of(right))
    assert difference("a", right, hashed, None) is None
    assert "SHA-256" in difference("a", right + 1, hashed, None)
    assert "shape" in difference("a", right[:1], hashed, None)


def test_answers_are_judged():
    good = case(outputs={"a": STORED})
    assert fault(good, Answer({"a": right})) is None
    assert fault(good, Answer({"b": right})) == "outputs are b, expected a"
    assert fault(good, Answer({"a": right, "b": right})) == "outputs are a, b, expected a"
    assert fault(good, Answer(error=("Corrupt",), text="why")) == "refused with Corrupt (why), expected a"
    assert fault(good, Answer(text="killed by SIGSEGV")) == "killed by SIGSEGV, expected a"
    bad = case(error="Corrupt")
    assert fault(bad, Answer(error=("Corrupt",))) is None
    assert fault(bad, Answer(error=("Mine", "Corrupt", "Exception"))) is None
    assert fault(bad, Answer({"a": right})) == "not refused, expected Corrupt"
    assert fault(bad, Answer(error=("Truncated",))) == "refused with Truncated, expected Corrupt"
    assert fault(bad, Answer(text="no answer in 60 seconds")) == "no answer in 60 seconds, expected Corrupt"
