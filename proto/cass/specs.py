"""Specs as messages and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.specs import LossSpec, MaskSpec, WeightSpec

# With every field set it has 120.
_KEPT_BYTES = 256


def _numbers(enum: Any) -> dict[str, int]:
    """The numbers of an enum by the core's names: DECAY_TYPE_LINEAR is ``linear``."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}


_MASK_ENUMS = {
    "decay_type": _numbers(pb.DecayType),
    "temperature": _numbers(pb.Temperature),
    "merge": _numbers(pb.Merge),
}
_LOSS_ENUMS = {"kind": _numbers(pb.LossKind), "reduction": _numbers(pb.Reduction)}
_WEIGHT_ENUMS = {"balance": _numbers(pb.Balance)}
# Numbers and flags.
_LISTS = ("base_sigma", "level_ranges")
_MASK_FIELDS = [f.name for f in fields(MaskSpec) if f.name not in (*_MASK_ENUMS, *_LISTS)]
_WEIGHT_FIELDS = ["background_weight"]
_LOSS_FIELDS = [f.name for f in fields(LossSpec) if f.name not in _LOSS_ENUMS]


@lru_cache(maxsize=64)
def mask_spec_message(spec: MaskSpec) -> pb.MaskSpec:
    """The spec with every field set. The message is shared: do not change it."""
    sigma = spec.base_sigma
    return pb.MaskSpec(
        base_sigma=sigma if isinstance(sigma, tuple) else (sigma,),
        level_ranges=[pb.LevelRange(low=low, high=high) for low, high in spec.level_ranges or ()],
        **_spec_fields(spec, _MASK_FIELDS, _MASK_ENUMS),
    )


def mask_spec(message: pb.MaskSpec) -> MaskSpec:
    """The spec of a message, unset fields having their defaults."""
    # A long list is not cached.
    is_short = message.ByteSize() <= _KEPT_BYTES
    return _kept_mask_spec(message.SerializeToString()) if is_short else _mask_spec(message)


@lru_cache(maxsize=64)
def _kept_mask_spec(data: bytes) -> MaskSpec:
    return _mask_spec(pb.MaskSpec.FromString(data))


def _mask_spec(message: pb.MaskSpec) -> MaskSpec:
    options = _spec_options(message, "mask_spec", _MASK_FIELDS, _MASK_ENUMS)
    sigma = message.base_sigma
    if len(sigma) == 1:
        options["base_sigma"] = sigma[0]
    elif sigma:
        # More than two are refused; how many more does not matter.
        options["base_sigma"] = tuple(sigma[:3])
    if message.level_ranges:
        options["level_ranges"] = tuple((r.low, r.high) for r in message.level_ranges)
    return MaskSpec(**options)


@lru_cache(maxsize=64)
def loss_spec_message(spec: LossSpec) -> pb.LossSpec:
    """The spec with every field set. The message is shared: do not change it."""
    return pb.LossSpec(**_spec_fields(spec, _LOSS_FIELDS, _LOSS_ENUMS))


def loss_spec(message: pb.LossSpec) -> LossSpec:
    """The spec of a message, unset fields having their defaults."""
    return LossSpec(**_spec_options(message, "loss_spec", _LOSS_FIELDS, _LOSS_ENUMS))


@lru_cache(maxsize=64)
def weight_spec_message(spec: WeightSpec) -> pb.WeightSpec:
    """The spec with every field set. The message is shared: do not change it."""
    return pb.WeightSpec(**_spec_fields(spec, _WEIGHT_FIELDS, _WEIGHT_ENUMS))


def weight_spec(message: pb.WeightSpec) -> WeightSpec:
    """The spec of a message, unset fields having their defaults."""
    return WeightSpec(**_spec_options(message, "weight_spec", _WEIGHT_FIELDS, _WEIGHT_ENUMS))


def _spec_fields(
    spec: MaskSpec | LossSpec | WeightSpec,
    fields: Iterable[str],
    enums: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    values = {name: getattr(spec, name) for name in fields}
    return values | {name: numbers[getattr(spec, name)] for name, numbers in enums.items()}


def _spec_options(
    message: pb.MaskSpec | pb.LossSpec | pb.WeightSpec,
    prefix: str,
    fields: Iterable[str],
    enums: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    options = {name: getattr(message, name) for name in fields if message.HasField(name)}
    for name, numbers in enums.items():
        number = getattr(message, name)
        if number == 0:
            continue
        known = next((text for text, value in numbers.items() if value == number), None)
        if known is None:
            raise InvalidRequest(f"{prefix}.{name}", f"has the unknown value {number}")
        options[name] = known
    return options
