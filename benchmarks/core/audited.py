"""The audited algorithm, as a baseline: dense torch operations, a Python loop over images.

Written from the method's description, in the shape of the code that was audited: for each
image, ``[N, n_y, n_x]`` intermediates for every step, then the maximum over the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def audited_masks(
    boxes: Sequence[Tensor],
    image_size: tuple[int, int],
    feature_map: tuple[int, int],
    *,
    patch_size: int = 4,
    expansion_ratio: float = 0.3,
    min_size: float = 1.0,
    sigma: float = 0.5,
) -> Tensor:
    """Masks ``[B, n_y, n_x]`` of the baseline preset.

    Args:
        boxes: ``[N_i, 4]`` float32 xyxy in pixels, one per image.
        image_size: (H, W) in pixels.
        feature_map: (h, w) in cells.
        patch_size: side of a patch in cells.
        expansion_ratio: width of the context as a share of the box's side.
        min_size: least side of a box in cells.
        sigma: width of the Gaussian.
    """
    height, width = feature_map
    patch_y, patch_x = min(patch_size, height), min(patch_size, width)
    rows, columns = -(-height // patch_y), -(-width // patch_x)
    masks = []
    for xyxy in boxes:
        if len(xyxy) == 0:
            masks.append(torch.zeros(rows, columns))
            continue
        y = (torch.arange(rows) + 0.5) * patch_y
        x = (torch.arange(columns) + 0.5) * patch_x
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        yy, xx = yy[None], xx[None]
        scale = torch.tensor([width / image_size[1], height / image_size[0]]).repeat(2)
        x1, y1, x2, y2 = (side.view(-1, 1, 1) for side in (xyxy * scale).unbind(1))
        centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
        box_w, box_h = (x2 - x1).clamp(min=min_size), (y2 - y1).clamp(min=min_size)
        x1, x2 = centre_x - box_w / 2, centre_x + box_w / 2
        y1, y2 = centre_y - box_h / 2, centre_y + box_h / 2
        expand_w, expand_h = box_w * expansion_ratio, box_h * expansion_ratio
        core_x1, core_x2 = x1.clamp(0, width), x2.clamp(0, width)
        core_y1, core_y2 = y1.clamp(0, height), y2.clamp(0, height)
        in_core = (xx >= core_x1) & (xx <= core_x2) & (yy >= core_y1) & (yy <= core_y2)
        in_dilated = (
            (xx >= (x1 - expand_w).clamp(min=0))
            & (xx <= (x2 + expand_w).clamp(max=width))
            & (yy >= (y1 - expand_h).clamp(min=0))
            & (yy <= (y2 + expand_h).clamp(max=height))
        )
        in_context = in_dilated & ~in_core
        dist_x = torch.maximum(core_x1 - xx, xx - core_x2).clamp(min=0)
        dist_y = torch.maximum(core_y1 - yy, yy - core_y2).clamp(min=0)
        dist_to_core = torch.sqrt(dist_x**2 + dist_y**2)
        expand_dist = torch.sqrt(expand_w**2 + expand_h**2)
        distance = dist_to_core / expand_dist
        decay = torch.exp(-(distance**2) / (2 * sigma**2)) * (distance < 1)
        box_masks = torch.maximum(in_core.float(), decay * in_context.float())
        masks.append(box_masks.max(dim=0).values)
    return torch.stack(masks)
