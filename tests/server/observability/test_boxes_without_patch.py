"""How many boxes have no target, as the metrics say it."""

from __future__ import annotations

import numpy as np
import pytest

from cass.v1 import cass_pb2 as pb
from cass_server.engines.base import CpuEngine
from tests.server.support.in_thread import running
from tests.server.support.observed import exposed, value
from tests.server.support.processes import LIMIT

# On 32 x 32 pixels and 8 x 8 cells of 4 pixels. Patches of 4 cells have their centres at 8 and 24:
# the first box holds one, the second and the third lie between them, the fourth beside the image.
BOXES = [[4, 4, 12, 12], [10, 10, 20, 20], [9, 9, 11, 23], [40, 40, 50, 50]]


class Unready(CpuEngine):
    """As an engine on a GPU, without a way of its own for small masks."""

    small_fill = None


def mask_request(patch_size: int, min_size: float = 1.0) -> pb.GenerateMaskRequest:
    """Of two images, the second without boxes."""
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(xyxy=np.array(BOXES, "<f4").tobytes(), counts=[len(BOXES), 0]),
        image_sizes=pb.ImageSizes(heights=[32], widths=[32]),
        feature_maps=[pb.FeatureMap(height=8, width=8)],
        mask_spec=pb.MaskSpec(patch_size=patch_size, min_size=min_size),
    )


def loss_request(patch_size: int) -> pb.ComputeLossRequest:
    side = -(-8 // patch_size)
    logits = pb.Tensor(
        data=bytes(4 * 2 * side * side), shape=[2, side, side], dtype=pb.DATA_TYPE_FLOAT32
    )
    return pb.ComputeLossRequest(mask=mask_request(patch_size), logits=logits)


@pytest.mark.parametrize("engine", [CpuEngine(), Unready()])
@pytest.mark.parametrize(("patch_size", "min_size", "missing"), [(4, 1.0, 3), (1, 1.0, 0)])
def test_boxes_without_a_patch_are_counted(
    engine: CpuEngine, patch_size: int, min_size: float, missing: int
) -> None:
    with running(engine) as server:
        stub = server.stub
        for _ in range(3):  # read by protobuf, and then as known
            stub.GenerateMask(mask_request(patch_size, min_size), timeout=LIMIT)
        entry = pb.StreamMasksRequest(request=mask_request(patch_size, min_size))
        assert len(list(stub.StreamMasks(iter([entry] * 2), timeout=LIMIT))) == 2
        stub.ComputeLoss(loss_request(patch_size), timeout=LIMIT)
        found = exposed([server.metrics])
    assert value(found, "cass_boxes_total") == 6 * len(BOXES)
    assert value(found, "cass_boxes_without_patch_total") == 6 * missing


def test_a_box_that_one_of_its_maps_has_a_patch_for() -> None:
    """Patches of the finer map have centres at 4, 12, 20 and 28: two are in the second box."""
    request = mask_request(4)
    request.feature_maps.append(pb.FeatureMap(height=16, width=16))
    with running() as server:
        server.stub.GenerateMask(request, timeout=LIMIT)
        assert value(exposed([server.metrics]), "cass_boxes_without_patch_total") == 2
