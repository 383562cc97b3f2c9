"""Names of dtypes and their numbers in the contract."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from cass.v1 import cass_pb2 as pb
from cass_core.arrays import storage_dtype

if sys.byteorder != "little":
    raise ImportError("elements are sent as they lie in memory, which must be little-endian")

NUMBERS: dict[str, pb.DataType] = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "bfloat16": pb.DATA_TYPE_BFLOAT16,
    "uint8": pb.DATA_TYPE_UINT8,
    "float64": pb.DATA_TYPE_FLOAT64,
    "int32": pb.DATA_TYPE_INT32,
}
NAMES = {number: name for name, number in NUMBERS.items()}
_INT32 = np.dtype(np.int32)


def element_type(name: str) -> np.dtype[Any]:
    """What holds an element, bfloat16 as its bits."""
    return _INT32 if name == "int32" else storage_dtype(name)
