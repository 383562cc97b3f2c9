"""The largest request that a server takes, checked before anything of its size is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from cass.v1 import cass_pb2 as pb
from cass_core.errors import InvalidRequest
from cass_core.grid import patch_grid
from cass_core.masks import MaskInputs


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults fit a batch of 1,000 images at 92x160 patches.

    Attributes:
        message_bytes: bytes of a request's message; gRPC refuses a larger one as it arrives.
        images: images in a request.
        boxes: boxes in a request.
        patches: patches of all masks of a request together.
        feature_maps: feature maps in a request.
    """

    message_bytes: int = 64 << 20
    images: int = 4096
    boxes: int = 1 << 18
    patches: int = 1 << 24
    feature_maps: int = 16

    def check_message(self, request: pb.GenerateMaskRequest) -> None:
        """Refuse a request by the lengths of its lists, before they are read.

        Raises:
            InvalidRequest: a list is too long; the limit is named.
        """
        self._check("boxes.counts", "images", len(request.boxes.counts), self.images)
        self._check("image_size", "images", len(request.image_sizes.heights), self.images)
        self._check("image_size", "images", len(request.image_sizes.widths), self.images)
        self._check("boxes.xyxy", "boxes", len(request.boxes.xyxy) // 16, self.boxes)
        self._check("feature_map", "feature_maps", len(request.feature_maps), self.feature_maps)

    def check_patches(self, inputs: MaskInputs) -> None:
        """Refuse a request by the size of its answer.

        Raises:
            InvalidRequest: there are too many patches.
        """
        grids = (patch_grid(feature_map, inputs.spec.patch_size) for feature_map in inputs.maps)
        # A batch of no images is held to what one image may have.
        patches = max(1, inputs.boxes.num_images) * sum(rows * columns for rows, columns in grids)
        self._check("feature_map", "patches", patches, self.patches)

    @staticmethod
    def _check(field: str, what: str, value: int, limit: int) -> None:
        if value > limit:
            noun = what.replace("_", " ")
            raise InvalidRequest(field, f"{value} {noun}, the server's limit is {limit}")
