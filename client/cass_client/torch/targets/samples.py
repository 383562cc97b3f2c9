"""Finds boxes and image size in a detection set's sample, whichever of the usual forms it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cass_client.image_boxes import Form, ImageBoxes, Region
from cass_client.torch.targets.images import image_key, image_size, pictures
from cass_client.torch.targets.objects import read_target
from cass_core.errors import InvalidRequest


def read_sample(
    sample: Any, position: int, boxes: str, image: str, form: Form
) -> tuple[ImageBoxes, tuple[int, int], Region | None]:
    """The boxes of a sample, (H, W) of its image, and where the picture is if it says so.

    Errors name ``boxes[position]`` or ``image_size[position]``.
    """
    name, size_name = f"boxes[{position}]", f"image_size[{position}]"
    region = None
    if isinstance(sample, Mapping):
        found = read_target(sample, name, boxes, form)
        picture = sample[image_key(sample, image, size_name)]
        if "pixel_mask" in sample:
            (region,) = pictures(sample["pixel_mask"], padding=False)
    elif isinstance(sample, tuple | list) and len(sample) >= 2:
        picture, target = sample[0], sample[1]
        # Of an image without annotations, as torchvision wraps a COCO set.
        is_empty = isinstance(target, Mapping) and not set(target) - {"image_id"}
        found = ImageBoxes(None) if is_empty else read_target(target, name, boxes, form)
    else:
        raise InvalidRequest(
            name,
            f"cannot be found in a {type(sample).__name__}; a sample must be a dict or (image, "
            "target), or boxes a function",
        )
    return found, image_size(picture, size_name), region
