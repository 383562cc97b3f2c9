"""What a GPU can do at best: the kernels' machine code beside what a card has of everything.

A kernel needs at least the time that its bytes take by way of the device's memory, that its
instructions take to be issued, and that those of float64 take in the units for them; the longest is
its limit. What waiting for each other costs is not in it, nor starting a kernel: no card is faster,
and all are slower.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cass_core import MaskSpec
from cass_core.ops.launch import TILE
from cass_core.synthetic import street_boxes

STATIC = Path(__file__).resolve().parents[1] / "results" / "gpu_static.json"
_LANES = 32
# Each issues one instruction of a warp in a cycle.
_SCHEDULERS = 4
# Units for float64 a multiprocessor, by capability; all others have 2.
_DOUBLE_UNITS = {80: 32, 90: 64, 100: 64}


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        name: of the product.
        capability: such as 90.
        processors: multiprocessors.
        hertz: of their clock, when it is boosted.
        bytes_per_second: of its memory.
    """

    name: str
    capability: int
    processors: int
    hertz: float
    bytes_per_second: float

    def issue_seconds(self, instructions: float) -> float:
        """To issue so many instructions of warps."""
        return instructions / (self.processors * _SCHEDULERS * self.hertz)

    def double_seconds(self, instructions: float) -> float:
        """To compute so many instructions of warps in float64."""
        units = _DOUBLE_UNITS.get(self.capability, 2)
        return instructions * _LANES / (self.processors * units * self.hertz)


# By NVIDIA's data sheets; the clock by their float32 rate, of 64 (A100) or 128 units twice a cycle.
CARDS = (
    Card("A100 80 GB SXM", 80, 108, 19.5e12 / (2 * 64 * 108), 2.039e12),
    Card("H100 SXM", 90, 132, 67e12 / (2 * 128 * 132), 3.35e12),
    Card("H200 SXM", 90, 132, 67e12 / (2 * 128 * 132), 4.8e12),
    Card("RTX 5090", 120, 170, 104.8e12 / (2 * 128 * 170), 1.792e12),
)


class Case(NamedTuple):
    """Work of a kernel.

    Attributes:
        kernel: its name in the table of machine code.
        images, boxes: how many images, and boxes in each.
        image_size: height and width in pixels.
        cells: h and w of the feature map, whose patches have one cell.
        bytes: read and written for a patch.
    """

    kernel: str
    images: int
    boxes: int
    image_size: tuple[int, int]
    cells: tuple[int, int]
    bytes: int

    @property
    def patches(self) -> int:
        """In all."""
        return self.images * self.cells[0] * self.cells[1]


LOSS = Case("target, float32 → float32, float32", 64, 30, (2560, 2560), (320, 320), 12)
LOSS_FROM_BOXES = LOSS._replace(kernel="boxes, float32 → float32, 160 columns", bytes=8)
CASES = {
    "loss and gradient from a mask": LOSS,
    "loss and gradient from boxes": LOSS_FROM_BOXES,
}


def limits(rows: Sequence[Mapping[str, Any]], card: Card, case: Case) -> dict[str, float]:
    """Seconds that a case takes at least, by what takes them.

    Args:
        rows: of `benchmarks.core.gpu_static`.
        card: the GPU.
        case: the work.
    """
    known = [row for row in rows if row["name"] == case.kernel]
    row = max(
        (row for row in known if row["capability"] <= card.capability),
        key=lambda row: int(row["capability"]),
    )
    if not row["box"]:
        warps = case.patches / (row["patches"] * _LANES)
        instructions, doubles = warps * row["without_box"], warps * row["without_box_double"]
    else:
        reached = boxes_on_tiles(case)
        boxes, free = reached.sum(), np.count_nonzero(reached == 0)
        taken = len(reached) - free
        instructions = (
            free * row["without_box"] + taken * (row["one_box"] - row["box"]) + boxes * row["box"]
        )
        doubles = free * row["without_box_double"] + taken * row["one_box_double"]
    return {
        "memory": case.patches * case.bytes / card.bytes_per_second,
        "instructions": card.issue_seconds(float(instructions)),
        "float64": card.double_seconds(float(doubles)),
    }


def share(card: Card, case: Case) -> float:
    """Of the speed of a copy of as many bytes at the memory's full rate; at most 1."""
    found = limits(json.loads(STATIC.read_text(encoding="utf-8"))["kernels"], card, case)
    return found["memory"] / max(found.values())


def boxes_on_tiles(case: Case) -> npt.NDArray[np.int64]:
    """How many boxes reach a patch of each tile of a batch of street scenes.

    The kernels look at whole tiles, which takes in 3 % more.
    """
    spec, (h, w) = MaskSpec(), case.cells
    bottoms, rights = (
        np.minimum(np.arange(step, side + step, step), side)
        for step, side in zip(TILE, (h, w), strict=True)
    )
    scenes = street_boxes(case.images, case.boxes, image_size=case.image_size)
    scale = np.array([w / case.image_size[1], h / case.image_size[0]] * 2)
    found = []
    for boxes in scenes:
        x1, y1, x2, y2 = (boxes * scale).T
        on_x, on_y = (
            (low - reach <= end[:, None] - 0.5) & (high + reach >= start[:, None] + 0.5)
            for low, high, end, start, reach in (
                (x1, x2, rights, TILE[1] * np.arange(len(rights)), _reach(x1, x2, spec)),
                (y1, y2, bottoms, TILE[0] * np.arange(len(bottoms)), _reach(y1, y2, spec)),
            )
        )
        found.append(on_y.astype(np.int64) @ on_x.T.astype(np.int64))
    return np.stack(found).ravel()


def _reach(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], spec: MaskSpec
) -> npt.NDArray[np.float64]:
    return spec.expansion_ratio * np.maximum(high - low, spec.min_size)
