import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import NETS, feeds_for, net, normal, session
from strategies import rng, seeds

from onnx_export import moments as under_test
from onnx_export.calibration import check_samples
from onnx_export.moments import Moment, collect_moments, load_hessian, moments_of, save_whole, within_budget
from onnx_export.weights import find_constants, to_matrix, to_rows


def silent(*_):
    pass


def collect(model, folder, samples, names=("w",)):
    constants = [c for c in find_constants(model) if c.name in names]
    wanted = [m for c in constants for m in moments_of(model, c)[0]]
    checked = check_samples(session(model), samples)
    return wanted, collect_moments(model, wanted, checked, folder, silent)


def outputs(model, samples):
    return session(model).run(None, samples)[0]


@settings(max_examples=10, deadline=None)
@given(
    seed=seeds, opset=st.sampled_from([11, 13, 18, 21]), strides=st.integers(1, 2), pads=st.integers(0, 2),
    dilations=st.integers(1, 2),
)  # fmt: skip
def test_a_moment_of_patches_gives_the_power_of_the_outputs(tmp_path_factory, seed, opset, strides, pads, dilations):
    settings_ = f"strides = [{strides}, 1], pads = [{pads}, 1, 1, {pads}], dilations = [{dilations}, 1]"
    graph = f"(float[n, 4, 9, 8] x) => (float[n, 6, h, v] y) {{ y = Conv <{settings_}> (x, w) }}"
    model = net(graph, opset, w=normal(6, 4, 3, 2, seed=seed))
    x = rng(seed).standard_normal((5, 4, 9, 8)).astype(np.float32)
    (moment,), found = collect(model, tmp_path_factory.mktemp("m"), {"x": x})
    y = np.moveaxis(outputs(model, {"x": x}), 1, -1).reshape(-1, 6).astype(np.float64)
    W = to_rows(normal(6, 4, 3, 2, seed=seed), 0).astype(np.float64)
    assert np.allclose(W @ np.load(found[moment]).sum(axis=0) @ W.T, y.T @ y / len(y), rtol=1e-3, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, opset=st.sampled_from([11, 21]), groups=st.sampled_from([2, 3, 6]), pads=st.integers(0, 2))
def test_each_group_of_a_convolution_has_a_moment(tmp_path_factory, seed, opset, groups, pads):
    graph = f"(float[n, 6, 12] x) => (float[n, 12, h] y) {{ y = Conv <group = {groups}, pads = [{pads}, 1]> (x, w) }}"
    weight = normal(12, 6 // groups, 3, seed=seed)
    model = net(graph, opset, w=weight)
    x = rng(seed).standard_normal((5, 6, 12)).astype(np.float32)
    (moment,), found = collect(model, tmp_path_factory.mktemp("m"), {"x": x})
    H = np.load(found[moment]).sum(axis=0)
    assert H.shape == moment.shape == (groups, 18 // groups, 18 // groups)
    y = np.moveaxis(outputs(model, {"x": x}), 1, -1).reshape(-1, 12).astype(np.float64)
    power = np.square(y).mean(axis=0).reshape(groups, -1)
    rows = to_rows(weight, 0).astype(np.float64).reshape(groups, 12 // groups, -1)
    assert np.allclose(np.einsum("gri,gij,grj->gr", rows, H, rows), power, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["gemm", "transposed", "float16", "opset 11", "opset 26", "deep"])
def test_a_moment_gives_the_power_of_the_outputs(tmp_path, name):
    model = NETS[name]()
    feeds = feeds_for(session(model), size=30)
    weight = "w1" if name == "deep" else "w"
    (moment,), found = collect(model, tmp_path, feeds, [weight])
    (constant,) = [c for c in find_constants(model) if c.name == weight]
    W = to_matrix(constant.array, constant.input_axis).astype(np.float64)
    x = feeds["x"].astype(np.float64)
    y = x @ W.T
    H = np.load(found[moment]).sum(axis=0)
    assert np.allclose(W @ H @ W.T, y.T @ y / len(y), rtol=1e-2, atol=1e-5)


def test_a_transposed_input_is_watched(tmp_path):
    model = net("(float[64, n] x) => (float[n, 32] y) { y = Gemm <transA = 1, transB = 1> (x, w) }", w=normal(32, 64))
    x = rng(0).standard_normal((64, 50)).astype(np.float32)
    constants = [c for c in find_constants(model) if c.name == "w"]
    (moment,), _ = moments_of(model, constants[0])
    found = collect_moments(model, [moment], {"x": x}, tmp_path, silent)
    assert np.allclose(np.load(found[moment]).sum(axis=0), x @ x.T / 50, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["left", "transposed conv", "gather", "lstm"])
def test_other_uses_cannot_be_watched(name):
    model = NETS[name]()
    (constant, *_) = [c for c in find_constants(model) if c.array.size >= 1024]
    found, unwatched = moments_of(model, constant)
    assert not found
    assert unwatched == len(constant.readers)


def test_a_budget_cuts_the_work_and_changes_nothing(tmp_path, monkeypatch):
    model = NETS["deep"]()
    samples = {"x": rng(0).standard_normal((20, 64)).astype(np.float32)}
    names = ("w1", "w2", "w3")
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    wanted, whole = collect(model, tmp_path / "a", samples, names)
    monkeypatch.setattr(under_test, "BUDGET", 0)
    monkeypatch.setattr(under_test, "LARGEST", 1)
    assert len(list(within_budget(wanted))) == 3
    _, cut = collect(model, tmp_path / "b", samples, names)
    assert all(np.array_equal(np.load(whole[m]), np.load(cut[m])) for m in wanted)


def test_groups_follow_the_largest_and_not_the_number():
    many = [Moment(f"x{i}", -1, 4096) for i in range(40)]
    assert {len(group) for group in within_budget(many)} == {under_test.LARGEST}
    assert [len(group) for group in within_budget(many[:3])] == [3]


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
    model = NETS["deep"]()
    samples = {"x": rng(0).standard_normal((20, 64)).astype(np.float32)}
    _, first = collect(model, tmp_path, samples)
    monkeypatch.setattr(under_test, "run_group", None)
    assert collect(model, tmp_path, samples)[1] == first


def test_a_moment_that_is_not_finite_is_left_out(tmp_path):
    graph = "(float[n, 32] x) => (float[n, 32] y) { l = Log(x) y = MatMul(l, w) }"
    model = net(graph, w=normal(32, 32))
    wanted, found = collect(model, tmp_path, {"x": -np.ones((4, 32), np.float32)})
    assert wanted
    assert not found


def test_each_use_counts_alike(tmp_path):
    a, b, lost = Moment("a", -1, 3), Moment("b", -1, 3), Moment("lost", -1, 3)
    halves = {"a": ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]), "b": ([60.0, 90.0, 0.0], [40.0, 110.0, 0.0])}
    for name, diagonals in halves.items():
        np.save(tmp_path / f"{name}.npy", np.stack([np.diag(d) for d in diagonals]).astype(np.float32))
    found = {a: tmp_path / "a.npy", b: tmp_path / "b.npy"}
    assert np.allclose(np.diag(load_hessian(found, [a], 0)), [0.5, 1, 1.5])
    assert np.allclose(np.diag(load_hessian(found, [a, b], 0)), [1.5, 3, 1.5])
    assert np.allclose(np.diag(load_hessian(found, [a, lost], 1)), [2.5, 3, 3.5])
    assert load_hessian(found, [lost], 1) is None
    assert np.allclose(np.diag(load_hessian(found, [b], 0, half=1)), [0.8, 2.2, 0])
    assert np.allclose(np.diag(load_hessian(found, [a], 0, half=1)), 1)  # nothing was seen


def test_halves_are_of_batches_in_turns(tmp_path):
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }", w=normal(64, 32))
    x = rng(0).standard_normal((20, 64)).astype(np.float32)
    (moment,), found = collect(model, tmp_path, {"x": x})
    first = np.concatenate([x[0:4], x[8:12], x[16:20]])
    second = np.concatenate([x[4:8], x[12:16]])
    for half, rows in zip(np.load(found[moment]), (first, second), strict=True):
        assert np.allclose(half, rows.T @ rows / 20, rtol=1e-4, atol=1e-5)


def test_two_who_save_one_file_do_not_meet(tmp_path, monkeypatch):
    path, real = tmp_path / "a.npy", np.save

    def save_meanwhile(file, array):
        monkeypatch.setattr(np, "save", real)
        save_whole(path, array)  # another process, while this one writes
        real(file, array)

    monkeypatch.setattr(np, "save", save_meanwhile)
    save_whole(path, np.arange(3))
    assert np.load(path).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_what_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="disk full"):
        save_whole(tmp_path / "a.npy", np.arange(3))
    assert not list(tmp_path.iterdir())
