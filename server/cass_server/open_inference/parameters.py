"""The parameters of a request as options: specs, dtypes, flags and numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, Final, TypeAlias, TypeVar

from cass.inference import grpc_predict_v2_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.specs import LossSpec, MaskSpec, normalizer_of

Values: TypeAlias = dict[str, Any]
S = TypeVar("S", MaskSpec, LossSpec)

# Of the protocol and its extensions, for servers that batch, order or time requests.
_RESERVED: Final = {
    "binary_data",
    "binary_data_output",
    "binary_data_size",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
}
_RESERVED_PREFIX: Final = "triton_"
_PRESETS: Final = ("baseline", "improved", "recommended")


def parameters(
    given: Mapping[str, pb.InferParameter], known: Collection[str], at: str = ""
) -> Values:
    """The values of the parameters, without those that are reserved by the protocol.

    Args:
        given: the parameters.
        known: the names that there may be.
        at: what is before the name in an error.

    Raises:
        InvalidRequest: there is another one, or one has no value.
    """
    values: Values = {}
    for name, parameter in given.items():
        if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
            continue
        if name not in known:
            reason = (
                f"is no parameter: there are {', '.join(known)}" if known else "is no parameter"
            )
            raise InvalidRequest(f"{at}{name}", reason)
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"{at}{name}", "has no value")
        values[name] = getattr(parameter, kind)
    return values


def mask_spec(values: Values) -> MaskSpec:
    """The parameter ``mask_spec``, by default the recommended one."""
    return _spec(MaskSpec, "mask_spec", values.get("mask_spec"))


def loss_spec(values: Values) -> LossSpec:
    """The parameter ``loss_spec``, by default the recommended one."""
    return _spec(LossSpec, "loss_spec", values.get("loss_spec"))


def num_boxes(values: Values) -> float | None:
    """The parameter ``num_boxes``: a number, or text of one, since older clients send no floats."""
    value: Any = values.get("num_boxes")
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    normalizer_of(LossSpec(reduction="sum"), 0, value)
    return None if value is None else float(value)


def _spec(kind: type[S], field: str, value: Any) -> S:
    """A spec from the name of a preset, or from JSON; raises `InvalidRequest`."""
    if value is None:
        return kind()
    if value in _PRESETS:
        preset: Callable[[], S] = getattr(kind, value)
        return preset()
    try:
        options = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise InvalidRequest(field, f"must be a JSON object or one of {', '.join(_PRESETS)}")
    names = [one.name for one in fields(kind)]
    for name in options:
        if name not in names:
            raise InvalidRequest(f"{field}.{name}", f"is unknown: there are {', '.join(names)}")
    return kind(**options)
