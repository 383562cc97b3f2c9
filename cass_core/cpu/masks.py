"""The mask of a batch on the CPU: one pass over the patches that each box reaches.

The Gaussian is separable, exp(-(a + b)) = exp(-a) exp(-b), and its distance along an axis
depends on the column or the row alone. So a box costs one exponential per column and per row
of its context, and one multiplication per patch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cass_core.cpu.jit import inline, kernel
from cass_core.specs.enums import MERGES, TEMPERATURES

_SIZE_SCALED, _SMALL_GAIN = TEMPERATURES["size_scaled"], TEMPERATURES["small_gain"]
_MAX, _CLIPPED_SUM = MERGES["max"], MERGES["clipped_sum"]


@inline
def _sigma_factor(area: float, options: Any) -> Any:
    temperature, gain, threshold, reference, factor_min, factor_max = options
    if temperature == _SIZE_SCALED:
        return min(max(math.sqrt(area) / reference, factor_min), factor_max)
    if temperature == _SMALL_GAIN and area < threshold * threshold:
        return gain
    return 1.0


@inline
def _is_beyond(value: float, bound: float, is_open: bool) -> bool:
    return value > bound or (is_open and value == bound)


@inline
def reached(
    low: float, high: float, cells: float, is_open: bool, patch: float, inverse: float, count: int
) -> tuple[int, int]:
    """First and one past the last patch with its centre on the map and between low and high.

    The two ends are taken in, unless the range is open; the map's edge always is.
    """
    high_is_open = is_open and high <= cells
    high = min(high, cells)
    # Bounded as floats: no integer holds every coordinate.
    begin = int(min(max(low * inverse, 0.0), float(count)))
    end = int(min(max(high * inverse, 0.0), float(count)))
    # The patches that hold the two ends; their centres, which are exact, decide. One more on
    # each side, since the product rounds.
    begin = max(begin - 1, 0)
    while begin < count and _is_beyond(low, (begin + 0.5) * patch, is_open):
        begin += 1
    end = min(end + 2, count)
    while end > begin and _is_beyond((end - 0.5) * patch, high, high_is_open):
        end -= 1
    return begin, end


@inline
def _distance(
    at: float, centre: float, half: float, edge1: float, edge2: float, subpixel: bool
) -> float:
    """Distance of a patch centre to the core along one axis, in cells."""
    if subpixel:
        return max(abs(at - centre) - half, 0.0)
    return max(max(edge1 - at, at - edge2), 0.0)


@kernel
def mask_images(
    xyxy: Any,
    offsets: Any,
    sizes: Any,
    first_image: int,
    mask: Any,
    owner: Any,
    options: Any,
    begin: int,
    end: int,
) -> None:
    """Fill ``mask`` (``[K, n_y, n_x]`` float32) with images first_image .. first_image + K.

    ``xyxy`` is ``[M, 4]`` float32, ``offsets`` ``[B + 1]``, ``sizes`` ``[1 or B, 2]``;
    ``owner`` is like ``mask``, int32, or has no images if not requested; ``options`` are those
    of `cass_core.cpu.run.mask_options`. Of each image the boxes from number ``begin`` to before
    ``end`` are taken; unless ``begin`` is 0, they come on top of those before.

    The arithmetic follows the formulas of `MaskSpec` in float64 per row and column, float32 per
    patch.
    """
    h, w, patch_y, patch_x, expansion, min_size, anisotropic, gaussian = options[:8]
    sigma_x, sigma_y, factor_options, subpixel, merge, min_radius = options[8:14]
    over, longest = options[14:]
    rows, columns = mask.shape[1], mask.shape[2]
    want_owner = owner.shape[0] > 0
    inverse_y, inverse_x = 1.0 / patch_y, 1.0 / patch_x
    x_factor = np.empty(columns, np.float32)  # of the value, per column
    x_square = np.empty(columns, np.float64)  # isotropic: squared normalised distance
    for k in range(mask.shape[0]):
        image = first_image + k
        out = mask[k]
        if begin == 0:
            out[:] = np.float32(0)
            if want_owner:
                owner[k][:] = np.int32(-1)
        size = sizes[image if sizes.shape[0] > 1 else 0]
        cells_y, cells_x = h / size[0], w / size[1]  # a pixel
        first_box, last_box = offsets[image], offsets[image + 1]
        for box in range(first_box + begin, min(first_box + end, last_box)):
            # Steps 1 and 2: to cells, least size.
            x1, x2 = np.float64(xyxy[box, 0]), np.float64(xyxy[box, 2])
            y1, y2 = np.float64(xyxy[box, 1]), np.float64(xyxy[box, 3])
            if not over < max(x2 - x1, y2 - y1) <= longest:  # of another level
                continue
            box_w, box_h = (x2 - x1) * cells_x, (y2 - y1) * cells_y
            x1, x2, y1, y2 = x1 * cells_x, x2 * cells_x, y1 * cells_y, y2 * cells_y
            centre_x, centre_y = 0.5 * (x1 + x2), 0.5 * (y1 + y2)
            if box_w < min_size:
                box_w = min_size
                x1, x2 = centre_x - 0.5 * min_size, centre_x + 0.5 * min_size
            if box_h < min_size:
                box_h = min_size
                y1, y2 = centre_y - 0.5 * min_size, centre_y + 0.5 * min_size
            # Steps 3 and 4: context, core, dilated box.
            expand_x, expand_y = box_w * expansion, box_h * expansion
            # Closed; but where the dilated box's edge is where d reaches 1, the value is 0.
            x_is_open = anisotropic and expand_x > 0.0 and expand_x >= min_radius
            y_is_open = anisotropic and expand_y > 0.0 and expand_y >= min_radius
            c0, c1 = reached(
                x1 - expand_x, x2 + expand_x, w, x_is_open, patch_x, inverse_x, columns
            )
            r0, r1 = reached(y1 - expand_y, y2 + expand_y, h, y_is_open, patch_y, inverse_y, rows)
            if c0 >= c1 or r0 >= r1:
                continue
            edge_x1, edge_x2 = min(max(x1, 0.0), w), min(max(x2, 0.0), w)
            edge_y1, edge_y2 = min(max(y1, 0.0), h), min(max(y2, 0.0), h)
            # Steps 6 and 7: radii and widths. A zero radius is never divided by: no patch
            # outside the core is then reached.
            if anisotropic:
                radius_x, radius_y = max(expand_x, min_radius), max(expand_y, min_radius)
            else:
                radius_x = max(math.sqrt(expand_x * expand_x + expand_y * expand_y), min_radius)
                radius_y = radius_x
            factor = _sigma_factor(box_w * box_h, factor_options)
            scale_x = -0.5 / (factor * sigma_x) ** 2
            scale_y = -0.5 / (factor * sigma_y) ** 2
            # Columns: the factor of the value.
            for c in range(c0, c1):
                u = 0.0
                at = (c + 0.5) * patch_x
                if at < x1 or at > x2:  # what is reached lies on the map
                    d = _distance(at, centre_x, 0.5 * box_w, edge_x1, edge_x2, subpixel)
                    if d > 0.0:
                        u = d / radius_x
                x_square[c] = u * u
                if gaussian:
                    x_factor[c] = math.exp(u * u * scale_x) if u > 0.0 else 1.0
                else:
                    x_factor[c] = max(1.0 - u, 0.0)
            # Rows.
            for r in range(r0, r1):
                v = 0.0
                at = (r + 0.5) * patch_y
                if at < y1 or at > y2:
                    d = _distance(at, centre_y, 0.5 * box_h, edge_y1, edge_y2, subpixel)
                    if d > 0.0:
                        v = d / radius_y
                b, e = c0, c1
                if not anisotropic:
                    # d = sqrt(u^2 + v^2) < 1 leaves a range of columns, as u falls to the core
                    # and rises behind it.
                    limit = 1.0 - v * v
                    while b < e and x_square[b] >= limit:
                        b += 1
                    while b < e and x_square[e - 1] >= limit:
                        e -= 1
                y_factor = np.float32(1.0)
                if gaussian:
                    if v > 0.0:
                        y_factor = np.float32(math.exp(v * v * scale_y))
                elif anisotropic:
                    y_factor = np.float32(max(1.0 - v, 0.0))
                line = out[r]
                if want_owner:
                    names = owner[k, r]
                    name = np.int32(box - offsets[image])
                    for c in range(b, e):
                        value = _value(x_factor[c], y_factor, x_square[c], v, gaussian, anisotropic)
                        if value > line[c]:
                            line[c] = value
                            names[c] = name
                elif merge == _MAX:
                    if gaussian:
                        for c in range(b, e):
                            line[c] = max(line[c], x_factor[c] * y_factor)
                    else:
                        for c in range(b, e):
                            line[c] = max(
                                line[c],
                                _value(x_factor[c], y_factor, x_square[c], v, False, anisotropic),
                            )
                else:
                    for c in range(b, e):
                        line[c] += _value(
                            x_factor[c], y_factor, x_square[c], v, gaussian, anisotropic
                        )
        if merge == _CLIPPED_SUM:
            for r in range(rows):
                for c in range(columns):
                    out[r, c] = min(out[r, c], np.float32(1))


@inline
def _value(
    x_factor: Any, y_factor: Any, x_square: float, v: float, gaussian: bool, anisotropic: bool
) -> Any:
    if gaussian:
        return np.float32(x_factor * y_factor)
    if anisotropic:
        return min(x_factor, y_factor)
    return np.float32(1.0 - math.sqrt(x_square + v * v))
