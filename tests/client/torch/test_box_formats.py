"""Boxes in the formats of data sets and libraries, and those that are refused for their looks."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cass_client import CassClient, InvalidRequest, MaskSpec, xyxy_boxes
from cass_client.torch import MaskCollate, MaskTargets
from cass_core import generate_mask
from cass_core.checks import warn
from tests.client.support.library_objects import (
    Boxes,
    DetDataSample,
    Detections,
    InstanceData,
    Instances,
)
from tests.support.bounding_boxes import like_torchvision
from tests.support.compare import same

LOCAL = CassClient("local:")
SIZE, MAP = (32, 48), (4, 6)
# The same two boxes, written down in every form.
FORMS: dict[tuple[str, bool], list[list[float]]] = {
    ("xyxy", False): [[12, 8, 36, 16], [0, 4, 6, 32]],
    ("xywh", False): [[12, 8, 24, 8], [0, 4, 6, 28]],
    ("cxcywh", False): [[24, 12, 24, 8], [3, 18, 6, 28]],
    ("xyxy", True): [[0.25, 0.25, 0.75, 0.5], [0, 0.125, 0.125, 1]],
    ("xywh", True): [[0.25, 0.25, 0.5, 0.25], [0, 0.125, 0.125, 0.875]],
    ("cxcywh", True): [[0.5, 0.375, 0.5, 0.25], [0.0625, 0.5625, 0.125, 0.875]],
}
CORNERS = torch.tensor(FORMS["xyxy", False]).float()
IMAGE = torch.zeros(3, *SIZE)
EXPECTED = generate_mask([CORNERS], SIZE, MAP)

every_form = pytest.mark.parametrize("form", FORMS, ids=str)


def masks_of(sample: Any, **options: Any) -> Tensor:
    made = MaskCollate(LOCAL, MAP, collate_fn=lambda samples: {}, **options)([sample])["masks"]
    assert isinstance(made, Tensor)
    return made


def refused(*samples: Any, **options: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        MaskCollate(LOCAL, MAP, collate_fn=lambda samples: {}, **options)(samples)
    return str(caught.value)


# --- plain boxes ---


@every_form
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, torch.HalfTensor])
def test_plain_boxes(form: tuple[str, bool], kind: Any) -> None:
    box_format, normalized = form
    boxes = kind(FORMS[form])
    options: Any = {"box_format": box_format, "normalized": normalized}
    same(masks_of((IMAGE, {"boxes": boxes}), **options), EXPECTED)
    same(masks_of((IMAGE, boxes), **options), EXPECTED)
    found = xyxy_boxes(boxes, box_format, normalized=normalized, image_size=SIZE)  # type: ignore[arg-type]
    assert isinstance(found, Tensor) == isinstance(boxes, Tensor)
    same(torch.as_tensor(found), CORNERS)


@every_form
@pytest.mark.parametrize("size", [SIZE, list(SIZE), torch.tensor(SIZE)], ids=str)
def test_one_size_for_a_batch(form: tuple[str, bool], size: Any) -> None:
    """Of a function's, as for `generate_mask`."""
    options: Any = {"box_format": form[0], "normalized": form[1]}
    for where in ({"feature_map": MAP}, {"strides": 8}):
        make = MaskTargets(LOCAL, boxes=lambda _: ([FORMS[form]] * 3, size), **where, **options)  # type: ignore[arg-type]
        same(make(("any", "thing"))[-1], torch.cat([EXPECTED] * 3))


@every_form
def test_of_a_function(form: tuple[str, bool]) -> None:
    options: Any = {"box_format": form[0], "normalized": form[1]}
    same(masks_of("any", boxes=lambda _: (FORMS[form], SIZE), **options), EXPECTED)


@pytest.mark.parametrize(
    "boxes",
    [[], [[]], None, torch.zeros(0), torch.zeros(1, 0), torch.zeros(0, 4), np.zeros((0, 4))],
    ids=str,
)
def test_no_boxes(boxes: Any) -> None:
    normalised: Any = {"box_format": "cxcywh", "normalized": True}
    for options in ({}, {"box_format": "xywh"}, normalised):
        same(masks_of((IMAGE, {"boxes": boxes}), **options), torch.zeros(1, *MAP))


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize("normalized", [False, True])
def test_boxes_that_say_their_format(form: str, normalized: bool) -> None:
    """Whatever the user says of others; normalised as RT-DETR's transforms leave them."""
    boxes = like_torchvision(FORMS[form.lower(), normalized], form, SIZE)
    same(
        masks_of((IMAGE, {"boxes": boxes}), box_format="xywh", normalized=normalized or None),
        EXPECTED,
    )


@pytest.mark.parametrize(
    ("boxes", "options", "error"),
    [
        ([[0, 0, 4, 4], [5, 5, -1, 4]], {"box_format": "xywh"},
         "boxes[0][1]: has a negative width or height; box_format is 'xywh'"),
        ([[1, 2, 3]], {"box_format": "cxcywh"}, "boxes[0]: must have the shape [N, 4], got [1, 3]"),
        (np.array([[1, 2, 3, 4, 5]]), {"box_format": "xywh"},
         "boxes[0]: must have the shape [N, 4], got [1, 5]"),
        ([["1", "2", "3", "4"]], {"box_format": "xywh"},
         "boxes[0]: must be an array of numbers of the shape [N, 4]"),
        (np.ma.masked_values([[1.0, 2, 3, 4]], 4), {"box_format": "xywh"},
         "boxes[0]: has masked values"),
        (torch.zeros(1, 4, dtype=torch.complex64), {"normalized": True},
         "boxes[0]: must be dense and of real numbers"),
        ([[1, 2, float("nan"), 4]], {"box_format": "xywh"}, "boxes[0][0].x2: is not finite (nan)"),
        ([(1, 2, 3, 4, "dog")], {},
         "boxes[0]: has rows of 5 values: set box_format, so that the first four are read and the "
         "rest, labels, is not"),
    ],
)  # fmt: skip
def test_bad_boxes(boxes: Any, options: dict[str, Any], error: str) -> None:
    assert refused((IMAGE, {"boxes": boxes}), **options) == error


@pytest.mark.parametrize(
    ("options", "field"),
    [({"box_format": "yxyx"}, "box_format"), ({"normalized": "yes"}, "normalized")],
)
def test_bad_arguments(options: dict[str, Any], field: str) -> None:
    for kind in (MaskCollate, MaskTargets):
        with pytest.raises(InvalidRequest) as caught:
            kind(LOCAL, MAP, **options)
        assert caught.value.field == field
    with pytest.raises(InvalidRequest) as caught:
        xyxy_boxes([], **options)
    assert caught.value.field == field


def test_a_function_needs_the_size_of_normalised_boxes() -> None:
    with pytest.raises(InvalidRequest, match="image_size: is needed for normalised boxes"):
        xyxy_boxes([], normalized=True)


def test_rows_with_labels() -> None:
    """As albumentations gives them."""
    rows = [(*row, "car") for row in FORMS["xywh", False]]
    same(masks_of({"image": IMAGE, "bboxes": rows}, box_format="xywh"), EXPECTED)


@pytest.mark.parametrize("kind", [list, tuple, lambda row: list(torch.tensor(row))])
@pytest.mark.parametrize("normalized", [True, None])
@pytest.mark.parametrize("number", [0, 7])
def test_rows_of_yolo(kind: Any, normalized: Any, number: int) -> None:
    """As its label files have them, with the class first."""
    rows = [kind([number, *row]) for row in FORMS["cxcywh", True]]
    said: Any = {"box_format": "cxcywh", "normalized": normalized}
    text = refused((IMAGE, {"boxes": rows}), **said)
    assert text == (
        "boxes[0]: has rows that look like YOLO's, (class, cx, cy, w, h), while the first "
        "four values are read: write the class last, (cx, cy, w, h, class), or not at all"
    )


@pytest.mark.parametrize("label", [0, 1, 7, 0.5, "car", None])
@pytest.mark.parametrize("more", [(), (0.25,), ("red",)])
@pytest.mark.parametrize("form", [("cxcywh", True), ("cxcywh", False), ("xyxy", True)], ids=str)
def test_rows_with_labels_of_any_kind(form: tuple[str, bool], label: Any, more: Any) -> None:
    rows = [[*row, label, *more] for row in FORMS[form]]
    for said in {form[1], form[1] or None}:
        same(masks_of((IMAGE, rows), box_format=form[0], normalized=said), EXPECTED)


# --- never silently wrong ---


@pytest.mark.parametrize("box_format", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("said", [False, True])
def test_boxes_that_look_normalised(box_format: str, said: bool) -> None:
    boxes = FORMS[box_format, True]
    options: Any = {"box_format": box_format} if said else {}
    assert refused((IMAGE, []), (IMAGE, boxes), **options) == (
        "boxes[1]: and all others of the batch lie within [0, 1], though the image has 32 x 48 "
        "pixels: set normalized=True, and box_format where they are not xyxy, or normalized=False "
        "if these are pixels"
    )


def test_boxes_of_torchvision_that_look_normalised() -> None:
    boxes = like_torchvision(FORMS["cxcywh", True], "CXCYWH", SIZE)
    assert "set normalized=True" in refused((IMAGE, {"boxes": boxes}))


PIXEL = [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ([(IMAGE, PIXEL)], {"normalized": False}),
        ([(IMAGE, PIXEL), (IMAGE, CORNERS)], {}),  # one of them is larger
        ([(torch.zeros(3, 16, 48), PIXEL)], {}),
        ([(IMAGE, [[0.0] * 4])], {}),
    ],
)
def test_pixels_that_are_small(samples: Any, options: Any) -> None:
    made = MaskCollate(LOCAL, MAP, collate_fn=lambda _: {}, **options)(samples)["masks"]
    sizes = [tuple(image.shape[1:]) for image, _ in samples]
    same(made, generate_mask([torch.as_tensor(boxes) for _, boxes in samples], sizes, MAP))


FAR = [[40.0, 2.0, 47.0, 12.0], [41.0, 2.0, 46.0, 9.0], [0.0, 0.0, 8.0, 8.0]]


def test_boxes_far_outside() -> None:
    """Such as y1, x1, y2, x2."""
    swapped = [[top, left, low, right] for left, top, right, low in FAR]
    masks_of((IMAGE, FAR))
    assert refused((IMAGE, [[0, 0, 9, 9]]), (IMAGE, swapped)) == (
        "boxes[1][0]: (2, 40, 12, 47) lies far outside its image of 32 x 48 pixels (H x W), as do "
        "2 of the batch's 4 boxes: are the axes swapped, or the image resized without its boxes? "
        "Set box_format where they are not xyxy, or normalized=False if this is meant"
    )
    expected = generate_mask([torch.tensor(swapped)], SIZE, MAP)
    same(masks_of((IMAGE, swapped), normalized=False), expected)


def test_pixels_that_are_said_to_be_normalised() -> None:
    for box_format in ("xyxy", "xywh", "cxcywh"):
        said: Any = {"box_format": box_format, "normalized": True}
        text = refused((IMAGE, FORMS[box_format, False]), **said)
        assert "lies far outside its image of 32 x 48 pixels (H x W), as do 2 of" in text


@pytest.mark.parametrize(
    "boxes",
    [
        [[100, 100, 120, 120]],  # a single one
        [[40, 20, 70, 60], [-30, -20, 20, 12]],  # cut by the border
        [*FORMS["xyxy", False] * 4, [99, 0, 100, 10], [99, 0, 100, 10]],  # a fifth
    ],
)
def test_boxes_that_may_well_lie_outside(boxes: Any) -> None:
    boxes = torch.tensor(boxes, dtype=torch.float32)
    same(masks_of((IMAGE, boxes)), generate_mask([boxes], SIZE, MAP))


# --- libraries ---


def labels(boxes: Any = FORMS["cxcywh", True], **more: Any) -> dict[str, Any]:
    """As Hugging Face's processors make them."""
    return {
        "size": torch.tensor(SIZE),
        "orig_size": torch.tensor((480, 640)),
        "boxes": torch.tensor(boxes),
        "class_labels": torch.tensor([1, 2]),
        **more,
    }


COCO = [
    {"image_id": 7, "category_id": 1, "bbox": bbox, "area": 1.0, "iscrowd": 0}
    for bbox in FORMS["xywh", False]
]
INSTANCES = InstanceData(CORNERS)
SAMPLES: dict[str, Any] = {
    "albumentations": {"image": np.zeros((*SIZE, 3)), "bboxes": FORMS["xyxy", False]},
    "supervision": (IMAGE, Detections(CORNERS.numpy())),
    "detectron2": {"image": IMAGE, "instances": Instances(Boxes(CORNERS))},
    "detectron2 boxes": {"image": IMAGE, "boxes": Boxes(CORNERS)},
    "mmengine": {"inputs": IMAGE, "data_samples": INSTANCES},
    "mmdet": {"inputs": IMAGE, "data_samples": DetDataSample(INSTANCES)},
    "mmdet boxes": {"inputs": IMAGE, "data_samples": DetDataSample(InstanceData(Boxes(CORNERS)))},
    "Hugging Face": {"pixel_values": IMAGE, "labels": labels()},
    "Hugging Face's annotations": {"image": IMAGE, "image_id": 7, "annotations": COCO},
    "the same in a target": (IMAGE, {"image_id": 7, "annotations": COCO}),
    "ultralytics": {
        "img": IMAGE,
        "cls": torch.zeros(2, 1),
        "bboxes": torch.tensor(FORMS["cxcywh", True]),
        "batch_idx": torch.zeros(2),
    },
}


@pytest.mark.parametrize("library", SAMPLES)
@pytest.mark.parametrize("box_format", [None, "xyxy", "cxcywh"])
def test_libraries(library: str, box_format: Any) -> None:
    """What the user says of plain boxes is nothing to those that say their form themselves."""
    if library == "albumentations" and box_format == "cxcywh":
        return
    if library in ("Hugging Face", "ultralytics") and box_format == "xyxy":
        return
    same(masks_of(SAMPLES[library], box_format=box_format), EXPECTED)


@every_form
def test_converted_labels(form: tuple[str, bool]) -> None:
    """Those of Hugging Face and ultralytics are tensors, which a user's transforms may convert.

    ``class_labels`` is also what albumentations' users call the labels beside their boxes.
    """
    boxes = torch.tensor(FORMS[form]).float()
    said: Any = {"box_format": form[0], "normalized": form[1]}
    row = {"img": IMAGE[None], "bboxes": boxes, "batch_idx": torch.zeros(2)}
    same(masks_of({"pixel_values": IMAGE, "labels": labels(FORMS[form])}, **said), EXPECTED)
    same(masks_of({**row, "img": IMAGE}, **said), EXPECTED)
    same(MaskTargets(LOCAL, MAP, **said)(row)["masks"], EXPECTED)
    if form == ("xyxy", False):
        albumentations = {"image": IMAGE, "bboxes": FORMS[form], "class_labels": ["car", "van"]}
        same(masks_of(albumentations, box_format="xyxy"), EXPECTED)


def test_labels_of_a_part_of_the_image() -> None:
    """Padded below and to the right by a processor that leaves 'size' as it was."""
    image = torch.zeros(3, 64, 64)
    sample = {"pixel_values": image, "labels": labels(), "pixel_mask": torch.zeros(64, 64).int()}
    sample["pixel_mask"][:32, :48] = 1
    same(masks_of(sample), generate_mask([CORNERS], (64, 64), MAP))
    del sample["pixel_mask"]
    assert refused(sample) == (
        "boxes[0]: are shares of 32 x 48 pixels, as the target's 'size' says, but the image has "
        "64 x 64: bring 'size' up to date, add a pixel_mask if it was padded, or set "
        "normalized=True if they are shares of the whole image"
    )
    doubled = torch.tensor(FORMS["xyxy", True]) * 64
    same(masks_of(sample, normalized=True), generate_mask([doubled], (64, 64), MAP))


def test_a_target_with_a_size() -> None:
    """As DETR's own: boxes that were normalised by the size of the image before it was padded."""
    target = {"boxes": torch.tensor(FORMS["cxcywh", True]), "size": torch.tensor(SIZE)}
    form: Any = {"box_format": "cxcywh", "normalized": True}
    same(masks_of((IMAGE, target), **form), EXPECTED)


def test_crowds_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warn, "_shown", set())
    alone = generate_mask([CORNERS[1:]], SIZE, MAP)
    ignored = DetDataSample(InstanceData(CORNERS[1:]), InstanceData(CORNERS[:1]))
    with pytest.warns(UserWarning, match="1 of 2 objects of a batch are crowds"):
        same(masks_of({"inputs": IMAGE, "data_samples": ignored}), alone)
    crowd = {"pixel_values": IMAGE, "labels": labels(iscrowd=torch.tensor([1, 0]))}
    same(masks_of(crowd), alone)


@pytest.mark.parametrize(
    ("sample", "error"),
    [
        ({"image": IMAGE, "boxes": Boxes(torch.zeros(1, 5))},
         "boxes[0]: are rotated boxes (Boxes); masks need upright ones"),
        ({**SAMPLES["ultralytics"], "bboxes": torch.zeros(1, 5)},
         "boxes[0]: are rotated boxes, of five numbers; masks need upright ones"),
        ((IMAGE, object()),
         "boxes[0]: cannot be read from object; write boxes=FUNCTION, which gives xyxy boxes and "
         "(H, W)"),
        ({"pixel_values": IMAGE, "labels": torch.tensor([1])},
         "boxes[0]: there is no key 'boxes'; the keys are: 'pixel_values', 'labels'"),
        ({"pixel_values": IMAGE, "labels": labels(size="large")},
         "boxes[0].size: must be (H, W) in pixels, got 'large'"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(sample: Any, error: str) -> None:
    assert refused(sample) == error


# --- feature maps ---


@pytest.mark.parametrize(
    ("strides", "maps"),
    [(8, (4, 6)), ([8], [(4, 6)]), ((8, 16, 32), [(4, 6), (2, 3), (1, 2)]), (5, (7, 10))],
)
def test_strides(strides: Any, maps: Any) -> None:
    """Of 32 x 48 pixels; a last cell may reach beyond the image."""
    made = MaskCollate(LOCAL, strides=strides, collate_fn=lambda _: {})([(IMAGE, CORNERS)])
    same(made["masks"], generate_mask([CORNERS], SIZE, maps))


def halved(size: tuple[int, int]) -> Any:
    return [(size[0] // 2, size[1] // 2)]


def test_a_function_for_feature_maps() -> None:
    make = pickle.loads(pickle.dumps(MaskCollate(LOCAL, halved, MaskSpec(patch_size=2))))
    same(make([(IMAGE, CORNERS)])[-1], generate_mask([CORNERS], SIZE, [(16, 24)],
                                                     MaskSpec(patch_size=2)))  # fmt: skip


def three_maps(size: tuple[int, int]) -> Any:
    return [(size[0] // stride, size[1] // stride) for stride in (4, 8, 16)]


@pytest.mark.parametrize(
    "options", [{"strides": (4, 8, 16)}, {"feature_map": three_maps}], ids=["strides", "function"]
)
def test_level_ranges_of_maps_that_follow_from_the_batch(options: Any) -> None:
    """A range a level, which are counted when the levels are known."""
    spec = MaskSpec(patch_size=1, level_ranges=((0, 8), (8, 20), (20, float("inf"))))
    expected = generate_mask([CORNERS], SIZE, three_maps(SIZE), spec)
    assert any(not level.any() for level in expected)  # the ranges do something
    make = MaskCollate(LOCAL, spec=spec, collate_fn=lambda _: {}, **options)
    same(make([(IMAGE, CORNERS)])["masks"], expected)
    same(MaskTargets(LOCAL, spec=spec, **options)((IMAGE[None], [CORNERS]))[-1], expected)
    fewer = spec.replace(level_ranges=((0, 8), (8, 20)))
    with pytest.raises(InvalidRequest, match="level_ranges"):
        MaskTargets(LOCAL, spec=fewer, **options)((IMAGE[None], [CORNERS]))


@pytest.mark.parametrize(
    "given", [{"strides": 8}, {"feature_map": halved}], ids=["strides", "function"]
)
def test_a_spec_of_another_kind(given: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^mask_spec: must be a MaskSpec"):
        MaskTargets(LOCAL, spec="baseline", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "feature_map: give either a feature_map or strides"),
        ({"feature_map": MAP, "strides": 8}, "feature_map: give either a feature_map or strides"),
        *(
            ({"strides": strides}, f"strides: must be whole numbers above 0, got {shown}")
            for strides, shown in [(0, "0"), ((8, -8), "-8"), ("8", "'8'"), (8.0, "8.0"),
                                   (True, "True")]
        ),
        ({"strides": []}, "strides: must have at least one"),
    ],
)  # fmt: skip
def test_bad_strides(options: Any, error: str) -> None:
    for kind in (MaskCollate, MaskTargets):
        with pytest.raises(InvalidRequest) as caught:
            kind(LOCAL, **options)
        assert str(caught.value) == error


def test_strides_need_images_of_one_size() -> None:
    samples = [(IMAGE, CORNERS), (torch.zeros(3, 40, 48), CORNERS)]
    for options, name in (({"strides": 8}, "strides"), ({"feature_map": halved}, "feature_map")):
        make = MaskCollate(LOCAL, collate_fn=lambda _: {}, **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            make(samples)
        assert str(caught.value) == (
            f"image_size[1]: is (40, 48), image_size[0] (32, 48): with {name} the images of a "
            "batch are of one size; if collate_fn pads or resizes them, after=True reads the size "
            "that they have then"
        )
        with pytest.raises(InvalidRequest, match="needs an image, whose size it depends on"):
            make([])


def test_no_box_of_a_random_batch_moves() -> None:
    """Every form of random boxes gives the corners that they were made from."""
    generator = np.random.default_rng(5)
    corners = generator.uniform(0, 1, (50, 2, 2)) * [640, 480]
    low, high = corners.min(1), corners.max(1)
    forms = {
        "xyxy": [low, high],
        "xywh": [low, high - low],
        "cxcywh": [(low + high) / 2, high - low],
    }
    expected = np.concatenate([low, high], axis=1)
    for (name, parts), normalized in itertools.product(forms.items(), (False, True)):
        boxes = np.concatenate(parts, axis=1) / ([640, 480] * 2 if normalized else 1)
        found = xyxy_boxes(boxes, name, normalized=normalized, image_size=(480, 640))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32
