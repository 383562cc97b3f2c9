"""Copies of checked arguments, and their parts: runs of images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cass_core.arrays import Tensorlike, is_tensor, to_host
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting
from cass_core.inputs import MaskInputs


def copied(inputs: MaskInputs, boxes_too: bool) -> MaskInputs:
    """The same in memory of its own, the boxes only if that is asked."""
    weighting = inputs.weighting
    return dataclasses.replace(
        inputs,
        boxes=_copied_boxes(inputs.boxes) if boxes_too else inputs.boxes,
        weighting=None if weighting is None else _copied_weighting(weighting),
    )


def images_of(inputs: MaskInputs, first: int, last: int) -> MaskInputs:
    """Images first .. last, on the host, where they are sent from."""
    boxes, sizes, weighting = inputs.boxes, inputs.sizes, inputs.weighting
    if weighting is not None:
        region, ignore, weights = weighting.valid_region, weighting.ignore, weighting.box_weights
        start, stop = int(boxes.offsets[first]), int(boxes.offsets[last])
        weighting = Weighting(
            weighting.spec,
            None if region is None else to_host(region)[0][first:last],
            None if ignore is None else _images_of_boxes(ignore, first, last),
            None if weights is None else to_host(weights)[0][start:stop],
        )
    return dataclasses.replace(
        inputs,
        boxes=_images_of_boxes(boxes, first, last),
        sizes=sizes if len(sizes) == 1 else sizes[first:last],
        weighting=weighting,
    )


def _images_of_boxes(boxes: BoxBatch, first: int, last: int) -> BoxBatch:
    start, stop = int(boxes.offsets[first]), int(boxes.offsets[last])
    return BoxBatch(to_host(boxes.xyxy)[0][start:stop], boxes.counts[first:last])


def _copied_weighting(weighting: Weighting) -> Weighting:
    ignore = None if weighting.ignore is None else _copied_boxes(weighting.ignore)
    region, weights = _copy(weighting.valid_region), _copy(weighting.box_weights)
    return Weighting(weighting.spec, region, ignore, weights)


def _copied_boxes(boxes: BoxBatch) -> BoxBatch:
    xyxy: Any = _copy(boxes.xyxy)
    return BoxBatch(xyxy, boxes.counts.copy())


def _copy(value: Tensorlike | None) -> Tensorlike | None:
    if value is None:
        return None
    return value.clone() if is_tensor(value) else np.array(value)
