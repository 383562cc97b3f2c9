"""A slow, independent reading of the method's formulas: one patch and one box at a time.

Written from the formulas alone, in float64 plain Python; nothing of the package is used, its
defaults are repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MARGIN = 1e-4
"""How near to a boundary a centre or a comparison may lie before float32 may fall either way."""

IMPROVED: dict[str, Any] = {
    "patch_size": 1,
    "expansion_ratio": 0.3,
    "min_size": 1.0,
    "use_anisotropic_gaussian": True,
    "decay_type": "gaussian",
    "base_sigma": 0.5,
    "temperature": "small_gain",
    "small_target_gain": 1.5,
    "small_target_threshold": 4.0,
    "size_reference": 8.0,
    "size_factor_min": 0.5,
    "size_factor_max": 2.0,
    "use_subpixel_offset": True,
    "merge": "max",
    "min_radius": 1.0,
    "level_ranges": None,
}
CAS_DETR: dict[str, Any] = IMPROVED | {
    "expansion_ratio": 0.8,
    "use_anisotropic_gaussian": False,
    "temperature": "fixed",
}
BASELINE: dict[str, Any] = IMPROVED | {
    "use_anisotropic_gaussian": False,
    "temperature": "fixed",
    "use_subpixel_offset": False,
    "min_radius": 0.0,
}


class Answer(NamedTuple):
    """Masks and owners of a batch, and where float32 must agree with them."""

    mask: npt.NDArray[np.float64]
    owner: npt.NDArray[np.int64]
    safe: npt.NDArray[np.bool_]
    owner_safe: npt.NDArray[np.bool_]


class _Side(NamedTuple):
    """One axis of one box, in cells, after the least size."""

    low: float
    high: float
    centre: float
    length: float
    context: float
    cells: int

    def holds(self, at: float, grown: float) -> bool:
        return 0 <= at <= self.cells and self.low - grown <= at <= self.high + grown

    def is_near_an_edge(self, at: float) -> bool:
        edges = [self.low, self.high, self.low - self.context, self.high + self.context]
        return any(abs(at - edge) < MARGIN for edge in [*edges, 0, self.cells])

    def distance(self, at: float, subpixel: bool) -> float:
        if subpixel:
            return max(abs(at - self.centre) - self.length / 2, 0.0)
        low = min(max(self.low, 0), self.cells)
        high = min(max(self.high, 0), self.cells)
        return max(low - at, at - high, 0.0)


def _side(low: float, high: float, stride: float, cells: int, o: Mapping[str, Any]) -> _Side:
    low, high = low / stride, high / stride
    centre = (low + high) / 2
    length = high - low
    if length < o["min_size"]:
        length = o["min_size"]
        low, high = centre - length / 2, centre + length / 2
    return _Side(low, high, centre, length, length * o["expansion_ratio"], cells)


def _factor(size: float, o: Mapping[str, Any]) -> float:
    if o["temperature"] == "fixed":
        return 1.0
    if o["temperature"] == "small_gain":
        return o["small_target_gain"] if size < o["small_target_threshold"] else 1.0
    return max(o["size_factor_min"], min(o["size_factor_max"], size / o["size_reference"]))


def _ratio(distance: float, radius: float) -> float:
    if distance == 0:
        return 0.0
    return distance / radius if radius > 0 else math.inf


def box_value(x: float, y: float, sx: _Side, sy: _Side, o: Mapping[str, Any]) -> tuple[float, bool]:
    """Value of the patch centred at (x, y) under one box, and whether float32 must agree."""
    safe = not (
        (sx.is_near_an_edge(x) and sy.holds(y, sy.context + MARGIN))
        or (sy.is_near_an_edge(y) and sx.holds(x, sx.context + MARGIN))
        or (sx.is_near_an_edge(x) and sy.is_near_an_edge(y))
    )
    if sx.holds(x, 0) and sy.holds(y, 0):
        return 1.0, safe
    if not (sx.holds(x, sx.context) and sy.holds(y, sy.context)):
        return 0.0, safe
    dx, dy = sx.distance(x, o["use_subpixel_offset"]), sy.distance(y, o["use_subpixel_offset"])
    sigma = o["base_sigma"]
    sigma_x, sigma_y = sigma if isinstance(sigma, tuple | list) else (sigma, sigma)
    size = math.sqrt(sx.length * sy.length)
    k = _factor(size, o)
    if o["temperature"] == "small_gain" and abs(size - o["small_target_threshold"]) < MARGIN:
        safe = False
    u = v = 0.0
    if o["use_anisotropic_gaussian"]:
        u = _ratio(dx, max(sx.context, o["min_radius"]))
        v = _ratio(dy, max(sy.context, o["min_radius"]))
        d = max(u, v)
        power = u * u / (2 * (k * sigma_x) ** 2) + v * v / (2 * (k * sigma_y) ** 2)
    else:
        diagonal = math.sqrt(sx.context**2 + sy.context**2)
        d = _ratio(math.sqrt(dx * dx + dy * dy), max(diagonal, o["min_radius"]))
        power = d * d / (2 * (k * sigma_x) ** 2)
    safe = safe and abs(d - 1) >= MARGIN
    if d >= 1:
        return 0.0, safe
    return (math.exp(-power) if o["decay_type"] == "gaussian" else 1 - d), safe


def masks(
    boxes: Sequence[Any],
    image_sizes: Sequence[tuple[int, int]],
    feature_map: tuple[int, int],
    options: Mapping[str, Any],
) -> Answer:
    """The answer for a batch; boxes and sizes are given per image."""
    o = IMPROVED | dict(options)
    h, w = feature_map
    py, px = min(o["patch_size"], h), min(o["patch_size"], w)
    rows, columns = math.ceil(h / py), math.ceil(w / px)
    shape = (len(boxes), rows, columns)
    answer = Answer(np.zeros(shape), np.full(shape, -1), np.ones(shape, bool), np.ones(shape, bool))
    for image, (of_image, (height, width)) in enumerate(zip(boxes, image_sizes, strict=True)):
        corners = [[float(np.float32(value)) for value in box] for box in of_image]
        sides = [
            (_side(x1, x2, width / w, w, o), _side(y1, y2, height / h, h, o))
            for x1, y1, x2, y2 in corners
        ]
        for r in range(rows):
            for c in range(columns):
                x, y = (c + 0.5) * px, (r + 0.5) * py
                found = [box_value(x, y, sx, sy, o) for sx, sy in sides]
                at = (image, r, c)
                values = [value for value, _ in found]
                answer.safe[at] = all(safe for _, safe in found)
                answer.mask[at] = _merge(values, o["merge"])
                best = max(values, default=0.0)
                if best > 0:
                    answer.owner[at] = values.index(best)
                answer.owner_safe[at] = answer.safe[at] and _owner_is_clear(values, best, corners)
    return answer


def takes_part(box: Sequence[float], options: Mapping[str, Any], level: int) -> bool:
    """Whether a box has a part in a level by its longer side in pixels."""
    if options.get("level_ranges") is None:
        return True
    low, high = options["level_ranges"][level]
    x1, y1, x2, y2 = (float(np.float32(value)) for value in box)
    return bool(low < max(x2 - x1, y2 - y1) <= high)


class Weights(NamedTuple):
    """Weights of the levels, and where float32 must agree with them."""

    values: list[npt.NDArray[np.float64]]
    safe: list[npt.NDArray[np.bool_]]


def weights(
    boxes: Sequence[Any],
    image_sizes: Sequence[tuple[int, int]],
    feature_maps: Sequence[tuple[int, int]],
    options: Mapping[str, Any],
    balance: str = "patch",
    background_weight: float = 1.0,
    valid_region: Sequence[Sequence[float]] | None = None,
    ignore: Sequence[Any] | None = None,
    box_weights: Sequence[Sequence[float]] | None = None,
) -> Weights:
    """The weights of each level: what step 1 leaves, then the background, then each owner's."""
    o = IMPROVED | dict(options)
    found = Weights([], [])
    owned: dict[tuple[int, int], list[tuple[int, Any]]] = {}
    for level, (h, w) in enumerate(feature_maps):
        # Boxes without a part stay in their places, far away, so that owners keep their numbers.
        parts = [
            [box if takes_part(box, o, level) else (-9e6, -9e6, -9e6, -9e6) for box in of_image]
            for of_image in boxes
        ]
        answer = masks(parts, image_sizes, (h, w), o)
        of_level = np.full(answer.mask.shape, float(background_weight))
        safe = answer.owner_safe if o["merge"] == "max" else answer.safe
        py, px = min(o["patch_size"], h), min(o["patch_size"], w)
        for at in np.ndindex(*of_level.shape):
            image, r, c = at
            height, width = image_sizes[image]
            centre, strides = ((c + 0.5) * px, (r + 0.5) * py), (width / w, height / h)
            regions = [] if valid_region is None else [valid_region[image]]
            ignored = [] if ignore is None else ignore[image]
            is_core = any(_in_core(centre, box, strides, (w, h), o) for box in parts[image])
            safe[at] &= not any(_is_near(centre, box, strides) for box in [*regions, *ignored])
            if not all(_inside(centre, region, strides) for region in regions) or (
                any(_inside(centre, box, strides) for box in ignored) and not is_core
            ):
                of_level[at] = 0
            elif answer.mask[at] > 0:
                of_level[at] = 1
                if o["merge"] == "max":
                    owned.setdefault((image, int(answer.owner[at])), []).append((level, at))
        found.values.append(of_level)
        found.safe.append(safe)
    total = sum(map(len, owned.values()))
    for (image, box), places in owned.items():
        own = 1.0 if box_weights is None else float(np.float32(box_weights[image][box]))
        if balance == "object":
            own *= total / (len(owned) * len(places))
        for level, at in places:
            found.values[level][at] = own
    return found


def _in_cells(box: Sequence[float], strides: tuple[float, float]) -> list[float]:
    x1, y1, x2, y2 = (float(np.float32(value)) for value in box)
    return [x1 / strides[0], y1 / strides[1], x2 / strides[0], y2 / strides[1]]


def _inside(
    centre: tuple[float, float], box: Sequence[float], strides: tuple[float, float]
) -> bool:
    x1, y1, x2, y2 = _in_cells(box, strides)
    return x1 <= centre[0] <= x2 and y1 <= centre[1] <= y2


def _is_near(
    centre: tuple[float, float], box: Sequence[float], strides: tuple[float, float]
) -> bool:
    x1, y1, x2, y2 = _in_cells(box, strides)
    edges = (centre[0], x1), (centre[0], x2), (centre[1], y1), (centre[1], y2)
    return any(abs(at - edge) < MARGIN for at, edge in edges)


def _in_core(
    centre: tuple[float, float],
    box: Sequence[float],
    strides: tuple[float, float],
    cells: tuple[int, int],
    o: Mapping[str, Any],
) -> bool:
    x1, y1, x2, y2 = (float(np.float32(value)) for value in box)
    along_x = _side(x1, x2, strides[0], cells[0], o)
    along_y = _side(y1, y2, strides[1], cells[1], o)
    return along_x.holds(centre[0], 0) and along_y.holds(centre[1], 0)


def _merge(values: list[float], merge: str) -> float:
    if merge == "max":
        return max(values, default=0.0)
    return sum(values) if merge == "sum" else min(sum(values), 1.0)


def _owner_is_clear(values: list[float], best: float, corners: list[list[float]]) -> bool:
    if best in (0.0, 1.0):
        # A value that rounds to 1 ties with the cores.
        return all(value == best or value < best - MARGIN for value in values)
    if best < 1e-30:  # may be 0 in float32
        return False
    first = corners[values.index(best)]
    rivals = [box for box, value in zip(corners, values, strict=True) if value > best * (1 - 1e-5)]
    return all(box == first for box in rivals)


def loss(
    kind: str,
    logit: float,
    target: float,
    alpha: float = 2.0,
    beta: float = 4.0,
    gamma: float = 2.0,
    weight: float = 0.75,
) -> float:
    """Loss of one patch."""
    # log sigma(s) = -log(1 + e^-s), written so that nothing overflows.
    log_p = min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))
    log_q = min(-logit, 0.0) - math.log1p(math.exp(-abs(logit)))
    p, q = math.exp(log_p), math.exp(log_q)
    # 1 - y - q is p - y without its rounding near p = 1.
    difference = (1 - target) - q if logit > 0 else p - target
    bce = -(target * log_p + (1 - target) * log_q)
    match kind:
        case "mse":
            return difference**2
        case "bce":
            return bce
        case "focal":
            return -(q**alpha) * log_p * target - p**beta * log_q * (1 - target)
        case "cornernet":
            if target == 1:
                return -(q**alpha) * log_p
            return -((1 - target) ** beta) * p**alpha * log_q
        case "quality_focal":
            return abs(difference) ** gamma * bce
        case "varifocal":
            return target * bce if target > 0 else -weight * p**gamma * log_q
        case "soft_focal":
            # 1 - q of the formula, q being p y + (1 - p)(1 - y); p and 1 - p add up to 1.
            return weight * (p * (1 - target) + q * target) ** gamma * bce
    raise ValueError(kind)
