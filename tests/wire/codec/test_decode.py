"""Large fields taken out of messages: the rest and the views together are the message."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from cass.codec.decode import lift
from cass.v1 import cass_pb2 as pb

LARGE = bytes(range(256)) * 256  # 64 KiB


def tensor(data: bytes) -> pb.Tensor:
    return pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 2], data=data)


def test_each_of_several_tensors() -> None:
    response = pb.GenerateMaskResponse(
        masks=[tensor(LARGE), tensor(b""), tensor(b"ab")], owners=[tensor(b"xyz")]
    )
    data = response.SerializeToString()
    rest, views = lift(data, pb.GenerateMaskResponse)
    assert [bytes(v) for v in views["masks"]] == [LARGE, b"", b"ab"]
    assert [bytes(v) for v in views["owners"]] == [b"xyz"]
    assert all(v.obj is data for v in views["masks"] if v.nbytes)
    for mask in (*response.masks, *response.owners):
        mask.ClearField("data")
    assert rest == response


def test_what_is_nested_twice() -> None:
    request = pb.ComputeLossRequest(
        logits=tensor(LARGE),
        mask=pb.GenerateMaskRequest(
            boxes=pb.BoxBatch(xyxy=b"boxes", counts=[3, 300]),
            mask_spec=pb.MaskSpec(min_size=1.5),
        ),
        num_boxes=2.5,
    )
    rest, views = lift(request.SerializeToString(), pb.ComputeLossRequest)
    assert {name: [bytes(v) for v in found] for name, found in views.items()} == {
        "logits": [LARGE],
        "mask.boxes": [b"boxes"],
    }
    request.logits.ClearField("data")
    request.mask.boxes.ClearField("xyxy")
    assert rest == request


def test_a_field_that_comes_twice_is_merged_by_protobuf() -> None:
    first = pb.ComputeLossRequest(logits=tensor(LARGE), return_grad=True)
    second = pb.ComputeLossRequest(logits=pb.Tensor(data=b"later", shape=[7]))
    data = first.SerializeToString() + second.SerializeToString()
    whole, views = lift(data, pb.ComputeLossRequest)
    assert views == {}
    assert whole.logits.data == b"later"
    assert list(whole.logits.shape) == [1, 2, 7]


def test_a_flood_of_small_fields_is_protobufs() -> None:
    data = (
        b"\x28\x01" * 50_000
        + pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=LARGE)).SerializeToString()
    )
    whole, views = lift(data, pb.GenerateMaskRequest)
    assert views == {}
    assert (whole.dtype, whole.boxes.xyxy) == (pb.DATA_TYPE_FLOAT32, LARGE)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 40_000,  # no varint ends
        b"\x0a\xff\xff\x7f" + bytes(40_000),  # longer than the message
        pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=LARGE)).SerializeToString()[:-1],
        pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=LARGE)).SerializeToString() + b"\x28",
        b"\x0b" + bytes(40_000),  # a group
    ],
)
def test_what_is_no_message_is_protobufs_to_refuse(data: bytes) -> None:
    with pytest.raises(DecodeError):
        lift(data, pb.GenerateMaskRequest)


@given(
    position=st.integers(0, 130), byte=st.integers(0, 255), cut=st.integers(0, 40), tail=st.binary()
)
@settings(max_examples=400)
def test_a_damaged_message_means_what_protobuf_says(
    position: int, byte: int, cut: int, tail: bytes
) -> None:
    request = pb.ComputeLossRequest(
        loss_spec=pb.LossSpec(kind=pb.LOSS_KIND_BCE, alpha=2.5),
        num_boxes=2.5,
        mask=pb.GenerateMaskRequest(boxes=pb.BoxBatch(xyxy=struct.pack("<4f", 1, 2, 3, 4))),
        logits=tensor(LARGE),
    )
    # The large field last but one, so that what matters lies among the first bytes.
    logits = pb.ComputeLossRequest(logits=request.logits).SerializeToString()
    request.ClearField("logits")
    data = bytearray(request.SerializeToString() + logits)
    data[min(position, len(data) - 1)] = byte
    damaged = bytes(data[cut:]) + tail
    try:
        expected = pb.ComputeLossRequest.FromString(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            lift(damaged, pb.ComputeLossRequest)
        return
    rest, views = lift(damaged, pb.ComputeLossRequest)
    for name, found in views.items():
        holder, field = rest, "data"
        for part in name.split("."):
            holder = getattr(holder, part)
        field = "xyxy" if name.endswith("boxes") else "data"
        setattr(holder, field, bytes(found[0]))
    assert rest == expected
