"""What `benchmarks.ray_ways` runs on Ray's own ways: the server's kernel, without its checks."""

from __future__ import annotations

from typing import Any

from benchmarks.rpc_servers import SPEC, bare
from cass.v1 import cass_pb2 as pb
from cass_core import BoxBatch, generate_mask


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
