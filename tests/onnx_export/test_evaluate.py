import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_export_models import OPT, net, save
from strategies import rng, seeds

from onnx_export.cli import main
from onnx_export.compress import compress
from onnx_export.evaluate import BATCH_TOKENS, evaluate, negative_log_likelihood
from refimpl.errors import ExportError, InvalidArgument

# The next token depends on this one alone: logits are the row of a table.
BIGRAMS = "(int64[n, s] tokens) => (float[n, s, 40] logits) { logits = Gather(w, tokens) }"


def bigrams(path, table, text=BIGRAMS):
    return save(net(text, w=table.astype(np.float32)), path)


def perplexity(table, tokens):
    """By definition, in float64."""
    p = np.exp(table.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    return float(np.exp(-np.log(p[tokens[:, :-1], tokens[:, 1:]]).mean()))


@settings(max_examples=15)
@given(seed=seeds, windows=st.integers(1, 9), length=st.integers(2, 30), spread=st.sampled_from([0.0, 1.0, 30.0]))
def test_perplexity_is_that_of_the_table(tmp_path_factory, seed, windows, length, spread):
    table = spread * rng(seed).standard_normal((40, 40))
    tokens = rng(seed).integers(0, 40, (windows, length))
    result = evaluate(bigrams(tmp_path_factory.getbasetemp() / "b.onnx", table), tokens)
    expected = perplexity(table.astype(np.float32), tokens)
    assert result["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert result["bits_per_token"] == pytest.approx(np.log2(expected), rel=1e-5, abs=1e-6)
    assert result["tokens"] == windows * (length - 1)


def test_many_windows_are_cut_into_batches(tmp_path):
    table, tokens, told = (
        rng(0).standard_normal((40, 40)),
        rng(0).integers(0, 40, (3 * BATCH_TOKENS // 512 + 1, 512)),
        [],
    )
    result = evaluate(bigrams(tmp_path / "b.onnx", table), tokens, progress=lambda *step: told.append(step))
    assert result["perplexity"] == pytest.approx(perplexity(table, tokens), rel=1e-5)
    assert told == [("evaluate", done, 13) for done in (4, 8, 12, 13)]


def test_windows_longer_than_a_batch_are_taken_one_by_one(tmp_path):
    table, tokens = rng(0).standard_normal((40, 40)), rng(0).integers(0, 40, (2, BATCH_TOKENS + 5))
    assert evaluate(bigrams(tmp_path / "b.onnx", table), tokens)["perplexity"] == pytest.approx(
        perplexity(table, tokens), rel=1e-5
    )


def test_a_baseline_is_evaluated_beside_it(tmp_path):
    better, worse = rng(0).standard_normal((40, 40)), np.zeros((40, 40))
    tokens = np.argmax(better, axis=1)[rng(1).integers(0, 40, (5, 9))]
    tokens[:, 1::2] = np.argmax(better, axis=1)[tokens[:, 0:-1:2]]
    paths = bigrams(tmp_path / "better.onnx", better), bigrams(tmp_path / "worse.onnx", worse)
    result = evaluate(paths[0], tokens, baseline=paths[1])
    assert result["baseline_perplexity"] == pytest.approx(40, rel=1e-6)
    assert result["loss_percent"] == pytest.approx(100 * (result["perplexity"] / 40 - 1), rel=1e-4)
    assert evaluate(paths[0], tokens, baseline=paths[0])["loss_percent"] == 0


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_compressed_model_is_evaluated_in_both_modes(tmp_path, mode):
    table, tokens = 3 * rng(0).standard_normal((40, 40)), rng(0).integers(0, 40, (5, 9))
    source = bigrams(tmp_path / "b.onnx", table)
    compress(source, tmp_path / "o.onnx")
    result = evaluate(tmp_path / "o.onnx", tokens, baseline=source, mode=mode)
    assert abs(result["loss_percent"]) < 10
    assert result["loss_percent"] != 0


def test_the_usual_companions_of_tokens_are_made(tmp_path):
    text = """(int64[n, s] input_ids, int64[n, s] attention_mask, int32[n, s] position_ids, int64[n, s] token_type_ids)
        => (float[n, s] other, float[n, s, 40] logits) {
        l = Gather(w, input_ids) axis = Constant <value = int64[1] {2}> () m = Cast <to = 1> (attention_mask)
        p = Cast <to = 1> (position_ids) t = Cast <to = 1> (token_type_ids) pt = Mul(p, t) a = Add(m, pt)
        b = Unsqueeze(a, axis) logits = Mul(l, b) other = Identity(a) }"""
    table, tokens = rng(0).standard_normal((40, 40)), rng(0).integers(0, 40, (5, 9))
    result = evaluate(bigrams(tmp_path / "b.onnx", table, text), tokens)
    assert result["perplexity"] == pytest.approx(perplexity(table, tokens), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_tokens_of_every_integer_type_and_files_are_taken(tmp_path, dtype):
    source, tokens = bigrams(tmp_path / "b.onnx", np.zeros((40, 40))), np.ones((2, 5), dtype)
    np.save(tmp_path / "t.npy", tokens)
    for given_tokens in (tokens, tmp_path / "t.npy", str(tmp_path / "t.npy")):
        assert evaluate(source, given_tokens)["perplexity"] == pytest.approx(40)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((2, 5)), "integers"),
        (np.zeros((2, 5), bool), "integers"),
        (np.zeros(5, int), "two-dimensional"),
        (np.zeros((1, 2, 5), int), "two-dimensional"),
        (np.zeros((0, 5), int), r"\[0, 5\]"),
        (np.zeros((5, 1), int), r"\[5, 1\]"),
        (np.full((2, 5), 40), "40|ONNX Runtime"),
        (np.full((2, 5), -1), "-1|vocabulary"),
        (np.full((2, 5), 2**64 - 1, np.uint64), "vocabulary|ONNX Runtime"),
    ],
)
def test_bad_tokens_are_refused(tmp_path, tokens, message):
    with pytest.raises((InvalidArgument, ExportError), match=message):
        evaluate(bigrams(tmp_path / "b.onnx", np.zeros((40, 40))), tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BIGRAMS.replace("[n, s, 40]", "[n, 40]").replace("[n, s]", "[n]"), "no output of shape"),
        (BIGRAMS.replace("tokens)", "tokens, float[n] image)", 1), "input_ids|tokens"),
        ("(float[n, s] tokens) => (float[n, s, 40] logits) { t = Cast <to = 7> (tokens) logits = Gather(w, t) }",
         r"input tokens is tensor\(float\)"),
        ("(int64[n, 7] tokens) => (float[n, 7, 40] logits) { logits = Gather(w, tokens) }", "ONNX Runtime cannot run"),
    ],
)  # fmt: skip
def test_what_is_no_language_model_is_refused(tmp_path, text, message):
    with pytest.raises((InvalidArgument, ExportError), match=message):
        evaluate(bigrams(tmp_path / "b.onnx", np.zeros((40, 40)), text), np.ones((2, 5), int))


def test_impossible_tokens_elsewhere_cost_nothing(tmp_path):
    table = np.zeros((40, 40))
    table[:, 20:] = -np.inf  # a model may rule tokens out
    assert evaluate(bigrams(tmp_path / "b.onnx", table), np.ones((2, 5), int))["perplexity"] == pytest.approx(20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e30])
def test_logits_that_leave_no_perplexity_are_one_clear_error(tmp_path, capsys, value):
    table = np.zeros((40, 40))
    table[1, 1] = value
    source, tokens = bigrams(tmp_path / "b.onnx", table), np.ones((2, 5), int)
    np.save(tmp_path / "t.npy", tokens)
    if value == np.inf:
        table[1, 2] = value
        bigrams(source, table)
    with pytest.raises(ExportError, match="perplexity"):
        evaluate(source, tokens)
    assert main(["evaluate", str(source), "--tokens", str(tmp_path / "t.npy"), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_the_bundled_model_is_a_language_model():
    text = np.frombuffer(OPT.with_name("sotu-evaluation.txt").read_bytes()[:2048], np.uint8).reshape(8, 256)
    result = evaluate(OPT, text)
    assert 2 < result["perplexity"] < 6
    assert evaluate(OPT, rng(0).permutation(text.ravel()).reshape(8, 256))["perplexity"] > 10
    json.dumps(result, allow_nan=False)


@given(seeds)
def test_likelihoods_do_not_overflow(seed):
    logits = 1e4 * rng(seed).standard_normal((2, 3, 5)).astype(np.float16 if seed % 2 else np.float32)
    targets = rng(seed).integers(0, 5, (2, 3))
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    exact = (
        np.log(np.exp(wide - top).sum(axis=-1)) + top[..., 0] - np.take_along_axis(wide, targets[..., None], -1)[..., 0]
    )
    assert negative_log_likelihood(logits, targets) == pytest.approx(exact.sum(), rel=1e-5, abs=1e-5)
