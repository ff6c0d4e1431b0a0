import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_export_models import CONDITIONAL, net, normal, outputs_of, save, session
from strategies import rng, seeds

from onnx_export.calibration import (
    BATCH,
    ENOUGH,
    HELD_BACK,
    batches,
    check_samples,
    collect_statistics,
    combine,
    hold_back,
    inputs_of,
    read_samples,
)
from onnx_export.compress import compress
from onnx_export.weights import Reader
from refimpl.activations import ActivationStatistics
from refimpl.errors import CalibrationError, ExportError

OPSETS = (11, 13, 18, 21)
CHAIN = "(float[n, 16] x) => (float[n, 8] y) { a = MatMul(x, w) h = Relu(a) y = MatMul(h, v) }"
FIXED = CHAIN.replace("float[n,", "float[6,")
IMAGES = "(float[n, 4, 7, 5] x) => (float[n, 8, 3, 1] y) { h = Conv(x, w) t = Tanh(h) y = Conv(t, v) }"
TEXT = "(int64[n, 9] tokens) => (float[n, 9, 8] y) { e = Gather(w, tokens) y = MatMul(e, v) }"
PAIR = "(float[n, 16] x, float16[n, 16] z) => (float[n, 8] y) { f = Cast <to = 1> (z) s = Add(x, f) y = MatMul(s, v) }"


def silent(*_):
    pass


def statistics_of(model, activations, samples):
    return collect_statistics(model, activations, check_samples(session(model), samples), silent)


def captured(model, name, feeds):
    """The activation itself, as another output."""
    copy = type(model)()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return outputs_of(copy, feeds)[-1].astype(np.float64)


def expected(activation, axis):
    """Maximum, mean square and variance of each channel, in float64."""
    rows = np.moveaxis(activation, axis, -1).reshape(-1, activation.shape[axis])
    return ActivationStatistics(np.abs(rows).max(axis=0), np.square(rows).mean(axis=0), rows.var(axis=0))


def assert_equal(found, wanted):
    scale = wanted.mean_square.max() + 1e-30
    assert np.allclose(found.maximum, wanted.maximum, rtol=1e-5, atol=1e-7)
    assert np.allclose(found.mean_square, wanted.mean_square, rtol=1e-4, atol=1e-6 * scale)
    assert np.allclose(found.variance, wanted.variance, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("opset", OPSETS)
@settings(max_examples=8)
@given(seed=seeds, count=st.integers(1, 3 * BATCH + 1), offset=st.sampled_from([0.0, 3.0]))
def test_statistics_are_those_of_the_activations(opset, seed, count, offset):
    model = net(CHAIN, opset, w=normal(16, 12, seed=seed), v=normal(12, 8))
    samples = (rng(seed).standard_normal((count, 16)) + offset).astype(np.float32)
    found = statistics_of(model, {("x", -1): 16, ("h", -1): 12}, samples)
    assert_equal(found["x", -1], expected(samples.astype(np.float64), -1))
    assert_equal(found["h", -1], expected(captured(model, "h", {"x": samples}), -1))


@pytest.mark.parametrize("opset", OPSETS)
def test_statistics_of_a_convolution_are_by_channel(opset):
    model = net(IMAGES, opset, w=normal(6, 4, 3, 3), v=normal(8, 6, 3, 3))
    samples = rng(opset).standard_normal((5, 4, 7, 5)).astype(np.float32)
    found = statistics_of(model, {("x", 1): 4, ("t", 1): 6}, samples)
    assert_equal(found["x", 1], expected(samples.astype(np.float64), 1))
    assert_equal(found["t", 1], expected(captured(model, "t", {"x": samples}), 1))


@pytest.mark.parametrize("opset", OPSETS)
def test_statistics_of_a_transposed_input_are_by_row(opset):
    model = net("(float[16, 5] x) => (float[5, 8] y) { y = Gemm <transA = 1> (x, w) }", opset, w=normal(16, 8))
    samples = rng(opset).standard_normal((16, 5)).astype(np.float32)
    found = statistics_of(model, {("x", -2): 16}, samples)
    assert_equal(found["x", -2], expected(samples.astype(np.float64), 0))


def test_statistics_of_activations_of_rank_three():
    model = net(TEXT, w=normal(40, 16), v=normal(16, 8))
    tokens = rng(0).integers(0, 40, (7, 9))
    found = statistics_of(model, {("e", -1): 16}, tokens)
    assert_equal(found["e", -1], expected(captured(model, "e", {"tokens": tokens}), -1))


def test_statistics_of_half_precision_are_taken_in_single():
    model = net("(float16[n, 16] x) => (float16[n, 8] y) { y = MatMul(x, w) }", w=normal(16, 8, dtype=np.float16))
    samples = (300 * rng(0).standard_normal((9, 16))).astype(np.float16)  # squares are beyond float16
    assert_equal(statistics_of(model, {("x", -1): 16}, samples)["x", -1], expected(samples.astype(np.float64), -1))


def test_the_model_is_not_changed_and_progress_is_told():
    model = net(CHAIN, w=normal(16, 12), v=normal(12, 8))
    before, told = model.SerializeToString(), []
    samples = {"x": rng(0).standard_normal((2 * BATCH + 1, 16)).astype(np.float32)}
    collect_statistics(model, {("x", -1): 16}, samples, lambda *counts: told.append(counts))
    assert model.SerializeToString() == before
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert collect_statistics(model, {}, samples, silent) == {}


def test_activations_that_become_infinite_or_nan_are_not_known():
    model = net("(float[n, 16] x) => (float[n, 8] y) { e = Exp(x) d = Sub(e, e) y = MatMul(d, w) }", w=normal(16, 8))
    found = statistics_of(model, {("x", -1): 16, ("e", -1): 16, ("d", -1): 16}, np.full((3, 16), 100, np.float32))
    assert found.keys() == {("x", -1)}


def test_activations_without_rows_are_not_known_or_silent():
    model = net("""(float[n, 16] x) => (float[m, 8] y) { z = Constant <value = float {0.0}> () p = Greater(x, z)
        q = Cast <to = 6> (p) k = Cast <to = 9> (q) c = Compress(x, k) r = Constant <value = int64[2] {-1, 16}> ()
        d = Reshape(c, r) y = MatMul(d, w) }""", w=normal(16, 8))  # fmt: skip
    found = statistics_of(model, {("d", -1): 16}, -np.ones((3, 16), np.float32))
    assert combine([reader("d")], found) is None or not found["d", -1].maximum.any()


@pytest.mark.parametrize("count", [6, 11, 12, 13])
def test_a_fixed_batch_leaves_incomplete_ones_out(count):
    model = net(FIXED, w=normal(16, 12), v=normal(12, 8))
    samples = rng(count).standard_normal((count, 16)).astype(np.float32)
    found = statistics_of(model, {("x", -1): 16}, samples)
    assert_equal(found["x", -1], expected(samples[: count // 6 * 6].astype(np.float64), -1))
    assert [len(b["x"]) for b in batches(session(model), {"x": samples})] == [6] * (count // 6)


plain = rng(0).standard_normal((8, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "samples", "wish"),
    [
        (CHAIN, {"z": plain}, r"calibration data for z, the model wants x \['n', 16\]"),
        (CHAIN, {}, r"the model wants x \['n', 16\]"),
        (CHAIN, {"x": plain, "z": plain}, r"x, z, the model wants x \['n', 16\]"),
        (CHAIN, plain[:, :15], r"\[8, 15\], the model wants \['n', 16\]"),
        (CHAIN, plain[0], r"\[16\], the model wants \['n', 16\]"),
        (CHAIN, plain[None, None], r"\[1, 1, 8, 16\], the model wants \['n', 16\]"),
        (CHAIN, plain[:0], "no samples"),
        (CHAIN, plain.astype(np.int64), r"dtype int64, the model wants tensor\(float\)"),
        (CHAIN, plain > 0, r"dtype bool, the model wants tensor\(float\)"),
        (CHAIN, plain.astype(np.complex64), r"dtype complex64, the model wants tensor\(float\)"),
        (CHAIN, plain.astype("S4"), r"the model wants tensor\(float\)"),
        (CHAIN, np.where(plain == plain.max(), np.nan, plain), "NaN or infinite"),
        (CHAIN, np.where(plain == plain.max(), np.inf, plain), "NaN or infinite"),
        (CHAIN, plain.astype(np.float64) * 1e300, "infinite"),
        (FIXED, plain[:5], r"5 samples, the model's batch size is 6"),
        (TEXT, np.zeros((4, 9), np.float32), r"dtype float32, the model wants tensor\(int64\)"),
        (PAIR, plain, r"the model has inputs x \['n', 16\], z \['n', 16\]: give an \.npz"),
        (PAIR, {"x": plain}, r"the model wants x \['n', 16\], z \['n', 16\]"),
        (PAIR, {"x": plain, "z": plain[:4]}, "different numbers of samples"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_what_the_model_wants(tmp_path, text, samples, wish):
    text = text.replace("8] y", "64] y")
    weights = {"w": normal(40, 16)} if text.startswith("(int64") else {"w": normal(16, 128)}
    source = save(net(text, **weights, v=normal(128 if "Relu" in text else 16, 64)), tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match=wish):
        compress(source, tmp_path / "o.onnx", calibration=samples)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.float32])
def test_floats_of_any_width_are_taken(dtype):
    model = net(CHAIN, w=normal(16, 12), v=normal(12, 8))
    assert check_samples(session(model), plain.astype(dtype))["x"].dtype == np.float32


def test_integers_of_any_width_are_taken_and_names_may_be_given():
    model = net(TEXT, w=normal(40, 16), v=normal(16, 8))
    for samples in (np.ones((2, 9), np.uint8), {"tokens": np.ones((2, 9), np.int32)}):
        assert check_samples(session(model), samples)["tokens"].dtype == np.int64


def test_files_are_read(tmp_path):
    np.save(tmp_path / "a.npy", plain)
    np.savez(tmp_path / "a.npz", x=plain, z=plain[:, :3])
    assert np.array_equal(read_samples(tmp_path / "a.npy"), plain)
    named = read_samples(tmp_path / "a.npz")
    assert named.keys() == {"x", "z"}
    assert np.array_equal(named["z"], plain[:, :3])


def empty_archive(path):
    with path.open("wb") as file:
        np.savez(file)


def objects(path):
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda _: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("0.5, 0.25"),
        lambda path: path.write_bytes(b"PK\3\4 no archive"),
        lambda path: path.write_bytes(b"\x93NUMPY\1\0v\0{'descr': "),
        objects,
        empty_archive,
    ],
)
def test_files_that_hold_no_samples_are_refused_by_name(tmp_path, write):
    write(tmp_path / "samples.npy")
    with pytest.raises(CalibrationError, match=r"samples\.npy"):
        read_samples(tmp_path / "samples.npy")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_truncated_files_are_refused(tmp_path, name, cut):
    path = tmp_path / name
    np.savez(path, x=plain) if name.endswith("z") else np.save(path, plain)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(CalibrationError, match=name):
        read_samples(path)


def test_samples_that_the_model_cannot_take_are_an_error_of_the_user(tmp_path):
    source = save(net(TEXT, w=normal(40, 32), v=normal(32, 8)), tmp_path / "m.onnx")
    with pytest.raises((CalibrationError, ExportError), match="ONNX Runtime"):
        compress(source, tmp_path / "o.onnx", calibration=np.full((4, 9), 40))
    assert not (tmp_path / "o.onnx").exists()


def test_a_single_number_is_the_same_for_all_samples():
    model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32))
    samples = {"c": np.array(True), "x": rng(0).standard_normal((9, 64)).astype(np.float32)}
    found = collect_statistics(model, {("x", -1): 64}, check_samples(session(model), samples), silent)
    assert_equal(found["x", -1], expected(samples["x"].astype(np.float64), -1))


STATEFUL = """(float[b, 16] x, float[2, b, 12] h, int64 rate) => (float[2, b, 12] y) {
    m = MatMul(x, w) a = Add(m, h) f = Cast <to = 1> (rate) y = Mul(a, f) }"""


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("rate", [np.array(3), np.full(5, 3)])
def test_an_axis_in_front_gives_each_run_a_whole_input(count, rate):
    model = net(STATEFUL, w=normal(16, 12))
    x, h = (rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate([(count, 16), (count, 2, 1, 12)]))
    samples = check_samples(session(model), {"x": x, "h": h, "rate": rate[:count] if rate.ndim else rate})
    runs = list(batches(session(model), samples))
    assert [{n: a.shape for n, a in run.items()} for run in runs] == [
        {"x": (1, 16), "h": (2, 1, 12), "rate": ()}
    ] * count
    for k, feeds in enumerate(runs):
        assert np.array_equal(feeds["x"], x[k : k + 1])
        assert np.array_equal(feeds["h"], h[k])
    found = collect_statistics(model, {("x", -1): 16, ("h", -1): 12}, samples, silent)
    assert_equal(found["x", -1], expected(x.astype(np.float64), -1))
    assert_equal(found["h", -1], expected(h.astype(np.float64), -1))


def test_states_that_do_not_count_samples_are_refused_with_the_way_out():
    samples = {"x": plain, "h": np.zeros((2, 8, 12), np.float32), "rate": np.array(1)}
    with pytest.raises(CalibrationError, match=r"x 8, h 2\. .*one more axis in front"):
        check_samples(session(net(STATEFUL, w=normal(16, 12))), samples)
    samples["h"] = np.zeros((8, 3, 1, 12), np.float32)
    with pytest.raises(CalibrationError, match=r"h: data of shape \[8, 3, 1, 12\], the model wants \[2, 'b', 12\]"):
        check_samples(session(net(STATEFUL, w=normal(16, 12))), samples)


def reader(activation, axis=-1):
    return Reader("MatMul", 0, activation, axis)


def test_statistics_of_several_inputs_are_the_largest_of_each():
    def make(*rows):
        return ActivationStatistics(*(np.array(r, np.float64) for r in rows))

    found = {("a", -1): make([1, 4], [1, 9], [1, 0]), ("b", -1): make([2, 3], [3, 5], [0, 2])}
    both = combine([reader("a"), reader("b"), reader("c"), reader(None)], found)
    assert [both.maximum.tolist(), both.mean_square.tolist(), both.variance.tolist()] == [[2, 4], [3, 9], [1, 2]]
    assert combine([reader("c"), reader(None), reader("a", 1)], found) is None
    assert combine([], found) is None


def test_calibration_makes_the_silent_channels_coarse(tmp_path):
    # Half of the inputs are always zero: nothing is lost where nothing comes in.
    source = save(
        net("(float[n, 256] x) => (float[n, 128] y) { y = MatMul(x, w) }", w=normal(256, 128)), tmp_path / "m.onnx"
    )
    samples = rng(1).standard_normal((64, 256)).astype(np.float32) * (np.arange(256) < 128)
    without = compress(source, tmp_path / "a.onnx")
    calibrated = compress(source, tmp_path / "b.onnx", calibration=samples)
    assert without["tensors"][0]["statistics"] == "unknown"
    assert calibrated["tensors"][0]["statistics"] == "calibrated"
    (exact,), (a,), (b,) = (outputs_of(p, {"x": samples}) for p in (source, tmp_path / "a.onnx", tmp_path / "b.onnx"))
    bits = [r["tensors"][0]["bits_per_weight"] for r in (without, calibrated)]
    assert bits[1] < bits[0] or np.square(b - exact).sum() < np.square(a - exact).sum()
    assert not np.array_equal(a, b)


def test_samples_fit_the_inputs_of_a_session_that_is_gone():
    model = net(FIXED, w=normal(16, 16), v=normal(16, 8))
    opened, samples = session(model), rng(0).standard_normal((15, 16)).astype(np.float32)
    inputs = inputs_of(opened)
    checked = check_samples(opened, samples)
    assert np.array_equal(check_samples(inputs, samples)["x"], checked["x"])
    assert [len(b["x"]) for b in batches(inputs, checked)] == [len(b["x"]) for b in batches(opened, checked)] == [6, 6]


def opened(graph="(float[n, 4] x) => (float[n, 4] y) { y = Tanh(x) }"):
    return session(net(graph))


@given(count=st.integers(1, 300))
def test_a_part_is_held_back_and_the_rest_calibrates(count):
    x = np.arange(count, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    split = hold_back(opened(), {"x": x})
    if count < ENOUGH:
        assert split.held_back == 0
        assert np.array_equal(split.fitted["x"], x)
        assert np.array_equal(split.judged["x"], x)
        assert "too few to hold some back" in split.words
        return
    assert split.held_back == len(split.judged["x"]) == min(count // 4, HELD_BACK)
    assert sorted([*split.fitted["x"][:, 0], *split.judged["x"][:, 0]]) == list(range(count))
    assert np.abs(np.diff(split.judged["x"][:, 0]) - count / split.held_back).max(initial=0) <= 1  # evenly spread
    assert f"{split.held_back} of {count} calibration samples, held back" in split.words


def test_equal_samples_stay_together():
    random = rng(0)
    x = random.standard_normal((12, 4)).astype(np.float32)[random.integers(0, 12, 100)]
    split = hold_back(opened(), {"x": x})
    parts = [{row.tobytes() for row in part["x"]} for part in (split.fitted, split.judged)]
    assert parts[0] & parts[1] == set()
    assert parts[0]
    assert parts[1]
    same = np.ones((100, 4), np.float32)
    assert hold_back(opened(), {"x": same}).held_back == 0


def test_whole_batches_are_held_back_if_their_size_is_fixed():
    x = np.arange(53, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    one = opened("(float[5, 4] x) => (float[5, 4] y) { y = Tanh(x) }")
    split = hold_back(one, {"x": x})
    assert split.held_back == 10
    for part in (split.fitted, split.judged):
        assert len(part["x"]) % 5 == 0
        assert all(row[0] % 5 == 0 and np.all(np.diff(row) == 1) for row in part["x"][:, 0].reshape(-1, 5))


def test_inputs_of_one_run_stay_together():
    graph = "(float[n, 4] x, float[] k, int64[n] i) => (float[n, 4] y) { y = Mul(x, k) }"
    count = 40
    x = np.arange(count, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    split = hold_back(opened(graph), {"x": x, "k": np.float32(2), "i": np.arange(count)})
    for part in (split.fitted, split.judged):
        assert np.array_equal(part["x"][:, 0], part["i"])
        assert part["k"] == 2


def test_a_few_samples_make_two_batches():
    assert [len(b["x"]) for b in batches(opened(), {"x": np.zeros((3, 4), np.float32)})] == [1, 1, 1]
    assert [len(b["x"]) for b in batches(opened(), {"x": np.zeros((6, 4), np.float32)})] == [3, 3]
