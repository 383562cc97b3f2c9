"""Checked requests as calls of the operators: what the public functions do on CUDA."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from cass_core.arrays import Tensorlike
from cass_core.boxes import BoxBatch
from cass_core.checks.weighting import Weighting
from cass_core.grid import Sizes, patch_grid
from cass_core.inputs import MaskInputs
from cass_core.ops import registration  # noqa: F401 - defines the operators
from cass_core.ops.spec_args import loss_options, mask_options
from cass_core.results import LossResult
from cass_core.specs import LossSpec, normalizer_of
from cass_core.transfer import upload


class DeviceBoxes(NamedTuple):
    """The first arguments of the operators that take boxes."""

    xyxy: Tensor
    offsets: Tensor
    sizes: Tensor | None
    image_size: list[int]


def is_on_device(boxes: Any, device: torch.device) -> TypeGuard[BoxBatch]:
    """Whether these are a batch on the device already."""
    return (
        isinstance(boxes, BoxBatch)
        and isinstance(boxes.xyxy, Tensor)
        and boxes.xyxy.device == device
    )


def offsets_of(boxes: BoxBatch) -> Tensor:
    """``[B + 1]`` int32 beside the boxes."""
    if boxes.device_offsets is not None:
        return boxes.device_offsets
    return torch.from_numpy(boxes.offsets.astype(np.int32))


def to_device(boxes: BoxBatch, sizes: Sizes | Tensor, device: torch.device) -> DeviceBoxes:
    """Boxes and image sizes on a device, copied only where they are not there yet."""
    boxes = boxes if is_on_device(boxes, device) else boxes.to(device)
    xyxy, offsets = torch.as_tensor(boxes.xyxy), offsets_of(boxes)
    if isinstance(sizes, Tensor):
        return DeviceBoxes(xyxy, offsets, sizes, [1, 1])
    if len(sizes) == 1:
        return DeviceBoxes(xyxy, offsets, None, [int(sizes[0, 0]), int(sizes[0, 1])])
    return DeviceBoxes(xyxy, offsets, upload(sizes, device), [1, 1])


def make_masks(
    inputs: MaskInputs, device: torch.device
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Masks, owner maps and weights (none unless requested) on the device, one a feature map."""
    options = (
        *to_device(inputs.boxes, inputs.sizes, device),
        [side for feature_map in inputs.maps for side in feature_map],
        *mask_options(inputs.spec),
        getattr(torch, inputs.dtype),
        inputs.return_owner,
    )
    weights = None
    if inputs.weighting is None:
        flat, owners = torch.ops.cass.masks(*options)
    else:
        flat, owners, weights = torch.ops.cass.weighted_masks(
            *options, *weight_options(inputs.weighting, device)
        )
    grids = [patch_grid(feature_map, inputs.spec.patch_size) for feature_map in inputs.maps]
    batch = inputs.boxes.num_images
    if len(grids) == 1:
        shape = (batch, *grids[0])
        return (
            [flat.view(shape)],
            [owners.view(shape)] if inputs.return_owner else [],
            [] if weights is None else [weights.view(shape)],
        )
    lengths = [batch * rows * columns for rows, columns in grids]

    def cut(tensor: Tensor) -> list[Tensor]:
        parts = zip(tensor.split(lengths), grids, strict=True)
        return [part.view(batch, *grid) for part, grid in parts]

    return (
        cut(flat),
        cut(owners) if inputs.return_owner else [],
        [] if weights is None else cut(weights),
    )


def weight_options(weighting: Weighting, device: torch.device) -> tuple[Any, ...]:
    """The last arguments of the operators that weigh patches, on the device."""
    ignore = weighting.ignore
    ignored = ignored_offsets = None
    if ignore is not None and ignore.num_boxes:
        ignore = ignore if is_on_device(ignore, device) else ignore.to(device)
        ignored, ignored_offsets = torch.as_tensor(ignore.xyxy), offsets_of(ignore)
    return (
        _placed(weighting.valid_region, device),
        ignored,
        ignored_offsets,
        _placed(weighting.box_weights, device),
        weighting.spec.balance == "object",
        weighting.spec.background_weight,
    )


def _placed(value: Tensorlike | None, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return upload(np.asarray(value), device)


def take_loss(
    logits: Tensor,
    target: Tensor | MaskInputs,
    spec: LossSpec,
    num_boxes: float | None,
    return_grad: bool,
    weights: Tensor | None = None,
) -> LossResult:
    """`cass_core.compute_loss` of checked arguments, on the logits' device.

    Args:
        target: patches, or the inputs of the mask, and of the weights, that they are made as.
        weights: of a target of patches.
    """
    if isinstance(target, MaskInputs):
        num_boxes = target.boxes.num_boxes if num_boxes is None else num_boxes
        if target.weighting is not None:
            masks, _, weighed = make_masks(target, logits.device)
            target, weights = masks[0], weighed[0]
    patches = logits.numel()
    grad_dtype = logits.dtype if return_grad else None
    logits = logits.detach()
    choices, numbers = loss_options(spec)
    normalizer = normalizer_of(spec, patches, num_boxes)
    if isinstance(target, Tensor) and weights is not None:
        loss, total, grad, by = torch.ops.cass.weighted_loss(
            logits, target.detach(), weights, choices, numbers, normalizer, grad_dtype
        )
        divisor = by if spec.reduction == "mean" else normalizer
        return LossResult(loss, total, divisor, grad if return_grad else None)
    if isinstance(target, Tensor):
        loss, total, grad = torch.ops.cass.loss(
            logits, target.detach(), choices, numbers, normalizer, grad_dtype
        )
    else:
        loss, total, grad = torch.ops.cass.boxes_loss(
            logits,
            *to_device(target.boxes, target.sizes, logits.device),
            list(target.maps[0]),
            *mask_options(target.spec),
            choices,
            numbers,
            normalizer,
            grad_dtype,
        )
    return LossResult(loss, total, normalizer, grad if return_grad else None)
