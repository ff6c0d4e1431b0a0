"""Small models: what the functions that decode leave of the saving, and how good the greedy choice is.

Run: ``python benchmarks/small.py``
"""

import random
import tempfile
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import onnx

from onnx_export import compress_onnx
from onnx_export.compress import compress
from onnx_export.functions import closure
from onnx_export.paying import MARK_BYTES, Choice, Form, function_bytes, smallest

KINDS = ("DecompressLinear", "DecompressClassesLinear", "DecompressPackedLinear", "RawLinear", "RawPackedLinear")
TRIALS = 6000


def chain(width: int, layers: int) -> onnx.ModelProto:
    """Matrix products one behind the other, with normally distributed weights."""
    values = np.random.default_rng(0)
    steps = "".join(f"x{i + 1} = MatMul(x{i}, w{i}) " for i in range(layers))
    text = f"(float[n, {width}] x0) => (float[n, {width}] x{layers}) {{ {steps} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> chain {text}')
    weights = [values.standard_normal((width, width)).astype(np.float32) / width**0.5 for _ in range(layers)]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights))
    return model


def sizes() -> None:
    """Bytes of files with every weight coded, and as they are chosen."""
    print("| layers | weights | float32 file | all coded | as chosen | modes |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "m.onnx", Path(folder) / "o.onnx"
        for width, layers in ((32, 1), (32, 4), (64, 1), (64, 4), (128, 1), (128, 4), (256, 4)):
            onnx.save(chain(width, layers), source)
            with mock.patch.object(compress_onnx, "keep_what_pays", lambda results, _ties: results):
                coded = compress(source, output, force=True)["output_bytes"]
            report = compress(source, output, force=True)
            modes = ", ".join(sorted({t["mode"] for t in report["tensors"]})) or "none"
            row = layers, layers * width**2, report["input_bytes"], coded, report["output_bytes"]
            print("|", " | ".join(f"{n:,}" for n in row), "|", modes, "|")


def total(choice: Choice, plain: dict[str, int]) -> int:
    """Bytes of a file with these forms."""
    needed = {name for form in choice.values() for name in form.functions}
    weights = sum(choice[n].size if n in choice else size for n, size in plain.items())
    return weights + sum(function_bytes()[n] for n in needed) + MARK_BYTES * bool(choice)


def excess() -> None:
    """How much larger than the smallest of all choices the greedy one is, at worst and on average."""
    draw = random.Random(1)  # noqa: S311 (no secret)
    ratios = []
    for _ in range(TRIALS):
        names = [str(i) for i in range(draw.randint(1, 5))]
        ways = {
            name: [
                Form(None, None, draw.randint(50, 8000), frozenset(closure([draw.choice(KINDS)])))  # type: ignore[arg-type]
                for _ in range(draw.randint(0, 2))
            ]
            for name in names
        }
        plain = {name: draw.randint(200, 9000) for name in names}
        picks = product(*([None, *ways[name]] for name in names))
        choices = [{n: f for n, f in zip(names, pick, strict=True) if f is not None} for pick in picks]
        ratios.append(total(smallest(ways, plain), plain) / min(total(choice, plain) for choice in choices))
    print(f"\n{TRIALS} random cases: {100 * (max(ratios) - 1):.2f} % above the smallest at worst, "
          f"{100 * (sum(ratios) / TRIALS - 1):.4f} % on average")  # fmt: skip


if __name__ == "__main__":
    sizes()
    excess()
