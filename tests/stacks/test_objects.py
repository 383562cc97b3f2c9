"""The objects of supervision, mmengine and albumentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cass_client import CassClient
from cass_client.torch import MaskCollate, MaskTargets
from tests.stacks.support.scenes import (
    SIZE,
    STRIDES,
    check_masks,
    check_weights,
    from_shares,
    sample,
    scene,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOCAL = CassClient("local:")
CORNERS = [scene(i).boxes for i in range(4)]
MISSING = "is not installed: make stacks-test"


def columns(samples: Any) -> Any:
    return tuple(map(list, zip(*samples, strict=True)))


def test_supervision() -> None:
    sv = pytest.importorskip("supervision", reason=f"supervision {MISSING}")
    samples = [
        (scene(i).image, sv.Detections(xyxy=boxes, class_id=np.zeros(len(boxes), int)))
        for i, boxes in enumerate(CORNERS)
    ]
    samples.append((scene(4).image, sv.Detections.empty()))
    *_, masks = MaskCollate(LOCAL, strides=STRIDES, collate_fn=columns)(samples)
    check_masks(masks, [*CORNERS, []], SIZE)


def test_mmengine() -> None:
    """As mmdet's `pseudo_collate` leaves a batch, whose images are of one size here."""
    structures = pytest.importorskip("mmengine.structures", reason=f"mmengine {MISSING}")
    collate = pytest.importorskip("mmengine.dataset", reason=f"mmengine {MISSING}").pseudo_collate
    samples = []
    for i, boxes in enumerate(CORNERS):
        found = structures.BaseDataElement(metainfo={"img_shape": SIZE})
        found.gt_instances = structures.InstanceData(
            bboxes=torch.from_numpy(boxes), labels=torch.zeros(len(boxes))
        )
        found.ignored_instances = structures.InstanceData(
            bboxes=torch.tensor([[1.0, 1, 9, 9]]), labels=torch.zeros(1)
        )
        samples.append({"inputs": sample(i)[0], "data_samples": found})
    for after in (False, True):
        options: Any = {"collate_fn": collate, "after": after, "return_weights": True}
        made = MaskCollate(LOCAL, strides=STRIDES, **options)(samples)
        check_masks(made["masks"], CORNERS, SIZE)
        check_weights(made["weights"], CORNERS, SIZE, ignore=[[(1, 1, 9, 9)]] * len(CORNERS))
        assert made["data_samples"][0] is samples[0]["data_samples"]


FORMATS: dict[str, tuple[dict[str, Any], Any]] = {
    "pascal_voc": ({"box_format": "xyxy"}, lambda b: b),
    "coco": ({"box_format": "xywh"}, lambda b: [[x, y, x + w, y + h] for x, y, w, h in b]),
    "yolo": ({"box_format": "cxcywh", "normalized": True}, lambda b: from_shares(b, (48, 80))),
    "albumentations": (
        {"box_format": "xyxy", "normalized": True},
        lambda b: np.reshape(b, (-1, 4)) * [80, 48, 80, 48],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["list", "labels in the rows", "array"])
def test_albumentations(name: str, kind: str) -> None:
    library = pytest.importorskip("albumentations", reason=f"albumentations {MISSING}")
    options, corners_of = FORMATS[name]
    fields = ["numbers"] if kind != "labels in the rows" else []
    # Boxes come in as corners, and are then what the format says.
    to_format = library.core.bbox_utils.convert_bboxes_from_albumentations
    transform = library.Compose(
        [library.RandomCrop(48, 80), library.HorizontalFlip(p=0.5)],
        bbox_params=library.BboxParams(format=name, label_fields=fields, min_visibility=0.1),
        seed=5,
    )
    samples, corners = [], []
    for i, boxes in enumerate(CORNERS):
        shares = boxes / [96, 64, 96, 64]
        given = to_format(shares, name, SIZE) if name != "albumentations" else shares
        rows: Any = given if kind == "array" else [tuple(row) for row in given.tolist()]
        numbers = list(range(len(rows)))
        if not fields:
            rows = [(*row, number) for row, number in zip(rows, numbers, strict=True)]
        more = {"numbers": numbers} if fields else {}
        made = transform(image=scene(i).image, bboxes=rows, **more)
        samples.append({"image": made["image"], "bboxes": made["bboxes"]})
        plain = [list(row)[:4] for row in made["bboxes"]]
        corners.append(corners_of(plain) if plain else [])
    made = MaskCollate(LOCAL, strides=STRIDES, **options)(samples)
    check_masks(made["masks"], corners, (48, 80))


def test_torchdata() -> None:
    """A loader that is stopped and goes on where it was."""
    name = "torchdata.stateful_dataloader"
    loaders = pytest.importorskip(name, reason=f"torchdata {MISSING}")
    samples = [sample(i) for i in range(6)]

    def loader() -> Any:
        return loaders.StatefulDataLoader(
            samples, 2, collate_fn=MaskCollate(LOCAL, strides=STRIDES), num_workers=0
        )

    first = loader()
    batches = iter(first)
    check_masks(next(batches)[-1], CORNERS[:2], SIZE)
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    left = list(MaskTargets(LOCAL, strides=8).wrap(second, ahead=0))
    assert len(left) == 2
    for start, (*_, masks, again) in zip((2, 4), left, strict=True):
        boxes = [scene(i).boxes for i in (start, start + 1)]
        check_masks(masks, boxes, SIZE)
        check_masks(again, boxes, SIZE, 8)
