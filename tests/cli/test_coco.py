"""COCO files: what is read, and what is said of files that are not COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_cli.coco import read_coco
from cass_core import InvalidRequest


def write(path: Path, content: Any) -> Path:
    file = path / "file.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def image(image_id: Any = 1, **changes: Any) -> dict[str, Any]:
    return {"id": image_id, "height": 20, "width": 30, "file_name": "a.jpg"} | changes


def annotation(image_id: Any = 1, bbox: Any = (1, 2, 3, 4), **changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image_id, "bbox": bbox, "category_id": 1} | changes


def test_order_and_grouping(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "annotations": [
                annotation("b", [1, 2, 3, 4]),
                annotation(7, [0.5, 0, 1.5, 2], segmentation=[[1, 2, 3]]),
                annotation("b", [5, 6, 0, 0]),
                annotation(7, [0, 0, 9, 9], iscrowd=1),
            ],
            "info": {"images": "not these"},
            "images": [image("b"), image(9, height=5.0), image(7, license=1)],
            "categories": [],
        },
    )
    coco = read_coco(file)
    assert coco.image_ids == ["b", 9, 7]
    assert coco.file_names == ["a.jpg"] * 3
    assert coco.sizes.tolist() == [[20, 30], [5, 30], [20, 30]]
    assert coco.xyxy.tolist() == [[1, 2, 4, 6], [5, 6, 5, 6], [0.5, 0, 2, 2]]
    assert coco.offsets.tolist() == [0, 2, 2, 3]
    assert coco.boxes(1, 3).counts.tolist() == [0, 1]
    assert coco.index("7") == 2
    with pytest.raises(InvalidRequest, match=r"^image: '8' is not the id of an image"):
        coco.index("8")


def test_empty_lists(tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, {"images": [], "annotations": []}))
    assert (coco.sizes.shape, coco.xyxy.shape, coco.offsets.tolist()) == ((0, 2), (0, 4), [0])
    assert read_coco(write(tmp_path, {"images": [image()], "annotations": []})).xyxy.size == 0


def entry(key: str, *entries: Any) -> dict[str, Any]:
    return {"images": [image()], "annotations": []} | {key: list(entries)}


SIDE = "must be a whole number of pixels, got"
FOUR = "must be four numbers: x, y, width, height"
ID = "must be a whole number or text"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({}, "images: is missing, or is not a list"),
        ([], "images: is missing, or is not a list"),
        ({"images": []}, "annotations: is missing, or is not a list"),
        ({"images": {}, "annotations": []}, "images: is missing, or is not a list"),
        ({"images": [], "annotations": 3}, "annotations: is missing, or is not a list"),
        (entry("images", 5), "images[0]: must be an object"),
        (entry("annotations", [1]), "annotations[0]: must be an object"),
        (entry("images", image(), {}), f"images[1].id: {ID}"),
        (entry("images", image(1.5)), f"images[0].id: {ID}"),
        (entry("images", image(True)), f"images[0].id: {ID}"),
        (entry("images", image(1), image(1)), "images[1].id: 1 stands there twice"),
        (entry("images", image(height=0)), f"images[0].height: {SIDE} 0"),
        (entry("images", image(width=-3)), f"images[0].width: {SIDE} -3"),
        (entry("images", image(width="30")), f"images[0].width: {SIDE} '30'"),
        (entry("images", image(width=None)), f"images[0].width: {SIDE} None"),
        (entry("images", image(width=2.5)), f"images[0].width: {SIDE} 2.5"),
        (entry("images", image(file_name=3)), "images[0].file_name: must be text"),
        (entry("annotations", annotation(), annotation(None)), f"annotations[1].image_id: {ID}"),
        (entry("annotations", annotation(2)), "annotations[0].image_id: 2 is the id of no image"),
        (
            entry("annotations", annotation("1")),
            "annotations[0].image_id: '1' is the id of no image",
        ),
        (entry("annotations", annotation(bbox=None)), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, 3])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, "3", 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, True, 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, 1e31, 4])), f"annotations[0].bbox: {FOUR}"),
        (
            entry("annotations", annotation(bbox=[1, 2, 3, -4])),
            "annotations[0].bbox: has a negative width or height",
        ),
    ],
)
def test_not_coco(tmp_path: Path, content: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_coco(write(tmp_path, content))
    assert str(caught.value) == error


@pytest.mark.parametrize(
    "content",
    ["", "hello", '{"images": [', '{"images": [{"id": 1, "height": NaN}]}', "\x00\x01"],
)
def test_not_json(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^file.json: is not JSON \("):
        read_coco(write(tmp_path, content))


@pytest.mark.parametrize(
    "name", ["carla/test.json", "cones/test.json", "ampelpilot/annotations.json"]
)
def test_real_files(shared: Path, name: str) -> None:
    path = shared / "data" / name
    coco, raw = read_coco(path), json.loads(path.read_text())
    assert coco.image_ids == [entry["id"] for entry in raw["images"]]
    by_image: dict[Any, list[list[float]]] = {}
    for a in raw["annotations"]:
        x, y, w, h = a["bbox"]
        by_image.setdefault(a["image_id"], []).append([x, y, x + w, y + h])
    for i, image_id in enumerate(coco.image_ids):
        xyxy = coco.xyxy[coco.offsets[i] : coco.offsets[i + 1]]
        expected = np.array(by_image.get(image_id, []), np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(xyxy, expected)
