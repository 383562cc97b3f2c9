"""Boxes that say their format, as torchvision's do, through every door of the client."""

from __future__ import annotations

import asyncio
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cass_client import (
    AsyncCassClient,
    BoxBatch,
    CassClient,
    InputWarning,
    InvalidRequest,
    MaskRequest,
)
from cass_client.torch import MaskCollate, RemoteCassLoss
from cass_core import generate_mask
from cass_core.checks import warn
from tests.support.bounding_boxes import like_torchvision
from tests.support.compare import same

LOCAL = CassClient("local:")
SIZE, MAP = (736, 1280), (23, 40)
CORNERS = [[600.0, 300.0, 620.0, 360.0], [10.0, 20.0, 200.0, 300.0]]
FORMS = {
    "XYXY": CORNERS,
    "XYWH": [[600.0, 300.0, 20.0, 60.0], [10.0, 20.0, 190.0, 280.0]],
    "CXCYWH": [[610.0, 330.0, 20.0, 60.0], [105.0, 160.0, 190.0, 280.0]],
}


def boxes_of(form: str, canvas_size: tuple[int, int] = SIZE) -> Tensor:
    return like_torchvision(FORMS.get(form, CORNERS), form, canvas_size)


def by_loop(boxes: Any) -> Any:
    return asyncio.run(AsyncCassClient("local:").generate_mask([boxes], SIZE, MAP))


def by_collate(sample: Callable[[Any], Any], **options: Any) -> Callable[[Any], Any]:
    def collate(boxes: Any) -> Any:
        made = MaskCollate(LOCAL, MAP, collate_fn=lambda _: {}, **options)([sample(boxes)])["masks"]
        assert type(made) is Tensor
        return made

    return collate


IMAGE = torch.zeros(3, *SIZE)
DOORS: dict[str, Callable[[Any], Any]] = {
    "call": lambda boxes: LOCAL.generate_mask([boxes], SIZE, MAP),
    "packed": lambda boxes: LOCAL.generate_mask(BoxBatch.from_list([boxes]), SIZE, MAP),
    "future": lambda boxes: LOCAL.generate_mask_future([boxes], SIZE, MAP).result(60),
    "packed future": lambda boxes: LOCAL.generate_mask_future(
        BoxBatch.from_list([boxes]), SIZE, MAP
    ).result(60),
    "stream": lambda boxes: next(LOCAL.stream_masks([MaskRequest([boxes], SIZE, MAP)])),
    "loop": by_loop,
    "target": by_collate(lambda boxes: (IMAGE, {"boxes": boxes})),
    "boxes as target": by_collate(lambda boxes: (IMAGE, boxes)),
    "dict": by_collate(lambda boxes: {"image": IMAGE, "boxes": boxes}),
    "function": by_collate(lambda boxes: boxes, boxes=lambda boxes: (boxes, SIZE)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_masks(door: str, form: str) -> None:
    expected = generate_mask([torch.tensor(CORNERS)], SIZE, MAP)
    same(DOORS[door](boxes_of(form)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_masks_without_crowds(form: str) -> None:
    by_target = by_collate(lambda boxes: (IMAGE, {"boxes": boxes, "iscrowd": torch.tensor([1, 0])}))
    same(by_target(boxes_of(form)), generate_mask([torch.tensor(CORNERS[1:])], SIZE, MAP))
    with pytest.raises(InvalidRequest, match=r"the canvas_size of boxes\[0\] is \(1472, 2560\)"):
        by_target(boxes_of(form, canvas_size=(1472, 2560)))


@pytest.mark.parametrize("form", FORMS)
def test_losses(form: str) -> None:
    logits = torch.linspace(-1, 1, 23 * 40).reshape(1, *MAP)
    expected, found = (
        RemoteCassLoss(LOCAL)(logits, [boxes], SIZE, MAP)
        for boxes in (torch.tensor(CORNERS), boxes_of(form))
    )
    same(found, expected)


@pytest.mark.parametrize("door", DOORS)
def test_rotated_boxes_are_refused(door: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^boxes\[0\]: must be of the format XYXY, XYWH or"):
        DOORS[door](boxes_of("XYWHR"))


@pytest.mark.parametrize("door", DOORS)
def test_boxes_of_a_larger_image_are_refused(door: str) -> None:
    """Such as an image that was resized without its boxes."""
    boxes = boxes_of("XYXY", canvas_size=(1472, 2560))
    with pytest.raises(InvalidRequest, match=r"the canvas_size of boxes\[0\] is \(1472, 2560\)"):
        DOORS[door](boxes)


def warnings_of(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a process is warned of that makes a call twice."""
    monkeypatch.setattr(warn, "_shown", set())
    monkeypatch.setattr(warn, "_calls", itertools.count())  # the first ones are all looked at
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            call()
    assert all(warning.category is InputWarning for warning in caught)
    return [str(warning.message) for warning in caught]


LOADERS = ("target", "boxes as target", "dict", "function")


@pytest.mark.parametrize("door", [door for door in DOORS if door not in LOADERS])
def test_normalised_boxes_are_warned_of(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By loaders they are refused; see test_box_formats."""
    boxes = torch.tensor(CORNERS) / torch.tensor([1280, 736, 1280, 736])
    (said,) = warnings_of(lambda: DOORS[door](boxes), monkeypatch)
    assert "normalised" in said


def test_remote_calls_warn_as_local_ones(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = ([CORNERS], (1280, 736), MAP)
    with CassClient(address, timeout=60) as client:
        remote = warnings_of(lambda: client.generate_mask(*swapped), monkeypatch)
    assert remote
    assert remote == warnings_of(lambda: generate_mask(*swapped), monkeypatch)
