"""MaskTargets on batches that are collated already, and where masks go."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections import UserDict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cass_client import CassClient, InvalidRequest
from cass_client.torch import MaskCollate, MaskTargets
from cass_core import generate_mask
from tests.client.support.library_objects import (
    Boxes,
    DetDataSample,
    InstanceData,
    Instances,
    NestedTensor,
)
from tests.support.compare import same

pytestmark = pytest.mark.timeout(100)

LOCAL = CassClient("local:")
SIZE, STRIDES = (32, 48), (8, 16)
MAPS = [(4, 6), (2, 3)]
CORNERS = [
    torch.tensor([[12.0, 8, 36, 16], [0, 4, 6, 32]]),
    torch.zeros(0, 4),
    torch.tensor([[8.0, 8, 24, 24]]),
]
# The same as shares of 32 x 48 pixels, centre and size.
SHARES = [
    torch.tensor([[0.5, 0.375, 0.5, 0.25], [0.0625, 0.5625, 0.125, 0.875]]),
    torch.zeros(0, 4),
    torch.tensor([[1 / 3, 0.5, 1 / 3, 0.5]]),
]
IMAGES = torch.zeros(3, 3, *SIZE)
EXPECTED = generate_mask(CORNERS, SIZE, MAPS)


def detr(**more: Any) -> list[dict[str, Any]]:
    return [{"boxes": boxes, "labels": torch.ones(len(boxes)), **more} for boxes in SHARES]


def labels(size: Any = SIZE) -> list[dict[str, Any]]:
    """As Hugging Face's processors make them."""
    return [
        {"boxes": boxes, "class_labels": torch.ones(len(boxes)), "size": torch.tensor(size)}
        for boxes in SHARES
    ]


def pixels() -> list[dict[str, Any]]:
    return [{"boxes": boxes} for boxes in CORNERS]


OWNERS = torch.cat([torch.full((len(boxes),), float(i)) for i, boxes in enumerate(SHARES)])
NORMALISED: dict[str, Any] = {"box_format": "cxcywh", "normalized": True}
BATCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "targets": ((IMAGES, pixels()), {}),
    "a list": ([IMAGES, pixels()], {}),
    "boxes": ((IMAGES, CORNERS), {}),
    "transposed": ((tuple(IMAGES), tuple(pixels())), {}),
    "DETR": ((IMAGES, detr()), NORMALISED),
    "nested": ((NestedTensor(IMAGES), detr()), NORMALISED),
    "a dict": ({"images": IMAGES, "targets": detr()}, NORMALISED),
    "a dict of lists": ({"image": IMAGES, "boxes": CORNERS}, {}),
    "crowds": (
        {
            "image": IMAGES,
            "boxes": [torch.cat([torch.tensor([[0.0, 0, 40, 30]]), boxes]) for boxes in CORNERS],
            "iscrowd": [torch.eye(len(boxes) + 1)[0] for boxes in CORNERS],
        },
        {},
    ),
    "key": ({"image": IMAGES, "bbox": CORNERS}, {"boxes": "bbox"}),
    "keys": ({"x": IMAGES, "y": detr()}, {**NORMALISED, "boxes": "y", "image": "x"}),
    "Hugging Face": ({"pixel_values": IMAGES, "labels": labels()}, {}),
    "of another kind": (UserDict(pixel_values=IMAGES, labels=labels()), {}),
    "ultralytics": ({"img": IMAGES, "bboxes": torch.cat(SHARES), "batch_idx": OWNERS}, {}),
    "mmdet": (
        {"inputs": list(IMAGES), "data_samples": [DetDataSample(InstanceData(b)) for b in CORNERS]},
        {},
    ),
    "detectron2": (
        [
            {"image": i, "instances": Instances(Boxes(b))}
            for i, b in zip(IMAGES, CORNERS, strict=True)
        ],
        {"into": "targets"},
    ),
    "a function": (("any", "thing"), {"boxes": lambda batch: (CORNERS, [SIZE] * 3)}),
}


def masks_in(batch: Any, key: str = "masks") -> list[Tensor]:
    """The masks of each level, wherever they are."""
    if isinstance(batch, dict | UserDict):
        found: list[Tensor] = batch[key]
        return found
    if isinstance(batch[-1], dict):
        return [torch.stack([sample[f"{key}_{level}"] for sample in batch]) for level in (0, 1)]
    last: list[Tensor] = batch[-1]
    return last


@pytest.mark.parametrize("name", BATCHES)
def test_batches(name: str) -> None:
    batch, options = BATCHES[name]
    before = copy.deepcopy(batch)
    make = MaskTargets(LOCAL, strides=STRIDES, **options)
    made = make(batch)
    assert type(made) is type(batch)
    same(masks_in(made), EXPECTED)
    assert str(batch) == str(before)  # as it was
    # The same from a worker's collation.
    collate = MaskCollate(LOCAL, strides=STRIDES, collate_fn=lambda _: batch, after=True, **options)
    same(masks_in(collate([None])), EXPECTED)


@pytest.mark.parametrize("name", ["targets", "ultralytics", "Hugging Face"])
def test_one_stride(name: str) -> None:
    batch, options = BATCHES[name]
    made = MaskTargets(LOCAL, strides=8, dtype="uint8", **options)(batch)
    same(masks_in(made), generate_mask(CORNERS, SIZE, (4, 6), dtype="uint8"))


# --- padding ---


def padded(sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Images of 64 x 64 pixels, and where they have none of their own."""
    padding = torch.ones(len(sizes), 64, 64, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        padding[i, :height, :width] = False
    return torch.zeros(len(sizes), 3, 64, 64), padding


PICTURES = [(32, 48), (64, 48), (48, 64)]


def in_pictures() -> Any:
    scaled = []
    for (height, width), (cx, cy, w, h) in zip(PICTURES, (b.T for b in SHARES), strict=True):
        corners = [(cx - w / 2) * width, (cy - h / 2) * height]
        scaled.append(torch.stack([*corners, corners[0] + w * width, corners[1] + h * height], 1))
    return generate_mask(scaled, (64, 64), [(8, 8), (4, 4)])


@pytest.mark.parametrize("form", ["DETR", "sizes", "Hugging Face"])
def test_shares_of_the_picture_in_a_padded_image(form: str) -> None:
    images, padding = padded(PICTURES)
    targets = labels() if form == "Hugging Face" else detr()
    if form != "DETR":
        targets = [{**t, "size": torch.tensor(s)} for t, s in zip(targets, PICTURES, strict=True)]
    batch: Any = (NestedTensor(images, padding), targets)
    if form == "Hugging Face":
        batch = {"pixel_values": images, "pixel_mask": (~padding).long(), "labels": targets}
    options = {} if form == "Hugging Face" else NORMALISED
    close(masks_in(MaskTargets(LOCAL, strides=STRIDES, **options)(batch)), in_pictures())


def test_shares_of_the_picture_in_a_list_of_padded_samples() -> None:
    """Each says itself where its picture is, whether they are read before or after collation."""
    images, padding = padded(PICTURES)
    samples = [
        {"image": image, "pixel_mask": (~mask).long(), "boxes": boxes}
        for image, mask, boxes in zip(images, padding, SHARES, strict=True)
    ]
    for after in (False, True):
        collate = MaskCollate(
            LOCAL, strides=STRIDES, collate_fn=list, into="targets", after=after, **NORMALISED
        )
        close(masks_in(collate(samples)), in_pictures())


CROWD = torch.tensor([[0.0, 0, 40, 30]])
CROWDS: list[Any] = [torch.eye(len(boxes) + 1)[0] for boxes in CORNERS]
BEFORE = [torch.cat([CROWD, boxes]) for boxes in CORNERS]  # a crowd first, in each image
BEFORE_SHARES = [torch.cat([torch.full((1, 4), 0.5), boxes]) for boxes in SHARES]
FLAGGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "targets": ({"targets": [{"boxes": boxes} for boxes in BEFORE]}, {}),
    "boxes": ({"targets": BEFORE}, {}),
    "user's key": ({"y": [{"boxes": boxes} for boxes in BEFORE]}, {"boxes": "y"}),
    "Hugging Face": (
        {"labels": [
            {"boxes": boxes, "class_labels": torch.ones(len(boxes))} for boxes in BEFORE_SHARES
        ]},
        {},
    ),
    "nested": ({"targets": [{"annotations": {"boxes": boxes}} for boxes in BEFORE]}, {}),
    "COCO": (
        {"annotations": [
            [{"image_id": 1, "bbox": [x, y, right - x, low - y]} for x, y, right, low in b.tolist()]
            for b in BEFORE
        ]},
        {},
    ),
    "mmdet": ({"data_samples": [DetDataSample(InstanceData(b)) for b in BEFORE]}, {}),
    "detectron2": ({"instances": [Instances(Boxes(b)) for b in BEFORE]}, {}),
    "ultralytics": (
        {
            "bboxes": torch.cat(BEFORE_SHARES),
            "batch_idx": torch.tensor([0.0, 0, 0, 1, 2, 2]),
            "iscrowd": torch.cat(CROWDS),
        },
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FLAGGED)
@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_flags_of_a_batch_beside_its_targets(form: str, flag: str) -> None:
    targets, options = FLAGGED[form]
    flags = targets.get("iscrowd", CROWDS)
    rest = {key: value for key, value in targets.items() if key != "iscrowd"}
    batch = {"image": IMAGES, **rest, flag: flags}
    same(masks_in(MaskTargets(LOCAL, strides=STRIDES, **options)(batch)), EXPECTED)


def test_flags_beside_a_target_that_is_empty() -> None:
    batch = {"image": IMAGES[:2], "targets": [{"image_id": 1}, {}], "iscrowd": [[], []]}
    same(MaskTargets(LOCAL, strides=8)(batch)["masks"], torch.zeros(2, 4, 6))


def test_labels_whose_flags_are_in_the_sample() -> None:
    target = {"boxes": BEFORE_SHARES[0], "class_labels": torch.ones(3)}
    sample = {"image": IMAGES[0], "labels": target, "iscrowd": CROWDS[0]}
    made = MaskCollate(LOCAL, strides=STRIDES, collate_fn=lambda _: {})([sample])["masks"]
    same(made, [level[:1] for level in EXPECTED])


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
@pytest.mark.parametrize(
    ("flags", "got"),
    [
        (torch.cat(CROWDS), "6 entries"),
        (CROWDS[:2], "2 entries"),
        (torch.tensor(1), "Tensor"),
        (True, "bool"),
    ],
)
def test_flags_that_fit_no_target_are_refused(flag: str, flags: Any, got: str) -> None:
    for targets in ({"boxes": BEFORE}, {"targets": [{"boxes": boxes} for boxes in BEFORE]}):
        with pytest.raises(InvalidRequest) as caught:
            MaskTargets(LOCAL, strides=8)({"image": IMAGES, **targets, flag: flags})
        assert str(caught.value) == f"{flag}: must have flags for each of 3 images, got {got}"


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    for first, second in zip(found, expected, strict=True):
        torch.testing.assert_close(first, second)


def test_shares_of_the_whole_padded_image() -> None:
    """As Hugging Face's processors leave them: 'size' is the padded size."""
    images, padding = padded(PICTURES)
    batch = {"pixel_values": images, "pixel_mask": (~padding).long(), "labels": labels((64, 64))}
    corners = [torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1) for b in SHARES]
    made = masks_in(MaskTargets(LOCAL, strides=STRIDES)(batch))
    close(made, generate_mask([c * 64 for c in corners], (64, 64), [(8, 8), (4, 4)]))


def test_a_letterbox() -> None:
    """The picture in the middle."""
    images, padding = torch.zeros(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    padding[0, 16:48, 8:56] = False
    batch = NestedTensor(images, padding), detr()[:1]
    made = masks_in(MaskTargets(LOCAL, strides=STRIDES, **NORMALISED)(batch))
    shifted = CORNERS[0] + torch.tensor([8, 16, 8, 16])
    close(made, generate_mask([shifted], (64, 64), [(8, 8), (4, 4)]))


def test_an_image_that_was_resized_after_its_labels() -> None:
    """Multi-scale training, without bringing 'size' up to date."""
    batch = {"pixel_values": torch.zeros(3, 3, 64, 96), "labels": labels()}
    with pytest.raises(InvalidRequest, match=r"boxes\[0\]: are shares of 32 x 48 pixels, as"):
        MaskTargets(LOCAL, strides=8)(batch)
    made = MaskTargets(LOCAL, strides=8, normalized=True)(batch)["masks"]
    close([made], [generate_mask([2 * c for c in CORNERS], (64, 96), (8, 12))])


# --- where masks go ---


def test_into_targets() -> None:
    targets = pixels()
    images, found = MaskTargets(LOCAL, strides=STRIDES, into="targets")((IMAGES, targets))
    assert images is IMAGES
    assert [list(target) for target in found] == [["boxes", "masks_0", "masks_1"]] * 3
    assert [list(target) for target in targets] == [["boxes"]] * 3  # a data set may keep them
    for level in (0, 1):
        same(torch.stack([target[f"masks_{level}"] for target in found]), EXPECTED[level])


def test_into_targets_of_a_dict_and_of_one_level() -> None:
    batch = {"pixel_values": IMAGES, "labels": tuple(labels())}
    collate = MaskCollate(
        LOCAL, (4, 6), key="cass", into="targets", collate_fn=lambda _: batch, after=True
    )
    made = collate([None])
    assert list(made) == ["pixel_values", "labels"]
    same(torch.stack([target["cass"] for target in made["labels"]]), EXPECTED[0])


def test_into_targets_before_they_are_collated() -> None:
    samples = [(image, target) for image, target in zip(IMAGES, pixels(), strict=True)]
    images, targets = MaskCollate(LOCAL, strides=8, into="targets")(samples)
    assert images.shape == IMAGES.shape
    same(torch.stack([target["masks"] for target in targets]), EXPECTED[0])
    assert list(samples[0][1]) == ["boxes"]


@pytest.mark.parametrize(
    ("batch", "options", "error"),
    [
        ({"image": IMAGES, "boxes": CORNERS, "masks": 1}, {},
         "key: the batch has a 'masks' already"),
        ((IMAGES, [*pixels()[:2], {**pixels()[2], "masks": 1}]), {"into": "targets"},
         "key: target 2 has a 'masks' already"),
        ((IMAGES, CORNERS), {"into": "targets"},
         "into: 'targets' needs a dict an image in the batch"),
        (IMAGES, {}, "collate_fn: must give a dict, a tuple or a list, got Tensor"),
        ((IMAGES,), {},
         "boxes: cannot be found in a batch of tuple; it must be a dict, (images, targets) or a "
         "list of samples, or boxes a function"),
        ((IMAGES, pixels()[:2]), {}, "boxes: has 2 entries, the batch 3 images"),
        ((IMAGES, 3), {}, "boxes: must be one target an image, got int"),
        ((IMAGES, {"boxes": CORNERS}), {},
         "boxes: must be a list with one target an image, got a dict"),
        (("text", pixels()), {},
         "image_size: cannot be read from str; images must be a tensor [B, C, H, W], a list of "
         "images, or an object with such tensors"),
        ((IMAGES[0, 0], pixels()), {},
         "image_size: cannot be read from images of the shape [32, 48], which must be "
         "[B, C, H, W]"),
        ({"pixels": IMAGES, "boxes": CORNERS}, {},
         "image_size: there is no key 'image'; the keys are: 'pixels', 'boxes'"),
        ((IMAGES, [*pixels()[:2], {"box": 1}]), {},
         "boxes[2]: there is no key 'boxes'; the keys are: 'box'"),
        ({"img": IMAGES, "bboxes": torch.cat(SHARES), "batch_idx": OWNERS[1:]}, {},
         "boxes.batch_idx: has 2 entries, but there are 3 boxes"),
        ({"img": IMAGES, "bboxes": torch.cat(SHARES), "batch_idx": OWNERS + 1}, {},
         "boxes.batch_idx: must be whole numbers below 3"),
        ((IMAGES, SHARES), {},
         "boxes[0]: and all others of the batch lie within [0, 1], though the image has 32 x 48 "
         "pixels: set normalized=True, and box_format where they are not xyxy, or "
         "normalized=False if these are pixels"),
    ],
)  # fmt: skip
def test_bad_batches(batch: Any, options: Any, error: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MaskTargets(LOCAL, strides=8, **options)(batch)
    assert str(caught.value) == error


def test_bad_place() -> None:
    with pytest.raises(InvalidRequest, match="into: must be 'batch' or 'targets', got 'labels'"):
        MaskTargets(LOCAL, strides=8, into="labels")  # type: ignore[arg-type]


# --- in a worker ---


class MultiScale:
    """A collate_fn with an epoch, as DEIM's: images are stacked, then resized together."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, samples: Any) -> Any:
        images, targets = zip(*samples, strict=True)
        side = 64 * (1 + self.epoch)
        resized = torch.nn.functional.interpolate(torch.stack(images), (side, side))
        return resized, list(targets)


def test_a_wrapped_collate_fn() -> None:
    inner = MultiScale()
    collate = MaskCollate(LOCAL, strides=STRIDES, collate_fn=inner, after=True, **NORMALISED)
    collate.set_epoch(1)
    assert (inner.epoch, collate.epoch) == (1, 1)
    assert f"MaskCollate(CassClient('local:'), strides={STRIDES}, MaskSpec(" in repr(collate)
    assert repr(inner) in repr(collate)
    with pytest.raises(AttributeError, match="no attribute 'stop_epoch'"):
        _ = collate.stop_epoch
    with pytest.raises(AttributeError, match="no attribute 'set_epoch'"):
        MaskCollate(LOCAL, strides=8).set_epoch(1)
    samples = list(zip(IMAGES, detr(), strict=True))
    for copied in (collate, pickle.loads(pickle.dumps(collate))):
        _, _, masks = copied(samples)
        assert [list(mask.shape) for mask in masks] == [[3, 16, 16], [3, 8, 8]]


# --- in a loop ---


def loader_of(epoch: int = 4) -> DataLoader[Any]:
    samples = list(zip(IMAGES, pixels(), strict=True)) * epoch
    return DataLoader(samples, 3, collate_fn=lambda s: tuple(map(list, zip(*s, strict=True))))


@pytest.mark.parametrize("ahead", [0, 2, 100])
def test_a_loop(ahead: int) -> None:
    loader = loader_of()
    wrapped = MaskTargets(LOCAL, strides=STRIDES).wrap(loader, ahead=ahead)
    assert len(wrapped) == 4
    assert wrapped.batch_size == 3
    assert wrapped.dataset is loader.dataset
    for _ in range(2):
        batches = list(wrapped)
        assert len(batches) == 4
        for *_, masks in batches:
            same(masks, EXPECTED)


class Recording(CassClient):
    """Keeps its futures, which end when they are let go."""

    def generate_mask_future(self, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if len(self.futures) < self.__dict__["answers"]:
            future.set_result(self.generate_mask(*args, **options))
        self.futures.append(future)
        return future

    @property
    def futures(self) -> list[Future[Any]]:
        found: list[Future[Any]] = self.__dict__.setdefault("kept", [])
        return found


def recording(answers: int) -> Recording:
    client = Recording("local:")
    client.__dict__["answers"] = answers
    return client


class Source:
    """A loader whose batches and whose end can be watched."""

    def __init__(self) -> None:
        self.read, self.ended = 0, threading.Event()

    def __iter__(self) -> Iterator[Any]:
        try:
            for _ in range(10):
                self.read += 1
                yield IMAGES.clone(), pixels()
        finally:
            self.ended.set()


def test_requests_are_ahead_of_the_loop_and_none_is_left() -> None:
    client, source = recording(answers=1), Source()
    batches = iter(MaskTargets(client, strides=8).wrap(source, ahead=2))
    images, _, masks = next(batches)
    same(masks, EXPECTED[0])
    assert source.read == len(client.futures) == 3
    kept = weakref.ref(images)
    batches.close()  # type: ignore[attr-defined]
    assert source.ended.is_set()
    assert [future.cancelled() for future in client.futures] == [False, True, True]
    del images, masks
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("how", ["break", "error"])
def test_a_loop_that_is_broken_off_starts_again(how: str) -> None:
    client, source = recording(answers=100), Source()
    wrapped = MaskTargets(client, strides=8).wrap(source)
    for _ in range(3):
        source.ended.clear()
        try:
            for _batch in wrapped:
                if how == "error":
                    raise KeyError
                break
        except KeyError:
            pass
        gc.collect()
        assert source.ended.is_set()
    assert len(client.futures) == 9
    assert len(list(wrapped)) == 10


class Broken:
    """A loader of two batches and an error."""

    def __iter__(self) -> Iterator[Any]:
        yield from [(IMAGES, pixels())] * 2
        raise OSError("the disk is gone")


@pytest.mark.parametrize("ahead", [0, 1, 2, 100])
@pytest.mark.parametrize(
    ("loader", "error"),
    [
        (
            [(IMAGES, pixels()), (IMAGES, pixels()), (IMAGES, pixels()[:2]), (IMAGES, pixels())],
            pytest.raises(InvalidRequest, match="has 2 entries, the batch 3 images"),
        ),
        (Broken(), pytest.raises(OSError, match="the disk is gone")),
    ],
    ids=["batch", "loader"],
)
def test_an_error_ends_the_loop_after_all_batches_before_it(
    loader: Any, error: Any, ahead: int
) -> None:
    batches = iter(MaskTargets(LOCAL, strides=8).wrap(loader, ahead=ahead))
    for _ in range(2):
        same(next(batches)[-1], EXPECTED[0])
    with error:
        next(batches)
    assert list(batches) == []


@pytest.mark.parametrize("ahead", [-1, 1025, 1.5, True, "2"])
def test_bad_ahead(ahead: Any) -> None:
    with pytest.raises(InvalidRequest, match="ahead: must be a whole number from 0 to 1024"):
        MaskTargets(LOCAL, strides=8).wrap([], ahead=ahead)
