"""What the loader for devices refuses before it needs one."""

import numpy as np
import pytest
from onnx_export_models import call_model, integers

from codec.tensor import store_weight
from onnx_export.native.loader import decode_into, device_calls
from refimpl.errors import Corrupt


@pytest.mark.parametrize("damage", ["missing", "wrong", "no integer"])
def test_a_call_without_its_checksum_is_corrupt(damage):
    codes = integers(40, 50, low=0, dtype=np.uint8)
    model = call_model("w", store_weight(codes, np.array(128, np.uint8), np.array(0.5, np.float32), "float32"))
    node = model.graph.node[0]
    (crc,) = (a for a in node.attribute if a.name == "stored_crc")
    if damage == "missing":
        node.attribute.remove(crc)
    elif damage == "wrong":
        crc.i += 1
    else:
        crc.type, crc.f = type(crc).FLOAT, 1.0
    (call,) = device_calls(model, {"w"})
    data = [np.frombuffer(tensor.raw_data, np.uint8) for tensor in call.inputs]
    with pytest.raises(Corrupt, match="checksum" if damage == "wrong" else "stored_crc"):
        decode_into(None, 0, call, data)
