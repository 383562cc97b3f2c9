"""Batches of no images whose shapes are so large that NumPy cannot even describe them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cass.v1 import cass_pb2 as pb

LARGEST = 2**31 - 1


def huge_masks() -> pb.GenerateMaskRequest:
    """Of no images, so that they have no patches at all."""
    return pb.GenerateMaskRequest(
        feature_maps=[pb.FeatureMap(height=LARGEST, width=LARGEST)],
        mask_spec=pb.MaskSpec(patch_size=1),
    )


def huge_tensor(*shape: int) -> pb.Tensor:
    """Without an element, since one side is 0."""
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[0, *shape])


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GenerateMask", huge_masks()),
        (
            "ComputeLoss",
            pb.ComputeLossRequest(logits=huge_tensor(LARGEST, LARGEST), mask=huge_masks()),
        ),
        (
            "ComputeLoss",
            pb.ComputeLossRequest(
                logits=huge_tensor(*[2**32 - 1] * 3), target=huge_tensor(*[2**32 - 1] * 3)
            ),
        ),
    ],
)
def test_never_an_internal_error(stub: Any, method: str, request_: Any) -> None:
    code = grpc.StatusCode.OK
    try:
        getattr(stub, method)(request_, timeout=60)
    except grpc.RpcError as error:
        code = error.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
