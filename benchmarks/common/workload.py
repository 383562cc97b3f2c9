"""Requests of the service's benchmarks: masks of 16 images of 1280×736 at two strides."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cass_core import BoxBatch, MaskSpec
from cass_core.synthetic import street_boxes

SERVICE = "cass.v1.CassService"
GENERATE_MASK = f"/{SERVICE}/GenerateMask"
STREAM_MASKS = f"/{SERVICE}/StreamMasks"
IMAGES, IMAGE_SIZE = 16, (736, 1280)
MAPS = {"stride 32": ((23, 40), 15), "stride 8": ((92, 160), 30)}
"""By stride, the feature map and the boxes of an image."""
SPEC = MaskSpec()
_SIZES = np.array([IMAGE_SIZE], np.float64)
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # all servers are on this machine
)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request; ``in_flight`` callers, or requests of one stream."""

    stride: str
    dtype: str
    in_flight: int
    streamed: bool

    def __str__(self) -> str:
        way = "stream" if self.streamed else "unary"
        return f"{self.stride}, {self.dtype}, {self.in_flight} in flight, {way}"


def boxes_of(stride: str) -> tuple[BoxBatch, tuple[int, int]]:
    """The boxes of a batch and its feature map."""
    feature_map, boxes = MAPS[stride]
    return BoxBatch.from_list(street_boxes(IMAGES, boxes, image_size=IMAGE_SIZE)), feature_map


def request_of(case: Case) -> bytes:
    """The serialized request of a case."""
    from cass.codec.encode import mask_request, stream_request  # Triton has no such package
    from cass_core.inputs import MaskInputs

    boxes, feature_map = boxes_of(case.stride)
    inputs = MaskInputs.check(boxes, IMAGE_SIZE, feature_map, SPEC, case.dtype, False)
    return stream_request(inputs) if case.streamed else mask_request(inputs)


def kernel_masks(boxes: BoxBatch, feature_map: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Masks ``[B, h, w]`` by the bare kernel, without checks."""
    from cass_core.cpu.run import fill_mask

    mask = np.empty((boxes.num_images, *feature_map), np.float32)
    fill_mask(boxes, _SIZES, feature_map, SPEC, "float32", mask, None)
    return mask


def covered_request(
    images: int,
    boxes: int,
    side: int,
    feature_map: tuple[int, int],
    dtype: str = "uint8",
    owners: bool = False,
) -> bytes:
    """A serialized request for masks of square images, each box as large as its image."""
    from cass.v1 import cass_pb2 as pb

    return pb.GenerateMaskRequest(
        boxes=pb.BoxBatch(
            xyxy=struct.pack("<4f", 0, 0, side, side) * (images * boxes), counts=[boxes] * images
        ),
        image_sizes=pb.ImageSizes(heights=[side], widths=[side]),
        feature_maps=[pb.FeatureMap(height=feature_map[0], width=feature_map[1])],
        mask_spec=pb.MaskSpec(),
        dtype=f"DATA_TYPE_{dtype.upper()}",
        return_owner=owners,
    ).SerializeToString()
