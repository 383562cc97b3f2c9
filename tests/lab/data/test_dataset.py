"""Pictures and boxes as the lab reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cass_core import InvalidRequest
from cass_lab.data.dataset import Dataset
from tests.lab.support.drawn import SIZE, load


def load_folder(folder: Path, size: tuple[int, int], cache: Path) -> tuple[Dataset, Dataset]:
    return load(folder / "train.json", folder / "test.json", folder, size, cache)


def test_pixels_boxes_and_labels(scenes: Path, data: tuple[Dataset, Dataset]) -> None:
    train, test = data
    assert (len(train), len(test)) == (32, 16)
    with Image.open(scenes / "101.png") as picture:
        assert np.array_equal(test.pixels()[1], np.asarray(picture))
    content = json.loads((scenes / "test.json").read_text())
    wanted = [a for a in content["annotations"] if a["image_id"] == "s103"]
    mine = slice(test.offsets[3], test.offsets[4])
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert [test.class_names[i] for i in test.labels[mine]] == [
        names[a["category_id"]] for a in wanted
    ]
    x, y, w, h = np.array([a["bbox"] for a in wanted]).T
    assert test.xyxy[mine] == pytest.approx(np.stack([x, y, x + w, y + h], axis=1), abs=1e-3)


def test_pictures_and_boxes_are_stretched_together(scenes: Path, tmp_path: Path) -> None:
    original = load_folder(scenes, SIZE, tmp_path)[1]
    wide = load_folder(scenes, (SIZE[0], 2 * SIZE[1]), tmp_path)[1]
    assert wide.pixels().shape == (16, SIZE[0], 2 * SIZE[1], 3)
    assert wide.xyxy == pytest.approx(original.xyxy * [2, 1, 2, 1], rel=1e-6)
    assert wide.digest != original.digest


@pytest.mark.parametrize(("size", "change"), [((48, 80), 1), ((96, 320), 2), ((96, 128), 1.25)])
def test_change_of_aspect(
    scenes: Path, tmp_path: Path, size: tuple[int, int], change: float
) -> None:
    assert load_folder(scenes, size, tmp_path)[1].aspect_change == pytest.approx(change)


def test_decoded_once(scenes: Path, tmp_path: Path) -> None:
    first = load_folder(scenes, SIZE, tmp_path)
    (tmp_path / ".0123456789abcdef.npy.7.part").write_bytes(b"of a killed process")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    seen: list[int] = []
    files = (scenes / "train.json", scenes / "test.json")
    again = load(*files, scenes, SIZE, tmp_path, picture_done=lambda: seen.append(1))
    assert len(seen) == 48
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert [d.digest for d in first] == [d.digest for d in again]


def test_what_cannot_be_used_is_named(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "test.json").read_text())
    (tmp_path / "test.json").write_text(json.dumps(content))
    (tmp_path / "train.json").write_text((scenes / "train.json").read_text())
    with pytest.raises(InvalidRequest, match=r"--images: .*0\.png: no such file"):
        load_folder(tmp_path, SIZE, tmp_path)
    content["annotations"][3]["category_id"] = 99
    (tmp_path / "test.json").write_text(json.dumps(content))
    with pytest.raises(InvalidRequest, match=r"annotations\[3\]\.category_id: 99"):
        load(scenes / "train.json", tmp_path / "test.json", scenes, SIZE, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [], "annotations": []}, "--test: has no images"),
        ({"annotations": []}, "--test: has no boxes"),
        (
            {"annotations": [{"image_id": "s1", "category_id": 1, "bbox": [160, 0, 9, 9]}]},
            "--test: has no boxes in its pictures",
        ),
        (
            {"images": [{"id": "s1", "height": 96, "width": 160}]},
            "--images: image s1 has no file_name",
        ),
        (
            {"images": [{"id": "s1", "file_name": "7.png", "height": 96, "width": 160}]},
            "--test: 7.png is a picture of the training file too",
        ),
    ],
)
def test_files_that_nothing_can_be_measured_on(
    scenes: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    content: dict[str, Any] = {
        "images": [{"id": "s1", "file_name": "101.png", "height": 96, "width": 160}],
        "annotations": [{"image_id": "s1", "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cone"}],
    }
    path = tmp_path / "test.json"
    path.write_text(json.dumps(content | changes))
    with pytest.raises(InvalidRequest, match=f"^{re.escape(words)}"):
        load(scenes / "train.json", path, scenes, SIZE, tmp_path)
