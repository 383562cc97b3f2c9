"""What `benchmarks.ray` runs on Ray's own ways: the server's kernel, without its checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common.workload import SPEC
from cass.v1 import cass_pb2 as pb
from cass_core import BoxBatch, generate_mask
from cass_core.cpu.run import fill_mask


def bare(request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:
    """The kernel called directly: float32, one feature map, no checks."""
    counts = np.array(list(request.boxes.counts), np.int64)
    xyxy = np.frombuffer(request.boxes.xyxy, np.float32).reshape(-1, 4)
    boxes = object.__new__(BoxBatch)
    boxes._fill(xyxy, counts, np.concatenate(([0], counts.cumsum())), None)
    sizes = np.array([[request.image_sizes.heights[0], request.image_sizes.widths[0]]], float)
    cells = request.feature_maps[0].height, request.feature_maps[0].width
    mask = np.empty((len(counts), *cells), np.float32)
    fill_mask(boxes, sizes, cells, SPEC, "float32", mask, None)
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=mask.shape, data=mask.tobytes())
    return pb.GenerateMaskResponse(masks=[tensor])


class Masks:
    """A deployment for Ray Serve: a method for an RPC, which Serve finds by its name."""

    async def GenerateMask(self, request: pb.GenerateMaskRequest) -> pb.GenerateMaskResponse:  # noqa: N802
        """Masks of float32, one feature map."""
        return bare(request)


class MaskActor:
    """A plain actor, whose answers go through Ray's object store."""

    def masks(
        self, boxes: BoxBatch, image_size: tuple[int, int], feature_map: tuple[int, int]
    ) -> Any:
        """``[B, h, w]`` float32."""
        return generate_mask(boxes, image_size, feature_map, SPEC)
