"""Bytes from anywhere: whatever they are, they end in symbols or in the right error, and nothing outside is read."""

import os
import signal
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from frames import HEADER, SMALL, damaged, decode_whatever_it_is, reseal

from codec import decode
from codec.frame import read_frame
from codec.kernels import NUMBA, numba_kernels
from refimpl.errors import Corrupt, LimitExceeded, Truncated, UnsupportedVersion
from refimpl.tans.stream import NUMPY

ROOT = Path(__file__).parents[2]
STREAM_ERRORS = (Truncated, Corrupt, UnsupportedVersion, LimitExceeded)
every_frame = pytest.mark.parametrize("name", SMALL)


def outcome(data, kernels):
    try:
        symbols = decode_whatever_it_is(data, kernels)
    except STREAM_ERRORS as error:
        return type(error)
    return len(symbols), symbols[:5000].tobytes(), symbols[-5000:].tobytes()


@every_frame
def test_small_frames_decode(name):
    for kernels in (NUMPY, NUMBA, numba_kernels(2)):
        symbols = decode(SMALL[name], kernels=kernels)
        assert len(symbols) == read_frame(SMALL[name]).block.symbol_count


@every_frame
def test_every_truncation_is_called_truncated(name):
    for size in range(len(SMALL[name])):
        data = SMALL[name][:size]
        for bytes_ in (data, reseal(data)) if size >= HEADER.size else (data,):
            with pytest.raises(Truncated):
                read_frame(bytes_)


@every_frame
def test_every_damaged_byte_ends_alike_in_both_kernels(name):
    kinds = set()
    step = 1 + len(SMALL[name]) // 200
    for data in islice(damaged(SMALL[name]), 0, None, step):
        found = outcome(data, NUMPY)
        assert outcome(data, NUMBA) == found, data.hex()
        kinds.add(found if isinstance(found, type) else "symbols")
    assert {Corrupt, UnsupportedVersion} <= kinds
    assert "symbols" in kinds  # the checksum of the symbols, at least, was changed


@every_frame
def test_the_version_and_what_is_reserved_have_their_errors(name):
    for at, error in [(0, Corrupt), (3, Corrupt), (4, UnsupportedVersion), (7, Corrupt)]:
        data = bytearray(SMALL[name])
        data[at] ^= 0x10
        assert outcome(reseal(bytes(data)), NUMBA) is error


@every_frame
def test_no_damaged_byte_takes_much_memory(name):
    step = 1 + len(SMALL[name]) // 100  # tracing is slow
    tracemalloc.start()
    try:
        for data in islice(damaged(SMALL[name]), 0, None, step):
            outcome(data, NUMBA)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def run_guarded(*arguments):
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("guarded_pages.py")), *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux' mprotect")
@pytest.mark.parametrize("side", ["end", "start"])
def test_a_step_outside_ends_the_process(side):
    assert run_guarded("touch", side).returncode == -signal.SIGSEGV


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux' mprotect")
@pytest.mark.parametrize("options", [[], ["other look-ups"]], ids=["this processor's look-ups", "the other look-ups"])
def test_the_kernels_stay_inside_their_arrays(options):
    result = run_guarded(*options)
    assert (result.returncode, result.stdout) == (0, "unharmed\n"), result.stderr
