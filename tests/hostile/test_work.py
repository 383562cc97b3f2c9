"""Legal requests of as much work as the server takes, and of more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from cass.v1 import cass_pb2 as pb
from tests.hostile.support.scene import under_attack
from tests.server.support.details import fails
from tests.server.support.load import connect, service_of
from tests.server.support.observed import in_flight
from tests.server.support.processes import LIMIT, wait_until

SIDE, MOST_BOXES, MOST_WORK = 4096, 1 << 18, 5 << 30
# Each fills a map of 4096 x 4096 patches, whose rows and columns count 8 times.
FITTING_BOXES = MOST_WORK // (SIDE * SIDE + 8 * 2 * SIDE)
CALLS = 16


def heavy(boxes: int) -> pb.GenerateMaskRequest:
    """As many boxes as are given, in one image that each fills."""
    box = np.array([0, 0, SIDE, SIDE], "<f4").tobytes()
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=boxes * box, counts=[boxes]),
        image_sizes=pb.ImageSizes(heights=[SIDE], widths=[SIDE]),
        feature_maps=[pb.FeatureMap(height=SIDE, width=SIDE)],
        mask_spec=pb.MaskSpec(patch_size=1),
        dtype=pb.DATA_TYPE_UINT8,
    )


def test_more_work_than_the_server_takes(record_property: Callable[[str, Any], None]) -> None:
    with under_attack(record_property, "2^18 boxes on 4096^2 patches") as scene:
        with service_of(scene.address) as stub:
            for _ in range(CALLS):
                with fails("INVALID_ARGUMENT") as caught:
                    stub.GenerateMask(heavy(MOST_BOXES), timeout=LIMIT)
                assert f"the server's limit is {MOST_WORK}" in caught.value.details()
        scene.good.wait_more()


@pytest.mark.parametrize("leaves", ["cancels", "is late", "disconnects"])
def test_callers_of_the_most_work_who_leave(
    record_property: Callable[[str, Any], None], leaves: str
) -> None:
    """Others are answered meanwhile, and nothing is computed for those who have gone."""
    attack = f"{CALLS} of the most work, {leaves}"
    with under_attack(record_property, attack, "--metrics-port", "0") as scene:
        with connect(scene.address) as channel:
            call = channel.unary_unary("/cass.v1.CassService/GenerateMask")
            message = heavy(FITTING_BOXES).SerializeToString()
            seconds = 2.0 if leaves == "is late" else LIMIT
            calls = [call.future(message, timeout=seconds) for _ in range(CALLS)]
            wait_until(lambda: in_flight(scene.server) >= CALLS, scene.server)
            scene.good.wait_more()
            if leaves == "cancels":
                for made in calls:
                    made.cancel()
            elif leaves == "is late":
                assert {made.code() for made in calls} <= {
                    grpc.StatusCode.OK,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                }
        # A few of the good callers' requests may be in flight.
        wait_until(lambda: in_flight(scene.server) <= 2, scene.server)
        scene.good.wait_more()
        scene.good.stop()
        wait_until(lambda: in_flight(scene.server) == 0, scene.server)
