"""COCO files: what is read, and what is said of files that are not COCO."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_cli.coco import read_coco
from cass_core import InvalidRequest

NAN = float("nan")


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
                annotation("b", [3, 0, 9, 8], ignore=1),
                annotation(7, [1, 1, 2, 2], iscrowd=1, ignore=1),
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
    assert coco.ignored.tolist() == [[3, 0, 12, 8], [0, 0, 9, 9], [1, 1, 3, 3]]
    assert coco.ignored_offsets.tolist() == [0, 1, 1, 3]
    assert coco.ignored_boxes(1, 3).xyxy.tolist() == [[0, 0, 9, 9], [1, 1, 3, 3]]
    assert coco.left_out == "2 crowd regions and 1 ignored object"
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
FOUR = "must be four numbers: x, y, width, height, got"
ID = "must be a whole number or text, got"
HINT = " (--skip-invalid leaves such entries out)"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (entry("images", 5), "images[0]: must be an object"),
        (entry("annotations", [1]), "annotations[0]: must be an object"),
        (entry("images", image(), {}), f"images[1].id: {ID} None"),
        (entry("images", image(1.5)), f"images[0].id: {ID} 1.5"),
        (entry("images", image(True)), f"images[0].id: {ID} True"),
        (entry("images", image("a\0")), f"images[0].id: {ID} 'a"),
        (entry("images", image(1), image(1)), "images[1].id: 1 stands there twice"),
        (entry("images", image(1), image(1.0)), "images[1].id: 1 stands there twice"),
        (entry("images", image(height=0)), f"images[0].height: {SIDE} 0"),
        (entry("images", image(width=-3)), f"images[0].width: {SIDE} -3"),
        (entry("images", image(width="30")), f"images[0].width: {SIDE} '30'"),
        (entry("images", image(width=None)), f"images[0].width: {SIDE} None"),
        (entry("images", image(width=2.5)), f"images[0].width: {SIDE} 2.5"),
        (entry("images", image(width=NAN)), f"images[0].width: {SIDE} nan"),
        (entry("images", image(file_name=3)), "images[0].file_name: must be text, got 3"),
        (entry("annotations", annotation(), annotation(None)), f"annotations[1].image_id: {ID}"),
        (entry("annotations", annotation(2)), "annotations[0].image_id: 2 is the id of no image"),
        (
            entry("annotations", annotation("1")),
            "annotations[0].image_id: '1' is the id of no image",
        ),
        (entry("annotations", annotation(bbox=None)), f"annotations[0].bbox: {FOUR} None"),
        (
            entry("annotations", annotation(bbox=None, iscrowd=1)),
            f"annotations[0].bbox: {FOUR} None",
        ),
        (entry("annotations", annotation(bbox=[])), f"annotations[0].bbox: {FOUR} []"),
        (entry("annotations", annotation(bbox=[1, 2, 3])), f"annotations[0].bbox: {FOUR} [1, 2"),
        (entry("annotations", annotation(bbox=[1, 2, "3", 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, True, 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, 1e31, 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, NAN, 4])), f"annotations[0].bbox: {FOUR}"),
        (entry("annotations", annotation(bbox=[1, 2, 10**40, 4])), f"annotations[0].bbox: {FOUR}"),
        (
            entry("annotations", annotation(bbox=[1, 2, 3, -4])),
            "annotations[0].bbox: has a negative width or height: [1, 2, 3, -4]",
        ),
        *(
            (entry("annotations", annotation(**{key: value})), f"annotations[0].{key}: must be 0")
            for key in ("iscrowd", "ignore")
            for value in ("0", "1", "False", "true", "", 2, 0.5, -1, [], [0], {})
        ),
    ],
)
def test_entries_that_cannot_be_used(tmp_path: Path, content: Any, error: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(InvalidRequest) as caught:
        read_coco(file)
    assert str(caught.value).startswith(error)
    assert str(caught.value).endswith(HINT)
    coco = read_coco(file, skip_invalid=True)
    assert coco.notes[0].startswith(("1 entry left out as invalid: ", "2 entries left out"))
    bad = {key: int(error.startswith(key)) for key in ("images", "annotations")}
    assert len(coco.image_ids) == len(content["images"]) - bad["images"]
    assert len(coco.xyxy) == len(content["annotations"]) - bad["annotations"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({}, "images: is missing"),
        ([], "images: is missing"),
        ({"images": []}, "annotations: is missing"),
        ({"images": [], "info": NAN}, "annotations: is missing"),
        ({"images": {}, "annotations": []}, "images: is not a list"),
        ({"images": [], "annotations": 3}, "annotations: is not a list"),
        ({"images": [], "annotations": 3, "info": NAN}, "annotations: is not a list"),
        (
            entry("images", image(1), image("1")),
            "images: has two ids that are the same text, such as 1 and '1'",
        ),
        (
            {
                "images": [image(height=64, width=96)],
                "annotations": [annotation(bbox=[0, 0.5, 1, 0.5])],
            },
            "annotations[*].bbox: must be in pixels: all coordinates are in [0, 1]",
        ),
    ],
)
def test_not_coco(tmp_path: Path, content: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_coco(write(tmp_path, content), skip_invalid=True)
    assert str(caught.value).startswith(error)


def test_many_invalid_entries_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, entry("annotations", *[annotation(bbox=[]), annotation()] * 5))
    with pytest.raises(InvalidRequest) as caught:
        read_coco(file)
    told = "; ".join(f"annotations[{i}].bbox: {FOUR} []" for i in (0, 2, 4))
    assert str(caught.value) == f"5 entries: cannot be used: {told}; and 2 more{HINT}"
    coco = read_coco(file, skip_invalid=True)
    assert coco.notes == [f"5 entries left out as invalid: {told}; and 2 more"]
    assert coco.xyxy.tolist() == [[1, 2, 4, 6]] * 5


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    flags = [{"iscrowd": 1}, {"iscrowd": True}, {"iscrowd": 1.0}, {"ignore": 1}]
    flags += [{"iscrowd": 0}, {"iscrowd": False}, {"iscrowd": None}, {"ignore": 0.0}, {}]
    coco = read_coco(write(tmp_path, entry("annotations", *(annotation(**f) for f in flags))))
    assert len(coco.xyxy) == 5
    assert (len(coco.ignored), coco.notes) == (4, [])
    assert coco.left_out == "3 crowd regions and 1 ignored object"


def test_corners_in_place_of_sizes_are_doubted(tmp_path: Path) -> None:
    wide = image(height=100, width=100)
    right = [annotation(bbox=[60, 60, 30, 20]), annotation(bbox=[10, 70, 30, 30])]
    assert read_coco(write(tmp_path, {"images": [wide], "annotations": right})).notes == []
    wrong = [annotation(bbox=[60, 60, 90, 80]), annotation(bbox=[10, 20, 40, 60])]
    notes = read_coco(write(tmp_path, {"images": [wide], "annotations": wrong})).notes
    assert len(notes) == 1
    assert notes[0].startswith("1 of 2 boxes reach beyond their image as x, y, width, height")


def test_the_smallest_images_may_have_boxes_of_one_pixel(tmp_path: Path) -> None:
    for picture, bbox in ((image(height=64, width=64), [0, 0, 1, 1]), (image(), [0, 0, 0.5, 0.5])):
        content = {"images": [picture], "annotations": [annotation(bbox=bbox)]}
        assert len(read_coco(write(tmp_path, content)).xyxy) == 1


def test_normalised_boxes_among_others(tmp_path: Path) -> None:
    """Images 2 and "c" alone are wrong: neither boxes in pixels nor a tiny image hides them."""
    ids = (1, 2, "c", 4)
    small = image(5, height=16, width=16)
    images = [small, *(image(i, height=64, width=96) for i in ids)]
    boxes = [
        annotation(1, [16, 16, 24, 24]), annotation(2, [0.5, 0.5, 0.02, 0.1]),
        annotation("c", [0, 0, 1, 1]), annotation("c", [0.2, 0.2, 0.5, 0.5]),
        annotation(5, [0, 0, 0.5, 0.5]), annotation(4, [0.5, 0.5, 0.25, 0.25]),
        annotation(4, [0.5, 0.5, 8, 8]),
    ]  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        read_coco(write(tmp_path, {"images": images, "annotations": boxes}))
    error = (
        "annotations[*].bbox: must be in pixels: all coordinates of image 2, 'c' are in [0, 1], "
        f"which is normalised{HINT}"
    )
    assert str(caught.value) == error
    content = {"images": images, "annotations": boxes}
    rest = read_coco(write(tmp_path, content), skip_invalid=True, categories=True)
    assert rest.notes == [f"boxes of 2 images left out as invalid: {error}"]
    assert (np.diff(rest.offsets).tolist(), len(rest.labels)) == ([1, 1, 0, 0, 2], 4)
    right = [box for box in boxes if box["image_id"] not in (2, "c")]
    assert len(read_coco(write(tmp_path, {"images": images, "annotations": right})).xyxy) == 4
    wrong = {"images": images, "annotations": boxes[1:2]}
    with pytest.raises(InvalidRequest, match=r"all coordinates are in \[0, 1\]"):
        read_coco(write(tmp_path, wrong), skip_invalid=True)


ONE = {
    "images": [image(1.0, height=64, width=96)],
    "annotations": [annotation(1, [16, 16, 24, 24])],
}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ONE).encode(),
        json.dumps(ONE).encode("utf-8-sig"),
        json.dumps(ONE).encode("utf-16"),
        json.dumps(ONE).encode("utf-16-le"),
        json.dumps(ONE).encode("utf-32"),
        gzip.compress(json.dumps(ONE).encode("utf-8-sig")),
        json.dumps(ONE).replace('"id": 1,', '"id": 12345678901234567890, "area": NaN,').encode(),
        json.dumps(ONE).replace("16, 16,", "1.6e1, 160E-1,").encode(),
        json.dumps(ONE | {"info": {"version": 10**400, "year": -float("inf")}}).encode(),
    ],
)
def test_forms_of_one_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    for path in (file, str(file)):
        coco = read_coco(path)
        assert (coco.image_ids, coco.sizes.tolist()) == ([1], [[64, 96]])
        assert coco.xyxy.tolist() == [[16, 16, 40, 40]]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert read_coco(pipe).xyxy.tolist() == [[16, 16, 40, 40]]
    writer.join()


@pytest.mark.parametrize("image_id", [2**63, 2**64, 10**20, -(2**70), "a/b", ""])
def test_ids_are_kept(tmp_path: Path, image_id: int | str) -> None:
    file = write(tmp_path, {"images": [image(image_id)], "annotations": [annotation(image_id)]})
    coco = read_coco(file)
    assert coco.image_ids == [image_id]
    assert coco.index(str(image_id)) == 0
    assert len(coco.xyxy) == 1


def test_categories_and_limit(tmp_path: Path) -> None:
    content = {
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in ((2.0, "cone"), (5, "pole"), (9, "cone"), (11, "sign"))
        ],
        "images": [image(1), image(2)],
        "annotations": [annotation(2, category_id=5), annotation(1, category_id=9),
                        annotation(1, category_id=2), annotation(2, category_id=11)],
    }  # fmt: skip
    coco = read_coco(write(tmp_path, content), categories=True)
    assert [coco.class_names[label] for label in coco.labels] == ["cone", "cone", "pole", "sign"]
    first = read_coco(write(tmp_path, content), categories=True, limit=1)
    assert (first.image_ids, first.offsets.tolist(), len(first.labels)) == ([1], [0, 2], 2)
    content["annotations"][1]["category_id"] = 7
    with pytest.raises(
        InvalidRequest, match=r"annotations\[1\]\.category_id: 7 is the id of no cat"
    ):
        read_coco(write(tmp_path, content), categories=True)
    assert len(read_coco(write(tmp_path, content)).xyxy) == 4
    del content["categories"]
    unnamed = read_coco(write(tmp_path, content), categories=True)
    assert [unnamed.class_names[label] for label in unnamed.labels] == ["7", "2", "5", "11"]
    assert unnamed.used_names() == {"2", "5", "7", "11"}


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ({"id": 1.0, "name": "car"}, "categories[1].id: 1 stands there twice"),
        ({"id": 2, "name": None}, "categories[1].name: must be text, got None"),
        ({"id": 2, "name": ["a"]}, "categories[1].name: must be text, got ['a']"),
        ({"id": 2, "name": 7}, "categories[1].name: must be text, got 7"),
    ],
)
def test_categories_that_cannot_be_used(tmp_path: Path, second: Any, error: str) -> None:
    file = write(tmp_path, entry("annotations", annotation()) | {
        "categories": [{"id": 1, "name": "person"}, second, {"id": 3}],
    })  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        read_coco(file, categories=True)
    assert str(caught.value) == error + HINT
    coco = read_coco(file, categories=True, skip_invalid=True)
    assert (coco.class_names, coco.labels.tolist()) == (["person", "3"], [0])
    assert len(read_coco(file).xyxy) == 1


@pytest.mark.parametrize("categories", [{"1": "car"}, {}, "car", 3, None, True])
@pytest.mark.parametrize("more", [{}, {"info": NAN}])
def test_categories_that_are_no_list(tmp_path: Path, categories: Any, more: Any) -> None:
    content = entry("annotations", annotation()) | {"categories": categories} | more
    with pytest.raises(InvalidRequest, match=r"^categories: is not a list$"):
        read_coco(write(tmp_path, content), categories=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b'{"images": [',
        b'{"images": [}',
        b'{"images": [NaN, }',
        b'{"images": [{"id": "\xe9"}], "annotations": []}',
        b'{"images": [{"id": %s' % (b"9" * 5000),
        b"\xff\xd8\xff\xe0 a picture",
        b"\x00\x01",
    ],
)
def test_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"^file.json: is not ") as caught:
        read_coco(tmp_path / "file.json")
    assert "b'" not in str(caught.value)
    assert "\n" not in str(caught.value)


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file.json", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("compress", "name"),
    [
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (zipped, "zip"),
        (lambda content: gzip.compress(gzip.compress(content)), "gzip within gzip"),
        (lambda content: gzip.compress(bz2.compress(content)), "bzip2 within gzip"),
    ],
)
def test_other_compressions(tmp_path: Path, compress: Callable[[bytes], bytes], name: str) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(compress(json.dumps(ONE).encode()))
    with pytest.raises(InvalidRequest) as caught:
        read_coco(file)
    assert str(caught.value) == f"file.json: is compressed with {name}; only gzip is read"


@pytest.mark.parametrize("shift", range(5))
def test_depth_is_that_of_lists_and_objects(tmp_path: Path, shift: int) -> None:
    """Brackets in text are none; texts and escapes reach from one part that is read to the next."""
    odd = " " * shift + '[{"\\\\[' * 30_000
    texts = image(license=[odd] * 3, note="\\" * 99_999)
    deep = {"images": [texts | {"a": json.loads("[" * 400 + "]" * 400)}, texts | {"id": 2}]}
    assert read_coco(write(tmp_path, deep | {"annotations": []})).image_ids == [1, 2]
    text = json.dumps({"images": [texts], "annotations": []})
    for opened, closed in (("[", "]"), ('{"\\"": ', "}")):
        deeper = "[" + opened * 1001 + "1" + closed * 1001 + "]"
        content = text[:-1] + f', "a": {deeper}' + "}"
        with pytest.raises(InvalidRequest, match=r"^file\.json: nests .* more than 1000 deep$"):
            read_coco(write(tmp_path, content))


def test_broken_archives_and_text(tmp_path: Path) -> None:
    for content, error in (
        (gzip.compress(b"{}" * 99)[:-9], "is not a whole gzip file"),
        (json.dumps(ONE).encode("utf-16")[:-1], "is not UTF-16"),
    ):
        (tmp_path / "file.json").write_bytes(content)
        with pytest.raises(InvalidRequest, match=f"^file.json: {error}"):
            read_coco(tmp_path / "file.json")


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
