import contextlib
import json
import math
import zlib

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_export_models import (
    CONDITIONAL,
    MATMUL,
    NETS,
    OPT,
    arrays_of,
    feeds_for,
    integers,
    net,
    normal,
    outputs_of,
    save,
    session,
)
from strategies import rng

from codec.tensor import FLOATS, INTEGERS, load
from onnx_export.calls import read_calls
from onnx_export.compress import compress
from onnx_export.functions import DOMAIN
from onnx_export.session import load_session
from onnx_export.verify import fitted, verify
from refimpl.errors import CalibrationError, ExportError, InvalidArgument, StreamError, TansorError

WEIGHTS_KEYS = {
    "count", "float_bytes", "stored_bytes", "side_bytes", "bits_per_weight", "entropy_bits_per_weight",
    "ratio_vs_int8", "ratio_vs_fp16",
}  # fmt: skip
TENSOR_KEYS = {"name", "shape", "recipe", "bits_per_weight", "entropy_bits_per_weight", "sparsity", "sqnr_db"}


def stored_inputs(model):
    """Bytes of all inputs of each call, by the name of its output."""
    sizes = {t.name: len(t.raw_data) for t in model.graph.initializer}
    return {n.output[0]: sum(sizes[i] for i in n.input) for n in model.graph.node if n.domain == DOMAIN}


def large():
    """A model whose weight is worth the functions that decode it."""
    return net(MATMUL.replace("64", "384").replace("32", "384"), w=normal(384, 384))


def nbytes(array):
    return -(-array.size // 2) if array.dtype.name in ("int4", "uint4") else array.nbytes


def check_report(report, source, output):
    """Every figure of a report against the files."""
    original, model = onnx.load(source), onnx.load(output)
    arrays = {n: a for n, a in arrays_of(original).items() if a.dtype.name in (*FLOATS, *INTEGERS, "float64")}
    tensors = {t["name"]: t for t in report["tensors"]}
    skipped = {s["name"]: s for s in report["skipped"]}
    tied = {n.output[0] for n in model.graph.node if n.name.endswith(".tied")}
    weights = report["weights"]
    assert report["input_bytes"] == source.stat().st_size
    assert report["output_bytes"] == output.stat().st_size
    assert {*tensors, *skipped} | tied == arrays.keys()
    assert len(report["tensors"]) + len(report["skipped"]) + len(tied) == len(arrays)
    assert {n: t["stored_bytes"] for n, t in tensors.items()} == stored_inputs(model)
    decoded = {name: load(stored) for name, stored, _ in read_calls(model)}
    facts = json.loads(next((p.value for p in model.metadata_props if p.key == "tansor"), "{}"))
    assert bool(facts) == bool(tensors)
    scaled = facts.get("scaled", {})
    assert {n for n, t in tensors.items() if t["absorbed"] not in (None, "dequantization")} <= scaled.keys()
    for name, t in tensors.items():
        assert t.keys() >= TENSOR_KEYS
        assert t["shape"] == list(arrays[name].shape)
        assert t["elements"] == arrays[name].size == sum(t["histogram"])
        assert t["original_bytes"] == nbytes(arrays[name])
        assert t["bits_per_weight"] == 8 * t["stored_bytes"] / t["elements"]
        share = np.array([h for h in t["histogram"] if h]) / t["elements"]
        assert math.isclose(t["entropy_bits_per_weight"], -(share * np.log2(share)).sum(), abs_tol=1e-9)
        assert 0 < t["side_bytes"] < t["stored_bytes"] < t["original_bytes"]
        assert t["bits_per_weight"] >= t["entropy_bits_per_weight"] * 0.999
        assert math.isclose(t["sparsity"], np.mean(decoded[name].astype(np.float32) == 0), abs_tol=1e-9)
        signal = fitted(arrays[name].astype(np.float64), decoded[name].astype(np.float64), scaled.get(name, ()))
        noise = np.square(decoded[name].astype(np.float64) - signal).sum()
        if t["sqnr_db"] is None:
            assert not noise or not np.isfinite(noise) or not signal.any()
        else:  # measured before the result is rounded to half precision
            slack = 1.5 if decoded[name].dtype != np.float32 else 1 if name in scaled else 0.01
            assert abs(10 * np.log10(np.square(signal).sum() / noise) - t["sqnr_db"]) < slack
    for name, s in skipped.items():
        assert s["stored_bytes"] == nbytes(arrays[name])
        assert s["elements"] == arrays[name].size
        assert s["reason"]
    copied = sum(s["stored_bytes"] for s in report["skipped"])
    stored = sum(t["stored_bytes"] for t in report["tensors"]) + copied
    assert weights.keys() >= WEIGHTS_KEYS
    assert weights["count"] == sum(a.size for n, a in arrays.items() if n not in tied)
    assert weights["stored_bytes"] == stored
    assert weights["side_bytes"] == sum(t["side_bytes"] for t in report["tensors"])
    assert weights["float_bytes"] == 4 * weights["count"]
    assert weights["ratio_vs_fp16"] == 2 * weights["count"] / stored == 2 * weights["ratio_vs_int8"]
    json.dumps(report, allow_nan=False)
    return decoded


def check_runs(source, output, tolerance=1e-5):
    """The output is a valid model that stock ONNX Runtime runs, in both modes with one result."""
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    feeds = feeds_for(session(source))
    streamed = session(output).run(None, feeds)
    resident = load_session(output).run(None, feeds)
    for a, b, original in zip(streamed, resident, outputs_of(source, feeds), strict=True):
        assert a.shape == b.shape == original.shape
        assert a.dtype == b.dtype == original.dtype
        scale = np.abs(original).max() + 1e-30
        assert np.allclose(a, b, rtol=tolerance, atol=tolerance * scale)
    return streamed


@pytest.mark.parametrize("case", NETS)
def test_a_model_is_compressed_and_runs(tmp_path, case):
    source, output = save(NETS[case](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    report = compress(source, output)
    decoded = check_report(report, source, output)
    streamed = check_runs(source, output, tolerance=2e-3 if case == "float16" else 1e-5)
    large = {n for n, a in arrays_of(onnx.load(source)).items() if a.size >= 1024}
    assert {t["name"] for t in report["tensors"]} == (large - {"v"} if case == "tied" else large)
    assert all(t["recipe"] == "double" for t in report["tensors"])
    assert all(np.isfinite(a.astype(np.float32)).all() for a in decoded.values())
    assert all(np.isfinite(a).all() for a in streamed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]
    assert output.stat().st_mode == source.stat().st_mode


def test_the_bundled_model_loses_little_and_runs_as_it_is(tmp_path):
    output = tmp_path / "o.onnx"
    tokens = rng(0).integers(32, 123, (8, 64))
    report = compress(OPT, output, calibration=tokens.astype(np.uint8))
    check_report(report, OPT, output)
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    assert not any("pkg.torch" in e.key for n in model.graph.node for e in n.metadata_props)
    assert report["output_bytes"] < report["input_bytes"] / 4
    assert all(t["statistics"] == "calibrated" for t in report["tensors"] if "embed" not in t["name"])
    feeds = {"input_ids": tokens[:2]}
    original, streamed = outputs_of(OPT, feeds)[0], outputs_of(output, feeds)[0]
    (resident,) = load_session(output).run(None, feeds)
    assert np.allclose(streamed, resident, rtol=1e-4, atol=1e-3)
    assert np.corrcoef(original.ravel(), streamed.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("dtype", "name"), [(ml_dtypes.bfloat16, "bfloat16"), (np.float16, "float16")])
@pytest.mark.parametrize("opset", [13, 21])
def test_half_precision_weights_keep_their_type(tmp_path, dtype, name, opset):
    text = MATMUL.replace("{ y", "{ f = Cast <to = 1> (w) y").replace("MatMul(x, w)", "MatMul(x, f)")
    source = save(net(text, opset, w=normal(64, 32, dtype=dtype)), tmp_path / "m.onnx")
    compress(source, tmp_path / "o.onnx")
    ((_, stored, _),) = read_calls(onnx.load(tmp_path / "o.onnx"))
    assert stored.dtype == name
    declared = {v.name: v.type.tensor_type.elem_type for v in onnx.load(tmp_path / "o.onnx").graph.value_info}
    assert declared["w"] == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    check_runs(source, tmp_path / "o.onnx")


@pytest.mark.parametrize("case", ["deep", "if", "tied", "conv"])
@pytest.mark.parametrize("options", [{}, {"profile": "archive", "fraction": 0.5}])
def test_results_do_not_depend_on_threads_or_the_day(tmp_path, case, options):
    source = save(NETS[case](), tmp_path / "m.onnx")
    made = []
    for i, jobs in enumerate((1, 2, 2, 5)):
        report = compress(source, tmp_path / f"{i}.onnx", jobs=jobs, **options)
        made.append(((tmp_path / f"{i}.onnx").read_bytes(), report["tensors"], report["skipped"], report["notes"]))
    assert all(m == made[0] for m in made)


def test_calibrated_results_do_not_depend_on_threads(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    samples = rng(3).standard_normal((30, 64)).astype(np.float32)
    np.save(tmp_path / "s.npy", samples)
    np.savez(tmp_path / "s.npz", x=samples)
    given = [samples, {"x": samples}, tmp_path / "s.npy", str(tmp_path / "s.npz")]
    for i, calibration in enumerate(given):
        compress(source, tmp_path / f"{i}.onnx", jobs=1 + i % 2, calibration=calibration)
    assert len({(tmp_path / f"{i}.onnx").read_bytes() for i in range(4)}) == 1


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("profile", ["gpu", "archive"])
def test_fractions_and_profiles_change_the_size_only(tmp_path, fraction, profile):
    source = save(large(), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", fraction=fraction, profile=profile)
    compress(source, tmp_path / "whole.onnx")
    decoded = check_report(report, source, tmp_path / "o.onnx")
    assert {t["mode"] for t in report["tensors"]} == {"coded" if fraction == 1 else "partial"}
    for name, stored, _ in read_calls(onnx.load(tmp_path / "whole.onnx")):
        assert np.array_equal(decoded[name], load(stored))
    (raw,) = {t["stored_bytes"] for t in report["tensors"] if t["name"] == "w"}
    assert raw >= (1 - fraction) * 384 * 384
    check_runs(source, tmp_path / "o.onnx")


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.9])
def test_sparsity_prunes_that_share_at_least(tmp_path, sparsity):
    source = save(NETS["opset 21"](), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", sparsity=sparsity)
    check_report(report, source, tmp_path / "o.onnx")
    (tensor,) = report["tensors"]
    assert tensor["sparsity"] >= math.floor(sparsity * tensor["elements"]) / tensor["elements"]
    assert tensor["sparsity"] < sparsity + 0.3


def test_convolutions_and_tables_are_never_pruned(tmp_path):
    for case in ("conv", "gather"):
        source = save(NETS[case](), tmp_path / f"{case}.onnx")
        usual, pruned = (
            compress(source, tmp_path / "o.onnx", sparsity=sparsity, force=True) for sparsity in (None, 0.9)
        )
        assert usual["tensors"] == pruned["tensors"]
        assert not any("never pruned" in note for note in usual["notes"])
        assert any("never pruned" in note for note in pruned["notes"])


def test_a_global_budget_prunes_the_same_number_where_it_matters_least(tmp_path):
    model = NETS["deep"]()
    source = save(model, tmp_path / "m.onnx")
    samples = rng(0).standard_normal((64, 64)).astype(np.float32)
    reports = {
        budget: compress(source, tmp_path / f"{budget}.onnx", calibration=samples, sparsity=0.5, prune_budget=budget)
        for budget in ("layer", "global")
    }
    zeros = {budget: [t["sparsity"] * t["elements"] for t in report["tensors"]] for budget, report in reports.items()}
    total = sum(t["elements"] for t in reports["layer"]["tensors"])
    assert all(sum(z) >= total // 2 for z in zeros.values())
    assert zeros["layer"] != zeros["global"]
    uncalibrated = compress(source, tmp_path / "u.onnx", sparsity=0.5, prune_budget="global")
    assert sum(t["sparsity"] * t["elements"] for t in uncalibrated["tensors"]) >= total // 2
    check_report(reports["global"], source, tmp_path / "global.onnx")


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ((), {"w1", "w2", "w3"}), (("w1",), {"w2", "w3"}), (("w[12]",), {"w3"}), (("*",), set()),
        (("W*", "x"), {"w1", "w2", "w3"}), (("*1", "?3"), {"w2"}),
    ],
)  # fmt: skip
def test_excluded_tensors_are_copied(tmp_path, patterns, left):
    source, output = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    report = compress(source, output, exclude=patterns)
    check_report(report, source, output)
    assert {t["name"] for t in report["tensors"]} == left
    assert {s["reason"] for s in report["skipped"]} <= {"excluded by the user"}
    before, after = arrays_of(onnx.load(source)), arrays_of(onnx.load(output))
    assert all(np.array_equal(after[name], before[name]) for name in before.keys() - left)
    if not left:
        assert all(o.domain != DOMAIN for o in onnx.load(output).opset_import)
    check_runs(source, output)


def test_what_is_not_understood_is_copied_with_its_reason(tmp_path):
    text = """(float[64, 64] x) => (float[64, 64] y, float[64, 64] shown) {
        a = MatMul(x, w) b = Add(a, added) c = MatMul(b, wide) d = Mul(c, vector) e = MatMul(d, both)
        f = MatMul(both, e) g = MatMul(f, shown) h = Cast <to = 1> (double) i = MatMul(g, h)
        l = MatMul(i, small) y = MatMul(l, tiny) j = Identity(noise) k = Cast <to = 1> (j) }"""
    noise = rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    tensors = {n: normal(64, 64, seed=i) for i, n in enumerate(("w", "added", "wide", "both", "shown", "unread"))}
    source = save(net(text, **tensors, vector=normal(64, 1)[:, 0].repeat(1), small=normal(64, 64)[:, :8],
                      tiny=normal(8, 8), double=normal(64, 64, dtype=np.float64), noise=noise),
                  tmp_path / "m.onnx")  # fmt: skip
    model = onnx.load(source)
    for value in model.graph.output[:1]:
        value.type.tensor_type.shape.dim[1].dim_value = 8
    save(model, source)
    report = compress(source, tmp_path / "o.onnx", exclude=["wide"])
    check_report(report, source, tmp_path / "o.onnx")
    reasons = {s["name"]: s["reason"] for s in report["skipped"]}
    assert {t["name"] for t in report["tensors"]} == {"w", "small"}
    assert reasons["added"].startswith("read by Add")
    assert "disagree" in reasons["both"]
    assert "caller" in reasons["shown"]
    assert reasons["unread"] == "nothing reads it"
    assert "float64" in reasons["double"]
    assert reasons["vector"] == "a vector"
    assert reasons["tiny"] == "smaller than what decodes a tensor"
    assert "smaller" in reasons["noise"]
    assert reasons["wide"] == "excluded by the user"
    check_runs(source, tmp_path / "o.onnx")


LEFT_ALONE = {
    "lstm": ("""(float[s, 2, 48] x) => (float[s, 1, 2, 96] y) {
        f = Cast <to = 1> (eight) g = Cast <to = 1> (long)
        y, h, c = LSTM <hidden_size = 96> (x, w, r, bias, , start, start, peep) }""",
        {"w": normal(1, 384, 48), "r": normal(1, 384, 96), "bias": normal(1, 768), "start": normal(1, 2, 96),
         "peep": normal(1, 288), "eight": normal(20, 20, dtype=ml_dtypes.float8_e4m3fn),
         "long": integers(20, 20).astype(np.int16)},
        {"bias": "read as the bias of LSTM", "start": "read as the initial state of LSTM",
         "peep": "read as the peephole weights of LSTM", "eight": "float8_e4m3fn tensors are not compressed",
         "long": "int16 tensors are not compressed"}),
    "gru": ("""(float[s, 2, 48] x) => (float[s, 1, 2, 96] y) {
        y, h = GRU <hidden_size = 96> (x, w, r, bias) }""",
        {"w": normal(1, 288, 48), "r": normal(1, 288, 96), "bias": normal(1, 576)},
        {"bias": "read as the bias of GRU"}),
    "integer bias": ("""(float[n, 256] x) => (float[n, 128] y) {
        v = DequantizeLinear(w, s) c = DequantizeLinear(b, s) a = MatMul(x, v) y = Add(a, c) }""",
        {"w": integers(256, 128, width=4.0), "b": integers(128).astype(np.int32), "s": np.float32(0.01)},
        {"b": "int32 tensors are not compressed", "s": "a number"}),
    "gemm": ("(float[n, 64] x) => (float[n, 128] y) { a = Gemm(x, w, b) y = Mul(a, k) }",
        {"w": normal(64, 128), "b": normal(1, 128), "k": normal(1, 128)},
        {"b": "read as the bias of Gemm", "k": "read by Mul, where its role is not known"}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_every_weight_that_is_left_alone_has_its_reason(tmp_path, case):
    text, tensors, reasons = LEFT_ALONE[case]
    report = compress(save(net(text, **tensors), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    skipped = {s["name"]: s for s in report["skipped"]}
    assert {name: s["reason"] for name, s in skipped.items()} == reasons
    assert {t["name"] for t in report["tensors"]} | skipped.keys() == tensors.keys()
    assert report["weights"]["count"] == sum(np.size(array) for array in tensors.values())
    assert all(s["stored_bytes"] == tensors[name].nbytes for name, s in skipped.items())


def test_weights_inside_bodies_are_compressed(tmp_path):
    model = net(CONDITIONAL.replace("MatMul(x, v)", "MatMul(x, w)"))
    for seed, attribute in enumerate(model.graph.node[0].attribute):
        attribute.g.initializer.append(numpy_helper.from_array(normal(64, 32, seed=seed), "w"))
    source, output = save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx"
    report = compress(source, output)
    assert sorted(t["name"] for t in report["tensors"]) == ["w", "w_"]
    assert report["skipped"] == []
    assert report["weights"]["count"] == 2 * 64 * 32
    assert all(20 < t["sqnr_db"] < 60 for t in verify(output, source)["tensors"])
    check_runs(source, output)


def test_what_bodies_keep_is_listed_with_its_reason(tmp_path):
    text = CONDITIONAL.replace("MatMul(x, v)", "Add(k, small)").replace("n,", "64,")
    model = net(text, w=normal(64, 32))
    body = model.graph.node[0].attribute[1].g
    body.initializer.append(numpy_helper.from_array(normal(64, 32, seed=3), "k"))
    body.initializer.append(numpy_helper.from_array(normal(1, 32, seed=3), "small"))
    report = compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    reasons = {s["name"]: s["reason"] for s in report["skipped"]}
    assert reasons["k"].startswith("read by Add")
    assert reasons["small"] == "smaller than what decodes a tensor"


def test_patterns_that_match_nothing_are_noted(tmp_path):
    report = compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx", exclude=["w1", "layer*"])
    assert [note for note in report["notes"] if "exclude" in note] == ["--exclude layer* matches no tensor"]


@pytest.mark.parametrize("case", [*NETS])
@pytest.mark.parametrize("recipe", ["double", "lossless"])
def test_no_file_grows_unsaid(tmp_path, case, recipe):
    report = compress(save(NETS[case](), tmp_path / "m.onnx"), tmp_path / "o.onnx", recipe=recipe)
    grown = report["output_bytes"] - report["input_bytes"]
    assert [f"{grown:,} bytes larger" in note for note in report["notes"] if "larger than the input" in note] == (
        [True] if grown > 0 else []
    )
    assert grown <= 0 or not report["tensors"]  # an opset that had to be converted


def test_small_models_are_stored_raw_where_coding_would_cost_more(tmp_path):
    """Two kilobytes of weights: the functions that decode would take as much again as coding saves."""
    small = compress(save(NETS["opset 21"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    assert [t["mode"] for t in small["tensors"]] == ["raw"]
    assert small["output_bytes"] < 0.4 * small["input_bytes"]
    whole = compress(save(large(), tmp_path / "n.onnx"), tmp_path / "p.onnx")
    assert [t["mode"] for t in whole["tensors"]] == ["coded"]
    assert whole["output_bytes"] < 0.25 * whole["input_bytes"]
    check_report(small, tmp_path / "m.onnx", tmp_path / "o.onnx")
    check_runs(tmp_path / "m.onnx", tmp_path / "o.onnx")


def test_long_vectors_are_copied(tmp_path):
    text = "(float[n, 2048] x) => (float[n, 2048] y) { y = MatMul(x, v) }".replace("[n, 2048] y", "[n] y")
    source = save(net(text, v=normal(2048)), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx")
    assert [s["reason"] for s in report["skipped"]] == ["a vector"]


@pytest.mark.parametrize("taken", ["initializer", "node", "input", "body", "weight"])
def test_names_that_a_call_wants_may_be_taken(tmp_path, taken):
    model = net(MATMUL.replace("y = MatMul(x, w)", "a = MatMul(x, w) y = Mul(a, s)"), w=normal(64, 32), s=normal(32))
    if taken == "node":
        model.graph.node[0].output[0] = model.graph.node[1].input[0] = "w.stream"
    elif taken == "input":
        model.graph.input[0].name = model.graph.node[0].input[0] = "w.counts"
    elif taken == "body":
        model = net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32, seed=1))
        body = model.graph.node[0].attribute[0].g
        body.node[0].output[0] = body.output[0].name = "w.zero_point"
    elif taken == "weight":
        model = net(MATMUL.replace("y = MatMul(x, w)", "a = MatMul(x, w) y = MatMul(a, v)"), w=normal(64, 64),
                    v=normal(64, 32, seed=1))  # fmt: skip
        model.graph.initializer[1].name = model.graph.node[1].input[1] = "w.scale"
    else:
        model.graph.initializer[1].name = model.graph.node[1].input[1] = "w.scale"
    source, output = save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx"
    check_report(compress(source, output), source, output)
    check_runs(source, output)


def test_external_tensors_come_along_and_are_counted(tmp_path):
    model = NETS["deep"]()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    plain = save(NETS["deep"](), tmp_path / "p.onnx")
    report = compress(tmp_path / "m.onnx", tmp_path / "o.onnx")
    compress(plain, tmp_path / "q.onnx")
    assert report["input_bytes"] == sum((tmp_path / n).stat().st_size for n in ("m.onnx", "weights.bin"))
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    assert report["output_bytes"] == (tmp_path / "o.onnx").stat().st_size


def test_a_stranger_beside_the_output_is_not_counted(tmp_path):
    source, output = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    (tmp_path / "o.onnx.data").write_bytes(bytes(1000))
    assert compress(source, output)["output_bytes"] == output.stat().st_size
    assert (tmp_path / "o.onnx.data").read_bytes() == bytes(1000)


def test_missing_external_tensors_are_one_clear_error(tmp_path):
    onnx.save(NETS["deep"](), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExportError, match="external"):
        compress(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_above_two_gigabytes_keeps_its_tensors_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_export.files.PROTOBUF_LIMIT", 10_000)
    source, output = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    report = compress(source, output, exclude=["w1"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "o.onnx", "o.onnx.data"]
    assert report["output_bytes"] == sum((tmp_path / n).stat().st_size for n in ("o.onnx", "o.onnx.data"))
    compress(source, tmp_path / "small.onnx", exclude=["w1"], force=True)
    monkeypatch.undo()
    compress(source, tmp_path / "whole.onnx", exclude=["w1"])
    assert np.array_equal(outputs_of(output)[0], outputs_of(tmp_path / "whole.onnx")[0])
    assert np.array_equal(load_session(output).run(None, feeds_for(session(source)))[0],
                          load_session(tmp_path / "whole.onnx").run(None, feeds_for(session(source)))[0])  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, dtype):
    weight = normal(64, 32, dtype=dtype)
    weight[3, 4] = value
    text = MATMUL.replace("{ y", "{ f = Cast <to = 1> (w) y").replace("MatMul(x, w)", "MatMul(x, f)")
    source = save(net(text, w=weight), tmp_path / "m.onnx")
    with pytest.raises(InvalidArgument, match=r"\bw: .*(NaN|infinite|finite)"):
        compress(source, tmp_path / "o.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    compress(source, tmp_path / "o.onnx", exclude=["w"])


@settings(max_examples=30)
@given(data=st.data())
def test_odd_weights_stay_finite(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("odd")
    kind = data.draw(
        st.sampled_from(["tiny", "subnormal", "huge", "one outlier", "zero rows", "constant", "two values"])
    )
    weight = normal(64, 32, seed=data.draw(st.integers(0, 99)))
    if kind == "tiny":
        weight *= np.float32(1e-30)
    elif kind == "subnormal":
        weight = (weight * 1e-38).astype(np.float32) * np.float32(1e-3)
    elif kind == "huge":
        weight *= np.float32(2.0**60)
    elif kind == "one outlier":
        weight[5, 6] = 1000
    elif kind == "zero rows":
        weight[::3] = 0
        weight[:, ::5] = -0.0
    elif kind == "constant":
        weight[:] = 0.3
    else:
        weight = np.where(weight > 0, np.float32(0.5), np.float32(-0.25))
    source = save(net(MATMUL, w=weight), folder / "m.onnx")
    report = compress(source, folder / "o.onnx", fraction=data.draw(st.sampled_from([1.0, 0.5])))
    for decoded in check_report(report, source, folder / "o.onnx").values():
        assert np.isfinite(decoded).all()
        assert np.abs(decoded).max() <= 1.5 * np.abs(weight).max()


def test_half_precision_numbers_that_would_overflow_are_refused_by_name(tmp_path):
    weight = rng(0).choice(np.array([-65504, 65504, 30000, 12345, 1], np.float16), (64, 32))
    text = MATMUL.replace("{ y", "{ f = Cast <to = 1> (w) y").replace("MatMul(x, w)", "MatMul(x, f)")
    with pytest.raises(InvalidArgument, match=r"w: .*--exclude"):
        compress(save(net(text, w=weight), tmp_path / "m.onnx"), tmp_path / "o.onnx")


# Already quantized models: the lossless recipe.


def quantized(tmp_path, how):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.samples = iter([{"x": rng(i).standard_normal((4, 64)).astype(np.float32)} for i in range(4)])

        def get_next(self):
            return next(self.samples, None)

    shapes = ((64, 256), (256, 128), (128, 32))
    heavy = {f"w{i}": normal(*shape, seed=i) ** 3 * 300 for i, shape in enumerate(shapes, 1)}
    text = "(float[n, 64] x) => (float[n, 32] y) { a = MatMul(x, w1) b = MatMul(a, w2) y = MatMul(b, w3) }"
    source, output = save(net(text, **heavy), tmp_path / "f.onnx"), tmp_path / "q.onnx"
    if how == "static":
        quantize_static(source, output, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    elif how == "dynamic":
        quantize_dynamic(source, output, weight_type=QuantType.QUInt8)
    else:
        save(blockwise(), output)
    return output


def blockwise():
    """A MatMulNBits of 4 bits: two codes in a byte."""
    codes = integers(2560, 2, 16, low=0, high=255, width=8.0, dtype=np.uint8)
    scales = rng(1).random((2560, 2)).astype(np.float32).reshape(-1)
    text = """(float[n, 64] x) => (float[n, 2560] y) {
        y = com.microsoft.MatMulNBits <K = 64, N = 2560, bits = 4, block_size = 32> (x, w, s) }"""
    model = net(text, w=codes, s=scales)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.filterwarnings("ignore")  # of onnxruntime.quantization
@pytest.mark.parametrize("how", ["static", "dynamic", "blockwise"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_quantized_models_are_coded_without_loss(tmp_path, how, fraction):
    source, output = quantized(tmp_path, how), tmp_path / "o.onnx"
    report = compress(source, output, recipe="lossless", fraction=fraction)
    model = onnx.load(output)
    decoded = {name: load(stored) for name, stored, _ in read_calls(model)}
    before = arrays_of(onnx.load(source))
    assert len(decoded) >= (1 if how == "blockwise" else 2)
    assert all(np.array_equal(decoded[name], before[name]) for name in decoded)
    assert all(t["recipe"] == "lossless" and t["sqnr_db"] is None for t in report["tensors"])
    assert {t["name"]: t["stored_bytes"] for t in report["tensors"]} == stored_inputs(model)
    assert sum(t["stored_bytes"] for t in report["tensors"]) < sum(t["original_bytes"] for t in report["tensors"])
    feeds = {"x": rng(9).standard_normal((5, 64)).astype(np.float32)}
    expected = outputs_of(source, feeds)
    assert np.array_equal(load_session(output).run(None, feeds)[0], expected[0])
    # ONNX Runtime fuses quantized operators only where weights are constants: compare without.
    plain = outputs_of(source, feeds, optimize=False)
    assert np.allclose(outputs_of(output, feeds, optimize=False)[0], plain[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_quantized_weights_of_every_type_make_smaller_files(tmp_path, dtype):
    low, high = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}[dtype]
    codes = integers(256, 256, low=low, high=high, width=(high - low) / 20, dtype=INTEGERS[dtype])
    text = "(float[n, 256] x) => (float[n, 256] y) { f = DequantizeLinear(w, s, z) y = MatMul(x, f) }"
    zero = np.array((low + high) // 2, INTEGERS[dtype])
    source = save(net(text, w=codes, s=np.float32(0.1), z=zero), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", recipe="lossless")
    check_report(report, source, tmp_path / "o.onnx")
    assert report["output_bytes"] < report["input_bytes"]
    assert [t["name"] for t in report["tensors"]] == ["w"]
    ((_, stored, _),) = read_calls(onnx.load(tmp_path / "o.onnx"))
    assert np.array_equal(load(stored), codes)
    feeds = feeds_for(session(source))
    plain, streamed = (outputs_of(p, feeds, optimize=False)[0] for p in (source, tmp_path / "o.onnx"))
    assert np.allclose(plain, streamed, rtol=1e-5, atol=1e-4)
    assert np.array_equal(load_session(tmp_path / "o.onnx").run(None, feeds)[0], outputs_of(source, feeds)[0])


def test_four_bits_that_do_not_shrink_are_copied(tmp_path):
    # Coded they take fewer bits than a byte each, but more than the four they have.
    codes = rng(0).integers(0, 16, (64, 64)).astype(ml_dtypes.uint4)
    text = "(float[n, 64] x) => (float[n, 64] y) { f = DequantizeLinear(w, s) y = MatMul(x, f) }"
    source = save(net(text, w=codes, s=np.float32(0.1)), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", recipe="lossless")
    check_report(report, source, tmp_path / "o.onnx")
    assert report["tensors"] == []
    assert [(s["name"], s["stored_bytes"]) for s in report["skipped"]] == [("s", 4), ("w", 2048)]


@pytest.mark.parametrize(("case", "axis"), [("gemm", 1), ("opset 21", 0)])
def test_what_silent_inputs_meet_is_pruned_first(tmp_path, case, axis):
    source = save(NETS[case](), tmp_path / "m.onnx")
    (shape,) = [i.shape for i in session(source).get_inputs()]
    samples = rng(1).standard_normal((16, *shape[1:])).astype(np.float32)
    samples[:, ::2] = 0
    compress(source, tmp_path / "o.onnx", calibration=samples, sparsity=0.4)
    ((_, stored, _),) = read_calls(onnx.load(tmp_path / "o.onnx"))
    pruned = np.moveaxis(load(stored) == 0, axis, 0)
    assert pruned[::2].mean() >= 0.8
    assert pruned[1::2].mean() < 0.15


def test_the_lossless_recipe_keeps_floats(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", recipe="lossless")
    assert report["tensors"] == []
    assert all("lossless" in s["reason"] for s in report["skipped"])
    assert np.array_equal(outputs_of(source)[0], outputs_of(tmp_path / "o.onnx")[0])


# What compress refuses, and what it leaves behind.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "triple"}, "recipe is 'triple', allowed are aggressive, double, lossless, rate"),
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"profile": "tpu"}, "profile is 'tpu', allowed are gpu, archive"),
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": -3}, "jobs is -3"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"sparsity": 0.5, "recipe": "lossless"}, "prunes nothing"),
        ({"calibration": "x.npy", "recipe": "lossless"}, "calibration data do not apply"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(InvalidArgument, match=message):
        compress(tmp_path / "missing.onnx", tmp_path / "o.onnx", **options)


@pytest.mark.parametrize(
    ("source", "output"), [("m.onnx", "o.safetensors"), ("m.safetensors", "o.onnx"), ("m.pt", "o.pt"), ("m", "o")]
)
def test_input_and_output_are_of_one_known_kind(tmp_path, source, output):
    with pytest.raises(InvalidArgument, match=r"\.onnx or"):
        compress(tmp_path / source, tmp_path / output)


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_the_input_is_never_overwritten(tmp_path, link):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    before, output = source.read_bytes(), tmp_path / "o.onnx" if link else source
    if link:
        getattr(output, link)(source)
    with pytest.raises(InvalidArgument, match="same file"):
        compress(source, output, force=True)
    with pytest.raises(InvalidArgument):
        compress(source, output)
    assert source.read_bytes() == before


def test_what_is_compressed_already_is_refused(tmp_path):
    source = save(NETS["deep"](), tmp_path / "m.onnx")
    compress(source, tmp_path / "o.onnx")
    with pytest.raises(InvalidArgument, match="compressed already"):
        compress(tmp_path / "o.onnx", tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()


def test_an_existing_output_is_kept_or_replaced_whole(tmp_path):
    source, output = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    output.write_bytes(b"mine")
    with pytest.raises(InvalidArgument, match="--force"):
        compress(source, output)
    assert output.read_bytes() == b"mine"
    compress(source, output, force=True)
    onnx.checker.check_model(onnx.load(output))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_while_writing_leaves_no_trace(tmp_path, monkeypatch, error, exists):
    source, output = save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    if exists:
        output.write_bytes(b"mine")
    before = sorted(p.name for p in tmp_path.iterdir())

    def write_half(pieces, path):
        with path.open("wb") as file:
            file.write(next(iter(pieces))[:100])
        raise error

    monkeypatch.setattr("onnx_export.files.write_pieces", write_half)
    with pytest.raises(ExportError if isinstance(error, OSError) else type(error)):
        compress(source, output, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert not exists or output.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_a_thread_is_passed_on(tmp_path, monkeypatch, kind):
    def fail(*_):
        raise kind("midway")

    source = save(NETS["deep"](), tmp_path / "m.onnx")
    monkeypatch.setattr("onnx_export.compress_onnx.compress_constant", fail)
    with pytest.raises(kind, match="midway"):
        compress(source, tmp_path / "o.onnx", jobs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_progress_is_told_in_order(tmp_path):
    source, told = save(NETS["deep"](), tmp_path / "m.onnx"), []
    samples = rng(0).standard_normal((8, 64)).astype(np.float32)
    compress(source, tmp_path / "o.onnx", calibration=samples, progress=lambda *step: told.append(step))
    steps = list(dict.fromkeys(what for what, _, _ in told))
    assert steps[0] == "calibrate"
    assert steps[-1] == "write"
    assert ("compress", 3, 3) in told
    assert all(0 <= done <= count for _, done, count in told)


def test_metadata_say_what_made_the_file(tmp_path):
    model = NETS["deep"]()
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "somebody"
    compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    metadata = {e.key: e.value for e in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert metadata["author"] == "somebody"
    assert json.loads(metadata["tansor"])["recipe"] == "double"


def test_a_model_without_weights_is_copied(tmp_path):
    source = save(net("(float[n] x) => (float[n] y) { y = Tanh(x) }"), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "o.onnx", calibration=np.ones((3,), np.float32))
    assert (report["tensors"], report["skipped"], report["weights"]["count"]) == ([], [], 0)
    assert report["weights"]["bits_per_weight"] == 0
    json.dumps(report, allow_nan=False)
    assert np.array_equal(outputs_of(source)[0], outputs_of(tmp_path / "o.onnx")[0])


def test_an_opset_that_cannot_be_converted_is_one_clear_error(tmp_path):
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = NoSuchOperator(x, w) }", 9, w=normal(64, 32))
    with pytest.raises(ExportError, match="opset 9"):
        compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")


def test_functions_and_other_domains_of_the_model_stay(tmp_path):
    model = net("(float[n, 64] x) => (float[n, 32] y) { a = MatMul(x, w) y = local.twice(a) }", w=normal(64, 32))
    model.functions.append(
        onnx.parser.parse_function('<domain: "local", opset_import: ["" : 21]> twice (a) => (c) { c = Add(a, a) }')
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    source = save(model, tmp_path / "m.onnx")
    compress(source, tmp_path / "o.onnx")
    check_runs(source, tmp_path / "o.onnx")
    assert {f.domain for f in onnx.load(tmp_path / "o.onnx").functions} == {"local", DOMAIN}


def test_initializers_written_as_lists_are_compressed_alike(tmp_path):
    weight = normal(64, 32)
    listed = net(MATMUL)
    listed.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel().tolist()))
    compress(save(listed, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    compress(save(net(MATMUL, w=weight), tmp_path / "c.onnx"), tmp_path / "d.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "d.onnx").read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_plain_model_is_a_tansor_error_or_still_a_model(tmp_path_factory, data):
    content = bytearray(NETS["deep"]().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(
            st.integers(0, 300) | st.integers(0, len(content) - 1) | st.integers(len(content) - 200, len(content) - 1)
        )
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "m.onnx").write_bytes(content)
    with contextlib.suppress(TansorError):
        compress(folder / "m.onnx", folder / "o.onnx", jobs=1)
        onnx.checker.check_model(onnx.load(folder / "o.onnx"))


def test_tensors_of_the_wrong_length_are_damage_by_name(tmp_path):
    model = NETS["deep"]()
    model.graph.initializer[1].raw_data += b"more"
    with pytest.raises(StreamError, match=r"m\.onnx: w2: "):
        compress(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")


def test_checksums_are_of_what_is_stored(tmp_path):
    compress(save(NETS["deep"](), tmp_path / "m.onnx"), tmp_path / "o.onnx")
    model = onnx.load(tmp_path / "o.onnx")
    stored = {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            crc = next(a.i for a in node.attribute if a.name == "stored_crc")
            assert crc == zlib.crc32(b"".join(stored[name] for name in node.input))


def test_calibration_of_a_model_that_onnx_runtime_refuses_is_one_clear_error(tmp_path):
    model = net("(float[n, 64] x) => (float[n, 32] y) { y = local.f(x, w) }", w=normal(64, 32))
    model.opset_import.append(helper.make_opsetid("local", 1))
    source = save(model, tmp_path / "m.onnx")
    with pytest.raises((ExportError, CalibrationError)) as error:
        compress(source, tmp_path / "o.onnx", calibration=np.ones((4, 64), np.float32))
    assert "\n" not in str(error.value)
