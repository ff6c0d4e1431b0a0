"""Small models to compress, written in ONNX text, and what runs and reads them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from strategies import rng

from codec.tensor import DTYPES, FLOATS
from onnx_export.calls import write_call
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions

OPT = Path(__file__).parents[1] / "onnx_export" / "data" / "opt-1m-byte.onnx"
IR_VERSIONS = {9: 4, 11: 8, 12: 8, 13: 8, 18: 8, 21: 10, 26: 13}  # opset -> IR version that goes with it
FEEDS = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip
ort.set_default_logger_severity(4)


def net(graph, opset=21, **tensors):
    """A model from ``(inputs) => (outputs) { nodes }`` and its initializers; two underscores in a name mean a dot."""
    text = f'<ir_version: {IR_VERSIONS[opset]}, opset_import: ["" : {opset}]> net {graph}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name.replace("__", ".")) for name, array in tensors.items()
    )
    return model


def normal(*shape, seed=0, dtype=np.float32):
    """Weights as a layer has them."""
    return (rng(seed).standard_normal(shape) * 0.05).astype(dtype)


def integers(*shape, seed=0, low=-128, high=127, width=20.0, dtype=np.int8):
    """Quantized weights as a layer has them."""
    values = rng(seed).normal((low + high) / 2, width, shape).round()
    return np.clip(values, low, high).astype(np.int8 if low < 0 else np.uint8).astype(dtype)


def as_constant_nodes(model):
    """The same model with its initializers in Constant nodes."""
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def save(model, path):
    """Write a model and return where."""
    path.write_bytes(model.SerializeToString())
    return path


def session(model, optimize=True):
    """Stock ONNX Runtime on a model or a path, tansor left out."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def feeds_for(opened, seed=1, size=3):
    """Inputs for a session: its free dimensions get ``size``."""
    feeds = {}
    for given in opened.get_inputs():
        shape = [d if isinstance(d, int) else size for d in given.shape]
        values = rng(seed).standard_normal(shape) if "float" in given.type else rng(seed).integers(0, 2, shape)
        feeds[given.name] = values.astype(FEEDS[given.type])
    return feeds


def outputs_of(model, feeds=None, **options):
    """All outputs of a model or a path in stock ONNX Runtime."""
    opened = session(model, **options)
    return opened.run(None, feeds_for(opened) if feeds is None else feeds)


def call_model(name, stored, opset=21):
    """A model that is one call: outputs the value, and the value in a type that NumPy has."""
    call = write_call(name, stored)
    to = helper.np_dtype_to_tensor_dtype(DTYPES[stored.dtype])
    wide = TensorProto.FLOAT if stored.dtype in FLOATS else TensorProto.INT32
    nodes = [*call.nodes, helper.make_node("Cast", [name], ["wide"], to=wide)]
    outputs = [helper.make_tensor_value_info("wide", wide, stored.shape)]
    info = [helper.make_tensor_value_info(name, to, stored.shape)]
    graph = helper.make_graph(nodes, "one", [], outputs, call.inputs, value_info=[*info, *call.values])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = functions(call.functions, opset)
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSIONS[opset], functions=bodies)


def arrays_of(model):
    """The initializers and Constant nodes of the main graph by name."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return arrays


CONDITIONAL = """(bool c, float[n, 64] x) => (float[n, 32] y) {
    y = If(c) <then_branch = t () => (float[n, 32] a) { a = MatMul(x, w) },
               else_branch = e () => (float[n, 32] b) { b = MatMul(x, v) }> }"""
LOOPED = """(float[n, 64] x) => (float[n, 64] y) {
    times = Constant <value = int64 {2}> ()
    yes = Constant <value = bool {1}> ()
    y = Loop(times, yes, x) <body = b (int64 i, bool go, float[n, 64] s) => (bool more, float[n, 64] t) {
        more = Identity(go)
        m = MatMul(s, w)
        t = Tanh(m)
    }> }"""
MATMUL = "(float[n, 64] x) => (float[n, 32] y) { y = MatMul(x, w) }"
# name -> model whose every tensor of 1024 elements and more is compressed
NETS = {
    "left": lambda: net("(float[32, n] x) => (float[64, n] y) { y = MatMul(w, x) }", w=normal(64, 32)),
    "batched": lambda: net("(float[4, n, 16] x) => (float[4, n, 32] y) { y = MatMul(x, w) }", w=normal(4, 16, 32)),
    "gemm": lambda: net("(float[n, 64] x) => (float[n, 32] y) { y = Gemm <transB = 1> (x, w, b) }",
                        w=normal(32, 64), b=normal(32)),
    "conv": lambda: net("(float[n, 16, 8, 8] x) => (float[n, 32, 6, 6] y) { y = Conv(x, w, b) }",
                        w=normal(32, 16, 3, 3), b=normal(32)),
    "conv 1d": lambda: net("(float[n, 16, 8] x) => (float[n, 32, 6] y) { y = Conv(x, w) }", w=normal(32, 16, 3)),
    "grouped": lambda: net("(float[n, 32, 8, 8] x) => (float[n, 32, 6, 6] y) { y = Conv <group = 4> (x, w) }",
                           w=normal(32, 8, 3, 3)),
    "depthwise": lambda: net("(float[n, 128, 8, 8] x) => (float[n, 128, 6, 6] y) { y = Conv <group = 128> (x, w) }",
                             w=normal(128, 1, 3, 3)),
    "transposed conv": lambda: net("(float[n, 16, 8, 8] x) => (float[n, 32, 10, 10] y) { y = ConvTranspose(x, w) }",
                                   w=normal(16, 32, 3, 3)),
    "gather": lambda: net("(int64[n] i) => (float[n, 32] y) { y = Gather(w, i) }", w=normal(64, 32)),
    "lstm": lambda: net("(float[s, 2, 16] x) => (float[s, 1, 2, 32] y) { y = LSTM <hidden_size = 32> (x, w, r) }",
                        w=normal(1, 128, 16), r=normal(1, 128, 32, seed=2)),
    "transposed": lambda: net("(float[n, 64] x) => (float[n, 32] y) { t = Transpose(w) \n y = MatMul(x, t) }",
                              w=normal(32, 64)),
    "float16": lambda: net("(float16[n, 64] x) => (float16[n, 32] y) { y = MatMul(x, w) }",
                           w=normal(64, 32, dtype=np.float16)),
    "bfloat16": lambda: net("(float[n, 64] x) => (float[n, 32] y) { f = Cast <to = 1> (w) \n y = MatMul(x, f) }",
                            w=normal(64, 32, dtype=ml_dtypes.bfloat16)),
    "constant nodes": lambda: as_constant_nodes(
        net("(float[n, 64] x) => (float[n, 32] y) { a = MatMul(x, w) y = Add(a, b) }", w=normal(64, 32), b=normal(32))
    ),
    "graph input": lambda: net("(float[n, 64] x, float[64, 32] w) => (float[n, 32] y) { y = MatMul(x, w) }",
                               w=normal(64, 32)),
    "if": lambda: net(CONDITIONAL, w=normal(64, 32), v=normal(64, 32, seed=2)),
    "loop": lambda: net(LOOPED, w=normal(64, 64)),
    "tied": lambda: net("(int64[n] i) => (float[n, 48] y) { e = Gather(w, i) \n y = MatMul(e, v) }",
                        w=normal(48, 40), v=normal(48, 40).T),
    "zeros": lambda: net(MATMUL, w=np.zeros((64, 32), np.float32)),
    "deep": lambda: net("""(float[n, 64] x) => (float[n, 32] y) {
        a = MatMul(x, w1) \n b = Relu(a) \n c = MatMul(b, w2) \n d = Tanh(c) \n y = MatMul(d, w3) }""",
        w1=normal(64, 96), w2=normal(96, 64, seed=2), w3=normal(64, 32, seed=3)),
    **{f"opset {opset}": lambda opset=opset: net(MATMUL, opset, w=normal(64, 32)) for opset in IR_VERSIONS},
}  # fmt: skip
