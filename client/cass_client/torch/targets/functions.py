"""What a user's function says of a sample or a batch: boxes, sizes, and perhaps regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cass_client.image_boxes import Region
from cass_client.torch.targets.coco import as_number, has_length, is_row
from cass_core.errors import InvalidRequest

_REGIONS = ("ignore", "valid_region")


def given_by_function(found: Any, name: str) -> tuple[Any, Any, Mapping[str, Any]]:
    """Boxes, size, and a dict of regions, which is empty where the function gave none."""
    if not (isinstance(found, tuple | list) and len(found) in (2, 3)):
        raise InvalidRequest(
            name,
            "the function must give boxes and (H, W), and perhaps a dict of regions, got "
            f"{type(found).__name__}",
        )
    boxes, size, regions = (*found, {})[:3]
    if not isinstance(regions, Mapping) or not set(regions) <= set(_REGIONS):
        keys = " and ".join(map(repr, _REGIONS))
        got = list(regions) if isinstance(regions, Mapping) else type(regions).__name__
        raise InvalidRequest(name, f"regions must be a dict with {keys} at most, got {got}")
    return boxes, size, regions


def regions_of_image(regions: Mapping[str, Any], image: int, images: int) -> dict[str, Any]:
    """Those of one image of a batch, whose function gives a list of each."""
    for name, values in regions.items():
        if not has_length(values) or len(values) != images:
            raise InvalidRequest(name, f"must be a list with one entry for each of {images} images")
    return {name: values[image] for name, values in regions.items()}


def checked_region(value: Any, name: str) -> Region | None:
    """Left, top, height and width of x1, y1, x2, y2; None of None."""
    if value is None:
        return None
    try:
        x1, y1, x2, y2 = map(as_number, value if is_row(value) else ())
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(name, "must be x1, y1, x2, y2 in pixels") from None
    if not (x1 <= x2 and y1 <= y2):
        raise InvalidRequest(name, f"must have x1 <= x2 and y1 <= y2, got {[x1, y1, x2, y2]}")
    return x1, y1, y2 - y1, x2 - x1
