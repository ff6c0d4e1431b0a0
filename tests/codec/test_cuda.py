"""The kernels of codec/cuda against the reference: emulated on the CPU, and on a GPU where there is one."""

import importlib
import math
import zlib
from random import Random

import numpy as np
import pytest
from cuda_emulator import COMPILER, EmulatedDevice, build
from frames import SMALL, coded_frame, damaged, some
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import coded_streams, coder_inputs, rng, seeds

from codec import decode as decode_on_host
from codec import encode
from codec.cuda import decode, load
from codec.cuda.blocks import ELEMENTS, decode_block, upload_block
from codec.cuda.broadcasting import as_run
from codec.cuda.device import current_device
from codec.frame import Frame, make_frame, read_frame
from codec.tensor import StoredTensor, store_integers, store_weight
from codec.tensor import load as load_on_host
from conformance.mutate import mutate
from conformance.vectors import load_cases
from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, StreamError
from refimpl.tans.blocks import Block, Chunks, split_chunks
from refimpl.tans.blocks import decode_block as decode_block_on_host
from refimpl.tans.stream import decode_stream, encode_stream

CASES = load_cases(["decode"])


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels for the CPU")
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def gpu():
    try:
        return current_device()
    except InvalidArgument as error:
        pytest.skip(str(error))


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "gpu":
        return request.getfixturevalue("gpu")
    return EmulatedDevice(request.getfixturevalue("emulator"))


# A device is not changed by what runs on it, so examples may share it.
device_is_shared = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on_device(stream, device, packed=False):
    count = stream.symbol_count * 2 - 1 if packed else stream.symbol_count
    block = Block("coded", count, np.empty(0, np.uint8), stream, packed=packed)
    return device.host(decode_block(upload_block(block, device), device))


def outcome(function):
    try:
        return function().tobytes()
    except StreamError as error:
        return type(error)


@pytest.mark.parametrize("name", SMALL)
def test_small_frames(name, device):
    assert decode(SMALL[name], device=device).tolist() == decode_on_host(SMALL[name]).tolist()


@device_is_shared
@given(coded_streams())
def test_any_stream(device, drawn):
    stream, symbols = drawn
    assert on_device(stream, device).tolist() == symbols.tolist()


@device_is_shared
@given(coder_inputs())
def test_what_the_writer_makes(device, inputs):
    symbols, table_log, lanes = inputs
    stream = encode_stream(symbols, table_log=table_log, lane_count=lanes)
    assert on_device(stream, device).tolist() == symbols.tolist()


@device_is_shared
@given(coded_streams())
def test_packed_streams(device, drawn):
    stream, symbols = drawn
    halves = np.stack([symbols & 15, symbols >> 4], 1).reshape(-1)[:-1]
    if outcome(lambda: decode_stream(stream, packed=True)) is Corrupt:  # one byte repeated
        with pytest.raises(Corrupt):
            on_device(stream, device, packed=True)
    else:
        assert on_device(stream, device, packed=True).tolist() == halves.tolist()


@pytest.mark.parametrize("shared_bytes", [0, 40 << 10, 227 << 10])
@pytest.mark.parametrize("lanes", [1, 31, 33, 1000])
def test_any_geometry(device, lanes, shared_bytes):
    symbols = rng(lanes).normal(100, 20, 20_000).astype(np.uint8)
    stream = encode_stream(symbols, lane_count=lanes)
    if isinstance(device, EmulatedDevice):
        device.shared_bytes = shared_bytes
    assert on_device(stream, device).tolist() == symbols.tolist()


def test_lanes_of_several_blocks_of_the_scan(device):
    symbols = rng(0).integers(0, 3, 30_000).astype(np.uint8)
    assert on_device(encode_stream(symbols, lane_count=9001), device).tolist() == symbols.tolist()


@pytest.mark.parametrize("fraction", [0.25, 0.9])
@pytest.mark.parametrize("size", [6000, 70_001, (1 << 18) + 3])
def test_partial_blocks(device, size, fraction):
    symbols = rng(size).normal(100, 2, size).astype(np.uint8)
    frame = encode(symbols, fraction=fraction)
    assert read_frame(frame).block.mode == "partial"
    assert decode(frame, device=device).tolist() == symbols.tolist()


SHAPES = [(), (1,), (7,), (3, 5), (64, 100), (2, 3, 4, 8), (300, 16)]


@st.composite
def stored_weights(draw):
    """(StoredTensor): any of the shapes, scales of any shape that fits, packed or not, coded or raw."""
    shape = draw(st.sampled_from(SHAPES))
    random = rng(draw(seeds))
    highest = draw(st.sampled_from([2, 15, 255]))
    symbols = random.binomial(highest, 0.3, shape).astype(np.uint8)

    def part():
        cut = shape[draw(st.integers(0, len(shape))) :]
        return tuple(size if draw(st.booleans()) else 1 for size in cut)

    zero_point = random.integers(0, highest, part()).astype(np.uint8)
    scale = (random.standard_normal(part()) * 10.0 ** draw(st.integers(-9, 3))).astype(np.float32)
    dtype = draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    frame = make_frame(symbols, lane_count=draw(st.none() | st.integers(1, min(symbols.size, 40))))
    return StoredTensor(shape, dtype, frame, zero_point, scale)


@device_is_shared
@given(stored_weights())
def test_weights(device, stored):
    values = device.host(load(stored, device=device))
    expected = load_on_host(stored)
    assert values.shape == expected.shape
    bits = np.uint32 if stored.dtype == "float32" else np.uint16
    assert values.view(bits).tolist() == expected.view(bits).tolist()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_large_packed_weights(device, dtype, fraction):
    shape = (515, 513)
    symbols = rng(1).normal(7, 1.5, shape).clip(0, 15).astype(np.uint8)
    scale, zero_point = rng(2).random((515, 1), np.float32), rng(3).integers(0, 16, (1, 513)).astype(np.uint8)
    stored = store_weight(symbols, zero_point, scale, dtype, fraction=fraction)
    assert stored.frame.block.packed
    values = device.host(load(stored, device=device))
    assert values.tobytes() == load_on_host(stored).tobytes()


@st.composite
def partial_weights(draw):
    """(StoredTensor) in mode partial: any cut, with a tail or without, scales along any axes."""
    packed = draw(st.booleans())
    chunk, per_block = draw(st.sampled_from([1, 4, 7, 8, 12, 64])), draw(st.integers(2, 5))
    chunks = Chunks(chunk, per_block, draw(st.integers(1, per_block - 1)))
    rows, columns = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([1, 8, 24, 63]))
    unit_count = chunk * per_block * draw(st.integers(1, 9)) + draw(st.integers(0, 2 * chunk * per_block))
    unit_count = -(-unit_count // (rows * columns)) * rows * columns
    shape = (unit_count * (2 if packed else 1) // (rows * columns), rows, columns)
    random = rng(draw(seeds))
    units = random.binomial(255 if packed else 40, 0.3, unit_count).astype(np.uint8)
    raw, coded = split_chunks(units, chunks)
    stream = encode_stream(coded, lane_count=draw(st.integers(1, min(len(coded), 70))))
    block = Block("partial", math.prod(shape), raw, stream, chunks, packed)

    def part():
        return tuple(size if draw(st.booleans()) else 1 for size in shape)

    scale = random.standard_normal(part()).astype(np.float32)
    zero_point = random.integers(0, 9, part()).astype(np.uint8)
    frame = Frame(block, zlib.crc32(decode_block_on_host(block)))
    return StoredTensor(shape, draw(st.sampled_from(["float32", "float16", "bfloat16"])), frame, zero_point, scale)


@settings(device_is_shared, max_examples=100)
@given(partial_weights())
def test_partial_weights(device, stored):
    assert device.host(load(stored, device=device)).tobytes() == load_on_host(stored).tobytes()


@pytest.mark.parametrize("lanes", [100, 5000])
def test_partial_blocks_on_few_and_many_lanes(device, lanes):
    """More tiles than warps in a round, and fewer."""
    symbols = rng(lanes).normal(100, 9, 100_003).astype(np.uint8)
    raw, coded = split_chunks(symbols, chunks := Chunks(64, 3, 2))
    block = Block("partial", len(symbols), raw, encode_stream(coded, lane_count=lanes), chunks)
    if isinstance(device, EmulatedDevice):
        device.shared_bytes = 40 << 10
    assert device.host(decode_block(upload_block(block, device), device)).tolist() == symbols.tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
def test_integers(device, dtype):
    lowest, highest = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}[dtype]
    codes = rng(4).normal((lowest + highest) / 2, 3, (50, 40)).clip(lowest, highest).astype(np.int16)
    codes[0, :2] = lowest, highest
    stored = store_integers(codes.astype(ELEMENTS[dtype]))
    stored = StoredTensor(stored.shape, dtype, stored.frame, stored.zero_point, None)
    values = device.host(load(stored, device=device))
    assert values.dtype == ELEMENTS[dtype]
    assert values.tolist() == codes.tolist()
    wrong = StoredTensor(stored.shape, dtype, stored.frame, (stored.zero_point + np.uint8(1)).astype(np.uint8), None)
    assert outcome(lambda: load(wrong, device=device)) is outcome(lambda: load_on_host(wrong)) is Corrupt


def test_golden_vectors(device):
    checked = 0
    for case in CASES:
        if "hostile-count" in case.flags:
            continue
        data = case.inputs["frame"].read().tobytes()
        expected = outcome(lambda data=data: decode_on_host(data))
        assert outcome(lambda data=data: decode(data, device=device)) == expected, case.id
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", SMALL)
def test_damaged_bytes(name, device):
    """Any error of the host is an error here, and what the host decodes is decoded."""
    changes = list(damaged(SMALL[name]))
    for data in changes[:: max(1, len(changes) // 40)]:
        check_damaged(data, device)


@device_is_shared
@given(seeds)
def test_random_damage(device, seed):
    random = Random(seed)
    data = mutate(random.choice(list(SMALL.values())), random, other=random.choice(list(SMALL.values())))
    check_damaged(data, device)


class TooLarge(StreamError):
    pass


def check_damaged(data, device):
    expected = outcome(lambda: limited(data))
    if expected is not TooLarge:
        assert outcome(lambda: decode(data, device=device)) == expected


def limited(data):
    """What the host decodes; one symbol repeated may be claimed any number of times, which takes memory here."""
    symbols = decode_on_host(data)
    if len(symbols) > 10**6:
        raise TooLarge
    return symbols


@device_is_shared
@given(coded_streams(max_size=2000), seeds)
def test_noise_in_place_of_bits(device, drawn, seed):
    """Words that are noise behind the first lanes' lengths: refused, or decoded as the host does."""
    stream, _ = drawn
    words = stream.words.copy()
    words[len(words) // 2 :] = rng(seed).integers(0, 1 << 32, len(words) - len(words) // 2, np.uint32)
    noisy = type(stream)(**{**vars(stream), "words": words})
    assert outcome(lambda: on_device(noisy, device)) == outcome(lambda: decode_stream(noisy))


def test_a_wrong_checksum_of_symbols(device):
    frame = read_frame(SMALL["coded"])
    wrong = Frame(frame.block, frame.symbols_crc ^ 1)
    stored = StoredTensor((50,), "uint8", wrong, np.array(0, np.uint8), None)
    for check, ends in ((True, Corrupt), (False, decode_block_on_host(frame.block).tobytes())):
        assert outcome(lambda check=check: load(stored, check=check, device=device)) == ends


def test_a_tensor_that_does_not_fit_its_symbols(device):
    frame = read_frame(SMALL["coded"])
    for shape, scale in (((7, 7), (1,)), ((50,), (3,)), ((-5, -10), ())):
        stored = StoredTensor(shape, "float32", frame, np.array(0, np.uint8), np.ones(scale, np.float32))
        with pytest.raises(Corrupt):
            load(stored, device=device)


def test_claims_larger_than_memory(device):
    for claim in (1 << 45, 1 << 60):
        with pytest.raises(LimitExceeded):
            decode_block(upload_block(Block("constant", claim, np.array([3], np.uint8)), device), device)


def test_partial_packed_with_classes(device):
    data = coded_frame(some(5000), 130, groups=[[1, 3], [4, 5, 9, 33]], chunks=Chunks(7, 3, 2), packed=True)
    assert decode(data, device=device).tolist() == decode_on_host(data).tolist()


def test_as_run_repeats_across_a_gap():
    small = np.arange(6).reshape(2, 1, 3)
    data, inner, count = as_run(small, (2, 2, 3))
    assert (inner, count) == (1, 12)
    assert data.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_without_cupy(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InvalidArgument, match="tansor\\[cuda\\]"):
        decode(SMALL["coded"])
