import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_export_models import MATMUL, NETS, feeds_for, integers, net, normal, save, session

from codec.tensor import load, store_integers, store_weight
from onnx_export.bench import bench
from onnx_export.budget import (
    Costs,
    Profile,
    apply_plan,
    fit_budget,
    fraction_of,
    make_plan,
    measure,
    open_kept,
    plan_note,
    range_of,
    with_fraction,
)
from onnx_export.calls import read_calls
from onnx_export.cli import main
from onnx_export.compress import compress
from onnx_export.files import read_model
from onnx_export.measure import Setup
from onnx_export.native import library_path
from onnx_export.report import report_html
from onnx_export.rewrite import get_metadata, planned_residents, set_metadata
from onnx_export.runtime import placement
from onnx_export.session import load_session, run
from onnx_export.verify import verify
from refimpl.errors import Corrupt, InvalidArgument

QUICK = Setup(threads=1, repeats=1)
DEEP = ["w1", "w2", "w3"]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    compress(save(NETS["deep"](), folder / "m.onnx"), folder / "o.onnx")
    return folder / "o.onnx"


def copy_of(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def known(profile, plain=1.0, least=1.2, coded=None, seconds=(0.1, 0.2)):
    """The profile as if the clock had said this: nothing in a test hangs on the real one."""
    tensors = tuple(replace(c, least_seconds=seconds[0], coded_seconds=seconds[1]) for c in profile.tensors)
    coded = least + (seconds[1] - seconds[0]) * len(tensors) if coded is None else coded
    return replace(profile, plain_seconds=plain, least_seconds=least, coded_seconds=coded, tensors=tensors)


def values_of(model):
    return {name: load(stored) for name, stored, _ in read_calls(model)}


def fractions_of(model):
    return {name: fraction_of(stored.frame.block) for name, stored, _ in read_calls(model)}


# Measuring


def test_a_model_is_measured(compressed):
    model = read_model(compressed)
    before = model.SerializeToString()
    told = []
    profile = measure(model, QUICK, tell=lambda *event: told.append(event))
    assert model.SerializeToString() == before
    assert profile.plain_seconds > 0
    assert profile.least_seconds > 0
    assert [c.name for c in profile.tensors] == DEEP
    for cost, (_, stored, call) in zip(profile.tensors, read_calls(model), strict=True):
        assert cost.elements == np.prod(stored.shape)
        assert cost.ready_bytes == 4 * cost.elements
        assert cost.stays_symbols == (library_path() is not None)
        assert cost.buffer_bytes == (1 if cost.stays_symbols else 4) * cost.elements
        assert cost.coded_bytes == call.stored_bytes
        assert cost.elements < cost.least_bytes < 1.1 * cost.elements  # raw, a scale for each of the inputs
        assert min(cost.least_seconds, cost.coded_seconds) > 0
    assert told[-1] == ("measure", 1, 1)
    other = measure(model, replace(QUICK, batch=4), known=profile.tensors)
    assert other.tensors is profile.tensors


def test_a_plain_model_has_no_speed_to_choose(compressed):
    with pytest.raises(InvalidArgument, match="nothing in the model is compressed"):
        measure(read_model(compressed.with_name("m.onnx")), QUICK)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("small", [True, False])
def test_weights_range_from_raw_to_coded(dtype, small):
    symbols = np.random.default_rng(0).normal(8 if small else 128, 2, (64, 96)).round().clip(0, 15 if small else 255)
    stored = store_weight(symbols.astype(np.uint8), np.uint8([8]), np.float32([0.5]), dtype)
    least, low, coded = range_of(stored, "gpu")
    assert (least, low.frame.block.mode, coded) == (0, "raw", stored)
    assert low.frame.block.packed == small
    for fraction in (0.0, 1.0) if small else (0.0, 0.25, 1.0):  # a few small symbols are smaller raw than in part
        made = with_fraction(stored, fraction, "gpu")
        assert fraction_of(made.frame.block) == pytest.approx(fraction, abs=0.02)
        assert np.array_equal(load(made), load(stored))
        assert range_of(made, "gpu")[0] == 0  # wherever a tensor is, the whole range is open


def test_integers_range_from_a_sixteenth():
    values = integers(256, 256)
    stored = store_integers(values)
    least, low, coded = range_of(stored, "gpu")
    assert (least, low.frame.block.mode, coded) == (1, "partial", stored)
    assert np.array_equal(load(low), values)
    assert fraction_of(low.frame.block) < 0.1


def test_what_is_constant_or_does_not_shrink_has_no_range():
    constant = store_weight(np.full((64, 64), 3, np.uint8), np.uint8([3]), np.float32([1]), "float32")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    for stored in (constant, store_weight(noise, np.uint8([3]), np.float32([1]), "float32")):
        assert range_of(stored, "gpu") == (16, stored, stored)


# Planning

seconds = st.floats(1e-4, 1)
costs = st.builds(
    lambda name, n, low, more, ratio, width: Costs(
        str(name), "DecompressLinear", n, width * n, 0, n, int(n / ratio), low, low + more
    ),
    st.integers(0, 10**9),
    st.integers(1000, 10**6),
    seconds,
    seconds,
    st.floats(1.1, 8),
    st.sampled_from([2, 4]),
)
profiles = st.builds(
    lambda plain, ratio, more, tensors: Profile(Setup(), plain, plain * ratio, plain * (ratio + more), tuple(tensors)),
    st.floats(0.01, 10),
    st.floats(0.5, 5),  # symbols may come from memory faster than floats
    st.floats(0, 5),
    st.lists(costs, min_size=1, max_size=8, unique_by=lambda c: c.name),
)


@given(profiles, st.floats(1, 4))
def test_a_plan_keeps_to_its_budget_and_saves_memory(profile, budget):
    plan = make_plan(profile, budget)
    assert plan.predicted_seconds <= budget * profile.plain_seconds * (1 + 1e-9)
    assert plan.memory_bytes <= plan.plain_bytes
    assert (plan.mode == "resident") == (plan.memory_bytes == plan.plain_bytes) or plan.mode == "mixed"
    assert all(plan.fractions[name] == 1 for name in plan.resident)


@given(profiles)
def test_without_time_everything_is_resident_and_with_enough_everything_is_coded(profile):
    if profile.least_seconds > profile.plain_seconds * 1.001:
        assert make_plan(profile, 1.0).mode == "resident"
    plan = make_plan(profile, 1e6)
    assert plan.mode == "resident" or all(f == 1 for f in plan.fractions.values())


@given(profiles)
def test_the_prediction_meets_what_was_measured(profile):
    names = [c.name for c in profile.tensors]
    assert profile.predict(dict.fromkeys(names)) == profile.plain_seconds
    assert profile.predict(dict.fromkeys(names, 0.0)) == pytest.approx(profile.least_seconds)
    assert profile.predict(dict.fromkeys(names, 1.0)) == pytest.approx(profile.coded_seconds)
    halfway = (profile.least_seconds + profile.coded_seconds) / 2
    assert profile.predict(dict.fromkeys(names, 0.5)) == pytest.approx(halfway)


@pytest.mark.parametrize("budget", [0.99, 0, -1, float("nan"), float("inf")])
def test_no_budget_below_the_plain_model(budget):
    with pytest.raises(InvalidArgument, match="latency budget is"):
        make_plan(Profile(QUICK, 1.0, 1.0, 1.0, ()), budget)


# Models


@pytest.mark.parametrize(
    ("resident", "fractions", "mode"),
    [
        (DEEP, (1, 1, 1), "resident"),
        (["w2"], (0, 1, 0.5), "mixed"),
        ([], (0, 1, 0.5), "streaming"),
        ([], (1, 1, 1), "streaming"),
    ],
)
def test_a_plan_changes_no_value(compressed, resident, fractions, mode):
    model = read_model(compressed)
    plan = make_plan(known(measure(model, QUICK)), 1.0)
    plan = replace(plan, resident=frozenset(resident), fractions=dict(zip(DEEP, fractions, strict=True)))
    fitted = copy_of(model)
    apply_plan(fitted, plan, "gpu")
    onnx.checker.check_model(fitted)
    before, after = values_of(model), values_of(fitted)
    assert all(np.array_equal(before[name], after[name]) for name in DEEP)
    assert fractions_of(fitted) == pytest.approx(dict(plan.fractions), abs=0.04)
    assert get_metadata(fitted)["mode"] == plan.mode == mode
    assert planned_residents(fitted, DEEP) == plan.resident
    feeds = feeds_for(session(compressed))
    expected = session(compressed).run(None, feeds)[0]
    assert np.allclose(session(fitted).run(None, feeds)[0], expected, rtol=1e-5, atol=1e-6)
    for way in ("auto", "streaming", "resident"):
        assert np.allclose(open_kept(fitted, way, QUICK).run(None, feeds)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(library_path() is None, reason="the native op library was not built")
@pytest.mark.parametrize(("resident", "calls"), [([], 3), (["w1"], 2), (DEEP, 0)])
def test_auto_decodes_at_each_use_only_what_streams(compressed, resident, calls):
    model = read_model(compressed)
    plan = make_plan(known(measure(model, QUICK)), 1.0)
    apply_plan(model, replace(plan, resident=frozenset(resident)), "gpu")
    kinds = placement(open_kept(model, "auto", QUICK))["cpu"]
    assert sum(count for kind, count in kinds.items() if kind.endswith("Linear")) == calls


def test_a_fitted_file_is_a_compressed_file(compressed, tmp_path):
    output = tmp_path / "fitted.onnx"
    report = fit_budget(compressed, output, 1e3, setup=QUICK)
    verify(output, compressed.with_name("m.onnx"))
    assert report["latency_budget"] == 1e3
    assert report["mode"] == get_metadata(read_model(output))["mode"]
    assert get_metadata(read_model(output))["recipe"] == "double"
    assert [t["name"] for t in report["tensors"]] == DEEP
    assert json.loads(json.dumps(report)) == report
    assert report["mode"] in plan_note(report)
    feeds = feeds_for(session(compressed))
    assert np.allclose(run(output, feeds, mode="auto")["y"], run(compressed, feeds)["y"], rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidArgument, match="exists"):
        fit_budget(compressed, output, 1e3, setup=QUICK)
    with pytest.raises(InvalidArgument, match="same file"):
        fit_budget(compressed, compressed, 1e3, setup=QUICK, force=True)


def test_a_damaged_tensor_is_named(compressed, tmp_path):
    model = read_model(compressed)
    stream = next(t for t in model.graph.initializer if t.name == "w2.stream")
    stream.raw_data = bytes(len(stream.raw_data))
    path = save(model, tmp_path / "damaged.onnx")
    with pytest.raises(Corrupt, match=r"damaged\.onnx: w2: "):
        fit_budget(path, tmp_path / "o.onnx", 2.0, setup=QUICK)
    assert not (tmp_path / "o.onnx").exists()


def test_integers_and_ties_and_bfloat16_are_fitted_too(tmp_path):
    quantized = """(float[n, 128] x) => (float[n, 192] y) {
        w = DequantizeLinear(q, s)
        y = MatMul(x, w) }"""
    models = {
        "integers": (net(quantized, q=integers(128, 192, width=4.0), s=np.float32(0.01)), "lossless"),
        "tied": (NETS["tied"](), "double"),
        "bfloat16": (NETS["bfloat16"](), "double"),
        "conv": (NETS["conv"](), "double"),
    }
    for name, (model, recipe) in models.items():
        plain, small, fitted = (tmp_path / f"{name}{end}.onnx" for end in ("", ".small", ".fitted"))
        compress(save(model, plain), small, recipe=recipe)
        compressed = read_model(small)
        profile = known(measure(compressed, QUICK))
        for mode, resident in (("streaming", frozenset()), ("resident", frozenset(c.name for c in profile.tensors))):
            plan = make_plan(profile, 1e3)
            least = {c.name: c.least / 16 for c in profile.tensors}
            made = copy_of(compressed)
            apply_plan(made, replace(plan, fractions=least, resident=resident), "gpu")
            save(made, fitted)
            verify(fitted, plain)
            feeds = feeds_for(session(small))
            expected = run(small, feeds, mode=mode)["y"]  # ONNX Runtime fuses constant weights otherwise
            assert np.allclose(run(fitted, feeds, mode="auto")["y"], expected, rtol=1e-4, atol=1e-5)


# Notes


@pytest.mark.parametrize(
    "noted",
    ["", "no JSON", "[]", '{"mode": 1}', '{"mode": "mixed"}', '{"mode": "mixed", "resident": 5}', '{"mode": "fast"}'],
)
def test_without_a_plan_that_can_be_read_all_is_resident(noted):
    model = net(MATMUL, w=normal(64, 32))
    set_metadata(model, noted)
    assert planned_residents(model, ["a", "b"]) == {"a", "b"}


def test_a_plan_names_residents_and_unknown_names_do_not_count():
    model = net(MATMUL, w=normal(64, 32))
    set_metadata(model, '{"mode": "mixed", "resident": ["b", "c", 7]}')
    assert planned_residents(model, ["a", "b"]) == {"b"}
    set_metadata(model, '{"mode": "streaming", "resident": ["b"]}')
    assert planned_residents(model, ["a", "b"]) == set()


def test_auto_is_resident_without_a_plan_and_runs_plain_models(compressed):
    feeds = feeds_for(session(compressed))
    assert np.array_equal(run(compressed, feeds, mode="auto")["y"], load_session(compressed).run(None, feeds)[0])
    plain = compressed.with_name("m.onnx")
    assert np.array_equal(run(plain, feeds, mode="auto")["y"], session(plain).run(None, feeds)[0])


# The option


def test_a_budget_is_in_the_report(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", latency_budget=1.5, batch=2, threads=1)
    budget = report["budget"]
    assert (budget["latency_budget"], budget["device"], budget["batch"], budget["threads"]) == (1.5, "cpu", 2, 1)
    assert budget["predicted_seconds"] <= 1.5 * budget["plain_seconds"] * (1 + 1e-9)
    assert any(note.startswith("latency budget 1.5 on cpu, batch 2: mode ") for note in report["notes"])
    by_name = {t["name"]: t for t in report["tensors"]}
    for t in budget["tensors"]:
        assert by_name[t["name"]]["stored_bytes"] == t["stored_bytes"]
        assert by_name[t["name"]]["mode"] == t["mode"]
    assert report["output_bytes"] == (tmp_path / "o.onnx").stat().st_size
    assert "chosen for each tensor by the latency budget 1.5" in report_html(report)
    assert compress(source, tmp_path / "p.onnx")["budget"] is None


def test_the_command_line_takes_a_budget(tmp_path, capsys):
    source, output = str(save(NETS["deep"](), tmp_path / "m.onnx")), tmp_path / "o.onnx"
    options = ["--latency-budget", "1.5", "--device", "cpu", "--batch", "3", "--threads", "1"]
    assert main(["compress", source, "-o", str(output), *options]) == 0
    assert "note: latency budget 1.5 on cpu, batch 3: mode " in capsys.readouterr().out
    assert get_metadata(read_model(output))["mode"] in ("resident", "mixed", "streaming")
    assert main(["compress", source, "-o", str(output), "--force", "--batch", "3"]) == 2
    assert "there is none" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["rate", "aggressive"])
def test_every_recipe_takes_a_budget(tmp_path, recipe):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    samples = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    compress(source, tmp_path / "o.onnx", recipe=recipe, calibration=samples, latency_budget=2, threads=1)
    assert verify(tmp_path / "o.onnx")["tensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency_budget": 0.5}, "latency_budget is 0.5"),
        ({"latency_budget": float("nan")}, "latency_budget is nan"),
        ({"latency_budget": 2, "fraction": 0.5}, "--fraction does not apply"),
        ({"latency_budget": 2, "batch": 0}, "batch is 0"),
        ({"latency_budget": 2, "threads": 0}, "threads is 0"),
        ({"latency_budget": 2, "device": "tpu"}, "device is 'tpu'"),
        ({"device": "cpu"}, "there is none"),
        ({"batch": 1}, "there is none"),
        ({"threads": 1}, "there is none"),
        ({"latency_budget": 2, "recipe": "lossless"}, "nothing in the model is compressed"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(tmp_path, options, message):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    with pytest.raises(InvalidArgument, match=message):
        compress(source, tmp_path / "o.onnx", **options)
    assert not (tmp_path / "o.onnx").exists()


def test_a_safetensors_file_has_no_latency(tmp_path):
    with pytest.raises(InvalidArgument, match="needs a graph to run"):
        compress(tmp_path / "m.safetensors", tmp_path / "o.safetensors", latency_budget=2)


has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda, reason="this ONNX Runtime has no CUDA")
@pytest.mark.parametrize("budget", [1.0, 1e3])
def test_a_budget_on_cuda(compressed, tmp_path, budget):
    report = fit_budget(compressed, tmp_path / "o.onnx", budget, setup=Setup("cuda", repeats=1))
    assert report["device"] == "cuda"
    feeds = feeds_for(session(compressed))
    found = run(tmp_path / "o.onnx", feeds, mode="auto", device="cuda")["y"]
    assert np.allclose(found, run(compressed, feeds)["y"], rtol=1e-3, atol=1e-3)
    result = bench(tmp_path / "o.onnx", device="cuda", mode="auto", repeats=1)
    assert result["bandwidths"]["link"] > 0
    assert {"plain, from host", "compressed, from host"} < {c["case"] for c in result["cases"]}
