"""Weights of the patches on the CPU, from the mask, its owners and rectangles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cass_core.cpu.jit import inline, kernel
from cass_core.cpu.masks import reached


@inline
def _side(
    low: float, high: float, cells_per_pixel: float, min_size: float, growth: float
) -> tuple[float, float]:
    """Ends of a box's grown side in cells: the operations of `mask_images`, in their order."""
    length = (high - low) * cells_per_pixel
    low, high = low * cells_per_pixel, high * cells_per_pixel
    if length < min_size:
        centre = 0.5 * (low + high)
        low, high = centre - 0.5 * min_size, centre + 0.5 * min_size
        length = min_size
    # Of this length: high - low differs from it by its rounding.
    along = length * growth
    return low - along, high + along


@inline
def _patches_of(
    sides: Any, ratio_y: float, ratio_x: float, grid: Any, growth: float, ends: Any
) -> tuple[int, int, int, int]:
    """The patches with their centre in a box: first and one past the last row, and column.

    Args:
        sides: x1, y1, x2, y2.
        ratio_y, ratio_x: cells a pixel.
        grid: patch_y, patch_x, min_size, rows, columns.
        growth: on each side, as a share of the box's side.
        ends: where along y and x it is cut off, in cells.
    """
    patch_y, patch_x, min_size, rows, columns = grid
    low, high = _side(np.float64(sides[1]), np.float64(sides[3]), ratio_y, min_size, growth)
    r0, r1 = reached(low, high, ends[0], False, patch_y, 1.0 / patch_y, rows)
    low, high = _side(np.float64(sides[0]), np.float64(sides[2]), ratio_x, min_size, growth)
    c0, c1 = reached(low, high, ends[1], False, patch_x, 1.0 / patch_x, columns)
    return r0, r1, c0, c1


@inline
def _fill(values: Any, patches: Any, value: Any) -> None:
    r0, r1, c0, c1 = patches
    for r in range(r0, r1):
        values[r, c0:c1] = value


@inline
def _share(owner: Any, weights: Any, patches: Any, name: Any, share: Any) -> None:
    """Give a box's share to its patches, which weigh 1, or 0 and then still do."""
    for r in range(patches[0], patches[1]):
        names = owner[r, patches[2] : patches[3]]
        line = weights[r, patches[2] : patches[3]]
        for c in range(line.shape[0]):
            line[c] *= share if names[c] == name else np.float32(1)


@kernel
def weigh_images(
    boxes: Any,
    sizes: Any,
    regions: Any,
    ignored: Any,
    first_image: int,
    mask: Any,
    owner: Any,
    weights: Any,
    of_boxes: Any,
    options: Any,
) -> None:
    """Fill ``weights`` (``[K, n_y, n_x]`` float32) of images first_image .. first_image + K.

    A patch that step 1 of the weights leaves out gets 0, one without a value the background's
    weight, and any other 1.

    Args:
        boxes: ``[M, 4]`` float32 and offsets ``[B + 1]``.
        sizes: ``[1 or B, 2]`` float64.
        regions: ``[B, 4]`` float32, the valid regions; of no images if there are none.
        ignored: ``[N, 4]`` float32 and offsets ``[B + 1]``; offsets of no images if there are none.
        first_image: see above.
        mask: like ``weights``; the values before they are rounded to a short dtype.
        owner: like ``mask``, int32, or of no images where nothing is asked of boxes.
        weights: see above.
        of_boxes: two arrays: ``[M, 4]`` int64, filled with the patches that each box can own
            (rows, columns), or empty; ``[M]`` int64, to which the patches are added that each owns
            and that weigh anything, or empty.
        options: h, w, patch_y, patch_x, min_size, expansion_ratio, bounds of the level's range,
            background weight.
    """
    (xyxy, offsets), (ignored_xyxy, ignored_offsets) = boxes, ignored
    h, w, patch_y, patch_x, min_size, expansion, over, longest, background_weight = options
    patches_of_boxes, counts = of_boxes
    rows, columns = mask.shape[1], mask.shape[2]
    grid, plain = (
        (patch_y, patch_x, min_size, rows, columns),
        (patch_y, patch_x, 0.0, rows, columns),
    )
    ends, endless = (float(h), float(w)), (math.inf, math.inf)
    background = np.float32(background_weight)
    one, zero = np.float32(1), np.float32(0)
    has_ignored = ignored_offsets.shape[0] > 0
    kept = np.empty((rows, columns) if has_ignored else (0, 0), np.float32)
    for k in range(mask.shape[0]):
        image = first_image + k
        size = sizes[image if sizes.shape[0] > 1 else 0]
        ratio_y, ratio_x = h / size[0], w / size[1]
        valid = (0, rows, 0, columns)
        if regions.shape[0] > 0:
            valid = _patches_of(regions[image], ratio_y, ratio_x, plain, 0.0, endless)
            weights[k][:] = zero
        if background == one:
            _fill(weights[k], valid, one)
        else:
            for r in range(valid[0], valid[1]):
                line = weights[k, r, valid[2] : valid[3]]
                values = mask[k, r, valid[2] : valid[3]]
                for c in range(line.shape[0]):
                    line[c] = one if values[c] != zero else background
        if has_ignored and ignored_offsets[image] < ignored_offsets[image + 1]:
            kept[:] = one
            r0, r1, c0, c1 = rows, 0, columns, 0  # what lies around the ignored boxes
            for box in range(ignored_offsets[image], ignored_offsets[image + 1]):
                found = _patches_of(ignored_xyxy[box], ratio_y, ratio_x, plain, 0.0, endless)
                _fill(kept, found, zero)
                if found[0] < found[1] and found[2] < found[3]:
                    r0, r1 = min(r0, found[0]), max(r1, found[1])
                    c0, c1 = min(c0, found[2]), max(c1, found[3])
            for box in range(offsets[image], offsets[image + 1]):
                if _takes_part(xyxy[box], over, longest):
                    found = _patches_of(xyxy[box], ratio_y, ratio_x, grid, 0.0, ends)
                    rest = (
                        max(found[0], r0),
                        min(found[1], r1),
                        max(found[2], c0),
                        min(found[3], c1),
                    )
                    _fill(kept, rest, one)
            for r in range(r0, r1):
                line, factors = weights[k, r, c0:c1], kept[r, c0:c1]
                for c in range(line.shape[0]):
                    line[c] *= factors[c]
        if patches_of_boxes.shape[0] == 0:
            continue
        for box in range(offsets[image], offsets[image + 1]):
            name = np.int32(box - offsets[image])
            r0, r1, c0, c1 = 0, 0, 0, 0
            if _takes_part(xyxy[box], over, longest):
                r0, r1, c0, c1 = _patches_of(xyxy[box], ratio_y, ratio_x, grid, expansion, ends)
            for i, value in enumerate((r0, r1, c0, c1)):
                patches_of_boxes[box, i] = value
            if counts.shape[0] == 0:
                continue
            count = 0
            for r in range(r0, r1):
                names, line = owner[k, r, c0:c1], weights[k, r, c0:c1]
                in_row: Any = np.int32(0)
                for c in range(line.shape[0]):
                    in_row += np.int32((names[c] == name) & (line[c] > zero))
                count += in_row
            counts[box] += count


@inline
def _takes_part(sides: Any, over: float, longest: float) -> bool:
    longer = max(np.float64(sides[2]) - sides[0], np.float64(sides[3]) - sides[1])
    takes_part: bool = over < longer <= longest
    return takes_part


@kernel
def share_out(
    offsets: Any, first_image: int, owner: Any, patches_of_boxes: Any, shares: Any, weights: Any
) -> None:
    """Give each patch that has an owner, and a weight, its owner's share.

    Args:
        offsets: ``[B + 1]``.
        first_image: of ``owner`` and ``weights``.
        owner: ``[K, n_y, n_x]`` int32.
        patches_of_boxes: as `weigh_images` filled it for this feature map.
        shares: ``[M]`` float32, one a box.
        weights: like ``owner``, float32, as of `weigh_images`.
    """
    for k in range(owner.shape[0]):
        image = first_image + k
        for box in range(offsets[image], offsets[image + 1]):
            r0, r1, c0, c1 = patches_of_boxes[box]
            name = np.int32(box - offsets[image])
            _share(owner[k], weights[k], (r0, r1, c0, c1), name, shares[box])
