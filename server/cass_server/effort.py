"""About how long a request computes on the CPU: what is quick stays on the event loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cass_core.loss_inputs import LossInputs
from cass_core.masks import MaskInputs
from cass_core.specs import MaskSpec

# Nanoseconds that err on the safe side. Of a patch: to merge a box into it in the common case and
# in the slowest, and to take its loss; setting it takes one.
_MERGE, _MERGE_SLOWLY = 0.5, 3.0
_LOSS, _LOSS_FLOAT64 = 10, 32
# Of a box: its place on a map, and an exponential for each row and column that it reaches.
_PLACE, _EXPONENTIAL = 50.0, 12.0
# A closer look at the boxes takes 15 us.
_WORTH_A_LOOK = 500_000


class MaskEffort:
    """Of requests that ask for the same masks.

    Args:
        shapes: ``(B, n_y, n_x)`` of the mask of each feature map.
        spec: the options.
        return_owner: whether owner maps are asked for.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], spec: MaskSpec, return_owner: bool
    ) -> None:
        is_common = spec.decay_type == "gaussian" and spec.merge == "max" and not return_owner
        self._merge = _MERGE if is_common else _MERGE_SLOWLY
        self._grids = [(rows, columns) for _, rows, columns in shapes]
        self._setting = sum(images * rows * columns for images, rows, columns in shapes)
        patches = sum(rows * columns for rows, columns in self._grids)
        sides = sum(rows + columns for rows, columns in self._grids)
        self._placing = len(shapes) * _PLACE
        self._covering = self._merge * patches + _EXPONENTIAL * sides

    def of(self, inputs: MaskInputs) -> int:
        """Nanoseconds of one core, at most: of boxes that cover their images, or of these boxes."""
        boxes = inputs.boxes.num_boxes
        least = self._setting + boxes * self._placing
        most = least + boxes * self._covering
        if most > _WORTH_A_LOOK > least:
            touched, reached = _reached(inputs, self._grids)
            most = min(most, least + self._merge * touched + _EXPONENTIAL * reached)
        return int(most)


def mask_effort(inputs: MaskInputs) -> int:
    """As `MaskEffort` of one request."""
    return MaskEffort(inputs.shapes(), inputs.spec, inputs.return_owner).of(inputs)


def loss_effort(inputs: LossInputs) -> int:
    """Nanoseconds of one core, at most, with the mask if there is one to make."""
    each = _LOSS_FLOAT64 if inputs.logits_dtype == "float64" else _LOSS
    making = 0 if inputs.mask is None else mask_effort(inputs.mask)
    return making + each * inputs.logits.size


def _reached(inputs: MaskInputs, grids: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Patches, and rows and columns, that the boxes reach, were their images without edges."""
    boxes, spec, sizes = inputs.boxes, inputs.spec, np.asarray(inputs.sizes)
    x1, y1, x2, y2 = np.array(np.asarray(boxes.xyxy).T, np.float64, order="C")
    height, width = sizes[0] if len(sizes) == 1 else np.repeat(sizes, boxes.counts, axis=0).T
    # As shares of the image.
    widths, heights = (x2 - x1) / width, (y2 - y1) / height
    area, wide, tall = float(widths @ heights), float(widths.sum()), float(heights.sum())
    spread = 1 + 2 * spec.expansion_ratio
    # A patch has at least one cell; and it may be reached by less than its whole side.
    more = spec.min_size * spread + 1
    touched = sides = 0.0
    for rows, columns in grids:
        across, down = spread * columns, spread * rows
        reached = across * wide + down * tall
        touched += across * down * area + more * (reached + more * boxes.num_boxes)
        sides += reached + 2 * more * boxes.num_boxes
    return touched, sides
