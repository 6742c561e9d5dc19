"""Messages: what goes in comes out, and other readers of the safetensors format find the same."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load

from dqk._wire import pack, unpack

KINDS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]


@pytest.mark.parametrize("holder", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_arrays_of_all_kinds(holder):
    random = np.random.default_rng(0)
    arrays = {kind: (9 * random.random((3, 5))).astype(kind) for kind in KINDS} | {
        "empty": np.zeros((0, 3)),
        "swapped": np.arange(6.0).reshape(2, 3).T,
    }
    message = pack({"a": [1, math.nan], "text": "ä"}, arrays)
    document, found = unpack(holder(message))
    assert document["text"] == "ä" and document["a"][0] == 1 and math.isnan(document["a"][1])
    others = load(message)
    assert json.loads(others.pop("json").tobytes())["text"] == "ä"
    assert found.keys() == arrays.keys() == others.keys()
    for name, array in arrays.items():
        for values in (found[name], others[name]):
            np.testing.assert_array_equal(values, array, strict=True)


def test_nothing_is_copied():
    message = np.frombuffer(pack({}, {"x": np.arange(1000.0)}), np.uint8)
    assert np.shares_memory(unpack(message)[1]["x"], message)
