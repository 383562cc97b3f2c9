"""Requests over the limits are refused by name before anything of their size is allocated."""

from __future__ import annotations

import tracemalloc

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest
from cass_server.limits import Limits
from tests.server.in_thread import service
from tests.server.requests import loss_request, mask_request
from tests.servers import serving

LIMITS = Limits(images=3, boxes=6, patches=48, feature_maps=2)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (mask_request(images=4, side=1), "boxes.counts: 4 images, the server's limit is 3"),
        (mask_request(images=3, side=1, boxes=3), "boxes.xyxy: 9 boxes, the server's limit is 6"),
        (mask_request(side=1, maps=3), "feature_map: 3 feature maps, the server's limit is 2"),
        (mask_request(side=5, maps=2), "feature_map: 50 patches, the server's limit is 48"),
        (
            mask_request(images=2, side=2**31 - 1),
            f"feature_map: {2 * (2**31 - 1) ** 2} patches, the server's limit is 48",
        ),
        (loss_request(images=4), "boxes.counts: 4 images, the server's limit is 3"),
    ],
)
def test_over_a_limit(request_: pb.GenerateMaskRequest | pb.ComputeLossRequest, error: str) -> None:
    with service(limits=LIMITS) as stub:
        call = (
            stub.ComputeLoss if isinstance(request_, pb.ComputeLossRequest) else stub.GenerateMask
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(request_, timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == error


def test_sizes_are_limited_like_images() -> None:
    request = mask_request()
    request.image_sizes.heights.extend([32] * 3)
    with pytest.raises(InvalidRequest) as caught:
        LIMITS.check_message(request)
    assert str(caught.value) == "image_size: 4 images, the server's limit is 3"


def test_at_the_limits() -> None:
    with service(limits=LIMITS) as stub:
        answer = stub.GenerateMask(mask_request(images=3, side=4, boxes=2), timeout=60)
        assert list(answer.masks[0].shape) == [3, 4, 4]
        assert len(stub.GenerateMask(mask_request(side=4, maps=2), timeout=60).masks) == 2


def test_a_refusal_allocates_nothing_large() -> None:
    with service() as stub:
        stub.GenerateMask(mask_request(), timeout=60)  # whatever is loaded once
        tracemalloc.start()
        try:
            with pytest.raises(grpc.RpcError, match=r"limit is 16777216"):
                stub.GenerateMask(mask_request(side=5000), timeout=60)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20  # the mask would have 100 MB


def test_message_over_the_limit() -> None:
    """gRPC itself refuses it; the real process must have set its limit."""
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/cass.v1.CassService/GenerateMask")
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes((64 << 20) + 1), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        good = call(mask_request().SerializeToString(), timeout=60)
        assert len(pb.GenerateMaskResponse.FromString(good).masks) == 1
