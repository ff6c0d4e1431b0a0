"""The kit can fail: backends that are wrong in one place each."""

import struct
import zlib

import numpy as np
import pytest

from codec.frame import FRAME_CRC_AT, HEADER
from conformance.backends import Reference
from conformance.python_backend import offered
from conformance.run import run
from conformance.vectors import load_cases
from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.stream import NUMPY

CASES = load_cases()


def reseal(data):
    """The bytes with a frame checksum that is right."""
    if len(data) < HEADER.size:
        return data
    crc = zlib.crc32(data[FRAME_CRC_AT + 4 :], zlib.crc32(data[:FRAME_CRC_AT]))
    return data[:FRAME_CRC_AT] + struct.pack("<I", crc) + data[FRAME_CRC_AT + 4 :]


class RoundsHalfUp(Reference):
    def quantize(self, weight, bits, symmetric, granularity, group_size):
        codes, scale, zero_point = super().quantize(weight, bits, symmetric, granularity, group_size)
        if granularity == "tensor" and weight.size:
            steps = np.floor(weight.astype(np.float32) / scale + np.float32(0.5)) + zero_point
            limit = 2 ** (bits - 1) - 1
            codes = np.clip(steps, *((-limit, limit) if symmetric else (0, 2 * limit + 1))).astype(codes.dtype)
        return codes, scale, zero_point


class MultipliesByTheReciprocal(Reference):
    def quantize(self, weight, bits, symmetric, granularity, group_size):
        codes, scale, zero_point = super().quantize(weight, bits, symmetric, granularity, group_size)
        return codes, (1 / (1 / scale)).astype(np.float32) * np.float32(1 + 2**-23), zero_point


class DecodesOneLess(Reference):
    def decode(self, frame):
        return super().decode(frame)[:-1]


class IgnoresTheChecksum(Reference):
    def decode(self, frame):
        return super().decode(np.frombuffer(reseal(frame.tobytes()), np.uint8))


class CallsEverythingCorrupt(Reference):
    def decode(self, frame):
        try:
            return super().decode(frame)
        except ValueError:
            raise Corrupt("something") from None


class RefusesNothing(Reference):
    def decode(self, frame):
        try:
            return super().decode(frame)
        except ValueError:
            return np.empty(0, np.uint8)


class PrunesLaterTies(Reference):
    def select(self, score, k):
        order = np.argsort(score.ravel()[::-1], kind="stable")[:k]
        mask = np.zeros(score.size, bool)
        mask[score.size - 1 - order] = True
        return mask.reshape(score.shape)


class CountsInBinary(Reference):
    def prune(self, weight, codes, zero_point, score, sparsity, activation_max=None):
        k = int(weight.size * sparsity) / max(weight.size, 1)
        return super().prune(weight, codes, zero_point, score, k, activation_max)


class OtherSpread(Reference):
    def spread(self, counts):
        return np.sort(super().spread(counts))


class OtherDtype(Reference):
    def normalize_counts(self, histogram, table_log):
        return super().normalize_counts(histogram, table_log).astype(np.int32)


class Crashes(Reference):
    def encode(self, symbols, **parameters):
        raise RuntimeError(f"no room for {len(symbols)} symbols with {parameters}")


WRONG = {
    RoundsHalfUp: ("quantize", "quantize/halves-symmetric-tensor"),
    MultipliesByTheReciprocal: ("quantize", "quantize/drawn-symmetric-tensor"),
    DecodesOneLess: ("decode", "decode/coded"),
    IgnoresTheChecksum: ("decode", "decode/constant-other-symbol"),
    CallsEverythingCorrupt: ("decode", "decode/truncated-at-17"),
    RefusesNothing: ("decode", "decode/coded-symbols-crc"),
    PrunesLaterTies: ("select", "select/equal-3"),
    CountsInBinary: ("prune", "prune/decimal-sparsity"),
    OtherSpread: ("spread", "spread/example"),
    OtherDtype: ("normalize_counts", "normalize_counts/example-5"),
    Crashes: ("encode", "encode/example"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_backend_is_caught_where_it_is_wrong(wrong):
    step, known = WRONG[wrong]
    failed = {result.id for result in run(wrong("wrong", NUMPY), load_cases([step])) if result.status == "failed"}
    assert known in failed
    assert {case.id.split("/")[0] for case in CASES if case.id in failed} == {step}


def test_steps_that_are_missing_are_skipped():
    class Some:
        def spread(self, counts):
            return Reference("some", NUMPY).spread(counts)

    results = run(Some(), CASES)
    assert [r.id for r in results] == [case.id for case in CASES]
    assert {r.status for r in results if r.id.startswith("spread/")} == {"passed"}
    assert {r.status for r in results if not r.id.startswith("spread/")} == {"skipped"}
    assert offered(Some()) == ["spread"]


def test_at_least_one_job_is_needed():
    with pytest.raises(InvalidArgument, match="jobs is 0"):
        run(Reference("x", NUMPY), [], jobs=0)
