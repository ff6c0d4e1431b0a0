import json

import numpy as np
import onnx
import pytest
from onnx_export_models import NETS, OPT, feeds_for, net, normal, outputs_of, save, session
from strategies import rng

from onnx_export.cli import main
from onnx_export.compress import compress
from onnx_export.probe import output_sqnr
from onnx_export.rate import LOSS_TRIES, next_aim
from onnx_export.verify import verify
from refimpl.errors import InvalidArgument

TOKENS = rng(0).integers(32, 127, (8, 64)).astype(np.int64)


def samples_of(name, model):
    if name == "left":
        return rng(0).standard_normal((32, 30)).astype(np.float32)
    return feeds_for(session(model), size=24)


@pytest.mark.parametrize("name", [n for n in NETS if n not in ("opset 9", "left")])
def test_every_kind_of_weight_runs_after_it(tmp_path, name):
    model = NETS[name]()
    source, small = save(model, tmp_path / "m.onnx"), tmp_path / "small.onnx"
    feeds = samples_of(name, model)
    if name == "lstm":
        feeds = {"x": rng(0).standard_normal((24, 2, 16)).astype(np.float32)}
    report = compress(source, small, recipe="rate", calibration=feeds)
    verify(small, source)
    before, after = outputs_of(source, feeds), outputs_of(small, feeds)
    if report["tensors"] and before[0].dtype.kind == "f" and np.ptp(before[0]):
        assert output_sqnr([b.astype(np.float64) for b in before], after) > 22


@pytest.mark.parametrize(("bits", "profile"), [(3.0, "gpu"), (4.0, "archive"), (5.0, "gpu")])
def test_target_bits_are_met_over_the_whole_model(tmp_path, bits, profile):
    settings = {"recipe": "rate", "target_bits": bits, "profile": profile}
    report = compress(OPT, tmp_path / "small.onnx", calibration=TOKENS, **settings)
    assert report["weights"]["bits_per_weight"] == pytest.approx(bits, rel=0.01)
    assert report["weights"]["bits_per_weight"] == 8 * report["weights"]["stored_bytes"] / report["weights"]["count"]
    verify(tmp_path / "small.onnx", OPT)


def test_a_model_that_is_smaller_without_a_decoder_says_that_it_misses_the_target(tmp_path):
    notes = {}
    for width in (64, 1024):
        source = save(net(f"(float[n, 64] x) => (float[n, {width}] y) {{ y = MatMul(x, w) }}", w=normal(64, width)),
                      tmp_path / "m.onnx")  # fmt: skip
        samples = rng(0).standard_normal((64, 64)).astype(np.float32)
        report = compress(source, tmp_path / "o.onnx", recipe="rate", target_bits=3, calibration=samples, force=True)
        notes[width] = [note for note in report["notes"] if "--target-bits" in note]
        assert bool(notes[width]) == (report["weights"]["bits_per_weight"] > 3.1)
    assert notes[64]
    assert not notes[1024]


def test_more_jobs_write_the_same_bytes(tmp_path):
    for jobs in (1, 3):
        compress(OPT, tmp_path / f"{jobs}.onnx", recipe="rate", target_bits=4, calibration=TOKENS, jobs=jobs)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "3.onnx").read_bytes()


def test_a_weight_that_matters_more_gets_more_bits(tmp_path):
    graph = "(float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w) b = MatMul(x, v) c = Mul(b, k) y = Add(a, c) }"
    model = net(graph, w=normal(64, 64), v=normal(64, 64, seed=1), k=np.float32(0.1))
    samples = rng(0).standard_normal((400, 64)).astype(np.float32)
    report = compress(save(model, tmp_path / "m.onnx"), tmp_path / "s.onnx", recipe="rate", calibration=samples)
    entropy = {t["name"]: t["entropy_bits_per_weight"] for t in report["tensors"]}
    assert entropy["w"] - entropy["v"] == pytest.approx(np.log2(10), abs=0.8)


def test_a_loss_is_met_from_below(tmp_path):
    report = compress(
        OPT, tmp_path / "small.onnx", recipe="rate", max_loss=3.0, tokens=TOKENS[:4], calibration=TOKENS[4:]
    )
    from onnx_export.evaluate import evaluate

    measured = evaluate(tmp_path / "small.onnx", TOKENS[:4], baseline=OPT)
    assert measured["loss_percent"] <= 3.05
    assert report["weights"]["bits_per_weight"] < 8


def test_a_loss_is_not_judged_by_what_calibrates(tmp_path):
    given = {"recipe": "rate", "max_loss": 20.0, "calibration": TOKENS}
    report = compress(OPT, tmp_path / "small.onnx", tokens=TOKENS, **given)  # all are given twice
    notes = " ".join(report["notes"])
    assert "6 of 8 windows of --tokens calibrate: they do not judge" in notes
    assert "% on 2 windows of --tokens" in notes
    with pytest.raises(InvalidArgument, match="nothing but calibration samples"):
        compress(OPT, tmp_path / "none.onnx", tokens=TOKENS[:1], **given)
    assert not (tmp_path / "none.onnx").exists()


def mixed(rows, seed=0):
    """Inputs of few directions that vary much and many that vary little."""
    random = rng(seed)
    return (random.standard_normal((rows, 256)) * np.r_[np.full(16, 4.0), np.full(240, 0.2)]).astype(np.float32)


def test_the_promise_holds_on_inputs_that_nobody_saw(tmp_path):
    graph = "(float[n, 256] x) => (float[n, 64] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    source = save(net(graph, w=normal(256, 128), v=normal(128, 64, seed=1)), tmp_path / "m.onnx")
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=mixed(24))
    assert not any("WARNING" in note for note in report["notes"])
    others = {"x": mixed(2000, seed=7)}
    before, after = outputs_of(source, others), outputs_of(tmp_path / "s.onnx", others)
    assert output_sqnr([before[0].astype(np.float64)], after) > 23


def test_feedback_that_few_samples_teach_does_no_harm(tmp_path, monkeypatch):
    from onnx_export import rate

    graph = "(float[n, 256] x) => (float[n, 128] y) { y = MatMul(x, w) }"
    source = save(net(graph, w=normal(256, 128)), tmp_path / "m.onnx")
    others = {"x": mixed(2000, seed=7)}
    (before,) = outputs_of(source, others)
    kept = []
    for load in (rate.load_hessian, lambda *_: None):
        monkeypatch.setattr(rate, "load_hessian", load)
        compress(source, tmp_path / "s.onnx", recipe="rate", target_bits=3, calibration=mixed(24), force=True)
        kept.append(output_sqnr([before.astype(np.float64)], outputs_of(tmp_path / "s.onnx", others)))
    fed, nearest = kept
    assert fed > nearest - 0.5


def test_a_weight_that_eight_bits_are_too_coarse_for_is_copied(tmp_path):
    """Behind it a difference is taken that is a ten-thousandth of what it makes."""
    graph = """(float[n, 64] x) => (float[n, 64] y) {
        a = MatMul(x, w) b = MatMul(x, c) d = Sub(a, b) e = Mul(d, k) f = MatMul(e, v) y = MatMul(f, u) }"""
    w = normal(64, 64)
    near = (w * (1 + 1e-4 * rng(3).standard_normal((64, 64)))).astype(np.float32)
    arrays = {"w": w, "c": near, "k": np.float32(1e4), "v": normal(64, 96, seed=1), "u": normal(96, 64, seed=2)}
    source = save(net(graph, **arrays), tmp_path / "m.onnx")
    samples = rng(0).standard_normal((40, 64)).astype(np.float32)
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=samples, exclude=["c"])
    assert any(s["name"] == "w" and "too coarse" in s["reason"] for s in report["skipped"])
    assert {t["name"] for t in report["tensors"]} == {"v", "u"}
    assert not any("WARNING: 24 dB" in note for note in report["notes"])


def test_a_grouped_kernel_gets_feedback(tmp_path, monkeypatch):
    from onnx_export import rate

    model = NETS["depthwise"]()
    source, samples = save(model, tmp_path / "m.onnx"), rng(0).standard_normal((24, 128, 8, 8)).cumsum(axis=3)
    samples = (samples / 3).astype(np.float32)
    kept = []
    for load in (rate.load_hessian, lambda *_: None):
        monkeypatch.setattr(rate, "load_hessian", load)
        report = compress(source, tmp_path / "s.onnx", recipe="rate", target_bits=4, calibration=samples, force=True)
        kept.append(output_sqnr(outputs_of(source, {"x": samples}), outputs_of(tmp_path / "s.onnx", {"x": samples})))
    assert [t["statistics"] for t in report["tensors"]] == ["calibrated"]
    assert kept[0] > kept[1] + 1


def test_what_is_not_watched_is_named(tmp_path):
    source = save(NETS["gather"](), tmp_path / "m.onnx")
    samples = rng(0).integers(0, 64, 24)
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=samples)
    assert "rounded to nearest, since what they read is not watched: w" in report["notes"]


def test_already_quantized_weights_keep_their_values(tmp_path):
    graph = """(float[n, 256] x) => (float[n, 32] y) {
        d = DequantizeLinear(q, s, z) h = MatMul(x, d) r = Relu(h) y = MatMul(r, w) }"""
    q = rng(0).normal(0, 4, (256, 128)).round().astype(np.int8)
    model = net(graph, q=q, s=np.float32(0.01), z=np.int8(0), w=normal(128, 32))
    source = save(model, tmp_path / "m.onnx")
    samples = rng(0).standard_normal((40, 256)).astype(np.float32)
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=samples)
    assert {t["name"]: t["recipe"] for t in report["tensors"]}["q"] == "lossless"
    assert verify(tmp_path / "s.onnx", source)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "--calibration"),
        ({"calibration": TOKENS, "target_bits": 0}, "target_bits"),
        ({"calibration": TOKENS, "target_bits": 33}, "target_bits"),
        ({"calibration": TOKENS, "target_bits": 0.05}, "raise --target-bits"),
        ({"calibration": TOKENS, "target_bits": 3, "max_loss": 1, "tokens": TOKENS}, "one of them"),
        ({"calibration": TOKENS, "max_loss": 1}, "--tokens"),
        ({"calibration": TOKENS, "tokens": TOKENS}, "--max-loss"),
        ({"calibration": TOKENS, "max_loss": -1, "tokens": TOKENS}, "max_loss"),
        ({"calibration": TOKENS, "sparsity": 0.5}, "--sparsity"),
        ({"calibration": TOKENS, "recipe": "double", "target_bits": 3}, "for rate"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, given, says):
    with pytest.raises(InvalidArgument, match=says):
        compress(OPT, tmp_path / "small.onnx", **{"recipe": "rate", **given})
    assert not list(tmp_path.iterdir())


def test_the_command_line_reaches_it(tmp_path, capsys):
    np.save(tmp_path / "t.npy", TOKENS)
    out = tmp_path / "small.onnx"
    arguments = ["compress", str(OPT), "-o", str(out), "--recipe", "rate", "--target-bits", "4.5", "--json"]
    assert main([*arguments, "--calibration", str(tmp_path / "t.npy")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "rate"
    assert any("dB on 2 of 8 calibration samples, held back" in note for note in report["notes"])
    assert onnx.load(out).metadata_props


def test_the_next_aim_closes_in():
    loss = lambda aim: 0.7 * aim**1.3  # noqa: E731
    seen = {}
    aim = 16.0
    for _ in range(LOSS_TRIES):
        seen[aim] = loss(aim)
        if 0.93 <= seen[aim] <= 1:
            break
        aim = next_aim(seen)
    assert 0.93 <= seen[aim] <= 1


def test_an_interrupted_run_goes_on_from_what_is_finished(tmp_path, monkeypatch):
    from onnx_export import moments, rate

    given = {"recipe": "rate", "target_bits": 4, "calibration": TOKENS}
    compress(OPT, tmp_path / "whole.onnx", **given)
    real, left = rate.quantize_by_activity, iter(range(40))

    def interrupted(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(rate, "quantize_by_activity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(OPT, tmp_path / "resumed.onnx", work=tmp_path / "work", jobs=1, **given)
    assert not (tmp_path / "resumed.onnx").exists()
    calls = []
    monkeypatch.setattr(rate, "quantize_by_activity", lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.setattr(rate, "losses_by_damping", None)  # so is how much damping they want
    monkeypatch.setattr(moments, "run_group", None)  # the moments are there
    compress(OPT, tmp_path / "resumed.onnx", work=tmp_path / "work", **given)
    first = len(calls)
    assert (tmp_path / "resumed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    compress(OPT, tmp_path / "again.onnx", work=tmp_path / "work", **given)
    assert len(calls) == first > 0
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_outputs_worse_than_aimed_at_are_a_warning(tmp_path, monkeypatch):
    from onnx_export import rate

    graph = "(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }"
    source = save(net(graph, w=normal(64, 32)), tmp_path / "model.onnx")
    given = {"recipe": "rate", "calibration": rng(0).standard_normal((30, 64)).astype(np.float32), "force": True}
    met = compress(source, tmp_path / "o.onnx", **given)["notes"]
    assert not any("aimed at" in note for note in met)
    real = rate.allocate_error
    monkeypatch.setattr(rate, "allocate_error", lambda demands, aim: real(demands, 30 * aim))
    monkeypatch.setattr(rate, "LOSS_TRIES", 1)
    monkeypatch.setattr(rate, "without_worst", lambda *_: None)
    assert any(
        "WARNING" in note and "24 dB" in note for note in compress(source, tmp_path / "o.onnx", **given)["notes"]
    )
    monkeypatch.undo()
    coarse = compress(source, tmp_path / "o.onnx", target_bits=2, **given)["notes"]  # asked for, so no warning
    assert not any("aimed at" in note for note in coarse)


def test_other_recipes_and_choices_of_tensors_share_what_was_measured(tmp_path, monkeypatch):
    graph = "(float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    from onnx_export import moments

    source = save(net(graph, w=normal(64, 48), v=normal(48, 32, seed=1)), tmp_path / "model.onnx")
    samples = rng(0).standard_normal((30, 64)).astype(np.float32)
    choices = [{"recipe": "rate"}, {"recipe": "rate", "exclude": ("v",)}, {"recipe": "aggressive"}]
    for i, choice in enumerate(choices):
        compress(source, tmp_path / f"{i}.onnx", calibration=samples, **choice)
    for i, choice in enumerate(choices):
        compress(source, tmp_path / f"shared-{i}.onnx", calibration=samples, work=tmp_path / "work", **choice)
        assert (tmp_path / f"shared-{i}.onnx").read_bytes() == (tmp_path / f"{i}.onnx").read_bytes()
        monkeypatch.setattr(moments, "run_group", None)  # the moments are there
    assert len(list((tmp_path / "work").iterdir())) == 1


def test_another_model_shares_no_work(tmp_path):
    given = {"recipe": "rate", "calibration": rng(0).standard_normal((30, 64)).astype(np.float32)}
    graph = "(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }"
    for seed in (1, 2):
        source = save(net(graph, w=normal(64, 32, seed=seed)), tmp_path / f"{seed}.onnx")
        compress(source, tmp_path / f"plain-{seed}.onnx", **given)
        compress(source, tmp_path / f"work-{seed}.onnx", work=tmp_path / "work", **given)
        assert (tmp_path / f"plain-{seed}.onnx").read_bytes() == (tmp_path / f"work-{seed}.onnx").read_bytes()
    assert len(list((tmp_path / "work").iterdir())) == 2


@pytest.mark.parametrize("recipe", ["rate", "aggressive"])
def test_a_cluster_of_processes_writes_the_same_bytes(tmp_path, recipe):
    distributed = pytest.importorskip("distributed")
    given = {"recipe": recipe, "calibration": TOKENS}
    compress(OPT, tmp_path / "here.onnx", **given)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        compress(OPT, tmp_path / "there.onnx", work=tmp_path / "w", scheduler=cluster.scheduler_address, **given)
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


def test_a_cluster_that_is_not_there_is_one_clear_error(tmp_path):
    given = {"recipe": "rate", "calibration": TOKENS, "scheduler": "tcp://127.0.0.1:9"}
    with pytest.raises(InvalidArgument, match="--work"):
        compress(OPT, tmp_path / "s.onnx", **given)
    with pytest.raises(InvalidArgument, match="for rate and aggressive"):
        compress(OPT, tmp_path / "s.onnx", **{**given, "recipe": "double"}, work=tmp_path / "w")
    pytest.importorskip("distributed")
    with pytest.raises(InvalidArgument, match="no Dask scheduler answers"):
        compress(OPT, tmp_path / "s.onnx", **given, work=tmp_path / "w")
    assert not (tmp_path / "s.onnx").exists()


def test_rows_next_to_nothing_round_to_zero(tmp_path):
    kernel = normal(32, 16, 3, 3)
    kernel[3] = 1e-44
    kernel[5] = 1e-36
    kernel[7] = 0
    model = net("(float[n, 16, 8, 8] x) => (float[n, 32, 6, 6] y) { y = Conv(x, w) }", w=kernel)
    source = save(model, tmp_path / "m.onnx")
    x = rng(0).standard_normal((20, 16, 8, 8)).astype(np.float32)
    compress(source, tmp_path / "s.onnx", recipe="rate", calibration=x)
    (after,) = outputs_of(tmp_path / "s.onnx", {"x": x})
    assert np.abs(after[:, [3, 5, 7]]).max() < 1e-30
    assert output_sqnr(outputs_of(source, {"x": x}), [after]) > 22


@pytest.mark.parametrize("place", [(5, 7), (slice(None), 9), (11, slice(None))])
def test_outliers_cost_bits_not_the_model(tmp_path, place):
    weight = normal(128, 96)
    weight[place] *= 400
    model = net("(float[n, 128] x) => (float[n, 96] y) { y = MatMul(x, w) }", w=weight)
    source = save(model, tmp_path / "m.onnx")
    x = rng(0).standard_normal((400, 128)).astype(np.float32)
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=x)
    before, after = outputs_of(source, {"x": x})[0], outputs_of(tmp_path / "s.onnx", {"x": x})[0]
    assert output_sqnr([before], [after]) > 23
    assert report["weights"]["bits_per_weight"] < 8
    quiet = np.delete(np.arange(96), np.argmax(np.square(before).mean(axis=0)))
    assert output_sqnr([before[:, quiet]], [after[:, quiet]]) > -3


@pytest.mark.parametrize(("bits", "warned"), [(1.2, True), (3.0, False)])
def test_bits_that_ruin_outputs_are_a_warning(tmp_path, bits, warned):
    model = net("(float[n, 256] x) => (float[n, 192] y) { y = MatMul(x, w) }", w=normal(256, 192))
    source = save(model, tmp_path / "m.onnx")
    x = rng(0).standard_normal((400, 256)).astype(np.float32)
    report = compress(source, tmp_path / "s.onnx", recipe="rate", target_bits=bits, calibration=x)
    assert any(note.startswith("WARNING: that is an error of") for note in report["notes"]) == warned


def test_outliers_do_not_keep_codes_from_being_fine(tmp_path):
    """One weight of a hundred typical sizes, and outputs that want steps of a tenth of one."""
    first = normal(64, 128)
    first[5, 7] = 100 * first.std()
    model = net(
        "(float[n, 64] x) => (float[n, 96] y) { h = MatMul(x, w) y = MatMul(h, v) }", w=first, v=normal(128, 96)
    )
    source = save(model, tmp_path / "m.onnx")
    x = rng(0).standard_normal((400, 64)).astype(np.float32)
    x[:, 5] *= 0.02  # the outlier's error is all that it is heard of
    report = compress(source, tmp_path / "s.onnx", recipe="rate", calibration=x)
    assert report["weights"]["bits_per_weight"] < 6.5  # neither is copied
    assert not [note for note in report["notes"] if "WARNING" in note]
    assert output_sqnr(outputs_of(source, {"x": x}), outputs_of(tmp_path / "s.onnx", {"x": x})) > 24
