"""What the measures know of an object: its patches, its size and its shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cass_core.grid import FeatureMap

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

SIZES = ("< 16 px", "16–32 px", "32–96 px", "≥ 96 px")
SHAPES = ("tall", "wide", "square")
# By the longer side in pixels: to which of several levels an object belongs, as FCOS assigns them.
LEVEL_RANGES = ((0.0, 64.0), (64.0, 128.0), (128.0, 1e9))  # JSON has no infinity
ELONGATED = 1.5  # the longer side against the shorter


def patch_ranges(
    xyxy: Floats, image_size: tuple[int, int], grid: FeatureMap
) -> npt.NDArray[np.int64]:
    """The patches of each object: those whose centre lies in its box.

    A side shorter than a patch counts as one patch long around the same centre, as in every
    preset's target, so that an object in the image has at least one patch. This does not depend on
    the variant that is measured.

    Args:
        xyxy: ``[M, 4]`` boxes in pixels.
        image_size: (H, W) in pixels.
        grid: (n_y, n_x) patches.

    Returns:
        ``[M, 4]`` first row, end row, first column, end column.

    Example:
        >>> patch_ranges(np.array([[8.0, 8, 24, 15]]), (32, 32), (4, 4)).tolist()
        [[1, 2, 1, 3]]
    """
    boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
    ranges = []
    for axis in (1, 0):  # rows, then columns
        count = grid[1 - axis]
        stride = image_size[1 - axis] / count
        low, high = boxes[:, axis] / stride, boxes[:, axis + 2] / stride
        middle, half = (low + high) / 2, np.maximum(high - low, 1.0) / 2
        first = np.ceil(np.clip(middle - half, 0, count) - 0.5).astype(np.int64)
        last = np.floor(np.clip(middle + half, 0, count) - 0.5).astype(np.int64)
        # A box beyond the border has no patch; one that ends on it may reach for the next.
        ranges += [np.minimum(first, count), np.clip(last + 1, np.minimum(first, count), count)]
    return np.stack(ranges, axis=1)


def object_levels(xyxy: Floats, ranges: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """The level whose patches count for each object: that of `LEVEL_RANGES`, or the last there is.

    An object that is too thin to have a patch there belongs to a finer level.

    Args:
        xyxy: ``[M, 4]`` boxes in pixels.
        ranges: of each level, as of `patch_ranges`; finest first.

    Example:
        >>> boxes = np.array([[0.0, 0, 9, 64], [0, 0, 65, 40]])
        >>> fine, coarse = (patch_ranges(boxes, (64, 80), grid) for grid in ((8, 10), (4, 5)))
        >>> object_levels(boxes, [fine, coarse]).tolist(), object_levels(boxes, [fine]).tolist()
        ([0, 1], [0, 0])
    """
    longer = np.maximum(xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1])
    highest = [high for _, high in LEVEL_RANGES[: len(ranges) - 1]]
    levels = np.digitize(longer, highest, right=True)
    for level in range(len(ranges) - 1, 0, -1):
        r0, r1, c0, c1 = ranges[level].T
        levels[(levels == level) & ((r0 == r1) | (c0 == c1))] -= 1
    return levels


def size_groups(xyxy: Floats) -> npt.NDArray[np.int64]:
    """Index into `SIZES` by the square root of the area in pixels.

    Example:
        >>> size_groups(np.array([[0, 0, 4, 4], [0, 0, 40, 40]])).tolist()
        [0, 2]
    """
    side = np.sqrt((xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]))
    return np.digitize(side, [16, 32, 96])


def shape_groups(xyxy: Floats) -> npt.NDArray[np.int64]:
    """Index into `SHAPES`: taller than 1.5 : 1, wider than it, or neither.

    Example:
        >>> shape_groups(np.array([[0, 0, 4, 9], [0, 0, 9, 4], [0, 0, 4, 5]])).tolist()
        [0, 1, 2]
    """
    width, height = xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1]
    return np.where(height > ELONGATED * width, 0, np.where(width > ELONGATED * height, 1, 2))


def class_group(name: str) -> str:
    """The name of a class's group, which is no name of another group whatever the class's is.

    Example:
        >>> class_group("tall")
        'class tall'
    """
    return f"class {name}"


def groups(
    xyxy: Floats, labels: npt.NDArray[np.int64], class_names: tuple[str, ...]
) -> Iterator[tuple[str, Bools]]:
    """Names of the groups that hold any object, and which objects are in each ``[M]``.

    Classes are under their `class_group`.
    """
    yield "all", np.ones(len(xyxy), np.bool_)
    for names, of in (
        (SIZES, size_groups(xyxy)),
        (SHAPES, shape_groups(xyxy)),
        (tuple(map(class_group, class_names)), labels),
    ):
        for i, name in enumerate(names):
            members = of == i
            if members.any():
                yield name, members
