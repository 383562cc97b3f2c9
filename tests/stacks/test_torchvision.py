"""torchvision's detection transforms and its wrapped COCO set, with boxes in any format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cass_client import CassClient, InvalidRequest
from cass_client.torch import MaskCollate, MaskTargets
from tests.stacks.support.scenes import (
    STRIDES,
    annotations,
    check_masks,
    check_weights,
    scene,
)

pytest.importorskip("torchvision", reason="torchvision is not installed: make stacks-test")

from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOCAL = CassClient("local:")
SIZE = (64, 80)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO set of eight drawn scenes."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(8)]
    for i in range(8):
        Image.fromarray(scene(i).image).save(tmp_path / f"{i}.png")
    boxes = [a for i in range(8) for a in annotations(i)]
    content = {
        "images": images,
        "annotations": [{**a, "id": i} for i, a in enumerate(boxes)],
        "categories": [{"id": i, "name": str(i)} for i in range(8)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def augmented(box_format: str) -> Any:
    return v2.Compose([
        v2.ToImage(),
        v2.RandomZoomOut(fill=0, p=0.5),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(),
        v2.Resize(SIZE),
        v2.ToDtype(torch.float32, scale=True),
        v2.ConvertBoundingBoxFormat(box_format),
    ])  # fmt: skip


@pytest.mark.parametrize("box_format", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize("after", [False, True])
def test_transforms(folder: Path, box_format: str, after: bool) -> None:
    torch.manual_seed(3)
    data = wrap_dataset_for_transforms_v2(
        CocoDetection(
            str(folder), str(folder / "instances.json"), transforms=augmented(box_format)
        ),
        target_keys=["boxes", "labels"],
    )
    assert len(data) == 8
    loader = torch.utils.data.DataLoader(
        data,
        4,
        collate_fn=MaskCollate(
            LOCAL, strides=STRIDES, collate_fn=lambda s: tuple(zip(*s, strict=True)), after=after
        ),
    )
    for images, targets, masks in loader:
        boxes = []
        for image, target in zip(images, targets, strict=True):
            assert tuple(image.shape[1:]) == SIZE
            found = target["boxes"]
            assert isinstance(found, tv_tensors.BoundingBoxes)
            assert found.format.value == box_format
            boxes.append(v2.functional.convert_bounding_box_format(found, new_format="XYXY"))
        check_masks(masks, boxes, SIZE)


def test_plain_annotations(folder: Path) -> None:
    data = CocoDetection(str(folder), str(folder / "instances.json"))
    samples = [data[i] for i in range(8)]
    _, _, masks = MaskCollate(LOCAL, strides=STRIDES, collate_fn=list_of_columns)(samples)
    check_masks(masks, [scene(i).boxes for i in range(8)], (64, 96))


def list_of_columns(samples: Any) -> Any:
    return tuple(map(list, zip(*samples, strict=True)))


def test_normalised_boxes_of_rt_detr() -> None:
    """Its transforms end with boxes that say CXCYWH and are shares of the image."""
    boxes = tv_tensors.BoundingBoxes(scene(0).boxes, format="XYXY", canvas_size=(64, 96))
    centres = v2.functional.convert_bounding_box_format(boxes, new_format="CXCYWH")
    shares = tv_tensors.wrap(centres / torch.tensor([96, 64, 96, 64]), like=centres)
    batch = torch.zeros(1, 3, 64, 96), [{"boxes": shares, "labels": torch.zeros(4)}]
    with pytest.raises(InvalidRequest, match="set normalized=True"):
        MaskTargets(LOCAL, strides=STRIDES)(batch)
    *_, masks = MaskTargets(LOCAL, strides=STRIDES, normalized=True)(batch)
    check_masks(masks, [scene(0).boxes], (64, 96))


def test_rotated_boxes() -> None:
    rotated = tv_tensors.BoundingBoxes(torch.zeros(1, 5), format="CXCYWHR", canvas_size=(64, 96))
    with pytest.raises(InvalidRequest, match=r"boxes\[0\]: must be of the format XYXY, .* CXCYWHR"):
        MaskTargets(LOCAL, strides=8)((torch.zeros(1, 3, 64, 96), [{"boxes": rotated}]))


@pytest.mark.parametrize("after", [False, True])
def test_crowds_and_padding(folder: Path, after: bool) -> None:
    """A wrapped set has the flags; a smaller canvas in a padded batch says where the picture is."""
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    crowd = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 40, 20], "area": 800.0, "iscrowd": 1}
    content["annotations"].append({**crowd, "id": 999})
    path.write_text(json.dumps(content))
    data = wrap_dataset_for_transforms_v2(
        CocoDetection(str(folder), str(path), transforms=v2.ToImage()),
        target_keys=["boxes", "iscrowd"],
    )

    def padded(samples: Any) -> Any:
        images = [torch.nn.functional.pad(image, (0, 0, 0, 32)) for image, _ in samples]
        return torch.stack(images), [target for _, target in samples]

    height = 96 if after else 64
    make = MaskCollate(LOCAL, strides=STRIDES, collate_fn=padded, after=after, return_weights=True)
    *_, masks, weights = make([data[0], data[1]])
    corners = [scene(i).boxes for i in range(2)]
    check_masks(masks, corners, (height, 96))
    regions = {"ignore": [[(0, 0, 40, 20)], []]}
    if after:
        regions["valid_region"] = [(0, 0, 96, 64)] * 2
    check_weights(weights, corners, (height, 96), **regions)
