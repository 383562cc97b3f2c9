"""Finds boxes and image sizes in a batch that is collated already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cass_client.image_boxes import Form, ImageBoxes, Region
from cass_client.torch.targets.coco import FLAGS, flags_beside, has_length, is_row
from cass_client.torch.targets.images import batch_sizes, image_key, regions_of_batch
from cass_client.torch.targets.objects import boxes_key, four_columns, known_form, read_target
from cass_client.torch.targets.samples import read_sample
from cass_core.errors import InvalidRequest


class BatchTargets(NamedTuple):
    """What a collated batch says.

    Attributes:
        boxes: those of each image.
        sizes: (H, W) of each image.
        regions: where the picture is in each image; None if the batch does not say so.
    """

    boxes: list[ImageBoxes]
    sizes: list[tuple[int, int]]
    regions: Sequence[Region | None] | None


def read_batch(batch: Any, boxes: str, image: str, form: Form) -> BatchTargets:
    """Boxes and sizes of a batch: a dict, (images, targets, ...), or a list of samples.

    Args:
        batch: what a ``collate_fn`` made.
        boxes: key of the boxes, in the batch or in a target.
        image: key of the images in a dict.
        form: of boxes that do not say it themselves.

    Raises:
        InvalidRequest: they cannot be found; ``boxes`` or ``image_size`` is named.
    """
    if isinstance(batch, Mapping):
        images, mask = batch[image_key(batch, image, "image_size")], batch.get("pixel_mask")
        targets = _targets_of(batch, boxes)
        if boxes in batch and _lack(targets, boxes):
            boxes = "boxes"  # the key was that of the targets
    elif are_samples(batch):
        samples = [read_sample(sample, i, boxes, image, form) for i, sample in enumerate(batch)]
        return BatchTargets(*map(list, zip(*samples, strict=True)))
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        (images, targets), mask = batch[:2], None
    else:
        raise InvalidRequest(
            "boxes",
            f"cannot be found in a batch of {type(batch).__name__}; it must be a dict, (images, "
            "targets) or a list of samples, or boxes a function",
        )
    sizes = batch_sizes(images)
    read = _read(targets, len(sizes), boxes, form)
    return BatchTargets(read, sizes, regions_of_batch(images, mask))


def are_samples(batch: Any) -> bool:
    """Whether a batch is a list of dicts with an image each, as detectron2 has them."""
    return (
        isinstance(batch, list | tuple)
        and len(batch) > 0
        and all(isinstance(entry, Mapping) for entry in batch)
    )


def targets_key(batch: Mapping[Any, Any], boxes: str) -> str:
    """The key of what has the boxes in a dict batch."""
    if boxes not in batch:
        for key in ("targets", "labels"):
            if isinstance(batch.get(key), list | tuple):
                return key
    return boxes_key(batch, boxes, "boxes")


def _targets_of(batch: Mapping[Any, Any], boxes: str) -> Any:
    """A list with the target of each image, or the batch itself where its boxes are in one row."""
    if "batch_idx" in batch:
        return batch
    found = batch[targets_key(batch, boxes)]
    beside = {name: batch[name] for name in FLAGS if batch.get(name) is not None}
    if not beside or not isinstance(found, Sequence | Tensor | np.ndarray):
        return found
    for name, rows in beside.items():
        count = len(rows) if is_row(rows) and has_length(rows) else None
        if count != len(found):
            got = type(rows).__name__ if count is None else f"{count} entries"
            raise InvalidRequest(
                name, f"must have flags for each of {len(found)} images, got {got}"
            )
    return [
        _with_flags(entry, {name: rows[i] for name, rows in beside.items()}, boxes)
        for i, entry in enumerate(found)
    ]


def _with_flags(entry: Any, flags: dict[str, Any], boxes: str) -> Any:
    """The target of an image with the flags that the batch has of its boxes."""
    if not isinstance(entry, Mapping):
        return {boxes: entry, **flags}
    return entry if _is_empty(entry) else {**flags, **entry}


def _is_empty(target: Mapping[Any, Any]) -> bool:
    return not set(target) - {"image_id"}


def _lack(targets: Any, key: str) -> bool:
    return isinstance(targets, list | tuple) and any(
        isinstance(target, Mapping) and key not in target for target in targets
    )


def _read(targets: Any, images: int, boxes: str, form: Form) -> list[ImageBoxes]:
    if isinstance(targets, Mapping):
        return _of_row(targets, images, boxes, form)
    if not hasattr(targets, "__len__") or not hasattr(targets, "__getitem__"):
        raise InvalidRequest("boxes", f"must be one target an image, got {type(targets).__name__}")
    if len(targets) != images:
        raise InvalidRequest("boxes", f"has {len(targets)} entries, the batch {images} images")
    return [_one(target, f"boxes[{i}]", boxes, form) for i, target in enumerate(targets)]


def _one(target: Any, name: str, boxes: str, form: Form) -> ImageBoxes:
    if isinstance(target, Mapping) and _is_empty(target):
        return ImageBoxes(None)
    return read_target(target, name, boxes, form)


def _of_row(batch: Mapping[Any, Any], images: int, boxes: str, form: Form) -> list[ImageBoxes]:
    """Boxes of all images in one row, with the index of each one's image, as ultralytics has it."""
    if "batch_idx" not in batch:
        raise InvalidRequest("boxes", "must be a list with one target an image, got a dict")
    key = boxes_key(batch, boxes, "boxes")
    values = torch.as_tensor(four_columns(batch[key], "boxes")).reshape(-1, 4)
    owner = torch.as_tensor(batch["batch_idx"]).flatten().to(values.device)
    if len(owner) != len(values):
        raise InvalidRequest(
            "boxes.batch_idx", f"has {len(owner)} entries, but there are {len(values)} boxes"
        )
    if len(owner) and not ((owner >= 0) & (owner < images) & (owner % 1 == 0)).all():
        raise InvalidRequest("boxes.batch_idx", f"must be whole numbers below {images}")
    ignored = torch.from_numpy(flags_beside(batch, len(values), "boxes")).to(values.device)
    return [
        ImageBoxes(
            values[(owner == i) & ~ignored],
            *known_form(form),
            ignored=(values[(owner == i) & ignored],),
        )
        for i in range(images)
    ]
