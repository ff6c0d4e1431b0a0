"""Weights that stay in the memory they were decoded into: a session reads them there, without a copy of its own.

ONNX Runtime takes a tensor of the caller's for an initializer (``SessionOptions.add_initializer``), also one in a
device's memory, if it is not a constant: an initializer that is also a graph input, which a run may replace and no
optimizer looks into. The model says that its bytes are in a file. The file is empty: should ONNX Runtime want the
tensor elsewhere than it is, loading fails instead of reading zeros.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from onnx_export.files import first_line
from onnx_export.runtime import NOWHERE, onnxruntime, open_session
from onnx_export.weights import names_read_inside
from refimpl.errors import ExportError

READERS = ("MatMul", "Gemm", "Gather")  # do the same work whether or not a weight is a constant
VIEWS = ("Identity", "Transpose")


def shareable(model: onnx.ModelProto) -> set[str]:
    """Values of the main graph of which nothing is lost if they are no constants.

    Examples
    --------
    >>> model = onnx.parser.parse_model('''<ir_version: 10, opset_import: ["": 21]>
    ...     g (float[4] x) => (float[4] y)
    ...     <float[4, 4] w = {1}, float[4, 4] v = {1}, float[4, 4] u = {1}> {
    ...         t = Transpose(w)
    ...         a = MatMul(x, t)
    ...         s = Transpose(v)
    ...         b = Mul(a, s)
    ...         y = MatMul(b, u) }''')
    >>> sorted(shareable(model) & {"u", "v", "w"})
    ['u', 'w']
    """
    kept = {value.name for value in model.graph.output}
    names = set()
    for node in reversed(model.graph.node):
        names.update(node.input)
        standard = node.domain in ("", "ai.onnx")
        is_view = node.op_type in VIEWS and kept.isdisjoint(node.output)
        if not (standard and (node.op_type in READERS or is_view)):
            kept.update(node.input)
        kept.update(names_read_inside(node))
    return names - kept


def open_shared(
    model: onnx.ModelProto,
    device: str,
    arrays: Mapping[str, Any],
    constants: Mapping[str, npt.NDArray[Any]],
    options: Any,
) -> Any:
    """A session that reads arrays where they are.

    Parameters
    ----------
    model : onnx.ModelProto
        Has a `placeholder` for each array and constant; changed in place.
    device : {"cpu", "cuda"}
    arrays : mapping
        Name -> array of that device, by ``__dlpack__``.
    constants : mapping
        Name -> array of the processor.
    options : onnxruntime.SessionOptions

    Raises
    ------
    ExportError
        ONNX Runtime refuses the model, or does not take the arrays where they are.
    """
    ort = onnxruntime()
    values = {}
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            values[tensor.name] = value = ort_value(ort, arrays[tensor.name])
            options.add_initializer(tensor.name, value)
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(info)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="others")
        (path.parent / NOWHERE).touch()
        session = open_session(str(path), device, options, arrays=constants, native=False)
    session.tansor_shared = (values, dict(arrays))  # read as long as it runs
    return session


def ort_value(ort: Any, array: Any) -> Any:
    """An array as ONNX Runtime's value, not copied.

    Raises
    ------
    ExportError
        This ONNX Runtime cannot.
    """
    try:
        return ort.OrtValue.from_dlpack(array)
    except Exception as error:  # an older version has no such function, a build may lack the device
        raise ExportError(f"ONNX Runtime takes no array by DLPack: {first_line(error)}") from None
