"""Requests written out as messages."""

from __future__ import annotations

import struct

from cass.v1 import cass_pb2 as pb


def mask_request(
    images: int = 1, side: int = 4, maps: int = 1, boxes: int = 1
) -> pb.GenerateMaskRequest:
    """``images`` images of 32 x 32 with ``boxes`` boxes each, on ``maps`` square maps."""
    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=struct.pack("<4f", 8, 8, 24, 24) * images * boxes, counts=[boxes] * images
        ),
        image_sizes=pb.ImageSizes(heights=[32], widths=[32]),
        feature_maps=[pb.FeatureMap(height=side, width=side)] * maps,
        mask_spec=pb.MaskSpec(patch_size=1),
    )


def loss_request(
    images: int = 1, side: int = 4, maps: int = 1, boxes: int = 1
) -> pb.ComputeLossRequest:
    """Logits of zero against the masks of `mask_request`."""
    return pb.ComputeLossRequest(
        logits=pb.Tensor(
            dtype=pb.DATA_TYPE_FLOAT32,
            shape=[images, side, side],
            data=bytes(4 * images * side * side),
        ),
        mask=mask_request(images, side, maps, boxes),
        return_grad=True,
    )
