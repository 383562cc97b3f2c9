"""About how long a request computes on the CPU: what is quick stays on the event loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cass_core.loss_inputs import LossInputs
from cass_core.masks import MaskInputs

# Nanoseconds that err on the safe side. Of a patch: to merge a box into it in the common case and
# in the slowest, and to take its loss; setting it takes one.
_MERGE, _MERGE_SLOWLY = 0.5, 3.0
_LOSS, _LOSS_FLOAT64 = 10, 32
# Of a box: its place on a map, and an exponential for each row and column that it reaches.
_PLACE, _EXPONENTIAL = 50.0, 12.0
# A closer look at the boxes takes 15 us.
_WORTH_A_LOOK = 500_000


def mask_effort(inputs: MaskInputs) -> int:
    """Nanoseconds of one core, at most: of boxes that cover their images, or of these boxes."""
    spec, boxes = inputs.spec, inputs.boxes
    is_common = spec.decay_type == "gaussian" and spec.merge == "max" and not inputs.return_owner
    merge = _MERGE if is_common else _MERGE_SLOWLY
    grids = [(rows, columns) for _, rows, columns in inputs.shapes()]
    patches = sides = 0
    for rows, columns in grids:
        patches += rows * columns
        sides += rows + columns
    least = boxes.num_images * patches + boxes.num_boxes * len(grids) * _PLACE
    most = least + boxes.num_boxes * (merge * patches + _EXPONENTIAL * sides)
    if most > _WORTH_A_LOOK > least:
        touched, reached = _reached(inputs, grids)
        most = min(most, least + merge * touched + _EXPONENTIAL * reached)
    return int(most)


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
