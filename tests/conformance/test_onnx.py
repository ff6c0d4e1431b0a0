"""The ONNX cases, and frames, through the bodies of the `ai.tansor` functions."""

import numpy as np
import pytest
from onnx import helper, load_from_string
from onnx.reference import ReferenceEvaluator
from onnx_export_models import session

from codec.frame import read_frame
from codec.tensor import StoredTensor
from conformance.run import run
from conformance.vectors import load_cases
from onnx_export.calls import write_call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions


class Evaluator:
    """onnx's own evaluator, and a decoder made of it."""

    def onnx(self, model, **inputs):
        return tuple(ReferenceEvaluator(load_from_string(model.tobytes())).run(None, inputs))

    def decode(self, frame):
        """Checked and parsed in Python, decoded by the graph: float32 holds every symbol."""
        parsed = read_frame(frame.tobytes())
        shape = (parsed.block.symbol_count,)
        stored = StoredTensor(shape, "float32", parsed, np.zeros(1, np.uint8), np.ones(1, np.float32))
        call = write_call("symbols", stored)
        output = helper.make_tensor_value_info("symbols", 1, list(shape))
        graph = helper.make_graph([call.node], "decode", [], [output], call.inputs)
        imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
        bodies = functions([call.node.op_type], 21)
        model = helper.make_model(graph, functions=bodies, opset_imports=imports, ir_version=10)
        return ReferenceEvaluator(model).run(None, {})[0].astype(np.uint8)


class Runtime:
    """Stock ONNX Runtime."""

    def onnx(self, model, **inputs):
        loaded = load_from_string(model.tobytes())
        opened = session(loaded)
        if "bfloat16" in opened.get_outputs()[0].type:
            pytest.skip("ONNX Runtime hands out no bfloat16 arrays")
        return tuple(opened.run(None, inputs))


def failures(backend, cases):
    return [result for result in run(backend, cases) if result.status != "passed"]


def test_the_reference_evaluator_passes_the_onnx_cases():
    assert failures(Evaluator(), load_cases(["onnx"])) == []


@pytest.mark.parametrize("case", load_cases(["onnx"]), ids=lambda case: case.name)
def test_onnx_runtime_passes_them_too(case):
    assert failures(Runtime(), [case]) == []


def test_the_function_bodies_decode_the_frames():
    cases = [case for case in load_cases(["decode"]) if case.error is None and "large" not in case.flags]
    cases = [case for case in cases if 0 < case.outputs["symbols"].shape[0] <= 1000]
    assert len(cases) > 40
    assert failures(Evaluator(), cases) == []
