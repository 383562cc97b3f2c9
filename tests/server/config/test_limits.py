"""Requests over the limits are refused by name before anything of their size is allocated."""

from __future__ import annotations

import tracemalloc

import grpc
import pytest

from cass.v1 import cass_pb2 as pb
from cass.v1 import cass_pb2_grpc
from cass_core import InvalidRequest
from cass_server.config.limits import Limits
from tests.server.support.details import violations
from tests.server.support.in_thread import service
from tests.server.support.requests import loss_request, mask_request
from tests.support.servers import serving

LIMITS = Limits(images=3, boxes=6, patches=48, feature_maps=2)


def two_maps(*sides: int) -> pb.GenerateMaskRequest:
    request = mask_request(maps=0)
    request.feature_maps.extend(pb.FeatureMap(height=side, width=side) for side in sides)
    return request


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (mask_request(images=4, side=1), "boxes.counts: 4 images, the server's limit is 3"),
        (mask_request(images=3, side=1, boxes=3), "boxes.xyxy: 9 boxes, the server's limit is 6"),
        (mask_request(side=1, maps=3), "feature_map: 3 feature maps, the server's limit is 2"),
        (mask_request(side=5, maps=2), "feature_map: 50 patches, the server's limit is 48"),
        (
            mask_request(images=2, side=2**25),
            f"feature_map: {2 * 2**50} patches, the server's limit is 48",
        ),
        (
            # Two maps of 1 + 49 patches: each is small enough, their sum is not.
            two_maps(1, 7),
            "feature_map: 50 patches, the server's limit is 48",
        ),
        (loss_request(images=4), "boxes.counts: 4 images, the server's limit is 3"),
        (loss_request(boxes=7), "boxes.xyxy: 7 boxes, the server's limit is 6"),
        (loss_request(maps=3), "feature_map: 3 feature maps, the server's limit is 2"),
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
        field, _, description = error.partition(": ")
        assert violations(caught.value) == [(field, description)]


@pytest.mark.parametrize("sides", ["heights", "widths"])
def test_sizes_are_limited_like_images(sides: str) -> None:
    request = mask_request()
    getattr(request.image_sizes, sides).extend([32] * 3)
    with pytest.raises(InvalidRequest) as caught:
        LIMITS.check_message(request, len(request.boxes.counts))
    assert str(caught.value) == "image_size: 4 images, the server's limit is 3"


def test_at_the_limits() -> None:
    with service(limits=LIMITS) as stub:
        answer = stub.GenerateMask(mask_request(images=3, side=4, boxes=2), timeout=60)
        assert list(answer.masks[0].shape) == [3, 4, 4]
        assert len(stub.GenerateMask(mask_request(side=4, maps=2), timeout=60).masks) == 2
        assert stub.ComputeLoss(loss_request(images=3, boxes=2), timeout=60).normalizer == 48


def test_patches_are_counted_not_cells() -> None:
    request = mask_request(side=2**31 - 1)
    request.mask_spec.patch_size = 2**30  # 2 x 2 patches
    with service(limits=LIMITS) as stub:
        assert list(stub.GenerateMask(request, timeout=60).masks[0].shape) == [1, 2, 2]


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (5000, "limit is 16777216"),
        (2**29, "limit is 16777216"),
        (2**31 - 1, "feature_map.* is too large for this batch"),
    ],
)
def test_a_refusal_allocates_nothing_large(side: int, text: str) -> None:
    with service() as stub:
        stub.GenerateMask(mask_request(), timeout=60)  # whatever is loaded once
        tracemalloc.start()
        try:
            with pytest.raises(grpc.RpcError, match=text) as caught:
                stub.GenerateMask(mask_request(side=side), timeout=60)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20  # the mask would have 100 MB, or 1 EB and more


@pytest.mark.parametrize("side", [40_000, 2**31 - 1])
def test_no_image_on_a_map_of_any_size(side: int) -> None:
    """No image has no patch: such a request is answered or refused, it is no failure inside."""
    with service() as stub:
        call = stub.GenerateMask.future(mask_request(images=0, side=side), timeout=60)
        assert call.code() in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
        if call.code() is grpc.StatusCode.OK:
            (mask,) = call.result().masks
            assert (list(mask.shape), mask.data) == ([0, side, side], b"")


def padded(request: pb.GenerateMaskRequest, size: int) -> bytes:
    """The request's message with an unknown field (number 100) that fills it to this size."""
    known = request.SerializeToString()
    length = size - len(known) - 6
    varint = bytes([0x80 | (length >> shift & 0x7F) for shift in (0, 7, 14)] + [length >> 21])
    return known + b"\xa2\x06" + varint + bytes(length)


def test_message_at_and_over_the_limit() -> None:
    """gRPC itself refuses it; the real process must have set its limit."""
    limit = 64 << 20
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        info = cass_pb2_grpc.CassServiceStub(channel).GetServerInfo(
            pb.GetServerInfoRequest(), timeout=60
        )
        assert info.limits.message_bytes == limit
        call = channel.unary_unary("/cass.v1.CassService/GenerateMask")
        with pytest.raises(grpc.RpcError) as caught:
            call(padded(mask_request(), limit + 1), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            call(padded(mask_request(), limit), timeout=60)
        # The service's own words: it has read the message.
        assert violations(caught.value) == [
            (
                "request",
                "has 67108846 bytes beside its boxes and tensors, the server's limit is 131328",
            )
        ]
