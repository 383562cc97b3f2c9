"""Boxes that say what their numbers mean, at every door that takes boxes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cass_core import (
    BoxBatch,
    CassLoss,
    InputWarning,
    InvalidRequest,
    MaskSpec,
    boxes_without_patch,
    generate_mask,
)
from cass_core.plotting.figures import plot_mask
from tests.support.bounding_boxes import BoundingBoxes, like_torchvision

SIZE, CELLS = (736, 1280), (46, 80)
XYXY = [[600, 300, 620, 360], [0, 8, 33, 40]]
AS = {
    "XYXY": XYXY,
    "XYWH": [[600, 300, 20, 60], [0, 8, 33, 32]],
    "CXCYWH": [[610, 330, 20, 60], [16.5, 24, 33, 32]],
}


def of_torchvision(values: Any, name: str, canvas: tuple[int, int] = SIZE) -> torch.Tensor:
    try:
        from torchvision import tv_tensors
    except (ImportError, RuntimeError) as error:  # or a build for another torch
        pytest.skip(f"needs torchvision: {error}")
    boxes: torch.Tensor = tv_tensors.BoundingBoxes(values, format=name, canvas_size=canvas)
    return boxes


made = pytest.mark.parametrize("make", [like_torchvision, of_torchvision])
Make = Callable[..., torch.Tensor]
LOGITS = torch.linspace(-3, 3, 46 * 80).reshape(1, *CELLS)

DOORS: dict[str, Callable[[Any], Any]] = {
    "generate_mask": lambda boxes: generate_mask([boxes], SIZE, CELLS).tolist(),
    "one of a list": lambda boxes: generate_mask(
        [None, boxes, XYXY], [SIZE] * 3, [CELLS, (23, 40)]
    )[1].tolist(),
    "BoxBatch": lambda boxes: BoxBatch(boxes, np.array([1, 1])).xyxy.tolist(),
    "CassLoss": lambda boxes: CassLoss()(LOGITS, [boxes], SIZE, CELLS).item(),
    "boxes_without_patch": lambda boxes: boxes_without_patch(
        [boxes], SIZE, (23, 40), MaskSpec(patch_size=4)
    ).tolist(),
    "plot": lambda boxes: [
        patch.get_bbox().extents.tolist()
        for patch in plot_mask(None, boxes, np.eye(4), image_size=SIZE).axes[0].patches
    ],
}


@made
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", AS)
def test_converted(door: str, name: str, make: Make) -> None:
    found, expected = (DOORS[door](boxes) for boxes in (make(AS[name], name), torch.tensor(XYXY)))
    assert found == expected


@made
def test_batches_are_plain_tensors(make: Make) -> None:
    batch = BoxBatch.from_list([make(AS["CXCYWH"], "CXCYWH"), make(XYXY, "XYXY")])
    assert type(batch.xyxy) is torch.Tensor
    assert batch.xyxy.tolist() == XYXY * 2


def test_images_of_one_tensor() -> None:
    """torch.stack of such boxes, where operations are set to keep their class."""
    stacked = like_torchvision([AS["XYWH"], AS["XYWH"]], "XYWH")
    assert BoxBatch.from_list(stacked).xyxy.tolist() == XYXY * 2


@made
def test_halves_of_whole_numbers(make: Make) -> None:
    batch = BoxBatch.from_list([make([[5, 5, 3, 3]], "CXCYWH")])
    assert batch.xyxy.tolist() == [[3.5, 3.5, 6.5, 6.5]]


@pytest.mark.parametrize(
    ("dtype", "xywh", "xyxy"),
    [
        (torch.uint8, [200, 180, 100, 90], [200, 180, 300, 270]),
        (torch.bfloat16, [600, 300, 33, 60], [600, 300, 633, 360]),
    ],
)
def test_sides_that_the_dtype_of_the_boxes_cannot_hold(
    dtype: torch.dtype, xywh: list[int], xyxy: list[int]
) -> None:
    boxes = like_torchvision(torch.tensor([xywh], dtype=dtype), "XYWH")
    assert BoxBatch.from_list([boxes]).xyxy.tolist() == [xyxy]


def test_rotated_boxes_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        BoxBatch.from_list([None, like_torchvision([[5.0, 5, 3, 3, 30]], "CXCYWHR")])
    assert str(caught.value) == (
        "boxes[1]: must be of the format XYXY, XYWH or CXCYWH, got CXCYWHR"
    )


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^boxes\[0\]\[0\].x2: is smaller than x1"):
        BoxBatch.from_list([like_torchvision([[5, 5, -1, 3]], "XYWH")])


@made
@pytest.mark.parametrize("door", ["generate_mask", "CassLoss", "plot"])
@pytest.mark.parametrize("canvas", [(1280, 736), (737, 1280), (736, 1281)])
def test_a_canvas_larger_than_the_image_is_refused(
    canvas: tuple[int, int], door: str, make: Make
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DOORS[door](make(XYXY, "XYXY", canvas))
    assert str(caught.value) == (
        f"image_size: is (736, 1280), the canvas_size of boxes[0] is {canvas} (H, W)"
    )


BATCHES: dict[str, Callable[[BoundingBoxes], Any]] = {
    "from_list": lambda boxes: BoxBatch.from_list([boxes, None]),
    "constructor": lambda boxes: BoxBatch(boxes, [2, 0]),
    "one tensor": lambda boxes: like_torchvision([XYXY, XYXY], "XYXY", boxes.canvas_size),
    "placed": lambda boxes: BoxBatch.from_list([boxes, None]).to("cpu"),
    "pickled": lambda boxes: pickle.loads(pickle.dumps(BoxBatch.from_list([boxes, None]))),
}


TAKERS: list[Callable[[Any], Any]] = [
    lambda boxes: generate_mask(boxes, SIZE, CELLS),
    lambda boxes: CassLoss()(LOGITS.expand(2, -1, -1), boxes, SIZE, CELLS),
]


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_the_canvas_that_a_batch_came_with(batch: str, take: Callable[[Any], Any]) -> None:
    boxes = BATCHES[batch](like_torchvision(XYXY, "XYXY", (1280, 736)))
    with pytest.raises(InvalidRequest, match=r"^image_size: is .* the canvas_size of boxes\[0\]"):
        take(boxes)


def test_the_canvas_of_boxes_on_another_device() -> None:
    batch = BoxBatch.from_list([None, like_torchvision(XYXY, "XYXY")])
    assert batch.to("meta").canvases == ((1, SIZE),)


def test_the_canvas_of_each_image() -> None:
    boxes = [None, like_torchvision(XYXY, "XYXY", (800, 1280))]
    with pytest.raises(InvalidRequest, match=r"^image_size\[1\]: is \(736, 1280\)"):
        generate_mask(boxes, [(800, 1280), SIZE], CELLS)


def test_a_canvas_smaller_than_its_padded_image(recwarn: pytest.WarningsRecorder) -> None:
    padded = generate_mask([like_torchvision(XYXY, "XYXY", (700, 1280))], SIZE, CELLS)
    assert torch.equal(padded, generate_mask([torch.tensor(XYXY)], SIZE, CELLS))
    assert not recwarn.list


def test_a_canvas_of_another_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of boxes that were resized with their image, whose first size is given."""
    monkeypatch.setattr("cass_core.checks.warn._shown", set())
    with pytest.warns(InputWarning, match="resized"):
        generate_mask([like_torchvision([[0, 8, 33, 40]], "XYXY", (368, 640))], SIZE, CELLS)
