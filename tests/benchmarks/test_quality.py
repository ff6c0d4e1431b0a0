"""The parts of benchmarks/quality that need no downloads."""

import doctest
import importlib
import json
import pkgutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from benchmarks import quality
from benchmarks.quality import bert, harness, methods, probe, resnet, rows, tables
from benchmarks.quality.curves import curve
from benchmarks.quality.method import AS_IT_IS, LOSSLESS, Method, Priced
from benchmarks.quality.task import Folders, Metric, Missing, Task, cached, module_file, save_once

MODULES = [m.name for m in pkgutil.iter_modules(quality.__path__, "benchmarks.quality.")]


def run(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def product(weight):
    """x W as a model."""
    tensors = [numpy_helper.from_array(weight, "W")]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", None]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "product", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def halve(model, calibration, _):
    assert calibration.is_file()
    return product(numpy_helper.to_array(model.graph.initializer[0]) / 2)


@pytest.fixture
def task(tmp_path):
    random = np.random.default_rng(0)
    model, calibration = tmp_path / "model.onnx", tmp_path / "calibration.npy"
    onnx.save(product(random.standard_normal((64, 64)).astype(np.float32)), model)
    np.save(calibration, random.standard_normal((8, 64)).astype(np.float32))
    judged = []

    def evaluate(path):
        judged.append(path)
        return {"score": 50.0}

    made = Task("tiny", "A product", model, calibration, Metric("score", "points"), evaluate, {"score": 51.0})
    return made, judged


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    if not name.endswith("__main__"):
        assert not doctest.testmod(importlib.import_module(name)).failed


def test_methods_have_names_of_their_own():
    labels = [method.label for method in methods.METHODS]
    assert len(set(labels)) == len(labels)


def test_a_finished_result_is_not_made_again(task, tmp_path):
    task, judged = task
    first = harness.result_of(task, Method("lossless", arguments=LOSSLESS), tmp_path / "results")
    again = harness.result_of(task, Method("lossless", arguments=LOSSLESS), tmp_path / "results")
    assert first == again
    assert len(judged) == 1
    assert first["bits_per_weight"] == 32
    assert first["loss"] == 1
    harness.result_of(task, Method("lossless", arguments=AS_IT_IS), tmp_path / "results")  # another question
    harness.result_of(task, Method("lossless", arguments=AS_IT_IS), tmp_path / "results", redo=True)
    assert len(judged) == 3


def test_a_transform_is_judged_and_counted(task):
    task, _ = task
    seen = []

    def evaluate(path):
        seen.append(numpy_helper.to_array(onnx.load(path).graph.initializer[0]))
        return {"score": 51.0}

    result = harness.run(replace(task, evaluate=evaluate), Method("half", arguments=AS_IT_IS, transform=halve))
    np.testing.assert_array_equal(seen[0], numpy_helper.to_array(onnx.load(task.model).graph.initializer[0]) / 2)
    assert result["stored_bytes"] == 4 * 64 * 64


def test_a_format_that_is_not_written_has_a_price(task):
    task, judged = task
    result = harness.run(task, Method("half", transform=lambda model, *_: Priced(model, 64 * 64 // 2)))
    assert result["bits_per_weight"] == 4
    assert len(judged) == 1
    assert "| half | 4.000 |  |  | 50.0000 |" in tables.task_table(task, [result])


@pytest.mark.parametrize("arguments", [{}, AS_IT_IS])
def test_a_transform_may_leave_large_tensors_where_they_were_read(task, arguments):
    task, _ = task
    weight = np.random.default_rng(1).standard_normal((64, 1024)).astype(np.float32)
    onnx.save(product(weight), task.model)

    def evaluate(path):
        np.testing.assert_array_equal(run(onnx.load(path), {"x": np.eye(64, dtype=np.float32)}), weight)
        return {"score": 51.0}

    def leave(model, *_):
        return model if arguments else Priced(model, 1.0)

    harness.run(replace(task, evaluate=evaluate), Method("left", arguments=arguments, transform=leave))


def test_an_answer_is_kept_for_its_question(tmp_path):
    file = tmp_path / "new" / "answer.json"
    answers = iter("abc")
    assert [cached(file, question, lambda: next(answers)) for question in ("x", "x", "y", "y")] == list("aabb")


def test_an_array_is_saved_once(tmp_path):
    save_once(tmp_path / "new" / "a.npy", lambda: np.arange(3))
    save_once(tmp_path / "new" / "a.npy", pytest.fail)
    assert np.load(tmp_path / "new" / "a.npy").tolist() == [0, 1, 2]
    assert len(list((tmp_path / "new").iterdir())) == 1


def two_layers(path):
    """A table of 40 rows and two linear layers, as a file."""
    random = np.random.default_rng(0)
    shapes = {"table": (40, 64), "first": (64, 256), "second[0]": (256, 48)}
    tensors = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second[0]"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "t"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "t", 48])
    graph = helper.make_graph(nodes, "two", [ids], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_a_target_of_linear_layers_is_theirs_alone(tmp_path):
    two_layers(tmp_path / "model.onnx")
    np.save(tmp_path / "ids.npy", np.random.default_rng(1).integers(0, 40, (32, 8)))
    kept = []

    def evaluate(path):
        kept.append({t.name for t in onnx.load(path).graph.initializer} & {"table", "first", "second[0]"})
        return {"score": 50.0}

    metric = Metric("score", "points")
    task = Task("tiny", "", tmp_path / "model.onnx", tmp_path / "ids.npy", metric, evaluate, {"score": 51.0}, True)
    method = Method("rate", "4", {"recipe": "rate", "target_bits": 4.0}, scope="linear")
    result = harness.run(task, method, jobs=1)
    assert kept == [{"table"}]
    assert result["bits_per_weight"] == pytest.approx(4, rel=0.02)
    assert result["stored_bytes"] < result["file_bytes"] - 40 * 64 * 4


def test_rows_made_side_by_side_are_found_by_the_tables(task, tmp_path, monkeypatch):
    task, judged = task
    chosen = [
        Method("lossless", arguments=LOSSLESS),
        Method("half", transform=lambda model, *_: Priced(model, 2048)),
        Method("third", transform=lambda model, *_: Priced(model, 1024)),
        Method("linear", scope="linear"),
        Method("rate", arguments={"recipe": "rate", "target_bits": 1e-3}),  # which no weights can meet
    ]
    monkeypatch.setattr(rows, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(rows, "METHODS", chosen)
    monkeypatch.setattr(rows, "TASKS", {"tiny": lambda _: task})
    told = []
    failed = rows.make_rows([task], chosen, Folders(tmp_path, None), 2, 1, told.append)
    assert list(failed) == [("tiny", "rate")]
    assert told[:2] == ["tiny: half, ahead of others", "tiny: rate, ahead of others"]
    assert len(told) == 4
    assert len(judged) == 3
    assert harness.result_of(task, chosen[2], tmp_path / "results")["bits_per_weight"] == 2
    assert rows.make_rows([task], chosen[:3], Folders(tmp_path, None), 2, 1, told.append) == {}
    assert len(judged) == 3


def test_what_is_missing_is_named():
    with pytest.raises(Missing, match="no-such-package==1"):
        module_file("no_such_package", "model.onnx", version="1")


def test_tables_and_curves_show_every_result(task):
    task, _ = task
    result = json.loads(json.dumps(harness.run(task, Method("lossless", "a<b", arguments=LOSSLESS))))
    assert "| lossless a<b | 32.000 | 32.000 |" in tables.task_table(task, [result])
    picture = curve(task, [result | {"bits_per_weight": 4.0}, result | {"bits_per_weight": 3.0, "loss": -1.0}])
    assert picture.count("<circle") == 2
    assert "a&lt;b" in picture
    assert "<circle" not in curve(task, [result])  # 32 bits lie outside


def test_the_encoder_is_what_numpy_computes():
    random = np.random.default_rng(0)
    config = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "layer_norm_eps": 1e-12}
    shapes = {"embeddings.word_embeddings.weight": (11, 8), "embeddings.position_embeddings.weight": (6, 8)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, 8)}
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        linear = [f"attention.self.{n}" for n in ("query", "key", "value")] + ["attention.output.dense"]
        sizes = dict.fromkeys(linear, (8, 8)) | {"intermediate.dense": (16, 8), "output.dense": (8, 16)}
        for name, shape in sizes.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes |= {f"{n}.{part}": (8,) for n in norms for part in ("weight", "bias")}
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    ids = np.array([3, 1, 4, 1])
    padded = {"input_ids": np.array([[3, 1, 4, 1, 0, 0]]), "attention_mask": np.array([[1, 1, 1, 1, 0, 0]])}
    embedding = run(bert.encoder(weights, config), padded)[0]
    np.testing.assert_allclose(embedding, bert.encode_numpy(weights, config, ids), rtol=1e-4, atol=1e-5)


def test_the_residual_network_runs():
    model = resnet.to_onnx(*resnet.initial(0), (28, 28))
    onnx.checker.check_model(model)
    assert run(model, {"image": np.ones((2, 1, 28, 28), np.float32)}).shape == (2, 10)


def test_varied_images_are_the_same_pixels():
    image = np.full((1, 4, 4), -1, np.float32)
    image[0, 1:3, 1:3] = [[1, 2], [3, 4]]
    for seed in range(20):
        assert set(np.unique(resnet.vary(image, np.random.default_rng(seed)))) <= {-1, 1, 2, 3, 4}


def test_the_probe_separates_what_can_be_separated():
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 5))
    labels = x @ [1, -2, 0, 3, 0] > 0.5
    assert (probe.fit(x[:200], labels[:200])(x[200:]) == labels[200:]).mean() > 0.95
