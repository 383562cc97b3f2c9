"""Requests over the limits are refused by name before anything of their size is allocated."""

from __future__ import annotations

import tracemalloc

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from cass.v1 import cass_pb2 as pb
from cass_core import InvalidRequest
from cass_server.config.limits import Limits
from tests.server.support.details import fails, violations
from tests.server.support.in_thread import running
from tests.server.support.processes import LIMIT
from tests.server.support.requests import loss_request, mask_request

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
        (mask_request(2, 2**25), f"feature_map: {2**51} patches, the server's limit is 48"),
        # One of 1 patch and one of 49: the first is small enough, their sum is not.
        (two_maps(1, 7), "feature_map: 50 patches, the server's limit is 48"),
        (loss_request(images=4), "boxes.counts: 4 images, the server's limit is 3"),
        (loss_request(boxes=7), "boxes.xyxy: 7 boxes, the server's limit is 6"),
        (loss_request(maps=3), "feature_map: 3 feature maps, the server's limit is 2"),
        (loss_request(side=7), "feature_map: 49 patches, the server's limit is 48"),
    ],
)
def test_over_a_limit(request_: Message, error: str) -> None:
    method = "ComputeLoss" if isinstance(request_, pb.ComputeLossRequest) else "GenerateMask"
    with running(limits=LIMITS) as server, fails("INVALID_ARGUMENT", error) as caught:
        getattr(server.stub, method)(request_, timeout=LIMIT)
    assert violations(caught.value) == [tuple(error.split(": "))]


def filled(side: int, boxes: int) -> pb.GenerateMaskRequest:
    """Boxes that each fill a map."""
    request = mask_request(side=side)
    size = request.image_sizes
    box = np.array([0, 0, size.widths[0], size.heights[0]], "<f4")
    request.boxes.xyxy, request.boxes.counts[:] = boxes * box.tobytes(), [boxes]
    return request


@pytest.mark.parametrize("method", ["GenerateMask", "StreamMasks", "ComputeLoss"])
def test_work_is_limited(method: str) -> None:
    """Twenty boxes that fill a map of 4 x 4 are 20 (16 + 8 * 8); small ones may be more of them."""
    error = "1600 patches reached by all boxes, the server's limit is 1599"
    small = mask_request(side=4, boxes=40)
    small.boxes.xyxy = 40 * np.array([8, 8, 9, 9], "<f4").tobytes()

    def call(request: pb.GenerateMaskRequest) -> None:
        if method == "GenerateMask":
            server.stub.GenerateMask(request, timeout=LIMIT)
        elif method == "ComputeLoss":
            loss = loss_request()
            loss.mask.CopyFrom(request)
            loss.logits.shape[:], loss.logits.data = [1, 4, 4], bytes(64)
            server.stub.ComputeLoss(loss, timeout=LIMIT)
        else:
            entry = pb.StreamMasksRequest(request=request)
            (answer,) = server.stub.StreamMasks(iter([entry]), timeout=LIMIT)
            if answer.HasField("error"):
                raise InvalidRequest(answer.error.field, answer.error.reason)

    with running(limits=Limits(work=1600)) as server:
        for _ in range(2):  # the second time its options are known
            call(filled(4, 20))
            call(small)
        assert server.stub.GetServerInfo(pb.GetServerInfoRequest()).limits.work == 1600
    with running(limits=Limits(work=1599)) as server:
        for _ in range(2):
            with pytest.raises((grpc.RpcError, InvalidRequest), match=error) as caught:
                call(filled(4, 20))
            if isinstance(caught.value, grpc.RpcError):
                assert violations(caught.value) == [("boxes.xyxy", error)]
            call(small)


@pytest.mark.parametrize("sides", ["heights", "widths"])
def test_sizes_are_limited_like_images(sides: str) -> None:
    request = mask_request()
    getattr(request.image_sizes, sides).extend([32] * 3)
    with pytest.raises(InvalidRequest) as caught:
        LIMITS.check_message(request, len(request.boxes.counts))
    assert str(caught.value) == "image_size: 4 images, the server's limit is 3"


def test_at_the_limits() -> None:
    """Patches are counted, not cells."""
    coarse = mask_request(side=2**31 - 1)
    coarse.mask_spec.patch_size = 2**30  # 2 x 2 patches
    with running(limits=LIMITS) as server:

        def shapes(request: pb.GenerateMaskRequest) -> list[list[int]]:
            masks = server.stub.GenerateMask(request, timeout=LIMIT).masks
            return [list(mask.shape) for mask in masks]

        assert shapes(mask_request(images=3, side=4, boxes=2)) == [[3, 4, 4]]
        assert shapes(mask_request(side=4, maps=2)) == [[1, 4, 4]] * 2
        assert shapes(coarse) == [[1, 2, 2]]
        loss = loss_request(images=3, boxes=2)
        assert server.stub.ComputeLoss(loss, timeout=LIMIT).normalizer == 48


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (5000, "limit is 16777216"),
        (2**29, "limit is 16777216"),
        (2**31 - 1, "is too large for this batch"),
    ],
)
def test_a_refusal_allocates_nothing_large(side: int, text: str) -> None:
    with running() as server:
        assert server.has_room()  # whatever is loaded once
        tracemalloc.start()
        try:
            with fails("INVALID_ARGUMENT") as caught:
                server.stub.GenerateMask(mask_request(side=side), timeout=LIMIT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert text in caught.value.details()
    assert peak < 1 << 20  # the mask would have 100 MB, or 1 EB and more
