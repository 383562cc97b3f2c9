"""Answers as messages and back."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from cass import convert
from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest


def test_masks_come_back_writable() -> None:
    # 0x3800 and 0x3c00 are 0.5 and 1.
    mask = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT16, shape=[1, 1, 2], data=b"\x00\x38\x00\x3c")
    owner = pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[1, 1, 2], data=struct.pack("<2i", -1, 3))
    response = pb.GenerateMaskResponse(masks=[mask], owners=[owner])
    (got,), (names,), _ = convert.masks_of(response)
    assert (got.dtype, got.tolist()) == (np.float16, [[[0.5, 1.0]]])
    assert (names.dtype, names.tolist()) == (np.int32, [[[-1, 3]]])
    got[...] = names[...] = 0


def test_a_bfloat16_gradient_comes_as_its_bits() -> None:
    grad = pb.Tensor(dtype=pb.DATA_TYPE_BFLOAT16, shape=[1, 1], data=b"\x80\x3f")
    got = convert.loss_result(pb.ComputeLossResponse(loss=GOOD, sum=3, normalizer=2, grad=grad))
    assert got.grad is not None
    assert (got.grad.dtype, got.grad.tolist()) == (np.uint16, [[0x3F80]])


def test_malformed_answers_are_refused() -> None:
    short = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=bytes(8))
    with pytest.raises(InvalidRequest, match=r"^masks: has 8 bytes of data"):
        convert.masks_of(pb.GenerateMaskResponse(masks=[short]))
    with pytest.raises(InvalidRequest, match=r"^owners: must have a dtype of int32, got float32$"):
        convert.masks_of(pb.GenerateMaskResponse(owners=[short]))
    owner = pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[1], data=bytes(4))
    with pytest.raises(InvalidRequest, match=r"^masks: must have a dtype of .*, got int32$"):
        convert.masks_of(pb.GenerateMaskResponse(masks=[owner]))


GOOD = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, data=struct.pack("<f", 1.5))


LOSSES = "must have a dtype of float32, float64"


def half(shape: list[int], size: int) -> pb.Tensor:
    return pb.Tensor(dtype=pb.DATA_TYPE_BFLOAT16, shape=shape, data=bytes(size))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"loss": None}, f"loss: {LOSSES}, got the unknown value 0"),
        ({"loss": half([], 2)}, f"loss: {LOSSES}, got bfloat16"),
        (
            {"loss": pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, data=bytes(4))},
            "loss: has 4 bytes of data, the shape [] needs 8",
        ),
        (
            {"grad": pb.Tensor(shape=[0])},
            "grad: must have a dtype of float32, float16, bfloat16, float64, "
            "got the unknown value 0",
        ),
        ({"grad": half([3], 4)}, "grad: has 4 bytes of data, the shape [3] needs 6"),
    ],
)
def test_malformed_losses_are_refused(changes: dict[str, pb.Tensor], error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.loss_result(pb.ComputeLossResponse(**{"loss": GOOD, **changes}))
    assert str(caught.value) == error


def test_a_loss_in_hand_written_bytes() -> None:
    grad = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[1, 2], data=struct.pack("<2d", -0.5, 2))
    got = convert.loss_result(pb.ComputeLossResponse(loss=GOOD, sum=3, normalizer=2, grad=grad))
    assert (got.loss.dtype, got.loss.shape, float(got.loss)) == (np.float32, (), 1.5)
    assert (got.total, got.normalizer) == (3.0, 2.0)
    assert got.grad is not None
    assert (got.grad.dtype, got.grad.tolist()) == (np.float64, [[-0.5, 2.0]])
    got.loss[...] = 0  # not the message's own bytes
    got.grad[...] = 0
