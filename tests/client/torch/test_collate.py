"""MaskCollate on the samples that detection sets give, and the batches it makes of them."""

from __future__ import annotations

import pickle
import warnings
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cass_client import AsyncCassClient, CassClient, InvalidRequest, MaskSpec
from cass_client.torch import MaskCollate
from cass_core import generate_mask
from cass_core.checks import warn
from tests.server.support.observed import scrape, value
from tests.support.compare import same
from tests.support.servers import serving

pytestmark = pytest.mark.timeout(100)

LOCAL = CassClient("local:")
SPEC = MaskSpec(patch_size=1)
MAP = (4, 6)
# Two images of different sizes, 32 x 48 and 40 x 64 pixels; the third has no boxes.
SIZES = [(32, 48), (40, 64), (32, 48)]
BOXES = [[(8.0, 8.0, 24.0, 20.0), (0.0, 1.0, 5.0, 9.0)], [(30.0, 4.0, 62.0, 30.0)], []]
BBOXES = [[(8, 8, 16, 12), (0, 1, 5, 8)], [(30, 4, 32, 26)], []]
Named = namedtuple("Named", ["images", "targets"])


def expected(feature_map: Any = MAP, boxes: Any = BOXES, sizes: Any = SIZES, **options: Any) -> Any:
    tensors = [torch.tensor(b).reshape(-1, 4) for b in boxes]
    return generate_mask(tensors, sizes, feature_map, SPEC, **options)


def image(size: tuple[int, int]) -> Tensor:
    return torch.zeros(3, *size)


IMAGE = image(SIZES[0])


def coco(bboxes: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": 7, "category_id": 1, "bbox": list(bbox), "area": 1.0, "iscrowd": 0}
        for bbox in bboxes
    ]


def transposed(samples: Any) -> tuple[Any, ...]:
    """The collate_fn of torchvision's references."""
    return tuple(zip(*samples, strict=True))


def collate(**options: Any) -> MaskCollate:
    return MaskCollate(LOCAL, MAP, SPEC, **{"collate_fn": transposed, **options})


# --- samples ---


FORMS: dict[str, Any] = {
    "lists": list,
    "arrays": lambda b: np.array(b).reshape(-1, 4),
    "tensors": lambda b: torch.tensor(b).reshape(-1, 4),
    "ints": lambda b: torch.tensor(b, dtype=torch.int64).reshape(-1, 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_a_target(form: str) -> None:
    pairs = [(image(s), {"boxes": FORMS[form](b)}) for s, b in zip(SIZES, BOXES, strict=True)]
    images, targets, masks = collate()(pairs)
    assert list(map(id, images)) == [id(pair[0]) for pair in pairs]
    assert list(map(id, targets)) == [id(pair[1]) for pair in pairs]
    same(masks, expected())


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        ([torch.tensor(b).reshape(-1, 4) for b in BOXES], {}),
        ([coco(b) for b in BBOXES], {}),
        ([{"image_id": 1, "annotations": coco(b)} for b in BBOXES], {"boxes": "annotations"}),
    ],
    ids=["boxes", "COCO", "COCO in a dict"],
)
def test_other_targets(targets: list[Any], options: dict[str, Any]) -> None:
    samples = [(image(s), target, 5) for s, target in zip(SIZES, targets, strict=True)]
    batch = collate(**options)(samples)
    assert len(batch) == 4
    same(batch[-1], expected())


@pytest.mark.parametrize("row", [list, tuple, np.array, torch.tensor, np.float32, torch.HalfTensor])
def test_numbers_of_any_kind(row: Any) -> None:
    annotations = [{**a, "bbox": row(a["bbox"])} for a in coco(BBOXES[0])]
    same(collate()([(IMAGE, annotations)])[-1], expected(boxes=BOXES[:1], sizes=SIZES[:1]))


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning has been given in this process."""
    monkeypatch.setattr(warn, "_shown", set())


def warnings_of(make: MaskCollate, samples: Any) -> tuple[list[str], Any]:
    """The warnings of two batches, and the second one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(samples)
        batch = make(samples)
    return [str(warning.message) for warning in caught], batch


LEFT_OUT = (
    "1 of 2 objects of a batch are crowds (iscrowd) or ignored, and without weights their patches "
    "are background: return_weights=True has them weigh 0, for MaskLoss(weights=...), and "
    "ignore_crowds=False says that background is meant"
)


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
@pytest.mark.parametrize("flag", [1, True, 1.0, np.True_, np.int64(1), torch.tensor(1)])
def test_crowds_and_ignored_objects_are_left_out(unsaid: None, key: str, flag: Any) -> None:
    """Which is said once."""
    annotations = coco(BBOXES[0])
    annotations[0][key] = flag
    said, batch = warnings_of(collate(), [(IMAGE, annotations)])
    same(batch[-1], expected(boxes=[BOXES[0][1:]], sizes=SIZES[:1]))
    assert said == [LEFT_OUT]


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
@pytest.mark.parametrize("boxes", [list, np.array, torch.tensor])
@pytest.mark.parametrize("flags", [list, np.array, torch.tensor])
def test_flags_beside_boxes(unsaid: None, key: str, boxes: Any, flags: Any) -> None:
    """Of a target as torchvision's references make it, and of a sample."""
    target = {"boxes": boxes(BOXES[0]), key: flags([1, 0])}
    alone = expected(boxes=[BOXES[0][1:]], sizes=SIZES[:1])
    said, batch = warnings_of(collate(), [(IMAGE, target)])
    same(batch[-1], alone)
    assert said == [LEFT_OUT]
    sample = {"image": IMAGE, **target}
    same(collate(collate_fn=lambda _: {})([sample])["masks"], alone)


@pytest.mark.parametrize("boxes", [BOXES[0], torch.tensor(BOXES[0]), [], None, torch.zeros(0)])
def test_flags_that_leave_nothing_out(boxes: Any) -> None:
    count = 0 if boxes is None else len(boxes)
    for flags in (torch.zeros(count, dtype=torch.int64), [False] * count, None):
        masks = collate()([(IMAGE, {"boxes": boxes, "iscrowd": flags, "ignore": flags})])[-1]
        same(masks, expected(boxes=[BOXES[0][:count]], sizes=SIZES[:1]))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["1", 0], "[0].iscrowd: must be 0 or 1, got '1'"),
        ([0, 2], "[1].iscrowd: must be 0 or 1, got 2"),
        *(
            (flags, ".iscrowd: must be 0 or 1 for each of 2 boxes")
            for flags in (0, "10", b"10", torch.tensor(0), [0], torch.zeros(3), {0, 1})
        ),
    ],
)
def test_flags_that_are_none_are_refused(flags: Any, text: str) -> None:
    assert refused((IMAGE, {"boxes": BOXES[0], "iscrowd": flags})) == f"boxes[1]{text}"


@pytest.mark.parametrize("flag", [0, False, None, 0.0, np.False_, torch.tensor(0)])
def test_what_is_no_crowd_stays(flag: Any) -> None:
    annotations = [{**a, "iscrowd": flag, "ignore": flag} for a in coco(BBOXES[0])]
    same(collate()([(IMAGE, annotations)])[-1], expected(boxes=BOXES[:1], sizes=SIZES[:1]))


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
@pytest.mark.parametrize("flag", ["0", "False", "", "1", b"0", 2, -1, 0.5, [0], float("nan")])
def test_what_is_no_truth_value_is_refused(key: str, flag: Any) -> None:
    annotations = coco(BBOXES[0])
    annotations[1][key] = flag
    text = f"boxes[1][1].{key}: must be 0 or 1, got {flag!r}"
    assert refused((IMAGE, annotations)) == text


def test_boxes_without_a_patch_are_counted_once(unsaid: None) -> None:
    """Of maps of 8 x 12 and 4 x 6 cells on 32 x 48 pixels, cut into patches of 4 x 4 cells."""
    boxes = [(0.0, 0.0, 15.0, 15.0), (1.0, 1.0, 4.0, 4.0), (20.0, 20.0, 22.0, 22.0)]
    pairs = [(IMAGE, boxes), (IMAGE, []), (IMAGE, boxes[:1])]
    make = MaskCollate(LOCAL, [(8, 12), (4, 6)], MaskSpec(patch_size=4), collate_fn=transposed)
    assert warnings_of(make, pairs)[0] == [
        "4 of 4 boxes have no patch: patch_size is 4, so that the feature map of 4 x 6 cells has "
        "1 x 2 patches; patch_size=1 makes each cell one"
    ]


def test_boxes_of_no_level_are_counted(unsaid: None) -> None:
    """Of maps with patches of 16 and 32 pixels; a box has none of the level that it is not of."""
    boxes = [(0.0, 0.0, 15.0, 15.0), (8.0, 8.0, 32.0, 32.0), (0.0, 0.0, 16.0, 31.0)]
    maps, ranges = [(8, 12), (4, 6)], ((0, 16), (16, 64))
    spec = MaskSpec(patch_size=4, level_ranges=ranges)
    make = MaskCollate(LOCAL, maps, spec, collate_fn=transposed)
    assert warnings_of(make, [(IMAGE, boxes)])[0] == []
    lost = [(20.0, 20.0, 22.0, 22.0), (0.0, 0.0, 48.0, 8.0)]
    assert warnings_of(make, [(IMAGE, [*boxes, *lost])])[0] == [
        "2 of 5 boxes have no patch: patch_size is 4, and level_ranges leave each box to some of "
        "the feature maps; patch_size=1 makes each cell one"
    ]


def test_small_boxes_need_no_warning_where_a_cell_is_a_patch(unsaid: None) -> None:
    collate()([(IMAGE, [(2.0, 2.0, 2.0, 2.0)])])


@pytest.mark.parametrize("keys", [("boxes", "image"), ("bbox", "pixels")])
def test_dicts(keys: tuple[str, str]) -> None:
    boxes, picture = keys
    samples = [{picture: image(s), boxes: b} for s, b in zip(SIZES, BOXES, strict=True)]
    make = collate(boxes=boxes, image=picture, collate_fn=lambda samples: {"n": len(samples)})
    batch = make(samples)
    assert list(batch) == ["n", "masks"]
    same(batch["masks"], expected())


def test_a_function() -> None:
    pairs = [f"{h}x{w}" for h, w in SIZES]

    def read(sample: str) -> tuple[Any, Any]:
        h, w = map(int, sample.split("x"))
        return BOXES[0], (h, w)

    batch = collate(boxes=read, collate_fn=lambda samples: (samples,))(pairs)
    assert batch[0] is pairs
    same(batch[1], expected(boxes=[BOXES[0]] * 3))


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(3, 32, 48),
        torch.zeros(32, 48),
        torch.zeros(1, 32, 48, dtype=torch.uint8),
        torch.zeros(12, 32, 48),  # more channels than one sees
        np.zeros((32, 48, 3), np.uint8),
        np.zeros((32, 48)),
        np.zeros((32, 48, 12)),
        Image.new("RGB", (48, 32)),
    ],
    ids=lambda picture: f"{type(picture).__name__}{list(getattr(picture, 'shape', []))}",
)
def test_size_of_an_image(picture: Any) -> None:
    masks = collate()([(picture, BOXES[0])])[-1]
    same(masks, expected(boxes=BOXES[:1], sizes=SIZES[:1]))


def refused(sample: Any, **options: Any) -> str:
    """The error of a batch whose second sample is this one, the first being good."""
    good: Any = (image(SIZES[0]), {"boxes": BOXES[0]})
    if isinstance(sample, dict):
        good = {"image": image(SIZES[0]), "boxes": BOXES[0]}
    with pytest.raises(InvalidRequest) as caught:
        collate(**options)([good, sample])
    return str(caught.value)


KITTI = {"type": "Car", "truncated": 0.0, "bbox": [8.0, 8.0, 24.0, 20.0]}


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (
            IMAGE,
            "boxes[1]: cannot be found in a Tensor; a sample must be a dict or (image, target), "
            "or boxes a function",
        ),
        ({"image": IMAGE}, "boxes[1]: there is no key 'boxes'; the keys are: 'image'"),
        ((IMAGE, {"labels": 1}), "boxes[1]: there is no key 'boxes'; the keys are: 'labels'"),
        ({}, "boxes[1]: there is no key 'boxes'; the keys are: none"),
        ((IMAGE, {"boxes": [(8, 8, 2, 9)]}),
         "boxes[1][0].x2: is smaller than x1; boxes are x1, y1, x2, y2; set box_format if these "
         "are not, and normalized=True for shares of the image"),
        ((IMAGE, {"boxes": torch.zeros(2, 5)}), "boxes[1]: must have the shape [N, 4], got [2, 5]"),
        ((IMAGE, 3),
         "boxes[1]: cannot be read from int; write boxes=FUNCTION, which gives xyxy boxes and "
         "(H, W)"),
        ((IMAGE, {"boxes": torch.tensor(3), "iscrowd": [1]}),
         "boxes[1]: must have the shape [N, 4], got []"),
        ((IMAGE, {"boxes": [(1, 2, 3), (1, 2, 3, 4)], "iscrowd": [0, 0]}),
         "boxes[1]: must be an array of numbers of the shape [N, 4]"),
        ((IMAGE, [KITTI]),
         "boxes[1][0]: is not a COCO annotation, which has an image_id and a bbox"),
        *(
            ((IMAGE, [{"image_id": 7, "bbox": bbox}]),
             "boxes[1][0].bbox: must be four numbers: x, y, width, height")
            for bbox in (
                (), None, "1234", b"1234", bytearray(4), 5, [1, 2, 3, "four"], {"x": 1},
                {1, 2, 3, 4}, ["20", "20", "30", "30"], [b"2"] * 4, [True] * 4, [np.True_] * 4,
                [1j] * 4, np.ones(4, bool), torch.ones(4, dtype=torch.bool), torch.ones(1, 4),
                [10**400] * 4, np.ma.masked_equal([1.0, 2.0, 3.0, 4.0], 4.0),
            )
        ),
        ((IMAGE, [{"image_id": 7}]), "boxes[1][0].bbox: must be four numbers: x, y, width, height"),
        ((IMAGE, coco([(1, 2, 3, 4), (1, 2, 3)])),
         "boxes[1][1].bbox: must be four numbers: x, y, width, height"),
        ((IMAGE, coco([(1, 2, -3, 4)])), "boxes[1][0].bbox: has a negative width or height"),
        ((IMAGE, coco([(1, 2, float("nan"), 4)])), "boxes[1][0].x2: is not finite (nan)"),
        ({"boxes": BOXES[0]}, "image_size[1]: there is no key 'image'; the keys are: 'boxes'"),
        (
            {"image": None, "boxes": BOXES[0]},
            "image_size[1]: cannot be read from NoneType; an image must be a tensor, an array "
            "or of PIL",
        ),
        (
            (torch.zeros(32, 48, 3), BOXES[0]),
            "image_size[1]: cannot be read from an image of the shape [32, 48, 3]; "
            "a tensor must be CHW",
        ),
        (
            (np.zeros((3, 32, 48)), BOXES[0]),
            "image_size[1]: cannot be read from an image of the shape [3, 32, 48]; "
            "a NumPy array must be HWC",
        ),
        (
            (torch.zeros(1, 3, 32, 48), BOXES[0]),
            "image_size[1]: cannot be read from an image of the shape [1, 3, 32, 48]; "
            "a tensor must be CHW",
        ),
        ((torch.zeros(3, 0, 48), BOXES[0]),
         "image_size[1]: must be two whole numbers from 1 to 2147483647, got (0, 48)"),
    ],
)  # fmt: skip
def test_bad_samples_are_named(sample: Any, text: str) -> None:
    assert refused(sample) == text


def test_a_function_that_gives_something_else() -> None:
    text = refused((IMAGE, []), boxes=lambda sample: None if not sample[1] else ([], (8, 8)))
    assert text == (
        "boxes[1]: the function must give boxes and (H, W), and perhaps a dict of regions, got "
        "NoneType"
    )


# --- masks ---


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "uint8", torch.bfloat16, torch.float16]
)
def test_dtypes(dtype: Any) -> None:
    pairs = [(image(s), b) for s, b in zip(SIZES, BOXES, strict=True)]
    masks = collate(dtype=dtype)(pairs)[-1]
    same(masks, expected(dtype=dtype))
    masks.zero_()  # it can be written to


def test_several_feature_maps() -> None:
    pairs = [(image(s), b) for s, b in zip(SIZES, BOXES, strict=True)]
    maps = [(8, 12), (4, 6), (2, 3)]
    masks = MaskCollate(LOCAL, maps, SPEC, collate_fn=transposed)(pairs)[-1]
    same(masks, expected(maps))
    assert [list(mask.shape) for mask in masks] == [[3, 8, 12], [3, 4, 6], [3, 2, 3]]


def test_one_request_a_batch() -> None:
    maps = [(8, 12), (4, 6), (2, 3)]
    pairs = [(image(s), b) for s, b in zip(SIZES, BOXES, strict=True)]
    with serving("--metrics-port", "0") as server, CassClient(server.address) as client:
        make = pickle.loads(pickle.dumps(MaskCollate(client, maps, SPEC, dtype=torch.bfloat16)))
        for first in range(2):
            masks = make(pairs[first : first + 1])[-1]
            wanted = {"boxes": BOXES[first : first + 1], "sizes": SIZES[first : first + 1]}
            same(masks, expected(maps, dtype="bfloat16", **wanted))
            masks[0].zero_()
        asked = value(scrape(server), "cass_requests_total", method="GenerateMask", code="OK")
    assert asked == 2


# --- batches ---


def test_tuples_as_collated_by_default() -> None:
    picture = torch.arange(3.0 * 32 * 48).reshape(3, 32, 48)
    targets = [{"boxes": BOXES[0]}, {"boxes": []}]
    samples = [
        (picture, targets[0], 5, "a.jpg", torch.tensor([1, 2])),
        (-picture, targets[1], 6, "b.jpg", torch.tensor([3])),
    ]
    batch = MaskCollate(LOCAL, MAP, SPEC)(samples)
    assert type(batch) is tuple
    images, found, numbers, names, labels, masks = batch
    same(images, torch.stack([picture, -picture]))
    assert found == targets
    same(numbers, torch.tensor([5, 6]))
    assert names == ["a.jpg", "b.jpg"]
    same(labels, [torch.tensor([1, 2]), torch.tensor([3])])
    same(masks, expected(boxes=[BOXES[0], []], sizes=SIZES[:1] * 2))


def test_dicts_as_collated_by_default() -> None:
    samples = [
        {"image": np.zeros((32, 48, 3), np.uint8), "boxes": torch.tensor(BOXES[0]),
         "labels": np.array([1, 2]), "id": 5, "weight": np.float32(0.5)},
        {"image": np.ones((32, 48, 3), np.uint8), "boxes": torch.tensor(BOXES[1]),
         "labels": np.array([3]), "id": 6, "weight": np.float32(1.5)},
    ]  # fmt: skip
    batch = MaskCollate(LOCAL, MAP, SPEC, key="context")(samples)
    assert list(batch) == ["image", "boxes", "labels", "id", "weight", "context"]
    same(batch["image"], torch.stack([torch.zeros(32, 48, 3), torch.ones(32, 48, 3)]).byte())
    same(batch["boxes"], [torch.tensor(BOXES[0]), torch.tensor(BOXES[1])])
    same(batch["labels"], [np.array([1, 2]), np.array([3])])
    same(batch["id"], torch.tensor([5, 6]))
    same(batch["weight"], torch.tensor([0.5, 1.5]))
    same(batch["context"], expected(boxes=BOXES[:2], sizes=SIZES[:1] * 2))


@pytest.mark.parametrize("image_key", ["image", "pixel_values", "img"])
def test_images_are_stacked_whatever_they_are_called(image_key: str) -> None:
    batch = MaskCollate(LOCAL, MAP, SPEC)([{image_key: IMAGE, "boxes": BOXES[0]}] * 2)
    assert batch[image_key].shape == (2, 3, 32, 48)
    same(batch["masks"], expected(boxes=BOXES[:1] * 2, sizes=SIZES[:1] * 2))


def test_what_stays_a_list_does_not_depend_on_its_lengths() -> None:
    sample = {"image": IMAGE, "boxes": torch.tensor(BOXES[0]), "labels": torch.tensor([1, 2])}
    batch = MaskCollate(LOCAL, MAP, SPEC)([sample, sample])
    assert type(batch["labels"]) is list
    assert type(batch["boxes"]) is list


def test_pil_images_stay_a_list() -> None:
    pictures = [Image.new("RGB", (48, 32)), Image.new("L", (64, 40))]
    images, _, masks = MaskCollate(LOCAL, MAP, SPEC)(list(zip(pictures, BOXES[:2], strict=True)))
    assert images == pictures
    same(masks, expected(boxes=BOXES[:2], sizes=SIZES[:2]))


def test_a_list() -> None:
    """What torch's own collation makes of tuples."""
    alike = [(image(SIZES[0]), torch.tensor(len(b))) for b in BOXES]
    boxes_of = iter(BOXES)
    made = collate(
        collate_fn=torch.utils.data.default_collate, boxes=lambda _: (next(boxes_of), SIZES[0])
    )
    images, numbers, masks = made(alike)
    assert images.shape[0] == numbers.shape[0] == 3
    same(masks, expected(boxes=BOXES, sizes=[SIZES[0]] * 3))


@pytest.mark.parametrize(
    "target", [{"image_id": 7}, {}, None, [], {"boxes": None}, {"boxes": torch.zeros(0)}]
)
def test_an_image_without_annotations(target: Any) -> None:
    """The first one is torchvision's, which wraps a COCO set."""
    pairs = [(IMAGE, target), (IMAGE, {"boxes": BOXES[0]})]
    for batch in (pairs, pairs[:1]):
        _, targets, masks = collate()(batch)
        assert targets[0] is target
        same(masks, expected(boxes=[[], BOXES[0]][: len(batch)], sizes=SIZES[:1] * len(batch)))


def test_a_dict_of_another_kind() -> None:
    pairs = [(image(s), b) for s, b in zip(SIZES, BOXES, strict=True)]
    batch = collate(collate_fn=lambda samples: UserDict(n=len(samples)))(pairs)
    assert type(batch) is UserDict
    assert batch["n"] == 3
    same(batch["masks"], expected())


@pytest.mark.parametrize(
    ("collate_fn", "text"),
    [
        (lambda samples: samples[0][0],
         "collate_fn: must give a dict, a tuple or a list, got Tensor"),
        (lambda samples: Named(*transposed(samples)),
         "collate_fn: must give a dict, a tuple or a list, got Named"),
        (lambda _: {"masks": 1}, "key: the batch has a 'masks' already"),
        (None, "collate_fn: is needed for images that differ in shape: [3, 32, 48], [3, 40, 64]"),
    ],
)  # fmt: skip
def test_bad_batches(collate_fn: Any, text: str) -> None:
    pairs = [(image(s), b) for s, b in zip(SIZES, BOXES, strict=True)]
    with pytest.raises(InvalidRequest) as caught:
        collate(collate_fn=collate_fn)(pairs)
    assert str(caught.value) == text


def test_a_batch_without_samples() -> None:
    with pytest.raises(InvalidRequest) as caught:
        collate(collate_fn=None)([])
    assert str(caught.value) == "collate_fn: is needed for a batch without samples"
    assert collate(collate_fn=lambda _: {})([])["masks"].shape == (0, *MAP)


def test_a_collate_fn_may_change_samples_in_place() -> None:
    def spoil(samples: Any) -> tuple[Any, ...]:
        for _, boxes in samples:
            boxes.zero_()
        return transposed(samples)

    pair = (image(SIZES[0]), torch.tensor(BOXES[0]))
    masks = collate(collate_fn=spoil)([pair])[-1]
    same(masks, expected(boxes=BOXES[:1], sizes=SIZES[:1]))


def test_unknown_samples_need_a_collate_fn() -> None:
    make = MaskCollate(LOCAL, MAP, SPEC, boxes=lambda sample: ([], (8, 8)))
    with pytest.raises(InvalidRequest, match="samples of int"):
        make([3])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"client": "localhost:50051"}, "client"),
        ({"client": AsyncCassClient("local:")}, "client"),
        ({"keep_memory": "False"}, "keep_memory"),
        ({"feature_map": (0, 4)}, "feature_map"),
        ({"feature_map": [(4, 4), 3]}, "feature_map[1]"),
        ({"spec": 4}, "mask_spec"),
        ({"dtype": "float64"}, "dtype"),
        ({"spec": MaskSpec(merge="sum"), "dtype": "uint8"}, "dtype"),
    ],
)
def test_bad_arguments_are_told_by_the_constructor(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MaskCollate(**{"client": LOCAL, "feature_map": MAP, **change})
    assert caught.value.field == field


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned() -> None:
    samples = [(IMAGE, {"boxes": torch.tensor(BOXES[0])})] * 4
    make = MaskCollate(LOCAL, [MAP, (2, 3)], SPEC, dtype="bfloat16")
    loader = torch.utils.data.DataLoader(samples, 2, collate_fn=make, pin_memory=True)
    for images, targets, masks in loader:
        assert images.is_pinned()
        assert targets[0]["boxes"].is_pinned()
        assert all(mask.is_pinned() for mask in masks)
