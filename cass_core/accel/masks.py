"""The mask of a batch in torch operations, on whatever device the boxes are.

Per box only a row and a column of factors are made; their product is a patch's value, as in the
compiled CPU loop. Boxes are taken in chunks so that the dense ``[chunk, n_y, n_x]`` block stays
small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cass_core.grid import FeatureMap, patch_grid
from cass_core.masks import MaskInputs
from cass_core.specs import MaskSpec

_TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_CHUNK_PATCHES = 1 << 24


class _Axis(NamedTuple):
    """What one axis contributes: per box and column (or row), ``[M, n]``."""

    core: Tensor  # bool: the patch centre lies in the core's range
    dilated: Tensor  # bool: it lies in the dilated box's range
    distance: Tensor  # d / radius where d > 0, else 0; float64
    width: Tensor  # [M] box side after the least size
    expand: Tensor  # [M] width of the context


def make_masks(inputs: MaskInputs) -> Any:
    """`cass_core.generate_mask` for checked inputs; everything stays on the boxes' device."""
    masks, owners = make_all_masks(inputs)
    if not inputs.return_owner:
        return masks[0] if inputs.single else masks
    return (masks[0], owners[0]) if inputs.single else (masks, owners)


def make_all_masks(inputs: MaskInputs) -> tuple[list[Tensor], list[Tensor]]:
    """Masks and owner maps (none unless asked for), one of each a feature map."""
    results = [_one_map(inputs, feature_map) for feature_map in inputs.maps]
    owners = [owner for _, owner in results] if inputs.return_owner else []
    return [mask for mask, _ in results], owners


def _one_map(inputs: MaskInputs, feature_map: FeatureMap) -> tuple[Tensor, Tensor]:
    spec = inputs.spec
    boxes = inputs.boxes
    xyxy = torch.as_tensor(boxes.xyxy)
    device = xyxy.device
    rows, columns = patch_grid(feature_map, spec.patch_size)
    counts = boxes.counts
    image = torch.as_tensor(np.repeat(np.arange(len(counts)), counts), device=device)
    number = torch.as_tensor(
        np.arange(boxes.num_boxes) - np.repeat(boxes.offsets[:-1], counts), device=device
    ).to(torch.int32)
    sizes = np.broadcast_to(inputs.sizes, (len(counts), 2)) / np.array(feature_map, np.float64)
    strides = torch.as_tensor(np.repeat(sizes, counts, axis=0), device=device)

    shape = (boxes.num_images, rows, columns)
    mask = torch.zeros(shape, device=device)
    owner = torch.full(shape, -1, dtype=torch.int32, device=device)
    step = max(1, _CHUNK_PATCHES // (rows * columns))
    for first in range(0, boxes.num_boxes, step):
        part = slice(first, first + step)
        values = _values(xyxy[part].double(), strides[part], feature_map, spec)
        if inputs.return_owner:
            _merge_owner(mask, owner, values, image[part], number[part])
        elif spec.merge == "max":
            _reduce(mask, image[part], values, "amax")
        else:
            mask.index_add_(0, image[part], values)
    if spec.merge == "clipped_sum":
        mask.clamp_(max=1.0)
    if inputs.dtype == "uint8":
        return (mask * 255).round_().to(torch.uint8), owner
    return mask.to(_TORCH_DTYPES[inputs.dtype]), owner


def _merge_owner(
    mask: Tensor, owner: Tensor, values: Tensor, image: Tensor, number: Tensor
) -> None:
    """Merge by maximum and keep the first box of each patch that reaches it."""
    before = mask.clone()
    _reduce(mask, image, values, "amax")
    none = torch.iinfo(torch.int32).max
    claim = (values == mask[image]) & (values > 0)
    names = torch.where(claim, number[:, None, None], none)
    best = torch.full_like(owner, none)
    _reduce(best, image, names, "amin")
    owner.copy_(torch.where(mask > before, best, owner))


def _reduce(out: Tensor, image: Tensor, values: Tensor, how: str) -> None:
    """Reduce ``values`` ``[m, n_y, n_x]`` into the images ``[m]`` that they belong to."""
    out.scatter_reduce_(0, image[:, None, None].expand_as(values), values, how)


def _values(xyxy: Tensor, strides: Tensor, feature_map: FeatureMap, spec: MaskSpec) -> Tensor:
    """Value of every patch under every box, ``[m, n_y, n_x]`` float32."""
    x1, y1, x2, y2 = xyxy.unbind(1)
    height, width = feature_map
    along_x = _axis(x1 / strides[:, 1], x2 / strides[:, 1], width, spec)
    along_y = _axis(y1 / strides[:, 0], y2 / strides[:, 0], height, spec)
    if spec.use_anisotropic_gaussian:
        radius_x = along_x.expand.clamp(min=spec.min_radius)
        radius_y = along_y.expand.clamp(min=spec.min_radius)
    else:
        radius_x = radius_y = torch.hypot(along_x.expand, along_y.expand).clamp(min=spec.min_radius)
    u = _normalised(along_x.distance, radius_x)[:, None, :]
    v = _normalised(along_y.distance, radius_y)[:, :, None]
    core = along_x.core[:, None, :] & along_y.core[:, :, None]
    reached = along_x.dilated[:, None, :] & along_y.dilated[:, :, None]
    near = (u < 1) & (v < 1) if spec.use_anisotropic_gaussian else u * u + v * v < 1
    if spec.decay_type == "gaussian":
        factor = _temperature((along_x.width * along_y.width).sqrt(), spec)[:, None, None]
        sigma_x, sigma_y = spec.sigma_xy
        column = torch.exp(-0.5 * (u / (factor * sigma_x)) ** 2).float()
        row = torch.exp(-0.5 * (v / (factor * sigma_y)) ** 2).float()
        value = column * row
    elif spec.use_anisotropic_gaussian:
        value = (1 - torch.maximum(u, v)).float()
    else:
        value = (1 - torch.sqrt(u * u + v * v)).float()
    return torch.where(core, 1.0, torch.where(reached & near, value, 0.0))


def _axis(low: Tensor, high: Tensor, cells: int, spec: MaskSpec) -> _Axis:
    """Ranges and distances along one axis of ``cells`` cells; ``low``, ``high`` ``[m]``."""
    patch = min(spec.patch_size, cells)
    count = -(-cells // patch)
    at = (torch.arange(count, device=low.device, dtype=torch.float64) + 0.5) * patch
    centre, width = 0.5 * (low + high), high - low
    short = width < spec.min_size
    width = torch.where(short, spec.min_size, width)
    low = torch.where(short, centre - 0.5 * spec.min_size, low)
    high = torch.where(short, centre + 0.5 * spec.min_size, high)
    expand = width * spec.expansion_ratio

    def inside(begin: Tensor, end: Tensor) -> Tensor:
        return (at >= begin.clamp(min=0)[:, None]) & (at <= end.clamp(max=cells)[:, None])

    core = inside(low, high)
    if spec.use_subpixel_offset:
        distance = (at - centre[:, None]).abs() - 0.5 * width[:, None]
    else:
        edge1, edge2 = low.clamp(0, cells)[:, None], high.clamp(0, cells)[:, None]
        distance = torch.maximum(edge1 - at, at - edge2)
    distance = torch.where(core, 0.0, distance.clamp(min=0))
    return _Axis(core, inside(low - expand, high + expand), distance, width, expand)


def _normalised(distance: Tensor, radius: Tensor) -> Tensor:
    return torch.where(distance > 0, distance / radius[:, None], 0.0)


def _temperature(size: Tensor, spec: MaskSpec) -> Tensor:
    """The factor on base_sigma for boxes of this size, ``[m]``."""
    if spec.temperature == "size_scaled":
        return (size / spec.size_reference).clamp(spec.size_factor_min, spec.size_factor_max)
    if spec.temperature == "small_gain":
        return torch.where(size < spec.small_target_threshold, spec.small_target_gain, 1.0)
    return torch.ones_like(size)
