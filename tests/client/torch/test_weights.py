"""Weights beside a loader's masks: crowds are ignored, padding weighs nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cass_client import CassClient, InvalidRequest, MaskSpec, WeightSpec
from cass_client.torch import MaskCollate, MaskTargets
from cass_core import LossSpec, MaskLoss, generate_mask
from cass_core.checks import warn
from tests.client.support.library_objects import (
    Boxes,
    DetDataSample,
    ImageList,
    InstanceData,
    Instances,
    NestedTensor,
)
from tests.support.bounding_boxes import like_torchvision
from tests.support.compare import same

pytestmark = pytest.mark.timeout(100)

LOCAL = CassClient("local:")
SIZE, STRIDES, MAPS = (64, 64), (8, 16), [(8, 8), (4, 4)]
PICTURES = [(32, 48), (64, 64), (64, 24)]
"""Of images of 64 x 64 pixels, at their upper left."""
REGIONS = [(0, 0, 48, 32), (0, 0, 64, 64), (0, 0, 24, 64)]
CORNERS = [
    torch.tensor([[12.0, 8, 36, 16]]),
    torch.zeros(0, 4),
    torch.tensor([[2.0, 8, 18, 24], [0, 40, 24, 60]]),
]
CROWDS = [torch.tensor([[0.0, 0, 30, 30]]), torch.zeros(0, 4), torch.tensor([[0.0, 30, 20, 50]])]
IMAGES = torch.zeros(3, 3, *SIZE)


def with_crowds(index: int) -> tuple[Tensor, Tensor]:
    """Boxes of an image, crowds first, and their flags."""
    boxes = torch.cat([CROWDS[index], CORNERS[index]])
    return boxes, torch.arange(len(boxes)) < len(CROWDS[index])


def shares(boxes: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    scale = torch.tensor([size[1], size[0]] * 2)
    low, high = (boxes / scale).split(2, dim=1)
    return torch.cat([(low + high) / 2, high - low], dim=1)


def annotations(index: int) -> list[dict[str, Any]]:
    return [
        {"image_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(flag)}
        for (x1, y1, x2, y2), flag in zip(*map(Tensor.tolist, with_crowds(index)), strict=True)
    ]


def targets(flag: str = "iscrowd", **more: Any) -> list[dict[str, Any]]:
    made = []
    for i in range(3):
        boxes, flags = with_crowds(i)
        made.append({"boxes": boxes, flag: flags, **{key: value[i] for key, value in more.items()}})
    return made


def padding() -> Tensor:
    mask = torch.ones(3, *SIZE, dtype=torch.bool)
    for i, (height, width) in enumerate(PICTURES):
        mask[i, :height, :width] = False
    return mask


def found_in(batch: Any) -> tuple[Any, Any]:
    """Masks and weights, wherever they are."""
    if isinstance(batch, dict):
        return batch["masks"], batch["weights"]
    if isinstance(batch[-1], dict):
        found = ([torch.stack([sample[f"{key}_{level}"] for sample in batch]) for level in (0, 1)]
                 for key in ("masks", "weights"))  # fmt: skip
        return tuple(found)  # type: ignore[return-value]
    return batch[-2], batch[-1]


def expected(**options: Any) -> Any:
    return generate_mask(CORNERS, SIZE, MAPS, return_weights=True, **options)


ROWS = torch.cat([torch.full((len(with_crowds(i)[0]),), float(i)) for i in range(3)])
IGNORED: dict[str, Any] = {
    "iscrowd": (IMAGES, targets()),
    "ignore": (IMAGES, targets("ignore")),
    "COCO": (IMAGES, [annotations(i) for i in range(3)]),
    "in a dict": {"image": IMAGES, "annotations": [annotations(i) for i in range(3)]},
    "of a batch": {
        "image": IMAGES,
        "boxes": [with_crowds(i)[0] for i in range(3)],
        "iscrowd": [with_crowds(i)[1] for i in range(3)],
    },
    "torchvision": (
        IMAGES,
        [{**t, "boxes": like_torchvision(t["boxes"], "XYXY", canvas_size=SIZE)} for t in targets()],
    ),
    "Hugging Face": {
        "pixel_values": IMAGES,
        "labels": [{**t, "boxes": shares(t["boxes"]), "class_labels": None} for t in targets()],
    },
    "ultralytics": {
        "img": IMAGES,
        "bboxes": torch.cat([shares(with_crowds(i)[0]) for i in range(3)]),
        "batch_idx": ROWS,
        "iscrowd": torch.cat([with_crowds(i)[1] for i in range(3)]),
    },
    "mmdet": {
        "inputs": list(IMAGES),
        "data_samples": [
            DetDataSample(InstanceData(boxes), InstanceData(Boxes(crowd)), SIZE)
            for boxes, crowd in zip(CORNERS, CROWDS, strict=True)
        ],
    },
    "detectron2": [
        {"image": IMAGES[i], "instances": Instances(Boxes(with_crowds(i)[0]), SIZE),
         "iscrowd": with_crowds(i)[1]}
        for i in range(3)
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", IGNORED)
def test_crowds_are_ignored_regions(form: str) -> None:
    into: Any = "targets" if form == "detectron2" else "batch"
    make = MaskTargets(LOCAL, strides=STRIDES, return_weights=True, into=into)
    masks, weights = found_in(make(IGNORED[form]))
    answer = expected(ignore=CROWDS)
    assert any((level == 0).any() for level in answer[1])  # they do something
    torch.testing.assert_close(masks, answer[0])
    same(weights, answer[1])
    off = MaskTargets(LOCAL, strides=STRIDES, return_weights=True, into=into, ignore_crowds=False)
    same(found_in(off(IGNORED[form]))[1], expected()[1])


PADDED: dict[str, tuple[Any, dict[str, Any]]] = {
    "NestedTensor": ((NestedTensor(IMAGES, padding()), targets()), {}),
    "pixel_mask": (
        {"image": IMAGES, "targets": targets(), "pixel_mask": (~padding()).long()},
        {},
    ),
    "shares of the picture": (
        (
            NestedTensor(IMAGES, padding()),
            [{**t, "boxes": shares(t["boxes"], PICTURES[i])} for i, t in enumerate(targets())],
        ),
        {"box_format": "cxcywh", "normalized": True},
    ),
    "ImageList": ((ImageList(IMAGES, PICTURES), targets()), {}),
    "size": ((IMAGES, targets(size=torch.tensor(PICTURES))), {}),
    "canvas": (
        (
            IMAGES,
            [{**t, "boxes": like_torchvision(t["boxes"], "XYXY", canvas_size=PICTURES[i])}
             for i, t in enumerate(targets())],
        ),
        {},
    ),
    "mmdet": (
        {
            "inputs": list(IMAGES),
            "data_samples": [
                DetDataSample(InstanceData(b), InstanceData(c), size)
                for b, c, size in zip(CORNERS, CROWDS, PICTURES, strict=True)
            ],
        },
        {},
    ),
    "detectron2": (
        [
            {"image": IMAGES[i], "instances": Instances(Boxes(with_crowds(i)[0]), PICTURES[i]),
             "iscrowd": with_crowds(i)[1]}
            for i in range(3)
        ],
        {"into": "targets"},
    ),
    "a function": (
        "anything",
        {"boxes": lambda _: (CORNERS, [SIZE] * 3, {"ignore": CROWDS, "valid_region": REGIONS})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", PADDED)
def test_padding_weighs_nothing(form: str) -> None:
    batch, options = PADDED[form]
    if form == "a function":
        batch = (batch,)
    spec = WeightSpec("object", 0.25)
    make = MaskTargets(LOCAL, strides=STRIDES, weight_spec=spec, **options)
    masks, weights = found_in(make(batch))
    answer = expected(ignore=CROWDS, valid_region=REGIONS, weight_spec=spec)
    torch.testing.assert_close(masks, answer[0])
    torch.testing.assert_close(weights, answer[1])
    off = MaskTargets(LOCAL, strides=STRIDES, weight_spec=spec, ignore_padding=False, **options)
    answer = expected(ignore=CROWDS, weight_spec=spec)
    torch.testing.assert_close(found_in(off(batch))[1], answer[1])


@pytest.mark.parametrize("stride", [8, STRIDES])
def test_samples_and_a_worker(stride: Any) -> None:
    """One padded sample with a crowd, whose weights are written down by hand at a stride of 8."""
    mask = torch.zeros(64, 64)
    mask[:32, :48] = 1
    boxes = torch.tensor([[0.0, 0, 16, 64], [8, 8, 24, 24]])
    sample = {"image": IMAGES[0], "boxes": boxes, "iscrowd": [1, 0], "pixel_mask": mask}
    collate = MaskCollate(LOCAL, strides=stride, return_weights=True)
    (batch,) = DataLoader([sample], collate_fn=collate, num_workers=1)
    if isinstance(stride, tuple):
        assert [w.shape for w in batch["weights"]] == [m.shape for m in batch["masks"]]
        assert len(batch["weights"]) == 2
        return
    o, i = 0.0, 1.0
    picture = [
        [o, o, i, i, i, i, o, o],
        [o, i, i, i, i, i, o, o],  # the box is in columns 1 and 2, and wins over the crowd
        [o, i, i, i, i, i, o, o],
        [o, o, i, i, i, i, o, o],
    ]
    assert batch["weights"].tolist() == [picture + [[o] * 8] * 4]
    assert batch["weights"].dtype == torch.float32


def test_the_picture_of_an_image_that_is_padding_alone() -> None:
    """Such as one that fills a batch up; its boxes are shares of the whole image."""
    nested = NestedTensor(IMAGES[:1], torch.ones(1, *SIZE, dtype=torch.bool))
    make = MaskTargets(LOCAL, strides=8, return_weights=True, box_format="cxcywh", normalized=True)
    *_, masks, weights = make((nested, [{"boxes": shares(CORNERS[0])}]))
    torch.testing.assert_close(masks, generate_mask(CORNERS[:1], SIZE, (8, 8)))
    assert not weights.any()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_of_a_padded_batch(reduction: Any) -> None:
    """It is that of the pictures one by one, and nothing pulls at padding, whatever is there."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 8, 8, generator=generator)
    logits[0, 6, 6] = torch.nan
    logits.requires_grad_()
    make = MaskTargets(LOCAL, strides=8, return_weights=True)
    batch = NestedTensor(IMAGES, padding()), [{"boxes": boxes} for boxes in CORNERS]
    *_, masks, weights = make(batch)
    loss = MaskLoss(LossSpec(reduction=reduction))(logits, masks, weights=weights)
    loss.backward()  # type: ignore[no-untyped-call]
    total, count = 0.0, 0
    single = MaskLoss(LossSpec(reduction="sum"))
    for i, (height, width) in enumerate(PICTURES):
        rows, columns = height // 8, width // 8
        mask = generate_mask([CORNERS[i]], (height, width), (rows, columns))
        total += single(logits.detach()[i : i + 1, :rows, :columns], mask).item()
        count += rows * columns
    assert loss.item() == pytest.approx(total / (count if reduction == "mean" else 1), rel=1e-5)
    assert logits.grad is not None
    outside = weights == 0
    assert outside.sum() == 3 * 64 - count
    assert not logits.grad[outside].any()
    assert logits.grad[~outside].all()


def test_levels_go_to_the_loss_as_they_come() -> None:
    make = MaskTargets(LOCAL, strides=STRIDES, weight_spec=WeightSpec("object"))
    *_, masks, weights = make((IMAGES, targets()))
    logits = [torch.zeros(mask.shape, requires_grad=True) for mask in masks]
    value = MaskLoss(LossSpec(kind="bce"))(logits, masks, weights=weights)
    assert value.item() == pytest.approx(np.log(2))  # of all targets alike, at a logit of 0
    value.backward()
    for level, weight in zip(logits, weights, strict=True):
        assert ((level.grad == 0) == (weight == 0)).all()  # type: ignore[operator]


def test_where_weights_go() -> None:
    batch = {"image": IMAGES, "targets": targets()}
    options: dict[str, Any] = {"return_weights": True, "key": "m", "weights_key": "w"}
    made = MaskTargets(LOCAL, strides=8, **options)(batch)
    assert list(made) == ["image", "targets", "m", "w"]
    made = MaskTargets(LOCAL, strides=STRIDES, into="targets", **options)(batch)
    assert list(made["targets"][0])[2:] == ["m_0", "m_1", "w_0", "w_1"]
    images, _, masks, weights = MaskTargets(LOCAL, strides=8, **options)([IMAGES, targets()])
    assert images is IMAGES
    assert masks.shape == weights.shape == (3, 8, 8)
    wrapped = MaskTargets(LOCAL, strides=8, **options).wrap([batch] * 2)
    assert ["w" in made for made in wrapped] == [True, True]


def test_a_server_gives_the_same(address: str) -> None:
    batch, _ = PADDED["NestedTensor"]
    with CassClient(address) as client:
        found = MaskTargets(client, strides=STRIDES, weight_spec=WeightSpec("object"))(batch)
    local = MaskTargets(LOCAL, strides=STRIDES, weight_spec=WeightSpec("object"))(batch)
    same(found[2:], local[2:])


def test_a_picture_as_large_as_the_image_but_moved() -> None:
    """As after a shift by 16 pixels, that is by two columns of patches."""
    given: Any = CORNERS[:1], [SIZE], {"valid_region": [(16, 0, 80, 64)]}
    make = MaskTargets(LOCAL, strides=8, return_weights=True, boxes=lambda _: given)
    *_, weights = make(("anything",))
    assert weights.tolist() == [[[0.0] * 2 + [1.0] * 6] * 8]


# --- without weights ---


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What two batches warn of in a process that has not warned yet."""

    def warnings_of(batch: Any, **options: Any) -> list[str]:
        monkeypatch.setattr(warn, "_shown", set())
        make = MaskTargets(LOCAL, strides=8, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(make(batch)) == 3 + ("return_weights" in options)
            make(batch)
        return [str(warning.message) for warning in caught]

    return warnings_of


def test_background_is_never_silent(said: Any) -> None:
    batch, _ = PADDED["NestedTensor"]
    crowds, padded = said(batch)
    assert crowds.startswith("2 of 5 objects of a batch are crowds (iscrowd) or ignored, and ")
    assert padded.startswith("2 of 3 images of a batch are padded, and without weights the padding")
    assert said(batch, ignore_crowds=False) == [padded]
    assert said(batch, ignore_crowds=False, ignore_padding=False) == []
    assert said(batch, return_weights=True) == []
    assert said((IMAGES, [{"boxes": boxes} for boxes in CORNERS])) == []
    moved: Any = CORNERS, [SIZE] * 3, {"valid_region": [(0, 0, 64, 64)] * 2 + [(16, 0, 80, 64)]}
    (padded,) = said((IMAGES, 0), boxes=lambda _: moved)
    assert padded.startswith("1 of 3 images of a batch are padded, ")


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"weight_spec": "object"}, "weight_spec: must be a WeightSpec, got str"),
        ({"return_weights": "yes"}, "return_weights: must be True or False, got 'yes'"),
        ({"ignore_crowds": None}, "ignore_crowds: must be True or False, got None"),
        ({"ignore_padding": 2}, "ignore_padding: must be True or False, got 2"),
        ({"key": "weights"}, "weights_key: is 'weights', as the masks' is"),
        ({"weight_spec": WeightSpec("object"), "spec": MaskSpec(merge="sum")},
         "weight_spec.balance: object needs mask_spec.merge max"),
    ],
)  # fmt: skip
def test_bad_options(options: Any, error: str) -> None:
    for kind in (MaskCollate, MaskTargets):
        with pytest.raises(InvalidRequest) as caught:
            kind(LOCAL, strides=8, **options)
        assert str(caught.value) == error


GOOD = [[[8.0, 8, 24, 24]]]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"ignore": [[[8, 8, 4, 4]]]}, "ignore[0][0].x2: is smaller than x1; boxes are x1, y1, x2"),
        ({"ignore": [[1, 2, 3]]}, "ignore[0]: must have the shape [N, 4], got [3]"),
        ({"ignore": []}, "ignore: must be a list with one entry for each of 1 images"),
        ({"valid_region": 5}, "valid_region: must be a list with one entry for each of 1 images"),
        ({"valid_region": [(0, 0, 5)]}, "valid_region[0]: must be x1, y1, x2, y2 in pixels"),
        ({"valid_region": [(5, 0, 0, 5)]}, "valid_region[0]: must have x1 <= x2 and y1 <= y2, got"),
        ({"valid_region": [(0, 0, 5, float("nan"))]}, "valid_region[0]: must have x1 <= x2"),
        ({"region": 5}, "boxes: regions must be a dict with 'ignore' and 'valid_region' at most"),
        ([], "boxes: regions must be a dict with 'ignore' and 'valid_region' at most, got list"),
    ],
)
def test_bad_regions_of_a_function(given: Any, error: str) -> None:
    make = MaskTargets(LOCAL, strides=8, return_weights=True, boxes=lambda _: (GOOD, [SIZE], given))
    with pytest.raises(InvalidRequest) as caught:
        make(("anything",))
    assert str(caught.value).startswith(error)


def test_a_key_that_is_there_already() -> None:
    make = MaskTargets(LOCAL, strides=8, return_weights=True)
    with pytest.raises(InvalidRequest, match="key: the batch has a 'weights' already"):
        make({"image": IMAGES, "boxes": CORNERS, "weights": 1})
