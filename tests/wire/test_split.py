"""Requests taken apart: the parts are the message, and what is not common is left to protobuf."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.split import split
from cass.v1 import cass_pb2 as pb

BOXES = struct.pack("<12f", *range(12))
# A field of 48 bytes with the number 1, and one with the numbers 1 and 2 as field 2.
XYXY, COUNTS = b"\x0a\x30" + BOXES, b"\x12\x02\x01\x02"
REST = b"\x1a\x04\x08\x17\x10\x28\x30\x01"
REQUEST = b"\x0a\x36" + XYXY + COUNTS + REST


def test_the_parts_of_a_request() -> None:
    parts = split(REQUEST)
    assert parts is not None
    xyxy, counts, rest = parts
    assert (bytes(xyxy), counts, rest) == (BOXES, b"\x01\x02", REST)
    assert xyxy.obj is REQUEST
    # As protobuf, which wrote none of the above, reads and writes them.
    message = pb.GenerateMaskRequest.FromString(REQUEST)
    assert message.SerializeToString() == REQUEST
    assert pb.GenerateMaskRequest.FromString(rest).return_owner


def test_the_parts_of_an_entry() -> None:
    data = bytes([0x0A, len(REQUEST)]) + REQUEST
    assert split(data, entry=True) == split(REQUEST)


@pytest.mark.parametrize("length", [16, 112, 128, 16_368, 16_384, 2_097_136])
def test_any_length_below_two_megabytes(length: int) -> None:
    assert split(_request_of(length)) == (bytes(length), b"\x01", b"")


def test_more_is_left_to_protobuf() -> None:
    assert split(_request_of(1 << 21)) is None


def _request_of(length: int) -> bytes:
    boxes = pb.BoxBatch(xyxy=bytes(length), counts=[1])
    return pb.GenerateMaskRequest(boxes=boxes).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\x00",
        b"\x0a\x32" + XYXY,  # no counts
        b"\x0a\x04" + COUNTS,  # no boxes
        b"\x0a\x36" + COUNTS + XYXY,  # in another order
        b"\x0a\x36" + XYXY + b"\x10\x01\x10\x02",  # counts that are not packed
        b"\x0a\x36" + XYXY + b"\x12\x02\x81\x01",  # a count of two bytes
        b"\x0a\x3a" + XYXY + COUNTS + b"\x12\x02\x01\x02",  # more counts
        b"\x0a\x38" + XYXY + COUNTS + b"\x78\x01",  # a field of a later version
        b"\x0a\x37" + XYXY + COUNTS,  # cut off
        b"\x0a\x36" + XYXY + b"\x12\x03\x01\x02",  # likewise, within
        b"\x0a\x36" + XYXY + b"\x12\x01\x01\x02",  # something left over
        b"\x0a\x10\x0a\x30" + BOXES + COUNTS,  # boxes that reach out of their message
        b"\x0a\xff\xff\xff\xff\x7f" + XYXY + COUNTS,
        REST + b"\x0a\x36" + XYXY + COUNTS,
    ],
)
def test_what_is_not_common(data: bytes) -> None:
    assert split(data) is None


@pytest.mark.parametrize(
    "data",
    [
        bytes([0x0A, len(REQUEST)]) + REQUEST * 2,
        bytes([0x0A, len(REQUEST)]) + REQUEST + b"\x78\x01",
        bytes([0x0A, len(REQUEST) + 1]) + REQUEST,
        bytes([0x12, len(REQUEST)]) + REQUEST,
        REQUEST,
    ],
)
def test_what_is_not_a_common_entry(data: bytes) -> None:
    assert split(data, entry=True) is None


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, len(REQUEST) + 4),
    removed=st.integers(0, 3),
    put=st.binary(max_size=4),
    entry=st.booleans(),
)
def test_what_is_split_is_what_protobuf_reads(
    at: int, removed: int, put: bytes, entry: bool
) -> None:
    """Of messages with a few bytes changed."""
    data = bytes([0x0A, len(REQUEST)]) + REQUEST if entry else REQUEST
    data = data[:at] + put + data[at + removed :]
    parts = split(data, entry=entry)
    if parts is None:
        return
    xyxy, counts, rest = parts
    merged = pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=bytes(xyxy), counts=list(counts)))
    try:
        merged.MergeFromString(rest)
    except DecodeError:
        with pytest.raises(DecodeError):
            _parse(data, entry)
    else:
        assert _parse(data, entry) == merged


def _parse(data: bytes, entry: bool) -> pb.GenerateMaskRequest:
    if entry:
        return pb.StreamMasksRequest.FromString(data).request
    return pb.GenerateMaskRequest.FromString(data)
