"""Arrays in JSON: nested lists, or objects of base64 with dtype and shape."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic_core import to_json

from cass import convert
from cass.dtypes import NUMBERS
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import Array
from cass_core.errors import InvalidRequest

Encoding: TypeAlias = Literal["list", "base64"]
MAX_LISTED = 1 << 18
"""The most numbers of an answer in lists, which take a fifth of a second."""

_MAX_SIDE = 2**32 - 1
_FORM = "must be nested lists of numbers, or an object of data (base64), dtype and shape"


def array_of(value: Any, field: str, dtypes: Sequence[str]) -> tuple[Array, str]:
    """The array in a JSON value and the name of its dtype; lists are float32.

    Raises:
        InvalidRequest: it is none, or its dtype is not one of those named.

    Example:
        >>> array_of({"data": "AACAPwAAAEA=", "dtype": "float32", "shape": [2]}, "x", ["float32"])
        (array([1., 2.], dtype=float32), 'float32')
    """
    if isinstance(value, Mapping):
        return _of_object(value, field, dtypes)
    try:
        given = np.asarray(value)
    except ValueError:
        raise InvalidRequest(field, "has lists of different lengths") from None
    if given.dtype.kind not in "iuf":
        if given.size:
            raise InvalidRequest(field, _FORM)
        given = given.astype(np.float32)
    with np.errstate(over="ignore"):  # becomes infinite
        return np.asarray(given, np.float32), "float32"


def _of_object(value: Mapping[str, Any], field: str, dtypes: Sequence[str]) -> tuple[Array, str]:
    check_names(value, ("data", "dtype", "shape"), f"{field}.")
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(
        type(side) is int and 0 <= side <= _MAX_SIDE for side in shape
    ):
        raise InvalidRequest(f"{field}.shape", "must be a list of whole numbers of at least 0")
    name = value.get("dtype")
    if name is None or name not in dtypes:
        raise InvalidRequest(
            f"{field}.dtype", f"must be one of {', '.join(dtypes)}, got {shown(name)}"
        )
    message = pb.Tensor(dtype=NUMBERS[name], shape=shape)
    data = memoryview(bytes_of(value.get("data"), f"{field}.data"))
    return convert.tensor(message, field, dtypes, data)


def bytes_of(value: Any, field: str) -> bytes:
    """The bytes in base64; raises `InvalidRequest`."""
    if not isinstance(value, str):
        raise InvalidRequest(field, "must be base64")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:  # binascii's own, or for what is not ASCII
        raise InvalidRequest(field, f"is not base64: {error}") from None


def array_json(array: Array, dtype: str, encoding: Encoding) -> list[bytes]:
    """The pieces of a JSON text; bfloat16, as its bits, in base64 alone.

    Example:
        >>> b"".join(array_json(np.ones((1, 2), np.float32), "float32", "list"))
        b'[[1.0,1.0]]'
    """
    if encoding == "list":
        return [to_json(array.tolist(), inf_nan_mode="null")]
    shape = to_json(list(array.shape))
    end = b'","dtype":"%b","shape":%b}' % (dtype.encode(), shape)
    return [b'{"data":"', b64encode(np.ascontiguousarray(array).data), end]


def check_names(value: Any, known: Sequence[str], at: str = "") -> dict[str, Any]:
    """The members of a JSON object but those that are null; raises unless all are known."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(at.rstrip(".") or "request", "must be a JSON object")
    for name in value:
        if name not in known:
            reason = f"is unknown: there are {', '.join(known)}"
            raise InvalidRequest(f"{at}{shown(name)[1:-1]}", reason)
    return {name: member for name, member in value.items() if member is not None}


def shown(value: Any) -> str:
    """A JSON value for an error, short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
