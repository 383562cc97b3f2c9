"""What weights are made from, as fields of a request."""

from __future__ import annotations

from cass.dtypes import NUMBERS
from cass.specs import weight_spec_message
from cass.v1 import cass_pb2 as pb
from cass_core.arrays import to_host
from cass_core.checks.weighting import Weighting


def weighting_fields(weighting: Weighting) -> bytes:
    """The serialized fields of a `GenerateMaskRequest` that requests weights."""
    message = pb.GenerateMaskRequest(
        weight_spec=weight_spec_message(weighting.spec), return_weights=True
    )
    for name in ("valid_region", "box_weights"):
        value = getattr(weighting, name)
        if value is not None:
            array = to_host(value)[0]
            field = getattr(message, name)
            field.dtype, field.data = NUMBERS["float32"], array.tobytes()
            field.shape.extend(array.shape)
    if weighting.ignore is not None:
        message.ignore.xyxy = to_host(weighting.ignore.xyxy)[0].tobytes()
        message.ignore.counts.extend(weighting.ignore.counts.tolist())
    return message.SerializeToString()
