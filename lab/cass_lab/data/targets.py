"""What a target changes before any training: how many patches, of which objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cass_core.grid import FeatureMap
from cass_core.masks import generate_mask
from cass_core.specs import MaskSpec
from cass_lab.data.dataset import Dataset
from cass_lab.data.objects import SIZES, size_groups

# What a target stored as uint8 can tell apart.
_CHANGED = 1 / 255


@dataclass(frozen=True, slots=True)
class TargetChange:
    """How a target differs from the baseline's, on the patches that either gives a value.

    Attributes:
        changed: share of those patches whose value differs, by the size group of the object that
            gives it; NaN where there is no such patch. "all" comes first.
        mean_change: mean of the absolute difference over the changed ones.
        mass: sum of the target over the sum of the baseline's.
    """

    changed: dict[str, float]
    mean_change: float
    mass: float


def target_change(data: Dataset, stride: int, baseline: MaskSpec, spec: MaskSpec) -> TargetChange:
    """Compare two targets on all images.

    A patch counts for the object that gave it its value in the new target or, if that is 0 or is
    a sum, in the baseline's.

    Args:
        data: images and boxes.
        stride: pixels of a cell.
        baseline: of ``merge="max"``.
        spec: what to compare with it.
    """
    grid = _grid(data, stride)
    boxes = data.boxes()
    before, owner = generate_mask(boxes, data.image_size, grid, baseline, return_owner=True)
    if spec.merge == "max":
        after, new = generate_mask(boxes, data.image_size, grid, spec, return_owner=True)
        owner = np.where(new >= 0, new, owner)
    else:
        after = generate_mask(boxes, data.image_size, grid, spec)
    image, row, column = np.nonzero(owner >= 0)
    size = size_groups(data.xyxy)[data.offsets[image] + owner[image, row, column]]
    difference = np.abs(after - before)[image, row, column]
    changed = difference > _CHANGED
    shares = {"all": _share(changed)}
    shares |= {name: _share(changed[size == i]) for i, name in enumerate(SIZES)}
    return TargetChange(
        shares,
        float(difference[changed].mean()) if changed.any() else 0.0,
        float(after.sum(dtype=np.float64) / before.sum(dtype=np.float64)),
    )


FACTS = ("cut", "at the border", "outside", "thin band", "no context")


def box_facts(data: Dataset, stride: int, spec: MaskSpec) -> dict[str, tuple[int, list[float]]]:
    """Facts of all boxes and of those of each size group that has any.

    Args:
        data: images and boxes.
        stride: pixels of a cell.
        spec: the target whose band is looked at, of ``merge="max"``.

    Returns:
        The number of objects and the shares of `FACTS` among them: those that reach beyond the
        image once grown to `MaskSpec.min_size`; those that reach to the border or beyond; those
        that have nothing in the image (sub-pixel anchoring concerns no others: what the border
        cuts off a box lies where no patch is); those whose band of context is narrower than a patch
        on every side; those that have no patch of context.
    """
    grid = _grid(data, stride)
    limit = np.array(grid[::-1], np.float64)
    low = data.xyxy[:, :2].astype(np.float64) / stride
    high = data.xyxy[:, 2:].astype(np.float64) / stride
    at_border = np.any((low <= 0) | (high >= limit), axis=1)
    middle, side = (low + high) / 2, np.maximum(high - low, spec.min_size)
    outside = np.any((middle + side / 2 < 0) | (middle - side / 2 > limit), axis=1)
    cut = np.any((middle - side / 2 < 0) | (middle + side / 2 > limit), axis=1)
    thin = np.all(side * spec.expansion_ratio < 1, axis=1)
    # Each box on an image of its own, for a neighbour may cover its band.
    alone = (generate_mask([[box]], data.image_size, grid, spec) for box in data.xyxy)
    band = np.array([((mask > 0) & (mask < 1)).any() for mask in alone], np.bool_)
    size = size_groups(data.xyxy)
    members = {"all": np.ones(len(size), np.bool_)}
    members |= {name: size == i for i, name in enumerate(SIZES)}
    facts = (cut, at_border, outside, thin, ~band)
    return {
        name: (int(of.sum()), [_share(fact[of]) for fact in facts])
        for name, of in members.items()
        if of.any()
    }


def _grid(data: Dataset, stride: int) -> FeatureMap:
    return data.image_size[0] // stride, data.image_size[1] // stride


def _share(of: npt.NDArray[np.bool_]) -> float:
    return float(of.mean()) if of.size else float("nan")
