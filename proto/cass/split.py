"""Takes a request for masks apart without protobuf, where it has the form that clients send.

The boxes are a request's bulk and differ each time; all else is the same from request to request,
and whoever gets it as bytes can look up what it made of them before.
"""

from __future__ import annotations

from cass.fields import tag_of
from cass.v1 import cass_pb2 as pb

_REQUEST = tag_of(pb.StreamMasksRequest, "request")
_BOXES = tag_of(pb.GenerateMaskRequest, "boxes")
_XYXY, _COUNTS = tag_of(pb.BoxBatch, "xyxy"), tag_of(pb.BoxBatch, "counts")


def split(data: bytes, *, entry: bool = False) -> tuple[memoryview, bytes, bytes] | None:
    """The boxes of a request, their counts, and the rest.

    Args:
        data: a serialized `GenerateMaskRequest`.
        entry: whether it is in a `StreamMasksRequest`, and alone there.

    Returns:
        The bytes of `xyxy`, a view of the message; the number of boxes of each image, a byte each;
        and the fields after the boxes as they came, which may be malformed, or have boxes again.
        None if the request is not in the common form: boxes first, in them `xyxy` and then packed
        `counts`, each below 128.

    Example:
        >>> boxes = pb.BoxBatch(xyxy=bytes(48), counts=[1, 2])
        >>> request = pb.GenerateMaskRequest(boxes=boxes, return_owner=True)
        >>> xyxy, counts, rest = split(request.SerializeToString())
        >>> xyxy.nbytes, list(counts), pb.GenerateMaskRequest.FromString(rest).return_owner
        (48, [1, 2], True)
    """
    at = 0
    try:
        if entry:
            at, end = _enter(data, at, _REQUEST)
            if end != len(data):
                return None
        at, boxes_end = _enter(data, at, _BOXES)
        xyxy, xyxy_end = _enter(data, at, _XYXY)
        counts, counts_end = _enter(data, xyxy_end, _COUNTS)
    except (IndexError, _Uncommon):
        return None
    numbers = data[counts:counts_end]
    # Slices end with the message, wherever they should.
    if counts_end != boxes_end or boxes_end > len(data) or not numbers.isascii():
        return None
    return memoryview(data)[xyxy:xyxy_end], numbers, data[boxes_end:]


class _Uncommon(Exception):
    """A request has another form."""


def _enter(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where what is in a field begins and ends, the field being there and of less than 2 MiB."""
    if data[at] != tag:
        raise _Uncommon
    length = data[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    second = data[at + 2]
    if second < 0x80:
        return at + 3, at + 3 + (length & 0x7F | second << 7)
    third = data[at + 3]
    if third < 0x80:
        return at + 4, at + 4 + (length & 0x7F | (second & 0x7F) << 7 | third << 14)
    raise _Uncommon
