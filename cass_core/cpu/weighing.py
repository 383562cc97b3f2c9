"""Masks with weights: runs the kernels of both on whole requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from cass_core.arrays import Array, is_tensor, read_only, to_host
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting, check_weights
from cass_core.cpu import threads
from cass_core.cpu.run import fill_mask, images_per_thread
from cass_core.cpu.weights import share_out, weigh_images
from cass_core.grid import FeatureMap, Sizes
from cass_core.inputs import MaskInputs

_NO_BOXES = read_only(np.empty((0, 4), np.float32))
_NO_OFFSETS = read_only(np.empty(0, np.int64))
_NO_COUNTS = np.empty(0, np.int64)
_NO_PATCHES = np.empty((0, 4), np.int64)


def fill_weighted(
    inputs: MaskInputs,
    boxes: BoxBatch,
    sizes: Sizes,
    out: tuple[Sequence[Array], Sequence[Array], Sequence[Array]],
    checkpoint: Callable[[], None] | None,
) -> None:
    """Fill masks, owners (if requested) and weights of the inputs' feature maps.

    Args:
        inputs: the request.
        boxes: its boxes, in the host's memory.
        sizes: its image sizes, there too.
        out: masks, owners and weights, one a feature map.
        checkpoint: as of `cass_core.cpu.backend.compute_masks`.
    """
    masks, owners, weights = out
    weighting = inputs.weighting
    assert weighting is not None  # by compute_masks
    balanced = weighting.spec.balance == "object"
    if weighting.needs_owner and not owners:
        owners = [np.empty(mask.shape, np.int32) for mask in masks]
    counts = np.zeros(boxes.num_boxes, np.int64) if balanced else _NO_COUNTS
    patches_of_boxes = [
        np.empty((boxes.num_boxes, 4), np.int64) if weighting.needs_owner else _NO_PATCHES
        for _ in masks
    ]
    weigh_part: Callable[..., None] = partial(weigh_images, *_arrays(boxes, sizes, weighting))
    for i, feature_map in enumerate(inputs.maps):
        of_map, options = weights[i], _options(inputs, feature_map, i)
        of_boxes: Any = patches_of_boxes[i], counts

        def weigh(
            first: int,
            mask: Array,
            owner: Array,
            of_map: Array = of_map,
            of_boxes: Any = of_boxes,
            options: Any = options,
        ) -> None:
            part = of_map[first : first + len(mask)]
            weigh_part(first, mask, owner, part, of_boxes, options)

        owner = owners[i] if owners else None
        fill_mask(
            boxes, sizes, feature_map, inputs.spec, inputs.dtype, masks[i], owner, checkpoint,
            level=i, weigh=weigh,
        )  # fmt: skip
    if weighting.needs_owner:
        shares = read_only(_shares(weighting, counts))
        _share_out(boxes, shares, owners, patches_of_boxes, weights)


def _shares(weighting: Weighting, counts: Array) -> Array:
    """What the patches of each box weigh, ``[M]`` float32, of the patches that each owns."""
    box_weights = weighting.box_weights
    given: Array | None = None if box_weights is None else to_host(box_weights)[0]
    if is_tensor(box_weights) and box_weights.device.type != "cpu":
        check_weights(box_weights.cpu(), "box_weights")  # unread so far
    if weighting.spec.balance != "object":
        assert given is not None  # else no owner is needed
        return given
    # The objects' patches weigh together as much as there are of them.
    shares = counts.sum() / np.maximum(np.count_nonzero(counts) * counts, 1)
    shares = shares if given is None else shares * given
    most = np.finfo(np.float32).max
    return np.asarray(np.minimum(shares, most), np.float32)


def _arrays(boxes: BoxBatch, sizes: Sizes, weighting: Weighting) -> tuple[Any, ...]:
    """The first arguments of `weigh_images`."""
    regions, ignored = _NO_BOXES, (_NO_BOXES, _NO_OFFSETS)
    if weighting.valid_region is not None:
        regions = read_only(to_host(weighting.valid_region)[0])
    if weighting.ignore is not None and weighting.ignore.num_boxes:
        ignored = _host_boxes(weighting.ignore)
    return _host_boxes(boxes), read_only(sizes), regions, ignored


def _host_boxes(boxes: BoxBatch) -> tuple[Array, Array]:
    return read_only(to_host(boxes.xyxy)[0]), read_only(boxes.offsets)


def _options(inputs: MaskInputs, feature_map: FeatureMap, level: int) -> tuple[Any, ...]:
    """The last argument of `weigh_images`."""
    h, w = feature_map
    spec, weighting = inputs.spec, inputs.weighting
    assert weighting is not None
    patch_y, patch_x = min(spec.patch_size, h), min(spec.patch_size, w)
    background = weighting.spec.background_weight
    lengths = spec.min_size, spec.expansion_ratio
    return h, w, patch_y, patch_x, *lengths, *spec.range_of(level), background


def _share_out(
    boxes: BoxBatch,
    shares: Array,
    owners: Sequence[Array],
    patches_of_boxes: Sequence[Array],
    weights: Sequence[Array],
) -> None:
    """Give each patch that has an owner that box's share, once all patches are counted."""
    offsets = read_only(boxes.offsets)
    for owner, patches, of_map in zip(owners, patches_of_boxes, weights, strict=True):

        def work(
            start: int, stop: int, owner: Array = owner, patches: Array = patches,
            of_map: Array = of_map,
        ) -> None:  # fmt: skip
            part = slice(start, stop)
            share_out(offsets, start, owner[part], read_only(patches), shares, of_map[part])

        threads.split(len(owner), work, images_per_thread(owner[0].size if len(owner) else 1))
