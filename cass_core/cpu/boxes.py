"""Compiled passes over boxes: what they are checked for, and how messages bring them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cass_core.cpu.jit import brief, inline, kernel

# What the fields begin with: a `GenerateMaskRequest` in a `StreamMasksRequest`, the boxes in it,
# and what is in these.
_REQUEST, _BOXES, _XYXY, _COUNTS = 0x0A, 0x0A, 0x0A, 0x12
_BOX_BYTES = 16
# Of a longer number protobuf drops the upper bits.
_LONGEST_VARINT = 4


@kernel
def are_boxes(xyxy: Any) -> bool:
    """Whether all of ``[M, 4]`` float32 are finite and neither side is turned inside out."""
    good = True
    for box in range(xyxy.shape[0]):
        x1, y1, x2, y2 = xyxy[box, 0], xyxy[box, 1], xyxy[box, 2], xyxy[box, 3]
        # False for NaN. What lies between finite corners is finite.
        good &= x1 <= x2 and y1 <= y2 and x1 > -math.inf and y1 > -math.inf
        good &= x2 < math.inf and y2 < math.inf
    return good


@brief
def boxes_of_message(message: Any, streamed: bool, xyxy: Any, offsets: Any) -> tuple[int, int, int]:
    """Copy the boxes out of a request that is laid out as clients do it, and check them.

    Args:
        message: bytes of a `GenerateMaskRequest`, or of a `StreamMasksRequest` if ``streamed``,
            that begins with its boxes.
        streamed: which of them.
        xyxy: ``[N, 4]`` float32 to be filled, with room for as many boxes as there may be.
        offsets: int64 to be filled, with room for one more than the images that there may be.

    Returns:
        Boxes, images, and where the rest of the request begins, behind the boxes; this is 0 for
        a message in which something is unusual or wrong; the plain reader says what.
    """
    refused, size = (0, 0, 0), message.shape[0]
    body = _body(message, 0, size, _REQUEST) if streamed else (0, size)
    if body[1] != size:
        return refused
    boxes, rest = _body(message, body[0], size, _BOXES)
    at, behind = _body(message, boxes, rest, _XYXY)
    place, end = _body(message, behind, rest, _COUNTS)
    total = (behind - at) // _BOX_BYTES
    if end < 0 or end != rest or (behind - at) % _BOX_BYTES or total > xyxy.shape[0]:
        return refused
    images = 0
    offsets[0] = 0
    while place < end:
        count, place = _varint(message, place, end)
        images += 1
        if place < 0 or images >= offsets.shape[0]:
            return refused
        offsets[images] = offsets[images - 1] + count
    if offsets[images] != total:
        return refused
    xyxy.reshape(-1).view(np.uint8)[: behind - at] = message[at:behind]
    return (total, images, rest) if are_boxes(xyxy[:total]) else refused


@inline
def _body(message: Any, at: int, end: int, tag: int) -> tuple[int, int]:
    """Where the field that begins there has its bytes, and their end; -1 if it is another."""
    if at < 0 or at >= end or message[at] != tag:
        return -1, -1
    length, at = _varint(message, at + 1, end)
    return (-1, -1) if at < 0 or length > end - at else (at, at + length)


@inline
def _varint(message: Any, at: int, end: int) -> tuple[int, int]:
    """The number that begins there and its end; -1 if it is cut off or very long."""
    value = 0
    for i in range(min(_LONGEST_VARINT, end - at)):
        byte = int(message[at + i])
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return 0, -1
